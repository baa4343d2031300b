"""TCP's part in splitting and merging packets (Linux: net/ipv4/tcp_offload.c).

Splitting copies the header to each segment and moves what must not be in all: CWR belongs to the first (but to all with
accurate ECN), FIN and PSH to the last, the sequence number advances by the segment size. Merging is its inverse, and
takes only what splitting would give back: same addresses and ports, same acknowledgement, window, flags and options
(the time stamp among them), sequence number the next one, and no segment but the last shorter than the first.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, final

from usernet.net.offload import Offload, Offloads
from usernet.net.pernet import Net
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl, append_payload, checksum_ok
from usernet.netdevice.gso import cut_payload, new_segment
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKBTX_SW_TSTAMP,
    SKBuff,
)
from usernet.wire import checksum, tcp
from usernet.wire.ethernet import ETH_P_IP, ETH_P_IPV6
from usernet.wire.tcp import CWR, FIN, PSH, RST, SYN, TCP_CHECK_OFFSET, TCP_HLEN, URG
from usernet.wire.tcp import fields as _unpack
from usernet.wire.tcp import parse as _parse

IPPROTO_TCP: Final = 6

_FLAGS_WINDOW_CHECK: Final = Struct("!HHH")


def _checksum_follows(held: SKBuff, skb: SKBuff, offset: int) -> bool:
    """Whether the checksum of a segment between the addresses of `held` is right."""
    skb.saddr = held.saddr
    skb.daddr = held.daddr
    return checksum_ok(skb, offset, IPPROTO_TCP)


@final
class TcpOffload(Offload):
    """The offload of TCP over every network layer; `net.get(TcpOffload)` makes and registers it."""

    def __init__(self, net: Net) -> None:
        table = net.get(Offloads).transport
        table[ETH_P_IP, IPPROTO_TCP] = self
        table[ETH_P_IPV6, IPPROTO_TCP] = self

    def gso_segment(self, skb: SKBuff) -> list[SKBuff]:
        """Split a super-segment, `data` at the TCP header, with `saddr` and `daddr` set (Linux: tcp_gso_segment).

        Each segment is CHECKSUM_PARTIAL, whatever `skb` was: the pseudo header's sum is made from the addresses.
        """
        if not skb.gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6):
            raise ValueError("a TCP segment that is to be split as another protocol's")
        head = skb.head
        start = skb.data
        if skb.tail - start < TCP_HLEN:
            raise ValueError("a super-segment without a TCP header")
        sport, dport, seq, ack, header_len, flags, window, _, urg_ptr = _parse(head, start)
        end = start + header_len
        if header_len < TCP_HLEN or end > skb.tail:
            raise ValueError("a super-segment with a damaged TCP header")
        mss = skb.gso_size
        pieces = cut_payload(skb, end, mss)
        options = head[start + TCP_HLEN : end]
        last_size = skb.len - header_len - mss * (len(pieces) - 1)
        pseudo = checksum.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_TCP, header_len + mss)
        # Of all but the last; seen the same way by the checksum as by the peer.
        middle = flags & ~(FIN | PSH)
        # Part of a counter, with accurate ECN (RFC 9768), a sign for once with classic ECN.
        once = 0 if skb.gso_type & SKB_GSO_TCP_ACCECN else CWR
        segments: list[SKBuff] = []
        build = tcp.build
        last = pieces.pop()
        for piece in pieces:
            header = build(sport, dport, seq, ack, middle, window, pseudo, urg_ptr, options)
            segments.append(new_segment(header, piece, mss, TCP_CHECK_OFFSET))
            seq = seq + mss & 0xFFFFFFFF
            middle &= ~once
        if segments:
            flags &= ~once
        pseudo = checksum.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_TCP, header_len + last_size)
        header = build(sport, dport, seq, ack, flags, window, pseudo, urg_ptr, options)
        segments.append(new_segment(header, last, last_size, TCP_CHECK_OFFSET))
        if skb.tx_flags & SKBTX_SW_TSTAMP:
            # The segment with the byte that is asked about (Linux: tcp_gso_tstamp).
            first = (seq - mss * (len(segments) - 1)) & 0xFFFFFFFF
            asked = segments[min(((skb.tskey - first) & 0xFFFFFFFF) // mss, len(segments) - 1)]
            asked.tx_flags = SKBTX_SW_TSTAMP
            asked.tskey = skb.tskey
            asked.sk = skb.sk
        return segments

    def gro_flow(self, skb: SKBuff, offset: int) -> bytes | None:
        """The ports, of a segment with data whose checksum is right (Linux: tcp4_gro_receive, tcp_gro_receive)."""
        head = skb.head
        tail = skb.tail
        if tail - offset < TCP_HLEN:
            return None
        _, _, seq, ack, doff_flags, window, _, _ = _unpack(head, offset)
        header_len = doff_flags >> 10 & 0x3C
        start = offset - skb.data + header_len
        size = skb.len - start
        if size <= 0 or header_len < TCP_HLEN or offset + header_len > tail or doff_flags & (SYN | RST | URG):
            return None
        if skb.ip_summed == CHECKSUM_NONE:
            if not checksum_ok(skb, offset, IPPROTO_TCP):
                return None
            skb.ip_summed = CHECKSUM_UNNECESSARY
        control: GroControl = skb.cb
        control.same = (doff_flags & ~(FIN | PSH), ack, window, head[offset + TCP_HLEN : offset + header_len])
        control.ports = offset
        control.seq = seq
        control.next_seq = seq + size & 0xFFFFFFFF
        control.flags = doff_flags
        control.start = start
        control.size = size
        control.mss = skb.gso_size or size
        # The kernel marks each super-segment it sends with PSH. As all goes up at the end of the poll, nothing would be
        # gained by stopping there.
        control.closed = bool(doff_flags & (FIN if skb.gso_size else FIN | PSH)) or size % control.mss != 0
        return head[offset : offset + 4]

    def gro_merge(self, held: SKBuff, skb: SKBuff) -> bool:
        ours: GroControl = held.cb
        its: GroControl = skb.cb
        size = its.size
        if (
            ours.closed
            or ours.next_seq != its.seq
            or its.mss > ours.mss
            or (its.mss < ours.mss and skb.gso_size)
            or ours.same != its.same
            or held.len + size > GRO_MAX_SIZE
        ):
            return False
        append_payload(held, skb, its.start, size)
        ours.next_seq = its.next_seq
        ours.flags |= its.flags
        ours.closed = its.closed or size % ours.mss != 0
        return True

    def gro_follow(self, held: SKBuff, skb: SKBuff) -> bool:
        head = skb.head
        offset = skb.data + 20
        if skb.tail - offset < TCP_HLEN:
            return False
        _, _, seq, ack, doff_flags, window, _, _ = _unpack(head, offset)
        ours: GroControl = held.cb
        header_len = doff_flags >> 10 & 0x3C
        start = 20 + header_len
        size = skb.len - start
        mss = skb.gso_size
        if (
            ours.closed
            or seq != ours.next_seq
            or size <= 0
            or (mss != ours.mss if mss else size > ours.mss)
            or ours.same
            != (doff_flags & ~(FIN | PSH), ack, window, head[offset + TCP_HLEN : offset + header_len])
            or held.len + size > GRO_MAX_SIZE
            or head[offset : offset + 4] != held.head[ours.ports : ours.ports + 4]
            or (skb.ip_summed == CHECKSUM_NONE and not _checksum_follows(held, skb, offset))
        ):
            return False
        append_payload(held, skb, start, size)
        ours.next_seq = seq + size & 0xFFFFFFFF
        ours.flags |= doff_flags
        ours.closed = bool(doff_flags & (FIN if mss else FIN | PSH)) or size % ours.mss != 0
        return True

    def gro_complete(self, held: SKBuff) -> None:
        control: GroControl = held.cb
        offset = held.data + control.start - (control.flags >> 10 & 0x3C)
        length = held.len - (offset - held.data)
        pseudo = checksum.pseudo_sum(held.saddr, held.daddr, IPPROTO_TCP, length)
        window = _unpack(held.head, offset)[5]
        held.store(offset + 12, _FLAGS_WINDOW_CHECK.pack(control.flags, window, pseudo))
        held.ip_summed = CHECKSUM_PARTIAL
        held.csum_start = held.transport_header = offset
        held.csum_offset = TCP_CHECK_OFFSET
        held.gso_type = SKB_GSO_TCPV4 if len(held.saddr) == 4 else SKB_GSO_TCPV6
        if control.flags & CWR:
            # All had it.
            held.gso_type |= SKB_GSO_TCP_ACCECN
