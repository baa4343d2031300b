"""TCP Fast Open, the server: a socket as soon as the SYN comes (RFC 7413 section 4.2; Linux: tcp_try_fastopen).

A SYN with a valid cookie makes the connection's socket at once, in SYN-RECEIVED, with the SYN's data to be read; it
goes to the accept queue, and may send. The request stays with it until the handshake's last acknowledgement: it repeats
the SYN+ACK, by the socket's own timer, and judges segments until then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from usernet.skbuff.dropreason import DropReason
from usernet.transport.tcp.const import (
    ICSK_TIME_RETRANS,
    MSEC,
    SEC,
    SEQ_MASK,
    TCP_CA_LOSS,
    TCP_LISTEN,
    TCP_TIMEOUT_INIT,
)
from usernet.transport.tcp.ecn import syn_again
from usernet.transport.tcp.fastopen import (
    TFO_SERVER_COOKIE_NOT_REQD,
    TFO_SERVER_ENABLE,
    add_data,
    keys_of,
    make_cookie,
    no_cookie,
)
from usernet.transport.tcp.handshake import create_child
from usernet.transport.tcp.output import rearm_rto, reset_xmit_timer
from usernet.transport.tcp.recovery import enter_loss, update_rto_time
from usernet.transport.tcp.request import RequestSock
from usernet.transport.tcp.synsent import init_transfer
from usernet.transport.tcp.timer import write_err
from usernet.transport.tcp.undo import try_undo_recovery
from usernet.transport.tcp.validate import paws_reject, tcp_reset
from usernet.transport.tcp.window import in_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, RST, SYN

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader, TcpOptions

FASTOPEN_RST_HOLD: Final = 60 * SEC


def try_fastopen(
    tcp: Tcp, listener: TcpSock, request: RequestSock, skb: SKBuff, th: TcpHeader, options: TcpOptions
) -> TcpSock | None:
    """The socket of a SYN with Fast Open; None where the handshake is an ordinary one. Sets the cookie that the
    SYN+ACK is to bring (Linux: tcp_try_fastopen)."""
    cookie = options.fastopen
    mib = tcp.net.mib.tcp_ext
    if cookie == b"":
        mib.TCPFastOpenCookieReqd += 1
    has_data = skb.end_seq != (skb.seq + 1) & SEQ_MASK
    if not tcp.tcp_fastopen & TFO_SERVER_ENABLE or not (has_data or cookie is not None):
        return None
    if not listener.request_queue.fastopen_max_qlen or _queue_full(listener):
        return None
    request.cookie_exp = options.fastopen_exp
    if no_cookie(listener, request.dst, TFO_SERVER_COOKIE_NOT_REQD):
        return _create(tcp, listener, request, skb, th)
    if cookie is None:
        return None
    valid = [make_cookie(key, skb.saddr, skb.daddr) for key in keys_of(tcp, listener)]
    if not valid:
        return None
    if cookie == b"":
        request.cookie = valid[0]
        return None
    if cookie not in valid:
        mib.TCPFastOpenPassiveFail += 1
        request.cookie = valid[0]
        return None
    if cookie != valid[0]:
        # Made with the key before: the client gets a new one.
        request.cookie = valid[0]
        mib.TCPFastOpenPassiveAltKey += 1
    return _create(tcp, listener, request, skb, th)


def _create(tcp: Tcp, listener: TcpSock, request: RequestSock, skb: SKBuff, th: TcpHeader) -> TcpSock | None:
    """Linux: tcp_fastopen_create_child."""
    net = tcp.net
    request.sent_mstamp = net.loop.now
    child = create_child(net, tcp, request, skb, th[6])
    if child is None:
        return None
    child.snd_una = child.snd_nxt
    # The window of a SYN is never scaled.
    child.snd_wnd = child.max_window = th[6]
    tfo = child.own_tfo()
    tfo.fastopen_rsk = request
    tfo.syn_fastopen_child = True
    child.fastopen_pending = True
    listener.request_queue.fastopen_qlen += 1
    tcp.hash(child)
    reset_xmit_timer(child, ICSK_TIME_RETRANS, TCP_TIMEOUT_INIT)
    init_transfer(child)
    child.rcv_nxt = (skb.seq + 1) & SEQ_MASK
    add_data(child, skb, th[4])
    child.rcv_wup = child.rcv_nxt
    request.syn_len = (child.rcv_nxt - request.rcv_isn - 1) & SEQ_MASK
    net.mib.tcp_ext.TCPFastOpenPassive += 1
    return child


def remove(sk: TcpSock, reset: bool = False) -> None:
    """The socket's request is over (Linux: reqsk_fastopen_remove).

    reset: by a reset. If the application has the socket already, the request counts for a minute more: who sends SYNs
    with another's address has them reset by that one, and must not be able to send without end.
    """
    request = sk.tfo.fastopen_rsk
    if request is None:
        return
    listener = request.listener
    queue = listener.request_queue
    sk.tfo.fastopen_rsk = None
    sk.fastopen_pending = False
    if reset and sk.listener is None and listener.state == TCP_LISTEN:
        if queue.fastopen_resets is None:
            queue.fastopen_resets = deque()
        queue.fastopen_resets.append(sk.loop.now + FASTOPEN_RST_HOLD)
    else:
        queue.fastopen_qlen -= 1


def _queue_full(listener: TcpSock) -> bool:
    """Whether no more requests may wait; where resets only keep it full, the oldest of them that is a minute old makes
    room (Linux: tcp_fastopen_queue_check)."""
    queue = listener.request_queue
    if queue.fastopen_qlen < queue.fastopen_max_qlen:
        return False
    resets = queue.fastopen_resets
    if not resets or resets[0] > listener.loop.now:
        listener.net.mib.tcp_ext.TCPFastOpenListenOverflow += 1
        return True
    resets.popleft()
    queue.fastopen_qlen -= 1
    return False


def check_request(sk: TcpSock, request: RequestSock, skb: SKBuff, th: TcpHeader) -> bool:
    """A segment before the handshake is done; whether the socket may process it (Linux: tcp_check_req)."""
    tcp = sk.tcp
    flags = th[5]
    now = sk.loop.now
    rejected = False
    if th[4] > wire.TCP_HLEN:
        start = skb.transport_header
        options = wire.parse_options(skb.head, start + wire.TCP_HLEN, start + th[4])
        if options.has_ts and tcp.tcp_timestamps:
            stamp = now - request.timeout()
            rejected = paws_reject(request.ts_recent, stamp, options.tsval, now, rst=bool(flags & RST))
    if skb.seq == request.rcv_isn and flags & (RST | SYN | ACK) == SYN and not rejected:
        if not request.oow_limited(skb):
            syn_again(request, skb)
            request.retransmit()
            sk.total_retrans += 1
        return False
    edge = (request.rcv_nxt + min(request.rcv_wnd, 65535)) & SEQ_MASK
    if rejected or not in_window(skb.seq, skb.end_seq, request.rcv_nxt, edge):
        if not flags & RST and not request.oow_limited(skb):
            request.send_ack(skb, sk.snd_nxt)
        if rejected:
            tcp.net.mib.tcp_ext.PAWSEstab += 1
        return False
    if skb.seq == request.rcv_isn:
        flags &= ~SYN
    if flags & RST and skb.seq != request.rcv_nxt:
        request.send_challenge_ack(skb, sk.snd_nxt)
        return False
    if flags & (RST | SYN):
        tcp.net.mib.tcp.AttemptFails += 1
        if flags & RST:
            remove(sk, reset=True)
            tcp_reset(sk, skb)
        else:
            tcp.send_reset(skb, sk)
        return False
    return bool(flags & ACK)


def established(sk: TcpSock) -> None:
    """The handshake of a Fast Open is done (Linux: tcp_rcv_synrecv_state_fastopen)."""
    if sk.ca_state == TCP_CA_LOSS and not sk.packets_out:
        try_undo_recovery(sk)
    update_rto_time(sk)
    sk.retrans_stamp = 0
    sk.icsk_retransmits = 0
    remove(sk)
    # Data may have been sent meanwhile.
    rearm_rto(sk)


def synack_timer(sk: TcpSock, request: RequestSock) -> None:
    """The SYN+ACK was not acknowledged in time (Linux: tcp_fastopen_synack_timer)."""
    sk.net.mib.tcp_ext.TCPTimeouts += 1
    if request.num_timeout >= (sk.params.syn_retries or sk.tcp.tcp_synack_retries + 1):
        write_err(sk)
        return
    if sk.icsk_retransmits == 1:
        enter_loss(sk)
    request.retransmit()
    sk.total_retrans += 1
    request.num_timeout += 1
    sk.icsk_retransmits += 1
    sk.own_rto_stats().total_rto += 1
    if not sk.retrans_stamp:
        sk.retrans_stamp = sk.loop.now // MSEC or 1
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, min(TCP_TIMEOUT_INIT << request.num_timeout, sk.rto_max))


def discard(skb: SKBuff, sk: TcpSock) -> None:
    """A segment that `check_request` kept from the socket."""
    skb.drop(DropReason.TCP_FLAGS, sk.net.drops)
