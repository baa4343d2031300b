"""TCP input: a segment for a connection (Linux: net/ipv4/tcp_input.c).

    Tcp.receive → rcv_established: the fast path for what was predicted (the next data, or a pure acknowledgement);
                  else the slow path: options, PAWS, sequence numbers, RST and SYN (validate_incoming), then the
                  acknowledgement (ack.py), urgent data, and the data itself (data_queue).
               → rcv_state_process for all other states.

RFC 9293 section 3.10.7, RFC 5961 (blind attacks), RFC 7323 (PAWS), RFC 1122 section 4.2.3.2 (delayed ACKs).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import RCV_SHUTDOWN, SEND_SHUTDOWN
from usernet.transport.tcp.ack import set_rto, tcp_ack, update_pacing_rate
from usernet.transport.tcp.const import (
    FLAG_DATA,
    FLAG_NO_CHALLENGE_ACK,
    FLAG_SLOWPATH,
    FLAG_UPDATE_TS_RECENT,
    ICSK_ACK_NOMEM,
    ICSK_ACK_NOW,
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    MSEC,
    SEC,
    SEQ_MASK,
    TCP_ATO_MIN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_DELACK_MAX,
    TCP_ESTABLISHED,
    TCP_FASTRETRANS_THRESH,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_MAX_QUICKACKS,
    TCP_MAX_WSCALE,
    TCP_PAWS_24DAYS,
    TCP_PAWS_WINDOW,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCP_TIMEOUT_MIN_US,
    TCP_TIMEWAIT_LEN,
    TCP_URG_NOTYET,
    TCP_URG_VALID,
    after,
    before,
)
from usernet.transport.tcp.ofo import data_queue_ofo, dsack_set, ofo_queue, prune_queue, sack_remove
from usernet.transport.tcp.output import push_pending, send_ack, send_synack, sync_mss
from usernet.transport.tcp.window import (
    choose_window,
    grow_window,
    init_buffer_space,
    init_rcv_mss,
    measure_rcv_mss,
    rcv_rtt_measure,
    rcv_rtt_measure_ts,
    receive_window,
)
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.wire.tcp import TcpHeader


# -- acknowledging


def in_quickack_mode(sk: TcpSock) -> bool:
    """Whether each segment is acknowledged at once (Linux: tcp_in_quickack_mode)."""
    return sk.dst_quick_ack or (sk.ack_quick > 0 and not sk.in_pingpong())


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
    ato = min(ato, sk.delack_max)
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
    if skb.len >= 128:
        grow_window(sk, skb, True)


# -- time stamps


def replace_ts_recent(sk: TcpSock, seq: int) -> None:
    """Keep the time stamp of a segment at the left edge (RFC 7323 section 4.3; Linux: tcp_replace_ts_recent)."""
    if sk.saw_tstamp and not after(seq, sk.rcv_wup):
        # An acknowledgement that was overtaken must not take the clock back.
        if (sk.rx_tsval - sk.ts_recent) & 0x80000000 == 0 or sk.loop.now - sk.ts_recent_stamp >= TCP_PAWS_24DAYS * SEC:
            sk.ts_recent = sk.rx_tsval
            sk.ts_recent_stamp = sk.loop.now


def paws_reject(ts_recent: int, stamp: int, tsval: int, now: int) -> bool:
    """Whether a segment is from the past (RFC 7323 section 5; Linux: tcp_paws_check). stamp, now: ns."""
    if (ts_recent - tsval + 0x80000000) & SEQ_MASK <= TCP_PAWS_WINDOW + 0x80000000:
        return False
    if now - stamp >= TCP_PAWS_24DAYS * SEC:
        return False
    return ts_recent != 0


def _disordered_ack(sk: TcpSock, skb: SKBuff) -> bool:
    """Whether a segment fails PAWS only because bare acknowledgements were reordered (Linux: tcp_disordered_ack)."""
    if skb.seq != skb.end_seq or skb.seq != sk.rcv_nxt or skb.ack_seq != sk.snd_una:
        return False
    behind = (sk.ts_recent - sk.rx_tsval) & SEQ_MASK
    return behind <= sk.rto * 1024 // SEC


def parse_options(sk: TcpSock, skb: SKBuff, doff: int) -> bool:
    """Read a segment's time stamp and SACK blocks into the socket; whether it has a time stamp (tcp_fast_parse_options)."""
    sk.rx_sacks = None
    if doff == wire.TCP_HLEN:
        sk.saw_tstamp = False
        return False
    start = skb.transport_header + wire.TCP_HLEN
    if doff == wire.TCP_HLEN + wire.TCPOLEN_TSTAMP_ALIGNED and sk.tstamp_ok:
        stamps = wire.parse_ts(skb.head, start)
        if stamps is not None:
            sk.rx_tsval, sk.rx_tsecr = stamps
            sk.saw_tstamp = True
            return True
    options = wire.parse_options(skb.head, start, skb.transport_header + doff)
    if sk.tstamp_ok and options.has_ts:
        sk.saw_tstamp = True
        sk.rx_tsval = options.tsval
        sk.rx_tsecr = options.tsecr
    else:
        sk.saw_tstamp = False
    if sk.sack_ok:
        sk.rx_sacks = options.sacks
    return sk.saw_tstamp


# -- checking


def oow_rate_limited(sk: TcpSock, skb: SKBuff) -> bool:
    """Whether answering an unacceptable segment would feed a loop of acknowledgements (Linux: tcp_oow_rate_limited)."""
    if skb.seq != skb.end_seq and not skb.tcp_flags & SYN:
        return False
    return sk.oow_limited()


def _sequence(sk: TcpSock, seq: int, end_seq: int) -> DropReason | None:
    """Whether a segment is acceptable (RFC 9293 section 3.10.7.4, first; Linux: tcp_sequence)."""
    if before(end_seq, sk.rcv_wup):
        return DropReason.TCP_OLD_SEQUENCE
    edge = (sk.rcv_nxt + receive_window(sk)) & SEQ_MASK
    if after(end_seq, edge):
        if after(seq, edge):
            return DropReason.TCP_INVALID_SEQUENCE
        # Beyond the window in part: only where nothing waits to be read.
        if sk.receive_queue.first is not None:
            return DropReason.TCP_INVALID_END_SEQUENCE
    return None


def _reset_check(sk: TcpSock, skb: SKBuff) -> bool:
    """A reset one below what is expected, after the peer's FIN: some stacks send it so (Linux: tcp_reset_check)."""
    return skb.seq == (sk.rcv_nxt - 1) & SEQ_MASK and sk.state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING)


def tcp_reset(sk: TcpSock, skb: SKBuff) -> None:
    """The peer reset the connection (Linux: tcp_reset)."""
    trace = sk.net.trace.tcp_receive_reset
    if trace.probes:
        trace.fire(sk)
    state = sk.state
    if state == TCP_SYN_SENT:
        sk.err = errno.ECONNREFUSED
    elif state == TCP_CLOSE_WAIT:
        sk.err = errno.EPIPE
    elif state == TCP_CLOSE:
        return
    else:
        sk.err = errno.ECONNRESET
    sk.write_queue_purge()
    sk.done()
    if not sk.dead:
        sk.error_report()


def validate_incoming(sk: TcpSock, skb: SKBuff, doff: int, syn_inerr: bool) -> DropReason | None:
    """Check a segment before anything else; None where it is good (Linux: tcp_validate_incoming)."""
    flags = skb.tcp_flags
    mib = sk.net.mib
    if parse_options(sk, skb, doff) and paws_reject(sk.ts_recent, sk.ts_recent_stamp, sk.rx_tsval, sk.loop.now):
        if not _disordered_ack(sk, skb) and not flags & RST:
            mib.tcp_ext.PAWSEstab += 1
            if not oow_rate_limited(sk, skb):
                send_dupack(sk, skb)
            return DropReason.TCP_RFC7323_PAWS
        # A reset is taken even so.
    reason = _sequence(sk, skb.seq, skb.end_seq)
    if reason is not None:
        if not flags & RST:
            if flags & SYN:
                return _syn_challenge(sk, syn_inerr)
            if not oow_rate_limited(sk, skb):
                send_dupack(sk, skb)
        elif _reset_check(sk, skb):
            tcp_reset(sk, skb)
            return DropReason.TCP_RESET
        return reason
    if flags & RST:
        # RFC 5961 section 3.2: exactly what is expected, or the right edge of what was received out of order.
        if skb.seq == sk.rcv_nxt or _reset_check(sk, skb):
            tcp_reset(sk, skb)
            return DropReason.TCP_RESET
        if sk.sack_ok and sk.selective_acks:
            edge = sk.selective_acks[0][1]
            for _, end in sk.selective_acks[1:]:
                if after(end, edge):
                    edge = end
            if skb.seq == edge:
                tcp_reset(sk, skb)
                return DropReason.TCP_RESET
        sk.send_challenge_ack()
        return DropReason.TCP_RESET
    if flags & SYN:
        if (
            sk.state == TCP_SYN_RECV
            and not sk.dead
            and flags & ACK
            and (skb.seq + 1) & SEQ_MASK == skb.end_seq == sk.rcv_nxt
            and skb.ack_seq == sk.snd_nxt
        ):
            # The second half of a simultaneous open.
            return None
        return _syn_challenge(sk, syn_inerr)
    return None


def _syn_challenge(sk: TcpSock, syn_inerr: bool) -> DropReason:
    """A SYN on a synchronised connection: challenge (RFC 5961 section 4.2)."""
    mib = sk.net.mib
    if syn_inerr:
        mib.tcp.InErrs += 1
    mib.tcp_ext.TCPSYNChallenge += 1
    sk.send_challenge_ack()
    return DropReason.TCP_INVALID_SYN


# -- urgent data


def _check_urg(sk: TcpSock, skb: SKBuff, urg_ptr: int) -> None:
    """A segment with an urgent pointer (RFC 6093; Linux: tcp_check_urg): it points behind the urgent byte."""
    pointer = urg_ptr
    if pointer and not sk.tcp.tcp_stdurg:
        pointer -= 1
    pointer = (pointer + skb.seq) & SEQ_MASK
    if after(sk.copied_seq, pointer) or before(pointer, sk.rcv_nxt):
        return
    if sk.urg_data and not after(pointer, sk.urg_seq):
        return
    sk.send_sigurg()
    # An urgent byte that was not read becomes ordinary data: skip it, as the reader was told it is out of band.
    if sk.urg_seq == sk.copied_seq and sk.urg_data and not sk.oobinline and sk.copied_seq != sk.rcv_nxt:
        first = sk.receive_queue.first
        sk.copied_seq = (sk.copied_seq + 1) & SEQ_MASK
        if first is not None and not before(sk.copied_seq, first.end_seq):
            sk.receive_queue.popleft()
            first.consume()
    sk.urg_data = TCP_URG_NOTYET
    sk.urg_seq = pointer
    sk.pred_ok = False


def _urg(sk: TcpSock, skb: SKBuff, doff: int, urg_ptr: int) -> None:
    if skb.tcp_flags & URG:
        _check_urg(sk, skb, urg_ptr)
    if sk.urg_data == TCP_URG_NOTYET:
        position = (sk.urg_seq - skb.seq) & SEQ_MASK
        if skb.tcp_flags & SYN:
            position -= 1
        position += doff
        if doff <= position < skb.len:
            sk.urg_data = TCP_URG_VALID | skb.slice(position, position + 1)[0][0]
            if not sk.dead:
                sk.data_ready()


# -- data


def fast_path_check(sk: TcpSock) -> None:
    """Whether the next segment may take the fast path (Linux: tcp_fast_path_check)."""
    sk.pred_ok = not sk.ofo and sk.rcv_wnd > 0 and sk.rmem_alloc < sk.rcvbuf and not sk.urg_data


def queue_rcv(sk: TcpSock, skb: SKBuff) -> None:
    """Append in-order data to the receive queue (Linux: tcp_queue_rcv)."""
    sk.bytes_received += (skb.end_seq - sk.rcv_nxt) & SEQ_MASK
    sk.rcv_nxt = skb.end_seq
    skb.sk = sk
    skb.destructor = _uncharge
    sk.rmem_alloc += skb.truesize
    sk.receive_queue.append(skb)


def _uncharge(skb: SKBuff) -> None:
    skb.sk.rmem_alloc -= skb.truesize


def tcp_fin(sk: TcpSock) -> None:
    """The peer's FIN is in order (RFC 9293 section 3.10.7.4, eighth; Linux: tcp_fin)."""
    sk.ack_pending |= ICSK_ACK_SCHED
    sk.shutdown_mask |= RCV_SHUTDOWN
    sk.fin_received = True
    state = sk.state
    if state in (TCP_SYN_RECV, TCP_ESTABLISHED):
        sk.set_state(TCP_CLOSE_WAIT)
        sk.enter_pingpong()
    elif state == TCP_FIN_WAIT1:
        # Both closed at the same time.
        send_ack(sk)
        sk.set_state(TCP_CLOSING)
    elif state == TCP_FIN_WAIT2:
        send_ack(sk)
        sk.time_wait(TCP_TIME_WAIT, TCP_TIMEWAIT_LEN)
    elif state in (TCP_LISTEN, TCP_CLOSE):
        return
    if sk.ofo:
        for skb in sk.ofo:
            skb.consume()
        sk.ofo = None
    sk.selective_acks = ()
    sk.duplicate_sack = None
    if not sk.dead:
        sk.state_change()


def data_queue(sk: TcpSock, skb: SKBuff, doff: int) -> None:
    """Take a segment's data: in order, duplicate, out of window, or out of order (Linux: tcp_data_queue)."""
    drops = sk.net.drops
    if skb.seq == skb.end_seq:
        skb.consume()
        return
    skb.data += doff
    skb.len -= doff
    skb.dst = None
    sk.duplicate_sack = None
    seq = skb.seq
    end_seq = skb.end_seq
    rcv_nxt = sk.rcv_nxt
    mib = sk.net.mib.tcp_ext
    if seq == rcv_nxt or (before(seq, rcv_nxt) and after(end_seq, rcv_nxt)):
        window = receive_window(sk)
        if seq != rcv_nxt:
            dsack_set(sk, seq, rcv_nxt)
        if not window and not (seq == rcv_nxt and skb.tcp_flags & FIN and not skb.len):
            mib.TCPZeroWindowDrop += 1
            _out_of_window(sk)
            skb.drop(DropReason.TCP_ZEROWINDOW, drops)
            return
        if sk.rmem_alloc + skb.truesize > sk.rcvbuf and sk.rmem_alloc and prune_queue(sk, skb) < 0:
            mib.TCPRcvQDrop += 1
            sk.ack_pending |= ICSK_ACK_NOMEM | ICSK_ACK_NOW | ICSK_ACK_SCHED
            sk.data_ready()
            skb.drop(DropReason.PROTO_MEM, drops)
            return
        fin = skb.tcp_flags & FIN
        length = skb.len
        queue_rcv(sk, skb)
        if length:
            event_data_recv(sk, skb)
        if fin:
            tcp_fin(sk)
        if sk.ofo:
            ofo_queue(sk)
            # RFC 5681 section 4.2: at once, when a gap is filled.
            if not sk.ofo:
                sk.ack_pending |= ICSK_ACK_NOW
        if sk.selective_acks:
            sack_remove(sk)
        fast_path_check(sk)
        if not sk.dead:
            sk.data_ready()
        return
    if not after(end_seq, rcv_nxt):
        # A retransmission of what is here: the acknowledgement was lost, or is late.
        mib.DelayedACKLost += 1
        dsack_set(sk, seq, end_seq)
        _out_of_window(sk)
        skb.drop(DropReason.TCP_OLD_DATA, drops)
        return
    if not before(seq, (rcv_nxt + receive_window(sk)) & SEQ_MASK):
        _out_of_window(sk)
        skb.drop(DropReason.TCP_OVERWINDOW, drops)
        return
    data_queue_ofo(sk, skb)


def _out_of_window(sk: TcpSock) -> None:
    enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
    sk.ack_pending |= ICSK_ACK_SCHED


def data_snd_check(sk: TcpSock) -> None:
    """An acknowledgement may have made room to send, and to write (Linux: tcp_data_snd_check)."""
    if sk.write_queue.first is not None:
        push_pending(sk)
    if sk.nospace:
        sk.check_space()


# -- established


def rcv_established(sk: TcpSock, skb: SKBuff, th: TcpHeader) -> None:
    """A segment for an established connection (Linux: tcp_rcv_established)."""
    _, _, seq, ack, doff, flags, window, _, _ = th
    rcv_nxt = sk.rcv_nxt
    if (
        sk.pred_ok
        and seq == rcv_nxt
        and flags & ~PSH == ACK
        and doff == sk.tcp_header_len
        and window << sk.snd_wscale == sk.snd_wnd
        and (sk.snd_nxt - ack) & 0x80000000 == 0
    ):
        predicted = True
        if sk.tstamp_ok:
            stamps = wire.parse_ts(skb.head, skb.transport_header + 20)
            if stamps is None or (stamps[0] - sk.ts_recent) & 0x80000000:
                predicted = False
            else:
                sk.rx_tsval, sk.rx_tsecr = stamps
                sk.saw_tstamp = True
        else:
            sk.saw_tstamp = False
        if predicted:
            length = skb.len - doff
            if not length:
                # The sender's side of a bulk transfer.
                if sk.rcv_wup == rcv_nxt and sk.tstamp_ok:
                    sk.ts_recent = sk.rx_tsval
                    sk.ts_recent_stamp = sk.loop.now
                sk.rx_sacks = None
                sk.rcv_rtt_last_tsecr = sk.rx_tsecr
                tcp_ack(sk, skb, window, 0)
                skb.consume()
                if sk.write_queue.first is not None:
                    push_pending(sk)
                if sk.nospace:
                    sk.check_space()
                return
            if sk.rmem_alloc + skb.truesize <= sk.rcvbuf and length <= receive_window(sk):
                # The receiver's side.
                if sk.tstamp_ok and sk.rcv_wup == rcv_nxt:
                    sk.ts_recent = sk.rx_tsval
                    sk.ts_recent_stamp = sk.loop.now
                if sk.tstamp_ok:
                    rcv_rtt_measure_ts(sk, skb)
                sk.net.mib.tcp_ext.TCPHPHits += 1
                skb.data += doff
                skb.len = length
                skb.dst = None
                queue_rcv(sk, skb)
                event_data_recv(sk, skb)
                if ack != sk.snd_una:
                    sk.rx_sacks = None
                    tcp_ack(sk, skb, window, FLAG_DATA)
                    if sk.write_queue.first is not None:
                        push_pending(sk)
                    if sk.nospace:
                        sk.check_space()
                    if not sk.ack_pending & ICSK_ACK_SCHED:
                        sk.data_ready()
                        return
                else:
                    sk.snd_wl1 = seq
                ack_snd_check(sk, False)
                if not sk.dead:
                    sk.data_ready()
                return
    _rcv_slow(sk, skb, th)


def _rcv_slow(sk: TcpSock, skb: SKBuff, th: TcpHeader) -> None:
    """All that was not predicted."""
    doff, flags, window, urg_ptr = th[4], th[5], th[6], th[8]
    drops = sk.net.drops
    if not flags & (ACK | RST | SYN):
        skb.drop(DropReason.TCP_FLAGS, drops)
        return
    reason = validate_incoming(sk, skb, doff, True)
    if reason is not None:
        skb.drop(reason, drops)
        return
    result = tcp_ack(sk, skb, window, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT)
    if result < 0:
        skb.drop(DropReason(-result), drops)
        return
    if sk.tstamp_ok and sk.saw_tstamp:
        rcv_rtt_measure_ts(sk, skb)
    if flags & URG or sk.urg_data == TCP_URG_NOTYET:
        _urg(sk, skb, doff, urg_ptr)
    data_queue(sk, skb, doff)
    data_snd_check(sk)
    if sk.ack_pending & ICSK_ACK_SCHED and sk.state != TCP_CLOSE:
        ack_snd_check(sk, True)


# -- other states


def finish_connect(sk: TcpSock) -> None:
    """The handshake of an active open is done (Linux: tcp_finish_connect)."""
    sk.set_state(TCP_ESTABLISHED)
    sk.ack_lrcvtime = sk.loop.now
    init_transfer(sk)
    # A keepalive counts from here.
    if sk.keepopen:
        sk.reset_keepalive_timer(sk.keepalive_time())
    fast_path_check(sk)


def init_transfer(sk: TcpSock) -> None:
    """Prepare for data (Linux: tcp_init_transfer, tcp_init_metrics)."""
    sk.init_metrics()
    sk.init_congestion_control()
    if not sk.buffers_ready:
        sk.buffers_ready = True
        init_buffer_space(sk)
    sk.snd_cwnd_stamp = sk.loop.now


def _synsent_reset(sk: TcpSock, skb: SKBuff) -> None:
    """An acknowledgement of what was never sent, in SYN-SENT: answer with a reset (RFC 9293 section 3.10.7.3)."""
    sk.tcp.send_reset(skb, None)


def rcv_synsent(sk: TcpSock, skb: SKBuff, th: TcpHeader) -> None:
    """A segment in SYN-SENT (RFC 9293 section 3.10.7.3; Linux: tcp_rcv_synsent_state_process)."""
    ack, doff, flags, window = th[3], th[4], th[5], th[6]
    drops = sk.net.drops
    mib = sk.net.mib.tcp_ext
    start = skb.transport_header + wire.TCP_HLEN
    options = wire.parse_options(skb.head, start, skb.transport_header + doff)
    saw_tstamp = options.has_ts and bool(sk.tcp.tcp_timestamps)
    sk.saw_tstamp = saw_tstamp
    sk.rx_tsval = options.tsval
    sk.rx_tsecr = options.tsecr
    sk.rx_sacks = None
    if flags & ACK:
        if not after(ack, sk.snd_una) or after(ack, sk.snd_nxt):
            # An old duplicate, or a stranger. After our first retransmission, try again soon.
            if sk.icsk_retransmits == 0:
                sk.retransmit_timer.mod(sk.loop.now + TCP_TIMEOUT_MIN_US * 1000)
            if not flags & RST:
                _synsent_reset(sk, skb)
            skb.drop(DropReason.TCP_INVALID_ACK_SEQUENCE, drops)
            return
        if saw_tstamp and options.tsecr and not _echo_possible(sk, options.tsecr):
            mib.PAWSActive += 1
            if not flags & RST:
                _synsent_reset(sk, skb)
            skb.drop(DropReason.TCP_RFC7323_TSECR, drops)
            return
        if flags & RST:
            tcp_reset(sk, skb)
            skb.drop(DropReason.TCP_RESET, drops)
            return
        if not flags & SYN:
            skb.drop(DropReason.TCP_FLAGS, drops)
            return
        sk.snd_wl1 = skb.seq
        # The window of a SYN is never scaled.
        sk.rcv_nxt = (skb.seq + 1) & SEQ_MASK
        sk.sack_ok = options.sack_ok and bool(sk.tcp.tcp_sack)
        tcp_ack(sk, skb, window, FLAG_SLOWPATH)
        sk.rcv_wup = (skb.seq + 1) & SEQ_MASK
        sk.snd_wnd = window
        _take_syn_options(sk, options, saw_tstamp)
        sk.copied_seq = sk.rcv_nxt
        finish_connect(sk)
        sk.state_change()
        if (
            sk.write_queue.first is not None
            or sk.defer_accept
            or sk.in_pingpong()
        ) and not flags & FIN:
            # Data will follow, which carries the acknowledgement.
            sk.ack_pending |= ICSK_ACK_SCHED
            enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
            sk.delack_timer.mod(sk.loop.now + TCP_DELACK_MAX)
            skb.consume()
            if sk.write_queue.first is not None:
                push_pending(sk)
            return
        send_ack(sk)
        if skb.len > doff or flags & FIN:
            skb.seq = (skb.seq + 1) & SEQ_MASK
            data_queue(sk, skb, doff)
        else:
            skb.consume()
        return
    if flags & RST:
        skb.drop(DropReason.TCP_RESET, drops)
        return
    if saw_tstamp and sk.ts_recent_stamp and paws_reject(
        sk.ts_recent, sk.ts_recent_stamp, options.tsval, sk.loop.now
    ):
        skb.drop(DropReason.TCP_RFC7323_PAWS, drops)
        return
    if flags & SYN:
        # Both open at the same time (RFC 9293 section 3.5, figure 8).
        sk.set_state(TCP_SYN_RECV)
        sk.sack_ok = options.sack_ok and bool(sk.tcp.tcp_sack)
        sk.rcv_nxt = (skb.seq + 1) & SEQ_MASK
        sk.copied_seq = sk.rcv_nxt
        sk.rcv_wup = (skb.seq + 1) & SEQ_MASK
        sk.snd_wnd = window
        sk.snd_wl1 = skb.seq
        sk.max_window = window
        _take_syn_options(sk, options, saw_tstamp)
        send_synack(sk)
        skb.consume()
        return
    skb.drop(DropReason.TCP_FLAGS, drops)


def _echo_possible(sk: TcpSock, tsecr: int) -> bool:
    """Whether the echoed time stamp lies between the first SYN and now. `retrans_stamp` is never 0, so it may be 1 too
    late at the origin of the clock."""
    now = sk.loop.now // MSEC
    echoed = (tsecr - sk.tsoffset) & SEQ_MASK
    return not before(echoed, (sk.retrans_stamp - 1) & SEQ_MASK) and not after(echoed, now & SEQ_MASK)


def _take_syn_options(sk: TcpSock, options: wire.TcpOptions, saw_tstamp: bool) -> None:
    """What the peer's SYN says of itself: scale, time stamps, MSS."""
    if options.wscale >= 0 and sk.tcp.tcp_window_scaling:
        sk.wscale_ok = True
        sk.snd_wscale = min(options.wscale, TCP_MAX_WSCALE)
    else:
        sk.wscale_ok = False
        sk.snd_wscale = sk.rcv_wscale = 0
        sk.window_clamp = min(sk.window_clamp, 65535)
    if saw_tstamp:
        sk.tstamp_ok = True
        sk.tcp_header_len = wire.TCP_HLEN + wire.TCPOLEN_TSTAMP_ALIGNED
        sk.advmss -= wire.TCPOLEN_TSTAMP_ALIGNED
        sk.ts_recent = options.tsval
        sk.ts_recent_stamp = sk.loop.now
    else:
        sk.tstamp_ok = False
        sk.tcp_header_len = wire.TCP_HLEN
    mss = options.mss or 536
    if sk.user_mss and sk.user_mss < mss:
        mss = sk.user_mss
    sk.mss_clamp = mss
    sync_mss(sk, sk.pmtu_cookie)
    init_rcv_mss(sk)


def rcv_state_process(sk: TcpSock, skb: SKBuff, th: TcpHeader) -> bool:
    """A segment in any state but ESTABLISHED and TIME-WAIT (Linux: tcp_rcv_state_process).

    True where the sender must be sent a reset; the caller then drops the segment.
    """
    doff, flags, window, urg_ptr = th[4], th[5], th[6], th[8]
    drops = sk.net.drops
    state = sk.state
    if state == TCP_CLOSE:
        skb.drop(DropReason.TCP_CLOSE, drops)
        return False
    if state == TCP_LISTEN:
        if flags & ACK:
            return True
        if flags & RST:
            skb.drop(DropReason.TCP_RESET, drops)
            return False
        if flags & SYN:
            if flags & FIN:
                skb.drop(DropReason.TCP_FLAGS, drops)
                return False
            sk.tcp.conn_request(sk, skb, th)
            return False
        skb.drop(DropReason.TCP_FLAGS, drops)
        return False
    if state == TCP_SYN_SENT:
        rcv_synsent(sk, skb, th)
        return False
    sk.saw_tstamp = False
    if not flags & (ACK | RST | SYN):
        skb.drop(DropReason.TCP_FLAGS, drops)
        return False
    reason = validate_incoming(sk, skb, doff, False)
    if reason is not None:
        skb.drop(reason, drops)
        return False
    if not flags & ACK:
        skb.drop(DropReason.TCP_FLAGS, drops)
        return False
    result = tcp_ack(sk, skb, window, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT | FLAG_NO_CHALLENGE_ACK)
    if result <= 0:
        if state == TCP_SYN_RECV:
            # It acknowledges nothing of ours: a reset, as LISTEN would send (RFC 9293 section 3.10.7.4).
            return True
        if result < 0:
            sk.send_challenge_ack()
            skb.drop(DropReason(-result), drops)
            return False
    if state == TCP_SYN_RECV:
        _syn_recv_acked(sk, skb, window)
    elif state == TCP_FIN_WAIT1:
        if sk.snd_una == sk.write_seq and not _fin_wait1_acked(sk, skb, doff):
            return False
    elif state == TCP_CLOSING:
        if sk.snd_una == sk.write_seq:
            sk.time_wait(TCP_TIME_WAIT, TCP_TIMEWAIT_LEN)
            skb.consume()
            return False
    elif state == TCP_LAST_ACK:
        if sk.snd_una == sk.write_seq:
            sk.update_metrics()
            sk.done()
            skb.consume()
            return False
    if flags & URG or sk.urg_data == TCP_URG_NOTYET:
        _urg(sk, skb, doff, urg_ptr)
    state = sk.state
    if state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK) and not before(skb.seq, sk.rcv_nxt):
        # Nothing can follow the peer's FIN (RFC 9293 section 3.10.7.4, seventh).
        skb.consume()
    else:
        if (
            state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2)
            and sk.shutdown_mask & RCV_SHUTDOWN
            and skb.end_seq != skb.seq
            and after((skb.end_seq - (1 if flags & FIN else 0)) & SEQ_MASK, sk.rcv_nxt)
        ):
            # Data that nobody will read: say so (RFC 1122 section 4.2.2.13).
            sk.net.mib.tcp_ext.TCPAbortOnData += 1
            tcp_reset(sk, skb)
            return True
        data_queue(sk, skb, doff)
    if sk.state != TCP_CLOSE:
        data_snd_check(sk)
        if sk.ack_pending & ICSK_ACK_SCHED:
            ack_snd_check(sk, True)
    return False


def _syn_recv_acked(sk: TcpSock, skb: SKBuff, window: int) -> None:
    """SYN-RECEIVED, and our SYN is acknowledged: established."""
    sk.delivered += 1
    if not sk.srtt_us:
        sk.synack_rtt_measure()
    init_transfer(sk)
    sk.copied_seq = sk.rcv_nxt if not sk.buffers_ready else sk.copied_seq
    sk.set_state(TCP_ESTABLISHED)
    sk.state_change()
    sk.snd_una = skb.ack_seq
    sk.snd_wnd = window << sk.snd_wscale
    sk.snd_wl1 = skb.seq
    sk.ack_lrcvtime = sk.loop.now
    if not sk.ca.has_cong_control:
        update_pacing_rate(sk)
    init_rcv_mss(sk)
    fast_path_check(sk)
    if sk.shutdown_mask & SEND_SHUTDOWN:
        sk.shutdown(1)
    if sk.keepopen:
        sk.reset_keepalive_timer(sk.keepalive_time())
    set_rto_if_measured(sk)


def set_rto_if_measured(sk: TcpSock) -> None:
    """Use the RTO of the round trip, where one was measured."""
    if sk.srtt_us:
        set_rto(sk)


def _fin_wait1_acked(sk: TcpSock, skb: SKBuff, doff: int) -> bool:
    """FIN-WAIT-1, and our FIN is acknowledged. False where the segment needs no more."""
    sk.set_state(TCP_FIN_WAIT2)
    sk.shutdown_mask |= SEND_SHUTDOWN
    dst = sk.dst
    if dst is not None:
        dst.confirm()
    if not sk.dead:
        # Wake up lingering close().
        sk.state_change()
        return True
    if sk.linger2 < 0:
        sk.done()
        sk.net.mib.tcp_ext.TCPAbortOnData += 1
        sk.tcp.send_reset(skb, sk)
        skb.consume()
        return False
    if skb.end_seq != skb.seq and after((skb.end_seq - (1 if skb.tcp_flags & FIN else 0)) & SEQ_MASK, sk.rcv_nxt):
        # Data after close().
        sk.done()
        sk.net.mib.tcp_ext.TCPAbortOnData += 1
        sk.tcp.send_reset(skb, sk)
        skb.consume()
        return False
    timeout = sk.fin_time()
    if timeout > TCP_TIMEWAIT_LEN:
        sk.reset_keepalive_timer(timeout - TCP_TIMEWAIT_LEN)
    elif skb.tcp_flags & FIN:
        # It goes on to be processed; TIME-WAIT follows from FIN-WAIT-2.
        sk.reset_keepalive_timer(timeout)
    else:
        sk.time_wait(TCP_FIN_WAIT2, timeout)
        skb.consume()
        return False
    return True

