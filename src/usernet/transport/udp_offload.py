"""Splitting and merging UDP super-datagrams (Linux: net/ipv4/udp_offload.c; UDP_SEGMENT, UDP_GRO).

A super-datagram is one header with the payloads of many datagrams behind it, `gso_size` bytes each, the last may have
less. Split: each gets the header anew, with its own length. Merge: only for a socket that asked for it with UDP_GRO,
since merging moves the borders between datagrams into ancillary data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Offload
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    GSO_MAX_SIZE,
    SKB_GSO_UDP_L4,
    SKBuff,
)
from usernet.wire import udp
from usernet.wire.checksum import csum_sub

if TYPE_CHECKING:
    from usernet.transport.udp_table import UdpTable

UDP_GRO_CNT_MAX: Final = 64


@final
class UdpOffload(Offload):
    """UDP's, for every network layer: registered once for each EtherType."""

    def __init__(self, table: UdpTable) -> None:
        self._table = table

    def gso_segment(self, skb: SKBuff) -> list[SKBuff]:
        """Split a super-datagram whose `data` is at its UDP header. Each segment's `head` starts with the same bytes as
        the packet's, up to `data`, and its header offsets are the packet's.

        Raises ValueError where it is no super-datagram with a checksum that is still to be filled in.
        """
        size = skb.gso_size
        start = skb.data
        if not size or skb.tail - start < udp.UDP_HLEN or not skb.gso_type & SKB_GSO_UDP_L4:
            raise ValueError("not a UDP super-datagram")
        sport, dport, length, check = udp.parse(skb.head, start)
        # The pseudo sum holds the length; with the length taken out it serves every segment.
        base = csum_sub(check, length) if skb.ip_summed == CHECKSUM_PARTIAL else 0
        partial = skb.ip_summed == CHECKSUM_PARTIAL
        before = skb.head[:start]
        segments: list[SKBuff] = []
        position = udp.UDP_HLEN
        while position < skb.len:
            end = min(position + size, skb.len)
            part = end - position + udp.UDP_HLEN
            total = base + part if partial else 0
            header = udp.build(sport, dport, part, total if total <= 0xFFFF else total - 0xFFFF)
            segment = SKBuff(before + header, start)
            for piece in skb.slice(position, end):
                segment.add_frag(piece)
            copy_facts(skb, segment)
            if partial:
                segment.ip_summed = CHECKSUM_PARTIAL
                segment.csum_start = start
                segment.csum_offset = udp.UDP_CHECK_OFFSET
            else:
                segment.ip_summed = skb.ip_summed or CHECKSUM_NONE
            segments.append(segment)
            position = end
        return segments

    def gro_flow(self, skb: SKBuff, offset: int) -> bytes | None:
        """Ports, once any socket has UDP_GRO on; only for datagrams whose checksum the device vouches for."""
        if not self._table.gro or skb.tail - offset < udp.UDP_HLEN or skb.data_len:
            return None
        length = int.from_bytes(skb.head[offset + 4 : offset + 6], "big")
        if not udp.UDP_HLEN < length <= skb.tail - offset:
            return None
        port = skb.head[offset + 2 : offset + 4]
        # Only where the one it is for, as far as the port tells, wants it merged (Linux: udp_gro_receive).
        if not self._table.gro_at(port):
            return None
        skb.transport_header = offset
        return skb.head[offset : offset + 4]

    def gro_merge(self, held: SKBuff, skb: SKBuff) -> bool:
        """Linux: udp_gro_receive_segment."""
        offset = skb.transport_header
        length = int.from_bytes(skb.head[offset + 4 : offset + 6], "big")
        first = held.transport_header
        first_length = held.gso_size + udp.UDP_HLEN if held.gso_size else int.from_bytes(
            held.head[first + 4 : first + 6], "big"
        )
        size = first_length - udp.UDP_HLEN
        # Behind one that was shorter than the others nothing may follow: its end would be lost.
        if length > first_length or (held.gso_segs and held.sacked):
            return False
        if held.gso_segs >= UDP_GRO_CNT_MAX or held.len + length > GSO_MAX_SIZE - 256:
            return False
        if not verified(held) or not verified(skb):
            return False
        if not held.gso_size:
            # What is behind the datagram's own end (Ethernet padding) goes.
            held.trim(first - held.data + first_length)
            held.gso_size = size
            held.gso_type = SKB_GSO_UDP_L4
            held.gso_segs = 1
        start = offset + udp.UDP_HLEN
        held.add_frag(memoryview(skb.head)[start : offset + length])
        held.gso_segs += 1
        held.sacked = 1 if length < first_length else 0
        return True

    def gro_complete(self, held: SKBuff) -> None:
        """Make the header's length the whole, and the checksum one that need not be looked at."""
        if held.gso_size:
            first = held.transport_header
            length = held.len - (first - held.data)
            held.store(first + 4, length.to_bytes(2, "big"))
            held.ip_summed = CHECKSUM_UNNECESSARY


def copy_facts(skb: SKBuff, segment: SKBuff) -> None:
    """What is known of a packet holds for a segment of it (Linux: __copy_skb_header)."""
    segment.mac_header = skb.mac_header
    segment.network_header = skb.network_header
    segment.transport_header = skb.data
    segment.dev = skb.dev
    segment.dst = skb.dst
    segment.protocol = skb.protocol
    segment.pkt_type = skb.pkt_type
    segment.tstamp = skb.tstamp
    segment.mark = skb.mark
    segment.priority = skb.priority


def verified(skb: SKBuff) -> bool:
    """Whether a datagram's checksum needs no look, or there is none."""
    if skb.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL):
        return True
    start = skb.transport_header
    return skb.head[start + 6 : start + 8] == b"\0\0"
