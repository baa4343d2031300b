"""The AccECN option of a connection: when it is sent, how it finds room, what it tells (RFC 9768 section 3.2.3; Linux:
tcp_options_fit_accecn, tcp_accecn_option_init, tcp_accecn_process_option).

The option is a help to the ACE counter, not needed for it, so it takes what room there is: counters at its end are left
out, padding of other options is used, and where a counter must be told, a SACK block gives way. It is sent once the
peer has sent it: always, or (tcp_ecn_option = 1) when a mark changed, and tcp_ecn_option_beacon times a round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.transport.tcp.const import FLAG_SLOWPATH
from usernet.wire.tcp import (
    MAX_TCP_OPTION_SPACE,
    TCPOLEN_SACK_BASE_ALIGNED,
    TCPOLEN_SACK_PERBLOCK,
    TCPOLEN_TSTAMP_ALIGNED,
)
from usernet.wire.tcp_accecn import (
    INIT_OFFSETS,
    TCP_ACCECN_MAXSIZE,
    TCP_ACCECN_NUMFIELDS,
    TCPOLEN_ACCECN_BASE,
    TCPOLEN_ACCECN_PERFIELD,
    build_accecn,
    insert_accecn,
    parse_counters,
)

if TYPE_CHECKING:
    from usernet.transport.tcp.accecn import EcnState
    from usernet.transport.tcp.sock import TcpSock

# Values of tcp_ecn_option.
TCP_ACCECN_OPTION_DISABLED: Final = 0
TCP_ACCECN_OPTION_MINIMUM: Final = 1
TCP_ACCECN_OPTION_FULL: Final = 2
TCP_ACCECN_OPTION_PERSIST: Final = 3

# Values of `EcnState.saw_opt`.
TCP_ACCECN_OPT_NOT_SEEN: Final = 0
TCP_ACCECN_OPT_EMPTY_SEEN: Final = 1
TCP_ACCECN_OPT_COUNTER_SEEN: Final = 2
TCP_ACCECN_OPT_FAIL_SEEN: Final = 3

_OPT_FAIL_SEND: Final = 4
_OPT_FAIL_RECV: Final = 8
_NONE_COUNTED: Final = (0, 0, 0, 0)


def option_init(option: tuple[int, bytes]) -> int:
    """What the first option of the peer says of it: TCP_ACCECN_OPT_*. A counter that can't be zero yet but is shows
    that something on the way clears it (RFC 9768 section 3.2.3.2.4)."""
    counters = parse_counters(*option)
    if not counters:
        return TCP_ACCECN_OPT_EMPTY_SEEN
    if counters[0][1] == 0 or (len(counters) == TCP_ACCECN_NUMFIELDS and counters[2][1] == 0):
        return TCP_ACCECN_OPT_FAIL_SEEN
    return TCP_ACCECN_OPT_COUNTER_SEEN


def saw_option(state: EcnState, demand: int) -> None:
    """A segment of the handshake brought the option, or it is the first: judge it, and answer with as many as `demand`
    says."""
    option = state.rx_option
    if option is not None and state.saw_opt < TCP_ACCECN_OPT_COUNTER_SEEN:
        state.saw_opt = option_init(option)
        if state.saw_opt == TCP_ACCECN_OPT_FAIL_SEEN:
            state.fail_mode |= _OPT_FAIL_RECV
        state.opt_demand = max(state.opt_demand, demand)


def process_option(sk: TcpSock, state: EcnState, size: int, flag: int) -> bool:
    """Take in the counters of an acknowledgement of `size` bytes; whether they can be relied on for it."""
    if state.fail_mode & _OPT_FAIL_RECV:
        return False
    estimate = state.est_ecnfield
    delivered = state.delivered_bytes
    option = state.rx_option if flag & FLAG_SLOWPATH else None
    if option is None:
        if not state.saw_opt:
            if sk.bytes_sent >= (1 << 23) - 1:
                # Too late for it to begin: the counters may have gone round.
                state.saw_opt = TCP_ACCECN_OPT_FAIL_SEEN
                state.fail_mode |= _OPT_FAIL_RECV
            return False
        if estimate:
            # All had the mark that alone was seen of late.
            delivered[estimate] += size
            return True
        return False
    saw_option(state, 0)
    valid = estimate != 0
    ambiguous = first_changed = False
    for mark, value in parse_counters(*option):
        delta = (value - INIT_OFFSETS[mark] - delivered[mark]) & 0xFFFFFF
        if delta & 0x800000:
            # Backwards: an estimate was too high, which is put right.
            delta -= 0x1000000
            valid = False
            ambiguous = True
        delivered[mark] += delta
        if delta and mark != estimate:
            if not first_changed:
                state.est_ecnfield = mark
                first_changed = True
            else:
                valid = False
                ambiguous = True
    if ambiguous:
        state.est_ecnfield = 0
    return valid


def fit(room: int, blocks: int, required: int, saving: int) -> tuple[int, int, int]:
    """How much of the option has room (Linux: tcp_options_fit_accecn).

    Args:
        room: bytes that the other options leave.
        blocks: SACK blocks among those, of which all above two may give way.
        required: counters without which it is no use.
        saving: bytes of other options' padding that it can take.

    Returns:
        Its counters, -1 where it does not fit; the SACK blocks then; the bytes that all options grow by.
    """
    fields = TCP_ACCECN_NUMFIELDS
    size = TCP_ACCECN_MAXSIZE
    removed = 0
    while fields >= required:
        aligned = (size + 3) & ~3 if size & 3 > saving else size & ~3
        if room + removed * TCPOLEN_SACK_PERBLOCK >= aligned:
            return fields, blocks - removed, aligned - removed * TCPOLEN_SACK_PERBLOCK
        if fields == required and blocks - removed > 2 and required > 0:
            removed += 1
            fields = TCP_ACCECN_NUMFIELDS
            size = TCP_ACCECN_MAXSIZE
            continue
        fields -= 1
        size -= TCPOLEN_ACCECN_PERFIELD
    return -1, blocks, 0


def add_to_syn(options: bytes, sack_ok: bool, tstamp_ok: bool, wscale_ok: bool, reserved: int) -> bytes:
    """The options of a SYN+ACK, with the option where there is room; its counters are at their start. reserved: bytes
    that a signature takes before them."""
    room = MAX_TCP_OPTION_SPACE - reserved - len(options)
    if room < TCPOLEN_ACCECN_BASE:
        return options
    saving = 2 if sack_ok and not tstamp_ok else 1 if wscale_ok else 0
    fields, _, _ = fit(room, 0, 0, saving)
    if fields < 0:
        return options
    return insert_accecn(options, build_accecn(fields, _NONE_COUNTED))


def wanted(sk: TcpSock, state: EcnState) -> bool:
    """Whether a segment sent now is to have the option."""
    tcp = sk.tcp
    mode = tcp.tcp_ecn_option
    if not mode or not state.saw_opt:
        return False
    if state.fail_mode & _OPT_FAIL_SEND and mode < TCP_ACCECN_OPTION_PERSIST:
        return False
    if mode >= TCP_ACCECN_OPTION_FULL or state.opt_demand:
        return True
    beacon = tcp.tcp_ecn_option_beacon
    return beacon > 0 and (sk.loop.now - state.opt_tstamp) // 1000 * beacon >= sk.srtt_us >> 3


def growth(sk: TcpSock, state: EcnState, size: int, blocks: int) -> int:
    """By how many bytes the option makes `size` bytes of other options, `blocks` SACK blocks among them, longer."""
    if not wanted(sk, state):
        return 0
    return fit(MAX_TCP_OPTION_SPACE - size, blocks, state.minlen, 2 if blocks else 0)[2]


def established_fit(sk: TcpSock, state: EcnState, blocks: int, reserved: int = 0) -> tuple[int, int]:
    """The option's counters on a segment sent now, -1 for no option, and the SACK blocks, of `blocks`, beside it.
    reserved: bytes that a signature takes."""
    if not wanted(sk, state):
        return -1, blocks
    size = reserved + (TCPOLEN_TSTAMP_ALIGNED if sk.tstamp_ok else 0)
    if blocks:
        size += TCPOLEN_SACK_BASE_ALIGNED + TCPOLEN_SACK_PERBLOCK * blocks
    fields, blocks, _ = fit(MAX_TCP_OPTION_SPACE - size, blocks, state.minlen, 2 if blocks else 0)
    return fields, blocks


def option_sent(sk: TcpSock, state: EcnState, sent: bool) -> None:
    """A segment leaves, with the option or without."""
    if not sent:
        state.dsack_start = -1
        return
    dsack = sk.duplicate_sack
    state.dsack_start = dsack[0] if dsack is not None else -1
    state.minlen = 0
    state.opt_tstamp = sk.loop.now
    if state.opt_demand:
        state.opt_demand -= 1
