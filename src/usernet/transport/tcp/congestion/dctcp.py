"""DCTCP: the window follows the fraction of packets that the network marks (RFC 8257; Linux: tcp_dctcp.c).

For data centres, whose switches mark (ECN CE) what finds more than a small queue. The receiver reports every change
from marked to unmarked and back at once, so that the sender knows which acknowledgements stand for marked packets. Once
a round trip it takes the fraction F of them into a running mean, alpha = (1 - g) alpha + g F, and where any was marked
the window is cut by alpha / 2: by half where all are, hardly at all where few are. Growth, and the answer to a loss,
are Reno's. A peer that cannot do ECN gets Reno.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final, final

from usernet.transport.tcp.congestion.base import (
    CA_EVENT_ECN_IS_CE,
    CA_EVENT_ECN_NO_CE,
    CA_EVENT_LOSS,
    CongestionControl,
    assign,
    register,
    reno_cong_avoid,
)
from usernet.transport.tcp.const import ICSK_ACK_NOW, ICSK_ACK_TIMER, SEQ_MASK, TCP_CA_RECOVERY, before
from usernet.transport.tcp.ecn import TCP_ECN_DEMAND_CWR, TCP_ECN_MODE_ANY
from usernet.transport.tcp.transmit import send_ack_up_to

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

DCTCP_MAX_ALPHA: Final = 1024
"""An alpha of one."""

_DCTCP_INFO: Final = Struct("=HHIII")


@final
class Dctcp(CongestionControl):
    """DCTCP's state of one connection. alpha: in 1/1024."""

    __slots__ = ("alpha", "ce_state", "loss_cwnd", "next_seq", "old_delivered", "old_delivered_ce", "prior_rcv_nxt",
                 "shift_g")  # fmt: skip

    name = "dctcp"
    needs_ecn = True
    restricted = True

    def __init__(self) -> None:
        self.alpha: int = DCTCP_MAX_ALPHA
        self.ce_state: bool = False
        self.loss_cwnd: int = 0
        self.next_seq: int = 0
        self.old_delivered: int = 0
        self.old_delivered_ce: int = 0
        self.prior_rcv_nxt: int = 0
        self.shift_g: int = 4

    def init(self, sk: TcpSock) -> None:
        if not sk.ecn_flags & TCP_ECN_MODE_ANY:
            # The peer has no ECN: there will be no marks.
            assign(sk, DctcpReno())
            return
        tcp = sk.tcp
        self.shift_g = tcp.dctcp_shift_g
        self.alpha = min(tcp.dctcp_alpha_on_init, DCTCP_MAX_ALPHA)
        self.prior_rcv_nxt = sk.rcv_nxt
        self.loss_cwnd = 0
        self.ce_state = False
        self._reset(sk)

    def _reset(self, sk: TcpSock) -> None:
        self.next_seq = sk.snd_nxt
        self.old_delivered = sk.delivered
        self.old_delivered_ce = sk.delivered_ce

    # -- as a receiver

    def _data_received(self, sk: TcpSock, marked: bool) -> None:
        """Data arrived, marked or not (RFC 8257 section 3.2): an acknowledgement never covers both."""
        if marked != self.ce_state:
            if sk.ack_pending & ICSK_ACK_TIMER:
                self._echo(sk, self.ce_state)
                send_ack_up_to(sk, self.prior_rcv_nxt)
            sk.ack_pending |= ICSK_ACK_NOW
        self.prior_rcv_nxt = sk.rcv_nxt
        self.ce_state = marked
        self._echo(sk, marked)

    @staticmethod
    def _echo(sk: TcpSock, marked: bool) -> None:
        if marked:
            sk.ecn_flags |= TCP_ECN_DEMAND_CWR
        else:
            sk.ecn_flags &= ~TCP_ECN_DEMAND_CWR

    # -- as a sender

    def ssthresh(self, sk: TcpSock) -> int:
        """RFC 8257 section 3.3, step 9: cwnd (1 - alpha / 2)."""
        cwnd = sk.snd_cwnd
        self.loss_cwnd = cwnd
        return max(cwnd - (cwnd * self.alpha >> 11), 2)

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        reno_cong_avoid(sk, acked)

    def in_ack_event(self, sk: TcpSock, flag: int) -> None:
        """Once a round trip: the fraction that was marked (RFC 8257 section 3.3, steps 5 to 8)."""
        if before(sk.snd_una, self.next_seq):
            return
        delivered = sk.delivered - self.old_delivered
        marked = sk.delivered_ce - self.old_delivered_ce
        alpha = self.alpha
        # An alpha too small to shrink by a fraction shrinks to nothing.
        alpha -= alpha >> self.shift_g or alpha
        if marked:
            alpha = min(alpha + (marked << 10 - self.shift_g) // max(1, delivered), DCTCP_MAX_ALPHA)
        self.alpha = alpha
        self._reset(sk)

    def _react_to_loss(self, sk: TcpSock) -> None:
        """RFC 8257 section 3.4: as Reno."""
        self.loss_cwnd = sk.snd_cwnd
        sk.snd_ssthresh = max(sk.snd_cwnd >> 1, 2)

    def set_state(self, sk: TcpSock, state: int) -> None:
        if state == TCP_CA_RECOVERY and sk.ca_state != state:
            self._react_to_loss(sk)

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        if event in (CA_EVENT_ECN_IS_CE, CA_EVENT_ECN_NO_CE):
            self._data_received(sk, event == CA_EVENT_ECN_IS_CE)
        elif event == CA_EVENT_LOSS:
            self._react_to_loss(sk)

    def undo_cwnd(self, sk: TcpSock) -> int:
        return max(sk.snd_cwnd, self.loss_cwnd)

    def pack_info(self, sk: TcpSock) -> bytes:
        mss = sk.mss_cache
        marked, total = sk.delivered_ce - self.old_delivered_ce, sk.delivered - self.old_delivered
        return _DCTCP_INFO.pack(1, self.ce_state, self.alpha, marked * mss & SEQ_MASK, total * mss & SEQ_MASK)

    def get_info(self, sk: TcpSock) -> dict[str, Any]:
        _, ce_state, alpha, ab_ecn, ab_tot = _DCTCP_INFO.unpack(self.pack_info(sk))
        return {"ce_state": ce_state, "alpha": alpha, "ab_ecn": ab_ecn, "ab_tot": ab_tot}


register(Dctcp)


@final
class DctcpReno(CongestionControl):
    """What a DCTCP connection is where the peer has no ECN: Reno. Not to be chosen by name (Linux: dctcp_reno)."""

    __slots__ = ()

    name = "dctcp-reno"

    def ssthresh(self, sk: TcpSock) -> int:
        return max(sk.snd_cwnd >> 1, 2)

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        reno_cong_avoid(sk, acked)

    def pack_info(self, sk: TcpSock) -> bytes:
        return bytes(_DCTCP_INFO.size)

    def get_info(self, sk: TcpSock) -> dict[str, Any]:
        return {"fallback_mode": ""}
