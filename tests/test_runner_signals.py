"""Signals and fork: no batch is cut in two, no wait hangs, and a child knows that its copy is dead."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.core.toys import Port, start, stop
from tests.support.running import PATIENCE, Pipe, Thread, cables, eventually, running, waits
from usernet.core.errors import UnusableStackError
from usernet.core.interrupts import DeferredHandler
from usernet.core.loop import ENTERED, INTERRUPTS
from usernet.core.softirq import Napi
from usernet.runner import Runner, close_process_runner, process_runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


# -- signals


class Alarm:
    """Sends this process a signal when told to, from a thread of its own."""

    def __init__(self, number: int, when: Callable[[], object]) -> None:
        def send() -> None:
            eventually(when, "the moment to send the signal")
            os.kill(os.getpid(), number)

        self.thread = Thread(send)


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Set what SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda call: _set(signal.SIGUSR1, call)
    signal.signal(signal.SIGUSR1, before)


def _set(number: int, call: Callable[[], None]) -> None:
    signal.signal(number, lambda signum, frame: call())


@pytest.mark.parametrize("follower", [False, True])
def test_an_interrupt_ends_a_wait(runner, follower):
    with cables(runner, 2) as [(left, right), (up, down)]:
        other = Thread(up.recv) if follower else None
        if follower:
            eventually(lambda: waits(up), "the other to lead")
        alarm = Alarm(signal.SIGINT, lambda: waits(left))
        with pytest.raises(KeyboardInterrupt):
            left.recv(PATIENCE)
        alarm.thread.done()
        assert not left.queue.active
        left.send(1)
        right.send(2)
        assert left.recv(PATIENCE) == 2
        if other is not None:
            down.send("end")
            other.done()


@pytest.mark.parametrize("follower", [False, True])
def test_a_handler_that_returns_lets_the_wait_go_on(runner, handled, follower):
    with cables(runner, 2) as [(left, _), (up, down)]:
        other = Thread(up.recv) if follower else None
        if follower:
            eventually(lambda: waits(up), "the other to lead")
        seen: list[tuple[bool, bool]] = []
        handled(lambda: seen.append((bool(ENTERED), INTERRUPTS.inside)))
        INTERRUPTS.install()
        alarm = Alarm(signal.SIGUSR1, lambda: waits(left))
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            left.recv(0.3)
        assert time.monotonic() - begin >= 0.3
        alarm.thread.done()
        assert seen == [(False, False)]
        if other is not None:
            down.send("end")
            other.done()


def test_a_handler_may_use_the_stack_and_wait_itself(runner, handled):
    with cables(runner, 2) as [(left, right), (up, down)]:
        answers: list[object] = []

        def handler() -> None:
            up.send("question")
            answers.append(up.recv(PATIENCE))
            right.send("go on")

        handled(handler)
        INTERRUPTS.install()
        echo = Thread(lambda: down.send(down.recv(PATIENCE)))
        alarm = Alarm(signal.SIGUSR1, lambda: waits(left))
        assert left.recv(PATIENCE) == "go on"
        assert answers == ["question"]
        alarm.thread.done()
        echo.done()


def test_a_signal_never_cuts_a_batch(runner, handled):
    """A storm of signals whose handlers raise, over calls that must each be whole or not at all."""
    with cables(runner) as [(left, right)]:
        torn: list[str] = []
        loop = left.loop

        class Fragile(Napi):
            busy = False

            def poll(self, budget: int) -> int:
                if self.busy:
                    torn.append("a poll was cut")
                self.busy = True
                for _ in range(50):
                    pass
                self.busy = False
                return 0

        class Stop(Exception):
            pass

        armed = [False]

        def handler() -> None:
            if ENTERED.get(threading.get_ident()) is not None:
                torn.append("a handler ran inside")
            if armed[0]:
                armed[0] = False
                raise Stop

        fragile = Fragile()
        handled(handler)
        INTERRUPTS.install()
        done = threading.Event()

        def storm() -> None:
            while not done.is_set():
                signal.pthread_kill(INTERRUPTS.main, signal.SIGUSR1)
                time.sleep(0.0003)

        def echo() -> None:
            while (message := right.recv(PATIENCE)) is not None:
                right.send(message)

        echoing = Thread(echo)
        storming = Thread(storm)
        interrupted = sent = received = 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            try:
                armed[0] = True
                sent += 1
                loop.softirq.schedule(fragile)
                left.send(sent)
                left.recv(PATIENCE)
                received += 1
                armed[0] = False
            except Stop:
                interrupted += 1
        done.set()
        storming.done()
        assert torn == []
        assert interrupted
        assert received
        # All is well afterwards.
        left.loop.enter()
        left.got.clear()
        left.loop.leave()
        left.send("end")
        while left.recv(PATIENCE) != "end":
            pass
        left.send(None)
        echoing.done()


def test_an_exclusive_wake_up_that_a_signal_swallows_goes_to_the_next(runner, handled):
    class Stop(Exception):
        pass

    def raising() -> None:
        raise Stop

    for _ in range(30):
        with cables(runner) as [(left, right)]:
            left.exclusive = True
            handled(raising)
            INTERRUPTS.install()
            ready = threading.Event()

            def second(port: Port = left, ready: threading.Event = ready) -> object:
                eventually(lambda: waits(port), "the main thread to wait")
                ready.set()
                return port.recv(PATIENCE)

            def both(source: Port = right, ready: threading.Event = ready) -> None:
                ready.wait(PATIENCE)
                eventually(lambda: len(runner._waiting) == 2, "both to wait")
                signal.pthread_kill(INTERRUPTS.main, signal.SIGUSR1)
                source.send("one datagram")

            other = Thread(second)
            sender = Thread(both)
            got: object = None
            try:
                got = left.recv(PATIENCE)
            except Stop:
                # It is the other's. Or the handler came when we had taken it already, as it may with any socket, and
                # does where compiled code looks for signals only on its way out.
                sender.done()
                eventually(lambda: not left.ring and not left.got, "somebody to take the datagram")
                right.send("another")
                assert other.done() in ("one datagram", "another")
            else:
                # The main thread was faster than the signal; the other still waits.
                assert got == "one datagram"
                right.send("another")
                assert other.done() == "another"
            try:
                sender.done()
            except Stop:
                sender.done()


def test_handlers_are_put_back_when_the_last_stack_stops(runner):
    before = signal.getsignal(signal.SIGINT)
    one, other = start(runner), start(runner)
    assert isinstance(INTERRUPTS.installed(signal.SIGINT), DeferredHandler)
    stop(one)
    assert isinstance(INTERRUPTS.installed(signal.SIGINT), DeferredHandler)
    stop(other)
    assert signal.getsignal(signal.SIGINT) is before


# -- fork


def _child(call: Callable[[], bool]) -> int:
    """Fork; returns the child's exit status: 0 where `call` returned True in it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if call() else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        waited, status = os.waitpid(pid, os.WNOHANG)
        if waited:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def _says_so(call: Callable[[], object]) -> bool:
    try:
        call()
    except UnusableStackError as problem:
        return "belongs to the parent process" in str(problem)
    return False


def test_the_childs_copy_is_dead_and_says_so(runner):
    with cables(runner) as [(left, right)]:
        device = Pipe(left.loop, runner)
        waiting = Thread(left.recv)
        eventually(lambda: waits(left), "a thread to wait")

        def child() -> bool:
            dead = _says_so(lambda: left.send("x")) and _says_so(left.recv) and left.loop.trampoline is None
            handlers = not isinstance(INTERRUPTS.installed(signal.SIGINT), DeferredHandler)
            # A new stack in the child works, with a runner of its own.
            made = process_runner()
            new = start(made)
            port = Port(new)
            port.ring.append("new")
            new.schedule(port)
            fresh = made is not runner and port.recv(PATIENCE) == "new"
            stop(new)
            close_process_runner()
            return dead and handlers and fresh

        assert _child(child) == 0
        # The parent's epoll still has the device, and its threads go on.
        os.write(device.far, b"p")
        assert device.port.recv(PATIENCE) == ord("p")
        right.send("parent")
        assert waiting.done() == "parent"
        device.close()


def test_a_child_forked_while_another_thread_holds_the_lock(runner):
    with cables(runner) as [(left, _)]:
        taken, free = threading.Event(), threading.Event()

        def hold() -> None:
            left.loop.enter()
            taken.set()
            free.wait(PATIENCE)
            left.loop.leave()

        holder = Thread(hold)
        taken.wait(PATIENCE)
        assert _child(lambda: _says_so(lambda: left.send("x"))) == 0
        free.set()
        holder.done()


def test_a_child_forked_by_another_thread(runner):
    with cables(runner) as [(left, _)]:
        thread = Thread(lambda: _child(lambda: _says_so(lambda: left.send("x")) and INTERRUPTS.depth == 0))
        assert thread.done() == 0


def test_a_handler_forks_in_the_middle_of_a_wait(runner, handled):
    with cables(runner) as [(left, right)]:
        children: list[int] = []

        def handler() -> None:
            pid = os.fork()
            children.append(pid)
            if pid:
                right.send("parent")

        handled(handler)
        INTERRUPTS.install()
        alarm = Alarm(signal.SIGUSR1, lambda: waits(left))
        try:
            got = left.recv(PATIENCE)
        except UnusableStackError:
            if children == [0]:
                os._exit(7)
            raise
        finally:
            if children == [0]:
                os._exit(1)
        alarm.thread.done()
        assert got == "parent"
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
