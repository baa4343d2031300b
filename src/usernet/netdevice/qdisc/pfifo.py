"""First in, first out: `pfifo` and `bfifo` with a limit in packets and bytes, `pfifo_fast` with its three bands by
priority, and no queue."""

from __future__ import annotations

from typing import Final, final

from usernet.netdevice.qdisc.base import Qdisc
from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff

PRIO_TO_BAND: Final = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
"""The band of each socket priority, TC_PRIO_* (Linux: sch_generic.c prio2band)."""

NOQUEUE_LIMIT: Final = 1000
"""Packets."""


class Fifo(Qdisc):
    """One queue of at most `limit` packets; a packet that finds it full is dropped."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        # Without room for a single packet nothing may get past it either (Linux: fifo_init).
        self.can_bypass = limit > 0
        self._queue = SKBuffQueue()

    def enqueue(self, skb: SKBuff) -> SKBuff | None:
        if self.qlen >= self.limit:
            self.drops += 1
            return skb
        self._queue.append(skb)
        self.qlen += 1
        self.backlog += skb.len
        return None

    def dequeue(self) -> SKBuff | None:
        skb = self._queue.popleft()
        if skb is not None:
            self.qlen -= 1
            self.backlog -= skb.len
            self.count(skb)
        return skb

    def requeue(self, skb: SKBuff) -> None:
        self._queue.appendleft(skb)
        self.take_back(skb)

    def reset(self) -> list[SKBuff]:
        self.qlen = self.backlog = 0
        return self._queue.take()


@final
class Pfifo(Fifo):
    """A queue whose limit is set by hand (`tc qdisc add … pfifo limit N`)."""

    kind = "pfifo"


@final
class NoQueue(Fifo):
    """For devices that take all they are given (Linux: noqueue): only a packet sent inside another's sending waits,
    and what a driver that breaks its word does not take; at most `NOQUEUE_LIMIT`, one more is dropped."""

    kind = "noqueue"

    def __init__(self) -> None:
        super().__init__(NOQUEUE_LIMIT)


@final
class Bfifo(Fifo):
    """One queue of at most `limit` bytes; a packet that finds no room for all of it is dropped."""

    kind = "bfifo"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.can_bypass = limit >= 1514  # a packet of Ethernet's size (Linux: fifo_init)

    def enqueue(self, skb: SKBuff) -> SKBuff | None:
        if self.backlog + skb.len > self.limit:
            self.drops += 1
            return skb
        self._queue.append(skb)
        self.qlen += 1
        self.backlog += skb.len
        return None


@final
class PfifoFast(Qdisc):
    """Three bands, the lower first, together at most `limit` packets a band (Linux's default: txqueuelen, 1000)."""

    kind = "pfifo_fast"
    can_bypass = True

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._bands: list[SKBuffQueue] | None = None

    def enqueue(self, skb: SKBuff) -> SKBuff | None:
        bands = self._bands
        if bands is None:
            bands = self._bands = [SKBuffQueue(), SKBuffQueue(), SKBuffQueue()]
        band = bands[PRIO_TO_BAND[skb.priority & 15]]
        if band.qlen >= self.limit:
            self.drops += 1
            return skb
        band.append(skb)
        self.qlen += 1
        self.backlog += skb.len
        return None

    def dequeue(self) -> SKBuff | None:
        for band in self._bands or ():
            skb = band.popleft()
            if skb is not None:
                self.qlen -= 1
                self.backlog -= skb.len
                self.count(skb)
                return skb
        return None

    def requeue(self, skb: SKBuff) -> None:
        if self._bands is None:
            self._bands = [SKBuffQueue(), SKBuffQueue(), SKBuffQueue()]
        self._bands[PRIO_TO_BAND[skb.priority & 15]].appendleft(skb)
        self.take_back(skb)

    def reset(self) -> list[SKBuff]:
        self.qlen = self.backlog = 0
        left: list[SKBuff] = []
        for band in self._bands or ():
            left.extend(band.take())
        return left
