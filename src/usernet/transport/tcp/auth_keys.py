"""Addresses of keys, and the memory that keys take: what TCP MD5 and TCP-AO have in common."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error

if TYPE_CHECKING:
    from usernet.transport.tcp.ao import AoInfo
    from usernet.transport.tcp.md5 import Md5Key
    from usernet.transport.tcp.sock import TcpSock

AF_INET: Final = 2
AF_INET6: Final = 10
SOCKADDR_STORAGE: Final = 128

_V4MAPPED: Final = bytes(10) + b"\xff\xff"


@final
class Auth:
    """The keys of a socket, or of the record that is left of it in TIME-WAIT.

    md5: keys of TCP MD5, the newest first. ao: the state of TCP-AO, None where it isn't used.
    """

    __slots__ = ("ao", "md5")

    def __init__(self) -> None:
        self.md5: list[Md5Key] = []
        self.ao: AoInfo | None = None


def charge(sk: TcpSock, size: int) -> None:
    """Account for a key, in bytes of Linux's structures (sock_kmalloc). Raises OSError ENOMEM above
    net.core.optmem_max."""
    limit = sk.settings.optmem_max
    if size > limit or sk.omem_alloc + size >= limit:
        raise error(errno.ENOMEM, f"the socket's keys take more than net.core.optmem_max = {limit} bytes")
    sk.omem_alloc += size


def decode_sockaddr(value: bytes) -> tuple[int, int, bytes]:
    """(family, port, address) of a `struct sockaddr_storage`; the address is empty for a family that isn't known."""
    family = int.from_bytes(value[:2], "little")
    port = int.from_bytes(value[2:4], "big")
    if family == AF_INET:
        return family, port, value[4:8]
    if family == AF_INET6:
        return family, port, value[8:24]
    return family, port, b""


def encode_sockaddr(address: bytes) -> bytes:
    """A `struct sockaddr_storage` without a port."""
    if len(address) == 4:
        value = AF_INET.to_bytes(2, "little") + bytes(2) + address
    else:
        value = AF_INET6.to_bytes(2, "little") + bytes(6) + address
    return value.ljust(SOCKADDR_STORAGE, b"\0")


def unmapped(address: bytes) -> bytes:
    """An IPv4 address that was written as one of IPv6, as it is; others unchanged."""
    return address[12:] if len(address) == 16 and address.startswith(_V4MAPPED) else address


def network(address: bytes, prefix: int) -> int:
    """The first `prefix` bits of an address, as a number."""
    return int.from_bytes(address, "big") >> len(address) * 8 - prefix


def same_network(one: bytes, other: bytes, prefix: int) -> bool:
    """Whether two addresses of one family agree in their first `prefix` bits."""
    return len(one) == len(other) and network(one, prefix) == network(other, prefix)


def pseudo_header(saddr: bytes, daddr: bytes, length: int) -> bytes:
    """The pseudo header that both kinds of signature cover (RFC 2385 section 2.0, RFC 5925 section 5.1)."""
    if len(saddr) == 4:
        return saddr + daddr + b"\0\6" + length.to_bytes(2, "big")
    return saddr + daddr + length.to_bytes(4, "big") + b"\0\0\0\6"
