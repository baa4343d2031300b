"""How long the timers of a TCP socket run, and what that depends on: round trips, options, how interactive it is
(Linux: include/net/tcp.h, tcp_timer.c).

Times in ns, those named _us in µs. What happens when a timer expires is in timer.py.
"""

from __future__ import annotations

from usernet.core.timer import Timer
from usernet.net.dst import RTAX_RTO_MIN
from usernet.transport.tcp.const import MSEC, SEC, TCP_RTO_MIN
from usernet.transport.tcp.state import TcpState


class TcpTimeouts(TcpState):
    """The part of `TcpSock` that knows times."""

    __slots__: tuple[str, ...] = ()

    # -- retransmission, and probes of a closed window

    def clear_xmit_timer(self) -> None:
        """Disarm the retransmission timer."""
        self.icsk_pending = 0
        self.retransmit_timer.cancel()

    def rto_min_us(self) -> int:
        """The least RTO (µs): the route's, TCP_RTO_MIN_US's, or tcp_rto_min_us's (Linux: tcp_rto_min_us)."""
        dst = self.dst
        if dst is not None:
            metric = dst.metric(RTAX_RTO_MIN)
            if metric:
                return metric * 1000
        return self.rto_min

    def min_rtt_us(self) -> int:
        """The smallest round trip (µs) of the last tcp_min_rtt_wlen seconds."""
        return -self.rtt_min.value

    def update_min_rtt(self, rtt_us: int, delayed: bool) -> None:
        """Take a sample into the minimum (Linux: tcp_update_rtt_min)."""
        if delayed and rtt_us > self.min_rtt_us():
            # A delayed acknowledgement is no measure of the path.
            return
        self.rtt_min.update(self.tcp.tcp_min_rtt_wlen * SEC, self.loop.now, -max(rtt_us, 1))

    def probe0_base(self) -> int:
        return max(self.rto, TCP_RTO_MIN)

    def probe0_when(self) -> int:
        """The time (ns) between this probe and the next (Linux: tcp_probe0_when)."""
        return min(self.probe0_base() << min(self.backoff, 16), self.rto_max)

    def clamp_probe0_to_user_timeout(self, when: int) -> int:
        """Not beyond the user's time-out (Linux: tcp_clamp_probe0_to_user_timeout)."""
        if not self.params.user_timeout or not self.probes_tstamp:
            return when
        elapsed = max(self.loop.now - self.probes_tstamp, 0)
        return min(when, max(self.params.user_timeout - elapsed, 2 * MSEC))

    # -- keepalive, and the end

    def reset_keepalive_timer(self, delay: int) -> None:
        """Arm the keepalive timer, `delay` ns from now."""
        timer = self.keepalive_timer
        if timer is None:
            timer = self.keepalive_timer = Timer(self.loop.timers, type(self)._on_keepalive_timer, self)
        timer.mod(self.loop.now + delay)

    def keepalive_time(self) -> int:
        return self.params.keepidle or self.tcp.tcp_keepalive_time * SEC

    def keepalive_intvl(self) -> int:
        return self.params.keepintvl or self.tcp.tcp_keepalive_intvl * SEC

    def keepalive_probes(self) -> int:
        return self.params.keepcnt or self.tcp.tcp_keepalive_probes

    def fin_time(self) -> int:
        """How long (ns) FIN-WAIT-2 lasts for a socket nobody holds (Linux: tcp_fin_time)."""
        timeout = self.params.linger2 or self.tcp.tcp_fin_timeout * SEC
        return max(timeout, (self.rto << 2) - (self.rto >> 1))

    # -- interactive or bulk: whether acknowledgements wait for data to go with

    def in_pingpong(self) -> bool:
        """Whether the connection is interactive: replies carry the acknowledgements."""
        return self.ack_pingpong >= self.tcp.tcp_pingpong_thresh

    def enter_pingpong(self) -> None:
        self.ack_pingpong = self.tcp.tcp_pingpong_thresh

    def exit_pingpong(self) -> None:
        self.ack_pingpong = 0

    def inc_pingpong(self) -> None:
        if self.ack_pingpong < 255:
            self.ack_pingpong += 1
