"""System calls on the sockets of a stack, in terms of bytes: what a supervisor needs of whoever has the stack.

Addresses, options, ancillary data are bytes as the kernel's entry points take and give them; descriptors are numbers of
this process. A socket goes by a handle, a number that is never given out twice. Each call is answered by
`done(result, problem)`: before it returns, where it needs no waiting; else from some thread, without any lock, and then
it returns a `Pending` (which may be over by then).

A call that gives a new socket only prepares it. Nothing is moved through its descriptor until `commit`; `give_back`
undoes it: an accepted connection is the next to be accepted again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import final

from usernet.core.deferred import Done as Done
from usernet.core.native import mypyc_attr

Reach = Callable[[], int]
"""Gives a new duplicate of the application's end of a channel, for a moment; -1 where nobody has it in reach."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Pending:
    """A call that waits."""

    def cancel(self) -> bool:
        """Give it up. False where it has ended: `done` was called, or is about to be."""
        raise NotImplementedError


@final
@mypyc_attr(native_class=False)
class SpentChannelError(OSError):
    """The socket's channel has ended with a connection that failed, and the application still has its descriptor: it
    needs another one, by `renew`, before this call."""

    def __init__(self) -> None:
        super().__init__(errno.EBADFD, "the socket's descriptor is spent: renew it")


@final
class Opened:
    """A socket that was prepared. fd: the application's end of its channel, the caller's to pass on and to close.
    inode: by which that end is recognised. stream: whether data goes through it by read and write alone. name: of the
    peer, for accept."""

    __slots__ = ("family", "fd", "handle", "inode", "name", "stream")

    def __init__(self, handle: int, fd: int, inode: int, family: int, stream: bool, name: bytes = b"") -> None:
        self.handle = handle
        self.fd = fd
        self.inode = inode
        self.family = family
        self.stream = stream
        self.name = name


@final
class Received:
    """What recvmsg gave. result: what the call returns. flags: MSG_TRUNC, MSG_CTRUNC, MSG_ERRQUEUE, …"""

    __slots__ = ("control", "data", "flags", "name", "result")

    def __init__(self, data: bytes, result: int, name: bytes, control: bytes, flags: int) -> None:
        self.data = data
        self.result = result
        self.name = name
        self.control = control
        self.flags = flags


@mypyc_attr(allow_interpreted_subclasses=True)
class Backend:
    """Whoever carries out the calls. `closed(handle)` is called, from some thread, when a socket is no more: the last
    who had its descriptor has closed it.

    All raise nothing: the problem (OSError with Linux's errno, EBADF for a handle that is none, or
    UnusableStackError) is told to `done`.
    """

    closed: Callable[[int], None] | None = None

    def watch(self, fds: tuple[int, ...], ready: Callable[[], None]) -> Callable[[], None] | None:
        """Have `ready` called, without any lock, by the thread that drives the stack: when one of `fds` is readable or
        has hung up, again and again as long as that is so, and every second. So one thread does it all, and need not
        wake another. Returns what ends it; None where no such thread is here, and the caller waits with one of its own.
        """
        return None

    def fileno(self) -> int:
        """A descriptor that the caller is to watch, and to call `ready` when it is readable; -1 for none."""
        return -1

    def ready(self) -> None:
        """See `fileno`."""

    # -- sockets that come

    def socket(self, family: int, kind: int, protocol: int, done: Done) -> Pending | None:
        """socket(2); `kind` with its flags. Result: an `Opened`."""
        raise NotImplementedError

    def accept(self, handle: int, flags: int, nonblock: bool, done: Done) -> Pending | None:
        """accept4(2). Result: an `Opened`."""
        raise NotImplementedError

    def renew(self, handle: int, done: Done) -> Pending | None:
        """A new channel for a socket whose own is spent, to be put in its place. Result: an `Opened` with the same
        handle, to be committed or given back; None where it is not spent."""
        raise NotImplementedError

    def commit(self, handle: int, reach: Reach) -> None:
        """The descriptor of an `Opened` is where it was to go, and this is how it is reached there."""
        raise NotImplementedError

    def give_back(self, handle: int) -> None:
        """The descriptor of an `Opened` went nowhere."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all sockets. Descriptors that programs still have show a reset."""
        raise NotImplementedError

    # -- calls on a socket

    def bind(self, handle: int, name: bytes, done: Done) -> Pending | None:
        """bind(2). Result: 0."""
        raise NotImplementedError

    def listen(self, handle: int, backlog: int, done: Done) -> Pending | None:
        """listen(2). Result: 0. Problems: `SpentChannelError` too."""
        raise NotImplementedError

    def connect(self, handle: int, name: bytes, nonblock: bool, done: Done) -> Pending | None:
        """connect(2). Result: 0. Problems: `SpentChannelError` too."""
        raise NotImplementedError

    def getsockname(self, handle: int, done: Done) -> Pending | None:
        """Result: bytes."""
        raise NotImplementedError

    def getpeername(self, handle: int, done: Done) -> Pending | None:
        """Result: bytes."""
        raise NotImplementedError

    def shutdown(self, handle: int, how: int, done: Done) -> Pending | None:
        """shutdown(2). Result: 0."""
        raise NotImplementedError

    def getsockopt(
        self, handle: int, level: int, option: int, length: int, value: bytes | None, done: Done
    ) -> Pending | None:
        """getsockopt(2) into `length` bytes. value: what these hold, for the options that read it. Result: bytes."""
        raise NotImplementedError

    def setsockopt(self, handle: int, level: int, option: int, value: bytes, done: Done) -> Pending | None:
        """setsockopt(2). Filters are given as the row of their instructions. Result: 0. What concerns the
        application's end itself (SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT, SO_PEEK_OFF) is the caller's to set there as
        well."""
        raise NotImplementedError

    def ring(self, handle: int, size: int, done: Done) -> Pending | None:
        """The memory of a packet socket's ring, to be mapped from its start on, `size` bytes. Result: a descriptor, the
        caller's. Problems: EINVAL where there is no ring of that size, ENODEV for another kind of socket."""
        raise NotImplementedError

    def ioctl(self, handle: int, request: int, argument: bytes, done: Done) -> Pending | None:
        """ioctl(2) with what its pointer points to. handle: 0 for a socket that is none of the stack's, on which
        interfaces can be asked about all the same. Result: the bytes to be written back there. For
        SIOCGIFCONF and SIOCETHTOOL, which have a second pointer in there, see sockets/ifreq.py."""
        raise NotImplementedError

    def sendmsg(
        self,
        handle: int,
        data: bytes,
        size: int,
        flags: int,
        name: bytes | None,
        control: bytes,
        nonblock: bool,
        done: Done,
    ) -> Pending | None:
        """sendmsg(2). size: bytes that are to be sent; where it is more than `data` has, the memory behind is nowhere
        (EFAULT when it comes to that). Result: how many were taken."""
        raise NotImplementedError

    def recvmsg(
        self, handle: int, size: int, flags: int, control: int, nonblock: bool, done: Done
    ) -> Pending | None:
        """recvmsg(2) of up to `size` bytes, with room for `control` bytes of ancillary data. Result: a `Received`."""
        raise NotImplementedError

    def unreceive(self, handle: int) -> None:
        """The answer to the last `recvmsg` reached nobody: a datagram that it took is the next one again."""
        raise NotImplementedError
