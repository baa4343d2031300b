"""BBRv3's model of the path: the rate that goes through, what losses bound it by, and what may so be in flight
(draft-ietf-ccwg-bbr section 5.5). What is done by it, the modes and their cycle, is in bbr3.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.transport.tcp.congestion.bbr_model import (
    BBR_PROBE_BW,
    BBR_SCALE,
    BBR_STARTUP,
    BBR_UNIT,
    CWND_MIN_TARGET,
    GSO_LEGACY_PAYLOAD,
    BbrModel,
)
from usernet.transport.tcp.const import SEC

if TYPE_CHECKING:
    from usernet.transport.tcp.rate import RateSample
    from usernet.transport.tcp.sock import TcpSock

PROBE_UP: Final = 0
PROBE_DOWN: Final = 1
PROBE_CRUISE: Final = 2
PROBE_REFILL: Final = 3
PACING_GAIN: Final = (BBR_UNIT * 5 // 4, BBR_UNIT * 90 // 100, BBR_UNIT, BBR_UNIT)

# What the acknowledgements that arrive now say of a probe.
ACKS_INIT: Final = 0
ACKS_REFILLING: Final = 1
ACKS_PROBE_STARTING: Final = 2
ACKS_PROBE_FEEDBACK: Final = 3
ACKS_PROBE_STOPPING: Final = 4

STARTUP_PACING_GAIN: Final = BBR_UNIT * 277 // 100 + 1  # 4 ln 2
DRAIN_PACING_GAIN: Final = BBR_UNIT * 1 // 2
CWND_GAIN: Final = BBR_UNIT * 2
PROBE_UP_CWND_GAIN: Final = BBR_UNIT * 9 // 4
PROBE_RTT_CWND_GAIN: Final = BBR_UNIT * 1 // 2
PROBE_RTT_WIN: Final = 5 * SEC
BETA: Final = BBR_UNIT * 30 // 100
LOSS_THRESH: Final = BBR_UNIT * 2 // 100
FULL_LOSS_CNT: Final = 6
INFLIGHT_HEADROOM: Final = BBR_UNIT * 15 // 100
BW_PROBE_MAX_ROUNDS: Final = 63
BW_PROBE_RAND_ROUNDS: Final = 2
BW_PROBE_BASE: Final = 2 * SEC
BW_PROBE_RAND_MS: Final = 1000
NO_BOUND: Final = 1 << 62
"""More than any rate or volume."""


def too_high(sample: RateSample) -> bool:
    """Whether more than 2 % of what was in flight was lost."""
    return sample.tx_in_flight > 0 and sample.lost > sample.tx_in_flight * LOSS_THRESH >> BBR_SCALE


def inflight_at_loss(sample: RateSample, count: int) -> int:
    """How much was in flight when the losses crossed 2 %, somewhere in the lost segment of `count` packets: the prefix
    x of it with (lost before + x) / (in flight before + x) = 2 %."""
    before = max(sample.tx_in_flight - count, 0)
    lost_before = max(sample.lost - count, 0)
    budget = before * LOSS_THRESH + BBR_UNIT - 1 >> BBR_SCALE
    if lost_before >= budget:
        return before
    return before + (budget - lost_before << BBR_SCALE) // (BBR_UNIT - LOSS_THRESH)


class Bbr3Model(BbrModel):
    """The state of one connection. Rates in packets/µs times 2**24, volumes in packets, times in ns."""

    __slots__ = (
        "ack_phase", "bw_hi", "bw_latest", "bw_lo", "bw_probe_samples", "bw_probe_up_acks", "bw_probe_up_cnt",
        "bw_probe_up_rounds", "full_bw_now", "inflight_hi", "inflight_latest", "inflight_lo", "init_cwnd",
        "loss_events_in_round", "loss_in_round", "loss_round_delivered", "loss_round_start", "prev_probe_too_high",
        "probe_rtt_min_stamp", "probe_rtt_min_us", "probe_wait", "rounds_since_probe", "sample_bw",
        "stopped_risky_probe", "undo_bw_lo", "undo_inflight_hi", "undo_inflight_lo",
    )  # fmt: skip

    high_gain = STARTUP_PACING_GAIN

    def __init__(self) -> None:
        super().__init__()
        self.init_cwnd: int = 10
        self.probe_rtt_min_us: int = 0
        self.probe_rtt_min_stamp: int = 0
        self.sample_bw: int = 0
        self.bw_hi: list[int] = [0, 0]
        self.bw_latest: int = 0
        self.bw_lo: int = NO_BOUND
        self.inflight_latest: int = 0
        self.inflight_lo: int = NO_BOUND
        self.inflight_hi: int = NO_BOUND
        self.undo_bw_lo: int = 0
        self.undo_inflight_lo: int = 0
        self.undo_inflight_hi: int = 0
        self.full_bw_now: bool = False
        self.loss_in_round: bool = False
        self.loss_round_start: bool = False
        self.loss_round_delivered: int = 0
        self.loss_events_in_round: int = 0
        self.ack_phase: int = ACKS_INIT
        self.bw_probe_samples: bool = False
        self.bw_probe_up_rounds: int = 0
        self.bw_probe_up_cnt: int = NO_BOUND
        self.bw_probe_up_acks: int = 0
        self.prev_probe_too_high: bool = False
        self.stopped_risky_probe: bool = False
        self.rounds_since_probe: int = 0
        self.probe_wait: int = 0

    # -- the figures

    def _max_bw(self) -> int:
        return max(self.bw_hi)

    def _bw(self) -> int:
        return min(max(self.bw_hi), self.bw_lo)

    def _initial_cwnd(self) -> int:
        return self.init_cwnd

    def _tso_segs_goal(self, sk: TcpSock) -> int:
        """As TCP itself sizes super-segments: by the rate, and more on short paths."""
        size = sk.pacing_rate >> 10
        shift = self.min_rtt_us >> 9
        if shift < 32:
            size += 65536 >> shift
        return max(min(size, GSO_LEGACY_PAYLOAD) // sk.mss_cache, sk.tcp.tcp_min_tso_segs)

    def _quantize(self, sk: TcpSock, cwnd: int) -> int:
        cwnd = max(cwnd, 3 * self._tso_segs_goal(sk), CWND_MIN_TARGET)
        if self.mode == BBR_PROBE_BW and self.cycle_idx == PROBE_UP:
            cwnd += 2
        return cwnd

    def _inflight(self, sk: TcpSock, bw: int) -> int:
        return self._quantize(sk, self._bdp(sk, bw, BBR_UNIT))

    def _target_inflight(self, sk: TcpSock) -> int:
        return min(self._inflight(sk, self._bw()), sk.snd_cwnd)

    def _probe_rtt_cwnd(self, sk: TcpSock) -> int:
        return max(CWND_MIN_TARGET, self._bdp(sk, self._bw(), PROBE_RTT_CWND_GAIN))

    def _inflight_with_headroom(self) -> int:
        """Leave room for others to find, so that shares converge."""
        if self.inflight_hi == NO_BOUND:
            return NO_BOUND
        headroom = max(self.inflight_hi * INFLIGHT_HEADROOM >> BBR_SCALE, 1)
        return max(self.inflight_hi - headroom, CWND_MIN_TARGET)

    # -- what acknowledgements and losses tell

    def _update_congestion_signals(self, sk: TcpSock, sample: RateSample) -> None:
        """The rate and volume delivered in this round, and whether it lost anything."""
        bw = self.sample_bw
        self.bw_latest = max(self.bw_latest, bw)
        self.inflight_latest = max(self.inflight_latest, sample.delivered)
        if sample.prior_delivered >= self.loss_round_delivered:
            self.loss_round_delivered = sk.delivered
            self.loss_round_start = True
        if not sample.is_app_limited or bw >= self._max_bw():
            self.bw_hi[1] = max(bw, self.bw_hi[1])
        if sample.losses > 0:
            self.loss_in_round = True
        if self.loss_round_start:
            if self.loss_in_round and not self._probing():
                self._cut_lower_bounds(sk)
            self.loss_in_round = False

    def _probing(self) -> bool:
        return self.mode == BBR_STARTUP or (
            self.mode == BBR_PROBE_BW and self.cycle_idx in (PROBE_REFILL, PROBE_UP)
        )

    def _cut_lower_bounds(self, sk: TcpSock) -> None:
        if self.bw_lo == NO_BOUND:
            self.bw_lo = self._max_bw()
        if self.inflight_lo == NO_BOUND:
            self.inflight_lo = sk.snd_cwnd
        self.bw_lo = max(self.bw_latest, self.bw_lo * (BBR_UNIT - BETA) >> BBR_SCALE, 1)
        self.inflight_lo = max(self.inflight_latest, self.inflight_lo * (BBR_UNIT - BETA) >> BBR_SCALE)

    def _reset_congestion_signals(self) -> None:
        self.loss_in_round = False
        self.bw_latest = self.inflight_latest = 0

    def _note_loss(self, sk: TcpSock) -> None:
        if not self.loss_in_round:
            self.loss_round_delivered = sk.delivered
        self.loss_in_round = True

    def _reset_full_bw(self, bw: int = 0) -> None:
        self.full_bw = bw
        self.full_bw_cnt = 0
        self.full_bw_now = False
