"""The system calls of one client on the sockets of a stack, each with a real descriptor and with no thread of its own.

What interface.py asks for, carried out here: below the service (a session of a client is one `Calls`) and below the
supervisor of a command whose stack is in the same process. A call is a plain attempt under the stack's lock; where it
has to wait it is a `Deferred` (core/deferred.py), and its answer comes when it is done. Nothing that is asked for under
the lock touches a client's memory: that was read before, and is written afterwards.

A socket is held by its channel, and by the table here, so that it can be asked for SO_ERROR after its channel has ended
with the connection. It goes when the application has closed its end. A channel that is over does not hear of that, so
those are asked about (sweep.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

from usernet.core.deferred import Deferred, Done
from usernet.core.errors import UnusableStackError, error
from usernet.core.loop import Loop
from usernet.core.native import mypyc_attr
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, Blocking, Wait
from usernet.net.pernet import Net
from usernet.netd.interface import Backend, Opened, Pending, Reach, Received
from usernet.netd.layouts import AF_UNSPEC, NO_ADDRESS, family_of, short, unpack_name
from usernet.netd.opensocket import Later, OpenSocket, Waiting
from usernet.netd.ring import RingMemory, ring_changed, ring_descriptor
from usernet.netd.sweep import Sweep
from usernet.netd.transfer import receive, send
from usernet.posix.channel import Channel, DatagramChannel, StreamChannel, open_channel
from usernet.posix.channel.channel import Channels
from usernet.sock.inet import InetSock
from usernet.sock.msg import SockAddr
from usernet.sock.optval import pack_name
from usernet.sock.sock import Sock
from usernet.sock.sockopt import (
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SO_SNDBUFFORCE,
    SO_SNDTIMEO,
    SOL_SOCKET,
)
from usernet.sockets.ifreq import interface_ioctl, is_interface_request
from usernet.sockets.packet import PacketSock
from usernet.sockets.packet_sockopt import PACKET_RX_RING, SOL_PACKET
from usernet.sockets.socket import SOCK_CLOEXEC, SOCK_NONBLOCK, Socket

SOL_TCP: Final = 6
SIOCOUTQ: Final = 0x5411
SIOCOUTQNSD: Final = 0x894B


@mypyc_attr(allow_interpreted_subclasses=True)
class Calls(Backend):
    """The sockets of one client, and its calls. Without the stack's lock held."""

    def __init__(
        self, net: Net, admit: Callable[[], None] | None = None, room: Callable[[int, int], None] | None = None
    ) -> None:
        """Asked under the lock, to raise OSError where there is to be no more: admit, before each new socket (ENFILE,
        ENOBUFS); room, before a ring, of which socket and how many bytes (ENOMEM)."""
        self.net = net
        self.loop: Loop = net.loop
        self.table: dict[int, OpenSocket] = {}
        self.closed: Callable[[int], None] | None = None
        self._admit = admit
        self._room = room
        self._serial = 0
        self._sweep = Sweep(net.loop)

    # -- how a call runs

    def _run(self, work: Callable[[], Any], done: Done) -> Pending | None:
        """Do it under the stack's lock, and answer; a `Waiting` that it returns is answered later."""
        loop = self.loop
        result: Any = None
        problem: BaseException | None = None
        try:
            loop.enter()
        except UnusableStackError as ended:
            done(None, ended)
            return None
        try:
            result = work()
            if isinstance(result, Waiting):
                return result
        except (OSError, UnusableStackError) as failed:
            problem = failed
        finally:
            loop.leave()
        done(result, problem)
        return None

    def _call(self, handle: int, work: Callable[[OpenSocket], Any], done: Done) -> Pending | None:
        """The same on a socket; a `Later` that `work` returns is waited for."""

        def attempt() -> Any:
            opened = self.table.get(handle)
            if opened is None:
                raise error(errno.EBADF)
            result = work(opened)
            return self._wait(opened, result, done) if type(result) is Later else result

        return self._run(attempt, done)

    def _wait(self, opened: OpenSocket, later: Later, done: Done) -> Waiting:
        waiting = Waiting(self.cancel, done)
        opened.pending.add(waiting)
        waiting.deferred = Deferred(self.loop, _until_over(opened, waiting, later.call), done)
        return waiting

    def cancel(self, waiting: Waiting) -> bool:
        """See `Pending.cancel`."""
        loop = self.loop
        try:
            loop.enter()
        except UnusableStackError:
            return False
        try:
            deferred = waiting.deferred
            if deferred is None or deferred.over:
                return False
            deferred.cancel()
            return True
        finally:
            loop.leave()

    # -- sockets that come

    def socket(self, family: int, kind: int, protocol: int, done: Done) -> Pending | None:
        def work() -> Opened:
            if self._admit is not None:
                self._admit()
            socket = Socket.create(self.net, family, kind, protocol)
            try:
                return self._open(socket, None, b"")
            except BaseException:
                socket.put()
                raise

        return self._run(work, done)

    def _open(self, socket: Socket, listener: OpenSocket | None, name: bytes) -> Opened:
        """Give it a channel, and a place in the table."""
        channel = open_channel(socket)
        channel.held = True
        if listener is not None:
            _inherit(channel)
        socket.get()
        self._serial += 1
        opened = OpenSocket(self._serial, socket, channel, listener)
        self.table[opened.handle] = opened
        channel.ended = partial(self._ended, opened)
        if isinstance(socket.sk, PacketSock):
            socket.sk.memory = partial(self._ring_memory, opened)
        return _prepared(opened, channel, name)

    def accept(self, handle: int, flags: int, nonblock: bool, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> Opened | Later:
            if flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
                raise error(errno.EINVAL)
            if self._admit is not None:
                self._admit()
            socket = opened.socket
            socket.nonblock = nonblock
            accepted = socket.accept()
            if isinstance(accepted, Sock):
                return self._take(opened, accepted, flags)
            return Later(self._accept_later(opened, accepted, flags))

        return self._call(handle, work, done)

    def _accept_later(self, opened: OpenSocket, accepted: Blocking[Sock], flags: int) -> Blocking[Opened]:
        return self._take(opened, (yield from accepted), flags)

    def _take(self, listener: OpenSocket, sk: Sock, flags: int) -> Opened:
        """Prepare a connection that was taken from the queue."""
        socket = listener.socket.adopt(sk)
        socket.nonblock = bool(flags & SOCK_NONBLOCK)
        name = pack_name(SockAddr(sk.family, sk.daddr, sk.dport)) if isinstance(sk, InetSock) else b""
        try:
            if self._admit is not None:
                self._admit()
            opened = self._open(socket, listener, name)
        except BaseException:
            listener.socket.unaccept(sk)
            raise
        listener.channel.accepted()
        return opened

    def renew(self, handle: int, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> Opened | None:
            if not opened.channel.over or opened.renewed is not None:
                return None
            socket = opened.socket
            socket.get()
            try:
                channel = open_channel(socket)
            except BaseException:
                socket.put()
                raise
            channel.held = True
            opened.renewed = channel
            return _prepared(opened, channel, b"")

        return self._call(handle, work, done)

    def commit(self, handle: int, reach: Reach) -> None:
        def work(opened: OpenSocket) -> None:
            opened.listener = None
            if opened.renewed is not None:
                self._sweep.discard(opened.channel.inode)
                opened.channel, opened.renewed = opened.renewed, None
                opened.channel.ended = partial(self._ended, opened)
            opened.channel.reach = reach
            opened.channel.start()

        self._call(handle, work, _ignore)

    def give_back(self, handle: int) -> None:
        def work(opened: OpenSocket) -> None:
            if opened.renewed is not None:
                channel, opened.renewed = opened.renewed, None
                # Where the program has closed its end by now, the channel may have heard of it, and is over.
                if not channel.over:
                    channel.give_back().put()
                return
            listener = opened.listener
            if listener is None or opened.channel.over:
                self._drop(opened)
                return
            self._forget(opened)
            listener.socket.unaccept(opened.channel.give_back().sk)

        self._call(handle, work, _ignore)

    # -- sockets that go

    def _ended(self, opened: OpenSocket, gone: bool) -> None:
        """Its channel is over. gone: the application has closed its end."""
        if gone or opened.listener is not None:
            self._drop(opened)
        else:
            self._sweep.add(opened.channel.inode, partial(self._drop, opened))

    def _drop(self, opened: OpenSocket) -> None:
        """The application has let go of it."""
        if self.table.get(opened.handle) is not opened:
            return
        self._forget(opened)
        channel = opened.channel
        channel.ended = None
        if not channel.over:
            channel.abort()
        renewed, opened.renewed = opened.renewed, None
        if renewed is not None:
            renewed.abort()
        lingering = opened.socket.put()
        if lingering is not None:
            lingering.close()  # nobody is there to wait

    def _forget(self, opened: OpenSocket) -> None:
        """Take it out of the table; calls on it end with EBADF."""
        self.table.pop(opened.handle, None)
        self._sweep.discard(opened.channel.inode)
        if opened.ring is not None:
            opened.ring.close()
        for waiting in tuple(opened.pending):
            deferred = waiting.deferred
            if deferred is not None and not deferred.over:
                deferred.cancel()
                self.loop.after(partial(waiting.done, None, error(errno.EBADF)))
        closed = self.closed
        if closed is not None:
            self.loop.after(partial(closed, opened.handle))

    def close(self) -> None:
        loop = self.loop
        try:
            loop.enter()
        except UnusableStackError:
            return  # its end has closed the channels
        try:
            self.closed = None
            for opened in tuple(self.table.values()):
                self._drop(opened)
            self._sweep.close()
        finally:
            loop.leave()

    # -- calls on a socket

    def _catch_up(self, opened: OpenSocket) -> None:
        """See `Loop.catch_up`. Raises OSError EBADF where this very socket has ended by it: it would keep its port."""
        # A thread that leads may have been told of its end, and not have acted on it yet: nobody else is told of it.
        opened.channel.look()
        self.loop.catch_up()
        if self.table.get(opened.handle) is not opened:
            raise error(errno.EBADF)

    def bind(self, handle: int, name: bytes, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> int:
            self._catch_up(opened)
            sk = opened.socket.sk
            address = unpack_name(sk, short(name))
            try:
                sk.bind(address)
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE or not isinstance(address, SockAddr):
                    raise
                self.net.get(Channels).catch_up(address.port)
                sk.bind(address)
            opened.channel.follow()
            return 0

        return self._call(handle, work, done)

    def listen(self, handle: int, backlog: int, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> int:
            channel = opened.unspent()
            # Linux takes it as unsigned.
            opened.socket.sk.listen(backlog if backlog >= 0 else opened.socket.sk.settings.somaxconn)
            channel.follow()
            return 0

        return self._call(handle, work, done)

    def connect(self, handle: int, name: bytes, nonblock: bool, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> int | Later:
            socket = opened.socket
            to = NO_ADDRESS if family_of(short(name)) == AF_UNSPEC else unpack_name(socket.sk, name)
            channel = opened.unspent()
            socket.nonblock = nonblock
            self._catch_up(opened)
            try:
                waiting = socket.connect(to)
            finally:
                channel.follow()
            return 0 if waiting is None else Later(_connect_later(opened, waiting))

        return self._call(handle, work, done)

    def getsockname(self, handle: int, done: Done) -> Pending | None:
        return self._call(handle, lambda opened: pack_name(opened.socket.sk.getsockname()), done)

    def getpeername(self, handle: int, done: Done) -> Pending | None:
        return self._call(handle, lambda opened: pack_name(opened.socket.sk.getpeername()), done)

    def shutdown(self, handle: int, how: int, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> int:
            if not 0 <= how <= 2:
                raise error(errno.EINVAL)
            channel = opened.channel
            if channel.over:
                opened.socket.sk.shutdown(how)
            else:
                channel.shutdown(how)
            return 0

        return self._call(handle, work, done)

    def getsockopt(
        self, handle: int, level: int, option: int, length: int, value: bytes | None, done: Done
    ) -> Pending | None:
        def work(opened: OpenSocket) -> bytes:
            sk = opened.socket.sk
            if length < 0:
                raise error(errno.EINVAL)
            if value is not None:
                return sk.getsockopt_from(level, option, value)
            return sk.getsockopt(level, option, length)

        return self._call(handle, work, done)

    def setsockopt(self, handle: int, level: int, option: int, value: bytes, done: Done) -> Pending | None:
        def work(opened: OpenSocket) -> int:
            channel = opened.channel
            if level == SOL_TCP and not channel.over:
                channel.drain(self.loop.now)  # what was written before it (TCP_CORK), as far as there is room
            opened.socket.sk.setsockopt(level, option, value)
            if level == SOL_PACKET and option == PACKET_RX_RING:
                ring_changed(opened)
            if level == SOL_SOCKET and not channel.over and len(value) >= 4:
                size = int.from_bytes(value[:4], "little", signed=True)
                if option in (SO_SNDBUF, SO_SNDBUFFORCE):
                    channel.limit_send(max(size, 0))
                elif option in (SO_RCVBUF, SO_RCVBUFFORCE):
                    channel.limit_receive(max(size, 0))
            return 0

        return self._call(handle, work, done)

    def _ring_memory(self, opened: OpenSocket, size: int) -> memoryview:
        if self._room is not None:
            self._room(opened.handle, size)
        opened.ring = RingMemory(size)
        return opened.ring.view

    def ring(self, handle: int, size: int, done: Done) -> Pending | None:
        return self._call(handle, lambda opened: ring_descriptor(opened, size), done)

    def ioctl(self, handle: int, request: int, argument: bytes, done: Done) -> Pending | None:
        if not handle:
            # On a socket that is none of the stack's.
            return self._run(lambda: interface_ioctl(self.net, AF_UNSPEC, request, argument), done)

        def work(opened: OpenSocket) -> bytes:
            channel = opened.channel
            if is_interface_request(request):
                return interface_ioctl(self.net, opened.socket.sk.family, request, argument)
            if request in (SIOCOUTQ, SIOCOUTQNSD) and not channel.over:
                channel.drain(self.loop.now)
            return (opened.socket.sk.ioctl(request) & 0xFFFFFFFF).to_bytes(4, "little")

        return self._call(handle, work, done)

    # -- data

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
        def work(opened: OpenSocket) -> int | Later:
            opened.socket.nonblock = nonblock
            return send(opened, data, size, flags, name, control)

        return self._call(handle, work, done)

    def recvmsg(
        self, handle: int, size: int, flags: int, control: int, nonblock: bool, done: Done
    ) -> Pending | None:
        def work(opened: OpenSocket) -> Received | Later:
            opened.socket.nonblock = nonblock
            return receive(opened, size, flags, control)

        return self._call(handle, work, done)

    def unreceive(self, handle: int) -> None:
        def work(opened: OpenSocket) -> None:
            taken, opened.taken = opened.taken, None
            if taken is not None and isinstance(opened.channel, DatagramChannel):
                opened.channel.put_back(*taken)
                opened.socket.sk.wait.wake(EPOLLIN)  # for another call that waits

        self._call(handle, work, _ignore)


def _ignore(result: object, problem: BaseException | None) -> None:
    """Nobody waits for the answer; one who is asked of a socket that is gone meanwhile has nothing to do."""


def _inherit(channel: Channel) -> None:
    """The time-outs that a connection has from its listener are its descriptor's, too."""
    sk = channel.socket.sk
    for option, timeout in ((SO_RCVTIMEO, sk.rcvtimeo), (SO_SNDTIMEO, sk.sndtimeo)):
        if timeout < NEVER:
            value = sk.getsockopt(SOL_SOCKET, option, 16)
            channel.at_app(lambda app, option=option, value=value: app.setsockopt(SOL_SOCKET, option, value))  # type: ignore[misc]


def _prepared(opened: OpenSocket, channel: Channel, name: bytes) -> Opened:
    stream = isinstance(channel, StreamChannel)
    return Opened(opened.handle, channel.take_app(), channel.inode, opened.socket.sk.family, stream, name)


def _until_over(opened: OpenSocket, waiting: Waiting, call: Generator[Wait, None, Any]) -> Blocking[Any]:
    try:
        return (yield from call)
    finally:
        opened.pending.discard(waiting)


def _connect_later(opened: OpenSocket, waiting: Blocking[None]) -> Blocking[int]:
    yield from waiting
    if not opened.channel.over:
        opened.channel.connected()
    return 0
