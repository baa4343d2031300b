"""The namespace: each layer's state once, in any order, and ended in the reverse of it."""

from __future__ import annotations

import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.pernet import Net


def namespace() -> Net:
    return Net("test", ManualClock(7), random.Random(1))


class Lower:
    def __init__(self, net: Net) -> None:
        self.net = net
        self.log: list[str] | None = None

    def close(self) -> None:
        if self.log is not None:
            self.log.append("lower")


class Upper:
    def __init__(self, net: Net) -> None:
        self.lower = net.get(Lower)
        self.log: list[str] | None = None
        self.fails = False

    def close(self) -> None:
        if self.log is not None:
            self.log.append("upper")
        if self.fails:
            raise OSError("upper")


class Plain:
    """Holds nothing beyond memory, and so has no close()."""

    def __init__(self, net: Net) -> None:
        pass


def test_a_state_is_made_once_and_makes_what_it_needs():
    net = namespace()
    upper = net.get(Upper)
    assert net.get(Upper) is upper
    assert net.get(Lower) is upper.lower
    assert upper.lower.net is net


def test_namespaces_do_not_know_of_each_other():
    one, other = namespace(), namespace()
    assert one.get(Lower) is not other.get(Lower)
    one.mib.tcp.InSegs += 1
    assert other.mib.tcp.InSegs == 0
    assert one.loop is not other.loop


def test_its_time_is_its_clocks():
    assert namespace().loop.now == 7


def test_states_end_in_the_reverse_order_of_making():
    net = namespace()
    log: list[str] = []
    net.get(Plain)
    upper = net.get(Upper)
    upper.log = upper.lower.log = log
    net.close()
    assert log == ["upper", "lower"]
    net.close()
    assert log == ["upper", "lower"]


def test_one_that_fails_to_end_keeps_no_other_from_it():
    net = namespace()
    log: list[str] = []
    upper = net.get(Upper)
    upper.log = upper.lower.log = log
    upper.fails = True
    with pytest.raises(OSError, match="upper"):
        net.close()
    assert log == ["upper", "lower"]


def test_drops_are_a_tracepoint():
    net = namespace()
    assert net.drops.probes is net.trace.kfree_skb.probes


def test_the_softirqs_budget_is_a_sysctl():
    net = namespace()
    assert net.sysctl["net.core.netdev_budget"] == 300
    net.sysctl["net.core.netdev_budget"] = 64
    assert net.loop.softirq.budget == 64
    with pytest.raises(ValueError, match="expected 1 to"):
        net.sysctl["net.core.netdev_budget"] = 0
