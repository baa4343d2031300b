"""CUBIC (RFC 9438), with HyStart to leave slow start in time (Linux: tcp_cubic.c).

After a loss the window W_max is left by a factor beta, and approached again along a cubic curve of the time since the
loss, W(t) = C (t - K)^3 + W_max: fast at first, flat near W_max, then fast again in search of more. K is the time at
which W_max is reached, the cube root of W_max (1 - beta) / C. Where Reno would be faster (short paths), CUBIC is as
fast as Reno. Constants in Linux's fixed point: beta = 717/1024, C = 0.4 as bic_scale 41, time in units of 1/1024 s.

HyStart leaves slow start when the acknowledgements of a round are spread over half the minimum RTT (the train fills the
path), or the RTT of a round has risen by an eighth (a queue builds up). HyStart++ (hystart.py) takes its place where
the parameter hystart_plus_plus of the module is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.congestion.base import (
    CA_EVENT_TX_START,
    CongestionControl,
    cong_avoid_ai,
    register,
    slow_start,
)
from usernet.transport.tcp.congestion.hystart import HystartPlusPlus
from usernet.transport.tcp.const import TCP_CA_LOSS, after

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

BICTCP_BETA_SCALE: Final = 1024
BICTCP_HZ: Final = 10
BETA: Final = 717
BIC_SCALE: Final = 41
CUBE_RTT_SCALE: Final = BIC_SCALE * 10
BETA_SCALE: Final = 8 * (BICTCP_BETA_SCALE + BETA) // 3 // (BICTCP_BETA_SCALE - BETA)
CUBE_FACTOR: Final = (1 << (10 + 3 * BICTCP_HZ)) // CUBE_RTT_SCALE
HYSTART_ACK_TRAIN: Final = 1
HYSTART_DELAY: Final = 2
HYSTART_MIN_SAMPLES: Final = 8
HYSTART_DELAY_MIN_US: Final = 4000
HYSTART_DELAY_MAX_US: Final = 16000


def cube_root(value: int) -> int:
    """The integer cube root of `value`."""
    if value < 1:
        return 0
    root = 1 << -(-value.bit_length() // 3)
    while True:
        better = (2 * root + value // (root * root)) // 3
        if better >= root:
            return root
        root = better


@final
class Cubic(CongestionControl):
    """CUBIC's state of one connection. Windows in packets, times in µs unless said otherwise. The module's parameters
    are looked at as they are used, those that HyStart++ stands in place of HyStart excepted."""

    __slots__ = (
        "ack_cnt", "bic_k", "bic_origin_point", "cnt", "curr_rtt", "delay_min", "end_seq", "epoch_start", "found",
        "hystartpp", "last_ack", "last_cwnd", "last_max_cwnd", "last_time", "round_start", "sample_cnt", "tcp_cwnd",
    )  # fmt: skip

    name = "cubic"

    def __init__(self) -> None:
        self.hystartpp: HystartPlusPlus | None = None
        self.cnt: int = 0
        self.last_max_cwnd: int = 0
        self.last_cwnd: int = 0
        self.last_time: int = 0
        self.bic_origin_point: int = 0
        self.bic_k: int = 0
        self.delay_min: int = 0
        self.epoch_start: int = 0
        self.ack_cnt: int = 0
        self.tcp_cwnd: int = 0
        self.sample_cnt: int = 0
        self.found: bool = False
        self.round_start: int = 0
        self.end_seq: int = 0
        self.last_ack: int = 0
        self.curr_rtt: int = 0

    def _reset(self) -> None:
        self.cnt = self.last_max_cwnd = self.last_cwnd = self.last_time = 0
        self.bic_origin_point = self.bic_k = self.delay_min = self.epoch_start = 0
        self.ack_cnt = self.tcp_cwnd = 0
        self.found = False

    def init(self, sk: TcpSock) -> None:
        tcp = sk.tcp
        self._reset()
        if tcp.cubic_hystart_plus_plus:
            self.hystartpp = HystartPlusPlus(sk)
        elif tcp.cubic_hystart:
            self._hystart_reset(sk)
        elif tcp.cubic_initial_ssthresh:
            sk.snd_ssthresh = tcp.cubic_initial_ssthresh

    def _hystart_reset(self, sk: TcpSock) -> None:
        self.round_start = self.last_ack = sk.loop.now // 1000
        self.end_seq = sk.snd_nxt
        self.curr_rtt = 0xFFFFFFFF
        self.sample_cnt = 0

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        if event == CA_EVENT_TX_START:
            # Idle time doesn't count: shift the epoch, so that the window doesn't jump.
            idle = sk.loop.now - sk.lsndtime
            if self.epoch_start and idle > 0:
                self.epoch_start = min(self.epoch_start + idle, sk.loop.now)

    def ssthresh(self, sk: TcpSock) -> int:
        self.epoch_start = 0
        cwnd = sk.snd_cwnd
        if cwnd < self.last_max_cwnd and sk.tcp.cubic_fast_convergence:
            self.last_max_cwnd = cwnd * (BICTCP_BETA_SCALE + BETA) // (2 * BICTCP_BETA_SCALE)
        else:
            self.last_max_cwnd = cwnd
        return max(cwnd * BETA // BICTCP_BETA_SCALE, 2)

    def set_state(self, sk: TcpSock, state: int) -> None:
        if state == TCP_CA_LOSS:
            self._reset()
            self._hystart_reset(sk)

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        if not sk.cwnd_limited():
            return
        if sk.snd_cwnd < sk.snd_ssthresh:
            if self.hystartpp is not None:
                acked = self.hystartpp.growth(sk, acked)
            acked = slow_start(sk, acked)
            if not acked:
                return
        self._update(sk, sk.snd_cwnd, acked)
        cong_avoid_ai(sk, self.cnt, acked)

    def _update(self, sk: TcpSock, cwnd: int, acked: int) -> None:
        """Compute `cnt`: after how many acknowledged packets the window grows by one (Linux: bictcp_update)."""
        self.ack_cnt += acked
        now = sk.loop.now
        # Nothing new to compute within 1/32 s at the same window.
        if self.last_cwnd == cwnd and now - self.last_time <= 31_250_000:
            return
        if not (self.epoch_start and now == self.last_time):
            self.last_cwnd = cwnd
            self.last_time = now
            if self.epoch_start == 0:
                self.epoch_start = now
                self.ack_cnt = acked
                self.tcp_cwnd = cwnd
                if self.last_max_cwnd <= cwnd:
                    self.bic_k = 0
                    self.bic_origin_point = cwnd
                else:
                    self.bic_k = cube_root(CUBE_FACTOR * (self.last_max_cwnd - cwnd))
                    self.bic_origin_point = self.last_max_cwnd
            elapsed_us = (now - self.epoch_start) // 1000 + self.delay_min
            t = (elapsed_us << BICTCP_HZ) // 1_000_000
            offset = abs(t - self.bic_k)
            delta = CUBE_RTT_SCALE * offset * offset * offset >> (10 + 3 * BICTCP_HZ)
            target = self.bic_origin_point - delta if t < self.bic_k else self.bic_origin_point + delta
            if target > cwnd:
                self.cnt = cwnd // (target - cwnd)
            else:
                self.cnt = 100 * cwnd
            # The first epoch has no W_max to be careful about: 5 % a round trip at least.
            if self.last_max_cwnd == 0 and self.cnt > 20:
                self.cnt = 20
        if sk.tcp.cubic_tcp_friendliness:
            # W_est of RFC 9438 section 4.3: as fast as Reno at least.
            step = cwnd * BETA_SCALE >> 3
            while step and self.ack_cnt > step:
                self.ack_cnt -= step
                self.tcp_cwnd += 1
            if self.tcp_cwnd > cwnd:
                self.cnt = min(self.cnt, cwnd // (self.tcp_cwnd - cwnd))
        self.cnt = max(self.cnt, 2)

    def pkts_acked(self, sk: TcpSock, count: int, rtt_us: int, in_flight: int) -> None:
        if rtt_us < 0:
            return
        # Right after a loss the samples are those of a full queue.
        if self.epoch_start and sk.loop.now - self.epoch_start < 1_000_000_000:
            return
        delay = rtt_us or 1
        if self.delay_min == 0 or self.delay_min > delay:
            self.delay_min = delay
        if self.hystartpp is not None:
            if sk.snd_cwnd < sk.snd_ssthresh and self.hystartpp.sample(sk, delay):
                sk.snd_ssthresh = sk.snd_cwnd
            return
        tcp = sk.tcp
        if not self.found and tcp.cubic_hystart and tcp.cubic_hystart_low_window <= sk.snd_cwnd < sk.snd_ssthresh:
            self._hystart_update(sk, delay)

    def _hystart_update(self, sk: TcpSock, delay: int) -> None:
        if after(sk.snd_una, self.end_seq):
            self._hystart_reset(sk)
        mib = sk.net.mib.tcp_ext
        detect = sk.tcp.cubic_hystart_detect
        if detect & HYSTART_ACK_TRAIN:
            now = sk.loop.now // 1000
            if now - self.last_ack <= sk.tcp.cubic_hystart_ack_delta_us:
                self.last_ack = now
                threshold = self.delay_min
                # Paced segments arrive spread out anyway: only unpaced ones at half the RTT.
                if not sk.pacing_status:
                    threshold >>= 1
                threshold += self._ack_delay(sk)
                if now - self.round_start > threshold:
                    self.found = True
                    mib.TCPHystartTrainDetect += 1
                    mib.TCPHystartTrainCwnd += sk.snd_cwnd
                    sk.snd_ssthresh = sk.snd_cwnd
        if detect & HYSTART_DELAY:
            self.curr_rtt = min(self.curr_rtt, delay)
            if self.sample_cnt < HYSTART_MIN_SAMPLES:
                self.sample_cnt += 1
            elif self.curr_rtt > self.delay_min + min(
                max(self.delay_min >> 3, HYSTART_DELAY_MIN_US), HYSTART_DELAY_MAX_US
            ):
                self.found = True
                mib.TCPHystartDelayDetect += 1
                mib.TCPHystartDelayCwnd += sk.snd_cwnd
                sk.snd_ssthresh = sk.snd_cwnd

    def _ack_delay(self, sk: TcpSock) -> int:
        """What super-segments delay acknowledgements by, at most 1 ms (Linux: hystart_ack_delay)."""
        rate = sk.pacing_rate
        if not rate:
            return 0
        return min(1000, 65536 * 4 * 1_000_000 // rate)


register(Cubic)
