"""Programs that know of a service: its sockets, and its control, blocking or in asyncio.

    from usernet.netd.client import Client

    with Client("main") as client:
        sock = client.socket()                    # a standard socket.socket, whose descriptor is a channel
        sock.connect(("10.0.0.1", 80))            # asked of the service
        sock.sendall(b"…")                        # the descriptor's own business
        print(client.command("ss", "-ta"))

    async with AsyncClient("main") as client:
        sock = await client.socket()
        await client.connect(sock, ("10.0.0.1", 80))

A blocking call that a signal handler cuts short (Ctrl-C) is taken back. A client that is closed, or whose process ends,
leaves nothing behind but what others have the descriptors of.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, final

from usernet.netd import protocol
from usernet.netd.command import Text, UsageError
from usernet.netd.connection import Connection, ServiceError, failure, until
from usernet.netd.messages import close_all
from usernet.netd.remote import (
    EBADFD,
    RemoteSocket,
    accepted,
    names,
    of_given,
    opened_fd,
    put_in_place,
    read_text,
)

__all__ = ["AsyncClient", "Client", "Packets", "RemoteSocket", "ServiceError", "Text", "UsageError"]

SLICE: Final = 1.0
"""Seconds after which a thread that waits for another one's reading looks whether that one is still there."""


@final
class Client:
    """A client of the service of a stack: its name, or the path of its socket. May be used by several threads.

    Raises ServiceError where there is no such service, or it takes no more clients.
    """

    def __init__(self, stack: str = "", *, program: str = "") -> None:
        self.connection = Connection(stack, program)
        self.sockets: dict[int, RemoteSocket] = {}
        self.connection.on_reach = self._reach
        self._answers: dict[int, tuple[Any, list[int]]] = {}
        self._reading = False
        self._changed = threading.Condition()

    @property
    def name(self) -> str:
        """The stack's name."""
        return self.connection.welcome.stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. Sockets that are not closed go on by their descriptors, and can be asked nothing more."""
        self.connection.close()

    # -- calls

    def call(
        self, make: Callable[[int], Any], fds: Sequence[int] = (), timeout: float | None = None
    ) -> tuple[Any, list[int]]:
        """Make a request, and wait for its answer: a Done or Given, and its descriptors.

        timeout: seconds, then the request is cancelled. Raises OSError as the call does, TimeoutError.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        number = self.connection.request(make, self._collect(), fds)
        try:
            message, received = self._wait(number, deadline)
        except BaseException:
            self._give_up(number)
            raise
        if isinstance(message, (protocol.Done, protocol.Given)):
            return message, received
        close_all(received)
        raise failure(message)

    def _collect(self) -> Callable[[Any, list[int]], None]:
        def answered(message: Any, fds: list[int]) -> None:
            number = getattr(message, "id", 0)
            with self._changed:
                self._answers[number] = (message, fds)
                self._changed.notify_all()

        return answered

    def _wait(self, number: int, deadline: float | None) -> tuple[Any, list[int]]:
        """One of the threads that wait reads, for all of them."""
        connection = self.connection
        changed = self._changed
        while True:
            with changed:
                while number not in self._answers and self._reading and connection.broken is None:
                    left = until(deadline)
                    if left == 0:
                        raise TimeoutError("timed out")
                    changed.wait(SLICE if left is None else min(left, SLICE))
                if number in self._answers:
                    return self._answers.pop(number)
                if connection.broken is not None:
                    raise connection.broken
                self._reading = True
            try:
                if not connection.wait(until(deadline)):
                    raise TimeoutError("timed out")
                connection.receive()
            finally:
                with changed:
                    self._reading = False
                    changed.notify_all()

    def _give_up(self, number: int) -> None:
        """Nobody waits for that answer any more: have the call cancelled, or what it gives undone."""
        if self.connection.replace(number, self._undo):
            try:
                self.connection.tell(protocol.Cancel(number))
            except OSError:
                pass  # with the connection all is undone
        else:
            with self._changed:
                message, fds = self._answers.pop(number, (None, []))
            self._undo(message, fds)

    def _undo(self, message: Any, fds: list[int]) -> None:
        if isinstance(message, protocol.Given) and fds:
            try:
                self.connection.tell(protocol.GiveBack(message.handle))
            except OSError:
                pass
        close_all(fds)

    def commit(self, handle: int) -> None:
        """Say that the descriptor of a socket that was given is here."""
        self.connection.tell(protocol.Commit(handle))

    # -- sockets

    def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> RemoteSocket:
        """A socket of the stack. Raises OSError as socket(2), EMFILE beyond the quota."""
        message, fds = self.call(lambda number: protocol.Open(number, family, type, proto))
        return self._made(message, opened_fd(fds))

    def adopt(self, fd: int) -> RemoteSocket:
        """The socket of a descriptor that came from elsewhere (SCM_RIGHTS, a parent process), which passes on."""
        message, fds = self.call(lambda number: protocol.Duplicate(number), (fd,))
        close_all(fds)
        sock = of_given(self, message, fd)
        self.sockets[message.handle] = sock
        return sock

    def _made(self, message: protocol.Given, fd: int) -> RemoteSocket:
        try:
            self.commit(message.handle)
            sock = of_given(self, message, fd)
        except BaseException:
            os.close(fd)
            raise
        self.sockets[message.handle] = sock
        return sock

    def made(self, message: Any, fds: list[int]) -> RemoteSocket:
        """The object of a socket that was given."""
        return self._made(message, opened_fd(fds))

    def _reach(self, handle: int) -> int:
        sock = self.sockets.get(handle)
        try:
            return os.dup(sock.fileno()) if sock is not None and sock.fileno() >= 0 else -1
        except OSError:
            return -1

    # -- control

    def command(self, tool: str, *words: str) -> Text:
        """A tool on the stack, as on a command line: command("ip", "addr"). Returns what it prints, with its `status`.

        Raises UsageError for a wrong word, OSError where the stack refuses.
        """
        message, fds = self.call(lambda number: protocol.Command(number, tool, list(words)))
        return read_text(message, fds)

    @contextmanager
    def watch(self, *devices: str, snaplen: int = 0, drops: bool = True) -> Iterator[Packets]:
        """Packets as they pass."""
        pieces = Packets(self.connection)
        number = self.connection.request(
            lambda number: protocol.Watch(number, list(devices), snaplen, drops), pieces.answered
        )
        try:
            yield pieces
        finally:
            if self.connection.replace(number, lambda message, fds: close_all(fds)):
                self.connection.tell(protocol.Cancel(number))


@final
class Packets(Iterator[bytes]):
    """Packets as they pass: the pieces of a pcapng file. lost: how many packets were left out so far, for this end was
    too slow. What it waits for raises OSError."""

    def __init__(self, connection: Connection) -> None:
        self.lost: int = 0
        self._connection = connection
        self._chunks: deque[Any] = deque()

    def answered(self, message: Any, fds: list[int]) -> None:
        """For the connection."""
        close_all(fds)
        self._chunks.append(message)

    def __next__(self) -> bytes:
        while not self._chunks:
            self._connection.wait(None)
            self._connection.receive()
        message = self._chunks.popleft()
        if not isinstance(message, protocol.Chunk):
            raise failure(message)
        self.lost = message.lost
        return message.data


@final
class AsyncClient:
    """The same in an event loop of asyncio. `async with AsyncClient("main") as client:`."""

    def __init__(self, stack: str = "", *, program: str = "") -> None:
        self._stack = stack
        self._program = program
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.sockets: dict[int, RemoteSocket] = {}

    async def __aenter__(self) -> Self:
        loop = self._loop = asyncio.get_running_loop()
        # Connecting takes a moment, in which the service answers.
        connection = self._connection = await loop.run_in_executor(None, Connection, self._stack, self._program)
        connection.on_reach = self._reach
        connection.on_closed = self._closed
        loop.add_reader(connection.fileno(), self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise ServiceError("the client is not connected: `async with AsyncClient(…) as client:`")
        return self._connection

    def close(self) -> None:
        """End the connection."""
        connection = self._connection
        if connection is not None and not connection.over:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(connection.fileno())
            connection.close()

    def _read(self) -> None:
        connection = self.connection
        connection.receive()
        if connection.broken is not None and self._loop is not None:
            self._loop.remove_reader(connection.fileno())

    def _reach(self, handle: int) -> int:
        sock = self.sockets.get(handle)
        return os.dup(sock.fileno()) if sock is not None and sock.fileno() >= 0 else -1

    def _closed(self, handle: int) -> None:
        self.sockets.pop(handle, None)

    def _undo(self, message: Any, fds: list[int]) -> None:
        """Nobody waits for that answer any more."""
        if isinstance(message, protocol.Given) and fds:
            self._tell(protocol.GiveBack(message.handle))
        close_all(fds)

    def _tell(self, message: Any) -> None:
        try:
            self.connection.tell(message)
        except ServiceError:
            pass  # with the connection all is undone

    async def call(self, make: Callable[[int], Any], fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Make a request; its answer and descriptors. Cancelled, the request is taken back. Raises OSError."""
        future: asyncio.Future[tuple[Any, list[int]]] = asyncio.get_running_loop().create_future()

        def answered(message: Any, received: list[int]) -> None:
            if future.done():
                self._undo(message, received)
            else:
                future.set_result((message, received))

        number = self.connection.request(make, answered, fds)
        try:
            message, received = await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._tell(protocol.Cancel(number))
            else:
                # It was answered, before the task had its turn.
                self._undo(*future.result())
            raise
        if isinstance(message, (protocol.Done, protocol.Given)):
            return message, received
        close_all(received)
        raise failure(message)

    async def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> RemoteSocket:
        """A socket of the stack, non-blocking: for the event loop's sock_recv, sock_sendall, and what uses them."""
        message, fds = await self.call(lambda number: protocol.Open(number, family, type, proto))
        return self._made(message, fds)

    def _made(self, message: protocol.Given, fds: list[int]) -> RemoteSocket:
        fd = opened_fd(fds)
        try:
            self.connection.tell(protocol.Commit(message.handle))
            sock = of_given(None, message, fd)
        except BaseException:
            os.close(fd)
            raise
        sock.setblocking(False)
        self.sockets[message.handle] = sock
        return sock

    async def bind(self, sock: RemoteSocket, address: Any) -> None:
        """bind(2)."""
        await self.call(lambda number: protocol.Bind(number, sock.handle, names.pack(sock.family, address)))

    async def listen(self, sock: RemoteSocket, backlog: int = 128) -> None:
        """listen(2)."""
        await self.call(lambda number: protocol.Listen(number, sock.handle, backlog))

    async def connect(self, sock: RemoteSocket, address: Any) -> None:
        """connect(2); returns when it is connected."""
        name = names.pack(sock.family, address)

        def make(number: int) -> protocol.Connect:
            return protocol.Connect(number, sock.handle, name)

        try:
            await self.call(make, (sock.fileno(),))
        except OSError as problem:
            if problem.errno != EBADFD:
                raise
            message, fds = await self.call(lambda number: protocol.Renew(number, sock.handle))
            if isinstance(message, protocol.Given):
                put_in_place(sock, opened_fd(fds))
                self.connection.tell(protocol.Commit(sock.handle))
            await self.call(make, (sock.fileno(),))

    async def accept(self, sock: RemoteSocket) -> tuple[RemoteSocket, Any]:
        """accept(2): the connection, and the peer's address."""
        message, fds = await self.call(lambda number: protocol.Accept(number, sock.handle), (sock.fileno(),))
        return accepted(self._made(message, fds), message)

    async def getsockname(self, sock: RemoteSocket) -> Any:
        """getsockname(2)."""
        return names.unpack((await self.call(lambda number: protocol.SockName(number, sock.handle)))[0].data)

    async def command(self, tool: str, *words: str) -> Text:
        """As `Client.command`."""
        message, fds = await self.call(lambda number: protocol.Command(number, tool, list(words)))
        return read_text(message, fds)
