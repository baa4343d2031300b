"""A cable in memory: two devices, what one sends the other receives (Linux: drivers/net/veth.c).

The ends may be on two stacks, driven by two threads. A transmit takes no lock of the other side: it appends to the
other end's ring and schedules that end's Napi, which receives under its own stack's lock. On its way the packet is
taken off its sender's account and forgets everything that belongs to the sender's namespace; headers, payload,
unfilled checksum and super-segment pass as they are, by reference.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, final

from usernet.netdevice.driver import (
    NETIF_F_GSO_ACCECN,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_HOST, SKBuff

VETH_RING_SIZE: Final = 1024
"""Packets that wait for one end to receive them; one more is dropped with FULL_RING."""


def scrub(skb: SKBuff) -> None:
    """Make a packet forget the namespace it comes from (Linux: skb_orphan, skb_scrub_packet, eth_type_trans)."""
    destructor = skb.destructor
    if destructor is not None:
        skb.destructor = None
        destructor(skb)
    skb.sk = None
    skb.dev = None
    skb.dst = None
    skb.next = skb.prev = None
    skb.queue = None
    skb.protocol = 0
    skb.pkt_type = PACKET_HOST
    skb.priority = 0
    skb.mark = 0
    skb.tstamp = skb.tx_flags = 0
    skb.mac_header = skb.network_header = skb.transport_header = -1

_FEATURES: Final = (
    NETIF_F_SG
    | NETIF_F_HW_CSUM
    | NETIF_F_TSO
    | NETIF_F_TSO_ECN
    | NETIF_F_GSO_ACCECN
    | NETIF_F_TSO6
    | NETIF_F_GSO_UDP_L4
    | NETIF_F_RXCSUM
)


@final
class Veth(Driver):
    """One end of the cable. `peer` is the other; both must be up for the carrier to be there."""

    hw_features = _FEATURES
    queue_length = 0
    kind = "veth"

    def __init__(self) -> None:
        self.peer: Veth | None = None
        self._dev: Any = None
        self._ring: deque[SKBuff] = deque()

    def open(self, dev: Any) -> None:
        self._ring.clear()
        self._dev = dev

    def stop(self) -> None:
        dev = self._dev
        self._dev = None
        while dev is not None and self._ring:
            self._ring.popleft().drop(DropReason.DEV_DOWN, dev.net.drops)

    def close(self) -> None:
        """As in Linux, an end that is removed leaves the other without a carrier; the pair can't be joined again."""
        peer = self.peer
        self.peer = None
        if peer is not None:
            peer.peer = None

    def carrier(self) -> bool:
        peer = self.peer
        return peer is not None and peer._dev is not None

    def xmit(self, skb: SKBuff) -> bool:
        peer = self.peer
        there = peer._dev if peer is not None else None
        if peer is None or there is None or len(peer._ring) >= VETH_RING_SIZE:
            dev = self._dev
            if dev is None:
                return False
            dev.statistics.tx_dropped += 1
            if there is None:
                dev.statistics.tx_carrier_errors += 1
            skb.drop(DropReason.DEV_READY if there is None else DropReason.FULL_RING, dev.net.drops)
            return True
        scrub(skb)
        peer._ring.append(skb)
        napi = there.napi
        # Tested before the call because a scheduled Napi has its loop told already.
        if not napi.scheduled:
            there.net.loop.schedule(napi)
        return True

    def poll(self, budget: int) -> int:
        dev = self._dev
        if dev is None:
            return 0
        ring = self._ring
        receive = dev.napi.receive
        done = 0
        while ring and done < budget:
            receive(ring.popleft())
            done += 1
        return done


def veth(
    delay: float = 0.0,
    jitter: float = 0.0,
    rate: float = 0.0,
    loss: float = 0.0,
    duplicate: float = 0.0,
    corrupt: float = 0.0,
    reorder: float = 0.0,
    limit: int = 1000,
    buffer: int = 0,
    ecn_threshold: int = 0,
    seed: int | None = None,
    back: Mapping[str, float] | None = None,
) -> tuple[Driver, Driver]:
    """Make a cable; returns its two ends, for `add_device` on the same stack or on two.

    With any of these set, both ways are impaired, each end impairing what it sends (see drivers/impair.py, whose names
    these are):

    delay: seconds one way. jitter: seconds; the delay is drawn from delay ± jitter. rate: bit/s, 0 for no limit.
    loss, duplicate, corrupt, reorder: the fraction of packets, 0 to 1, that this happens to. limit: packets held at a
    time. buffer: bytes that the queue before the link holds, ecn_threshold: bytes in it from which on packets are
    marked; both with a rate only. back: settings that are others on the way from the second end to the first, such as
    {"loss": 0}. seed: makes what happens by chance repeatable; None: the stack's own source of randomness decides,
    which for a stack with a seed is repeatable too.

    Raises ValueError for a value out of its bounds, naming it.
    """
    left, right = Veth(), Veth()
    left.peer, right.peer = right, left
    if not (delay or jitter or rate or loss or duplicate or corrupt or reorder or back):
        return left, right
    from usernet.drivers.impair import Impair

    # Two sources from one seed: what happens one way must not mirror what happens the other way.
    seeds: list[int | None] = [None, None]
    if seed is not None:
        source = random.Random(seed)
        seeds = [source.getrandbits(64), source.getrandbits(64)]
    there: dict[str, Any] = {
        "delay": delay, "jitter": jitter, "rate": rate, "loss": loss, "duplicate": duplicate, "corrupt": corrupt,
        "reorder": reorder, "limit": limit, "buffer": buffer, "ecn_threshold": ecn_threshold,
    }  # fmt: skip
    unknown = set(back or ()) - set(there)
    if unknown:
        raise TypeError(f"back: expected some of {', '.join(there)}, not {min(unknown)!r}")
    first = Impair(left, seed=seeds[0], receive=False, **there)
    second = Impair(right, seed=seeds[1], receive=False, **(there | dict(back or {})))
    return first, second
