"""A super-segment of TCP as the frames of its segments, for a device that can do nothing by itself: the shortest way.

What `gso_segment` and `checksum_help` do packet by packet, and what makes a packet of each, is left out: the frames are
bytes, made in one go (wire/tcp_ipv4) and ready to be written. For IPv4 without options; anything else goes the ordinary
way.
"""

from __future__ import annotations

from usernet.skbuff.skbuff import SKB_GSO_TCP_ACCECN, SKB_GSO_TCPV4, SKBuff
from usernet.wire.ipv4 import IP_HLEN, IP_MF, IP_OFFSET
from usernet.wire.tcp import CWR, TCP_HLEN
from usernet.wire.tcp_ipv4 import IPPROTO_TCP, SIMPLE, split


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
        or head[network] != SIMPLE >> 8
        or head[network + 9] != IPPROTO_TCP
        or (head[network + 6] << 8 | head[network + 7]) & (IP_MF | IP_OFFSET)
    ):
        return None
    header_len = (head[transport + 12] >> 4) * 4
    start = transport + header_len
    if header_len < TCP_HLEN or start > skb.tail:
        return None
    payload = _payload(skb, start)
    if not payload:
        return None
    # CWR is of the first, or part of a counter with accurate ECN (RFC 9768).
    once = 0 if skb.gso_type & SKB_GSO_TCP_ACCECN else CWR
    return split(head, data, network, payload, skb.gso_size, once)
