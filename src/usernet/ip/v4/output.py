"""IPv4 output: from the transport to the neighbour (Linux: net/ipv4/ip_output.c).

    xmit (a connected socket's packet: ip_queue_xmit)  ─┐
    xmit_skb (one packet: ip_push_pending_frames)      ─┴→ LOCAL_OUT → route.output
    route.output → [a copy back to this host: multicast, broadcast] → POST_ROUTING → fragments → neighbour → device

`xmit` has a short cut through all that for what TCP sends all day: no options, no hooks, a neighbour whose link header
is known. It builds link and IP header as one piece.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import error
from usernet.ip.v4.fib4 import ANY, Fib4
from usernet.ip.v4.fragment import Fragments
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.offload import Ipv4Offload
from usernet.ip.v4.options import current_timestamp
from usernet.ip.v4.route import Ipv4Routes
from usernet.ip.v4.rtable import Rtable
from usernet.net.hooks import Hooks
from usernet.net.pernet import Net
from usernet.netdevice.device import NET_XMIT_DROP, NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import Flow
from usernet.sock.inet import IP_PMTUDISC_DO, IP_PMTUDISC_PROBE, IP_PMTUDISC_WANT
from usernet.wire import ipv4
from usernet.wire.ethernet import ETH_P_IP
from usernet.wire.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED
from usernet.wire.ipv4 import IP_DF, IP_HLEN, IP_MAX_MTU
from usernet.wire.ipv4 import build as _build

if TYPE_CHECKING:
    from usernet.sock.inet import InetSock


_MAX_HEADERS: Final = 120
"""The longest IP header and the longest transport header."""

IPPROTO_TCP: Final = 6
TCP_HLEN: Final = 20

IDENTS: Final = 2048
"""Counters of identifications, one for the destinations of one hash (Linux: IP_IDENTS_SZ, for a small machine)."""


def gso_network_length(skb: SKBuff) -> int:
    """How long the network packets of a super-segment will be (Linux: skb_gso_network_seglen). `data` is at its network
    header; TCP's header tells its own length, UDP's is 8 bytes."""
    network = skb.network_header
    hlen = (skb.head[network] & 15) << 2
    size = 8
    if skb.head[network + 9] == IPPROTO_TCP:
        skb.may_pull(hlen + TCP_HLEN)
        size = (skb.head[network + hlen + 12] >> 4) << 2
    return hlen + size + skb.gso_size


@final
class Ip4Output:
    """The output path of one namespace.

    is_member: `is_member(dev, group, saddr, protocol)` says whether this host is in a multicast group on a device, so
    that what it sends there comes back to it (Linux: ip_check_mc_rcu).
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self._mib = net.mib.ip
        self._ext = net.mib.ip_ext
        self.routes = net.get(Ipv4Routes)
        self.routes.out = self
        self._fib = net.get(Fib4)
        self._icmp = net.get(Icmp)
        self._fragments = net.get(Fragments)
        self._offload = net.get(Ipv4Offload)
        hooks = net.get(Hooks)
        self._local_out = hooks.local_out
        self._post_routing = hooks.post_routing
        self.is_member: Callable[[NetDevice, bytes, bytes, int], bool] | None = None
        self.ip_default_ttl: int = ipv4.IPDEFTTL
        self.ip_forward_use_pmtu: int = 0
        self._idents: list[int] | None = None
        self._ident_key: bytes = net.random.randbytes(16)
        self._ident_hash: Any = None
        net.sysctl.register("net.ipv4.ip_default_ttl", self, low=1, high=255, on_change=self._ttl_changed)
        net.sysctl.register("net.ipv4.ip_forward_use_pmtu", self, high=1)
        self._ttl_changed()

    def _ttl_changed(self) -> None:
        self._mib.DefaultTTL = self.ip_default_ttl

    # -- identification

    def select_ident(self, saddr: bytes, daddr: bytes, protocol: int, segments: int) -> int:
        """An identification for a packet that may be fragmented and belongs to no connection (__ip_select_ident).

        Counted by a keyed hash of its addresses, so that nobody learns from it how much is sent elsewhere (RFC 7739).
        """
        idents = self._idents
        if idents is None:
            from hashlib import blake2b

            self._ident_hash = blake2b
            idents = self._idents = [self.net.random.getrandbits(16) for _ in range(IDENTS)]
        digest = self._ident_hash(daddr + saddr + bytes((protocol,)), digest_size=4, key=self._ident_key).digest()
        place = int.from_bytes(digest, "big") % IDENTS
        ident = idents[place]
        idents[place] = (ident + segments) & 0xFFFF
        return ident

    # -- from a connected socket

    def xmit(self, sk: InetSock, skb: SKBuff, dst: Rtable) -> int:
        """A connected socket's packet: see `AddressFamily.xmit` (Linux: __ip_queue_xmit)."""
        if sk.options:
            return self._xmit_options(sk, skb, dst)
        length = skb.len + IP_HLEN
        ident = sk.ip_id
        sk.ip_id = (ident + (skb.gso_segs or 1)) & 0xFFFF
        fib = dst.fib
        discovery = sk.pmtudisc
        if discovery == IP_PMTUDISC_WANT:
            if fib.exceptions is None:
                frag_off = 0 if fib.mtu_lock else IP_DF
            else:
                frag_off = 0 if dst.mtu_locked() else IP_DF
        else:
            frag_off = IP_DF if discovery == IP_PMTUDISC_DO else 0
        ttl = sk.ttl
        if ttl < 0:
            ttl = dst.hoplimit or self.ip_default_ttl
        header = _build(sk.tos, length, ident, frag_off, ttl, sk.protocol, sk.saddr, sk.daddr)
        skb.protocol = ETH_P_IP
        skb.priority = sk.priority
        skb.mark = sk.mark
        skb.dst = dst
        mib = self._mib
        mib.OutRequests += 1
        neigh = dst.neigh
        if neigh is not None and dst.plain and not self._post_routing.entries and not self._local_out.entries:
            hh = neigh.hh
            dev: NetDevice = dst.dev
            # Above the device's MTU there is only a path MTU to look at where one was discovered.
            if hh is not None and (
                skb.gso_size or (length <= dev.mtu and fib.exceptions is None and not dst.metric_mtu)
            ):
                mib.OutTransmits += 1
                self._ext.OutOctets += length
                skb.push_header(hh + header if hh else header)
                skb.network_header = len(hh)
                return dev.queue_xmit(skb)
        skb.push_header(header)
        skb.network_header = 0
        return self.local_out(skb, dst)

    def _xmit_options(self, sk: InetSock, skb: SKBuff, dst: Rtable) -> int:
        """`xmit` for a socket with IP options."""
        try:
            options, daddr, dst = self._prepare_options(sk.options, dst, sk.saddr, sk.daddr)
        except OSError:
            self._mib.OutNoRoutes += 1
            skb.drop(DropReason.IP_OUTNOROUTES, self.net.drops)
            return NET_XMIT_DROP
        length = skb.len + IP_HLEN + len(options)
        ident = sk.ip_id
        sk.ip_id = (ident + (skb.gso_segs or 1)) & 0xFFFF
        discovery = sk.pmtudisc
        dont = discovery == IP_PMTUDISC_DO or (discovery == IP_PMTUDISC_WANT and not dst.mtu_locked())
        frag_off = IP_DF if dont else 0
        ttl = sk.ttl if sk.ttl >= 0 else dst.hoplimit or self.ip_default_ttl
        skb.push_header(_build(sk.tos, length, ident, frag_off, ttl, sk.protocol, sk.saddr, daddr, options))
        skb.network_header = 0
        skb.protocol = ETH_P_IP
        skb.priority = sk.priority
        skb.mark = sk.mark
        skb.dst = dst
        self._mib.OutRequests += 1
        return self.local_out(skb, dst)

    def _prepare_options(self, options: bytes, dst: Rtable, saddr: bytes, daddr: bytes) -> tuple[bytes, bytes, Rtable]:
        """Options as they leave (Linux: ip_options_build): returns them, the header's destination, and the route.

        A source route that starts here leads to its first hop; an answer's (`daddr` is its first hop already) is left.
        Raises OSError where its first hop can't be reached.
        """
        for kind, at, data in ipv4.parse_options(options):
            if kind == ipv4.IPOPT_RR:
                options = ipv4.record_route(options, at, saddr)
            elif kind == ipv4.IPOPT_TIMESTAMP:
                flag = data[1] & 15
                if flag == ipv4.IPOPT_TS_TSONLY or flag == ipv4.IPOPT_TS_TSANDADDR:
                    options = ipv4.record_timestamp(options, at, saddr, current_timestamp(self.net))
            elif kind in (ipv4.IPOPT_LSRR, ipv4.IPOPT_SSRR):
                options, first = ipv4.source_route_start(options, at, daddr)
                if first != dst.daddr:
                    dst = self.routes.output(Flow(first, saddr))
                if kind == ipv4.IPOPT_SSRR and dst.gateway is not None:
                    raise error(errno.EHOSTUNREACH, "the first hop of a strict source route is behind a gateway")
                daddr = first
        return options, daddr, dst

    # -- one packet

    def xmit_skb(
        self, skb: SKBuff, dst: Rtable, saddr: bytes, daddr: bytes, protocol: int, tos: int, ttl: int,
        dont_fragment: bool, sk: InetSock | None = None, options: bytes = b"", local_df: bool = False,
    ) -> int:  # fmt: skip
        """See `AddressFamily.xmit_skb` (Linux: __ip_make_skb). Where it raises, the packet was dropped."""
        if options and sk is not None:
            try:
                options, daddr, dst = self._prepare_options(options, dst, saddr, daddr)
            except OSError:
                self._mib.OutNoRoutes += 1
                skb.drop(DropReason.IP_OUTNOROUTES, self.net.drops)
                raise
        length = skb.len + IP_HLEN + len(options)
        if sk is not None and sk.pmtudisc >= IP_PMTUDISC_PROBE:
            mtu = dst.dev.mtu
        elif dst.fib.exceptions is None:
            mtu = dst.metric_mtu or dst.dev.mtu
        else:
            mtu = dst.mtu()
        frag_off = IP_DF if dont_fragment else 0
        if length > mtu and not skb.gso_size:
            if (dont_fragment and not local_df) or length > IP_MAX_MTU:
                self._mib.FragFails += 1
                skb.drop(DropReason.PKT_TOO_BIG, self.net.drops)
                raise error(errno.EMSGSIZE, f"packet of {length} bytes: expected {min(mtu, IP_MAX_MTU)} at most")
            frag_off = 0
        elif frag_off and local_df and dst.mtu_locked():
            # The path's MTU isn't to be believed, so a router on it may have to fragment.
            frag_off = 0
        if not ttl:
            if dst.multicast:
                ttl = sk.mc_ttl if sk is not None else 1
            elif sk is not None and sk.ttl >= 0:
                ttl = sk.ttl
            else:
                ttl = dst.hoplimit or self.ip_default_ttl
        if sk is not None and sk.daddr != ANY:
            ident = sk.ip_id
            sk.ip_id = (ident + (skb.gso_segs or 1)) & 0xFFFF
        elif frag_off:
            # Never fragmented: nobody looks at it (RFC 6864).
            ident = 0
        else:
            ident = self.select_ident(saddr, daddr, protocol, skb.gso_segs or 1)
        header = _build(tos, length, ident, frag_off, ttl, protocol, saddr, daddr, options)
        skb.protocol = ETH_P_IP
        skb.dst = dst
        mib = self._mib
        mib.OutRequests += 1
        neigh = dst.neigh
        if (
            neigh is not None
            and dst.plain
            and (length <= mtu or skb.gso_size)
            and not self._post_routing.entries
            and not self._local_out.entries
        ):
            hh = neigh.hh
            if hh is not None:
                mib.OutTransmits += 1
                self._ext.OutOctets += length
                skb.push_header(hh + header if hh else header)
                skb.network_header = len(hh)
                dev: NetDevice = dst.dev
                return dev.queue_xmit(skb)
        skb.push_header(header)
        skb.network_header = 0
        return self.local_out(skb, dst)

    # -- on the way out

    def local_out(self, skb: SKBuff, dst: Rtable) -> int:
        """Send a packet of this host's, complete with its header, `data` at it (Linux: ip_local_out)."""
        hooks = self._local_out
        if hooks.entries:
            if not hooks.run(skb, None, dst.dev):
                return NET_XMIT_DROP
            if skb.dst is not None and skb.dst is not dst:
                # A hook sent it elsewhere.
                dst = skb.dst
        return self.output(dst, skb)

    def output(self, dst: Rtable, skb: SKBuff) -> int:
        """Send a packet, this host's or forwarded, along its route (Linux: ip_output, ip_mc_output)."""
        skb.dev = dst.dev
        if not dst.plain:
            if dst.multicast:
                self._loop_multicast(dst, skb)
                if not skb.head[skb.data + 8]:
                    # A TTL of 0 keeps it on this host (RFC 1112 section 6.1).
                    skb.consume()
                    return 0
            elif not dst.dev.loopback:
                self._loop_back(dst, skb)
        return self._post(dst, skb)

    def _post(self, dst: Rtable, skb: SKBuff) -> int:
        """POST_ROUTING, and fragments (Linux: ip_finish_output)."""
        hooks = self._post_routing
        if hooks.entries and not hooks.run(skb, None, dst.dev):
            return NET_XMIT_DROP
        if dst.fib.exceptions is None:
            mtu = dst.metric_mtu or dst.dev.mtu
        else:
            mtu = dst.mtu()
        if skb.gso_size:
            if skb.gso_size + _MAX_HEADERS > mtu and gso_network_length(skb) > mtu:
                return self._split(dst, skb, mtu)
        elif skb.len > mtu:
            sk = skb.sk
            # A socket that probes looks at the link's own MTU only.
            if sk is None or getattr(sk, "pmtudisc", 0) < IP_PMTUDISC_PROBE or skb.len > dst.dev.mtu:
                return self.fragment(dst, skb, mtu)
        return self._finish(dst, skb)

    def _split(self, dst: Rtable, skb: SKBuff, mtu: int) -> int:
        """A super-segment whose segments are too long for the path (Linux: ip_finish_output_gso)."""
        try:
            segments = self._offload.gso_segment(skb)
        except ValueError:
            skb.drop(DropReason.SKB_GSO_SEG, self.net.drops)
            return NET_XMIT_DROP
        skb.consume()
        result = 0
        for segment in segments:
            segment.dst = dst
            segment.dev = dst.dev
            result = self.fragment(dst, segment, mtu) or result
        return result

    def fragment(self, dst: Rtable, skb: SKBuff, mtu: int) -> int:
        """Send a packet in fragments (Linux: ip_fragment); with DF, its sender is told instead."""
        if skb.len <= mtu:
            return self._finish(dst, skb)
        if skb.head[skb.data + 6] & 0x40:
            self._mib.FragFails += 1
            self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
            skb.drop(DropReason.PKT_TOO_BIG, self.net.drops)
            return NET_XMIT_DROP
        try:
            fragments = self._fragments.fragment(skb, mtu)
        except OSError:
            skb.drop(DropReason.PKT_TOO_BIG, self.net.drops)
            return NET_XMIT_DROP
        result = 0
        for part in fragments:
            result = self._finish(dst, part) or result
        return result

    def _finish(self, dst: Rtable, skb: SKBuff) -> int:
        """To the next hop (Linux: ip_finish_output2)."""
        size = skb.len
        self._mib.OutTransmits += 1
        ext = self._ext
        ext.OutOctets += size
        if not dst.plain:
            if dst.multicast:
                ext.OutMcastPkts += 1
                ext.OutMcastOctets += size
            else:
                ext.OutBcastPkts += 1
                ext.OutBcastOctets += size
        neigh = dst.neigh
        if neigh is None or neigh.dead:
            neigh = dst.neighbour()
            if neigh is None:
                skb.drop(DropReason.NEIGH_CREATEFAIL, self.net.drops)
                return NET_XMIT_DROP
        return neigh.output(skb)

    # -- back to this host

    def _loop_multicast(self, dst: Rtable, skb: SKBuff) -> None:
        """What is sent to a group this host is in comes back to it, unless the sender doesn't want that."""
        sk = skb.sk
        if sk is not None and not getattr(sk, "mc_loop", True):
            return
        header = skb.data
        head = skb.head
        member = self.is_member
        if dst.dev.loopback or member is None:
            return
        if member(dst.dev, head[header + 16 : header + 20], head[header + 12 : header + 16], head[header + 9]):
            self._loop_back(dst, skb)

    def _loop_back(self, dst: Rtable, skb: SKBuff) -> None:
        """Linux: ip_mc_finish_output."""
        copy = skb.clone()
        copy.dst = None
        copy.tstamp = 0
        copy.dev = dst.dev
        hooks = self._post_routing
        if hooks.entries and not hooks.run(copy, None, dst.dev):
            return
        dst.dev.loopback_xmit(copy)
