"""Sending a probe of the path's MTU (RFC 4821 section 7; Linux: tcp_mtu_probe, tcp_mtu_check_reprobe).

Called by output.write_xmit before it sends anything, where the connection searches (mtup.py). The probe is the next
data in a segment of its own, halfway between what is known to pass and what may; it stays one packet whatever the MSS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.transport.tcp import completion
from usernet.transport.tcp.const import SEC, SEQ_MASK, TCP_CA_OPEN
from usernet.transport.tcp.mss import current_mss, mss_to_mtu, mtu_to_mss
from usernet.transport.tcp.output import event_new_data_sent, packets_in_flight
from usernet.transport.tcp.segment import new_segment, set_tso_segs, trim_head
from usernet.transport.tcp.transmit import transmit_skb
from usernet.wire.tcp import ACK, FIN, PSH, TCP_HLEN

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock

MIN_CWND = 11
"""Packets. Below, the loss of a probe would be found by a time-out rather than by duplicate acknowledgements."""


def mtu_probe(sk: TcpSock) -> int:
    """Probe if it is time: 1 where a probe was sent, 0 where to wait for the window to drain, and -1 for not now."""
    mtup = sk.mtup
    if (
        mtup.probe_size
        or sk.ca_state != TCP_CA_OPEN
        or sk.snd_cwnd < MIN_CWND
        or sk.selective_acks
        or sk.duplicate_sack is not None
    ):
        return -1
    mss = current_mss(sk)
    size = mtu_to_mss(sk, (mtup.search_high + mtup.search_low) >> 1)
    # Enough behind it that its loss shows by duplicate acknowledgements.
    needed = size + (sk.reordering + 1) * sk.mss_cache
    if (
        size > mtu_to_mss(sk, mtup.search_high)
        or mtup.search_high - mtup.search_low < sk.tcp.tcp_probe_threshold
    ):
        _check_reprobe(sk, mss)
        return -1
    if (sk.write_seq - sk.snd_nxt) & SEQ_MASK < needed or sk.snd_wnd < needed:
        return -1
    if (sk.snd_una + sk.snd_wnd - sk.snd_nxt - needed) & 0x80000000:
        return 0
    in_flight = packets_in_flight(sk)
    if in_flight + 2 > sk.snd_cwnd:
        return 0 if in_flight else -1
    if not _can_coalesce(sk, size):
        return -1
    probe = _build(sk, size, mss)
    if transmit_skb(sk, probe):
        # It stays queued, and is sent in segments of the MSS.
        return -1
    # It counts as two, for it is more than one segment's worth.
    sk.snd_cwnd -= 1
    event_new_data_sent(sk, probe)
    mtup.probe_size = mss_to_mtu(sk, probe.len)
    mtup.probe_seq_start = probe.seq
    mtup.probe_seq_end = probe.end_seq
    return 1


def _check_reprobe(sk: TcpSock, mss: int) -> None:
    """The search is over: begin anew after tcp_probe_interval seconds, for the path may be another by then."""
    mtup = sk.mtup
    now = sk.loop.now
    if now - mtup.probe_timestamp >= sk.tcp.tcp_probe_interval * SEC:
        mtup.probe_size = 0
        mtup.search_high = sk.mss_clamp + TCP_HLEN + sk.af.header_len
        mtup.search_low = mss_to_mtu(sk, mss)
        mtup.probe_timestamp = now


def _can_coalesce(sk: TcpSock, size: int) -> bool:
    """Whether the first `size` bytes that wait may be one segment: no record ends within (MSG_EOR), and the application
    wants to be told of none of them apart."""
    skb = sk.write_queue.first
    while skb is not None and size > skb.len:
        if skb.tx.eor or skb.tx.mark is not None:
            return False
        size -= skb.len
        skb = skb.next
    return skb is not None


def _build(sk: TcpSock, size: int, mss: int) -> SKBuff:
    """Move the first `size` bytes that wait into a segment of their own, the first in the queue."""
    queue = sk.write_queue
    skb = queue.first
    assert skb is not None
    probe = new_segment(skb.seq, ACK)
    probe.end_seq = (skb.seq + size) & SEQ_MASK
    left = size
    while skb is not None and left:
        following = skb.next
        if skb.len <= left:
            left -= skb.len
            probe.tcp_flags |= skb.tcp_flags
            probe.tx.eor = skb.tx.eor
            for part in skb.slice(0, skb.len):
                probe.add_frag(part)
            if skb.tx.mark is not None:
                completion.moved(sk, probe, skb)
            queue.unlink(skb)
            sk.wmem_queued -= skb.truesize
        else:
            probe.tcp_flags |= skb.tcp_flags & ~(FIN | PSH)
            for part in skb.slice(0, left):
                probe.add_frag(part)
            trim_head(sk, skb, left)
            set_tso_segs(skb, mss)
            left = 0
        skb = following
    queue.appendleft(probe)
    sk.wmem_queued += probe.truesize
    set_tso_segs(probe, size)
    return probe
