"""A namespace with the fake protocol, on virtual time, and on real time with threads; both end with nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sockets.fake import make_net, start, stop
from tests.sockets.virtual import Virtual
from usernet.core.clock import ManualClock, MonotonicClock
from usernet.net.pernet import Net
from usernet.sock.sock import SockNet
from usernet.sockets.readiness import DESCRIPTORS


def _check_nothing_left(net: Net) -> None:
    assert not net.get(SockNet).sockets, "sockets are still open"
    assert not DESCRIPTORS, "descriptors are still open"


@pytest.fixture
def virtual() -> Iterator[Virtual]:
    clock = ManualClock()
    net = make_net(clock)
    yield Virtual(net, clock)
    _check_nothing_left(net)
    stop(net)


@pytest.fixture
def net(virtual: Virtual) -> Net:
    return virtual.net


@pytest.fixture
def threaded() -> Iterator[Net]:
    net = make_net(MonotonicClock())
    start(net)
    yield net
    _check_nothing_left(net)
    stop(net)
