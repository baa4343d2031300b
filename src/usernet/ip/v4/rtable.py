"""IPv4 routes as packets and sockets hold them (Linux: `struct rtable`, net/ipv4/route.c).

A `Rtable` joins one route of the tables, its next hop's neighbour, and the addresses of one flow. It holds for as long
as the tables' generation is the one it was made in. What was learned of the destination, a path MTU or a better
gateway, is kept with the route (`FibException`), so that every holder sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.ip.fib import FibException, FibRoute
from usernet.ip.v4.fib4 import Fib4
from usernet.link.neighbour import Neighbour
from usernet.net.dst import RTAX_ADVMSS, RTAX_HOPLIMIT, RTAX_MTU, Dst
from usernet.netdevice.device import NetDevice
from usernet.skbuff.skbuff import SKBuff
from usernet.wire.ipv4 import format_addr

if TYPE_CHECKING:
    from usernet.ip.v4.output import Ip4Output
    from usernet.ip.v4.route import Ipv4Routes

IP_MAX_MTU: Final = 0xFFFF
_TCP_IP_HEADERS: Final = 40


@final
class Rtable(Dst):
    """One route in use.

    kind: RTN_*, what the destination is. fib: the route it follows. plain: unicast, to be given to the next hop as it
    is. error: errno of a received packet's route that leads nowhere, else 0. forward: a received packet is to be passed
    on. redirect: its sender would better have sent it to the next hop itself. iif: index of the device that the
    destination or source belongs to.
    """

    def __init__(
        self, routes: Ipv4Routes, kind: int, fib: FibRoute, dev: NetDevice, daddr: bytes, saddr: bytes,
        gateway: bytes | None,
    ) -> None:  # fmt: skip
        super().__init__(dev, daddr, saddr, gateway)
        self.metrics = fib.metrics
        self.congestion_control = fib.congestion_control
        self.congestion_locked = fib.congestion_locked
        self.kind = kind
        self.fib = fib
        self.routes = routes
        self.tables: Fib4 = routes.fib
        self.genid: int = routes.fib.genid
        self.out: Ip4Output = routes.out
        self.neigh: Neighbour | None = None
        self.plain: bool = True
        self.error: int = 0
        self.forward: bool = False
        self.redirect: bool = False
        self.iif: int = 0
        self.hoplimit: int = fib.metrics.get(RTAX_HOPLIMIT, 0)
        self.metric_mtu: int = fib.metrics.get(RTAX_MTU, 0)

    def __repr__(self) -> str:
        via = f" via {format_addr(self.gateway)}" if self.gateway else ""
        return f"<Rtable {format_addr(self.daddr)}{via} dev {self.dev.name} src {format_addr(self.saddr)}>"

    def valid(self) -> bool:
        return self.genid == self.tables.genid and not self.obsolete

    def exception(self) -> FibException | None:
        """What was learned of the destination, if it is still believed."""
        exceptions = self.fib.exceptions
        if exceptions is None:
            return None
        found = exceptions.get(self.daddr)
        if found is not None and found.expires and found.expires <= self.routes.net.loop.now:
            del exceptions[self.daddr]
            if not exceptions:
                self.fib.exceptions = None
            return None
        return found

    def mtu(self) -> int:
        """Linux: ip_dst_mtu_maybe_forward."""
        fib = self.fib
        if fib.exceptions is None:
            if not self.metric_mtu and not fib.mtu_lock:
                mtu: int = self.dev.mtu
                return min(IP_MAX_MTU, mtu)
        else:
            found = self.exception()
            if found is not None and found.pmtu:
                return found.pmtu
        return self.interface_mtu()

    def interface_mtu(self) -> int:
        """The MTU with nothing discovered: the route's metric, or the device's."""
        mtu: int = self.metric_mtu
        if not mtu:
            mtu = self.dev.mtu
            if self.fib.mtu_lock and self.gateway is not None and mtu > 576:
                # Nothing can be discovered behind the gateway: what every host takes (RFC 1122 section 3.3.3).
                mtu = 576
        return min(IP_MAX_MTU, mtu)

    def mtu_locked(self) -> bool:
        if self.fib.mtu_lock:
            return True
        if self.fib.exceptions is not None:
            found = self.exception()
            return found is not None and found.mtu_locked
        return False

    def advmss(self) -> int:
        """Linux: ipv4_default_advmss."""
        metric = self.metrics.get(RTAX_ADVMSS, 0)
        if metric:
            return metric
        return min(max(self.mtu() - _TCP_IP_HEADERS, self.routes.min_adv_mss), IP_MAX_MTU - _TCP_IP_HEADERS)

    def update_pmtu(self, mtu: int) -> None:
        self.routes.update_pmtu(self, mtu)

    def confirm(self) -> None:
        neigh = self.neigh
        if neigh is not None:
            neigh.confirmed = self.routes.net.loop.now

    def neighbour(self) -> Neighbour | None:
        """The next hop; None where the neighbour table has no room for it."""
        neigh = self.neigh
        if neigh is None or neigh.dead:
            neigh = self.neigh = self.routes.arp.table.lookup(self.gateway or self.daddr, self.dev)
        return neigh

    def output(self, skb: SKBuff) -> int:
        return self.out.output(self, skb)
