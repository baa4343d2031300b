from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import (
    ALL_FEATURES,
    ETH_P_TEST,
    MAC,
    FakeDriver,
    as_received,
    frame,
    make_dev,
    make_net,
    sink,
    tcp_packet,
    transport_checksum_ok,
)
from usernet.core.timer import NEVER
from usernet.drivers.impair import Impair
from usernet.drivers.pipe import REORDER_HOLD
from usernet.netdevice.driver import NETIF_F_HW_CSUM, NETIF_F_SG
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKBuff

MS = 1_000_000


class Bench:
    """An impaired device: `sent` are (time, packet) as the driver got them, `up` as the stack received them."""

    def __init__(self, seed: int | None = 7, room: int = 1 << 30, net_seed: int = 1, **settings: Any) -> None:
        self.net = make_net(net_seed)
        self.sent: list[tuple[int, SKBuff]] = []
        self.driver = FakeDriver(room=room)
        self.impair = Impair(self.driver, seed=seed, **settings)
        self.dev = make_dev(self.net, self.impair)
        self.up: list[tuple[int, SKBuff]] = []
        for protocol in (ETH_P_TEST, 0x0800):
            self._collect(protocol)

    def _collect(self, protocol: int) -> None:
        received = sink(self.net, protocol)
        self._sinks = [*getattr(self, "_sinks", []), received]

    def step(self, now: int) -> int | None:
        """Drive the stack at `now`, and note what came out."""
        self.net.loop.clock.set(now)  # type: ignore[attr-defined]
        deadline = self.net.loop.poll(now)
        self.note()
        return deadline

    def note(self) -> None:
        now = self.net.loop.now
        self.sent += [(now, skb) for skb in self.driver.sent]
        self.driver.sent.clear()
        for received in self._sinks:
            self.up += [(now, skb) for skb in received]
            received.clear()

    def run(self) -> None:
        """Drive it until nothing is planned."""
        deadline = self.step(self.net.loop.now)
        while deadline is not None:
            deadline = self.step(deadline)

    def send(self, *packets: SKBuff) -> None:
        for skb in packets:
            self.dev.queue_xmit(skb)
        self.note()

    def feed(self, *packets: SKBuff) -> None:
        self.driver.to_receive += packets
        self.net.loop.softirq.schedule(self.dev.napi)

    def numbers(self) -> list[int]:
        return [skb.tobytes(14)[0] for _, skb in self.sent]


def numbered(count: int, size: int = 86) -> list[SKBuff]:
    """Frames of `size` + 14 bytes, the first byte of the payload counting."""
    return [frame(bytes([n]) + bytes(size - 1)) for n in range(count)]


def to_us(packet: SKBuff) -> SKBuff:
    return as_received(MAC + packet.tobytes()[6:])


def test_delay_is_exact_and_keeps_the_order():
    bench = Bench(delay=0.010)
    bench.send(*numbered(2))
    bench.step(3 * MS)
    bench.send(*numbered(1))
    assert bench.sent == []
    bench.run()
    assert [when for when, _ in bench.sent] == [10 * MS, 10 * MS, 13 * MS]
    assert bench.numbers() == [0, 1, 0]


def test_both_ways_are_delayed():
    bench = Bench(delay=0.010)
    bench.feed(to_us(frame(b"in")))
    bench.send(frame(b"out"))
    bench.run()
    assert [when for when, _ in bench.sent] == [10 * MS]
    assert [(when, skb.tobytes()) for when, skb in bench.up] == [(10 * MS, b"in")]
    assert bench.dev.statistics.rx_packets == 1


@pytest.mark.parametrize(("send", "receive"), [(True, False), (False, True)])
def test_one_way_alone_may_be_impaired(send, receive):
    bench = Bench(delay=0.010, send=send, receive=receive)
    bench.feed(to_us(frame(b"in")))
    bench.send(frame(b"out"))
    bench.run()
    assert [when for when, _ in bench.sent] == [10 * MS if send else 0]
    assert [when for when, _ in bench.up] == [10 * MS if receive else 0]


def test_jitter_stays_within_its_bounds_and_varies():
    bench = Bench(delay=0.010, jitter=0.004)
    bench.send(*numbered(100))
    bench.run()
    times = [when for when, _ in bench.sent]
    assert len(times) == 100
    assert min(times) >= 6 * MS
    assert max(times) <= 14 * MS
    assert len(set(times)) > 90
    assert bench.numbers() != sorted(bench.numbers())


def test_a_jitter_above_the_delay_sends_nothing_into_the_past():
    bench = Bench(delay=0.001, jitter=0.010)
    bench.send(*numbered(50))
    bench.run()
    assert len(bench.sent) == 50


def test_rate_sends_one_after_the_other():
    # 100 bytes at 8 Mbit/s take 100 µs.
    bench = Bench(rate=8e6, delay=0.001)
    bench.send(*numbered(3))
    bench.run()
    assert [when for when, _ in bench.sent] == [1_100_000, 1_200_000, 1_300_000]
    bench.step(2 * MS)
    bench.send(*numbered(1))
    bench.run()
    assert bench.sent[-1][0] == 3_100_000


def test_a_super_segment_occupies_a_slow_link_as_its_packets_would():
    bench = Bench(rate=8e6)
    bench.send(tcp_packet(b"x" * 1000, gso_size=400))
    bench.run()
    (one,) = bench.sent
    assert one[0] == (1000 + 3 * 54) * 1000
    assert one[1].gso_segs == 3


def test_packets_that_wait_for_a_slow_link_are_bounded():
    bench = Bench(rate=8e6, delay=1.0, limit=5)
    bench.send(*numbered(10))
    bench.run()
    # One is being sent, five wait; those under way don't count.
    assert bench.numbers() == [0, 1, 2, 3, 4, 5]
    assert bench.net.drops.counts == {DropReason.QDISC_OVERLIMIT: 4}
    assert bench.dev.statistics.tx_dropped == 4
    assert bench.dev.statistics.tx_packets == 6
    assert bench.impair.sent is not None
    assert bench.impair.sent.overlimits == 4


def test_without_a_rate_those_under_way_are_bounded():
    bench = Bench(delay=1.0, limit=5)
    bench.send(*numbered(7))
    bench.feed(*[to_us(skb) for skb in numbered(7)])
    bench.run()
    assert len(bench.sent) == len(bench.up) == 5
    assert bench.net.drops.counts == {DropReason.QDISC_OVERLIMIT: 4}
    assert bench.dev.statistics.rx_dropped == 2


def test_loss_is_of_the_fraction_asked_for_and_counted():
    bench = Bench(loss=0.2)
    bench.send(*[frame(b"x") for _ in range(1000)])
    assert 740 < len(bench.sent) < 860
    lost = 1000 - len(bench.sent)
    assert bench.net.drops.counts == {DropReason.IMPAIRED: lost}
    assert bench.impair.sent is not None
    assert bench.impair.sent.lost == lost
    # The NIC did send them.
    assert bench.dev.statistics.tx_packets == 1000
    assert bench.dev.statistics.tx_dropped == 0


def test_loss_is_per_packet_on_the_wire_not_per_super_segment():
    bench = Bench(loss=0.3)
    assert not bench.dev.hw_features & ~(NETIF_F_SG | NETIF_F_HW_CSUM)
    bench.send(tcp_packet(bytes(50_000), gso_size=500))
    assert 50 < len(bench.sent) < 90
    assert all(skb.len == 554 for _, skb in bench.sent)


def test_received_super_segments_are_split_too_and_what_is_left_merges():
    bench = Bench(loss=0.3)
    skb = SKBuff(MAC + tcp_packet(bytes(50_000)).tobytes()[6:])
    skb.gso_size, skb.gso_type, skb.gso_segs, skb.ip_summed = 500, 1, 100, CHECKSUM_PARTIAL
    skb.csum_start, skb.csum_offset = 34, 16
    bench.feed(skb)
    bench.run()
    got = sum(skb.len - 40 for _, skb in bench.up)
    assert bench.impair.received is not None
    assert got == 50_000 - 500 * bench.impair.received.lost
    assert 5 < bench.impair.received.lost < 50
    assert any(skb.gso_segs > 1 for _, skb in bench.up)


def test_a_received_super_segment_that_is_none_is_dropped():
    bench = Bench(loss=0.1)
    for packet in (to_us(frame(b"x" * 100)), as_received(b"short")):
        packet.gso_size, packet.gso_type, packet.gso_segs = 10, 1, 10
        bench.feed(packet)
    bench.run()
    assert bench.up == []
    assert bench.net.drops.counts == {DropReason.SKB_GSO_SEG: 2}


def test_with_delay_alone_super_segments_pass_whole():
    bench = Bench(delay=0.001)
    assert bench.dev.hw_features == ALL_FEATURES
    bench.send(tcp_packet(bytes(50_000), gso_size=500))
    bench.run()
    assert [skb.gso_segs for _, skb in bench.sent] == [100]


def test_duplicates_are_packets_of_their_own():
    bench = Bench(duplicate=1)
    bench.send(*numbered(3))
    assert bench.numbers() == [0, 0, 1, 1, 2, 2]
    assert len({id(skb) for _, skb in bench.sent}) == 6
    assert bench.impair.sent is not None
    assert bench.impair.sent.duplicated == 3


def test_corruption_turns_over_one_bit_and_the_checksum_tells():
    bench = Bench(corrupt=1)
    packets = [tcp_packet(b"data" * 25, ident=n) for n in range(50)]
    originals = []
    for packet in packets:
        intact = packet.clone()
        checksum_help(intact)
        originals.append(intact.tobytes())
    bench.send(*packets)
    for original, (_, skb) in zip(originals, bench.sent, strict=True):
        assert skb.ip_summed == CHECKSUM_NONE
        damaged = skb.tobytes()
        changed = int.from_bytes(original, "big") ^ int.from_bytes(damaged, "big")
        assert changed.bit_count() == 1
        if changed.bit_length() <= (len(original) - 34) * 8:
            assert not transport_checksum_ok(damaged[14:])


def test_a_reordered_packet_skips_the_delay():
    bench = Bench(delay=0.010, reorder=0.3)
    bench.send(*numbered(50))
    bench.run()
    assert bench.impair.sent is not None
    early = [when for when, _ in bench.sent if when == 0]
    assert 0 < len(early) == bench.impair.sent.reordered < 40
    assert bench.numbers() != list(range(50))
    assert sorted(bench.numbers()) == list(range(50))


def test_on_a_link_without_delay_it_is_held_back():
    bench = Bench(reorder=0.3)
    bench.send(*numbered(50))
    bench.run()
    assert {when for when, _ in bench.sent} == {0, REORDER_HOLD}
    assert bench.numbers() != list(range(50))


def test_one_seed_one_fate():
    settings: dict[str, Any] = {
        "loss": 0.1,
        "duplicate": 0.1,
        "corrupt": 0.1,
        "reorder": 0.2,
        "delay": 0.01,
        "jitter": 0.005,
    }
    runs = []
    for seed, net_seed in ((7, 1), (7, 2), (8, 1), (None, 1), (None, 1), (None, 2)):
        bench = Bench(seed=seed, net_seed=net_seed, **settings)
        bench.send(*numbered(100))
        bench.run()
        runs.append([(when, skb.tobytes()) for when, skb in bench.sent])
    assert runs[0] == runs[1] != runs[2]
    assert runs[3] == runs[4] != runs[5]


def test_on_its_way_a_packet_is_on_nobodys_account():
    bench = Bench(delay=0.010)
    freed = []
    skb = frame()
    skb.destructor = lambda one: freed.append(1)
    bench.send(skb)
    assert freed == [1]


def test_what_finds_the_driver_full_goes_first_when_there_is_room():
    bench = Bench(room=2, delay=0.001)
    bench.send(*numbered(4))
    bench.step(1 * MS)
    assert bench.numbers() == [0, 1]
    assert bench.dev.stopped
    bench.send(*numbered(6)[4:])
    bench.driver.room = 1
    assert bench.driver.dev is not None
    bench.driver.dev.wake_queue()
    bench.note()
    assert bench.numbers() == [0, 1, 2]
    bench.driver.room = 100
    bench.driver.dev.wake_queue()
    bench.run()
    assert bench.numbers() == [0, 1, 2, 3, 4, 5]
    assert not bench.dev.stopped


def test_stopping_drops_what_is_on_its_way_and_leaves_no_timer():
    bench = Bench(delay=1.0)
    bench.send(*numbered(3))
    bench.feed(*[to_us(skb) for skb in numbered(2)])
    bench.step(0)
    bench.dev.stop()
    assert bench.net.drops.counts == {DropReason.DEV_DOWN: 5}
    assert bench.net.loop.timers.next_deadline() == NEVER
    assert bench.net.loop.timers.pending() == 0
    bench.dev.open()
    bench.send(*numbered(1))
    bench.run()
    assert len(bench.sent) == 1


def test_the_budget_is_kept_for_what_arrives_at_once():
    bench = Bench(delay=0.001)
    bench.feed(*[to_us(skb) for skb in numbered(100)])
    bench.step(0)
    bench.step(0)
    bench.net.loop.clock.set(MS)  # type: ignore[attr-defined]
    bench.net.loop.now = MS
    bench.net.loop.timers.run(MS)
    assert bench.impair.poll(30) == 30
    assert bench.impair.poll(300) == 70


def test_settings_change_from_the_next_packet_on():
    bench = Bench(delay=0.010)
    bench.send(*numbered(1))
    bench.impair.change(delay=0.0, loss=1.0)
    bench.send(tcp_packet(bytes(1000), gso_size=100))
    bench.run()
    assert bench.numbers() == [0]
    assert bench.net.drops.counts == {DropReason.IMPAIRED: 10}
    with pytest.raises(TypeError, match="lossy"):
        bench.impair.change(lossy=1)
    with pytest.raises(ValueError, match="loss"):
        bench.impair.change(loss=7)
    assert "loss=1" in repr(bench.impair)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("delay", -1), ("delay", float("nan")), ("jitter", float("inf")), ("rate", -5), ("loss", 1.1), ("loss", -0.1),
        ("duplicate", 2), ("corrupt", 2), ("reorder", 2), ("limit", 0),
    ],
)  # fmt: skip
def test_a_bad_value_is_named(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}: expected"):
        Impair(FakeDriver(), **{setting: value})


@given(
    st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.01),
    st.integers(0, 1000),
)  # fmt: skip
def test_every_packet_is_accounted_for(loss, duplicate, corrupt, reorder, jitter, seed):
    bench = Bench(seed, loss=loss, duplicate=duplicate, corrupt=corrupt, reorder=reorder, jitter=jitter, limit=20)
    bench.send(*numbered(60))
    bench.run()
    pipe = bench.impair.sent
    assert pipe is not None
    assert len(bench.sent) == 60 - pipe.lost + pipe.duplicated - pipe.overlimits
    assert sum(bench.net.drops.counts.values()) == pipe.lost + pipe.overlimits
    assert len(pipe) == 0


def test_the_buffer_before_a_link_is_bounded_in_bytes():
    # 100 bytes take 1 ms. Of ten, one is being sent, and counts until it has gone.
    bench = Bench(rate=800_000, buffer=350)
    bench.send(*numbered(10))
    bench.run()
    assert bench.numbers() == [0, 1, 2]
    assert [when for when, _ in bench.sent] == [1 * MS, 2 * MS, 3 * MS]
    assert bench.impair.sent is not None and bench.impair.sent.overlimits == 7


def test_packets_behind_a_long_queue_are_marked():
    def capable(number: int) -> SKBuff:
        return SKBuff(frame(bytes((0x45, number & 3)) + bytes(84)).tobytes())

    bench = Bench(rate=800_000, ecn_threshold=250)
    bench.send(*(capable(2) for _ in range(5)), capable(0))
    bench.run()
    assert [skb.tobytes(15)[0] for _, skb in bench.sent] == [2, 2, 2, 3, 3, 0]
    assert bench.impair.sent is not None and bench.impair.sent.marked == 2


def test_a_queue_needs_a_rate():
    for name in ("buffer", "ecn_threshold"):
        with pytest.raises(ValueError, match=name):
            Bench(delay=0.01, **{name: 1000})
        with pytest.raises(ValueError, match=name):
            Bench(rate=1e6, **{name: -1})
