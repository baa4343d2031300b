"""Where the extension of an ICMP error begins, and whether it is sound (RFC 4884; Linux: ip_icmp_error_rfc4884).

An ICMP error quotes the datagram that it is about, cut or padded to a length that it tells, and may have objects behind
that: labels of MPLS (RFC 4950), interfaces (RFC 5837), …. A socket with IP_RECVERR_RFC4884 is told where in what it
gets of the quotation they begin (`struct sock_ee_data_rfc4884`).

    version (4 bits)… (1) reserved (1) checksum (2) | length (2) class (1) type (1) … | length …
"""

from __future__ import annotations

import sys
from struct import Struct
from typing import Final

from usernet.wire import checksum

SO_EE_RFC4884_FLAG_INVALID: Final = 1

SHORTEST: Final = 128
"""Bytes of the quotation, at least, where an extension follows it (section 4)."""

_EE_DATA: Final = Struct("=HBB")
_EXT_HLEN: Final = 4
_OBJ_HLEN: Final = 4


def extension(quoted: bytes, told: int, headers: int) -> int:
    """The `ee_data` of an error.

    Args:
        quoted: what was quoted, and all behind it, from the payload of the packet complained of on.
        told: bytes of the quotation by the ICMP header, from its IP header on; 0 where it tells none.
        headers: bytes of that packet's headers, which `quoted` is without.

    Returns:
        0 where there is no extension; else its offset in `quoted`, with a flag where it is damaged.
    """
    if told < SHORTEST or told < headers:
        return 0
    offset = told - headers
    if offset + _EXT_HLEN > len(quoted):
        return 0
    flags = 0 if _sound(quoted, offset) else SO_EE_RFC4884_FLAG_INVALID
    return int.from_bytes(_EE_DATA.pack(offset, flags, 0), sys.byteorder)


def _sound(quoted: bytes, offset: int) -> bool:
    end = len(quoted)
    if quoted[offset] >> 4 != 2:
        return True  # of a version that nobody here can judge
    if quoted[offset + 2 : offset + 4] != b"\0\0" and checksum.csum(quoted, offset, end) % 0xFFFF:
        return False
    offset += _EXT_HLEN
    while offset < end:
        if offset + _OBJ_HLEN > end:
            return False
        length = int.from_bytes(quoted[offset : offset + 2], "big")
        if length < _OBJ_HLEN or offset + length > end:
            return False
        offset += length
    return True
