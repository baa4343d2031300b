"""UDP-Lite: datagrams of which only the first part need be intact (RFC 3828; Linux: net/ipv4/udplite.c, udplite.h).

It is UDP but for the header's third word, which says how many bytes the checksum covers instead of how many there are:
the network layer knows that. So a voice or a picture with a broken bit in it still arrives. The sender chooses the
coverage (UDPLITE_SEND_CSCOV), the receiver the least that it accepts (UDPLITE_RECV_CSCOV). There is always a checksum,
and no device computes it.
"""

from __future__ import annotations

import errno
from typing import Final, final

from usernet.core.errors import error
from usernet.core.wait import Blocking
from usernet.net.pernet import Net
from usernet.net.protocols import Protocols
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_UNNECESSARY, SKBuff
from usernet.sock.af_ops import AddressFamily
from usernet.sock.inet_datagram import TCP_ESTABLISHED
from usernet.sock.msg import MSG_OOB, MsgHdr, SockAddr
from usernet.sock.optval import decode_int, encode_int
from usernet.transport.udp import UDP_HLEN, UdpProtocol
from usernet.transport.udp_sock import SOL_UDP, Cork, UdpSock
from usernet.transport.udp_table import UdpTable
from usernet.wire import checksum, udp

IPPROTO_UDPLITE: Final = 136
SOL_UDPLITE: Final = 136
UDPLITE_SEND_CSCOV: Final = 10
UDPLITE_RECV_CSCOV: Final = 11
COVERAGE_MAX: Final = 0xFFFF


@final
class UdpLite(UdpProtocol):
    """UDP-Lite of one namespace: protocol 136 of every network layer. Its memory is UDP's."""

    def __init__(self, net: Net) -> None:
        table = UdpTable(net, net.get(UdpTable).memory)
        super().__init__(net, table, net.mib.udp_lite)
        net.get(Protocols).register(IPPROTO_UDPLITE, self)

    def receive(self, skb: SKBuff) -> None:
        """Linux: udplite_checksum_init, udp4_csum_init."""
        start = skb.data
        if skb.tail - start < UDP_HLEN and not skb.may_pull(UDP_HLEN):
            self._bad(skb, DropReason.PKT_TOO_SMALL)
            return
        _, _, coverage, check = udp.parse(skb.head, start)
        size = skb.len
        if not coverage:
            coverage = size
        if not UDP_HLEN <= coverage <= size or not check:
            # RFC 3828 section 3.1: neither header nor packet may be out of it, and there is no "no checksum".
            self._bad(skb, DropReason.UDP_CSUM)
            return
        af: AddressFamily = skb.af
        total = af.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_UDPLITE, size)
        if checksum.csum_fold(_sum(skb, coverage) + total):
            self._mib.InCsumErrors += 1
            self._bad(skb, DropReason.UDP_CSUM)
            return
        skb.ip_summed = CHECKSUM_UNNECESSARY
        # For `_queue`: 0 where all of it was covered.
        skb.cb = coverage if coverage < size else 0
        self._deliver(skb)

    def _queue(self, sk: UdpSock, skb: SKBuff) -> None:
        """Linux: udp_queue_rcv_one_skb, of a protocol with partial coverage."""
        coverage: int = skb.cb
        least = sk.least_coverage() if coverage else -1
        if least == 0 or least > coverage:
            # All was to be covered (0, the default once it was set), or more than is.
            sk.drops += 1
            self._bad(skb, DropReason.UDP_CSUM)
            return
        skb.cb = None
        super()._queue(sk, skb)


@final
class UdpLiteSock(UdpSock):
    """A UDP-Lite socket."""

    def __init__(self, net: Net, af: AddressFamily) -> None:
        super().__init__(net, af, IPPROTO_UDPLITE, net.get(UdpLite).table, net.mib.udp_lite)
        self.send_coverage: int = -1
        """Bytes, with the header, that the checksum of what is sent covers; 0 for all. -1: it was not chosen."""
        self.receive_coverage: int = -1
        """Likewise the least that must be covered of what is received."""

    def least_coverage(self) -> int:
        return self.receive_coverage

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send one datagram, or a part of one. Raises OSError as UDP does; EIO with UDP_SEGMENT."""
        self._check_size(msg.iter.length)
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        if self.gso_size:
            raise error(errno.EIO, "UDP_SEGMENT: there is none for UDP-Lite")
        if not self.num:
            self.autobind()
        if self.cork is not None:
            return self._append(self.cork, msg, flags)
        name = msg.name
        if name is None:
            if self.state != TCP_ESTABLISHED:
                raise error(errno.EDESTADDRREQ)
            return self._send_slow(msg, self.daddr, self.dport, flags, deadline)
        if not isinstance(name, SockAddr) or (name.family and name.family != self.family):
            raise error(errno.EAFNOSUPPORT)
        if name.port == 0:
            raise error(errno.EINVAL, "port: expected 1 to 65535, not 0")
        return self._send_slow(msg, name.addr, name.port, flags, deadline)

    def _transmit(self, cork: Cork) -> None:
        """Linux: udp_send_skb, udplite_csum."""
        dst = cork.dst
        flow = cork.flow
        size = cork.size + UDP_HLEN
        field = covered = size
        if 0 <= self.send_coverage < size:
            field = self.send_coverage
            covered = field or size
        skb = SKBuff(udp.build(self.sport, cork.dport, field, 0))
        for part in cork.parts:
            skb.add_frag(part)
        pseudo = self.af.pseudo_sum(cork.saddr, flow.daddr, IPPROTO_UDPLITE, size)
        check = checksum.csum_fold(_sum(skb, covered) + pseudo) or 0xFFFF
        skb.head = udp.build(self.sport, cork.dport, field, check)
        skb.transport_header = 0
        skb.mark = flow.mark
        skb.priority = flow.priority
        self.charge_send(skb)
        if self.transmit(
            skb, dst, cork.saddr, flow.daddr, cork.dport, flow.tos, cork.ttl, cork.tsflags, flow.options
        ):
            self.mib.OutDatagrams += 1
        else:
            self.mib.SndbufErrors += 1

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """SOL_UDPLITE: UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV (bytes, the header's 8 among them; 0 for all; 1 to 7
        count as 8), and what SOL_UDP has."""
        if level != SOL_UDPLITE:
            super().setsockopt(level, option, value)
            return
        if option not in (UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV):
            super().setsockopt(SOL_UDP, option, value)
            return
        number = decode_int(value)
        if number:
            # A negative number is an illegal coverage like 1 to 7 (RFC 3828 section 3.1).
            number = min(max(number, UDP_HLEN), COVERAGE_MAX)
        if option == UDPLITE_SEND_CSCOV:
            self.send_coverage = number
        else:
            self.receive_coverage = number

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if level != SOL_UDPLITE:
            return super().getsockopt(level, option, length)
        if option == UDPLITE_SEND_CSCOV:
            return encode_int(max(self.send_coverage, 0), length)
        if option == UDPLITE_RECV_CSCOV:
            return encode_int(max(self.receive_coverage, 0), length)
        return super().getsockopt(SOL_UDP, option, length)


def _sum(skb: SKBuff, size: int) -> int:
    """The partial sum of the first `size` bytes from `data` on."""
    start = skb.data
    end = min(skb.tail, start + size)
    total = checksum.csum(skb.head, start, end)
    offset = end - start
    for frag in skb.frags or ():
        if offset >= size:
            break
        length = min(len(frag), size - offset)
        total = checksum.csum_block_add(total, checksum.csum(frag, 0, length), offset)
        offset += length
    return total
