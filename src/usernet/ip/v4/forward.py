"""Forwarding IPv4 packets from one device to another (Linux: net/ipv4/ip_forward.c; RFC 1812 section 5).

`net.ipv4.ip_forward` turns it on. A packet whose TTL is used up, that is too long and may not be fragmented, or that
its sender had better sent elsewhere, is answered with the ICMP message for that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, final

from usernet.core.sysctl import INT_MAX
from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.options import IpOptions, OptionsInput
from usernet.ip.v4.output import Ip4Output, gso_network_length
from usernet.ip.v4.rtable import Rtable
from usernet.ip.v4.tos import tos_priority
from usernet.net.hooks import Hooks
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, PACKET_HOST, SKBuff
from usernet.sock.inet import InetSock
from usernet.wire import ipv4
from usernet.wire.icmp import (
    ICMP_DEST_UNREACH,
    ICMP_EXC_TTL,
    ICMP_FRAG_NEEDED,
    ICMP_REDIR_HOST,
    ICMP_REDIRECT,
    ICMP_SR_FAILED,
    ICMP_TIME_EXCEEDED,
)

MILLISECOND: Final = 1_000_000
MAX_TRANSPORT_HEADER: Final = 60
MAX_PEERS: Final = 4096
"""Hosts of which it is known how often they were told of a better way, or of none; the oldest makes room."""


@final
class _Told:
    """What one host was told, and how often (Linux: `struct inet_peer`)."""

    __slots__ = ("last", "redirects", "tokens")

    def __init__(self) -> None:
        self.last: int = 0
        self.redirects: int = 0
        self.tokens: int = 0


_SYSCTLS: Final = (
    ("redirect_number", 0, INT_MAX), ("redirect_load", 0, INT_MAX), ("redirect_silence", 0, INT_MAX),
    ("error_cost", 0, INT_MAX), ("error_burst", 0, INT_MAX),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class Ip4Forward:
    """The forwarding of one namespace. Times under net.ipv4.route are in milliseconds here (Linux: jiffies)."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._loop = net.loop
        self._mib = net.mib.ip
        self._out = net.get(Ip4Output)
        self._icmp = net.get(Icmp)
        self._options = net.get(OptionsInput)
        self._devinet = net.get(Devinet)
        self._in_devices = net.get(InetDevices)
        self._hooks = net.get(Hooks).forward
        self.ra_chain: list[InetSock] = []
        """Raw sockets that want packets with a router alert (IP_ROUTER_ALERT)."""
        self._told: OrderedDict[bytes, _Told] = OrderedDict()
        self.redirect_number: int = 9
        self.redirect_load: int = 20
        self.redirect_silence: int = 20 << 10
        self.error_cost: int = 1000
        self.error_burst: int = 5000
        net.sysctl.register_rows("net.ipv4.route", self, _SYSCTLS)

    def receive(self, skb: SKBuff) -> None:
        """Pass on a packet whose route, `skb.dst`, leads to another device (Linux: ip_forward)."""
        dst: Rtable = skb.dst
        drops = self._net.drops
        if skb.pkt_type != PACKET_HOST or skb.sk is not None:
            skb.drop(DropReason.NOT_SPECIFIED, drops)
            return
        if skb.ip_summed == CHECKSUM_COMPLETE:
            skb.ip_summed = CHECKSUM_NONE
        header = skb.network_header
        head = skb.head
        hlen = (head[header] & 15) << 2
        options: IpOptions | None = skb.cb if hlen > ipv4.IP_HLEN else None
        if options is not None and options.router_alert and self.ra_chain:
            if self._call_ra_chain(skb, head[header + 9]):
                return
        if head[header + 8] <= 1:
            self._mib.InHdrErrors += 1
            self._icmp.send(skb, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL)
            skb.drop(DropReason.IP_TTL, drops)
            return
        if options is not None and options.is_strictroute and dst.gateway is not None:
            self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_SR_FAILED)
            skb.drop(DropReason.IP_OPTIONS, drops)
            return
        self._mib.ForwDatagrams += 1
        mtu = dst.mtu() if self._out.ip_forward_use_pmtu or dst.fib.mtu_lock else dst.interface_mtu()
        if head[header + 6] & 0x40 and (gso_network_length(skb) if skb.gso_size else skb.len) > mtu:
            self._mib.FragFails += 1
            self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
            skb.drop(DropReason.PKT_TOO_BIG, drops)
            return
        # Others may share the bytes; the header is what changes, and the rest stays where it is.
        # The transport's header stays linear too: checksum and segmentation read it.
        skb.cow(hlen + MAX_TRANSPORT_HEADER)
        skb.store(header, ipv4.decrease_ttl(skb.head[header : header + hlen]))
        if dst.redirect and (options is None or options.srr < 0):
            self._redirect(skb, dst)
        if self._hooks.entries and not self._hooks.run(skb, skb.dev, dst.dev):
            return
        if options is not None:
            source = self._devinet.select_addr(dst.dev, dst.gateway or dst.daddr, 0)
            self._options.forward(skb, source)
        skb.tstamp = 0
        skb.priority = tos_priority(head[header + 1])
        self._out.output(dst, skb)

    def _call_ra_chain(self, skb: SKBuff, protocol: int) -> bool:
        """Give a packet with a router alert to the raw sockets that want it; True where one did (RFC 2113)."""
        wanting = [
            sk
            for sk in self.ra_chain
            if sk.num == protocol and (not sk.bound_dev_if or sk.bound_dev_if == skb.dev.index)
        ]
        for sk in wanting:
            copy = skb.clone()
            copy.af, copy.saddr, copy.daddr = skb.af, skb.saddr, skb.daddr
            reason = sk.queue_receive(copy)
            if reason is not None:
                copy.drop(reason, self._net.drops)
        if wanting:
            skb.consume()
        return bool(wanting)

    # -- limits

    def _peer(self, addr: bytes) -> _Told:
        told = self._told.get(addr)
        if told is None:
            if len(self._told) >= MAX_PEERS:
                self._told.popitem(last=False)
            told = self._told[addr] = _Told()
            told.tokens = self.error_burst * MILLISECOND
            told.last = self._loop.now - self.redirect_silence * MILLISECOND - 1
        return told

    def _redirect(self, skb: SKBuff, dst: Rtable) -> None:
        """Tell the sender of a better first hop, ever more rarely while it doesn't listen (ip_rt_send_redirect)."""
        told = self._peer(skb.saddr)
        now = self._loop.now
        if now > told.last + self.redirect_silence * MILLISECOND:
            told.redirects = 0
        if told.redirects >= self.redirect_number:
            told.last = now
            return
        if told.redirects == 0 or now > told.last + (self.redirect_load * MILLISECOND << told.redirects):
            self._icmp.send(skb, ICMP_REDIRECT, ICMP_REDIR_HOST, int.from_bytes(dst.gateway or skb.daddr, "big"))
            told.last = now
            told.redirects += 1

    def error_allowed(self, saddr: bytes) -> bool:
        """Whether `saddr` may be told once more that there is no route (Linux: ip_error's token bucket)."""
        told = self._peer(saddr)
        now = self._loop.now
        tokens = min(told.tokens + now - told.last, self.error_burst * MILLISECOND)
        told.last = now
        cost = self.error_cost * MILLISECOND
        allowed = tokens >= cost
        told.tokens = tokens - cost if allowed else tokens
        return allowed
