"""Started stacks for tests with threads: two joined by a veth, and nothing left of their sockets at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from usernet.drivers import veth
from usernet.posix.channel.channel import BY_INODE, OWN_ENDS
from usernet.runner import close_process_runner
from usernet.stack import Stack

PATIENCE: Final = 20.0
"""Seconds that something may take on a machine with much to do."""


def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for what the stacks' threads are about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what or "it never came to be"
        time.sleep(0.001)


@contextmanager
def joined(one: str, other: str) -> Iterator[tuple[Stack, Stack]]:
    """Two stacks of these names, 10.0.0.1 and 10.0.0.2 on one cable. At the end nobody holds a socket or a channel."""
    left, right = veth()
    with Stack(one) as first, Stack(other) as second:
        first.add_device(left, "eth0", "10.0.0.1/24")
        second.add_device(right, "eth0", "10.0.0.2/24")
        yield first, second
        until(lambda: not OWN_ENDS, "a channel is left")
        # What is left of connections are their last states.
        until(lambda: all(sk.dead for sk in (*first.sockets(), *second.sockets())), "a socket is still held")
    assert not BY_INODE
    close_process_runner()
