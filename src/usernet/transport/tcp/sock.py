"""A TCP socket: its timers, changes of state, errors, and the calls on it (Linux: tcp.c, tcp_ipv4.c).

The state is in state.py, how long timers run in timeouts.py, the algorithms are functions in the modules beside, and
what the longer calls do is in calls.py.
"""

from __future__ import annotations

import errno
from typing import final

from usernet.core.errors import error
from usernet.core.timer import NEVER, Timer
from usernet.core.wait import (
    EPOLLPRI,
    BlockedCall,
    Blocking,
)
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_MULTICAST
from usernet.sock.msg import (
    SHUTDOWN_MASK,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.ports import inet_bind
from usernet.sock.sock import WAKE_WRITE, Sock
from usernet.transport.tcp import chrono
from usernet.transport.tcp import recvmsg as _recvmsg
from usernet.transport.tcp import sendmsg as _sendmsg
from usernet.transport.tcp import timer as _timer
from usernet.transport.tcp.ack import rtt_estimator, set_rto
from usernet.transport.tcp.calls import stream_connect, tcp_accept, tcp_listen, tcp_poll, tcp_unaccept
from usernet.transport.tcp.close import tcp_close, tcp_disconnect, tcp_shutdown
from usernet.transport.tcp.completion import freed_all
from usernet.transport.tcp.congestion.base import start
from usernet.transport.tcp.const import (
    ICSK_TIME_PROBE0,
    MSEC,
    SEQ_MASK,
    STATE_NAMES,
    TCP_CA_CWR,
    TCP_CA_RECOVERY,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCP_TIMEWAIT_LEN,
)
from usernet.transport.tcp.fastopen_blackhole import ofo_check
from usernet.transport.tcp.metrics import update_metrics
from usernet.transport.tcp.mss import current_mss, sync_mss
from usernet.transport.tcp.output import packets_in_flight, reset_xmit_timer, write_xmit
from usernet.transport.tcp.retransmit import xmit_retransmit_queue
from usernet.transport.tcp.segment import SentQueue
from usernet.transport.tcp.timeouts import TcpTimeouts
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.transport.tcp.transmit import send_ack
from usernet.transport.tcp.validate import replace_ts_recent
from usernet.wire import checksum

IPPROTO_TCP = 6


@final
class TcpSock(TcpTimeouts):
    """One TCP socket."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        local = f"{self.af.format(self.saddr)}:{self.num}"
        return f"<TcpSock {STATE_NAMES[self.state]} {local} {self.af.format(self.daddr)}:{self.dport}>"

    # -- timers

    def _on_write_timer(self, now: int) -> None:
        _timer.write_timer(self, now)

    def _on_delack_timer(self, now: int) -> None:
        _timer.delack_timer(self, now)

    def _on_keepalive_timer(self, now: int) -> None:
        _timer.keepalive_timer(self, now)

    def _on_comp_sack_timer(self, now: int) -> None:
        _timer.comp_sack_timer(self, now)

    def _on_pacing_timer(self, now: int) -> None:
        self.resume_output()

    def new_pacing_timer(self) -> Timer:
        timer = self.pacing_timer = Timer(self.loop.timers, type(self)._on_pacing_timer, self)
        return timer

    def new_comp_sack_timer(self) -> Timer:
        timer = self.comp_sack_timer = Timer(self.loop.timers, type(self)._on_comp_sack_timer, self)
        return timer

    def check_probe_timer(self) -> None:
        """Data waits and nothing is under way: probe (Linux: tcp_check_probe_timer)."""
        if not self.packets_out and not self.icsk_pending:
            self.arm_probe0(self.probe0_base())

    def arm_probe0(self, when: int) -> None:
        """Probe the window `when` ns from now."""
        reset_xmit_timer(self, ICSK_TIME_PROBE0, when, True)

    def resume_output(self) -> None:
        """Room below again, or time to send (Linux: tcp_tsq_handler)."""
        if self.state in (TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_CLOSING, TCP_CLOSE_WAIT, TCP_LAST_ACK):
            if self.lost_out > self.retrans_out and self.snd_cwnd > packets_in_flight(self):
                xmit_retransmit_queue(self)
            write_xmit(self, current_mss(self), self.nonagle, 0)

    def charge_send(self, skb: SKBuff) -> None:
        skb.sk = self
        skb.destructor = _wfree
        self.wmem_alloc += skb.truesize

    # -- parameters

    def mss_clamp_of(self, advmss: int) -> int:
        """The MSS to announce, by the route's and the user's (Linux: tcp_mss_clamp)."""
        return min(self.params.user_mss, advmss) if self.params.user_mss else advmss

    def current_ssthresh(self) -> int:
        """The threshold as it is, or as it would be were the window not reduced for a reason (tcp_current_ssthresh)."""
        if self.ca_state in (TCP_CA_CWR, TCP_CA_RECOVERY):
            return self.snd_ssthresh
        return max(self.snd_ssthresh, (self.snd_cwnd >> 1) + (self.snd_cwnd >> 2))

    def cwnd_limited(self) -> bool:
        """Whether the window, and not the application, limits what is sent (Linux: tcp_is_cwnd_limited)."""
        if self.is_cwnd_limited:
            return True
        return self.snd_cwnd < self.snd_ssthresh and self.snd_cwnd < 2 * self.max_packets_out

    def clear_retrans(self) -> None:
        """Nothing is under way (Linux: tcp_clear_retrans)."""
        self.retrans_out = self.lost_out = self.sacked_out = 0
        self.undo_marker = 0
        self.undo_active = False
        self.undo_retrans = -1

    def replace_ts_recent(self, seq: int) -> int:
        return replace_ts_recent(self, seq)

    # -- state

    def set_state(self, state: int) -> None:
        """Linux: tcp_set_state."""
        old = self.state
        mib = self.net.mib.tcp
        if state == TCP_ESTABLISHED:
            if old != TCP_ESTABLISHED:
                mib.CurrEstab += 1
        else:
            if state == TCP_CLOSE:
                if old in (TCP_CLOSE_WAIT, TCP_ESTABLISHED):
                    mib.EstabResets += 1
                self.tcp.unhash(self)
                if not self.bound_port:
                    self.tcp.ports.release(self)
            if old == TCP_ESTABLISHED:
                mib.CurrEstab -= 1
        self.state = state
        trace = self.net.trace.inet_sock_set_state
        if trace.probes:
            trace.fire(self, old, state)

    def set_ca_state(self, state: int) -> None:
        """Linux: tcp_set_ca_state."""
        self.ca.set_state(self, state)
        self.ca_state = state
        trace = self.net.trace.tcp_cong_state_set
        if trace.probes:
            trace.fire(self, state)

    def init_congestion_control(self) -> None:
        """Start the congestion control (Linux: tcp_init_congestion_control)."""
        start(self)

    def update_metrics(self) -> None:
        """The connection ends well: what it learned of the path is kept."""
        update_metrics(self)

    def synack_rtt_measure(self) -> None:
        """The handshake of a passive open gives the first sample (Linux: tcp_synack_rtt_meas)."""
        if self.synack_mstamp and not self.total_retrans:
            sample = (self.loop.now - self.synack_mstamp) // 1000
            self.update_min_rtt(sample, False)
            rtt_estimator(self, sample)
            set_rto(self)

    def expand_send_buffer(self) -> None:
        """Let the send buffer follow the window (Linux: tcp_sndbuf_expand)."""
        if self.sndbuf_locked:
            return
        per_mss = max(self.mss_clamp, self.mss_cache) + 320 + 320
        per_mss = (1 << (per_mss - 1).bit_length()) + 256
        segments = max(10, self.snd_cwnd, self.reordering + 1)
        size = self.ca.sndbuf_expand(self) * segments * per_mss
        if self.sndbuf < size:
            self.sndbuf = min(size, self.tcp.tcp_wmem[2])

    def check_space(self) -> None:
        """Acknowledgements made room to write (Linux: tcp_check_space, tcp_new_space)."""
        if not self.sndbuf_locked and packets_in_flight(self) < self.snd_cwnd:
            self.expand_send_buffer()
            self.snd_cwnd_stamp = self.loop.now
        self.write_space()
        if not self.nospace and self.chrono_type == chrono.SNDBUF_LIMITED:
            chrono.stop(self, chrono.SNDBUF_LIMITED)

    def stream_writeable(self) -> bool:
        """Whether the application should write (Linux: sk_stream_is_writeable)."""
        queued = self.wmem_queued
        if self.sndbuf - queued < queued >> 1:
            return False
        # Half of what stops a writer, so that it is not woken for each acknowledgement.
        lowat = self.notsent_lowat or self.tcp.tcp_notsent_lowat
        return ((self.write_seq - self.snd_nxt) & SEQ_MASK) << 1 < lowat

    def notsent_below(self) -> bool:
        """Whether less waits to be sent than TCP_NOTSENT_LOWAT lets wait (Linux: __tcp_stream_memory_free)."""
        lowat = self.notsent_lowat or self.tcp.tcp_notsent_lowat
        return (self.write_seq - self.snd_nxt) & SEQ_MASK < lowat

    def writeable(self) -> bool:
        return self.stream_writeable()

    def write_space(self) -> None:
        """Linux: sk_stream_write_space."""
        if self.stream_writeable():
            self.nospace = False
            if self.wait.active:
                self.wait.wake(WAKE_WRITE)

    def write_queue_purge(self) -> None:
        """Give up what is to be sent (Linux: tcp_write_queue_purge)."""
        chrono.stop(self, chrono.BUSY)
        if self.tx_marks:
            # The stamps are lost; the reports are made.
            freed_all(self.rtx_queue)
            freed_all(self.write_queue)
        self.write_queue.take()
        self.rtx_queue.take()
        self.sent = SentQueue()
        self.wmem_queued = 0
        self.highest_sack = None
        self.retransmit_hint = None
        self.packets_out = 0
        self.clear_retrans()
        self.backoff = 0
        self.page = None

    def oow_limited(self, paws: bool = False) -> bool:
        """Whether an answer to an unacceptable segment went out just now (Linux: __tcp_oow_rate_limited). paws: it is
        its time stamp that is unacceptable."""
        now = self.loop.now
        elapsed = now - self.last_oow_ack_time
        if 0 <= elapsed < self.tcp.tcp_invalid_ratelimit * MSEC:
            mib = self.net.mib.tcp_ext
            if paws:
                mib.TCPACKSkippedPAWS += 1
            else:
                mib.TCPACKSkippedSeq += 1
            return True
        self.last_oow_ack_time = now
        return False

    def send_challenge_ack(self, flags: int = 0) -> None:
        """RFC 5961: have the peer show that it means it. flags: beside ACK (Linux: tcp_send_challenge_ack)."""
        now = self.loop.now
        mib = self.net.mib.tcp_ext
        if 0 <= now - self.last_oow_ack_time < self.tcp.tcp_invalid_ratelimit * MSEC:
            mib.TCPACKSkippedChallenge += 1
            return
        self.last_oow_ack_time = now
        if self.tcp.challenge_allowed():
            mib.TCPChallengeACK += 1
            send_ack(self, flags)

    def send_sigurg(self) -> None:
        """Urgent data was announced: poll's POLLPRI (Linux: sk_send_sigurg)."""
        if not self.dead and self.wait.active:
            self.wait.wake(EPOLLPRI)

    def done(self) -> None:
        """The connection has ended (Linux: tcp_done)."""
        if self.state in (TCP_SYN_SENT, TCP_SYN_RECV):
            self.net.mib.tcp.AttemptFails += 1
        self.set_state(TCP_CLOSE)
        self.clear_timers()
        if self.tfo.fastopen_rsk is not None:
            from usernet.transport.tcp.fastopen_server import remove

            remove(self)
        self.shutdown_mask = SHUTDOWN_MASK
        if not self.dead:
            self.state_change()
        else:
            self.destroy()

    def clear_timers(self) -> None:
        """Disarm all (Linux: tcp_clear_xmit_timers)."""
        self.clear_xmit_timer()
        self.delack_timer.cancel()
        self.ack_pending = 0
        for timer in (self.keepalive_timer, self.pacing_timer, self.comp_sack_timer):
            if timer is not None:
                timer.cancel()

    def time_wait(self, state: int, timeout: int) -> None:
        """Leave only a small record of the connection behind, for `timeout` ns (Linux: tcp_time_wait).

        state: TIME-WAIT, or FIN-WAIT-2 where the application has closed and only the peer's FIN is missing.
        """
        tcp = self.tcp
        self.update_metrics()
        if tcp.tw_count < tcp.tcp_max_tw_buckets:
            if not timeout or timeout < (self.rto << 2) - (self.rto >> 1):
                timeout = (self.rto << 2) - (self.rto >> 1)
            if state == TCP_TIME_WAIT:
                timeout = TCP_TIMEWAIT_LEN
            record = TimeWaitSock(self, state)
            tcp.replace_by_timewait(self, record, timeout)
        else:
            self.net.mib.tcp_ext.TCPTimeWaitOverflow += 1
        self.done()

    def destroy(self) -> None:
        """Nothing of it is left (Linux: tcp_v4_destroy_sock)."""
        trace = self.net.trace.tcp_destroy_sock
        if trace.probes:
            trace.fire(self)
        ofo_check(self)
        self.tcp.orphans.discard(self)
        self.write_queue_purge()
        if self.ofo:
            for skb in self.ofo:
                skb.consume()
            self.ofo = None
        if self.ca_ready:
            self.ca_ready = False
            self.ca.release(self)
        for timer in (
            self.retransmit_timer, self.delack_timer, self.keepalive_timer, self.pacing_timer, self.comp_sack_timer
        ):  # fmt: skip
            if timer is not None:
                timer.delete()
        self.tcp.unhash(self)
        self.tcp.ports.release(self)
        if self.memberships:
            self.af.drop_memberships(self)
        super().destroy()

    def dst_negative_advice(self) -> None:
        """The path doesn't work: look for another (Linux: dst_negative_advice, which keeps a route that was not learnt
        from others; to look that up again does no harm)."""
        self.dst = None

    def dst_reset(self) -> None:
        """Route anew (Linux: __sk_dst_reset)."""
        self.dst = None

    def set_addresses(self) -> None:
        """The addresses and ports are known: what is computed from them once."""
        self.pseudo_base = checksum.pseudo_sum(self.saddr, self.daddr, IPPROTO_TCP, 0)
        self.key = self.daddr + self.saddr + self.dport.to_bytes(2, "big") + self.sport.to_bytes(2, "big")

    # -- reports of what was sent

    def first_timestamping_key(self, unsent: bool) -> int:
        """Bytes count from the first that is not acknowledged, or the next one to be written. Raises OSError EINVAL on
        a socket without a connection (Linux: sock_set_timestamping)."""
        if self.state in (TCP_CLOSE, TCP_LISTEN):
            raise error(errno.EINVAL, "SO_TIMESTAMPING: OPT_ID needs a connection")
        return self.write_seq if unsent else self.snd_una

    def timestamping_key(self, tskey: int) -> int:
        return (tskey - self.tskey) & SEQ_MASK

    def timestamping_opt_stats(self, skb: SKBuff, ack_skb: SKBuff | None) -> bytes | None:
        from usernet.transport.tcp.info import opt_stats

        return opt_stats(self, skb, ack_skb)

    def options_changed(self) -> None:
        """Linux: do_ip_setsockopt, IP_OPTIONS of a connection."""
        if self.state not in (TCP_CLOSE, TCP_LISTEN):
            sync_mss(self, self.pmtu_cookie)

    # -- the calls

    def bind(self, name: Name) -> None:
        if self.state != TCP_CLOSE:
            raise error(errno.EINVAL)
        if isinstance(name, SockAddr) and self.af.addr_type(name.addr) == RTN_MULTICAST:
            raise error(errno.EADDRNOTAVAIL)
        inet_bind(self, self.tcp.ports, name)

    def getsockname(self) -> Name:
        return self.sockname()

    def getpeername(self) -> Name:
        if not self.dport or self.state in (TCP_CLOSE, TCP_SYN_SENT):
            raise error(errno.ENOTCONN)
        return SockAddr(self.family, self.daddr, self.dport, self.scope_id)

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        return stream_connect(self, name, flags, deadline)

    def disconnect(self) -> None:
        tcp_disconnect(self)

    def listen(self, backlog: int) -> None:
        tcp_listen(self, backlog)

    def accept(self, flags: int, deadline: int) -> Blocking[Sock] | Sock:
        return tcp_accept(self, flags, deadline)

    def unaccept(self, child: Sock) -> None:
        assert isinstance(child, TcpSock)
        tcp_unaccept(self, child)

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        trace = self.net.trace.tcp_sendmsg_locked
        if trace.probes:
            trace.fire(self, msg)
        if self.repair and self.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            from usernet.transport.tcp.repair import send

            return send(self, msg)
        return _sendmsg.tcp_sendmsg(self, msg, flags, deadline)

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> BlockedCall[int] | int:
        return _recvmsg.tcp_recvmsg(self, msg, flags, deadline)

    def shutdown(self, how: int) -> None:
        tcp_shutdown(self, how)

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        return tcp_close(self, deadline)

    def poll(self) -> int:
        return tcp_poll(self)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        from usernet.transport.tcp import sockopt

        sockopt.setsockopt(self, level, option, value)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        from usernet.transport.tcp import sockopt

        return sockopt.getsockopt(self, level, option, length)

    def getsockopt_from(self, level: int, option: int, value: bytes) -> bytes:
        from usernet.transport.tcp import sockopt

        return sockopt.getsockopt_from(self, level, option, value)

    def ioctl(self, request: int) -> int:
        return _recvmsg.tcp_ioctl(self, request)




def _wfree(skb: SKBuff) -> None:
    """A packet has left the machine: the next may go (Linux: tcp_wfree)."""
    sk: TcpSock = skb.sk
    sk.wmem_alloc -= skb.truesize
    if sk.tsq_throttled:
        sk.tsq_throttled = False
        sk.loop.softirq.defer(sk.resume_output)


