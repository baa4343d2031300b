"""Calls that wait with no thread: woken, timed out, cancelled, and ended with their stack."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.compiled import interpreted_only
from usernet.core.clock import ManualClock
from usernet.core.deferred import Deferred
from usernet.core.errors import UnusableStackError
from usernet.core.loop import Loop
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, EPOLLOUT, Blocking, Wait, Waiter, WaitQueue


class Harness:
    """A loop driven by hand, a queue to wait in, and what calls came to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.queue = WaitQueue()
        self.items: list[str] = []
        self.ended: list[tuple[Any, BaseException | None]] = []
        self.closed: list[str] = []

    def call(self, deadline: int = NEVER, exclusive: bool = False) -> Blocking[str]:
        try:
            while not self.items:
                if self.loop.now >= deadline:
                    raise TimeoutError
                yield Wait((self.queue,), EPOLLIN, deadline, exclusive)
            return self.items.pop(0)
        finally:
            self.closed.append("closed")

    def done(self, result: Any, problem: BaseException | None) -> None:
        assert not self.loop.inside
        self.ended.append((result, problem))

    def start(self, call: Blocking[Any]) -> Deferred:
        self.loop.enter()
        try:
            return Deferred(self.loop, call, self.done)
        finally:
            self.loop.leave()

    def put(self, item: str, mask: int = EPOLLIN) -> None:
        self.loop.enter()
        self.items.append(item)
        self.queue.wake(mask)
        # Within the call that woke it nothing has happened yet.
        assert not self.ended
        self.loop.leave()

    def left_over(self) -> bool:
        return self.queue.active or bool(self.loop.blocked) or bool(self.loop.timers.pending())


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_it_is_resumed_when_it_is_woken(harness: Harness):
    call = harness.start(harness.call())
    assert harness.queue.active and not call.over
    harness.put("one")
    assert harness.ended == [("one", None)]
    assert call.over and not harness.left_over()


def test_a_call_that_need_not_wait_ends_at_once(harness: Harness):
    harness.items.append("here")
    assert harness.start(harness.call()).over
    assert harness.ended == [("here", None)]
    assert not harness.left_over()


def test_other_events_do_not_wake_it_and_it_may_wait_again(harness: Harness):
    harness.start(harness.call())
    harness.loop.enter()
    harness.queue.wake(EPOLLOUT)
    harness.queue.wake(EPOLLIN)
    harness.loop.leave()
    assert not harness.ended and harness.queue.active
    harness.put("two")
    assert harness.ended == [("two", None)]


def test_the_deadline(harness: Harness):
    harness.start(harness.call(deadline=1000))
    assert harness.loop.poll(999) == 1000
    assert not harness.ended
    harness.clock.set(1000)
    harness.loop.poll(1000)
    assert isinstance(harness.ended[0][1], TimeoutError)
    assert not harness.left_over()


def test_what_it_raises_is_given_to_done(harness: Harness):
    def call() -> Blocking[None]:
        yield Wait((harness.queue,), EPOLLIN, NEVER)
        raise ConnectionResetError(104, "reset")

    harness.start(call())
    harness.put("x")
    assert isinstance(harness.ended[0][1], ConnectionResetError)
    assert not harness.left_over()


def test_cancelling_closes_the_call(harness: Harness):
    call = harness.start(harness.call(deadline=5000))
    harness.loop.enter()
    call.cancel()
    call.cancel()
    harness.loop.leave()
    assert harness.closed == ["closed"] and not harness.ended
    assert not harness.left_over()


def test_an_exclusive_wake_up_passes_on_from_one_that_is_cancelled(harness: Harness):
    first = harness.start(harness.call(exclusive=True))
    second = harness.start(harness.call(exclusive=True))
    harness.loop.enter()
    harness.items.append("for one of them")
    harness.queue.wake(EPOLLIN)
    assert not second.over
    first.cancel()
    harness.loop.leave()
    assert harness.ended == [("for one of them", None)] and second.over
    assert not harness.left_over()


def test_one_exclusive_waiter_is_woken_by_an_event(harness: Harness):
    calls = [harness.start(harness.call(exclusive=True)) for _ in range(3)]
    harness.put("a")
    assert [call.over for call in calls] == [True, False, False]
    harness.loop.enter()
    for call in calls:
        call.cancel()
    harness.loop.leave()


def test_the_end_of_the_stack_ends_it(harness: Harness):
    # Of a queue that nobody wakes at the end.
    call = harness.start(harness.call())
    harness.loop.enter()
    harness.loop.close("the stack is closed")
    harness.loop.leave()
    assert call.over and harness.closed == ["closed"]
    assert isinstance(harness.ended[0][1], UnusableStackError)
    assert not harness.left_over()


def test_woken_and_late_at_once(harness: Harness):
    harness.start(harness.call(deadline=1000))
    harness.clock.set(2000)
    harness.loop.enter()
    harness.items.append("in time")
    harness.queue.wake(EPOLLIN)
    harness.loop.timers.run(2000)
    harness.loop.leave()
    assert harness.ended == [("in time", None)]
    assert not harness.left_over()


@interpreted_only
def test_what_done_raises_is_reported(harness: Harness, monkeypatch: pytest.MonkeyPatch):
    reported: list[BaseException] = []
    monkeypatch.setattr("usernet.core.loop.report", reported.append)

    def done(result: Any, problem: BaseException | None) -> None:
        raise ValueError("done")

    harness.items.append("x")
    harness.loop.enter()
    Deferred(harness.loop, harness.call(), done)
    harness.loop.leave()
    assert isinstance(reported[0], ValueError)


def test_a_waiter_beside_it_is_told_too(harness: Harness):
    told: list[int] = []

    class Other(Waiter):
        def wake(self, mask: int) -> bool:
            told.append(mask)
            return False

    other = Other()
    harness.queue.add(other)
    harness.start(harness.call())
    harness.put("x")
    assert told == [EPOLLIN]
    harness.queue.remove(other)
