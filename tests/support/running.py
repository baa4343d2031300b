"""Stacks reduced to ports, driven by the process's runner, and threads that make calls on them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.core.toys import Port, cable, start, stop
from usernet.core.interrupts import DeferredHandler
from usernet.core.loop import ENTERED, INTERRUPTS, Loop
from usernet.core.softirq import Napi
from usernet.core.wait import EPOLLIN
from usernet.runner import Runner, close_process_runner, process_runner

PATIENCE = 20.0
"""How long (s) something that must happen may take; only a test that fails waits so long."""


@contextmanager
def running() -> Iterator[Runner]:
    """The process's runner; after the block it holds nothing, and neither does the process."""
    close_process_runner()
    before = descriptors()
    made = process_runner()
    yield made
    assert made.loops == 0
    assert not made._followers
    assert not made._waiting
    assert not len(made._deadlines)
    assert not made._devices.watched
    assert not made._draining
    assert not ENTERED
    assert INTERRUPTS.depth == 0
    assert not INTERRUPTS.pending
    close_process_runner()
    assert descriptors() == before
    assert not any(thread.name == "usernet-runner" for thread in threading.enumerate())
    assert not any(isinstance(signal.getsignal(number), DeferredHandler) for number in signal.valid_signals())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def cables(runner: Runner, count: int = 1) -> Iterator[list[tuple[Port, Port]]]:
    """Pairs of ports, each port on a stack of its own."""
    loops = [start(runner) for _ in range(2 * count)]
    try:
        yield [cable(loops[2 * i], loops[2 * i + 1]) for i in range(count)]
    finally:
        for loop in loops:
            stop(loop)


class Thread(threading.Thread):
    """A thread whose result, or exception, `done` gives."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call
        self._result: object = None
        self._problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as problem:
            self._problem = problem

    def done(self) -> object:
        self.join(PATIENCE)
        assert not self.is_alive(), "the thread hangs"
        if self._problem is not None:
            raise self._problem
        return self._result


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.0005)


def waits(port: Port) -> bool:
    return port.queue.active


class Pipe(Napi):
    """A device: a pipe of the host, one message a byte."""

    def __init__(self, loop: Loop, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        self.port = Port(loop)
        self.polls = 0
        self.near, self.far = os.pipe2(os.O_NONBLOCK)
        runner.watch(self.near, loop, self)

    def poll(self, budget: int) -> int:
        self.polls += 1
        try:
            data = os.read(self.near, budget)
        except BlockingIOError:
            return 0
        for byte in data:
            self.port.got.append(byte)
            self.port.queue.wake(EPOLLIN)
        return len(data)

    def close(self) -> None:
        self.runner.unwatch(self.near)
        os.close(self.near)
        os.close(self.far)
