"""Two started stacks joined by a veth, and connections between them with a channel at one end or both."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import pytest

from tests.support.stacks import joined
from usernet.posix.channel import Channel, open_channel
from usernet.sockets.socket import Socket
from usernet.sockets.user import UserSocket
from usernet.stack import Stack

SERVER = ("10.0.0.2", 80)
PATIENCE = 10.0


class Net:
    """`client` and `server`, and what a test makes on them."""

    def __init__(self, client: Stack, server: Stack) -> None:
        self.client = client
        self.server = server
        self.listener: UserSocket = server.socket()
        self.listener.bind(SERVER)
        self.listener.listen(256)

    def connect(self) -> tuple[int, UserSocket]:
        """A connection: the descriptor of its client, and the server's socket object."""
        sock = self.client.socket()
        sock.connect(SERVER)
        peer, _ = self.listener.accept()
        peer.settimeout(PATIENCE)
        return channel_of(sock), peer

    def both(self) -> tuple[int, int]:
        """A connection with a channel at each end."""
        fd, peer = self.connect()
        return fd, channel_of(peer)


def channel_of(sock: UserSocket, keep: list[Channel] | None = None) -> int:
    """Make the socket of `sock`, which is closed, a descriptor."""
    socket = sock._socket
    assert socket is not None
    return descriptor(socket, sock.close, keep)


def descriptor(socket: Socket, let_go: Callable[[], None], keep: list[Channel] | None = None) -> int:
    """The application's end of a channel of `socket`."""
    socket.loop.enter()
    try:
        socket.get()
        socket.nonblock = False
        channel = open_channel(socket)
    finally:
        socket.loop.leave()
    if keep is not None:
        keep.append(channel)
    let_go()
    return channel.take_app()


def mask(fd: int) -> int:
    """What poll(2) says of a descriptor now."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP)
    return poller.poll(0)[0][1] if poller.poll(0) else 0


@pytest.fixture
def net() -> Iterator[Net]:
    with joined("client", "server") as (client, server):
        made = Net(client, server)
        yield made
        made.listener.close()
