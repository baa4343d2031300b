"""Hooks: in the order of their priority, with the last word on a packet."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.core.clock import ManualClock
from usernet.net.hooks import (
    NF_ACCEPT,
    NF_DROP,
    NF_INET_FORWARD,
    NF_INET_LOCAL_IN,
    NF_INET_LOCAL_OUT,
    NF_INET_POST_ROUTING,
    NF_INET_PRE_ROUTING,
    NF_STOLEN,
    HookPoint,
    Hooks,
)
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff


@pytest.fixture
def net() -> Net:
    return Net("", ManualClock(), random.Random(1))


class Hook:
    def __init__(self, log: list[object], verdict: int = NF_ACCEPT) -> None:
        self.log = log
        self.verdict = verdict

    def __call__(self, skb: SKBuff, indev: object, outdev: object) -> int:
        self.log.append(self)
        return self.verdict


def test_the_points_by_number(net):
    hooks = net.get(Hooks)
    assert hooks.points[NF_INET_PRE_ROUTING] is hooks.pre_routing
    assert hooks.points[NF_INET_LOCAL_IN] is hooks.local_in
    assert hooks.points[NF_INET_FORWARD] is hooks.forward
    assert hooks.points[NF_INET_LOCAL_OUT] is hooks.local_out
    assert hooks.points[NF_INET_POST_ROUTING] is hooks.post_routing
    assert not hooks.forward.entries


@given(st.lists(st.integers(-400, 400), max_size=8))
def test_lower_priorities_first_and_equal_ones_in_the_order_of_registration(priorities):
    log: list[object] = []
    point = HookPoint(Net("", ManualClock(), random.Random(1)))
    hooks = [Hook(log) for _ in priorities]
    for hook, priority in zip(hooks, priorities, strict=True):
        point.register(hook, priority)
    assert point.run(SKBuff(), None, None)
    assert log == [hooks[i] for i in sorted(range(len(hooks)), key=lambda i: (priorities[i], i))]


@pytest.mark.parametrize("verdict", [NF_DROP, NF_STOLEN, 99])
def test_the_first_that_does_not_accept_ends_it(net, verdict):
    log: list[object] = []
    point = net.get(Hooks).local_in
    first, second, third = Hook(log), Hook(log, verdict), Hook(log)
    for hook in (first, second, third):
        point.register(hook)
    assert not point.run(SKBuff(), None, None)
    assert log == [first, second]
    assert net.drops.counts == ({} if verdict == NF_STOLEN else {DropReason.NETFILTER_DROP: 1})


def test_hooks_may_come_and_go_while_a_packet_passes(net):
    log: list[object] = []
    point = net.get(Hooks).forward
    late, always = Hook(log), Hook(log)

    def once(skb: SKBuff, indev: object, outdev: object) -> int:
        log.append(once)
        point.unregister(once)
        point.register(late, -10)
        return NF_ACCEPT

    point.register(once)
    point.register(always, 10)
    assert point.run(SKBuff(), None, None)
    assert log == [once, always]
    log.clear()
    assert point.run(SKBuff(), None, None)
    assert log == [late, always]
