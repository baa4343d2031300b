"""Netlink messages: the header, and attributes (Linux: include/uapi/linux/netlink.h; RFC 3549 section 2.3).

A message is a header of 16 bytes, a header of its type, and attributes, each padded to a multiple of 4 bytes. All
integers are in the machine's order (x86-64 and aarch64: little-endian), but for addresses and ports.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from usernet.wire.errors import WireError

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_MIN_TYPE: Final = 0x10

NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_ECHO: Final = 0x8
NLM_F_DUMP_FILTERED: Final = 0x20
NLM_F_ROOT: Final = 0x100
NLM_F_MATCH: Final = 0x200
NLM_F_DUMP: Final = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLM_F_BULK: Final = 0x200
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

NLMSGERR_ATTR_MSG: Final = 1
NLMSGERR_ATTR_OFFS: Final = 2

NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

NLMSG_HDRLEN: Final = 16
NLA_HDRLEN: Final = 4

_HEADER: Final = Struct("=IHHII")
_ATTRIBUTE: Final = Struct("=HH")
_U8: Final = Struct("=HHB3x")
_U16: Final = Struct("=HHH2x")
_U32: Final = Struct("=HHI")
_U64: Final = Struct("=HHQ")

Header = tuple[int, int, int, int, int]
"""A message's length (with its header), type, flags, sequence number, and the port of its sender."""


def parse(data: bytes, offset: int) -> Header:
    """The header at `offset`, where 16 bytes must be."""
    length, kind, flags, seq, port = _HEADER.unpack_from(data, offset)
    return length, kind, flags, seq, port


def build(kind: int, flags: int, seq: int, port: int, payload: bytes) -> bytes:
    """A message, padded to a multiple of 4 bytes."""
    size = NLMSG_HDRLEN + len(payload)
    return _HEADER.pack(size, kind, flags, seq, port) + payload + bytes(-size & 3)


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute of raw data."""
    return _ATTRIBUTE.pack(NLA_HDRLEN + len(data), kind) + data + bytes(-len(data) & 3)


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return _U8.pack(5, kind, value & 0xFF)


def u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes."""
    return _U16.pack(6, kind, value & 0xFFFF)


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes."""
    return _U32.pack(8, kind, value & 0xFFFFFFFF)


def u64(kind: int, value: int) -> bytes:
    """An attribute of eight bytes."""
    return _U64.pack(12, kind, value & 0xFFFFFFFFFFFFFFFF)


def string(kind: int, text: str) -> bytes:
    """A string with the zero that ends it."""
    return attribute(kind, text.encode("utf-8", "surrogateescape") + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that is made of attributes; without NLA_F_NESTED, as rtnetlink's old ones are."""
    return attribute(kind, b"".join(parts))


def attributes(data: bytes, offset: int, strict: bool = False) -> dict[int, bytes]:
    """The attributes from `offset` to the end of `data`, by type; of two of a type the last one counts.

    What is left over at the end, too short to be one, is passed over, unless `strict`: then it raises WireError.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    while end - offset >= NLA_HDRLEN:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < NLA_HDRLEN or length > end - offset:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + NLA_HDRLEN : offset + length]
        offset += length + 3 & ~3
    if strict and offset < end:
        raise WireError(f"attributes: expected nothing more, not {end - offset} bytes", offset)
    return found


def number(data: bytes) -> int:
    """The unsigned integer that an attribute is, of 1 to 8 bytes."""
    return int.from_bytes(data, "little")


def text(data: bytes) -> str:
    """The string that an attribute is, up to its first zero."""
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
