"""Raw sockets: packets of one protocol with their network header, past the transports (Linux: net/ipv4/raw.c; raw(7)).

Receive: the network layer shows each packet for this host, before its transport gets it, to `Raw.deliver`; every socket
of its protocol number that matches gets a copy, from the network header on. Send: the socket's data is the packet
behind the network header; with IP_HDRINCL (and for IPPROTO_RAW always) the data starts with that header, in which only
checksum, length, and what is 0 of source address and identification are filled in.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.iov import Payload
from usernet.core.wait import Blocking
from usernet.ip.v4.icmp_output import IcmpOutput
from usernet.net.dst import Dst
from usernet.net.hooks import Hooks
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport, Protocols
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, AddressFamily
from usernet.sock.datagram import icmp_error, local_error, receive, receive_error
from usernet.sock.inet import IP_PMTUDISC_DONT
from usernet.sock.inet_datagram import TCP_CLOSE, TCP_ESTABLISHED, DatagramSock
from usernet.sock.msg import (
    MSG_CONFIRM,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PROBE,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.sock import SOCK_RAW
from usernet.wire import ipv4

SOL_RAW: Final = 255
ICMP_FILTER: Final = 1
IPPROTO_ICMP: Final = 1
IPPROTO_RAW: Final = 255

_U32: Final = Struct("=I")


@final
class Raw:
    """The raw sockets of one namespace, by protocol number."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._protocols = net.get(Protocols)
        self.sockets: dict[int, list[RawSock]] = {}

    def add(self, sk: RawSock) -> None:
        """From now on `sk` is shown packets. The network layer asks only while there is a raw socket at all."""
        self.sockets.setdefault(sk.num, []).append(sk)
        self._protocols.raw_deliver = self.deliver
        self._protocols.raw_error = self.report

    def remove(self, sk: RawSock) -> None:
        row = self.sockets.get(sk.num)
        if row is None or sk not in row:
            return
        row.remove(sk)
        if not row:
            del self.sockets[sk.num]
            if not self.sockets:
                self._protocols.raw_deliver = None
                self._protocols.raw_error = None

    def deliver(self, skb: SKBuff, protocol: int) -> bool:
        """Give a copy to each socket that matches (Linux: raw_v4_input). True where there was one."""
        row = self.sockets.get(protocol)
        if row is None:
            return False
        dev = skb.dev
        index = dev.index if dev is not None else 0
        dst = skb.dst
        multicast = dst is not None and dst.multicast
        found = False
        for sk in tuple(row):
            if not sk.matches(skb.af, skb.saddr, skb.daddr, index):
                continue
            if multicast and not skb.af.multicast_allowed(sk, skb):
                continue
            found = True
            if protocol == IPPROTO_ICMP and sk.icmp_filter and not sk.filter_takes(skb):
                continue
            copy = skb.clone()
            copy.af = skb.af
            copy.saddr = skb.saddr
            copy.daddr = skb.daddr
            copy.push(copy.data - copy.network_header)
            sk.filter_and_queue(copy)
        return found

    def report(self, report: ErrorReport, protocol: int) -> None:
        """An ICMP error about a packet of `protocol` (Linux: raw_icmp_error)."""
        row = self.sockets.get(protocol)
        if row is None:
            return
        dev = report.skb.dev
        index = dev.index if dev is not None else 0
        for sk in tuple(row):
            # The packet was ours: its destination is who would have answered.
            if sk.matches(report.af, report.daddr, report.saddr, index):
                sk.told(report)


@final
class RawSock(DatagramSock):
    """A raw socket. Its `num`, and the port of its own address, is its protocol number."""

    def __init__(self, net: Net, af: AddressFamily, protocol: int) -> None:
        super().__init__(net, af, SOCK_RAW, protocol)
        self.table = net.get(Raw)
        self.num = self.sport = protocol
        self.hdrincl = protocol == IPPROTO_RAW
        self.reuse = True
        self.icmp_filter: int = 0
        """Bits of the ICMP types that it does not want."""
        self.table.add(self)

    # -- receiving

    def matches(self, af: AddressFamily, saddr: bytes, daddr: bytes, index: int) -> bool:
        """Whether a packet from `saddr` to `daddr`, in by device `index`, is for this socket (Linux: raw_v4_match)."""
        any_addr = af.any
        return (
            af is self.af
            and (self.daddr == any_addr or self.daddr == saddr)
            and (self.rcv_saddr == any_addr or self.rcv_saddr == daddr)
            and (not self.bound_dev_if or self.bound_dev_if == index)
        )

    def filter_takes(self, skb: SKBuff) -> bool:
        """ICMP_FILTER (Linux: icmp_filter): a message too short to have a type is not taken."""
        if skb.tail - skb.data < 8:
            return False
        kind = skb.head[skb.data]
        return kind >= 32 or not self.icmp_filter >> kind & 1

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Receive one packet with its network header. Raises OSError: EOPNOTSUPP (MSG_OOB), a pending error, EAGAIN."""
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        if flags & MSG_ERRQUEUE:
            return receive_error(self, msg)
        return receive(self, msg, flags, deadline, self.copy_packet)

    def told(self, report: ErrorReport) -> None:
        """Linux: raw_err. Without IP_RECVERR only a socket with a peer is told, and only of what is final."""
        if report.redirect or report.quench:
            return
        fatal = report.fatal
        if report.mtu:
            self.update_pmtu(report.daddr, report.mtu)
            fatal = self.pmtudisc != IP_PMTUDISC_DONT
        if self.recverr:
            icmp_error(self, report, 0, 0)
        elif self.state != TCP_ESTABLISHED or not fatal:
            return
        self.err = report.errno
        self.error_report()

    # -- addresses

    def bind(self, name: Name) -> None:
        """Raises OSError: EINVAL (connected), EADDRNOTAVAIL. It may be bound again."""
        af = self.af
        if self.state != TCP_CLOSE or not isinstance(name, SockAddr) or len(name.addr) != af.addr_len:
            raise error(errno.EINVAL)
        addr = name.addr
        kind = RTN_LOCAL
        if addr != af.any:
            kind = af.addr_type(addr)
            if kind not in (RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST) and not (self.freebind or self.transparent):
                raise error(errno.EADDRNOTAVAIL)
        self.rcv_saddr = addr
        self.saddr = af.any if kind in (RTN_MULTICAST, RTN_BROADCAST) else addr
        self.bound_addr = addr != af.any
        self.dst = None

    def unhash(self) -> None:
        if self.dead:
            self.table.remove(self)

    # -- sending

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send one packet.

        Raises OSError: EMSGSIZE, EDESTADDRREQ, EAFNOSUPPORT, EINVAL (an incomplete header), EACCES (broadcast), EPIPE,
        EAGAIN, EOPNOTSUPP (MSG_OOB), the pending error, and what routing raises.
        """
        size = msg.iter.length
        if size > 0xFFFF:
            raise error(errno.EMSGSIZE)
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        name = msg.name
        if name is not None:
            if not isinstance(name, SockAddr) or name.family not in (self.family, 0):
                raise error(errno.EAFNOSUPPORT)
            daddr = name.addr
        elif self.state != TCP_ESTABLISHED:
            raise error(errno.EDESTADDRREQ)
        else:
            daddr = self.daddr
        if self.hdrincl and self.options:
            raise error(errno.EINVAL, "a packet that brings its header can't have the socket's IP options too")
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
        saddr = flow.saddr if flow.saddr != self.af.any else dst.saddr
        if self.hdrincl and self.af.addr_len == 4:
            self._send_hdrincl(msg, size, dst, saddr, flow.daddr, flow.mark)
            return size
        skb = SKBuff()
        payload = msg.iter.read(size) if size else b""
        if size:
            skb.add_frag(payload)
        skb.transport_header = 0
        skb.mark = flow.mark
        skb.priority = flow.priority
        self.charge_send(skb)
        self._count(payload)
        self.transmit(skb, dst, saddr, flow.daddr, 0, flow.tos, ttl, tsflags, flow.options)
        return size

    def _count(self, message: Payload) -> None:
        if self.protocol == IPPROTO_ICMP and len(message):
            self.net.get(IcmpOutput).out_count(message[0])

    def _check_verdict(self, verdict: int) -> None:
        """A full queue is told only to who asked for errors (Linux: raw_sendmsg)."""
        if verdict == 1 and self.recverr:
            raise error(errno.ENOBUFS)

    def _send_hdrincl(self, msg: MsgHdr, size: int, dst: Dst, saddr: bytes, daddr: bytes, mark: int) -> None:
        """Linux: raw_send_hdrinc. The packet is not fragmented; it follows the route to where the call said."""
        if size > dst.dev.mtu:
            local_error(self, errno.EMSGSIZE, daddr, 0, dst.dev.mtu)
            raise error(errno.EMSGSIZE)
        if size < ipv4.IP_HLEN:
            raise error(errno.EINVAL, f"a packet that brings its header: expected 20 bytes at least, not {size}")
        packet = bytes(msg.iter.read(size))
        ver_ihl, tos, _, ident, frag_off, ttl, protocol, _, source, target = ipv4.parse(packet, 0)
        hlen = (ver_ihl & 15) << 2
        if hlen > size:
            raise error(errno.EINVAL, f"a packet that brings its header: {size} bytes can't hold a header of {hlen}")
        if hlen >= ipv4.IP_HLEN:
            if source == self.af.any:
                source = saddr
            if not ident:
                # Linux: ip_select_ident. Only a packet that may be fragmented needs one that is its own.
                ident = self.net.random.getrandbits(16) or 1
            header = ipv4.build(
                tos, size, ident, frag_off, ttl, protocol, source, target, packet[ipv4.IP_HLEN : hlen]
            )
            # The version is the caller's, wrong as it may be.
            packet = packet[:1] + header[1:] + packet[hlen:] if ver_ihl >> 4 != 4 else header + packet[hlen:]
        skb = SKBuff(packet)
        skb.network_header = 0
        skb.transport_header = hlen
        skb.protocol = self.af.ethertype
        skb.mark = mark
        skb.priority = self.priority
        skb.dst = dst
        self.charge_send(skb)
        if protocol == IPPROTO_ICMP and hlen < size:
            self.net.get(IcmpOutput).out_count(packet[hlen])
        hooks = self.net.get(Hooks).local_out
        if hooks.entries and not hooks.run(skb, None, dst.dev):
            return
        self._check_verdict(dst.output(skb))

    # -- options

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """SOL_RAW: ICMP_FILTER, a bit mask of ICMP types not to receive, on ICMP sockets (else EOPNOTSUPP)."""
        if level != SOL_RAW:
            super().setsockopt(level, option, value)
            return
        self._check_icmp_filter(option)
        self.icmp_filter = _U32.unpack(value[:4] + _U32.pack(self.icmp_filter)[len(value[:4]) :])[0]

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if level != SOL_RAW:
            return super().getsockopt(level, option, length)
        self._check_icmp_filter(option)
        if length < 0:
            raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
        return _U32.pack(self.icmp_filter)[:length]

    def _check_icmp_filter(self, option: int) -> None:
        if option != ICMP_FILTER:
            raise error(errno.ENOPROTOOPT)
        if self.protocol != IPPROTO_ICMP:
            raise error(errno.EOPNOTSUPP)
