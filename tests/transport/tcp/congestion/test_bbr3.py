"""BBRv3: its cycle, its bounds, and that losses by chance hardly slow it down."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.support.compiled import interpreted_only
from tests.transport.tcp.congestion.bottleneck import Bulk, hosts
from usernet.lab import Lab
from usernet.transport.tcp.congestion.bbr3 import Bbr3
from usernet.transport.tcp.congestion.bbr3_model import (
    BETA,
    NO_BOUND,
    PROBE_CRUISE,
    PROBE_DOWN,
    PROBE_REFILL,
    PROBE_UP,
    inflight_at_loss,
    too_high,
)
from usernet.transport.tcp.congestion.bbr_model import BBR_DRAIN, BBR_PROBE_BW, BBR_PROBE_RTT, BBR_STARTUP, BBR_UNIT
from usernet.transport.tcp.rate import RateSample


def test_the_cycle_of_its_phases():
    with Lab(seed=1) as lab:
        a, b = hosts(lab, "bbr3", delay=0.01, rate=8e6, buffer=40_000)
        bulk = Bulk(lab, a, b)
        modes: list[int] = []
        phases: list[int] = []
        for step in range(1, 900):
            lab.run(until=step * 0.008)
            ca: Any = bulk.sk.ca if bulk.sender is not None else None
            if ca is None:
                continue
            if not modes or modes[-1] != ca.mode:
                modes.append(ca.mode)
            if ca.mode == BBR_PROBE_BW and (not phases or phases[-1] != ca.cycle_idx):
                phases.append(ca.cycle_idx)
        assert modes[:3] == [BBR_STARTUP, BBR_DRAIN, BBR_PROBE_BW]
        assert BBR_PROBE_RTT in modes
        following = {PROBE_DOWN: PROBE_CRUISE, PROBE_CRUISE: PROBE_REFILL, PROBE_REFILL: PROBE_UP, PROBE_UP: PROBE_DOWN}
        steps = set(pairwise(phases))
        assert set(following.items()) <= steps
        assert bulk.received * 8 / 7.2 > 0.9 * 8e6
        assert bulk.sk.min_rtt_us() < 22_000


def test_losses_by_chance_hardly_slow_it_down():
    rates = {}
    for loss in (0.0, 0.005):
        with Lab(seed=2) as lab:
            a, b = hosts(lab, "bbr3", delay=0.01, rate=8e6, loss=loss)
            bulk = Bulk(lab, a, b)
            lab.run(until=6)
            rates[loss] = bulk.received
    assert rates[0.005] > 0.8 * rates[0.0]


def sample(in_flight: int, lost: int) -> RateSample:
    made = RateSample()
    made.tx_in_flight, made.lost = in_flight, lost
    return made


def test_two_per_cent_are_too_many():
    assert not too_high(sample(100, 0)) and not too_high(sample(0, 1))
    assert not too_high(sample(200, 3)) and too_high(sample(200, 4))
    assert too_high(sample(10, 1))
    # 64 packets were lost of 1000 in flight, all in one segment: the bound is where 2 % were.
    crossed = inflight_at_loss(sample(1000, 64), 64)
    assert 1000 - 64 < crossed < 1000
    assert (crossed - 936) / crossed <= 0.022
    assert inflight_at_loss(sample(1000, 90), 10) == 990

pytestmark = interpreted_only  # Sender stands in for a connection


class Sender:
    """What a bound needs of a socket."""

    class loop:
        now = 10**10

    class net:
        class random:
            @staticmethod
            def randrange(limit):
                return 0

    class tcp:
        tcp_min_tso_segs = 2

    def __init__(self) -> None:
        self.snd_cwnd = 100
        self.mss_cache = 1448
        self.pacing_rate = 1_000_000
        self.delivered = 1000


def test_a_round_with_losses_cuts_by_thirty_per_cent_but_not_below_what_was_delivered():
    sk: Any = Sender()
    ca = Bbr3()
    ca.bw_hi = [0, 1000]
    ca.bw_latest, ca.inflight_latest = 100, 10
    ca._cut_lower_bounds(sk)
    kept = BBR_UNIT - BETA
    assert (ca.bw_lo, ca.inflight_lo) == (1000 * kept >> 8, 100 * kept >> 8)
    assert ca._bw() == ca.bw_lo
    ca.inflight_latest = 95
    ca._cut_lower_bounds(sk)
    assert ca.inflight_lo == 95
    ca._start_refill(sk)
    assert (ca.bw_lo, ca.inflight_lo) == (NO_BOUND, NO_BOUND)


def test_a_probe_that_went_too_far_sets_the_bound_once():
    sk: Any = Sender()
    ca = Bbr3()
    ca.mode, ca.cycle_idx, ca.bw_probe_samples = BBR_PROBE_BW, PROBE_UP, True
    ca._inflight_too_high(sk, sample(90, 5))
    assert ca.inflight_hi == 90
    assert ca._inflight_with_headroom() == 90 - (90 * 38 >> 8)
    assert (ca.cycle_idx, ca.bw_probe_samples, ca.prev_probe_too_high) == (PROBE_DOWN, False, True)
    # What the application limits is no measure.
    limited = sample(50, 5)
    limited.is_app_limited = True
    ca._inflight_too_high(sk, limited)
    assert ca.inflight_hi == 90


def test_an_undo_brings_the_bounds_back():
    sk: Any = Sender()
    ca = Bbr3()
    ca.bw_lo, ca.inflight_lo, ca.inflight_hi = 500, 50, 80
    sk.snd_ssthresh = 7
    assert ca.ssthresh(sk) == 7
    ca.bw_lo, ca.inflight_lo, ca.inflight_hi = 300, 30, 60
    assert ca.undo_cwnd(sk) == 100
    assert (ca.bw_lo, ca.inflight_lo, ca.inflight_hi) == (500, 50, 80)
