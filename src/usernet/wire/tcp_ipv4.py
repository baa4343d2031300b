"""Whole frames of one TCP flow over IPv4: many at once, each told from the one before by a few numbers.

The segments of a super-segment differ in total length, identification, sequence number, flags and both checksums; all
else, some fifty bytes from the link header to the options, is the same. So it is not built field by field: `split`
makes the frames of a super-segment from its first headers. The other way, a run of frames that are received, is in
wire/tcp_ipv4_run. What protocols decide (which packets may be split, and what that means) is above: ip/v4/frames.

    0     network                                        transport                               payload
    | link | ver_ihl tos | tot_len ident | frag_off ttl protocol | check | saddr daddr | sport dport | seq | ack …
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.wire.checksum import WIDE, csum, words
from usernet.wire.ipv4 import IP_HLEN
from usernet.wire.ipv4 import parse as _parse_ip
from usernet.wire.tcp import FIN, PSH, TCP_HLEN
from usernet.wire.tcp import parse as _parse_tcp

if TYPE_CHECKING:
    from usernet.core.native import i64

IPPROTO_TCP: Final = 6
SIMPLE: Final = 0x4500
"""The first word of an IPv4 header without options, but for its traffic class."""

if WIDE:
    from usernet.wire.wide import Template


@lru_cache(maxsize=64)
def _built(link: int, options: int) -> Struct:
    """A frame's headers with a link header of `link` bytes and TCP options of `options` bytes.

    All up to the total length, that, the identification, fragment bits to protocol, the checksum, addresses and ports,
    the sequence number, all up to the checksum, that, the urgent pointer and options.
    """
    return Struct(f"!{link + 2}sHH4sH12sI8sH{2 + options}s")


def split(head: bytes, data: int, network: int, payload: bytes, mss: int, once: int) -> list[bytes]:
    """Make the frames of a super-segment, with both checksums.

    Args:
        head: its headers: IPv4 without options, and TCP.
        data: where its link header starts in `head`.
        network: where its IPv4 header does.
        payload: all of its payload, which is not empty.
        mss: bytes of payload of each frame but the last.
        once: flags that belong to the first frame only. FIN and PSH are the last one's.

    Returns:
        The frames. The identification rises by one from each to the next.
    """
    transport = network + IP_HLEN
    _, tos, _, first_ident, _, _, _, _, saddr, daddr = _parse_ip(head, network)
    _, _, first_seq, ack, header_len, flags, window, _, _ = _parse_tcp(head, transport)
    prefix = head[data : network + 2]
    fragment = head[network + 6 : network + 10]
    addresses = head[network + 12 : transport + 4]
    rest = head[transport + 18 : transport + header_len]
    # What both sums have in every segment: of the first, all but total length and identification, of the second all
    # but the length in the pseudo header, the sequence number, flags and payload.
    network_sum = SIMPLE + tos + words(fragment) + words(saddr + daddr)
    transport_sum = words(addresses) + IPPROTO_TCP + ack + window + words(rest)
    pack = _built(network - data, header_len - TCP_HLEN).pack
    frames: list[bytes] = []
    size = len(payload)
    last = (size - 1) // mss * mss
    middle = flags & ~(FIN | PSH)
    ip: i64 = network - data
    step: i64 = mss
    ident: i64 = first_ident
    seq: i64 = first_seq
    at: i64 = 0
    # The first frame, those between and the last: in each of these runs, length and flags are the same.
    for end, length, own in (
        (min(last, mss), mss, middle),
        (last, mss, middle & ~once),
        (size, size - last, flags & ~once if last else flags),
    ):
        stop: i64 = end
        if at >= stop:
            continue
        total = IP_HLEN + header_len + length
        doff_flags = header_len << 10 | own
        numbers = (ack << 32 | doff_flags << 16 | window).to_bytes(8, "big")
        network_own: i64 = network_sum + total
        transport_own: i64 = transport_sum + header_len + length + doff_flags
        first = pack(prefix, total, 0, fragment, 0, addresses, 0, numbers, 0, rest)
        template = Template(first) if WIDE else None
        while at < stop:
            piece = payload[at : at + step]
            check = -(network_own + ident) % 0xFFFF
            tcp_check = 0xFFFF - csum(piece, 0, length, transport_own + seq)
            if template is not None:
                template.put(ip + 4, ident)
                template.put(ip + 10, check)
                template.put(ip + 24, seq >> 16)
                template.put(ip + 26, seq)
                template.put(ip + 36, tcp_check)
                header = template.value()
            else:
                header = pack(prefix, total, ident, fragment, check, addresses, seq, numbers, tcp_check, rest)
            frames.append(header + piece)
            ident = ident + 1 & 0xFFFF
            seq = seq + step & 0xFFFFFFFF
            at += step
    return frames
