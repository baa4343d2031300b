"""Incoming acknowledgements (Linux: tcp_ack, tcp_clean_rtx_queue, the RTT estimator).

RFC 9293 section 3.10.7.4 (fifth), RFC 5961 section 5, RFC 6298 (RTO), RFC 7323 section 4 (RTT from time stamps).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp import chrono, completion, ecn
from usernet.transport.tcp.accecn import process as accecn_process
from usernet.transport.tcp.const import (
    FLAG_ACK_MAYBE_DELAYED,
    FLAG_ACKED,
    FLAG_CA_ALERT,
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_DSACKING_ACK,
    FLAG_ECE,
    FLAG_FORWARD_PROGRESS,
    FLAG_NO_CHALLENGE_ACK,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_RETRANS_DATA_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SLOWPATH,
    FLAG_SND_UNA_ADVANCED,
    FLAG_SYN_ACKED,
    FLAG_UPDATE_TS_RECENT,
    FLAG_WIN_UPDATE,
    ICSK_TIME_PROBE0,
    MSEC,
    SEQ_MASK,
    TCP_CA_CWR,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)
from usernet.transport.tcp.cwnd import slow_start_after_idle_check
from usernet.transport.tcp.mss import sync_mss
from usernet.transport.tcp.output import (
    packets_in_flight,
    rearm_rto,
    schedule_loss_probe,
    wnd_end,
)
from usernet.transport.tcp.rack import rack_advance, rack_update_reo_wnd
from usernet.transport.tcp.rate import RateSample, rate_gen, rate_skb_delivered
from usernet.transport.tcp.recovery import (
    REXMIT_NONE,
    cwnd_reduction,
    fastretrans_alert,
    process_tlp_ack,
    remove_reno_sacks,
    xmit_recovery,
)
from usernet.transport.tcp.sack import SackState, check_sack_reordering, highest_sack_seq, sacktag_write_queue
from usernet.transport.tcp.segment import TxInfo, trim_head
from usernet.transport.tcp.undo import skb_spurious_retrans
from usernet.wire.tcp import ECE, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


# -- round-trip time


def rtt_estimator(sk: TcpSock, rtt_us: int) -> None:
    """Take in a sample (µs): Jacobson's mean and deviation, the deviation's maximum of each round trip counting
    (RFC 6298 section 2; Linux: tcp_rtt_estimator). `srtt_us` is 8 times the mean, `mdev_us` 4 times the deviation."""
    m = rtt_us
    srtt = sk.srtt_us
    if srtt:
        m -= srtt >> 3
        srtt += m
        if m < 0:
            m = -m
            m -= sk.mdev_us >> 2
            # A falling RTT must not raise the deviation as fast.
            if m > 0:
                m >>= 3
        else:
            m -= sk.mdev_us >> 2
        sk.mdev_us += m
        if sk.mdev_us > sk.mdev_max_us:
            sk.mdev_max_us = sk.mdev_us
            if sk.mdev_max_us > sk.rttvar_us:
                sk.rttvar_us = sk.mdev_max_us
        if after(sk.snd_una, sk.rtt_seq):
            if sk.mdev_max_us < sk.rttvar_us:
                sk.rttvar_us -= (sk.rttvar_us - sk.mdev_max_us) >> 2
            sk.rtt_seq = sk.snd_nxt
            sk.mdev_max_us = sk.rto_min_us()
    else:
        srtt = m << 3
        sk.mdev_us = m << 1
        sk.rttvar_us = max(sk.mdev_us, sk.rto_min_us())
        sk.mdev_max_us = sk.rttvar_us
        sk.rtt_seq = sk.snd_nxt
    sk.srtt_us = max(1, srtt)


def set_rto(sk: TcpSock) -> None:
    """RTO = mean + 4 deviations (RFC 6298 section 2.3; Linux: tcp_set_rto)."""
    sk.rto = min(((sk.srtt_us >> 3) + sk.rttvar_us) * 1000, sk.rto_max)


def update_pacing_rate(sk: TcpSock) -> None:
    """The rate to pace and to size super-segments by: twice the window a round trip in slow start, 1.2 times in
    congestion avoidance (Linux: tcp_update_pacing_rate). Bytes per second."""
    tcp = sk.tcp
    cwnd = sk.snd_cwnd
    rate = sk.mss_cache * 8_000_000
    ratio = tcp.tcp_pacing_ss_ratio if cwnd < sk.snd_ssthresh >> 1 else tcp.tcp_pacing_ca_ratio
    rate = rate * ratio // 100 * max(cwnd, sk.packets_out)
    if sk.srtt_us:
        rate //= sk.srtt_us
    limit = sk.max_pacing_rate
    sk.pacing_rate = min(rate, limit) if limit else rate


def _update_rtt(
    sk: TcpSock, flag: int, seq_rtt_us: int, sack_rtt_us: int, ca_rtt_us: int, sample: RateSample
) -> bool:
    """Choose the sample an acknowledgement gives, and take it in (Linux: tcp_ack_update_rtt)."""
    if seq_rtt_us < 0:
        seq_rtt_us = sack_rtt_us
    # A retransmitted segment's own time is ambiguous; the echoed time stamp is not.
    if seq_rtt_us < 0 and sk.saw_tstamp and sk.rx_tsecr and flag & FLAG_ACKED:
        delta = (sk.loop.now // MSEC - (sk.rx_tsecr - sk.tsoffset)) & SEQ_MASK
        if delta < 0x7FFFFFFF // 1000:
            seq_rtt_us = ca_rtt_us = max(delta, 1) * 1000 if delta else 1000
    sample.rtt_us = ca_rtt_us
    if seq_rtt_us < 0:
        return False
    sk.update_min_rtt(ca_rtt_us, bool(flag & FLAG_ACK_MAYBE_DELAYED))
    rtt_estimator(sk, seq_rtt_us)
    set_rto(sk)
    sk.backoff = 0
    return True


# -- the retransmission queue


def clean_rtx_queue(
    sk: TcpSock, ack_skb: SKBuff, prior_fack: int, prior_snd_una: int, state: SackState, flag_in: int
) -> int:
    """Take what is acknowledged off the queue; returns FLAG_* (Linux: tcp_clean_rtx_queue)."""
    queue = sk.rtx_queue
    snd_una = sk.snd_una
    now = sk.loop.now
    first_ackt = last_ackt = 0
    fully_acked = True
    reord = sk.snd_nxt
    flag = 0
    acked_packets = 0
    prior_sacked = sk.sacked_out
    is_sack = sk.sack_ok
    marks = sk.tx_marks
    skb = queue.first
    while skb is not None:
        sacked = skb.sacked
        start = skb.seq
        count = skb.gso_segs
        tx: TxInfo = skb.tx
        if (snd_una - skb.end_seq) & 0x80000000:
            if count == 1 or not after(snd_una, start):
                break
            trim_head(sk, skb, (snd_una - start) & SEQ_MASK)
            count -= skb.gso_segs
            if not count:
                break
            fully_acked = False
        if sacked & TCPCB_RETRANS:
            if sacked & TCPCB_SACKED_RETRANS:
                sk.retrans_out -= count
            flag |= FLAG_RETRANS_DATA_ACKED
        elif not sacked & TCPCB_SACKED_ACKED:
            last_ackt = tx.mstamp
            if not first_ackt:
                first_ackt = last_ackt
            if (start - reord) & 0x80000000:
                reord = start
            if not (sk.high_seq - skb.end_seq) & 0x80000000:
                flag |= FLAG_ORIG_SACK_ACKED
        if sacked & TCPCB_SACKED_ACKED:
            sk.sacked_out -= count
            # They were counted when they were reported, and are part of what `snd_una` advances by.
            state.delivered_bytes -= skb.len
        elif is_sack:
            sk.delivered += count
            if not sacked & TCPCB_RETRANS or not skb_spurious_retrans(sk, skb):
                rack_advance(sk, sacked, skb.end_seq, tx.mstamp)
        if sacked & TCPCB_LOST:
            sk.lost_out -= count
        sk.packets_out -= count
        acked_packets += count
        rate_skb_delivered(sk, skb, state.rate)
        if not skb.tcp_flags & SYN:
            flag |= FLAG_DATA_ACKED
        else:
            flag |= FLAG_SYN_ACKED
            sk.retrans_stamp = 0
        if not fully_acked:
            break
        following = skb.next
        if sk.retransmit_hint is skb:
            sk.retransmit_hint = None
        if sk.highest_sack is skb:
            sk.highest_sack = following
        if marks and tx.mark is not None:
            completion.acknowledged(sk, skb, ack_skb, prior_snd_una)
            completion.freed(skb)
        queue.popleft()
        sk.sent.remove(tx)
        sk.wmem_queued -= skb.truesize
        skb = following
    if skb is None:
        chrono.stop(sk, chrono.BUSY)
    elif marks:
        completion.acknowledged(sk, skb, ack_skb, prior_snd_una)
    if sk.urg_mode and not after(sk.snd_up, snd_una):
        sk.urg_mode = False
    if skb is not None and skb.sacked & TCPCB_SACKED_ACKED:
        flag |= FLAG_SACK_RENEGING
    seq_rtt_us = sack_rtt_us = ca_rtt_us = -1
    if first_ackt and not flag & FLAG_RETRANS_DATA_ACKED:
        seq_rtt_us = (now - first_ackt) // 1000
        ca_rtt_us = (now - last_ackt) // 1000
        if (
            acked_packets == 1
            and fully_acked
            and not prior_sacked
            and (snd_una - prior_snd_una) & SEQ_MASK < sk.mss_cache
            and state.rate.prior_delivered + 1 == sk.delivered
            and not flag & FLAG_SYN_ACKED
        ):
            # A single segment, less than full, alone for a round trip: its acknowledgement was probably delayed.
            flag |= FLAG_ACK_MAYBE_DELAYED
    if state.first_sackt:
        sack_rtt_us = (now - state.first_sackt) // 1000
        ca_rtt_us = (now - state.last_sackt) // 1000
    updated = _update_rtt(sk, flag, seq_rtt_us, sack_rtt_us, ca_rtt_us, state.rate)
    if flag & FLAG_ACKED:
        flag |= FLAG_SET_XMIT_TIMER
        state.delivered_bytes += ((snd_una if skb is None else skb.seq) - prior_snd_una) & SEQ_MASK
        mtup = sk.mtup
        if mtup.probe_size and not after(mtup.probe_seq_end, snd_una):
            mtup.succeeded(sk)
        if not is_sack:
            remove_reno_sacks(sk, acked_packets)
            if flag & FLAG_RETRANS_DATA_ACKED:
                flag &= ~FLAG_ORIG_SACK_ACKED
        elif before(reord, prior_fack):
            # A hole that was never retransmitted has been filled: reordering.
            check_sack_reordering(sk, reord, False)
    elif skb is not None and updated and sack_rtt_us >= 0:
        first: TxInfo = skb.tx
        if sack_rtt_us > (now - first.mstamp) // 1000:
            flag |= FLAG_SET_XMIT_TIMER
    if (acked_packets or state.sack_delivered) and sk.ca_ready:
        sk.ca.pkts_acked(sk, acked_packets, ca_rtt_us, packets_in_flight(sk))
    return flag


def _update_window(sk: TcpSock, skb: SKBuff, window: int, ack: int) -> int:
    """Take in the window of an acknowledgement; returns FLAG_* (RFC 9293 section 3.10.7.4; tcp_ack_update_window)."""
    flag = 0
    if not skb.tcp_flags & SYN:
        window <<= sk.snd_wscale
    if (
        after(ack, sk.snd_una)
        or after(skb.seq, sk.snd_wl1)
        or (skb.seq == sk.snd_wl1 and (window > sk.snd_wnd or not window))
    ):
        flag = FLAG_WIN_UPDATE
        sk.snd_wl1 = skb.seq
        if sk.snd_wnd != window:
            sk.snd_wnd = window
            if sk.write_queue.first is not None:
                slow_start_after_idle_check(sk)
            if window > sk.max_window:
                sk.max_window = window
                sync_mss(sk, sk.pmtu_cookie)
    _advance_snd_una(sk, ack)
    return flag


def _advance_snd_una(sk: TcpSock, ack: int) -> None:
    sk.bytes_acked += (ack - sk.snd_una) & SEQ_MASK
    sk.snd_una = ack


def _ack_probe(sk: TcpSock) -> None:
    """A window update while probing: stop, or go on later (Linux: tcp_ack_probe)."""
    head = sk.write_queue.first
    if head is None:
        return
    if not after(head.end_seq, wnd_end(sk)):
        sk.backoff = 0
        sk.probes_tstamp = 0
        if sk.icsk_pending == ICSK_TIME_PROBE0:
            sk.clear_xmit_timer()
    else:
        sk.arm_probe0(sk.clamp_probe0_to_user_timeout(sk.probe0_when()))


def _set_xmit_timer(sk: TcpSock) -> None:
    if not schedule_loss_probe(sk, advancing=True):
        rearm_rto(sk)


def tcp_ack(sk: TcpSock, skb: SKBuff, window: int, flag: int) -> int:
    """Process the acknowledgement of a segment (Linux: tcp_ack).

    window: the header's field. flag: FLAG_* of the caller. Returns 1 where it was good, 0 where it was old, and minus a
    DropReason where the segment must be dropped.
    """
    prior_snd_una = sk.snd_una
    ack = skb.ack_seq
    if (ack - prior_snd_una) & 0x80000000:
        # RFC 5961 section 5.2: not further back than the peer's largest window.
        limit = min(sk.max_window, sk.bytes_acked)
        if before(ack, (prior_snd_una - limit) & SEQ_MASK):
            if not flag & FLAG_NO_CHALLENGE_ACK:
                sk.send_challenge_ack()
            return -DropReason.TCP_TOO_OLD_ACK
        return _old_ack(sk, skb, prior_snd_una, flag)
    if (sk.snd_nxt - ack) & 0x80000000:
        # RFC 9293 section 3.10.7.4: of what was never sent. Say where we are.
        if not flag & FLAG_NO_CHALLENGE_ACK:
            sk.send_challenge_ack()
        return -DropReason.TCP_ACK_UNSENT_DATA
    is_sack_reneg = sk.is_sack_reneg
    prior_packets = sk.packets_out
    delivered = sk.delivered
    lost = sk.lost
    if ack != prior_snd_una:
        flag |= FLAG_SND_UNA_ADVANCED
        sk.icsk_retransmits = 0
    prior_fack = highest_sack_seq(sk)
    sample = RateSample()
    sample.prior_in_flight = packets_in_flight(sk)
    state = SackState(sample)
    if flag & FLAG_UPDATE_TS_RECENT:
        flag |= sk.replace_ts_recent(skb.seq)
    mib = sk.net.mib.tcp_ext
    if flag & (FLAG_SLOWPATH | FLAG_SND_UNA_ADVANCED) == FLAG_SND_UNA_ADVANCED:
        sk.snd_wl1 = skb.seq
        sk.bytes_acked += (ack - prior_snd_una) & SEQ_MASK
        sk.snd_una = ack
        flag |= FLAG_WIN_UPDATE
        mib.TCPHPAcks += 1
    else:
        if skb.seq != skb.end_seq:
            flag |= FLAG_DATA
        else:
            mib.TCPPureAcks += 1
        flag |= _update_window(sk, skb, window, ack)
        sacks = sk.rx_sacks
        if sacks:
            flag |= sacktag_write_queue(sk, ack, sacks, prior_snd_una, state)
            sk.delivered += state.sack_delivered
    accurate = False
    if sk.ecn_flags:
        accurate = ecn.mode_accecn(sk.ecn_flags)
        if skb.tcp_flags & (ECE | SYN) == ECE and ecn.mode_rfc3168(sk.ecn_flags):
            flag |= FLAG_ECE
        ecn.accept_cwr(sk, skb)
    sk.err_soft = 0
    sk.probes_out = 0
    sk.rcv_tstamp = sk.loop.now
    rexmit = REXMIT_NONE
    if not prior_packets:
        if accurate:
            flag = accecn_process(sk, skb, sk.delivered - delivered, 0, flag)
        if sk.ca.has_in_ack_event and sk.ca_ready:
            sk.ca.in_ack_event(sk, flag)
        if flag & FLAG_DSACKING_ACK:
            flag, rexmit = fastretrans_alert(sk, prior_snd_una, 0, flag)
        _ack_probe(sk)
        if sk.tlp_high_seq:
            process_tlp_ack(sk, ack, flag)
        return 1
    flag |= clean_rtx_queue(sk, skb, prior_fack, prior_snd_una, state, flag)
    rack_update_reo_wnd(sk, sample)
    delivered_ce = sk.delivered_ce
    if accurate:
        flag = accecn_process(sk, skb, sk.delivered - delivered, state.delivered_bytes, flag)
    elif flag & FLAG_ECE:
        # Classic ECN: all that a marked acknowledgement acknowledges counts.
        sk.delivered_ce = delivered_ce + sk.delivered - delivered
    if sk.ca.has_in_ack_event and sk.ca_ready:
        sk.ca.in_ack_event(sk, flag)
    if sk.tlp_high_seq:
        process_tlp_ack(sk, ack, flag)
    if not flag & FLAG_NOT_DUP or flag & FLAG_CA_ALERT or sk.ca_state != TCP_CA_OPEN:
        duplicates = 0
        if not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DSACKING_ACK):
            duplicates = max(1, skb.gso_segs) if not flag & FLAG_DATA else 1
        flag, rexmit = fastretrans_alert(sk, prior_snd_una, duplicates, flag)
    if flag & FLAG_SET_XMIT_TIMER:
        _set_xmit_timer(sk)
    if flag & FLAG_FORWARD_PROGRESS or not flag & FLAG_NOT_DUP:
        dst = sk.dst
        if dst is not None:
            dst.confirm()
    if flag & FLAG_ECE:
        if not accurate:
            # What duplicates without SACK stand for is counted by the state machine.
            sk.delivered_ce = delivered_ce + sk.delivered - delivered
        sample.is_ece = True
        mib.TCPDeliveredCE += sk.delivered_ce - delivered_ce
    delivered = sk.delivered - delivered
    mib.TCPDelivered += delivered
    sample.is_ack_delayed = bool(flag & FLAG_ACK_MAYBE_DELAYED)
    rate_gen(sk, delivered, sk.lost - lost, is_sack_reneg, sample)
    _cong_control(sk, ack, delivered, flag, sample)
    xmit_recovery(sk, rexmit)
    return 1


def _old_ack(sk: TcpSock, skb: SKBuff, prior_snd_una: int, flag: int) -> int:
    """An acknowledgement that was overtaken: only its SACKs are news."""
    sacks = sk.rx_sacks
    # It can bring new data all the same.
    if flag & FLAG_UPDATE_TS_RECENT:
        sk.replace_ts_recent(skb.seq)
    if sacks:
        state = SackState(RateSample())
        flag |= sacktag_write_queue(sk, skb.ack_seq, sacks, prior_snd_una, state)
        _, rexmit = fastretrans_alert(sk, prior_snd_una, 0, flag)
        xmit_recovery(sk, rexmit)
    return 0


def _cong_control(sk: TcpSock, ack: int, delivered: int, flag: int, sample: RateSample) -> None:
    """Let the window follow (Linux: tcp_cong_control)."""
    ca = sk.ca
    if not sk.ca_ready:
        # The acknowledgement of a SYN: the controller starts when the connection is there.
        update_pacing_rate(sk)
        return
    if ca.has_cong_control:
        ca.cong_control(sk, ack, flag, sample)
        return
    if sk.ca_state in (TCP_CA_CWR, TCP_CA_RECOVERY):
        cwnd_reduction(sk, delivered, sample.losses, flag)
    elif flag & FLAG_FORWARD_PROGRESS if sk.reordering > sk.tcp.tcp_reordering else flag & FLAG_DATA_ACKED:
        # Under high reordering a SACK counts as progress; else only a cumulative acknowledgement.
        ca.cong_avoid(sk, ack, delivered)
        sk.snd_cwnd_stamp = sk.loop.now
        if sk.cwv is not None:
            sk.cwv.acked(sk)
    update_pacing_rate(sk)
