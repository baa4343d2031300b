"""BBR, version 3: the model of version 1, bounded by what losses show (draft-ietf-ccwg-bbr; google/bbr v3).

Version 1 lets others starve where the buffer is shallow, for it does not care what it makes the network lose. Version 3
knows two bounds beside the bottleneck's rate (`max_bw`, of the last one or two probing cycles) and `min_rtt`:

    inflight_hi   long-term: the most packets in flight that the path took without losing more than 2 % of them. Raised
                  when a probe finds room, cut by 30 %, or to where the losses began, when one goes too far.
    bw_lo, inflight_lo   short-term: cut by 30 % for each round with a loss that was no probe's, but not below what was
                  delivered in that round; forgotten before the next probe.

PROBE_BW then is a cycle of four phases:

    DOWN    gain 0.9: drains what the probe queued, until less is in flight than the model has, with 15 % headroom.
    CRUISE  gain 1: most of the time; the short-term bounds hold.
    REFILL  gain 1 for a round, without them: fills the pipe, so that what UP finds is the path's own limit.
    UP      gain 1.25: more in flight each round, twice as fast each, until losses, or the rate grows no more.

A probe comes after two to three seconds, or after as many rounds as Reno would take to need what there is in flight, at
most 63. PROBE_RTT comes after five seconds without a new minimum, and halves what is in flight. The draft leaves ECN to
networks that mark early and say so; so it is no signal here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.congestion.base import CA_EVENT_TLP_RECOVERY, CA_EVENT_TX_START, register
from usernet.transport.tcp.congestion.bbr3_model import (
    ACKS_INIT,
    ACKS_PROBE_FEEDBACK,
    ACKS_PROBE_STARTING,
    ACKS_PROBE_STOPPING,
    ACKS_REFILLING,
    BETA,
    BW_PROBE_BASE,
    BW_PROBE_MAX_ROUNDS,
    BW_PROBE_RAND_MS,
    BW_PROBE_RAND_ROUNDS,
    CWND_GAIN,
    DRAIN_PACING_GAIN,
    FULL_LOSS_CNT,
    NO_BOUND,
    PACING_GAIN,
    PROBE_CRUISE,
    PROBE_DOWN,
    PROBE_REFILL,
    PROBE_RTT_WIN,
    PROBE_UP,
    PROBE_UP_CWND_GAIN,
    STARTUP_PACING_GAIN,
    Bbr3Model,
    inflight_at_loss,
    too_high,
)
from usernet.transport.tcp.congestion.bbr_model import (
    BBR_DRAIN,
    BBR_PROBE_BW,
    BBR_PROBE_RTT,
    BBR_SCALE,
    BBR_STARTUP,
    BBR_UNIT,
    BW_UNIT,
    CWND_MIN_TARGET,
    EXTRA_ACKED_WIN_RTTS,
    FULL_BW_CNT,
    FULL_BW_THRESH,
    MIN_RTT_WIN,
    in_flight,
)
from usernet.transport.tcp.const import MSEC, TCP_CA_LOSS, TCP_CA_RECOVERY, TCP_INFINITE_SSTHRESH
from usernet.transport.tcp.rate import RateSample

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


@final
class Bbr3(Bbr3Model):
    """BBRv3's modes, by which it probes the path (bbr3_model.py) and keeps to it."""

    __slots__ = ()

    name = "bbr3"

    def init(self, sk: TcpSock) -> None:
        now = sk.loop.now
        self.init_cwnd = min(0x7F, sk.snd_cwnd)
        sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
        self.next_rtt_delivered = sk.delivered
        self.loss_round_delivered = sk.delivered + 1
        self.min_rtt_us = self.probe_rtt_min_us = sk.min_rtt_us()
        self.min_rtt_stamp = self.probe_rtt_min_stamp = self.ack_epoch_mstamp = now
        self.cwnd_gain = CWND_GAIN
        self._init_pacing_rate(sk)

    # -- every acknowledgement

    def cong_control(self, sk: TcpSock, ack: int, flag: int, sample: RateSample) -> None:
        self.round_start = False
        if sample.interval > 0 and sample.prior_delivered >= self.next_rtt_delivered:
            self.next_rtt_delivered = sk.delivered
            self.round_start = True
            self.rounds_since_probe = min(self.rounds_since_probe + 1, 0xFF)
        self.sample_bw = -(-sample.delivered * BW_UNIT * 1000 // sample.interval) if sample.interval > 0 else 0
        valid = sample.interval > 0 and sample.acked_sacked > 0
        self.loss_round_start = False
        if valid:
            self._update_congestion_signals(sk, sample)
        self._update_ack_aggregation(sk, sample, EXTRA_ACKED_WIN_RTTS if self.full_bw_reached else 1)
        self._check_startup_loss(sk, sample)
        self._check_full_bw(sample)
        self._check_drain(sk)
        if self.full_bw_reached:
            self._update_cycle(sk, sample)
        self._update_min_rtt(sk, sample)
        self._update_gains()
        bw = self._bw()
        self._set_pacing_rate(sk, bw, self.pacing_gain)
        self._set_cwnd(sk, sample.acked_sacked, bw)
        if self.loss_round_start:
            self.bw_latest = self.sample_bw
            self.inflight_latest = sample.delivered
        self.prev_ca_state = sk.ca_state

    def _set_cwnd(self, sk: TcpSock, acked: int, bw: int) -> None:
        cwnd = sk.snd_cwnd
        if acked:
            target = self._quantize(sk, self._bdp(sk, bw, self.cwnd_gain) + self._ack_aggregation_cwnd())
            if self.full_bw_reached:
                cwnd = min(cwnd + acked, target)
            elif cwnd < target or cwnd < 2 * self.init_cwnd:
                cwnd += acked
            cwnd = max(cwnd, CWND_MIN_TARGET)
        cwnd = min(cwnd, sk.snd_cwnd_clamp)
        if self.mode == BBR_PROBE_RTT:
            cwnd = min(cwnd, self._probe_rtt_cwnd(sk))
        # The bounds of the phase.
        bound = NO_BOUND
        if self.mode == BBR_PROBE_BW and self.cycle_idx != PROBE_CRUISE:
            bound = self.inflight_hi
        elif self.mode in (BBR_PROBE_RTT, BBR_PROBE_BW):
            bound = self._inflight_with_headroom()
        sk.snd_cwnd = min(cwnd, max(min(bound, self.inflight_lo), CWND_MIN_TARGET))

    def _update_gains(self) -> None:
        mode = self.mode
        self.cwnd_gain = CWND_GAIN
        if mode == BBR_STARTUP:
            self.pacing_gain = STARTUP_PACING_GAIN
        elif mode == BBR_DRAIN:
            self.pacing_gain = DRAIN_PACING_GAIN
        elif mode == BBR_PROBE_BW:
            self.pacing_gain = PACING_GAIN[self.cycle_idx]
            if self.cycle_idx == PROBE_UP:
                self.cwnd_gain = PROBE_UP_CWND_GAIN
        else:
            self.pacing_gain = self.cwnd_gain = BBR_UNIT

    # -- STARTUP and DRAIN

    def _check_full_bw(self, sample: RateSample) -> None:
        """Three rounds in which the rate grew by less than a quarter: the pipe is full."""
        if self.full_bw_now or sample.is_app_limited:
            return
        if self.sample_bw >= self.full_bw * FULL_BW_THRESH >> BBR_SCALE:
            self._reset_full_bw(self.sample_bw)
            return
        if self.round_start:
            self.full_bw_cnt += 1
            if self.full_bw_cnt >= FULL_BW_CNT:
                self.full_bw_now = self.full_bw_reached = True

    def _check_startup_loss(self, sk: TcpSock, sample: RateSample) -> None:
        """A round of recovery with six losses and more than 2 % lost: the queue is full."""
        if self.full_bw_reached:
            return
        if sample.losses:
            self.loss_events_in_round += 1
        if self.loss_round_start:
            if (
                sk.ca_state == TCP_CA_RECOVERY
                and self.loss_events_in_round >= FULL_LOSS_CNT
                and too_high(sample)
            ):
                self.full_bw_reached = True
                self.inflight_hi = max(self._inflight(sk, self._max_bw()), self.inflight_latest)
                return
            self.loss_events_in_round = 0

    def _check_drain(self, sk: TcpSock) -> None:
        if self.mode == BBR_STARTUP and self.full_bw_reached:
            self.mode = BBR_DRAIN
            sk.snd_ssthresh = self._inflight(sk, self._max_bw())
            self._reset_congestion_signals()
        if self.mode == BBR_DRAIN:
            if self._packets_in_net_at_edt(sk, in_flight(sk)) <= self._inflight(sk, self._max_bw()):
                self.mode = BBR_PROBE_BW
                self._start_down(sk)

    # -- PROBE_BW

    def _start_down(self, sk: TcpSock) -> None:
        self._reset_congestion_signals()
        self.bw_probe_up_cnt = NO_BOUND
        chance = sk.net.random.randrange
        self.rounds_since_probe = chance(BW_PROBE_RAND_ROUNDS)
        self.probe_wait = BW_PROBE_BASE + chance(BW_PROBE_RAND_MS) * MSEC
        self.cycle_mstamp = sk.loop.now
        self.ack_phase = ACKS_PROBE_STOPPING
        self.next_rtt_delivered = sk.delivered
        self.cycle_idx = PROBE_DOWN

    def _start_cruise(self) -> None:
        if self.inflight_lo != NO_BOUND:
            self.inflight_lo = min(self.inflight_lo, self.inflight_hi)
        self.cycle_idx = PROBE_CRUISE

    def _start_refill(self, sk: TcpSock) -> None:
        self.bw_lo = self.inflight_lo = NO_BOUND
        self.bw_probe_up_rounds = self.bw_probe_up_acks = 0
        self.stopped_risky_probe = False
        self.ack_phase = ACKS_REFILLING
        self.next_rtt_delivered = sk.delivered
        self.cycle_idx = PROBE_REFILL

    def _start_up(self, sk: TcpSock) -> None:
        self.ack_phase = ACKS_PROBE_STARTING
        self.next_rtt_delivered = sk.delivered
        self.cycle_mstamp = sk.loop.now
        self._reset_full_bw(self.sample_bw)
        self.cycle_idx = PROBE_UP
        self._raise_slope(sk)

    def _raise_slope(self, sk: TcpSock) -> None:
        """Each round of UP, `inflight_hi` grows twice as fast: by 1, 2, 4, … packets a window."""
        self.bw_probe_up_cnt = max(sk.snd_cwnd >> self.bw_probe_up_rounds, 1)
        self.bw_probe_up_rounds = min(self.bw_probe_up_rounds + 1, 30)

    def _update_cycle(self, sk: TcpSock, sample: RateSample) -> None:
        if self._adapt_upper_bounds(sk, sample) or self.mode != BBR_PROBE_BW:
            return
        phase = self.cycle_idx
        packets = self._packets_in_net_at_edt(sk, sample.prior_in_flight)
        if phase == PROBE_REFILL:
            if self.round_start:
                self.bw_probe_samples = True
                self._start_up(sk)
        elif phase == PROBE_UP:
            self._check_up_done(sk, packets)
        elif self._time_to_probe(sk):
            self._start_refill(sk)
        elif phase == PROBE_DOWN:
            if packets <= self._inflight_with_headroom() and packets <= self._inflight(sk, self._max_bw()):
                self._start_cruise()

    def _check_up_done(self, sk: TcpSock, packets: int) -> None:
        if self.prev_probe_too_high and packets >= self.inflight_hi:
            # As much as the last probe found too much, nearly: look what comes back before more is risked.
            self.stopped_risky_probe = True
        elif sk.is_cwnd_limited and sk.snd_cwnd >= self.inflight_hi:
            # The bound is what limits the rate, so a rate that doesn't grow says nothing.
            self._reset_full_bw(self.sample_bw)
            return
        elif not self.full_bw_now:
            return
        self.prev_probe_too_high = False
        self._start_down(sk)

    def _time_to_probe(self, sk: TcpSock) -> bool:
        if sk.loop.now - self.cycle_mstamp > self.probe_wait:
            return True
        return self.rounds_since_probe >= min(BW_PROBE_MAX_ROUNDS, self._target_inflight(sk))

    def _adapt_upper_bounds(self, sk: TcpSock, sample: RateSample) -> bool:
        """Learn from a probe how much the path takes. True where the next phase has begun by that."""
        if self.round_start:
            if self.ack_phase == ACKS_PROBE_STARTING:
                self.ack_phase = ACKS_PROBE_FEEDBACK
            elif self.ack_phase == ACKS_PROBE_STOPPING:
                self.bw_probe_samples = False
                self.ack_phase = ACKS_INIT
                if self.mode == BBR_PROBE_BW:
                    # The samples now are the best of this cycle: those of the cycle before the last go.
                    if not sample.is_app_limited and self.bw_hi[1]:
                        self.bw_hi = [self.bw_hi[1], 0]
                    if self.stopped_risky_probe and not self.prev_probe_too_high:
                        self._start_refill(sk)
                        return True
        if too_high(sample):
            if self.bw_probe_samples:
                self._inflight_too_high(sk, sample)
        elif self.inflight_hi != NO_BOUND:
            self.inflight_hi = max(self.inflight_hi, sample.tx_in_flight)
            if self.mode == BBR_PROBE_BW and self.cycle_idx == PROBE_UP:
                self._probe_upward(sk, sample)
        return False

    def _probe_upward(self, sk: TcpSock, sample: RateSample) -> None:
        if not sk.is_cwnd_limited or sk.snd_cwnd < self.inflight_hi:
            return
        self.bw_probe_up_acks += sample.acked_sacked
        delta = self.bw_probe_up_acks // self.bw_probe_up_cnt
        self.bw_probe_up_acks -= delta * self.bw_probe_up_cnt
        self.inflight_hi += delta
        if self.round_start:
            self._raise_slope(sk)

    def _inflight_too_high(self, sk: TcpSock, sample: RateSample) -> None:
        """A probe lost more than 2 %: once for each probe, take the bound back."""
        self.prev_probe_too_high = True
        self.bw_probe_samples = False
        if not sample.is_app_limited:
            cut = self._target_inflight(sk) * (BBR_UNIT - BETA) >> BBR_SCALE
            self.inflight_hi = max(sample.tx_in_flight, cut)
        if self.mode == BBR_PROBE_BW and self.cycle_idx == PROBE_UP:
            self._start_down(sk)

    # -- PROBE_RTT

    def _update_min_rtt(self, sk: TcpSock, sample: RateSample) -> None:
        now = sk.loop.now
        expired = now > self.probe_rtt_min_stamp + PROBE_RTT_WIN
        rtt_us = sample.rtt_us
        if rtt_us >= 0 and (rtt_us < self.probe_rtt_min_us or (expired and not sample.is_ack_delayed)):
            self.probe_rtt_min_us = rtt_us
            self.probe_rtt_min_stamp = now
        if self.probe_rtt_min_us <= self.min_rtt_us or now > self.min_rtt_stamp + MIN_RTT_WIN:
            self.min_rtt_us = self.probe_rtt_min_us
            self.min_rtt_stamp = self.probe_rtt_min_stamp
        if expired and not self.idle_restart and self.mode != BBR_PROBE_RTT:
            self.mode = BBR_PROBE_RTT
            self._save_cwnd(sk)
            self.probe_rtt_done_stamp = 0
            self.ack_phase = ACKS_PROBE_STOPPING
            self.next_rtt_delivered = sk.delivered
        if self.mode == BBR_PROBE_RTT:
            self._probe_rtt(sk, self._probe_rtt_cwnd(sk))
        if sample.delivered > 0:
            self.idle_restart = False

    def _probe_rtt_done(self, sk: TcpSock) -> None:
        self.probe_rtt_min_stamp = sk.loop.now
        self.bw_lo = self.inflight_lo = NO_BOUND
        if self.full_bw_reached:
            self.mode = BBR_PROBE_BW
            # What is in flight is below the model, so there is nothing to drain; the next probe takes its time.
            self._start_down(sk)
            self._start_cruise()
        else:
            self.mode = BBR_STARTUP

    # -- losses

    def skb_marked_lost(self, sk: TcpSock, skb: SKBuff) -> None:
        """Find how much was in flight where the losses of a probe became too many, to the packet."""
        self._note_loss(sk)
        tx = skb.tx
        if not self.bw_probe_samples or not tx.delivered_mstamp:
            return
        sample = RateSample()
        sample.tx_in_flight = tx.in_flight
        sample.lost = sk.lost - tx.lost
        sample.is_app_limited = tx.app_limited
        if too_high(sample):
            sample.tx_in_flight = inflight_at_loss(sample, skb.gso_segs)
            self._inflight_too_high(sk, sample)

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        if event == CA_EVENT_TX_START and sk.app_limited:
            self._restart_from_idle(sk)
        elif event == CA_EVENT_TLP_RECOVERY:
            # The loss of one packet, which only the probe showed.
            self._note_loss(sk)
            if self.bw_probe_samples:
                sample = RateSample()
                sample.lost = 1
                sample.tx_in_flight = self.inflight_latest + 1
                sample.is_app_limited = bool(sk.app_limited)
                if too_high(sample):
                    self._inflight_too_high(sk, sample)

    def ssthresh(self, sk: TcpSock) -> int:
        self._save_cwnd(sk)
        self.undo_bw_lo = self.bw_lo
        self.undo_inflight_lo = self.inflight_lo
        self.undo_inflight_hi = self.inflight_hi
        return sk.snd_ssthresh

    def undo_cwnd(self, sk: TcpSock) -> int:
        self._reset_full_bw()
        self.loss_in_round = False
        self.bw_lo = max(self.bw_lo, self.undo_bw_lo)
        self.inflight_lo = max(self.inflight_lo, self.undo_inflight_lo)
        self.inflight_hi = max(self.inflight_hi, self.undo_inflight_hi)
        return self.prior_cwnd

    def set_state(self, sk: TcpSock, state: int) -> None:
        if state == TCP_CA_LOSS:
            self.prev_ca_state = TCP_CA_LOSS
            self._reset_full_bw()
            if not self._probing() and self.inflight_lo == NO_BOUND:
                # The window is one packet now; the bound must come from what it was.
                self.inflight_lo = self.prior_cwnd
        elif self.prev_ca_state == TCP_CA_LOSS:
            sk.snd_cwnd = max(sk.snd_cwnd, self.prior_cwnd)
            self.prev_ca_state = state


register(Bbr3)
