"""The data of a segment: in order, duplicate, beyond the window, or behind a gap (Linux: tcp_data_queue, tcp_fin).
RFC 9293 section 3.10.7.4, seventh and eighth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import RCV_SHUTDOWN
from usernet.transport.tcp import ecn
from usernet.transport.tcp.const import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_NOW,
    ICSK_ACK_SCHED,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_MAX_QUICKACKS,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    TCP_TIMEWAIT_LEN,
    after,
    before,
)
from usernet.transport.tcp.delack import enter_quickack_mode, event_data_recv
from usernet.transport.tcp.ofo import COALESCE_BELOW, data_queue_ofo, dsack_set, ofo_queue, sack_remove
from usernet.transport.tcp.rcvmem import prune_queue, try_coalesce
from usernet.transport.tcp.transmit import send_ack
from usernet.transport.tcp.window import promised_window
from usernet.wire.tcp import FIN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock



def fast_path_check(sk: TcpSock) -> None:
    """Whether the next segment may take the fast path (Linux: tcp_fast_path_check)."""
    sk.pred_ok = (
        not sk.ofo
        and sk.rcv_wnd > 0
        # A full buffer keeps it from being taken up again, but does not end it.
        and (sk.pred_ok or sk.rmem_alloc < sk.rcvbuf)
        and not sk.urg_data
        # Accurate ECN has something to do with every segment.
        and not sk.ecn_flags & ecn.TCP_ECN_MODE_ACCECN
    )


def queue_rcv(sk: TcpSock, skb: SKBuff) -> None:
    """Append in-order data to the receive queue (Linux: tcp_queue_rcv)."""
    sk.bytes_received += (skb.end_seq - sk.rcv_nxt) & SEQ_MASK
    sk.rcv_nxt = skb.end_seq
    if skb.len < COALESCE_BELOW and sk.receive_queue.last is not None and try_coalesce(sk, sk.receive_queue.last, skb):
        return
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
        window = promised_window(sk)
        if seq != rcv_nxt:
            dsack_set(sk, seq, rcv_nxt)
        if not window and not (seq == rcv_nxt and skb.tcp_flags & FIN and not skb.len):
            mib.TCPZeroWindowDrop += 1
            _out_of_window(sk)
            skb.drop(DropReason.TCP_ZEROWINDOW, drops)
            return
        if sk.rmem_alloc > sk.rcvbuf and not prune_queue(sk, skb):
            sk.ack_pending |= ICSK_ACK_NOMEM | ICSK_ACK_NOW | ICSK_ACK_SCHED
            sk.data_ready()
            # With nothing to read, what would make room? One segment is let in.
            if sk.receive_queue.first is not None and skb.len:
                mib.TCPRcvQDrop += 1
                skb.drop(DropReason.PROTO_MEM, drops)
                return
        fin = skb.tcp_flags & FIN
        length = skb.len
        queue_rcv(sk, skb)
        if length:
            event_data_recv(sk, skb)
        if fin:
            tcp_fin(sk)
        if sk.ofo and ofo_queue(sk):
            # RFC 5681 section 4.2: at once, when a gap is filled.
            sk.ack_pending |= ICSK_ACK_NOW
        if sk.selective_acks:
            sack_remove(sk)
        fast_path_check(sk)
        if not sk.dead:
            sk.data_ready()
        return
    if not after(end_seq, rcv_nxt):
        # A retransmission of what is here: the acknowledgement was lost, or is late.
        if sk.ecn_flags:
            ecn.spurious_retransmission(sk, skb)
        mib.DelayedACKLost += 1
        dsack_set(sk, seq, end_seq)
        _out_of_window(sk)
        skb.drop(DropReason.TCP_OLD_DATA, drops)
        return
    if not before(seq, (rcv_nxt + promised_window(sk)) & SEQ_MASK):
        _out_of_window(sk)
        skb.drop(DropReason.TCP_OVERWINDOW, drops)
        return
    data_queue_ofo(sk, skb)


def _out_of_window(sk: TcpSock) -> None:
    enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
    sk.ack_pending |= ICSK_ACK_SCHED
