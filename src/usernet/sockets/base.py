"""A socket as Python programs use it: what the standard `_socket.socket` is to `socket.socket`.

Every call checks its arguments as the standard module does, enters the stack and attempts; only one that has to wait
is run as a generator (core/wait.py). The time-out is the object's (`settimeout`) and comes before the socket's own
(SO_RCVTIMEO, SO_SNDTIMEO), which hold while the object has none.

`SocketBase` has slots and no weak references, so that the standard library's own socket class can stand on it.
"""

from __future__ import annotations

import errno
import sys
import warnings
from _socket import getdefaulttimeout
from typing import Any, Final

from usernet.core.errors import error
from usernet.core.iov import CollectIter
from usernet.core.loop import Loop
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLOUT, Blocking, Wait
from usernet.net.pernet import Net
from usernet.sock.msg import MSG_CTRUNC, MSG_DONTWAIT, MSG_WAITALL, MsgHdr
from usernet.sock.sock import O_NONBLOCK, Sock
from usernet.sockets import arguments
from usernet.sockets.address import format_address, parse_address
from usernet.sockets.arguments import c_int
from usernet.sockets.readiness import Readiness
from usernet.sockets.socket import SOCK_NONBLOCK, Socket

LISTEN_BACKLOG: Final = 128
"""The backlog where listen() is given none: min(SOMAXCONN, 128)."""


def _timed_out() -> TimeoutError:
    return TimeoutError("timed out")


class SocketBase:
    """One program's handle of a `Socket`. `close` lets go of it; the last handle's does close the socket."""

    __slots__ = ("_family", "_fd", "_loop", "_net", "_proto", "_sk", "_socket", "_timeout", "_type")

    _socket: Socket | None
    _sk: Sock | None

    def _open(self, socket: Socket, timeout: int | None = None) -> None:
        """Become a handle of `socket`, whose reference passes on. timeout: ns, -1 for none, None for the default."""
        if timeout is None:
            timeout = 0 if socket.nonblock else arguments.timeout_ns(getdefaulttimeout())
        sk = socket.sk
        self._net: Net = socket.net
        self._loop: Loop = socket.loop
        self._fd: int = -1
        self._family: int = sk.family
        self._type: int = socket.type
        self._proto: int = socket.protocol
        self._timeout: int = timeout
        self._sk = sk
        self._socket = socket
        if timeout >= 0:
            socket.nonblock = True

    def _create(self, net: Net, family: Any, kind: Any, proto: Any) -> None:
        """Become the handle of a new socket of `net`. Raises TypeError, OverflowError, OSError."""
        numbers = [_c_int_argument(value) for value in (family, kind, proto)]
        loop = net.loop
        loop.enter()
        try:
            socket = Socket.create(net, *numbers)
        finally:
            loop.leave()
        self._open(socket)

    def _absent(self, call: str, *args: Any) -> Any:
        """There is no socket of a stack behind this object. Subclasses may have another one."""
        raise error(errno.EBADF)

    def __del__(self) -> None:
        socket: Socket | None = getattr(self, "_socket", None)
        if socket is None:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:
            self._socket = self._sk = None
            socket.put_later(self._fd)

    # -- what it is

    @property
    def family(self) -> int:
        return self._family

    @property
    def type(self) -> int:
        return self._type

    @property
    def proto(self) -> int:
        return self._proto

    @property
    def timeout(self) -> float | None:
        return self.gettimeout()

    def _describe(self) -> str:
        """Its addresses, for people. Takes no lock: it may be asked for from inside the stack."""
        sk = self._sk
        if sk is None:
            return ""
        text = ""
        for title, ask in (("laddr", sk.getsockname), ("raddr", sk.getpeername)):
            try:
                text += f", {title}={format_address(self._net, ask())}"
            except (OSError, RuntimeError):
                continue
        return text

    # -- the descriptor

    def fileno(self) -> int:
        """A descriptor of the host, ready whenever the socket is (sockets/readiness.py), made on first use; -1 where
        the socket is closed. Raises OSError EMFILE."""
        fd: int = self._fd
        if fd >= 0:
            return fd
        socket = self._socket
        if socket is None:
            return -1
        loop = self._loop
        loop.enter()
        try:
            readiness = socket.readiness
            if readiness is None:
                readiness = socket.readiness = Readiness(socket)
            fd = self._fd = readiness.open()
        finally:
            loop.leave()
        return fd

    def detach(self) -> int:
        """Let go of the socket without closing it: the descriptor, which is returned, holds it from now on."""
        fd = self.fileno()
        socket = self._socket
        if socket is None:
            return fd
        loop = self._loop
        loop.enter()
        try:
            if socket.readiness is not None:
                socket.readiness.detach(fd)
            self._socket = self._sk = None
            self._fd = -1
        finally:
            loop.leave()
        return fd

    def _attach(self, readiness: Readiness, fd: int) -> None:
        """Become a handle of the socket behind a descriptor."""
        socket = readiness.socket
        loop = socket.loop
        loop.enter()
        try:
            if not readiness.attach(fd):
                socket.get()
        finally:
            loop.leave()
        self._open(socket)
        self._fd = fd

    def close(self) -> None:
        """Let go of the socket. Waits where SO_LINGER says so. Does nothing the second time."""
        socket = self._socket
        if socket is None:
            return
        fd = self._fd
        self._socket = self._sk = None
        self._fd = -1
        socket.release(fd)

    # -- time-outs

    def settimeout(self, value: Any, /) -> None:
        """Seconds after which a call gives up with TimeoutError; 0 never to wait, None to wait without end."""
        timeout = arguments.timeout_ns(value)
        socket = self._socket
        if socket is None:
            self._absent("settimeout", value)
            return
        self._timeout = timeout
        socket.nonblock = timeout >= 0

    def gettimeout(self) -> float | None:
        """Seconds, None where calls wait without end."""
        timeout = self._timeout
        return None if timeout < 0 else timeout / arguments.NSEC_PER_SEC

    def setblocking(self, flag: Any, /) -> None:
        """`settimeout(None)` where true, `settimeout(0.0)` where false."""
        self.settimeout(None if _c_long(flag) else 0.0)

    def getblocking(self) -> bool:
        """False where calls never wait."""
        return self._timeout != 0

    # -- addresses and connections

    def bind(self, address: Any, /) -> None:
        """bind(2). Raises OSError EADDRINUSE, EADDRNOTAVAIL, EINVAL, EACCES."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            self._absent("bind", address)
            return
        name = parse_address(self._net, self._family, address, "bind")
        sys.audit("socket.bind", self, address)
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            sk.bind(name)
        finally:
            _leave(socket)

    def listen(self, backlog: Any = LISTEN_BACKLOG, /) -> None:
        """listen(2): accept connections, of which `backlog` may wait to be taken; at most net.core.somaxconn."""
        backlog = max(c_int(backlog), 0)
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            self._absent("listen", backlog)
            return
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            sk.listen(backlog)
        finally:
            _leave(socket)

    def connect(self, address: Any, /) -> None:
        """connect(2). Raises OSError, TimeoutError, gaierror for a name that has no address."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            self._absent("connect", address)
            return
        name = parse_address(self._net, self._family, address, "connect")
        sys.audit("socket.connect", self, address)
        self._connect(socket, sk, name)

    def connect_ex(self, address: Any, /) -> int:
        """As `connect`, but returns the error's number, 0 for success. Raises what concerns the address."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            result: int = self._absent_connect_ex(address)
            return result
        name = parse_address(self._net, self._family, address, "connect_ex")
        sys.audit("socket.connect", self, address)
        try:
            self._connect(socket, sk, name)
        except OSError as cause:
            # A time-out of this object has no number; the standard module makes it EWOULDBLOCK.
            return cause.errno or errno.EWOULDBLOCK
        return 0

    def _absent_connect_ex(self, address: Any) -> int:
        try:
            result: int = self._absent("connect_ex", address)
        except OSError as cause:
            return cause.errno or errno.EBADF
        return result

    def _connect(self, socket: Socket, sk: Sock, name: Any) -> None:
        loop = self._loop
        timeout = self._timeout
        now = loop.enter()
        try:
            _check_open(socket)
            if timeout < 0:
                timeo = sk.sndtimeo
                call = sk.connect(name, 0, NEVER if timeo == NEVER else now + timeo)
            else:
                call = None
                try:
                    sk.connect(name, O_NONBLOCK, now)
                except BlockingIOError as cause:
                    if timeout == 0 or cause.errno != errno.EINPROGRESS:
                        raise
                    call = _wait_connected(sk, now + timeout)
            if call is None:
                return
            socket.get()
        finally:
            _leave(socket)
        socket.run(call)

    def _accept_socket(self) -> tuple[Socket, Any]:
        """accept(2): the connection's socket, and the peer's address as programs write it."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        timeout = self._timeout
        now = loop.enter()
        try:
            _check_open(socket)
            if timeout < 0:
                timeo = sk.rcvtimeo
                result = sk.accept(0, NEVER if timeo == NEVER else now + timeo)
            elif timeout == 0:
                result = sk.accept(O_NONBLOCK, now)
            else:
                result = sk.accept(0, now + timeout)
            if isinstance(result, Sock):
                return self._accepted(socket, result)
            socket.get()
        finally:
            _leave(socket)
        try:
            child = socket.run(result)
        except BlockingIOError:
            if timeout > 0:
                raise _timed_out() from None
            raise
        loop.enter()
        try:
            return self._accepted(socket, child)
        finally:
            loop.leave()

    def _accepted(self, socket: Socket, child: Sock) -> tuple[Socket, Any]:
        try:
            address = format_address(self._net, child.getpeername())
        except OSError:
            address = None  # it was reset between the handshake and now
        return socket.adopt(child), address

    def getsockname(self) -> Any:
        """The address it is bound to."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            return self._absent("getsockname")
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            return format_address(self._net, sk.getsockname())
        finally:
            loop.leave()

    def getpeername(self) -> Any:
        """The address it is connected to. Raises OSError ENOTCONN."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            return self._absent("getpeername")
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            return format_address(self._net, sk.getpeername())
        finally:
            loop.leave()

    def shutdown(self, how: Any, /) -> None:
        """shutdown(2): SHUT_RD, SHUT_WR or SHUT_RDWR. Raises OSError EINVAL, ENOTCONN."""
        how = c_int(how)
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            self._absent("shutdown", how)
            return
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            if not 0 <= how <= 2:
                raise error(errno.EINVAL)
            sk.shutdown(how)
        finally:
            _leave(socket)

    # -- receiving

    def _receive(self, msg: MsgHdr, flags: int) -> int:
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        timeout = self._timeout
        now = loop.enter()
        try:
            _check_open(socket)
            if timeout < 0:
                timeo = sk.rcvtimeo
                deadline = NEVER if timeo == NEVER else now + timeo
            elif timeout == 0:
                flags |= MSG_DONTWAIT
                deadline = now
            else:
                # The standard module waits itself, and then asks once for what there is.
                flags &= ~(MSG_WAITALL | MSG_DONTWAIT)
                deadline = now + timeout
            result = sk.recvmsg(msg, flags, deadline)
            if isinstance(result, int):
                return result
            socket.get()
        finally:
            if socket.readiness is not None:
                socket.readiness.refresh()
            loop.leave()
        try:
            return socket.run(result)
        except BlockingIOError:
            if timeout > 0:
                raise _timed_out() from None
            raise

    def recv(self, bufsize: Any, flags: Any = 0, /) -> bytes:
        """At most `bufsize` bytes; b"" at the end of a stream."""
        length = arguments.size(bufsize, "negative buffersize in recv")
        if self._sk is None:
            absent: bytes = self._absent("recv", bufsize, flags)
            return absent
        sink = CollectIter(length)
        self._receive(MsgHdr(sink), c_int(flags) if flags != 0 else 0)
        return sink.getvalue()

    def recvfrom(self, bufsize: Any, flags: Any = 0, /) -> tuple[bytes, Any]:
        """At most `bufsize` bytes, and the address of who sent them."""
        length = arguments.size(bufsize, "negative buffersize in recvfrom")
        if self._sk is None:
            absent: tuple[bytes, Any] = self._absent("recvfrom", bufsize, flags)
            return absent
        sink = CollectIter(length)
        msg = MsgHdr(sink)
        self._receive(msg, c_int(flags))
        return sink.getvalue(), format_address(self._net, msg.name)

    def recv_into(self, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> int:
        """Receive into `buffer`, at most `nbytes`, 0 for as much as it holds. Returns how many came."""
        if self._sk is None:
            absent: int = self._absent("recv_into", buffer, nbytes, flags)
            return absent
        sink = arguments.sink(buffer, nbytes, "recv_into", "buffer too small for requested bytes")
        return self._receive(MsgHdr(sink), c_int(flags))

    def recvfrom_into(self, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> tuple[int, Any]:
        """As `recv_into`, with the address of who sent it."""
        if self._sk is None:
            absent: tuple[int, Any] = self._absent("recvfrom_into", buffer, nbytes, flags)
            return absent
        sink = arguments.sink(
            buffer, nbytes, "recvfrom_into", "nbytes is greater than the length of the buffer"
        )
        msg = MsgHdr(sink)
        length = self._receive(msg, c_int(flags))
        return length, format_address(self._net, msg.name)

    def recvmsg(
        self, bufsize: Any, ancbufsize: Any = 0, flags: Any = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """recvmsg(2): data, ancillary data (with room for `ancbufsize` bytes of it), flags, and address."""
        length = arguments.size(bufsize, "negative buffer size in recvmsg()")
        if self._sk is None:
            absent: tuple[bytes, list[tuple[int, int, bytes]], int, Any]
            absent = self._absent("recvmsg", bufsize, ancbufsize, flags)
            return absent
        sink = CollectIter(length)
        _, control, flags, address = self._receive_message(MsgHdr(sink), ancbufsize, flags)
        return sink.getvalue(), control, flags, address

    def recvmsg_into(
        self, buffers: Any, ancbufsize: Any = 0, flags: Any = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As `recvmsg`, into a row of buffers; the first item is how many bytes came."""
        if self._sk is None:
            absent: tuple[int, list[tuple[int, int, bytes]], int, Any]
            absent = self._absent("recvmsg_into", buffers, ancbufsize, flags)
            return absent
        return self._receive_message(MsgHdr(arguments.sinks(buffers)), ancbufsize, flags)

    def _receive_message(
        self, msg: MsgHdr, ancbufsize: Any, flags: Any
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        room = arguments.control_room(ancbufsize)
        length = self._receive(msg, c_int(flags))
        control, cut = arguments.fit_control(msg.control, room)
        return length, control, msg.flags | MSG_CTRUNC if cut else msg.flags, format_address(self._net, msg.name)

    # -- sending

    def _send(self, msg: MsgHdr, flags: int, deadline: int = -1) -> int:
        """deadline (ns): where a time-out is set, wait until then for all to be taken."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        timeout = self._timeout
        now = loop.enter()
        try:
            _check_open(socket)
            if timeout < 0:
                timeo = sk.sndtimeo
                result = sk.sendmsg(msg, flags, NEVER if timeo == NEVER else now + timeo)
            elif timeout == 0:
                result = sk.sendmsg(msg, flags | MSG_DONTWAIT, now)
            elif deadline >= 0:
                result = sk.sendmsg(msg, flags & ~MSG_DONTWAIT, deadline)
            else:
                result = _try_send(sk, msg, flags)
                if result < 0:
                    result = _send_when_writable(sk, msg, flags, now + timeout)
            if isinstance(result, int):
                return result
            socket.get()
        finally:
            if socket.readiness is not None:
                socket.readiness.refresh()
            loop.leave()
        try:
            return socket.run(result)
        except BlockingIOError:
            if timeout > 0:
                raise _timed_out() from None
            raise

    def send(self, data: Any, flags: Any = 0, /) -> int:
        """Send; returns how many bytes were taken, which a stream may make fewer than all."""
        source = arguments.source(data)
        if self._sk is None:
            absent: int = self._absent("send", data, flags)
            return absent
        return self._send(MsgHdr(source), c_int(flags) if flags != 0 else 0)

    def sendall(self, data: Any, flags: Any = 0, /) -> None:
        """Send all of `data`; the time-out holds for the whole. After an error nobody knows how much was sent."""
        source = arguments.source(data)
        if self._sk is None:
            self._absent("sendall", data, flags)
            return
        flags = c_int(flags)
        msg = MsgHdr(source)
        timeout = self._timeout
        if timeout <= 0:
            self._send(msg, flags)
            while source.length:
                self._send(msg, flags)
            return
        loop = self._loop
        deadline = loop.clock.now() + timeout
        self._send(msg, flags, deadline)
        while source.length:
            if loop.clock.now() >= deadline:
                raise _timed_out()
            self._send(msg, flags, deadline)

    def sendto(self, data: Any, *args: Any) -> int:
        """sendto(data, address), or sendto(data, flags, address)."""
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        source = arguments.source(data)
        flags = c_int(args[0]) if len(args) == 2 else 0
        if self._sk is None:
            absent: int = self._absent("sendto", data, *args)
            return absent
        address = args[-1]
        name = parse_address(self._net, self._family, address, "sendto")
        sys.audit("socket.sendto", self, address)
        return self._send(MsgHdr(source, name), flags)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: Any = 0, address: Any = None, /) -> int:
        """sendmsg(2): a row of buffers, ancillary data as (level, type, data), flags, and where to."""
        source = arguments.sources(buffers)
        control = arguments.control_items(ancdata)
        flags = c_int(flags)
        if self._sk is None:
            absent: int = self._absent("sendmsg", buffers, ancdata, flags, address)
            return absent
        name = None if address is None else parse_address(self._net, self._family, address, "sendmsg")
        sys.audit("socket.sendmsg", self, address)
        return self._send(MsgHdr(source, name, control), flags)

    # -- options

    def setsockopt(self, level: Any, optname: Any, value: Any, optlen: Any = None, /) -> None:
        """setsockopt(2): an int, a buffer as C lays it out, or None with the length of a null pointer."""
        if self._sk is None:
            args = (level, optname, value) if optlen is None else (level, optname, value, optlen)
            self._absent("setsockopt", *args)
            return
        level, optname = c_int(level), c_int(optname)
        data = arguments.option_value(value, optlen)
        socket, sk = self._socket, self._sk
        if socket is None:
            raise error(errno.EBADF)
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            if data is None:
                if c_int(optlen) < 0:
                    raise error(errno.EINVAL)
                if optlen:
                    raise error(errno.EFAULT)
                data = b""
            sk.setsockopt(level, optname, data)
        finally:
            _leave(socket)

    def getsockopt(self, level: Any, optname: Any, buflen: Any = 0, /) -> int | bytes:
        """getsockopt(2): an int, or up to `buflen` bytes as C lays them out."""
        level, optname, buflen = c_int(level), c_int(optname), c_int(buflen)
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            absent: int | bytes = self._absent("getsockopt", level, optname, buflen)
            return absent
        if not 0 <= buflen <= arguments.GETSOCKOPT_MAX:
            raise OSError("getsockopt buflen out of range")
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            value = sk.getsockopt(level, optname, buflen or 4)
        finally:
            _leave(socket)
        return value if buflen else int.from_bytes(value[:4], sys.byteorder, signed=len(value) >= 4)

    def ioctl(self, request: Any, /) -> int:
        """ioctl(2) with one int as result: SIOCINQ (FIONREAD), SIOCOUTQ, SIOCATMARK. Not in the standard module, where
        `fcntl.ioctl` does it, which can't reach a stack. Raises OSError ENOTTY."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        loop.enter()
        try:
            _check_open(socket)
            return sk.ioctl(c_int(request))
        finally:
            loop.leave()


def _check_open(socket: Socket) -> None:
    """Another thread may have closed the socket before this one got the lock."""
    if not socket.references:
        raise error(errno.EBADF)


def _leave(socket: Socket) -> None:
    if socket.readiness is not None:
        socket.readiness.refresh()
    socket.loop.leave()


def _try_send(sk: Sock, msg: MsgHdr, flags: int) -> int:
    """Send without waiting; -1 where there is no room."""
    before = msg.iter.length
    try:
        result = sk.sendmsg(msg, flags | MSG_DONTWAIT, sk.loop.now)
    except BlockingIOError as cause:
        if cause.errno != errno.EAGAIN:
            raise
        if msg.iter.length < before:
            msg.iter.revert(before - msg.iter.length)
        return -1
    if not isinstance(result, int):
        raise error(errno.EAGAIN)
    return result


def _send_when_writable(sk: Sock, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int]:
    """Wait for room until `deadline`, then send what fits, as the standard module does under a time-out."""
    while True:
        result = _try_send(sk, msg, flags)
        if result >= 0:
            return result
        if sk.loop.now >= deadline:
            raise _timed_out()
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)


def _wait_connected(sk: Sock, deadline: int) -> Blocking[None]:
    """Wait until the connection under way stands or has failed, as the standard module does under a time-out."""
    while not sk.poll() & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        if sk.loop.now >= deadline:
            raise _timed_out()
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
    code = sk.take_error()
    if code and code != errno.EISCONN:
        raise error(code)


def _c_int_argument(value: Any) -> int:
    number = value.__index__() if hasattr(type(value), "__index__") else c_int(value)
    if not arguments.INT_MIN <= number <= arguments.INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return int(number)


def _c_long(value: Any) -> int:
    number = value.__index__() if hasattr(type(value), "__index__") else c_int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError("Python int too large to convert to C long")
    return int(number)


__all__ = ["LISTEN_BACKLOG", "SOCK_NONBLOCK", "SocketBase"]
