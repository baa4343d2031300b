"""IGMP, the host's side: telling routers which multicast groups are listened to here (RFC 3376, 2236, 1112).

Sockets join and leave through multicast.py, which calls `join`, `leave`, `add_sources` and `del_sources`; input routing
asks `check` whether a group's packet is for this host. Protocol number 2 of the network layer brings the routers'
queries, and the reports of other hosts. Linux: net/ipv4/igmp.c.

Version 3 is spoken until a query of version 2 or 1 is heard (or `force_igmp_version` says so), and again once none was
for robustness x query interval + response interval. Reports of what changed are sent `qrv` times, at random moments
within `igmpv3_unsolicited_report_interval` (ms). Groups of 224.0.0.0/24 are reported only with
`igmp_link_local_mcast_reports`; 224.0.0.1 never is, and is joined on each device that is up.

Bounds: memberships of a socket, `igmp_max_memberships` (20, ENOBUFS); sources of one, `igmp_max_msf` (10, ENOBUFS).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC
from usernet.core.sysctl import INT_MAX
from usernet.core.timer import Timer
from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.fib4 import Fib4
from usernet.ip.v4.icmp import sum_of
from usernet.ip.v4.igmp_group import MCAST_EXCLUDE, MCAST_INCLUDE, McGroup
from usernet.ip.v4.igmp_report import Record, Report
from usernet.net.protocols import NetProtocol, Protocols
from usernet.netdevice.device import NETDEV_DOWN, NETDEV_UNREGISTER, NETDEV_UP, NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_BROADCAST, PACKET_MULTICAST, SKBuff
from usernet.sock.af_ops import AddressFamily, Flow
from usernet.wire import igmp, ipv4
from usernet.wire.errors import WireError
from usernet.wire.ethernet import ipv4_multicast_mac

if TYPE_CHECKING:
    from usernet.net.pernet import Net

IPPROTO_IGMP: Final = 2
IGMP_QUERY_INTERVAL: Final = 125 * NSEC_PER_SEC
IGMP_QUERY_RESPONSE_INTERVAL: Final = 10 * NSEC_PER_SEC
TC_PRIO_CONTROL: Final = 7

_TENTH: Final = NSEC_PER_SEC // igmp.IGMP_TIMER_SCALE
_SOON: Final = 2 * NSEC_PER_MSEC
"""The least delay of a report: what is joined within it goes out together (Linux: two jiffies)."""


def is_local_multicast(addr: bytes) -> bool:
    """Whether a group never leaves the link: 224.0.0.0/24 (Linux: ipv4_is_local_multicast)."""
    return addr[:3] == b"\xe0\0\0"


@final
class McDevice:
    """The multicast side of one device (Linux: the mr_* and mc_* fields of `struct in_device`). Times in ns.

    tomb: groups left, while it is still being told. qrv, qi, qri: the querier's robustness, interval and response
    interval. v1_seen, v2_seen: until when to speak that version. ifc_count: change reports still to send.
    """

    __slots__ = (
        "dead", "dev", "gq_timer", "groups", "ifc_count", "ifc_timer", "maxdelay", "qi", "qri", "qrv", "tomb",
        "v1_seen", "v2_seen",
    )  # fmt: skip

    def __init__(self, dev: NetDevice) -> None:
        self.dev = dev
        self.dead: bool = False
        self.groups: dict[bytes, McGroup] = {}
        self.tomb: dict[bytes, McGroup] = {}
        self.v1_seen: int = 0
        self.v2_seen: int = 0
        self.maxdelay: int = 0
        self.ifc_count: int = 0
        self.qrv: int = 0
        self.qi: int = IGMP_QUERY_INTERVAL
        self.qri: int = IGMP_QUERY_RESPONSE_INTERVAL
        self.gq_timer: Timer
        self.ifc_timer: Timer

    def newest_first(self) -> list[McGroup]:
        """The groups in the order of Linux's list."""
        return list(self.groups.values())[::-1]


_SYSCTLS: Final = (
    ("igmp_max_memberships", 0, INT_MAX), ("igmp_max_msf", 0, INT_MAX), ("igmp_qrv", 1, INT_MAX),
    ("igmp_link_local_mcast_reports", 0, 1),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class Igmp(NetProtocol):
    """IGMP in one namespace. `af` is set when IPv4 is put together, before the first packet."""

    af: AddressFamily

    def __init__(self, net: Net) -> None:
        self._net = net
        self._loop = net.loop
        self._inet = net.get(InetDevices)
        self._fib = net.get(Fib4)
        self._devinet = net.get(Devinet)
        self._by_index: dict[int, McDevice] = {}
        self.igmp_max_memberships: int = 20
        self.igmp_max_msf: int = 10
        self.igmp_qrv: int = 2
        self.igmp_link_local_mcast_reports: int = 1
        net.sysctl.register_rows("net.ipv4", self, _SYSCTLS)
        net.get(Protocols).register(IPPROTO_IGMP, self)
        net.get(DeviceNamespace).subscribe(self._device_event)

    def close(self) -> None:
        """The stack ends."""
        for mc in list(self._by_index.values()):
            self._destroy(mc)

    # -- devices

    def of(self, dev: NetDevice) -> McDevice:
        """The multicast side of `dev`."""
        mc = self._by_index.get(dev.index)
        if mc is None:
            mc = self._by_index[dev.index] = McDevice(dev)
            mc.qrv = self.igmp_qrv
            timers = self._loop.timers
            mc.gq_timer = Timer(timers, partial(self._answer_general, mc))
            mc.ifc_timer = Timer(timers, partial(self._report_changes, mc))
        return mc

    def _device_event(self, event: int, dev: NetDevice) -> None:
        if event == NETDEV_UP:
            mc = self.of(dev)
            # Linux: ip_mc_up.
            mc.qi = IGMP_QUERY_INTERVAL
            mc.qri = IGMP_QUERY_RESPONSE_INTERVAL
            mc.qrv = self.igmp_qrv
            known = list(mc.groups.values())
            self.join(dev, igmp.IGMP_ALL_HOSTS)
            for group in known:
                self._revive(mc, group)
                self._added(mc, group)
        elif event == NETDEV_DOWN and dev.index in self._by_index:
            self._down(self.of(dev))
        elif event == NETDEV_UNREGISTER and dev.index in self._by_index:
            self._destroy(self.of(dev))

    def _down(self, mc: McDevice) -> None:
        """Linux: ip_mc_down."""
        for group in mc.newest_first():
            self._dropped(mc, group)
        mc.ifc_count = 0
        mc.ifc_timer.cancel()
        mc.gq_timer.cancel()
        if igmp.IGMP_ALL_HOSTS in mc.groups:
            self.leave(mc.dev, igmp.IGMP_ALL_HOSTS)

    def _destroy(self, mc: McDevice) -> None:
        """Linux: ip_mc_destroy_dev."""
        mc.dead = True
        self._down(mc)
        mc.tomb.clear()
        for group in mc.groups.values():
            if group.timer is not None:
                group.timer.delete()
        mc.groups.clear()
        mc.gq_timer.delete()
        mc.ifc_timer.delete()
        del self._by_index[mc.dev.index]

    # -- which version, how often

    def _forced(self, mc: McDevice, version: int) -> bool:
        in_dev = self._inet.get(mc.dev)
        own = in_dev.conf.force_igmp_version if in_dev is not None else 0
        return version in (self._inet.all.force_igmp_version, own)

    def version(self, mc: McDevice) -> int:
        """The version to speak on a device: 1, 2 or 3 (Linux: IGMP_V1_SEEN, IGMP_V2_SEEN)."""
        now = self._loop.now
        if self._forced(mc, 1) or now < mc.v1_seen:
            return 1
        return 2 if self._forced(mc, 2) or now < mc.v2_seen else 3

    def _interval(self, mc: McDevice) -> int:
        """Within how long to repeat a report (ns; Linux: unsolicited_report_interval)."""
        in_dev = self._inet.get(mc.dev)
        conf = in_dev.conf if in_dev is not None else self._inet.default
        older = self.version(mc) < 3
        interval = conf.igmpv2_unsolicited_report_interval if older else conf.igmpv3_unsolicited_report_interval
        return max(interval, 1) * NSEC_PER_MSEC

    def _silent(self, addr: bytes) -> bool:
        """Whether a group is never reported."""
        return addr == igmp.IGMP_ALL_HOSTS or (is_local_multicast(addr) and not self.igmp_link_local_mcast_reports)

    def _at_random(self, within: int) -> int:
        return self._loop.now + self._net.random.randrange(max(within, 1)) + _SOON

    # -- joining and leaving

    def join(self, dev: NetDevice, addr: bytes, mode: int = MCAST_EXCLUDE) -> None:
        """One more membership of group `addr`, of mode MCAST_*, without sources (Linux: ip_mc_inc_group)."""
        mc = self.of(dev)
        group = mc.groups.get(addr)
        if group is not None:
            group.users += 1
            if group.add_sources(mode, (), False, mc.qrv):
                self._changed(mc)
            return
        group = McGroup(addr, mode)
        group.timer = Timer(self._loop.timers, partial(self._report_group, mc, group))
        mc.groups[addr] = group
        self._revive(mc, group)
        self._added(mc, group)
        self._fib.flush()

    def leave(self, dev: NetDevice, addr: bytes) -> None:
        """One membership fewer; its sources were taken out before (Linux: ip_mc_dec_group)."""
        mc = self.of(dev)
        group = mc.groups.get(addr)
        if group is None:
            return
        group.users -= 1
        if group.users:
            return
        del mc.groups[addr]
        self._dropped(mc, group)
        if group.timer is not None:
            group.timer.delete()
        self._fib.flush()

    def add_sources(self, dev: NetDevice, addr: bytes, mode: int, sources: Iterable[bytes], delta: bool) -> None:
        """A membership names `sources`; see `McGroup.add_sources`."""
        mc = self.of(dev)
        group = mc.groups.get(addr)
        if group is not None and group.add_sources(mode, sources, delta, mc.qrv):
            self._changed(mc)
            self._fib.flush()

    def del_sources(self, dev: NetDevice, addr: bytes, mode: int, sources: Iterable[bytes], delta: bool) -> None:
        """A membership names `sources` no more; see `McGroup.del_sources`."""
        mc = self.of(dev)
        group = mc.groups.get(addr)
        if group is not None and group.del_sources(mode, sources, delta, mc.qrv, self.version(mc) == 3):
            self._changed(mc)
            self._fib.flush()

    def check(self, dev: NetDevice, addr: bytes, source: bytes, protocol: int) -> bool:
        """Whether a packet from `source` (any: not known yet) to group `addr` is for this host (Linux:
        ip_check_mc_rcu)."""
        mc = self._by_index.get(dev.index)
        group = mc.groups.get(addr) if mc is not None else None
        if group is None:
            return False
        return protocol == IPPROTO_IGMP or source == bytes(4) or group.allows(source)

    def _added(self, mc: McDevice, group: McGroup) -> None:
        """Linux: igmp_group_added."""
        if not group.loaded:
            group.loaded = True
            mc.dev.add_multicast(ipv4_multicast_mac(group.addr))
        if self._silent(group.addr) or mc.dead:
            return
        group.unsolicit_count = self.igmp_qrv
        if self.version(mc) < 3:
            self._start_timer(group, 1)
            return
        # A group of which only some sources are wanted comes as those sources, not as a change of mode.
        if group.sfmode == MCAST_EXCLUDE:
            group.crcount = mc.qrv
        self._changed(mc)

    def _dropped(self, mc: McDevice, group: McGroup) -> None:
        """Linux: igmp_group_dropped."""
        if group.loaded:
            group.loaded = False
            mc.dev.remove_multicast(ipv4_multicast_mac(group.addr))
        if self._silent(group.addr):
            return
        reporter = group.reporter
        self._stop_timer(group)
        if mc.dead:
            return
        version = self.version(mc)
        if version == 3:
            self._bury(mc, group)
            self._changed(mc)
        elif version == 2 and reporter:
            self._send(mc, igmp.IGMP_ALL_ROUTER, igmp.build_v2_leave(group.addr))

    def _bury(self, mc: McDevice, group: McGroup) -> None:
        """Keep what has to be told of a group that is left (Linux: igmpv3_add_delrec)."""
        left = McGroup(group.addr, group.sfmode)
        left.crcount = mc.qrv
        if left.sfmode == MCAST_INCLUDE:
            for entry in group.sources.values():
                entry.crcount = left.crcount
            left.tomb, group.tomb = group.tomb, {}
            left.sources, group.sources = group.sources, {}
        mc.tomb.pop(group.addr, None)
        mc.tomb[group.addr] = left

    def _revive(self, mc: McDevice, group: McGroup) -> None:
        """A group that was left is back: that is what has to be told now (Linux: igmpv3_del_delrec)."""
        left = mc.tomb.pop(group.addr, None)
        if left is None:
            return
        if group.sfmode == MCAST_INCLUDE:
            group.tomb = left.tomb
            group.sources = left.sources
            for entry in group.sources.values():
                entry.crcount = mc.qrv
        else:
            group.crcount = mc.qrv

    # -- timers

    def _start_timer(self, group: McGroup, within: int) -> None:
        if group.timer is not None:
            group.timer.mod(self._at_random(within))

    def _stop_timer(self, group: McGroup) -> None:
        if group.timer is not None:
            group.timer.cancel()
        group.reporter = False
        group.unsolicit_count = 0

    def _changed(self, mc: McDevice) -> None:
        """Something is to be told: now, and again (Linux: igmp_ifc_event)."""
        if mc.dead or self.version(mc) < 3:
            return
        mc.ifc_count = mc.qrv
        mc.ifc_timer.mod(self._loop.now + _SOON)

    def _report_changes(self, mc: McDevice, now: int) -> None:
        """Linux: igmp_ifc_timer_expire, igmpv3_send_cr."""
        report = Report(mc.dev.mtu)
        for group in list(mc.tomb.values())[::-1]:
            if self._silent(group.addr) or report.add_left(group):
                del mc.tomb[group.addr]
        for group in mc.newest_first():
            if not self._silent(group.addr):
                report.add_changes(group)
        self._send_report(mc, report.finish())
        if mc.ifc_count:
            mc.ifc_count -= 1
            mc.ifc_timer.mod(self._at_random(self._interval(mc)))

    def _answer_general(self, mc: McDevice, now: int) -> None:
        """Answer a general query of version 3 (Linux: igmp_gq_timer_expire)."""
        report = Report(mc.dev.mtu)
        for group in mc.newest_first():
            if not self._silent(group.addr):
                report.add_current(group)
        self._send_report(mc, report.finish())

    def _report_group(self, mc: McDevice, group: McGroup, now: int) -> None:
        """A group's timer is up: report it in the version spoken (Linux: igmp_timer_expire)."""
        if group.unsolicit_count:
            group.unsolicit_count -= 1
            if group.unsolicit_count:
                self._start_timer(group, self._interval(mc))
        group.reporter = True
        version = self.version(mc)
        if version == 3:
            report = Report(mc.dev.mtu)
            report.add_current(group)
            self._send_report(mc, report.finish())
        else:
            build = igmp.build_v1_report if version == 1 else igmp.build_v2_report
            self._send(mc, group.addr, build(group.addr))

    # -- sending

    def _send_report(self, mc: McDevice, packets: list[list[Record]]) -> None:
        for records in packets:
            self._send(mc, igmp.IGMPV3_ALL_MCR, igmp.build_v3_report(records))

    def _send(self, mc: McDevice, daddr: bytes, message: bytes) -> None:
        """Send to a group on the link: TTL 1, router alert, precedence "internetwork control" (RFC 3376 section 4)."""
        dev = mc.dev
        if not dev.up:
            return
        af = self.af
        try:
            dst = af.route(Flow(daddr, af.any, IPPROTO_IGMP, dev.index))
        except OSError:
            return
        saddr = dst.saddr
        if daddr == igmp.IGMPV3_ALL_MCR and self._devinet.find_on(dev, saddr) is None:
            # Only an address of this very device, or none (RFC 3376 section 4.2.13).
            saddr = af.any
        skb = SKBuff(message)
        skb.transport_header = 0
        skb.priority = TC_PRIO_CONTROL
        # Longer than the MTU: it was dropped, and counted.
        with suppress(OSError):
            af.xmit_skb(skb, dst, saddr, daddr, IPPROTO_IGMP, 0xC0, 1, True, None, ipv4.ROUTER_ALERT)

    # -- receive

    def receive(self, skb: SKBuff) -> None:
        """Linux: igmp_rcv."""
        drops = self._net.drops
        if sum_of(skb):
            skb.drop(DropReason.IGMP_CSUM, drops)
            return
        if not skb.may_pull(igmp.IGMP_HLEN):
            skb.drop(DropReason.PKT_TOO_SMALL, drops)
            return
        skb.may_pull(skb.len)
        kind, _, _, addr = igmp.parse(skb.head, skb.data)
        if kind == igmp.IGMP_HOST_MEMBERSHIP_QUERY:
            try:
                self._heard_query(self.of(skb.dev), skb)
            except WireError:
                skb.drop(DropReason.IGMP_INVALID, drops)
                return
        elif kind in (igmp.IGMP_HOST_MEMBERSHIP_REPORT, igmp.IGMPV2_HOST_MEMBERSHIP_REPORT):
            # Not our own that loops back (PACKET_LOOPBACK), nor one that a router need not have heard.
            if skb.pkt_type in (PACKET_MULTICAST, PACKET_BROADCAST):
                group = self.of(skb.dev).groups.get(addr)
                if group is not None and not self._silent(addr):
                    self._stop_timer(group)
        skb.consume()

    def _heard_query(self, mc: McDevice, skb: SKBuff) -> None:
        """Linux: igmp_heard_query. Raises WireError for a query that isn't one."""
        head, data = skb.head, skb.data
        heard = igmp.query_version(head, data, skb.tail)
        addr, tenths, _, qrv, qqic, sources = igmp.parse_query(head, data, skb.tail)
        now = self._loop.now
        within = max(tenths * _TENTH, 1)
        marked = False
        if heard < 3:
            until = now + mc.qrv * mc.qi + mc.qri
            if heard == 1:
                mc.v1_seen = until
                addr = bytes(4)
            else:
                mc.v2_seen = until
            # Older routers don't know what version 3 would tell of changes.
            mc.ifc_count = 0
            mc.ifc_timer.cancel()
            mc.tomb.clear()
            for group in mc.groups.values():
                group.tomb.clear()
        else:
            speaking = self.version(mc)
            if speaking == 1:
                within = IGMP_QUERY_RESPONSE_INTERVAL
                addr = bytes(4)
            elif speaking == 3:
                mc.maxdelay = within
                mc.qrv = qrv or self.igmp_qrv
                mc.qi = qqic * NSEC_PER_SEC or IGMP_QUERY_INTERVAL
                if mc.qri >= mc.qi:
                    mc.qri = max(mc.qi - NSEC_PER_SEC, 0)
                if addr == bytes(4):
                    if sources:
                        raise WireError("general IGMP query with sources", igmp.IGMPV3_QUERY_HLEN)
                    deadline = self._at_random(within)
                    if deadline < mc.gq_timer.deadline:
                        mc.gq_timer.mod(deadline)
                    return
                marked = bool(sources)
        for group in mc.newest_first():
            if (addr != bytes(4) and addr != group.addr) or self._silent(group.addr):
                continue
            timer = group.timer
            running = timer is not None and timer.pending
            group.gsquery = marked and (group.gsquery or not running)
            if not group.gsquery or group.mark_query(sources):
                self._mod_timer(group, within)

    def _mod_timer(self, group: McGroup, within: int) -> None:
        """Answer within that time (Linux: igmp_mod_timer): an answer already due sooner will do."""
        group.unsolicit_count = 0
        timer = group.timer
        if timer is not None and not (timer.pending and timer.deadline - self._loop.now < within):
            timer.mod(self._at_random(within))
