"""A window kept through pauses: congestion-window validation after RFC 7661 (net.ipv4.tcp_newcwv).

Linux, after RFC 2861, shrinks a window that the application leaves unused, within an RTO, so that whoever sends in
bursts starts anew each time. RFC 7661 keeps it for five minutes, and makes up for it where it does harm: on a loss, a
window that was not in use counts for no more than what was.

What is in use is `pipeACK`: the most that was acknowledged within a round trip, in the last three of them, or second. A
window of which it is at least half is validated. Windows grow as before: only those that are used do
(tcp_cwnd_validate). Windows in packets, times in ns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.congestion.minmax import WindowedMax
from usernet.transport.tcp.const import SEC, before

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

NON_VALIDATED_PERIOD: Final = 300 * SEC
"""How long a window that isn't used is kept (RFC 7661 section 4.4.4: 5 minutes)."""


@final
class CwndValidation:
    """The state of one connection."""

    __slots__ = ("_delivered", "_pipe", "_round_end", "_sampled", "_since", "loss_flight", "retransmitted")

    def __init__(self, sk: TcpSock) -> None:
        self._delivered: int = sk.delivered
        self._round_end: int = sk.snd_nxt
        self._pipe: WindowedMax | None = None
        self._sampled: int = 0
        self._since: int = -1
        """Since when the window isn't validated; -1 where it is."""
        self.loss_flight: int = 0
        """What a loss found in use where the window was not validated; 0 where the recovery is an ordinary one."""
        self.retransmitted: int = 0

    def acked(self, sk: TcpSock) -> None:
        """An acknowledgement was processed, and nothing is being recovered: once a round trip, take a sample."""
        if before(sk.snd_una, self._round_end):
            return
        now = sk.loop.now
        sample = sk.delivered - self._delivered
        self._delivered = sk.delivered
        self._round_end = sk.snd_nxt
        self._sampled = now
        if self._pipe is None:
            self._pipe = WindowedMax(now, sample)
        else:
            self._pipe.update(self._period(sk), now, sample)

    @staticmethod
    def _period(sk: TcpSock) -> int:
        return max(3 * (sk.srtt_us >> 3) * 1000, SEC)

    def pipe_ack(self, sk: TcpSock) -> int:
        """The most that was acknowledged in a round trip lately; -1 while it was never measured."""
        if self._pipe is None:
            return -1
        if sk.loop.now - self._sampled > self._period(sk):
            return 0
        return self._pipe.value

    def validated(self, sk: TcpSock) -> bool:
        """Whether at least half the window is in use (section 4.3)."""
        pipe = self.pipe_ack(sk)
        return pipe < 0 or 2 * pipe >= sk.snd_cwnd

    def check(self, sk: TcpSock, floor: int) -> None:
        """Data is, or is to be, sent: after five minutes of a window that isn't used it is halved, but not below
        `floor`, and the threshold remembers three quarters of what it was (section 4.4.4)."""
        now = sk.loop.now
        if self.validated(sk):
            self._since = -1
        elif self._since < 0:
            self._since = self._sampled
        if self._since >= 0 and now - self._since > NON_VALIDATED_PERIOD:
            self._since = now
            sk.snd_ssthresh = max(sk.snd_ssthresh, 3 * sk.snd_cwnd // 4)
            sk.snd_cwnd = max(sk.snd_cwnd // 2, min(floor, sk.snd_cwnd))

    def before_reduction(self, sk: TcpSock) -> None:
        """Congestion: a window that isn't validated is first cut to what is in use, which the control then reduces
        (section 4.4.1)."""
        self.loss_flight = 0
        self.retransmitted = sk.total_retrans
        if not self.validated(sk):
            flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
            self.loss_flight = max(self.pipe_ack(sk), flight + sk.lost_out + sk.sacked_out, 2)
            sk.snd_cwnd = min(sk.snd_cwnd, self.loss_flight)

    def after_reduction(self, sk: TcpSock) -> None:
        """Recovery is complete: less still, by half of what had to be sent again (section 4.4.1)."""
        if self.loss_flight:
            resent = sk.total_retrans - self.retransmitted
            sk.snd_cwnd = min(sk.snd_cwnd, max((self.loss_flight - resent) // 2, 2))
            self.loss_flight = 0
        self._delivered = sk.delivered
        self._round_end = sk.snd_nxt
