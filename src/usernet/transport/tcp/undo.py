"""Undoing a loss recovery that was needless (Linux: tcp_try_undo_* and their kin in tcp_input.c).

What was taken for lost was only late: the peer's time stamp shows that it was the original that arrived (Eifel, RFC
3522), or D-SACKs report that every retransmission was a duplicate (RFC 3708), or F-RTO finds it (RFC 5682). The window
is then given back, and what is marked lost no longer is.

`undo_active` says that there is something to undo, which began at `undo_marker`. `undo_retrans` counts retransmissions
that no D-SACK has reported yet, -1 before the first. `retrans_stamp` is when the first was sent (ms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.transport.tcp.const import (
    MSEC,
    SEQ_MASK,
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_OPEN,
    TCP_RACK_RECOVERY_THRESH,
    TCP_SYN_SENT,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_RETRANS,
    before,
)
from usernet.transport.tcp.ecn import withdraw_cwr
from usernet.transport.tcp.sack import check_sack_reordering

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock


def _ecr_before(sk: TcpSock, when: int) -> bool:
    """Whether the peer echoes a time stamp sent before `when` (ms)."""
    return sk.saw_tstamp and sk.rx_tsecr != 0 and before((sk.rx_tsecr - sk.tsoffset) & SEQ_MASK, when & SEQ_MASK)


def skb_spurious_retrans(sk: TcpSock, skb: SKBuff) -> bool:
    """Whether the acknowledgement is for the original of a retransmitted segment."""
    return bool(skb.sacked & TCPCB_RETRANS) and _ecr_before(sk, skb.tx.mstamp // MSEC)


def _packet_delayed(sk: TcpSock) -> bool:
    """Whether the packet was delayed and not lost (Linux: tcp_packet_delayed)."""
    if sk.retrans_stamp:
        return _ecr_before(sk, sk.retrans_stamp)
    # Nothing was retransmitted yet, though recovery began, and all the same the peer goes on.
    if not sk.sack_ok and not before(sk.snd_una, sk.high_seq):
        return False
    return sk.state != TCP_SYN_SENT


def any_retrans_done(sk: TcpSock) -> bool:
    """Whether anything under way was retransmitted (Linux: tcp_any_retrans_done)."""
    if sk.retrans_out:
        return True
    skb = sk.rtx_queue.first
    return skb is not None and bool(skb.sacked & TCPCB_EVER_RETRANS)


def _may_undo(sk: TcpSock) -> bool:
    return bool(sk.undo_active) and (not sk.undo_retrans or _packet_delayed(sk))


def init_undo(sk: TcpSock) -> None:
    """Recovery starts: remember where, for an undo (Linux: tcp_init_undo)."""
    sk.undo_marker = sk.snd_una
    sk.undo_active = True
    sk.undo_retrans = sk.retrans_out
    if sk.tlp_high_seq and sk.tlp_retrans:
        sk.undo_retrans += 1
    if not sk.undo_retrans:
        sk.undo_retrans = -1


def undo_cwnd_reduction(sk: TcpSock, unmark_loss: bool) -> None:
    """Take the reduction back (Linux: tcp_undo_cwnd_reduction)."""
    if unmark_loss:
        for skb in sk.rtx_queue:
            skb.sacked &= ~TCPCB_LOST
        sk.lost_out = 0
        sk.retransmit_hint = None
    if sk.prior_ssthresh:
        sk.snd_cwnd = sk.ca.undo_cwnd(sk)
        if sk.prior_ssthresh > sk.snd_ssthresh:
            sk.snd_ssthresh = sk.prior_ssthresh
            if sk.ecn_flags:
                withdraw_cwr(sk)
    sk.snd_cwnd_stamp = sk.loop.now
    sk.undo_marker = 0
    sk.undo_active = False
    sk.rack_advanced = True


def _non_sack_preventing_reopen(sk: TcpSock) -> bool:
    if sk.snd_una == sk.high_seq and not sk.sack_ok:
        # Without SACK, wait until something above is acknowledged: else duplicates would start it anew (RFC 6582).
        if not any_retrans_done(sk):
            sk.retrans_stamp = 0
        return True
    return False


def try_undo_recovery(sk: TcpSock) -> bool:
    """Recovery is complete: undo it where it was needless. True where the state stays (tcp_try_undo_recovery)."""
    mib = sk.net.mib.tcp_ext
    if _may_undo(sk):
        undo_cwnd_reduction(sk, False)
        if sk.ca_state == TCP_CA_LOSS:
            mib.TCPLossUndo += 1
        else:
            mib.TCPFullUndo += 1
    elif sk.rack_reo.persist:
        sk.rack_reo.persist -= 1
    if _non_sack_preventing_reopen(sk):
        return True
    sk.set_ca_state(TCP_CA_OPEN)
    sk.is_sack_reneg = False
    return False


def try_undo_dsack(sk: TcpSock) -> bool:
    """Each retransmission was a duplicate, as D-SACKs say (Linux: tcp_try_undo_dsack)."""
    if sk.undo_active and not sk.undo_retrans:
        reo = sk.own_rack_reo()
        reo.persist = min(TCP_RACK_RECOVERY_THRESH, reo.persist + 1)
        undo_cwnd_reduction(sk, False)
        sk.net.mib.tcp_ext.TCPDSACKUndo += 1
        return True
    return False


def try_undo_loss(sk: TcpSock, frto_undo: bool) -> bool:
    """The time-out was needless, as F-RTO found (`frto_undo`) or otherwise: out of LOSS (Linux: tcp_try_undo_loss)."""
    if not (frto_undo or _may_undo(sk)):
        return False
    undo_cwnd_reduction(sk, True)
    mib = sk.net.mib.tcp_ext
    mib.TCPLossUndo += 1
    if frto_undo:
        mib.TCPSpuriousRTOs += 1
    sk.icsk_retransmits = 0
    if _non_sack_preventing_reopen(sk):
        return True
    if frto_undo or sk.sack_ok:
        sk.set_ca_state(TCP_CA_OPEN)
        sk.is_sack_reneg = False
    return True


def try_undo_partial(sk: TcpSock, prior_snd_una: int) -> bool:
    """A part is acknowledged, whose original arrived. True where RECOVERY stays (Linux: tcp_try_undo_partial)."""
    if sk.undo_active and _packet_delayed(sk):
        # The original arrived: reordering goes further than was thought.
        check_sack_reordering(sk, prior_snd_una, True)
        if sk.retrans_out:
            return True
        if not any_retrans_done(sk):
            sk.retrans_stamp = 0
        undo_cwnd_reduction(sk, True)
        sk.net.mib.tcp_ext.TCPPartialUndo += 1
        try_keep_open(sk)
    return False


def try_keep_open(sk: TcpSock) -> None:
    """Back to OPEN, or to DISORDER where something is still missing (Linux: tcp_try_keep_open)."""
    state = TCP_CA_OPEN
    if sk.sacked_out + sk.lost_out or any_retrans_done(sk):
        state = TCP_CA_DISORDER
    if sk.ca_state != state:
        sk.set_ca_state(state)
        sk.high_seq = sk.snd_nxt
