"""Reassembly and fragmentation: RFC 791, RFC 815, RFC 5722 section 4, and Linux's bounds."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import PEER, US, Host, Sent, packet
from usernet.core.clock import ManualClock
from usernet.ip.v4.fragment import QUEUE_OVERHEAD, Fragments
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKB_OVERHEAD, SKBuff
from usernet.wire import checksum, ipv4
from usernet.wire.ipv4 import IP_DF, IP_MF

UDP = 17


def piece(data: bytes, start: int, end: int, more: bool | None = None, **fields: int) -> bytes:
    """The fragment that carries `data[start:end]`."""
    if more is None:
        more = end < len(data)
    flags = fields.pop("flags", 0) | (IP_MF if more else 0)
    return packet(data[start:end], protocol=UDP, frag_off=flags | start >> 3, **fields)  # type: ignore[arg-type]


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class Reassembly:
    """Fragments on their own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.net = Net("fragments", self.clock, random.Random(1))
        self.fragments = self.net.get(Fragments)

    def give(self, data: bytes, summed: int = 0) -> SKBuff | None:
        skb = SKBuff(data)
        skb.network_header = 0
        skb.ip_summed = summed
        skb.af = skb.cb = None
        skb.saddr = data[12:16]
        skb.daddr = data[16:20]
        return self.fragments.defrag(skb)

    def empty(self) -> bool:
        return not self.fragments.queues and not self.fragments.memory and not self.net.loop.timers.pending()


def whole(skb: SKBuff | None) -> Sent:
    assert skb is not None
    return Sent(skb.tobytes())


def test_two_fragments_make_a_packet() -> None:
    r = Reassembly()
    data = pattern(3000)
    assert r.give(piece(data, 0, 1480)) is None
    assert r.fragments.memory == QUEUE_OVERHEAD + 1500 + SKB_OVERHEAD
    result = whole(r.give(piece(data, 1480, 3000)))
    assert result.payload == data
    assert result.frag_off == 0
    assert (r.net.mib.ip.ReasmReqds, r.net.mib.ip.ReasmOKs, r.net.mib.ip.ReasmFails) == (2, 1, 0)
    assert r.empty()


def test_payload_is_referenced() -> None:
    r = Reassembly()
    data = pattern(4000)
    last = piece(data, 2000, 4000)
    r.give(piece(data, 0, 2000))
    skb = r.give(last)
    assert skb is not None and skb.frags is not None
    views = [frag for frag in skb.frags if isinstance(frag, memoryview)]
    assert any(view.obj is last for view in views)


def test_the_first_fragments_header_and_options_are_kept() -> None:
    r = Reassembly()
    data = pattern(32)
    options = ipv4.build_record_route(2)
    r.give(packet(data[16:], protocol=UDP, frag_off=2, ttl=3))
    result = whole(r.give(packet(data[:16], protocol=UDP, frag_off=IP_MF, ttl=9, options=options)))
    assert result.options == ipv4.pad_options(options)
    assert result.ttl == 9
    assert result.payload == data


@st.composite
def splits(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]]]:
    """A payload, and the fragments of it in any order, some of them twice."""
    units = draw(st.integers(2, 40))
    size = units * 8 + draw(st.integers(-7, 0))
    cuts = sorted(draw(st.sets(st.integers(1, units - 1), min_size=1)))
    edges = [0, *[cut * 8 for cut in cuts], size]
    pieces = list(pairwise(edges))
    again = draw(st.lists(st.sampled_from(pieces), max_size=5))
    return pattern(size), draw(st.permutations(pieces + again))


@given(splits())
def test_any_split_in_any_order_gives_the_same_bytes(case: tuple[bytes, list[tuple[int, int]]]) -> None:
    data, pieces = case
    r = Reassembly()
    results = []
    for start, end in pieces:
        skb = r.give(piece(data, start, end))
        if skb is not None:
            results.append(whole(skb).payload)
    assert results[0] == data
    # A duplicate that comes after the packet was whole begins another one.
    assert set(results) == {data}
    assert not r.net.mib.ip_ext.ReasmOverlaps


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 6), st.booleans(), st.sampled_from((b"a", b"b"))), max_size=12
    )
)
def test_overlaps_never_deliver_mixed_data(pieces: list[tuple[int, int, bool, bytes]]) -> None:
    """Two senders' fragments, `a` and `b`: what is delivered is never both in the place of one fragment."""
    r = Reassembly()
    given_pieces = []
    for start, units, more, letter in pieces:
        size = units * 8
        given_pieces.append((start * 8, start * 8 + size, letter))
        result = r.give(packet(letter * size, protocol=UDP, frag_off=(IP_MF if more else 0) | start))
        if result is not None:
            payload = whole(result).payload
            # It is made of whole fragments that touch and don't overlap.
            place = 0
            while place < len(payload):
                fits = [
                    end
                    for first, end, by in given_pieces
                    if first == place and payload[first:end] == by * (end - first)
                ]
                assert fits
                place = max(fits)
            given_pieces = []
        if not r.fragments.queues:
            given_pieces = []
    assert r.fragments.memory == sum(queue.memory + QUEUE_OVERHEAD for queue in r.fragments.queues.values())


def test_a_duplicate_is_ignored() -> None:
    r = Reassembly()
    data = pattern(48)
    r.give(piece(data, 0, 16))
    r.give(piece(data, 0, 16))
    assert r.net.drops.counts == {DropReason.DUP_FRAG: 1}
    assert r.net.mib.ip.ReasmFails == 0
    assert whole(r.give(piece(data, 16, 48))).payload == data


@pytest.mark.parametrize(("start", "end"), [(8, 24), (0, 24), (8, 40)])
def test_an_overlap_drops_the_whole_datagram(start: int, end: int) -> None:
    r = Reassembly()
    data = pattern(48)
    r.give(piece(data, 0, 16))
    r.give(piece(data, 24, 32))
    assert r.give(piece(data, start, end)) is None
    assert r.net.mib.ip_ext.ReasmOverlaps == 1
    assert r.net.mib.ip.ReasmFails == 1
    assert r.net.drops.counts == {DropReason.FRAG_OVERLAP: 3}
    assert r.empty()


def test_lengths_that_contradict_each_other_drop_it() -> None:
    for pieces in (
        [(0, 16, False), (16, 24, True)],
        [(0, 32, True), (0, 16, False)],
        [(16, 32, False), (32, 40, False)],
        [(0, 0, True)],
    ):
        r = Reassembly()
        data = pattern(48)
        # Not the whole from the start, so that nothing is delivered before the last of them.
        for start, end, more in pieces:
            r.give(piece(data, start + 8, end + 8, more))
        assert r.net.mib.ip.ReasmFails == 1
        assert r.empty()


def test_a_packet_of_more_than_65535_bytes_is_dropped() -> None:
    r = Reassembly()
    data = pattern(65528 + 64)
    for start in range(0, len(data), 1448 & ~7):
        assert r.give(piece(data, start, min(start + (1448 & ~7), len(data)))) is None
    assert r.net.drops.counts[DropReason.PKT_TOO_BIG]
    assert r.net.mib.ip.ReasmFails == 1
    assert r.empty()


def test_memory_is_bounded() -> None:
    r = Reassembly()
    r.net.sysctl["net.ipv4.ipfrag_high_thresh"] = 20000
    data = pattern(2000)
    for ident in range(100):
        r.give(piece(data, 0, 1480, ident=ident))
    assert r.fragments.memory <= 20000 + QUEUE_OVERHEAD + 1500 + SKB_OVERHEAD
    refused = r.net.drops.counts[DropReason.FRAG_MEM]
    assert refused == 100 - len(r.fragments.queues) > 0
    assert r.net.mib.ip.ReasmFails == refused
    r.net.close()
    assert r.empty()
    assert r.net.drops.counts[DropReason.STACK_CLOSED] == 100 - refused


def test_a_hole_is_given_up_when_the_sender_has_gone_far_ahead() -> None:
    r = Reassembly()
    r.net.sysctl["net.ipv4.ipfrag_max_dist"] = 4
    data = pattern(48)
    r.give(piece(data, 0, 16, ident=1))
    for ident in range(10, 15):
        r.give(piece(data, 0, 16, ident=ident))
    # Old and new must not be mixed: what had come is forgotten.
    assert r.give(piece(data, 16, 48, ident=1)) is None
    assert r.net.drops.counts == {DropReason.FRAG_TOO_FAR: 1}
    assert r.net.mib.ip.ReasmFails == 1
    assert whole(r.give(piece(data, 0, 16, ident=1))).payload == data


def test_datagrams_are_told_apart() -> None:
    r = Reassembly()
    data = pattern(32)
    r.give(piece(data, 0, 16))
    for other in (
        packet(data[16:], protocol=UDP, frag_off=2, ident=8),
        packet(data[16:], protocol=6, frag_off=2),
        packet(data[16:], protocol=UDP, frag_off=2, saddr=US),
        packet(data[16:], protocol=UDP, frag_off=2, daddr=PEER),
    ):
        assert r.give(other) is None
    assert len(r.fragments.queues) == 5


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(0, 0, 0), (2, 2, 2), (2, 1, 2), (2, 3, 3), (1, 3, 3), (3, 3, 3), (0, 2, None), (0, 3, None)],
)
def test_congestion_marks(first: int, second: int, result: int | None) -> None:
    """RFC 3168 section 5.3."""
    r = Reassembly()
    data = pattern(32)
    r.give(piece(data, 0, 16, tos=first))
    skb = r.give(piece(data, 16, 32, tos=second))
    if result is None:
        assert skb is None
        assert r.net.mib.ip.ReasmFails == 1
    else:
        assert whole(skb).tos == result
    assert r.empty()


def test_a_checksum_is_vouched_for_only_where_all_are() -> None:
    data = pattern(32)
    r = Reassembly()
    r.give(piece(data, 0, 16), CHECKSUM_UNNECESSARY)
    skb = r.give(piece(data, 16, 32), CHECKSUM_UNNECESSARY)
    assert skb is not None and skb.ip_summed == CHECKSUM_UNNECESSARY
    r.give(piece(data, 0, 16), CHECKSUM_UNNECESSARY)
    skb = r.give(piece(data, 16, 32))
    assert skb is not None and skb.ip_summed == 0


def test_dont_fragment_is_kept_where_the_largest_fragment_had_it() -> None:
    r = Reassembly()
    data = pattern(32)
    r.give(piece(data, 0, 24, flags=IP_DF))
    assert whole(r.give(piece(data, 24, 32))).frag_off == IP_DF
    r.give(piece(data, 0, 24))
    assert whole(r.give(piece(data, 24, 32, flags=IP_DF))).frag_off == 0


def test_the_time_runs_out(host: Host) -> None:
    data = pattern(2000)
    host.receive(piece(data, 0, 1480))
    host.run(29.9)
    assert host.sent() == []
    host.run(0.2)
    [error] = host.sent()
    assert error.daddr == PEER
    assert error.checked()[:2] == b"\x0b\x01"
    assert error.payload[8:] == piece(data, 0, 1480)[: 576 - 28]
    assert host.net.mib.ip.ReasmTimeout == 1
    assert host.net.mib.ip.ReasmFails == 1
    assert host.dropped(DropReason.FRAG_REASM_TIMEOUT) == 1


def test_nobody_is_told_where_the_first_fragment_never_came(host: Host) -> None:
    host.receive(piece(pattern(2000), 1480, 2000))
    host.run(31)
    assert host.sent() == []
    assert host.net.mib.ip.ReasmTimeout == 1


def test_a_fragmented_packet_reaches_the_transport(host: Host) -> None:
    data = pattern(5000)
    for start in (2960, 1480, 4440, 0):
        host.receive(piece(data, start, min(start + 1480, 5000)))
    assert host.udp.received == [data]


# -- fragmentation


def split(r: Reassembly, data: bytes, mtu: int) -> list[Sent]:
    skb = SKBuff(data)
    skb.network_header = 0
    return [Sent(part.tobytes()) for part in r.fragments.fragment(skb, mtu)]


@given(st.integers(1, 3000), st.integers(68, 1500))
def test_fragments_fit_and_are_put_together_again(size: int, mtu: int) -> None:
    r = Reassembly()
    data = packet(pattern(size), protocol=UDP)
    parts = split(r, data, mtu)
    assert all(part.tot_len <= mtu for part in parts)
    assert all(len(part.payload) % 8 == 0 for part in parts[:-1])
    assert [bool(part.frag_off & IP_MF) for part in parts] == [True] * (len(parts) - 1) + [False]
    if len(parts) > 1:
        random.Random(size).shuffle(parts)
        results = [r.give(part.data) for part in parts]
        assert whole(results[-1]).payload == pattern(size)
    assert r.net.mib.ip.FragCreates == len(parts)
    assert r.net.mib.ip.FragOKs == 1


def test_a_fragment_may_be_split_further() -> None:
    r = Reassembly()
    data = pattern(4000)
    middle = piece(data, 1480, 2960)
    parts = split(r, middle, 576)
    assert all(part.frag_off & IP_MF for part in parts)
    r.give(piece(data, 0, 1480))
    r.give(piece(data, 2960, 4000))
    results = [r.give(part.data) for part in parts]
    assert whole(results[-1]).payload == data


def test_options_go_into_later_fragments_only_where_flagged() -> None:
    r = Reassembly()
    options = ipv4.router_alert() + ipv4.pad_options(ipv4.build_record_route(1))
    first, second = split(r, packet(pattern(100), options=options), 108)
    assert first.options == options
    assert second.options == ipv4.router_alert() + b"\x01" * 7 + b"\0"


def test_payload_of_fragments_is_referenced() -> None:
    r = Reassembly()
    payload = pattern(4000)
    skb = SKBuff(packet(b"")[:2] + (4020).to_bytes(2, "big") + packet(b"")[4:])
    skb.network_header = 0
    skb.add_frag(payload)
    for part in r.fragments.fragment(skb, 1500):
        assert part.frags is not None
        assert all(isinstance(frag, memoryview) and frag.obj is payload for frag in part.frags)


def test_a_checksum_left_to_the_device_is_filled_in_first() -> None:
    r = Reassembly()
    payload = pattern(2000)
    pseudo = checksum.pseudo_sum(PEER, US, UDP, 2008)
    header = b"\0\x01\0\x02\x07\xd8" + pseudo.to_bytes(2, "big")
    skb = SKBuff(packet(header + payload, protocol=UDP))
    skb.network_header = 0
    skb.transport_header = skb.csum_start = 20
    skb.csum_offset = 6
    skb.ip_summed = CHECKSUM_PARTIAL
    joined = b"".join(Sent(part.tobytes()).payload for part in r.fragments.fragment(skb, 1500))
    assert checksum.csum_fold(checksum.csum(joined, 0, len(joined)) + pseudo) == 0


def test_an_mtu_with_no_room_is_refused() -> None:
    r = Reassembly()
    skb = SKBuff(packet(pattern(100)))
    with pytest.raises(OSError, match="MTU"):
        r.fragments.fragment(skb, 27)
    assert r.net.mib.ip.FragFails == 1
