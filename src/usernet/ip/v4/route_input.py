"""Where a received IPv4 packet goes: here, on, or nowhere (Linux: ip_route_input_slow, fib_validate_source).

A decision is kept by the eight bytes of a header that hold both addresses, for each device, as long as neither routes
nor addresses nor settings change. Martians (RFC 1812 section 5.3.7) are never kept: each is counted, and logged where
log_martians says so.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, final

from usernet.core import log
from usernet.ip.fib import ROUTE_ERRORS, RT_SCOPE_HOST, RT_SCOPE_UNIVERSE, FibRoute
from usernet.ip.v4.conf import InDevice
from usernet.ip.v4.fib4 import ANY, BROADCAST
from usernet.ip.v4.route import IPPROTO_IGMP, Ipv4Routes
from usernet.ip.v4.rtable import Rtable
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_LOOPBACK, SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST, RTN_UNREACHABLE
from usernet.wire.ipv4 import format_addr

VALID: Final = 0
ONLINK: Final = 1
MARTIAN: Final = -1
REVERSE: Final = -2


@final
class RouteInput:
    """The input decisions of one namespace. `reason` says why the last packet that got no route got none."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._routes = net.get(Ipv4Routes)
        self._fib = self._routes.fib
        self._devinet = self._routes.devinet
        self._in_devices = self._routes.inet_devices
        self._mib = self._routes.mib
        self._tcp_ext = net.mib.tcp_ext
        self.is_member: Callable[[NetDevice, bytes, bytes, int], bool] | None = None
        self.reason: DropReason = DropReason.NOT_SPECIFIED
        self.caches: dict[int, dict[bytes, Rtable]] = {}
        """By device index, then by source and destination: what is still valid there may be used as it is."""
        self._settings: int = self._in_devices.generation

    def route(self, skb: SKBuff, dev: NetDevice, saddr: bytes, daddr: bytes) -> Rtable | None:
        """The route of a packet received by `dev`; None where it is refused (see `reason`).

        The header's protocol is read from `skb` for multicast only.
        """
        if self._settings != self._in_devices.generation:
            self._settings = self._in_devices.generation
            self.caches.clear()
        cache = self.caches.get(dev.index)
        if cache is None:
            cache = self.caches[dev.index] = {}
        key = saddr + daddr
        route = cache.get(key)
        if route is not None:
            if route.valid() and skb.pkt_type != PACKET_LOOPBACK:
                return route
            del cache[key]
        if daddr[0] & 0xF0 == 0xE0:
            return self._multicast(skb, dev, saddr, daddr)
        route = self._slow(skb, dev, saddr, daddr)
        if route is not None and skb.pkt_type != PACKET_LOOPBACK and not route.error:
            if len(cache) >= self._routes.max_size:
                del cache[next(iter(cache))]
            cache[key] = route
        return route

    def _slow(self, skb: SKBuff, dev: NetDevice, saddr: bytes, daddr: bytes) -> Rtable | None:
        """Linux: ip_route_input_slow."""
        self._mib.in_slow_tot += 1
        in_dev = self._in_devices.get(dev)
        if in_dev is None:
            self.reason = DropReason.NOT_SPECIFIED
            return None
        # This host's own packets come back by the loopback device, or as copies of what it sent to many.
        own = dev.loopback or skb.pkt_type == PACKET_LOOPBACK
        if saddr[0] & 0xF0 == 0xE0 or saddr == BROADCAST:
            return self._martian_source(in_dev, saddr, daddr, DropReason.IP_INVALID_SOURCE)
        if daddr == BROADCAST or (saddr == ANY and daddr == ANY):
            return self._broadcast(in_dev, saddr, daddr, own)
        if saddr[0] == 0:
            return self._martian_source(in_dev, saddr, daddr, DropReason.IP_INVALID_SOURCE)
        if daddr[0] == 0:
            return self._martian_destination(in_dev, saddr, daddr, DropReason.IP_INVALID_DEST)
        if daddr[0] == 127:
            if not own and not in_dev.route_localnet():
                return self._martian_destination(in_dev, saddr, daddr, DropReason.IP_LOCALNET)
        elif saddr[0] == 127 and not own and not in_dev.route_localnet():
            return self._martian_source(in_dev, saddr, daddr, DropReason.IP_LOCALNET)
        fib = self._fib.lookup(daddr)
        if fib is None or fib.dev is None:
            if not in_dev.forwarding():
                code = errno.EHOSTUNREACH
            else:
                code = errno.ENETUNREACH if fib is None else ROUTE_ERRORS[fib.kind]
            return self._no_route(dev, saddr, daddr, code)
        kind = fib.kind
        if kind == RTN_BROADCAST:
            if not in_dev.broadcast_forwarding():
                return self._broadcast(in_dev, saddr, daddr, own)
        elif kind == RTN_LOCAL:
            if not own:
                verdict = self.validate_source(saddr, in_dev, 0)
                if verdict < 0:
                    return self._refused(in_dev, saddr, daddr, verdict)
            route = Rtable(self._routes, RTN_LOCAL, fib, dev, daddr, saddr, None)
            route.local = True
            route.iif = fib.dev.index
            return route
        elif not in_dev.forwarding():
            return self._no_route(dev, saddr, daddr, errno.EHOSTUNREACH)
        elif kind != RTN_UNICAST:
            return self._martian_destination(in_dev, saddr, daddr, DropReason.IP_INVALID_DEST)
        return self._forward(in_dev, fib, saddr, daddr)

    def _forward(self, in_dev: InDevice, fib: FibRoute, saddr: bytes, daddr: bytes) -> Rtable | None:
        """Linux: __mkroute_input."""
        out: NetDevice = fib.dev
        verdict = self.validate_source(saddr, in_dev, out.index)
        if verdict < 0:
            return self._refused(in_dev, saddr, daddr, verdict)
        gateway = self._routes._gateway(fib, daddr)
        route = Rtable(self._routes, fib.kind, fib, out, daddr, saddr, gateway)
        route.forward = True
        if fib.kind == RTN_BROADCAST:
            route.broadcast = True
            route.plain = False
        out_dev = self._in_devices.of(out)
        # Back out of where it came in, from a sender on that link, who could have sent it to the next hop itself.
        if out is in_dev.dev and verdict == ONLINK and out_dev.send_redirects():
            route.redirect = out_dev.shared_media() or self._devinet.onlink(out, saddr, gateway or ANY)
        return route

    def _broadcast(self, in_dev: InDevice, saddr: bytes, daddr: bytes, own: bool) -> Rtable | None:
        if saddr[0] != 0 and not own:
            verdict = self.validate_source(saddr, in_dev, 0)
            if verdict < 0:
                return self._refused(in_dev, saddr, daddr, verdict)
        self._mib.in_brd += 1
        dev = in_dev.dev
        fib = FibRoute(daddr, 32, RTN_BROADCAST, dev, None, 0)
        route = Rtable(self._routes, RTN_BROADCAST, fib, dev, daddr, saddr, None)
        route.broadcast = True
        route.local = True
        route.iif = dev.index
        return route

    def _no_route(self, dev: NetDevice, saddr: bytes, daddr: bytes, code: int) -> Rtable:
        self._mib.in_no_route += 1
        fib = FibRoute(daddr, 32, RTN_UNREACHABLE, dev, None, 0)
        route = Rtable(self._routes, RTN_UNREACHABLE, fib, dev, daddr, saddr, None)
        route.error = code
        return route

    def _multicast(self, skb: SKBuff, dev: NetDevice, saddr: bytes, daddr: bytes) -> Rtable | None:
        """Linux: ip_route_input_mc. Never kept: it depends on memberships."""
        self._mib.in_slow_mc += 1
        in_dev = self._in_devices.get(dev)
        if in_dev is None:
            self.reason = DropReason.NOT_SPECIFIED
            return None
        protocol = skb.head[skb.network_header + 9]
        own = dev.loopback or skb.pkt_type == PACKET_LOOPBACK
        member = self.is_member
        if not dev.loopback and (member is None or not member(dev, daddr, saddr, protocol)):
            self.reason = DropReason.IP_INVALID_DEST
            return None
        loopback = saddr[0] == 127 and not own and not in_dev.route_localnet()
        if saddr[0] & 0xF0 == 0xE0 or saddr == BROADCAST or loopback:
            return self._martian_source(in_dev, saddr, daddr, DropReason.IP_INVALID_SOURCE)
        if saddr[0] == 0:
            if daddr[:3] != b"\xe0\0\0" and protocol != IPPROTO_IGMP:
                return self._martian_source(in_dev, saddr, daddr, DropReason.IP_INVALID_SOURCE)
        elif not own:
            verdict = self.validate_source(saddr, in_dev, 0)
            if verdict < 0:
                return self._refused(in_dev, saddr, daddr, verdict)
        fib = FibRoute(daddr, 32, RTN_MULTICAST, dev, None, 0)
        route = Rtable(self._routes, RTN_MULTICAST, fib, dev, daddr, saddr, None)
        route.multicast = True
        route.local = True
        route.iif = dev.index
        return route

    # -- sources

    def validate_source(self, saddr: bytes, in_dev: InDevice, oif: int) -> int:
        """Whether `saddr` may come in by a device (Linux: fib_validate_source; RFC 3704 for rp_filter).

        oif: index of the device a forwarded packet leaves by. Returns VALID, ONLINK (its sender is on that link),
        MARTIAN, or REVERSE (the way back is another one).
        """
        strictness = in_dev.rp_filter()
        dev = in_dev.dev
        if not strictness and (dev.index != oif or not in_dev.send_redirects()):
            # An address of ours, or one that stands for many, is nobody's source (RFC 1122 section 3.2.1.3).
            known = self._fib.local.lookup(saddr)
            if known is None or (known.kind == RTN_LOCAL and in_dev.accept_local()):
                return VALID
            return MARTIAN
        fib = self._fib.lookup(saddr)
        if fib is None:
            return REVERSE if strictness else VALID
        if fib.kind != RTN_UNICAST and (fib.kind != RTN_LOCAL or not in_dev.accept_local()):
            return MARTIAN
        if fib.dev is dev:
            return ONLINK if fib.nh_scope >= RT_SCOPE_HOST else VALID
        if not in_dev.addrs:
            return REVERSE if strictness else VALID
        if strictness == 1:
            return REVERSE
        fib = self._fib.lookup(saddr, dev.index, RT_SCOPE_UNIVERSE)
        if fib is not None and fib.kind == RTN_UNICAST and fib.nh_scope >= RT_SCOPE_HOST:
            return ONLINK
        return VALID

    def _refused(self, in_dev: InDevice, saddr: bytes, daddr: bytes, verdict: int) -> Rtable | None:
        if verdict == REVERSE:
            self._tcp_ext.IPReversePathFilter += 1
            return self._martian_source(in_dev, saddr, daddr, DropReason.IP_RPFILTER)
        return self._martian_source(in_dev, saddr, daddr, DropReason.IP_LOCAL_SOURCE)

    def _martian_source(self, in_dev: InDevice, saddr: bytes, daddr: bytes, reason: DropReason) -> Rtable | None:
        """No route: count and log why."""
        self._mib.in_martian_src += 1
        self.reason = reason
        if in_dev.log_martians():
            log.warning(
                "martian source %s from %s, on dev %s", format_addr(daddr), format_addr(saddr), in_dev.dev.name
            )
        return None

    def _martian_destination(self, in_dev: InDevice, saddr: bytes, daddr: bytes, reason: DropReason) -> Rtable | None:
        """No route: count and log why."""
        self._mib.in_martian_dst += 1
        self.reason = reason
        if in_dev.log_martians():
            log.warning(
                "martian destination %s from %s, dev %s", format_addr(daddr), format_addr(saddr), in_dev.dev.name
            )
        return None

    def forget_device(self, dev: NetDevice) -> None:
        """`dev` is gone."""
        self.caches.pop(dev.index, None)

    def close(self) -> None:
        """The stack ends."""
        self.caches.clear()
