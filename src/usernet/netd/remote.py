"""A service's socket in a program: a standard `socket.socket` whose descriptor is a channel of the service's.

What moves data is the standard class's own, on the descriptor. What concerns the network is asked of the service, with
a duplicate of the descriptor going along where the service may need it.
"""

from __future__ import annotations

import _socket
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from usernet.netd import names, protocol
from usernet.netd.command import Text, UsageError
from usernet.netd.messages import close_all

if TYPE_CHECKING:
    from usernet.netd.client import Client

__all__ = ["EBADFD", "RemoteSocket", "accepted", "names", "of_given", "opened_fd", "put_in_place", "read_text"]

_BY_CALL: Final = 0x2001 | 0x8000 | 0x4000000 | 0x20000000
"""MSG_ERRQUEUE, MSG_OOB, MSG_MORE, MSG_ZEROCOPY, MSG_FASTOPEN: flags that the descriptor knows nothing of."""

EBADFD: Final = 77
"""The socket's descriptor is spent, with a connection that failed: it takes another one (`Renew`)."""
_EMSGSIZE: Final = 90


def read_text(message: Any, fds: list[int]) -> Text:
    """What a command printed, of the answer to a `Command` and the descriptors with it. Raises UsageError."""
    if not fds:
        raise UsageError(message.data.decode(errors="replace"))
    with open(fds.pop(), "rb") as file:
        close_all(fds)
        file.seek(0)
        return Text(file.read().decode(), message.number)


def opened_fd(fds: list[int]) -> int:
    """The one descriptor of a `Given`. Raises OSError EPROTO where it is not one."""
    if len(fds) != 1:
        close_all(fds)
        raise OSError(71, "the service gave a socket without its descriptor")
    return fds[0]


def of_given(client: Client | None, message: protocol.Given, fd: int) -> RemoteSocket:
    """The object of a socket that was given, with its descriptor, which passes on."""
    sock = RemoteSocket(message.family, message.type, message.protocol, fd)
    sock.handle = message.handle
    sock.stream = message.stream
    sock.client = client
    return sock


def put_in_place(sock: RemoteSocket, fd: int) -> None:
    """Have `sock` go on with the descriptor `fd`, under the number that it has."""
    try:
        os.set_blocking(fd, os.get_blocking(sock.fileno()))
        os.dup2(fd, sock.fileno(), os.get_inheritable(sock.fileno()))
    finally:
        os.close(fd)


def accepted(sock: RemoteSocket, message: protocol.Given) -> tuple[RemoteSocket, Any]:
    """What accept returns."""
    return sock, names.unpack(message.name)


class RemoteSocket(socket.socket):
    """handle: the service's number for it. stream: whether all data goes through the descriptor. client: who asks; None
    for a socket of an AsyncClient, which has the calls itself."""

    handle: int
    stream: bool
    client: Client | None

    __slots__ = ("client", "handle", "stream")

    def _ask(self, make: Any, fds: tuple[int, ...] = (), wait: bool = False) -> Any:
        client = self.client
        if client is None:
            raise TypeError("a socket of an AsyncClient is asked by that: await client.connect(sock, …)")
        timeout = self.gettimeout() if wait else None
        message, received = client.call(make, fds, timeout or None)
        close_all(received)
        return message

    @property
    def _nonblock(self) -> bool:
        return self.gettimeout() == 0

    # -- the network's side

    def bind(self, address: Any, /) -> None:
        name = names.pack(self.family, address)
        self._ask(lambda number: protocol.Bind(number, self.handle, name))

    def listen(self, backlog: int = 128, /) -> None:
        self._ask(lambda number: protocol.Listen(number, self.handle, backlog))

    def connect(self, address: Any, /) -> None:
        name = names.pack(self.family, address)
        nonblock = self._nonblock

        def make(number: int) -> protocol.Connect:
            return protocol.Connect(number, self.handle, name, nonblock)

        try:
            self._ask(make, (self.fileno(),), wait=True)
        except OSError as problem:
            if problem.errno != EBADFD:
                raise
            self._renew()
            self._ask(make, (self.fileno(),), wait=True)

    def connect_ex(self, address: Any, /) -> int:
        try:
            self.connect(address)
        except OSError as problem:
            if problem.errno is None:
                raise
            return problem.errno
        return 0

    def _renew(self) -> None:
        """A connection that failed has used the descriptor up: put another one in its place."""
        client = self.client
        assert client is not None
        message, fds = client.call(lambda number: protocol.Renew(number, self.handle))
        if isinstance(message, protocol.Given):
            put_in_place(self, opened_fd(fds))
            client.commit(self.handle)

    def accept(self) -> tuple[RemoteSocket, Any]:
        client = self.client
        if client is None:
            raise TypeError("a socket of an AsyncClient is asked by that: await client.accept(sock)")
        nonblock = self._nonblock
        timeout = self.gettimeout() or None
        message, fds = client.call(
            lambda number: protocol.Accept(number, self.handle, 0, nonblock), (self.fileno(),), timeout
        )
        sock = client.made(message, fds)
        if socket.getdefaulttimeout() is None and self.gettimeout():
            sock.setblocking(True)
        return accepted(sock, message)

    def getsockname(self) -> Any:
        return names.unpack(self._ask(lambda number: protocol.SockName(number, self.handle)).data)

    def getpeername(self) -> Any:
        return names.unpack(self._ask(lambda number: protocol.PeerName(number, self.handle)).data)

    def shutdown(self, how: int, /) -> None:
        self._ask(lambda number: protocol.Shutdown(number, self.handle, how))

    def getsockopt(self, level: int, optname: int, buflen: Any = 0, /) -> Any:
        size = buflen or 4
        data = self._ask(lambda number: protocol.GetOption(number, self.handle, level, optname, size)).data
        return data if buflen else int.from_bytes(data[:4], "little", signed=True)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: Any = None, /) -> None:
        if value is None:
            packed = bytes(optlen or 0)
        else:
            packed = struct.pack("=i", value) if isinstance(value, int) else bytes(value)
        self._ask(lambda number: protocol.SetOption(number, self.handle, level, optname, packed), (self.fileno(),))
        if level == socket.SOL_SOCKET and optname in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            super().setsockopt(level, optname, value)

    def ioctl(self, request: int, argument: bytes = b"\0\0\0\0", /) -> bytes:
        """ioctl(2) of the socket: what the argument holds afterwards."""
        data: bytes = self._ask(lambda number: protocol.Ioctl(number, self.handle, request, argument)).data
        return data

    # -- data that does not go through the descriptor alone: with addresses, ancillary data, or flags

    def _receive(self, size: int, room: int, flags: int) -> protocol.Done:
        nonblock = self._nonblock
        answer: protocol.Done = self._ask(
            lambda number: protocol.Receive(number, self.handle, size, flags, room, nonblock),
            (self.fileno(),),
            wait=True,
        )
        return answer

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if flags & _BY_CALL and not self.stream:
            return self._receive(bufsize, 0, flags).data
        return super().recv(bufsize, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        if self.stream:
            return super().recv(bufsize, flags), None
        answer = self._receive(bufsize, 0, flags)
        return answer.data, names.unpack(answer.name)

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        if self.stream and not flags & 0x2000:
            data, control, flags, _ = super().recvmsg(bufsize, ancbufsize, flags)
            return data, control, flags, None
        answer = self._receive(bufsize, ancbufsize, flags)
        return answer.data, _items(answer.control), answer.flags, names.unpack(answer.name)

    def _send(self, data: bytes, flags: int, name: bytes | None, control: bytes = b"") -> int:
        if len(data) > protocol.MAX_DATA:
            raise OSError(_EMSGSIZE, os.strerror(_EMSGSIZE))
        nonblock = self._nonblock
        sent: int = self._ask(
            lambda number: protocol.Send(number, self.handle, data, len(data), flags, name, control, nonblock),
            wait=True,
        ).number
        return sent

    def send(self, data: Any, flags: int = 0, /) -> int:
        if flags & _BY_CALL or not self.stream:
            return self._send(bytes(memoryview(data).cast("B")[: protocol.MAX_DATA]), flags, None)
        return super().send(data, flags)

    def sendto(self, data: Any, *args: Any) -> int:
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        flags = args[0] if len(args) == 2 else 0
        if self.stream:
            return self.send(data, flags)
        return self._send(bytes(memoryview(data).cast("B")), flags, names.pack(self.family, args[-1]))

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        items = list(ancdata)
        if self.stream and not items and not flags & _BY_CALL:
            return super().sendmsg(buffers, (), flags)
        name = None if address is None else names.pack(self.family, address)
        return self._send(b"".join(bytes(part) for part in buffers), flags, name, _control(items))

    # -- the descriptor

    def dup(self) -> RemoteSocket:
        made = RemoteSocket(self.family, self.type, self.proto, os.dup(self.fileno()))
        made.handle, made.stream, made.client = self.handle, self.stream, self.client
        made.settimeout(self.gettimeout())
        return made

    def _real_close(self, _ss: Any = _socket.socket) -> None:
        client = getattr(self, "client", None)
        if client is not None and client.sockets.get(self.handle) is self:
            del client.sockets[self.handle]
        super()._real_close(_ss)  # type: ignore[misc]


_CMSG: Final = struct.Struct("=Qii")


def _items(control: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    offset = 0
    while offset + _CMSG.size <= len(control):
        length, level, kind = _CMSG.unpack_from(control, offset)
        if length < _CMSG.size:
            break
        found.append((level, kind, control[offset + _CMSG.size : offset + length]))
        offset += (length + 7) & ~7
    return found


def _control(items: list[tuple[int, int, Any]]) -> bytes:
    out = bytearray()
    for level, kind, data in items:
        packed = bytes(data)
        out += _CMSG.pack(_CMSG.size + len(packed), level, kind) + packed + bytes(-len(packed) % 8)
    return bytes(out)
