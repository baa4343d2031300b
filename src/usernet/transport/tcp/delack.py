"""When to acknowledge: at once, later, or several at a time (Linux: __tcp_ack_snd_check, tcp_send_delayed_ack,
tcp_event_data_recv). RFC 1122 section 4.2.3.2, RFC 5681 section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import (
    ICSK_ACK_NOW,
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    MSEC,
    SEC,
    SEQ_MASK,
    TCP_ATO_MIN,
    TCP_DELACK_MAX,
    TCP_FASTRETRANS_THRESH,
    TCP_MAX_QUICKACKS,
    after,
    before,
)
from usernet.transport.tcp.ofo import dsack_set
from usernet.transport.tcp.transmit import send_ack
from usernet.transport.tcp.window import choose_window, grow_window, measure_rcv_mss, rcv_rtt_measure

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def incr_quickack(sk: TcpSock, limit: int) -> None:
    """Acknowledge the next segments at once: half a window of them, at most `limit` (Linux: tcp_incr_quickack)."""
    count = sk.rcv_wnd // (2 * sk.rcv_mss) or 2
    sk.ack_quick = max(sk.ack_quick, min(count, limit))


def enter_quickack_mode(sk: TcpSock, limit: int) -> None:
    """The peer needs acknowledgements now: it is starting, or repairs a loss (Linux: tcp_enter_quickack_mode)."""
    incr_quickack(sk, limit)
    sk.exit_pingpong()
    sk.ack_ato = TCP_ATO_MIN


def send_delayed_ack(sk: TcpSock) -> None:
    """Acknowledge later, with data if there is any until then (RFC 1122 section 4.2.3.2; tcp_send_delayed_ack)."""
    ato = sk.ack_ato
    now = sk.loop.now
    if ato > TCP_ATO_MIN:
        longest = SEC // 2
        if sk.in_pingpong() or sk.ack_pending & ICSK_ACK_PUSHED:
            longest = TCP_DELACK_MAX
        if sk.srtt_us:
            longest = min(longest, max((sk.srtt_us >> 3) * 1000, TCP_ATO_MIN))
        ato = min(ato, longest)
    # Before the peer's own least time-out could be over (Linux: tcp_delack_max).
    ato = min(ato, max(sk.rto_min_us() * 1000, 2 * MSEC) - MSEC)
    ato = min(ato, sk.params.delack_max)
    timeout = now + ato
    timer = sk.delack_timer
    if timer.pending:
        # It was planned before: if that is nearly due, now; never later than planned.
        if timer.deadline <= now + (ato >> 2):
            send_ack(sk)
            return
        timeout = min(timeout, timer.deadline)
    sk.ack_pending |= ICSK_ACK_SCHED
    timer.mod(timeout)


def ack_snd_check(sk: TcpSock, ofo_possible: bool) -> None:
    """Acknowledge now, later, or compressed with others (Linux: __tcp_ack_snd_check)."""
    rcv_nxt = sk.rcv_nxt
    if (
        (
            (rcv_nxt - sk.rcv_wup) & SEQ_MASK > sk.rcv_mss
            and ((rcv_nxt - sk.copied_seq) & SEQ_MASK < sk.rcvlowat or choose_window(sk) >= sk.rcv_wnd)
        )
        or sk.ack_pending & ICSK_ACK_NOW
        or (sk.ack_quick and not sk.in_pingpong())
        or sk.dst_quick_ack
    ):
        send_ack(sk)
        return
    if not ofo_possible or not sk.ofo:
        send_delayed_ack(sk)
        return
    tcp = sk.tcp
    if not sk.sack_ok or sk.compressed_ack >= tcp.tcp_comp_sack_nr:
        send_ack(sk)
        return
    if sk.compressed_ack_rcv_nxt != rcv_nxt:
        sk.compressed_ack_rcv_nxt = rcv_nxt
        sk.dup_ack_counter = 0
    if sk.dup_ack_counter < TCP_FASTRETRANS_THRESH:
        # The first three are what a fast retransmission needs.
        sk.dup_ack_counter += 1
        send_ack(sk)
        return
    sk.compressed_ack += 1
    timer = sk.comp_sack_timer
    if timer is None:
        timer = sk.new_comp_sack_timer()
    if not timer.pending:
        rtt = sk.rcv_rtt_us
        if sk.srtt_us and sk.srtt_us < rtt:
            rtt = sk.srtt_us
        timer.mod(sk.loop.now + min(tcp.tcp_comp_sack_delay_ns, (rtt >> 3) * 1000 // 20))


def send_dupack(sk: TcpSock, skb: SKBuff) -> None:
    """Answer a segment that is no use: what is expected, and that this was a duplicate (Linux: tcp_send_dupack)."""
    if skb.end_seq != skb.seq and before(skb.seq, sk.rcv_nxt):
        sk.net.mib.tcp_ext.DelayedACKLost += 1
        if sk.ecn_flags:
            from usernet.transport.tcp.ecn import spurious_retransmission

            spurious_retransmission(sk, skb)
        enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
        if sk.sack_ok and sk.tcp.tcp_dsack:
            end = sk.rcv_nxt if after(skb.end_seq, sk.rcv_nxt) else skb.end_seq
            dsack_set(sk, skb.seq, end)
    send_ack(sk)


def event_data_recv(sk: TcpSock, skb: SKBuff) -> None:
    """Data arrived: the delayed-ACK engine, the peer's segment size, the window (Linux: tcp_event_data_recv)."""
    sk.ack_pending |= ICSK_ACK_SCHED
    measure_rcv_mss(sk, skb)
    rcv_rtt_measure(sk)
    now = sk.loop.now
    if not sk.ack_ato:
        incr_quickack(sk, TCP_MAX_QUICKACKS)
        sk.ack_ato = TCP_ATO_MIN
    else:
        gap = now - sk.ack_lrcvtime
        if gap <= TCP_ATO_MIN // 2:
            sk.ack_ato = (sk.ack_ato >> 1) + TCP_ATO_MIN // 2
        elif gap < sk.ack_ato:
            sk.ack_ato = min((sk.ack_ato >> 1) + gap, sk.rto)
        elif gap > sk.rto:
            # A long pause: the sender has probably restarted its window.
            incr_quickack(sk, TCP_MAX_QUICKACKS)
    sk.ack_lrcvtime = now
    if sk.ecn_flags:
        from usernet.transport.tcp.ecn import data_check

        data_check(sk, skb)
    if skb.len >= 128 and sk.rcv_ssthresh < sk.window_clamp:
        grow_window(sk, skb, True)
