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

    __slots__ = ("_time", "_time2", "_time3", "_value2", "_value3", "value")

    def __init__(self, time: int, value: int) -> None:
        self.reset(time, value)

    def reset(self, time: int, value: int) -> None:
        """Forget all samples but this one."""
        self._time: int = time
        self.value: int = value
        """The largest in the window."""
        self._time2: int = time
        self._value2: int = value
        self._time3: int = time
        self._value3: int = value

    def update(self, window: int, time: int, value: int) -> int:
        """Take a sample in; returns the largest value of the last `window`."""
        if value >= self.value or time - self._time3 > window:
            self.reset(time, value)
            return value
        if value >= self._value2:
            self._time2 = self._time3 = time
            self._value2 = self._value3 = value
        elif value >= self._value3:
            self._time3 = time
            self._value3 = value
        # Let those go that have left the window, and renew what stands for too much of it.
        age = time - self._time
        if age > window:
            self._advance(time, value)
            if time - self._time > window:
                self._advance(time, value)
        elif self._time2 == self._time and age > window // 4:
            self._time2 = self._time3 = time
            self._value2 = self._value3 = value
        elif self._time3 == self._time2 and age > window // 2:
            self._time3 = time
            self._value3 = value
        return self.value

    def _advance(self, time: int, value: int) -> None:
        """The best sample has left the window."""
        self._time = self._time2
        self.value = self._value2
        self._time2 = self._time3
        self._value2 = self._value3
        self._time3 = time
        self._value3 = value
