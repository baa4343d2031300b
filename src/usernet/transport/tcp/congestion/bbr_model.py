"""What the versions of BBR share: rates in fixed point, pacing by them, the bandwidth-delay product, PROBE_RTT,
and the degree to which acknowledgements come in bursts (Linux: tcp_bbr.c).

Rates are in packets/µs times 2**24, gains times 256.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from usernet.net.pacing import PACING_UNLIMITED
from usernet.transport.tcp.congestion.base import CongestionControl
from usernet.transport.tcp.const import MSEC, SEC, TCP_CA_OPEN, TCP_CA_RECOVERY

if TYPE_CHECKING:
    from usernet.transport.tcp.rate import RateSample
    from usernet.transport.tcp.sock import TcpSock

BW_SCALE: Final = 24
BW_UNIT: Final = 1 << BW_SCALE
BBR_SCALE: Final = 8
BBR_UNIT: Final = 1 << BBR_SCALE

BBR_STARTUP: Final = 0
BBR_DRAIN: Final = 1
BBR_PROBE_BW: Final = 2
BBR_PROBE_RTT: Final = 3

MIN_RTT_WIN: Final = 10 * SEC
PROBE_RTT_MODE: Final = 200 * MSEC
PACING_MARGIN_PERCENT: Final = 1
CWND_MIN_TARGET: Final = 4
FULL_BW_THRESH: Final = BBR_UNIT * 5 // 4
FULL_BW_CNT: Final = 3
DRAIN_GAIN: Final = BBR_UNIT * 1000 // 2885
EXTRA_ACKED_WIN_RTTS: Final = 5
ACK_EPOCH_ACKED_RESET: Final = 1 << 20
EXTRA_ACKED_MAX_US: Final = 100_000
GSO_LEGACY_PAYLOAD: Final = 65536 - 1 - 320
NO_RTT: Final = 0xFFFFFFFF

_BBR_INFO: Final = Struct("=IIIII")


def in_flight(sk: TcpSock) -> int:
    """Packets in the network as far as is known (Linux: tcp_packets_in_flight)."""
    return sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out


class BbrModel(CongestionControl):
    """The common part of a BBR connection's state. Times in ns, `min_rtt_us` in µs. A version defines `_bw`, the
    estimate of the bottleneck's rate, and `_probe_rtt_done`, what follows PROBE_RTT."""

    __slots__ = (
        "ack_epoch_acked", "ack_epoch_mstamp", "cwnd_gain", "cycle_idx", "cycle_mstamp", "extra_acked",
        "extra_acked_win_idx", "extra_acked_win_rtts", "full_bw", "full_bw_cnt", "full_bw_reached", "has_seen_rtt",
        "idle_restart", "min_rtt_stamp", "min_rtt_us", "mode", "next_rtt_delivered", "pacing_gain", "prev_ca_state",
        "prior_cwnd", "probe_rtt_done_stamp", "probe_rtt_round_done", "round_start",
    )  # fmt: skip

    needs_pacing = True
    high_gain: int = 0
    """The pacing gain of STARTUP."""

    def __init__(self) -> None:
        self.mode: int = BBR_STARTUP
        self.min_rtt_us: int = NO_RTT
        self.min_rtt_stamp: int = 0
        self.probe_rtt_done_stamp: int = 0
        self.probe_rtt_round_done: bool = False
        self.next_rtt_delivered: int = 0
        self.round_start: bool = False
        self.cycle_mstamp: int = 0
        self.cycle_idx: int = 0
        self.prev_ca_state: int = TCP_CA_OPEN
        self.idle_restart: bool = False
        self.pacing_gain: int = self.high_gain
        self.cwnd_gain: int = self.high_gain
        self.full_bw_reached: bool = False
        self.full_bw_cnt: int = 0
        self.full_bw: int = 0
        self.has_seen_rtt: bool = False
        self.prior_cwnd: int = 0
        self.ack_epoch_mstamp: int = 0
        self.ack_epoch_acked: int = 0
        self.extra_acked: list[int] = [0, 0]
        self.extra_acked_win_rtts: int = 0
        self.extra_acked_win_idx: int = 0

    def _bw(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define _bw()")

    # -- rates

    def _bytes_per_second(self, sk: TcpSock, bw: int, gain: int) -> int:
        """A rate as bytes per second, on average a little below what the bottleneck takes, so that no queue builds."""
        rate = bw * sk.mss_cache * gain >> BBR_SCALE
        return rate * (1_000_000 // 100 * (100 - PACING_MARGIN_PERCENT)) >> BW_SCALE

    def _pacing_rate(self, sk: TcpSock, bw: int, gain: int) -> int:
        return min(self._bytes_per_second(sk, bw, gain), sk.max_pacing_rate or PACING_UNLIMITED)

    def _init_pacing_rate(self, sk: TcpSock) -> None:
        """The initial window each round trip, and one of 1 ms until one was measured, times the high gain."""
        if sk.srtt_us:
            rtt_us = max(sk.srtt_us >> 3, 1)
            self.has_seen_rtt = True
        else:
            rtt_us = 1000
        sk.pacing_rate = self._pacing_rate(sk, sk.snd_cwnd * BW_UNIT // rtt_us, self.high_gain)

    def _set_pacing_rate(self, sk: TcpSock, bw: int, gain: int) -> None:
        if not self.has_seen_rtt and sk.srtt_us:
            self._init_pacing_rate(sk)
        rate = self._pacing_rate(sk, bw, gain)
        if self.full_bw_reached or rate > sk.pacing_rate:
            sk.pacing_rate = rate

    # -- volumes

    def _bdp(self, sk: TcpSock, bw: int, gain: int) -> int:
        """The bandwidth-delay product (packets) times `gain`, rounded up: rounding down would feed back. `sk` is for
        versions that need it where no round trip was measured."""
        if self.min_rtt_us == NO_RTT:
            return self._initial_cwnd()
        return ((bw * self.min_rtt_us * gain >> BBR_SCALE) + BW_UNIT - 1) // BW_UNIT

    def _initial_cwnd(self) -> int:
        return 10

    def _tso_segs_goal(self, sk: TcpSock) -> int:
        size = min(sk.pacing_rate >> 10, GSO_LEGACY_PAYLOAD)
        return min(max(size // sk.mss_cache, self.min_tso_segs(sk)), 0x7F)

    def _packets_in_net_at_edt(self, sk: TcpSock, packets: int) -> int:
        """How many of `packets` in flight will be in the network when the next one leaves, which pacing may have put
        off."""
        interval_us = max(sk.wstamp - sk.loop.now, 0) // 1000
        delivered = self._bw() * interval_us >> BW_SCALE
        if self.pacing_gain > BBR_UNIT:
            packets += self._tso_segs_goal(sk)
        return max(packets - delivered, 0)

    def _save_cwnd(self, sk: TcpSock) -> None:
        """Remember the window as it was when things went well, to restore it after a loss or PROBE_RTT."""
        if self.prev_ca_state < TCP_CA_RECOVERY and self.mode != BBR_PROBE_RTT:
            self.prior_cwnd = sk.snd_cwnd
        else:
            self.prior_cwnd = max(self.prior_cwnd, sk.snd_cwnd)

    # -- PROBE_RTT, and idleness

    def _probe_rtt(self, sk: TcpSock, cwnd: int) -> None:
        """An acknowledgement in PROBE_RTT, which lasts until no more than `cwnd` packets have been in flight for 200 ms
        and a round trip."""
        packets = in_flight(sk)
        # The low rates of this mode say nothing of the path.
        sk.app_limited = sk.delivered + packets or 1
        if self.probe_rtt_done_stamp:
            if self.round_start:
                self.probe_rtt_round_done = True
            if self.probe_rtt_round_done:
                self._check_probe_rtt_done(sk)
        elif packets <= cwnd:
            self.probe_rtt_done_stamp = sk.loop.now + PROBE_RTT_MODE
            self.probe_rtt_round_done = False
            self.next_rtt_delivered = sk.delivered

    def _check_probe_rtt_done(self, sk: TcpSock) -> None:
        """Where its time is over: take the window back, and go on."""
        now = sk.loop.now
        if self.probe_rtt_done_stamp and now > self.probe_rtt_done_stamp:
            sk.snd_cwnd = max(sk.snd_cwnd, self.prior_cwnd)
            self._probe_rtt_done(sk)

    def _probe_rtt_done(self, sk: TcpSock) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _probe_rtt_done()")

    def _restart_from_idle(self, sk: TcpSock) -> None:
        """Data after idleness. There is no queue to drain and no reason to hurry: the rate as it is known."""
        self.idle_restart = True
        self.ack_epoch_mstamp = sk.loop.now
        self.ack_epoch_acked = 0
        if self.mode == BBR_PROBE_BW:
            self._set_pacing_rate(sk, self._bw(), BBR_UNIT)
        elif self.mode == BBR_PROBE_RTT:
            self._check_probe_rtt_done(sk)

    # -- bursts of acknowledgements

    def _ack_aggregation_cwnd(self) -> int:
        return min(max(self.extra_acked), self._bw() * EXTRA_ACKED_MAX_US // BW_UNIT)

    def _update_ack_aggregation(self, sk: TcpSock, sample: RateSample, window_rtts: int) -> None:
        """By how much acknowledgements run ahead of `bw`, at most, in the last one to two times `window_rtts`."""
        if sample.acked_sacked <= 0 or sample.delivered < 0 or sample.interval <= 0:
            return
        if self.round_start:
            self.extra_acked_win_rtts = min(0x1F, self.extra_acked_win_rtts + 1)
            if self.extra_acked_win_rtts >= window_rtts:
                self.extra_acked_win_rtts = 0
                self.extra_acked_win_idx ^= 1
                self.extra_acked[self.extra_acked_win_idx] = 0
        epoch_us = (sk.delivered_mstamp - self.ack_epoch_mstamp) // 1000
        expected = self._bw() * epoch_us // BW_UNIT
        if self.ack_epoch_acked <= expected or self.ack_epoch_acked + sample.acked_sacked >= ACK_EPOCH_ACKED_RESET:
            self.ack_epoch_acked = expected = 0
            self.ack_epoch_mstamp = sk.delivered_mstamp
        self.ack_epoch_acked = min(0xFFFFF, self.ack_epoch_acked + sample.acked_sacked)
        extra = min(self.ack_epoch_acked - expected, sk.snd_cwnd)
        if extra > self.extra_acked[self.extra_acked_win_idx]:
            self.extra_acked[self.extra_acked_win_idx] = extra

    # -- what is shown

    def sndbuf_expand(self, sk: TcpSock) -> int:
        return 3

    def _shown_bw(self, sk: TcpSock) -> int:
        """Bytes per second."""
        return self._bw() * sk.mss_cache * 1_000_000 >> BW_SCALE

    def pack_info(self, sk: TcpSock) -> bytes:
        bw = self._shown_bw(sk)
        return _BBR_INFO.pack(
            bw & 0xFFFFFFFF, bw >> 32 & 0xFFFFFFFF, self.min_rtt_us, self.pacing_gain, self.cwnd_gain
        )

    def get_info(self, sk: TcpSock) -> dict[str, Any]:
        return {
            "bw": f"{self._shown_bw(sk) * 8}bps",
            "mrtt": f"{self.min_rtt_us / 1000:g}",
            "pacing_gain": f"{self.pacing_gain / BBR_UNIT:g}",
            "cwnd_gain": f"{self.cwnd_gain / BBR_UNIT:g}",
        }
