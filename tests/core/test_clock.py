"""Clocks: one that runs, one that is set."""

from __future__ import annotations

import time

import pytest

from usernet.core.clock import Clock, ManualClock, MonotonicClock


def test_a_clock_must_be_defined():
    with pytest.raises(NotImplementedError, match="Clock must define now"):
        Clock().now()


def test_the_monotonic_clock_is_the_hosts():
    clock = MonotonicClock()
    before = time.monotonic_ns()
    now = clock.now()
    assert before <= now <= time.monotonic_ns()
    assert clock.now() >= now


def test_the_monotonic_clock_knows_the_time_of_day():
    clock = MonotonicClock()
    assert abs(clock.now() + clock.realtime_offset - time.time_ns()) < 60_000_000_000


def test_a_manual_clock_stands_until_it_is_set():
    clock = ManualClock(5, realtime_offset=7)
    assert (clock.now(), clock.now(), clock.realtime_offset) == (5, 5, 7)
    clock.set(5)
    clock.set(8)
    clock.advance(2)
    clock.advance(0)
    assert clock.now() == 10


def test_a_manual_clock_never_goes_back():
    clock = ManualClock(10)
    with pytest.raises(ValueError, match="at 10 ns, asked for 9 ns"):
        clock.set(9)
    with pytest.raises(ValueError, match="can't go backwards"):
        clock.advance(-1)
    assert clock.now() == 10
