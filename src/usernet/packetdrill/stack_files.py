"""What a script's descriptors stand for besides sockets: files that shell lines made, pipes, and epolls.

Used by `stack_calls`. Files and pipes live in memory and are the script's own; the host's are not touched.
"""

from __future__ import annotations

import errno
from typing import Final, TypeAlias, final

from usernet.core.errors import error
from usernet.core.loop import Loop
from usernet.core.wait import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDNORM,
    EPOLLWRNORM,
    WaitQueue,
)
from usernet.sockets.epoll import EventPoll
from usernet.sockets.socket import Socket

PIPE_SIZE: Final = 65536  # pipe(7)


@final
class MemoryFile:
    """An open file: its bytes, and where it stands."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int, offset: int | None = None) -> bytes:
        """At most `size` bytes, from `offset` or from where the file stands, which then moves on."""
        start = self.position if offset is None else offset
        piece = self.data[start : start + size]
        if offset is None:
            self.position += len(piece)
        return piece


@final
class Pipe:
    """The memory between two ends."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.wait = WaitQueue()
        self.readers = 1
        self.writers = 1


@final
class PipeEnd:
    """One end of a pipe. `writes`: which."""

    def __init__(self, pipe: Pipe, writes: bool) -> None:
        self.pipe = pipe
        self.writes = writes
        self.nonblock = False

    def poll(self) -> int:
        """The events that are so now (Linux: pipe_poll)."""
        pipe = self.pipe
        if self.writes:
            mask = EPOLLOUT | EPOLLWRNORM if len(pipe.data) < PIPE_SIZE else 0
            return mask if pipe.readers else mask | EPOLLERR
        mask = EPOLLIN | EPOLLRDNORM if pipe.data else 0
        return mask if pipe.writers else mask | EPOLLHUP

    def room(self) -> int:
        """Bytes that fit. Raises EPIPE where nobody reads, EBADF at the reading end."""
        if not self.writes:
            raise error(errno.EBADF)
        if not self.pipe.readers:
            raise error(errno.EPIPE)
        return PIPE_SIZE - len(self.pipe.data)

    def put(self, data: bytes) -> None:
        """Write what `room` allows."""
        self.pipe.data += data
        self.pipe.wait.wake_all(EPOLLIN | EPOLLRDNORM)

    def take(self, size: int) -> bytes:
        """Read at most `size` bytes. Raises EBADF at the writing end."""
        if self.writes:
            raise error(errno.EBADF)
        piece = bytes(self.pipe.data[:size])
        del self.pipe.data[:size]
        self.pipe.wait.wake_all(EPOLLOUT | EPOLLWRNORM)
        return piece

    def give_back(self, data: bytes) -> None:
        """What was taken had no place: it is the first again."""
        self.pipe.data[:0] = data

    def close(self) -> None:
        """The end is let go of."""
        if self.writes:
            self.pipe.writers -= 1
        else:
            self.pipe.readers -= 1
        self.pipe.wait.wake_all(EPOLLHUP | EPOLLERR | EPOLLIN | EPOLLOUT)


@final
class EpollFile:
    """An epoll's descriptor: the epoll, with the data that a script gave for each descriptor watched."""

    def __init__(self, loop: Loop) -> None:
        self.eventpoll = EventPoll(loop)
        self.data: dict[int, int] = {}


OpenFile: TypeAlias = Socket | MemoryFile | PipeEnd | EpollFile


@final
class Descriptors:
    """The descriptor table: the lowest free number for each that is opened, from 3 on."""

    def __init__(self) -> None:
        self._open: dict[int, OpenFile] = {}

    def add(self, file: OpenFile) -> int:
        """The new descriptor."""
        fd = 3
        while fd in self._open:
            fd += 1
        self._open[fd] = file
        return fd

    def get(self, fd: int) -> OpenFile:
        """Raises EBADF."""
        file = self._open.get(fd)
        if file is None:
            raise error(errno.EBADF)
        return file

    def socket(self, fd: int) -> Socket:
        """Raises EBADF, ENOTSOCK."""
        file = self.get(fd)
        if not isinstance(file, Socket):
            raise error(errno.ENOTSOCK)
        return file

    def remove(self, fd: int) -> OpenFile:
        """Raises EBADF."""
        file = self.get(fd)
        del self._open[fd]
        return file

    def all(self) -> list[int]:
        """Every open descriptor."""
        return list(self._open)
