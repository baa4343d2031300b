"""The loopback device: what is sent is received, by the same stack (Linux: drivers/net/loopback.c, `netif_rx`).

Nothing is received inside the transmit: a packet waits in the backlog until the softirq that the transmit raised.
Super-segments pass whole and checksums stay unfilled (CHECKSUM_PARTIAL): the sender vouches for them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, final

from usernet.netdevice.driver import (
    ARPHRD_LOOPBACK,
    NETIF_F_GSO_ACCECN,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_LOOPBACK,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_HOST, SKBuff

MAX_BACKLOG: Final = 1000
"""Packets that wait to be received; one more is dropped with CPU_BACKLOG (Linux: net.core.netdev_max_backlog)."""

_FEATURES: Final = (
    NETIF_F_SG
    | NETIF_F_HW_CSUM
    | NETIF_F_TSO
    | NETIF_F_TSO_ECN
    | NETIF_F_GSO_ACCECN
    | NETIF_F_TSO6
    | NETIF_F_GSO_UDP_L4
    | NETIF_F_LOOPBACK
    | NETIF_F_RXCSUM
)


@final
class Loopback(Driver):
    """`lo`. Does everything in hardware, for there is none."""

    hw_features = _FEATURES
    link_type = ARPHRD_LOOPBACK
    mtu = 65536
    min_mtu = 0
    max_mtu = 65536
    queue_length = 0
    kind = "loopback"

    def __init__(self) -> None:
        self._dev: Any = None
        self._backlog: deque[SKBuff] = deque()

    def open(self, dev: Any) -> None:
        self._dev = dev

    def stop(self) -> None:
        dev = self._dev
        self._dev = None
        while dev is not None and self._backlog:
            self._backlog.popleft().drop(DropReason.DEV_DOWN, dev.net.drops)

    def xmit(self, skb: SKBuff) -> bool:
        dev = self._dev
        if dev is None:
            return False
        backlog = self._backlog
        if len(backlog) >= MAX_BACKLOG:
            dev.statistics.tx_dropped += 1
            skb.drop(DropReason.CPU_BACKLOG, dev.net.drops)
            return True
        skb.orphan()
        skb.dst = None
        skb.pkt_type = PACKET_HOST
        skb.priority = 0
        skb.tstamp = skb.tx_flags = 0
        skb.network_header = skb.transport_header = -1
        backlog.append(skb)
        napi = dev.napi
        if not napi.scheduled:
            dev.net.loop.softirq.schedule(napi)
        return True

    def poll(self, budget: int) -> int:
        dev = self._dev
        if dev is None:
            return 0
        backlog = self._backlog
        receive = dev.receive
        done = 0
        while backlog and done < budget:
            skb = backlog.popleft()
            # A super-segment is as much work as several packets, and a poll is not to take long.
            done += 1 + (skb.len >> 15)
            receive(skb)
        return done
