"""TIME-WAIT: what is left of a connection, a small object of its own (Linux: `struct tcp_timewait_sock`).

It answers retransmitted FINs, keeps old duplicates from a new connection with the same four numbers, and lets a new SYN
through where that is safe (RFC 9293 section 3.10.7.4, RFC 6191). It also stands in for a socket that nobody holds while
it waits for the peer's FIN (state FIN-WAIT-2). RFC 1337: a reset must not end it early, where tcp_rfc1337 says so.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final, final

from usernet.core.timer_list import TimerEntry
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import AddressFamily
from usernet.transport.tcp.const import (
    MSEC,
    SEQ_MASK,
    TCP_FIN_WAIT2,
    TCP_TIME_WAIT,
    TCP_TIMEWAIT_LEN,
    after,
    before,
)
from usernet.transport.tcp.validate import paws_reject
from usernet.transport.tcp.window import in_window, receive_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.auth import Signer
    from usernet.transport.tcp.auth_keys import Auth
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader

TW_SUCCESS: Final = 0
TW_RST: Final = 1
TW_ACK: Final = 2
TW_SYN: Final = 3

_NEVER: Final = -1_000_000_000


_PACKED: Final = Struct("=IqQIIIIIIHHBBB?")


@final
class TimeWaitSock(TimerEntry):
    """One connection in TIME-WAIT (`substate` FIN-WAIT-2: the peer's FIN is missing).

    All but what nearly every segment asks for is packed: fifteen numbers that would take 500 bytes as objects.
    """

    __slots__ = ("_packed", "af", "auth", "key", "last_oow_ack_time", "rcv_nxt", "substate", "tcp")

    state: ClassVar[int] = TCP_TIME_WAIT

    def __init__(self, sk: TcpSock, substate: int) -> None:
        super().__init__()
        self.tcp: Tcp = sk.tcp
        self.af: AddressFamily = sk.af
        self.substate: int = substate
        self.key: bytes = sk.key
        self.rcv_nxt: int = sk.rcv_nxt
        self.auth: Auth | None = None
        if sk.auth is not None:
            from usernet.transport.tcp.auth import timewait_auth

            self.auth = timewait_auth(sk)
        self.last_oow_ack_time: int = _NEVER
        self._packed: bytes = _PACKED.pack(
            sk.ts_recent, sk.ts_recent_stamp, sk.loop.now // MSEC, sk.snd_nxt, receive_window(sk), sk.tsoffset,
            sk.mark & 0xFFFFFFFF, sk.priority & 0xFFFFFFFF, sk.bound_dev_if, sk.num, sk.dport, sk.tos, sk.rcv_wscale,
            sk.reuse | sk.reuseport << 1, sk.tstamp_ok,
        )  # fmt: skip

    def update(self, now: int, tsval: int = -1, enter: bool = False) -> None:
        """Something acceptable came at `now` (ns). tsval: its time stamp, -1 for none. enter: it was the peer's FIN,
        and TIME-WAIT begins."""
        fields = list(_PACKED.unpack(self._packed))
        if tsval >= 0:
            fields[0:2] = tsval, now
        if enter:
            fields[2] = now // MSEC
            self.substate = TCP_TIME_WAIT
        self._packed = _PACKED.pack(*fields)

    # -- as a socket has them

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
    def rcv_saddr(self) -> bytes:
        return self.saddr

    @property
    def ts_recent(self) -> int:
        """The peer's last time stamp."""
        return self._field(0)

    @property
    def ts_recent_stamp(self) -> int:
        """When it came (ns); 0 where there are no time stamps."""
        return self._field(1)

    @property
    def entered(self) -> int:
        """When TIME-WAIT began (ms)."""
        return self._field(2)

    @property
    def snd_nxt(self) -> int:
        return self._field(3)

    @property
    def rcv_wnd(self) -> int:
        return self._field(4)

    @property
    def mark(self) -> int:
        return self._field(6)

    @property
    def bound_dev_if(self) -> int:
        return self._field(8)

    @property
    def num(self) -> int:
        """Our port."""
        return self._field(9)

    @property
    def sport(self) -> int:
        return self.num

    @property
    def dport(self) -> int:
        """The peer's port."""
        return self._field(10)

    @property
    def reuse(self) -> bool:
        return bool(self._field(13) & 1)

    @property
    def reuseport(self) -> bool:
        return bool(self._field(13) & 2)

    def _field(self, index: int) -> int:
        number: int = _PACKED.unpack(self._packed)[index]
        return number

    # -- what it does

    def oow_limited(self, skb: SKBuff) -> bool:
        """Whether it answered out of turn just now (Linux: tcp_timewait_check_oow_rate_limit). Data is answered
        always."""
        if skb.seq != skb.end_seq and not skb.tcp_flags & SYN:
            return False
        tcp = self.tcp
        now = tcp.net.loop.now
        if 0 <= now - self.last_oow_ack_time < tcp.tcp_invalid_ratelimit * MSEC:
            mib = tcp.net.mib.tcp_ext
            if self.substate == TCP_FIN_WAIT2:
                mib.TCPACKSkippedFinWait2 += 1
            else:
                mib.TCPACKSkippedTimeWait += 1
            return True
        self.last_oow_ack_time = now
        return False

    def send_ack(self, skb: SKBuff) -> None:
        """Acknowledge what was received, in answer to `skb` (Linux: tcp_v4_timewait_ack)."""
        how: Signer | None = None
        if self.auth is not None:
            from usernet.transport.tcp.auth_reply import Unsigned, timewait_signer

            try:
                how = timewait_signer(self, skb)
            except Unsigned:
                return
        ts_recent, _, _, snd_nxt, window, ts_offset, mark, _, oif, port, dport, tos, wscale, _, tstamp_ok = (
            _PACKED.unpack(self._packed)
        )  # fmt: skip
        self.tcp.send_reply_ack(
            self.af, self.saddr, self.daddr, port, dport, snd_nxt, self.rcv_nxt, window >> wscale, tstamp_ok, ts_offset,
            ts_recent, tos, mark, oif, how,
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
    if doff > wire.TCP_HLEN and tw.ts_recent_stamp:
        start = skb.transport_header + wire.TCP_HLEN
        options = wire.parse_options(skb.head, start, skb.transport_header + doff)
        if options.has_ts and tcp.tcp_timestamps:
            saw_tstamp = True
            tsval = options.tsval
            rejected = paws_reject(tw.ts_recent, tw.ts_recent_stamp, tsval, now, rst=bool(flags & RST))
    if tw.substate == TCP_FIN_WAIT2:
        # Just as FIN-WAIT-2 would have it, but with nobody to take data.
        if rejected or not in_window(seq, end_seq, tw.rcv_nxt, (tw.rcv_nxt + tw.rcv_wnd) & SEQ_MASK):
            return _out_of_window(tw, skb)
        if flags & RST:
            tcp.forget_timewait(tw)
            return TW_SUCCESS, 0
        if flags & SYN and not before(seq, tw.rcv_nxt):
            return TW_RST, 0
        if not flags & ACK or not after(end_seq, tw.rcv_nxt) or end_seq == seq:
            return TW_SUCCESS, 0
        if not flags & FIN or end_seq != (tw.rcv_nxt + 1) & SEQ_MASK:
            # Data for a socket that nobody holds.
            return TW_RST, 0
        tw.rcv_nxt = end_seq
        tw.update(now, tsval if saw_tstamp else -1, enter=True)
        tcp.timewait_timers.arm(tw, TCP_TIMEWAIT_LEN, now)
        return TW_ACK, 0
    if not rejected and seq == tw.rcv_nxt and (seq == end_seq or flags & RST):
        # In window, no data: RFC 1337 leaves it to a switch whether a reset ends it.
        if flags & RST:
            if not tcp.tcp_rfc1337:
                tcp.forget_timewait(tw)
                return TW_SUCCESS, 0
        else:
            tcp.timewait_timers.arm(tw, TCP_TIMEWAIT_LEN, now)
        if saw_tstamp:
            tw.update(now, tsval)
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
            tcp.timewait_timers.arm(tw, TCP_TIMEWAIT_LEN, now)
        return _out_of_window(tw, skb)
    return TW_SUCCESS, 0


def _out_of_window(tw: TimeWaitSock, skb: SKBuff) -> tuple[int, int]:
    if not tw.oow_limited(skb):
        return TW_ACK, 0
    return TW_SUCCESS, 0
