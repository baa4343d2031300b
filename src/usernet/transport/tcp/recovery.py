"""Loss recovery: the congestion state machine (Linux: tcp_fastretrans_alert and its kin in tcp_input.c).

Each segment in the retransmission queue carries tags: S (selectively acknowledged), R (retransmitted), L (lost). The
counters `sacked_out`, `retrans_out` and `lost_out` count the packets of each; what is in flight is
`packets_out - sacked_out - lost_out + retrans_out`. Without SACK, duplicates count as if they were S.

The connection is in one of five states:

    OPEN      nothing special.
    DISORDER  duplicates or SACKs arrive; nothing is known to be lost.
    CWR       the window is being reduced for another reason (ECN).
    RECOVERY  fast retransmission: lost segments are sent again, the window shrinks by proportional rate reduction
              (RFC 9937): for what the network delivers, so much less is sent that at the end of the round trip the
              window is `snd_ssthresh`.
    LOSS      after a time-out: all that was sent before counts as lost, the window starts at one segment (RFC 6298,
              5681), unless F-RTO finds the time-out spurious (RFC 5682).

`high_seq` is `snd_nxt` as it was when the state was entered; when it is acknowledged, the state ends. What was done may
turn out to have been needless, and is then undone (undo.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.transport.tcp.congestion.base import CA_EVENT_COMPLETE_CWR, CA_EVENT_LOSS, CA_EVENT_TLP_RECOVERY
from usernet.transport.tcp.const import (
    FLAG_DATA_SACKED,
    FLAG_DSACK_TLP,
    FLAG_ECE,
    FLAG_LOST_RETRANS,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SND_UNA_ADVANCED,
    ICSK_TIME_RETRANS,
    MSEC,
    TCP_CA_CWR,
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
    TCP_INFINITE_SSTHRESH,
    TCP_NAGLE_OFF,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCPCB_SACKED_ACKED,
    after,
    before,
)
from usernet.transport.tcp.ecn import queue_cwr
from usernet.transport.tcp.mss import current_mss
from usernet.transport.tcp.output import packets_in_flight, push_pending_frames, rearm_rto, reset_xmit_timer, wnd_end
from usernet.transport.tcp.rack import (
    mark_skb_lost,
    newreno_mark_lost,
    rack_detect_loss,
    rack_mark_lost,
    rack_skb_timeout,
)
from usernet.transport.tcp.retransmit import xmit_retransmit_queue
from usernet.transport.tcp.undo import (
    any_retrans_done,
    init_undo,
    try_keep_open,
    try_undo_dsack,
    try_undo_loss,
    try_undo_partial,
    try_undo_recovery,
)

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

REXMIT_NONE: Final = 0
REXMIT_LOST: Final = 1
REXMIT_NEW: Final = 2


# -- Reno's emulation of SACK


def limit_reno_sacked(sk: TcpSock) -> bool:
    """No more duplicates than packets that can have caused them."""
    holes = min(max(sk.lost_out, 1), sk.packets_out)
    if sk.sacked_out + holes > sk.packets_out:
        sk.sacked_out = sk.packets_out - holes
        return True
    return False


def _check_reno_reordering(sk: TcpSock, acked: int) -> None:
    """More duplicates than packets can have caused: they were reordered. acked: packets that were acknowledged just now
    (Linux: tcp_check_reno_reordering)."""
    if limit_reno_sacked(sk):
        sk.reordering = min(sk.packets_out + acked, sk.tcp.tcp_max_reordering)
        sk.reord_seen += 1
        sk.net.mib.tcp_ext.TCPRenoReorder += 1


def add_reno_sack(sk: TcpSock, duplicates: int) -> None:
    """Duplicate acknowledgements: so many packets have left the network (Linux: tcp_add_reno_sack)."""
    if duplicates:
        prior = sk.sacked_out
        sk.sacked_out += duplicates
        _check_reno_reordering(sk, 0)
        if sk.sacked_out > prior:
            sk.delivered += sk.sacked_out - prior


def remove_reno_sacks(sk: TcpSock, acked: int) -> None:
    """`acked` packets were acknowledged: those duplicates are accounted for (Linux: tcp_remove_reno_sacks)."""
    if acked > 0:
        # One packet filled the hole, the others are the duplicates' cause.
        sk.delivered += max(acked - sk.sacked_out, 1)
        if acked - 1 >= sk.sacked_out:
            sk.sacked_out = 0
        else:
            sk.sacked_out -= acked - 1
    _check_reno_reordering(sk, max(acked, 0))


# -- the window


def init_cwnd_reduction(sk: TcpSock) -> None:
    """Start to reduce the window (Linux: tcp_init_cwnd_reduction)."""
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = 0
    sk.snd_cwnd_cnt = 0
    if sk.cwv is not None:
        sk.cwv.before_reduction(sk)
    sk.prior_cwnd = sk.snd_cwnd
    sk.prr_delivered = 0
    sk.prr_out = 0
    sk.snd_ssthresh = sk.ca.ssthresh(sk)
    if sk.ecn_flags:
        queue_cwr(sk)


def cwnd_reduction(sk: TcpSock, delivered: int, lost: int, flag: int) -> None:
    """Proportional rate reduction (RFC 9937; Linux: tcp_cwnd_reduction)."""
    if delivered <= 0 or not sk.prior_cwnd:
        return
    trace = sk.net.trace.tcp_cwnd_reduction_tp
    if trace.probes:
        trace.fire(sk, delivered, lost, flag)
    in_flight = packets_in_flight(sk)
    delta = sk.snd_ssthresh - in_flight
    sk.prr_delivered += delivered
    if delta < 0:
        count = (sk.snd_ssthresh * sk.prr_delivered + sk.prior_cwnd - 1) // sk.prior_cwnd - sk.prr_out
    else:
        count = max(sk.prr_delivered - sk.prr_out, delivered)
        if flag & FLAG_SND_UNA_ADVANCED and not lost:
            count += 1
        count = min(delta, count)
    # The fast retransmission itself is always sent.
    count = max(count, 0 if sk.prr_out else 1)
    sk.snd_cwnd = in_flight + count


def end_cwnd_reduction(sk: TcpSock) -> None:
    """The reduction is complete (Linux: tcp_end_cwnd_reduction)."""
    if sk.ca.has_cong_control:
        return
    if sk.snd_ssthresh < TCP_INFINITE_SSTHRESH and (sk.ca_state == TCP_CA_CWR or sk.undo_active):
        sk.snd_cwnd = sk.snd_ssthresh
        sk.snd_cwnd_stamp = sk.loop.now
        if sk.cwv is not None:
            sk.cwv.after_reduction(sk)
    sk.ca.cwnd_event(sk, CA_EVENT_COMPLETE_CWR)


def enter_cwr(sk: TcpSock) -> None:
    """Reduce the window for a reason other than loss (Linux: tcp_enter_cwr)."""
    sk.prior_ssthresh = 0
    if sk.ca_state < TCP_CA_CWR:
        sk.undo_marker = 0
        sk.undo_active = False
        init_cwnd_reduction(sk)
        sk.set_ca_state(TCP_CA_CWR)


def _try_to_open(sk: TcpSock, flag: int) -> None:
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0
    if flag & FLAG_ECE:
        enter_cwr(sk)
    if sk.ca_state != TCP_CA_CWR:
        try_keep_open(sk)


# -- the states


def enter_recovery(sk: TcpSock, ece_ack: bool) -> None:
    """Loss is evident: RECOVERY (Linux: tcp_enter_recovery)."""
    # The clock of an undo, and of giving up, starts with this recovery's first retransmission.
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0
    mib = sk.net.mib.tcp_ext
    if sk.sack_ok:
        mib.TCPSackRecovery += 1
    else:
        mib.TCPRenoRecovery += 1
    sk.prior_ssthresh = 0
    init_undo(sk)
    if sk.ca_state != TCP_CA_CWR and sk.ca_state != TCP_CA_RECOVERY:
        if not ece_ack:
            sk.prior_ssthresh = sk.current_ssthresh()
        init_cwnd_reduction(sk)
    sk.set_ca_state(TCP_CA_RECOVERY)


def enter_loss(sk: TcpSock) -> None:
    """The retransmission timer fired: LOSS (RFC 5681 section 3.1, RFC 6298; Linux: tcp_enter_loss)."""
    new_recovery = sk.ca_state < TCP_CA_RECOVERY
    _timeout_mark_lost(sk)
    # Once for each window.
    if (
        sk.ca_state <= TCP_CA_DISORDER
        or not after(sk.high_seq, sk.snd_una)
        or (sk.ca_state == TCP_CA_LOSS and not sk.icsk_retransmits)
    ):
        sk.prior_ssthresh = sk.current_ssthresh()
        sk.prior_cwnd = sk.snd_cwnd
        sk.snd_ssthresh = sk.ca.ssthresh(sk)
        sk.ca.cwnd_event(sk, CA_EVENT_LOSS)
        init_undo(sk)
    sk.snd_cwnd = packets_in_flight(sk) + 1
    sk.snd_cwnd_cnt = 0
    sk.snd_cwnd_stamp = sk.loop.now
    if sk.ca_state <= TCP_CA_DISORDER and sk.sacked_out >= sk.tcp.tcp_reordering:
        # So many duplicates, and still it took a time-out: the reordering was overestimated.
        sk.reordering = min(sk.reordering, sk.tcp.tcp_reordering)
    sk.set_ca_state(TCP_CA_LOSS)
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = 0
    if sk.ecn_flags:
        queue_cwr(sk)
    sk.frto = bool(sk.tcp.tcp_frto) and (new_recovery or bool(sk.icsk_retransmits)) and not sk.mtup.probe_size


def _timeout_mark_lost(sk: TcpSock) -> None:
    """After a time-out all is lost but what was sent just now (Linux: tcp_timeout_mark_lost)."""
    head = sk.rtx_queue.first
    reneged = head is not None and bool(head.sacked & TCPCB_SACKED_ACKED)
    if reneged:
        # The peer took back what it had (RFC 2018 section 8): forget all its SACKs.
        sk.net.mib.tcp_ext.TCPSACKReneging += 1
        sk.sacked_out = 0
        sk.is_sack_reneg = True
    elif not sk.sack_ok:
        sk.sacked_out = 0
    for skb in sk.rtx_queue:
        if reneged:
            if skb.sacked & TCPCB_SACKED_ACKED:
                skb.sacked &= ~TCPCB_SACKED_ACKED
        elif skb is not head and rack_skb_timeout(sk, skb.tx, 0) > 0:
            continue
        mark_skb_lost(sk, skb)
    sk.retransmit_hint = None


def simple_retransmit(sk: TcpSock) -> None:
    """The path takes less than was thought: send again what is too large, with no reduction (tcp_simple_retransmit)."""
    mss = current_mss(sk) if sk.state not in (TCP_SYN_SENT, TCP_SYN_RECV) else -1
    for skb in sk.rtx_queue:
        if (skb.gso_size or skb.len) > mss:
            mark_skb_lost(sk, skb)
    if not sk.lost_out:
        return
    if not sk.sack_ok:
        limit_reno_sacked(sk)
    non_congestion_loss_retransmit(sk)


def non_congestion_loss_retransmit(sk: TcpSock) -> None:
    """Send again what is marked lost for a reason that is not congestion (tcp_non_congestion_loss_retransmit)."""
    if sk.ca_state != TCP_CA_LOSS:
        sk.high_seq = sk.snd_nxt
        sk.snd_ssthresh = sk.current_ssthresh()
        sk.prior_ssthresh = 0
        sk.undo_marker = 0
        sk.undo_active = False
        sk.set_ca_state(TCP_CA_LOSS)
    xmit_retransmit_queue(sk)


def _check_sack_reneging(sk: TcpSock, flag: int) -> bool:
    """The peer acknowledges up to what it had selectively acknowledged, and no further: it may have dropped it."""
    if not flag & FLAG_SACK_RENEGING or not flag & FLAG_SND_UNA_ADVANCED:
        return False
    delay = max((sk.srtt_us >> 4) * 1000, 10 * MSEC)
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, delay)
    return True


def _identify_packet_loss(sk: TcpSock, flag: int) -> int:
    """Mark what is lost; returns the acknowledgement's flags as changed (Linux: tcp_identify_packet_loss)."""
    if sk.rtx_queue.first is None:
        return flag
    if not sk.sack_ok:
        newreno_mark_lost(sk, flag)
        return flag
    prior_retrans = sk.retrans_out
    if rack_mark_lost(sk):
        flag &= ~FLAG_SET_XMIT_TIMER
    if prior_retrans > sk.retrans_out:
        flag |= FLAG_LOST_RETRANS
    return flag


def update_rto_time(sk: TcpSock) -> None:
    """A recovery from time-outs is over: add how long it took (Linux: tcp_update_rto_time)."""
    stats = sk.rto_stats
    if stats.rto_stamp:
        stats.total_rto_time += (sk.loop.now - stats.rto_stamp) // MSEC
        stats.rto_stamp = 0


def _process_loss(sk: TcpSock, flag: int, duplicates: int) -> int:
    """An acknowledgement in state LOSS; returns REXMIT_* (Linux: tcp_process_loss)."""
    recovered = not before(sk.snd_una, sk.high_seq)
    if (flag & FLAG_SND_UNA_ADVANCED or sk.fastopen_pending) and try_undo_loss(sk, False):
        return REXMIT_NONE
    if sk.frto:
        # RFC 5682 section 3.1 step 3b: what was never retransmitted was delivered, so the time-out was spurious.
        if flag & FLAG_ORIG_SACK_ACKED and try_undo_loss(sk, True):
            return REXMIT_NONE
        if after(sk.snd_nxt, sk.high_seq):
            if flag & FLAG_DATA_SACKED or duplicates:
                sk.frto = False
        elif flag & FLAG_SND_UNA_ADVANCED and not recovered:
            sk.high_seq = sk.snd_nxt
            # Step 2b: try new data, once the window is updated.
            if sk.write_queue.first is not None and after(wnd_end(sk), sk.snd_nxt):
                return REXMIT_NEW
            sk.frto = False
    if recovered:
        try_undo_recovery(sk)
        return REXMIT_NONE
    if not sk.sack_ok:
        # A Reno duplicate says that a packet has left, but not in the window of the time-out.
        if after(sk.snd_nxt, sk.high_seq) and duplicates:
            add_reno_sack(sk, duplicates)
        elif flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
    return REXMIT_LOST


def fastretrans_alert(sk: TcpSock, prior_snd_una: int, duplicates: int, flag: int) -> tuple[int, int]:
    """An acknowledgement that is not plain: what it means (Linux: tcp_fastretrans_alert).

    Returns the acknowledgement's flags as changed, and REXMIT_*.
    """
    ece_ack = bool(flag & FLAG_ECE)
    if not sk.packets_out and sk.sacked_out:
        sk.sacked_out = 0
    if ece_ack:
        sk.prior_ssthresh = 0
    if _check_sack_reneging(sk, flag):
        return flag & ~FLAG_SET_XMIT_TIMER, REXMIT_NONE
    state = sk.ca_state
    if state == TCP_CA_OPEN:
        sk.retrans_stamp = 0
    elif not before(sk.snd_una, sk.high_seq):
        if state == TCP_CA_CWR:
            # One more acknowledgement than `high_seq`: the peer has seen CWR.
            if sk.snd_una != sk.high_seq:
                end_cwnd_reduction(sk)
                sk.set_ca_state(TCP_CA_OPEN)
        elif state == TCP_CA_RECOVERY:
            if not sk.sack_ok:
                sk.sacked_out = 0
            if try_undo_recovery(sk):
                return flag, REXMIT_NONE
            end_cwnd_reduction(sk)
    rexmit = REXMIT_NONE
    state = sk.ca_state
    if state == TCP_CA_RECOVERY:
        if not flag & FLAG_SND_UNA_ADVANCED:
            if not sk.sack_ok:
                add_reno_sack(sk, duplicates)
        elif try_undo_partial(sk, prior_snd_una):
            return flag, rexmit
        if try_undo_dsack(sk):
            _try_to_open(sk, flag)
        flag = _identify_packet_loss(sk, flag)
        if sk.ca_state != TCP_CA_RECOVERY:
            if not sk.lost_out:
                return flag, rexmit
            # An undo ended the recovery, but there is another loss.
            enter_recovery(sk, ece_ack)
        return flag, REXMIT_LOST
    if state == TCP_CA_LOSS:
        rexmit = _process_loss(sk, flag, duplicates)
        if sk.ca_state != TCP_CA_LOSS:
            update_rto_time(sk)
        flag = _identify_packet_loss(sk, flag)
        if not (sk.ca_state == TCP_CA_OPEN or flag & FLAG_LOST_RETRANS):
            return flag, rexmit
        # Out of LOSS by an undo, or a retransmission was lost: look on as in any other state.
    if not sk.sack_ok:
        if flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
        add_reno_sack(sk, duplicates)
    if sk.ca_state <= TCP_CA_DISORDER:
        try_undo_dsack(sk)
    flag = _identify_packet_loss(sk, flag)
    if not sk.lost_out:
        _try_to_open(sk, flag)
        return flag, rexmit
    if sk.ca_state < TCP_CA_CWR and sk.mtup.probe_size and sk.snd_una == sk.mtup.probe_seq_start:
        # Only the MTU probe was lost: no sign of congestion.
        sk.mtup.failed(sk)
        sk.snd_cwnd += 1
        simple_retransmit(sk)
        return flag, rexmit
    enter_recovery(sk, ece_ack)
    return flag, REXMIT_LOST


def xmit_recovery(sk: TcpSock, rexmit: int) -> None:
    """Retransmit, or send new data, as recovery decided (Linux: tcp_xmit_recovery)."""
    if rexmit == REXMIT_NONE or sk.state == TCP_SYN_SENT:
        return
    if rexmit == REXMIT_NEW:
        push_pending_frames(sk, current_mss(sk), TCP_NAGLE_OFF)
        if after(sk.snd_nxt, sk.high_seq):
            return
        sk.frto = False
    xmit_retransmit_queue(sk)


def reo_timeout(sk: TcpSock) -> None:
    """The reordering timer fired: what is late now is lost (RFC 8985 section 6.3; tcp_rack_reo_timeout)."""
    prior_in_flight = packets_in_flight(sk)
    lost = sk.lost
    rack_detect_loss(sk)
    if prior_in_flight != packets_in_flight(sk):
        if sk.ca_state != TCP_CA_RECOVERY:
            enter_recovery(sk, False)
            if not sk.ca.has_cong_control:
                cwnd_reduction(sk, 1, sk.lost - lost, 0)
        xmit_retransmit_queue(sk)
    if sk.icsk_pending != ICSK_TIME_RETRANS:
        rearm_rto(sk)


def process_tlp_ack(sk: TcpSock, ack: int, flag: int) -> None:
    """An acknowledgement after a loss probe (RFC 8985 section 7.4; Linux: tcp_process_tlp_ack)."""
    if before(ack, sk.tlp_high_seq):
        return
    if not sk.tlp_retrans:
        # The probe was new data: nothing to repair.
        sk.tlp_high_seq = 0
    elif flag & FLAG_DSACK_TLP:
        # The probe was a duplicate: nothing had been lost.
        sk.tlp_high_seq = 0
    elif after(ack, sk.tlp_high_seq):
        # No D-SACK, so the probe repaired a loss: reduce as recovery would have.
        sk.ca.cwnd_event(sk, CA_EVENT_TLP_RECOVERY)
        init_cwnd_reduction(sk)
        sk.set_ca_state(TCP_CA_CWR)
        end_cwnd_reduction(sk)
        try_keep_open(sk)
        sk.net.mib.tcp_ext.TCPLossProbeRecovery += 1
    elif not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        # A pure duplicate: the probe arrived a second time.
        sk.tlp_high_seq = 0
