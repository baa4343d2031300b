"""Ping sockets: ICMP echo without privilege (Linux: net/ipv4/ping.c; icmp(7)).

A datagram is an ICMP message, header first. What is sent must be an echo request; the socket's local port becomes its
identifier, the checksum is filled in. What is received are the replies with that identifier, and errors about the
requests. Who may have one is said by net.ipv4.ping_group_range; here that is everyone, group 0 being the stack's user.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.wait import Blocking
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.icmp_output import IcmpOutput
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import AddressFamily
from usernet.sock.datagram import icmp_error, receive, receive_error
from usernet.sock.inet import IP_PMTUDISC_DONT
from usernet.sock.inet_datagram import TCP_ESTABLISHED, DatagramSock
from usernet.sock.msg import (
    MSG_CONFIRM,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PROBE,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.ports import PortTable, inet_bind
from usernet.sock.sock import SOCK_DGRAM
from usernet.wire import icmp

IPPROTO_ICMP: Final = 1
GID_MAX: Final = 2**31 - 1

_ECHO: Final = Struct("!HH")


def ping_conflict(sk: PingSock, other: PingSock, chosen: bool) -> bool:
    """Who may not share an identifier (Linux: ping_get_port): those who don't both say SO_REUSEADDR."""
    return chosen or not (sk.reuse and other.reuse)


@final
class Ping:
    """The ping sockets of one namespace, by identifier; `net.get(Ping)` makes ICMP give them their replies."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.ping_group_range: tuple[int, ...] = (0, GID_MAX)
        net.sysctl.register("net.ipv4.ping_group_range", self, high=GID_MAX)
        self.ports = PortTable(net, ping_conflict)
        layer = net.get(Icmp)
        layer.ping_receive = self.receive
        layer.ping_error = self.error

    def lookup(self, af: AddressFamily, ident: int, addr: bytes, index: int) -> PingSock | None:
        """The socket of an identifier, for what comes to `addr` by device `index`; of several the one bound last
        (Linux: ping_lookup)."""
        last: PingSock | None = None
        for found in self.ports.owners(ident):
            sk: PingSock = found
            if sk.af is not af or (sk.rcv_saddr != af.any and sk.rcv_saddr != addr):
                continue
            if sk.bound_dev_if and sk.bound_dev_if != index:
                continue
            last = sk
        return last

    def receive(self, skb: SKBuff) -> bool:
        """An echo reply, `data` at or just behind the ICMP header (Linux: ping_rcv). True where a socket wanted it."""
        start = skb.transport_header
        if skb.tail - start < icmp.ICMP_HLEN:
            return False
        ident = _ECHO.unpack_from(skb.head, start + 4)[0]
        dev = skb.dev
        sk = self.lookup(skb.af, ident, skb.daddr, dev.index if dev is not None else 0)
        if sk is None:
            return False
        copy = skb.clone()
        copy.af = skb.af
        copy.saddr = skb.saddr
        copy.daddr = skb.daddr
        copy.push(copy.data - start)
        sk.filter_and_queue(copy)
        return True

    def error(self, report: ErrorReport) -> bool:
        """An error about an ICMP message (Linux: ping_err). True where it was an echo request of a socket here."""
        skb = report.skb
        start = skb.data
        if skb.tail - start < icmp.ICMP_HLEN:
            return False
        kind, _, _, rest = icmp.parse(skb.head, start)
        if kind != icmp.ICMP_ECHO:
            return False
        dev = skb.dev
        sk = self.lookup(report.af, rest >> 16, report.saddr, dev.index if dev is not None else 0)
        if sk is None:
            return False
        sk.told(report)
        return True


@final
class PingSock(DatagramSock):
    """A ping socket. Its local port is the identifier of its requests."""

    def __init__(self, net: Net, af: AddressFamily) -> None:
        """Raises OSError EACCES where net.ipv4.ping_group_range leaves out group 0."""
        table = net.get(Ping)
        low, high = table.ping_group_range
        if not low <= 0 <= high:
            raise error(errno.EACCES, "net.ipv4.ping_group_range allows no ping sockets")
        super().__init__(net, af, SOCK_DGRAM, IPPROTO_ICMP)
        self.table = table
        # Linux has it so for ping and raw sockets (INET_PROTOSW_REUSE).
        self.reuse = True

    # -- addresses

    def bind(self, name: Name) -> None:
        """Raises OSError: EAFNOSUPPORT, EINVAL (bound already), EADDRNOTAVAIL, EADDRINUSE."""
        inet_bind(self, self.table.ports, name)

    def autobind(self) -> None:
        if not self.num:
            # An identifier is any 16 bits: the ephemeral range is for ports, but serves here as well.
            try:
                self.table.ports.bind(self, self.rcv_saddr, 0)
            except OSError:
                raise error(errno.EAGAIN, "no free identifier") from None
            self.sport = self.num

    def release_port(self) -> None:
        self.table.ports.release(self)
        self.sport = 0

    # -- receiving

    def told(self, report: ErrorReport) -> None:
        """Linux: ping_err, behind the lookup."""
        if report.redirect or report.quench:
            return
        fatal = report.fatal
        if report.mtu:
            self.update_pmtu(report.daddr, report.mtu)
            if self.pmtudisc == IP_PMTUDISC_DONT:
                return
            fatal = True
        if self.recverr:
            icmp_error(self, report, 0, 0)
        elif not fatal or self.state != TCP_ESTABLISHED:
            return
        self.err = report.errno
        self.error_report()

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Receive one reply, its ICMP header first. Raises OSError: EOPNOTSUPP (MSG_OOB), the pending error, EAGAIN."""
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        if flags & MSG_ERRQUEUE:
            return receive_error(self, msg)
        return receive(self, msg, flags, deadline, self.copy_packet)

    # -- sending

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send one echo request.

        Raises OSError: EMSGSIZE, EINVAL (no whole echo request), EDESTADDRREQ, EAFNOSUPPORT, EACCES (broadcast),
        EPIPE, EAGAIN, EOPNOTSUPP (MSG_OOB), the pending error, and what routing raises.
        """
        size = msg.iter.length
        if size > 0xFFFF:
            raise error(errno.EMSGSIZE)
        if size < icmp.ICMP_HLEN:
            raise error(errno.EINVAL, f"echo request: expected {icmp.ICMP_HLEN} bytes at least, not {size}")
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        self.autobind()
        name = msg.name
        if name is not None:
            if not isinstance(name, SockAddr) or name.family != self.family:
                raise error(errno.EAFNOSUPPORT)
            daddr = name.addr
        elif self.state != TCP_ESTABLISHED:
            raise error(errno.EDESTADDRREQ)
        else:
            daddr = self.daddr
        flow = self.send_flow(daddr, 0, flags)
        ttl, tsflags = self.send_control(msg, flow)
        self.choose_device(flow)
        dst = self.send_route(flow)
        if flags & MSG_CONFIRM:
            dst.confirm()
        if flags & MSG_PROBE and not size:
            return 0
        if not self.check_send(flags, deadline):
            return self.send_blocked(msg, flags, deadline)
        request = bytes(msg.iter.read(size))
        kind, code, _, rest = icmp.parse(request, 0)
        if kind != icmp.ICMP_ECHO or code:
            raise error(errno.EINVAL, f"a ping socket sends echo requests only, not type {kind} code {code}")
        rest = self.num << 16 | rest & 0xFFFF
        skb = SKBuff(icmp.build(kind, code, rest, request[icmp.ICMP_HLEN :]))
        skb.transport_header = 0
        skb.mark = flow.mark
        skb.priority = flow.priority
        self.charge_send(skb)
        saddr = flow.saddr if flow.saddr != self.af.any else dst.saddr
        self.net.get(IcmpOutput).out_count(kind)
        self.transmit(skb, dst, saddr, flow.daddr, 0, flow.tos, ttl, tsflags, flow.options)
        return size
