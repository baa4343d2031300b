"""A route, as those who send along it hold it (Linux: `struct dst_entry`).

Sockets and flows keep a `Dst` and send along it for as long as `valid` says that it still holds. It is made by the
network layer's routing; its metrics start as the route's and may be overridden by path MTU discovery.
"""

from __future__ import annotations

from typing import Any, Final

from usernet.core.native import mypyc_attr
from usernet.skbuff.skbuff import SKBuff

RTAX_LOCK: Final = 1
RTAX_MTU: Final = 2
RTAX_WINDOW: Final = 3
RTAX_RTT: Final = 4
RTAX_RTTVAR: Final = 5
RTAX_SSTHRESH: Final = 6
RTAX_CWND: Final = 7
RTAX_ADVMSS: Final = 8
RTAX_REORDERING: Final = 9
RTAX_HOPLIMIT: Final = 10
RTAX_INITCWND: Final = 11
RTAX_FEATURES: Final = 12
RTAX_RTO_MIN: Final = 13
RTAX_INITRWND: Final = 14
RTAX_QUICKACK: Final = 15
RTAX_CC_ALGO: Final = 16
RTAX_FASTOPEN_NO_COOKIE: Final = 17

RTAX_FEATURE_ECN: Final = 1
RTAX_FEATURE_TCP_USEC_TS: Final = 16


@mypyc_attr(allow_interpreted_subclasses=True)
class Dst:
    """Where to and how. Subclassed by each network layer.

    dev: the NetDevice to leave by. saddr: packed source address that goes with the route. gateway: packed address of
    the next hop, None where the destination is on the link. metrics: RTAX_* → value. local, broadcast, multicast:
    what kind of destination it is.
    """

    def __init__(self, dev: Any, daddr: bytes, saddr: bytes, gateway: bytes | None) -> None:
        self.dev = dev
        self.daddr = daddr
        self.saddr = saddr
        self.gateway = gateway
        self.metrics: dict[int, int] = {}
        self.congestion_control: str = ""
        self.congestion_locked: bool = False
        self.local: bool = False
        self.broadcast: bool = False
        self.multicast: bool = False
        self.obsolete: bool = False

    def valid(self) -> bool:
        """Whether the route still holds: nothing it was made from has changed."""
        return not self.obsolete

    def mtu(self) -> int:
        """The path's MTU (bytes) as far as known: what was discovered, the route's metric, or the device's."""
        raise NotImplementedError

    def mtu_locked(self) -> bool:
        """Whether path MTU discovery must not change the MTU (`mtu lock`)."""
        return False

    def advmss(self) -> int:
        """The MSS (bytes) to announce to the peer (Linux: ipv4_default_advmss)."""
        raise NotImplementedError

    def update_pmtu(self, mtu: int) -> None:
        """An ICMP error said that the path takes only `mtu` bytes."""

    def confirm(self) -> None:
        """The peer answered: its link address is right (Linux: dst_confirm)."""

    def metric(self, which: int) -> int:
        """A metric's value, 0 where the route has none."""
        return self.metrics.get(which, 0)

    def metric_locked(self, which: int) -> bool:
        """Whether the route's metric holds whatever is learned (`cwnd lock 10`; Linux: dst_metric_locked)."""
        return bool(self.metrics.get(RTAX_LOCK, 0) >> which & 1)

    def output(self, skb: SKBuff) -> int:
        """Send a packet with a complete network header. Returns 0, or a positive NET_XMIT_* code."""
        raise NotImplementedError
