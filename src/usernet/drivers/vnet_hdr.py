"""The virtio-net header between a NIC and the socket buffer: checksums and super-segments across the border.

A TUN/TAP device with IFF_VNET_HDR (a packet socket, a virtual machine) puts wire/virtio_net's ten bytes before each
frame. Linux: `virtio_net_hdr_to_skb`, `virtio_net_hdr_from_skb`, include/linux/virtio_net.h. What comes in is the word
of another machine: every offset is checked before anything relies on it.
"""

from __future__ import annotations

from typing import Final

from usernet.skbuff.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP_L4,
    SKBuff,
)
from usernet.wire import virtio_net
from usernet.wire.virtio_net import (
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    VIRTIO_NET_HDR_LEN,
)
from usernet.wire.virtio_net import build as _build
from usernet.wire.virtio_net import parse as _parse

UDP_MAX_SEGMENTS: Final = 128
"""A UDP super-segment stands for at most so many datagrams (Linux, same name)."""

TCP_MIN_GSO_SIZE: Final = 48
"""A smaller segment size is raised to this, so that no packet can stand for thousands (Linux: TCP_MIN_SND_MSS)."""

_SIMPLEST_IP_HEADER: Final = 20



def receive_header(skb: SKBuff, hard_header_len: int) -> bool:
    """Take what the header at the start of `skb.head` says over into `skb`, whose `data` is behind it.

    hard_header_len: bytes of the link header. Returns False where the header is a lie: no such type, an offset outside
    of the packet, a super-segment of segments of size 0.
    """
    flags, gso_type, _, gso_size, csum_start, csum_offset = _parse(skb.head, skb.data - VIRTIO_NET_HDR_LEN)
    if flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        if csum_start < hard_header_len + _SIMPLEST_IP_HEADER or csum_start + csum_offset + 2 > skb.len:
            return False
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.csum_start = skb.transport_header = skb.data + csum_start
        skb.csum_offset = csum_offset
    elif flags & VIRTIO_NET_HDR_F_DATA_VALID:
        skb.ip_summed = CHECKSUM_UNNECESSARY
    if gso_type == VIRTIO_NET_HDR_GSO_NONE:
        return True
    return _receive_gso(skb, gso_type, gso_size, hard_header_len)


def _receive_gso(skb: SKBuff, gso_type: int, gso_size: int, hard_header_len: int) -> bool:
    kind = gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    partial = skb.ip_summed == CHECKSUM_PARTIAL
    if gso_size == 0:
        return False
    head = skb.head
    if partial:
        transport = skb.transport_header
    elif kind == VIRTIO_NET_HDR_GSO_TCPV6:
        transport = skb.data + hard_header_len + 40
    else:
        network = skb.data + hard_header_len
        if network >= skb.tail:
            return False
        transport = network + (head[network] & 15) * 4
    if kind in (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6):
        if transport + 20 > skb.tail or (partial and skb.csum_offset != 16):
            return False
        payload = skb.tail - transport - (head[transport + 12] >> 4) * 4
        our_type = SKB_GSO_TCPV4 if kind == VIRTIO_NET_HDR_GSO_TCPV4 else SKB_GSO_TCPV6
        if gso_type & VIRTIO_NET_HDR_GSO_ECN:
            our_type |= SKB_GSO_TCP_ECN
        if gso_size < TCP_MIN_GSO_SIZE:
            gso_size = TCP_MIN_GSO_SIZE
    elif gso_type == VIRTIO_NET_HDR_GSO_UDP_L4:
        payload = skb.tail - transport - 8
        if not partial or skb.csum_offset != 6 or payload > gso_size * UDP_MAX_SEGMENTS:
            return False
        our_type = SKB_GSO_UDP_L4
    else:
        return False
    if payload < 0:
        return False
    if payload > gso_size:
        # Else it is one packet, whatever the header says.
        skb.gso_size = gso_size
        skb.gso_type = our_type
        skb.gso_segs = -(-payload // gso_size)
    return True


def transmit_header(skb: SKBuff) -> bytes:
    """The header for `skb`, to be put before its link header."""
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return virtio_net.EMPTY
    start = skb.csum_start
    data = skb.data
    gso_size = skb.gso_size
    if not gso_size:
        return _build(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start - data, skb.csum_offset)
    kind = skb.gso_type
    if kind & SKB_GSO_UDP_L4:
        gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
        header_len = start - data + 8
    else:
        gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if kind & SKB_GSO_TCPV4 else VIRTIO_NET_HDR_GSO_TCPV6
        if kind & SKB_GSO_TCP_ECN:
            gso_type |= VIRTIO_NET_HDR_GSO_ECN
        header_len = start - data + (skb.head[start + 12] >> 4) * 4
    return _build(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso_type, header_len, gso_size, start - data, skb.csum_offset)
