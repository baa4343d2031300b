"""Sockets to test with, made and connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.sockets.fake import FakeSock
from usernet.net.pernet import Net
from usernet.sockets.base import SocketBase
from usernet.sockets.user import UserSocket


def sk_of(sock: SocketBase) -> FakeSock:
    """The fake protocol's side of a socket."""
    assert isinstance(sock._sk, FakeSock)
    return sock._sk


@contextmanager
def listener(net: Net, port: int = 80) -> Iterator[UserSocket]:
    with UserSocket(net) as sock:
        sock.bind(("", port))
        sock.listen()
        yield sock


@contextmanager
def stream_pair(net: Net) -> Iterator[tuple[UserSocket, UserSocket]]:
    """A connection's two ends: who called, and who was called."""
    with listener(net) as server, UserSocket(net) as client:
        client.connect(("127.0.0.1", 80))
        connection, _ = server.accept()
        with connection:
            yield client, connection
