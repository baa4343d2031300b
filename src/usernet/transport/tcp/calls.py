"""The calls on a TCP socket: connect, listen, accept, shutdown, close, poll (Linux: af_inet.c, tcp.c).

RFC 9293 section 3.9.1: OPEN, CLOSE, ABORT, STATUS. A call that has to wait is a generator (core/wait.py).
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRNORM,
    Blocking,
    Wait,
)
from usernet.sock.af_ops import RTN_BROADCAST, RTN_MULTICAST
from usernet.sock.msg import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SHUTDOWN_MASK,
    Name,
    SockAddr,
)
from usernet.sock.sock import O_NONBLOCK, Sock
from usernet.transport.tcp.connect import connect, send_fin
from usernet.transport.tcp.const import (
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
    TCP_URG_VALID,
)
from usernet.transport.tcp.fastopen import TFO_SERVER_ENABLE, TFO_SERVER_WO_SOCKOPT1, set_queue
from usernet.transport.tcp.fastopen_blackhole import ofo_check
from usernet.transport.tcp.fastopen_client import defer_connect
from usernet.transport.tcp.lookup import four_tuple_free, migration_target, unlisten
from usernet.transport.tcp.transmit import send_active_reset
from usernet.transport.tcp.window import receive_window

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

SS_UNCONNECTED = 0
SS_CONNECTING = 1
SS_CONNECTED = 2


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


def stream_connect(sk: TcpSock, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
    """connect(): start the handshake, or look how it goes (Linux: __inet_stream_connect)."""
    if name.family == 0:
        sk.disconnect()
        return None
    if not isinstance(name, SockAddr) or name.family != sk.family:
        raise error(errno.EAFNOSUPPORT)
    pending = errno.EINPROGRESS
    if sk.ss_state == SS_CONNECTING:
        pending = errno.EISCONN if sk.defer_connect else errno.EALREADY
    else:
        check_connect(sk)
        begin_connect(sk, name)
        if sk.defer_connect:
            return None
    if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if flags & O_NONBLOCK:
            raise error(pending)
        return _wait_connect(sk, pending, deadline)
    _connected(sk)
    return None


def check_connect(sk: TcpSock) -> None:
    """Raises OSError where the socket can't start to connect: EISCONN, EALREADY."""
    if sk.ss_state == SS_CONNECTED:
        raise error(errno.EISCONN)
    if sk.ss_state == SS_CONNECTING:
        raise error(errno.EALREADY)
    if sk.state != TCP_CLOSE:
        raise error(errno.EISCONN)


def begin_connect(sk: TcpSock, name: SockAddr) -> None:
    """Send the SYN, or with TCP_FASTOPEN_CONNECT put it off to the first write."""
    _start_connect(sk, name)
    sk.ss_state = SS_CONNECTING


def connected(sk: TcpSock) -> None:
    """The attempt is over: raises OSError where it failed."""
    _connected(sk)


def _connected(sk: TcpSock) -> None:
    """The attempt is over, one way or the other."""
    if sk.state == TCP_CLOSE:
        code = sk.take_error() or errno.ECONNABORTED
        sk.ss_state = SS_UNCONNECTED
        sk.disconnect()
        raise error(code)
    sk.ss_state = SS_CONNECTED


def _wait_connect(sk: TcpSock, pending: int, deadline: int) -> Blocking[None]:
    while sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if sk.loop.now >= deadline:
            raise error(pending)
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
    _connected(sk)


def _start_connect(sk: TcpSock, name: SockAddr) -> None:
    """Linux: tcp_v4_connect."""
    tcp = sk.tcp
    if len(name.addr) != sk.af.addr_len:
        raise error(errno.EINVAL)
    daddr = name.addr
    if daddr == sk.af.any:
        daddr = sk.af.loopback
    if sk.dead or not name.port:
        raise error(errno.ECONNREFUSED if not name.port and daddr else errno.EINVAL)
    kind = sk.af.addr_type(daddr)
    if kind in (RTN_MULTICAST, RTN_BROADCAST):
        raise error(errno.ENETUNREACH)
    bound = sk.saddr
    dst = sk.af.route(sk.flow(daddr, name.port))
    sk.ts_recent = sk.ts_recent_stamp = 0
    if sk.saddr == sk.af.any:
        sk.saddr = dst.saddr
        sk.rcv_saddr = dst.saddr
    sk.daddr = daddr
    sk.dport = name.port
    sk.dst = dst
    try:
        sk.set_state(TCP_SYN_SENT)
        if not sk.num:
            remote = sk.saddr + daddr + name.port.to_bytes(2, "big")
            tcp.ports.connect(sk, remote, lambda port: four_tuple_free(tcp, sk, port))
            sk.sport = sk.num
        elif not four_tuple_free(tcp, sk, sk.num, asked=True):
            raise error(errno.EADDRNOTAVAIL)
        sk.set_addresses()
        tcp.hash(sk)
        sk.ip_id = sk.net.random.getrandbits(16)
        # A record in TIME-WAIT that gave way, and an earlier connection of this socket, have left where to go on from.
        if not sk.repair:
            if not sk.write_seq:
                sk.write_seq = tcp.secure_seq(sk.saddr, daddr, sk.sport, sk.dport)
            sk.tsoffset = tcp.secure_ts_offset(sk.saddr, daddr)
        if not sk.fastopen_connect or not defer_connect(sk):
            connect(sk)
    except OSError:
        # As it was before the call.
        sk.set_state(TCP_CLOSE)
        sk.saddr = sk.rcv_saddr = bound
        sk.daddr = sk.af.any
        sk.dport = 0
        if not sk.bound_port:
            sk.sport = 0
        sk.dst = None
        raise


def tcp_disconnect(sk: TcpSock) -> None:
    """Abort, and be as new (Linux: tcp_disconnect)."""
    old = sk.state
    if old == TCP_LISTEN:
        _listen_stop(sk)
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
    if sk.fastopen_rsk is not None:
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
    sk.rtt_min = (0xFFFFFFFF, 0)
    sk.mdev_us = TCP_TIMEOUT_INIT // 1000
    sk.rto = sk.rto_init
    sk.rto_min = TCP_RTO_MIN // 1000
    sk.delack_max = TCP_DELACK_MAX
    sk.backoff = sk.icsk_retransmits = sk.probes_out = sk.total_rto = 0
    sk.total_rto_recoveries = sk.total_rto_time = sk.rto_stamp = 0
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
    sk.fastopen_req = None
    sk.fastopen_client_fail = 0
    sk.defer_connect = sk.syn_data = sk.syn_data_acked = sk.syn_fastopen = sk.syn_fastopen_exp = False
    sk.syn_fastopen_ch = False
    sk.ca_state = TCP_CA_OPEN
    sk.tstamp_ok = sk.sack_ok = sk.wscale_ok = False
    sk.snd_wscale = sk.rcv_wscale = 0
    sk.ack_ato = sk.ack_quick = sk.ack_pingpong = 0
    sk.rack_advanced = False
    sk.rack_mstamp = sk.rack_end_seq = 0
    sk.reordering = sk.tcp.tcp_reordering
    sk.reord_seen = 0
    sk.syn_fastopen_child = False
    sk.tx_marks = False
    sk.scaling_ratio = TCP_DEFAULT_SCALING_RATIO
    sk.pred_ok = False
    sk.nospace = False


def tcp_listen(sk: TcpSock, backlog: int) -> None:
    """listen(), or a new backlog for a socket that listens (Linux: inet_csk_listen_start)."""
    if sk.ss_state != SS_UNCONNECTED or sk.state not in (TCP_CLOSE, TCP_LISTEN):
        raise error(errno.EINVAL)
    limit = sk.settings.somaxconn
    sk.backlog = min(backlog if backlog >= 0 else limit, limit)
    if sk.state == TCP_LISTEN:
        return
    ports = sk.tcp.ports
    port = sk.num
    was_bound = bool(port)
    sk.state = TCP_LISTEN
    try:
        ports.bind(sk, sk.rcv_saddr, port)
    except OSError:
        sk.state = TCP_CLOSE
        raise
    sk.state = TCP_CLOSE
    if not was_bound:
        sk.bound_port = False
    sk.sport = sk.num
    sk.accept_queue = deque()
    wanted = TFO_SERVER_ENABLE | TFO_SERVER_WO_SOCKOPT1
    if sk.tcp.tcp_fastopen & wanted == wanted and not sk.fastopen_max_qlen:
        set_queue(sk, sk.backlog)
    sk.set_state(TCP_LISTEN)
    sk.tcp.listen(sk)


def _listen_stop(sk: TcpSock) -> None:
    """No more connections: those that wait are reset (Linux: inet_csk_listen_stop)."""
    tcp = sk.tcp
    unlisten(tcp, sk)
    queue = sk.accept_queue
    sk.accept_queue = None
    if sk.fastopen_resets:
        sk.fastopen_qlen -= len(sk.fastopen_resets)
        sk.fastopen_resets = None
    for child in queue or ():
        heir = migration_target(tcp, sk, child.key)
        if heir is not None and heir.accept_queue is not None:
            heir.accept_queue.append(child)
            child.listener = heir
            if child.fastopen_rsk is not None:
                child.fastopen_rsk.listener = heir
                heir.fastopen_qlen += 1
                sk.fastopen_qlen -= 1
            tcp.net.mib.tcp_ext.TCPMigrateReqSuccess += 1
            heir.data_ready()
            continue
        child.dead = True
        child.listener = None
        if child.state != TCP_CLOSE:
            send_active_reset(child)
            child.done()
        else:
            child.destroy()


def tcp_accept(sk: TcpSock, flags: int, deadline: int) -> Blocking[Sock] | Sock:
    """accept(): the next connection that is established (Linux: inet_csk_accept)."""
    if sk.state != TCP_LISTEN or sk.accept_queue is None:
        raise error(errno.EINVAL)
    if sk.accept_queue:
        return _take_child(sk)
    if flags & O_NONBLOCK:
        raise error(errno.EAGAIN)
    return _wait_accept(sk, deadline)


def _take_child(sk: TcpSock) -> TcpSock:
    queue = sk.accept_queue
    assert queue is not None
    child = queue.popleft()
    child.listener = None
    child.ss_state = SS_CONNECTED
    return child


def _wait_accept(sk: TcpSock, deadline: int) -> Blocking[Sock]:
    while True:
        if sk.loop.now >= deadline:
            raise error(errno.EAGAIN)
        yield Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP, deadline, exclusive=True)
        if sk.state != TCP_LISTEN:
            raise error(errno.EINVAL)
        if sk.accept_queue:
            return _take_child(sk)


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
        _listen_stop(sk)
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
        if sk.linger2 < 0:
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


def tcp_poll(sk: TcpSock) -> int:
    """Linux: tcp_poll."""
    state = sk.state
    if state == TCP_LISTEN:
        return EPOLLIN | EPOLLRDNORM if sk.accept_queue else 0
    mask = 0
    shutdown = sk.shutdown_mask
    if shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= EPOLLHUP
    if shutdown & RCV_SHUTDOWN:
        mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP
    if state != TCP_SYN_SENT and (state != TCP_SYN_RECV or sk.fastopen_pending):
        target = sk.rcvlowat
        if sk.urg_data and sk.urg_seq == sk.copied_seq and not sk.oobinline:
            target += 1
        ready = (sk.rcv_nxt - sk.copied_seq) & SEQ_MASK
        # A window that is used up must be read, or what SO_RCVLOWAT waits for could never come.
        if ready and sk.receive_queue.first is not None and (
            ready >= target or sk.rmem_alloc > sk.rcvbuf or receive_window(sk) <= sk.rcv_mss
        ):
            mask |= EPOLLIN | EPOLLRDNORM
        if not shutdown & SEND_SHUTDOWN:
            if sk.stream_writeable():
                mask |= EPOLLOUT | EPOLLWRNORM
            else:
                sk.nospace = True
        else:
            mask |= EPOLLOUT | EPOLLWRNORM
        if sk.urg_data & TCP_URG_VALID:
            mask |= EPOLLPRI
    elif state == TCP_SYN_SENT and sk.defer_connect:
        # The first write makes the connection.
        mask |= EPOLLOUT | EPOLLWRNORM
    if sk.err or sk.error_queue:
        mask |= EPOLLERR
    return mask


def send_active_reset_closed(sk: TcpSock) -> None:
    """Reset from a socket that is in CLOSE already, on its way out."""
    state = sk.state
    sk.state = TCP_CLOSE_WAIT
    send_active_reset(sk)
    sk.state = state
