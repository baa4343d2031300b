"""TIME-WAIT: what is left of a connection, a small object of its own (Linux: `struct tcp_timewait_sock`).

It answers retransmitted FINs, keeps old duplicates from a new connection with the same four numbers, and lets a new SYN
through where that is safe (RFC 9293 section 3.10.7.4, RFC 6191). It also stands in for a socket that nobody holds while
it waits for the peer's FIN (state FIN-WAIT-2). RFC 1337: a reset must not end it early, where tcp_rfc1337 says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.core.timer import Timer
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.auth import timewait_auth
from usernet.transport.tcp.auth_reply import Unsigned, timewait_signer
from usernet.transport.tcp.const import (
    MSEC,
    SEQ_MASK,
    TCP_FIN_WAIT2,
    TCP_TIME_WAIT,
    TCP_TIMEWAIT_LEN,
    after,
    before,
)
from usernet.transport.tcp.window import in_window, receive_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader

TW_SUCCESS: Final = 0
TW_RST: Final = 1
TW_ACK: Final = 2
TW_SYN: Final = 3


@final
class TimeWaitSock:
    """One connection in TIME-WAIT (`substate` FIN-WAIT-2: the peer's FIN is missing)."""

    __slots__ = (
        "af", "auth", "bound_dev_if", "daddr", "deadline", "dport", "key", "last_oow_ack_time", "mark", "num",
        "priority", "rcv_nxt", "rcv_saddr", "rcv_wnd", "rcv_wscale", "reuse", "reuseport", "saddr", "snd_nxt", "sport",
        "state", "substate", "tcp", "timeout", "timer", "tos", "ts_offset", "ts_recent", "ts_recent_stamp", "tstamp_ok",
    )  # fmt: skip

    def __init__(self, sk: TcpSock, substate: int, timeout: int) -> None:
        self.tcp: Tcp = sk.tcp
        self.af = sk.af
        self.state: int = TCP_TIME_WAIT
        self.substate: int = substate
        self.key: bytes = sk.key
        self.saddr: bytes = sk.saddr
        self.rcv_saddr: bytes = sk.rcv_saddr
        self.daddr: bytes = sk.daddr
        self.sport: int = sk.sport
        self.dport: int = sk.dport
        self.num: int = sk.num
        self.reuse: bool = sk.reuse
        self.reuseport: bool = sk.reuseport
        self.bound_dev_if: int = sk.bound_dev_if
        self.rcv_nxt: int = sk.rcv_nxt
        self.snd_nxt: int = sk.snd_nxt
        self.rcv_wnd: int = receive_window(sk)
        self.rcv_wscale: int = sk.rcv_wscale
        self.tstamp_ok: bool = sk.tstamp_ok
        self.ts_recent: int = sk.ts_recent
        self.ts_recent_stamp: int = sk.ts_recent_stamp
        self.ts_offset: int = sk.tsoffset
        self.tos: int = sk.tos
        self.mark: int = sk.mark
        self.priority: int = sk.priority
        self.auth = timewait_auth(sk)
        self.last_oow_ack_time: int = -1_000_000_000
        self.timeout: int = timeout
        self.timer = Timer(sk.loop.timers, self._expire)
        self.timer.mod(sk.loop.now + timeout)

    def _expire(self, now: int) -> None:
        self.kill()
        self.tcp.net.mib.tcp_ext.TW += 1

    def kill(self) -> None:
        """End it (Linux: inet_twsk_deschedule_put)."""
        self.timer.delete()
        self.tcp.forget_timewait(self)

    def oow_limited(self) -> bool:
        """Whether it answered out of turn just now (Linux: tcp_timewait_check_oow_rate_limit)."""
        now = self.tcp.net.loop.now
        if 0 <= now - self.last_oow_ack_time < self.tcp.tcp_invalid_ratelimit * MSEC:
            self.tcp.net.mib.tcp_ext.TCPACKSkippedTimeWait += 1
            return True
        self.last_oow_ack_time = now
        return False

    def send_ack(self, skb: SKBuff) -> None:
        """Acknowledge what was received, in answer to `skb` (Linux: tcp_v4_timewait_ack)."""
        try:
            how = timewait_signer(self, skb) if self.auth is not None else None
        except Unsigned:
            return
        self.tcp.send_reply_ack(
            self.af, self.saddr, self.daddr, self.sport, self.dport, self.snd_nxt, self.rcv_nxt,
            self.rcv_wnd >> self.rcv_wscale, self.tstamp_ok, self.ts_offset, self.ts_recent, self.tos, self.mark,
            self.bound_dev_if, how,
        )  # fmt: skip


def timewait_state_process(tw: TimeWaitSock, skb: SKBuff, th: TcpHeader) -> tuple[int, int]:
    """A segment for a connection in TIME-WAIT (Linux: tcp_timewait_state_process).

    Returns TW_* and, for TW_SYN, the initial sequence number for the new connection.
    """
    doff, flags = th[4], th[5]
    tcp = tw.tcp
    mib = tcp.net.mib.tcp_ext
    now = tcp.net.loop.now
    seq = skb.seq
    end_seq = skb.end_seq
    saw_tstamp = False
    rejected = False
    tsval = 0
    if doff > wire.TCP_HLEN and tw.tstamp_ok:
        start = skb.transport_header + wire.TCP_HLEN
        options = wire.parse_options(skb.head, start, skb.transport_header + doff)
        if options.has_ts:
            saw_tstamp = True
            tsval = options.tsval
            rejected = tcp.paws_reject(tw.ts_recent, tw.ts_recent_stamp, tsval, now)
    if tw.substate == TCP_FIN_WAIT2:
        # Just as FIN-WAIT-2 would have it, but with nobody to take data.
        if rejected or not in_window(seq, end_seq, tw.rcv_nxt, (tw.rcv_nxt + tw.rcv_wnd) & SEQ_MASK):
            return _out_of_window(tw, rejected)
        if flags & RST:
            tw.kill()
            return TW_SUCCESS, 0
        if flags & SYN and not before(seq, tw.rcv_nxt):
            return TW_RST, 0
        if not flags & ACK or not after(end_seq, tw.rcv_nxt) or end_seq == seq:
            return TW_SUCCESS, 0
        if not flags & FIN or end_seq != (tw.rcv_nxt + 1) & SEQ_MASK:
            # Data for a socket that nobody holds.
            return TW_RST, 0
        tw.substate = TCP_TIME_WAIT
        tw.rcv_nxt = end_seq
        if saw_tstamp:
            tw.ts_recent_stamp = now
            tw.ts_recent = tsval
        tw.timer.mod(now + TCP_TIMEWAIT_LEN)
        return TW_ACK, 0
    if not rejected and seq == tw.rcv_nxt and (seq == end_seq or flags & RST):
        # In window, no data: RFC 1337 leaves it to a switch whether a reset ends it.
        if flags & RST:
            if not tcp.tcp_rfc1337:
                tw.kill()
                return TW_SUCCESS, 0
        else:
            tw.timer.mod(now + TCP_TIMEWAIT_LEN)
        if saw_tstamp:
            tw.ts_recent = tsval
            tw.ts_recent_stamp = now
        return TW_SUCCESS, 0
    if (
        flags & (SYN | RST | ACK) == SYN
        and not rejected
        and (after(seq, tw.rcv_nxt) or (saw_tstamp and (tw.ts_recent - tsval) & 0x80000000))
    ):
        # A new connection whose numbers can't be confused with the old one's.
        isn = (tw.snd_nxt + 65535 + 2) & SEQ_MASK
        return TW_SYN, isn or 1
    if rejected:
        mib.PAWSTimewait += 1
    if not flags & RST:
        # The peer repeats its FIN, or worse: the clock starts anew only for what is acceptable.
        if rejected or flags & ACK:
            tw.timer.mod(now + TCP_TIMEWAIT_LEN)
        return _out_of_window(tw, rejected)
    return TW_SUCCESS, 0


def _out_of_window(tw: TimeWaitSock, rejected: bool) -> tuple[int, int]:
    if not tw.oow_limited():
        return TW_ACK, 0
    return TW_SUCCESS, 0
