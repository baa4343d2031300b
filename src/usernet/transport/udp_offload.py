"""UDP's part in splitting and merging packets: UDP_SEGMENT and UDP_GRO (Linux: net/ipv4/udp_offload.c).

Datagrams have borders that mean something, so a merged packet goes only to a socket that asked for such (UDP_GRO) and
is told the size of each; and a super-segment that reaches any other socket is split before it (`receive_segments`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from usernet.net.offload import Offload, Offloads
from usernet.net.pernet import Net
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl, append_payload, checksum_ok
from usernet.netdevice.gso import cut_payload, new_segment
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_UDP_L4,
    SKBTX_SW_TSTAMP,
    SKBuff,
)
from usernet.wire import checksum, udp
from usernet.wire.ethernet import ETH_P_IP, ETH_P_IPV6
from usernet.wire.udp import UDP_CHECK_OFFSET, UDP_HLEN

IPPROTO_UDP: Final = 17

UDP_GRO_CNT_MAX: Final = 64
"""Datagrams merged into one packet at most (Linux, same name)."""

GroLookup = Callable[[SKBuff, int, int], bool]
"""`lookup(skb, sport, dport)`: whether the socket that `skb` (its `saddr`, `daddr` and `dev` are set) is for has
UDP_GRO on."""


@final
class UdpOffload(Offload):
    """The offload of UDP over every network layer; `net.get(UdpOffload)` makes and registers it.

    gro_lookup: set by the transport once a socket asks for UDP_GRO; None: nothing is merged.
    """

    def __init__(self, net: Net) -> None:
        offloads = net.get(Offloads)
        offloads.transport[ETH_P_IP, IPPROTO_UDP] = self
        offloads.transport[ETH_P_IPV6, IPPROTO_UDP] = self
        self._packet = offloads.packet
        self.gro_lookup: GroLookup | None = None

    def gso_segment(self, skb: SKBuff) -> list[SKBuff]:
        """Split a super-segment, `data` at the UDP header, with `saddr` and `daddr` set (__udp_gso_segment)."""
        if not skb.gso_type & SKB_GSO_UDP_L4:
            raise ValueError("a UDP packet that is to be split as another protocol's")
        start = skb.data
        if skb.tail - start < UDP_HLEN:
            raise ValueError("a super-segment without a UDP header")
        sport, dport, _, check = udp.parse(skb.head, start)
        size = skb.gso_size
        pieces = cut_payload(skb, start + UDP_HLEN, size)
        last_size = skb.len - UDP_HLEN - size * (len(pieces) - 1)
        # A field of 0, and nobody asked to fill it in: the sender computes none (RFC 768).
        without = check == 0 and skb.ip_summed != CHECKSUM_PARTIAL
        segments: list[SKBuff] = []
        count = len(pieces)
        pseudo = 0
        for index, piece in enumerate(pieces):
            if index == count - 1:
                size = last_size
            length = UDP_HLEN + size
            if not without and (index == 0 or index == count - 1):
                pseudo = checksum.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_UDP, length)
            segment = new_segment(udp.build(sport, dport, length, pseudo), piece, size, UDP_CHECK_OFFSET)
            if without:
                segment.ip_summed = CHECKSUM_NONE
                segment.csum_start = -1
            segments.append(segment)
        if skb.tx_flags & SKBTX_SW_TSTAMP:
            # One time for all: that of the first.
            segments[0].tx_flags = SKBTX_SW_TSTAMP
            segments[0].tskey = skb.tskey
            segments[0].sk = skb.sk
        return segments

    def receive_segments(self, skb: SKBuff) -> list[SKBuff]:
        """Split a received super-segment for a socket that takes only single datagrams (Linux: udp_rcv_segment).

        Each datagram comes as `skb` did: `data` at the UDP header, network header before it, address family and
        addresses set; its checksum needs no look. Raises ValueError as `gso_segment`; `skb` is used up.
        """
        offload = self._packet.get(skb.protocol)
        if offload is None:
            raise ValueError(f"no segmentation for EtherType {skb.protocol:#06x}")
        af = skb.af
        saddr, daddr = skb.saddr, skb.daddr
        segments = offload.gso_segment(skb)
        for segment in segments:
            segment.pull(segment.transport_header)
            segment.af = af
            segment.saddr = saddr
            segment.daddr = daddr
            segment.dst = skb.dst
            if segment.ip_summed == CHECKSUM_PARTIAL:
                segment.ip_summed = CHECKSUM_UNNECESSARY
        return segments

    def gro_flow(self, skb: SKBuff, offset: int) -> bytes | None:
        """The ports, of a datagram whose socket wants merged ones (Linux: udp4_gro_receive)."""
        lookup = self.gro_lookup
        if lookup is None or skb.gso_size or skb.tail - offset < UDP_HLEN:
            return None
        sport, dport, length, check = udp.parse(skb.head, offset)
        start = offset - skb.data + UDP_HLEN
        size = skb.len - start
        # One without a checksum could not be told from one with, once merged and split again.
        if check == 0 or size <= 0 or length != size + UDP_HLEN or not lookup(skb, sport, dport):
            return None
        if skb.ip_summed == CHECKSUM_NONE:
            if not checksum_ok(skb, offset, IPPROTO_UDP):
                return None
            skb.ip_summed = CHECKSUM_UNNECESSARY
        control: GroControl = skb.cb
        control.start = start
        control.mss = size
        control.closed = False
        # The leading byte keeps it apart from a TCP flow between the same ports.
        return b"\x11" + skb.head[offset : offset + 4]

    def gro_merge(self, held: SKBuff, skb: SKBuff) -> bool:
        ours: GroControl = held.cb
        its: GroControl = skb.cb
        size = its.mss
        if ours.closed or size > ours.mss or held.len + size > GRO_MAX_SIZE:
            return False
        append_payload(held, skb, its.start, size)
        ours.closed = size < ours.mss or ours.count + 1 >= UDP_GRO_CNT_MAX
        return True

    def gro_complete(self, held: SKBuff) -> None:
        control: GroControl = held.cb
        offset = held.data + control.start - UDP_HLEN
        length = held.len - (offset - held.data)
        sport, dport, _, _ = udp.parse(held.head, offset)
        pseudo = checksum.pseudo_sum(held.saddr, held.daddr, IPPROTO_UDP, length)
        held.store(offset, udp.build(sport, dport, length, pseudo))
        held.ip_summed = CHECKSUM_PARTIAL
        held.csum_start = held.transport_header = offset
        held.csum_offset = UDP_CHECK_OFFSET
        held.gso_type = SKB_GSO_UDP_L4
