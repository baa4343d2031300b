"""A device that is never empty: whoever reads from it has the stack in turns with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.core.toys import Port, start, stop
from tests.support.running import PATIENCE, running
from usernet.core.loop import Loop
from usernet.core.softirq import NAPI_WEIGHT, NETDEV_BUDGET, Napi
from usernet.core.wait import EPOLLIN
from usernet.runner import Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


class Flood(Napi):
    """A device whose descriptor is always readable, and each poll of which brings as much as was asked for."""

    def __init__(self, loop: Loop, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        self.port = Port(loop)
        self.polls = 0
        self.queued = 0
        """The most entries that the stack had among those with work."""
        self.near, self.far = os.pipe2(os.O_NONBLOCK)
        os.write(self.far, b"x")
        runner.watch(self.near, loop, self)

    def poll(self, budget: int) -> int:
        self.polls += 1
        self.queued = max(self.queued, list(self.runner._ready).count(self.port.loop))
        self.port.got.extend(range(budget))
        self.port.queue.wake(EPOLLIN)
        return budget

    def close(self) -> None:
        self.runner.unwatch(self.near)
        os.close(self.near)
        os.close(self.far)


def test_a_reader_that_leads_has_its_turn_after_each_poll(runner):
    loop = start(runner)
    flood = Flood(loop, runner)
    for _ in range(20):
        flood.port.got.clear()
        flood.port.recv(PATIENCE)
    # One for each, and one more where it was time to look after the others; a whole batch would be five.
    assert flood.polls < 20 * 3 < 20 * NETDEV_BUDGET // NAPI_WEIGHT
    flood.close()
    stop(loop)


def test_a_stack_waits_once_for_its_turn(runner):
    loop = start(runner)
    flood = Flood(loop, runner)
    for _ in range(20):
        flood.port.got.clear()
        flood.port.recv(PATIENCE)
    assert flood.queued <= 1
    flood.close()
    stop(loop)
