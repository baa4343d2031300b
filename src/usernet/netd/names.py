"""Addresses of IPv4 and packet sockets between Python's tuples and the kernel's bytes, with no stack at hand."""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import Any, Final

from usernet.core.errors import error

_IN: Final = Struct("=H2s4s8x")
_LL: Final = Struct("=H2siHBB8s")


def pack(family: int, address: Any) -> bytes:
    """A struct sockaddr_in, of (host, port): an IPv4 address, "" for any, or "<broadcast>". Raises OSError for another
    family, TypeError, ValueError."""
    if family != socket.AF_INET:
        raise error(errno.EAFNOSUPPORT)
    if not isinstance(address, tuple) or len(address) != 2:
        raise TypeError(f"address: expected (host, port), not {address!r}")
    host, port = address
    if not isinstance(port, int) or not 0 <= port <= 0xFFFF:
        raise OverflowError(f"port: expected 0 to 65535, not {port!r}")
    if not isinstance(host, str):
        raise TypeError(f"host: expected a string, not {host!r}")
    text = {"": "0.0.0.0", "<broadcast>": "255.255.255.255", "localhost": "127.0.0.1"}.get(host, host)
    try:
        packed = socket.inet_aton(text)
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, f"expected an IPv4 address, not {host!r}") from None
    return _IN.pack(family, port.to_bytes(2, "big"), packed)


def unpack(name: bytes) -> Any:
    """(host, port), or what the standard module gives for a packet socket; None where there is none."""
    if len(name) < 2:
        return None
    family = int.from_bytes(name[:2], "little")
    if family == socket.AF_INET and len(name) >= _IN.size:
        _, port, packed = _IN.unpack_from(name)
        return socket.inet_ntoa(packed), int.from_bytes(port, "big")
    if family == socket.AF_PACKET and len(name) >= _LL.size:
        _, protocol, ifindex, hatype, pkttype, size, addr = _LL.unpack_from(name)
        return ifindex, int.from_bytes(protocol, "big"), pkttype, hatype, addr[: min(size, 8)]
    return name
