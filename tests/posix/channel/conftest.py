"""Two started stacks joined by a veth, and connections between them with a channel at one end or both."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from usernet.drivers import veth
from usernet.posix.channel import Channel, open_channel
from usernet.posix.channel.channel import BY_INODE, OWN_ENDS
from usernet.runner import close_process_runner
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


def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for what the stacks' threads are about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what or "it never came to be"
        time.sleep(0.001)


@pytest.fixture
def net() -> Iterator[Net]:
    left, right = veth()
    with Stack("client") as client, Stack("server") as server:
        client.add_device(left, "eth0", "10.0.0.1/24")
        server.add_device(right, "eth0", "10.0.0.2/24")
        made = Net(client, server)
        yield made
        made.listener.close()
        # Nobody holds a socket: what is left of connections are their last states.
        until(lambda: all(sk.dead for sk in (*client.sockets(), *server.sockets())), "a socket is still held")
        until(lambda: not OWN_ENDS, "a channel is left")
    assert not BY_INODE
    close_process_runner()
