"""tc's arguments: units, flags, and what is refused."""

from __future__ import annotations

import errno

import pytest

from usernet.netdevice.qdisc import tc
from usernet.netdevice.qdisc.fq import Fq
from usernet.netdevice.qdisc.pfifo import Bfifo, NoQueue, Pfifo, PfifoFast


def test_units():
    assert (tc.rate("8bit"), tc.rate("10mbit"), tc.rate("1.5gbit"), tc.rate("100kbps")) == (
        1, 1_250_000, 187_500_000, 100_000,
    )  # fmt: skip
    assert (tc.time("40ms"), tc.time("7"), tc.time("2s")) == (40_000_000, 7_000, 2_000_000_000)
    assert (tc.size("1500"), tc.size("64kb"), tc.size("2m")) == (1500, 65536, 2 << 20)


def test_kinds():
    words = ("limit", "5", "flow_limit", "7", "maxrate", "8mbit", "nopacing", "ce_threshold", "1ms")
    fq = tc.make("fq", [*words, "horizon_cap", "buckets", "64"])
    assert isinstance(fq, Fq)
    assert (fq.limit, fq.flow_limit, fq.maxrate, fq.pacing, fq.ce_threshold, fq.horizon_drop) == (
        5, 7, 1_000_000, False, 1_000_000, False,
    )  # fmt: skip
    pfifo = tc.make("pfifo", (), 42)
    assert isinstance(pfifo, Pfifo) and pfifo.limit == 42
    bfifo = tc.make("bfifo", ["limit", "10k"])
    assert isinstance(bfifo, Bfifo) and bfifo.limit == 10240
    assert isinstance(tc.make("pfifo_fast"), PfifoFast)
    assert isinstance(tc.make("noqueue"), NoQueue)


@pytest.mark.parametrize(
    ("kind", "words", "wanted"),
    [
        ("cake", "", errno.ENOENT), ("pfifo", "limit", errno.EINVAL), ("pfifo", "limit ten", errno.EINVAL),
        ("pfifo", "colour 7", errno.EINVAL), ("fq", "maxrate 3furlongs", errno.EINVAL),
        ("fq", "flow_limit 0", errno.EINVAL), ("fq", "horizon -1s", errno.EINVAL),
    ],
)  # fmt: skip
def test_what_is_refused(kind, words, wanted):
    with pytest.raises(OSError) as caught:
        tc.make(kind, words.split())
    assert caught.value.errno == wanted


def test_a_kind_of_ones_own():
    tc.register("mine", lambda words, length: Pfifo(length + len(words)))
    made = tc.make("mine", ["x"], 9)
    assert isinstance(made, Pfifo) and made.limit == 10
    del tc._KINDS["mine"]
