"""A socket's readiness as a descriptor of the host, for `selectors`, `select`, `poll` and `epoll` to wait on.

The descriptor is one end of a socket pair, made on first use. It carries no data, only two facts: it is readable
while a byte lies in it, and writable while its send buffer is not full. Whenever the socket's own readiness changes,
the byte is put in or taken out, and the buffer filled or drained. End of file and hanging up, which don't go away
again, are shown by shutting down the far end (POLLRDHUP, POLLHUP). An error, which does, is shown as select(2) counts
it: readable and writable. Urgent data (POLLPRI) has no counterpart on the pair.

Descriptors are the process's, so the table of who is behind which is too.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SHUT_RDWR, SHUT_WR, SO_SNDBUF, SOCK_STREAM, SOL_SOCKET, socketpair
from typing import Final, final

from usernet.core.errors import UnusableStackError
from usernet.core.wait import (
    ALL_EVENTS,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDBAND,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
    Waiter,
)
from usernet.sockets.socket import Socket

POLLIN_SET: Final = EPOLLRDNORM | EPOLLRDBAND | EPOLLIN | EPOLLHUP | EPOLLERR
POLLOUT_SET: Final = EPOLLWRBAND | EPOLLWRNORM | EPOLLOUT | EPOLLERR
"""What makes select(2) call a descriptor readable, and writable."""

_READABLE: Final = b"r"
_FULL: Final = bytes(2048)
"""One write of it fills the smallest send buffer (4,608 B): a UNIX socket is writable while what is charged to it,
here 4,096 B and a header, is at most a quarter of the buffer (unix_writable)."""


@final
class Readiness(Waiter):
    """Keeps the descriptors of one socket in step with it. Made, and all but `sync` called, with the lock held."""

    def __init__(self, socket: Socket) -> None:
        super().__init__(ALL_EVENTS)
        self.socket = socket
        user, own = socketpair(AF_UNIX, SOCK_STREAM)
        user.setblocking(False)
        own.setblocking(False)
        user.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)
        self._own = own
        self._spare: int = user.detach()
        """The user's end while no holder has it, or one that only we know where a holder may close his at any time."""
        self._descriptors: list[int] = []
        self.inode: int = os.fstat(self._spare).st_ino
        self._readable = False
        self._writable = True
        self._hung: int = 0
        self._scheduled = False
        socket.wait_queue().add(self)
        self.refresh()

    # -- descriptors

    def open(self) -> int:
        """A descriptor for one more holder."""
        if self._spare >= 0 and not self._descriptors:
            fd = self._spare
            self._spare = -1
        else:
            fd = os.dup(self._end())
        self._descriptors.append(fd)
        DESCRIPTORS[fd] = self
        return fd

    def detach(self, fd: int) -> None:
        """The descriptor has become a program's own, which may close it without a word."""
        if self._spare < 0:
            self._spare = os.dup(fd)
        self._descriptors.remove(fd)

    def attach(self, fd: int) -> bool:
        """A holder takes a descriptor over. True where it was detached before, and its reference goes along."""
        if fd in self._descriptors:
            return False
        self._descriptors.append(fd)
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        return True

    def release(self, fd: int) -> None:
        """A holder is done with its descriptor."""
        if fd in self._descriptors:
            if len(self._descriptors) == 1 and self._spare < 0:
                self._spare = os.dup(fd)
            self._descriptors.remove(fd)
            DESCRIPTORS.pop(fd, None)
            os.close(fd)

    def close(self) -> None:
        """The socket's end. Descriptors that programs detached stay theirs, and hang up."""
        self.socket.wait_queue().remove(self)
        for fd in self._descriptors:
            DESCRIPTORS.pop(fd, None)
            os.close(fd)
        self._descriptors.clear()
        for fd in [fd for fd, readiness in DESCRIPTORS.items() if readiness is self]:
            del DESCRIPTORS[fd]
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        self._own.close()

    def _end(self) -> int:
        return self._spare if self._spare >= 0 else self._descriptors[0]

    # -- keeping in step

    def wake(self, mask: int) -> bool:
        if not self._scheduled:
            self._scheduled = True
            self.socket.loop.after(self.sync)
        return False

    def sync(self) -> None:
        """Bring the descriptor in step, without the lock held."""
        loop = self.socket.loop
        self._scheduled = False
        try:
            loop.enter()
        except UnusableStackError:
            self._hang_up(2)
            return
        try:
            if self.socket.readiness is self:
                self.refresh()
        finally:
            loop.leave()

    def refresh(self) -> None:
        """Bring the descriptor in step with the socket."""
        mask = self.socket.poll()
        readable = mask & POLLIN_SET != 0
        writable = mask & POLLOUT_SET != 0
        if mask & EPOLLRDHUP and self._hung < 2:
            self._hang_up(2 if mask & EPOLLHUP else 1)
        if readable != self._readable and not self._hung:
            self._readable = readable
            try:
                if readable:
                    self._own.send(_READABLE)
                else:
                    os.read(self._end(), 1)
            except BlockingIOError:
                pass  # a program read from the descriptor itself
        if writable != self._writable and self._hung < 2:
            self._writable = writable
            try:
                if writable:
                    self._own.recv(len(_FULL))
                else:
                    os.write(self._end(), _FULL)
            except (BlockingIOError, BrokenPipeError):
                pass

    def _hang_up(self, how: int) -> None:
        """Show end of file (1), or hanging up (2), from now on."""
        if how <= self._hung or self._own.fileno() < 0:
            return
        self._hung = how
        try:
            if how == 2:
                if not self._writable:
                    self._writable = True
                    self._own.recv(len(_FULL))
                self._own.shutdown(SHUT_RDWR)
            else:
                self._own.shutdown(SHUT_WR)
        except OSError:
            pass  # the program has closed its end


DESCRIPTORS: Final[dict[int, Readiness]] = {}
"""Who is behind a descriptor of this process."""


def find(fd: int) -> Readiness | None:
    """Who is behind `fd`; None for a descriptor of the host. One that a program closed and that the host gave out
    again is told apart by its inode."""
    readiness = DESCRIPTORS.get(fd)
    if readiness is None:
        return None
    try:
        if os.fstat(fd).st_ino == readiness.inode:
            return readiness
    except OSError:
        pass
    del DESCRIPTORS[fd]
    return None
