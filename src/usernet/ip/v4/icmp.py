"""ICMP for IPv4: what is received, and what becomes of it (RFC 792, RFC 1122 section 3.2.2; Linux: net/ipv4/icmp.c).

Protocol number 1 of the network layer. Echo and timestamp requests are answered (icmp_output.py); echo replies go to
ping sockets; an error goes, as an `ErrorReport`, to the raw sockets and the transport of the packet that it quotes.

    type                                     goes to
    echo reply, extended echo reply          `ping_receive`
    unreachable, quench, exceeded, problem   raw_error, then protocols[number].error
    redirect                                 the same, then the routes, where it was about a packet of ours
    echo, extended echo, timestamp           an answer
    all others                               nobody; above 18 they are errors of the sender
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from usernet.ip.v4.icmp_output import IPPROTO_ICMP, IcmpOutput
from usernet.ip.v4.options import current_timestamp
from usernet.ip.v4.route import Ipv4Routes
from usernet.net.protocols import ErrorReport, NetProtocol, Protocols
from usernet.netdevice.device import NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_MULTICAST, AddressFamily, Flow
from usernet.sock.errqueue import SO_EE_ORIGIN_ICMP
from usernet.wire import checksum, icmp, ipv4

if TYPE_CHECKING:
    from usernet.net.pernet import Net

IPPROTO_TCP: Final = 6
IPPROTO_DCCP: Final = 33
IPPROTO_SCTP: Final = 132
IPPROTO_RAW: Final = 255

IPV4_MIN_MTU: Final = 68

SMALL_ECHO: Final = 512
"""Bytes of an echo request up to which copying its payload costs less than a fragment does in every layer below."""

ICMP_ERR_CONVERT: Final[tuple[tuple[int, bool], ...]] = (
    (errno.ENETUNREACH, False),  # network unreachable
    (errno.EHOSTUNREACH, False),  # host unreachable
    (errno.ENOPROTOOPT, True),  # protocol unreachable
    (errno.ECONNREFUSED, True),  # port unreachable
    (errno.EMSGSIZE, False),  # fragmentation needed
    (errno.EOPNOTSUPP, False),  # source route failed
    (errno.ENETUNREACH, True),  # network unknown
    (errno.EHOSTDOWN, True),  # host unknown
    (errno.ENONET, True),  # host isolated
    (errno.ENETUNREACH, True),  # network prohibited
    (errno.EHOSTUNREACH, True),  # host prohibited
    (errno.ENETUNREACH, False),  # network unreachable for this service
    (errno.EHOSTUNREACH, False),  # host unreachable for this service
    (errno.EHOSTUNREACH, True),  # filtered
    (errno.EHOSTUNREACH, True),  # host precedence violation
    (errno.EHOSTUNREACH, True),  # precedence cut-off
)
"""Of "destination unreachable", by code: the error that a socket reports, and whether it ends a connection (Linux:
icmp_err_convert; RFC 1122 section 3.2.2.1 says which are but hints)."""

PLATEAUS: Final = (32000, 17914, 8166, 4352, 2002, 1492, 576, 296, 216, 128, 68)
"""MTUs of common links, to guess by where a router tells none (RFC 1191 section 7)."""

_IN_COUNTERS: Final = {
    icmp.ICMP_ECHOREPLY: "InEchoReps",
    icmp.ICMP_DEST_UNREACH: "InDestUnreachs",
    icmp.ICMP_SOURCE_QUENCH: "InSrcQuenchs",
    icmp.ICMP_REDIRECT: "InRedirects",
    icmp.ICMP_ECHO: "InEchos",
    icmp.ICMP_TIME_EXCEEDED: "InTimeExcds",
    icmp.ICMP_PARAMETERPROB: "InParmProbs",
    icmp.ICMP_TIMESTAMP: "InTimestamps",
    icmp.ICMP_TIMESTAMPREPLY: "InTimestampReps",
    icmp.ICMP_ADDRESS: "InAddrMasks",
    icmp.ICMP_ADDRESSREPLY: "InAddrMaskReps",
}

_TO_MANY: Final = (icmp.ICMP_ECHO, icmp.ICMP_TIMESTAMP, icmp.ICMP_ADDRESS, icmp.ICMP_ADDRESSREPLY)
"""Types taken where they were sent to a group's or broadcast address."""


def plateau_below(length: int) -> int:
    """The greatest usual MTU (bytes) that a packet of `length` bytes is too long for (RFC 1191 section 7.1)."""
    for plateau in PLATEAUS:
        if plateau < length:
            return plateau
    return IPV4_MIN_MTU


def sum_of(skb: SKBuff) -> int:
    """The folded checksum over all of a packet: 0 where it is right (Linux: skb_checksum_simple_validate)."""
    if skb.ip_summed == CHECKSUM_COMPLETE:
        return checksum.csum_fold(skb.csum)
    if skb.ip_summed != CHECKSUM_NONE:
        return 0
    total = checksum.csum(skb.head, skb.data, skb.tail)
    offset = skb.tail - skb.data
    for frag in skb.frags or ():
        total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), offset)
        offset += len(frag)
    return checksum.csum_fold(total)


_SYSCTLS: Final = (
    ("icmp_echo_ignore_all", 0, 1), ("icmp_echo_ignore_broadcasts", 0, 1), ("icmp_echo_enable_probe", 0, 1),
    ("icmp_ignore_bogus_error_responses", 0, 1), ("ip_no_pmtu_disc", 0, 3),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class Icmp(NetProtocol):
    """ICMP in one namespace.

    ping_receive(skb): takes a clone of an echo reply, `data` at the ICMP header, and says whether a ping socket wanted
    it. ping_error(report): the same for errors about a ping socket's requests.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._mib = net.mib.icmp
        self._protocols = net.get(Protocols)
        self._routes = net.get(Ipv4Routes)
        self.output = net.get(IcmpOutput)
        self.ping_receive: Callable[[SKBuff], bool] | None = None
        self.ping_error: Callable[[ErrorReport], bool] | None = None
        self.icmp_echo_ignore_all: int = 0
        self.icmp_echo_ignore_broadcasts: int = 1
        self.icmp_echo_enable_probe: int = 0
        self.icmp_ignore_bogus_error_responses: int = 1
        self.ip_no_pmtu_disc: int = 0
        net.sysctl.register_rows("net.ipv4", self, _SYSCTLS)
        self._protocols.register(IPPROTO_ICMP, self)

    @property
    def af(self) -> AddressFamily:
        """IPv4's operations. To be set before the first packet."""
        return self.output.af

    @af.setter
    def af(self, af: AddressFamily) -> None:
        self.output.af = af

    def send(self, skb: SKBuff, kind: int, code: int, info: int = 0) -> None:
        """Answer `skb` with an error, where the rules and limits let it be: see `IcmpOutput.send`."""
        self.output.send(skb, kind, code, info)

    def out_count(self, kind: int) -> None:
        """Count a message that a raw or ping socket sends (Linux: icmp_out_count)."""
        self.output.out_count(kind)

    # -- receive

    def receive(self, skb: SKBuff) -> None:
        """Linux: icmp_rcv."""
        mib = self._mib
        mib.InMsgs += 1
        if sum_of(skb):
            mib.InCsumErrors += 1
            mib.InErrors += 1
            skb.drop(DropReason.ICMP_CSUM, self._net.drops)
            return
        if not skb.may_pull(icmp.ICMP_HLEN):
            mib.InErrors += 1
            skb.drop(DropReason.PKT_TOO_SMALL, self._net.drops)
            return
        kind, code, check, rest = icmp.parse(skb.head, skb.data)
        self._net.mib.icmp_msg.increment(f"InType{kind}")
        name = _IN_COUNTERS.get(kind)
        if name is not None:
            mib.increment(name)
        reason = self._dispatch(skb, kind, code, check, rest)
        if reason == DropReason.CONSUMED:
            skb.consume()
        else:
            skb.drop(reason, self._net.drops)

    def _dispatch(self, skb: SKBuff, kind: int, code: int, check: int, rest: int) -> DropReason:
        """Hand a message to who handles its type. Returns why it was dropped, CONSUMED where it was not."""
        mib = self._mib
        if kind == icmp.ICMP_EXT_ECHO:
            return self._ext_echo(skb, code, rest)
        if kind == icmp.ICMP_EXT_ECHOREPLY:
            return self._echo_reply(skb)
        if kind > icmp.NR_ICMP_TYPES:
            mib.InErrors += 1
            return DropReason.UNHANDLED_PROTO
        if self._to_many(skb) and (
            kind not in _TO_MANY or (kind in (icmp.ICMP_ECHO, icmp.ICMP_TIMESTAMP) and self.icmp_echo_ignore_broadcasts)
        ):
            mib.InErrors += 1
            return DropReason.INVALID_PROTO
        if kind == icmp.ICMP_ECHO:
            return self._echo(skb, code, check, rest)
        if kind == icmp.ICMP_ECHOREPLY:
            return self._echo_reply(skb)
        if kind in (
            icmp.ICMP_DEST_UNREACH, icmp.ICMP_TIME_EXCEEDED, icmp.ICMP_PARAMETERPROB, icmp.ICMP_SOURCE_QUENCH,
            icmp.ICMP_REDIRECT,
        ):  # fmt: skip
            return self._error(skb, kind, code, rest)
        if kind == icmp.ICMP_TIMESTAMP:
            return self._timestamp(skb, rest)
        return DropReason.CONSUMED

    def _to_many(self, skb: SKBuff) -> bool:
        dst = skb.dst
        if dst is not None:
            return bool(dst.broadcast or dst.multicast)
        return self.af.addr_type(skb.daddr, skb.dev) in (RTN_BROADCAST, RTN_MULTICAST)

    def _echo(self, skb: SKBuff, code: int, check: int, rest: int) -> DropReason:
        """Answer with the same payload: a small one is copied behind the header, a large one is a reference."""
        if self.icmp_echo_ignore_all:
            return DropReason.CONSUMED
        # Only the type changes, from 8 to 0.
        check = checksum.csum_replace2(check, icmp.ICMP_ECHO << 8 | code, code)
        header = bytes((icmp.ICMP_ECHOREPLY, code)) + check.to_bytes(2, "big") + rest.to_bytes(4, "big")
        if skb.data_len or skb.len > SMALL_ECHO:
            answer = SKBuff(header)
            for part in skb.slice(icmp.ICMP_HLEN, skb.len):
                answer.add_frag(part)
        else:
            payload = skb.data + icmp.ICMP_HLEN
            answer = SKBuff(header + skb.head[payload : skb.tail])
        if not check and sum_of(answer):
            # All zeros but for the type: the complement of 0 is 0xFFFF.
            answer.store(2, b"\xff\xff")
        self.output.reply(answer, icmp.ICMP_ECHOREPLY, code, skb)
        return DropReason.CONSUMED

    def _ext_echo(self, skb: SKBuff, code: int, rest: int) -> DropReason:
        if self.icmp_echo_ignore_all or not self.icmp_echo_enable_probe or not rest & 1:
            return DropReason.CONSUMED
        payload = skb.tobytes(icmp.ICMP_HLEN)
        from usernet.ip.v4.icmp_probe import answer_probe

        code, status = answer_probe(self._net, payload)
        rest = rest & 0xFFFFFF00 | status
        answer = SKBuff(icmp.build(icmp.ICMP_EXT_ECHOREPLY, code, rest, payload))
        self.output.reply(answer, icmp.ICMP_EXT_ECHOREPLY, code, skb)
        return DropReason.CONSUMED

    def _timestamp(self, skb: SKBuff, rest: int) -> DropReason:
        if not skb.may_pull(icmp.ICMP_HLEN + 4):
            self._mib.InErrors += 1
            return DropReason.PKT_TOO_SMALL
        at = skb.data + icmp.ICMP_HLEN
        now = current_timestamp(self._net).to_bytes(4, "big")
        answer = SKBuff(icmp.build(icmp.ICMP_TIMESTAMPREPLY, 0, rest, skb.head[at : at + 4] + now + now))
        self.output.reply(answer, icmp.ICMP_TIMESTAMPREPLY, 0, skb)
        return DropReason.CONSUMED

    def _echo_reply(self, skb: SKBuff) -> DropReason:
        ping = self.ping_receive
        if ping is not None and ping(skb):
            return DropReason.CONSUMED
        return DropReason.NO_SOCKET

    # -- errors

    def _error(self, skb: SKBuff, kind: int, code: int, rest: int) -> DropReason:
        """Linux: icmp_unreach, icmp_redirect, icmp_socket_deliver."""
        mib = self._mib
        offender = skb.saddr
        skb.pull(icmp.ICMP_HLEN)
        if not skb.may_pull(ipv4.IP_HLEN):
            mib.InErrors += 1
            return DropReason.PKT_TOO_SMALL
        head = skb.head
        quoted = skb.data
        ver_ihl, _, tot_len, _, _, _, protocol, _, saddr, daddr = ipv4.parse(head, quoted)
        hlen = (ver_ihl & 15) << 2
        if hlen < ipv4.IP_HLEN and kind != icmp.ICMP_REDIRECT:
            mib.InErrors += 1
            return DropReason.IP_INHDR
        info = 0
        mtu = 0
        if kind == icmp.ICMP_DEST_UNREACH:
            if code > icmp.NR_ICMP_UNREACH:
                return DropReason.CONSUMED
            if code == icmp.ICMP_FRAG_NEEDED:
                policy = self.ip_no_pmtu_disc
                if policy == 2 or (policy == 3 and protocol not in (IPPROTO_TCP, IPPROTO_DCCP, IPPROTO_SCTP)):
                    return DropReason.CONSUMED
                info = 0 if policy == 1 else rest & 0xFFFF
                mtu = info if info or policy == 1 else plateau_below(tot_len)
                # Whoever believes it keeps to a floor of their own, `net.ipv4.route.min_pmtu`.
                mtu = max(mtu, IPV4_MIN_MTU)
        elif kind == icmp.ICMP_PARAMETERPROB:
            info = rest >> 24
        elif kind == icmp.ICMP_REDIRECT:
            info = rest
        elif kind == icmp.ICMP_TIME_EXCEEDED and code == icmp.ICMP_EXC_FRAGTIME:
            return DropReason.CONSUMED
        af: AddressFamily = self.af
        if (
            kind != icmp.ICMP_REDIRECT
            and not self.icmp_ignore_bogus_error_responses
            and af.addr_type(daddr, skb.dev) == RTN_BROADCAST
        ):
            return DropReason.ICMP_INVALID
        if hlen < ipv4.IP_HLEN or not skb.may_pull(hlen + 8) or protocol == IPPROTO_RAW:
            mib.InErrors += 1
            return DropReason.PKT_TOO_SMALL
        skb.network_header = skb.data
        skb.pull(hlen)
        skb.transport_header = skb.data
        number, fatal = _convert(kind, code)
        report = ErrorReport(
            af, number, fatal, SO_EE_ORIGIN_ICMP, kind, code, info, mtu, offender, saddr, daddr, skb
        )  # fmt: skip
        if kind in (icmp.ICMP_DEST_UNREACH, icmp.ICMP_TIME_EXCEEDED, icmp.ICMP_PARAMETERPROB):
            report.quoted = (rest >> 16 & 0xFF) * 4
        report.redirect = kind == icmp.ICMP_REDIRECT
        report.quench = kind == icmp.ICMP_SOURCE_QUENCH
        self._deliver(report, protocol)
        return DropReason.CONSUMED

    def _deliver(self, report: ErrorReport, protocol: int) -> None:
        protocols = self._protocols
        dev: NetDevice = report.skb.dev
        if protocols.raw_error is not None:
            protocols.raw_error(report, protocol)
        transport = protocols.table.get(protocol)
        if transport is None or not transport.error(report) or not report.redirect:
            return
        # Only a redirect about a packet that this host did send is believed.
        if report.icmp_code <= icmp.ICMP_REDIR_HOSTTOS:
            gateway = report.info.to_bytes(4, "big")
            self._routes.redirect(dev, report.offender, report.daddr, report.saddr, gateway)

    def error(self, report: ErrorReport) -> bool:
        """An error about an ICMP message of ours (Linux: icmp_err)."""
        quoted = report.skb
        if quoted.head[quoted.transport_header] != icmp.ICMP_ECHOREPLY:
            ping = self.ping_error
            return ping is not None and ping(report)
        if report.mtu:
            try:
                dst = report.af.route(Flow(report.daddr, report.saddr, IPPROTO_ICMP))
            except OSError:
                return True
            dst.update_pmtu(report.mtu)
        return True


def _convert(kind: int, code: int) -> tuple[int, bool]:
    """What a socket reports of an error, and whether it ends a connection (Linux: tcp_v4_err, __udp4_lib_err)."""
    if kind == icmp.ICMP_DEST_UNREACH:
        return ICMP_ERR_CONVERT[code]
    if kind == icmp.ICMP_PARAMETERPROB:
        return errno.EPROTO, True
    if kind == icmp.ICMP_TIME_EXCEEDED:
        return errno.EHOSTUNREACH, False
    return 0, False
