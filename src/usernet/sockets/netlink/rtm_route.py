"""RTM_*ROUTE: the routing tables, and the route of one destination (Linux: net/ipv4/fib_frontend.c, fib_semantics.c,
route.c; rtnetlink(7), `ip route`).

There are two tables, local and main, and no routes by TOS, with several next hops, or through tunnels.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.fib import (
    ROUTE_APPENDED,
    ROUTE_DELETED,
    ROUTE_ERRORS,
    ROUTE_REPLACED,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    FibRoute,
    FibTable,
)
from usernet.ip.v4.fib4 import ANY, Fib4
from usernet.ip.v4.route import Ipv4Routes
from usernet.ip.v4.route_input import RouteInput
from usernet.ip.v4.rtable import Rtable
from usernet.net.dst import (
    RTAX_ADVMSS,
    RTAX_CC_ALGO,
    RTAX_CWND,
    RTAX_FASTOPEN_NO_COOKIE,
    RTAX_FEATURES,
    RTAX_HOPLIMIT,
    RTAX_LOCK,
    RTAX_MTU,
)
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST, RTN_UNSPEC, Flow
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.rtnetlink import (
    AF_INET,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTNLGRP_IPV4_ROUTE,
    Rtnetlink,
)
from usernet.transport.tcp.congestion import base as congestion
from usernet.wire import ethernet, ipv4
from usernet.wire import netlink as wire
from usernet.wire.ecn import ECN_MASK

RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_IIF: Final = 3
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_MARK: Final = 16
RTA_VIA: Final = 18
RTA_ENCAP_TYPE: Final = 21
RTA_ENCAP: Final = 22
RTA_UID: Final = 25
RTA_IP_PROTO: Final = 27
RTA_SPORT: Final = 28
RTA_DPORT: Final = 29
RTA_NH_ID: Final = 30

RTM_F_CLONED: Final = 0x200
RTM_F_PREFIX: Final = 0x800
RTM_F_LOOKUP_TABLE: Final = 0x1000
RTM_F_FIB_MATCH: Final = 0x2000
RTNH_F_DEAD: Final = 1
RTNH_F_ONLINK: Final = 4
RTNH_F_LINKDOWN: Final = 16
RTCF_BROADCAST: Final = 0x10000000
RTCF_MULTICAST: Final = 0x20000000
RTCF_LOCAL: Final = 0x80000000
RTN_MAX: Final = 11
IPPROTO_UDP: Final = 17
IPPROTO_TCP: Final = 6
IPPROTO_ICMP: Final = 1
SECOND: Final = 1_000_000_000

_WORDS: Final = {
    errno.ENETUNREACH: "Nexthop has invalid gateway",
    errno.ENETDOWN: "Device for nexthop is not up",
    errno.EEXIST: "",
}

_RTMSG: Final = Struct("=BBBBBBBBI")
_CACHEINFO: Final = Struct("=IIiIIIII")
_GET: Final = (
    RTA_IIF, RTA_OIF, RTA_SRC, RTA_DST, RTA_MARK, RTA_UID, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT,
)  # fmt: skip


@final
class RtmRoute:
    """The IPv4 routes of one namespace, to NETLINK_ROUTE."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.routes = net.get(Ipv4Routes)
        self.input = net.get(RouteInput)
        self.fib = net.get(Fib4)
        self.devices = net.get(DeviceNamespace)
        self._rtnl = rtnl = net.get(Rtnetlink)
        rtnl.register(AF_INET, RTM_GETROUTE, self.get, self.dump)
        rtnl.register(AF_INET, RTM_NEWROUTE, self.new)
        rtnl.register(AF_INET, RTM_DELROUTE, self.delete)
        self.fib.main.on_change = self.fib.local.on_change = self._changed

    # -- telling

    def fill(self, route: FibRoute) -> bytes:
        """A route as RTM_NEWROUTE tells of it (Linux: fib_dump_info)."""
        flags = RTNH_F_ONLINK if route.onlink else 0
        if route.dev is not None and not route.dev.driver.carrier():
            flags |= RTNH_F_LINKDOWN
        parts = [
            _RTMSG.pack(
                AF_INET, route.length, 0, 0, route.table, route.proto, route.scope, route.kind, flags
            ),
            wire.u32(RTA_TABLE, route.table),
        ]
        if route.length:
            parts.append(wire.attribute(RTA_DST, route.prefix))
        if route.metric:
            parts.append(wire.u32(RTA_PRIORITY, route.metric))
        parts.append(_metrics(route.metrics, route.congestion_control, route.mtu_lock, route.congestion_locked))
        if route.prefsrc and route.prefsrc != ANY:
            parts.append(wire.attribute(RTA_PREFSRC, route.prefsrc))
        if route.gateway is not None:
            parts.append(wire.attribute(RTA_GATEWAY, route.gateway))
        if route.dev is not None:
            parts.append(wire.u32(RTA_OIF, route.dev.index))
        return b"".join(parts)

    def dump(self, request: Request) -> Messages:
        """RTM_GETROUTE of all; strictly, of those that are asked for."""
        data = request.data
        table = proto = kind = 0
        dev = None
        flags = _RTMSG.unpack_from(data)[8] if len(data) >= _RTMSG.size else 0
        if request.strict:
            rt.header(request, _RTMSG.size, "Invalid header for FIB dump request")
            if any(data[1:4]) or data[6]:
                raise error(errno.EINVAL, "Invalid values in header for FIB dump request")
            if flags & ~(RTM_F_CLONED | RTM_F_PREFIX):
                raise error(errno.EINVAL, "Invalid flags for FIB dump request")
            attributes = request.attributes(_RTMSG.size)
            rt.only(attributes, (RTA_TABLE, RTA_OIF), "Unsupported attribute in dump request")
            table = rt.u32(attributes, RTA_TABLE, data[4])
            proto = data[5]
            kind = data[7]
            if RTA_OIF in attributes:
                dev = self.devices.by_index(rt.u32(attributes, RTA_OIF))
                if dev is None:
                    raise error(errno.ENODEV)
        if flags & RTM_F_PREFIX:
            return
        tables = {RT_TABLE_LOCAL: self.fib.local, RT_TABLE_MAIN: self.fib.main}
        if table and table not in tables:
            if data[0] == AF_INET:
                raise error(errno.ENOENT, "ipv4: FIB table does not exist")
            return
        for number, fib in tables.items():
            if table and number != table:
                continue
            for route in fib:
                if (proto and route.proto != proto) or (kind and route.kind != kind):
                    continue
                if dev is not None and route.dev is not dev:
                    continue
                if flags & RTM_F_CLONED:
                    yield from self._exceptions(route)
                else:
                    yield RTM_NEWROUTE, self.fill(route)

    def _exceptions(self, route: FibRoute) -> Messages:
        """What was learned of destinations by this route (Linux: fib_dump_info_fnhe)."""
        for daddr in tuple(route.exceptions or ()):
            entry = Rtable(self.routes, RTN_UNICAST, route, route.dev, daddr, ANY, route.gateway)
            yield RTM_NEWROUTE, self._fill_rtable(entry, route.table, 0, b"", None)

    def _fill_rtable(
        self, entry: Rtable, table: int, tos: int, source: bytes, flow: Flow | None, iif: int = 0
    ) -> bytes:  # fmt: skip
        """One destination's route (Linux: rt_fill_info). source: the address asked about. flow: of what is sent. iif:
        the device by which it came in."""
        flags = RTM_F_CLONED
        if entry.kind == RTN_LOCAL:
            flags |= RTCF_LOCAL
        elif entry.kind == RTN_BROADCAST:
            flags |= RTCF_BROADCAST
        elif entry.kind == RTN_MULTICAST:
            flags |= RTCF_MULTICAST
        asked = source not in (b"", ANY)
        header = _RTMSG.pack(
            AF_INET, 32, 32 if asked else 0, tos, table, 0, RT_SCOPE_UNIVERSE, entry.kind, flags
        )  # fmt: skip
        parts = [header, wire.u32(RTA_TABLE, table), wire.attribute(RTA_DST, entry.daddr)]
        if asked:
            parts.append(wire.attribute(RTA_SRC, source))
        parts.append(wire.u32(RTA_OIF, entry.dev.index))
        if flow is not None and entry.saddr not in (source, ANY):
            parts.append(wire.attribute(RTA_PREFSRC, entry.saddr))
        learned = entry.exception()
        gateway = learned.gateway if learned is not None and learned.gateway else entry.gateway
        if gateway is not None:
            parts.append(wire.attribute(RTA_GATEWAY, gateway))
        metrics = dict(entry.metrics)
        expires = 0
        if learned is not None:
            if learned.expires:
                expires = max(learned.expires - self.net.loop.now, 0) // (SECOND // 100)
            if learned.pmtu:
                metrics[RTAX_MTU] = learned.pmtu
        parts.append(_metrics(metrics, entry.congestion_control, bool(learned and learned.mtu_locked), False))
        if flow is not None:
            if flow.mark:
                parts.append(wire.u32(RTA_MARK, flow.mark))
            parts.append(wire.u32(RTA_UID, 0))
        if iif:
            parts.append(wire.u32(RTA_IIF, iif))
        parts.append(wire.attribute(RTA_CACHEINFO, _CACHEINFO.pack(1, 0, expires, entry.error, 0, 0, 0, 0)))
        return b"".join(parts)

    def _changed(self, route: FibRoute, event: int) -> None:
        """Linux: rtmsg_fib."""
        if not self._rtnl.has_listeners(RTNLGRP_IPV4_ROUTE, RTM_NEWROUTE):
            return
        if event == ROUTE_DELETED:
            self._rtnl.notify(RTNLGRP_IPV4_ROUTE, RTM_DELROUTE, self.fill(route))
            return
        flags = wire.NLM_F_CREATE | wire.NLM_F_EXCL
        if event == ROUTE_REPLACED:
            flags = wire.NLM_F_REPLACE
        elif event == ROUTE_APPENDED:
            flags = wire.NLM_F_CREATE | wire.NLM_F_APPEND
        self._rtnl.notify(RTNLGRP_IPV4_ROUTE, RTM_NEWROUTE, self.fill(route), flags)

    # -- one destination

    def get(self, request: Request) -> None:
        """RTM_GETROUTE of one destination (`ip route get`)."""
        data = rt.header(request, _RTMSG.size, "ipv4: Invalid header for route get request")
        _, dst_len, src_len, tos, table, proto, scope, kind, flags = _RTMSG.unpack(data)
        attributes = request.attributes(_RTMSG.size)
        if request.strict:
            known = RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH | 0x100
            if dst_len not in (0, 32) or src_len not in (0, 32) or table or proto or scope or kind:
                raise error(errno.EINVAL, "ipv4: Invalid values in header for route get request")
            if flags & ~known:
                raise error(errno.EINVAL, "ipv4: Unsupported rtm_flags for route get request")
            rt.only(attributes, _GET, "ipv4: Unsupported attribute in route get request")
            for what, length in ((RTA_SRC, src_len), (RTA_DST, dst_len)):
                if what in attributes and not length:
                    raise error(errno.EINVAL, "ipv4: rtm_src_len and rtm_dst_len must be 32 for IPv4")
        source = rt.address(attributes, RTA_SRC) or ANY
        destination = rt.address(attributes, RTA_DST) or ANY
        protocol = attributes.get(RTA_IP_PROTO, bytes((IPPROTO_UDP,)))[0]
        if protocol not in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP):
            raise error(errno.EOPNOTSUPP, "Unsupported ip proto")
        flow = Flow(
            destination, source, protocol, rt.u32(attributes, RTA_OIF), tos & ~ECN_MASK,
            rt.u32(attributes, RTA_MARK), int.from_bytes(attributes.get(RTA_SPORT, b"")[:2], "big"),
            int.from_bytes(attributes.get(RTA_DPORT, b"")[:2], "big"),
        )  # fmt: skip
        iif = rt.u32(attributes, RTA_IIF)
        entry = self._input(iif, source, destination, protocol) if iif else self.routes.output(flow)
        found = self.fib.lookup(entry.daddr, flow.oif)
        number = (found.table if found is not None else 0) if flags & RTM_F_LOOKUP_TABLE else RT_TABLE_MAIN
        if flags & RTM_F_FIB_MATCH:
            if found is None:
                raise error(errno.EHOSTUNREACH)
            request.reply(RTM_NEWROUTE, self.fill(found))
            return
        request.reply(RTM_NEWROUTE, self._fill_rtable(entry, number, tos, source, None if iif else flow, iif))

    def _input(self, iif: int, source: bytes, destination: bytes, protocol: int) -> Rtable:
        """How a packet that came in by a device would go on. Raises OSError: ENODEV, EINVAL (a martian), EHOSTUNREACH,
        ENETUNREACH."""
        dev = self.devices.by_index(iif)
        if dev is None:
            raise error(errno.ENODEV)
        skb = SKBuff(ipv4.build(0, 20, 0, 0, 64, protocol, source, destination))
        skb.network_header = 0
        skb.dev = dev
        skb.protocol = ethernet.ETH_P_IP
        entry = self.input.route(skb, dev, source, destination)
        if entry is None:
            raise error(errno.EINVAL)
        if entry.error:
            raise error(entry.error)
        return entry

    # -- changing

    def _table(self, number: int) -> FibTable:
        if number in (0, RT_TABLE_MAIN):
            return self.fib.main
        if number == RT_TABLE_LOCAL:
            return self.fib.local
        raise error(errno.EOPNOTSUPP, "There are no routing tables but local and main")

    def _parse(self, request: Request) -> tuple[tuple[int, ...], dict[int, bytes], bytes]:
        """Linux: rtm_to_fib_config."""
        attributes = request.attributes(_RTMSG.size)
        message = _RTMSG.unpack_from(request.data)
        length, tos, kind = message[1], message[3], message[7]
        if tos & ECN_MASK:
            raise error(errno.EINVAL, "Invalid dsfield (tos): ECN bits must be 0")
        if kind > RTN_MAX:
            raise error(errno.EINVAL, "Invalid route type")
        if RTA_MULTIPATH in attributes:
            raise error(errno.EINVAL, "Multipath support not enabled in kernel")
        if RTA_VIA in attributes:
            if RTA_GATEWAY in attributes:
                raise error(errno.EINVAL, "Nexthop configuration can not contain both GATEWAY and VIA")
            raise error(errno.EINVAL, "IPv6 support not enabled in kernel")
        if RTA_ENCAP in attributes or RTA_ENCAP_TYPE in attributes:
            raise error(errno.EOPNOTSUPP, "Unknown lwt encapsulation type")
        if rt.u32(attributes, RTA_NH_ID):
            raise error(errno.EINVAL, "Nexthop id does not exist")
        if tos:
            raise error(errno.EOPNOTSUPP, "There are no routes by TOS")
        prefix = rt.address(attributes, RTA_DST) or ANY
        if length > 32:
            raise error(errno.EINVAL, "Invalid prefix length")
        if int.from_bytes(prefix, "big") & 0xFFFFFFFF >> length:
            raise error(errno.EINVAL, "Invalid prefix for given prefix length")
        return message, attributes, prefix

    def new(self, request: Request) -> None:
        """RTM_NEWROUTE (Linux: inet_rtm_newroute, fib_table_insert)."""
        message, attributes, prefix = self._parse(request)
        _, length, _, _, table, proto, scope, kind, flags = message
        fib = self._table(rt.u32(attributes, RTA_TABLE, table))
        if kind == RTN_UNSPEC:
            raise error(errno.EINVAL, "Invalid route type")
        if flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN):
            raise error(errno.EINVAL, "Invalid rtm_flags - can not contain DEAD or LINKDOWN")
        gateway = rt.address(attributes, RTA_GATEWAY)
        if gateway == ANY:
            gateway = None
        index = rt.u32(attributes, RTA_OIF)
        dev = self.devices.by_index(index)
        if index and dev is None:
            raise error(errno.ENODEV)
        nowhere = kind in ROUTE_ERRORS
        if nowhere and (gateway is not None or index):
            raise error(errno.EINVAL, "Routes can not specify gateway or device for this type")
        metrics, control, mtu_lock, control_lock = parse_metrics(self.net, attributes.get(RTA_METRICS, b""))
        metric = rt.u32(attributes, RTA_PRIORITY)
        asked = request.flags
        replace = bool(asked & wire.NLM_F_REPLACE)
        if not asked & wire.NLM_F_CREATE:
            there = [route for route in fib.find(prefix, length) if route.metric == metric]
            if not there:
                raise error(errno.ENOENT)
        if asked & wire.NLM_F_EXCL:
            replace = False
        try:
            self.routes.add(
                prefix, length, gateway=gateway, dev=dev, kind=kind, metric=metric,
                prefsrc=rt.address(attributes, RTA_PREFSRC), metrics=metrics, congestion_control=control,
                onlink=bool(flags & RTNH_F_ONLINK), mtu_lock=mtu_lock, replace=replace,
                append=bool(asked & wire.NLM_F_APPEND) and not asked & wire.NLM_F_EXCL,
                prepend=not asked & (wire.NLM_F_EXCL | wire.NLM_F_APPEND),
                scope=None if nowhere else scope, proto=proto, congestion_locked=control_lock,
                local=fib is self.fib.local,
            )  # fmt: skip
        except OSError as problem:
            raise _said(problem) from None

    def delete(self, request: Request) -> None:
        """RTM_DELROUTE: the first route that fits what is given (Linux: fib_table_delete)."""
        message, attributes, prefix = self._parse(request)
        _, length, _, _, table, proto, scope, kind, _ = message
        fib = self._table(rt.u32(attributes, RTA_TABLE, table))
        gateway = rt.address(attributes, RTA_GATEWAY)
        source = rt.address(attributes, RTA_PREFSRC)
        index = rt.u32(attributes, RTA_OIF)
        metric = rt.u32(attributes, RTA_PRIORITY)
        wanted = wire.attributes(attributes.get(RTA_METRICS, b""), 0)
        for route in fib.find(prefix, length):
            if (
                (not kind or route.kind == kind)
                and scope in (RT_SCOPE_NOWHERE, route.scope)
                and (source in (None, ANY) or route.prefsrc == source)
                and (not proto or route.proto == proto)
                and (not metric or route.metric == metric)
                and (not index or (route.dev is not None and route.dev.index == index))
                and (gateway in (None, ANY) or route.gateway == gateway)
                and all(_has_metric(route, number, value) for number, value in wanted.items())
            ):
                fib.delete(route)
                self.fib.flush()
                return
        raise error(errno.ESRCH)


def _said(problem: OSError) -> OSError:
    """The same error in Linux's words, where it has some."""
    text = _WORDS.get(problem.errno or 0)
    return problem if text is None else error(problem.errno or 0, text)


def _has_metric(route: FibRoute, number: int, value: bytes) -> bool:
    if number == RTAX_CC_ALGO:
        return route.congestion_control == wire.text(value)
    return route.metrics.get(number, 0) == wire.number(value)


def _metrics(metrics: dict[int, int], control: str, mtu_lock: bool, control_lock: bool) -> bytes:
    """RTA_METRICS; nothing where there are none (Linux: rtnetlink_put_metrics)."""
    locks = metrics.get(RTAX_LOCK, 0) | mtu_lock << RTAX_MTU | control_lock << RTAX_CC_ALGO
    parts: list[bytes] = []
    for number in range(RTAX_LOCK, RTAX_FASTOPEN_NO_COOKIE + 1):
        if number == RTAX_CC_ALGO:
            if control:
                parts.append(wire.string(number, control))
            continue
        value = locks if number == RTAX_LOCK else metrics.get(number, 0)
        if value:
            parts.append(wire.u32(number, value))
    return wire.nest(RTA_METRICS, *parts) if parts else b""


def parse_metrics(net: Net, data: bytes) -> tuple[dict[int, int], str, bool, bool]:
    """The metrics of a request, the congestion control, and whether MTU and control are locked (Linux:
    ip_metrics_convert). Raises OSError EINVAL."""
    metrics: dict[int, int] = {}
    control = ""
    for number, value in wire.attributes(data, 0).items():
        if not number:
            continue
        if number > RTAX_FASTOPEN_NO_COOKIE:
            raise error(errno.EINVAL, "Invalid metric type")
        if number == RTAX_CC_ALGO:
            control = wire.text(value)
            if control not in congestion.available():
                raise error(errno.EINVAL, "Unknown tcp congestion algorithm")
            continue
        if len(value) != 4:
            raise error(errno.EINVAL, "Invalid attribute in metrics")
        amount = wire.number(value)
        if number == RTAX_ADVMSS:
            amount = min(amount, 65535 - 40)
        elif number == RTAX_MTU:
            amount = min(amount, 65535 - 15)
        elif number == RTAX_HOPLIMIT:
            amount = min(amount, 255)
        elif number == RTAX_FEATURES and amount & ~0x1F:
            raise error(errno.EINVAL, "Unknown flag set in feature mask in metrics attribute")
        metrics[number] = amount
    locks = metrics.get(RTAX_LOCK, 0)
    if locks >> RTAX_CWND & 1 and not metrics.get(RTAX_CWND):
        raise error(errno.EINVAL, "Locked cwnd metric must be non zero")
    mtu_lock = bool(locks >> RTAX_MTU & 1)
    control_lock = bool(locks >> RTAX_CC_ALGO & 1)
    if RTAX_LOCK in metrics:
        metrics[RTAX_LOCK] = locks & ~(1 << RTAX_MTU | 1 << RTAX_CC_ALGO)
    return {number: value for number, value in metrics.items() if value}, control, mtu_lock, control_lock
