"""The softirq: budget, weight, fairness, tasklets, and polls that raise."""

from __future__ import annotations

import threading

import pytest

from usernet.core.softirq import LONG, NAPI_WEIGHT, NETDEV_BUDGET, Napi, SoftIRQ


class Counted(Napi):
    """Has `work` packets to be received."""

    def __init__(self, work: int, log: list[tuple[str, int]] | None = None, name: str = "") -> None:
        super().__init__()
        self.work = work
        self.log = [] if log is None else log
        self.name = name

    def poll(self, budget: int) -> int:
        done = min(budget, self.work)
        self.work -= done
        self.log.append((self.name, done))
        return done


class Raising(Napi):
    """Raises for the first `bad` polls."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad = bad
        self.polls = 0

    def poll(self, budget: int) -> int:
        self.polls += 1
        if self.polls <= self.bad:
            raise RuntimeError(f"poll {self.polls}")
        return 0


@pytest.fixture
def reported(monkeypatch) -> list[BaseException]:
    """What was reported, instead of being printed."""
    problems: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(args.exc_value))
    return problems


def test_a_napi_must_be_defined():
    with pytest.raises(NotImplementedError, match="must define poll"):
        Napi().poll(1)


def test_it_is_scheduled_once():
    softirq = SoftIRQ()
    napi = Counted(1)
    assert softirq.idle
    softirq.schedule(napi)
    softirq.schedule(napi)
    assert list(softirq.pending) == [napi]
    assert not softirq.idle
    softirq.run()
    assert softirq.idle
    assert not napi.scheduled
    assert napi.log == [("", 1)]


def test_each_in_turn_with_its_weight():
    softirq = SoftIRQ()
    log: list[tuple[str, int]] = []
    softirq.schedule(Counted(NAPI_WEIGHT * 2, log, "flooded"))
    softirq.schedule(Counted(3, log, "quiet"))
    softirq.run()
    assert log == [("flooded", NAPI_WEIGHT), ("quiet", 3), ("flooded", NAPI_WEIGHT), ("flooded", 0)]
    assert softirq.idle


def test_the_budget_ends_a_run_and_the_rest_stays_scheduled():
    softirq = SoftIRQ()
    napi = Counted(NETDEV_BUDGET + 10)
    softirq.schedule(napi)
    softirq.run()
    assert napi.work == 10
    assert napi.scheduled
    assert softirq.squeezed == 1
    softirq.run()
    assert napi.work == 0
    assert softirq.idle
    assert softirq.squeezed == 1


def test_a_long_run_looks_for_what_has_come_and_polls_that_first():
    softirq = SoftIRQ()
    log: list[tuple[str, int]] = []
    come = [[Counted(1, log, "one"), Counted(1, log, "two")]]

    def look() -> bool:
        for napi in come.pop() if come else ():
            softirq.schedule(napi)
        return False

    for name in ("flood", "other"):
        softirq.schedule(Counted(LONG, log, name))
    softirq.run(look)
    assert log == [("flood", LONG), ("one", 1), ("two", 1), ("other", LONG)]
    assert softirq.idle


def test_a_short_run_does_not_look():
    softirq = SoftIRQ()
    softirq.schedule(Counted(LONG - 1))
    softirq.run(lambda: pytest.fail("it looked"))
    assert softirq.idle


def test_what_can_not_be_done_in_a_run_ends_it():
    softirq = SoftIRQ()
    log: list[tuple[str, int]] = []
    asked: list[str] = []

    class Asks(Napi):
        def poll(self, budget: int) -> int:
            asked.append("it is for after the run")
            return 1

    def look() -> bool:
        if not asked:
            softirq.schedule(Asks())
        return bool(asked)

    for name in ("flood", "other"):
        softirq.schedule(Counted(LONG, log, name))
    softirq.run(look)
    assert log == [("flood", LONG)]
    assert asked
    assert softirq.deferred
    assert len(softirq.pending) == 1


def test_work_that_comes_during_a_poll_is_not_missed():
    softirq = SoftIRQ()

    class Again(Napi):
        rounds = 0

        def poll(self, budget: int) -> int:
            self.rounds += 1
            if self.rounds < 3:
                softirq.schedule(self)
            return 1

    napi = Again()
    softirq.schedule(napi)
    softirq.run()
    assert napi.rounds == 3
    assert softirq.idle


def test_two_that_find_nothing_but_schedule_each_other_come_to_an_end():
    softirq = SoftIRQ()

    class PingPong(Napi):
        other: Napi
        polls = 0

        def poll(self, budget: int) -> int:
            self.polls += 1
            softirq.schedule(self.other)
            return 0

    left, right = PingPong(), PingPong()
    left.other, right.other = right, left
    softirq.schedule(left)
    softirq.run()
    assert left.polls + right.polls == NETDEV_BUDGET
    assert not softirq.idle


def test_tasklets_run_at_the_end_of_a_poll_and_of_the_batch():
    softirq = SoftIRQ()
    log: list[str] = []

    class Deferring(Napi):
        def poll(self, budget: int) -> int:
            log.append("poll")
            softirq.defer(lambda: log.append("tasklet of the poll"))
            return 0

    softirq.defer(lambda: log.append("tasklet"))
    softirq.run()
    assert log == ["tasklet"]
    softirq.schedule(Deferring())
    softirq.run()
    assert log == ["tasklet", "poll", "tasklet of the poll"]


def test_what_a_tasklet_schedules_is_polled_in_the_same_run():
    softirq = SoftIRQ()
    napi = Counted(1)
    softirq.defer(lambda: softirq.schedule(napi))
    softirq.run()
    assert napi.work == 0
    assert softirq.idle


def test_a_poll_that_raises_is_reported_and_tried_once_more(reported):
    softirq = SoftIRQ()
    once, always, good = Raising(1), Raising(100), Counted(1)
    for napi in (once, always, good):
        softirq.schedule(napi)
    softirq.run()
    assert once.polls == 2
    assert always.polls == 2
    assert good.work == 0
    assert softirq.idle
    assert [str(problem) for problem in reported] == ["poll 1", "poll 1", "poll 2"]
    softirq.schedule(always)
    assert always.scheduled


def test_a_tasklet_that_raises_is_reported_and_the_others_run(reported):
    softirq = SoftIRQ()
    log: list[str] = []
    softirq.defer(lambda: log.append(str(1 // 0)))
    softirq.defer(lambda: log.append("second"))
    softirq.run()
    assert log == ["second"]
    assert [type(problem) for problem in reported] == [ZeroDivisionError]


def test_clear_forgets_all():
    softirq = SoftIRQ()
    napi = Counted(1)
    softirq.schedule(napi)
    softirq.defer(lambda: pytest.fail("was cleared"))
    softirq.clear()
    assert softirq.idle
    assert not napi.scheduled
    softirq.run()
    assert napi.work == 1
