"""Path MTU discovery by TCP itself (RFC 4821; Linux: tcp_mtu_probing, struct icsk_mtup)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


@final
class MtuProbe:
    """The search of one connection: between `search_low` and `search_high` (bytes of packet).

    probe_size: payload bytes of the probe that is under way, 0 for none; probe_seq_start, probe_seq_end: where it is.
    """

    __slots__ = ("enabled", "probe_seq_end", "probe_seq_start", "probe_size", "search_high", "search_low")

    def __init__(self) -> None:
        self.enabled: bool = False
        self.search_high: int = 65535
        self.search_low: int = 0
        self.probe_size: int = 0
        self.probe_seq_start: int = 0
        self.probe_seq_end: int = 0

    def init(self, sk: TcpSock) -> None:
        """The connection starts (Linux: tcp_mtup_init)."""
        from usernet.transport.tcp.mss import mss_to_mtu

        tcp = sk.tcp
        self.enabled = tcp.tcp_mtu_probing > 1
        self.search_high = mss_to_mtu(sk, sk.mss_clamp)
        self.search_low = mss_to_mtu(sk, tcp.tcp_base_mss)
        self.probe_size = 0

    def failed(self, sk: TcpSock) -> None:
        """The probe was lost, and nothing else: that size doesn't pass (Linux: tcp_mtup_probe_failed)."""
        self.search_high = self.probe_size - 1
        self.probe_size = 0
        sk.net.mib.tcp_ext.TCPMTUPFail += 1

    def succeeded(self, sk: TcpSock) -> None:
        """The probe was acknowledged (Linux: tcp_mtup_probe_success)."""
        from usernet.transport.tcp.mss import mss_to_mtu, mtu_to_mss, sync_mss

        # The window is counted in packets, which are larger now.
        cwnd = sk.snd_cwnd * mtu_to_mss(sk, mss_to_mtu(sk, sk.mss_cache)) // max(self.probe_size, 1)
        sk.snd_cwnd = max(1, cwnd)
        sk.snd_cwnd_cnt = 0
        sk.snd_cwnd_stamp = sk.loop.now
        self.search_low = self.probe_size
        self.probe_size = 0
        sync_mss(sk, sk.pmtu_cookie)
        sk.net.mib.tcp_ext.TCPMTUPSuccess += 1

    def black_hole(self, sk: TcpSock) -> None:
        """Retransmissions of full segments fail: perhaps the path swallows them (Linux: tcp_mtu_probing)."""
        from usernet.transport.tcp.mss import mss_to_mtu, mtu_to_mss, sync_mss

        tcp = sk.tcp
        if not tcp.tcp_mtu_probing:
            return
        if not self.enabled:
            self.enabled = True
        else:
            mss = mtu_to_mss(sk, self.search_low) >> 1
            mss = max(min(tcp.tcp_base_mss, mss), tcp.tcp_mtu_probe_floor, tcp.tcp_min_snd_mss)
            self.search_low = mss_to_mtu(sk, mss)
        sync_mss(sk, sk.pmtu_cookie)
