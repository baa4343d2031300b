"""The interface of a queueing discipline (Linux: `struct Qdisc_ops`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.core.native import mypyc_attr
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice


@mypyc_attr(allow_interpreted_subclasses=True)
class Qdisc:
    """A device's queue. Subclass and define `enqueue`, `dequeue`, `reset`.

    `qlen`: packets queued. `can_bypass`: a packet may go straight to the driver while the queue is empty.
    """

    kind: str = "qdisc"
    can_bypass: bool = False

    def __init__(self) -> None:
        self.drop_reason: DropReason = DropReason.QDISC_DROP
        """Why the packet that `enqueue` returned last is dropped."""
        self.qlen: int = 0
        self.backlog: int = 0
        self.sent_packets: int = 0
        self.sent_bytes: int = 0
        self.drops: int = 0
        self.requeues: int = 0
        self.overlimits: int = 0

    def attach(self, dev: NetDevice) -> None:
        """It becomes the queue of `dev`: here one that needs the clock, or to have the queue run later, gets them."""

    def detach(self) -> None:
        """It is that no more; `reset` was called."""

    def enqueue(self, skb: SKBuff) -> SKBuff | None:
        """Queue `skb`. Returns a packet that must be dropped for it: `skb` itself, or an older one; None for none."""
        raise NotImplementedError(f"{type(self).__name__} must define enqueue()")

    def dequeue(self) -> SKBuff | None:
        """The next packet to send now; None where there is none, or none whose time has come."""
        raise NotImplementedError(f"{type(self).__name__} must define dequeue()")

    def requeue(self, skb: SKBuff) -> None:
        """Take back, to be sent first, a packet that the driver had no room for (`take_back` counts it)."""
        raise NotImplementedError(f"{type(self).__name__} must define requeue()")

    def reset(self) -> list[SKBuff]:
        """Empty the queue; returns what was in it, to be dropped."""
        raise NotImplementedError(f"{type(self).__name__} must define reset()")

    def count(self, skb: SKBuff) -> None:
        """A packet is sent."""
        self.sent_packets += skb.gso_segs or 1
        self.sent_bytes += skb.len

    def take_back(self, skb: SKBuff) -> None:
        """A packet that was counted as sent is queued again: the counters' part of `requeue`."""
        self.qlen += 1
        self.backlog += skb.len
        self.requeues += 1
        self.sent_packets -= skb.gso_segs or 1
        self.sent_bytes -= skb.len
