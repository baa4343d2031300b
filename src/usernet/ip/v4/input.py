"""IPv4 input: from the device to the transport (Linux: net/ipv4/ip_input.c).

    receive: the header is checked, padding trimmed                     ip_rcv
      → PRE_ROUTING → early demux (the transport finds its socket) → where to (route_input.py)   ip_rcv_finish
      → options → here: fragments → LOCAL_IN → raw sockets → protocols[number]   ip_local_deliver
                  on: forward.py                                                 ip_forward

One method does what a whole packet for this host needs, in one go: it is what runs for each segment of a TCP flow.
"""

from __future__ import annotations

import errno
from typing import Final, final

from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.fib4 import Fib4
from usernet.ip.v4.forward import Ip4Forward
from usernet.ip.v4.fragment import Fragments
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.options import OptionsInput
from usernet.ip.v4.route_input import RouteInput
from usernet.ip.v4.rtable import Rtable
from usernet.net.hooks import Hooks
from usernet.net.pernet import Net
from usernet.net.protocols import Protocols
from usernet.netdevice.device import NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_LOOPBACK,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    SKBuff,
)
from usernet.sock.af_ops import AddressFamily
from usernet.wire.checksum import words
from usernet.wire.icmp import (
    ICMP_DEST_UNREACH,
    ICMP_HOST_UNREACH,
    ICMP_NET_UNREACH,
    ICMP_PKT_FILTERED,
    ICMP_PROT_UNREACH,
)
from usernet.wire.ipv4 import IP_HLEN, IP_MF, IP_OFFSET
from usernet.wire.ipv4 import parse as _parse

_FRAGMENT: Final = IP_MF | IP_OFFSET
_SIMPLE: Final = 0x45


@final
class Ip4Input:
    """The input path of one namespace."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._mib = net.mib.ip
        self._ext = net.mib.ip_ext
        self._fib = net.get(Fib4)
        self._in_devices = net.get(InetDevices)
        self._routes = net.get(RouteInput)
        self._caches = self._routes.caches
        self._protocols = net.get(Protocols)
        self._table = self._protocols.table
        self._fragments = net.get(Fragments)
        self._options = net.get(OptionsInput)
        self._icmp = net.get(Icmp)
        self.forward = net.get(Ip4Forward)
        hooks = net.get(Hooks)
        self._pre_routing = hooks.pre_routing
        self._local_in = hooks.local_in
        self.af: AddressFamily = AddressFamily()
        """Set when IPv4 is put together."""
        self.ip_early_demux: int = 1
        net.sysctl.register("net.ipv4.ip_early_demux", self, high=1)
        self._settings: int = self._in_devices.generation

    def receive(self, skb: SKBuff) -> None:
        """A packet of ETH_P_IP, `data` at its header (Linux: ip_rcv)."""
        if skb.pkt_type == PACKET_OTHERHOST:
            skb.drop(DropReason.OTHERHOST, self._net.drops)
            return
        if skb.sk is not None:
            skb.orphan()
        mib = self._mib
        ext = self._ext
        segments = skb.gso_segs or 1
        mib.InReceives += segments
        ext.InOctets += skb.len
        head = skb.head
        at = skb.data
        if skb.tail - at < IP_HLEN:
            if not skb.may_pull(IP_HLEN):
                self._bad_header(skb, DropReason.IP_INHDR)
                return
            head = skb.head
        ver_ihl, tos, tot_len, _, frag_off, _, protocol, _, saddr, daddr = _parse(head, at)
        if ver_ihl == _SIMPLE:
            transport = at + IP_HLEN
            # The sum of a right header is a multiple of 0xFFFF; it can't be 0 with this version in it.
            if words(head[at:transport]) % 0xFFFF:
                ext.InCsumErrors += 1
                self._bad_header(skb, DropReason.IP_CSUM)
                return
        else:
            hlen = (ver_ihl & 15) << 2
            if hlen < IP_HLEN or ver_ihl >> 4 != 4 or not skb.may_pull(hlen):
                self._bad_header(skb, DropReason.IP_INHDR)
                return
            head = skb.head
            transport = at + hlen
            if words(head[at:transport]) % 0xFFFF:
                ext.InCsumErrors += 1
                self._bad_header(skb, DropReason.IP_CSUM)
                return
        ecn = tos & 3
        if ecn == 0:
            ext.InNoECTPkts += segments
        elif ecn == 2:
            ext.InECT0Pkts += segments
        elif ecn == 1:
            ext.InECT1Pkts += segments
        else:
            ext.InCEPkts += segments
        if tot_len != skb.len and (tot_len or not skb.gso_size):
            if tot_len > skb.len:
                ext.InTruncatedPkts += 1
                skb.drop(DropReason.PKT_TOO_SMALL, self._net.drops)
                return
            if tot_len < transport - at:
                self._bad_header(skb, DropReason.IP_INHDR)
                return
            skb.trim(tot_len)
        skb.network_header = at
        skb.transport_header = transport
        skb.af = self.af
        skb.saddr = saddr
        skb.daddr = daddr
        skb.dst = None
        hooks = self._pre_routing
        if hooks.entries:
            if not hooks.run(skb, skb.dev, None):
                return
            saddr = skb.saddr
            daddr = skb.daddr
            head = skb.head
            at = skb.network_header
            transport = skb.transport_header
        handler = self._table.get(protocol)
        if not frag_off & _FRAGMENT and handler is not None and self.ip_early_demux and skb.sk is None:
            handler.early_demux(skb)
        # Where to: what was decided before for these two addresses, if nothing has changed since.
        dev: NetDevice = skb.dev
        dst: Rtable | None = skb.dst
        if dst is None or dst.error or not dst.local:
            cache = self._caches.get(dev.index)
            dst = cache.get(head[at + 12 : at + 20]) if cache is not None else None
            if (
                dst is None
                or dst.genid != self._fib.genid
                or self._settings != self._in_devices.generation
                or skb.pkt_type == PACKET_LOOPBACK
            ):
                self._settings = self._in_devices.generation
                dst = self._routes.route(skb, dev, saddr, daddr)
                if dst is None:
                    skb.drop(self._routes.reason, self._net.drops)
                    return
            skb.dst = dst
        if ver_ihl != _SIMPLE:
            in_dev = self._in_devices.of(dev)
            if not self._options.receive(skb, in_dev.accept_source_route(), self._reroute):
                return
            routed: Rtable = skb.dst
            dst = routed
            transport = skb.transport_header
        if dst.broadcast or dst.multicast or skb.pkt_type != PACKET_HOST:
            if not self._to_many(skb, dst):
                return
        if not dst.local:
            if dst.forward:
                self.forward.receive(skb)
            else:
                self._error(skb, dst)
            return
        # For this host.
        if frag_off & _FRAGMENT:
            self._local_deliver(skb)
            return
        hooks = self._local_in
        if hooks.entries and not hooks.run(skb, dev, None):
            return
        skb.len -= transport - skb.data
        skb.data = transport
        raw = self._protocols.raw_deliver
        taken = raw is not None and raw(skb, protocol)
        if handler is not None:
            mib.InDelivers += 1
            handler.receive(skb)
        else:
            self._no_protocol(skb, taken)

    def _bad_header(self, skb: SKBuff, reason: DropReason) -> None:
        self._mib.InHdrErrors += 1
        skb.drop(reason, self._net.drops)

    def _to_many(self, skb: SKBuff, dst: Rtable) -> bool:
        """Count multicast and broadcast. False where the packet was dropped: a unicast one in a frame to many."""
        ext = self._ext
        if dst.multicast:
            ext.InMcastPkts += 1
            ext.InMcastOctets += skb.len
        elif dst.broadcast:
            ext.InBcastPkts += 1
            ext.InBcastOctets += skb.len
        elif skb.pkt_type in (PACKET_BROADCAST, PACKET_MULTICAST):
            if self._in_devices.of(skb.dev).drop_unicast_in_l2_multicast():
                skb.drop(DropReason.UNICAST_IN_L2_MULTICAST, self._net.drops)
                return False
        return True

    def _local_deliver(self, skb: SKBuff) -> None:
        """A fragment for this host: go on once the packet is whole (Linux: ip_local_deliver)."""
        whole = self._fragments.defrag(skb)
        if whole is not None:
            self.local_deliver(whole)

    def local_deliver(self, skb: SKBuff) -> None:
        """A whole packet for this host, `data` at its network header."""
        hooks = self._local_in
        if hooks.entries and not hooks.run(skb, skb.dev, None):
            return
        header = skb.network_header
        protocol = skb.head[header + 9]
        hlen = (skb.head[header] & 15) << 2
        skb.transport_header = header + hlen
        skb.pull(hlen)
        raw = self._protocols.raw_deliver
        taken = raw is not None and raw(skb, protocol)
        handler = self._table.get(protocol)
        if handler is None:
            self._no_protocol(skb, taken)
            return
        self._mib.InDelivers += 1
        handler.receive(skb)

    def _no_protocol(self, skb: SKBuff, taken: bool) -> None:
        """No transport has the protocol number; `taken`: a raw socket has it."""
        if taken:
            self._mib.InDelivers += 1
            skb.consume()
            return
        self._mib.InUnknownProtos += 1
        self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH)
        skb.drop(DropReason.IP_NOPROTO, self._net.drops)

    def _reroute(self, skb: SKBuff, daddr: bytes) -> bool:
        """Route a packet as if it had been sent to `daddr`, for a source route."""
        route = self._routes.route(skb, skb.dev, skb.saddr, daddr)
        if route is None or route.broadcast or route.multicast or route.error:
            return False
        skb.dst = route
        return True

    def _error(self, skb: SKBuff, dst: Rtable) -> None:
        """There is no way on: a router says so, a host is silent (Linux: ip_error)."""
        code = dst.error
        reason = DropReason.NOT_SPECIFIED
        if not self._in_devices.of(skb.dev).forwarding():
            if code == errno.EHOSTUNREACH:
                self._mib.InAddrErrors += 1
                reason = DropReason.IP_INADDRERRORS
            elif code == errno.ENETUNREACH:
                self._ext.InNoRoutes += 1
                reason = DropReason.IP_INNOROUTES
            skb.drop(reason, self._net.drops)
            return
        answer = -1
        if code == errno.EHOSTUNREACH:
            answer = ICMP_HOST_UNREACH
        elif code == errno.ENETUNREACH:
            answer = ICMP_NET_UNREACH
            reason = DropReason.IP_INNOROUTES
            self._ext.InNoRoutes += 1
        elif code == errno.EACCES:
            answer = ICMP_PKT_FILTERED
        if answer >= 0 and self.forward.error_allowed(skb.saddr):
            self._icmp.send(skb, ICMP_DEST_UNREACH, answer)
        skb.drop(reason, self._net.drops)
