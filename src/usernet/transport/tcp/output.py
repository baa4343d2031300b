"""TCP output: which segments may be sent now, and how large (Linux: tcp_write_xmit in net/ipv4/tcp_output.c).

    sendmsg → push → write_xmit: one super-segment after the other, as far as the congestion window, the receiver's
    window, Nagle, pacing and the queue below allow → transmit.transmit_skb: header and packet → the family's xmit.
    What was sent stays in the retransmission queue until it is acknowledged.

RFC 9293 section 3.8, RFC 1122 section 4.2.3.4 (silly windows), RFC 5681.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.net.pacing import SK_PACING_NEEDED, SK_PACING_NONE
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4, SKB_GSO_TCPV6, SKBuff
from usernet.transport.tcp import chrono
from usernet.transport.tcp.congestion.base import CA_EVENT_TX_START
from usernet.transport.tcp.const import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    MSEC,
    SEQ_MASK,
    TCP_CA_CWR,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
    TCP_CLOSE,
    TCP_NAGLE_CORK,
    TCP_NAGLE_PUSH,
    after,
)
from usernet.transport.tcp.cwnd import cwnd_validate
from usernet.transport.tcp.mss import current_mss
from usernet.transport.tcp.rate import rate_skb_sent
from usernet.transport.tcp.segment import TxInfo, fragment, grow, gso_max_payload, init_tso_segs
from usernet.transport.tcp.transmit import AF_INET, local_congestion, transmit_skb
from usernet.wire.tcp import FIN, PSH, TCP_CHECK_OFFSET, build_ts

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def wnd_end(sk: TcpSock) -> int:
    """The right edge of the window the peer granted."""
    return (sk.snd_una + sk.snd_wnd) & SEQ_MASK


def packets_in_flight(sk: TcpSock) -> int:
    """Packets that are in the network as far as is known (Linux: tcp_packets_in_flight)."""
    return sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out


def tso_segs(sk: TcpSock, mss: int) -> int:
    """How many segments a super-segment should have: what the pacing rate sends in a millisecond, and more on short
    paths, at least tcp_min_tso_segs (Linux: tcp_tso_autosize, tcp_tso_segs)."""
    if sk.auth is not None:
        # Each segment is signed for itself.
        return 1
    tcp = sk.tcp
    largest = gso_max_payload(sk)
    size = sk.pacing_rate >> 10
    shift = sk.min_rtt_us() >> tcp.tcp_tso_rtt_log
    if shift < 32:
        size += largest >> shift
    if size >= largest:
        return largest // mss or 1
    segments = max(size // mss, sk.ca.min_tso_segs(sk) or tcp.tcp_min_tso_segs)
    return min(segments, largest // mss or 1)


def _mss_split_point(sk: TcpSock, skb: SKBuff, mss: int, max_segs: int, nonagle: int) -> int:
    """How many bytes of the segment may be sent now, in whole MSS where possible (Linux: tcp_mss_split_point)."""
    window = (sk.snd_una + sk.snd_wnd - skb.seq) & SEQ_MASK
    max_len = mss * max_segs
    if max_len <= window and skb is not sk.write_queue.last:
        return max_len
    needed = min(skb.len, window)
    if max_len <= needed:
        return max_len
    partial = needed % mss
    # The part of an MSS at the end is Nagle's to judge.
    if nagle_check(partial != 0, sk, nonagle):
        return needed - partial
    return needed


def minshall_check(sk: TcpSock) -> bool:
    """Whether a small segment is under way (Minshall's variant of Nagle's algorithm)."""
    return after(sk.snd_sml, sk.snd_una) and not after(sk.snd_sml, sk.snd_nxt)


def nagle_check(partial: bool, sk: TcpSock, nonagle: int) -> bool:
    """Whether Nagle's algorithm holds the segment back (RFC 1122 section 4.2.3.4; Linux: tcp_nagle_check)."""
    return partial and (
        bool(nonagle & TCP_NAGLE_CORK) or (not nonagle and sk.packets_out != 0 and minshall_check(sk))
    )


def _nagle_test(sk: TcpSock, skb: SKBuff, mss: int, nonagle: int) -> bool:
    """Whether the segment may go as far as Nagle's algorithm is asked."""
    if nonagle & TCP_NAGLE_PUSH:
        return True
    if sk.urg_mode or skb.tcp_flags & FIN:
        return True
    return not nagle_check(skb.len < mss, sk, nonagle)


def _tso_should_defer(sk: TcpSock, skb: SKBuff, max_segs: int, limited: list[bool]) -> bool:
    """Whether to wait for a larger super-segment (Linux: tcp_tso_should_defer). limited: [by cwnd, by the window]."""
    if sk.ca_state >= TCP_CA_RECOVERY:
        return False
    now = sk.loop.now
    if now - sk.wstamp > MSEC:
        return False
    send_win = (sk.snd_una + sk.snd_wnd - skb.seq) & SEQ_MASK
    cong_win = (sk.snd_cwnd - packets_in_flight(sk)) * sk.mss_cache
    limit = min(send_win, cong_win)
    if limit >= max_segs * sk.mss_cache:
        return False
    if skb is not sk.write_queue.last and limit >= skb.len:
        return False
    divisor = sk.tcp.tcp_tso_win_divisor
    if divisor:
        if limit >= min(sk.snd_wnd, sk.snd_cwnd * sk.mss_cache) // divisor:
            return False
    elif limit > 3 * sk.mss_cache:
        return False
    head = sk.rtx_queue.first
    if head is None:
        return False
    # The next ACK should come soon enough to be worth waiting for.
    srtt = (sk.srtt_us >> 3) * 1000
    if head.tx.mstamp + srtt - now > min(srtt >> 1, MSEC):
        return False
    if cong_win < send_win:
        if cong_win <= skb.len:
            limited[0] = True
            return True
    elif send_win <= skb.len:
        limited[1] = True
        return True
    return not (skb.tcp_flags & FIN or skb.tx.eor)


def event_new_data_sent(sk: TcpSock, skb: SKBuff) -> None:
    """A segment was sent for the first time (Linux: tcp_event_new_data_sent)."""
    prior = sk.packets_out
    sk.snd_nxt = skb.end_seq
    sk.write_queue.unlink(skb)
    sk.rtx_queue.append(skb)
    if sk.highest_sack is None:
        sk.highest_sack = skb
    segments = skb.gso_segs
    sk.packets_out += segments
    if not prior or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        rearm_rto(sk)
    sk.net.mib.tcp_ext.TCPOrigDataSent += segments


def rearm_rto(sk: TcpSock) -> None:
    """Restart the retransmission timer, or stop it where nothing is under way (RFC 6298 section 5; tcp_rearm_rto)."""
    if sk.fastopen_pending:
        # The timer is the SYN+ACK's still.
        return
    if not sk.packets_out:
        sk.clear_xmit_timer()
        return
    rto = sk.rto
    if sk.icsk_pending == ICSK_TIME_REO_TIMEOUT or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        delta = rto_delta(sk)
        rto = max(delta, 1)
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, rto, True)


def rto_delta(sk: TcpSock) -> int:
    """Time (ns) until the RTO of the oldest segment, which may be past (Linux: tcp_rto_delta_us)."""
    head = sk.rtx_queue.first
    if head is None:
        return sk.rto
    mstamp: int = head.tx.mstamp
    return mstamp + sk.rto - sk.loop.now


def reset_xmit_timer(sk: TcpSock, what: int, when: int, pace_delay: bool = False) -> None:
    """Arm the retransmission timer `when` ns from now for `what`. pace_delay: behind what pacing holds back."""
    now = sk.loop.now
    if pace_delay and sk.wstamp > now:
        when += sk.wstamp - now
    sk.icsk_pending = what
    sk.retransmit_timer.mod(now + min(when, sk.rto_max))


def small_queue_full(sk: TcpSock, skb: SKBuff, factor: int) -> bool:
    """Whether enough of this socket waits in the device's queue (TCP small queues; Linux: tcp_small_queue_check)."""
    queued = sk.wmem_alloc
    if not queued:
        return False
    limit = max(2 * skb.truesize, sk.pacing_rate >> 10)
    if sk.pacing_status == SK_PACING_NONE:
        limit = min(limit, sk.tcp.tcp_limit_output_bytes)
    if queued > limit << factor:
        # A retransmission queue that is empty, or a single segment: never wait for nothing.
        if sk.rtx_queue.first is sk.rtx_queue.last:
            return False
        sk.tsq_throttled = True
        return True
    return False


def pacing_check(sk: TcpSock) -> bool:
    """Whether internal pacing holds the next segment back (Linux: tcp_pacing_check)."""
    if sk.pacing_status != SK_PACING_NEEDED or sk.wstamp <= sk.loop.now:
        return False
    timer = sk.pacing_timer
    if timer is None:
        timer = sk.new_pacing_timer()
    if not timer.pending:
        timer.mod(sk.wstamp)
    return True


def _transmit_burst(sk: TcpSock, mss: int, max_segs: int, nonagle: int, gather: bool) -> int:
    """Send the whole super-segments at the head of the queue that nothing speaks against, at a fraction of the cost of
    weighing each; returns how many packets they stand for. What `write_xmit` and `transmit_skb` do for them, with all
    that is the same for each done once.

    Only while nothing is unusual: no loss, no urgent data, nothing to report by SACK, no ECN, no pacing, and the
    device's queue is empty.
    """
    dst = sk.dst
    loop = sk.loop
    now = loop.now
    if (
        dst is None
        or sk.ca_state != TCP_CA_OPEN
        or not sk.tstamp_ok
        or sk.urg_mode
        or sk.auth is not None
        or sk.selective_acks
        or sk.duplicate_sack is not None
        or sk.pacing_status
        or sk.tx_marks
        or sk.ecn_flags
        or sk.ack_pending
        or sk.ack_quick
        or sk.wmem_alloc
        or sk.rcv_wup != sk.rcv_nxt
        or sk.rmem_alloc
        or sk.rcv_wnd < sk.rcv_ssthresh
        or not dst.valid()
    ):
        return 0
    queue = sk.write_queue
    rtx_queue = sk.rtx_queue
    sent_queue = sk.sent
    xmit = sk.af.xmit
    sport, dport, rcv_nxt, ts_recent, pseudo = sk.sport, sk.dport, sk.rcv_nxt, sk.ts_recent, sk.pseudo_base + 32
    tsval = (now // MSEC + sk.tsoffset) & SEQ_MASK
    wscale = sk.rcv_wscale
    field = min(sk.rcv_wnd + (1 << wscale) - 1, 65535 << wscale) >> wscale
    edge = sk.snd_una + sk.snd_wnd
    room = sk.snd_cwnd - (sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out)
    gso_type = SKB_GSO_TCPV4 if sk.family == AF_INET else SKB_GSO_TCPV6
    if sk.wstamp < now:
        sk.wstamp = now
    packets = size = 0
    idle = not sk.packets_out
    skb = queue.first
    while skb is not None:
        length = skb.len
        segments = length // mss
        if segments < 2 or segments > max_segs or segments > room or (edge - skb.end_seq) & 0x80000000:
            break
        if skb.next is None and (gather or room < max_segs or (edge - skb.seq - max_segs * mss) & 0x80000000):
            # The last of the queue may be better off with more (_tso_should_defer).
            break
        whole = segments * mss
        if whole != length:
            if skb.next is not None or not nagle_check(True, sk, nonagle):
                break
            # What is behind the last whole segment is Nagle's to hold back.
            fragment(sk, queue, skb, whole, mss)
            length = whole
        if idle and not packets:
            sk.ca.cwnd_event(sk, CA_EVENT_TX_START)
        skb.gso_size = mss
        skb.gso_segs = segments
        check = (pseudo + length) % 0xFFFF
        packet = SKBuff(
            build_ts(sport, dport, skb.seq, rcv_nxt, skb.tcp_flags | PSH, field, check, tsval, ts_recent)
        )
        frags = skb.frags
        packet.frags = frags[:] if frags is not None else None
        packet.data_len = length
        packet.len += length
        packet.truesize += length
        packet.transport_header = packet.csum_start = 0
        packet.ip_summed = CHECKSUM_PARTIAL
        packet.csum_offset = TCP_CHECK_OFFSET
        packet.gso_size = mss
        packet.gso_segs = segments
        packet.gso_type = gso_type
        sk.charge_send(packet)
        result = xmit(sk, packet, dst)
        if result and local_congestion(sk, result):
            break
        tx: TxInfo = skb.tx
        tx.mstamp = sk.wstamp
        rate_skb_sent(sk, skb, tx)
        sent_queue.append(tx)
        queue.popleft()
        rtx_queue.append(skb)
        if sk.highest_sack is None:
            sk.highest_sack = skb
        sk.snd_nxt = skb.end_seq
        sk.packets_out += segments
        room -= segments
        packets += segments
        size += length
        if result or sk.wmem_alloc:
            # The device's queue fills up: back to weighing.
            break
        skb = queue.first
    if packets:
        if idle:
            rearm_rto(sk)
        sk.lsndtime = now
        if now - sk.ack_lrcvtime < sk.ack_ato:
            sk.inc_pingpong()
        sk.data_segs_out += packets
        sk.segs_out += packets
        sk.bytes_sent += size
        mib = sk.net.mib
        mib.tcp.OutSegs += packets
        mib.tcp_ext.TCPOrigDataSent += packets
    return packets


def write_xmit(sk: TcpSock, mss: int, nonagle: int, push_one: int, gather: bool = False) -> bool:
    """Send what may be sent (Linux: tcp_write_xmit). push_one: 0, 1 for one segment, 2 for one past the window (TLP).
    gather: the last of the queue is to wait for more.

    True where nothing is under way though something waits: a probe timer is needed.
    """
    sent = 0
    is_cwnd_limited = False
    limited = [False, False]
    if sk.mtup.enabled and not push_one:
        from usernet.transport.tcp.mtu_probe import mtu_probe

        sent = mtu_probe(sk)
        if not sent:
            return False
        sent = max(sent, 0)
    max_segs = tso_segs(sk, mss)
    queue = sk.write_queue
    first = queue.first
    if first is not None and first.len > mss and not push_one:
        sent += _transmit_burst(sk, mss, max_segs, nonagle, gather)
    while True:
        skb = queue.first
        if skb is None or (gather and skb.next is None):
            break
        if sk.pacing_status and pacing_check(sk):
            break
        length = skb.len
        segments = init_tso_segs(skb, mss)
        in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
        cwnd = sk.snd_cwnd
        if in_flight >= cwnd:
            if push_one != 2:
                break
            quota = 1
        else:
            # At most half the window in one go, so that there is always something to be acknowledged.
            quota = min(max(cwnd >> 1, 1), cwnd - in_flight)
            quota = min(quota, max_segs)
        if length < quota * mss and skb.next is not None:
            grow(sk, queue, skb, quota * mss - length, mss)
            length = skb.len
            segments = skb.gso_segs
        window = sk.snd_una + sk.snd_wnd
        end = skb.end_seq if length <= mss else skb.seq + mss
        if (window - end) & 0x80000000:
            limited[1] = True
            break
        if (
            skb.next is not None
            and length == mss * segments
            and segments <= quota
            and not (window - skb.end_seq) & 0x80000000
            and not sk.urg_mode
        ):
            # A whole super-segment, with more behind it, and room for all of it: nothing to weigh.
            limit = length
        elif segments == 1:
            if not _nagle_test(sk, skb, mss, nonagle if skb is queue.last else TCP_NAGLE_PUSH):
                break
            limit = mss
        elif not push_one and _tso_should_defer(sk, skb, max_segs, limited):
            is_cwnd_limited = is_cwnd_limited or limited[0]
            break
        else:
            limit = mss if sk.urg_mode else _mss_split_point(sk, skb, mss, quota, nonagle)
        if length > limit:
            fragment(sk, queue, skb, limit, mss)
        if sk.wmem_alloc and small_queue_full(sk, skb, 0):
            break
        if transmit_skb(sk, skb):
            break
        event_new_data_sent(sk, skb)
        if skb.len < mss * skb.gso_segs:
            sk.snd_sml = skb.end_seq
        sent += skb.gso_segs
        if push_one:
            break
    if limited[1]:
        chrono.start(sk, chrono.RWND_LIMITED)
    elif sk.chrono_type == chrono.RWND_LIMITED:
        chrono.stop(sk, chrono.RWND_LIMITED)
    if packets_in_flight(sk) >= sk.snd_cwnd:
        is_cwnd_limited = True
    if sent or is_cwnd_limited:
        cwnd_validate(sk, is_cwnd_limited)
    if sent:
        if sk.ca_state == TCP_CA_CWR or sk.ca_state == TCP_CA_RECOVERY:
            sk.prr_out += sent
        if push_one != 2:
            schedule_loss_probe(sk, advancing=False)
        return False
    return not sk.packets_out and queue.first is not None


def push_pending_frames(sk: TcpSock, mss: int, nonagle: int) -> None:
    """Send what waits; where all is stuck, start probing (Linux: __tcp_push_pending_frames)."""
    if sk.state == TCP_CLOSE:
        return
    if write_xmit(sk, mss, nonagle, 0):
        sk.check_probe_timer()


def push_pending(sk: TcpSock) -> None:
    """As above, by the socket's own settings (Linux: tcp_push_pending_frames)."""
    if sk.write_queue.first is not None:
        push_pending_frames(sk, current_mss(sk), sk.nonagle)


def schedule_loss_probe(sk: TcpSock, advancing: bool) -> bool:
    """Arm a probe for two round trips from now, where the tail might be lost (RFC 8985 section 7.2)."""
    tcp = sk.tcp
    if sk.fastopen_pending or sk.ca_state not in (0, TCP_CA_CWR):
        return False
    if tcp.tcp_early_retrans not in (3, 4) or not sk.packets_out or not sk.sack_ok:
        return False
    if sk.srtt_us:
        timeout_us = sk.srtt_us >> 2
        if sk.packets_out == 1:
            timeout_us += sk.rto_min_us()
        else:
            timeout_us += 2_000
        timeout = timeout_us * 1000
    else:
        timeout = 1_000_000_000
    # Never later than the RTO would be.
    if advancing:
        rto_left = sk.rto
    else:
        rto_left = rto_delta(sk)
    if rto_left > 0:
        timeout = min(timeout, rto_left)
    reset_xmit_timer(sk, ICSK_TIME_LOSS_PROBE, timeout, True)
    return True


