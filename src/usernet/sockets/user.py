"""What `stack.socket()` returns: a socket with all the methods of the standard `socket.socket`.

On top of `SocketBase` it has what the standard library adds in Python: enumerations, `accept`, `dup`, `makefile`,
`sendfile`, the `with` statement.
"""

from __future__ import annotations

import os
import socket as _standard
from types import TracebackType
from typing import Any, Final, Self

from usernet.net.pernet import Net
from usernet.sockets.base import SocketBase
from usernet.sockets.socket import Socket

_makefile: Final[Any] = _standard.socket.makefile

SENDFILE_BLOCK: Final = 262144
"""Bytes read at once by sendfile: four of the largest segments."""


class UserSocket(SocketBase):
    """A socket of one stack. See docs/sockets.md for what each method, flag and option does."""

    __slots__ = ("__weakref__", "_closed", "_io_refs")

    def __init__(self, net: Net, family: int = 2, type: int = 1, proto: int = 0) -> None:
        """Raises OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EINVAL."""
        self._io_refs: int = 0
        self._closed: bool = False
        self._create(net, family, type, proto)

    @classmethod
    def of(cls, socket: Socket, timeout: int | None = None) -> Self:
        """A handle of `socket`, whose reference passes on. timeout: ns, -1 for none, None for the default."""
        self = cls.__new__(cls)
        self._io_refs = 0
        self._closed = False
        self._open(socket, timeout)
        return self

    def __repr__(self) -> str:
        closed = " [closed]" if self._socket is None else ""
        about = f"family={self.family!r}, type={self.type!r}, proto={self._proto}{self._describe()}"
        return f"<usernet.socket{closed} {about}>"

    def __getstate__(self) -> object:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._closed:
            self.close()

    @property
    def family(self) -> int:
        return _enumerated(_standard.AddressFamily, self._family)

    @property
    def type(self) -> int:
        return _enumerated(_standard.SocketKind, self._type)

    def accept(self) -> tuple[UserSocket, Any]:
        """Wait for a connection; returns its socket, and the peer's address."""
        socket, address = self._accept_socket()
        connection = UserSocket.of(socket)
        # Where there is no default time-out, a listener's own doesn't make its connections non-blocking.
        if _standard.getdefaulttimeout() is None and self._timeout > 0:
            connection.setblocking(True)
        return connection, address

    def dup(self) -> UserSocket:
        """Another handle of the same socket, with the same time-out. Raises OSError EBADF where it is closed."""
        socket = self._socket
        if socket is None:
            duplicate: UserSocket = self._absent("dup")
            return duplicate
        loop = self._loop
        loop.enter()
        try:
            socket.get()
        finally:
            loop.leave()
        return UserSocket.of(socket, self._timeout)

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file object connected to the socket: arguments as for io.open; mode of r, w and b."""
        return _makefile(self, mode, buffering, encoding=encoding, errors=errors, newline=newline)

    def close(self) -> None:
        """Let go of the socket, once the files made from it are closed too."""
        self._closed = True
        if self._io_refs <= 0:
            super().close()

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    def detach(self) -> int:
        """Let go of the socket without closing it: the descriptor, which is returned, holds it from now on."""
        self._closed = True
        return super().detach()

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file opened in binary mode from `offset`, `count` bytes or up to its end; returns how many."""
        return send_file(self, file, offset, count)

    def get_inheritable(self) -> bool:
        """Whether child programs inherit the descriptor. They have no use for it: the stack is this process's."""
        return os.get_inheritable(self.fileno())

    def set_inheritable(self, inheritable: bool) -> None:
        os.set_inheritable(self.fileno(), inheritable)


def _enumerated(kind: Any, value: int) -> int:
    """`value` as a member of the standard enumeration `kind`; as it is where there is none."""
    try:
        member: int = kind(value)
    except ValueError:
        return value
    return member


def send_file(sock: Any, file: Any, offset: int, count: int | None) -> int:
    """socket.sendfile on a stack: read and send, block by block. Raises ValueError, TypeError as the standard one."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != _standard.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if sock.gettimeout() == 0:
        raise ValueError("non-blocking sockets are not supported")
    if offset:
        file.seek(offset)
    total = 0
    send = sock.send
    try:
        while count is None or total < count:
            data = memoryview(file.read(SENDFILE_BLOCK if count is None else min(count - total, SENDFILE_BLOCK)))
            if not data:
                break
            while data:
                sent = send(data)
                total += sent
                data = data[sent:]
        return total
    finally:
        if total > 0 and hasattr(file, "seek"):
            file.seek(offset + total)
