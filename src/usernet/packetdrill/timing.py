"""Whether something happened when the script says.

Used by `runner` for everything that has a time. A tolerance is the larger of a fixed time and a share of the time
since the event before: Linux's timer wheel fires up to an eighth late (`Documentation/timers`, packetdrill's
`verify_time`). Times are ns since the start of the script.
"""

from __future__ import annotations

from typing import Final, final

from usernet.packetdrill.ast import ANY_TIME, RELATIVE_RANGE, EventTime
from usernet.packetdrill.errors import Mismatch

NSEC_PER_SEC: Final = 1_000_000_000


@final
class Due:
    """When an event is due, in the script's time: `start` to `end`, counted from `offset` if it was relative."""

    __slots__ = ("end", "kind", "offset", "start")

    def __init__(self, time: EventTime, offset: int) -> None:
        self.kind = time.kind
        self.offset = offset if time.relative else 0
        self.start = time.start + self.offset
        self.end = time.end + self.offset


def tolerance(fixed: int, percent: float, since: int) -> int:
    """How much earlier or later than said is still right, ns. `since`: ns from the event before to this one."""
    return max(fixed, int(since * percent / 100))


def seconds(time: int) -> str:
    """A time for a message."""
    return f"{time / NSEC_PER_SEC:.6f}"


def check(due: Due, actual: int, allowed: int, what: str) -> None:
    """Raise Mismatch unless `actual` is within the due time, give or take `allowed`. `what`: what happened."""
    if due.kind == ANY_TIME or due.start - allowed <= actual <= due.end + allowed:
        return
    if due.start == due.end:
        expected = f"at {seconds(due.start)} s"
    elif due.kind == RELATIVE_RANGE:
        expected = (
            f"from +{seconds(due.start - due.offset)} to +{seconds(due.end - due.offset)} s after the event before "
            f"({seconds(due.start)} to {seconds(due.end)} s)"
        )
    else:
        expected = f"from {seconds(due.start)} to {seconds(due.end)} s"
    raise Mismatch(
        f"timing: expected {what} {expected}, but it was at {seconds(actual)} s; tolerance {seconds(allowed)} s"
    )
