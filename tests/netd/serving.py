"""A stack that is served, in this process, and its clients: the library's, and ones that speak the protocol badly."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.stacks import PATIENCE, until
from usernet.cli.served import commands
from usernet.netd import protocol
from usernet.netd.client import Client
from usernet.netd.messages import Wire, close_all
from usernet.netd.server import Server
from usernet.posix.channel.channel import BY_INODE, OWN_ENDS
from usernet.runner import close_process_runner
from usernet.stack import Stack

LO = "127.0.0.1"


class Served:
    """The stack, its server, and the path of its socket."""

    def __init__(self, stack: Stack, path: str, **settings: Any) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(512)
        self.stack = stack
        self.path = path
        self.server = Server(stack, listener, commands=commands(), **settings)

    def client(self) -> Client:
        return Client(self.path)

    def raw(self, greet: bool = True) -> Raw:
        return Raw(self.path, greet)

    @property
    def sockets(self) -> int:
        return len(self.server.calls.table)


class Raw:
    """A client that sends what it likes."""

    def __init__(self, path: str, greet: bool = True) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(path)
        self.wire = Wire(sock)
        if greet:
            self.say(protocol.Hello(protocol.VERSION, "raw"))
            assert isinstance(self.hear()[0], protocol.Welcome)

    def say(self, message: Any, *fds: int) -> None:
        self.wire.send(message if isinstance(message, bytes) else protocol.encode(message), fds)

    def hear(self) -> tuple[Any, list[int]]:
        """The next message; None where the service has closed the connection."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                data, fds = self.wire.receive()
            except BlockingIOError:
                assert time.monotonic() < deadline, "no answer"
                time.sleep(0.001)
                continue
            except ConnectionResetError:
                return None, []
            message = protocol.decode_answer(data) if data else None
            if not isinstance(message, (protocol.Reach, protocol.Closed)):
                return message, fds

    def ask(self, message: Any, *fds: int) -> Any:
        """An answer; descriptors that come along are closed."""
        self.say(message, *fds)
        answer, received = self.hear()
        close_all(received)
        return answer

    def close(self) -> None:
        self.wire.close()


@contextmanager
def serving(path: Path, **settings: Any) -> Iterator[Served]:
    """A stack that is served; nothing is left of its clients at the end."""
    with Stack("main") as stack:
        made = Served(stack, str(path / "main.sock"), **settings)
        try:
            yield made
            until(lambda: not made.server.sessions, "a client is left")
            until(lambda: not made.server.calls.table, "a socket is left")
            until(lambda: all(sk.dead for sk in stack.sockets()), "a socket of the stack is held")
            assert not made.server._brought
            assert not made.server._owners
            assert not made.server._handles
            assert not made.server._sockets
            assert not made.server._users
            until(lambda: not OWN_ENDS, "a channel is left")
        finally:
            made.server.close()
    assert not BY_INODE
    close_process_runner()


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))
