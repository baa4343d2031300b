"""The running maximum, against the obvious one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usernet.transport.tcp.congestion.minmax import WindowedMax


def test_the_largest_leaves_with_the_window():
    best = WindowedMax(0, 0)
    assert best.update(10, 1, 50) == 50
    assert best.update(10, 4, 30) == 50
    assert best.update(10, 7, 20) == 50
    assert best.update(10, 11, 10) == 50
    assert best.update(10, 12, 10) == 30
    assert best.update(10, 30, 1) == 1
    best.reset(31, 5)
    assert best.value == 5


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), min_size=1, max_size=60))
def test_never_below_the_newest_nor_above_the_window(samples):
    window, time = 10, 0
    best = WindowedMax(0, 0)
    seen = [(0, 0)]
    for step, value in samples:
        time += step
        seen.append((time, value))
        found = best.update(window, time, value)
        true = max(v for t, v in seen if t >= time - window)
        assert value <= found <= true
        assert found == best.value
        if value == true:
            assert found == true
