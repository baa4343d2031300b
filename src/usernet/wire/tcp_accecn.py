"""The AccECN option: how many bytes came with each mark (RFC 9768 section 3.2.3), kinds 172 and 174.

    | kind | length | 24 bits | 24 bits | 24 bits |      174: ECT(1), CE, ECT(0); 172: ECT(0), CE, ECT(1)

Trailing counters may be left out. Each counter starts at a value of its own, so that an option that was zeroed on the
way is known. Linux sends kind 174, behind the time stamp; an odd end of 1 or 2 bytes takes the place of NOPs that pad
the next option (`tcp_options_write`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from usernet.wire.tcp import (
    TCPOPT_ACCECN0,
    TCPOPT_ACCECN1,
    TCPOPT_AO,
    TCPOPT_MD5SIG,
    TCPOPT_MSS,
    TCPOPT_NOP,
    TCPOPT_TIMESTAMP,
)

TCPOLEN_ACCECN_BASE: Final = 2
TCPOLEN_ACCECN_PERFIELD: Final = 3
TCP_ACCECN_NUMFIELDS: Final = 3
TCP_ACCECN_MAXSIZE: Final = TCPOLEN_ACCECN_BASE + TCPOLEN_ACCECN_PERFIELD * TCP_ACCECN_NUMFIELDS

ECT_1: Final = 1
ECT_0: Final = 2
CE: Final = 3
INIT_OFFSETS: Final = (0, 1, 1, 0)
"""What the counter of each of the four marks of the IP header starts at on the wire."""

_ORDERS: Final = {TCPOPT_ACCECN0: (ECT_0, CE, ECT_1), TCPOPT_ACCECN1: (ECT_1, CE, ECT_0)}
_BEFORE: Final = (TCPOPT_MD5SIG, TCPOPT_AO, TCPOPT_MSS, TCPOPT_TIMESTAMP)


def parse_counters(kind: int, data: bytes) -> list[tuple[int, int]]:
    """The counters of an option: (mark, the 24 bits as they stand), in their order.

    kind: TCPOPT_ACCECN0 or TCPOPT_ACCECN1. data: what follows the length byte; bytes beyond whole counters, and beyond
    three, are passed over.
    """
    order = _ORDERS[kind]
    count = min(len(data) // TCPOLEN_ACCECN_PERFIELD, TCP_ACCECN_NUMFIELDS)
    return [(order[i], int.from_bytes(data[3 * i : 3 * i + 3], "big")) for i in range(count)]


def build_accecn(fields: int, counted: Sequence[int]) -> bytes:
    """An option of kind 174 with `fields` counters. counted: bytes received with each mark, by the mark's number."""
    option = bytes((TCPOPT_ACCECN1, TCPOLEN_ACCECN_BASE + TCPOLEN_ACCECN_PERFIELD * fields))
    for mark in _ORDERS[TCPOPT_ACCECN1][:fields]:
        option += (counted[mark] + INIT_OFFSETS[mark] & 0xFFFFFF).to_bytes(3, "big")
    return option


def insert_accecn(options: bytes, option: bytes) -> bytes:
    """Put an AccECN option among those of a segment, in Linux's place: behind signature, MSS and time stamp.

    Args:
        options: as `build_syn_options` and `build_sack` make them.
        option: of `build_accecn`.

    Returns:
        All of them, a multiple of 4 bytes: what is over of `option` takes the place of padding of the next option where
        there is enough of it (two NOPs before sackOK and SACK, one before the window scale), else it is padded itself.
    """
    at = 0
    place = 0
    while place < len(options):
        kind = options[place]
        if kind == TCPOPT_NOP:
            place += 1
            continue
        place += options[place + 1]
        if kind in _BEFORE:
            at = (place + 3) & ~3
    odd = len(option) & 3
    if odd == 3:
        option += b"\x01"
        odd = 0
    whole = len(option) - odd
    rest = options[at:]
    if odd and rest[:odd] == b"\x01\x01"[:odd]:
        return options[:at] + option + rest[odd:]
    if odd:
        # Behind all else, in a word of its own.
        return options[:at] + option[:whole] + rest + option[whole:] + b"\x01" * (4 - odd)
    return options[:at] + option + rest
