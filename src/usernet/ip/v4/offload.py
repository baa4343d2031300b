"""IPv4's part in splitting and merging packets: its own header (Linux: inet_gso_segment, inet_gro_receive).

What is behind the header is the transport's business, found by protocol number among the offloads of EtherType IPv4.
"""

from __future__ import annotations

from typing import final

from usernet.ip.v4.acks import SIMPLE_HEADER, Ipv4AckTrain, ack_flow, merge_ack
from usernet.ip.v4.frames import tcp_frames
from usernet.ip.v4.super_train import Ipv4SuperTrain
from usernet.ip.v4.train import Ipv4Train
from usernet.net.offload import Offload, Offloads, Train
from usernet.net.pernet import Net
from usernet.netdevice.gro import GroControl
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import ipv4
from usernet.wire.checksum import words
from usernet.wire.ethernet import ETH_P_IP
from usernet.wire.ipv4 import IP_DF, IP_HLEN, IP_MF, IP_OFFSET
from usernet.wire.ipv4 import parse as _parse
from usernet.wire.tcp_ipv4 import IPPROTO_TCP


@final
class Ipv4Offload(Offload):
    """The offload of EtherType IPv4 in one namespace; `net.get(Ipv4Offload)` makes and registers it."""

    def __init__(self, net: Net) -> None:
        offloads = net.get(Offloads)
        offloads.packet[ETH_P_IP] = self
        self._transports = offloads.transport

    def gso_segment(self, skb: SKBuff) -> list[SKBuff]:
        """Split a super-segment whose `network_header` is set, and whose link header, if any, is between `data` (or
        `mac_header`, where `data` is behind it) and that.

        Identification rises by one a segment (RFC 6864 would let it be anything with DF). Raises ValueError where the
        header, or the transport's, is not what the gso fields say. `skb` is used up.
        """
        head = skb.head
        network = skb.network_header
        if network < 0 or skb.tail - network < IP_HLEN:
            raise ValueError("a super-segment without an IPv4 header")
        ver_ihl, tos, _, ident, frag_off, ttl, protocol, _, saddr, daddr = _parse(head, network)
        header_len = (ver_ihl & 15) * 4
        transport = network + header_len
        if ver_ihl >> 4 != 4 or header_len < IP_HLEN or transport > skb.tail or frag_off & (IP_MF | IP_OFFSET):
            raise ValueError("a super-segment with a damaged or fragmented IPv4 header")
        offload = self._transports.get((ETH_P_IP, protocol))
        if offload is None:
            raise ValueError(f"no segmentation for protocol {protocol}")
        data = skb.data
        link_start = data if data <= network else skb.mac_header
        link = head[link_start:network] if 0 <= link_start < network else b""
        skb.len += data - transport
        skb.data = transport
        skb.saddr = saddr
        skb.daddr = daddr
        segments = offload.gso_segment(skb)
        link_len = len(link)
        prefix_len = link_len + header_len
        options = head[network + IP_HLEN : transport]
        build = ipv4.build
        for segment in segments:
            header = build(tos, header_len + segment.len, ident, frag_off, ttl, protocol, saddr, daddr, options)
            ident = ident + 1 & 0xFFFF
            segment.head = link + header + segment.head
            segment.tail += prefix_len
            segment.len += prefix_len
            segment.transport_header = prefix_len
            if segment.csum_start >= 0:
                segment.csum_start = prefix_len
            segment.network_header = link_len
            segment.mac_header = 0 if link_len else -1
            segment.protocol = ETH_P_IP
            segment.dev = skb.dev
            segment.pkt_type = skb.pkt_type
            segment.priority = skb.priority
            segment.mark = skb.mark
            segment.tstamp = skb.tstamp
        return segments

    def gso_frames(self, skb: SKBuff) -> list[bytes] | None:
        return tcp_frames(skb)

    def gro_flow(self, skb: SKBuff, offset: int) -> bytes | None:
        if skb.tail - offset < IP_HLEN:
            return None
        head = skb.head
        ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, _, saddr, daddr = _parse(head, offset)
        # A frame padded to the link's minimum has a total length below its own: it is left alone.
        if ver_ihl != SIMPLE_HEADER or tot_len != skb.len or frag_off & (IP_MF | IP_OFFSET):
            return None
        transport = self._transports.get((ETH_P_IP, protocol))
        if transport is None or words(head[offset : offset + IP_HLEN]) % 0xFFFF:
            return None
        skb.saddr = saddr
        skb.daddr = daddr
        skb.cb = control = GroControl()
        ports = transport.gro_flow(skb, offset + IP_HLEN)
        if ports is None:
            return None
        control.network = tos << 24 | ttl << 16 | frag_off
        control.ident = ident
        control.fixed_id = False
        control.transport = transport
        control.count = control.first = skb.gso_segs or 1
        control.train = None
        return saddr + daddr + ports

    def gro_merge(self, held: SKBuff, skb: SKBuff) -> bool:
        ours: GroControl = held.cb
        its: GroControl = skb.cb
        if ours.network != its.network:
            return False
        distance = its.ident - ours.ident & 0xFFFF
        # With DF the second packet shows whether the sender counts, or leaves the identification as it is.
        fixed = ours.fixed_id if ours.count > ours.first else distance == 0 and bool(its.network & IP_DF)
        if distance != (0 if fixed else ours.count & 0xFFFF) or not ours.transport.gro_merge(held, skb):
            return False
        ours.fixed_id = fixed
        ours.count += skb.gso_segs or 1
        return True

    def gro_follow(self, held: SKBuff, skb: SKBuff) -> bool:
        head = skb.head
        at = skb.data
        if skb.tail - at < IP_HLEN:
            return False
        ver_ihl, tos, tot_len, ident, frag_off, ttl, _, _, saddr, daddr = _parse(head, at)
        ours: GroControl = held.cb
        # With DF the second packet shows whether the sender counts, or leaves the identification as it is.
        distance = ident - ours.ident & 0xFFFF
        fixed = ours.fixed_id if ours.count > ours.first else distance == 0 and bool(frag_off & IP_DF)
        if (
            ver_ihl != SIMPLE_HEADER
            or tot_len != skb.len
            or saddr != held.saddr
            or daddr != held.daddr
            or ours.network != tos << 24 | ttl << 16 | frag_off
            or distance != (0 if fixed else ours.count & 0xFFFF)
            or words(head[at : at + IP_HLEN]) % 0xFFFF
        ):
            return False
        if not ours.transport.gro_follow(held, skb):
            return False
        ours.fixed_id = fixed
        ours.count += skb.gso_segs or 1
        return True

    def gro_train(self, held: SKBuff, skb: SKBuff) -> Train | None:
        control: GroControl = held.cb
        head = skb.head
        transport = skb.data + IP_HLEN
        # All of the frame must be there, in one piece, and nothing may be behind the packet (gro_follow has looked).
        if control.closed or skb.data_len or skb.tail != len(head) or head[skb.data + 9] != IPPROTO_TCP:
            return None
        payload = transport + (head[transport + 12] >> 4 << 2)
        train = control.train
        if train is not None and train.resume(held, skb, payload):
            return train
        if held is skb and (skb.gso_size or train is not None):
            return None
        if not skb.gso_size:
            return Ipv4Train(held, skb, transport, payload)
        train = control.train = Ipv4SuperTrain(skb.data, payload, control.mss)
        train.resume(held, skb, payload)
        return train

    def gro_ack_flow(self, skb: SKBuff) -> bytes | None:
        return ack_flow(skb)

    def gro_ack(self, held: SKBuff, skb: SKBuff) -> bool:
        return merge_ack(held, skb)

    def gro_ack_train(self, acks: dict[bytes, SKBuff], skb: SKBuff) -> Train | None:
        return Ipv4AckTrain(acks, skb.data)

    def gro_complete(self, held: SKBuff) -> None:
        control: GroControl = held.cb
        held.cb = None
        if control.count == control.first:
            return
        network = held.network_header
        # Its header is about to be written to: that must not copy its payload.
        held.cow(control.start)
        held.gso_segs = control.count
        held.gso_size = control.mss
        held.cb = control
        control.transport.gro_complete(held)
        held.cb = None
        _, tos, _, ident, frag_off, ttl, protocol, _, saddr, daddr = _parse(held.head, network)
        held.store(network, ipv4.build(tos, held.len, ident, frag_off, ttl, protocol, saddr, daddr))
