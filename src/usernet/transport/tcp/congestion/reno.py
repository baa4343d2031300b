"""Reno: slow start and congestion avoidance as RFC 5681 has them (Linux: tcp_cong.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.transport.tcp.congestion.base import CongestionControl, register, reno_cong_avoid

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


@final
class Reno(CongestionControl):
    """Halve the window on loss, grow by one packet a round trip."""

    __slots__ = ()

    name = "reno"

    def ssthresh(self, sk: TcpSock) -> int:
        return max(sk.snd_cwnd >> 1, 2)

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        reno_cong_avoid(sk, acked)


register(Reno)
