"""fq: fairness, pacing, stamps, limits and marks, on a device that takes all and a clock set by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from usernet.core.clock import ManualClock
from usernet.net.pacing import SK_PACING_FQ, SK_PACING_NONE
from usernet.netdevice.driver import Driver
from usernet.netdevice.qdisc.fq import FQ_FAST_PATH_MAX, FQ_GC_AGE, Fq
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.stack import Stack

MSEC = 1_000_000
SEC = 1_000_000_000
START = 10 * SEC


class Sink(Driver):
    """Takes what it is given, and notes when."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, SKBuff]] = []
        self.now: Callable[[], int] = lambda: 0

    def open(self, dev):
        pass

    def stop(self):
        pass

    def xmit(self, skb):
        self.sent.append((self.now(), skb))
        return True

    def poll(self, budget):
        return 0


class Sock:
    """What fq looks at."""

    def __init__(self, rate: int = (1 << 64) - 1, protocol: int = 6) -> None:
        self.state = 1
        self.protocol = protocol
        self.pacing_rate = rate
        self.max_pacing_rate = rate if rate < 1 << 60 else 0
        self.pacing_status = SK_PACING_NONE


class Bench:
    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(START)
        self.stack = Stack("fq", clock=self.clock, seed=1)
        self.sink = Sink()
        self.dev = self.stack.add_device(self.sink, "eth0")
        self.sink.now = self.clock.now
        self.fq = Fq(**options)
        self.dev.set_qdisc(self.fq)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def send(self, sk: Any = None, size: int = 1000, at: int = 0, port: int = 1, tos: int = 0) -> int:
        packet = bytes((0x45, tos)) + bytes(7) + b"\x11" + bytes(10) + port.to_bytes(2, "big") + bytes(2)
        skb = SKBuff(bytes(14) + packet + bytes(size - 14 - len(packet)))
        skb.network_header = 14
        skb.sk = sk
        skb.tstamp = at
        return self.dev.queue_xmit(skb)

    def run(self, until: int) -> None:
        """Let time pass until `until` (ns after the start)."""
        while True:
            following = self.stack.loop.timers.next_deadline()
            if following > START + until:
                self.clock.set(START + until)
                self.stack.poll(self.clock.now())
                return
            self.clock.set(following)
            self.stack.poll(following)

    @property
    def times(self) -> list[int]:
        return [when - START for when, _ in self.sink.sent]

    def stop(self) -> None:
        """The driver has no room until `go`."""
        self.dev.stopped = True

    def go(self) -> None:
        self.dev.wake_queue()


def test_what_is_due_goes_at_once_and_tells_tcp_who_paces():
    with Bench() as bench:
        sk = Sock()
        assert bench.send(sk) == 0
        assert bench.times == [0]
        assert sk.pacing_status == SK_PACING_FQ
        assert bench.fq.fastpath == 1
    with Bench(pacing=False) as bench:
        sk = Sock()
        bench.send(sk)
        assert sk.pacing_status == SK_PACING_NONE


def test_a_stamped_packet_waits_for_its_time_and_loses_the_stamp():
    with Bench() as bench:
        sk = Sock()
        for at in (3 * MSEC, 1 * MSEC, 2 * MSEC):
            bench.send(sk, at=START + at)
        assert bench.times == []
        assert bench.fq.flows == (1, 0, 1)
        sent = [1500, 1700]
        for size, at in zip(sent, (5 * MSEC, 4 * MSEC), strict=True):
            bench.send(sk, size, at=START + at)
        bench.run(10 * MSEC)
        # The flow sleeps until what was first when it was looked at is due; then all is in order.
        assert bench.times == [3 * MSEC, 3 * MSEC, 3 * MSEC, 4 * MSEC, 5 * MSEC]
        assert [skb.len for _, skb in bench.sink.sent[3:]] == [1700, 1500]
        assert all(skb.tstamp == 0 for _, skb in bench.sink.sent)
        assert bench.fq.flows == (1, 1, 0)


def test_a_socket_without_stamps_is_paced_by_its_rate():
    with Bench(quantum=1000, initial_quantum=1000) as bench:
        sk = Sock(rate=1_000_000, protocol=17)  # a packet of 1000 bytes each ms
        for _ in range(10):
            bench.send(sk)
        bench.run(50 * MSEC)
        assert bench.times == [index * MSEC for index in range(10)]
        sk.pacing_rate = 10_000  # below the threshold: each packet is paced
        for _ in range(3):
            bench.send(sk)
        bench.run(1 * SEC)
        gaps = [late - early for early, late in zip(bench.times[10:], bench.times[11:], strict=False)]
        # The first was late, which is made up for.
        assert gaps == [60 * MSEC, 100 * MSEC]


def test_maxrate_limits_every_flow():
    with Bench(maxrate=1_000_000, quantum=1000, initial_quantum=1000) as bench:
        for _ in range(5):
            bench.send(Sock(), at=START)
        one = Sock()
        for _ in range(5):
            bench.send(one)
        bench.run(50 * MSEC)
        assert bench.times == [0] * 6 + [MSEC, 2 * MSEC, 3 * MSEC, 4 * MSEC]


def test_flows_take_turns_and_a_new_one_goes_first():
    with Bench(quantum=1000, initial_quantum=1000) as bench:
        bench.stop()
        heavy, light = Sock(), Sock()
        # The first of all take the fast path, which is bounded.
        for _ in range(FQ_FAST_PATH_MAX):
            bench.send(Sock())
        for _ in range(6):
            bench.send(heavy)
        for _ in range(2):
            bench.send(light)
        bench.go()
        order = ["heavy" if skb.sk is heavy else "light" for _, skb in bench.sink.sent[FQ_FAST_PATH_MAX:]]
        assert order == ["heavy", "light", "heavy", "light", "heavy", "heavy", "heavy", "heavy"]


def test_bands_share_by_weight():
    with Bench(limit=1000, flow_limit=1000) as bench:
        bench.stop()
        for index in range(FQ_FAST_PATH_MAX):
            bench.send(Sock(), port=index)
        flows = [(Sock(), 6), (Sock(), 0), (Sock(), 1)]  # interactive, best effort, filler
        for sk, priority in flows:
            for _ in range(900):
                skb = SKBuff(bytes(1000))
                skb.network_header = 14
                skb.sk = sk
                skb.priority = priority
                assert bench.fq.enqueue(skb) is None
        taken = [bench.fq.dequeue() for _ in range(FQ_FAST_PATH_MAX + 9 * 66 + 3 * 66 + 66)]
        counts = [sum(skb is not None and skb.sk is sk for skb in taken) for sk, _ in flows]
        assert counts[0] > 8 * counts[2] > 0
        assert counts[1] > 2 * counts[2]


def test_the_flow_the_band_and_the_horizon_are_bounded():
    with Bench(flow_limit=3, limit=5) as bench:
        sk = Sock()
        later = START + 5 * MSEC
        assert [bench.send(sk, at=later) for _ in range(4)] == [0, 0, 0, 1]
        assert bench.stack.drops[DropReason.FQ_FLOW_LIMIT] == 1
        assert [bench.send(Sock(), at=later) for _ in range(3)] == [0, 0, 1]
        assert bench.stack.drops[DropReason.FQ_BAND_LIMIT] == 1
        assert bench.fq.drops == 2
    with Bench() as bench:
        assert bench.send(Sock(), at=START + 11 * SEC) == 1
        assert bench.stack.drops[DropReason.FQ_HORIZON_LIMIT] == 1
    with Bench(horizon=MSEC, horizon_drop=False) as bench:
        assert bench.send(Sock(), at=START + 11 * SEC) == 0
        bench.run(2 * MSEC)
        assert bench.times == [MSEC]


def test_what_leaves_late_is_marked():
    with Bench(ce_threshold=2 * MSEC) as bench:
        bench.stop()
        sk = Sock()
        for delay in (1, 4):
            for tos in (2, 0):
                bench.send(sk, at=START + delay * MSEC, tos=tos)
        bench.clock.set(START + 5 * MSEC)
        bench.stack.poll(bench.clock.now())
        bench.go()
        bench.run(6 * MSEC)
        assert [skb.head[15] & 3 for _, skb in bench.sink.sent] == [3, 0, 2, 0]
        assert bench.fq.ce_mark == 1


def test_packets_without_a_socket_are_told_apart_by_their_ports():
    with Bench() as bench:
        for port in (1, 2, 1):
            bench.send(None, at=START + MSEC, port=port)
        assert bench.fq.flows[0] == 2
        bench.run(2 * MSEC)
        assert len(bench.times) == 3


def test_idle_flows_are_forgotten_in_time():
    with Bench() as bench:
        for _ in range(5):
            bench.send(Sock(), at=bench.clock.now() + MSEC)
        bench.run(2 * MSEC)
        assert bench.fq.flows == (5, 5, 0)
        bench.run(FQ_GC_AGE + 10 * MSEC)
        bench.send(Sock(), at=bench.clock.now() + MSEC)
        # All but the one that sent last: it is in its turn still.
        assert bench.fq.flows[0] == 2
        assert bench.fq.gc_flows == 4


def test_replacing_it_drops_what_waits_and_leaves_no_timer():
    with Bench() as bench:
        bench.send(Sock(), at=START + MSEC)
        assert bench.stack.loop.timers.pending() == 1
        bench.dev.set_qdisc(Fq())
        assert bench.stack.drops[DropReason.QDISC_DROP] == 1
        assert bench.stack.loop.timers.pending() == 0
        bench.send(Sock(), at=START + MSEC)
        bench.stack.set_down("eth0")
        assert bench.stack.drops[DropReason.DEV_DOWN] == 1
        assert bench.dev.qdisc.qlen == bench.dev.qdisc.backlog == 0


def test_bounds_of_its_options():
    wrongs: list[dict[str, Any]] = [{"limit": -1}, {"flow_limit": 0}, {"maxrate": -5}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Fq(**wrong)
