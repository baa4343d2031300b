"""The passive open: SYN queue, accept queue, and how a request becomes a socket (Linux: tcp_minisocks.c).

A SYN makes a `RequestSock` (request.py). The peer's acknowledgement makes it a socket, which waits in the listener's
accept queue. Both queues are bounded by the backlog of listen(). A SYN that finds the SYN queue full is answered with a
cookie (syncookies.py), or dropped where there are to be none; one that finds the accept queue full is dropped, and so
is an acknowledgement (the peer's retransmission, or our SYN+ACK's, tries again; `tcp_abort_on_overflow` resets).

RFC 9293 section 3.10.7.2 and 3.10.7.4 (SYN-RECEIVED), RFC 5961, RFC 7323.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.net.pacing import SK_PACING_NEEDED
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_LOCAL
from usernet.transport.tcp import ecn
from usernet.transport.tcp.congestion.base import assign, assign_from_route
from usernet.transport.tcp.const import MSEC, SEQ_MASK, TCP_LISTEN, TCP_SYN_RECV, after
from usernet.transport.tcp.fastopen import TFO_SERVER_ENABLE
from usernet.transport.tcp.input import rcv_state_process
from usernet.transport.tcp.mss import sync_mss
from usernet.transport.tcp.request import RequestSock
from usernet.transport.tcp.validate import paws_reject
from usernet.transport.tcp.window import in_window, init_rcv_mss
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader


def wants_cookie(tcp: Tcp, listener: TcpSock) -> bool | None:
    """What a full SYN queue does to a SYN: True for a cookie, False where there is room, None to drop it (Linux:
    tcp_syn_flood_action)."""
    if tcp.tcp_syncookies != 2 and listener.request_queue.syn_queue <= listener.request_queue.backlog:
        return False
    mib = tcp.net.mib.tcp_ext
    if tcp.tcp_syncookies:
        mib.TCPReqQFullDoCookies += 1
        return True
    mib.TCPReqQFullDrop += 1
    return None


def conn_request(tcp: Tcp, listener: TcpSock, skb: SKBuff, th: TcpHeader, isn: int) -> None:
    """A SYN for a listener (Linux: tcp_conn_request). isn: our initial sequence number where the SYN ends a TIME-WAIT,
    which no limit keeps from it; 0 to choose one."""
    net = tcp.net
    mib = net.mib.tcp_ext
    drops = net.drops
    if skb.af.addr_type(skb.daddr) != RTN_LOCAL:
        skb.drop(DropReason.IP_INVALID_DEST, drops)
        return
    queue = listener.request_queue.accept_queue
    if queue is None or listener.state != TCP_LISTEN:
        skb.drop(DropReason.TCP_CLOSE, drops)
        return
    cookie = wants_cookie(tcp, listener) if not isn else False
    if cookie is None or len(queue) > listener.request_queue.backlog:
        if cookie is not None:
            mib.ListenOverflows += 1
        mib.ListenDrops += 1
        skb.drop(DropReason.TCP_LISTEN_OVERFLOW, drops)
        return
    start = skb.transport_header
    options = wire.parse_options(skb.head, start + wire.TCP_HLEN, start + th[4])
    request = RequestSock(listener, skb, options)
    if options.ao is not None:
        from usernet.transport.tcp.auth_reply import init_request

        init_request(request, skb)
    request.syncookie = cookie
    if cookie and not options.has_ts:
        # There is nothing to keep them in.
        request.sack_ok = request.wscale_ok = False
        request.snd_wscale = 0
    if not request.oif and skb.dev is not None and listener.scope_id:
        request.oif = skb.dev.index
    try:
        dst = skb.af.route(request.flow())
    except OSError:
        mib.ListenDrops += 1
        skb.drop(DropReason.IP_OUTNOROUTES, drops)
        return
    request.dst = dst
    saddr, daddr = skb.daddr, skb.saddr
    if request.tstamp_ok:
        request.ts_off = tcp.secure_ts_offset(saddr, daddr)
    if not cookie and not isn:
        room = tcp.tcp_max_syn_backlog
        if (
            not tcp.tcp_syncookies
            and room - listener.request_queue.syn_queue < room >> 2
            and not tcp.metrics.peer_is_proven(saddr, daddr, dst, net.loop.now)
        ):
            # The last quarter is for those who have completed a handshake before.
            mib.ListenDrops += 1
            skb.drop(DropReason.TCP_LISTEN_OVERFLOW, drops)
            return
        isn = tcp.secure_seq(saddr, daddr, th[1], th[0])
    ecn.create_request(tcp, request, skb, dst)
    if cookie:
        from usernet.transport.tcp import syncookies

        syncookies.synq_overflow(listener)
        mib.SyncookiesSent += 1
        isn = syncookies.init_sequence(tcp, request)
        if not request.tstamp_ok:
            request.ecn_ok = request.accecn_ok = False
        request.init_window(dst)
        request.snt_isn = isn
        request.send_synack()
        skb.consume()
        return
    request.snt_isn = isn
    request.init_window(dst)
    if listener.request_queue.save_syn:
        request.saved_syn = syn_headers(skb, th, listener.request_queue.save_syn)
    if tcp.tcp_fastopen & TFO_SERVER_ENABLE:
        from usernet.transport.tcp.fastopen_server import try_fastopen

        child = try_fastopen(tcp, listener, request, skb, th, options)
        if child is not None:
            request.send_synack()
            queue.append(child)
            child.listener = listener
            listener.data_ready()
            skb.consume()
            return
    request.queue(listener)
    tcp.add_request(request)
    request.arm()
    request.send_synack()
    skb.consume()


def syn_headers(skb: SKBuff, th: TcpHeader, wanted: int) -> bytes:
    """What TCP_SAVED_SYN gives: the SYN's headers from the network's on, or with `wanted` 2 from the link's on (Linux:
    tcp_reqsk_record_syn)."""
    start = skb.network_header
    if wanted == 2 and skb.mac_header >= 0:
        start = skb.mac_header
    return skb.head[start : skb.transport_header + th[4]]


def check_request(tcp: Tcp, request: RequestSock, skb: SKBuff, th: TcpHeader) -> TcpSock | None:
    """A segment for a request (Linux: tcp_check_req). Returns the new socket, which is to process the segment; the
    listener, where that is to; None where the segment was dealt with here."""
    doff, flags, window = th[4], th[5], th[6]
    net = tcp.net
    drops = net.drops
    now = net.loop.now
    listener = request.listener
    mib = net.mib
    seq = skb.seq
    old = impossible = False
    options: wire.TcpOptions | None = None
    if doff > wire.TCP_HLEN:
        start = skb.transport_header + wire.TCP_HLEN
        options = wire.parse_options(skb.head, start, skb.transport_header + doff)
        if options.has_ts and tcp.tcp_timestamps:
            # When the time stamp came was not kept; about one time-out ago.
            stamp = now - request.timeout()
            old = paws_reject(request.ts_recent, stamp, options.tsval, now, rst=bool(flags & RST))
            if options.tsecr and request.tstamp_ok:
                impossible = not request.echo_possible(options.tsecr)
        else:
            options = None
    kind = flags & (RST | SYN | ACK)
    if seq == request.rcv_isn and kind == SYN and not old:
        # The SYN again: repeat the answer, and count from now.
        if not request.oow_limited(skb):
            ecn.syn_again(request, skb)
            request.retransmit()
            request.arm()
        skb.consume()
        return None
    if kind & (ACK | RST) == ACK and skb.ack_seq != (request.snt_isn + 1) & SEQ_MASK:
        # RFC 9293 section 3.10.7.4, fifth: acknowledges what was never sent, unless it was a cookie.
        if listener.request_queue.synq_overflow >= 0:
            return listener
        tcp.send_reset(skb, request)
        skb.drop(DropReason.TCP_INVALID_ACK_SEQUENCE, drops)
        return None
    edge = (request.rcv_nxt + min(request.rcv_wnd, 65535)) & SEQ_MASK
    if old or impossible or not in_window(seq, skb.end_seq, request.rcv_nxt, edge):
        if not flags & RST and not request.oow_limited(skb):
            request.send_ack(skb)
        if old:
            mib.tcp_ext.PAWSEstab += 1
        elif impossible:
            mib.tcp_ext.TSEcrRejected += 1
        reason = DropReason.TCP_RFC7323_TSECR if impossible else DropReason.TCP_OVERWINDOW
        skb.drop(DropReason.TCP_RFC7323_PAWS if old else reason, drops)
        return None
    if seq == request.rcv_isn:
        # A retransmitted SYN with data or an acknowledgement: the SYN itself is old.
        flags &= ~SYN
    if flags & RST and seq != request.rcv_nxt:
        # RFC 9293 section 3.10.7.4, second: in the window, and not exact.
        request.send_challenge_ack(skb)
        skb.drop(DropReason.TCP_RESET, drops)
        return None
    if flags & (RST | SYN):
        mib.tcp.AttemptFails += 1
        if not flags & RST:
            tcp.send_reset(skb, request)
        mib.tcp_ext.EmbryonicRsts += 1
        request.drop()
        skb.drop(DropReason.TCP_RESET if flags & RST else DropReason.TCP_INVALID_SYN, drops)
        return None
    if not flags & ACK:
        skb.drop(DropReason.TCP_FLAGS, drops)
        return None
    if request.num_timeout < listener.request_queue.defer_accept and skb.end_seq == (request.rcv_isn + 1) & SEQ_MASK:
        # TCP_DEFER_ACCEPT: a bare acknowledgement doesn't wake the application.
        request.acked = True
        mib.tcp_ext.TCPDeferAcceptDrop += 1
        skb.consume()
        return None
    queue = listener.request_queue.accept_queue
    if queue is None or len(queue) > listener.request_queue.backlog:
        mib.tcp_ext.ListenOverflows += 1
        mib.tcp_ext.ListenDrops += 1
        if tcp.tcp_abort_on_overflow:
            tcp.send_reset(skb, request)
            mib.tcp_ext.EmbryonicRsts += 1
            request.drop()
        else:
            request.acked = True
        skb.drop(DropReason.TCP_LISTEN_OVERFLOW, drops)
        return None
    child = create_child(net, tcp, request, skb, window)
    if child is None:
        mib.tcp_ext.ListenDrops += 1
        skb.drop(DropReason.TCP_AOKEYNOTFOUND, drops)
        return None
    if options is not None and request.tstamp_ok and not after(seq, request.rcv_nxt):
        child.ts_recent = options.tsval
    request.drop()
    tcp.hash(child)
    queue.append(child)
    child.listener = listener
    return child


def create_child(net: Net, tcp: Tcp, request: RequestSock, skb: SKBuff, window: int) -> TcpSock | None:
    """The socket that a request becomes, in SYN-RECEIVED (Linux: tcp_create_openreq_child, tcp_v4_syn_recv_sock).
    None where it would have to be signed, and the listener has no key for it any more."""
    listener = request.listener
    if request.used_ao:
        from usernet.transport.tcp.auth import has_key

        if not has_key(request):
            return None
    child = type(listener)(net, request.af)
    inherit(child, listener)
    now = net.loop.now
    child.saddr = child.rcv_saddr = request.saddr
    child.daddr = request.daddr
    child.sport = request.sport
    child.dport = request.dport
    child.bound_dev_if = request.oif
    child.options = request.options
    # What IP_PKTOPTIONS tells of a stream is that of its first segment (Linux: tcp_v4_syn_recv_sock).
    child.rcv_tos, child.mc_ttl, _ = request.af.header_of(skb)
    child.mc_index = skb.dev.index if skb.dev is not None else 0
    if tcp.tcp_reflect_tos:
        child.tos = request.tos & ~3
    child.bound_addr = True
    child.bound_port = listener.bound_port
    child.state = TCP_SYN_RECV
    tcp.ports.inherit(child, listener.num)
    child.set_addresses()
    child.rcv_wup = child.copied_seq = child.rcv_nxt = (request.rcv_isn + 1) & SEQ_MASK
    snd = (request.snt_isn + 1) & SEQ_MASK
    # The SYN; the acknowledgement is counted as it is processed.
    child.segs_in = 1
    child.snd_sml = child.snd_una = child.snd_nxt = child.snd_up = child.write_seq = child.pushed_seq = snd
    child.snd_wl1 = (request.rcv_isn) & SEQ_MASK
    child.sack_ok = request.sack_ok
    mss, advmss, child.rcv_wnd, child.window_clamp, rcv_wscale = request.sizes
    child.rcv_ssthresh = child.rcv_wnd
    child.wscale_ok = request.wscale_ok
    if request.wscale_ok:
        child.snd_wscale = request.snd_wscale
        child.rcv_wscale = rcv_wscale
    else:
        child.window_clamp = min(child.window_clamp, 65535)
    child.snd_wnd = window << child.snd_wscale
    child.max_window = child.snd_wnd
    child.tcp_header_len = wire.TCP_HLEN
    if request.tstamp_ok:
        child.tstamp_ok = True
        child.ts_recent = request.ts_recent
        child.ts_recent_stamp = now
        child.tcp_header_len += wire.TCPOLEN_TSTAMP_ALIGNED
        child.tsoffset = request.ts_off
    child.dst = request.dst
    child.saved_syn, request.saved_syn = request.saved_syn, None
    assign_from_route(child)
    if listener.auth is not None:
        from usernet.transport.tcp.auth import inherit_keys

        inherit_keys(child, request, listener.auth)
    if request.ecn_ok:
        ecn.openreq_child(child, request, skb)
    child.mss_clamp = mss
    child.advmss = advmss
    dst = request.dst
    if dst is not None:
        sync_mss(child, dst.mtu())
    init_rcv_mss(child)
    child.ip_id = net.random.getrandbits(16)
    child.total_retrans = request.num_retrans
    if request.num_timeout:
        stats = child.own_rto_stats()
        stats.total_rto = request.num_timeout
        stats.total_rto_recoveries = 1
        stats.total_rto_time = (now - request.sent_mstamp) // MSEC
        # For undo_spurious_syn.
        child.undo_marker = request.snt_isn
        child.undo_active = True
        child.retrans_stamp = request.sent_mstamp // MSEC or 1
    child.synack_mstamp = request.sent_mstamp
    child.snd_cwnd_stamp = now
    child.lsndtime = now
    child.rcv_tstamp = now
    net.mib.tcp.PassiveOpens += 1
    return child


def inherit(child: TcpSock, listener: TcpSock) -> None:
    """The options of a listener are those of its children (Linux: sk_clone_lock)."""
    for name in INHERITED:
        setattr(child, name, getattr(listener, name))
    # The system's default as it is now, unless the program chose one for the listener (tcp_ca_openreq_child).
    if listener.params.ca_setsockopt:
        assign(child, type(listener.ca)())
    else:
        assign(child, child.ca)
    if listener.tfo.fastopen_no_cookie:
        child.own_tfo().fastopen_no_cookie = True
    if child.max_pacing_rate:
        child.pacing_status = SK_PACING_NEEDED
        child.pacing_rate = child.max_pacing_rate


INHERITED = (
    "rcvbuf", "sndbuf", "rcvbuf_locked", "sndbuf_locked", "mark", "priority", "reuse", "reuseport", "broadcast",
    "keepopen", "oobinline", "dontroute", "linger", "rcvlowat", "rcvtimeo", "sndtimeo", "rcvtstamp", "tsflags",
    "zerocopy", "filter", "max_pacing_rate", "incoming_cpu", "busy_poll", "tos", "ttl", "min_ttl", "mc_ttl", "mc_loop",
    "mc_all", "pmtudisc", "recverr", "freebind", "transparent", "cmsg_flags", "nonagle", "params",
    "window_clamp", "notsent_lowat", "rto_max", "rto_min",
)  # fmt: skip


def child_process(child: TcpSock, skb: SKBuff, th: TcpHeader) -> None:
    """The segment that made a socket is its first (Linux: tcp_child_process)."""
    listener = child.listener
    tcp = child.tcp
    if rcv_state_process(child, skb, th):
        tcp.send_reset(skb, child)
        skb.drop(DropReason.TCP_RESET, child.net.drops)
    if child.state != TCP_SYN_RECV and listener is not None:
        listener.data_ready()
