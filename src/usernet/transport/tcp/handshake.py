"""The passive open: SYN queue, accept queue, and how a request becomes a socket (Linux: tcp_minisocks.c).

A SYN makes a `RequestSock`, a small object in the table of connections, with a timer that repeats the SYN+ACK. The
peer's acknowledgement makes it a socket, which waits in the listener's accept queue. Both queues are bounded by the
backlog of listen(): a SYN that finds either full is dropped, and so is an acknowledgement that finds the accept queue
full (the peer's retransmission, or our SYN+ACK's, tries again; `tcp_abort_on_overflow` resets instead).

RFC 9293 section 3.10.7.2 and 3.10.7.4 (SYN-RECEIVED), RFC 5961, RFC 7323.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.core.timer import Timer
from usernet.net.dst import RTAX_INITRWND, RTAX_WINDOW, Dst
from usernet.net.pacing import SK_PACING_NEEDED
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_LOCAL, AddressFamily, Flow
from usernet.transport.tcp import accecn_option, ecn
from usernet.transport.tcp.auth import has_key, inherit_keys
from usernet.transport.tcp.auth_reply import Unsigned, init_request, request_signer, synack_signer
from usernet.transport.tcp.congestion.base import assign, assign_from_route
from usernet.transport.tcp.const import (
    MSEC,
    SEC,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_MSS_DEFAULT,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIMEOUT_INIT,
    after,
)
from usernet.transport.tcp.fastopen import TFO_SERVER_ENABLE
from usernet.transport.tcp.input import rcv_state_process
from usernet.transport.tcp.mss import sync_mss
from usernet.transport.tcp.validate import paws_reject
from usernet.transport.tcp.window import full_space, in_window, init_rcv_mss, select_initial_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.auth import Signer
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader


@final
class RequestSock:
    """A connection of which only the SYN has come (Linux: `struct tcp_request_sock`). Sequence numbers as in TcpSock:
    `rcv_isn` is the peer's, `snt_isn` ours."""

    __slots__ = (
        "accecn_fail_mode", "accecn_ok", "acked", "advmss", "af", "ao_keyid", "ao_rcv_next", "bound_dev_if", "cookie",
        "cookie_exp", "created", "daddr",
        "ecn_ok", "dport", "dst", "key", "last_oow_ack_time",
        "listener", "mark", "mss", "num_retrans", "num_timeout", "oif", "options", "rcv_isn", "rcv_nxt", "rcv_wnd",
        "rcv_wscale", "sack_ok", "saddr", "snd_wscale", "snt_isn", "sport", "state", "sent_mstamp", "syn_ect_rcv",
        "syn_ect_snt", "tcp",
        "timer", "tos",
        "ts_off", "ts_recent", "tstamp_ok", "used_ao", "window_clamp", "wscale_ok",
    )  # fmt: skip

    def __init__(self, tcp: Tcp, listener: TcpSock, skb: SKBuff, options: wire.TcpOptions) -> None:
        self.tcp = tcp
        self.listener = listener
        self.af: AddressFamily = skb.af
        self.state: int = TCP_NEW_SYN_RECV
        self.saddr: bytes = skb.daddr
        self.daddr: bytes = skb.saddr
        ports = skb.head[skb.transport_header : skb.transport_header + 4]
        self.dport: int = int.from_bytes(ports[:2], "big")
        self.sport: int = int.from_bytes(ports[2:], "big")
        self.key: bytes = skb.saddr + skb.daddr + ports
        self.bound_dev_if: int = listener.bound_dev_if
        self.oif: int = listener.bound_dev_if
        self.mark: int = listener.mark
        self.tos: int = listener.tos
        if tcp.tcp_reflect_tos:
            self.tos = skb.af.header_of(skb)[0] & ~3 | listener.tos & 3
        self.options: bytes = skb.af.reply_options(skb)
        self.rcv_isn: int = skb.seq
        self.rcv_nxt: int = (skb.seq + 1) & SEQ_MASK
        self.snt_isn: int = 0
        self.tstamp_ok: bool = options.has_ts and bool(tcp.tcp_timestamps)
        self.ts_recent: int = options.tsval if self.tstamp_ok else 0
        self.ts_off: int = 0
        self.sack_ok: bool = options.sack_ok and bool(tcp.tcp_sack)
        self.wscale_ok: bool = options.wscale >= 0 and bool(tcp.tcp_window_scaling)
        self.snd_wscale: int = min(max(options.wscale, 0), TCP_MAX_WSCALE)
        mss = options.mss or TCP_MSS_DEFAULT
        self.mss: int = min(mss, listener.user_mss) if listener.user_mss else mss
        self.rcv_wscale: int = 0
        self.rcv_wnd: int = 0
        self.window_clamp: int = 0
        self.advmss: int = 0
        self.acked: bool = False
        self.cookie: bytes | None = None
        self.cookie_exp: bool = False
        self.ecn_ok: bool = False
        self.accecn_ok: bool = False
        self.accecn_fail_mode: int = 0
        self.syn_ect_rcv: int = 0
        self.syn_ect_snt: int = 0
        # TCP-AO: whether the SYN was signed with it, with which key of the peer's, and the key it asked for.
        self.used_ao: bool = False
        self.ao_rcv_next: int = 0
        self.ao_keyid: int = 0
        self.num_retrans: int = 0
        self.num_timeout: int = 0
        self.created: int = tcp.net.loop.now
        self.sent_mstamp: int = 0
        self.last_oow_ack_time: int = -SEC
        self.dst: Dst | None = None
        self.timer = Timer(tcp.net.loop.timers, self._expire)

    def flow(self) -> Flow:
        """The flow of the SYN+ACK."""
        return Flow(self.daddr, self.saddr, 6, self.oif, self.tos, self.mark, self.sport, self.dport, True)

    def init_window(self, dst: Dst) -> None:
        """Choose the window to announce (Linux: tcp_openreq_init_rwin)."""
        listener = self.listener
        mss = dst.advmss()
        self.advmss = min(mss, listener.user_mss) if listener.user_mss else mss
        clamp = listener.window_clamp or dst.metric(RTAX_WINDOW)
        space = full_space(listener)
        if listener.rcvbuf_locked and (clamp > space or clamp == 0):
            clamp = space
        self.rcv_wnd, self.window_clamp, self.rcv_wscale = select_initial_window(
            listener,
            space,
            self.advmss - (wire.TCPOLEN_TSTAMP_ALIGNED if self.tstamp_ok else 0),
            clamp,
            self.wscale_ok,
            dst.metric(RTAX_INITRWND),
        )

    def send_synack(self, again: bool = False) -> None:
        """Linux: tcp_v4_send_synack, tcp_make_synack. What can't be sent is tried again by the timer.

        again: it was sent before.
        """
        tcp = self.tcp
        now = tcp.net.loop.now
        dst = self.dst
        if dst is None or not dst.valid():
            try:
                dst = self.dst = self.af.route(self.flow())
            except OSError:
                return
        how: Signer | None = None
        if self.used_ao or self.listener.auth is not None:
            try:
                how = synack_signer(self)
            except Unsigned:
                return
            if how is not None and self.sack_ok:
                # There would be no room for SACK blocks later.
                self.tstamp_ok = False
        stamps = ((now // MSEC + self.ts_off) & SEQ_MASK, self.ts_recent) if self.tstamp_ok else None
        # A Fast Open cookie goes with the first only.
        cookie, self.cookie = self.cookie, None
        options = wire.build_syn_options(
            self.advmss,
            self.rcv_wscale if self.wscale_ok else -1,
            self.sack_ok,
            stamps,
            cookie,
            self.cookie_exp,
        )
        signature = b"" if how is None else how.option
        if self.accecn_ok and not again and tcp.tcp_ecn_option:
            options = accecn_option.add_to_syn(
                options, self.sack_ok, self.tstamp_ok, self.wscale_ok, len(signature)
            )
        options = signature + options
        flags = SYN | ACK
        if self.ecn_ok:
            flags |= ecn.make_synack(self, again)
        size = wire.TCP_HLEN + len(options)
        check = self.af.pseudo_sum(self.saddr, self.daddr, 6, size)
        header = wire.build(
            self.sport, self.dport, self.snt_isn, self.rcv_nxt, flags, min(self.rcv_wnd, 65535), check, 0, options
        )
        if how is not None:
            header = how.sign(header, wire.TCP_HLEN, self.saddr, self.daddr)
        self.sent_mstamp = now
        tcp.net.mib.tcp.OutSegs += 1
        listener = self.listener
        tcp.send_segment(
            self.af, header, dst, self.saddr, self.daddr, self.tos, self.mark, listener.priority, listener, self.options
        )  # fmt: skip

    def send_ack(self, skb: SKBuff) -> None:
        """Acknowledge the SYN again, in answer to `skb` (Linux: tcp_v4_reqsk_send_ack)."""
        seq = (self.snt_isn + 1) & SEQ_MASK
        how: Signer | None = None
        if self.used_ao or self.listener.auth is not None:
            try:
                how = request_signer(self, skb, seq)
            except Unsigned:
                return
        self.tcp.send_reply_ack(
            self.af, self.saddr, self.daddr, self.sport, self.dport, seq, self.rcv_nxt,
            self.rcv_wnd >> self.rcv_wscale, self.tstamp_ok, self.ts_off, self.ts_recent, self.tos, self.mark,
            self.bound_dev_if, how,
        )  # fmt: skip

    def retransmit(self) -> None:
        """Linux: inet_rtx_syn_ack."""
        self.num_retrans += 1
        mib = self.tcp.net.mib
        mib.tcp.RetransSegs += 1
        mib.tcp_ext.TCPSynRetrans += 1
        self.send_synack(again=True)
        ecn.synack_again(self)

    def arm(self) -> None:
        """The next time-out, twice as long each time."""
        timeout = min(TCP_TIMEOUT_INIT << self.num_timeout, self.tcp.tcp_rto_max_ms * MSEC)
        self.timer.mod(self.tcp.net.loop.now + timeout)

    def _expire(self, now: int) -> None:
        """No acknowledgement came: repeat the SYN+ACK, or give up (Linux: reqsk_timer_handler)."""
        listener = self.listener
        if listener.state != TCP_LISTEN:
            self.drop()
            return
        limit = listener.syn_retries or self.tcp.tcp_synack_retries
        # A queue half full of old requests gives up on them sooner, to make room for new ones.
        if listener.syn_queue << 1 > max(8, listener.backlog):
            young = listener.young << 1
            while limit > 2:
                if listener.syn_queue < young:
                    break
                limit -= 1
                young <<= 1
        defer = listener.defer_accept
        resend = not self.acked or self.num_timeout >= defer - 1 if defer else True
        expire = self.num_timeout >= limit and (not self.acked or self.num_timeout >= max(limit, defer))
        self.tcp.net.mib.tcp_ext.TCPTimeouts += 1
        if expire:
            self.drop()
            return
        if resend or not self.acked:
            self.retransmit()
        if self.num_timeout == 0:
            listener.young -= 1
        self.num_timeout += 1
        self.arm()

    def oow_limited(self) -> bool:
        """Whether it answered out of turn just now."""
        now = self.tcp.net.loop.now
        if 0 <= now - self.last_oow_ack_time < self.tcp.tcp_invalid_ratelimit * MSEC:
            self.tcp.net.mib.tcp_ext.TCPACKSkippedSynRecv += 1
            return True
        self.last_oow_ack_time = now
        return False

    def drop(self) -> None:
        """Out of the SYN queue (Linux: inet_csk_reqsk_queue_drop)."""
        if self.state != TCP_NEW_SYN_RECV:
            return
        self.state = TCP_CLOSE
        self.timer.delete()
        self.tcp.forget_request(self)
        self.listener.syn_queue -= 1
        if self.num_timeout == 0:
            self.listener.young -= 1


def conn_request(tcp: Tcp, listener: TcpSock, skb: SKBuff, th: TcpHeader, isn: int) -> None:
    """A SYN for a listener (Linux: tcp_conn_request). isn: our initial sequence number, 0 to choose one."""
    net = tcp.net
    mib = net.mib.tcp_ext
    drops = net.drops
    if skb.af.addr_type(skb.daddr) != RTN_LOCAL:
        skb.drop(DropReason.IP_INVALID_DEST, drops)
        return
    queue = listener.accept_queue
    if queue is None or listener.state != TCP_LISTEN:
        skb.drop(DropReason.TCP_CLOSE, drops)
        return
    if listener.syn_queue > listener.backlog and not isn:
        mib.TCPReqQFullDrop += 1
        mib.ListenDrops += 1
        skb.drop(DropReason.TCP_LISTEN_OVERFLOW, drops)
        return
    if len(queue) > listener.backlog:
        mib.ListenOverflows += 1
        mib.ListenDrops += 1
        skb.drop(DropReason.TCP_LISTEN_OVERFLOW, drops)
        return
    doff = th[4]
    options = wire.parse_options(skb.head, skb.transport_header + wire.TCP_HLEN, skb.transport_header + doff)
    request = RequestSock(tcp, listener, skb, options)
    if options.ao is not None:
        init_request(request, skb)
    if not request.oif and skb.dev is not None and listener.scope_id:
        request.oif = skb.dev.index
    try:
        dst = skb.af.route(request.flow())
    except OSError:
        mib.ListenDrops += 1
        skb.drop(DropReason.IP_OUTNOROUTES, drops)
        return
    request.dst = dst
    request.ts_off = tcp.secure_ts_offset(request.saddr, request.daddr) if request.tstamp_ok else 0
    request.snt_isn = isn or tcp.secure_seq(request.saddr, request.daddr, request.sport, request.dport)
    request.init_window(dst)
    ecn.create_request(tcp, request, skb, dst)
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
    listener.syn_queue += 1
    listener.young += 1
    tcp.add_request(request)
    request.arm()
    request.send_synack()
    skb.consume()


def check_request(tcp: Tcp, request: RequestSock, skb: SKBuff, th: TcpHeader) -> TcpSock | None:
    """A segment for a request (Linux: tcp_check_req). Returns the new socket, which is to process the segment; None
    where the segment was dealt with here."""
    doff, flags, window = th[4], th[5], th[6]
    net = tcp.net
    drops = net.drops
    now = net.loop.now
    listener = request.listener
    mib = net.mib
    seq = skb.seq
    rejected = False
    options: wire.TcpOptions | None = None
    if doff > wire.TCP_HLEN:
        start = skb.transport_header + wire.TCP_HLEN
        options = wire.parse_options(skb.head, start, skb.transport_header + doff)
        if options.has_ts and request.tstamp_ok:
            stamp = now - (TCP_TIMEOUT_INIT << min(request.num_timeout, 16))
            rejected = paws_reject(request.ts_recent, stamp, options.tsval, now)
    kind = flags & (RST | SYN | FIN | ACK)
    if seq == request.rcv_isn and kind == SYN and not rejected:
        # The SYN again: repeat the answer, and count it as a time-out.
        if not request.oow_limited():
            ecn.syn_again(request, skb)
            request.retransmit()
            request.arm()
        skb.consume()
        return None
    if flags & ACK and skb.ack_seq != (request.snt_isn + 1) & SEQ_MASK:
        # RFC 9293 section 3.10.7.4, fifth: acknowledges what was never sent.
        if not flags & RST:
            tcp.send_reset(skb, request)
        skb.drop(DropReason.TCP_INVALID_ACK_SEQUENCE, drops)
        return None
    edge = (request.rcv_nxt + request.rcv_wnd) & SEQ_MASK
    if rejected or not in_window(seq, skb.end_seq, request.rcv_nxt, edge):
        if not flags & RST and not request.oow_limited():
            request.send_ack(skb)
        if rejected:
            mib.tcp_ext.PAWSEstab += 1
        skb.drop(DropReason.TCP_RFC7323_PAWS if rejected else DropReason.TCP_OVERWINDOW, drops)
        return None
    if options is not None and options.has_ts and request.tstamp_ok and not after(seq, request.rcv_nxt):
        request.ts_recent = options.tsval
    if seq == request.rcv_isn:
        # A retransmitted SYN with data or an acknowledgement: the SYN itself is old.
        flags &= ~SYN
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
    if request.num_timeout < listener.defer_accept and skb.end_seq == (request.rcv_isn + 1) & SEQ_MASK:
        # TCP_DEFER_ACCEPT: a bare acknowledgement doesn't wake the application.
        request.acked = True
        mib.tcp_ext.TCPDeferAcceptDrop += 1
        skb.consume()
        return None
    queue = listener.accept_queue
    if queue is None or len(queue) > listener.backlog:
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
    request.drop()
    tcp.hash(child)
    queue.append(child)
    child.listener = listener
    return child


def create_child(net: Net, tcp: Tcp, request: RequestSock, skb: SKBuff, window: int) -> TcpSock | None:
    """The socket that a request becomes, in SYN-RECEIVED (Linux: tcp_create_openreq_child, tcp_v4_syn_recv_sock).
    None where it would have to be signed, and the listener has no key for it any more."""
    listener = request.listener
    if request.used_ao and not has_key(request):
        return None
    child = type(listener)(net, request.af)
    inherit(child, listener)
    now = net.loop.now
    child.saddr = child.rcv_saddr = request.saddr
    child.daddr = request.daddr
    child.sport = request.sport
    child.dport = request.dport
    child.bound_dev_if = request.bound_dev_if
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
    child.segs_in = 0
    child.snd_sml = child.snd_una = child.snd_nxt = child.snd_up = child.write_seq = child.pushed_seq = snd
    # The SYN+ACK is under way still, as far as the acknowledgement that comes now is concerned.
    child.snd_una = (snd - 1) & SEQ_MASK
    child.snd_wl1 = (request.rcv_isn) & SEQ_MASK
    child.sack_ok = request.sack_ok
    child.window_clamp = request.window_clamp
    child.rcv_ssthresh = child.rcv_wnd = request.rcv_wnd
    child.wscale_ok = request.wscale_ok
    if request.wscale_ok:
        child.snd_wscale = request.snd_wscale
        child.rcv_wscale = request.rcv_wscale
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
    assign_from_route(child)
    if listener.auth is not None:
        inherit_keys(child, request, listener.auth)
    if request.ecn_ok:
        ecn.openreq_child(child, request, skb)
    child.mss_clamp = request.mss
    child.advmss = request.advmss - (wire.TCPOLEN_TSTAMP_ALIGNED if request.tstamp_ok else 0)
    dst = request.dst
    if dst is not None:
        sync_mss(child, dst.mtu())
    init_rcv_mss(child)
    child.ip_id = net.random.getrandbits(16)
    child.total_retrans = request.num_retrans
    if request.num_timeout:
        child.total_rto = request.num_timeout
        child.total_rto_recoveries = 1
        child.total_rto_time = (now - request.sent_mstamp) // MSEC
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
    if listener.ca_setsockopt:
        child.ca_setsockopt = True
        assign(child, type(listener.ca)())
    else:
        assign(child, child.ca)
    if child.max_pacing_rate:
        child.pacing_status = SK_PACING_NEEDED
        child.pacing_rate = child.max_pacing_rate


INHERITED = (
    "rcvbuf", "sndbuf", "rcvbuf_locked", "sndbuf_locked", "mark", "priority", "reuse", "reuseport", "broadcast",
    "keepopen", "oobinline", "dontroute", "linger", "rcvlowat", "rcvtimeo", "sndtimeo", "rcvtstamp", "tsflags",
    "zerocopy", "filter", "max_pacing_rate", "incoming_cpu", "busy_poll", "tos", "ttl", "min_ttl", "mc_ttl", "mc_loop",
    "mc_all", "pmtudisc", "recverr", "freebind", "transparent", "cmsg_flags", "nonagle", "user_mss", "window_clamp",
    "user_timeout", "syn_retries", "keepidle", "keepintvl", "keepcnt", "linger2", "thin_lto", "notsent_lowat",
    "inq_wanted", "rto_max", "fastopen_no_cookie",
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
