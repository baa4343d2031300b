"""A request: a connection of which only the SYN has come (Linux: `struct tcp_request_sock`, inet_connection_sock.c).

It stands in the table of connections, repeats the SYN+ACK by a timer that it shares with all others armed for as long
(core/timer_list.py), and answers what is not the handshake's last segment. handshake.py makes it, and makes a socket
of it. It is small, for anyone can have a thousand made: what follows from the table's key or from the listener is not
kept, and the sizes that most clients agree on are one tuple for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

from usernet.core.timer_list import TimerEntry
from usernet.net.dst import RTAX_INITRWND, RTAX_WINDOW, Dst
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import AddressFamily, Flow
from usernet.transport.tcp import accecn_option, ecn
from usernet.transport.tcp.const import (
    MSEC,
    SEC,
    SEQ_MASK,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_MSS_DEFAULT,
    TCP_NEW_SYN_RECV,
    TCP_TIMEOUT_INIT,
)
from usernet.transport.tcp.window import full_space, select_initial_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.auth import Signer
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

INET_ECN_MASK: Final = 3
MAX_SHARED_SIZES: Final = 256
_NEVER: Final = -SEC

Sizes = tuple[int, int, int, int, int]
"""The peer's MSS and ours, the window announced, its clamp, and its scale."""


@final
class RequestSock(TimerEntry):
    """One handshake under way. Sequence numbers as in TcpSock: `rcv_isn` is the peer's, `snt_isn` ours; `syn_len` bytes
    came with the SYN and were taken (Fast Open)."""

    __slots__ = (
        "accecn_fail_mode", "accecn_ok", "acked", "af", "ao_keyids", "cookie", "cookie_exp", "dst", "ecn_ok", "key",
        "last_oow_ack_time", "listener", "num_retrans", "num_timeout", "oif", "options", "rcv_isn", "sack_ok",
        "saved_syn", "sent_mstamp", "sizes", "snd_wscale", "snt_isn", "snt_tsval_last", "syn_ect_rcv",
        "syn_ect_snt", "syn_len", "syn_tos", "syncookie", "ts_off", "ts_recent", "tstamp_ok", "wscale_ok",
    )  # fmt: skip

    state: ClassVar[int] = TCP_NEW_SYN_RECV

    def __init__(self, listener: TcpSock, skb: SKBuff, options: wire.TcpOptions) -> None:
        super().__init__()
        tcp = listener.tcp
        start = skb.transport_header
        self.listener = listener
        self.af: AddressFamily = skb.af
        self.key: bytes = skb.saddr + skb.daddr + skb.head[start : start + 4]
        self.oif: int = listener.bound_dev_if
        self.syn_tos: int = skb.af.header_of(skb)[0]
        self.options: bytes = skb.af.reply_options(skb)
        self.rcv_isn: int = skb.seq
        self.syn_len: int = 0
        self.snt_isn: int = 0
        self.tstamp_ok: bool = options.has_ts and bool(tcp.tcp_timestamps)
        self.ts_recent: int = options.tsval if self.tstamp_ok else 0
        self.ts_off: int = 0
        self.snt_tsval_last: int = 0
        self.sack_ok: bool = options.sack_ok and bool(tcp.tcp_sack)
        self.wscale_ok: bool = options.wscale >= 0 and bool(tcp.tcp_window_scaling)
        self.snd_wscale: int = min(max(options.wscale, 0), TCP_MAX_WSCALE)
        mss = options.mss or TCP_MSS_DEFAULT
        if options.mss and listener.params.user_mss:
            mss = min(mss, listener.params.user_mss)
        self.sizes: Sizes = (mss, 0, 0, 0, 0)
        self.ecn_ok: bool = False
        self.accecn_ok: bool = False
        self.accecn_fail_mode: int = 0
        self.syn_ect_rcv: int = 0
        self.syn_ect_snt: int = 0
        self.acked: bool = False
        self.syncookie: bool = False
        self.cookie: bytes | None = None
        self.cookie_exp: bool = False
        self.saved_syn: bytes | None = None
        # TCP-AO: the key of the peer's that the SYN was signed with, and the one that it asked for.
        self.ao_keyids: tuple[int, int] | None = None
        self.num_retrans: int = 0
        self.num_timeout: int = 0
        self.sent_mstamp: int = 0
        self.last_oow_ack_time: int = _NEVER
        self.dst: Dst | None = None

    # -- what follows from what is kept

    @property
    def tcp(self) -> Tcp:
        return self.listener.tcp

    @property
    def daddr(self) -> bytes:
        """The peer's address."""
        return self.key[: self.af.addr_len]

    @property
    def saddr(self) -> bytes:
        """Ours."""
        size = self.af.addr_len
        return self.key[size : 2 * size]

    @property
    def dport(self) -> int:
        """The peer's port."""
        return int.from_bytes(self.key[-4:-2], "big")

    @property
    def sport(self) -> int:
        """Ours."""
        return int.from_bytes(self.key[-2:], "big")

    @property
    def rcv_nxt(self) -> int:
        return (self.rcv_isn + 1 + self.syn_len) & SEQ_MASK

    @property
    def mark(self) -> int:
        return self.listener.mark

    @property
    def bound_dev_if(self) -> int:
        return self.listener.bound_dev_if

    @property
    def used_ao(self) -> bool:
        """Whether the SYN was signed with TCP-AO."""
        return self.ao_keyids is not None

    @property
    def ao_rcv_next(self) -> int:
        return 0 if self.ao_keyids is None else self.ao_keyids[0]

    @property
    def ao_keyid(self) -> int:
        return 0 if self.ao_keyids is None else self.ao_keyids[1]

    @property
    def mss(self) -> int:
        return self.sizes[0]

    @property
    def rcv_wnd(self) -> int:
        return self.sizes[2]

    @property
    def tos(self) -> int:
        """Of the SYN+ACK: the listener's, or with tcp_reflect_tos the SYN's; ECN's bits are the listener's always."""
        listener = self.listener
        if listener.tcp.tcp_reflect_tos:
            return self.syn_tos & ~INET_ECN_MASK | listener.tos & INET_ECN_MASK
        return listener.tos

    def flow(self) -> Flow:
        """The flow of the SYN+ACK."""
        listener = self.listener
        return Flow(
            self.daddr, self.saddr, 6, self.oif, listener.tos, listener.mark, self.sport, self.dport,
            listener.transparent,
        )  # fmt: skip

    def init_window(self, dst: Dst) -> None:
        """Choose the window to announce (Linux: tcp_openreq_init_rwin)."""
        listener = self.listener
        mss = dst.advmss()
        advmss = min(mss, listener.params.user_mss) if listener.params.user_mss else mss
        clamp = listener.window_clamp or dst.metric(RTAX_WINDOW)
        space = full_space(listener)
        if listener.rcvbuf_locked and (clamp > space or clamp == 0):
            clamp = space
        of_data = advmss - (wire.TCPOLEN_TSTAMP_ALIGNED if self.tstamp_ok else 0)
        if self.syncookie and self.snt_isn:
            # The SYN is forgotten; so the acknowledgement that comes now must lead to the window chosen then.
            of_data = self.sizes[0]
        window, clamp, wscale = select_initial_window(
            listener, space, of_data, clamp, self.wscale_ok, dst.metric(RTAX_INITRWND)
        )
        sizes = (self.sizes[0], advmss, window, clamp, wscale)
        shared = listener.tcp.shared_sizes
        if len(shared) >= MAX_SHARED_SIZES:
            shared.clear()
        self.sizes = shared.setdefault(sizes, sizes)

    # -- what it sends

    def send_synack(self, again: bool = False) -> None:
        """Linux: tcp_v4_send_synack, tcp_make_synack. What can't be sent is tried again by the timer.

        again: it was sent before.
        """
        listener = self.listener
        tcp = listener.tcp
        now = tcp.net.loop.now
        dst = self.dst
        if dst is None or not dst.valid():
            try:
                dst = self.dst = self.af.route(self.flow())
            except OSError:
                return
        how: Signer | None = None
        if self.ao_keyids is not None or listener.auth is not None:
            from usernet.transport.tcp.auth_reply import Unsigned, synack_signer

            try:
                how = synack_signer(self)
            except Unsigned:
                return
            if how is not None and self.sack_ok:
                # There would be no room for SACK blocks later.
                self.tstamp_ok = False
        stamps = None
        if self.tstamp_ok:
            tsval = (now // MSEC + self.ts_off) & SEQ_MASK
            if self.syncookie:
                from usernet.transport.tcp.syncookies import init_timestamp

                tsval = (init_timestamp(self, now // MSEC) + self.ts_off) & SEQ_MASK
            elif self.num_retrans:
                self.snt_tsval_last = tsval
            stamps = (tsval, self.ts_recent)
        # A Fast Open cookie goes with the first only.
        cookie, self.cookie = self.cookie, None
        _, advmss, window, _, wscale = self.sizes
        options = wire.build_syn_options(
            advmss,
            wscale if self.wscale_ok else -1,
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
        saddr, daddr = self.saddr, self.daddr
        check = self.af.pseudo_sum(saddr, daddr, 6, wire.TCP_HLEN + len(options))
        header = wire.build(
            self.sport, self.dport, self.snt_isn, self.rcv_nxt, flags, min(window, 65535), check, 0, options
        )
        if how is not None:
            header = how.sign(header, wire.TCP_HLEN, saddr, daddr)
        if not self.num_retrans:
            self.sent_mstamp = now
        tcp.net.mib.tcp.OutSegs += 1
        tcp.send_segment(
            self.af, header, dst, saddr, daddr, self.tos, listener.mark, listener.priority, listener, self.options
        )  # fmt: skip

    def echo_possible(self, tsecr: int) -> bool:
        """Whether `tsecr` lies between the time stamps of the first and the last SYN+ACK (Linux: tcp_check_req)."""
        first = (self.sent_mstamp // MSEC + self.ts_off) & SEQ_MASK
        if not self.num_retrans:
            return tsecr == first
        return (self.snt_tsval_last - first) & SEQ_MASK >= (tsecr - first) & SEQ_MASK

    def send_ack(self, skb: SKBuff, snd_nxt: int = -1) -> None:
        """Acknowledge the SYN again, in answer to `skb` (Linux: tcp_v4_reqsk_send_ack). snd_nxt: of the socket that
        is there already (Fast Open)."""
        _, _, window, _, wscale = self.sizes
        listener = self.listener
        seq = snd_nxt if snd_nxt >= 0 else (self.snt_isn + 1) & SEQ_MASK
        how: Signer | None = None
        if self.ao_keyids is not None or listener.auth is not None:
            from usernet.transport.tcp.auth_reply import Unsigned, request_signer

            try:
                how = request_signer(self, skb, seq)
            except Unsigned:
                return
        tos: int = self.af.header_of(skb)[0] & ~INET_ECN_MASK
        listener.tcp.send_reply_ack(
            self.af, self.saddr, self.daddr, self.sport, self.dport, seq, self.rcv_nxt,
            min(window, 65535) >> wscale, self.tstamp_ok, self.ts_off, self.ts_recent, tos, listener.mark,
            listener.bound_dev_if, how,
        )  # fmt: skip

    def send_challenge_ack(self, skb: SKBuff, snd_nxt: int = -1) -> None:
        """RFC 5961: a reset that is in the window, but not exact (Linux: tcp_reqsk_send_challenge_ack)."""
        tcp = self.listener.tcp
        mib = tcp.net.mib.tcp_ext
        now = tcp.net.loop.now
        if 0 <= now - self.last_oow_ack_time < tcp.tcp_invalid_ratelimit * MSEC:
            mib.TCPACKSkippedChallenge += 1
            return
        self.last_oow_ack_time = now
        if tcp.challenge_allowed():
            mib.TCPChallengeACK += 1
            self.send_ack(skb, snd_nxt)

    def retransmit(self) -> None:
        """Linux: inet_rtx_syn_ack."""
        self.num_retrans += 1
        mib = self.listener.net.mib
        mib.tcp.RetransSegs += 1
        mib.tcp_ext.TCPSynRetrans += 1
        trace = self.listener.net.trace.tcp_retransmit_synack
        if trace.probes:
            trace.fire(self.listener, self)
        self.send_synack(again=True)
        ecn.synack_again(self)

    # -- its time

    def timeout(self) -> int:
        """How long (ns) until the SYN+ACK is sent again: twice as long each time."""
        return min(TCP_TIMEOUT_INIT << min(self.num_timeout, 16), self.listener.rto_max)

    def arm(self) -> None:
        """The next time-out."""
        tcp = self.listener.tcp
        tcp.request_timers.arm(self, self.timeout(), tcp.net.loop.now)

    def expire(self) -> None:
        """No acknowledgement came: repeat the SYN+ACK, or give up (Linux: reqsk_timer_handler)."""
        listener = self.listener
        tcp = listener.tcp
        if listener.state != TCP_LISTEN:
            self.drop()
            return
        limit = listener.params.syn_retries or tcp.tcp_synack_retries
        # A queue half full of old requests gives up on them sooner, to make room for new ones.
        if listener.request_queue.syn_queue << 1 > max(8, listener.request_queue.backlog):
            young = listener.request_queue.young << 1
            while limit > 2:
                if listener.request_queue.syn_queue < young:
                    break
                limit -= 1
                young <<= 1
        defer = listener.request_queue.defer_accept
        if defer:
            expired = self.num_timeout >= limit and (not self.acked or self.num_timeout >= defer)
            # While data is waited for there is nothing to repeat, until the time is nearly over: one last chance.
            resend = not self.acked or self.num_timeout >= defer - 1
        else:
            expired = self.num_timeout >= limit
            resend = True
        tcp.net.mib.tcp_ext.TCPTimeouts += 1
        if expired:
            self.drop()
            return
        if resend:
            self.retransmit()
        if self.num_timeout == 0:
            listener.request_queue.young -= 1
        self.num_timeout += 1
        self.arm()

    def oow_limited(self, skb: SKBuff) -> bool:
        """Whether it answered out of turn just now (Linux: tcp_oow_rate_limited). Data is answered always."""
        if skb.seq != skb.end_seq and not skb.tcp_flags & SYN:
            return False
        tcp = self.listener.tcp
        now = tcp.net.loop.now
        if 0 <= now - self.last_oow_ack_time < tcp.tcp_invalid_ratelimit * MSEC:
            tcp.net.mib.tcp_ext.TCPACKSkippedSynRecv += 1
            return True
        self.last_oow_ack_time = now
        return False

    def queue(self, listener: TcpSock) -> None:
        """Into a listener's SYN queue (Linux: reqsk_queue_added, reqsk_queue_migrated)."""
        self.listener = listener
        listener.request_queue.syn_queue += 1
        if self.num_timeout == 0:
            listener.request_queue.young += 1

    def unqueue(self) -> None:
        """Out of it (Linux: reqsk_queue_removed)."""
        listener = self.listener
        listener.request_queue.syn_queue -= 1
        if self.num_timeout == 0:
            listener.request_queue.young -= 1

    def drop(self) -> None:
        """The end of it (Linux: inet_csk_reqsk_queue_drop). Nothing happens where it has ended before."""
        tcp = self.listener.tcp
        tcp.request_timers.disarm(self)
        if tcp.forget_request(self):
            self.unqueue()
