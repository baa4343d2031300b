"""IPv4 headers: RFC 791, RFC 1624 for the checksum of a forwarded packet, RFC 2474 and 3168 for the TOS byte.

What follows the link header of an ETH_P_IP frame. Linux: `ip_rcv`, `ip_build_and_send_pkt`, `ip_decrease_ttl`,
`include/uapi/linux/ip.h`. The options are read and written in `ipv4_options`, whose names are here too.

    0         1     2         4       6          8     9          10      12      16      20
    | ver_ihl | tos | tot_len | ident | frag_off | ttl | protocol | check | saddr | daddr | options …
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from usernet.core.compiled import COMPILED
from usernet.wire.checksum import words

# The sorter would give each renamed import a statement of its own.
# isort: off
from usernet.wire.ipv4_options import (
    IPOPT_CIPSO as IPOPT_CIPSO,
    IPOPT_COPY as IPOPT_COPY,
    IPOPT_END as IPOPT_END,
    IPOPT_EOL as IPOPT_EOL,
    IPOPT_LSRR as IPOPT_LSRR,
    IPOPT_MINOFF as IPOPT_MINOFF,
    IPOPT_NOOP as IPOPT_NOOP,
    IPOPT_NOP as IPOPT_NOP,
    IPOPT_RA as IPOPT_RA,
    IPOPT_RR as IPOPT_RR,
    IPOPT_SEC as IPOPT_SEC,
    IPOPT_SID as IPOPT_SID,
    IPOPT_SSRR as IPOPT_SSRR,
    IPOPT_TIMESTAMP as IPOPT_TIMESTAMP,
    IPOPT_TS as IPOPT_TS,
    IPOPT_TS_PRESPEC as IPOPT_TS_PRESPEC,
    IPOPT_TS_TSANDADDR as IPOPT_TS_TSANDADDR,
    IPOPT_TS_TSONLY as IPOPT_TS_TSONLY,
    MAX_IPOPTLEN as MAX_IPOPTLEN,
    ROUTER_ALERT as ROUTER_ALERT,
    build_record_route as build_record_route,
    build_source_route as build_source_route,
    build_timestamp as build_timestamp,
    echo_options as echo_options,
    fragment_options as fragment_options,
    pad_options as pad_options,
    parse_options as parse_options,
    record_route as record_route,
    record_timestamp as record_timestamp,
    router_alert as router_alert,
    source_route_given as source_route_given,
    source_route_advance as source_route_advance,
    source_route_next as source_route_next,
    source_route_start as source_route_start,
    timestamp_addr as timestamp_addr,
)
# isort: on

if TYPE_CHECKING:
    from usernet.core.native import i64

IPVERSION: Final = 4
IP_HLEN: Final = 20
IP_MAX_HLEN: Final = 60
IP_MAX_MTU: Final = 0xFFFF
IPDEFTTL: Final = 64
MAXTTL: Final = 255

# frag_off: three flags and the offset, in units of 8 bytes
IP_CE: Final = 0x8000  # the reserved bit, under the name that Linux kept for it
IP_DF: Final = 0x4000
IP_MF: Final = 0x2000
IP_OFFSET: Final = 0x1FFF

_HDR: Final = Struct("!BBHHHBBH4s4s")
_TTL: Final = Struct("!BBH")
_pack: Final = _HDR.pack

Ipv4Header: TypeAlias = tuple[int, int, int, int, int, int, int, int, bytes, bytes]

if COMPILED:

    def _load16(b: bytes, o: i64) -> i64:
        high: i64 = b[o]
        low: i64 = b[o + 1]
        return high << 8 | low

    def parse(b: bytes, o: int) -> Ipv4Header:
        """`parse(b, o) -> (ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, check, saddr, daddr)`.

        The caller has checked for IP_HLEN bytes at `o`. The header's length is `(ver_ihl & 15) * 4`.
        """
        at: i64 = o
        return (
            b[at], b[at + 1], _load16(b, at + 2), _load16(b, at + 4), _load16(b, at + 6), b[at + 8], b[at + 9],
            _load16(b, at + 10), b[o + 12 : o + 16], b[o + 16 : o + 20],
        )  # fmt: skip

else:
    # The method of Struct itself, with no Python frame around it: a third off the price of a call.
    parse = _HDR.unpack_from  # type: ignore[assignment]


def build(
    tos: int,
    tot_len: int,
    ident: int,
    frag_off: int,
    ttl: int,
    protocol: int,
    saddr: bytes,
    daddr: bytes,
    options: bytes = b"",
) -> bytes:
    """Build a header with its checksum.

    Args:
        tos: DS field and ECN bits, 0 to 255.
        tot_len: bytes of header and payload; above 0xFFFF, as only a super-segment may be, the field is 0 and the
            packet's own length counts (Linux: iph_set_totlen).
        ident: identification, 0 to 0xFFFF.
        frag_off: IP_DF, IP_MF and the offset in units of 8 bytes.
        ttl: 0 to 255.
        protocol: 0 to 255.
        saddr: source, 4 bytes.
        daddr: destination, 4 bytes.
        options: up to 40 bytes, a multiple of 4 (`pad_options`).

    Returns:
        IP_HLEN + len(options) bytes.

    Raises:
        struct.error: a value does not fit its field.
    """
    if tot_len > 0xFFFF:
        tot_len = 0
    total = tos + tot_len + ident + frag_off + (ttl << 8) + protocol + words(saddr + daddr)
    if COMPILED and not (options or (tos | ttl | protocol) >> 8 or (ident | frag_off) >> 16):
        return b"%b%b%b%b" % (
            (0x45 << 40 | tos << 32 | tot_len << 16 | ident).to_bytes(6, "big"),
            (frag_off << 32 | ttl << 24 | protocol << 16 | -(total + 0x4500) % 0xFFFF).to_bytes(6, "big"),
            saddr,
            daddr,
        )
    if options:
        ver_ihl = 0x45 + (len(options) >> 2)
        total += (ver_ihl << 8) + words(options)
        return _pack(ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, -total % 0xFFFF, saddr, daddr) + options
    return _pack(0x45, tos, tot_len, ident, frag_off, ttl, protocol, -(total + 0x4500) % 0xFFFF, saddr, daddr)


def header_csum_ok(b: bytes, o: int, hlen: int) -> bool:
    """Verify a header's checksum (Linux: `ip_fast_csum` is 0).

    Args:
        b: the packet.
        o: where the header starts.
        hlen: its length with options, bytes.

    Returns:
        Whether the words sum to 0xFFFF.
    """
    total = words(b[o : o + hlen])
    return total % 0xFFFF == 0 and total != 0


def decrease_ttl(header: bytes) -> bytes:
    """Take one from a header's TTL and update its checksum, options or none (Linux: `ip_decrease_ttl`; RFC 1624).

    Args:
        header: a whole header whose TTL is above 0.

    Returns:
        The new header. A wrong checksum stays wrong, as it must for the receiver to notice.
    """
    ttl, protocol, check = _TTL.unpack_from(header, 8)
    # The word that holds the TTL falls by 0x0100, so the complement of the sum rises by it; end-around carry.
    check += 0x100
    return header[:8] + _TTL.pack(ttl - 1, protocol, (check + (check >= 0xFFFF)) & 0xFFFF) + header[12:]


def format_addr(b: bytes) -> str:
    """Write four bytes as a dotted quad (`inet_ntop`)."""
    return f"{b[0]}.{b[1]}.{b[2]}.{b[3]}"


def parse_addr(text: str) -> bytes:
    """Read a dotted quad, as strictly as `inet_pton` does: four decimal numbers, no leading zeros.

    Args:
        text: such as `10.0.0.1`.

    Returns:
        Four bytes.

    Raises:
        ValueError: the text is no such thing.
    """
    parts = text.split(".")
    if len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) <= 3 and (part[0] != "0" or part == "0") and int(part) <= 255
        for part in parts
    ):
        return bytes([int(part) for part in parts])
    raise ValueError(f"not an IPv4 address: {text!r}; expected four numbers such as 10.0.0.1")
