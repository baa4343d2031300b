"""TCP Fast Open, the client: data with the SYN (RFC 7413 section 4.2; Linux: tcp_send_syn_data, tcp_sendmsg_fastopen).

`sendto(MSG_FASTOPEN)` connects and sends in one; with TCP_FASTOPEN_CONNECT, `connect` only says where to, and the first
write does it. Cookies are remembered by destination (metrics.py). Where the server has no cookie for us yet, the SYN
asks for one, and the data follows the handshake as ever.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.core.errors import error
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLOUT, Blocking, Wait
from usernet.sock.msg import MSG_DONTWAIT, MsgHdr, SockAddr
from usernet.sock.zerocopy import UbufInfo
from usernet.transport.tcp import chrono
from usernet.transport.tcp.completion import hold
from usernet.transport.tcp.const import SEQ_MASK, TCP_SYN_RECV, TCP_SYN_SENT
from usernet.transport.tcp.fastopen import (
    TFO_CLIENT_ENABLE,
    TFO_CLIENT_NO_COOKIE,
    TFO_COOKIE_UNAVAILABLE,
    TFO_DATA_NOT_ACKED,
    TFO_SYN_RETRANSMITTED,
    FastopenRequest,
    add_data,
    no_cookie,
)
from usernet.transport.tcp.fastopen_blackhole import active_should_disable
from usernet.transport.tcp.mss import mtu_to_mss, sync_mss
from usernet.transport.tcp.rack import mark_skb_lost
from usernet.transport.tcp.recovery import non_congestion_loss_retransmit
from usernet.transport.tcp.segment import new_segment
from usernet.transport.tcp.transmit import transmit_skb
from usernet.wire.tcp import ACK, PSH, SYN

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock
    from usernet.wire.tcp import TcpOptions

MAX_TCP_OPTION_SPACE = 40


def cookie_check(sk: TcpSock, request: FastopenRequest) -> bool:
    """Whether data may go with the SYN; sets the request's cookie (Linux: tcp_fastopen_cookie_check)."""
    known = sk.tcp.metrics.find(sk.saddr, sk.daddr, sk.dst, sk.loop.now)
    cookie = b""
    if known is not None:
        if known.mss:
            sk.mss_clamp = known.mss
        cookie = known.cookie
        request.cookie_exp = known.cookie_exp if cookie else known.try_exp == 1
    if active_should_disable(sk):
        request.cookie = None
        return False
    if no_cookie(sk, sk.dst, TFO_CLIENT_NO_COOKIE):
        request.cookie = None
        return True
    request.cookie = cookie
    if cookie:
        return True
    sk.own_tfo().fastopen_client_fail = TFO_COOKIE_UNAVAILABLE
    return False


def defer_connect(sk: TcpSock) -> bool:
    """TCP_FASTOPEN_CONNECT: whether connect() is to wait for the first write (Linux: tcp_fastopen_defer_connect)."""
    if not sk.tfo.fastopen_connect or sk.tfo.fastopen_req is not None:
        return False
    request = FastopenRequest(None)
    mss_clamp = sk.mss_clamp
    if cookie_check(sk, request):
        sk.mss_clamp = mss_clamp
        sk.own_tfo().defer_connect = True
        return True
    sk.mss_clamp = mss_clamp
    # The SYN asks for a cookie.
    sk.own_tfo().fastopen_req = request
    return False


def send_syn_data(sk: TcpSock, syn: SKBuff) -> None:
    """Send the SYN of a Fast Open, with data where there is a cookie (Linux: tcp_send_syn_data)."""
    request = sk.tfo.fastopen_req
    assert request is not None
    sk.mss_clamp = sk.advmss
    if cookie_check(sk, request):
        sk.mss_clamp = sk.mss_clamp_of(sk.mss_clamp)
        sync_mss(sk, sk.pmtu_cookie)
        if _send_data(sk, syn, request):
            request.cookie = None
            return
    if request.cookie:
        request.cookie = b""
    if transmit_skb(sk, syn):
        sk.tfo.syn_fastopen = False
    # Retransmitted SYNs are plain: what lies on the way may not like the option.
    request.cookie = None


def _send_data(sk: TcpSock, syn: SKBuff, request: FastopenRequest) -> bool:
    """The SYN with as much of the message as it holds. False where there is no memory to read from."""
    message = request.message
    room = mtu_to_mss(sk, sk.pmtu_cookie) + sk.tcp_header_len - 20 - MAX_TCP_OPTION_SPACE
    size = min(room, message.iter.length) if message is not None else 0
    data = new_segment(syn.seq, SYN)
    data.tcp_flags = syn.tcp_flags
    data.cb = -1
    if size and message is not None:
        try:
            payload = message.iter.read(size)
        except OSError:
            return False
        data.add_frag(payload)
        if request.uarg is not None:
            # It was copied, so that the SYN can be sent again without it.
            hold(sk, data, request.uarg, True)
        request.pending = message.iter.length > 0
    request.copied = size
    data.end_seq = (syn.end_seq + size) & SEQ_MASK
    sk.write_seq = data.end_seq
    sk.wmem_queued += data.truesize
    failure = transmit_skb(sk, data)
    syn.tx.mstamp = data.tx.mstamp or sk.loop.now
    data.seq = (data.seq + 1) & SEQ_MASK
    data.tcp_flags = ACK | PSH
    if failure:
        sk.write_queue.append(data)
        return False
    sk.own_tfo().syn_data = size > 0
    sk.packets_out += 1
    sk.rtx_queue.append(data)
    if size:
        chrono.start(sk, chrono.BUSY)
    sk.net.mib.tcp_ext.TCPOrigDataSent += 1
    return True


def sendmsg_fastopen(
    sk: TcpSock, msg: MsgHdr, flags: int, deadline: int, uarg: UbufInfo | None
) -> tuple[int, Blocking[None] | None]:
    """Connect and send in one (Linux: tcp_sendmsg_fastopen, __inet_stream_connect).

    Returns how much of the message went with the SYN, and what to wait for before the rest is sent: None where the call
    ends with that. Returns -1 where the socket is connected already, and the message is to be sent as ever.

    Raises OSError: EOPNOTSUPP, EALREADY, EISCONN, EINPROGRESS, and what connect raises.
    """
    name = msg.name
    if not sk.tcp.tcp_fastopen & TFO_CLIENT_ENABLE or (name is not None and name.family == 0):
        raise error(errno.EOPNOTSUPP)
    if sk.tfo.fastopen_req is not None:
        raise error(errno.EALREADY)
    from usernet.transport.tcp.calls import SS_CONNECTING, begin_connect, check_connect, connected
    from usernet.transport.tcp.connect import connect

    if not sk.tfo.defer_connect:
        if sk.ss_state == SS_CONNECTING and sk.state not in (TCP_SYN_SENT, TCP_SYN_RECV):
            # The attempt begun before has succeeded meanwhile: this is a plain send.
            connected(sk)
            return -1, None
        check_connect(sk)
        if not isinstance(name, SockAddr):
            raise error(errno.EINVAL)
    request = FastopenRequest(msg)
    request.uarg = uarg
    sk.own_tfo().fastopen_req = request
    try:
        if sk.tfo.defer_connect:
            connect(sk)
        elif isinstance(name, SockAddr):
            begin_connect(sk, name)
    except OSError:
        sk.tfo.fastopen_req = None
        raise
    if flags & MSG_DONTWAIT:
        _done(sk)
        if not request.copied:
            raise error(errno.EINPROGRESS)
        return request.copied, None
    return request.copied, _wait(sk, deadline)


def _done(sk: TcpSock) -> None:
    sk.tfo.fastopen_req = None
    sk.tfo.defer_connect = False


def _wait(sk: TcpSock, deadline: int) -> Blocking[None]:
    """Wait for the end of the handshake."""
    from usernet.transport.tcp.calls import connected

    try:
        while sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
            if sk.loop.now >= deadline:
                raise error(errno.EINPROGRESS)
            yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
        connected(sk)
    finally:
        _done(sk)


def rcv_synack(sk: TcpSock, skb: SKBuff, options: TcpOptions, doff: int) -> bool:
    """The SYN+ACK of a Fast Open: remember the cookie, and send again what was not taken with the SYN. True where
    something was, which carries the acknowledgement too (Linux: tcp_rcv_fastopen_synack)."""
    data = sk.rtx_queue.first if sk.tfo.syn_data else None
    cookie = options.fastopen
    try_exp = 0
    lost = False
    if not sk.tfo.syn_fastopen:
        cookie = None
    elif sk.total_retrans:
        lost = cookie is None and data is not None
    elif cookie is None and not sk.tfo.syn_data:
        # Asked for, and not given: the other kind of option next time.
        try_exp = 2 if sk.tfo.syn_fastopen_exp else 1
    _remember(sk, options, cookie, lost, try_exp)
    mib = sk.net.mib.tcp_ext
    if data is not None:
        sk.own_tfo().fastopen_client_fail = TFO_SYN_RETRANSMITTED if sk.total_retrans else TFO_DATA_NOT_ACKED
        skb_lost: SKBuff | None = data
        while skb_lost is not None:
            mark_skb_lost(sk, skb_lost)
            skb_lost = skb_lost.next
        non_congestion_loss_retransmit(sk)
        mib.TCPFastOpenActiveFail += 1
        return True
    sk.own_tfo().syn_data_acked = sk.tfo.syn_data
    if sk.tfo.syn_data_acked:
        mib.TCPFastOpenActive += 1
        # SYN and data were one packet.
        if sk.delivered > 1:
            sk.delivered -= 1
    acked = sk.tfo.syn_data_acked
    add_data(sk, skb, doff)
    sk.own_tfo().syn_data_acked = acked
    return False


def _remember(sk: TcpSock, options: TcpOptions, cookie: bytes | None, lost: bool, try_exp: int) -> None:
    """Linux: tcp_fastopen_cache_set."""
    dst = sk.dst
    if dst is None:
        return
    entry = sk.tcp.metrics.make(sk.saddr, sk.daddr, dst, sk.loop.now)
    if options.mss:
        entry.mss = options.mss
    if cookie:
        entry.cookie = cookie
        entry.cookie_exp = options.fastopen_exp
    elif try_exp > entry.try_exp and not entry.cookie:
        entry.try_exp = try_exp
    if lost:
        entry.syn_loss += 1
        entry.last_syn_loss = sk.loop.now
    else:
        entry.syn_loss = 0
