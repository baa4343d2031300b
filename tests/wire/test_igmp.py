from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, ip4, u8
from usernet.wire import igmp
from usernet.wire.checksum import csum, csum_fold
from usernet.wire.errors import WireError

ANY = bytes(4)
G = b"\xe0\0\0\xfb"  # 224.0.0.251
S = b"\x0a\0\0\x01"

addresses = st.lists(ip4, max_size=5)
record_types = st.integers(1, 6)


def verifies(message: bytes) -> bool:
    return csum_fold(csum(message, 0, len(message))) == 0


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        # The checksum is the complement of the sum of the other words: 1164 + 0000 + 0000, …
        (igmp.build_query(ANY, 100), "11 64 ee9b 00000000"),
        (igmp.build_query(ANY, 0), "11 00 eeff 00000000"),
        (igmp.build_v1_report(G), "12 00 0d04 e00000fb"),
        (igmp.build_v2_report(G), "16 00 0904 e00000fb"),
        (igmp.build_v2_leave(G), "17 00 0804 e00000fb"),
        (igmp.build_v3_report([(igmp.IGMPV3_CHANGE_TO_EXCLUDE, G, [])]), "22 00 f902 0000 0001 04 00 0000 e00000fb"),
        (
            igmp.build_v3_report([(igmp.IGMPV3_ALLOW_NEW_SOURCES, G, [S])]),
            "22 00 ee00 0000 0001 05 00 0001 e00000fb 0a000001",
        ),
        (igmp.build_v3_query(ANY, 100, False, 2, 125), "11 64 ec1e 00000000 02 7d 0000"),
        (igmp.build_v3_query(G, 10, True, 2, 125, [S]), "11 0a f97a e00000fb 0a 7d 0001 0a000001"),
    ],
)
def test_known_messages(message: bytes, octets: str) -> None:
    assert verifies(message)
    assert message == bytes.fromhex(octets)


@given(around, ip4, u8, around)
def test_header(before: bytes, group: bytes, code: int, after: bytes) -> None:
    message = igmp.build_query(group, code)
    got_type, got_code, check, got_group = igmp.parse(before + message + after, len(before))
    assert (got_type, got_code, got_group) == (igmp.IGMP_HOST_MEMBERSHIP_QUERY, code, group)
    assert check == int.from_bytes(message[2:4], "big")


@given(around, ip4, u8, around)
def test_query_of_version_1_or_2(before: bytes, group: bytes, code: int, after: bytes) -> None:
    b = before + igmp.build_query(group, code) + after
    o, end = len(before), len(before) + 8
    assert igmp.query_version(b, o, end) == (2 if code else 1)
    # Tenths of a second; version 1 says nothing and means 10 s.
    assert igmp.parse_query(b, o, end) == (group, code or 100, False, 0, 0, [])


@given(around, ip4, u8, st.booleans(), st.integers(0, 7), u8, addresses, around)
def test_query_of_version_3(
    before: bytes, group: bytes, code: int, suppress: bool, qrv: int, qqic: int, sources: list[bytes], after: bytes
) -> None:
    resp, interval = igmp.decode_time(code), igmp.decode_time(qqic)
    message = igmp.build_v3_query(group, resp, suppress, qrv, interval, sources)
    assert verifies(message)
    assert (message[1], message[9]) == (code, qqic)
    b = before + message + after
    o, end = len(before), len(before) + len(message)
    assert igmp.query_version(b, o, end) == 3
    assert igmp.parse_query(b, o, end) == (group, resp, suppress, qrv, interval, sources)


@pytest.mark.parametrize(
    ("code", "value"), [(0, 0), (100, 100), (127, 127), (128, 128), (129, 136), (0x8F, 248), (0x90, 256), (0xFF, 31744)]
)
def test_times_as_codes(code: int, value: int) -> None:
    # RFC 3376 section 4.1.1: (mantissa | 0x10) << (exponent + 3)
    assert igmp.decode_time(code) == value
    assert igmp.encode_time(value) == code


@given(st.integers(0, 100_000))
def test_a_time_is_rounded_down(value: int) -> None:
    code = igmp.encode_time(value)
    assert igmp.decode_time(code) <= value
    assert code == 255 or igmp.decode_time(code + 1) > value


@pytest.mark.parametrize("size", [0, 7, 9, 10, 11])
def test_sizes_that_are_no_query(size: int) -> None:
    b = igmp.build_v3_query(ANY, 100, False, 2, 125)
    with pytest.raises(WireError):
        igmp.parse_query(b, 0, size)
    if size > 8:
        assert igmp.query_version(b, 0, size) == 0


def test_query_that_counts_more_sources_than_it_has() -> None:
    b = igmp.build_v3_query(G, 10, False, 2, 125, [S, S])
    with pytest.raises(WireError, match="2 IGMP sources where 1 fit") as caught:
        igmp.parse_query(b, 0, 16)
    assert caught.value.offset == 12


@given(around, st.lists(st.tuples(record_types, ip4, addresses), max_size=4), around)
def test_report_of_version_3(before: bytes, records: list[tuple[int, bytes, list[bytes]]], after: bytes) -> None:
    message = igmp.build_v3_report(records)
    assert verifies(message)
    assert igmp.parse_v3_report(before + message + after, len(before), len(before) + len(message)) == records


def test_auxiliary_data_is_passed_over() -> None:
    b = bytes.fromhex("22 00 0000 0000 0002 06 01 0001 e00000fb 0a000001 ffffffff 01 00 0000 e00000fc")
    assert igmp.parse_v3_report(b, 0, len(b)) == [(6, G, [S]), (1, b"\xe0\0\0\xfc", [])]


def test_report_that_is_cut() -> None:
    b = igmp.build_v3_report([(1, G, [S]), (2, G, [])])
    for size in range(len(b)):
        with pytest.raises(WireError):
            igmp.parse_v3_report(b, 0, size)
        with pytest.raises(WireError):
            igmp.parse_v3_report(b[:size], 0, len(b))


@given(st.binary(max_size=64), st.integers(0, 8), st.integers(0, 80))
def test_any_bytes(b: bytes, o: int, end: int) -> None:
    for parse in (igmp.parse_query, igmp.parse_v3_report):
        offset = o
        try:
            parse(b, o, end)
        except WireError as e:
            offset = e.offset
        assert offset >= o
