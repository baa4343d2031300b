"""UDP towards the network layer: datagrams received and ICMP errors (Linux: net/ipv4/udp.c; RFC 768, RFC 1122 4.1).

Receive: the network layer → `Udp.receive` (length, checksum) → transport/udp_table.py (whose is it) → filter → the
socket's queue. Where no socket takes it: "port unreachable". The checksum is verified here and not by the reader, so
that a broken datagram wakes nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.mib import UdpMib
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport, NetProtocol, Protocols
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    PACKET_HOST,
    SKB_OVERHEAD,
    SKBuff,
)
from usernet.sock.datagram import icmp_error
from usernet.sock.inet import IP_PMTUDISC_DONT
from usernet.sock.inet_datagram import TCP_ESTABLISHED
from usernet.transport.udp_offload import UdpOffload
from usernet.transport.udp_sock import IPPROTO_UDP
from usernet.transport.udp_sock import UdpSock as UdpSock
from usernet.transport.udp_table import UdpTable
from usernet.wire import checksum, udp

if TYPE_CHECKING:
    from usernet.sock.af_ops import AddressFamily

UDP_HLEN: Final = udp.UDP_HLEN


class UdpProtocol(NetProtocol):
    """What UDP and UDP-Lite share: one namespace's protocol of every network layer."""

    def __init__(self, net: Net, table: UdpTable, mib: UdpMib) -> None:
        self.table = table
        self.udp_early_demux: int = 0
        self._drops = net.drops
        self._mib = mib
        self._net = net
        self._offload = net.get(UdpOffload)

    # -- receive

    def early_demux(self, skb: SKBuff) -> bool:
        """Linux: udp_v4_early_demux, for connected sockets alone: their route in is remembered with them."""
        start = skb.transport_header
        if not self.table.connected or not self.udp_early_demux or skb.pkt_type != PACKET_HOST:
            return False
        if skb.tail - start < UDP_HLEN:
            return False
        dev = skb.dev
        key = skb.head[start : start + 4] + skb.saddr + skb.daddr
        sk = self.table.find_connected(key, dev.index if dev is not None else 0)
        if sk is None:
            return False
        skb.sk = sk
        dst = sk.rx_dst
        if dst is not None and dst.valid():
            skb.dst = dst
        return True

    def receive(self, skb: SKBuff) -> None:
        """Linux: __udp4_lib_rcv."""
        start = skb.data
        if skb.tail - start < UDP_HLEN and not skb.may_pull(UDP_HLEN):
            self._bad(skb, DropReason.PKT_TOO_SMALL)
            return
        head = skb.head
        length = head[start + 4] << 8 | head[start + 5]
        size = skb.len
        if length != size:
            if length < UDP_HLEN or length > size:
                self._bad(skb, DropReason.PKT_TOO_SMALL)
                return
            # The network layer's packet may be longer than the datagram; what is behind it is nobody's.
            skb.trim(length)
            if skb.ip_summed == CHECKSUM_COMPLETE:
                skb.ip_summed = CHECKSUM_NONE
        summed = skb.ip_summed
        if summed != CHECKSUM_UNNECESSARY and summed != CHECKSUM_PARTIAL and not self._checksum_ok(skb):
            self._mib.InCsumErrors += 1
            self._bad(skb, DropReason.UDP_CSUM)
            return
        sk: UdpSock | None = skb.sk
        if sk is not None:
            skb.sk = None
            sk.rx_dst = skb.dst
            self._queue(sk, skb)
            return
        self._deliver(skb)

    def _deliver(self, skb: SKBuff) -> None:
        """A datagram that is in order goes to the socket it is for, or to all of them."""
        dst = skb.dst
        if dst is not None and (dst.multicast or dst.broadcast):
            self._deliver_all(skb, dst.multicast)
            return
        head = skb.head
        start = skb.data
        dev = skb.dev
        af: AddressFamily = skb.af
        sk = self.table.lookup(
            skb.saddr, head[start : start + 4], skb.daddr, dev.index if dev is not None else 0, af.any, skb
        )
        if sk is None:
            self._mib.NoPorts += 1
            af.unreachable_port(skb)
            skb.drop(DropReason.NO_SOCKET, self._drops)
            return
        if sk.state == TCP_ESTABLISHED:
            sk.rx_dst = dst
        self._queue(sk, skb)

    def _bad(self, skb: SKBuff, reason: DropReason) -> None:
        self._mib.InErrors += 1
        skb.drop(reason, self._drops)

    def _checksum_ok(self, skb: SKBuff) -> bool:
        """Verify the checksum of a datagram that nobody vouches for (Linux: udp4_csum_init, udp_lib_checksum_complete).
        Sets `ip_summed` so that nobody looks again."""
        head = skb.head
        start = skb.data
        af: AddressFamily = skb.af
        if not head[start + 6] and not head[start + 7]:
            # The sender computed none, which only IPv4 allows (RFC 8200 section 8.1).
            return af.addr_len == 4
        length = skb.len
        pseudo = af.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_UDP, length)
        if skb.ip_summed == CHECKSUM_COMPLETE and (skb.csum + pseudo) % 0xFFFF == 0:
            skb.ip_summed = CHECKSUM_UNNECESSARY
            return True
        total = checksum.csum(head, start, skb.tail, pseudo)
        offset = skb.tail - start
        for frag in skb.frags or ():
            total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), offset)
            offset += len(frag)
        if total % 0xFFFF:
            return False
        skb.ip_summed = CHECKSUM_UNNECESSARY
        return True

    def _queue(self, sk: UdpSock, skb: SKBuff) -> None:
        """Give a datagram to its socket (Linux: udp_queue_rcv_skb)."""
        if skb.gso_size and not sk.gro:
            if skb.data_len or sk.filter is not None:
                for segment in self._split(skb):
                    self._queue(sk, segment)
            else:
                self._queue_parts(sk, skb)
            return
        if sk.filter is not None:
            keep = sk.filter.run(skb)
            if not keep:
                sk.drops += 1
                self._bad(skb, DropReason.SOCKET_FILTER)
                return
            skb.trim(max(keep, UDP_HLEN))
        skb.data += UDP_HLEN
        skb.len -= UDP_HLEN
        self._enqueue(sk, skb)

    def _enqueue(self, sk: UdpSock, skb: SKBuff) -> None:
        """The end of `_queue`, `data` at the payload (Linux: __udp_enqueue_schedule_skb)."""
        skb.seq = sk.drops
        wanted = sk.rmem_alloc + skb.truesize
        if wanted > sk.reserved and sk.rmem_alloc < sk.rcvbuf and not sk.reserve(wanted):
            self._mib.MemErrors += 1
            sk.drops += 1
            self._bad(skb, DropReason.PROTO_MEM)
            return
        reason = sk.queue_receive(skb)
        if reason is not None:
            self._mib.RcvbufErrors += 1
            self._bad(skb, reason)

    def _queue_parts(self, sk: UdpSock, skb: SKBuff) -> None:
        """Queue the datagrams of a super-segment for a socket that takes single ones, and as many as it has room for.

        Each is a part of the same bytes, behind the same headers: what is read of a header from here on (ports,
        addresses, TTL, …) is the same in all of them. Where a filter may look at more, `_split` makes real ones.
        """
        head = skb.head
        size = skb.gso_size
        start = skb.data + UDP_HLEN
        end = skb.tail
        while start < end:
            if sk.rmem_alloc >= sk.rcvbuf:
                lost = (end - start + size - 1) // size
                sk.drops += lost
                self._mib.RcvbufErrors += lost
                self._mib.InErrors += lost
                skb.drop(DropReason.SOCKET_RCVBUFF, self._drops)
                return
            stop = min(start + size, end)
            part = SKBuff(head, start)
            part.tail = stop
            part.len = stop - start
            part.truesize = part.len + SKB_OVERHEAD
            part.mac_header = skb.mac_header
            part.network_header = skb.network_header
            part.transport_header = skb.transport_header
            part.protocol = skb.protocol
            part.pkt_type = skb.pkt_type
            part.ip_summed = CHECKSUM_UNNECESSARY
            part.dev = skb.dev
            part.af = skb.af
            part.saddr = skb.saddr
            part.daddr = skb.daddr
            part.tstamp = skb.tstamp
            part.mark = skb.mark
            self._enqueue(sk, part)
            start = stop
        skb.consume()

    def _split(self, skb: SKBuff) -> list[SKBuff]:
        try:
            segments = self._offload.receive_segments(skb)
        except ValueError:
            self._bad(skb, DropReason.BAD_GSO)
            return []
        skb.consume()
        return segments

    def _deliver_all(self, skb: SKBuff, multicast: bool) -> None:
        """A multicast or broadcast datagram goes to every socket that it matches (Linux: __udp4_lib_mcast_deliver)."""
        head = skb.head
        start = skb.data
        sport, dport, _, _ = udp.parse(head, start)
        saddr = skb.saddr
        daddr = skb.daddr
        af: AddressFamily = skb.af
        any_addr = af.any
        dev = skb.dev
        dev_index = dev.index if dev is not None else 0
        first: UdpSock | None = None
        found: Any
        for found in tuple(self.table.ports.owners(dport)):
            sk: UdpSock = found
            if (
                (sk.rcv_saddr != any_addr and sk.rcv_saddr != daddr)
                or (sk.daddr != any_addr and sk.daddr != saddr)
                or (sk.dport and sk.dport != sport)
                or (sk.bound_dev_if and sk.bound_dev_if != dev_index)
                or sk.af is not af
                or (multicast and not af.multicast_allowed(sk, skb))
            ):
                continue
            if first is None:
                first = sk
                continue
            copy = skb.clone()
            copy.af = af
            copy.saddr = saddr
            copy.daddr = daddr
            self._queue(sk, copy)
        if first is None:
            self._mib.IgnoredMulti += 1
            skb.drop(DropReason.NO_SOCKET, self._drops)
            return
        self._queue(first, skb)

    # -- errors

    def error(self, report: ErrorReport) -> bool:
        """Linux: __udp4_lib_err. Only a socket with a peer is told through its pending error; any that set IP_RECVERR
        is told through the error queue, and its pending error too."""
        skb = report.skb
        start = skb.data
        if skb.tail - start < UDP_HLEN:
            return False
        sport, dport, _, _ = udp.parse(skb.head, start)
        af: AddressFamily = report.af
        dev = skb.dev
        # The packet was ours: what we look for is who would get the answer to it.
        ports = dport.to_bytes(2, "big") + sport.to_bytes(2, "big")
        sk = self.table.lookup(report.daddr, ports, report.saddr, dev.index if dev is not None else 0, af.any, None)
        if sk is None:
            return False
        if report.redirect or report.quench:
            return True
        fatal = report.fatal
        if report.mtu:
            sk.update_pmtu(report.daddr, report.mtu)
            if sk.pmtudisc == IP_PMTUDISC_DONT:
                return True
            fatal = True
        if sk.recverr:
            icmp_error(sk, report, dport, UDP_HLEN)
        elif not fatal or sk.state != TCP_ESTABLISHED:
            return True
        sk.err = report.errno
        sk.error_report()
        return True


@final
class Udp(UdpProtocol):
    """UDP of one namespace: protocol 17 of every network layer."""

    def __init__(self, net: Net) -> None:
        super().__init__(net, net.get(UdpTable), net.mib.udp)
        self.udp_early_demux = 1
        net.sysctl.register("net.ipv4.udp_early_demux", self, high=1)
        net.get(Protocols).register(IPPROTO_UDP, self)
