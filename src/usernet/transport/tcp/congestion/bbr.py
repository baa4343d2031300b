"""BBR, version 1: send at the rate at which the path delivers (Linux: tcp_bbr.c; draft-cardwell-iccrg-bbr-00).

A loss says little about congestion: a long queue is congestion before anything is lost, and a noisy link loses without
any. So BBR keeps a model of the path instead: the bottleneck's rate `bw`, the largest delivery rate of the last ten
round trips, and the round trip without queues `min_rtt`, the smallest of the last ten seconds. It paces at `bw` times a
gain, and keeps at most twice `bw * min_rtt` in flight.

    STARTUP    gain 2.89: doubles the rate each round, until it has grown by less than a quarter for three rounds.
    DRAIN      gain 0.35: lets the queue that this made run empty.
    PROBE_BW   gains 1.25, 0.75, then six times 1, each for a min_rtt: asks for more, takes the queue back, cruises.
    PROBE_RTT  for 200 ms, when min_rtt was not seen again for ten seconds: four packets, so that the queue empties.

In recovery it conserves packets for a round, and then works up to the model again. Where a token bucket polices, which
shows in losses above 20 % at a steady rate, it sends at that rate (`lt_bw`). What acknowledgements bring in bursts
(`extra_acked`) is added to the window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.congestion.base import CA_EVENT_TX_START, register
from usernet.transport.tcp.congestion.bbr_model import (
    BBR_DRAIN,
    BBR_PROBE_BW,
    BBR_PROBE_RTT,
    BBR_SCALE,
    BBR_STARTUP,
    BBR_UNIT,
    BW_UNIT,
    CWND_MIN_TARGET,
    DRAIN_GAIN,
    EXTRA_ACKED_WIN_RTTS,
    FULL_BW_CNT,
    FULL_BW_THRESH,
    MIN_RTT_WIN,
    BbrModel,
    in_flight,
)
from usernet.transport.tcp.congestion.minmax import WindowedMax
from usernet.transport.tcp.const import MSEC, TCP_CA_LOSS, TCP_CA_RECOVERY, TCP_INFINITE_SSTHRESH, TCP_INIT_CWND
from usernet.transport.tcp.rate import RateSample

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

CYCLE_LEN: Final = 8
BW_RTTS: Final = CYCLE_LEN + 2
MIN_TSO_RATE: Final = 1_200_000 // 8
HIGH_GAIN: Final = BBR_UNIT * 2885 // 1000 + 1  # 2 / ln 2
CWND_GAIN: Final = BBR_UNIT * 2
PACING_GAIN: Final = (BBR_UNIT * 5 // 4, BBR_UNIT * 3 // 4) + (BBR_UNIT,) * 6
CYCLE_RAND: Final = 7
LT_INTVL_MIN_RTTS: Final = 4
LT_LOSS_THRESH: Final = 50
LT_BW_RATIO: Final = BBR_UNIT // 8
LT_BW_DIFF: Final = 4000 // 8
LT_BW_MAX_RTTS: Final = 48


@final
class Bbr(BbrModel):
    """BBR's state of one connection."""

    __slots__ = (
        "bw", "lt_bw", "lt_is_sampling", "lt_last_delivered", "lt_last_lost", "lt_last_stamp", "lt_rtt_cnt",
        "lt_use_bw", "packet_conservation", "rtt_cnt",
    )  # fmt: skip

    name = "bbr"
    high_gain = HIGH_GAIN

    def __init__(self) -> None:
        super().__init__()
        self.bw = WindowedMax(0, 0)
        self.rtt_cnt: int = 0
        self.packet_conservation: bool = False
        self.lt_is_sampling: bool = False
        self.lt_rtt_cnt: int = 0
        self.lt_use_bw: bool = False
        self.lt_bw: int = 0
        self.lt_last_delivered: int = 0
        self.lt_last_stamp: int = 0
        self.lt_last_lost: int = 0

    def init(self, sk: TcpSock) -> None:
        sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
        self.next_rtt_delivered = sk.delivered
        self.min_rtt_us = sk.min_rtt_us()
        self.min_rtt_stamp = self.ack_epoch_mstamp = sk.loop.now
        self.bw.reset(self.rtt_cnt, 0)
        self._init_pacing_rate(sk)
        self._reset_lt_bw_sampling(sk)

    # -- the model's figures

    def _bw(self) -> int:
        return self.lt_bw if self.lt_use_bw else self.bw.value

    def _quantize(self, sk: TcpSock, cwnd: int) -> int:
        """Room for a super-segment in each of: the sender's queue, its NIC, the receiver's GRO. Even, so that the last
        packet's acknowledgement is not delayed."""
        cwnd = cwnd + 3 * self._tso_segs_goal(sk) + 1 & ~1
        if self.mode == BBR_PROBE_BW and self.cycle_idx == 0:
            cwnd += 2
        return cwnd

    def _inflight(self, sk: TcpSock, bw: int, gain: int) -> int:
        return self._quantize(sk, self._bdp(sk, bw, gain))

    # -- the window

    def _recover_or_restore(self, sk: TcpSock, sample: RateSample, acked: int) -> tuple[bool, int]:
        """In recovery a round of packet conservation, then the window as it was. Returns whether it conserves, and the
        window."""
        prior, state = self.prev_ca_state, sk.ca_state
        cwnd = sk.snd_cwnd
        packets = in_flight(sk)
        if sample.losses > 0:
            cwnd = max(cwnd - sample.losses, 1)
        if state == TCP_CA_RECOVERY and prior != TCP_CA_RECOVERY:
            self.packet_conservation = True
            self.next_rtt_delivered = sk.delivered
            cwnd = packets + acked
        elif prior >= TCP_CA_RECOVERY > state:
            cwnd = max(cwnd, self.prior_cwnd)
            self.packet_conservation = False
        self.prev_ca_state = state
        if self.packet_conservation:
            return True, max(cwnd, packets + acked)
        return False, cwnd

    def _set_cwnd(self, sk: TcpSock, sample: RateSample, acked: int, bw: int, gain: int) -> None:
        cwnd = sk.snd_cwnd
        if acked:
            conserving, cwnd = self._recover_or_restore(sk, sample, acked)
            if not conserving:
                extra = self._ack_aggregation_cwnd() if self.full_bw_reached else 0
                target = self._quantize(sk, self._bdp(sk, bw, gain) + extra)
                if self.full_bw_reached:
                    cwnd = min(cwnd + acked, target)
                elif cwnd < target or sk.delivered < TCP_INIT_CWND:
                    cwnd += acked
                cwnd = max(cwnd, CWND_MIN_TARGET)
        cwnd = min(cwnd, sk.snd_cwnd_clamp)
        if self.mode == BBR_PROBE_RTT:
            cwnd = min(cwnd, CWND_MIN_TARGET)
        sk.snd_cwnd = cwnd

    # -- modes

    def _cycle_phase_done(self, sk: TcpSock, sample: RateSample) -> bool:
        full_length = sk.delivered_mstamp - self.cycle_mstamp > self.min_rtt_us * 1000
        gain = self.pacing_gain
        if gain == BBR_UNIT:
            return full_length
        packets = self._packets_in_net_at_edt(sk, sample.prior_in_flight)
        bw = self.bw.value
        if gain > BBR_UNIT:
            # Until there is as much in flight as was to be tried, or it did not fit.
            return full_length and (sample.losses > 0 or packets >= self._inflight(sk, bw, gain))
        return full_length or packets <= self._inflight(sk, bw, BBR_UNIT)

    def _advance_cycle_phase(self, sk: TcpSock) -> None:
        self.cycle_idx = (self.cycle_idx + 1) % CYCLE_LEN
        self.cycle_mstamp = sk.delivered_mstamp

    def _enter_probe_bw(self, sk: TcpSock) -> None:
        """At a phase by chance, but not the one that drains, so that connections don't probe in step."""
        self.mode = BBR_PROBE_BW
        self.cycle_idx = CYCLE_LEN - 1 - sk.net.random.randrange(CYCLE_RAND)
        self._advance_cycle_phase(sk)

    def _reset_mode(self, sk: TcpSock) -> None:
        if self.full_bw_reached:
            self._enter_probe_bw(sk)
        else:
            self.mode = BBR_STARTUP

    def _check_full_bw(self, sample: RateSample) -> None:
        """Whether the pipe is full: three rounds without growth by a quarter (rounds that the application limits say
        nothing). Three, for the receiver's window may have to grow first."""
        if self.full_bw_reached or not self.round_start or sample.is_app_limited:
            return
        if self.bw.value >= self.full_bw * FULL_BW_THRESH >> BBR_SCALE:
            self.full_bw = self.bw.value
            self.full_bw_cnt = 0
            return
        self.full_bw_cnt += 1
        self.full_bw_reached = self.full_bw_cnt >= FULL_BW_CNT

    def _check_drain(self, sk: TcpSock) -> None:
        if self.mode == BBR_STARTUP and self.full_bw_reached:
            self.mode = BBR_DRAIN
            sk.snd_ssthresh = self._inflight(sk, self.bw.value, BBR_UNIT)
        if self.mode == BBR_DRAIN:
            packets = in_flight(sk)
            if self._packets_in_net_at_edt(sk, packets) <= self._inflight(sk, self.bw.value, BBR_UNIT):
                self._enter_probe_bw(sk)

    def _probe_rtt_done(self, sk: TcpSock) -> None:
        self.min_rtt_stamp = sk.loop.now
        self._reset_mode(sk)

    def _update_min_rtt(self, sk: TcpSock, sample: RateSample) -> None:
        now = sk.loop.now
        expired = now > self.min_rtt_stamp + MIN_RTT_WIN
        rtt_us = sample.rtt_us
        if rtt_us >= 0 and (rtt_us < self.min_rtt_us or (expired and not sample.is_ack_delayed)):
            self.min_rtt_us = rtt_us
            self.min_rtt_stamp = now
        if expired and not self.idle_restart and self.mode != BBR_PROBE_RTT:
            self.mode = BBR_PROBE_RTT
            self._save_cwnd(sk)
            self.probe_rtt_done_stamp = 0
        if self.mode == BBR_PROBE_RTT:
            self._probe_rtt(sk, CWND_MIN_TARGET)
        if sample.delivered > 0:
            self.idle_restart = False

    def _update_gains(self) -> None:
        mode = self.mode
        if mode == BBR_STARTUP:
            self.pacing_gain = self.cwnd_gain = HIGH_GAIN
        elif mode == BBR_DRAIN:
            self.pacing_gain, self.cwnd_gain = DRAIN_GAIN, HIGH_GAIN
        elif mode == BBR_PROBE_BW:
            self.pacing_gain = BBR_UNIT if self.lt_use_bw else PACING_GAIN[self.cycle_idx]
            self.cwnd_gain = CWND_GAIN
        else:
            self.pacing_gain = self.cwnd_gain = BBR_UNIT

    # -- the model

    def _update_bw(self, sk: TcpSock, sample: RateSample) -> None:
        self.round_start = False
        if sample.delivered < 0 or sample.interval <= 0:
            return
        if sample.prior_delivered >= self.next_rtt_delivered:
            self.next_rtt_delivered = sk.delivered
            self.rtt_cnt += 1
            self.round_start = True
            self.packet_conservation = False
        self._lt_bw_sampling(sk, sample)
        bw = sample.delivered * BW_UNIT * 1000 // sample.interval
        # What the application limits is no measure of the path, unless it is better than what was measured.
        if not sample.is_app_limited or bw >= self.bw.value:
            self.bw.update(BW_RTTS, self.rtt_cnt, bw)

    def cong_control(self, sk: TcpSock, ack: int, flag: int, sample: RateSample) -> None:
        self._update_bw(sk, sample)
        self._update_ack_aggregation(sk, sample, EXTRA_ACKED_WIN_RTTS)
        if self.mode == BBR_PROBE_BW and self._cycle_phase_done(sk, sample):
            self._advance_cycle_phase(sk)
        self._check_full_bw(sample)
        self._check_drain(sk)
        self._update_min_rtt(sk, sample)
        self._update_gains()
        bw = self._bw()
        self._set_pacing_rate(sk, bw, self.pacing_gain)
        self._set_cwnd(sk, sample, sample.acked_sacked, bw, self.cwnd_gain)

    # -- policers

    def _reset_lt_bw_interval(self, sk: TcpSock) -> None:
        self.lt_last_stamp = sk.delivered_mstamp // MSEC
        self.lt_last_delivered = sk.delivered
        self.lt_last_lost = sk.lost
        self.lt_rtt_cnt = 0

    def _reset_lt_bw_sampling(self, sk: TcpSock) -> None:
        self.lt_bw = 0
        self.lt_use_bw = self.lt_is_sampling = False
        self._reset_lt_bw_interval(sk)

    def _lt_bw_interval_done(self, sk: TcpSock, bw: int) -> None:
        """Two intervals of the same rate: it is a policer's."""
        if self.lt_bw:
            diff = abs(bw - self.lt_bw)
            if (
                diff * BBR_UNIT <= LT_BW_RATIO * self.lt_bw
                or self._bytes_per_second(sk, diff, BBR_UNIT) <= LT_BW_DIFF
            ):
                self.lt_bw = (bw + self.lt_bw) >> 1
                self.lt_use_bw = True
                self.pacing_gain = BBR_UNIT
                self.lt_rtt_cnt = 0
                return
        self.lt_bw = bw
        self._reset_lt_bw_interval(sk)

    def _lt_bw_sampling(self, sk: TcpSock, sample: RateSample) -> None:
        """Intervals of 4 to 16 rounds that begin and end with a loss, when the bucket is empty."""
        if self.lt_use_bw:
            if self.mode == BBR_PROBE_BW and self.round_start:
                self.lt_rtt_cnt += 1
                if self.lt_rtt_cnt >= LT_BW_MAX_RTTS:
                    self._reset_lt_bw_sampling(sk)
                    self._enter_probe_bw(sk)
            return
        if not self.lt_is_sampling:
            if not sample.losses:
                return
            self._reset_lt_bw_interval(sk)
            self.lt_is_sampling = True
        if sample.is_app_limited:
            self._reset_lt_bw_sampling(sk)
            return
        if self.round_start:
            self.lt_rtt_cnt += 1
        if self.lt_rtt_cnt < LT_INTVL_MIN_RTTS:
            return
        if self.lt_rtt_cnt > 4 * LT_INTVL_MIN_RTTS:
            self._reset_lt_bw_sampling(sk)
            return
        if not sample.losses:
            return
        lost = sk.lost - self.lt_last_lost
        delivered = sk.delivered - self.lt_last_delivered
        if not delivered or lost << BBR_SCALE < LT_LOSS_THRESH * delivered:
            return
        elapsed_ms = sk.delivered_mstamp // MSEC - self.lt_last_stamp
        if elapsed_ms >= 1:
            self._lt_bw_interval_done(sk, delivered * BW_UNIT // (elapsed_ms * 1000))

    # -- the other callbacks

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        if event == CA_EVENT_TX_START and sk.app_limited:
            self._restart_from_idle(sk)

    def ssthresh(self, sk: TcpSock) -> int:
        self._save_cwnd(sk)
        return sk.snd_ssthresh

    def undo_cwnd(self, sk: TcpSock) -> int:
        self.full_bw = self.full_bw_cnt = 0
        self._reset_lt_bw_sampling(sk)
        return sk.snd_cwnd

    def set_state(self, sk: TcpSock, state: int) -> None:
        if state == TCP_CA_LOSS:
            self.prev_ca_state = TCP_CA_LOSS
            self.full_bw = 0
            self.round_start = True
            sample = RateSample()
            sample.losses = 1
            self._lt_bw_sampling(sk, sample)

    def min_tso_segs(self, sk: TcpSock) -> int:
        return 1 if sk.pacing_rate < MIN_TSO_RATE else 2


register(Bbr)
