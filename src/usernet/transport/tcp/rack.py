"""RACK: loss detection by time (RFC 8985; Linux: tcp_recovery.c).

Two ways to tell a loss. Counting: three segments sent later were acknowledged (RFC 5681, 6675). It fails where the
network reorders more than that, and where fewer than three follow, as at the end of every reply; and a lost
retransmission never has segments counted against it. Time: a segment is lost when one sent later was delivered, and a
round trip plus a little (the reordering window) has passed since it was sent. That holds for originals and
retransmissions alike, adapts to reordering by widening the window when duplicates show that it was too small, and needs
no count. Only the last segments of a flight have none sent later: for them a probe (TLP, output.py) makes one.

State: `rack_mstamp`, `rack_end_seq`: of the segment, among those delivered, that was sent last. `rack_rtt_us`: its
round trip. `rack_reo.steps`: the window in quarters of the minimum RTT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import (
    FLAG_SND_UNA_ADVANCED,
    ICSK_TIME_REO_TIMEOUT,
    TCP_CA_RECOVERY,
    TCP_RACK_RECOVERY_THRESH,
    TCP_TIMEOUT_MIN_US,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)
from usernet.transport.tcp.output import reset_xmit_timer
from usernet.transport.tcp.parts import NO_REORDERING
from usernet.transport.tcp.segment import TxInfo, fragment

if TYPE_CHECKING:
    from usernet.transport.tcp.rate import RateSample
    from usernet.transport.tcp.sock import TcpSock

RACK_STATIC_REO_WND = 2
RACK_NO_DUPTHRESH = 4


def rack_reo_wnd(sk: TcpSock) -> int:
    """The reordering window (µs; RFC 8985 section 6.2 step 4; Linux: tcp_rack_reo_wnd)."""
    if not sk.reord_seen:
        # No reordering was ever seen: no patience once in recovery, or when the classic count is reached.
        if sk.ca_state >= TCP_CA_RECOVERY:
            return 0
        if sk.sacked_out >= sk.reordering and not sk.tcp.tcp_recovery & RACK_NO_DUPTHRESH:
            return 0
    return min((sk.min_rtt_us() >> 2) * sk.rack_reo.steps, sk.srtt_us >> 3)


def rack_skb_timeout(sk: TcpSock, tx: TxInfo, reo_wnd: int) -> int:
    """How long (µs) until the segment counts as lost; zero or less: it does now."""
    return sk.rack_rtt_us + reo_wnd - (sk.loop.now - tx.mstamp) // 1000


def sent_after(time1: int, time2: int, seq1: int, seq2: int) -> bool:
    """Whether the segment with time and end `1` was sent after that with `2`."""
    return time1 > time2 or (time1 == time2 and after(seq1, seq2))


def rack_advance(sk: TcpSock, sacked: int, end_seq: int, xmit_time: int) -> None:
    """A segment was delivered (RFC 8985 section 6.2 step 2; Linux: tcp_rack_advance)."""
    rtt_us = (sk.loop.now - xmit_time) // 1000
    if sacked & TCPCB_RETRANS and rtt_us < sk.min_rtt_us():
        # Faster than the path allows: the original was delivered, not this retransmission.
        return
    sk.rack_advanced = True
    sk.rack_rtt_us = rtt_us
    if sent_after(xmit_time, sk.rack_mstamp, end_seq, sk.rack_end_seq):
        sk.rack_mstamp = xmit_time
        sk.rack_end_seq = end_seq


def mark_skb_lost(sk: TcpSock, skb: SKBuff) -> None:
    """Mark a segment, or its retransmission, as lost (Linux: tcp_mark_skb_lost)."""
    sacked = skb.sacked
    count = skb.gso_segs
    if sacked & TCPCB_SACKED_ACKED:
        return
    hint = sk.retransmit_hint
    if (hint is None and sk.retrans_out >= sk.lost_out) or (hint is not None and before(skb.seq, hint.seq)):
        sk.retransmit_hint = skb
    if sacked & TCPCB_LOST:
        if not sacked & TCPCB_SACKED_RETRANS:
            return
        skb.sacked = sacked & ~TCPCB_SACKED_RETRANS
        sk.retrans_out -= count
        sk.net.mib.tcp_ext.TCPLostRetransmit += count
    else:
        sk.lost_out += count
        skb.sacked = sacked | TCPCB_LOST
    sk.lost += count
    if sk.ca.has_skb_marked_lost:
        sk.ca.skb_marked_lost(sk, skb)


def rack_detect_loss(sk: TcpSock) -> int:
    """Mark what is lost by now; returns when (µs from now) to look again, 0 for never (tcp_rack_detect_loss)."""
    reo_wnd = rack_reo_wnd(sk)
    again = 0
    tx = sk.sent.first
    while tx is not None:
        following = tx.next
        skb = tx.skb
        sacked = skb.sacked
        if not (sacked & TCPCB_LOST and not sacked & TCPCB_SACKED_RETRANS):
            if not sent_after(sk.rack_mstamp, tx.mstamp, sk.rack_end_seq, skb.end_seq):
                break
            remaining = rack_skb_timeout(sk, tx, reo_wnd)
            if remaining <= 0:
                mark_skb_lost(sk, skb)
                sk.sent.remove(tx)
            else:
                again = max(again, remaining)
        tx = following
    return again


def rack_mark_lost(sk: TcpSock) -> bool:
    """After an acknowledgement: mark losses, arm the reordering timer. True where it was armed (tcp_rack_mark_lost)."""
    if not sk.rack_advanced:
        return False
    sk.rack_advanced = False
    again = rack_detect_loss(sk)
    if again:
        reset_xmit_timer(sk, ICSK_TIME_REO_TIMEOUT, (again + TCP_TIMEOUT_MIN_US) * 1000)
        return True
    return False


def rack_update_reo_wnd(sk: TcpSock, sample: RateSample) -> None:
    """Widen the window for each round trip that brought a D-SACK; shrink it after 16 recoveries without one
    (RFC 8985 section 6.2 step 4; Linux: tcp_rack_update_reo_wnd)."""
    if sk.tcp.tcp_recovery & RACK_STATIC_REO_WND or not sample.prior_delivered:
        return
    reo = sk.rack_reo
    if reo is NO_REORDERING:
        return
    if sample.prior_delivered < reo.last_delivered:
        reo.dsack_seen = False
    if reo.dsack_seen:
        reo.steps = min(0xFF, reo.steps + 1)
        reo.dsack_seen = False
        reo.last_delivered = sk.delivered
        reo.persist = TCP_RACK_RECOVERY_THRESH
    elif not reo.persist:
        reo.steps = 1


def newreno_mark_lost(sk: TcpSock, flag: int) -> None:
    """Without SACK: the first segment is lost after enough duplicates, and after each partial acknowledgement
    (RFC 6582; Linux: tcp_newreno_mark_lost)."""
    state = sk.ca_state
    if not (
        (state < TCP_CA_RECOVERY and sk.sacked_out >= sk.reordering)
        or (state == TCP_CA_RECOVERY and flag & FLAG_SND_UNA_ADVANCED)
    ):
        return
    skb = sk.rtx_queue.first
    if skb is None or skb.sacked & TCPCB_LOST:
        return
    if skb.gso_segs > 1:
        fragment(sk, sk.rtx_queue, skb, skb.gso_size, skb.gso_size)
    mark_skb_lost(sk, skb)
