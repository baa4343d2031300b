"""Explicit congestion notification (RFC 3168, 8311, 9768; Linux: include/net/tcp_ecn.h).

A router that is congested marks a packet (CE) instead of dropping it, where the sender said that it can (ECT(0) in the
IP header). Both sides agree on ECN in the handshake, and on one of two ways for the receiver to tell of marks:

    classic   SYN with ECE and CWR, SYN+ACK with ECE alone. The receiver says ECE until the sender, which has reduced
              its window, says CWR. Retransmissions and bare acknowledgements go unmarked.
    accurate  SYN with AE, ECE and CWR; the SYN+ACK's three flags say with which mark the SYN came, and so do the last
              acknowledgement's. From then on they count marks (accecn.py). All packets are marked.

net.ipv4.tcp_ecn says what is asked for as a client, and agreed to as a server: 0 nothing, 1 classic, 2 classic only as
a server, 3 accurate, 4 accurate as a server and classic as a client, 5 accurate only as a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.net.dst import RTAX_FEATURES
from usernet.transport.tcp import accecn
from usernet.transport.tcp.accecn import (
    INET_ECN_CE,
    INET_ECN_ECT_0,
    INET_ECN_ECT_1,
    INET_ECN_MASK,
    TCP_ACCECN_ACE_FAIL_RECV,
    TCP_ACCECN_ACE_FAIL_SEND,
    TCP_ACCECN_CEP_INIT_OFFSET,
    TCPHDR_ACE,
    EcnState,
    ace,
    ace_flags,
    reflector_flags,
)
from usernet.transport.tcp.accecn_option import saw_option
from usernet.transport.tcp.congestion import base as congestion
from usernet.transport.tcp.congestion.base import CA_EVENT_ECN_IS_CE, CA_EVENT_ECN_NO_CE
from usernet.transport.tcp.const import ICSK_ACK_NOW
from usernet.wire.tcp import ACK, AE, CWR, ECE, TCP_HLEN, parse_options

if TYPE_CHECKING:
    from usernet.net.dst import Dst
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

# Bits of `sk.ecn_flags`: the mode, 0 for none, and both bits of it while accurate ECN was asked for and not answered.
TCP_ECN_MODE_RFC3168: Final = 1
TCP_ECN_QUEUE_CWR: Final = 2
TCP_ECN_DEMAND_CWR: Final = 4
TCP_ECN_SEEN: Final = 8
TCP_ECN_MODE_ACCECN: Final = 16
TCP_ECN_MODE_ANY: Final = TCP_ECN_MODE_RFC3168 | TCP_ECN_MODE_ACCECN
TCP_ECN_MODE_PENDING: Final = TCP_ECN_MODE_ANY

_RTAX_FEATURE_ECN: Final = 1


def mode_rfc3168(flags: int) -> bool:
    """Whether the connection has classic ECN (Linux: tcp_ecn_mode_rfc3168). flags: `sk.ecn_flags`."""
    return flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_RFC3168


def mode_accecn(flags: int) -> bool:
    """Whether it has accurate ECN (Linux: tcp_ecn_mode_accecn)."""
    return flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_ACCECN


def mode_pending(flags: int) -> bool:
    """Whether accurate ECN was asked for, and the answer is not here yet (Linux: tcp_ecn_mode_pending)."""
    return flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_PENDING


def mode_set(sk: TcpSock, mode: int) -> None:
    """Linux: tcp_ecn_mode_set. What is counted is kept with the socket as long as there is a mode."""
    sk.ecn_flags = sk.ecn_flags & ~TCP_ECN_MODE_ANY | mode
    if not mode:
        sk.ecn_flags = 0
        sk.ecn = None
    elif sk.ecn is None:
        sk.ecn = EcnState()


def _state(sk: TcpSock) -> EcnState:
    """What is counted, of a socket with a mode."""
    state = sk.ecn
    assert state is not None
    return state


def _route_wants(dst: Dst | None) -> bool:
    return dst is not None and bool(dst.metric(RTAX_FEATURES) & _RTAX_FEATURE_ECN)


def _mark(sk: TcpSock, mark: int) -> None:
    sk.tos = sk.tos & ~INET_ECN_MASK | mark


def _mark_negotiation(sk: TcpSock) -> None:
    """A controller that can't do without marks has the handshake's packets marked too."""
    _mark(sk, INET_ECN_ECT_1 if sk.ca.ect_1_negotiation else INET_ECN_ECT_0)


# -- the handshake


def send_syn(sk: TcpSock) -> int:
    """The flags to ask for ECN with in a SYN, 0 for none (Linux: tcp_ecn_send_syn)."""
    sk.ecn_flags = 0
    sk.ecn = None
    ca = sk.ca
    setting = sk.tcp.tcp_ecn
    accurate = setting == 3 or ca.needs_accecn
    if not (accurate or setting in (1, 4) or ca.needs_ecn or _route_wants(sk.dst)):
        return 0
    if ca.needs_ecn:
        _mark_negotiation(sk)
    if not accurate:
        mode_set(sk, TCP_ECN_MODE_RFC3168)
        return ECE | CWR
    mode_set(sk, TCP_ECN_MODE_PENDING)
    _state(sk).syn_ect_snt = sk.tos & INET_ECN_MASK
    return AE | ECE | CWR


def keeps_asking(sk: TcpSock) -> bool:
    """Whether a SYN that is sent again asks for ECN as before: the first time, where it is accurate ECN (RFC 9768
    section 3.1.4.1), and always where tcp_ecn_fallback is off. What lies on the way may drop such SYNs (RFC 3168
    section 6.1.1.1)."""
    return (mode_pending(sk.ecn_flags) and sk.icsk_retransmits <= 1) or not sk.tcp.tcp_ecn_fallback


def receive_synack(sk: TcpSock, skb: SKBuff) -> None:
    """Which ECN the peer agreed to (RFC 9768 table 2; Linux: tcp_ecn_rcv_synack)."""
    value = ace(skb.tcp_flags)
    if value in (0, 7):
        mode_set(sk, 0)
        return
    if value == 1:
        mode_set(sk, 0 if sk.ca.no_fallback_rfc3168 else TCP_ECN_MODE_RFC3168)
        return
    if not mode_pending(sk.ecn_flags):
        # Classic ECN was asked for. Of these only ECE without CWR is an answer, whatever AE may mean beside it.
        if value != 5:
            mode_set(sk, 0)
        return
    mode_set(sk, TCP_ECN_MODE_ACCECN)
    state = sk.ecn
    assert state is not None
    state.syn_ect_rcv = sk.af.header_of(skb)[0] & INET_ECN_MASK
    saw_option(state, 2)
    # 0b101 is reserved: as if it said that the SYN arrived as it was sent (RFC 9768 section 3.1.3).
    if state.syn_ect_rcv == INET_ECN_CE and (
        value == 5 or accecn.validate_syn_feedback(sk, state, value, state.syn_ect_snt)
    ):
        state.received_ce += 1
        state.received_ce_pending += 1


def receive_syn(sk: TcpSock, skb: SKBuff) -> None:
    """The peer's SYN in a simultaneous open (Linux: tcp_ecn_rcv_syn)."""
    flags = skb.tcp_flags
    if mode_pending(sk.ecn_flags):
        if ace(flags) in (0, 3):
            mode_set(sk, TCP_ECN_MODE_RFC3168)
        else:
            mode_set(sk, TCP_ECN_MODE_ACCECN)
            state = sk.ecn
            assert state is not None
            state.syn_ect_rcv = state.prev_ecnfield = sk.af.header_of(skb)[0] & INET_ECN_MASK
    if mode_rfc3168(sk.ecn_flags) and flags & (ECE | CWR) != ECE | CWR:
        mode_set(sk, 0)


def send_synack(sk: TcpSock) -> int:
    """The flags of the SYN+ACK of a simultaneous open (Linux: tcp_ecn_send_synack)."""
    if not sk.ecn_flags:
        return 0
    if sk.ca.needs_ecn:
        _mark_negotiation(sk)
    state = sk.ecn
    if state is None or not mode_accecn(sk.ecn_flags):
        return ECE
    state.syn_ect_snt = sk.tos & INET_ECN_MASK
    return reflector_flags(state.syn_ect_rcv)


def create_request(tcp: Tcp, request: RequestSock, skb: SKBuff, dst: Dst | None) -> None:
    """What to agree to of a SYN's wish (Linux: tcp_ecn_create_request)."""
    flags = skb.tcp_flags
    mark = request.af.header_of(skb)[0] & INET_ECN_MASK
    ca = request.listener.ca
    if ace(flags) not in (0, 3) and (tcp.tcp_ecn >= 3 or ca.needs_accecn):
        request.ecn_ok = request.accecn_ok = True
        request.syn_ect_rcv = mark
        request.syn_ect_snt = request.tos & INET_ECN_MASK
        return
    if flags & (ECE | CWR) != ECE | CWR:
        return
    # A SYN that is itself marked as ECN-capable comes from a middlebox that doesn't know what it does, unless it has
    # flags that later RFCs define: that peer may well know (RFC 8311 section 4.3).
    reserved = flags & AE or skb.head[skb.transport_header + 12] & 0x0E
    request.ecn_ok = (
        (bool(tcp.tcp_ecn or _route_wants(dst)) and (not mark or bool(reserved)))
        or ca.needs_ecn
        or (dst is not None and bool(dst.congestion_control) and congestion.find(dst.congestion_control).needs_ecn)
    )


def make_synack(request: RequestSock, again: bool) -> int:
    """The flags of a SYN+ACK. After the first time-out none: they may be why it was dropped (RFC 9768 section 3.1.4.2;
    Linux: tcp_ecn_make_synack). again: it is sent again."""
    if request.num_timeout and again:
        return 0
    if request.accecn_ok:
        return reflector_flags(request.syn_ect_rcv)
    return ECE if request.ecn_ok else 0


def syn_again(request: RequestSock, skb: SKBuff) -> None:
    """The peer's SYN comes again: the latest counts (RFC 9768 section 3.1.5)."""
    if request.accecn_ok:
        request.syn_ect_rcv = request.af.header_of(skb)[0] & INET_ECN_MASK
        if not skb.tcp_flags & TCPHDR_ACE:
            request.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_RECV


def synack_again(request: RequestSock) -> None:
    """A SYN+ACK was sent again. One without flags means: mark nothing from now on (RFC 9768 section 3.1.5)."""
    if request.num_retrans > 1 and request.accecn_ok:
        request.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_SEND


def openreq_child(sk: TcpSock, request: RequestSock, skb: SKBuff) -> None:
    """The socket that a request becomes by `skb` (Linux: tcp_ecn_openreq_child)."""
    sk.ecn = None
    sk.ecn_flags = 0
    if not request.accecn_ok:
        if request.ecn_ok and not sk.ca.no_fallback_rfc3168:
            mode_set(sk, TCP_ECN_MODE_RFC3168)
        return
    mode_set(sk, TCP_ECN_MODE_ACCECN)
    state = _state(sk)
    state.syn_ect_snt = request.syn_ect_snt
    state.fail_mode = request.accecn_fail_mode
    start = skb.transport_header
    doff = skb.head[start + 12] >> 2 & 0x3C
    options = parse_options(skb.head, start + TCP_HLEN, start + doff)
    if skb.tcp_flags & ACK:
        state.rx_option = options.accecn
        saw_option(state, 0)
        accecn.third_ack(sk, state, skb, bool(options.sacks))
    state.prev_ecnfield = request.syn_ect_rcv
    state.opt_demand = 1
    received(sk, skb, skb.len - doff)


# -- sending


def send(sk: TcpSock, new_data: bool, flags: int) -> int:
    """Mark the packet that is about to leave with `flags`; returns the flags to add (Linux: tcp_ecn_send)."""
    ecn = sk.ecn_flags
    state = sk.ecn
    if state is not None and ecn & TCP_ECN_MODE_ANY == TCP_ECN_MODE_ACCECN:
        failed = state.fail_mode & (TCP_ACCECN_ACE_FAIL_RECV | TCP_ACCECN_ACE_FAIL_SEND)
        sk.tos = sk.tos & ~INET_ECN_MASK | (0 if failed else INET_ECN_ECT_0)
        if flags & TCPHDR_ACE:
            # The handshake's last packet, or one like it: it reflects the SYN+ACK's mark.
            return 0
        state.received_ce_pending = 0
        return ace_flags(state.received_ce + TCP_ACCECN_CEP_INIT_OFFSET)
    extra = 0
    if new_data:
        sk.tos = sk.tos & ~INET_ECN_MASK | INET_ECN_ECT_0
        if ecn & TCP_ECN_QUEUE_CWR:
            sk.ecn_flags = ecn & ~TCP_ECN_QUEUE_CWR
            extra = CWR
    elif not sk.ca.needs_ecn:
        sk.tos &= ~INET_ECN_MASK
    if ecn & TCP_ECN_DEMAND_CWR:
        extra |= ECE
    return extra


def reflect(sk: TcpSock) -> int:
    """The flags of an acknowledgement that reflects the mark of the peer's SYN or SYN+ACK; 0 without accurate ECN
    (Linux: tcp_send_ack_reflect_ect)."""
    state = sk.ecn
    if state is None or not mode_accecn(sk.ecn_flags):
        return 0
    return reflector_flags(state.syn_ect_rcv)


def queue_cwr(sk: TcpSock) -> None:
    """The window was reduced: say so with the next data (Linux: tcp_ecn_queue_cwr)."""
    if mode_rfc3168(sk.ecn_flags):
        sk.ecn_flags |= TCP_ECN_QUEUE_CWR


def withdraw_cwr(sk: TcpSock) -> None:
    """The window was not reduced after all (Linux: tcp_ecn_withdraw_cwr)."""
    sk.ecn_flags &= ~TCP_ECN_QUEUE_CWR


# -- receiving


def accept_cwr(sk: TcpSock, skb: SKBuff) -> None:
    """The peer has reduced its window: no more ECE. Taken from bare acknowledgements too, which is more than RFC 3168
    asks for (Linux: tcp_ecn_accept_cwr)."""
    if skb.tcp_flags & CWR and mode_rfc3168(sk.ecn_flags):
        sk.ecn_flags &= ~TCP_ECN_DEMAND_CWR
        if skb.seq != skb.end_seq:
            # Its window may be a single packet: don't delay.
            sk.ack_pending |= ICSK_ACK_NOW


def received(sk: TcpSock, skb: SKBuff, size: int) -> None:
    """A good segment with `size` bytes of data: count its mark (Linux: tcp_ecn_received_counters)."""
    accecn.received_counters(sk, skb, size, mode_accecn(sk.ecn_flags))


def challenged(sk: TcpSock, skb: SKBuff) -> int:
    """A SYN on a connection: the flags of its answer, which reflects how it came (Linux: in tcp_validate_incoming)."""
    state = sk.ecn
    if state is None or not mode_accecn(sk.ecn_flags):
        return 0
    state.syn_ect_rcv = sk.af.header_of(skb)[0] & INET_ECN_MASK
    saw_option(state, 1)
    return reflector_flags(state.syn_ect_rcv)


def data_check(sk: TcpSock, skb: SKBuff) -> None:
    """Data arrived: was it marked (Linux: tcp_data_ecn_check)?"""
    from usernet.transport.tcp.delack import enter_quickack_mode

    mark = sk.af.header_of(skb)[0] & INET_ECN_MASK
    flags = sk.ecn_flags
    if not mark:
        if flags & TCP_ECN_SEEN:
            # Probably a retransmission.
            enter_quickack_mode(sk, 2)
        return
    ca = sk.ca
    if ca.needs_ecn:
        ca.cwnd_event(sk, CA_EVENT_ECN_IS_CE if mark == INET_ECN_CE else CA_EVENT_ECN_NO_CE)
    if not mode_rfc3168(flags):
        return
    if mark == INET_ECN_CE and not flags & TCP_ECN_DEMAND_CWR:
        # The sender's window may be very small: don't delay its acknowledgements.
        enter_quickack_mode(sk, 2)
        sk.ecn_flags |= TCP_ECN_DEMAND_CWR
    sk.ecn_flags |= TCP_ECN_SEEN


def spurious_retransmission(sk: TcpSock, skb: SKBuff) -> None:
    """Data comes that is here already. The second time, the D-SACK of the first did not arrive; where it had the AccECN
    option along, that may be why: no more of them (RFC 9768 section 3.2.3.2.2; Linux: tcp_rcv_spurious_retrans)."""
    state = sk.ecn
    if state is not None and mode_accecn(sk.ecn_flags) and state.dsack_start == skb.seq:
        state.fail_mode |= accecn.TCP_ACCECN_OPT_FAIL_SEND
