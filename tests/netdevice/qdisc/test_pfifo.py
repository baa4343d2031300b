"""pfifo, pfifo_fast and noqueue: order, bands, limits, and counters that add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.netdevice.qdisc.base import Qdisc
from usernet.netdevice.qdisc.pfifo import NOQUEUE_LIMIT, PRIO_TO_BAND, NoQueue, Pfifo, PfifoFast
from usernet.skbuff.skbuff import SKBuff


def packet(size: int = 10, priority: int = 0) -> SKBuff:
    skb = SKBuff(bytes(size))
    skb.priority = priority
    return skb


@pytest.mark.parametrize(("qdisc", "limit"), [(Pfifo(3), 3), (PfifoFast(3), 3), (NoQueue(), NOQUEUE_LIMIT)])
def test_full_is_full(qdisc, limit):
    for _ in range(limit):
        assert qdisc.enqueue(packet()) is None
    late = packet()
    assert qdisc.enqueue(late) is late
    assert (qdisc.qlen, qdisc.drops, qdisc.backlog) == (limit, 1, limit * 10)
    assert qdisc.dequeue() is not None
    assert qdisc.enqueue(late) is None


def test_bands_by_priority_have_a_limit_each():
    qdisc = PfifoFast(2)
    bulk = [packet(priority=2) for _ in range(3)]
    normal = [packet(priority=0) for _ in range(3)]
    urgent = [packet(priority=6) for _ in range(3)]
    assert [PRIO_TO_BAND[skb[0].priority] for skb in (urgent, normal, bulk)] == [0, 1, 2]
    refused = [qdisc.enqueue(skb) for skb in [*bulk, *normal, *urgent]]
    assert refused == [None, None, bulk[2], None, None, normal[2], None, None, urgent[2]]
    assert [qdisc.dequeue() for _ in range(7)] == [*urgent[:2], *normal[:2], *bulk[:2], None]


def test_an_empty_queue_allocates_nothing():
    qdisc = PfifoFast(1000)
    assert qdisc.dequeue() is None
    assert qdisc.reset() == []
    assert qdisc._bands is None
    skb = packet()
    qdisc.count(skb)
    qdisc.requeue(skb)
    assert qdisc.dequeue() is skb


_steps = st.lists(st.tuples(st.sampled_from("eeedrx"), st.integers(0, 15), st.integers(1, 100)), max_size=40)


@given(st.integers(0, 2), _steps)
def test_counters_add_up(kind, steps):
    qdisc: Qdisc = (Pfifo(4), PfifoFast(4), NoQueue())[kind]
    inside: list[SKBuff] = []
    sent: list[SKBuff] = []
    for step, priority, size in steps:
        if step == "e":
            skb = packet(size, priority)
            refused = qdisc.enqueue(skb)
            assert refused in (None, skb)
            if refused is None:
                inside.append(skb)
        elif step == "x":
            assert sorted(map(id, qdisc.reset())) == sorted(map(id, inside))
            inside.clear()
        else:
            taken = qdisc.dequeue()
            assert (taken is None) == (not inside)
            if taken is None:
                continue
            if step == "r":
                qdisc.requeue(taken)
                assert qdisc.dequeue() is taken
            inside.remove(taken)
            sent.append(taken)
        assert (qdisc.qlen, qdisc.backlog) == (len(inside), sum(skb.len for skb in inside))
        assert (qdisc.sent_packets, qdisc.sent_bytes) == (len(sent), sum(skb.len for skb in sent))
