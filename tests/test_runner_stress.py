"""The runner under stress: many threads and stacks at once, each test for a second or two."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.core.toys import Port, cable, start, stop
from tests.support.running import PATIENCE, Pipe, Thread, cables, running
from usernet.runner import Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


@pytest.mark.parametrize(
    ("pairs", "switch", "seconds"), [(1, 0.005, 1.0), (4, 0.005, 1.5), (6, 0.00001, 2.0), (2, 0.000001, 1.5)]
)
def test_no_wake_up_is_lost(runner, pairs, switch, seconds):
    """Many threads and stacks giving one another work, a device, time-outs, and threads that stay away a while."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(switch)
    try:
        with cables(runner, pairs) as ports:
            end = time.monotonic() + seconds
            device = Pipe(ports[0][0].loop, runner)

            def client(number: int) -> int:
                port = ports[number][0]
                chance = random.Random(number)
                count = 0
                while time.monotonic() < end:
                    count += 1
                    port.send(count)
                    assert port.recv(PATIENCE) == count
                    draw = chance.random()
                    if draw < 0.02:
                        time.sleep(0.003)
                    elif draw < 0.04:
                        with pytest.raises(TimeoutError):
                            port.recv(0.001)
                port.send(None)
                return count

            def server(number: int) -> None:
                port = ports[number][1]
                while (message := port.recv(PATIENCE)) is not None:
                    port.send(message)

            def reader() -> int:
                count = 0
                while device.port.recv(PATIENCE) != ord("."):
                    count += 1
                return count

            reading = Thread(reader)
            servers = [Thread(lambda i=i: server(i)) for i in range(pairs)]  # type: ignore[misc]
            clients = [Thread(lambda i=i: client(i)) for i in range(pairs)]  # type: ignore[misc]
            written = 0
            while time.monotonic() < end:
                os.write(device.far, b"x")
                written += 1
                time.sleep(0.002)
            os.write(device.far, b".")
            assert all(thread.done() for thread in clients)
            for thread in servers:
                thread.done()
            assert reading.done() == written
            device.close()
    finally:
        sys.setswitchinterval(interval)


def test_a_ring_of_stacks_driven_by_nobody_in_particular(runner):
    """Each stack's batch gives the next one work, from inside; whoever passes by runs them."""
    loops = [start(runner) for _ in range(20)]
    ports = [Port(loop) for loop in loops]
    rounds = 50
    finished = threading.Event()

    class Hop(Port):
        def poll(self, budget: int) -> int:
            while self.ring:
                count = self.ring.popleft()
                assert isinstance(count, int)
                if count:
                    self.peer.ring.append(count - 1)
                    self.peer.loop.schedule(self.peer)
                else:
                    finished.set()
            return 0

    ports = [Hop(loop) for loop in loops]
    for index, port in enumerate(ports):
        port.peer = ports[(index + 1) % len(ports)]
    for _ in range(5):
        finished.clear()
        ports[0].ring.append(rounds * len(ports))
        loops[0].schedule(ports[0])
        assert finished.wait(PATIENCE)
    for loop in loops:
        stop(loop)


def test_stacks_started_and_stopped_all_the_time(runner):
    end = time.monotonic() + 1.0

    def work() -> None:
        while time.monotonic() < end:
            one, other = start(runner), start(runner)
            left, right = cable(one, other)
            try:
                waiting = Thread(left.recv)
                right.send("x")
                assert waiting.done() == "x"
            finally:
                stop(one)
                stop(other)

    for thread in [Thread(work) for _ in range(3)]:
        thread.done()
