"""Reno: slow start and congestion avoidance as RFC 5681 has them (Linux: tcp_cong.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.transport.tcp.congestion.base import CongestionControl, cong_avoid_ai, register, slow_start

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


@register
@final
class Reno(CongestionControl):
    """Halve the window on loss, grow by one packet a round trip."""

    name = "reno"

    def ssthresh(self, sk: TcpSock) -> int:
        return max(sk.snd_cwnd >> 1, 2)

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        if not sk.cwnd_limited():
            return
        if sk.snd_cwnd < sk.snd_ssthresh:
            acked = slow_start(sk, acked)
            if not acked:
                return
        cong_avoid_ai(sk, sk.snd_cwnd, acked)
