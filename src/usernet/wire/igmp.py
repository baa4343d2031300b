"""IGMP: RFC 1112 appendix I (version 1), RFC 2236 (version 2), RFC 3376 (version 3).

The payload of an IPv4 packet of protocol 2, sent with TTL 1 and a router alert. Linux: `igmp_rcv`, `igmp_heard_query`,
`igmpv3_newpack`, `igmp_send_report`, `include/uapi/linux/igmp.h`.

    0      1      2       4       8
    | type | code | check | group |                                              versions 1 and 2; a query of any
                                  | s, qrv | qqic | nsrcs | sources …            a query of version 3 goes on
    | type | 0    | check | 0, ngrec | records …                                 a report of version 3

A query tells its version by its length and its code (RFC 3376 section 7.1), see `query_version`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from usernet.wire.checksum import csum, csum_fold
from usernet.wire.errors import WireError

IGMP_HLEN: Final = 8
IGMPV3_QUERY_HLEN: Final = 12
IGMPV3_GREC_HLEN: Final = 8

IGMP_HOST_MEMBERSHIP_QUERY: Final = 0x11
IGMP_HOST_MEMBERSHIP_REPORT: Final = 0x12
IGMPV2_HOST_MEMBERSHIP_REPORT: Final = 0x16
IGMP_HOST_LEAVE_MESSAGE: Final = 0x17
IGMPV3_HOST_MEMBERSHIP_REPORT: Final = 0x22

# Types of a group record (RFC 3376 section 4.2.12)
IGMPV3_MODE_IS_INCLUDE: Final = 1
IGMPV3_MODE_IS_EXCLUDE: Final = 2
IGMPV3_CHANGE_TO_INCLUDE: Final = 3
IGMPV3_CHANGE_TO_EXCLUDE: Final = 4
IGMPV3_ALLOW_NEW_SOURCES: Final = 5
IGMPV3_BLOCK_OLD_SOURCES: Final = 6

IGMP_ALL_HOSTS: Final = b"\xe0\x00\x00\x01"  # 224.0.0.1: general queries
IGMP_ALL_ROUTER: Final = b"\xe0\x00\x00\x02"  # 224.0.0.2: leave messages
IGMPV3_ALL_MCR: Final = b"\xe0\x00\x00\x16"  # 224.0.0.22: reports of version 3

IGMP_TIMER_SCALE: Final = 10  # a code counts tenths of a second
IGMP_QUERY_RESPONSE_INTERVAL: Final = 100  # tenths; what a query of version 1 leaves unsaid (RFC 2236 section 4)

_HDR: Final = Struct("!BBH4s")
_V3_QUERY: Final = Struct("!BBH4sBBH")
_V3_REPORT: Final = Struct("!BBHHH")
_GREC: Final = Struct("!BBH4s")

parse: Final[Callable[[bytes, int], tuple[int, int, int, bytes]]] = _HDR.unpack_from
"""`parse(b, o) -> (type, code, check, group)`: the caller has checked for IGMP_HLEN bytes."""


def decode_time(code: int) -> int:
    """Read a max resp code or QQIC: plain below 128, else 3 bits of exponent, 4 of mantissa (RFC 3376 4.1.1)."""
    return code if code < 128 else (code & 15 | 16) << (code >> 4 & 7) + 3


def encode_time(value: int) -> int:
    """Write a time as a code: the greatest that is not above `value`; 31744 and more are 255."""
    if value < 128:
        return value
    exponent = min(value.bit_length() - 8, 7)
    return 0x80 | exponent << 4 | min((value >> exponent + 3) - 16, 15)


def query_version(b: bytes, o: int, end: int) -> int:
    """Say which version a query is of (RFC 3376 section 7.1).

    Args:
        b: the packet.
        o: where the query starts; the caller has checked for IGMP_HLEN bytes.
        end: where the IPv4 payload ends.

    Returns:
        1, 2 or 3; 0 for 9 to 11 bytes, which is none and must be ignored.
    """
    size = end - o
    if size >= IGMPV3_QUERY_HLEN:
        return 3
    if size > IGMP_HLEN:
        return 0
    return 2 if b[o + 1] else 1


def parse_query(b: bytes, o: int, end: int) -> tuple[bytes, int, bool, int, int, list[bytes]]:
    """Unpack a query of any version.

    Args:
        b: the packet.
        o: where the query starts.
        end: where the IPv4 payload ends.

    Returns:
        (group, max_resp, suppress, qrv, qqic, sources). `group` is 0.0.0.0 in a general query; `max_resp` is in tenths
        of a second, 100 for version 1; `suppress`, `qrv`, `qqic` (seconds) and `sources` are False, 0, 0, [] below 3.

    Raises:
        WireError: too short, or fewer sources than it counts.
    """
    size = min(end, len(b)) - o
    if size < IGMP_HLEN or IGMP_HLEN < size < IGMPV3_QUERY_HLEN:
        raise WireError(f"IGMP query of {size} bytes; expected 8, or 12 and more", o)
    if size == IGMP_HLEN:
        _, code, _, group = _HDR.unpack_from(b, o)
        return group, code or IGMP_QUERY_RESPONSE_INTERVAL, False, 0, 0, []
    _, code, _, group, s_qrv, qqic, count = _V3_QUERY.unpack_from(b, o)
    sources = _addresses(b, o + IGMPV3_QUERY_HLEN, count, o + size)
    return group, decode_time(code), s_qrv & 8 != 0, s_qrv & 7, decode_time(qqic), sources


def parse_v3_report(b: bytes, o: int, end: int) -> list[tuple[int, bytes, list[bytes]]]:
    """Unpack a report of version 3 (RFC 3376 section 4.2).

    Args:
        b: the packet.
        o: where the report starts.
        end: where the IPv4 payload ends.

    Returns:
        (type, group, sources) of each record.

    Raises:
        WireError: shorter than its counts say.
    """
    end = min(end, len(b))
    if end - o < IGMP_HLEN:
        raise WireError(f"IGMP report of {end - o} bytes; expected 8 or more", o)
    left = b[o + 6] << 8 | b[o + 7]
    at = o + IGMP_HLEN
    records: list[tuple[int, bytes, list[bytes]]] = []
    while left:
        if at + IGMPV3_GREC_HLEN > end:
            raise WireError(f"IGMP report that ends with {left} records to come", at)
        kind, aux_words, count, group = _GREC.unpack_from(b, at)
        at += IGMPV3_GREC_HLEN
        records.append((kind, group, _addresses(b, at, count, end)))
        at += 4 * (count + aux_words)
        left -= 1
    return records


def _addresses(b: bytes, start: int, count: int, end: int) -> list[bytes]:
    """Cut `count` addresses out of `b[start:end]`."""
    after = start + 4 * count
    if after > end:
        raise WireError(f"{count} IGMP sources where {max(end - start, 0) // 4} fit", start)
    return [b[i : i + 4] for i in range(start, after, 4)]


def _sealed(head: bytes, tail: bytes) -> bytes:
    """Put the checksum, whose field is zero in `head`, over `head + tail`."""
    message = head + tail
    check = csum_fold(csum(message, 0, len(message)))
    return message[:2] + bytes((check >> 8, check & 0xFF)) + message[4:]


def build_query(group: bytes, max_resp: int) -> bytes:
    """Build a query of version 2, or of version 1 if `max_resp` (tenths of a second, 0 to 255) is 0: 8 bytes."""
    return _sealed(_HDR.pack(IGMP_HOST_MEMBERSHIP_QUERY, max_resp, 0, group), b"")


def build_v3_query(
    group: bytes, max_resp: int, suppress: bool, qrv: int, qqic: int, sources: Sequence[bytes] = ()
) -> bytes:
    """Build a query of version 3 (RFC 3376 section 4.1).

    Args:
        group: 4 bytes; zero for a general query.
        max_resp: tenths of a second, rounded down to what a code can say.
        suppress: the S flag: other routers leave their timers as they are.
        qrv: the querier's robustness, 0 to 7.
        qqic: the querier's interval, seconds, rounded down to what a code can say.
        sources: addresses asked about, 4 bytes each.

    Returns:
        12 + 4 x len(sources) bytes.
    """
    s_qrv = (8 if suppress else 0) | qrv
    head = _V3_QUERY.pack(
        IGMP_HOST_MEMBERSHIP_QUERY, encode_time(max_resp), 0, group, s_qrv, encode_time(qqic), len(sources)
    )
    return _sealed(head, b"".join(sources))


def build_v1_report(group: bytes) -> bytes:
    """Build a membership report of version 1: 8 bytes."""
    return _sealed(_HDR.pack(IGMP_HOST_MEMBERSHIP_REPORT, 0, 0, group), b"")


def build_v2_report(group: bytes) -> bytes:
    """Build a membership report of version 2: 8 bytes."""
    return _sealed(_HDR.pack(IGMPV2_HOST_MEMBERSHIP_REPORT, 0, 0, group), b"")


def build_v2_leave(group: bytes) -> bytes:
    """Build a leave message of version 2: 8 bytes."""
    return _sealed(_HDR.pack(IGMP_HOST_LEAVE_MESSAGE, 0, 0, group), b"")


def build_v3_report(records: Sequence[tuple[int, bytes, Sequence[bytes]]]) -> bytes:
    """Build a report of version 3.

    Args:
        records: (type, group, sources) each: an IGMPV3_ type, 4 bytes, and 4 bytes a source.

    Returns:
        8 bytes and 8 + 4 x len(sources) a record. The caller sees to it that they fit the device's MTU.
    """
    parts: list[bytes] = []
    for kind, group, sources in records:
        parts.append(_GREC.pack(kind, 0, len(sources), group))
        parts += sources
    return _sealed(_V3_REPORT.pack(IGMPV3_HOST_MEMBERSHIP_REPORT, 0, 0, 0, len(records)), b"".join(parts))
