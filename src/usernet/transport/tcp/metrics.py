"""What connections learned of a destination, for those that come after (Linux: tcp_metrics.c, `ip tcp_metrics`).

A connection that ends well leaves its round trip, how far the path may be filled (`ssthresh`, `cwnd`) and how much it
reorders; one that begins starts from these. The server's Fast Open cookie is here too (RFC 7413 section 4.1.3). A
route's own metrics are what an entry starts with, and one that is locked there is never changed. Looked up when a
connection begins and ends, never per segment.

RFC 9040 (sharing between connections), RFC 5681 section 3.1 (where slow start ends).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.dst import RTAX_CWND, RTAX_REORDERING, RTAX_RTT, RTAX_RTTVAR, RTAX_SSTHRESH, Dst
from usernet.transport.tcp.const import (
    SEC,
    TCP_CA_OPEN,
    TCP_INFINITE_SSTHRESH,
    TCP_TIMEOUT_FALLBACK,
)

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

MAX_ENTRIES: Final = 4096
"""Destinations remembered; the one that was changed longest ago makes room (Linux: in each of its hash buckets)."""

TCP_METRICS_TIMEOUT: Final = 3600 * SEC
"""What was learned is believed for an hour; afterwards the route's metrics count again. The cookie is kept."""


@final
class TcpMetric:
    """One destination, from one of our addresses.

    stamp: when it was last changed (ns). rtt: of a round trip, eightfold, in µs; rttvar: its deviation, fourfold;
    ssthresh, cwnd, reordering: packets; 0 where nothing is known. locked: bits 1 << RTAX_* of what only the route says.
    mss: what the server's SYN+ACK announced; cookie: the server's, empty for none; syn_loss: SYNs with data lost in a
    row, the last at `last_syn_loss` (ns); try_exp: 1 where a SYN asked in vain and the next one tries the experimental
    option, 2 where that was in vain too.
    """

    __slots__ = (
        "cookie", "cookie_exp", "cwnd", "daddr", "last_syn_loss", "locked", "mss", "reordering", "rtt", "rttvar",
        "saddr", "ssthresh", "stamp", "syn_loss", "try_exp",
    )  # fmt: skip

    def __init__(self, saddr: bytes, daddr: bytes) -> None:
        self.saddr = saddr
        self.daddr = daddr
        self.stamp: int = 0
        self.locked: int = 0
        self.rtt: int = 0
        self.rttvar: int = 0
        self.ssthresh: int = 0
        self.cwnd: int = 0
        self.reordering: int = 0
        self.mss: int = 0
        self.syn_loss: int = 0
        self.last_syn_loss: int = 0
        self.try_exp: int = 0
        self.cookie: bytes = b""
        self.cookie_exp: bool = False

    def from_route(self, dst: Dst, now: int) -> None:
        """Start with what the route says (Linux: tcpm_suck_dst)."""
        self.stamp = now
        self.locked = 0
        for which in (RTAX_RTT, RTAX_RTTVAR, RTAX_SSTHRESH, RTAX_CWND, RTAX_REORDERING):
            if dst.metric_locked(which):
                self.locked |= 1 << which
        self.rtt = dst.metric(RTAX_RTT) * 8000
        self.rttvar = dst.metric(RTAX_RTTVAR) * 4000
        self.ssthresh = dst.metric(RTAX_SSTHRESH)
        self.cwnd = dst.metric(RTAX_CWND)
        self.reordering = dst.metric(RTAX_REORDERING)

    def free(self, which: int) -> bool:
        """Whether a connection may change it."""
        return not self.locked & 1 << which


@final
class TcpMetrics:
    """All destinations of one namespace, by our address and theirs, the one changed longest ago first."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: dict[tuple[bytes, bytes], TcpMetric] = {}

    def __len__(self) -> int:
        return len(self._table)

    def entries(self) -> list[TcpMetric]:
        """All of them, the one changed last at first (`ip tcp_metrics show`)."""
        return list(self._table.values())[::-1]

    def find(self, saddr: bytes, daddr: bytes, dst: Dst | None, now: int) -> TcpMetric | None:
        """What is known, None for nothing (Linux: tcp_get_metrics)."""
        entry = self._table.get((saddr, daddr))
        if entry is not None and dst is not None and now > entry.stamp + TCP_METRICS_TIMEOUT:
            entry.from_route(dst, now)
        return entry

    def make(self, saddr: bytes, daddr: bytes, dst: Dst, now: int) -> TcpMetric:
        """What is known, a new entry for nothing (Linux: tcpm_new). It counts as changed now."""
        table = self._table
        key = (saddr, daddr)
        entry = self.find(saddr, daddr, dst, now)
        if entry is None:
            if len(table) >= MAX_ENTRIES:
                del table[next(iter(table))]
            entry = TcpMetric(saddr, daddr)
            entry.from_route(dst, now)
        else:
            del table[key]
        table[key] = entry
        return entry

    def delete(self, daddr: bytes, saddr: bytes = b"") -> bool:
        """Forget a destination, from one of our addresses or from all; whether there was one."""
        found = [key for key in self._table if key[1] == daddr and saddr in (b"", key[0])]
        for key in found:
            del self._table[key]
        return bool(found)

    def flush(self) -> None:
        """Forget all."""
        self._table.clear()

    def peer_is_proven(self, saddr: bytes, daddr: bytes, dst: Dst, now: int) -> bool:
        """Whether a connection with that peer once went well (Linux: tcp_peer_is_proven)."""
        entry = self.find(saddr, daddr, dst, now)
        return entry is not None and entry.rtt != 0


def update_metrics(sk: TcpSock) -> None:
    """The connection ends well: keep what it learned of the path (Linux: tcp_update_metrics)."""
    dst = sk.dst
    if dst is None:
        return
    dst.confirm()
    tcp = sk.tcp
    if tcp.tcp_no_metrics_save:
        return
    now = sk.loop.now
    srtt = sk.srtt_us
    if sk.backoff or not srtt:
        # It has no good measure of the round trip: perhaps nothing came back in time, so what is known may be wrong.
        known = tcp.metrics.find(sk.saddr, sk.daddr, dst, now)
        if known is not None and known.free(RTAX_RTT):
            known.rtt = 0
        return
    entry = tcp.metrics.make(sk.saddr, sk.daddr, dst, now)
    below = entry.rtt - srtt
    if entry.free(RTAX_RTT):
        # Rather too large than too small: a larger one counts at once, a smaller one by an eighth.
        entry.rtt = srtt if below <= 0 else entry.rtt - (below >> 3)
    if entry.free(RTAX_RTTVAR):
        deviation = max(abs(below) >> 1, sk.mdev_us)
        if deviation >= entry.rttvar:
            entry.rttvar = deviation
        else:
            entry.rttvar -= (entry.rttvar - deviation) >> 2
    _update_window(sk, entry, not tcp.tcp_no_ssthresh_metrics_save and entry.free(RTAX_SSTHRESH))
    entry.stamp = now


def _update_window(sk: TcpSock, entry: TcpMetric, keep_ssthresh: bool) -> None:
    cwnd = sk.snd_cwnd
    ssthresh = sk.snd_ssthresh
    if ssthresh >= TCP_INFINITE_SSTHRESH:
        # Still in the first slow start: the path takes as much as that, at least.
        if keep_ssthresh and entry.ssthresh and cwnd >> 1 > entry.ssthresh:
            entry.ssthresh = cwnd >> 1
        if entry.free(RTAX_CWND) and cwnd > entry.cwnd:
            entry.cwnd = cwnd
    elif cwnd >= ssthresh and sk.ca_state == TCP_CA_OPEN:
        # Congestion avoidance: the window is what the path takes.
        if keep_ssthresh:
            entry.ssthresh = max(cwnd >> 1, ssthresh)
        if entry.free(RTAX_CWND):
            entry.cwnd = (entry.cwnd + cwnd) >> 1
    else:
        # On the way up again: the window says nothing, and the threshold may be out of date.
        if entry.free(RTAX_CWND):
            entry.cwnd = (entry.cwnd + ssthresh) >> 1
        if keep_ssthresh and entry.ssthresh and ssthresh > entry.ssthresh:
            entry.ssthresh = ssthresh
        if (
            entry.free(RTAX_REORDERING)
            and entry.reordering < sk.reordering
            and sk.reordering != sk.tcp.tcp_reordering
        ):
            entry.reordering = sk.reordering


def init_metrics(sk: TcpSock) -> None:
    """The connection begins: start with what is known of the path (Linux: tcp_init_metrics)."""
    dst = sk.dst
    # A lost SYN may have lowered it, which says little of data.
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    cached_rtt = 0
    if dst is not None:
        dst.confirm()
        entry = sk.tcp.metrics.find(sk.saddr, sk.daddr, dst, sk.loop.now)
        if entry is not None:
            if not entry.free(RTAX_CWND):
                sk.snd_cwnd_clamp = entry.cwnd
            if entry.ssthresh and not sk.tcp.tcp_no_ssthresh_metrics_save:
                sk.snd_ssthresh = min(entry.ssthresh, sk.snd_cwnd_clamp)
            if entry.reordering:
                sk.reordering = entry.reordering
            cached_rtt = entry.rtt
    if cached_rtt > sk.srtt_us:
        # A SYN is small, so its round trip may be shorter than that of data: the first RTO goes by what is known. The
        # estimator is left alone, and takes over with the first sample.
        rtt = (cached_rtt >> 3) * 1000
        sk.rto = rtt + max(2 * rtt, sk.rto_min_us() * 1000)
    elif sk.srtt_us == 0:
        # RFC 6298 section 5.7: the handshake gave no sample, for it had to send again.
        sk.rttvar_us = sk.mdev_us = sk.mdev_max_us = TCP_TIMEOUT_FALLBACK // 1000
        sk.rto = TCP_TIMEOUT_FALLBACK
