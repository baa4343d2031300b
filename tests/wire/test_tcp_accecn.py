"""The AccECN option: its counters, and how it shares the padding of others."""

from __future__ import annotations

import pytest

from usernet.wire.tcp import build_sack, build_syn_options, parse_options
from usernet.wire.tcp_accecn import build_accecn, insert_accecn, parse_counters

COUNTED = (9, 0x10, 0x20, 0x30)
ONE, TWO, THREE = b"\x00\x00\x11", b"\x00\x00\x30", b"\x00\x00\x21"


def test_the_counters_are_ect1_ce_ect0_each_from_its_own_start():
    assert build_accecn(3, COUNTED) == b"\xae\x0b" + ONE + TWO + THREE
    assert build_accecn(1, COUNTED) == b"\xae\x05" + ONE
    assert build_accecn(0, COUNTED) == b"\xae\x02"
    assert build_accecn(1, (0, 0xFFFFFF, 0, 0)) == b"\xae\x05\x00\x00\x00"


def test_both_orders_are_read():
    assert parse_counters(0xAE, ONE + TWO + THREE) == [(1, 0x11), (3, 0x30), (2, 0x21)]
    assert parse_counters(0xAC, ONE + TWO + THREE) == [(2, 0x11), (3, 0x30), (1, 0x21)]
    assert parse_counters(0xAC, ONE + b"\x00\x00") == [(2, 0x11)]
    assert parse_counters(0xAE, b"") == []
    assert len(parse_counters(0xAE, bytes(30))) == 3


STAMPS = (1, 2)
SACK = [(100, 200)]


@pytest.mark.parametrize(
    ("options", "fields", "grows"),
    [
        (b"", 3, 12),
        (b"", 1, 8),  # five bytes, padded
        (b"", 0, 4),
        (build_sack((), STAMPS), 2, 8),
        (build_sack(SACK, None), 1, 4),  # one byte takes a NOP's place
        (build_sack(SACK, STAMPS), 0, 0),  # both bytes do
        (build_syn_options(1460, 7, True, None), 0, 0),  # sackOK's two
        (build_syn_options(1460, 7, True, STAMPS), 1, 4),  # the window scale's one
        (build_syn_options(1460, 7, True, STAMPS), 0, 4),  # too large for that
    ],
)
def test_it_takes_the_place_of_padding_where_there_is_enough(options, fields, grows):
    together = insert_accecn(options, build_accecn(fields, COUNTED))
    assert len(together) == len(options) + grows
    assert len(together) % 4 == 0
    before, after = parse_options(options, 0, len(options)), parse_options(together, 0, len(together))
    assert after.accecn == (0xAE, build_accecn(fields, COUNTED)[2:])
    for name in ("mss", "wscale", "sack_ok", "has_ts", "tsval", "tsecr", "sacks"):
        assert getattr(after, name) == getattr(before, name)
