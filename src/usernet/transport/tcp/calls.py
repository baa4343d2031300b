"""The calls on a TCP socket: connect, listen, accept, poll (Linux: af_inet.c, tcp.c). How it ends is in close.py.

RFC 9293 section 3.9.1: OPEN, STATUS. A call that has to wait is a generator (core/wait.py).
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from usernet.core.errors import error
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
    SHUTDOWN_MASK,
    Name,
    SockAddr,
)
from usernet.sock.sock import O_NONBLOCK, Sock
from usernet.transport.tcp.connect import connect
from usernet.transport.tcp.const import (
    SEQ_MASK,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_URG_VALID,
)
from usernet.transport.tcp.fastopen import TFO_SERVER_ENABLE, TFO_SERVER_WO_SOCKOPT1, set_queue
from usernet.transport.tcp.lookup import four_tuple_free, migration_target, unlisten
from usernet.transport.tcp.transmit import send_active_reset
from usernet.transport.tcp.window import receive_window

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

SS_UNCONNECTED = 0
SS_CONNECTING = 1
SS_CONNECTED = 2


def stream_connect(sk: TcpSock, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
    """connect(): start the handshake, or look how it goes (Linux: __inet_stream_connect)."""
    if name.family == 0:
        sk.disconnect()
        return None
    if not isinstance(name, SockAddr) or name.family != sk.family:
        raise error(errno.EAFNOSUPPORT)
    pending = errno.EINPROGRESS
    if sk.ss_state == SS_CONNECTING:
        pending = errno.EISCONN if sk.tfo.defer_connect else errno.EALREADY
    else:
        check_connect(sk)
        begin_connect(sk, name)
        if sk.tfo.defer_connect:
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
        if not (sk.tfo.fastopen_connect and _defer_connect(sk)):
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


def _defer_connect(sk: TcpSock) -> bool:
    """TCP_FASTOPEN_CONNECT: whether the SYN waits for the first data."""
    from usernet.transport.tcp.fastopen_client import defer_connect

    return defer_connect(sk)


def tcp_listen(sk: TcpSock, backlog: int) -> None:
    """listen(), or a new backlog for a socket that listens (Linux: inet_csk_listen_start)."""
    if sk.ss_state != SS_UNCONNECTED or sk.state not in (TCP_CLOSE, TCP_LISTEN):
        raise error(errno.EINVAL)
    limit = sk.settings.somaxconn
    queue = sk.own_request_queue()
    queue.backlog = min(backlog if backlog >= 0 else limit, limit)
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
    queue.accept_queue = deque()
    wanted = TFO_SERVER_ENABLE | TFO_SERVER_WO_SOCKOPT1
    if sk.tcp.tcp_fastopen & wanted == wanted and not queue.fastopen_max_qlen:
        set_queue(sk, queue.backlog)
    sk.set_state(TCP_LISTEN)
    sk.tcp.listen(sk)


def listen_stop(sk: TcpSock) -> None:
    """No more connections: those that wait are reset (Linux: inet_csklisten_stop)."""
    tcp = sk.tcp
    unlisten(tcp, sk)
    queue = sk.request_queue
    children, queue.accept_queue = queue.accept_queue, None
    if queue.fastopen_resets:
        queue.fastopen_qlen -= len(queue.fastopen_resets)
        queue.fastopen_resets = None
    for child in children or ():
        heir = migration_target(tcp, sk, child.key)
        if heir is not None and heir.request_queue.accept_queue is not None:
            heir.request_queue.accept_queue.append(child)
            child.listener = heir
            if child.tfo.fastopen_rsk is not None:
                child.tfo.fastopen_rsk.listener = heir
                heir.request_queue.fastopen_qlen += 1
                queue.fastopen_qlen -= 1
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
    if sk.state != TCP_LISTEN or sk.request_queue.accept_queue is None:
        raise error(errno.EINVAL)
    if sk.request_queue.accept_queue:
        return _take_child(sk)
    if flags & O_NONBLOCK:
        raise error(errno.EAGAIN)
    return _wait_accept(sk, deadline)


def _take_child(sk: TcpSock) -> TcpSock:
    queue = sk.request_queue.accept_queue
    assert queue is not None
    child = queue.popleft()
    child.listener = None
    child.ss_state = SS_CONNECTED
    return child


def tcp_unaccept(sk: TcpSock, child: TcpSock) -> None:
    """Put a connection that accept() gave, and that nobody has used, back to the head of the queue. One whose listener
    has stopped listening is reset, as those are that wait then."""
    child.ss_state = SS_UNCONNECTED
    if sk.request_queue.accept_queue is None:
        child.dead = True
        if child.state != TCP_CLOSE:
            send_active_reset(child)
            child.done()
        else:
            child.destroy()
        return
    child.listener = sk
    sk.request_queue.accept_queue.appendleft(child)
    sk.data_ready()


def _wait_accept(sk: TcpSock, deadline: int) -> Blocking[Sock]:
    while True:
        if sk.loop.now >= deadline:
            raise error(errno.EAGAIN)
        yield Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP, deadline, exclusive=True)
        if sk.state != TCP_LISTEN:
            raise error(errno.EINVAL)
        if sk.request_queue.accept_queue:
            return _take_child(sk)


def tcp_poll(sk: TcpSock) -> int:
    """Linux: tcp_poll."""
    state = sk.state
    if state == TCP_LISTEN:
        return EPOLLIN | EPOLLRDNORM if sk.request_queue.accept_queue else 0
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
    elif state == TCP_SYN_SENT and sk.tfo.defer_connect:
        # The first write makes the connection.
        mask |= EPOLLOUT | EPOLLWRNORM
    if sk.err or sk.error_queue:
        mask |= EPOLLERR
    return mask
