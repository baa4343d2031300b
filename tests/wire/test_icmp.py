from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, u8, u32
from usernet.wire import icmp
from usernet.wire.checksum import csum, csum_fold


@given(around, u8, u8, u32, st.binary(max_size=100), around)
def test_round_trip(before: bytes, type_: int, code: int, rest: int, payload: bytes, after: bytes) -> None:
    message = icmp.build(type_, code, rest, payload)
    assert len(message) == icmp.ICMP_HLEN + len(payload)
    got_type, got_code, check, got_rest = icmp.parse(before + message + after, len(before))
    assert (got_type, got_code, got_rest) == (type_, code, rest)
    assert message[icmp.ICMP_HLEN :] == payload
    bare = message[:2] + b"\0\0" + message[4:]
    assert check == csum_fold(csum(bare, 0, len(bare)))


def test_known_echo() -> None:
    # Words 0800 0001 0001 6162 sum to 0x6964.
    message = icmp.build(icmp.ICMP_ECHO, 0, 0x00010001, b"ab")
    assert message == bytes.fromhex("08 00 969b 0001 0001 6162")
    assert csum_fold(csum(message, 0, len(message))) == 0


def test_known_fragmentation_needed() -> None:
    # RFC 1191 section 4: the MTU in the low half of the second word
    message = icmp.build(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 1400, b"")
    assert message == bytes.fromhex("03 04 f783 0000 0578")


def test_an_echo_reply_of_zeros_has_a_checksum_of_ones() -> None:
    message = icmp.build(icmp.ICMP_ECHOREPLY, 0, 0, b"")
    assert message == bytes.fromhex("00 00 ffff 00000000")
    assert csum_fold(csum(message, 0, len(message))) == 0


def test_errors_and_queries() -> None:
    errors = {type_ for type_ in range(256) if icmp.is_error(type_)}
    assert errors == {
        icmp.ICMP_DEST_UNREACH,
        icmp.ICMP_SOURCE_QUENCH,
        icmp.ICMP_REDIRECT,
        icmp.ICMP_TIME_EXCEEDED,
        icmp.ICMP_PARAMETERPROB,
    }


@given(st.binary(min_size=icmp.ICMP_HLEN))
def test_any_bytes(b: bytes) -> None:
    type_, code, _, rest = icmp.parse(b, 0)
    message = icmp.build(type_, code, rest, b[8:])
    assert message[:2] + message[4:] == b[:2] + b[4:]
