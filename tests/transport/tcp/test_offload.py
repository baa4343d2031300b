from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import as_received, make_net, offload_of, tcp_packet, transport_checksum_ok
from usernet.netdevice.gro import GRO_MAX_SIZE
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCPV4,
    SKBTX_SW_TSTAMP,
    SKBuff,
)
from usernet.wire import ipv4, tcp
from usernet.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG

FLAGS = st.sampled_from([0, PSH, FIN, PSH | FIN, CWR, CWR | PSH, ECE, CWR | ECE | PSH | FIN])


def prepared(data: bytes, summed: int = CHECKSUM_NONE) -> SKBuff:
    skb = as_received(data, summed)
    skb.network_header = 0
    skb.protocol = 0x0800
    return skb


def split(skb: SKBuff) -> list[SKBuff]:
    return offload_of(make_net()).gso_segment(skb)


def completed(segment: SKBuff) -> bytes:
    checksum_help(segment)
    return segment.tobytes()


def merge(packets: list[SKBuff]) -> SKBuff:
    """The one packet that all of `packets` merge into."""
    offload = offload_of(make_net())
    keys = {offload.gro_flow(skb, skb.data) for skb in packets}
    assert len(keys) == 1
    assert None not in keys
    held = packets[0]
    for skb in packets[1:]:
        assert offload.gro_merge(held, skb)
    offload.gro_complete(held)
    return held


@given(
    st.binary(min_size=2, max_size=700), st.integers(1, 200), st.integers(0, 0xFFFFFFFF), FLAGS,
    st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(range(8))]),
)  # fmt: skip
def test_splitting_follows_linux_and_merging_gives_the_packet_back(payload, mss, seq, flags, options):
    skb = tcp_packet(payload, seq=seq, flags=ACK | flags, gso_size=mss, options=options, link=False)
    original = skb.tobytes()
    pieces = [completed(segment) for segment in split(skb)]
    header_len = 40 + len(options)
    assert b"".join(piece[header_len:] for piece in pieces) == payload
    for index, piece in enumerate(pieces):
        _, _, its_seq, ack, its_header_len, its_flags, window, _, _ = tcp.parse(piece, 20)
        first, last = index == 0, index == len(pieces) - 1
        assert its_seq == (seq + index * mss) & 0xFFFFFFFF
        assert (ack, window, its_header_len) == (7, 500, 20 + len(options))
        assert its_flags & CWR == (flags & CWR if first else 0)
        assert its_flags & (FIN | PSH) == (flags & (FIN | PSH) if last else 0)
        assert its_flags & (ACK | ECE) == ACK | flags & ECE
        assert piece[40:header_len] == options
        assert transport_checksum_ok(piece)
    if flags & CWR and len(pieces) > 1:
        return  # the rest of the flags differ from the first's, and only those are equal that were sent so
    merged = merge([prepared(piece) for piece in pieces])
    if len(pieces) > 1:
        assert (merged.gso_size, merged.gso_segs, merged.gso_type) == (mss, len(pieces), SKB_GSO_TCPV4)
        assert (merged.ip_summed, merged.csum_start, merged.csum_offset) == (CHECKSUM_PARTIAL, 20, 16)
        assert merged.tobytes() == original
    else:
        assert merged.gso_size == 0


def test_cwr_is_the_first_ones_with_classic_ecn_and_in_all_with_accurate_ecn():
    skb = tcp_packet(b"x" * 300, flags=ACK | CWR, gso_size=100, link=False)
    assert [tcp.parse(completed(one), 20)[5] & CWR for one in split(skb)] == [CWR, 0, 0]
    skb = tcp_packet(b"x" * 300, flags=ACK | CWR, gso_size=100, link=False)
    skb.gso_type |= SKB_GSO_TCP_ACCECN
    original = skb.tobytes()
    pieces = [completed(one) for one in split(skb)]
    assert [tcp.parse(piece, 20)[5] & CWR for piece in pieces] == [CWR, CWR, CWR]
    merged = merge([prepared(piece) for piece in pieces])
    assert merged.gso_type == SKB_GSO_TCPV4 | SKB_GSO_TCP_ACCECN
    assert merged.tobytes() == original


def pair(first: dict[str, object], second: dict[str, object]) -> bool:
    offload = offload_of(make_net())
    packets = []
    for ident, kwargs in enumerate((first, second)):
        base: dict[str, object] = {"payload": b"d" * 100, "seq": 1 + 100 * ident, "ident": ident}
        skb = tcp_packet(link=False, **base | kwargs)  # type: ignore[arg-type]
        packets.append(prepared(completed(skb)))
    for skb in packets:
        assert offload.gro_flow(skb, 0) is not None
    return offload.gro_merge(packets[0], packets[1])


TS1, TS2 = (b"\1\1\x08\x0a" + bytes(7) + bytes([n]) for n in (1, 2))


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [
        ({}, {}, True),
        ({}, {"payload": b"d" * 50}, True),
        ({}, {"payload": b"d" * 101}, False),
        ({"flags": ACK | PSH}, {}, False),
        ({}, {"flags": ACK | PSH}, True),
        ({}, {"flags": ACK | FIN}, True),
        ({"flags": ACK | CWR}, {}, False),
        ({}, {"flags": ACK | CWR}, False),
        ({"flags": ACK | CWR}, {"flags": ACK | CWR}, True),
        ({}, {"flags": ACK | ECE}, False),
        ({}, {"ack": 8}, False),
        ({}, {"window": 501}, False),
        ({}, {"seq": 102}, False),
        ({}, {"seq": 100}, False),
        ({"seq": 0xFFFFFFF0}, {"seq": 0x54}, True),
        ({"options": TS1}, {"options": TS1}, True),
        ({"options": TS1}, {"options": TS2}, False),
        ({"options": TS1}, {}, False),
        # Signatures: TCP MD5's, TCP-AO's
        ({"options": b"\1\1\x13\x12" + b"a" * 16}, {"options": b"\1\1\x13\x12" + b"b" * 16}, False),
        ({"options": b"\x1d\x10\1\1" + b"a" * 12}, {"options": b"\x1d\x10\1\1" + b"b" * 12}, False),
    ],
)
def test_only_what_splitting_gives_back_is_merged(first, second, merges):
    assert pair(first, second) is merges


def test_a_short_segment_is_the_last():
    offload = offload_of(make_net())
    sizes = (100, 60, 60)
    packets, seq = [], 1
    for ident, size in enumerate(sizes):
        packets.append(prepared(completed(tcp_packet(b"d" * size, seq=seq, ident=ident, link=False))))
        seq += size
    for skb in packets:
        offload.gro_flow(skb, 0)
    assert offload.gro_merge(packets[0], packets[1])
    assert not offload.gro_merge(packets[0], packets[2])


def test_a_merged_packet_is_bounded_and_above_64_kib_has_a_total_length_of_0():
    offload = offload_of(make_net())
    packets = [prepared(completed(tcp_packet(b"d" * 1460, seq=1 + 1460 * i, ident=i, link=False))) for i in range(400)]
    for skb in packets:
        offload.gro_flow(skb, 0)
    merged = sum(offload.gro_merge(packets[0], skb) for skb in packets[1:])
    assert packets[0].len == 40 + (merged + 1) * 1460 <= GRO_MAX_SIZE < packets[0].len + 1460
    offload.gro_complete(packets[0])
    assert ipv4.parse(packets[0].head, 0)[2] == 0


@pytest.mark.parametrize("flags", [SYN | ACK, RST, ACK | URG])
def test_what_has_effects_of_its_own_is_left_alone(flags):
    skb = prepared(completed(tcp_packet(b"d" * 100, flags=flags, link=False)))
    assert offload_of(make_net()).gro_flow(skb, 0) is None


def test_a_wrong_checksum_is_left_for_tcp_to_count():
    data = bytearray(completed(tcp_packet(b"d" * 100, link=False)))
    data[-1] ^= 1
    skb = prepared(bytes(data))
    assert offload_of(make_net()).gro_flow(skb, 0) is None
    assert skb.ip_summed == CHECKSUM_NONE


def test_a_right_one_is_not_looked_at_again():
    skb = prepared(completed(tcp_packet(b"d" * 100, link=False)))
    assert offload_of(make_net()).gro_flow(skb, 0) is not None
    assert skb.ip_summed == CHECKSUM_UNNECESSARY


def test_packets_in_fragments_merge_too():
    offload = offload_of(make_net())
    packets = []
    for i in range(3):
        skb = tcp_packet([b"a" * 61, b"b" * 39], seq=1 + 100 * i, ident=i, link=False)
        skb.network_header = 0
        packets.append(skb)
    for skb in packets:
        assert offload.gro_flow(skb, 0) is not None
    assert offload.gro_merge(packets[0], packets[1])
    assert offload.gro_merge(packets[0], packets[2])
    offload.gro_complete(packets[0])
    assert packets[0].tobytes(40) == (b"a" * 61 + b"b" * 39) * 3


@given(st.binary(max_size=120))
def test_any_bytes_are_survived(data):
    offload = offload_of(make_net())
    header = ipv4.build(0, 20 + len(data), 1, 0, 64, 6, bytes(4), bytes(4))
    skb = prepared(header + data)
    offload.gro_flow(skb, 0)
    again = prepared(header + data)
    again.gso_size, again.gso_type, again.gso_segs = 8, SKB_GSO_TCPV4, 2
    try:
        offload.gso_segment(again)
    except ValueError:
        pass


@pytest.mark.parametrize(("byte", "which"), [(0, 0), (99, 0), (100, 1), (250, 2), (299, 2)])
def test_a_time_stamp_is_of_the_segment_with_its_byte(byte: int, which: int) -> None:
    seq = 0xFFFFFFFF - 150
    skb = tcp_packet(bytes(300), seq=seq, flags=ACK, gso_size=100, link=False)
    skb.tx_flags = SKBTX_SW_TSTAMP
    skb.tskey = (seq + byte) & 0xFFFFFFFF
    skb.sk = owner = object()
    segments = split(skb)
    assert [segment.tx_flags for segment in segments] == [SKBTX_SW_TSTAMP * (index == which) for index in range(3)]
    assert (segments[which].sk, segments[which].tskey) == (owner, skb.tskey)
