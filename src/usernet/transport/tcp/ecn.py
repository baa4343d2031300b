"""Explicit congestion notification (RFC 3168; Linux: tcp_ecn_* in tcp_input.c and tcp_output.c).

Both sides agree on it in the handshake: SYN with ECE and CWR, SYN+ACK with ECE alone. Then data is sent as ECN-capable
(ECT(0) in the IP header); a router that is congested marks it (CE) instead of dropping it; the receiver says so with
ECE until the sender, which has reduced its window, says CWR. Retransmissions and bare acknowledgements go unmarked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.net.dst import RTAX_FEATURES
from usernet.transport.tcp.congestion import base as congestion
from usernet.transport.tcp.congestion.base import CA_EVENT_ECN_IS_CE, CA_EVENT_ECN_NO_CE
from usernet.transport.tcp.const import ICSK_ACK_NOW
from usernet.wire.tcp import CWR, ECE

if TYPE_CHECKING:
    from usernet.net.dst import Dst
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

# Bits of `sk.ecn_flags`.
ECN_OK: Final = 1
ECN_QUEUE_CWR: Final = 2
ECN_DEMAND_CWR: Final = 4
ECN_SEEN: Final = 8

INET_ECN_MASK: Final = 3
INET_ECN_ECT_0: Final = 2
INET_ECN_CE: Final = 3
_RTAX_FEATURE_ECN: Final = 1


def _route_wants(dst: Dst | None) -> bool:
    return dst is not None and bool(dst.metric(RTAX_FEATURES) & _RTAX_FEATURE_ECN)


def send_syn(sk: TcpSock) -> int:
    """The flags to ask for ECN with in a SYN, 0 for none (Linux: tcp_ecn_send_syn)."""
    sk.ecn_flags = 0
    if sk.tcp.tcp_ecn == 1 or sk.ca.needs_ecn or _route_wants(sk.dst):
        sk.ecn_flags = ECN_OK
        return ECE | CWR
    return 0


def receive_synack(sk: TcpSock, flags: int) -> None:
    """Whether the peer agreed (Linux: tcp_ecn_rcv_synack)."""
    if flags & (ECE | CWR) != ECE:
        sk.ecn_flags &= ~ECN_OK


def receive_syn(sk: TcpSock, flags: int) -> None:
    """The same, in a simultaneous open (Linux: tcp_ecn_rcv_syn)."""
    if flags & (ECE | CWR) != ECE | CWR:
        sk.ecn_flags &= ~ECN_OK


def request_wants(tcp: Tcp, listener: TcpSock, skb: SKBuff, dst: Dst | None) -> bool:
    """Whether to agree to a SYN's wish (Linux: tcp_ecn_create_request)."""
    if skb.tcp_flags & (ECE | CWR) != ECE | CWR:
        return False
    if listener.ca.needs_ecn:
        return True
    if dst is not None and dst.congestion_control and congestion.find(dst.congestion_control).needs_ecn:
        return True
    if not (tcp.tcp_ecn or _route_wants(dst)):
        return False
    # A SYN that is itself marked as ECN-capable comes from a middlebox that doesn't know what it does.
    tos: int = skb.af.header_of(skb)[0]
    return not tos & INET_ECN_MASK


def send(sk: TcpSock, new_data: bool) -> int:
    """Mark the packet that is about to leave; returns the flags to add (Linux: tcp_ecn_send)."""
    flags = 0
    ecn = sk.ecn_flags
    if new_data:
        sk.tos = sk.tos & ~INET_ECN_MASK | INET_ECN_ECT_0
        if ecn & ECN_QUEUE_CWR:
            sk.ecn_flags = ecn & ~ECN_QUEUE_CWR
            flags = CWR
    elif not sk.ca.needs_ecn:
        sk.tos &= ~INET_ECN_MASK
    if ecn & ECN_DEMAND_CWR:
        flags |= ECE
    return flags


def accept_cwr(sk: TcpSock, skb: SKBuff, has_data: bool) -> None:
    """The peer has reduced its window: no more ECE (Linux: tcp_ecn_accept_cwr)."""
    if skb.tcp_flags & CWR:
        sk.ecn_flags &= ~ECN_DEMAND_CWR
        if has_data:
            sk.ack_pending |= ICSK_ACK_NOW


def data_check(sk: TcpSock, skb: SKBuff) -> None:
    """Data arrived: was it marked (Linux: tcp_data_ecn_check)?"""
    from usernet.transport.tcp.delack import enter_quickack_mode

    mark = sk.af.header_of(skb)[0] & INET_ECN_MASK
    if not mark:
        if sk.ecn_flags & ECN_SEEN:
            # Probably a retransmission.
            enter_quickack_mode(sk, 2)
        return
    if sk.ca.needs_ecn:
        sk.ca.cwnd_event(sk, CA_EVENT_ECN_IS_CE if mark == INET_ECN_CE else CA_EVENT_ECN_NO_CE)
    if mark == INET_ECN_CE and not sk.ecn_flags & ECN_DEMAND_CWR:
        # The sender's window may be very small: don't delay its acknowledgements.
        enter_quickack_mode(sk, 2)
        sk.ecn_flags |= ECN_DEMAND_CWR
    sk.ecn_flags |= ECN_SEEN


def queue_cwr(sk: TcpSock) -> None:
    """The window was reduced: say so with the next data (Linux: tcp_ecn_queue_cwr)."""
    if sk.ecn_flags & ECN_OK:
        sk.ecn_flags |= ECN_QUEUE_CWR
