"""One way of a bad link: what netem does to packets between being sent and being received (Linux: sch_netem.c).

Stands behind a driver's transmit or before its receive, put there by drivers/impair. In the order of tc-netem(8): a
packet is lost, or doubled, or damaged; then it waits for the link to be free, takes the time to be sent that its size
asks for, and is under way for the link's delay. Due packets leave on the stack's timers, at the exact nanosecond.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.errors import check_type
from usernet.core.timer import Timer
from usernet.net.pernet import Net
from usernet.netdevice.ecn import set_ce
from usernet.netdevice.transmit import checksum_help, gso_header_length
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKBuff

REORDER_HOLD: Final = 1_000_000
"""How long (ns) a packet is held back to be overtaken, on a link with no delay that it could skip instead."""


@final
class Impairment:
    """What is wrong with a link, one way. Times in ns, fractions 0 to 1; checked when made."""

    __slots__ = (
        "buffer", "corrupt", "delay", "duplicate", "ecn_threshold", "jitter", "limit", "loss", "ns_per_byte",
        "packetwise", "reorder",
    )  # fmt: skip

    def __init__(
        self, delay: float, jitter: float, rate: float, loss: float, duplicate: float, corrupt: float, reorder: float,
        limit: int, buffer: int = 0, ecn_threshold: int = 0,
    ) -> None:  # fmt: skip
        """Raises ValueError for a value out of its bounds, naming it, with `delay` and `jitter` in s, `rate` in
        bit/s."""
        for name, value in (
            ("delay", delay), ("jitter", jitter), ("rate", rate), ("loss", loss), ("duplicate", duplicate),
            ("corrupt", corrupt), ("reorder", reorder), ("limit", limit), ("buffer", buffer),
            ("ecn_threshold", ecn_threshold),
        ):  # fmt: skip
            check_type(name, value, (int, float), "a number")
        for name, value in (("delay", delay), ("jitter", jitter), ("rate", rate)):
            if not (value >= 0 and math.isfinite(value)):
                unit = "bits per second (0: no limit)" if name == "rate" else "seconds"
                raise ValueError(f"{name}: expected {unit}, 0 or more, not {value!r}")
        for name, value in (("loss", loss), ("duplicate", duplicate), ("corrupt", corrupt), ("reorder", reorder)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a fraction of packets, 0 to 1, not {value!r}")
        if limit < 1:
            raise ValueError(f"limit: expected a number of packets, 1 or more, not {limit!r}")
        for name, size in (("buffer", buffer), ("ecn_threshold", ecn_threshold)):
            if size < 0:
                raise ValueError(f"{name}: expected bytes, 0 for none, not {size!r}")
            if size and not rate:
                raise ValueError(f"{name}: only a link with a rate has a queue")
        self.delay: int = round(delay * NSEC_PER_SEC)
        self.jitter: int = round(jitter * NSEC_PER_SEC)
        self.ns_per_byte: float = 8 * NSEC_PER_SEC / rate if rate else 0.0
        self.loss: float = loss
        self.duplicate: float = duplicate
        self.corrupt: float = corrupt
        self.reorder: float = reorder
        self.limit: int = limit
        self.buffer: int = buffer
        self.ecn_threshold: int = ecn_threshold
        self.packetwise: bool = bool(loss or duplicate or corrupt or reorder or buffer or ecn_threshold)


@final
class Pipe:
    """One way of a link. `deliver` is given each packet when its time has come; `overflow` each that finds it full.

    Counters, in packets: lost, duplicated, corrupted, reordered, overlimits, marked.
    """

    def __init__(
        self, net: Net, what: Impairment, source: random.Random, deliver: Callable[[SKBuff], None],
        overflow: Callable[[SKBuff], None], header_length: int = 0,
    ) -> None:  # fmt: skip
        """header_length: bytes of a packet's link header, behind which the header is that is marked."""
        self.what = what
        self.lost: int = 0
        self.duplicated: int = 0
        self.corrupted: int = 0
        self.reordered: int = 0
        self.overlimits: int = 0
        self.marked: int = 0
        self._header_length = header_length
        self._net = net
        self._loop = net.loop
        self._random = source.random
        self._randrange = source.randrange
        self._deliver = deliver
        self._overflow = overflow
        self._held: list[tuple[int, int, SKBuff]] = []
        self._serial: int = 0
        self._timer = Timer(net.loop.timers, self._expired)
        # When the link is free again, and when each packet that waits for it begins to be sent.
        self._free_at: int = 0
        self._starts: deque[int] = deque()

    def __len__(self) -> int:
        """Packets on their way."""
        return len(self._held)

    def send(self, skb: SKBuff) -> None:
        """Take a packet: it is delivered now, later, twice, damaged, or never."""
        what = self.what
        if what.packetwise:
            chance = self._random
            if what.loss and chance() < what.loss:
                self.lost += 1
                skb.drop(DropReason.IMPAIRED, self._net.drops)
                return
            if what.duplicate and chance() < what.duplicate:
                self.duplicated += 1
                self._enter(skb.clone())
            if what.corrupt and chance() < what.corrupt and skb.len:
                self.corrupted += 1
                self._damage(skb)
        self._enter(skb)

    def _damage(self, skb: SKBuff) -> None:
        """Turn over one bit anywhere in the packet. Nobody vouches for it from now on."""
        if skb.ip_summed == CHECKSUM_PARTIAL:
            checksum_help(skb)
        skb.ip_summed = CHECKSUM_NONE
        bit = self._randrange(skb.len * 8)
        damaged = bytearray(skb.tobytes())
        damaged[bit >> 3] ^= 1 << (bit & 7)
        skb.head = skb.head[: skb.data] + damaged
        skb.tail = len(skb.head)
        skb.frags = None
        skb.data_len = 0

    def _enter(self, skb: SKBuff) -> None:
        what = self.what
        now = self._loop.now
        at = now
        if what.ns_per_byte:
            starts = self._starts
            while starts and starts[0] <= now:
                starts.popleft()
            if len(starts) >= what.limit:
                self.overlimits += 1
                self._overflow(skb)
                return
            size = skb.len
            if what.packetwise and self._free_at > now and not self._queue(skb, size, now):
                self.overlimits += 1
                self._overflow(skb)
                return
            if skb.gso_size:
                size += (skb.gso_segs - 1) * gso_header_length(skb)
            if self._free_at > now:
                at = self._free_at
                starts.append(at)
            self._free_at = at = at + int(size * what.ns_per_byte)
        elif len(self._held) >= what.limit:
            self.overlimits += 1
            self._overflow(skb)
            return
        if what.reorder and self._random() < what.reorder:
            self.reordered += 1
            if not what.delay:
                at += REORDER_HOLD
        elif what.jitter:
            at += max(0, what.delay + int(what.jitter * (2 * self._random() - 1)))
        else:
            at += what.delay
        held = self._held
        if at <= now:
            # What is due already, and only waits for its timer to be looked at, goes first.
            if held and held[0][0] <= now:
                self._expired(now)
            self._deliver(skb)
            return
        # On its way it is nobody's: a socket's buffer is the space before the link, not the link (skb_orphan_partial).
        skb.orphan()
        self._serial += 1
        heappush(held, (at, self._serial, skb))
        if at < self._timer.deadline:
            self._timer.mod(at)

    def _queue(self, skb: SKBuff, size: int, now: int) -> bool:
        """A packet finds others before it: whether there is room, and whether it is to be marked. What is in the queue
        follows from when the link is free; the packet that is being sent counts with what is left of it."""
        what = self.what
        queued = (self._free_at - now) / what.ns_per_byte
        if what.buffer and queued + size > what.buffer:
            return False
        if what.ecn_threshold and queued > what.ecn_threshold and set_ce(skb, skb.data + self._header_length):
            self.marked += 1
        return True

    def _expired(self, now: int) -> None:
        held = self._held
        deliver = self._deliver
        while held and held[0][0] <= now:
            deliver(heappop(held)[2])
        if held:
            self._timer.mod(held[0][0])

    def clear(self, reason: DropReason) -> None:
        """Drop all that is on its way."""
        self._timer.cancel()
        held, self._held = self._held, []
        for _, _, skb in held:
            skb.drop(reason, self._net.drops)
        self._starts.clear()
        self._free_at = 0

    def close(self) -> None:
        self.clear(DropReason.DEV_DOWN)
        self._timer.delete()
