"""IPv4 routing: the administrator's routes, and the route of what this host sends (Linux: net/ipv4/route.c).

`add` and `remove` are `ip route add` and `del`, with the checks of fib_create_info. `output` chooses the route and the
source address of a flow (ip_route_output_key). Received packets are routed by route_input.py.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.core.mib import MibGroup
from usernet.core.sysctl import INT_MAX
from usernet.ip.fib import (
    ROUTE_ERRORS,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RTN_THROW,
    RTPROT_BOOT,
    FibException,
    FibRoute,
)
from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.devinet import Devinet, network
from usernet.ip.v4.fib4 import ANY, BROADCAST, LOOPBACK, Fib4
from usernet.ip.v4.rtable import Rtable
from usernet.link.arp import Arp
from usernet.link.neighbour import NUD_VALID
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sock.af_ops import (
    RTN_BLACKHOLE,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    Flow,
)
from usernet.wire.ipv4 import format_addr

if TYPE_CHECKING:
    from usernet.ip.v4.output import Ip4Output

IPPROTO_IGMP: Final = 2
SECOND: Final = 1_000_000_000
MAX_EXCEPTIONS: Final = 10240
"""Destinations with something learned, for one route; the oldest makes room (Linux: 2048 buckets of 5)."""

_NOWHERE: Final = (RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW)


@final
class RouteMib(MibGroup):
    """Linux: /proc/net/stat/rt_cache. The slow counts are of decisions made anew, not taken from a cache."""

    in_slow_tot: int = 0
    in_slow_mc: int = 0
    in_no_route: int = 0
    in_brd: int = 0
    in_martian_dst: int = 0
    in_martian_src: int = 0
    out_slow_tot: int = 0
    out_slow_mc: int = 0


_SYSCTLS: Final = (
    ("mtu_expires", 0, INT_MAX), ("min_pmtu", 68, INT_MAX), ("min_adv_mss", 0, INT_MAX), ("gc_timeout", 0,
    INT_MAX), ("max_size", 1, INT_MAX),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class Ipv4Routes:
    """The routing of one namespace."""

    out: Ip4Output
    """Where packets go that follow a route; set by the output path when it is made."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.fib = net.get(Fib4)
        self.arp = net.get(Arp)
        self.devinet = net.get(Devinet)
        self.inet_devices = net.get(InetDevices)
        self.devices = net.get(DeviceNamespace)
        self.mib = RouteMib()
        net.mib.register("Route", self.mib)
        self.mtu_expires: int = 600
        self.min_pmtu: int = 552
        self.min_adv_mss: int = 256
        self.gc_timeout: int = 300
        self.max_size: int = 8192
        """Routes of flows that are cached, each way; the oldest makes room."""
        self._cache: dict[tuple[bytes, bytes, int], Rtable] = {}
        self._cache_genid: int = -1
        net.sysctl.register_rows("net.ipv4.route", self, _SYSCTLS)

    # -- the administrator's routes

    def add(
        self, prefix: bytes, length: int, *, gateway: bytes | None = None, dev: NetDevice | None = None,
        kind: int = RTN_UNICAST, metric: int = 0, prefsrc: bytes | None = None, metrics: dict[int, int] | None = None,
        congestion_control: str = "", onlink: bool = False, mtu_lock: bool = False, replace: bool = False,
        append: bool = False, scope: int | None = None, proto: int = RTPROT_BOOT, congestion_locked: bool = False,
        prepend: bool = False, local: bool | None = None,
    ) -> FibRoute:  # fmt: skip
        """Add a route (`ip route add`).

        prefix, length: destination, b"\\0\\0\\0\\0" and 0 for the default route. gateway: next hop; where None, the
        destination is on the link of `dev`. kind: RTN_*; those that lead nowhere have neither. metric: the smaller is
        preferred. prefsrc: source address, one of ours. metrics: RTAX_* → value. onlink: believe that the gateway is on
        the link of `dev`. replace: in place of the one of the same prefix and metric. congestion_locked: no socket
        may choose another congestion control than the route's. local: into the local table, or not; by its kind where
        None.

        Raises OSError as Linux does: EEXIST, EINVAL (host bits set, no valid gateway or source), ENODEV, ENETDOWN,
        ENETUNREACH (the gateway is not on a link).
        """
        if len(prefix) != 4 or not 0 <= length <= 32:
            raise error(errno.EINVAL, f"route: expected an IPv4 prefix, not {prefix.hex(':')}/{length}")
        name = f"{format_addr(prefix)}/{length}"
        if network(prefix, length) != prefix:
            raise error(errno.EINVAL, f"route {name}: expected no bits behind the prefix")
        if kind in _NOWHERE:
            if gateway is not None or dev is not None:
                raise error(errno.EINVAL, f"route {name}: one that leads nowhere has no gateway and no device")
            route = FibRoute(prefix, length, kind, None, None, metric)
        else:
            route = self._next_hop(name, prefix, length, kind, dev, gateway, metric, onlink, scope)
        if metrics:
            route.metrics = dict(metrics)
        route.congestion_control = congestion_control
        route.congestion_locked = congestion_locked
        route.mtu_lock = mtu_lock
        route.proto = proto
        if prefsrc is not None and prefsrc != ANY:
            if self.fib.addr_type(prefsrc) != RTN_LOCAL and not (kind == RTN_LOCAL and prefsrc == prefix):
                raise error(errno.EINVAL, f"route {name}: {format_addr(prefsrc)} is no address of this host")
            route.prefsrc = prefsrc
        if local is None:
            local = kind in (RTN_LOCAL, RTN_BROADCAST)
        table = self.fib.local if local else self.fib.main
        table.insert(route, replace, append, prepend)
        self.fib.flush()
        return route

    def _next_hop(
        self, name: str, prefix: bytes, length: int, kind: int, dev: NetDevice | None, gateway: bytes | None,
        metric: int, onlink: bool, scope: int | None,
    ) -> FibRoute:  # fmt: skip
        """Check and make a route that leads somewhere (Linux: fib_check_nh)."""
        if scope is None:
            if kind == RTN_LOCAL:
                scope = RT_SCOPE_HOST
            elif gateway is None or kind in (RTN_BROADCAST, RTN_MULTICAST):
                scope = RT_SCOPE_LINK
            else:
                scope = RT_SCOPE_UNIVERSE
        nh_scope = RT_SCOPE_HOST
        if gateway is None or gateway == ANY:
            gateway = None
            if dev is None:
                raise error(errno.ENODEV, f"route {name}: expected a device or a gateway")
            if not dev.up:
                raise error(errno.ENETDOWN, f"route {name}: {dev.name} is down")
            if scope == RT_SCOPE_HOST:
                nh_scope = RT_SCOPE_NOWHERE
        elif scope >= RT_SCOPE_LINK:
            raise error(errno.EINVAL, f"route {name}: a destination on the link has no gateway")
        elif onlink:
            if dev is None:
                raise error(errno.ENODEV, f"route {name}: onlink needs a device")
            if not dev.up:
                raise error(errno.ENETDOWN, f"route {name}: {dev.name} is down")
            if self.fib.addr_type(gateway) != RTN_UNICAST:
                raise error(errno.EINVAL, f"route {name}: {format_addr(gateway)} is no unicast address")
            nh_scope = RT_SCOPE_LINK
        else:
            found = self.fib.lookup(gateway, dev.index if dev is not None else 0, max(scope + 1, RT_SCOPE_LINK))
            if found is None:
                raise error(errno.ENETUNREACH, f"route {name}: gateway {format_addr(gateway)} is not on a link")
            if found.dev is None:
                raise error(ROUTE_ERRORS[found.kind], f"route {name}: gateway {format_addr(gateway)} is not on a link")
            if found.kind not in (RTN_UNICAST, RTN_LOCAL):
                raise error(errno.EINVAL, f"route {name}: {format_addr(gateway)} is no unicast address")
            dev = found.dev
            nh_scope = found.scope
            assert dev is not None
            if not dev.up:
                raise error(errno.ENETDOWN, f"route {name}: {dev.name} is down")
        route = FibRoute(prefix, length, kind, dev, gateway, metric)
        route.scope = scope
        route.nh_scope = nh_scope
        route.onlink = onlink
        return route

    def remove(
        self, prefix: bytes, length: int, *, gateway: bytes | None = None, dev: NetDevice | None = None,
        metric: int | None = None, kind: int | None = None,
    ) -> None:  # fmt: skip
        """Remove the first route of the prefix that fits what is given (`ip route del`). Raises OSError ESRCH."""
        for table in (self.fib.main, self.fib.local):
            for route in table.find(prefix, length):
                if (
                    (gateway is None or route.gateway == gateway)
                    and (dev is None or route.dev is dev)
                    and (metric is None or route.metric == metric)
                    and (kind is None or route.kind == kind)
                ):
                    table.delete(route)
                    self.fib.flush()
                    return
        raise error(errno.ESRCH, f"no such route: {format_addr(prefix)}/{length}")

    def routes(self, local: bool = False) -> list[FibRoute]:
        """The routes of the main table, or of the local one, by prefix (`ip route show [table local]`)."""
        return list(self.fib.local if local else self.fib.main)

    # -- what this host sends

    def output(self, flow: Flow) -> Rtable:
        """The route of a flow, with the source address chosen (Linux: ip_route_output_flow).

        Raises OSError: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, ENODEV.
        """
        fib = self.fib
        cache = self._cache
        if self._cache_genid != fib.genid:
            cache.clear()
            self._cache_genid = fib.genid
        if flow.any_source or flow.onlink or flow.protocol == IPPROTO_IGMP:
            return self._output_slow(flow)
        key = (flow.daddr, flow.saddr, flow.oif)
        route = cache.get(key)
        if route is None:
            route = self._output_slow(flow)
            if len(cache) >= self.max_size:
                del cache[next(iter(cache))]
            cache[key] = route
        elif route.obsolete:
            route = cache[key] = self._output_slow(flow)
        elif route.fib.exceptions is not None:
            # A redirect that is no longer believed leads back to the route's own gateway.
            found = route.exception()
            if route.gateway != (found.gateway if found is not None and found.gateway else route.fib.gateway):
                route = cache[key] = self._output_slow(flow)
        return route

    def _output_slow(self, flow: Flow) -> Rtable:
        """Linux: ip_route_output_key_hash_rcu."""
        self.mib.out_slow_tot += 1
        daddr = flow.daddr
        saddr = flow.saddr
        oif = flow.oif
        multicast = daddr[0] & 0xF0 == 0xE0
        if saddr != ANY:
            if saddr[0] & 0xF0 == 0xE0 or saddr == BROADCAST or saddr[0] == 0:
                raise error(errno.EINVAL, f"{format_addr(saddr)} can't be a source address")
            if not oif and (multicast or daddr == BROADCAST):
                # Sending multicast from an address chooses the address's device.
                dev = self._device_of(saddr)
                if dev is None:
                    raise error(errno.ENETUNREACH)
                return self._make(None, flow, dev, dev.index, saddr, RTN_MULTICAST if multicast else RTN_BROADCAST)
            if not flow.any_source and self._device_of(saddr) is None:
                raise error(errno.ENETUNREACH, f"{format_addr(saddr)} is no address of this host")
        dev = None
        if oif:
            dev = self.devices.by_index(oif)
            if dev is None:
                raise error(errno.ENODEV, f"no device has index {oif}")
            if not dev.up or self.inet_devices.get(dev) is None:
                raise error(errno.ENETUNREACH, f"{dev.name} is down")
            if daddr[:3] == b"\xe0\0\0" or daddr == BROADCAST or flow.protocol == IPPROTO_IGMP:
                if saddr == ANY:
                    saddr = self.devinet.select_addr(dev, ANY, RT_SCOPE_LINK)
                kind = RTN_BROADCAST if daddr == BROADCAST else RTN_MULTICAST if multicast else RTN_UNICAST
                return self._make(None, flow, dev, oif, saddr, kind)
            if saddr == ANY:
                if multicast:
                    saddr = self.devinet.select_addr(dev, ANY, RT_SCOPE_UNIVERSE)
                elif daddr == ANY:
                    saddr = self.devinet.select_addr(dev, ANY, RT_SCOPE_HOST)
        if daddr == ANY:
            daddr = saddr if saddr != ANY else LOOPBACK
            return self._make_local(None, flow, daddr, daddr if saddr == ANY else saddr)
        fib = self.fib.lookup(daddr, oif, RT_SCOPE_LINK if flow.onlink else RT_SCOPE_UNIVERSE)
        if fib is None:
            if dev is None:
                raise error(errno.ENETUNREACH)
            # A device was asked for: it reaches whatever is on its link, addresses and routes or none.
            if saddr == ANY:
                saddr = self.devinet.select_addr(dev, ANY, RT_SCOPE_LINK)
            return self._make(None, flow, dev, oif, saddr, RTN_MULTICAST if multicast else RTN_UNICAST)
        if fib.dev is None:
            raise error(ROUTE_ERRORS[fib.kind])
        if fib.kind == RTN_LOCAL:
            return self._make_local(fib, flow, daddr, saddr if saddr != ANY else fib.prefsrc or daddr)
        if saddr == ANY:
            saddr = fib.prefsrc or self.devinet.select_addr(fib.dev, fib.gateway or ANY, fib.scope)
        if daddr == BROADCAST:
            return self._make(None, flow, fib.dev, oif, saddr, RTN_BROADCAST)
        return self._make(fib, flow, fib.dev, oif, saddr, RTN_MULTICAST if multicast else fib.kind)

    def _device_of(self, addr: bytes) -> NetDevice | None:
        """The device that has the address of ours (Linux: __ip_dev_find); 127.0.0.2 counts, by its route."""
        ifa = self.devinet.find(addr)
        if ifa is not None:
            return ifa.dev
        route = self.fib.local.lookup(addr)
        if route is not None and route.kind == RTN_LOCAL:
            dev: NetDevice = route.dev
            return dev
        return None

    def loopback_device(self) -> NetDevice:
        """The device by which this host talks to itself. Raises OSError ENETUNREACH where there is none that is up."""
        for dev in self.devices.values():
            if dev.loopback and dev.up:
                return dev
        raise error(errno.ENETUNREACH, "the stack has no loopback device that is up")

    def _make_local(self, fib: FibRoute | None, flow: Flow, daddr: bytes, saddr: bytes) -> Rtable:
        dev = self.loopback_device()
        route = self._rtable(RTN_LOCAL, fib, dev, daddr, saddr, None)
        route.local = True
        route.iif = fib.dev.index if fib is not None else dev.index
        return route

    def _make(
        self, fib: FibRoute | None, flow: Flow, dev: NetDevice, oif: int, saddr: bytes, kind: int
    ) -> Rtable:  # fmt: skip
        """Linux: __mkroute_output."""
        daddr = flow.daddr
        if saddr[0] == 127 and not dev.loopback and not self.inet_devices.of(dev).route_localnet():
            raise error(errno.EINVAL, f"{format_addr(saddr)} can't be a source address on {dev.name}")
        if daddr[0] == 0:
            raise error(errno.EINVAL, f"{format_addr(daddr)} can't be a destination")
        gateway = fib.gateway if fib is not None else None
        if kind == RTN_MULTICAST and fib is not None and fib.length < 4:
            # The default route says by which device multicast leaves, but it isn't sent to the gateway.
            gateway = None
        if fib is not None and kind == RTN_UNICAST:
            gateway = self._gateway(fib, daddr)
        route = self._rtable(kind, fib, dev, daddr, saddr, gateway)
        route.iif = oif
        if kind == RTN_BROADCAST:
            route.broadcast = True
            route.plain = False
        elif kind == RTN_MULTICAST:
            route.multicast = True
            route.plain = False
            self.mib.out_slow_mc += 1
        return route

    def _rtable(
        self, kind: int, fib: FibRoute | None, dev: NetDevice, daddr: bytes, saddr: bytes, gateway: bytes | None
    ) -> Rtable:  # fmt: skip
        if fib is None:
            fib = FibRoute(daddr, 32, kind, dev, None, 0)
        return Rtable(self, kind, fib, dev, daddr, saddr, gateway)

    def _gateway(self, fib: FibRoute, daddr: bytes) -> bytes | None:
        """The next hop to `daddr`: what a redirect told, or the route's own."""
        exceptions = fib.exceptions
        if exceptions is not None:
            found = exceptions.get(daddr)
            if found is not None and found.gateway and (not found.expires or found.expires > self.net.loop.now):
                return found.gateway
        return fib.gateway

    # -- what is learned

    def _exception(self, fib: FibRoute, daddr: bytes) -> FibException:
        exceptions = fib.exceptions
        if exceptions is None:
            exceptions = fib.exceptions = {}
        found = exceptions.get(daddr)
        if found is None:
            if len(exceptions) >= MAX_EXCEPTIONS:
                del exceptions[next(iter(exceptions))]
            found = exceptions[daddr] = FibException()
        return found

    def update_pmtu(self, route: Rtable, mtu: int) -> None:
        """The path of `route` takes only `mtu` bytes (RFC 1191; Linux: __ip_rt_update_pmtu).

        Below min_pmtu it isn't believed: min_pmtu is used, and packets may be fragmented on the way. It is forgotten
        after mtu_expires seconds, so that a better path is found.
        """
        if route.mtu_locked() or route.local:
            return
        old = route.mtu()
        if old < mtu:
            return
        locked = mtu < self.min_pmtu
        if locked:
            mtu = min(old, self.min_pmtu)
        found = self._exception(route.fib, route.daddr)
        found.pmtu = mtu
        found.mtu_locked = locked
        found.expires = self.net.loop.now + self.mtu_expires * SECOND

    def redirect(self, dev: NetDevice, sender: bytes, daddr: bytes, saddr: bytes, gateway: bytes) -> bool:
        """A router said that `gateway` is nearer to `daddr` (RFC 1122 section 3.2.2.2; Linux: __ip_do_redirect).

        dev: by which it came. sender: who said so. daddr, saddr: of the packet that it was said of. False where it
        isn't believed: it must come from the gateway in use, about one on the link.
        """
        try:
            route = self.output(Flow(daddr, saddr if self.devinet.find(saddr) else ANY))
        except OSError:
            return False
        if route.gateway is None or route.gateway != sender or route.dev is not dev:
            return False
        in_dev = self.inet_devices.get(dev)
        if in_dev is None or gateway == sender or not in_dev.accept_redirects():
            return False
        if gateway[0] & 0xF0 == 0xE0 or gateway == BROADCAST or gateway[0] == 0:
            return False
        if not in_dev.shared_media():
            if not self.devinet.onlink(dev, gateway, sender):
                return False
            if in_dev.secure_redirects() and not self._is_default_gateway(gateway, dev):
                return False
        elif self.fib.addr_type(gateway) != RTN_UNICAST:
            return False
        neigh = self.arp.table.lookup(gateway, dev)
        if neigh is None:
            return False
        if not neigh.state & NUD_VALID:
            # Only a gateway that answers is used: find out, and take the next redirect.
            neigh.event_send(None)
            return True
        found = self._exception(route.fib, daddr)
        found.gateway = gateway
        found.expires = self.net.loop.now + self.gc_timeout * SECOND
        self.fib.flush()
        return True

    def _is_default_gateway(self, gateway: bytes, dev: NetDevice) -> bool:
        """Whether a route goes by that gateway (Linux: ip_fib_check_default)."""
        return any(route.gateway == gateway and route.dev is dev for route in self.fib.main)

    def close(self) -> None:
        """The stack ends."""
        self._cache.clear()
