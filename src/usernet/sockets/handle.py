"""A program's handle of a socket: what it is, its descriptor, its time-out, its addresses, connections and options.

Every call checks its arguments as the standard module does, enters the stack and attempts; only one that has to wait
is run as a generator (core/wait.py). The time-out is the handle's (`settimeout`) and comes before the socket's own
(SO_RCVTIMEO, SO_SNDTIMEO), which hold while the handle has none. Data goes through sockets/base.py.
"""

from __future__ import annotations

import errno
import sys
import warnings
from _socket import getdefaulttimeout
from typing import Any, Final

from usernet.core.errors import error
from usernet.core.loop import Loop
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLOUT, Blocking, Wait
from usernet.net.pernet import Net
from usernet.sock.sock import O_NONBLOCK, Sock
from usernet.sockets import arguments
from usernet.sockets.address import format_address, parse_address
from usernet.sockets.arguments import c_int
from usernet.sockets.ifreq import interface_ioctl, is_interface_request
from usernet.sockets.readiness import Readiness
from usernet.sockets.socket import Socket, timed_out

LISTEN_BACKLOG: Final = 128
"""The backlog where listen() is given none: min(SOMAXCONN, 128)."""


class SocketHandle:
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
        numbers = [arguments.c_int_alone(value) for value in (family, kind, proto)]
        loop = net.loop
        loop.enter()
        try:
            socket = Socket.create(net, *numbers)
        finally:
            loop.leave()
        self._open(socket)
        self._proto = numbers[2]  # as it was asked for: 0 is not resolved

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
        self.settimeout(None if arguments.c_long(flag) else 0.0)

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
            socket.check_open()
            sk.bind(name)
        finally:
            socket.leave()

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
            socket.check_open()
            sk.listen(backlog)
        finally:
            socket.leave()

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
            socket.check_open()
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
            if call is not None:
                socket.block(call)
        finally:
            socket.leave()

    def _accept_socket(self) -> tuple[Socket, Any]:
        """accept(2): the connection's socket, and the peer's address as programs write it."""
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        timeout = self._timeout
        now = loop.enter()
        try:
            socket.check_open()
            if timeout < 0:
                timeo = sk.rcvtimeo
                result = sk.accept(0, NEVER if timeo == NEVER else now + timeo)
            elif timeout == 0:
                result = sk.accept(O_NONBLOCK, now)
            else:
                result = sk.accept(0, now + timeout)
            child = result if isinstance(result, Sock) else socket.block(result, timeout)
            return self._accepted(socket, child)
        finally:
            socket.leave()

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
            socket.check_open()
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
            socket.check_open()
            return format_address(self._net, sk.getpeername())
        finally:
            loop.leave()

    def shutdown(self, how: Any, /) -> None:
        """shutdown(2): SHUT_RD, SHUT_WR or SHUT_RDWR. Raises OSError EINVAL, ENOTCONN."""
        how = arguments.c_int_alone(how)
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            self._absent("shutdown", how)
            return
        loop = self._loop
        loop.enter()
        try:
            socket.check_open()
            if not 0 <= how <= 2:
                raise error(errno.EINVAL)
            sk.shutdown(how)
        finally:
            socket.leave()

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
            socket.check_open()
            if data is None:
                if c_int(optlen) < 0:
                    raise error(errno.EINVAL)
                if optlen:
                    raise error(errno.EFAULT)
                data = b""
            sk.setsockopt(level, optname, data)
        finally:
            socket.leave()

    def getsockopt(self, level: Any, optname: Any, buflen: Any = 0, /) -> int | bytes:
        """getsockopt(2): an int, or up to `buflen` bytes as C lays them out. Not in the standard module: in place of
        `buflen` the buffer itself may be given as bytes, for options that read it first, such as TCP_AO_GET_KEYS."""
        if isinstance(buflen, (bytes, bytearray)) and buflen and self._sk is not None:
            return self._getsockopt_from(c_int(level), c_int(optname), bytes(buflen))
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
            socket.check_open()
            value = sk.getsockopt(level, optname, buflen or 4)
        finally:
            socket.leave()
        return value if buflen else int.from_bytes(value[:4], sys.byteorder, signed=len(value) >= 4)

    def _getsockopt_from(self, level: int, optname: int, value: bytes) -> bytes:
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        loop.enter()
        try:
            socket.check_open()
            return sk.getsockopt_from(level, optname, value)
        finally:
            socket.leave()

    def ioctl(self, request: Any, argument: Any = b"", /) -> Any:
        """ioctl(2). Not in the standard module, where `fcntl.ioctl` does it, which can't reach a stack.

        SIOCINQ (FIONREAD), SIOCOUTQ, SIOCATMARK give an int. Requests about interfaces take a `struct ifreq` as bytes,
        and give bytes (sockets/ifreq.py; netdevice(7)). Raises OSError: ENOTTY, and what the request raises.
        """
        socket, sk = self._socket, self._sk
        if socket is None or sk is None:
            raise error(errno.EBADF)
        loop = self._loop
        loop.enter()
        try:
            socket.check_open()
            number = c_int(request)
            if is_interface_request(number):
                return interface_ioctl(self._net, sk.family, number, bytes(memoryview(argument)))
            return sk.ioctl(number)
        finally:
            loop.leave()


def _wait_connected(sk: Sock, deadline: int) -> Blocking[None]:
    """Wait until the connection under way stands or has failed, as the standard module does under a time-out."""
    while not sk.poll() & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        if sk.loop.now >= deadline:
            raise timed_out()
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
    code = sk.take_error()
    if code and code != errno.EISCONN:
        raise error(code)
