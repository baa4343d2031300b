"""Fair queue with pacing: a queue for each flow, served in turn, each packet at its time (Linux: sch_fq.c, tc-fq(8)).

A flow is a connected socket, or, for packets without one, a hash of addresses and ports. A packet whose sender stamped
it (`tstamp`, ns of the stack's clock: earliest departure time) waits until then. For others the qdisc paces by the
socket's `pacing_rate`. A socket that it paces is told so (SK_PACING_FQ), and its transport then doesn't pace itself.

    enqueue → fast path: nothing waits, and the packet is due → the internal queue, served first
            → the flow's queue, sorted by time. A flow that was idle becomes a new one.
    dequeue → of three bands by priority, each with its share: the new flows, then the old ones, in turn. A flow sends
              while it has credit, and gets a quantum more when its turn is over; one whose next packet is not due yet
              is throttled until it is, and the device's queue is run then.

An idle flow is kept for a while, with what credit it has left: a socket that sends little must not count as new each
time.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, final
from zlib import crc32

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.timer import Timer
from usernet.net.pacing import PACING_UNLIMITED, SK_PACING_FQ
from usernet.netdevice.ecn import set_ce
from usernet.netdevice.qdisc.base import Qdisc
from usernet.netdevice.qdisc.pfifo import PRIO_TO_BAND
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice

FQ_BANDS: Final = 3
FQ_WEIGHTS: Final = (9 << 16, 3 << 16, 1 << 16)
FQ_LIMIT: Final = 10000
FQ_FLOW_LIMIT: Final = 100
FQ_FAST_PATH_MAX: Final = 8
FQ_GC_AGE: Final = 3 * NSEC_PER_SEC
FQ_GC_MAX: Final = 8
FQ_ORPHAN_MASK: Final = 1024 - 1
NEVER_MARK: Final = 0xFFFFFFFF * 1000
"""A `ce_threshold` (ns) that is none: 4294 seconds."""

_TCP_CLOSE: Final = 7
_TCP_LISTEN: Final = 10
_TCP: Final = 6


@final
class Flow:
    """One flow. queue: (time to send, packet, band), in order of time. detached: when (ns) it became idle, -1 while it
    is in a list or throttled."""

    __slots__ = ("band", "credit", "detached", "key", "queue", "time_next_packet")

    def __init__(self, key: Any, credit: int, now: int) -> None:
        self.key = key
        self.queue: deque[tuple[int, SKBuff, int]] = deque()
        self.credit = credit
        self.band: int = 0
        self.detached: int = now
        self.time_next_packet: int = 0

    def add(self, when: int, skb: SKBuff, band: int) -> None:
        queue = self.queue
        at = len(queue)
        while at and queue[at - 1][0] > when:
            at -= 1
        if at == len(queue):
            queue.append((when, skb, band))
        else:
            queue.insert(at, (when, skb, band))


@final
class Band:
    """The flows of one band that have something to send."""

    __slots__ = ("credit", "new", "old", "quantum")

    def __init__(self, quantum: int) -> None:
        self.new: deque[Flow] = deque()
        self.old: deque[Flow] = deque()
        self.credit: int = 0
        self.quantum = quantum


@final
class Fq(Qdisc):
    """The qdisc. Counters beside those of every qdisc, by tc's names: throttled, gc_flows, fastpath, ce_mark,
    band_drops, flows_plimit, horizon_drops, horizon_caps, pkts_too_long."""

    kind = "fq"

    def __init__(
        self,
        *,
        limit: int = FQ_LIMIT,
        flow_limit: int = FQ_FLOW_LIMIT,
        quantum: int = 0,
        initial_quantum: int = 0,
        maxrate: int = 0,
        pacing: bool = True,
        refill_delay: int = 40_000_000,
        low_rate_threshold: int = 550_000 // 8,
        orphan_mask: int = FQ_ORPHAN_MASK,
        ce_threshold: int = NEVER_MARK,
        horizon: int = 10 * NSEC_PER_SEC,
        horizon_drop: bool = True,
    ) -> None:
        """limit: packets, of each band. flow_limit: packets of a flow. quantum, initial_quantum: bytes a flow may send
        in a turn, and when it is new; 0: two and ten packets of the device's MTU. maxrate: bytes per second of a flow,
        0 for no limit. pacing: whether sockets' rates are heeded. refill_delay: ns after which an idle flow has a
        quantum again. low_rate_threshold: bytes per second; below, each packet is paced, above, each quantum.
        ce_threshold: ns; a packet that leaves so much after its time is marked (ECN). horizon: ns; how far ahead a
        packet may be stamped; later ones are dropped, or, without `horizon_drop`, sent then.

        Raises ValueError for a value out of its bounds."""
        super().__init__()
        for name, value, low in (
            ("limit", limit, 0), ("flow_limit", flow_limit, 1), ("quantum", quantum, 0),
            ("initial_quantum", initial_quantum, 0), ("maxrate", maxrate, 0), ("refill_delay", refill_delay, 0),
            ("low_rate_threshold", low_rate_threshold, 0), ("orphan_mask", orphan_mask, 0),
            ("ce_threshold", ce_threshold, 0), ("horizon", horizon, 0),
        ):  # fmt: skip
            if value < low:
                raise ValueError(f"fq: {name}: expected {low} or more, not {value}")
        self.limit = limit
        self.flow_limit = flow_limit
        self.quantum = min(max(quantum, 256), 1 << 20) if quantum else 0
        self.initial_quantum = initial_quantum
        self.maxrate = maxrate or PACING_UNLIMITED
        self.pacing = pacing
        self.refill_delay = refill_delay
        self.low_rate_threshold = low_rate_threshold
        self.orphan_mask = orphan_mask
        self.ce_threshold = ce_threshold
        self.horizon = horizon
        self.horizon_drop = horizon_drop
        self.throttled: int = 0
        self.gc_flows: int = 0
        self.fastpath: int = 0
        self.ce_mark: int = 0
        self.band_drops: int = 0
        self.flows_plimit: int = 0
        self.horizon_drops: int = 0
        self.horizon_caps: int = 0
        self.pkts_too_long: int = 0
        self._dev: NetDevice | None = None
        self._watchdog: Timer | None = None
        self._internal: deque[SKBuff] = deque()
        self._flows: dict[Any, Flow] = {}
        self._idle: dict[Flow, None] = {}
        """Flows without packets, in the order in which they became so."""
        self._bands = [Band(weight) for weight in FQ_WEIGHTS]
        self._band_packets = [0] * FQ_BANDS
        self._band: int = 0
        self._delayed: list[tuple[int, int, Flow]] = []
        self._serial: int = 0

    # -- the device

    def attach(self, dev: NetDevice) -> None:
        self._dev = dev
        mtu = dev.mtu + dev.hard_header_len
        self.quantum = self.quantum or min(max(2 * mtu, 256), 1 << 20)
        self.initial_quantum = self.initial_quantum or min(10 * mtu, 1 << 20)
        self._watchdog = Timer(dev.net.loop.timers, lambda now: dev.run_queue())

    def detach(self) -> None:
        if self._watchdog is not None:
            self._watchdog.delete()
        self._dev = self._watchdog = None
        self._flows.clear()
        self._idle.clear()

    @property
    def flows(self) -> tuple[int, int, int]:
        """How many flows there are, how many of them are idle, and how many wait for a packet's time."""
        return len(self._flows), len(self._idle), len(self._delayed)

    def _now(self) -> int:
        return self._dev.net.loop.now if self._dev is not None else 0

    # -- in

    def enqueue(self, skb: SKBuff) -> SKBuff | None:
        band = PRIO_TO_BAND[skb.priority & 15]
        if self._band_packets[band] >= self.limit:
            self.band_drops += 1
            return self._drop(skb, DropReason.FQ_BAND_LIMIT)
        now = self._now()
        when = skb.tstamp or now
        if when > now + self.horizon:
            if self.horizon_drop:
                self.horizon_drops += 1
                return self._drop(skb, DropReason.FQ_HORIZON_LIMIT)
            self.horizon_caps += 1
            when = skb.tstamp = now + self.horizon
        sk = skb.sk
        owned = sk is not None and sk.state != _TCP_LISTEN and sk.state != _TCP_CLOSE
        if self._fast(sk if owned else None, when, now):
            self.fastpath += 1
            if owned and self.pacing:
                sk.pacing_status = SK_PACING_FQ
            self._internal.append(skb)
        else:
            flow = self._classify(skb, sk if owned else None, now)
            if len(flow.queue) >= self.flow_limit:
                self.flows_plimit += 1
                return self._drop(skb, DropReason.FQ_FLOW_LIMIT)
            if flow.detached >= 0:
                if now - flow.detached > self.refill_delay:
                    flow.credit = max(flow.credit, self.quantum)
                flow.detached = -1
                self._bands[band].new.append(flow)
                # It stays in this band's lists until it is idle again.
                flow.band = band
            self._idle.pop(flow, None)
            self._band_packets[band] += 1
            flow.add(when, skb, band)
        self.qlen += 1
        self.backlog += skb.len
        return None

    def _drop(self, skb: SKBuff, reason: DropReason) -> SKBuff:
        self.drops += 1
        self.drop_reason = reason
        return skb

    def _fast(self, sk: Any, when: int, now: int) -> bool:
        """Whether the packet may go past the flows: it is due, no flow has anything to send now, and nothing limits
        the rate."""
        if when > now:
            return False
        if self.qlen:
            if len(self._flows) != len(self._idle) + len(self._delayed):
                return False
            if len(self._internal) >= FQ_FAST_PATH_MAX:
                return False
            if self._delayed and self._delayed[0][0] <= now:
                return False
        if self.maxrate != PACING_UNLIMITED:
            return False
        # TCP stamps its packets; another protocol's socket relies on the pacing here.
        return sk is None or sk.protocol == _TCP or not sk.max_pacing_rate

    def _classify(self, skb: SKBuff, sk: Any, now: int) -> Flow:
        key = sk if sk is not None else _flow_hash(skb) & self.orphan_mask
        flow = self._flows.get(key)
        if flow is None:
            self._collect(now)
            flow = self._flows[key] = Flow(key, self.initial_quantum, now)
            if sk is not None and self.pacing:
                sk.pacing_status = SK_PACING_FQ
        return flow

    def _collect(self, now: int) -> None:
        """Forget some flows that have been idle for long (Linux: fq_gc)."""
        for flow in tuple(islice(self._idle, FQ_GC_MAX)):
            if flow.detached < 0 or now - flow.detached <= FQ_GC_AGE:
                continue
            del self._idle[flow]
            del self._flows[flow.key]
            self.gc_flows += 1

    # -- out

    def dequeue(self) -> SKBuff | None:
        if not self.qlen:
            return None
        if self._internal:
            return self._take(self._internal.popleft())
        now = self._now()
        self._unthrottle(now)
        looked = 0
        while True:
            band = self._bands[self._band]
            flows = (band.new or band.old) if band.credit > 0 else None
            if not flows:
                looked += 1
                if looked > FQ_BANDS:
                    if self._delayed and self._watchdog is not None:
                        self._watchdog.mod(self._delayed[0][0])
                    return None
                self._band = (self._band + 1) % FQ_BANDS
                band = self._bands[self._band]
                band.credit = min(band.credit + band.quantum, band.quantum)
                if band.credit <= 0:
                    # It has sent more than its share, and may have flows: they are not to be passed over.
                    looked = 0
                continue
            flow = flows[0]
            if flow.credit <= 0:
                flow.credit += self.quantum
                band.old.append(flows.popleft())
                continue
            looked = 0
            if not flow.queue:
                flows.popleft()
                # A flow that is new again and again must not keep the old ones from being served.
                if flows is band.new and band.old:
                    band.old.append(flow)
                else:
                    flow.detached = now
                    self._idle.pop(flow, None)
                    self._idle[flow] = None
                continue
            when, skb, its_band = flow.queue[0]
            due = max(when, flow.time_next_packet)
            if now < due:
                flows.popleft()
                flow.time_next_packet = due
                self._throttle(flow)
                continue
            flow.queue.popleft()
            if now - due > self.ce_threshold and set_ce(skb, skb.network_header):
                self.ce_mark += 1
            self._band_packets[its_band] -= 1
            if not flow.queue:
                self._idle[flow] = None
            flow.credit -= skb.len
            band.credit -= skb.len
            self._pace(flow, skb, now)
            return self._take(skb)

    def _pace(self, flow: Flow, skb: SKBuff, now: int) -> None:
        """When the flow may send again."""
        if not self.pacing:
            return
        rate = self.maxrate
        size = skb.len
        if not skb.tstamp:
            sk = skb.sk
            if sk is not None:
                rate = min(sk.pacing_rate, rate)
            if rate <= self.low_rate_threshold:
                flow.credit = 0
            else:
                # Only when the turn is over: a timer for each packet would cost more than it is worth.
                size = max(size, self.quantum)
                if flow.credit > 0:
                    return
        if rate != PACING_UNLIMITED:
            duration = size * NSEC_PER_SEC // rate if rate else NSEC_PER_SEC
            if duration > NSEC_PER_SEC:
                # The socket's rate may change meanwhile.
                duration = NSEC_PER_SEC
                self.pkts_too_long += 1
            if flow.time_next_packet:
                duration -= min(duration // 2, now - flow.time_next_packet)
            flow.time_next_packet = now + duration

    def _take(self, skb: SKBuff) -> SKBuff:
        self.qlen -= 1
        self.backlog -= skb.len
        # Its time has come. From here on a stamp is when a packet was received.
        skb.tstamp = 0
        self.count(skb)
        return skb

    def _throttle(self, flow: Flow) -> None:
        self.throttled += 1
        self._serial += 1
        heappush(self._delayed, (flow.time_next_packet, self._serial, flow))

    def _unthrottle(self, now: int) -> None:
        delayed = self._delayed
        while delayed and delayed[0][0] <= now:
            flow = heappop(delayed)[2]
            self._bands[flow.band].old.append(flow)

    def requeue(self, skb: SKBuff) -> None:
        self._internal.appendleft(skb)
        self.take_back(skb)

    def reset(self) -> list[SKBuff]:
        left = list(self._internal)
        self._internal.clear()
        for flow in self._flows.values():
            left.extend(skb for _, skb, _ in flow.queue)
        self._flows.clear()
        self._idle.clear()
        self._delayed.clear()
        self._bands = [Band(weight) for weight in FQ_WEIGHTS]
        self._band_packets = [0] * FQ_BANDS
        self.qlen = self.backlog = 0
        if self._watchdog is not None:
            self._watchdog.cancel()
        return left


def _flow_hash(skb: SKBuff) -> int:
    """A number that the packets of one flow share: of its addresses, and its ports where there are any. The same in
    every run."""
    at = skb.network_header
    head = skb.head
    if at < 0 or len(head) < at + 20:
        return 0
    if head[at] >> 4 == 6:
        return crc32(head[at + 8 : at + 44])
    ports = at + ((head[at] & 15) << 2)
    fragment = head[at + 6] & 0x1F or head[at + 7]
    return crc32(head[at + 12 : at + 20] + head[at + 9 : at + 10] + (b"" if fragment else head[ports : ports + 4]))
