"""A socket's readiness as a descriptor of the host, for `selectors`, `select`, `poll` and `epoll` to wait on.

The descriptor is one end of a socket pair, made on first use. It carries no data, only three facts: it is readable
while a byte lies in it, has urgent data (POLLPRI) while an urgent byte does, and is writable while its send buffer is
not full. Whenever the socket's own readiness changes, the bytes are put in or taken out, and the buffer filled or
drained. End of file and hanging up, which don't go away again, are shown by shutting down the far end (POLLRDHUP,
POLLHUP); the error that ended a connection (POLLERR) by closing that with a byte unread, which is ECONNRESET here, and
is taken off as SO_ERROR is there. An error of a socket that lives on has no counterpart on the pair, for nothing but
its end gives one: it is shown as select(2) counts it, readable and writable.

Descriptors are the process's, so the table of who is behind which is too.
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    MSG_OOB,
    SHUT_RDWR,
    SHUT_WR,
    SO_ERROR,
    SO_OOBINLINE,
    SO_SNDBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from typing import Final, final

from usernet.core.errors import UnusableStackError
from usernet.core.wait import (
    ALL_EVENTS,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
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
_URGENT: Final = b"u"
_UNREAD: Final = b"e"
_END_OF_FILE: Final = 1
_HUNG_UP: Final = 2
_FAILED: Final = 3
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
        user.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)  # so that read() takes the urgent byte out too
        self._own = own
        self._spare: int = user.detach()
        """The user's end while no holder has it, or one that only we know where a holder may close his at any time."""
        self._descriptors: list[int] = []
        self.inode: int = os.fstat(self._spare).st_ino
        socket.sk.ino = self.inode
        self._readable = False
        self._urgent = False
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
        if fd not in self._descriptors:
            return  # another holder of the same descriptor has closed it
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
            self._hang_up(_HUNG_UP)
            return
        try:
            if self.socket.readiness is self:
                self.refresh()
        finally:
            loop.leave()

    def refresh(self) -> None:
        """Bring the descriptor in step with the socket."""
        mask = self.socket.poll()
        hung = self._hung
        if hung == _FAILED:
            if not mask & EPOLLERR:
                self._take_error()
            return
        readable = mask & POLLIN_SET != 0
        writable = mask & POLLOUT_SET != 0
        urgent = mask & EPOLLPRI != 0
        if readable != self._readable or urgent != self._urgent:
            self._mark(readable, urgent)
        if mask & EPOLLRDHUP:
            self._hang_up((_FAILED if mask & EPOLLERR else _HUNG_UP) if mask & EPOLLHUP else _END_OF_FILE)
        if writable != self._writable and self._hung < _HUNG_UP:
            self._writable = writable
            try:
                if writable:
                    self._own.recv(len(_FULL))
                else:
                    os.write(self._end(), _FULL)
            except (BlockingIOError, BrokenPipeError):
                pass

    def _mark(self, readable: bool, urgent: bool) -> None:
        """Have the bytes in the pair that say so. At the end of file only what there was can be taken out."""
        if (self._readable and not readable) or (self._urgent and not urgent):
            try:
                while os.read(self._end(), 16):
                    pass
            except OSError:
                pass  # nothing is left; or a program read from the descriptor itself
            self._readable = self._urgent = False
        if self._hung:
            return
        try:
            if readable and not self._readable:
                self._own.send(_READABLE)
            if urgent and not self._urgent:
                self._own.send(_URGENT, MSG_OOB)
        except OSError:
            pass  # the program has closed its end; or a kernel before Linux 5.15
        self._readable = readable
        self._urgent = urgent

    def _hang_up(self, how: int) -> None:
        """Show end of file (1), hanging up (2), or that with an error (3), from now on."""
        before = self._hung
        if how <= before or self._own.fileno() < 0:
            return
        self._hung = how
        try:
            if how == _END_OF_FILE:
                self._own.shutdown(SHUT_WR)
                return
            if before < _HUNG_UP:
                if not self._writable:
                    self._writable = True
                    self._own.recv(len(_FULL))
                # Should an error come, there is something unread to close with.
                os.write(self._end(), _UNREAD)
                self._own.shutdown(SHUT_RDWR)
            if how == _FAILED:
                self._own.close()
        except OSError:
            pass  # the program has closed its end

    def _take_error(self) -> None:
        """The socket's error was asked for, and is there no more."""
        try:
            end = socket(fileno=os.dup(self._end()))
        except OSError:
            return  # the program has closed its end
        try:
            end.getsockopt(SOL_SOCKET, SO_ERROR)
        finally:
            end.close()


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
