"""A super-segment of TCP as the frames of its segments, for a device that can do nothing by itself: the shortest way.

What `gso_segment` and `checksum_help` do packet by packet, and what makes a packet of each, is left out: the header of
each segment is packed in one go from the first one's, both checksums follow from sums that are made once, and the frame
is bytes, ready to be written. For IPv4 without options; anything else goes the ordinary way.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from usernet.ip.v4.train import IPPROTO_TCP
from usernet.skbuff.skbuff import SKB_GSO_TCP_ACCECN, SKB_GSO_TCPV4, SKBuff
from usernet.wire import checksum, ipv4, tcp
from usernet.wire.ipv4 import IP_HLEN, IP_MF, IP_OFFSET
from usernet.wire.tcp import CWR, FIN, PSH, TCP_HLEN

_from_bytes: Final = int.from_bytes

_SIMPLE: Final = 0x4500
"""The first word of a header without options, but for its traffic class."""


@lru_cache(maxsize=64)
def _layout(link: int, options: int) -> Struct:
    """A frame's headers with a link header of `link` bytes and TCP options of `options` bytes.

    All up to the total length, that, the identification, fragment bits to protocol, the checksum, addresses and ports,
    sequence and acknowledgement number, data offset and flags, window, the checksum, the urgent pointer and options.
    """
    return Struct(f"!{link + 2}sHH4sH12sIIHHH{2 + options}s")


def _payload(skb: SKBuff, start: int) -> bytes:
    """What is behind byte `start` of `head`, in one piece."""
    frags = skb.frags
    if start == skb.tail and frags and len(frags) == 1:
        only = frags[0]
        return only if isinstance(only, bytes) else bytes(only)
    return b"".join((skb.head[start : skb.tail], *(frags or ())))


def tcp_frames(skb: SKBuff) -> list[bytes] | None:
    """The frames of a super-segment, `data` at its link header, `network_header` set; None where it is not the usual
    one. `skb` is not changed."""
    head = skb.head
    data = skb.data
    network = skb.network_header
    transport = network + IP_HLEN
    if (
        not skb.gso_type & SKB_GSO_TCPV4
        or not data <= network
        or skb.tail - transport < TCP_HLEN
        or head[network] != _SIMPLE >> 8
        or head[network + 9] != IPPROTO_TCP
    ):
        return None
    _, tos, _, ident, frag_off, _, _, _, saddr, daddr = ipv4.parse(head, network)
    _, _, seq, ack, header_len, flags, window, _, _ = tcp.parse(head, transport)
    start = transport + header_len
    if frag_off & (IP_MF | IP_OFFSET) or header_len < TCP_HLEN or start > skb.tail:
        return None
    mss = skb.gso_size
    payload = _payload(skb, start)
    size = len(payload)
    if not size:
        return None
    pack = _layout(network - data, header_len - TCP_HLEN).pack
    prefix = head[data : network + 2]
    fragment = head[network + 6 : network + 10]
    addresses = head[network + 12 : transport + 4]
    rest = head[transport + 18 : start]
    # What both sums have in every segment: of the first, all but total length and identification, of the second all
    # but the length in the pseudo header, the sequence number, flags and payload.
    network_sum = _SIMPLE + tos + _from_bytes(fragment, "big") + _from_bytes(saddr + daddr, "big")
    transport_sum = _from_bytes(addresses, "big") + IPPROTO_TCP + ack + window + _from_bytes(rest, "big")
    offset = header_len << 10
    # FIN and PSH are of the last; CWR of the first, or part of a counter with accurate ECN (RFC 9768).
    middle = flags & ~(FIN | PSH)
    once = 0 if skb.gso_type & SKB_GSO_TCP_ACCECN else CWR
    csum = checksum.csum
    frames: list[bytes] = []
    at = 0
    while at < size:
        end = at + mss
        if end >= size:
            end = size
            middle = flags & ~once if at else flags
        length = header_len + end - at
        doff_flags = offset | middle
        header = pack(
            prefix,
            IP_HLEN + length,
            ident,
            fragment,
            -(network_sum + IP_HLEN + length + ident) % 0xFFFF,
            addresses,
            seq,
            ack,
            doff_flags,
            window,
            -(transport_sum + length + seq + doff_flags + csum(payload, at, end)) % 0xFFFF,
            rest,
        )
        frames.append(header + payload[at:end])
        ident = ident + 1 & 0xFFFF
        seq = seq + mss & 0xFFFFFFFF
        middle &= ~once
        at = end
    return frames
