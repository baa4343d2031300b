"""A standard `socket.socket` whose descriptor is a channel: what `use(stack, descriptors=True)` gives for streams.

To C code (ssl, select, os.sendfile, a child process) it is its descriptor, and that does what TCP does (posix/channel).
So everything that moves data is the standard class's own. What concerns the network (addresses, connections, options)
is asked of the stack, by a handle of the very same socket as `stack.socket()` gives.

`detach` leaves the descriptor alone in the world, and the socket lives until that is closed. So does a forked child's
copy, for as long as the process that has the stack lives; calls to the stack raise there.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket as _standard
from typing import Any, Final, Self, final

from usernet.core.errors import UnusableStackError
from usernet.posix.channel import Channel, channel_of, open_channel
from usernet.posix.channel.channel import Channels
from usernet.posix.current import current
from usernet.sock.msg import MSG_EOR, MSG_ERRQUEUE, MSG_FASTOPEN, MSG_MORE, MSG_OOB, MSG_ZEROCOPY
from usernet.sockets.arguments import c_int_alone
from usernet.sockets.base import SocketBase
from usernet.sockets.socket import Socket

_SENT_BY_CALL: Final = MSG_OOB | MSG_MORE | MSG_EOR | MSG_ZEROCOPY | MSG_FASTOPEN
"""Flags that a pair of UNIX sockets knows nothing of: the stack is asked to send."""

_SOL_SOCKET: Final = _socket.SOL_SOCKET
_OF_THE_PAIR: Final = frozenset({_socket.SO_RCVLOWAT, _socket.SO_OOBINLINE, getattr(_socket, "SO_PEEK_OFF", 42)})
"""Options of SOL_SOCKET that say how the application reads: the pair's, and not the socket's."""

_TIMEOUTS: Final = frozenset({_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO})
_recv: Final = _socket.socket.recv
_send: Final = _socket.socket.send


@final
class StackHandle(SocketBase):
    """The handle by which the stack is asked. Its descriptor is the other object's."""

    __slots__ = ()

    @classmethod
    def of(cls, socket: Socket, timeout: float | None) -> Self:
        """A handle of `socket`, whose reference passes on."""
        self = cls.__new__(cls)
        self._open(socket)
        self.settimeout(timeout)
        return self

    def __del__(self) -> None:
        socket: Socket | None = getattr(self, "_socket", None)
        if socket is not None:
            self._socket = self._sk = None
            socket.put_later()

    def describe(self) -> str:
        return self._describe()

    def opened(self) -> Socket | None:
        """The socket; None where the handle is closed."""
        return self._socket

    def accept_socket(self) -> tuple[Socket, Any]:
        return self._accept_socket()


class DescriptorSocket(_standard.socket):
    """socket(family, type, proto, fileno): a stream socket of the current stack, or one behind a channel's descriptor.

    Raises what the standard class raises.
    """

    _stack: StackHandle
    _channel: Channel

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
        if fileno is not None:
            channel = channel_of(fileno)
            if channel is None:
                raise OSError(9, "this is no descriptor of a stack's socket")
            loop = channel.loop
            loop.enter()
            try:
                channel.socket.get()
            finally:
                loop.leave()
            self._become(channel, channel.socket, int(fileno))
            return
        loop = current().net.loop
        loop.enter()
        try:
            socket = Socket.create(
                current().net,
                _socket.AF_INET if family == -1 else family,
                _socket.SOCK_STREAM if type == -1 else type,
                max(proto, 0),
            )
            try:
                channel = open_channel(socket)
            except BaseException:
                socket.put()
                raise
            socket.get()
        finally:
            loop.leave()
        nonblock = socket.nonblock
        self._become(channel, socket, channel.take_app(), max(proto, 0))
        if nonblock:
            self.settimeout(0.0)

    @classmethod
    def _of(cls, socket: Socket, channel: Channel) -> Self:
        """The object of a connection that was accepted; both references pass on."""
        self = cls.__new__(cls)
        self._become(channel, socket, channel.take_app())
        return self

    def _become(self, channel: Channel, socket: Socket, fd: int, proto: int = -1) -> None:
        super().__init__(socket.sk.family, socket.type, socket.protocol if proto < 0 else proto, fd)
        self._channel = channel
        self._stack = StackHandle.of(socket, self.gettimeout())
        reach_by(channel, fd)

    def _follow(self) -> None:
        """A call may have changed what the socket is: so does its channel."""
        channel = self._channel
        if channel.over:
            return
        loop = channel.loop
        loop.enter()
        try:
            channel.follow()
        finally:
            loop.leave()

    def __repr__(self) -> str:
        try:
            fd = self.fileno()
        except OSError:
            fd = -1
        closed = " [closed]" if getattr(self, "_closed", False) else ""
        stack = getattr(self, "_stack", None)
        about = f"fd={fd}, family={self.family!s}, type={self.type!s}, proto={self.proto}"
        return f"<usernet.socket.socket{closed} {about}{stack.describe() if stack is not None else ''}>"

    # -- the network's side

    def bind(self, address: Any, /) -> None:
        try:
            self._stack.bind(address)
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise
            # Of a descriptor that was closed just now the stack may not have heard yet.
            channel = self._channel
            channel.loop.enter()
            try:
                channel.socket.net.get(Channels).catch_up(address[1])
            finally:
                channel.loop.leave()
            self._stack.bind(address)

    def listen(self, backlog: int = 128, /) -> None:
        self._stack.listen(backlog)
        self._follow()

    def connect(self, address: Any, /) -> None:
        self._renew()
        try:
            self._stack.connect(address)
        finally:
            self._follow()

    def connect_ex(self, address: Any, /) -> int:
        self._renew()
        try:
            return self._stack.connect_ex(address)
        finally:
            self._follow()

    def accept(self) -> tuple[_standard.socket, Any]:
        socket, address = self._stack.accept_socket()
        loop = socket.loop
        loop.enter()
        try:
            self._channel.accepted()
            socket.nonblock = False
            try:
                channel = open_channel(socket)
            except BaseException:
                socket.put()
                raise
            socket.get()
        finally:
            loop.leave()
        made = DescriptorSocket._of(socket, channel)
        if _standard.getdefaulttimeout() is None and self.gettimeout():
            made.setblocking(True)
        return made, address

    def getsockname(self) -> Any:
        return self._stack.getsockname()

    def getpeername(self) -> Any:
        return self._stack.getpeername()

    def shutdown(self, how: int, /) -> None:
        socket = self._stack.opened()
        if socket is None:
            self._stack.shutdown(how)
            return
        loop = socket.loop
        loop.enter()
        try:
            self._channel.shutdown(c_int_alone(how))
        finally:
            loop.leave()

    def getsockopt(self, level: int, optname: int, buflen: Any = 0, /) -> Any:
        if level == _SOL_SOCKET and optname in _OF_THE_PAIR:
            return super().getsockopt(level, optname, buflen) if buflen else super().getsockopt(level, optname)
        return self._stack.getsockopt(level, optname, buflen)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: Any = None, /) -> None:
        args = (level, optname, value) if optlen is None else (level, optname, value, optlen)
        if level == _SOL_SOCKET:
            if optname in _OF_THE_PAIR:
                super().setsockopt(*args)
                return
            if optname in _TIMEOUTS:
                super().setsockopt(*args)
        self._stack.setsockopt(*args)
        if level == _SOL_SOCKET and isinstance(value, int):
            if optname == _socket.SO_SNDBUF and self._channel.ready:
                super().setsockopt(*args)
            elif optname == _socket.SO_RCVBUF and not self._channel.over:
                self._channel.limit_receive(max(value, 0))

    def ioctl(self, request: int, argument: Any = b"", /) -> Any:
        """ioctl(2) of the socket. See docs/sockets.md."""
        return self._stack.ioctl(request, argument)

    def settimeout(self, value: Any, /) -> None:
        super().settimeout(value)
        self._stack.settimeout(value)

    def setblocking(self, flag: Any, /) -> None:
        super().setblocking(flag)
        self._stack.setblocking(flag)

    # -- data: the descriptor's own calls, where there is a connection

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if self._channel.ready and not flags & MSG_ERRQUEUE:
            return _recv(self, bufsize, flags)
        return self._stack.recv(bufsize, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if self._channel.ready and not flags & MSG_ERRQUEUE:
            return super().recv_into(buffer, nbytes, flags)
        return self._stack.recv_into(buffer, nbytes, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        if self._channel.ready and not flags & MSG_ERRQUEUE:
            data, control, flags, _ = super().recvmsg(bufsize, ancbufsize, flags)
            return data, control, flags, None
        return self._stack.recvmsg(bufsize, ancbufsize, flags)

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        if self._channel.ready and not flags & MSG_ERRQUEUE:
            size, control, flags, _ = super().recvmsg_into(buffers, ancbufsize, flags)
            return size, control, flags, None
        return self._stack.recvmsg_into(buffers, ancbufsize, flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        if self._channel.ready and not flags & _SENT_BY_CALL:
            return _send(self, data, flags)
        self._drain()
        return self._stack.send(data, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        if self._channel.ready and not flags & _SENT_BY_CALL:
            super().sendall(data, flags)
            return
        self._drain()
        self._stack.sendall(data, flags)

    def sendto(self, data: Any, *args: Any) -> int:
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        flags = args[0] if len(args) == 2 else 0
        if self._channel.ready and not flags & _SENT_BY_CALL:
            return _send(self, data, flags)
        self._drain()
        return self._stack.sendto(data, *args)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        ancdata = list(ancdata)
        if self._channel.ready and not flags & _SENT_BY_CALL and not ancdata and address is None:
            return super().sendmsg(buffers, (), flags)
        self._drain()
        return self._stack.sendmsg(buffers, ancdata, flags, address)

    def _drain(self) -> None:
        """A call that sends comes behind what was written to the descriptor. Raises BlockingIOError, TimeoutError."""
        channel = self._channel
        socket = self._stack.opened()
        if channel.over or not channel.ready or socket is None:
            return
        loop = channel.loop
        timeout = self.gettimeout()
        now = loop.enter()
        try:
            call = channel.drain(None if timeout is None else now + int(timeout * 1e9))
            if call is not None:
                socket.block(call)
        finally:
            loop.leave()

    # -- the descriptor

    def dup(self) -> Self:
        socket = self._stack.opened()
        if socket is None:
            raise OSError(9, os.strerror(9))
        fd = _socket.dup(self.fileno())
        made = type(self).__new__(type(self))
        loop = socket.loop
        loop.enter()
        try:
            socket.get()
        finally:
            loop.leave()
        made._become(self._channel, socket, fd)
        made.settimeout(self.gettimeout())
        return made

    def detach(self) -> int:
        fd = super().detach()
        if fd >= 0:
            self._stack.close()
        return fd

    def _real_close(self, _ss: Any = _socket.socket) -> None:
        super()._real_close(_ss)  # type: ignore[misc]
        channel = self._channel
        if not channel.over:
            loop = channel.loop
            try:
                loop.enter()
            except UnusableStackError:
                pass  # its end has closed the channel
            else:
                try:
                    channel.look()
                finally:
                    loop.leave()
        # The last to let go waits where SO_LINGER says so.
        self._stack.close()

    def _renew(self) -> None:
        """A connection that failed has used its pair up: put another one in its place, under the same number."""
        socket = self._stack.opened()
        if not self._channel.over or self._channel.ready or socket is None:
            return
        loop = socket.loop
        loop.enter()
        try:
            socket.get()
            try:
                channel = open_channel(socket)
            except BaseException:
                socket.put()
                raise
        finally:
            loop.leave()
        fd = self.fileno()
        os.dup2(channel.fd_app, fd, os.get_inheritable(fd))
        channel.release_app()
        self._channel = channel
        reach_by(channel, fd)


@final
class Reach:
    """Finds the application's end of a channel among the descriptors of this process that were it."""

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.fds: list[int] = []

    def __call__(self) -> int:
        for fd in tuple(self.fds):
            try:
                if os.fstat(fd).st_ino == self.inode:
                    return os.dup(fd)
            except OSError:
                pass
            self.fds.remove(fd)  # it was closed
        return -1


def reach_by(channel: Channel, fd: int) -> None:
    """`fd` is the application's end of `channel`, too."""
    if channel.over:
        return
    reach = channel.reach
    if not isinstance(reach, Reach):
        reach = channel.reach = Reach(channel.inode)
    reach.fds.append(fd)
