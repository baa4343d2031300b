from __future__ import annotations

from typing import Any

import pytest

from usernet.netdevice.gro import MAX_GRO_FLOWS
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKBuff
from usernet.wire import tcp

from .packets import (
    ETH_P_TEST,
    MAC,
    FakeDriver,
    as_received,
    frame,
    make_dev,
    make_net,
    sink,
    tcp_packet,
)


class Bench:
    """A device that receives: `feed` in one poll, `up` is what went up the stack."""

    def __init__(self) -> None:
        self.net = make_net()
        self.driver = FakeDriver()
        self.dev = make_dev(self.net, self.driver)
        self.up = sink(self.net)
        self.other = sink(self.net, ETH_P_TEST)

    def feed(self, *packets: SKBuff) -> None:
        self.driver.to_receive += packets
        self.net.loop.softirq.schedule(self.dev.napi)
        self.net.loop.softirq.run()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def received(skb: SKBuff, summed: int = CHECKSUM_UNNECESSARY) -> SKBuff:
    got = as_received(skb.tobytes(), summed)
    if skb.gso_size:
        got.gso_size, got.gso_type, got.gso_segs = skb.gso_size, skb.gso_type, skb.gso_segs
        got.ip_summed, got.csum_start, got.csum_offset = CHECKSUM_PARTIAL, skb.csum_start, skb.csum_offset
    return got


def row(count: int, size: int = 100, start: int = 1, **kwargs: Any) -> list[SKBuff]:
    """`count` segments in sequence."""
    return [received(tcp_packet(bytes([i]) * size, seq=start + i * size, ident=5 + i, **kwargs)) for i in range(count)]


def test_what_arrives_in_one_poll_goes_up_as_one(bench):
    bench.feed(*row(4))
    (skb,) = bench.up
    assert (skb.gso_size, skb.gso_segs, skb.len) == (100, 4, 40 + 400)
    assert skb.tobytes(40) == b"".join(bytes([i]) * 100 for i in range(4))
    assert bench.dev.statistics.rx_packets == 4


def test_nothing_is_held_beyond_the_poll(bench):
    bench.feed(*row(1))
    bench.feed(*row(1, start=101))
    assert [skb.gso_size for skb in bench.up] == [0, 0]
    assert not bench.dev.napi.gro.held


def test_what_fits_nowhere_stays_behind_what_is_held(bench):
    packets = row(2)
    odd = received(tcp_packet(b"", seq=201, flags=tcp.ACK | tcp.FIN))
    bench.feed(*packets, odd, *row(1, start=202))
    assert [skb.len - 40 for skb in bench.up] == [200, 0, 100]


def test_a_super_segment_does_not_overtake_what_is_held(bench):
    big = received(tcp_packet(b"b" * 300, seq=101, gso_size=50))
    bench.feed(*row(1), big)
    assert [skb.len - 40 for skb in bench.up] == [100, 300]
    assert bench.up[1].gso_segs == 6


def test_super_segments_merge_with_what_they_follow(bench):
    first = received(tcp_packet(b"a" * 300, seq=1, ident=0, gso_size=100))
    second = received(tcp_packet(b"b" * 250, seq=301, ident=3, gso_size=100))
    late = received(tcp_packet(b"c" * 100, seq=551, ident=6))
    bench.feed(first, second, late)
    assert [skb.len - 40 for skb in bench.up] == [550, 100]
    assert (bench.up[0].gso_size, bench.up[0].gso_segs) == (100, 6)


def test_an_acknowledgement_goes_straight_up(bench):
    bench.feed(received(tcp_packet()))
    assert len(bench.up) == 1


def stamped(ack: int, value: int = 1, window: int = 500, more: bytes = b"") -> SKBuff:
    """A bare acknowledgement with a time stamp."""
    options = b"\1\1\x08\x0a" + value.to_bytes(4, "big") + bytes(4) + more
    return received(tcp_packet(ack=ack, window=window, options=options))


def test_of_acknowledgements_in_one_poll_the_last_says_it_all(bench):
    bench.feed(stamped(100), stamped(200, value=3, window=600), stamped(250, value=3, window=400))
    assert len(bench.up) == 1
    assert tcp.parse(bench.up[0].head, 34)[3] == 250
    assert tcp.parse(bench.up[0].head, 34)[6] == 400


@pytest.mark.parametrize(
    "second",
    [
        stamped(100),  # a duplicate
        stamped(90),  # an older one
        stamped(200, value=0),  # its time goes backwards
        stamped(200, more=b"\1\1\5\x0a" + bytes(8)),  # with a SACK block
        received(tcp_packet(ack=200)),  # without a time stamp
        received(tcp_packet(ack=200, flags=tcp.ACK | tcp.ECE, options=b"\1\1\x08\x0a" + bytes(8))),
    ],
)
def test_an_acknowledgement_that_says_something_else_stands_alone(bench, second):
    bench.feed(stamped(100), second.clone())
    assert len(bench.up) == 2


def unverified(ack: int, damage: int = -1) -> SKBuff:
    """A bare acknowledgement whose checksum no device vouches for, with one byte changed on the way."""
    options = b"\1\1\x08\x0a" + bytes(8)
    skb = tcp_packet(ack=ack, options=options)
    checksum_help(skb)
    frame = bytearray(skb.tobytes())
    if damage >= 0:
        frame[damage] ^= 0x10
    return as_received(bytes(frame))


def test_acknowledgements_that_nobody_vouches_for_are_looked_at_first(bench):
    bench.feed(unverified(100), unverified(200), unverified(300))
    assert [tcp.parse(skb.head, 34)[3] for skb in bench.up] == [300]
    assert bench.up[0].gso_segs == 3


@pytest.mark.parametrize("damage", [18, 60], ids=["identification", "time stamp"])
def test_a_damaged_acknowledgement_takes_no_good_ones_place(bench, damage):
    bench.feed(unverified(100), unverified(200, damage), unverified(300))
    assert [tcp.parse(skb.head, 34)[3] for skb in bench.up] == [100, 200, 300]


def test_other_protocols_pass_and_flush(bench):
    bench.feed(*row(2), as_received(frame(dst=MAC).tobytes()))
    assert [skb.gso_segs for skb in bench.up] == [2]
    assert len(bench.other) == 1


def test_flows_are_kept_apart(bench):
    a, b = row(2), row(2, sport=77)
    bench.feed(a[0], b[0], a[1], b[1])
    assert [skb.gso_segs for skb in bench.up] == [2, 2]


def test_the_oldest_flow_goes_up_when_too_many_are_held(bench):
    driver, napi = bench.driver, bench.dev.napi
    driver.dev = bench.dev
    for port in range(MAX_GRO_FLOWS + 1):
        napi.receive(received(tcp_packet(b"x" * 100, sport=1 + port)))
    assert len(napi.gro.held) == MAX_GRO_FLOWS
    assert len(bench.up) == 1
    assert bench.up[0].head[34:36] == b"\0\1"
    bench.feed()
    assert len(bench.up) == MAX_GRO_FLOWS + 1


def test_a_packet_that_is_alone_goes_up_at_once(bench):
    napi = bench.dev.napi
    bench.driver.dev = bench.dev
    napi.receive_alone(row(1)[0])
    assert not napi.gro.held
    (skb,) = bench.up
    assert (skb.len, skb.gso_size) == (140, 0)
    assert bench.dev.statistics.rx_packets == 1


def test_a_frame_too_short_for_a_link_header_is_dropped(bench):
    bench.feed(as_received(b"\2\0\0\0"))
    assert bench.net.drops.counts == {DropReason.PKT_TOO_SMALL: 1}
    assert bench.dev.statistics.rx_length_errors == 1


def test_without_the_feature_nothing_merges(bench):
    from usernet.netdevice.driver import NETIF_F_GRO

    bench.dev.set_features(NETIF_F_GRO, on=False)
    bench.feed(*row(3))
    assert len(bench.up) == 3
