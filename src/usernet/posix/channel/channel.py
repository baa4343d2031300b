"""What all channels share: the pair, who watches it, and its end.

A channel is a pair of UNIX sockets. The application has one end (`fd_app`), and does with it what it does with any
file. The stack has the other, which is watched as a device's descriptor is: an event of it schedules `poll` in the
softirq of the stack, and so does an event of the socket. There the bytes are moved, with the stack's lock held, without
ever waiting; nobody else touches the stack's end.

The application's end is known only by its close, so nobody keeps a duplicate of it: whoever hands it over calls
`release_app`. What must be done at that end later (to make it writable, to take a mark out of it) is done by `reach`,
which whoever handed it over sets: it gives a new duplicate for a moment, by dup(2), or by pidfd_getfd(2) from another
process.

A channel holds its `Socket`, and lets go of it when the application's end is closed by the last who has it, or when the
connection has failed, for then its end of the pair is closed too, and it hears of nothing more. Who wants to ask the
socket afterwards, for SO_ERROR, holds it too.
"""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SO_SNDBUF, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket, socketpair
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import UnusableStackError
from usernet.core.softirq import Napi
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, Blocking, Waiter
from usernet.net.pernet import Net
from usernet.posix.channel.peer import is_open
from usernet.posix.channel.single import Singles
from usernet.sock.inet import InetSock
from usernet.sockets.socket import Socket

PAIR_BUFFER: Final = 1 << 19
"""Bytes that each way of a pair is asked to hold. The kernel counts double, for the overhead, so it is 1 MiB."""

LEAST_SEND: Final = 1 << 18
"""Bytes that the application's end is asked to hold at least. The byte that always stays unread (stream.py) holds on to
the packet that it came in, 70 KiB where sendfile(2) made it; a UNIX socket is writable while a quarter of its buffer is
in use at most."""

SO_SNDBUFFORCE: Final = 32
"""Linux: include/uapi/asm-generic/socket.h. Beyond net.core.wmem_max, for those who may."""

INTEREST: Final = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
"""The socket's events that every channel wants to hear of; EPOLLOUT only while it has something to send."""


@final
class Channels:
    """The channels of one stack. Its end resets them all."""

    def __init__(self, net: Net) -> None:
        self.channels: set[Channel] = set()
        self._net = net
        self._scratch: memoryview | None = None

    def scratch(self, size: int) -> memoryview:
        """Memory of `size` bytes to read into, for a moment under the lock: `recv` would have to get as much each time
        as there could be."""
        if self._scratch is None:
            self._scratch = memoryview(bytearray(size))
        return self._scratch

    def catch_up(self, port: int) -> None:
        """The close of a descriptor whose socket has that local port has freed it by now, though it may have been told
        to a thread that has not come to act on it yet: nobody else is told. With the lock held."""
        for channel in tuple(self.channels):
            sk = channel.socket.sk
            if isinstance(sk, InetSock) and sk.num == port:
                channel.look()
        self._net.loop.softirq.run()

    def close(self) -> None:
        for channel in tuple(self.channels):
            channel.abort()


@final
class _SocketWaiter(Waiter):
    """Has the channel polled when something happens to its socket."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(INTEREST)
        self._channel = channel

    def wake(self, mask: int) -> bool:
        self._channel.loop.softirq.schedule(self._channel)
        return False


class Channel(Napi):
    """A socket's channel. All is called with the stack's lock held, but for `interrupt`.

    fd_app: the application's end, -1 once it was released. inode: by which that end is recognised in any process.
    ready: data goes through it. reach: gives a duplicate of that end, to be closed by who asked; -1 where there is
    none. held: nothing is moved before `start`. single: that end stands alone yet (single.py). over: the stack's end is
    closed; then `ended` was called, with whether it was the application who closed its end first.
    """

    def __init__(self, opened: Socket, kind: int, quiet: bool = False, single: bool = False) -> None:
        """quiet: nothing is to be read from the application yet; `_listen_to_app` ends that. single: begin with an
        application's end that stands alone; `_join` ends that."""
        super().__init__()
        loop = opened.loop
        trampoline = loop.trampoline
        if trampoline is None:
            raise UnusableStackError("a descriptor of a socket needs a stack that is driven: start it (`with stack:`)")
        self.single: bool = False
        self._watch: int = -1
        """Of an end that stands alone, or did at first: by what number its close is told (single.py)."""
        self._gone: bool = False
        """It was told."""
        self._quiet: bool = quiet
        self._own_fd: int = -1
        app = self._alone(opened) if single else None
        if app is None:
            app, self._own = socketpair(AF_UNIX, kind | SOCK_NONBLOCK)
            self._own_fd = self._own.fileno()
        self.socket: Socket = opened
        self.loop = loop
        self.reach: Callable[[], int] | None = None
        self.ended: Callable[[bool], None] | None = None
        self.over: bool = False
        self.held: bool = False
        self.ready: bool = False
        self.fd_app: int = app.fileno()
        self.inode: int = os.fstat(self.fd_app).st_ino
        self._kind: int = kind
        self._receive_limit: int = PAIR_BUFFER
        self._waiter = _SocketWaiter(self)
        self._shut: int = 0
        """1, 2: the application has shut down receiving, sending, by way of `shutdown`."""
        self._sent_eof: bool = False
        """The application was shown that nothing more comes."""
        # What epoll told. One who clears a flag looks at the descriptor afterwards, so that nothing is missed.
        self._readable: bool = False
        self._marked_byte: bool = False
        """Among what is readable is a byte that was sent with MSG_OOB; each event says so until it was read."""
        self._told: bool = False
        self._writable: bool = True
        self._eof: bool = False
        self._hung: bool = False
        self._failed: bool = False
        self._wants_out: bool = False
        try:
            if not opened.nonblock:
                app.setblocking(True)
            if not self.single:
                self._prepare(app)
                trampoline.watch(self._own_fd, loop, self, edge=True, quiet=quiet)
        except BaseException:
            if not self.single:
                self._own.close()
            app.close()
            raise
        app.detach()
        opened.sk.ino = self.inode
        if self.single:
            SINGLES.add(self)
        else:
            OWN_ENDS[self._own_fd] = self
        BY_INODE[self.inode] = self
        opened.net.get(Channels).channels.add(self)
        opened.wait_queue().add(self._waiter)

    def _alone(self, opened: Socket) -> socket | None:
        """An end that stands alone; None where its close could not be told."""
        app = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        try:
            self._watch = opened.net.get(Singles).add(app.fileno(), os.fstat(app.fileno()).st_ino, self._closed)
        except OSError:
            app.close()
            return None
        self.single = True
        return app

    def _closed(self) -> None:
        """The last who had the end that stands alone, or did at first, is closing it."""
        self._gone = True
        if self.single:
            self._hung = True
            self._end()
        else:
            # The pair tells of it too, now or in a moment, and of how it was closed.
            self.loop.softirq.schedule(self)

    def _join(self) -> bool:
        """Make the application's end, which stood alone, one of a pair. False where it is out of reach."""
        if not self.single:
            return True
        trampoline = self.loop.trampoline
        if trampoline is None or not self.at_app(self._connect):
            return False
        self.single = self._quiet = False
        SINGLES.discard(self)
        self._own_fd = self._own.fileno()
        OWN_ENDS[self._own_fd] = self
        trampoline.watch(self._own_fd, self.loop, self, edge=True)
        return True

    def _connect(self, app: socket) -> None:
        self._own = self.socket.net.get(Singles).join(app)
        self._prepare(app)

    def _prepare(self, app: socket) -> None:
        """What is to be so at the ends before anyone watches them."""

    # -- the application's end

    def release_app(self) -> None:
        """The application's end was handed over: close this copy of it. Does nothing the second time."""
        fd = self.fd_app
        if fd >= 0:
            self.fd_app = -1
            os.close(fd)

    def take_app(self) -> int:
        """As `release_app` for one who keeps this very copy: the descriptor, which is theirs to close."""
        fd = self.fd_app
        self.fd_app = -1
        return fd

    def at_app(self, action: Callable[[socket], object]) -> bool:
        """Do something at the application's end. False where it is out of reach."""
        fd = -1
        if self.fd_app >= 0:
            fd = os.dup(self.fd_app)
        elif self.reach is not None:
            fd = self.reach()
        if fd < 0:
            return False
        app = socket(AF_UNIX, self._kind, 0, fd)
        try:
            action(app)
        finally:
            app.close()
        return True

    # -- what whoever makes calls on the socket tells

    def connecting(self) -> None:
        """A connection is under way."""

    def connected(self) -> None:
        """The socket is connected, or, of datagrams, has a peer."""

    def listening(self) -> None:
        """The socket accepts connections."""

    def accepted(self) -> None:
        """A connection was taken off the socket's queue."""

    def shutdown(self, how: int) -> None:
        """shutdown(2), which the application asked for by a call. Raises OSError ENOTCONN, EINVAL."""
        self.socket.sk.shutdown(how)

    def within_reach(self) -> None:
        """The application's end is in reach for a moment, and has not been before: do what had to wait for that."""

    def follow(self) -> None:
        """A call was made that may have changed what the socket is: find out."""

    def drain(self, deadline: int | None) -> Blocking[None] | None:
        """Wait until the socket has all that the application has written: before a call that sends. None where it has.

        deadline: ns, None to wait without end. Raises OSError EAGAIN when it has passed.
        """
        return None

    def limit_send(self, size: int) -> None:
        """SO_SNDBUF was set to `size`: hold no more than that of what the application writes."""
        if self.ready:
            self.at_app(lambda app: set_send_buffer(app, max(size, LEAST_SEND)))

    def limit_receive(self, size: int) -> None:
        """SO_RCVBUF was set to `size`: hold no more than that for the application to read."""
        self._receive_limit = size
        if not self.single:
            set_send_buffer(self._own, size)

    # -- events

    def interrupt(self, mask: int) -> None:
        if mask & EPOLLIN:
            self._readable = True
        if mask & EPOLLOUT:
            self._writable = True
        if mask & (EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP):
            if mask & EPOLLPRI:
                self._marked_byte = True
            if mask & (EPOLLRDHUP | EPOLLERR | EPOLLHUP):
                self._told = True

    def look(self) -> None:
        """Act on what this thread did to the application's end, which epoll may not have told of yet."""
        if not self.over:
            if self._watch >= 0:
                self.loop.softirq.schedule(self.socket.net.get(Singles))
            self._readable = self._told = True
            self.loop.softirq.schedule(self)

    def _ask(self) -> None:
        """Epoll told of an end. It may have been that of another descriptor, closed meanwhile, whose number this one
        has now: so the descriptor itself is asked."""
        self._told = False
        poller = select.poll()
        poller.register(self._own_fd, EPOLLRDHUP)
        for _, mask in poller.poll(0):
            if mask & EPOLLRDHUP:
                self._eof = True
            if mask & EPOLLERR:
                self._failed = True
            if mask & EPOLLHUP:
                self._hung = self._writable = True

    def _want_out(self, wanted: bool) -> None:
        """Whether to be told when the application has made room. An edge for each of its reads would else come."""
        if wanted != self._wants_out:
            self._wants_out = wanted
            trampoline = self.loop.trampoline
            if trampoline is not None:
                trampoline.watch_writable(self._own_fd, wanted)

    def _listen_to_app(self) -> None:
        """Be told from now on of what the application writes."""
        trampoline = self.loop.trampoline
        if self._quiet and trampoline is not None:
            self._quiet = False
            trampoline.watch_writable(self._own_fd, self._wants_out)

    def _app_gone(self) -> bool:
        """Whether the application's end is closed. An end that was shut down both ways hangs up as well."""
        if not self._hung:
            return False
        if self._failed:
            return True
        if self._watch >= 0:
            return self._gone
        if not (self._shut or self._sent_eof):
            return True
        try:
            gone = not is_open(self.inode)
        except OSError:
            return True  # the two are alike on the wire
        # Closing it is another edge.
        self._hung = gone
        return gone

    # -- the start and the end

    def start(self) -> None:
        """The end of `held`."""
        if self.held:
            self.held = False
            if not self.over:
                self._readable = self._told = True
                self.loop.softirq.schedule(self)

    def give_back(self) -> Socket:
        """End a channel that was held from its start, and so has moved nothing. Its socket, with its reference, goes
        to the caller."""
        socket = self.socket
        self.ended = None
        self._let_go()
        return socket

    def abort(self) -> None:
        """Close the stack's end, so that the application sees a reset, and let go of the socket."""
        self._end()

    def _end(self) -> None:
        if self.over:
            return
        ended = self.ended
        self.ended = None
        gone = self._app_gone()
        socket = self.socket
        self._let_go()
        lingering = socket.put()
        if lingering is not None:
            lingering.close()  # nobody is there to wait
        if ended is not None:
            ended(gone)

    def _let_go(self) -> None:
        """Close the pair, and leave all tables."""
        self.over = True
        socket = self.socket
        socket.wait_queue().remove(self._waiter)
        if self._watch >= 0:
            socket.net.get(Singles).discard(self._watch)
        if self.single:
            SINGLES.discard(self)
        else:
            trampoline = self.loop.trampoline
            if trampoline is not None:
                trampoline.unwatch(self._own_fd)
            OWN_ENDS.pop(self._own_fd, None)
            self._own.close()
        if BY_INODE.get(self.inode) is self:
            del BY_INODE[self.inode]
        socket.net.get(Channels).channels.discard(self)
        self.release_app()
        self.reach = None


def set_send_buffer(end: socket, size: int) -> None:
    """Have `end` hold up to `size` bytes, twice that with the overhead."""
    try:
        end.setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, size)
    except PermissionError:
        end.setsockopt(SOL_SOCKET, SO_SNDBUF, size)


OWN_ENDS: Final[dict[int, Channel]] = {}
"""The stack's end of every channel of this process. Descriptors are the process's, so the table is too."""

SINGLES: Final[set[Channel]] = set()
"""Every channel of this process whose application's end stands alone."""

BY_INODE: Final[dict[int, Channel]] = {}
"""Whose an application's end is."""


def channel_of(fd: int) -> Channel | None:
    """The channel whose application's end `fd` of this process is; None where it is none, or its channel is over."""
    try:
        return BY_INODE.get(os.fstat(fd).st_ino)
    except OSError:
        return None


def app_open(inode: int) -> bool:
    """Whether anyone still has the application's end with this inode. A channel that is over does not hear of it."""
    return is_open(inode)


def _after_fork_in_child() -> None:
    """The child keeps its copies of the application's ends; the stack's ends are the parent's, and as long as the
    child had copies of them nothing that the parent closes would be closed."""
    for channel in OWN_ENDS.values():
        channel.over = True
        channel._own.close()
        channel.release_app()
    for channel in SINGLES:
        channel.over = True
        channel.release_app()
    OWN_ENDS.clear()
    SINGLES.clear()
    BY_INODE.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
