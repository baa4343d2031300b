"""Timers: a deadline field and a queue that finds it late.

TCP re-arms a timer with nearly every segment and almost never lets it fire. So re-arming to a later time, and
cancelling, only write the `deadline` field: the entry already filed in the queue finds the newer deadline when its own
time comes, and is filed again. Only re-arming to an earlier time than the filed one costs a heap push. (Linux:
`struct timer_list`, `mod_timer`; the heap gives exact order and an exact next deadline, which virtual time needs.)
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import report

if TYPE_CHECKING:
    from usernet.core.timer_list import TimerLists

NEVER: Final = 1 << 62
"""The deadline of a timer that is not armed (ns)."""

COMPACT_ABOVE: Final = 64
"""Entries beyond twice those still valid that a queue keeps before it throws the stale ones out."""


@final
class Timer:
    """One timer. `callback(now)` is called once at or after `deadline`, then the timer is not armed.

    owner: where it is given, `callback(owner, now)` is called instead: a function that many timers share, in place of
    a bound method that each would hold.
    """

    __slots__ = ("_callback", "_filed", "_owner", "_queue", "deadline")

    def __init__(self, queue: TimerQueue, callback: Callable[..., None], owner: Any = None) -> None:
        self.deadline: int = NEVER
        self._filed: int = NEVER
        self._queue = queue
        self._callback: Callable[..., None] | None = callback
        self._owner = owner

    def mod(self, deadline: int) -> None:
        """Arm, or re-arm, for `deadline` (ns)."""
        self.deadline = deadline
        if deadline < self._filed:
            self._filed = deadline
            self._queue.file(deadline, self)

    def cancel(self) -> None:
        """Disarm. The filed entry, if any, is dropped when its time comes."""
        self.deadline = NEVER

    @property
    def pending(self) -> bool:
        return self.deadline != NEVER

    def delete(self) -> None:
        """Disarm for good, and let go of the callback, so that its owner can be freed before the entry is met."""
        self.deadline = NEVER
        self._callback = self._owner = None

    def expire(self, filed: int, now: int) -> int:
        """The entry filed for `filed` was met: fire, or return the deadline to file it again for (else NEVER)."""
        if filed != self._filed:
            return NEVER
        deadline = self.deadline
        if deadline > filed:
            # Also where it is due already: its turn is after those that were due before it.
            self._filed = deadline
            return deadline
        self._filed = self.deadline = NEVER
        callback = self._callback
        if callback is not None:
            if self._owner is None:
                callback(now)
            else:
                callback(self._owner, now)
        return NEVER

    def live_entry(self, filed: int) -> bool:
        """Whether the entry filed for `filed` may still lead to a call."""
        return filed == self._filed and self.deadline != NEVER

    def shift(self, delta: int) -> None:
        """Move the deadline, and what is filed, by `delta` ns. Only for `TimerQueue.shift`."""
        if self.deadline != NEVER:
            self.deadline += delta
        if self._filed != NEVER:
            self._filed += delta

    def forget(self, filed: int) -> None:
        """The entry filed for `filed` has left the queue without being met."""
        if filed == self._filed:
            self._filed = NEVER


@final
class TimerQueue:
    """All timers of one stack, in order of time; where times are equal, in the order in which they were filed."""

    __slots__ = ("_heap", "_limit", "_lists", "_serial")

    def __init__(self) -> None:
        self._lists: list[TimerLists] = []
        self._heap: list[tuple[int, int, Timer]] = []
        self._limit: int = COMPACT_ABOVE
        self._serial: int = 0

    def add_lists(self, lists: TimerLists) -> None:
        """Have `shift` move these too. For `TimerLists` alone."""
        self._lists.append(lists)

    def file(self, deadline: int, timer: Timer) -> None:
        """Find `timer` at `deadline` (ns). For `Timer` alone."""
        self._serial += 1
        heappush(self._heap, (deadline, self._serial, timer))
        if len(self._heap) > self._limit:
            self._compact()

    def _compact(self) -> None:
        """Throw stale entries out. A timer armed for long and then for soon, over and over, leaves one each time."""
        live: dict[int, tuple[int, int, Timer]] = {}
        for entry in self._heap:
            filed, serial, timer = entry
            if not timer.live_entry(filed):
                timer.forget(filed)
            elif serial < live.get(id(timer), (0, serial + 1, timer))[1]:
                live[id(timer)] = entry
        # In place: `run` holds on to the list.
        self._heap[:] = live.values()
        heapify(self._heap)
        self._limit = 2 * len(self._heap) + COMPACT_ABOVE

    def run(self, now: int) -> int:
        """Fire what is due at `now` (ns); returns how many entries were met. What a callback raises is reported."""
        heap = self._heap
        met = 0
        while heap and heap[0][0] <= now:
            filed, _, timer = heappop(heap)
            try:
                again = timer.expire(filed, now)
            except Exception as problem:
                report(problem)
                again = NEVER
            if again != NEVER:
                self.file(again, timer)
            met += 1
        return met

    def shift(self, delta: int) -> None:
        """Move every deadline by `delta` ns: the stack's clock is replaced by one with another origin."""
        timers = {id(timer): timer for _, _, timer in self._heap}
        for timer in timers.values():
            timer.shift(delta)
        self._heap[:] = [(filed + delta, serial, timer) for filed, serial, timer in self._heap]
        for lists in self._lists:
            lists.shift(delta)

    def next_deadline(self) -> int:
        """The earliest deadline (ns), NEVER where no timer is armed. Drops and re-files stale entries it meets."""
        heap = self._heap
        while heap:
            filed, _, timer = heap[0]
            if not timer.live_entry(filed):
                heappop(heap)
                timer.forget(filed)
            elif timer.deadline > filed:
                heappop(heap)
                timer.forget(filed)
                timer.mod(timer.deadline)
            else:
                return filed
        return NEVER

    def earliest_entry(self) -> int:
        """A lower bound of the next deadline, at no cost (ns). Needs no lock."""
        try:
            return self._heap[0][0]
        except IndexError:
            return NEVER

    def pending(self) -> int:
        """How many timers are armed: for leak checks."""
        return len({id(timer) for filed, _, timer in self._heap if timer.live_entry(filed)})
