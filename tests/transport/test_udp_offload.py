from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import (
    DADDR,
    SADDR,
    as_received,
    make_net,
    offload_of,
    transport_checksum_ok,
    udp_packet,
)
from usernet.net.pernet import Net
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_UDP_L4,
    SKBuff,
)
from usernet.transport.udp_offload import UDP_GRO_CNT_MAX, UdpOffload
from usernet.wire import ipv4, udp


@pytest.fixture
def net() -> Net:
    """A namespace in which every socket wants merged datagrams."""
    net = make_net()
    net.get(UdpOffload).gro_lookup = lambda skb, sport, dport: True
    return net


def received(packet: SKBuff) -> SKBuff:
    checksum_help(packet)
    skb = as_received(packet.tobytes())
    skb.network_header = 0
    skb.protocol = 0x0800
    return skb


def datagrams(*sizes: int, **kwargs: int) -> list[SKBuff]:
    return [received(udp_packet(bytes([65 + i]) * size, ident=i, link=False, **kwargs)) for i, size in enumerate(sizes)]


@given(st.binary(min_size=1, max_size=600), st.integers(1, 200))
def test_splitting_gives_datagrams_each_with_length_and_checksum(payload, size):
    net = make_net()
    skb = udp_packet(payload, gso_size=size, link=False)
    segments = offload_of(net).gso_segment(skb)
    rest = payload
    for segment in segments:
        checksum_help(segment)
        data = segment.tobytes()
        sport, dport, length, check = udp.parse(data, 20)
        assert (sport, dport, length) == (1000, 2000, len(data) - 20)
        assert check != 0
        assert transport_checksum_ok(data)
        assert data[28:] == rest[:size]
        rest = rest[size:]
    assert not rest


def test_one_without_a_checksum_is_split_into_such():
    net = make_net()
    skb = udp_packet(b"x" * 250, gso_size=100, link=False)
    skb.store(26, b"\0\0")
    skb.ip_summed = CHECKSUM_NONE
    segments = offload_of(net).gso_segment(skb)
    assert [segment.head[26:28] for segment in segments] == [b"\0\0"] * 3
    assert {segment.ip_summed for segment in segments} == {CHECKSUM_NONE}


def test_datagrams_of_one_size_merge_and_a_shorter_one_is_the_last(net):
    offload = offload_of(net)
    packets = datagrams(100, 100, 40, 40)
    assert len({offload.gro_flow(skb, 0) for skb in packets}) == 1
    assert [offload.gro_merge(packets[0], skb) for skb in packets[1:]] == [True, True, False]
    held = packets[0]
    offload.gro_complete(held)
    assert (held.gso_size, held.gso_segs, held.gso_type) == (100, 3, SKB_GSO_UDP_L4)
    assert held.tobytes(28) == b"A" * 100 + b"B" * 100 + b"C" * 40
    assert held.ip_summed == CHECKSUM_PARTIAL
    assert ipv4.parse(held.head, 0)[2] == held.len
    assert udp.parse(held.head, 20)[2] == held.len - 20
    again = offload.gso_segment(held)
    assert [segment.len - 28 for segment in again] == [100, 100, 40]


def test_a_longer_datagram_does_not_merge(net):
    offload = offload_of(net)
    packets = datagrams(100, 101)
    for skb in packets:
        offload.gro_flow(skb, 0)
    assert not offload.gro_merge(*packets)


def test_the_count_is_bounded(net):
    offload = offload_of(net)
    packets = datagrams(*[10] * (UDP_GRO_CNT_MAX + 1))
    for skb in packets:
        offload.gro_flow(skb, 0)
    assert sum(offload.gro_merge(packets[0], skb) for skb in packets[1:]) == UDP_GRO_CNT_MAX - 1


def test_the_socket_is_asked(net):
    asked = []

    def lookup(skb: SKBuff, sport: int, dport: int) -> bool:
        asked.append((skb.saddr, sport, skb.daddr, dport))
        return False

    net.get(UdpOffload).gro_lookup = lookup
    assert offload_of(net).gro_flow(datagrams(100)[0], 0) is None
    assert asked == [(SADDR, 1000, DADDR, 2000)]
    net.get(UdpOffload).gro_lookup = None
    assert offload_of(net).gro_flow(datagrams(100)[0], 0) is None


@pytest.mark.parametrize(("offset", "value"), [(24, b"\0\1"), (24, b"\xff\xff"), (26, b"\0\0"), (30, b"!")])
def test_what_is_odd_is_left_alone(net, offset, value):
    (skb,) = datagrams(100)
    skb.store(offset, value)
    assert offload_of(net).gro_flow(skb, 0) is None


def test_a_super_segment_is_split_for_a_socket_that_takes_none():
    net = make_net()
    skb = udp_packet(b"x" * 250, gso_size=100)
    skb.network_header = 14
    skb.mac_header = 0
    skb.pull(34)
    skb.transport_header = 34
    skb.af, skb.saddr, skb.daddr = "af", SADDR, DADDR
    skb.tstamp = 99
    parts = net.get(UdpOffload).receive_segments(skb)
    assert [part.len for part in parts] == [108, 108, 58]
    for part in parts:
        assert (part.af, part.saddr, part.daddr, part.tstamp) == ("af", SADDR, DADDR, 99)
        assert part.ip_summed == CHECKSUM_UNNECESSARY
        assert (part.network_header, part.transport_header, part.data) == (14, 34, 34)
        assert udp.parse(part.head, part.data)[2] == part.len


def test_a_lie_about_the_protocol_is_an_error():
    net = make_net()
    skb = udp_packet(b"x" * 250, gso_size=100, link=False)
    skb.gso_type = 1
    with pytest.raises(ValueError, match="another protocol"):
        offload_of(net).gso_segment(skb)
    skb.protocol = 0x1234
    with pytest.raises(ValueError, match="EtherType"):
        net.get(UdpOffload).receive_segments(skb)
