"""Addresses and ancillary data between bytes, as programs pass them to the kernel, and what the stack takes.

With Linux's checks: the length that an address must have is the family's (inet_bind_sk, ip4_datagram_connect,
packet_bind), a header of ancillary data must lie within what is there (CMSG_OK).
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.sock.msg import Control, Name, NetlinkAddr, PacketAddr, SockAddr
from usernet.sock.sock import Sock

AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
AF_PACKET: Final = 17
NAME_MAX: Final = 128
"""Bytes of the longest address (Linux: sizeof(struct sockaddr_storage))."""

_SOCKADDR_IN: Final = 16
_SOCKADDR_IN6: Final = 28
_SOCKADDR_LL: Final = Struct("=HHiHBB8s")
_SOCKADDR_NL: Final = Struct("=HHII")
_CMSGHDR: Final = Struct("=Qii")


def family_of(data: bytes) -> int:
    """sa_family. Raises OSError EINVAL where there is none."""
    if len(data) < 2:
        raise error(errno.EINVAL, f"address: expected its family (2 bytes), not {len(data)} bytes")
    return int.from_bytes(data[:2], sys.byteorder)


def short(name: bytes) -> bytes:
    """Raises OSError EINVAL for what is too long for any address (Linux: move_addr_to_kernel)."""
    if len(name) > NAME_MAX:
        raise error(errno.EINVAL, f"address: expected at most {NAME_MAX} bytes, not {len(name)}")
    return name


def unpack_name(sk: Sock, data: bytes) -> Name:
    """An address given to a call on `sk`. Raises OSError EINVAL where it is too short."""
    unpack = UNPACK.get(sk.family)
    if unpack is None:
        raise error(errno.EAFNOSUPPORT)
    return unpack(data)


def _unpack_inet(data: bytes) -> SockAddr:
    if len(data) < _SOCKADDR_IN:
        raise error(errno.EINVAL, f"address: expected struct sockaddr_in (16 bytes), not {len(data)} bytes")
    family = family_of(data)
    port = data[2] << 8 | data[3]
    if family == AF_INET6 and len(data) >= _SOCKADDR_IN6:
        return SockAddr(family, data[8:24], port, int.from_bytes(data[24:28], sys.byteorder))
    return SockAddr(family, data[4:8], port)


def _unpack_packet(data: bytes) -> PacketAddr:
    if len(data) < _SOCKADDR_LL.size:
        raise error(errno.EINVAL, f"address: expected struct sockaddr_ll (20 bytes), not {len(data)} bytes")
    family, _, ifindex, hatype, pkttype, size, addr = _SOCKADDR_LL.unpack_from(data)
    if family != AF_PACKET:
        raise error(errno.EINVAL, f"address: expected one of AF_PACKET, not of family {family}")
    return PacketAddr(data[2] << 8 | data[3], ifindex, hatype, pkttype, addr[: min(size, 8)])


def _unpack_netlink(data: bytes) -> NetlinkAddr:
    if len(data) < _SOCKADDR_NL.size:
        raise error(errno.EINVAL, f"address: expected struct sockaddr_nl (12 bytes), not {len(data)} bytes")
    family, _, portid, groups = _SOCKADDR_NL.unpack_from(data)
    if family != AF_NETLINK:
        raise error(errno.EINVAL, f"address: expected one of AF_NETLINK, not of family {family}")
    return NetlinkAddr(portid, groups)


UNPACK: Final[dict[int, Callable[[bytes], Name]]] = {
    AF_INET: _unpack_inet,
    AF_NETLINK: _unpack_netlink,
    AF_PACKET: _unpack_packet,
}
"""By the family of the socket."""

NO_ADDRESS: Final = SockAddr(AF_UNSPEC, b"", 0)
"""What connect() is given to undo an earlier one."""


def unpack_control(data: bytes) -> list[Control] | None:
    """The items of ancillary data to be sent; None where there are none. Raises OSError EINVAL for one that does not
    lie within `data`."""
    items: list[Control] = []
    offset = 0
    end = len(data)
    while end - offset >= _CMSGHDR.size:
        length, level, kind = _CMSGHDR.unpack_from(data, offset)
        if not _CMSGHDR.size <= length <= end - offset:
            raise error(errno.EINVAL, f"ancillary data: an item of {length} bytes, where {end - offset} are left")
        items.append((level, kind, data[offset + _CMSGHDR.size : offset + length]))
        offset += (length + 7) & ~7
    return items or None


def pack_control(items: list[Control] | None, room: int) -> tuple[bytes, bool]:
    """Received ancillary data, as much as `room` bytes hold, and whether something did not fit (Linux: put_cmsg).

    An item takes a header of 16 bytes and its data, filled up to a multiple of 8. The last one may be cut.
    """
    if not items:
        return b"", False
    out = bytearray()
    for level, kind, data in items:
        left = room - len(out)
        if left < _CMSGHDR.size:
            return bytes(out), True
        length = _CMSGHDR.size + len(data)
        if length > left:
            out += _CMSGHDR.pack(left, level, kind) + data[: left - _CMSGHDR.size]
            return bytes(out), True
        out += _CMSGHDR.pack(length, level, kind) + data
        out += bytes(min(-length % 8, room - len(out)))
    return bytes(out), False
