"""Clocks: where a stack's time comes from.

A stack reads its clock once per entry (a system call, a softirq batch) and works with that one value, integer
nanoseconds, until it leaves. Nothing else in the stack reads the time.
"""

from __future__ import annotations

import time
from typing import Final, final

from usernet.core.native import mypyc_attr

NSEC_PER_SEC: Final = 1_000_000_000
NSEC_PER_MSEC: Final = 1_000_000
NSEC_PER_USEC: Final = 1_000

_monotonic_ns: Final = time.monotonic_ns


@mypyc_attr(allow_interpreted_subclasses=True)
class Clock:
    """The interface of a clock, and a base to subclass.

    `realtime_offset` (ns) added to `now()` gives the time of day, for packet time stamps.
    """

    def __init__(self, realtime_offset: int = 0) -> None:
        self.realtime_offset: int = realtime_offset

    def now(self) -> int:
        """Nanoseconds since a fixed but arbitrary point; never goes backwards."""
        raise NotImplementedError(f"{type(self).__name__} must define now()")


@final
class MonotonicClock(Clock):
    """The host's CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        super().__init__(time.time_ns() - time.monotonic_ns())

    def now(self) -> int:
        return _monotonic_ns()


@final
class ManualClock(Clock):
    """A clock that stands still until it is set: for tests, the laboratory and conformance scripts."""

    def __init__(self, start: int = 0, realtime_offset: int = 0) -> None:
        super().__init__(realtime_offset)
        self._now: int = start

    def now(self) -> int:
        return self._now

    def set(self, now: int) -> None:
        """Move to `now` (ns). Raises ValueError when that lies in the past."""
        if now < self._now:
            raise ValueError(f"time can't go backwards: at {self._now} ns, asked for {now} ns")
        self._now = now

    def advance(self, delta: int) -> None:
        """Move on by `delta` ns."""
        self.set(self._now + delta)
