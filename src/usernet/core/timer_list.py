"""Timers for small objects that are many: those armed for equally long share one `Timer`.

Handshakes under way and connections in TIME-WAIT are thousands, and nearly all wait for one of a few lengths of time.
What is armed later for the same length is due later, so a doubly linked list of them, in the order of arming, needs a
timer for its head alone. An entry costs four references and a number that it shares with the others of its batch, where
a `Timer` of its own, filed in the queue, costs about 300 bytes. (Linux: the timer in `struct request_sock`, in
`struct inet_timewait_sock`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from usernet.core.errors import report
from usernet.core.native import mypyc_attr
from usernet.core.timer import NEVER, Timer, TimerQueue

MAX_IDLE: Final = 64
"""Lists, one a length of time, above which those that are empty are let go of."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TimerEntry:
    """What can be armed; the base of an object that has no other. `armed`: when it was (ns)."""

    __slots__ = ("_list", "_next", "_prev", "armed")

    def __init__(self) -> None:
        self._list: _TimerList | None = None
        self._next: TimerEntry | None = None
        self._prev: TimerEntry | None = None
        self.armed: int = 0

    @property
    def deadline(self) -> int:
        """When it expires (ns), NEVER where it isn't armed."""
        row = self._list
        return NEVER if row is None else self.armed + row.delay


@final
class _TimerList:
    """Those armed for `delay` ns, the first armed first."""

    __slots__ = ("callback", "delay", "first", "last", "timer")

    def __init__(self, queue: TimerQueue, delay: int, callback: Callable[[Any, int], None]) -> None:
        self.delay = delay
        self.callback = callback
        self.first: TimerEntry | None = None
        self.last: TimerEntry | None = None
        self.timer = Timer(queue, self._fire)

    def append(self, entry: TimerEntry, now: int) -> None:
        entry.armed = now
        entry._list = self
        entry._prev = last = self.last
        self.last = entry
        if last is None:
            self.first = entry
            self.timer.mod(now + self.delay)
        else:
            last._next = entry

    def remove(self, entry: TimerEntry) -> None:
        before, behind = entry._prev, entry._next
        entry._list = entry._prev = entry._next = None
        if behind is None:
            self.last = before
        else:
            behind._prev = before
        if before is not None:
            before._next = behind
            return
        self.first = behind
        if behind is None:
            self.timer.cancel()
        else:
            self.timer.mod(behind.armed + self.delay)

    def _fire(self, now: int) -> None:
        while True:
            entry = self.first
            if entry is None or entry.armed + self.delay > now:
                return
            # Takes it out, and arms the timer for the next, so that what the callback does to the list is safe.
            self.remove(entry)
            try:
                self.callback(entry, now)
            except Exception as problem:
                report(problem)


@final
class TimerLists:
    """The timers of one kind of object. `callback(entry, now)` is called once at or after an entry's deadline, when
    the entry isn't armed any more."""

    __slots__ = ("_callback", "_lists", "_queue")

    def __init__(self, queue: TimerQueue, callback: Callable[[Any, int], None]) -> None:
        self._queue = queue
        self._callback = callback
        self._lists: dict[int, _TimerList] = {}
        queue.add_lists(self)

    def arm(self, entry: TimerEntry, delay: int, now: int) -> None:
        """Arm, or re-arm, for `delay` ns from `now`."""
        row = entry._list
        if row is not None:
            row.remove(entry)
        row = self._lists.get(delay)
        if row is None:
            if len(self._lists) >= MAX_IDLE:
                self._lists = {length: kept for length, kept in self._lists.items() if kept.first is not None}
            row = self._lists[delay] = _TimerList(self._queue, delay, self._callback)
        row.append(entry, now)

    def disarm(self, entry: TimerEntry) -> None:
        """Nothing happens where it isn't armed."""
        row = entry._list
        if row is not None:
            row.remove(entry)

    def shift(self, delta: int) -> None:
        """Move what is armed by `delta` ns. Only for `TimerQueue.shift`, which moves the timers."""
        for row in self._lists.values():
            entry = row.first
            while entry is not None:
                entry.armed += delta
                entry = entry._next

    def __len__(self) -> int:
        """How many lengths of time there is a list for."""
        return len(self._lists)
