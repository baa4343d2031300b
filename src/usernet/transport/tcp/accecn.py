"""Accurate ECN: how many packets and bytes were marked (RFC 9768; Linux: tcp_ecn.h, __tcp_accecn_process).

Classic ECN tells once a round trip that there was a mark. AccECN tells how many: the header's AE, CWR and ECE bits are
a counter of packets that came with CE, modulo 8 (ACE), and an option counts the bytes that came with each mark, modulo
2^24 (accecn_option.py). The handshake is in ecn.py.

A data receiver counts in `received_counters`; a data sender takes in what the peer counted in `process`. More than
seven packets acknowledged at once make the counter ambiguous: then the safe assumption is that it went round as often
as it can have, unless the option's bytes, or how acknowledgements come as a rule, say otherwise (RFC 9768 appendix
A.2).

What lies on the way may bleach or mangle the IP header's mark, the flags or the option. Both ends check what they can,
and stop relying on what fails (`fail_mode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.accecn_option import process_option
from usernet.transport.tcp.const import (
    FLAG_ECE,
    FLAG_FORWARD_PROGRESS,
    FLAG_SLOWPATH,
    FLAG_SYN_ACKED,
    FLAG_TS_PROGRESS,
    ICSK_ACK_NOW,
    TCP_CA_CWR,
    TCP_CA_OPEN,
)
from usernet.wire.tcp import AE, CWR, ECE

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock

INET_ECN_MASK: Final = 3
INET_ECN_NOT_ECT: Final = 0
INET_ECN_ECT_1: Final = 1
INET_ECN_ECT_0: Final = 2
INET_ECN_CE: Final = 3

# Bits of `EcnState.fail_mode`.
TCP_ACCECN_ACE_FAIL_SEND: Final = 1
TCP_ACCECN_ACE_FAIL_RECV: Final = 2
TCP_ACCECN_OPT_FAIL_SEND: Final = 4
TCP_ACCECN_OPT_FAIL_RECV: Final = 8

TCPHDR_ACE: Final = ECE | CWR | AE
TCP_ACCECN_CEP_ACE_MASK: Final = 7
TCP_ACCECN_CEP_INIT_OFFSET: Final = 5
TCP_ACCECN_ACE_MAX_DELTA: Final = 6
TCP_ACCECN_SAFETY_SHIFT: Final = 1
_PKTS_ACKED_WEIGHT: Final = 6
_PKTS_ACKED_PREC: Final = 6
_ACK_COMP_THRESH: Final = 4


@final
class EcnState:
    """What a connection with ECN counts and remembers (Linux: in `struct tcp_sock`). Lists are by the mark's number.

    syn_ect_snt, syn_ect_rcv: the mark that our SYN left, and the peer's came with. received_ce: packets that came with
    CE; received_ce_pending: those not yet told. received_bytes, delivered_bytes: payload that came, and by the peer's
    option went, with each mark. minlen: counters that the next option must have. est_ecnfield: the mark that
    acknowledged bytes are taken to have had, 0 for unknown. opt_demand: so many acknowledgements are to have the
    option. prev_ecnfield: the last packet's mark. opt_tstamp: when the option was last sent (ns). saw_opt:
    TCP_ACCECN_OPT_*. pkts_acked_ewma: packets an acknowledgement covers, 64-fold. dsack_start: where the D-SACK
    begins that was last sent along with the option, -1 for none. rx_option: kind and data of the option of the segment
    being processed.
    """

    __slots__ = (
        "delivered_bytes", "dsack_start", "est_ecnfield", "fail_mode", "minlen", "opt_demand", "opt_tstamp",
        "pkts_acked_ewma", "prev_ecnfield", "received_bytes", "received_ce", "received_ce_pending", "rx_option",
        "saw_opt", "syn_ect_rcv", "syn_ect_snt",
    )  # fmt: skip

    def __init__(self) -> None:
        self.syn_ect_snt: int = 0
        self.syn_ect_rcv: int = 0
        self.received_ce: int = 0
        self.received_ce_pending: int = 0
        self.received_bytes: list[int] = [0, 0, 0, 0]
        self.delivered_bytes: list[int] = [0, 0, 0, 0]
        self.minlen: int = 0
        self.est_ecnfield: int = 0
        self.opt_demand: int = 0
        self.prev_ecnfield: int = 0
        self.opt_tstamp: int = 0
        self.saw_opt: int = 0
        self.fail_mode: int = 0
        self.pkts_acked_ewma: int = 0
        self.dsack_start: int = -1
        self.rx_option: tuple[int, bytes] | None = None


def ace(flags: int) -> int:
    """The three flags as a number: AE is 4, CWR 2, ECE 1 (Linux: tcp_accecn_ace)."""
    return (flags & AE and 4) | (flags & CWR and 2) | (flags & ECE and 1)


def ace_flags(value: int) -> int:
    """The reverse, of the value's lower three bits."""
    return (value & 4 and AE) | (value & 2 and CWR) | (value & 1 and ECE)


_REFLECTED: Final = (0b010, 0b011, 0b100, 0b110)
# 0b000 and 0b111 can't be, and 0b101 and 0b001 are reserved: they say nothing.
_REFLECTS: Final = (
    INET_ECN_ECT_0, INET_ECN_ECT_1, INET_ECN_NOT_ECT, INET_ECN_ECT_1, INET_ECN_ECT_0, INET_ECN_ECT_1, INET_ECN_CE,
    INET_ECN_ECT_1,
)  # fmt: skip


def reflector_flags(mark: int) -> int:
    """The flags that tell with which mark a SYN or SYN+ACK came (RFC 9768 table 2; tcp_accecn_reflector_flags)."""
    return ace_flags(_REFLECTED[mark])


def _transition_valid(sent: int, received: int) -> bool:
    """Whether routers that mark as they should can have made one mark of the other (tcp_ect_transition_valid)."""
    if sent == received:
        return True
    return sent not in (INET_ECN_NOT_ECT, INET_ECN_CE) and received != INET_ECN_NOT_ECT


def validate_syn_feedback(sk: TcpSock, state: EcnState, value: int, sent: int) -> bool:
    """Whether the peer saw our SYN or SYN+ACK with a mark it can have had; else our packets are mangled on the way, and
    go unmarked from now on (RFC 9768 section 3.2.2.3; Linux: tcp_accecn_validate_syn_feedback)."""
    if not sk.tcp.tcp_ecn_fallback or _transition_valid(sent, _REFLECTS[value]):
        return True
    state.fail_mode |= TCP_ACCECN_ACE_FAIL_RECV
    return False


def third_ack(sk: TcpSock, state: EcnState, skb: SKBuff, has_sack: bool) -> None:
    """The last acknowledgement of a passive handshake (RFC 9768 section 3.2.2.1, table 4; tcp_accecn_third_ack)."""
    value = ace(skb.tcp_flags)
    if value == 0:
        if not has_sack:
            # It can't be zero: our marks, and the peer's feedback, are not to be relied on.
            state.fail_mode |= TCP_ACCECN_ACE_FAIL_RECV | TCP_ACCECN_OPT_FAIL_RECV
    elif value not in (1, 5, 7) and skb.seq == skb.end_seq and not has_sack:
        if (
            validate_syn_feedback(sk, state, value, state.syn_ect_snt)
            and _REFLECTS[value] == INET_ECN_CE
            and not sk.delivered_ce
        ):
            sk.delivered_ce = 1


def received_counters(sk: TcpSock, skb: SKBuff, size: int, accecn: bool) -> None:
    """A packet came, with `size` bytes of data: count its mark (Linux: tcp_ecn_received_counters).

    accecn: the connection has AccECN, so that the peer is to be told at once of a change.
    """
    from usernet.transport.tcp.ecn import TCP_ECN_SEEN

    state = sk.ecn
    if state is None:
        return
    mark = sk.af.header_of(skb)[0] & INET_ECN_MASK
    is_ce = mark == INET_ECN_CE
    if mark:
        if accecn:
            sk.ecn_flags |= TCP_ECN_SEEN
        if is_ce:
            count = max(1, skb.gso_segs)
            state.received_ce += count
            state.received_ce_pending = min(state.received_ce_pending + count, 0xF)
        if size:
            before = state.received_bytes[mark]
            state.received_bytes[mark] = before + size
            state.minlen = max(state.minlen, _MINLEN[mark])
            if (before ^ (before + size)) >> 22:
                # At least one option for every 4 MiB, a quarter of the counter (RFC 9768 section 3.2.3.3).
                state.opt_demand = max(state.opt_demand, 1)
    edge = state.prev_ecnfield != mark
    if edge or is_ce:
        state.prev_ecnfield = mark
        if accecn:
            # Two acknowledgements: the second shows without doubt what the mark is now.
            if edge:
                sk.ack_pending |= ICSK_ACK_NOW
            state.opt_demand = 2


_MINLEN: Final = (0, 1, 2, 3)
"""The counters that an option must have to tell of a mark, in the order ECT(1), CE, ECT(0)."""


def process(sk: TcpSock, skb: SKBuff, packets: int, size: int, flag: int) -> int:
    """The feedback of an acknowledgement of `packets` and `size` bytes; returns its flags, FLAG_ECE added where there
    are new marks (Linux: tcp_accecn_process)."""
    state = sk.ecn
    if state is None:
        return flag
    delta = _delta(sk, state, skb, packets, size, flag)
    if delta > 0:
        sk.delivered_ce += delta
        flag |= FLAG_ECE
    return flag


def _delta(sk: TcpSock, state: EcnState, skb: SKBuff, packets: int, size: int, flag: int) -> int:
    """How many more packets than before the peer saw marked (RFC 9768 appendix A.2; Linux: __tcp_accecn_process)."""
    if not flag & (FLAG_FORWARD_PROGRESS | FLAG_TS_PROGRESS):
        # It may have been overtaken.
        return 0
    old_ceb = state.delivered_bytes[INET_ECN_CE]
    bytes_valid = process_option(sk, state, size, flag)
    if packets:
        average = state.pkts_acked_ewma
        if not average:
            average = packets << _PKTS_ACKED_PREC
        else:
            average = ((average << _PKTS_ACKED_WEIGHT) - average + (packets << _PKTS_ACKED_PREC)) >> _PKTS_ACKED_WEIGHT
        state.pkts_acked_ewma = min(average, 0xFFFF)
    if not flag & FLAG_SLOWPATH and packets <= TCP_ACCECN_CEP_ACE_MASK:
        return 0
    if flag & FLAG_SYN_ACKED:
        # The flags are the handshake's.
        return 0
    if state.received_ce_pending >= TCP_ACCECN_ACE_MAX_DELTA:
        sk.ack_pending |= ICSK_ACK_NOW
    value = ace(skb.tcp_flags) - TCP_ACCECN_CEP_INIT_OFFSET
    delta = (value - sk.delivered_ce) & TCP_ACCECN_CEP_ACE_MASK
    if packets <= TCP_ACCECN_CEP_ACE_MASK:
        return delta
    safe = packets - ((packets - delta) & TCP_ACCECN_CEP_ACE_MASK)
    if bytes_valid:
        marked = state.delivered_bytes[INET_ECN_CE] - old_ceb
        if not marked:
            return delta
        if packets >= (TCP_ACCECN_CEP_ACE_MASK + 1) * 2 and (sk.sack_ok or sk.ca_state in (TCP_CA_OPEN, TCP_CA_CWR)):
            if size <= marked:
                return safe
            estimate = -(-marked * packets // size)
            return min(safe, delta + (estimate & ~TCP_ACCECN_CEP_ACE_MASK))
        if marked > delta * sk.mss_cache:
            return safe
        if marked < safe * sk.mss_cache >> TCP_ACCECN_SAFETY_SHIFT:
            return delta
    elif state.pkts_acked_ewma > _ACK_COMP_THRESH << _PKTS_ACKED_PREC:
        # Acknowledgements cover many packets as a rule: none was lost.
        return delta
    return safe
