"""Sending ICMP: answers and errors, and the limits that both keep to (Linux: icmp_reply, __icmp_send).

An error is sent about a packet only where RFC 1122 section 3.2.2 and RFC 1812 section 4.3.2.7 let it be: never about an
error, a fragment but the first, or what was sent to more than one host by address or by link. It quotes as much of the
packet as fits in 576 bytes.

Two token buckets hold it back. For the whole namespace: `icmp_msgs_per_sec` (1000), `icmp_msgs_burst` (50); for one
destination: a message each `icmp_ratelimit` ms (1000), up to six saved. Only the types in `icmp_ratemask` count
(0x1818: unreachable, quench, time exceeded, parameter problem), never "fragmentation needed". What they hold back is
counted in Icmp OutRateLimitGlobal and OutRateLimitHost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC
from usernet.core.sysctl import INT_MAX
from usernet.ip.fib import RT_SCOPE_LINK
from usernet.ip.inetpeer import InetPeers
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.options import OptionsInput, compute_spec_dst
from usernet.ip.v4.rtable import Rtable
from usernet.net.dst import Dst
from usernet.netdevice.device import IFF_LOOPBACK
from usernet.skbuff.skbuff import PACKET_HOST, SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, AddressFamily, Flow
from usernet.wire import icmp, ipv4

if TYPE_CHECKING:
    from usernet.net.pernet import Net

IPPROTO_ICMP: Final = 1
ICMP_QUOTE_MAX: Final = 576
"""Bytes of an error with its IP header at most (RFC 1812 section 4.3.2.3)."""

INADDR_DUMMY: Final = b"\xc0\x00\x00\x08"
"""192.0.0.8: the source of errors from a host without an address (RFC 7600)."""

_OUT_COUNTERS: Final = {
    icmp.ICMP_ECHOREPLY: "OutEchoReps",
    icmp.ICMP_DEST_UNREACH: "OutDestUnreachs",
    icmp.ICMP_SOURCE_QUENCH: "OutSrcQuenchs",
    icmp.ICMP_REDIRECT: "OutRedirects",
    icmp.ICMP_ECHO: "OutEchos",
    icmp.ICMP_TIME_EXCEEDED: "OutTimeExcds",
    icmp.ICMP_PARAMETERPROB: "OutParmProbs",
    icmp.ICMP_TIMESTAMP: "OutTimestamps",
    icmp.ICMP_TIMESTAMPREPLY: "OutTimestampReps",
    icmp.ICMP_ADDRESS: "OutAddrMasks",
    icmp.ICMP_ADDRESSREPLY: "OutAddrMaskReps",
}


def is_error(kind: int) -> bool:
    """Whether Linux counts a type as an error (icmp_pointers): the known ones, and 1, 2, 6, 7, 9 and 10, which mean
    nothing to a host; and any above 18."""
    return kind in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12) or kind > icmp.NR_ICMP_TYPES


_SYSCTLS: Final = (
    ("icmp_ratelimit", 0, INT_MAX), ("icmp_ratemask", 0, INT_MAX), ("icmp_msgs_per_sec", 0, INT_MAX),
    ("icmp_msgs_burst", 0, INT_MAX), ("icmp_errors_use_inbound_ifaddr", 0, 1),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class IcmpOutput:
    """What one namespace sends. `af` is set when IPv4 is put together, before the first packet."""

    af: AddressFamily

    def __init__(self, net: Net) -> None:
        self._net = net
        self._loop = net.loop
        self._mib = net.mib.icmp
        self._peers = net.get(InetPeers)
        self._options = net.get(OptionsInput)
        self._devinet = net.get(Devinet)
        self.icmp_ratelimit: int = 1000
        self.icmp_ratemask: int = 0x1818
        self.icmp_msgs_per_sec: int = 1000
        self.icmp_msgs_burst: int = 50
        self.icmp_errors_use_inbound_ifaddr: int = 0
        net.sysctl.register_rows("net.ipv4", self, _SYSCTLS)
        self._credit: int = 0
        # As if a second had passed in silence: the first burst may be a whole one.
        self._stamp: int = net.loop.now - NSEC_PER_SEC
        self._sending: bool = False

    # -- limits

    def _unlimited(self, kind: int, code: int) -> bool:
        """Linux: icmpv4_mask_allow."""
        if kind > icmp.NR_ICMP_TYPES:
            return True
        if kind == icmp.ICMP_DEST_UNREACH and code == icmp.ICMP_FRAG_NEEDED:
            return True
        return not self.icmp_ratemask >> kind & 1

    def global_allow(self) -> bool:
        """Whether the namespace may send one more message (Linux: icmp_global_allow)."""
        if self._credit > 0:
            return True
        now = self._loop.now
        delta = min(now - self._stamp, NSEC_PER_SEC)
        if delta < NSEC_PER_SEC // 50:
            return False
        fresh = self.icmp_msgs_per_sec * delta // NSEC_PER_SEC
        if not fresh:
            return False
        self._stamp = now
        self._credit = min(self._credit + fresh, self.icmp_msgs_burst)
        return True

    def _host_allow(self, dst: Dst, daddr: bytes) -> bool:
        """Linux: icmpv4_xrlim_allow; no limit on loopback."""
        if not dst.dev.flags & IFF_LOOPBACK:
            interval = self.icmp_ratelimit * NSEC_PER_MSEC
            if not self._peers.get(daddr).allow(self._loop.now, interval):
                self._mib.OutRateLimitHost += 1
                return False
        # A random number of credits, so that nobody can count how many are left (CVE-2020-25705).
        self._credit -= self._net.random.randrange(3)
        return True

    # -- counters

    def out_count(self, kind: int) -> None:
        """Count a message that is sent, by whomever (Linux: icmp_out_count). Raw and ping sockets call it too."""
        mib = self._mib
        mib.OutMsgs += 1
        self._net.mib.icmp_msg.increment(f"OutType{kind}")
        name = _OUT_COUNTERS.get(kind)
        if name is not None:
            mib.increment(name)

    # -- sending

    def _push(self, skb: SKBuff, dst: Dst, saddr: bytes, daddr: bytes, tos: int, options: bytes, kind: int) -> None:
        """Linux: icmp_push_reply."""
        skb.transport_header = skb.data
        # Before it is on its way: whoever has the answer finds it counted.
        self.out_count(kind)
        try:
            self.af.xmit_skb(skb, dst, saddr, daddr, IPPROTO_ICMP, tos, 0, False, None, options)
        except OSError:
            self._mib.OutErrors += 1

    def reply(self, answer: SKBuff, kind: int, code: int, skb: SKBuff) -> None:
        """Send `answer`, a complete ICMP message, to the sender of the received `skb` (Linux: icmp_reply)."""
        limited = not self._unlimited(kind, code)
        if limited and not self.global_allow():
            self._mib.OutRateLimitGlobal += 1
            return
        af = self.af
        saddr = compute_spec_dst(af, skb)
        options, first = self._options.echo(skb, saddr)
        header = skb.network_header
        daddr = first or skb.head[header + 12 : header + 16]
        tos = skb.head[header + 1]
        try:
            dst = af.route(Flow(daddr, saddr, IPPROTO_ICMP, 0, tos))
        except OSError:
            return
        if limited and not self._host_allow(dst, daddr):
            return
        self._push(answer, dst, dst.saddr, daddr, tos, options, kind)

    def _answerable(self, skb: SKBuff, kind: int) -> int:
        """The RTN_* kind of the destination of a packet that an error may be sent about, -1 where none may be."""
        header = skb.network_header
        head = skb.head
        if header < 0 or header + ipv4.IP_HLEN > len(head) or skb.pkt_type != PACKET_HOST:
            return -1
        dst = skb.dst
        if dst is not None:
            where = RTN_LOCAL if dst.local else 0
            if dst.broadcast or dst.multicast:
                return -1
        else:
            where = self.af.addr_type(head[header + 16 : header + 20], skb.dev)
            if where in (RTN_BROADCAST, RTN_MULTICAST):
                return -1
        if (head[header + 6] << 8 | head[header + 7]) & ipv4.IP_OFFSET:
            return -1
        if is_error(kind) and head[header + 9] == IPPROTO_ICMP:
            inner = skb.slice(header - skb.data + ((head[header] & 15) << 2), skb.len)
            if not inner or is_error(inner[0][0]):
                return -1
        return where

    def send(self, skb: SKBuff, kind: int, code: int, info: int = 0) -> None:
        """Send an error about `skb`, where the rules and limits let it be (Linux: icmp_send).

        skb: `network_header` set, `data` at or behind it; it stays the caller's. kind, code: ICMP_*. info: the second
        32 bits of the message (gateway, MTU, pointer << 24).
        """
        if self._sending:
            # The way out of an error gives rise to another: Linux finds its ICMP socket locked.
            return
        if skb.data > skb.network_header >= 0:
            shown = skb.clone()
            shown.push(shown.data - shown.network_header)
            skb = shown
        where = self._answerable(skb, kind)
        if where < 0:
            return
        dev = skb.dev
        limited = False
        if dev is None or not dev.flags & IFF_LOOPBACK:
            limited = not self._unlimited(kind, code)
            if limited and not self.global_allow():
                self._mib.OutRateLimitGlobal += 1
                return
        self._sending = True
        try:
            self._send(skb, kind, code, info, where, limited)
        finally:
            self._sending = False

    def _send(self, skb: SKBuff, kind: int, code: int, info: int, where: int, limited: bool) -> None:
        af = self.af
        header = skb.network_header
        head = skb.head
        source = head[header + 12 : header + 16]
        if where == RTN_LOCAL:
            saddr = head[header + 16 : header + 20]
        elif self.icmp_errors_use_inbound_ifaddr and skb.dev is not None and _came_in(skb):
            saddr = self._devinet.select_addr(skb.dev, source, RT_SCOPE_LINK)
        else:
            saddr = af.any
        tos = head[header + 1]
        if is_error(kind):
            # Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
            tos = tos & 0x1E | 0xC0
        _, first = self._options.echo(skb, saddr)
        daddr = first or source
        try:
            dst = af.route(Flow(daddr, saddr, IPPROTO_ICMP, 0, tos))
        except OSError:
            return
        if dst.broadcast or dst.multicast:
            # RFC 1122 section 3.2.2: the source must be a single host. (Linux relies on rp_filter for this.)
            return
        if limited and not self._host_allow(dst, daddr):
            return
        saddr = dst.saddr if dst.saddr != af.any else INADDR_DUMMY
        options, _ = self._options.echo(skb, saddr)
        room = min(dst.mtu(), ICMP_QUOTE_MAX) - ipv4.IP_HLEN - len(options) - icmp.ICMP_HLEN
        if room <= ipv4.IP_HLEN:
            return
        start = header - skb.data
        quoted = b"".join([bytes(part) for part in skb.slice(start, min(start + room, skb.len))])
        self._push(SKBuff(icmp.build(kind, code, info, quoted)), dst, saddr, daddr, tos, options, kind)


def _came_in(skb: SKBuff) -> bool:
    """Whether a packet that isn't for this host was received, not sent, by it (Linux: rt_is_input_route)."""
    dst: Rtable | None = skb.dst
    return dst is None or dst.forward or dst.error != 0
