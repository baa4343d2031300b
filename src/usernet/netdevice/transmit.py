"""The last step to a driver: what the NIC can't do is done here (Linux: validate_xmit_skb, dev_hard_start_xmit).

Super-segments are split, checksums filled in, fragments joined: each only for a device without the feature.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Offloads
from usernet.net.packet_type import PacketTypes
from usernet.netdevice.driver import (
    NETIF_F_GSO_ACCECN,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
)
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    PACKET_OUTGOING,
    SCM_TSTAMP_SND,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP_L4,
    SKBTX_SW_TSTAMP,
    SKBuff,
)
from usernet.wire import checksum
from usernet.wire.udp import UDP_HLEN

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice


def gso_features(gso_type: int) -> int:
    """The device features that sending a packet of `gso_type` whole takes."""
    features = NETIF_F_SG
    if gso_type & SKB_GSO_TCPV4:
        features |= NETIF_F_TSO
    if gso_type & SKB_GSO_TCPV6:
        features |= NETIF_F_TSO6
    if gso_type & SKB_GSO_UDP_L4:
        features |= NETIF_F_GSO_UDP_L4
    if gso_type & SKB_GSO_TCP_ECN:
        features |= NETIF_F_TSO_ECN
    if gso_type & SKB_GSO_TCP_ACCECN:
        features |= NETIF_F_GSO_ACCECN
    return features


_GSO_FEATURES: Final = {kind: gso_features(kind) for kind in (SKB_GSO_TCPV4, SKB_GSO_TCPV6, SKB_GSO_UDP_L4)}

MAX_LINK_HEADER: Final = 18
"""Bytes of an Ethernet header with a VLAN tag."""


def checksum_help(skb: SKBuff) -> None:
    """Fill in the checksum of a CHECKSUM_PARTIAL packet (Linux: skb_checksum_help)."""
    start = skb.csum_start
    total = checksum.csum(skb.head, start, skb.tail)
    offset = skb.tail - start
    for frag in skb.frags or ():
        total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), offset)
        offset += len(frag)
    # The field already holds the pseudo header's sum, so the total includes it. A UDP checksum of 0 means "none".
    value = checksum.csum_fold(total) or 0xFFFF
    skb.store(start + skb.csum_offset, value.to_bytes(2, "big"))
    skb.ip_summed = CHECKSUM_NONE


@final
class Transmit:
    """A device's way to its driver."""

    __slots__ = ("_dev", "_frames", "_offloads", "_segments", "_types", "_whole", "_written")

    def __init__(self, dev: NetDevice) -> None:
        self._dev = dev
        self._types = dev.net.get(PacketTypes)
        self._offloads = dev.net.get(Offloads)
        # Segments of a packet split already, when the driver had no room for all of them.
        self._segments: deque[SKBuff] = deque()
        self._frames: list[bytes] = []
        self._written: int = 0
        """How many of `_frames` have gone."""
        self._whole: SKBuff | None = None
        """The packet that `_frames` are of: the socket's account is given back when all have gone."""

    def send(self, skb: SKBuff) -> bool:
        """Hand `skb` to the driver. False where the driver has no room: `skb` is to be queued again."""
        dev = self._dev
        features = dev.features
        if skb.gso_size:
            needed = _GSO_FEATURES.get(skb.gso_type) or gso_features(skb.gso_type)
            # What GRO merged, or another device would take, may be too large for this one (gso_features_check).
            if features & needed != needed or skb.len > dev.gso_max_size + MAX_LINK_HEADER:
                return self._split(skb)
        if self._types.taps:
            self._show(skb)
        if skb.ip_summed == CHECKSUM_PARTIAL and not features & NETIF_F_HW_CSUM:
            checksum_help(skb)
        if skb.data_len and not features & NETIF_F_SG:
            skb.may_pull(skb.len)
        statistics = dev.statistics
        packets = skb.gso_segs or 1
        size = skb.len
        if packets > 1:
            # On the wire each segment has a header of its own.
            # When sent, a super-segment's linear part is its headers; one that is forwarded may be linear altogether.
            size += (packets - 1) * (skb.len - skb.data_len if skb.data_len else gso_header_length(skb))
        probes = dev.net.trace.net_dev_xmit.probes
        # The driver may give it to another stack; what is shown afterwards is as it was before.
        shown = skb.clone() if probes else skb
        stamped = _to_be_stamped(skb) if skb.tx_flags else None
        before = statistics.tx_dropped + statistics.tx_errors
        if not dev.driver.xmit(skb):
            return False
        if stamped is not None:
            stamped.sk.tstamp_tx(stamped, SCM_TSTAMP_SND)
        accepted = statistics.tx_dropped + statistics.tx_errors == before
        if accepted:
            statistics.tx_packets += packets
            statistics.tx_bytes += size
        if probes:
            dev.net.trace.net_dev_xmit.fire(shown, accepted)
        return True

    def _split(self, skb: SKBuff) -> bool:
        offload = self._offloads.packet.get(skb.protocol)
        dev = self._dev
        if (
            dev.driver.plain_frames
            and offload is not None
            and not (self._types.taps or skb.tx_flags or dev.net.trace.net_dev_xmit.probes)
        ):
            # Nobody wants to see each segment as a packet.
            frames = offload.gso_frames(skb)
            if frames is not None:
                self._frames = frames
                self._whole = skb
                self._write_frames()
                return True
        try:
            if offload is None:
                raise ValueError(f"no segmentation for EtherType {skb.protocol:#06x}")
            segments = offload.gso_segment(skb)
        except ValueError:
            self._dev.statistics.tx_dropped += 1
            skb.drop(DropReason.SKB_GSO_SEG, self._dev.net.drops)
            return True
        # The last segment carries the socket's account, so it is given back when all have gone.
        last = segments[-1]
        last.destructor, skb.destructor = skb.destructor, None
        last.sk = skb.sk
        last.truesize = skb.truesize
        self._segments.extend(segments)
        self.resume()
        return True

    def resume(self) -> bool:
        """Go on with the segments of a packet split before; False where the driver is full again."""
        if self._frames and not self._write_frames():
            return False
        segments = self._segments
        while segments:
            if self._dev.stopped or not self.send(segments[0]):
                return False
            segments.popleft()
        return True

    def _write_frames(self) -> bool:
        dev = self._dev
        frames = self._frames
        statistics = dev.statistics
        failed = statistics.tx_dropped + statistics.tx_errors
        at = self._written
        count = len(frames)
        while at < count and not dev.stopped:
            end = dev.driver.write_frames(frames, at)
            size = 0
            for frame in frames[at:end]:
                size += len(frame)
            statistics.tx_packets += end - at
            statistics.tx_bytes += size
            at = end
            if at < count:
                before = failed
                failed = statistics.tx_dropped + statistics.tx_errors
                if failed == before:
                    break
                # This one was refused; the others go on.
                at += 1
        if at < count:
            self._written = at
            return False
        self._frames = []
        self._written = 0
        whole = self._whole
        self._whole = None
        if whole is not None:
            whole.consume()
        return True

    @property
    def waiting(self) -> bool:
        """Whether segments of a split packet wait for room."""
        return bool(self._segments or self._frames)

    def reset(self) -> list[SKBuff]:
        """Give up the segments that wait; returns them, to be dropped."""
        left = list(self._segments)
        self._segments.clear()
        left += [SKBuff(frame) for frame in self._frames[self._written :]]
        self._frames = []
        self._written = 0
        if self._whole is not None:
            self._whole.consume()
            self._whole = None
        return left

    def _show(self, skb: SKBuff) -> None:
        """Show a packet to the taps, as one being sent, with `data` at its network header as they expect it."""
        pkt_type = skb.pkt_type
        skb.pkt_type = PACKET_OUTGOING
        skb.mac_header = skb.data
        network = self._dev.hard_header_len
        skb.data += network
        skb.len -= network
        self._types.show(skb, True)
        skb.data -= network
        skb.len += network
        skb.pkt_type = pkt_type


def _to_be_stamped(skb: SKBuff) -> SKBuff | None:
    """A copy of a packet whose socket wants to know when the driver takes it (Linux: skb_tx_timestamp)."""
    if not skb.tx_flags & SKBTX_SW_TSTAMP or skb.sk is None:
        return None
    copy = skb.clone()
    copy.sk = skb.sk
    copy.tskey = skb.tskey
    return copy


def gso_header_length(skb: SKBuff) -> int:
    """Bytes of headers, from `data` on, that each segment of a super-segment gets (Linux: skb_tcp_all_headers)."""
    start = skb.csum_start
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return 0
    if skb.gso_type & SKB_GSO_UDP_L4:
        return start - skb.data + UDP_HLEN
    if start + 13 > skb.tail:
        return 0
    return start - skb.data + (skb.head[start + 12] >> 4) * 4
