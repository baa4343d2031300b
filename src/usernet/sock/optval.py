"""The values of socket options and addresses as bytes: Linux's layouts for x86-64, and its rules for their lengths."""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.sock.msg import Name, NetlinkAddr, PacketAddr

UINT_MAX: Final = 0xFFFFFFFF
_INT: Final = Struct("=i")
_UINT: Final = Struct("=I")


def decode_int(value: bytes) -> int:
    """The int an option's value starts with. Raises OSError EINVAL where it is shorter than an int."""
    if len(value) < 4:
        raise error(errno.EINVAL, f"option value: expected an int (4 bytes), not {len(value)} bytes")
    number: int = _INT.unpack_from(value)[0]
    return number


def encode_int(value: int, length: int) -> bytes:
    """An int as getsockopt returns it into `length` bytes. Raises OSError EINVAL for a negative length."""
    if length < 0:
        raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
    return _UINT.pack(value & UINT_MAX)[:length]


def encode_int_or_byte(value: int, length: int) -> bytes:
    """As `encode_int`, but into fewer than four bytes goes one byte, where the value fits it (do_ip_getsockopt)."""
    if 0 < length < 4 and 0 <= value <= 255:
        return bytes((value,))
    return encode_int(value, length)


def pack_name(name: Name) -> bytes:
    """An address as `struct sockaddr_in`, `_in6`, `_ll` or `_nl`; `sockaddr` of AF_UNSPEC for no address."""
    family = name.family.to_bytes(2, "little")
    if isinstance(name, NetlinkAddr):
        return family + bytes(2) + _UINT.pack(name.portid) + _UINT.pack(name.groups)
    if isinstance(name, PacketAddr):
        return (
            family
            + name.protocol.to_bytes(2, "big")
            + _INT.pack(name.ifindex)
            + name.hatype.to_bytes(2, "little")
            + bytes((name.pkttype, len(name.addr)))
            + name.addr.ljust(8, b"\0")
        )
    port = name.port.to_bytes(2, "big")
    if len(name.addr) == 4:
        return family + port + name.addr + bytes(8)
    if len(name.addr) == 16:
        return family + port + name.flowinfo.to_bytes(4, "big") + name.addr + _UINT.pack(name.scope_id)
    return bytes(16)
