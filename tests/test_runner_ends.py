"""The runner's ends: stacks started and stopped, calls left waiting, and errors that nobody is there to catch."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from tests.core.toys import Port, start, stop
from tests.support.compiled import interpreted_only
from tests.support.running import PATIENCE, Pipe, Thread, cables, descriptors, eventually, running, waits
from usernet.core.clock import Clock, MonotonicClock
from usernet.core.errors import ReentryError, UnusableStackError
from usernet.core.loop import Loop
from usernet.core.softirq import Napi
from usernet.core.timer import Timer
from usernet.runner import Runner, close_process_runner, process_runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


@pytest.fixture
def reported(monkeypatch) -> list[BaseException]:
    """What was reported, instead of being printed."""
    problems: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(args.exc_value))
    return problems


# -- starting and stopping


def test_a_thousand_stacks_one_thread_and_no_descriptors(runner):
    first = start(runner)
    threads, files = threading.active_count(), descriptors()
    loops = [first] + [start(runner) for _ in range(999)]
    assert runner.loops == 1000
    assert threading.active_count() == threads
    assert descriptors() == files
    fired: list[int] = []
    for loop in loops:
        loop.enter()
        Timer(loop.timers, fired.append).mod(loop.now + 1_000_000)
        loop.leave()
    eventually(lambda: len(fired) == 1000, "every stack's timer")
    for loop in loops:
        stop(loop)


@interpreted_only  # a compiled loop has no weak references
def test_stopping_leaves_nothing(runner):
    loop = start(runner)
    device = Pipe(loop, runner)
    loop.enter()
    Timer(loop.timers, lambda now: None).mod(loop.now + 10**12)
    loop.leave()
    assert runner._deadlines
    stop(loop)
    assert not runner._deadlines
    assert not runner._devices.watched
    device.close()
    reference = weakref.ref(loop)
    del loop, device
    gc.collect()
    runner._ready.clear()
    assert reference() is None


def test_a_stack_that_is_stopped_is_driven_no_more(runner):
    loop = start(runner)
    port = Port(loop)
    stop(loop)
    runner.schedule(loop)
    port.ring.append("late")
    loop.softirq.schedule(port)
    other = start(runner)
    time.sleep(0.03)
    assert not port.got
    stop(other)


def test_a_call_that_waits_raises_when_its_stack_is_stopped(runner):
    loop = start(runner)
    port = Port(loop)
    threads = [Thread(port.recv) for _ in range(3)]
    eventually(lambda: len(runner._waiting) == 3, "all to wait")
    stop(loop)
    for thread in threads:
        with pytest.raises(UnusableStackError, match="nothing drives the stack"):
            thread.done()
    assert not port.queue.active


def test_a_call_that_waits_raises_when_its_stack_is_closed(runner):
    loop = start(runner)
    port = Port(loop)
    thread = Thread(port.recv)
    eventually(lambda: waits(port), "it to wait")
    loop.enter()
    loop.close("stack is closed")
    loop.leave()
    stop(loop)
    with pytest.raises(UnusableStackError, match="stack is closed"):
        thread.done()


def test_a_call_on_a_stack_that_is_not_started_raises(runner):
    port = Port(Loop(MonotonicClock()))
    with pytest.raises(UnusableStackError, match="start it"):
        port.recv()


def test_closing_the_runner_and_starting_anew(runner):
    for _ in range(5):
        made = process_runner()
        loop = start(made)
        close_process_runner()
        assert process_runner() is made
        stop(loop)
        close_process_runner()
        assert process_runner() is not made
        close_process_runner()
    # The fixture looks at its own runner, which is closed: that is fine with it.


def test_one_runner_a_process(runner):
    made: list[Runner] = []
    for thread in [Thread(lambda: made.append(process_runner())) for _ in range(8)]:
        thread.done()
    assert set(made) == {runner}


# -- what goes wrong inside


def test_a_timer_and_a_poll_that_raise_do_not_end_the_background_thread(runner, reported):
    loop = start(runner)

    class Bad(Napi):
        def poll(self, budget: int) -> int:
            raise ValueError("poll")

    loop.enter()
    Timer(loop.timers, lambda now: [][now]).mod(loop.now)
    loop.leave()
    eventually(lambda: len(reported) == 1, "the timer's error")
    loop.schedule(Bad())
    eventually(lambda: len(reported) == 3, "the poll's errors")
    port = Port(loop)
    port.ring.append("alive")
    loop.schedule(port)
    eventually(lambda: port.got, "the stack to go on")
    assert [type(problem) for problem in reported] == [IndexError, ValueError, ValueError]
    stop(loop)


def test_a_clock_that_raises_does_not_end_the_background_thread(runner, reported):
    whole = MonotonicClock()

    class Broken(Clock):
        def now(self) -> int:
            if broken and threading.current_thread().name == "usernet-runner":
                broken.pop()
                raise OSError("no time")
            return whole.now()

    broken: list[int] = []
    loop = start(runner, Broken())
    port = Port(loop)
    eventually(lambda: runner._asleep, "the background thread to lead")
    broken.append(1)
    loop.schedule(port)
    eventually(lambda: reported, "the clock's error")
    eventually(lambda: runner._asleep, "the background thread to lead again")
    port.ring.append("alive")
    loop.enter()
    loop.leave()
    loop.softirq.schedule(port)
    loop.enter()
    loop.leave()
    assert port.got
    stop(loop)


def test_a_callback_may_wait_itself_though_its_thread_leads(runner):
    with cables(runner, 2) as [(left, _), (up, down)]:
        answers: list[tuple[object, int]] = []

        def callback() -> None:
            down.loop.enter()
            Timer(down.loop.timers, lambda now: down.transmit("answer")).mod(down.loop.now + 3_000_000)
            down.loop.leave()
            answers.append((up.recv(PATIENCE), threading.get_ident()))

        waiting = Thread(lambda: left.recv(PATIENCE))
        eventually(lambda: runner.leader is not None and runner.leader.ident == waiting.ident, "the thread to lead")
        # The leader is the only one to run this batch, and the callback behind it.
        left.loop.after(callback)
        left.ring.append("woken")
        left.loop.schedule(left)
        assert waiting.done() == "woken"
        assert answers == [("answer", waiting.ident)]


def test_many_callbacks_that_give_one_another_work_do_not_nest(runner):
    with cables(runner) as [(left, _)]:
        depth = 0
        deepest = 0
        count = 0

        def again(port: Port) -> Callable[[], None]:
            def callback() -> None:
                nonlocal depth, deepest, count
                depth += 1
                deepest = max(deepest, depth)
                count += 1
                if count < 500:
                    port.peer.loop.after(again(port.peer))
                    port.send(count)
                depth -= 1

            return callback

        left.loop.after(again(left))
        left.send(0)
        eventually(lambda: count == 500, "all of them")
        assert deepest < 10


def test_a_finaliser_may_give_work_from_anywhere(runner):
    # As a socket that is collected does, in whatever code happens to run.
    with cables(runner) as [(left, right)]:
        ended: list[int] = []

        class Handle:
            def __del__(self) -> None:
                left.loop.after(lambda: ended.append(1))
                runner.schedule(left.loop)

        def inside() -> None:
            left.loop.enter()
            handle = Handle()
            del handle
            left.loop.leave()

        def inside_another() -> None:
            right.loop.enter()
            handle = Handle()
            del handle
            right.loop.leave()

        inside()
        inside_another()
        with runner._mutex:
            handle = Handle()
            del handle
        eventually(lambda: len(ended) == 3, "the finalisers' work")


def test_re_entering_from_inside_raises(runner):
    with cables(runner) as [(left, right)]:
        problems: list[Exception] = []

        class Prober(Napi):
            def poll(self, budget: int) -> int:
                for port in (left, right):
                    try:
                        port.send("from inside")
                    except ReentryError as problem:
                        problems.append(problem)
                return 0

        left.loop.schedule(Prober())
        eventually(lambda: len(problems) == 2, "both to be refused")
