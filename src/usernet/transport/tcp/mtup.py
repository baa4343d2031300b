"""Path MTU discovery by TCP itself (RFC 4821; Linux: struct icsk_mtup, tcp_mtu_probing).

A binary search for what the path takes, with the connection's own data: now and then a segment larger than the MSS is
sent (mtu_probe.py). Arrives it, then the MSS grows; is it lost, and nothing else, then that size doesn't pass, and it
was no congestion. `tcp_mtu_probing` 2 searches from the start, from `tcp_base_mss` up; 1 begins where retransmissions
time out again and again, as they do where a router swallows what is too large and the ICMP error that would say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.wire.tcp import TCP_HLEN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


@final
class MtuProbe:
    """The search of one connection: between `search_low` and `search_high` (bytes of packet).

    probe_size: bytes of the packet of the probe that is under way, 0 for none; probe_seq_start, probe_seq_end: where it
    is. probe_timestamp: when the search began, or was last begun anew (ns).
    """

    __slots__ = (
        "enabled", "probe_seq_end", "probe_seq_start", "probe_size", "probe_timestamp", "search_high", "search_low",
    )  # fmt: skip

    def __init__(self) -> None:
        self.enabled: bool = False
        """Whether it searches."""
        self.search_high: int = 0
        self.search_low: int = 0
        self.probe_size: int = 0
        self.probe_seq_start: int = 0
        self.probe_seq_end: int = 0
        self.probe_timestamp: int = 0

    def failed(self, sk: TcpSock) -> None:
        """The probe was lost, and nothing else: that size doesn't pass (Linux: tcp_mtup_probe_failed)."""
        self.search_high = self.probe_size - 1
        self.probe_size = 0
        sk.net.mib.tcp_ext.TCPMTUPFail += 1

    def succeeded(self, sk: TcpSock) -> None:
        """The probe was acknowledged (Linux: tcp_mtup_probe_success)."""
        from usernet.transport.tcp.mss import mss_to_mtu, sync_mss

        sk.prior_ssthresh = sk.current_ssthresh()
        # The window is counted in packets, which are larger now.
        sk.snd_cwnd = max(1, sk.snd_cwnd * mss_to_mtu(sk, sk.mss_cache) // self.probe_size)
        sk.snd_cwnd_cnt = 0
        sk.snd_cwnd_stamp = sk.loop.now
        sk.snd_ssthresh = sk.current_ssthresh()
        self.search_low = self.probe_size
        self.probe_size = 0
        sync_mss(sk, sk.pmtu_cookie)
        sk.net.mib.tcp_ext.TCPMTUPSuccess += 1

    def halve(self, sk: TcpSock) -> None:
        """Not even the smallest size that should pass did: search from half of it (Linux: tcp_mtu_probing)."""
        from usernet.transport.tcp.mss import mss_to_mtu, mtu_to_mss

        tcp = sk.tcp
        mss = mtu_to_mss(sk, self.search_low) >> 1
        mss = max(min(tcp.tcp_base_mss, mss), tcp.tcp_mtu_probe_floor, tcp.tcp_min_snd_mss)
        self.search_low = mss_to_mtu(sk, mss)


NO_PROBING: Final = MtuProbe()
"""Of all connections that don't search. Never written to."""


def _search(sk: TcpSock, high: int) -> None:
    from usernet.transport.tcp.mss import mss_to_mtu

    mtup = sk.mtup = MtuProbe()
    mtup.enabled = True
    mtup.search_high = high
    mtup.search_low = mss_to_mtu(sk, sk.tcp.tcp_base_mss)
    mtup.probe_timestamp = sk.loop.now


def mtup_init(sk: TcpSock) -> None:
    """The connection starts (Linux: tcp_mtup_init)."""
    if sk.tcp.tcp_mtu_probing > 1:
        _search(sk, sk.mss_clamp + TCP_HLEN + sk.af.header_len)
    else:
        sk.mtup = NO_PROBING


def mtu_probing(sk: TcpSock) -> None:
    """Retransmissions of full segments fail: perhaps the path swallows them (Linux: tcp_mtu_probing).

    The first time the search begins, which takes the MSS down to `tcp_base_mss`; then it is halved again and
    again, down to `tcp_mtu_probe_floor`.
    """
    from usernet.transport.tcp.mss import sync_mss

    if not sk.tcp.tcp_mtu_probing:
        return
    if sk.mtup.enabled:
        sk.mtup.halve(sk)
    else:
        _search(sk, min(sk.mss_clamp + TCP_HLEN + sk.af.header_len, sk.pmtu_cookie))
    sync_mss(sk, sk.pmtu_cookie)
