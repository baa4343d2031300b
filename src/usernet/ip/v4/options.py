"""IPv4 header options of received packets, and of the answers to them (Linux: net/ipv4/ip_options.c).

`ip_rcv_finish` comes here, after routing, with a packet whose header is longer than 20 bytes; then `ip_forward`, where
such a packet is passed on, and ICMP, whose answers repeat what they answer to. RFC 791 section 3.1, RFC 1122 section
3.2.1.8, RFC 1812 section 5.2.4, RFC 2113 (router alert).

    receive    checks every option, answering a bad one with Parameter Problem at its byte; record route and timestamp
               get this host's address and time; a source route that has come to this host names where to go next
    forward    the address just recorded becomes that of the device the packet leaves by; the source route moves on
    echo       record route and timestamp as they came, with one more entry for the way back; a source route reversed

Source routing is refused, without an answer, unless `accept_source_route` is on for both `all` and the device. Options
of unknown kinds, security labels (CIPSO) among them, are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_MSEC
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_HOST, SKBuff
from usernet.sock.af_ops import RTN_UNICAST, AddressFamily, Flow
from usernet.wire import ipv4
from usernet.wire.errors import WireError
from usernet.wire.icmp import ICMP_PARAMETERPROB

if TYPE_CHECKING:
    from usernet.net.pernet import Net

_DAY: Final = 86_400_000

Reroute = Callable[[SKBuff, bytes], bool]
"""`reroute(skb, daddr)`: route a received packet as if it had been sent to `daddr` (Linux: ip_route_input), setting
`skb.dst`. False, with `skb.dst` as it was, where there is no route, or one to a group or broadcast address."""


def current_timestamp(net: Net) -> int:
    """Milliseconds since midnight UT (Linux: inet_current_timestamp)."""
    loop = net.loop
    return (loop.now + loop.clock.realtime_offset) // NSEC_PER_MSEC % _DAY


def compute_spec_dst(af: AddressFamily, skb: SKBuff) -> bytes:
    """The address of ours that a received packet was meant for: where it was sent to, or, where that is a group's or
    broadcast address or not ours, the one an answer would come from (Linux: fib_compute_spec_dst)."""
    header = skb.network_header
    dst = skb.dst
    if dst is not None and dst.local and not (dst.broadcast or dst.multicast):
        return skb.head[header + 16 : header + 20]
    try:
        return af.route(Flow(skb.head[header + 12 : header + 16], af.any)).saddr
    except OSError:
        return af.any


@final
class IpOptions:
    """What is known of a received packet's options (Linux: `struct ip_options` in IPCB): its `skb.cb`, on the way from
    `receive` to `forward`. Offsets count from the first option; -1 for one that is not there.

    recorded, stamped: an address of ours was put in the record route, or timestamp. nexthop: where the source route
    goes from here, b"" if nowhere.
    """

    __slots__ = ("is_strictroute", "nexthop", "recorded", "router_alert", "rr", "srr", "stamped", "ts")

    def __init__(self) -> None:
        self.rr: int = -1
        self.ts: int = -1
        self.srr: int = -1
        self.recorded: bool = False
        self.stamped: bool = False
        self.router_alert: bool = False
        self.is_strictroute: bool = False
        self.nexthop: bytes = b""


@final
class OptionsInput:
    """The handling of received options in one namespace."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def receive(self, skb: SKBuff, accept_source_route: bool, reroute: Reroute) -> bool:
        """Check and act on the options of a packet just routed (Linux: ip_rcv_options).

        skb: `af`, `network_header` and `dst` set. accept_source_route: the device's setting. reroute: see `Reroute`.
        Returns False where it was dropped. Else `skb.cb` is its IpOptions, and its header is changed as it must be.
        """
        net = self._net
        af: AddressFamily = skb.af
        header = skb.network_header
        hlen = (skb.head[header] & 15) << 2
        options = original = skb.head[header + ipv4.IP_HLEN : header + hlen]
        try:
            found = ipv4.parse_options(options)
        except WireError as bad:
            net.mib.ip.InHdrErrors += 1
            af.send_error(skb, ICMP_PARAMETERPROB, 0, ipv4.IP_HLEN + bad.offset << 24)
            skb.drop(DropReason.IP_OPTIONS, net.drops)
            return False
        state = IpOptions()
        for kind, at, data in found:
            if kind == ipv4.IPOPT_RR:
                state.rr = at
                if options[at + 2] <= options[at + 1]:
                    options = ipv4.record_route(options, at, compute_spec_dst(af, skb))
                    state.recorded = True
            elif kind == ipv4.IPOPT_TIMESTAMP:
                state.ts = at
                options = self._stamp(skb, options, at, state)
            elif kind == ipv4.IPOPT_RA:
                state.router_alert = data[:2] == b"\0\0"
            elif kind in (ipv4.IPOPT_LSRR, ipv4.IPOPT_SSRR):
                state.srr = at
                state.is_strictroute = kind == ipv4.IPOPT_SSRR
        options = _clear_after_end(options)
        skb.cb = state
        if options != original:
            _rewrite(skb, options)
        if state.srr >= 0 and not (accept_source_route and self._source_route(skb, options, state, reroute)):
            skb.drop(DropReason.IP_OPTIONS, net.drops)
            return False
        return True

    def _stamp(self, skb: SKBuff, options: bytes, at: int, state: IpOptions) -> bytes:
        """Fill in a timestamp, or count that there was no room for one."""
        flag = options[at + 3] & 15
        now = current_timestamp(self._net)
        af: AddressFamily = skb.af
        if options[at + 2] > options[at + 1]:
            return ipv4.record_timestamp(options, at, af.any, now)
        if flag == ipv4.IPOPT_TS_TSONLY:
            return ipv4.record_timestamp(options, at, af.any, now)
        if flag == ipv4.IPOPT_TS_TSANDADDR:
            state.stamped = True
            return ipv4.record_timestamp(options, at, compute_spec_dst(af, skb), now)
        if flag == ipv4.IPOPT_TS_PRESPEC:
            named = ipv4.timestamp_addr(options, at)
            if named is not None and af.addr_type(named) != RTN_UNICAST:
                return ipv4.record_timestamp(options, at, named, now)
        return options

    def _source_route(self, skb: SKBuff, options: bytes, state: IpOptions, reroute: Reroute) -> bool:
        """Find where a source-routed packet goes from here (Linux: ip_options_rcv_srr). False where it may not."""
        if skb.pkt_type != PACKET_HOST:
            return False
        dst = skb.dst
        if dst.broadcast or dst.multicast:
            return False
        af: AddressFamily = skb.af
        if not dst.local:
            if state.is_strictroute:
                # Pointing at the destination: a strict route leads only to the very hosts that it names.
                af.send_error(skb, ICMP_PARAMETERPROB, 0, 16 << 24)
                return False
            return True
        at = state.srr
        pointer = options[at + 2]
        length = options[at + 1]
        while pointer <= length:
            if pointer + 3 > length:
                af.send_error(skb, ICMP_PARAMETERPROB, 0, ipv4.IP_HLEN + at + 2 << 24)
                return False
            nexthop = options[at + pointer - 1 : at + pointer + 3]
            if not reroute(skb, nexthop):
                return False
            if not skb.dst.local:
                state.nexthop = nexthop
                return True
            # The next hop is an address of ours too.
            _rewrite(skb, options, nexthop)
            skb.daddr = nexthop
            pointer += 4
        return True

    def forward(self, skb: SKBuff, saddr: bytes) -> None:
        """Make the options of a packet that is passed on right for its way out (Linux: ip_forward_options).

        saddr: the address of the device it leaves by (Linux: ip_rt_get_source).
        """
        state: IpOptions = skb.cb
        header = skb.network_header
        hlen = (skb.head[header] & 15) << 2
        options = original = skb.head[header + ipv4.IP_HLEN : header + hlen]
        if state.recorded:
            options = _put(options, state.rr + options[state.rr + 2] - 5, saddr)
        daddr = b""
        if state.nexthop:
            at = state.srr
            pointer = options[at + 2]
            while ipv4.source_route_next(options, at) not in (state.nexthop, None):
                # Hops that were addresses of ours were passed in `receive`; the pointer follows here.
                pointer += 4
                options = _put(options, at + 2, bytes((pointer,)))
            options = ipv4.source_route_advance(options, at, saddr)
            daddr = state.nexthop
            # RFC 791 has a timestamp registered under any address of ours; Linux makes it the way out's here alone.
            if state.stamped:
                options = _put(options, state.ts + options[state.ts + 2] - 9, saddr)
        if daddr or options != original:
            _rewrite(skb, options, daddr)
        if daddr:
            skb.daddr = daddr

    def echo(self, skb: SKBuff, saddr: bytes) -> tuple[bytes, bytes | None]:
        """The options of an answer to a received packet (Linux: ip_options_echo, ip_options_build).

        saddr: the answer's source. Returns the options, padded, and where the answer's header is to be sent to if
        they have a source route, else None; b"" and None where the packet's own can't be read.
        """
        header = skb.network_header
        head = skb.head
        hlen = (head[header] & 15) << 2
        received = head[header + ipv4.IP_HLEN : header + hlen]
        if not received:
            return b"", None
        try:
            options, first = ipv4.echo_options(received, head[header + 12 : header + 16])
            found = ipv4.parse_options(options)
        except WireError:
            return b"", None
        for kind, at, _ in found:
            if options[at + 1] < options[at + 2]:
                continue
            if kind == ipv4.IPOPT_RR:
                options = ipv4.record_route(options, at, saddr)
            elif kind == ipv4.IPOPT_TIMESTAMP:
                options = ipv4.record_timestamp(options, at, saddr, current_timestamp(self._net))
        return options, first

    def save(self, skb: SKBuff) -> bytes:
        """The options for all that is sent on a connection which a received packet opens, as IP_OPTIONS takes them:
        a source route reversed, record route and timestamp empty again (Linux: tcp_v4_save_options)."""
        head = skb.head
        header = skb.network_header
        hlen = (head[header] & 15) << 2
        received = head[header + ipv4.IP_HLEN : header + hlen]
        try:
            options, first = ipv4.echo_options(received, head[header + 12 : header + 16])
            if first is None:
                return options
            for kind, at, _ in ipv4.parse_options(options):
                if kind in (ipv4.IPOPT_LSRR, ipv4.IPOPT_SSRR):
                    return ipv4.source_route_given(options, at, first)
        except WireError:
            pass
        return b""


def _put(options: bytes, at: int, value: bytes) -> bytes:
    return options[:at] + value + options[at + len(value) :]


def _clear_after_end(options: bytes) -> bytes:
    """What follows the end of the list is made all ends (Linux: __ip_options_compile)."""
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == ipv4.IPOPT_END:
            return options[:at] + bytes(len(options) - at)
        at += 1 if kind == ipv4.IPOPT_NOOP else options[at + 1]
    return options


def _rewrite(skb: SKBuff, options: bytes, daddr: bytes = b"") -> None:
    """Replace a packet's options, and destination, in its header, with a new checksum."""
    header = skb.network_header
    _, tos, tot_len, ident, frag_off, ttl, protocol, _, saddr, old_daddr = ipv4.parse(skb.head, header)
    skb.store(
        header,
        ipv4.build(tos, tot_len, ident, frag_off, ttl, protocol, saddr, daddr or old_daddr, options),
    )
