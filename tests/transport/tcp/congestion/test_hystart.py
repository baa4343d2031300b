"""HyStart++ (RFC 9406): an alarm, a false alarm, and the end of slow start; and over a bottleneck."""

from __future__ import annotations

from typing import Any

from tests.support.compiled import interpreted_only
from tests.transport.tcp.congestion.bottleneck import Bulk, hosts
from usernet.lab import Lab
from usernet.transport.tcp.congestion.hystart import BURST_LIMIT, CSS_ROUNDS, N_RTT_SAMPLE, HystartPlusPlus

pytestmark = interpreted_only  # Sender stands in for a connection


class Sender:
    pacing_status = 0

    def __init__(self) -> None:
        self.snd_ssthresh = 0x7FFFFFFF
        self.snd_una = self.snd_nxt = 0

    def round(self: Any, hystart: HystartPlusPlus, rtt_us: int, samples: int = N_RTT_SAMPLE) -> bool:
        self.snd_una = self.snd_nxt
        self.snd_nxt += 1000
        ends = [hystart.sample(self, rtt_us) for _ in range(samples)]
        return True in ends


def test_a_rise_by_an_eighth_slows_growth_to_a_quarter():
    sk: Any = Sender()
    hystart = HystartPlusPlus(sk)
    assert not sk.round(hystart, 40_000)
    assert not sk.round(hystart, 44_900)
    assert hystart.growth(sk, 4) == 4
    # Fewer samples than eight are no measure.
    assert not sk.round(hystart, 60_000, N_RTT_SAMPLE - 1)
    assert hystart.css_baseline_us == 0
    sk.round(hystart, 44_900)
    sk.round(hystart, 44_900 + 44_900 // 8)
    assert hystart.css_baseline_us == 44_900 + 44_900 // 8
    assert [hystart.growth(sk, 1) for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_after_five_rounds_slow_start_is_over():
    sk: Any = Sender()
    hystart = HystartPlusPlus(sk)
    sk.round(hystart, 40_000)
    sk.round(hystart, 60_000)
    ends = [sk.round(hystart, 60_000) for _ in range(CSS_ROUNDS)]
    assert ends == [False] * (CSS_ROUNDS - 1) + [True]
    assert not sk.round(hystart, 90_000)


def test_an_rtt_that_falls_again_was_a_false_alarm():
    sk: Any = Sender()
    hystart = HystartPlusPlus(sk)
    for rtt_us in (40_000, 60_000, 60_000, 59_000):
        assert not sk.round(hystart, rtt_us)
    assert hystart.css_baseline_us == hystart.css_rounds == 0
    assert hystart.growth(sk, 3) == 3


def test_bounds():
    sk: Any = Sender()
    hystart = HystartPlusPlus(sk)
    assert hystart.growth(sk, 100) == BURST_LIMIT
    sk.pacing_status = 1
    assert hystart.growth(sk, 100) == 100
    # The threshold is 4 ms at least, 16 ms at most.
    sk.round(hystart, 1_000)
    sk.round(hystart, 4_900)
    assert hystart.css_baseline_us == 0
    sk.round(hystart, 200_000)
    hystart.css_baseline_us = 0
    sk.round(hystart, 216_000)
    assert hystart.css_baseline_us == 216_000
    # A connection that knows its threshold is left alone.
    sk.snd_ssthresh = 100
    assert not any(sk.round(hystart, 500_000) for _ in range(2 * CSS_ROUNDS))


def test_it_spares_a_connection_the_overflow_of_the_first_slow_start():
    lost = {}
    for name, settings in (("none", {"hystart": 0}), ("hystart++", {"hystart_plus_plus": 1})):
        with Lab(seed=1) as lab:
            a, b = hosts(lab, "cubic", delay=0.02, rate=10e6, buffer=50_000)
            for key, value in settings.items():
                a.sysctl[f"module.tcp_cubic.{key}"] = value
            bulk = Bulk(lab, a, b)
            lab.run(until=3)
            lost[name] = bulk.sk.total_retrans
            assert bulk.received > 0.7 * 3 * 10e6 / 8
    assert lost["none"] > 50
    assert lost["hystart++"] < lost["none"] / 3
