"""ICMP for IPv4: RFC 792, RFC 1122 section 3.2.2, RFC 1191, RFC 1812 section 5.2.7, RFC 8335.

The payload of an IPv4 packet of protocol 1. Linux: `icmp_rcv`, `icmp_send`, `include/uapi/linux/icmp.h`.

    0      1      2       4        8
    | type | code | check | rest   | payload …

`rest` is 32 bits that each type divides in its way: identifier and sequence number (echo), next-hop MTU in the low 16
bits (fragmentation needed), gateway (redirect), pointer in the high 8 bits (parameter problem).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from usernet.wire.checksum import csum

ICMP_HLEN: Final = 8

ICMP_ECHOREPLY: Final = 0
ICMP_DEST_UNREACH: Final = 3
ICMP_SOURCE_QUENCH: Final = 4
ICMP_REDIRECT: Final = 5
ICMP_ECHO: Final = 8
ICMP_ROUTERADVERT: Final = 9  # RFC 1256; Linux has no name for it
ICMP_ROUTERSOLICIT: Final = 10
ICMP_TIME_EXCEEDED: Final = 11
ICMP_PARAMETERPROB: Final = 12
ICMP_TIMESTAMP: Final = 13
ICMP_TIMESTAMPREPLY: Final = 14
ICMP_INFO_REQUEST: Final = 15
ICMP_INFO_REPLY: Final = 16
ICMP_ADDRESS: Final = 17
ICMP_ADDRESSREPLY: Final = 18
NR_ICMP_TYPES: Final = 18
ICMP_EXT_ECHO: Final = 42
ICMP_EXT_ECHOREPLY: Final = 43

# Codes of ICMP_DEST_UNREACH
ICMP_NET_UNREACH: Final = 0
ICMP_HOST_UNREACH: Final = 1
ICMP_PROT_UNREACH: Final = 2
ICMP_PORT_UNREACH: Final = 3
ICMP_FRAG_NEEDED: Final = 4
ICMP_SR_FAILED: Final = 5
ICMP_NET_UNKNOWN: Final = 6
ICMP_HOST_UNKNOWN: Final = 7
ICMP_HOST_ISOLATED: Final = 8
ICMP_NET_ANO: Final = 9
ICMP_HOST_ANO: Final = 10
ICMP_NET_UNR_TOS: Final = 11
ICMP_HOST_UNR_TOS: Final = 12
ICMP_PKT_FILTERED: Final = 13
ICMP_PREC_VIOLATION: Final = 14
ICMP_PREC_CUTOFF: Final = 15
NR_ICMP_UNREACH: Final = 15

# Codes of ICMP_REDIRECT
ICMP_REDIR_NET: Final = 0
ICMP_REDIR_HOST: Final = 1
ICMP_REDIR_NETTOS: Final = 2
ICMP_REDIR_HOSTTOS: Final = 3

# Codes of ICMP_TIME_EXCEEDED
ICMP_EXC_TTL: Final = 0
ICMP_EXC_FRAGTIME: Final = 1

# Codes of ICMP_PARAMETERPROB (RFC 792, RFC 1122 section 3.2.2.5)
ICMP_PTR_INDICATES_ERROR: Final = 0
ICMP_MISSING_OPTION: Final = 1
ICMP_BAD_LENGTH: Final = 2

# Codes of ICMP_EXT_ECHOREPLY (RFC 8335 section 3)
ICMP_EXT_CODE_MAL_QUERY: Final = 1
ICMP_EXT_CODE_NO_IF: Final = 2
ICMP_EXT_CODE_NO_TABLE_ENT: Final = 3
ICMP_EXT_CODE_MULT_IFS: Final = 4

_HDR: Final = Struct("!BBHI")
_pack: Final = _HDR.pack

parse: Final[Callable[[bytes, int], tuple[int, int, int, int]]] = _HDR.unpack_from
"""`parse(b, o) -> (type, code, check, rest)`: the caller has checked for ICMP_HLEN bytes; `rest` is 0 to 0xFFFFFFFF."""


def build(type: int, code: int, rest: int, payload: bytes) -> bytes:
    """Build an ICMP message with its checksum.

    Args:
        type: an ICMP_ type.
        code: its code.
        rest: the second 32 bits, 0 to 0xFFFFFFFF.
        payload: what follows the header.

    Returns:
        The whole message, ICMP_HLEN + len(payload) bytes.
    """
    total = (type << 8 | code) + rest + csum(payload, 0, len(payload))
    # Only an echo reply of all zeros sums to 0, whose complement is 0xFFFF.
    return _pack(type, code, -total % 0xFFFF if total else 0xFFFF, rest) + payload


def is_error(type: int) -> bool:
    """Say whether a type is an error: no error is sent about those (RFC 1122 section 3.2.2; Linux: `icmp_pointers`)."""
    return type in (3, 4, 5, 11, 12)
