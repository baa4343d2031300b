"""How a TCP socket ends: shutdown, close, and disconnecting (Linux: tcp_shutdown, tcp_close, tcp_disconnect).

RFC 9293 section 3.9.1: CLOSE and ABORT. A socket that its program closed may live on as an orphan and
send what is left.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    Blocking,
    Wait,
)
from usernet.sock.msg import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SHUTDOWN_MASK,
)
from usernet.transport.tcp.calls import SS_CONNECTED, SS_CONNECTING, SS_UNCONNECTED, listen_stop
from usernet.transport.tcp.connect import send_fin
from usernet.transport.tcp.const import (
    MDEV_INIT_US,
    SEC,
    SEQ_MASK,
    TCP_CA_OPEN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_DEFAULT_SCALING_RATIO,
    TCP_DELACK_MAX,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_INFINITE_SSTHRESH,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_RTO_MIN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
)
from usernet.transport.tcp.fastopen_blackhole import ofo_check
from usernet.transport.tcp.parts import NO_FASTOPEN, NO_REORDERING, NO_TIMEOUTS
from usernet.transport.tcp.transmit import send_active_reset

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

# Linux: new_state[] in tcp.c. A state's successor when the application closes, and whether a FIN is sent.
_CLOSE_TRANSITIONS: tuple[tuple[int, bool], ...] = (
    (TCP_CLOSE, False),
    (TCP_FIN_WAIT1, True),  # ESTABLISHED
    (TCP_CLOSE, False),  # SYN_SENT
    (TCP_FIN_WAIT1, True),  # SYN_RECV
    (TCP_FIN_WAIT1, False),  # FIN_WAIT1
    (TCP_FIN_WAIT2, False),  # FIN_WAIT2
    (TCP_CLOSE, False),  # TIME_WAIT
    (TCP_CLOSE, False),  # CLOSE
    (TCP_LAST_ACK, True),  # CLOSE_WAIT
    (TCP_LAST_ACK, False),  # LAST_ACK
    (TCP_CLOSE, False),  # LISTEN
    (TCP_CLOSING, False),  # CLOSING
)


def tcp_disconnect(sk: TcpSock) -> None:
    """Abort, and be as new (Linux: tcp_disconnect)."""
    old = sk.state
    if old == TCP_LISTEN:
        listen_stop(sk)
    elif sk.repair:
        sk.err = errno.ECONNABORTED
    elif old != TCP_CLOSE:
        if old in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV) or (
            sk.snd_nxt != sk.write_seq and old in (TCP_CLOSING, TCP_LAST_ACK)
        ):
            send_active_reset(sk)
            sk.err = errno.ECONNRESET
        elif old == TCP_SYN_SENT:
            sk.err = errno.ECONNRESET
    sk.clear_timers()
    if sk.tfo.fastopen_rsk is not None:
        from usernet.transport.tcp.fastopen_server import remove

        remove(sk)
    if old != TCP_CLOSE:
        sk.set_state(TCP_CLOSE)
    if old != TCP_LISTEN:
        # Should the socket connect again, its numbers must not be taken for the old connection's.
        sk.write_seq = (sk.write_seq + sk.max_window + 2) & SEQ_MASK or 1
    ofo_check(sk)
    sk.copied_seq = sk.rcv_nxt
    sk.peek_off = -1
    if sk.ca_ready:
        sk.ca_ready = False
        sk.ca.release(sk)
    for skb in sk.receive_queue.take():
        skb.consume()
    sk.write_queue_purge()
    if sk.ofo:
        for skb in sk.ofo:
            skb.consume()
        sk.ofo = None
    sk.dport = 0
    sk.daddr = sk.af.any
    if not sk.bound_addr:
        sk.saddr = sk.rcv_saddr = sk.af.any
    if not sk.bound_port:
        sk.sport = 0
    sk.shutdown_mask = 0
    sk.ss_state = SS_UNCONNECTED
    sk.dst = None
    _reset_connection(sk)
    if not sk.dead:
        sk.state_change()


def _reset_connection(sk: TcpSock) -> None:
    """What a connection learned is gone."""
    sk.srtt_us = sk.rcv_rtt_us = 0
    sk.rtt_min.reset(0, -0xFFFFFFFF)
    sk.mdev_us = MDEV_INIT_US
    sk.rto = TCP_TIMEOUT_INIT
    sk.rto_min = TCP_RTO_MIN // 1000
    if sk.params.delack_max != TCP_DELACK_MAX:
        sk.change_params().delack_max = TCP_DELACK_MAX
    sk.backoff = sk.icsk_retransmits = sk.probes_out = 0
    sk.rto_stats = NO_TIMEOUTS
    sk.bytes_sent = sk.bytes_acked = sk.bytes_received = sk.bytes_retrans = 0
    sk.data_segs_in = sk.data_segs_out = sk.segs_in = sk.segs_out = 0
    sk.dsack_dups = sk.rcv_ooopack = 0
    sk.app_limited = 0xFFFFFFFF
    sk.rate_app_limited = True
    sk.rate_delivered = sk.rate_interval = 0
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    sk.snd_cwnd = 10
    sk.snd_cwnd_cnt = 0
    sk.is_cwnd_limited = False
    sk.max_packets_out = 0
    sk.window_clamp = 0
    sk.delivered = sk.delivered_ce = sk.lost = 0
    sk.ecn_flags = 0
    sk.ecn = None
    sk.retrans_stamp = 0
    sk.total_retrans = 0
    sk.urg_data = 0
    sk.urg_mode = False
    sk.duplicate_sack = None
    sk.selective_acks = ()
    sk.buffers_ready = sk.fin_received = False
    if sk.tfo is not NO_FASTOPEN:
        sk.tfo.reset()
    sk.ca_state = TCP_CA_OPEN
    sk.tstamp_ok = sk.sack_ok = sk.wscale_ok = False
    sk.snd_wscale = sk.rcv_wscale = 0
    sk.ack_ato = sk.ack_quick = sk.ack_pingpong = 0
    sk.rack_advanced = False
    sk.rack_reo = NO_REORDERING
    sk.rack_mstamp = sk.rack_end_seq = 0
    sk.reordering = sk.tcp.tcp_reordering
    sk.reord_seen = 0
    sk.tx_marks = False
    sk.scaling_ratio = TCP_DEFAULT_SCALING_RATIO
    sk.pred_ok = False
    sk.nospace = False


def tcp_shutdown(sk: TcpSock, how: int) -> None:
    """shutdown() (Linux: inet_shutdown, tcp_shutdown)."""
    if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
        raise error(errno.EINVAL)
    if sk.ss_state == SS_CONNECTING and sk.state not in (TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE):
        sk.ss_state = SS_CONNECTED
    mask = how + 1
    state = sk.state
    if state == TCP_CLOSE:
        raise error(errno.ENOTCONN)
    if state == TCP_LISTEN:
        if not mask & RCV_SHUTDOWN:
            return
        sk.disconnect()
        sk.err = 0
        return
    if state == TCP_SYN_SENT:
        # Linux: nothing to shut down yet, so the attempt is given up.
        sk.disconnect()
        sk.ss_state = SS_UNCONNECTED
        return
    sk.shutdown_mask |= mask
    if mask & SEND_SHUTDOWN and state in (TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT):
        if _close_state(sk):
            send_fin(sk)
    sk.state_change()


def _close_state(sk: TcpSock) -> bool:
    """The next state for a FIN of ours; whether to send one (Linux: tcp_close_state, a table)."""
    state = sk.state
    following, action = _CLOSE_TRANSITIONS[state]
    if following != state:
        sk.set_state(following)
    return action


def tcp_close(sk: TcpSock, deadline: int = NEVER) -> Blocking[None] | None:
    """Linux: tcp_close. With SO_LINGER, may wait until all is sent and acknowledged."""
    sk.shutdown_mask = SHUTDOWN_MASK
    if sk.state == TCP_LISTEN:
        sk.set_state(TCP_CLOSE)
        listen_stop(sk)
        _orphan(sk)
        return None
    unread = 0
    for skb in sk.receive_queue.take():
        size = (skb.end_seq - skb.seq) & SEQ_MASK
        if skb.tcp_flags & 1:
            size -= 1
        behind = (sk.copied_seq - skb.seq) & SEQ_MASK
        unread += size - (behind if behind <= size else 0)
        skb.consume()
    mib = sk.net.mib.tcp_ext
    if sk.state == TCP_CLOSE:
        _orphan(sk)
        return None
    if sk.repair:
        # The connection goes on elsewhere.
        sk.disconnect()
    elif unread:
        # RFC 2525 section 2.17: the peer must know that data was lost.
        mib.TCPAbortOnClose += 1
        sk.set_state(TCP_CLOSE)
        send_active_reset_closed(sk)
    elif sk.linger == 0:
        sk.disconnect()
        mib.TCPAbortOnData += 1
    elif _close_state(sk):
        send_fin(sk)
    if sk.linger > 0 and sk.state in (TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK):
        return _linger(sk, deadline)
    _orphan(sk)
    return None


def _linger(sk: TcpSock, deadline: int) -> Blocking[None]:
    """Wait until the FIN is acknowledged (Linux: sk_stream_wait_close)."""
    deadline = min(deadline, sk.loop.now + sk.linger * SEC)
    try:
        while sk.state in (TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK) and sk.loop.now < deadline:
            yield Wait((sk.wait,), EPOLLOUT | EPOLLHUP | EPOLLERR | EPOLLRDHUP | EPOLLIN, deadline)
    finally:
        _orphan(sk)


def _orphan(sk: TcpSock) -> None:
    """No application holds it any more; the connection may go on for a while (Linux: adjudge_to_death)."""
    if sk.dead:
        return
    sk.dead = True
    tcp = sk.tcp
    mib = sk.net.mib.tcp_ext
    if sk.memberships:
        sk.af.drop_memberships(sk)
    if sk.state == TCP_CLOSE:
        sk.destroy()
        return
    tcp.orphans.add(sk)
    if sk.state == TCP_FIN_WAIT2:
        if sk.params.linger2 < 0:
            sk.set_state(TCP_CLOSE)
            send_active_reset_closed(sk)
            mib.TCPAbortOnLinger += 1
        else:
            timeout = sk.fin_time()
            if timeout > TCP_TIMEWAIT_LEN:
                sk.reset_keepalive_timer(timeout - TCP_TIMEWAIT_LEN)
            else:
                sk.time_wait(TCP_FIN_WAIT2, timeout)
            return
    if sk.state != TCP_CLOSE and len(tcp.orphans) > tcp.tcp_max_orphans:
        sk.set_state(TCP_CLOSE)
        send_active_reset_closed(sk)
        mib.TCPAbortOnMemory += 1
    if sk.state == TCP_CLOSE:
        sk.clear_timers()
        sk.destroy()


def send_active_reset_closed(sk: TcpSock) -> None:
    """Reset from a socket that is in CLOSE already, on its way out."""
    state = sk.state
    sk.state = TCP_CLOSE_WAIT
    send_active_reset(sk)
    sk.state = state
