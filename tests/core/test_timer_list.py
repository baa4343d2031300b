"""Timers that share one."""

from __future__ import annotations

import random
import threading

import pytest

from usernet.core.timer import NEVER, TimerQueue
from usernet.core.timer_list import MAX_IDLE, TimerEntry, TimerLists


class Entry(TimerEntry):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Bench:
    def __init__(self) -> None:
        self.queue = TimerQueue()
        self.fired: list[tuple[str, int]] = []
        self.lists = TimerLists(self.queue, self.expire)

    def expire(self, entry: Entry, now: int) -> None:
        assert entry.deadline == NEVER
        self.fired.append((entry.name, now))


def test_they_expire_in_the_order_of_their_deadlines() -> None:
    bench = Bench()
    a, b, c = Entry("a"), Entry("b"), Entry("c")
    bench.lists.arm(a, 100, 0)
    bench.lists.arm(b, 50, 10)
    bench.lists.arm(c, 100, 20)
    assert (a.deadline, b.deadline, c.deadline) == (100, 60, 120)
    assert bench.queue.next_deadline() == 60
    bench.queue.run(60)
    assert bench.fired == [("b", 60)]
    assert bench.queue.next_deadline() == 100
    bench.queue.run(150)
    assert [name for name, _ in bench.fired] == ["b", "a", "c"]
    assert bench.queue.next_deadline() == NEVER
    assert bench.queue.pending() == 0


def test_arming_again_counts_from_then() -> None:
    bench = Bench()
    a, b = Entry("a"), Entry("b")
    bench.lists.arm(a, 100, 0)
    bench.lists.arm(b, 100, 10)
    bench.lists.arm(a, 100, 50)
    assert bench.queue.next_deadline() == 110
    bench.lists.arm(b, 300, 60)
    assert bench.queue.next_deadline() == 150
    bench.queue.run(1000)
    assert [name for name, _ in bench.fired] == ["a", "b"]


def test_disarming_leaves_the_others() -> None:
    bench = Bench()
    entries = [Entry(str(number)) for number in range(5)]
    for at, entry in enumerate(entries):
        bench.lists.arm(entry, 100, at)
    for number in (0, 2, 4, 4):
        bench.lists.disarm(entries[number])
    assert bench.queue.next_deadline() == 101
    bench.queue.run(200)
    assert [name for name, _ in bench.fired] == ["1", "3"]


def test_a_callback_may_arm_and_disarm_and_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(str(args.exc_value)))
    queue = TimerQueue()
    fired: list[str] = []
    entries = {name: Entry(name) for name in "abcd"}

    def expire(entry: Entry, now: int) -> None:
        fired.append(entry.name)
        if entry.name == "a":
            lists.disarm(entries["b"])
            lists.arm(entry, 100, now)
            if len(fired) > 4:
                lists.disarm(entry)
        if entry.name == "c":
            raise RuntimeError("of the test")

    lists = TimerLists(queue, expire)
    for name in "abcd":
        lists.arm(entries[name], 100, 0)
    queue.run(100)
    assert fired == ["a", "c", "d"]
    assert queue.next_deadline() == 200
    queue.run(200)
    assert fired == ["a", "c", "d", "a"]
    queue.run(300)
    assert queue.pending() == 0
    assert problems == ["of the test"]


def test_they_move_with_the_clock() -> None:
    bench = Bench()
    a, b = Entry("a"), Entry("b")
    bench.lists.arm(a, 100, 0)
    bench.lists.arm(b, 100, 10)
    bench.queue.shift(1000)
    assert (a.deadline, b.deadline) == (1100, 1110)
    bench.queue.run(1105)
    assert [name for name, _ in bench.fired] == ["a"]
    assert bench.queue.next_deadline() == 1110


def test_lengths_of_time_are_bounded() -> None:
    bench = Bench()
    kept = Entry("kept")
    bench.lists.arm(kept, 1 << 40, 0)
    for delay in range(1, 1000):
        entry = Entry("x")
        bench.lists.arm(entry, delay, 0)
        bench.lists.disarm(entry)
    assert len(bench.lists) <= MAX_IDLE
    assert kept.deadline == 1 << 40


def test_as_a_timer_each_would_have() -> None:
    """Against a model: a dictionary of deadlines."""
    rng = random.Random(7)
    bench = Bench()
    entries = [Entry(str(number)) for number in range(20)]
    due: dict[str, int] = {}
    for now in range(0, 3000, 7):
        entry = rng.choice(entries)
        if rng.random() < 0.7:
            delay = rng.choice((30, 100, 250))
            bench.lists.arm(entry, delay, now)
            due[entry.name] = now + delay
        else:
            bench.lists.disarm(entry)
            due.pop(entry.name, None)
        bench.fired.clear()
        bench.queue.run(now)
        assert {name for name, _ in bench.fired} == {name for name, at in due.items() if at <= now}
        due = {name: at for name, at in due.items() if at > now}
        assert bench.queue.next_deadline() == min(due.values(), default=NEVER)
