"""The orderly end of a stack: what its connections still have to send is sent before it is closed.

A kernel goes on with the connections of processes that have ended. A stack that is about to be closed is given a while
for that: until each has sent all, and its FIN has been acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from usernet.stack import Stack
from usernet.transport.tcp.const import TCP_CLOSE, TCP_FIN_WAIT2, TCP_LISTEN, TCP_TIME_WAIT
from usernet.transport.tcp.sock import TcpSock

SETTLED: Final = frozenset({TCP_CLOSE, TCP_LISTEN, TCP_FIN_WAIT2, TCP_TIME_WAIT})
"""States in which nothing is left to be sent."""
LOOK_EVERY: Final = 0.005
"""Seconds between two looks."""


def unsettled(stack: Stack) -> int:
    """How many connections have something left to send, be it their FIN."""
    loop = stack.loop
    loop.enter()
    try:
        return sum(isinstance(sk, TcpSock) and sk.state not in SETTLED for sk in stack.sockets())
    finally:
        loop.leave()


def drain(
    stack: Stack,
    seconds: float,
    enough: Callable[[], bool] = lambda: False,
    held: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until no connection has anything left to send. seconds: at most so long. enough: asked again and again, and
    true when it is to be given up. held: true as long as there are sockets that are about to be closed. Returns whether
    all is sent."""
    deadline = time.monotonic() + seconds
    while held() or unsettled(stack):
        if time.monotonic() >= deadline or enough():
            return False
        time.sleep(LOOK_EVERY)
    return True
