from __future__ import annotations

from typing import Any

import pytest

from tests.netdevice.packets import DADDR, SADDR, as_received, make_net, offload_of, tcp_packet, transport_checksum_ok
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import CHECKSUM_UNNECESSARY, SKBuff
from usernet.wire import ipv4


def prepared(packet: SKBuff) -> SKBuff:
    """As the device hands it to GRO: `data` at the network header."""
    skb = as_received(packet.tobytes(), CHECKSUM_UNNECESSARY)
    skb.mac_header = 0
    skb.pull(14)
    skb.network_header = 14
    skb.protocol = 0x0800
    return skb


def segment(i: int = 0, **kwargs: Any) -> SKBuff:
    return prepared(tcp_packet(b"d" * 100, seq=1 + i * 100, **kwargs))


def test_each_segment_has_its_own_length_identification_and_checksum():
    net = make_net()
    skb = tcp_packet(b"p" * 250, gso_size=100, ident=0xFFFF, tos=3, ttl=9)
    skb.network_header = 14
    skb.mark, skb.priority = 4, 5
    segments = offload_of(net).gso_segment(skb)
    headers = [ipv4.parse(one.head, 14) for one in segments]
    assert [header[3] for header in headers] == [0xFFFF, 0, 1]
    assert [header[2] for header in headers] == [140, 140, 90]
    for one, header in zip(segments, headers, strict=True):
        assert header[:2] == (0x45, 3)
        assert header[4:7] == (ipv4.IP_DF, 9, 6)
        assert header[8:] == (SADDR, DADDR)
        assert ipv4.header_csum_ok(one.head, 14, 20)
        assert (one.mac_header, one.network_header, one.transport_header, one.csum_start) == (0, 14, 34, 34)
        assert (one.mark, one.priority, one.protocol, one.dev) == (4, 5, 0x0800, skb.dev)
        checksum_help(one)
        assert transport_checksum_ok(one.tobytes(14))


def test_options_are_in_every_segment():
    net = make_net()
    skb = tcp_packet(b"p" * 250, gso_size=100, link=False)
    header = ipv4.build(0, skb.len + 4, 5, 0, 64, 6, SADDR, DADDR, b"\x94\x04\0\0")
    skb.pull(20)
    skb.push_header(header)
    skb.network_header = 0
    segments = offload_of(net).gso_segment(skb)
    assert [one.head[20:24] for one in segments] == [b"\x94\x04\0\0"] * 3
    assert [one.transport_header for one in segments] == [24] * 3
    assert all(ipv4.header_csum_ok(one.head, 0, 24) for one in segments)


def test_a_received_packet_is_split_from_its_transport_header_too():
    net = make_net()
    skb = prepared(tcp_packet(b"p" * 250))
    skb.gso_size, skb.gso_type, skb.gso_segs = 100, 1, 3
    skb.pull(20)
    segments = offload_of(net).gso_segment(skb)
    assert b"".join(one.tobytes(54) for one in segments) == b"p" * 250
    assert [one.head[12:14] for one in segments] == [b"\x08\0"] * 3


def change_ip(offset: int, value: bytes) -> SKBuff:
    skb = tcp_packet(b"p" * 250, gso_size=100, link=False)
    skb.store(offset, value)
    return skb


@pytest.mark.parametrize(
    "skb",
    [
        change_ip(0, b"\x44"),
        change_ip(0, b"\x65"),
        change_ip(0, b"\x4f"),
        change_ip(6, b"\x20\0"),
        change_ip(6, b"\0\1"),
        change_ip(9, b"\x84"),
        change_ip(9, b"\x11"),
        change_ip(32, b"\x10"),
        change_ip(32, b"\xf0"),
        SKBuff(b"\x45\0"),
    ],
)
def test_what_is_no_super_segment_is_an_error(skb):
    net = make_net()
    skb.network_header = 0
    with pytest.raises(ValueError, match=r"segment|split"):
        offload_of(net).gso_segment(skb)


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [
        ({}, {"ident": 6}, True),
        ({}, {"ident": 5}, True),  # DF: a sender may leave it as it is (RFC 6864)
        ({}, {"ident": 7}, False),
        ({"frag_off": 0}, {"ident": 6, "frag_off": 0}, True),
        ({"frag_off": 0}, {"ident": 5, "frag_off": 0}, False),
        ({}, {"ident": 6, "frag_off": 0}, False),
        ({}, {"ident": 6, "ttl": 63}, False),
        ({}, {"ident": 6, "tos": 3}, False),
        ({"ident": 0xFFFF}, {"ident": 0}, True),
    ],
)
def test_network_headers_must_agree(first, second, merges):
    offload = offload_of(make_net())
    held, skb = segment(0, **first), segment(1, **second)
    assert offload.gro_flow(held, held.data) == offload.gro_flow(skb, skb.data) is not None
    assert offload.gro_merge(held, skb) is merges


def test_a_third_keeps_to_what_the_second_showed():
    offload = offload_of(make_net())
    for idents, merges in (((5, 5, 5), True), ((5, 5, 6), False), ((5, 6, 7), True), ((5, 6, 6), False)):
        packets = [segment(i, ident=ident) for i, ident in enumerate(idents)]
        for skb in packets:
            offload.gro_flow(skb, skb.data)
        assert offload.gro_merge(packets[0], packets[1])
        assert offload.gro_merge(packets[0], packets[2]) is merges


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"\x46"), (2, b"\0\x7f"), (6, b"\x20\0"), (6, b"\0\1"), (9, b"\x84"), (10, b"\xab\xcd"), (8, b"\x07")],
)
def test_what_is_odd_is_left_alone(offset, value):
    offload = offload_of(make_net())
    skb = segment()
    skb.store(14 + offset, value)
    assert offload.gro_flow(skb, 14) is None


def test_padding_and_truncation_are_left_alone():
    offload = offload_of(make_net())
    padded = prepared(tcp_packet(b"d" * 100))
    padded.put(b"\0\0")
    assert offload.gro_flow(padded, 14) is None
    for length in range(40):
        cut = prepared(tcp_packet(b"d" * 100))
        cut.trim(length)
        assert offload.gro_flow(cut, 14) is None


def test_the_merged_header_is_right():
    offload = offload_of(make_net())
    held, skb = segment(0, ident=9), segment(1, ident=10)
    for one in (held, skb):
        offload.gro_flow(one, one.data)
    assert offload.gro_merge(held, skb)
    offload.gro_complete(held)
    assert ipv4.parse(held.head, 14)[2:4] == (240, 9)
    assert ipv4.header_csum_ok(held.head, 14, 20)
    assert (held.gso_size, held.gso_segs) == (100, 2)
    checksum_help(held)
    assert transport_checksum_ok(held.tobytes())


def test_one_alone_goes_up_as_it_came():
    offload = offload_of(make_net())
    skb = segment()
    head = skb.head
    offload.gro_flow(skb, 14)
    offload.gro_complete(skb)
    assert skb.head is head
    assert skb.gso_size == 0
