from __future__ import annotations

import pytest

from usernet.packetdrill.ast import ABSOLUTE, ANY_TIME, RELATIVE, RELATIVE_RANGE, EventTime
from usernet.packetdrill.errors import Mismatch
from usernet.packetdrill.timing import Due, check, tolerance

MS = 1_000_000
SEC = 1_000_000_000


def test_relative_times_count_from_the_offset():
    assert (Due(EventTime(RELATIVE, 5, 5), 100).start, Due(EventTime(ABSOLUTE, 5, 5), 100).start) == (105, 5)
    due = Due(EventTime(RELATIVE_RANGE, 5, 9), 100)
    assert (due.start, due.end) == (105, 109)
    assert Due(EventTime(ANY_TIME), 100).start == 100


def test_the_tolerance_is_the_larger():
    assert tolerance(4 * MS, 12.5, 0) == 4 * MS
    assert tolerance(4 * MS, 12.5, SEC) == 125 * MS
    assert tolerance(4 * MS, 12.5, -SEC) == 4 * MS


@pytest.mark.parametrize(
    ("time", "actual", "message"),
    [
        (EventTime(RELATIVE, SEC, SEC), SEC, ""),
        (EventTime(RELATIVE, SEC, SEC), SEC + 4 * MS, ""),
        (EventTime(RELATIVE, SEC, SEC), SEC + 4 * MS + 1, "but it was at 1.004000 s; tolerance 0.004000"),
        (EventTime(RELATIVE, SEC, SEC), SEC - 4 * MS - 1, "at 1.000000 s"),
        (EventTime(ANY_TIME), 77 * SEC, ""),
        (EventTime(RELATIVE_RANGE, SEC, 2 * SEC), 2 * SEC, ""),
        (EventTime(RELATIVE_RANGE, SEC, 2 * SEC), 3 * SEC, "from +1.000000 to +2.000000 s after the event before"),
    ],
)
def test_check(time: EventTime, actual: int, message: str):
    due = Due(time, 0)
    if not message:
        check(due, actual, 4 * MS, "packet")
        return
    with pytest.raises(Mismatch) as caught:
        check(due, actual, 4 * MS, "packet")
    assert message in str(caught.value)
