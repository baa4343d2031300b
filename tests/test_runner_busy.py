"""Busy-polling: a thread that waits looks at the devices for a while before it sleeps, where that pays."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import usernet
from tests.core.toys import start, stop
from tests.support.running import PATIENCE, Pipe, Thread, eventually, running
from usernet import drivers
from usernet.core.wait import EPOLLIN, Blocking, Wait
from usernet.runner import Runner
from usernet.runner.devices import MISSES, TRY_EVERY

LONG = 2_000_000
"""µs: longer than any test waits."""


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


def wait_for(pipe: Pipe, busy_poll: int, nanoseconds: int) -> None:
    """Wait for a byte, at most so long."""
    loop = pipe.port.loop

    def blocking() -> Blocking[None]:
        deadline = loop.now + nanoseconds
        while not pipe.port.got and loop.now < deadline:
            yield Wait((pipe.port.queue,), EPOLLIN, deadline, busy_poll=busy_poll)

    loop.run_blocked(blocking())


def test_what_comes_while_it_looks_is_found(runner):
    loop = start(runner)
    pipe = Pipe(loop, runner)
    runner._devices.missed = 1
    thread = Thread(lambda: wait_for(pipe, LONG, int(PATIENCE * 1e9)))
    eventually(lambda: runner.leader is not None and runner.leader.ident == thread.ident, "the thread to lead")
    os.write(pipe.far, b"x")
    thread.done()
    assert runner._devices.missed == 0
    pipe.close()
    stop(loop)


def test_looks_in_vain_end_it_until_one_pays_again(runner):
    loop = start(runner)
    pipe = Pipe(loop, runner)
    for _ in range(MISSES):
        wait_for(pipe, 100, 1_000_000)
    assert runner._devices.missed >= MISSES
    # Now only every so-manieth wait looks; that one finds the byte, and it is as before.
    while (runner._devices.missed + 1) % TRY_EVERY:
        wait_for(pipe, 100, 300_000)
        assert runner._devices.missed >= MISSES
    os.write(pipe.far, b"x")
    wait_for(pipe, LONG, int(PATIENCE * 1e9))
    assert runner._devices.missed == 0
    pipe.close()
    stop(loop)


def test_a_deadline_ends_it():
    left, _ = drivers.veth()
    with usernet.Stack("a") as stack:
        stack.add_device(left, "eth0", "10.0.0.1/24")
        stack.sysctl["net.core.busy_read"] = LONG
        with stack.socket(2, 2) as sock:
            assert sock.getsockopt(1, 46) == LONG
            sock.bind(("", 1))
            sock.settimeout(0.01)
            with pytest.raises(TimeoutError):
                sock.recv(1)


@pytest.mark.parametrize("how", ["poll", "epoll"])
def test_poll_and_epoll_look_as_long_as_busy_poll_says(how):
    left, right = drivers.veth()
    with usernet.Stack("a") as a, usernet.Stack("b") as b:
        a.add_device(left, "eth0", "10.0.0.1/24")
        b.add_device(right, "eth0", "10.0.0.2/24")
        a.sysctl["net.core.busy_poll"] = LONG
        with a.socket(2, 2) as sock, b.socket(2, 2) as sender:
            sock.bind(("", 7))
            poller = a.poller() if how == "poll" else a.epoll()
            poller.register(sock, EPOLLIN)
            found: list[tuple[object, int]] = []
            thread = Thread(lambda: found.extend(poller.poll(PATIENCE * (1000 if how == "poll" else 1))))
            sender.sendto(b"x", ("10.0.0.1", 7))
            thread.done()
            assert [events for _, events in found] == [EPOLLIN]
