"""What each control makes of a link: all of it where nothing is lost, and under losses what theory says.

Short here, on slow links; the whole of it, as docs/congestion.md shows it, is marked slow (bench/congestion.py).
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.transport.tcp.congestion.bottleneck import Bulk, hosts
from usernet.lab import Lab

MSS = 1448
WIRE = 1514
BENCH = Path(__file__).resolve().parents[4] / "bench" / "congestion.py"


def rate_of(control: str, seconds: float, skip: float, seed: int, **cable: Any) -> float:
    """The mean rate, bit/s, after `skip` seconds."""
    with Lab(seed=seed) as lab:
        a, b = hosts(lab, control, **cable)
        bulk = Bulk(lab, a, b)
        lab.run(until=skip)
        before = bulk.sk.bytes_acked
        lab.run(until=seconds)
        return (bulk.sk.bytes_acked - before) * 8 / (seconds - skip)


@pytest.mark.parametrize("control", ["reno", "cubic", "bbr", "bbr3", "dctcp"])
def test_alone_each_has_the_link(control):
    link, rtt = 5e6, 0.04
    bdp = int(link * rtt / 8)
    rate = rate_of(
        control, 11, 3, 1, delay=rtt / 2, rate=link, buffer=bdp, ecn_threshold=bdp // 3, back={"ecn_threshold": 0}
    )
    assert rate > 0.9 * link * MSS / WIRE


@pytest.mark.parametrize("control", ["reno", "cubic"])
def test_losses_by_chance_set_the_rate(control):
    # At this round trip Reno's law is CUBIC's too (RFC 9438 section 4.3).
    loss, rtt = 0.01, 0.02
    rate = rate_of(control, 30, 2, 3, delay=rtt / 2, rate=100e6, loss=loss, back={"loss": 0.0})
    law = math.sqrt(1.5 / loss) * MSS * 8 / rtt
    assert rate == pytest.approx(law, rel=0.2)


def test_bbr_does_not_mind_losses():
    link = 5e6
    rate = rate_of("bbr", 12, 2, 3, delay=0.02, rate=link, loss=0.01, buffer=25_000, back={"loss": 0.0})
    assert rate > 0.85 * link * MSS / WIRE


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_of_it():
    """The figures that docs/congestion.md promises."""
    spec = importlib.util.spec_from_file_location("bench_congestion", BENCH)
    assert spec is not None and spec.loader is not None
    bench: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = bench
    try:
        spec.loader.exec_module(bench)
        for run in bench.alone(60.0):
            (flow,) = bench.simulate(run)
            assert flow.mean > 0.9 * bench.GOODPUT, flow.control
        for run in bench.lossy(1.0):
            (flow,) = bench.simulate(run)
            if flow.control == "bbr":
                assert flow.mean > 0.85 * bench.GOODPUT, run
            else:
                law = bench.reno_law if flow.control == "reno" else bench.cubic_law
                if run.rtt == bench.RTT:
                    assert flow.mean == pytest.approx(law(run.loss, run.rtt), rel=0.2), run
                assert flow.mean == pytest.approx(bench.ideal(flow.control, run.loss, run.rtt), rel=0.2), run
    finally:
        del sys.modules[spec.name]
