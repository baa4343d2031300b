"""TCP input: a segment for a connection (Linux: tcp_rcv_established, tcp_rcv_state_process in tcp_input.c).

    Tcp.receive → rcv_established: the fast path for what was predicted (the next data, or a pure acknowledgement);
                  else the slow path: validate.py (options, PAWS, sequence numbers, RST and SYN), the acknowledgement
                  (ack.py), urgent data (urgent.py), and the data itself (data.py), which is acknowledged (delack.py).
               → rcv_state_process for all other states.

RFC 9293 section 3.10.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import RCV_SHUTDOWN, SEND_SHUTDOWN
from usernet.transport.tcp import ecn
from usernet.transport.tcp.accecn import third_ack
from usernet.transport.tcp.ack import tcp_ack, update_pacing_rate
from usernet.transport.tcp.const import (
    FLAG_DATA,
    FLAG_NO_CHALLENGE_ACK,
    FLAG_SLOWPATH,
    FLAG_UPDATE_TS_RECENT,
    ICSK_ACK_SCHED,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCP_TIMEWAIT_LEN,
    TCP_URG_NOTYET,
    after,
    before,
)
from usernet.transport.tcp.data import data_queue, fast_path_check, queue_rcv
from usernet.transport.tcp.delack import ack_snd_check, event_data_recv
from usernet.transport.tcp.fastopen_blackhole import active_disable
from usernet.transport.tcp.output import push_pending
from usernet.transport.tcp.synsent import init_transfer, rcv_synsent, undo_spurious_syn
from usernet.transport.tcp.urgent import urg
from usernet.transport.tcp.validate import tcp_reset, validate_incoming
from usernet.transport.tcp.window import init_rcv_mss, rcv_rtt_measure_ts, receive_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.wire.tcp import TcpHeader



def data_snd_check(sk: TcpSock) -> None:
    """An acknowledgement may have made room to send, and to write (Linux: tcp_data_snd_check)."""
    if sk.write_queue.first is not None:
        push_pending(sk)
    if sk.nospace:
        sk.check_space()


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
        and (ack - sk.snd_una) & SEQ_MASK <= (sk.snd_nxt - sk.snd_una) & SEQ_MASK
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
            if length <= receive_window(sk) and (
                sk.rmem_alloc + skb.truesize <= sk.rcvbuf
                # Linux looks at the page that the account has begun, not at the limit (sk_forward_alloc).
                or skb.truesize <= -(sk.rmem_alloc + sk.wmem_queued) & 4095
            ):
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
                if sk.ecn_flags:
                    ecn.received(sk, skb, length)
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
    reason = validate_incoming(sk, skb, doff, window, True)
    if reason is not None:
        skb.drop(reason, drops)
        return
    if sk.ecn_flags:
        ecn.received(sk, skb, skb.len - doff)
    result = tcp_ack(sk, skb, window, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT)
    if result < 0:
        skb.drop(DropReason(-result), drops)
        return
    if sk.tstamp_ok and sk.saw_tstamp:
        rcv_rtt_measure_ts(sk, skb)
    if flags & URG or sk.urg_data == TCP_URG_NOTYET:
        urg(sk, skb, doff, urg_ptr)
    data_queue(sk, skb, doff)
    data_snd_check(sk)
    if sk.ack_pending & ICSK_ACK_SCHED and sk.state != TCP_CLOSE:
        ack_snd_check(sk, True)


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
    request = sk.tfo.fastopen_rsk
    if request is not None:
        from usernet.transport.tcp import fastopen_server

        if not fastopen_server.check_request(sk, request, skb, th):
            fastopen_server.discard(skb, sk)
            return False
    reason = validate_incoming(sk, skb, doff, window, False)
    if reason is not None:
        skb.drop(reason, drops)
        return False
    if not flags & ACK:
        skb.drop(DropReason.TCP_FLAGS, drops)
        return False
    if sk.ecn_flags and state != TCP_SYN_RECV:
        ecn.received(sk, skb, skb.len - doff)
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
        if request is not None:
            from usernet.transport.tcp.fastopen_server import established

            established(sk)
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
        urg(sk, skb, doff, urg_ptr)
    state = sk.state
    if state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK) and not before(skb.seq, sk.rcv_nxt):
        # Nothing can follow the peer's FIN (RFC 9293 section 3.10.7.4, seventh).
        skb.consume()
    else:
        if (
            state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK)
            and sk.shutdown_mask & RCV_SHUTDOWN
            and skb.end_seq != skb.seq
            and after((skb.end_seq - (1 if flags & FIN else 0)) & SEQ_MASK, sk.rcv_nxt)
        ):
            # Data that nobody will read, or behind the peer's own FIN: say so (RFC 1122 section 4.2.2.13).
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
    if sk.tfo.fastopen_rsk is not None:
        from usernet.transport.tcp.fastopen_server import established

        established(sk)
    else:
        if sk.synack_mstamp:
            # Of a passive open the SYN is not counted.
            sk.bytes_acked = 0
        undo_spurious_syn(sk)
        sk.retrans_stamp = 0
        init_transfer(sk)
    sk.copied_seq = sk.rcv_nxt if not sk.buffers_ready else sk.copied_seq
    sk.set_state(TCP_ESTABLISHED)
    sk.state_change()
    sk.snd_una = skb.ack_seq
    sk.snd_wnd = window << sk.snd_wscale
    sk.snd_wl1 = skb.seq
    if sk.tstamp_ok:
        # What was announced as the MSS has to hold the time stamp too.
        sk.advmss -= wire.TCPOLEN_TSTAMP_ALIGNED
    sk.ack_lrcvtime = sk.lsndtime = sk.loop.now
    if not sk.ca.has_cong_control:
        update_pacing_rate(sk)
    init_rcv_mss(sk)
    if sk.ecn is not None and ecn.mode_accecn(sk.ecn_flags):
        third_ack(sk, sk.ecn, skb, bool(sk.rx_sacks))
    fast_path_check(sk)
    if sk.shutdown_mask & SEND_SHUTDOWN:
        sk.shutdown(1)
    if sk.keepopen:
        sk.reset_keepalive_timer(sk.keepalive_time())


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
    if sk.params.linger2 < 0:
        sk.done()
        sk.net.mib.tcp_ext.TCPAbortOnData += 1
        sk.tcp.send_reset(skb, sk)
        skb.consume()
        return False
    if skb.end_seq != skb.seq and after((skb.end_seq - (1 if skb.tcp_flags & FIN else 0)) & SEQ_MASK, sk.rcv_nxt):
        # Data after close().
        if sk.tfo.syn_fastopen and skb.tcp_flags & FIN:
            active_disable(sk.tcp)
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
