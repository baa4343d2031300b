"""Many small servers in one thread: each connection is a generator that yields what it waits for.

The thread waits in the stack's own epoll(7). A task that yields EPOLLIN or EPOLLOUT goes on when its socket is ready
for that; one whose socket fails, or is idle for too long, is over.
"""

from __future__ import annotations

import threading
import time
from _socket import SO_REUSEADDR, SOL_SOCKET
from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias, final

from usernet.core.errors import UnusableStackError, report
from usernet.core.wait import EPOLLIN, EPOLLOUT
from usernet.sockets.user import UserSocket
from usernet.stack import Stack

Task: TypeAlias = Generator[int, None, None]
Handler: TypeAlias = Callable[[UserSocket, Any], Task]
"""`handler(sock, peer)` serves a connection to its end."""

MAX_SERVED: Final = 1024
"""Connections served at once; further ones wait in the listeners' queues."""
IDLE: Final = 120.0
"""Seconds after which a connection is ended on which nothing happens."""
BLOCK: Final = 65536
FOREVER: Final = float("inf")


def receive(sock: UserSocket, size: int = BLOCK) -> Generator[int, None, bytes]:
    """At most `size` bytes; b"" at the end."""
    while True:
        try:
            data: bytes = sock.recv(size)
        except BlockingIOError:
            yield EPOLLIN
        else:
            return data


def send(sock: UserSocket, data: bytes) -> Generator[int, None, None]:
    """All of `data`."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            yield EPOLLOUT


@final
class _Served:
    """One connection."""

    __slots__ = ("mask", "sock", "task", "used")

    def __init__(self, sock: UserSocket, task: Task) -> None:
        self.sock = sock
        self.task = task
        self.mask = 0
        self.used = 0.0


@final
class Tasks:
    """The servers of one stack. `served`: how many connections there are."""

    def __init__(self, stack: Stack, limit: int = MAX_SERVED, idle: float = IDLE) -> None:
        """limit: connections at once. idle: seconds."""
        self._stack = stack
        self._limit = limit
        self._idle = idle
        self._epoll = stack.epoll()
        self._listeners: dict[UserSocket, Handler] = {}
        self._served: dict[UserSocket, _Served] = {}
        self._fixed = 0
        self._paused = False
        self._thread: threading.Thread | None = None

    @property
    def served(self) -> int:
        return len(self._served) - self._fixed

    def listen(self, port: int, handler: Handler, address: str = "") -> None:
        """Serve the connections to a port. Raises OSError."""
        listener = self._stack.socket()
        try:
            listener.bind((address, port))
        except OSError:
            listener.close()
            raise
        listener.listen(128)
        listener.setblocking(False)
        self._listeners[listener] = handler
        self._epoll.register(listener, EPOLLIN)

    def datagrams(self, port: int, handler: Handler, address: str = "") -> None:
        """Have a task serve the datagrams to a port; its peer is None. Raises OSError."""
        sock = self._stack.socket(type=2)
        try:
            # One of a certain address may stand beside the one of all.
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock.bind((address, port))
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        served = _Served(sock, handler(sock, None))
        served.used = FOREVER
        self._fixed += 1
        self._served[sock] = served
        self._step(served)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"usernet-{self._stack.name}", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, which the end of the stack is."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                for sock, _ in self._epoll.poll(1.0 if self.served else None):
                    served = self._served.get(sock)
                    if served is not None:
                        self._step(served)
                    elif sock in self._listeners:
                        self._accept(sock)
                self._sweep()
        except UnusableStackError:
            for served in self._served.values():
                served.task.close()
                served.sock.close()
            for listener in self._listeners:
                listener.close()
            self._epoll.close()

    def _accept(self, listener: UserSocket) -> None:
        while self.served < self._limit:
            try:
                sock, peer = listener.accept()
            except OSError:
                return  # none is left, or it was reset while it waited
            sock.setblocking(False)
            served = _Served(sock, self._listeners[listener](sock, peer))
            self._served[sock] = served
            self._step(served)
        if not self._paused and self.served >= self._limit:
            self._paused = True
            for waiting in self._listeners:
                self._epoll.unregister(waiting)

    def _step(self, served: _Served) -> None:
        """Let a task go on to where it waits again, or to its end."""
        try:
            mask = next(served.task)
        except UnusableStackError:
            raise
        except (StopIteration, OSError):
            self._end(served)
            return
        except Exception as problem:
            report(problem)
            self._end(served)
            return
        if served.used != FOREVER:
            served.used = time.monotonic()
        if not served.mask:
            self._epoll.register(served.sock, mask)
        elif mask != served.mask:
            self._epoll.modify(served.sock, mask)
        served.mask = mask

    def _end(self, served: _Served) -> None:
        served.task.close()
        if served.mask:
            self._epoll.unregister(served.sock)
        del self._served[served.sock]
        served.sock.close()
        if self._paused and self.served < self._limit:
            self._paused = False
            for listener in self._listeners:
                self._epoll.register(listener, EPOLLIN)

    def _sweep(self) -> None:
        before = time.monotonic() - self._idle
        for served in [served for served in self._served.values() if served.used < before]:
            self._end(served)
