"""What a queueing discipline must define, and what it counts."""

from __future__ import annotations

import pytest

from usernet.netdevice.qdisc.base import Qdisc
from usernet.skbuff.skbuff import SKBuff


def test_it_must_be_defined():
    qdisc = Qdisc()
    for call in (lambda: qdisc.enqueue(SKBuff()), qdisc.dequeue, lambda: qdisc.requeue(SKBuff()), qdisc.reset):
        with pytest.raises(NotImplementedError, match="Qdisc must define"):
            call()


def test_a_super_segment_counts_as_its_packets():
    qdisc = Qdisc()
    skb = SKBuff(bytes(1000))
    skb.gso_segs = 4
    qdisc.count(skb)
    qdisc.count(SKBuff(bytes(10)))
    assert (qdisc.sent_packets, qdisc.sent_bytes) == (5, 1010)
    qdisc.take_back(skb)
    assert (qdisc.sent_packets, qdisc.sent_bytes, qdisc.qlen, qdisc.backlog, qdisc.requeues) == (1, 10, 1, 1000, 1)
