"""Timers: lazily filed, and yet as a plain list of deadlines would have it."""

from __future__ import annotations

import threading
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from usernet.core.timer import COMPACT_ABOVE, NEVER, Timer, TimerQueue


class Fired:
    """A timer that writes down when it fired."""

    def __init__(self, queue: TimerQueue) -> None:
        self.times: list[int] = []
        self.timer = Timer(queue, self.times.append)


def _note(order: list[int], which: int, now: int) -> None:
    order.append(which)


def test_it_fires_once_at_its_time():
    queue = TimerQueue()
    one = Fired(queue)
    assert not one.timer.pending
    one.timer.mod(100)
    assert one.timer.pending
    assert queue.next_deadline() == 100
    assert queue.run(99) == 0
    queue.run(100)
    queue.run(1000)
    assert one.times == [100]
    assert not one.timer.pending
    assert queue.next_deadline() == NEVER
    assert queue.pending() == 0


def test_it_is_told_the_time_that_it_is():
    queue = TimerQueue()
    one = Fired(queue)
    one.timer.mod(100)
    queue.run(150)
    assert one.times == [150]


def test_later_costs_no_entry():
    queue = TimerQueue()
    one = Fired(queue)
    one.timer.mod(100)
    for deadline in range(101, 1101):
        one.timer.mod(deadline)
    assert queue.earliest_entry() == 100
    queue.run(1099)
    assert one.times == []
    queue.run(1100)
    assert one.times == [1100]


def test_earlier_is_met_earlier():
    queue = TimerQueue()
    one = Fired(queue)
    one.timer.mod(100)
    one.timer.mod(50)
    assert queue.next_deadline() == 50
    queue.run(50)
    assert one.times == [50]
    queue.run(200)
    assert one.times == [50]


def test_cancelled_and_armed_again():
    queue = TimerQueue()
    one = Fired(queue)
    one.timer.mod(100)
    one.timer.cancel()
    assert queue.pending() == 0
    queue.run(100)
    assert one.times == []
    one.timer.mod(100)
    queue.run(100)
    assert one.times == [100]


def test_next_deadline_is_the_real_one_not_the_filed_one():
    queue = TimerQueue()
    one, other = Fired(queue), Fired(queue)
    one.timer.mod(10)
    one.timer.mod(90)
    other.timer.mod(50)
    assert queue.earliest_entry() == 10
    assert queue.next_deadline() == 50
    other.timer.cancel()
    assert queue.next_deadline() == 90
    one.timer.cancel()
    assert queue.next_deadline() == NEVER
    assert queue.earliest_entry() == NEVER


def test_equal_times_in_the_order_of_filing():
    queue = TimerQueue()
    order: list[int] = []
    timers = [Timer(queue, partial(_note, order, i)) for i in range(10)]
    for timer in timers:
        timer.mod(5)
    queue.run(5)
    assert order == list(range(10))


def test_a_callback_may_arm_its_own_timer_and_others():
    queue = TimerQueue()
    times: list[int] = []

    def periodic(now: int) -> None:
        times.append(now)
        if len(times) < 3:
            timer.mod(now + 10)

    timer = Timer(queue, periodic)
    other = Fired(queue)
    timer.mod(10)
    chain = Timer(queue, lambda now: other.timer.mod(now))
    chain.mod(20)
    for now in (10, 20, 30, 40):
        queue.run(now)
    assert times == [10, 20, 30]
    assert other.times == [20]


def test_delete_lets_go_of_the_callback():
    queue = TimerQueue()
    one = Fired(queue)
    one.timer.mod(10)
    one.timer.delete()
    assert not one.timer.pending
    queue.run(10)
    one.timer.mod(20)
    queue.run(20)
    assert one.times == []


def test_a_callback_that_raises_is_reported_and_the_others_fire(monkeypatch):
    problems = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(args.exc_type))
    queue = TimerQueue()
    bad = Timer(queue, lambda now: [][now])
    good = Fired(queue)
    bad.mod(10)
    good.timer.mod(10)
    queue.run(10)
    assert good.times == [10]
    assert problems == [IndexError]
    assert not bad.pending


def test_shift_moves_all():
    queue = TimerQueue()
    one, other, idle = Fired(queue), Fired(queue), Fired(queue)
    one.timer.mod(100)
    one.timer.mod(50)
    other.timer.mod(30)
    other.timer.mod(70)
    queue.shift(1000)
    assert queue.next_deadline() == 1050
    queue.run(1069)
    assert (one.times, other.times) == ([1069], [])
    queue.run(1070)
    assert other.times == [1070]
    idle.timer.mod(2000)
    queue.run(2000)
    assert idle.times == [2000]


def test_stale_entries_do_not_pile_up():
    # A timer armed for two hours and then for soon, over and over, leaves an entry behind each time.
    queue = TimerQueue()
    hours = 7200_000_000_000
    timers = [Fired(queue) for _ in range(10)]
    for now in range(0, 10_000, 10):
        for one in timers:
            one.timer.mod(hours)
            one.timer.mod(now + 5)
        queue.run(now + 5)
    assert all(len(one.times) == 1000 for one in timers)
    assert len(queue._heap) <= 2 * len(timers) + COMPACT_ABOVE + 1
    for one in timers:
        one.timer.mod(hours)
    assert queue.next_deadline() == hours
    assert queue.pending() == len(timers)


class AgainstANaiveModel(RuleBasedStateMachine):
    """The queue against a plain list of deadlines, over any row of calls."""

    @initialize(count=st.integers(1, 6))
    def start(self, count: int) -> None:
        self.now = 0
        self.queue = TimerQueue()
        self.fired: list[tuple[int, int]] = []
        self.deadlines = [NEVER] * count
        self.timers = [Timer(self.queue, partial(self.fire, i)) for i in range(count)]

    def fire(self, which: int, now: int) -> None:
        self.fired.append((now, which))

    @rule(which=st.integers(0, 5), after=st.integers(-5, 100))
    def mod(self, which: int, after: int) -> None:
        which %= len(self.timers)
        self.timers[which].mod(self.now + after)
        self.deadlines[which] = self.now + after

    @rule(which=st.integers(0, 5), rounds=st.sampled_from([1, 80]))
    def to_and_fro(self, which: int, rounds: int) -> None:
        which %= len(self.timers)
        for i in range(rounds):
            self.timers[which].mod(self.now + 1000)
            self.timers[which].mod(self.now + 999 - i)
        self.deadlines[which] = self.now + 1000 - rounds

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        which %= len(self.timers)
        self.timers[which].cancel()
        self.deadlines[which] = NEVER

    @rule(delta=st.integers(0, 500))
    def run(self, delta: int) -> None:
        self.now += delta
        self.fired.clear()
        self.queue.run(self.now)
        due = {i for i, deadline in enumerate(self.deadlines) if deadline <= self.now}
        assert {i for _, i in self.fired} == due
        assert len(self.fired) == len(due)
        assert all(now == self.now for now, _ in self.fired)
        order = [self.deadlines[i] for _, i in self.fired]
        assert order == sorted(order)
        for i in due:
            self.deadlines[i] = NEVER

    @rule(delta=st.integers(-50, 1000))
    def shift(self, delta: int) -> None:
        self.queue.shift(delta)
        self.now += delta
        self.deadlines = [d if d == NEVER else d + delta for d in self.deadlines]

    @rule()
    def ask(self) -> None:
        assert self.queue.next_deadline() == min(self.deadlines)

    @invariant()
    def the_cheap_bound_is_one(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.earliest_entry() <= min(self.deadlines)
            assert self.queue.pending() == sum(deadline != NEVER for deadline in self.deadlines)
            assert len(self.queue._heap) <= 2 * len(self.timers) + COMPACT_ABOVE + 1
            for timer, deadline in zip(self.timers, self.deadlines, strict=True):
                assert timer.deadline == deadline


TestAgainstANaiveModel = AgainstANaiveModel.TestCase
TestAgainstANaiveModel.settings = settings(stateful_step_count=30)
