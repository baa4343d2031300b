from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import ip4, u32
from usernet.wire import ipv4_options as ipopt
from usernet.wire.errors import WireError

A = b"\x0a\0\0\x01"
B = b"\x0a\0\0\x02"
C = b"\x0a\0\0\x03"
D = b"\x0a\0\0\x04"


def error(octets: str, **how: bool) -> int:
    with pytest.raises(WireError) as caught:
        ipopt.parse_options(bytes.fromhex(octets), **how)
    return caught.value.offset


# ---- reading


def test_options_in_order() -> None:
    options = bytes.fromhex("01 94040000 01 07 07 04 00000000 00 ffff")
    assert ipopt.parse_options(options) == [
        (ipopt.IPOPT_RA, 1, b"\0\0"),
        (ipopt.IPOPT_RR, 6, b"\x04\0\0\0\0"),
    ]


def test_nothing_and_padding() -> None:
    assert ipopt.parse_options(b"") == []
    assert ipopt.parse_options(bytes.fromhex("01 01 00 07")) == []


@pytest.mark.parametrize(
    ("octets", "offset"),
    [
        # Linux's `__ip_options_compile`: the byte that ICMP points at, less the 20 of the header
        ("01 07", 1),  # no length
        ("82 01 0000", 0),  # a length below 2
        ("82 05 0000", 0),  # past the end
        ("01 01 01 82 00", 3),
        ("83 02 0101", 1),  # source route without a pointer
        ("83 07 03 00000000 01", 2),  # pointer before the first slot
        ("83 07 04 00000000 89 07 04 00000000", 7),  # two source routes
        ("07 02 0101", 1),
        ("07 07 03 00000000 01", 2),
        ("07 07 05 00000000 01", 2),  # a slot cut in two
        ("07 07 04 00000000 07 07 04 00000000", 7),
        ("44 03 05 01", 1),
        ("44 08 04 00 00000000", 2),
        ("44 08 06 00 00000000", 2),
        ("44 08 05 01 00000000", 2),  # with addresses, a slot takes 8 bytes
        ("44 08 05 03 00000000", 2),
        ("44 08 09 f0 00000000", 3),  # full, and 15 hosts counted
        ("44 08 05 00 00000000 44 08 05 00 00000000", 8),
        ("94 03 00 01", 1),
        ("86 02 86 02", 2),
    ],
)
def test_the_bad_byte_is_named(octets: str, offset: int) -> None:
    assert error(octets) == offset


@pytest.mark.parametrize(
    "octets",
    [
        "07 07 08 00000000 00",  # full
        "07 03 04 00",  # no room at all
        "83 07 08 0a000001 00",  # at its end
        "44 08 09 e0 00000000",
        "44 0c 0d f3 0a000001 00000000",  # prespecified and full: nothing is counted
        "44 08 05 07 00000000",  # a flag of no meaning
        "82 0b" + "00" * 9 + "01",  # security of RFC 1108
        "99 02 0101",
    ],
)
def test_what_passes(octets: str) -> None:
    assert len(ipopt.parse_options(bytes.fromhex(octets))) == 1


@pytest.mark.parametrize(
    ("octets", "offset"),
    [
        ("83 07 08 0a000001 00", 1),  # used already
        ("83 03 04 00", 1),  # no hop
        ("83 09 04 0a000001 0000 000000", 1),  # half a hop
        ("99 02 0101", 0),
        ("86 02 0101", 0),
        ("44 08 05 07 00000000", 3),
    ],
)
def test_what_a_socket_may_not_send(octets: str, offset: int) -> None:
    assert error(octets, sending=True) == offset


@pytest.mark.parametrize("octets", ["99 02 0101", "86 02 0101", "44 08 05 07 00000000"])
def test_what_privilege_lets_through(octets: str) -> None:
    assert len(ipopt.parse_options(bytes.fromhex(octets), sending=True, privileged=True)) == 1


# ---- fragments


def test_only_copied_options_are_in_later_fragments() -> None:
    # Record route is not copied, router alert and source route are.
    options = bytes.fromhex("07 07 04 00000000 94040000 01 83 07 04 0a000001 00")
    assert ipopt.fragment_options(options) == bytes.fromhex("01010101010101 94040000 01 83 07 04 0a000001 00")


def test_fragment_options_stop_at_the_end() -> None:
    assert ipopt.fragment_options(bytes.fromhex("00 07 03 04")) == bytes.fromhex("00 07 03 04")


@given(st.binary(max_size=40))
def test_fragment_options_of_any_bytes(options: bytes) -> None:
    kept = ipopt.fragment_options(options)
    assert len(kept) == len(options)
    try:
        before = ipopt.parse_options(options)
    except WireError:
        return
    assert ipopt.parse_options(kept) == [found for found in before if found[0] & ipopt.IPOPT_COPY]


# ---- record route


def test_record_route_fills_and_is_full() -> None:
    options = ipopt.pad_options(ipopt.build_record_route(2))
    assert options == bytes.fromhex("07 0b 04 00000000 00000000 00")
    options = ipopt.record_route(options, 0, A)
    assert options == bytes.fromhex("07 0b 08 0a000001 00000000 00")
    options = ipopt.record_route(options, 0, B)
    assert options == bytes.fromhex("07 0b 0c 0a000001 0a000002 00")
    assert ipopt.record_route(options, 0, C) == options


def test_record_route_behind_another_option() -> None:
    options = ipopt.ROUTER_ALERT + ipopt.build_record_route(1) + b"\x01"
    assert ipopt.record_route(options, 4, A) == bytes.fromhex("94040000 07 07 08 0a000001 01")


# ---- timestamp


def test_times_alone() -> None:
    options = ipopt.build_timestamp(ipopt.IPOPT_TS_TSONLY, 1)
    assert options == bytes.fromhex("44 08 05 00 00000000")
    options = ipopt.record_timestamp(options, 0, A, 0x01020304)
    assert options == bytes.fromhex("44 08 09 00 01020304")
    options = ipopt.record_timestamp(options, 0, A, 5)
    assert options == bytes.fromhex("44 08 09 10 01020304")


def test_the_overflow_count_stops_at_15() -> None:
    options = bytes.fromhex("44 08 09 f0 00000000")
    assert ipopt.record_timestamp(options, 0, A, 5) == options


def test_times_and_addresses() -> None:
    options = ipopt.build_timestamp(ipopt.IPOPT_TS_TSANDADDR, 1)
    assert ipopt.timestamp_addr(options, 0) is None
    assert ipopt.record_timestamp(options, 0, A, 7) == bytes.fromhex("44 0c 0d 01 0a000001 00000007")


def test_times_of_the_hosts_that_are_named() -> None:
    options = ipopt.build_timestamp(ipopt.IPOPT_TS_PRESPEC, 2, [A, B])
    assert options == bytes.fromhex("44 14 05 03 0a000001 00000000 0a000002 00000000")
    assert ipopt.timestamp_addr(options, 0) == A
    assert ipopt.record_timestamp(options, 0, C, 7) == options
    options = ipopt.record_timestamp(options, 0, A, 7)
    assert options == bytes.fromhex("44 14 0d 03 0a000001 00000007 0a000002 00000000")
    assert ipopt.timestamp_addr(options, 0) == B
    options = ipopt.record_timestamp(options, 0, B, 8)
    assert ipopt.timestamp_addr(options, 0) is None
    assert ipopt.record_timestamp(options, 0, B, 9) == options


@given(st.sampled_from([0, 1, 3]), st.integers(1, 4), ip4, st.lists(u32, max_size=20))
def test_a_timestamp_stays_valid_as_it_is_filled(flag: int, slots: int, addr: bytes, times: list[int]) -> None:
    options = ipopt.build_timestamp(flag, slots, [addr] * slots)
    size = len(options)
    for time in times:
        options = ipopt.record_timestamp(options, 0, addr, time)
        assert len(options) == size
        if options[3] >> 4 < 15:
            ipopt.parse_options(options)


# ---- source routes


def test_a_source_route_from_end_to_end() -> None:
    # A sends to D by way of B and C (RFC 791 section 3.1, loose source and record route).
    asked = ipopt.pad_options(ipopt.build_source_route(ipopt.IPOPT_LSRR, [B, C]))
    assert ipopt.parse_options(asked, sending=True)[0][0] == ipopt.IPOPT_LSRR
    options, first = ipopt.source_route_start(asked, 0, D)
    assert first == B
    assert options == bytes.fromhex("83 0b 04 0a000003 0a000004 00")

    assert ipopt.source_route_next(options, 0) == C  # at B
    options = ipopt.source_route_advance(options, 0, B)
    assert options == bytes.fromhex("83 0b 08 0a000002 0a000004 00")
    assert ipopt.source_route_next(options, 0) == D  # at C
    options = ipopt.source_route_advance(options, 0, C)
    assert options == bytes.fromhex("83 0b 0c 0a000002 0a000003 00")
    assert ipopt.source_route_next(options, 0) is None  # at D

    # The answer goes back by way of C and B.
    answer, first_back = ipopt.echo_options(options, A)
    assert first_back == C
    assert answer == bytes.fromhex("83 0b 04 0a000002 0a000001 00")


def test_the_answer_does_not_name_the_source_twice() -> None:
    # RFC 1812 section 5.2.4.1: A named itself as the first hop.
    options = bytes.fromhex("89 0b 0c 0a000001 0a000002 00")
    assert ipopt.echo_options(options, A) == (bytes.fromhex("89 07 04 0a000001 00"), B)


def test_the_answer_to_an_unused_source_route_has_none() -> None:
    assert ipopt.echo_options(bytes.fromhex("83 07 04 0a000003 00"), A) == (b"", None)
    assert ipopt.echo_options(bytes.fromhex("83 07 08 0a000001 00"), A) == (b"", None)


def test_the_answer_repeats_record_route_and_timestamp() -> None:
    options = bytes.fromhex("94040000 44 08 09 00 00000001 07 07 08 0a000002 01")
    assert ipopt.echo_options(options, A) == (bytes.fromhex("07 07 08 0a000002 44 08 09 00 00000001 00"), None)


# ---- any bytes


kinds = st.sampled_from([0, 1, 7, 68, 130, 131, 134, 137, 148])
body = st.tuples(kinds, st.integers(0, 16), st.integers(0, 16), st.binary(max_size=12))
likely = st.lists(body.map(lambda t: bytes(t[:3]) + t[3]), max_size=4).map(lambda found: b"".join(found)[:40])


@given(st.binary(max_size=40) | likely, ip4, u32)
def test_any_bytes(options: bytes, addr: bytes, time: int) -> None:
    for how in ({}, {"sending": True}, {"sending": True, "privileged": True}):
        bad: int | None = None
        found: list[tuple[int, int, bytes]] = []
        try:
            found = ipopt.parse_options(options, **how)
        except WireError as e:
            bad = e.offset
        if bad is not None:
            assert 0 <= bad < len(options)
            continue
        for kind, offset, data in found:
            assert options[offset] == kind
            assert options[offset + 2 : offset + options[offset + 1]] == data
            if kind == ipopt.IPOPT_RR:
                assert len(ipopt.record_route(options, offset, addr)) == len(options)
            elif kind == ipopt.IPOPT_TIMESTAMP:
                ipopt.timestamp_addr(options, offset)
                assert len(ipopt.record_timestamp(options, offset, addr, time)) == len(options)
            elif kind in (ipopt.IPOPT_LSRR, ipopt.IPOPT_SSRR):
                ipopt.source_route_next(options, offset)
                assert len(ipopt.source_route_advance(options, offset, addr)) == len(options)
                if how:
                    assert len(ipopt.source_route_start(options, offset, addr)[0]) == len(options)
        if not how:
            answer, _ = ipopt.echo_options(options, addr)
            assert len(answer) % 4 == 0
            assert len(answer) <= ipopt.MAX_IPOPTLEN
            ipopt.parse_options(answer)


def test_router_alert() -> None:
    assert ipopt.router_alert() == ipopt.ROUTER_ALERT == bytes.fromhex("94040000")
    assert ipopt.router_alert(0x0102) == bytes.fromhex("94040102")
