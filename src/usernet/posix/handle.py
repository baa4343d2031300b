"""The class `socket` of the drop-in `_socket`: a handle of a stack's socket, or of one of the host's.

What belongs to a network namespace is the stack's: AF_INET, AF_INET6, AF_PACKET, AF_NETLINK and all others, with
EAFNOSUPPORT for a family that the stack does not have; nothing falls through to the host's network. AF_UNIX, AF_VSOCK
and AF_ALG are the host's, and so is every descriptor that is not a stack's.
"""

from __future__ import annotations

import _socket
import os
import sys
from typing import Any, Final, Self, final

from usernet.core.errors import error
from usernet.posix.current import chosen, current
from usernet.sockets import arguments, readiness
from usernet.sockets.base import SocketBase
from usernet.sockets.socket import SOCK_TYPE_MASK, Socket

HOST_FAMILIES: Final = frozenset(
    getattr(_socket, name) for name in ("AF_UNIX", "AF_VSOCK", "AF_ALG") if hasattr(_socket, name)
)


@final
class Accepted(int):
    """What `_accept` gives in place of a descriptor: the connection's socket, which needs none yet."""

    socket: Socket

    @classmethod
    def of(cls, socket: Socket) -> Self:
        self = cls(-1)
        self.socket = socket
        return self


DROP_IN: Any = None
"""The drop-in's class `socket` (posix/library.py), which stands on the one here."""


def as_descriptor(family: Any, kind: Any, proto: Any, fileno: Any) -> Any:
    """The socket as a `DescriptorSocket`, where it is to be one; else None."""
    if fileno is not None:
        channels = sys.modules.get("usernet.posix.channel")
        if channels is None or not isinstance(fileno, int) or channels.channel_of(fileno) is None:
            return None
    elif (
        family not in (-1, _socket.AF_INET)
        or (kind != -1 and arguments.c_int(kind) & SOCK_TYPE_MASK != _socket.SOCK_STREAM)
        or not chosen().descriptors
    ):
        return None
    from usernet.posix.descriptor import DescriptorSocket

    return DescriptorSocket(family, kind, proto, fileno)


class SocketKind(type):
    """Counts a socket that is a descriptor (posix/descriptor.py) as one of the drop-in's."""

    def __instancecheck__(cls, instance: object) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        if cls is not socket and cls is not DROP_IN:
            return False
        descriptor = sys.modules.get("usernet.posix.descriptor")
        return descriptor is not None and isinstance(instance, descriptor.DescriptorSocket)


class socket(SocketBase, metaclass=SocketKind):
    """socket(family=AF_INET, type=SOCK_STREAM, proto=0, fileno=None): on the current stack, or, see above, the host.

    Where the stack was chosen with `descriptors`, a stream of it is a `DescriptorSocket`.
    """

    __slots__ = ("_host",)

    _host: _socket.socket | None

    def __new__(
        cls, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if cls is DROP_IN:
            made = as_descriptor(family, type, proto, fileno)
            if made is not None:
                return made
        self = super().__new__(cls)
        self._host = None
        self._socket = self._sk = None
        self._family, self._type, self._proto = -1, -1, -1
        self._fd = -1
        self._timeout = -1
        return self

    def __init__(self, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None) -> None:
        if fileno is None:
            if family in HOST_FAMILIES:
                self._open_host(_socket.socket(family, type, proto))
                return
            family = _socket.AF_INET if family == -1 else family
            type = _socket.SOCK_STREAM if type == -1 else type
            self._create(current().net, family, type, 0 if proto == -1 else proto)
            return
        if isinstance(fileno, Accepted):
            self._open(fileno.socket)
            return
        fd = arguments.c_int(fileno)
        if fd < 0:
            raise ValueError("negative file descriptor")
        found = readiness.find(fd)
        if found is not None:
            self._attach(found, fd)
        else:
            self._open_host(_socket.socket(family, type, proto, fd))

    def _open_host(self, host: _socket.socket) -> None:
        self._host = host
        self._fd = host.fileno()
        self._family, self._type, self._proto = int(host.family), int(host.type), host.proto

    def _absent(self, call: str, *args: Any) -> Any:
        host = self._host
        if host is None:
            return super()._absent(call, *args)
        return getattr(host, call)(*args)

    @property
    def on_host(self) -> bool:
        """Whether this is a socket of the host."""
        return self._host is not None

    def _accept(self) -> tuple[int, Any]:
        host = self._host
        if host is not None:
            return host._accept()  # type: ignore[attr-defined,no-any-return]
        child, address = self._accept_socket()
        return Accepted.of(child), address

    def gettimeout(self) -> float | None:
        host = self._host
        return super().gettimeout() if host is None else host.gettimeout()

    def getblocking(self) -> bool:
        host = self._host
        return super().getblocking() if host is None else host.getblocking()

    def sendmsg_afalg(self, *args: Any, **kwargs: Any) -> int:
        """For AF_ALG, which is the host's. Raises OSError for any other family."""
        host = self._host
        if host is None:
            raise OSError("algset is only supported for AF_ALG")
        return host.sendmsg_afalg(*args, **kwargs)

    def detach(self) -> int:
        host = self._host
        if host is None:
            return super().detach()
        self._host = None
        self._fd = -1
        return host.detach()

    def close(self) -> None:
        host = self._host
        if host is None:
            super().close()
            return
        self._host = None
        self._fd = -1
        host.close()


def dup(fd: Any, /) -> int:
    """Another descriptor of the same socket."""
    number = arguments.c_int(fd)
    found = readiness.find(number)
    if found is None:
        return _socket.dup(number)
    loop = found.socket.loop
    loop.enter()
    try:
        duplicate = found.open()
        found.socket.get()
        found.detach(duplicate)
    finally:
        loop.leave()
    return duplicate


def close(fd: Any, /) -> None:
    """Close a socket by its descriptor."""
    number = arguments.c_int(fd)
    found = readiness.find(number)
    if found is None:
        _socket.close(number)
        return
    loop = found.socket.loop
    if loop.unusable:
        readiness.DESCRIPTORS.pop(number, None)
        os.close(number)
        return
    loop.enter()
    try:
        if not found.attach(number):
            raise error(9, "this descriptor belongs to a socket object: close that")
    finally:
        loop.leave()
    found.socket.release(number)
