"""A doubly linked queue of packets: O(1) at both ends and in the middle, with its length and bytes.

Linux: `struct sk_buff_head`. The links are the packets' own `next` and `prev`, so a packet is in one queue at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from usernet.skbuff.skbuff import SKBuff


@final
class SKBuffQueue:
    """`first` and `last` are None where the queue is empty. `qlen` in packets, `bytes` by the packets' `len` as they
    were when queued: who changes the length of a queued packet calls `resized`."""

    __slots__ = ("bytes", "first", "last", "qlen")

    def __init__(self) -> None:
        self.first: SKBuff | None = None
        self.last: SKBuff | None = None
        self.qlen: int = 0
        self.bytes: int = 0

    def __len__(self) -> int:
        return self.qlen

    def __bool__(self) -> bool:
        return self.first is not None

    def __iter__(self) -> Iterator[SKBuff]:
        """From first to last. The current packet may be unlinked on the way."""
        skb = self.first
        while skb is not None:
            following = skb.next
            yield skb
            skb = following

    def append(self, skb: SKBuff) -> None:
        """To the end (Linux: __skb_queue_tail)."""
        last = self.last
        skb.prev = last
        skb.next = None
        skb.queue = self
        if last is None:
            self.first = skb
        else:
            last.next = skb
        self.last = skb
        self.qlen += 1
        self.bytes += skb.len

    def appendleft(self, skb: SKBuff) -> None:
        """To the front (Linux: __skb_queue_head)."""
        first = self.first
        skb.next = first
        skb.prev = None
        skb.queue = self
        if first is None:
            self.last = skb
        else:
            first.prev = skb
        self.first = skb
        self.qlen += 1
        self.bytes += skb.len

    def insert_after(self, position: SKBuff, skb: SKBuff) -> None:
        """Behind `position`, which is in this queue (Linux: __skb_queue_after)."""
        following = position.next
        if following is None:
            self.append(skb)
            return
        skb.prev = position
        skb.next = following
        skb.queue = self
        position.next = skb
        following.prev = skb
        self.qlen += 1
        self.bytes += skb.len

    def insert_before(self, position: SKBuff, skb: SKBuff) -> None:
        """Before `position`, which is in this queue (Linux: __skb_queue_before)."""
        previous = position.prev
        if previous is None:
            self.appendleft(skb)
        else:
            self.insert_after(previous, skb)

    def popleft(self) -> SKBuff | None:
        """Take the first packet out; None where there is none (Linux: __skb_dequeue)."""
        skb = self.first
        if skb is None:
            return None
        following = skb.next
        self.first = following
        if following is None:
            self.last = None
        else:
            following.prev = None
            skb.next = None
        skb.queue = None
        self.qlen -= 1
        self.bytes -= skb.len
        return skb

    def unlink(self, skb: SKBuff) -> None:
        """Take `skb` out of the middle. It must be in this queue."""
        previous = skb.prev
        following = skb.next
        if previous is None:
            self.first = following
        else:
            previous.next = following
        if following is None:
            self.last = previous
        else:
            following.prev = previous
        skb.next = skb.prev = None
        skb.queue = None
        self.qlen -= 1
        self.bytes -= skb.len

    def resized(self, delta: int) -> None:
        """A queued packet's length changed by `delta` bytes."""
        self.bytes += delta

    def take(self) -> list[SKBuff]:
        """Empty the queue; returns what was in it, in order."""
        packets: list[SKBuff] = []
        skb = self.popleft()
        while skb is not None:
            packets.append(skb)
            skb = self.popleft()
        return packets
