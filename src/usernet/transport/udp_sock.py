"""UDP sockets: the calls (Linux: net/ipv4/udp.c, udp_sendmsg, udp_recvmsg; udp(7)).

Send: sendmsg → route (remembered for the last destination) → header with the pseudo sum for a checksum → the network
layer. Receive: transport/udp.py queued the datagram, `data` behind the UDP header, and recvmsg copies it out.

Corking (MSG_MORE, UDP_CORK) gathers the parts of one datagram. UDP_SEGMENT sends one super-datagram that stands for
many of a size, and is split by the device or just before it; UDP_GRO receives such.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.iov import IovIter, Payload
from usernet.core.mib import UdpMib
from usernet.core.wait import Blocking
from usernet.net.dst import Dst
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKB_GSO_UDP_L4, SKBuff
from usernet.sock.af_ops import AddressFamily, Flow
from usernet.sock.datagram import (
    copy_out,
    local_error,
    receive,
    receive_error,
    sock_recv_cmsgs,
)
from usernet.sock.inet_datagram import TCP_ESTABLISHED, DatagramSock
from usernet.sock.memory import KEPT
from usernet.sock.msg import (
    MSG_CONFIRM,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_PROBE,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    SEND_SHUTDOWN,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.optval import decode_int, encode_int
from usernet.sock.ports import inet_bind
from usernet.sock.sock import SOCK_DGRAM
from usernet.sock.sockopt import SOCK_RCVMARK
from usernet.sock.zerocopy import UbufInfo, zerocopy_realloc
from usernet.transport.udp_table import UdpTable
from usernet.wire import udp

IPPROTO_UDP: Final = 17
SOL_UDP: Final = 17
UDP_CORK: Final = 1
UDP_NO_CHECK6_TX: Final = 101
UDP_NO_CHECK6_RX: Final = 102
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
UDP_MAX_SEGMENTS: Final = 128

LINEAR_MAX: Final = 512
"""Payload up to this size (bytes) goes into the linear part behind the header: copying it costs less than a fragment
does in every layer below."""

_FAST_FLAGS: Final = MSG_DONTWAIT | MSG_NOSIGNAL
_SURELY_FITS: Final = 65000
_U16: Final = Struct("=H")


@final
class Cork:
    """A datagram being gathered (Linux: `struct inet_cork`)."""

    __slots__ = ("dport", "dst", "flow", "gso_size", "parts", "saddr", "size", "tsflags", "ttl", "uarg")

    def __init__(self, dst: Dst, flow: Flow, dport: int, ttl: int, gso_size: int, tsflags: int) -> None:
        self.dst = dst
        self.flow = flow
        self.saddr: bytes = flow.saddr if any(flow.saddr) else dst.saddr
        self.dport = dport
        self.ttl = ttl
        self.gso_size = gso_size
        self.tsflags = tsflags
        self.uarg: UbufInfo | None = None
        self.parts: list[Payload] = []
        self.size: int = 0


class UdpSock(DatagramSock):
    """A UDP socket; transport/udplite.py makes another protocol's of it."""

    def __init__(
        self, net: Net, af: AddressFamily, protocol: int = IPPROTO_UDP, table: UdpTable | None = None,
        mib: UdpMib | None = None,
    ) -> None:  # fmt: skip
        super().__init__(net, af, SOCK_DGRAM, protocol)
        self.table: UdpTable = net.get(UdpTable) if table is None else table
        self.mib: UdpMib = net.mib.udp if mib is None else mib
        self.key: bytes = b""
        """Under which the table has it; empty where it has it not."""
        self.in_connected: bool = False
        self.rx_dst: Dst | None = None
        """The route by which a connected socket's last datagram came in, for early demultiplexing."""
        self.gro: bool = False
        self.gso_size: int = 0
        self.cork: Cork | None = None
        self.corked: bool = False
        self.no_check6_tx: bool = False
        self.no_check6_rx: bool = False
        self.reserved: int = 0
        """Bytes for received datagrams that it took from the account of all UDP sockets."""
        # The last destination sent to, for as long as its route holds and no option changes.
        self._to: bytes = b""
        self._to_dst: Dst | None = None
        self._to_saddr: bytes = b""
        self._to_sum: int = 0

    def least_coverage(self) -> int:
        """Bytes that the checksum of a received datagram must cover at least, 0 for all, -1 for any number; see
        transport/udplite.py."""
        return -1

    # -- addresses

    def hash(self) -> None:
        self._to = b""
        self.rx_dst = None
        if self.num:
            self.table.hash(self)

    def unhash(self) -> None:
        self.table.unhash(self)

    def bind(self, name: Name) -> None:
        """Raises OSError: EAFNOSUPPORT, EINVAL (bound already), EADDRNOTAVAIL, EADDRINUSE."""
        inet_bind(self, self.table.ports, name)
        self.hash()

    def autobind(self) -> None:
        """Raises OSError EAGAIN where no port is free (Linux: inet_autobind)."""
        if not self.num:
            try:
                self.table.ports.bind(self, self.rcv_saddr, 0)
            except OSError:
                raise error(errno.EAGAIN, "no free port") from None
            self.sport = self.num
            self.hash()

    def release_port(self) -> None:
        self.table.ports.release(self)
        self.sport = 0

    # -- sending

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send one datagram, or a part of one.

        Raises OSError: EMSGSIZE (beyond 65507 bytes, or what the path takes where it must not be fragmented),
        EDESTADDRREQ, EINVAL (port 0), EAFNOSUPPORT, EACCES (broadcast), EPIPE, EAGAIN, EOPNOTSUPP (MSG_OOB), the
        socket's pending error (ECONNREFUSED), and what routing raises.
        """
        size = msg.iter.length
        if size > _SURELY_FITS:
            self._check_size(size)
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        if not self.num:
            self.autobind()
        if self.cork is not None:
            return self._append(self.cork, msg, flags)
        name = msg.name
        if name is None:
            if self.state != TCP_ESTABLISHED:
                raise error(errno.EDESTADDRREQ)
            daddr = self.daddr
            dport = self.dport
        else:
            family = name.family
            if not isinstance(name, SockAddr) or (family and family != self.family):
                raise error(errno.EAFNOSUPPORT)
            daddr = name.addr
            dport = name.port
            if dport == 0:
                raise error(errno.EINVAL, "port: expected 1 to 65535, not 0")
        if msg.control or self.gso_size or self.corked or flags & ~_FAST_FLAGS:
            return self._send_slow(msg, daddr, dport, flags, deadline)
        dst = self._to_dst
        if daddr != self._to or dst is None or not dst.valid():
            dst = self._route_to(daddr, dport, name is None)
        if self.err or self.wmem_alloc >= self.sndbuf or self.shutdown_mask & SEND_SHUTDOWN:
            if not self.check_send(flags, deadline):
                return self.send_blocked(msg, flags, deadline)
        payload = msg.iter.read(size) if size else b""
        length = size + 8
        if self.no_check_tx:
            cork = Cork(dst, self.send_flow(self._to, dport, 0), dport, -1, 0, self.tsflags)
            cork.parts.append(payload)
            cork.size = size
            self._transmit(cork)
            return size
        total = self._to_sum + length
        header = udp.build(self.sport, dport, length, total if total <= 0xFFFF else total - 0xFFFF)
        if size <= LINEAR_MAX:
            skb = SKBuff(header + payload)
        else:
            skb = SKBuff(header)
            skb.add_frag(payload)
        skb.transport_header = skb.csum_start = 0
        skb.csum_offset = 6
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.mark = self.mark
        skb.priority = self.priority
        self.charge_send(skb)
        if self.transmit(skb, dst, self._to_saddr, self._to, dport, self.tos, -1, self.tsflags, self.options):
            self.mib.OutDatagrams += 1
        else:
            self.mib.SndbufErrors += 1
        return size

    def _check_size(self, size: int) -> None:
        """Raises OSError EMSGSIZE for what no packet of the family can hold."""
        if size > 0xFFFF or size + 8 + self.af.header_len + len(self.options) > 0xFFFF:
            local_error(self, errno.EMSGSIZE, self.daddr, self.dport, 0xFFFF)
            raise error(errno.EMSGSIZE)

    def _route_to(self, daddr: bytes, dport: int, connected: bool) -> Dst:
        """Find the route to `daddr` and remember it, with what depends on it."""
        af = self.af
        flow = self.send_flow(daddr, dport, 0)
        self.choose_device(flow)
        dst = self.send_route(flow)
        if connected:
            self.dst = dst
        saddr = flow.saddr if flow.saddr != af.any else dst.saddr
        self._to = flow.daddr
        self._to_dst = dst
        self._to_saddr = saddr
        self._to_sum = af.pseudo_sum(saddr, flow.daddr, IPPROTO_UDP, 0)
        return dst

    def _send_slow(
        self, msg: MsgHdr, daddr: bytes, dport: int, flags: int, deadline: int
    ) -> Blocking[int] | int:
        """A send with ancillary data, flags, corking or segmentation."""
        gso_size = self.gso_size
        control = msg.control
        if control:
            for level, kind, data in control:
                if level == SOL_UDP:
                    if kind != UDP_SEGMENT or len(data) != 2:
                        raise error(errno.EINVAL, "ancillary data: SOL_UDP takes UDP_SEGMENT with two bytes")
                    gso_size = _U16.unpack(data)[0]
        flow = self.send_flow(daddr, dport, flags)
        ttl, tsflags = self.send_control(msg, flow)
        self.choose_device(flow)
        dst = self.send_route(flow)
        if flags & MSG_CONFIRM:
            dst.confirm()
            if flags & MSG_PROBE and not msg.iter.length:
                return 0
        if not self.check_send(flags, deadline):
            return self.send_blocked(msg, flags, deadline)
        cork = Cork(dst, flow, dport, ttl, gso_size, tsflags)
        self.cork = cork
        return self._append(cork, msg, flags)

    def _append(self, cork: Cork, msg: MsgHdr, flags: int) -> int:
        """Add to the datagram being gathered, and send it unless more is to come (Linux: ip_append_data)."""
        size = msg.iter.length
        held = False
        try:
            if cork.size + size + 8 + self.af.header_len + len(cork.flow.options) > 0xFFFF:
                local_error(self, errno.EMSGSIZE, cork.flow.daddr, cork.dport, cork.dst.mtu())
                raise error(errno.EMSGSIZE)
            if size:
                if flags & MSG_ZEROCOPY and self.zerocopy:
                    self._hold(cork, size, msg.iter)
                    held = True
                cork.parts.append(msg.iter.read(size))
                cork.size += size
        except OSError:
            self.cork = None
            if cork.uarg is not None:
                if held:
                    cork.uarg.abort()
                else:
                    cork.uarg.put()
            raise
        if not (flags & MSG_MORE or self.corked):
            self.push_pending()
        return size

    def _hold(self, cork: Cork, size: int, source: IovIter) -> None:
        """A part with MSG_ZEROCOPY: one report for all of a datagram. Raises OSError ENOBUFS."""
        uarg = zerocopy_realloc(self, size, cork.uarg)
        if uarg is None:
            raise error(errno.ENOBUFS, "MSG_ZEROCOPY: too many reports have yet to be read")
        cork.uarg = uarg
        dev = cork.dst.dev
        if dev.loopback or not dev.scatter_gather or not source.front()[1]:
            uarg.zerocopy = False

    def push_pending(self) -> None:
        """Send the datagram that was gathered (Linux: udp_push_pending_frames)."""
        cork = self.cork
        if cork is None:
            return
        self.cork = None
        try:
            self._transmit(cork)
        finally:
            # What was given as `bytes` can't change, and the rest was copied: it is free as soon as it is sent.
            if cork.uarg is not None:
                cork.uarg.put()

    def _transmit(self, cork: Cork) -> None:
        """Build one datagram or super-datagram and send it (Linux: udp_send_skb)."""
        dst = cork.dst
        flow = cork.flow
        size = cork.size
        gso_size = cork.gso_size
        segment = 0
        if gso_size:
            if self.af.header_len + len(flow.options) + 8 + gso_size > dst.mtu() or self.no_check_tx:
                raise error(errno.EINVAL, f"UDP_SEGMENT: segments of {gso_size} bytes don't fit the path's MTU")
            if size > gso_size * UDP_MAX_SEGMENTS:
                raise error(errno.EINVAL, f"UDP_SEGMENT: {size} bytes are more than {UDP_MAX_SEGMENTS} segments")
            if size > gso_size:
                segment = gso_size
        length = size + 8
        check = 0
        if not self.no_check_tx:
            check = self.af.pseudo_sum(cork.saddr, flow.daddr, IPPROTO_UDP, length)
        skb = SKBuff(udp.build(self.sport, cork.dport, length, check))
        for part in cork.parts:
            skb.add_frag(part)
        skb.transport_header = 0
        if not self.no_check_tx:
            skb.csum_start = 0
            skb.csum_offset = 6
            skb.ip_summed = CHECKSUM_PARTIAL
        if segment:
            skb.gso_size = segment
            skb.gso_type = SKB_GSO_UDP_L4
            skb.gso_segs = -(-size // segment)
        skb.mark = flow.mark
        skb.priority = flow.priority
        self.charge_send(skb)
        if self.transmit(
            skb, dst, cork.saddr, flow.daddr, cork.dport, flow.tos, cork.ttl, cork.tsflags, flow.options
        ):
            self.mib.OutDatagrams += 1
        else:
            self.mib.SndbufErrors += 1

    # -- receiving

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Receive one datagram; what of it doesn't fit is lost (MSG_TRUNC).

        Raises OSError: the pending error (ECONNREFUSED), EAGAIN.
        """
        if flags & (MSG_ERRQUEUE | MSG_PEEK) or self.err or self.receive_queue.first is None:
            if flags & MSG_ERRQUEUE:
                return receive_error(self, msg)
            return receive(self, msg, flags, deadline, self._copy)
        skb = self.receive_queue.popleft()
        if skb is None:
            raise error(errno.EAGAIN)
        self.rmem_alloc -= skb.truesize
        if self.peek_off > 0:
            self.peek_off = max(self.peek_off - skb.len, 0)
        return self._copy(skb, msg, flags, 0)

    def _copy(self, skb: SKBuff, msg: MsgHdr, flags: int, offset: int) -> int:
        """Linux: udp_recvmsg, behind the choice of the datagram."""
        to = msg.iter
        room = to.length
        size = skb.len - offset
        head = skb.head
        if size > room:
            msg.flags |= MSG_TRUNC
            size = room
        if size:
            if skb.data_len or size >= 2048:
                copy_out(skb, offset, size, to)
            else:
                start = skb.data + offset
                to.write(head[start : start + size])
        if not flags & MSG_PEEK:
            self.mib.InDatagrams += 1
            if self.reserved > KEPT and not self.rmem_alloc:
                self.reserved = self.table.memory.release(self.reserved, KEPT)
        start = skb.transport_header
        msg.name = SockAddr(self.family, skb.saddr, head[start] << 8 | head[start + 1])
        if self.rcvtstamp or self.tsflags or self.rxq_ovfl or self.sock_flags & SOCK_RCVMARK:
            sock_recv_cmsgs(self, msg, skb)
        if self.gro and skb.gso_size:
            msg.put_control(SOL_UDP, UDP_GRO, encode_int(skb.gso_size, 4))
        if self.cmsg_flags:
            for level, kind, data in self.af.receive_control(self, skb):
                msg.put_control(level, kind, data)
        return skb.len if flags & MSG_TRUNC else size

    def reserve(self, wanted: int) -> bool:
        """Get room for `wanted` bytes, more than is reserved (Linux: udp_rmem_schedule). False where there is none."""
        self.reserved = self.table.memory.reserve(self.reserved, wanted)
        return self.reserved >= wanted

    # -- options

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """SOL_UDP: UDP_CORK, UDP_SEGMENT, UDP_GRO, UDP_NO_CHECK6_TX and _RX. UDP_ENCAP is ENOPROTOOPT: there is no
        IPsec here whose packets it could carry."""
        # Whatever changes, the route to the last destination may be another one now.
        self._to = b""
        self._to_dst = None
        if level != SOL_UDP:
            super().setsockopt(level, option, value)
            return
        number = decode_int(value)
        if option == UDP_CORK:
            self.corked = number != 0
            if not number:
                self.push_pending()
        elif option == UDP_SEGMENT:
            if not 0 <= number <= 0xFFFF:
                raise error(errno.EINVAL, f"UDP_SEGMENT: expected 0 to 65535, not {number}")
            self.gso_size = number
        elif option == UDP_GRO:
            self._set_gro(number != 0)
        elif option == UDP_NO_CHECK6_TX:
            self.no_check6_tx = number != 0
        elif option == UDP_NO_CHECK6_RX:
            self.no_check6_rx = number != 0
        else:
            raise error(errno.ENOPROTOOPT)

    def _set_gro(self, on: bool) -> None:
        if on != self.gro:
            self.gro = on
            self.table.count_gro(1 if on else -1)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if level != SOL_UDP:
            return super().getsockopt(level, option, length)
        if option == UDP_CORK:
            number = int(self.corked)
        elif option == UDP_SEGMENT:
            number = self.gso_size
        elif option == UDP_GRO:
            number = int(self.gro)
        elif option == UDP_NO_CHECK6_TX:
            number = int(self.no_check6_tx)
        elif option == UDP_NO_CHECK6_RX:
            number = int(self.no_check6_rx)
        else:
            raise error(errno.ENOPROTOOPT)
        return encode_int(number, length)

    def destroy(self) -> None:
        self.cork = None
        self._set_gro(False)
        self.rx_dst = None
        self._to_dst = None
        self.reserved = self.table.memory.release(self.reserved)
        super().destroy()


