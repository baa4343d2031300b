"""The loop by itself: its lock, its time, batches by hand, and calls that wait under a trampoline made for the test."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from tests.core.toys import Port, cable
from usernet.core.clock import Clock, ManualClock
from usernet.core.errors import ReentryError, UnusableStackError
from usernet.core.interrupts import DeferredHandler
from usernet.core.loop import ENTERED, INTERRUPTS, Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER, Timer
from usernet.core.wait import EPOLLIN, Blocked, BlockedCall, Blocking, Wait, Waiter, WaitQueue


class Recording(Trampoline):
    """Writes down what the loop tells it. `meanwhile` is called while a call waits, without the lock held."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.log: list[str] = []
        self.meanwhile = meanwhile

    def schedule(self, loop: Loop) -> None:
        self.log.append("schedule")

    def left(self, loop: Loop) -> None:
        assert not loop.inside
        self.log.append("left")

    def wait(self, loop: Loop, wait: Wait) -> None:
        assert loop.inside
        self.log.append("wait")
        waiter = Told()
        for queue in wait.queues:
            queue.add(waiter)
        loop.suspend()
        try:
            self.meanwhile()
        finally:
            loop.resume()
            for queue in wait.queues:
                queue.remove(waiter)


class Told(Waiter):
    def wake(self, mask: int) -> bool:
        return True


@pytest.fixture
def loop() -> Loop:
    return Loop(ManualClock(1000))


@pytest.fixture
def reported(monkeypatch) -> list[BaseException]:
    problems: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(args.exc_value))
    return problems


def test_a_trampoline_must_be_defined(loop):
    trampoline = Trampoline()
    calls: list[Callable[[], None]] = [
        lambda: trampoline.attach(loop),
        lambda: trampoline.detach(loop),
        lambda: trampoline.schedule(loop),
        lambda: trampoline.left(loop),
        lambda: trampoline.watch(0, loop, Napi()),
        lambda: trampoline.unwatch(0),
        lambda: trampoline.watch_writable(0, True),
        lambda: trampoline.wait(loop, Wait((), 0, 0)),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


# -- the lock and the time


def test_the_clock_is_read_at_each_entry(loop):
    clock = loop.clock
    assert isinstance(clock, ManualClock)
    assert loop.enter() == loop.now == 1000
    clock.advance(5)
    assert loop.now == 1000
    loop.leave()
    assert loop.enter() == loop.now == 1005
    loop.leave()


def test_time_never_goes_back_though_a_clock_may():
    class Broken(Clock):
        value = 100

        def now(self) -> int:
            return self.value

    clock = Broken()
    loop = Loop(clock)
    clock.value = 50
    assert loop.enter() == 100
    loop.leave()
    clock.value = 101
    assert loop.enter() == 101
    loop.leave()


def test_inside_is_the_holders_view(loop):
    assert not loop.inside
    loop.enter()
    assert loop.inside
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(loop.inside))
    thread.start()
    thread.join()
    loop.leave()
    assert elsewhere == [False]
    assert not loop.inside
    assert not ENTERED


def test_one_thread_at_a_time(loop):
    counter = [0]

    def work() -> None:
        for _ in range(300):
            loop.enter()
            try:
                before = counter[0]
                for _ in range(20):
                    pass
                counter[0] = before + 1
            finally:
                loop.leave()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [1200]


def test_calling_a_stack_from_inside_a_stack_raises(loop):
    other = Loop(ManualClock())
    loop.enter()
    try:
        with pytest.raises(ReentryError, match="from code that runs inside a stack"):
            loop.enter()
        with pytest.raises(ReentryError):
            other.enter()
        with pytest.raises(ReentryError):
            loop.poll(2000)
        assert not loop.try_batch()
        assert not other.try_batch()
        assert loop.inside
    finally:
        loop.leave()
    other.enter()
    other.leave()
    assert INTERRUPTS.depth == 0


def test_a_closed_stack_says_why(loop):
    napi = Port(loop)
    loop.schedule(napi)
    loop.close("stack 'x' is closed")
    for _ in range(2):
        with pytest.raises(UnusableStackError, match="stack 'x' is closed"):
            loop.enter()
    assert not loop.inside
    assert not ENTERED
    assert INTERRUPTS.depth == 0
    assert loop.softirq.idle
    assert loop.try_batch()


def test_a_clock_that_raises_leaves_nothing_locked():
    class Broken(Clock):
        broken = False

        def now(self) -> int:
            if self.broken:
                raise OSError("no time")
            return 1

    clock = Broken()
    loop = Loop(clock)
    clock.broken = True
    with pytest.raises(OSError, match="no time"):
        loop.enter()
    with pytest.raises(OSError, match="no time"):
        loop.try_batch()
    clock.broken = False
    loop.enter()
    loop.leave()
    assert INTERRUPTS.depth == 0


# -- what leaving does


def test_leaving_runs_the_softirq_and_tells_the_trampoline(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    loop.enter()
    port.transmit("hello")
    assert list(port.got) == []
    loop.leave()
    assert list(port.got) == ["hello"]
    assert trampoline.log == ["left"]


def test_callbacks_run_without_the_lock_and_once(loop):
    seen: list[bool] = []

    def callback() -> None:
        seen.append(loop.inside)
        loop.enter()
        loop.leave()

    loop.enter()
    loop.after(callback)
    loop.leave()
    assert seen == [False]
    loop.enter()
    loop.leave()
    assert seen == [False]
    loop.after(callback)
    assert loop.try_batch()
    assert len(seen) == 2


def test_a_thousand_callbacks_that_call_the_stack_do_not_nest(loop):
    depths: list[int] = []
    depth = [0]

    def callback() -> None:
        depth[0] += 1
        depths.append(depth[0])
        loop.enter()
        loop.leave()
        depth[0] -= 1

    loop.enter()
    for _ in range(1000):
        loop.after(callback)
    loop.leave()
    assert depths == [1] * 1000


def test_a_callback_that_raises_is_reported_and_the_others_run(loop, reported):
    seen: list[int] = []
    loop.enter()
    loop.after(lambda: seen.append(1 // 0))
    loop.after(lambda: seen.append(2))
    loop.leave()
    assert seen == [2]
    assert [type(problem) for problem in reported] == [ZeroDivisionError]


def test_a_poll_that_raises_is_raised_in_nobodys_call(loop, reported):
    class Bad(Napi):
        def poll(self, budget: int) -> int:
            raise KeyError("bad packet")

    loop.enter()
    loop.softirq.schedule(Bad())
    loop.leave()
    assert [type(problem) for problem in reported] == [KeyError, KeyError]
    loop.enter()
    loop.leave()


def test_even_an_interrupt_in_a_batch_frees_the_lock(loop):
    class Cut(Napi):
        def poll(self, budget: int) -> int:
            raise KeyboardInterrupt

    loop.trampoline = trampoline = Recording()
    for _ in range(2):
        loop.enter()
        loop.softirq.schedule(Cut())
        with pytest.raises(KeyboardInterrupt):
            loop.leave()
        loop.softirq.schedule(Cut())
        with pytest.raises(KeyboardInterrupt):
            loop.try_batch()
    assert trampoline.log == ["left", "left"]
    assert not ENTERED
    assert INTERRUPTS.depth == 0


# -- work from outside


def test_schedule_tells_the_trampoline_once(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    loop.schedule(port)
    loop.schedule(port)
    assert trampoline.log == ["schedule"]
    assert loop.try_batch()
    loop.schedule(port)
    assert trampoline.log == ["schedule", "schedule"]


def test_the_holder_of_the_lock_needs_no_telling(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    loop.enter()
    port.transmit(1)
    loop.leave()
    assert trampoline.log == ["left"]


def test_a_batch_gives_way_or_waits(loop):
    port = Port(loop)
    loop.enter()
    port.ring.append("late")
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(loop.try_batch()))
    thread.start()
    thread.join()
    assert results == [False]
    patient = threading.Thread(target=lambda: results.append(loop.try_batch(True)))
    patient.start()
    loop.softirq.schedule(port)
    loop.leave()
    patient.join()
    assert results == [False, True]
    assert list(port.got) == ["late"]


def test_a_batch_fires_timers_then_polls(loop):
    order: list[str] = []

    class Late(Napi):
        def poll(self, budget: int) -> int:
            order.append("poll")
            return 0

    late = Late()

    def fire(now: int) -> None:
        order.append("timer")
        loop.softirq.schedule(late)

    Timer(loop.timers, fire).mod(1000)
    assert loop.try_batch()
    assert order == ["timer", "poll"]


# -- by hand


def test_poll_does_what_is_due_and_says_when_next(loop):
    fired: list[int] = []
    one, other = Timer(loop.timers, fired.append), Timer(loop.timers, fired.append)
    assert loop.poll(1000) is None
    one.mod(1500)
    other.mod(1200)
    other.mod(1800)
    assert loop.poll(1100) == 1500
    assert loop.poll(1500) == 1800
    assert loop.poll(2000) is None
    assert fired == [1500, 2000]


def test_poll_comes_back_at_once_where_work_is_left(loop):
    class Flood(Napi):
        def poll(self, budget: int) -> int:
            return budget

    loop.softirq.schedule(Flood())
    assert loop.poll(1000) == 1000


def test_polled_time_does_not_go_back(loop):
    loop.poll(3000)
    loop.poll(3000)
    with pytest.raises(ValueError, match="polled for 3000 ns before, now for 2999 ns"):
        loop.poll(2999)
    assert not loop.inside
    assert loop.poll(3001) is None


def test_poll_with_a_clock_that_is_ahead():
    # Whoever polls by the host's clock reads it before the call, and the loop after.
    clock = ManualClock(5000)
    loop = Loop(clock)
    fired: list[int] = []
    Timer(loop.timers, fired.append).mod(4990)
    assert loop.poll(4980) is None
    assert fired == [5000]


def test_two_loops_by_hand_exchange():
    one, other = Loop(ManualClock()), Loop(ManualClock())
    left, right = cable(one, other)
    left.send("ping")
    assert other.poll(0) is None
    right.send(right.got.popleft())
    one.poll(0)
    assert list(left.got) == ["ping"]


# -- calls that wait


def _until(loop: Loop, queue: WaitQueue, ready: list[object], log: list[str]) -> Blocking[object]:
    try:
        while not ready:
            log.append("waits")
            yield Wait((queue,), EPOLLIN, NEVER)
        return ready.pop()
    finally:
        log.append(f"ends, inside: {loop.inside}")


class Until(BlockedCall[object]):
    """`_until` as an object."""

    def __init__(self, loop: Loop, queue: WaitQueue, ready: list[object], log: list[str]) -> None:
        self.loop, self.queue, self.ready, self.log = loop, queue, ready, log

    def resume(self) -> Wait | None:
        if not self.ready:
            self.log.append("waits")
            return Wait((self.queue,), EPOLLIN, NEVER)
        self.result = self.ready.pop()
        return None

    def close(self) -> None:
        self.log.append(f"ends, inside: {self.loop.inside}")


Call = Callable[[Loop, WaitQueue, list[object], list[str]], Blocked[object]]


@pytest.fixture(params=[_until, Until])
def until(request) -> Call:
    """The two forms of a call that has to wait."""
    found: Call = request.param
    return found


def test_a_call_waits_without_the_lock_and_goes_on_with_it(loop, until):
    ready: list[object] = []
    log: list[str] = []
    queue = WaitQueue()

    def meanwhile() -> None:
        assert not loop.inside
        assert queue.active
        loop.enter()
        ready.append("it")
        loop.leave()

    loop.trampoline = trampoline = Recording(meanwhile)
    loop.enter()
    loop.leave()
    assert loop.run_blocked(until(loop, queue, ready, log)) == "it"
    assert log == ["waits", "ends, inside: True"]
    assert trampoline.log == ["left", "wait", "left", "left", "left"]
    assert not queue.active
    assert not loop.inside


def test_a_call_that_blocks_holds_the_lock_but_while_it_waits(loop, until):
    ready: list[object] = []
    log: list[str] = []
    queue = WaitQueue()

    def meanwhile() -> None:
        assert not loop.inside
        ready.append("it")

    loop.trampoline = trampoline = Recording(meanwhile)
    loop.enter()
    assert loop.block(until(loop, queue, ready, log)) == "it"
    assert loop.inside
    assert log == ["waits", "ends, inside: True"]
    assert trampoline.log == ["wait", "left"]
    assert not queue.active
    loop.leave()


def test_a_call_that_blocks_on_a_stack_that_ends_still_holds_the_lock(loop, until):
    def meanwhile() -> None:
        loop.enter()
        loop.close("closed meanwhile")
        loop.leave()

    loop.trampoline = Recording(meanwhile)
    log: list[str] = []
    loop.enter()
    with pytest.raises(UnusableStackError, match="closed meanwhile"):
        loop.block(until(loop, WaitQueue(), [], log))
    assert log[-1] == "ends, inside: True"
    assert loop.inside
    loop.leave()


def test_what_came_between_the_attempt_and_the_wait_is_seen(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    loop.enter()
    call = port._recv_blocked(NEVER)
    loop.leave()

    def deliver() -> None:
        port.send("in between")

    thread = threading.Thread(target=deliver)
    thread.start()
    thread.join()
    assert loop.run_blocked(call) == "in between"
    assert "wait" not in trampoline.log


def test_what_the_attempts_own_softirq_brought_is_seen(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    loop.enter()
    call = port._recv_blocked(NEVER)
    port.transmit("own")
    loop.leave()
    assert loop.run_blocked(call) == "own"
    assert "wait" not in trampoline.log


def test_an_object_that_waits_is_told_too_of_what_came_in_between(loop):
    class Late(Until):
        def resume(self) -> Wait | None:
            wait = super().resume()
            self.ready.append("in between")
            return wait

    loop.trampoline = trampoline = Recording()
    loop.enter()
    log: list[str] = []
    call = Late(loop, WaitQueue(), [], log)
    loop.leave()
    loop.try_batch()
    assert loop.run_blocked(call) == "in between"
    assert log == ["waits", "ends, inside: True"]
    assert "wait" not in trampoline.log


def test_a_call_on_a_stack_that_nothing_drives_raises(loop, until):
    log: list[str] = []
    with pytest.raises(UnusableStackError, match="nothing drives the stack: start it"):
        loop.run_blocked(until(loop, WaitQueue(), [], log))
    assert log[-1] == "ends, inside: True"
    assert not loop.inside


def test_a_call_that_need_not_wait_after_all_needs_nobody(loop, until):
    assert loop.run_blocked(until(loop, WaitQueue(), ["there"], [])) == "there"


def test_a_stack_that_ends_while_a_call_waits(loop, until):
    def meanwhile() -> None:
        loop.enter()
        loop.close("closed meanwhile")
        loop.leave()

    loop.trampoline = Recording(meanwhile)
    log: list[str] = []
    with pytest.raises(UnusableStackError, match="closed meanwhile"):
        loop.run_blocked(until(loop, WaitQueue(), [], log))
    assert log[-1] == "ends, inside: True"
    assert not ENTERED
    with pytest.raises(UnusableStackError, match="closed meanwhile"):
        loop.run_blocked(until(loop, WaitQueue(), [], log))


def test_a_call_that_is_interrupted_cleans_up_under_the_lock(loop, until):
    def meanwhile() -> None:
        raise KeyboardInterrupt

    loop.trampoline = Recording(meanwhile)
    log: list[str] = []
    queue = WaitQueue()
    with pytest.raises(KeyboardInterrupt):
        loop.run_blocked(until(loop, queue, [], log))
    assert log[-1] == "ends, inside: True"
    assert not queue.active
    assert not ENTERED
    assert INTERRUPTS.depth == 0


def test_an_abandoned_loop_is_free_and_dead(loop):
    taken = threading.Event()
    done = threading.Event()

    def hold() -> None:
        loop.enter()
        taken.set()
        done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    loop.abandon("belongs to the parent")
    with pytest.raises(UnusableStackError, match="belongs to the parent"):
        loop.enter()
    done.set()
    thread.join()
    ENTERED.clear()


# -- signals


def test_a_handler_waits_for_the_batch_to_end(loop):
    seen: list[bool] = []
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: seen.append(loop.inside))
    INTERRUPTS.install()
    try:

        class Signalled(Napi):
            def poll(self, budget: int) -> int:
                signal.raise_signal(signal.SIGUSR1)
                assert seen == []
                return 0

        loop.enter()
        loop.softirq.schedule(Signalled())
        signal.raise_signal(signal.SIGUSR1)
        assert seen == []
        loop.leave()
        assert seen == [False]
        loop.softirq.schedule(Signalled())
        seen.clear()
        assert loop.try_batch()
        assert seen == [False]
    finally:
        INTERRUPTS.uninstall()
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_raises_does_so_when_all_is_done(loop):
    loop.trampoline = trampoline = Recording()
    port = Port(loop)
    after: list[str] = []
    INTERRUPTS.install()
    try:
        loop.enter()
        signal.raise_signal(signal.SIGINT)
        port.transmit("kept")
        loop.after(lambda: after.append("called"))
        with pytest.raises(KeyboardInterrupt):
            loop.leave()
        assert list(port.got) == ["kept"]
        assert after == ["called"]
        assert trampoline.log == ["left"]
        assert not loop.inside
    finally:
        INTERRUPTS.uninstall()


def test_a_handler_set_later_is_wrapped_when_the_main_thread_enters():
    loop = Loop(ManualClock(10**15))
    before = signal.getsignal(signal.SIGUSR2)
    INTERRUPTS.install()
    try:
        signal.signal(signal.SIGUSR2, lambda signum, frame: None)
        loop.clock = ManualClock(2 * 10**15)
        loop.enter()
        wrapped = INTERRUPTS.installed(signal.SIGUSR2)
        loop.leave()
        assert isinstance(wrapped, DeferredHandler)
    finally:
        INTERRUPTS.uninstall()
        signal.signal(signal.SIGUSR2, before)


def test_a_handler_that_is_not_wrapped_gets_an_error_not_a_stack_in_halves(loop):
    problems: list[Exception] = []

    def naive(signum: int, frame: object) -> None:
        try:
            loop.enter()
        except ReentryError as problem:
            problems.append(problem)

    before = signal.signal(signal.SIGUSR1, naive)
    try:
        loop.enter()
        signal.raise_signal(signal.SIGUSR1)
        loop.leave()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(problems) == 1
