"""The forwarding information base: routes by longest prefix (Linux: net/ipv4/fib_trie.c, fib_semantics.c).

A table is one dict for each prefix length in use, longest first, from the prefix's leading bits to its routes in order
of metric. So a lookup is at most as many dict look-ups as there are lengths (33 for IPv4), whether the table has ten
routes or a million, and adding or removing one costs the same. Family-free: addresses are packed.
"""

from __future__ import annotations

import errno
from bisect import insort
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from usernet.core.errors import error
from usernet.sock.af_ops import (
    RTN_BLACKHOLE,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
)

RTN_THROW: Final = 9

RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_SITE: Final = 200
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RT_SCOPE_NOWHERE: Final = 255

RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255

RTPROT_REDIRECT: Final = 1
RTPROT_KERNEL: Final = 2
RTPROT_BOOT: Final = 3
RTPROT_STATIC: Final = 4

ROUTE_ERRORS: Final = {
    RTN_BLACKHOLE: errno.EINVAL,
    RTN_UNREACHABLE: errno.EHOSTUNREACH,
    RTN_PROHIBIT: errno.EACCES,
    RTN_THROW: errno.EAGAIN,
}
"""What sending along a route of a kind that leads nowhere gives (Linux: fib_props)."""

KIND_NAMES: Final = {
    RTN_UNICAST: "unicast", RTN_LOCAL: "local", RTN_BROADCAST: "broadcast", RTN_MULTICAST: "multicast",
    RTN_BLACKHOLE: "blackhole", RTN_UNREACHABLE: "unreachable", RTN_PROHIBIT: "prohibit", RTN_THROW: "throw",
}  # fmt: skip


ROUTE_ADDED: Final = 1
ROUTE_REPLACED: Final = 2
ROUTE_APPENDED: Final = 3
ROUTE_DELETED: Final = 4

NO_METRICS: Final[dict[int, int]] = {}
"""The metrics of all routes that have none, so that a million of them take no memory. Never written to."""


def format_address(addr: bytes) -> str:
    """An address of either family, as people write it."""
    from ipaddress import ip_address

    return str(ip_address(addr))


@final
class FibException:
    """What was learned of one destination of a route (Linux: `struct fib_nh_exception`): a path MTU (bytes, 0 for
    none), a better gateway (None for none), and until when (ns) it is believed, 0 for as long as the route holds.

    mtu_locked: the MTU told was below the least one believed; packets are then sent without DF.
    """

    __slots__ = ("expires", "gateway", "mtu_locked", "pmtu")

    def __init__(self) -> None:
        self.pmtu: int = 0
        self.mtu_locked: bool = False
        self.gateway: bytes | None = None
        self.expires: int = 0


@final
class FibRoute:
    """One route.

    prefix, length: destination. kind: RTN_*. scope: RT_SCOPE_*: how far the destination is; nh_scope: how far the next
    hop is. dev: None for the kinds that lead nowhere. metric: the smaller is preferred. prefsrc: source address to
    use, b"" to choose one. metrics: RTAX_* → value. proto: RTPROT_*, who made it. `next` is the route of the same
    prefix that comes after it.
    """

    __slots__ = (
        "congestion_control", "congestion_locked", "dead", "dev", "exceptions", "gateway", "kind", "length", "metric",
        "metrics", "mtu_lock", "next", "nh_scope", "onlink", "prefix", "prefsrc", "proto", "scope", "table",
    )  # fmt: skip

    def __init__(self, prefix: bytes, length: int, kind: int, dev: Any, gateway: bytes | None, metric: int) -> None:
        self.prefix = prefix
        self.length = length
        self.kind = kind
        self.dev = dev
        self.gateway = gateway
        self.metric = metric
        self.scope: int = RT_SCOPE_UNIVERSE
        self.nh_scope: int = RT_SCOPE_LINK if gateway is not None else RT_SCOPE_HOST
        self.prefsrc: bytes = b""
        self.metrics: dict[int, int] = NO_METRICS
        self.congestion_control: str = ""
        self.congestion_locked: bool = False
        self.onlink: bool = False
        self.mtu_lock: bool = False
        self.proto: int = RTPROT_BOOT
        self.table: int = RT_TABLE_MAIN
        self.exceptions: dict[bytes, FibException] | None = None
        self.dead: bool = False
        self.next: FibRoute | None = None

    def __repr__(self) -> str:
        via = f" via {format_address(self.gateway)}" if self.gateway else ""
        dev = f" dev {self.dev.name}" if self.dev is not None else ""
        kind = KIND_NAMES.get(self.kind, str(self.kind))
        return f"<FibRoute {kind} {format_address(self.prefix)}/{self.length}{via}{dev} metric={self.metric}>"

    def same(self, other: FibRoute) -> bool:
        """Whether both say the same of the same prefix."""
        return (
            self.kind == other.kind
            and self.metric == other.metric
            and self.dev is other.dev
            and self.gateway == other.gateway
            and self.prefsrc == other.prefsrc
            and self.scope == other.scope
        )


@final
class FibTable:
    """One routing table: `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`. `on_change` is called with each route that came or
    went and ROUTE_*, but for those that a device took with it (Linux: rtmsg_fib)."""

    def __init__(self, ident: int, addr_len: int) -> None:
        """addr_len: bytes of an address, 4 or 16."""
        self.ident = ident
        self.bits = addr_len * 8
        self._by_length: dict[int, dict[int, FibRoute]] = {}
        # (bits to drop, routes by what is left), longest prefix first: fewest bits dropped.
        self._levels: list[tuple[int, dict[int, FibRoute]]] = []
        self._count: int = 0
        self.on_change: Callable[[FibRoute, int], None] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[FibRoute]:
        """All routes by prefix, the longer ones of the same bits after the shorter, as `ip route` lists them."""
        heads = [route for _, routes in self._levels for route in routes.values()]
        heads.sort(key=lambda route: (route.prefix, route.length))
        for head in heads:
            route: FibRoute | None = head
            while route is not None:
                yield route
                route = route.next

    def insert(
        self, route: FibRoute, replace: bool = False, append: bool = False, prepend: bool = False
    ) -> FibRoute | None:  # fmt: skip
        """Enter `route`; returns the one it replaced.

        replace: in place of the route of the same prefix and metric, if there is one. append: behind it. prepend:
        before it. Raises OSError EEXIST where there is one and none of them is asked for, or where the very same is
        there already.
        """
        routes = self._by_length.get(route.length)
        if routes is None:
            routes = self._by_length[route.length] = {}
            insort(self._levels, (self.bits - route.length, routes), key=lambda level: level[0])
        key = int.from_bytes(route.prefix, "big") >> (self.bits - route.length)
        route.table = self.ident
        before: FibRoute | None = None
        at = routes.get(key)
        while at is not None and at.metric < route.metric:
            before, at = at, at.next
        replaced: FibRoute | None = None
        event = ROUTE_ADDED
        if at is not None and at.metric == route.metric:
            if replace:
                replaced = at
                at = at.next
                event = ROUTE_REPLACED
            elif prepend:
                if any(route.same(other) for other in self.find(route.prefix, route.length)):
                    raise error(errno.EEXIST, f"{route!r} is there already")
            elif not append:
                raise error(errno.EEXIST, f"there is a route to {format_address(route.prefix)}/{route.length} already")
            else:
                event = ROUTE_APPENDED
                while at is not None and at.metric == route.metric:
                    if at.same(route):
                        raise error(errno.EEXIST, f"{at!r} is there already")
                    before, at = at, at.next
        route.next = at
        if before is None:
            routes[key] = route
        else:
            before.next = route
        if replaced is None:
            self._count += 1
        else:
            replaced.dead = True
            replaced.next = None
        if self.on_change is not None:
            self.on_change(route, event)
        return replaced

    def delete(self, route: FibRoute) -> None:
        """Take `route`, which is in this table, out."""
        self._unlink(route)
        if self.on_change is not None:
            self.on_change(route, ROUTE_DELETED)

    def _unlink(self, route: FibRoute) -> None:
        routes = self._by_length[route.length]
        key = int.from_bytes(route.prefix, "big") >> (self.bits - route.length)
        at = routes[key]
        if at is route:
            if route.next is None:
                del routes[key]
                if not routes:
                    del self._by_length[route.length]
                    self._levels = [level for level in self._levels if level[1] is not routes]
            else:
                routes[key] = route.next
        else:
            while at.next is not route:
                if at.next is None:
                    raise KeyError(repr(route))
                at = at.next
            at.next = route.next
        route.next = None
        route.dead = True
        self._count -= 1

    def find(self, prefix: bytes, length: int) -> Iterator[FibRoute]:
        """The routes of exactly this prefix, by metric."""
        routes = self._by_length.get(length)
        route = routes.get(int.from_bytes(prefix, "big") >> (self.bits - length)) if routes is not None else None
        while route is not None:
            following = route.next
            yield route
            route = following

    def flush(self, unwanted: Callable[[FibRoute], bool]) -> int:
        """Take out all routes of which `unwanted` says so; returns how many."""
        victims = [route for route in self if unwanted(route)]
        for route in victims:
            self._unlink(route)
        return len(victims)

    def lookup(self, addr: bytes, oif: int = 0, scope: int = RT_SCOPE_UNIVERSE) -> FibRoute | None:
        """The route of the longest prefix that holds `addr`, of the smallest metric (Linux: fib_table_lookup).

        oif: only routes by that device, 0 for any. scope: only routes to destinations at least so near. A route of
        kind RTN_THROW ends the search in this table: None.
        """
        value = int.from_bytes(addr, "big")
        for shift, routes in self._levels:
            route = routes.get(value >> shift)
            while route is not None:
                if route.scope >= scope:
                    dev = route.dev
                    if dev is None:
                        return None if route.kind == RTN_THROW else route
                    if not oif or dev.index == oif:
                        return route
                route = route.next
        return None
