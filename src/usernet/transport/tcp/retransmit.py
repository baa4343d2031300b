"""Sending again what was lost, and probing for the loss of the tail (Linux: __tcp_retransmit_skb,
tcp_xmit_retransmit_queue, tcp_send_loss_probe). RFC 6298, RFC 8985 section 7.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.skbuff.skbuff import SKB_OVERHEAD, SKBuff
from usernet.transport.tcp.completion import joined, uarg_of
from usernet.transport.tcp.const import (
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    MSEC,
    SEQ_MASK,
    TCP_CA_CWR,
    TCP_CA_LOSS,
    TCP_CA_RECOVERY,
    TCP_NAGLE_OFF,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)
from usernet.transport.tcp.ecn import keeps_asking
from usernet.transport.tcp.mss import current_mss
from usernet.transport.tcp.output import (
    pacing_check,
    packets_in_flight,
    rearm_rto,
    reset_xmit_timer,
    small_queue_full,
    tso_segs,
    wnd_end,
    write_xmit,
)
from usernet.transport.tcp.segment import adjust_pcount, fragment, set_tso_segs, trim_head, wqueue_too_big
from usernet.transport.tcp.transmit import transmit_skb
from usernet.wire.tcp import AE, CWR, ECE, FIN, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock



def send_loss_probe(sk: TcpSock) -> None:
    """The probe: one new segment, or the last one again (RFC 8985 section 7.3; Linux: tcp_send_loss_probe)."""
    mss = current_mss(sk)
    if sk.tlp_high_seq:
        rearm_rto(sk)
        return
    sk.tlp_retrans = False
    head = sk.write_queue.first
    if head is not None and _snd_wnd_test(sk, head, mss):
        before_count = sk.packets_out
        write_xmit(sk, mss, TCP_NAGLE_OFF, 2)
        if sk.packets_out > before_count:
            _probe_sent(sk)
        else:
            rearm_rto(sk)
        return
    skb = sk.rtx_queue.last
    if skb is None:
        # Everything was acknowledged in between.
        sk.clear_xmit_timer()
        return
    count = skb.gso_segs
    if count > 1 and skb.len > (count - 1) * mss:
        skb = fragment(sk, sk.rtx_queue, skb, (count - 1) * mss, mss)
    if retransmit_skb_once(sk, skb, 1):
        rearm_rto(sk)
        return
    sk.tlp_retrans = True
    _probe_sent(sk)


def _probe_sent(sk: TcpSock) -> None:
    sk.tlp_high_seq = sk.snd_nxt
    sk.net.mib.tcp_ext.TCPLossProbes += 1
    # No further probe until the RTO.
    sk.icsk_pending = 0
    rearm_rto(sk)


def _snd_wnd_test(sk: TcpSock, skb: SKBuff, mss: int) -> bool:
    end = skb.end_seq if skb.len <= mss else (skb.seq + mss) & SEQ_MASK
    return not after(end, wnd_end(sk))


def retransmit_skb_once(sk: TcpSock, skb: SKBuff, segs: int) -> int:
    """Send a segment again, at most `segs` packets of it (Linux: __tcp_retransmit_skb).

    Returns 0, or a negative errno where it can't be sent now.
    """
    # Whether a packet of that size gets through can't be told any more.
    if sk.mtup.probe_size:
        sk.mtup.probe_size = 0
    if before(skb.seq, sk.snd_una):
        if before(skb.end_seq, sk.snd_una):
            return -errno.EINVAL
        if skb.tcp_flags & SYN:
            skb.tcp_flags &= ~SYN
            skb.seq = (skb.seq + 1) & SEQ_MASK
        else:
            trim_head(sk, skb, (sk.snd_una - skb.seq) & SEQ_MASK)
    mss = current_mss(sk)
    room = sk.snd_una + sk.snd_wnd - skb.seq
    room = (room + 0x80000000 & SEQ_MASK) - 0x80000000
    if room <= 0:
        # A window shrunk to nothing: only the first segment, as a probe.
        if skb.seq != sk.snd_una:
            return -errno.EAGAIN
        room = mss
    length = mss * segs
    if length > room:
        length = room // mss * mss or room
    if skb.len > length:
        if wqueue_too_big(sk, skb):
            return -errno.ENOMEM
        fragment(sk, sk.rtx_queue, skb, length, mss)
    else:
        decrease = skb.gso_segs - set_tso_segs(skb, mss)
        if decrease:
            adjust_pcount(sk, skb, decrease)
        if skb.len < mss and sk.tcp.tcp_retrans_collapse:
            _try_collapse(sk, skb, mss)
    if skb.tcp_flags & (SYN | ECE | CWR) == SYN | ECE | CWR and not keeps_asking(sk):
        skb.tcp_flags &= ~(ECE | CWR | AE)
    segments = skb.gso_segs
    mib = sk.net.mib
    mib.tcp.RetransSegs += segments
    if skb.tcp_flags & SYN:
        mib.tcp_ext.TCPSynRetrans += 1
    sk.total_retrans += segments
    sk.bytes_retrans += skb.len
    failure = transmit_skb(sk, skb)
    skb.sacked |= TCPCB_EVER_RETRANS
    trace = sk.net.trace.tcp_retransmit_skb
    if failure:
        mib.tcp_ext.TCPRetransFail += segments
        return failure
    if trace.probes:
        trace.fire(sk, skb)
    return 0


def _try_collapse(sk: TcpSock, skb: SKBuff, mss: int) -> None:
    """Join the small segments behind `skb` to it, up to an MSS (Linux: tcp_retrans_try_collapse)."""
    if skb.gso_segs > 1 or skb.tcp_flags & SYN or skb.sacked & TCPCB_SACKED_ACKED:
        return
    queue = sk.rtx_queue
    while True:
        following = skb.next
        if (
            following is None
            or following.gso_segs > 1
            or following.sacked & TCPCB_SACKED_ACKED
            or skb.tcp_flags & FIN
            or skb.tx.eor
            or (sk.tx_marks and (uarg_of(skb) is not None or uarg_of(following) is not None))
            or skb.len + following.len > mss
            or after(following.end_seq, wnd_end(sk))
        ):
            return
        size = following.len
        queue.unlink(following)
        sk.sent.remove(following.tx)
        if sk.retransmit_hint is following:
            sk.retransmit_hint = skb
        if sk.highest_sack is following:
            sk.highest_sack = skb
        for part in following.frags or ():
            skb.add_frag(part)
        queue.resized(size)
        skb.end_seq = following.end_seq
        skb.tcp_flags |= following.tcp_flags
        skb.sacked |= following.sacked & TCPCB_EVER_RETRANS
        skb.tx.eor = following.tx.eor
        if sk.tx_marks:
            joined(sk, skb, following)
        sk.wmem_queued -= SKB_OVERHEAD
        adjust_pcount(sk, following, following.gso_segs)


def retransmit_skb(sk: TcpSock, skb: SKBuff, segs: int) -> int:
    """Send again and mark it so (Linux: tcp_retransmit_skb)."""
    failure = retransmit_skb_once(sk, skb, segs)
    if not failure:
        # It may count as retransmitted still: an undo takes the loss back, but not the retransmission.
        if not skb.sacked & TCPCB_SACKED_RETRANS:
            sk.retrans_out += skb.gso_segs
        skb.sacked |= TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS
    if not sk.retrans_stamp:
        sk.retrans_stamp = sk.loop.now // MSEC or 1
    if sk.undo_retrans < 0:
        sk.undo_retrans = 0
    sk.undo_retrans += skb.gso_segs
    return failure


def xmit_retransmit_queue(sk: TcpSock) -> None:
    """Retransmit what is marked lost, oldest first, as the window allows (Linux: tcp_xmit_retransmit_queue)."""
    if not sk.packets_out:
        return
    skb = sk.retransmit_hint or sk.rtx_queue.first
    hole: SKBuff | None = None
    rearm = False
    max_segs = tso_segs(sk, current_mss(sk))
    mib = sk.net.mib.tcp_ext
    while skb is not None:
        if sk.pacing_status and pacing_check(sk):
            break
        if hole is None:
            sk.retransmit_hint = skb
        segs = sk.snd_cwnd - packets_in_flight(sk)
        if segs <= 0:
            break
        segs = min(segs, max_segs)
        sacked = skb.sacked
        if sk.retrans_out >= sk.lost_out:
            break
        if not sacked & TCPCB_LOST:
            if hole is None and not sacked & (TCPCB_SACKED_RETRANS | TCPCB_SACKED_ACKED):
                hole = skb
            skb = skb.next
            continue
        if sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS):
            skb = skb.next
            continue
        if small_queue_full(sk, skb, 1):
            break
        if retransmit_skb(sk, skb, segs):
            break
        if sk.ca_state == TCP_CA_LOSS:
            mib.TCPSlowStartRetrans += skb.gso_segs
        else:
            mib.TCPFastRetrans += skb.gso_segs
        if sk.ca_state == TCP_CA_CWR or sk.ca_state == TCP_CA_RECOVERY:
            sk.prr_out += skb.gso_segs
        if skb is sk.rtx_queue.first and sk.icsk_pending != ICSK_TIME_REO_TIMEOUT:
            rearm = True
        skb = skb.next
    if rearm:
        reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, True)
