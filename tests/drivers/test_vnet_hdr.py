from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import frame, tcp_packet, udp_packet
from usernet.drivers.vnet_hdr import TCP_MIN_GSO_SIZE, receive_header, transmit_header
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP_L4,
    SKBuff,
)
from usernet.wire import virtio_net
from usernet.wire.virtio_net import VIRTIO_NET_HDR_LEN


def received(header: bytes, packet: bytes) -> SKBuff:
    """What the driver makes of one read."""
    return SKBuff(header + packet, VIRTIO_NET_HDR_LEN)


@pytest.mark.parametrize(
    "packet",
    [
        tcp_packet(b"x" * 100),
        tcp_packet(b"x" * 1000, gso_size=100),
        tcp_packet(b"x" * 1000, gso_size=100, options=bytes(12)),
        udp_packet(b"x" * 100),
        udp_packet(b"x" * 1000, gso_size=100),
    ],
)
def test_what_is_sent_is_understood_when_received(packet):
    got = received(transmit_header(packet), packet.tobytes())
    assert receive_header(got, 14)
    assert got.ip_summed == CHECKSUM_PARTIAL
    assert got.csum_start - got.data == packet.csum_start
    assert got.csum_offset == packet.csum_offset
    assert (got.gso_size, got.gso_type, got.gso_segs) == (packet.gso_size, packet.gso_type, packet.gso_segs)
    assert got.tobytes() == packet.tobytes()


def test_the_header_says_where_the_payload_starts():
    assert virtio_net.parse(transmit_header(tcp_packet(b"x" * 1000, gso_size=100, options=bytes(12))), 0) == (
        1, 1, 66, 100, 34, 16,
    )  # fmt: skip
    assert virtio_net.parse(transmit_header(udp_packet(b"x" * 1000, gso_size=100)), 0) == (1, 5, 42, 100, 34, 6)
    skb = tcp_packet(b"x" * 1000, gso_size=100)
    skb.gso_type = SKB_GSO_TCPV6 | SKB_GSO_TCP_ECN
    assert virtio_net.parse(transmit_header(skb), 0)[1] == 0x84
    assert transmit_header(frame()) == virtio_net.EMPTY


def test_offsets_count_from_the_packet_wherever_its_data_is():
    skb = tcp_packet(b"x" * 100)
    skb.head = b"room" + skb.head
    for name in ("data", "tail", "csum_start"):
        setattr(skb, name, getattr(skb, name) + 4)
    assert virtio_net.parse(transmit_header(skb), 0)[4] == 34


def test_what_the_kernel_says_of_checksums():
    packet = tcp_packet(b"x").tobytes()
    for flags, summed in ((0, CHECKSUM_NONE), (2, CHECKSUM_UNNECESSARY), (1, CHECKSUM_PARTIAL)):
        skb = received(virtio_net.build(flags, 0, 0, 0, 34, 16), packet)
        assert receive_header(skb, 14)
        assert skb.ip_summed == summed


def test_a_super_segment_of_one_packet_is_none():
    packet = tcp_packet(b"x" * 100).tobytes()
    skb = received(virtio_net.build(1, 1, 54, 100, 34, 16), packet)
    assert receive_header(skb, 14)
    assert skb.gso_size == 0


def test_a_tiny_segment_size_is_raised():
    packet = tcp_packet(b"x" * 100).tobytes()
    skb = received(virtio_net.build(1, 1, 54, 1, 34, 16), packet)
    assert receive_header(skb, 14)
    assert (skb.gso_size, skb.gso_segs) == (TCP_MIN_GSO_SIZE, 3)


def test_without_a_checksum_to_fill_in_the_transport_is_found():
    packet = tcp_packet(b"x" * 100).tobytes()
    skb = received(virtio_net.build(2, 1, 54, 50, 0, 0), packet)
    assert receive_header(skb, 14)
    assert (skb.gso_segs, skb.gso_type, skb.ip_summed) == (2, SKB_GSO_TCPV4, CHECKSUM_UNNECESSARY)


@pytest.mark.parametrize(
    "header",
    [
        (1, 0, 0, 0, 33, 16),  # before where a transport header can be
        (1, 0, 0, 0, 34, 120),  # a field behind the end
        (1, 0, 0, 0, 0xFFFF, 0),
        (1, 1, 54, 0, 34, 16),  # segments of nothing
        (1, 1, 54, 50, 34, 6),  # TCP's checksum isn't there
        (1, 2, 54, 50, 34, 16),  # no such type
        (1, 3, 54, 50, 34, 16),  # UDP fragmentation, which was never asked for
        (1, 5, 42, 1, 34, 16),
        (1, 0x85, 42, 50, 34, 6),  # ECN is TCP's
        (0, 5, 42, 50, 34, 6),
        (1, 1, 54, 50, 140, 10),  # no room for a TCP header
    ],
)
def test_a_lie_is_refused(header):
    skb = received(virtio_net.build(*header), tcp_packet(b"x" * 100).tobytes())
    assert not receive_header(skb, 14)


def test_a_udp_super_segment_is_bounded():
    packet = udp_packet(b"x" * 1000).tobytes()
    assert not receive_header(received(virtio_net.build(1, 5, 42, 7, 34, 6), packet), 14)
    assert receive_header(received(virtio_net.build(1, 5, 42, 8, 34, 6), packet), 14)


@given(st.binary(min_size=10, max_size=10), st.binary(max_size=120), st.sampled_from([0, 14]))
def test_any_header_is_survived_and_leaves_nothing_out_of_bounds(header, packet, hard_header_len):
    skb = received(header, packet)
    if not receive_header(skb, hard_header_len):
        return
    if skb.ip_summed == CHECKSUM_PARTIAL:
        assert skb.data < skb.csum_start
        assert skb.csum_start + skb.csum_offset + 2 <= skb.tail
    if skb.gso_size:
        assert skb.gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_UDP_L4)
        assert 1 < skb.gso_segs <= len(packet)
