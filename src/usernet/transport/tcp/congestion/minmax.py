"""The largest of the samples of a sliding window, in constant space (Kathleen Nichols' algorithm; Linux: lib/minmax.c).

Kept are the best sample, and the best two that came after it, each of which takes over when the one before it leaves
the window. To be sure that they are spread over it, the second is renewed when a quarter of the window has passed
without one, the third when half has.
"""

from __future__ import annotations

from typing import final


@final
class WindowedMax:
    """A running maximum. Times are in any unit that only grows: rounds, or ns."""

    __slots__ = ("_best",)

    def __init__(self, time: int, value: int) -> None:
        self._best: list[tuple[int, int]] = [(time, value)] * 3

    def reset(self, time: int, value: int) -> None:
        """Forget all samples but this one."""
        self._best = [(time, value)] * 3

    def get(self) -> int:
        """The largest value in the window."""
        return self._best[0][1]

    def update(self, window: int, time: int, value: int) -> int:
        """Take a sample in; returns the largest value of the last `window`."""
        best = self._best
        if value >= best[0][1] or time - best[2][0] > window:
            self.reset(time, value)
            return value
        sample = (time, value)
        if value >= best[1][1]:
            best[1] = best[2] = sample
        elif value >= best[2][1]:
            best[2] = sample
        # Let those go that have left the window, and renew what stands for too much of it.
        age = time - best[0][0]
        if age > window:
            best[:] = best[1], best[2], sample
            if time - best[0][0] > window:
                best[:] = best[1], best[2], sample
        elif best[1][0] == best[0][0] and age > window // 4:
            best[1] = best[2] = sample
        elif best[2][0] == best[1][0] and age > window // 2:
            best[2] = sample
        return best[0][1]
