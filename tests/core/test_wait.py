"""Wait queues: who is told of what, and exclusive waiters one at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, BlockedCall, Wait, Waiter, WaitQueue


class Recorder(Waiter):
    """Writes down what it is told; `acts`: whether that made its owner run."""

    def __init__(self, log: list[object], mask: int, exclusive: bool = False, acts: bool = True) -> None:
        super().__init__(mask, exclusive)
        self.log = log
        self.acts = acts

    def wake(self, mask: int) -> bool:
        self.log.append(self)
        return self.acts


def test_a_waiter_must_be_defined():
    with pytest.raises(NotImplementedError, match="must define wake"):
        Waiter().wake(0)


def test_an_empty_queue_allocates_nothing():
    queue = WaitQueue()
    queue.wake(EPOLLIN)
    queue.wake_all(EPOLLIN)
    assert not queue.active
    log: list[object] = []
    waiter = Recorder(log, EPOLLIN)
    queue.add(waiter)
    assert queue.active
    queue.remove(waiter)
    assert not queue.active
    queue.remove(waiter)
    assert log == []


def test_only_those_whose_event_happened():
    log: list[object] = []
    queue = WaitQueue()
    reader, writer = Recorder(log, EPOLLIN | EPOLLHUP), Recorder(log, EPOLLOUT)
    queue.add(reader)
    queue.add(writer)
    queue.wake(EPOLLIN)
    assert log == [reader]
    queue.wake(EPOLLOUT)
    assert log == [reader, writer]
    queue.wake(EPOLLERR)
    assert log == [reader, writer]


def test_one_exclusive_waiter_that_acts_after_all_others():
    log: list[object] = []
    queue = WaitQueue()
    first, second = (Recorder(log, EPOLLIN, exclusive=True) for _ in range(2))
    busy = Recorder(log, EPOLLIN, exclusive=True, acts=False)
    watcher = Recorder(log, EPOLLIN)
    for waiter in (busy, first, second, watcher):
        queue.add(waiter)
    queue.wake(EPOLLIN)
    assert log == [watcher, busy, first]
    log.clear()
    queue.wake_all(EPOLLIN)
    assert log == [watcher, busy, first, second]


def test_a_waiter_may_leave_while_it_is_told():
    log: list[object] = []
    queue = WaitQueue()

    class Leaving(Waiter):
        def wake(self, mask: int) -> bool:
            log.append(self)
            queue.remove(self)
            return True

    waiters = [Leaving() for _ in range(3)]
    for waiter in waiters:
        queue.add(waiter)
    queue.wake(EPOLLIN)
    assert sorted(map(id, log)) == sorted(map(id, waiters))
    assert not queue.active
    queue.add(waiters[0])
    queue.wake(EPOLLIN)
    assert len(log) == 4


_waiters = st.lists(
    st.tuples(st.sampled_from([EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT]), st.booleans(), st.booleans()), max_size=8
)


@given(_waiters, st.sampled_from([EPOLLIN, EPOLLOUT]), st.sets(st.integers(0, 7)))
def test_a_wake_as_the_model_has_it(entries, event, removed):
    log: list[object] = []
    queue = WaitQueue()
    waiters = [Recorder(log, mask, exclusive, acts) for mask, exclusive, acts in entries]
    for waiter in waiters:
        queue.add(waiter)
    for index in removed:
        if index < len(waiters):
            queue.remove(waiters[index])
    left = [waiter for index, waiter in enumerate(waiters) if index not in removed]
    interested = [waiter for waiter in left if waiter.mask & event]
    expected: list[object] = [waiter for waiter in reversed(interested) if not waiter.exclusive]
    for waiter in interested:
        if waiter.exclusive:
            expected.append(waiter)
            if waiter.acts:
                break
    queue.wake(event)
    assert log == expected
    log.clear()
    queue.wake_all(event)
    assert sorted(map(id, log)) == sorted(map(id, interested))
    assert queue.active == bool(left)


def test_a_wait_says_what_for():
    queue = WaitQueue()
    wait = Wait((queue,), EPOLLIN, NEVER)
    assert (wait.queues, wait.mask, wait.deadline, wait.exclusive) == ((queue,), EPOLLIN, NEVER, False)


class Countdown(BlockedCall[str]):
    """Waits so many times."""

    def __init__(self, waits: int) -> None:
        self.waits = waits
        self.log: list[str] = []

    def resume(self) -> Wait | None:
        if self.waits:
            self.waits -= 1
            return Wait((), EPOLLIN, NEVER)
        self.result = "over"
        return None

    def close(self) -> None:
        self.log.append("closed")


def test_a_blocked_call_must_be_defined():
    with pytest.raises(NotImplementedError, match="must define resume"):
        BlockedCall[int]().resume()


def test_a_blocked_call_is_a_generator_to_who_wants_one():
    call = Countdown(2)
    generator = iter(call)
    assert isinstance(next(generator), Wait)
    assert isinstance(next(generator), Wait)
    assert call.log == []
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == "over"
    assert call.log == ["closed"]


def test_giving_the_generator_up_closes_the_blocked_call():
    call = Countdown(2)
    generator = iter(call)
    next(generator)
    generator.close()
    assert call.log == ["closed"]
