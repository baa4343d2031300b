from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, ip4, u8, u16
from usernet.wire import ipv4

options = st.binary(max_size=40).map(lambda b: b[: len(b) & ~3])


@given(around, u8, u16, u16, u16, u8, u8, ip4, ip4, options, around)
def test_round_trip(
    before: bytes,
    tos: int,
    tot_len: int,
    ident: int,
    frag_off: int,
    ttl: int,
    protocol: int,
    saddr: bytes,
    daddr: bytes,
    opts: bytes,
    after: bytes,
) -> None:
    header = ipv4.build(tos, tot_len, ident, frag_off, ttl, protocol, saddr, daddr, opts)
    b, o = before + header + after, len(before)
    fields = ipv4.parse(b, o)
    hlen = (fields[0] & 15) * 4
    assert fields[0] >> 4 == ipv4.IPVERSION
    assert hlen == len(header) == ipv4.IP_HLEN + len(opts)
    assert fields[1:7] == (tos, tot_len, ident, frag_off, ttl, protocol)
    assert fields[8:] == (saddr, daddr)
    assert b[o + ipv4.IP_HLEN : o + hlen] == opts
    assert ipv4.header_csum_ok(b, o, hlen)


def test_known_header() -> None:
    # UDP from 192.168.0.1 to 192.168.0.199. Words 4500 0073 0000 4000 4011 c0a8 0001 c0a8 00c7 sum to 0x479e.
    header = bytes.fromhex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")
    assert ipv4.header_csum_ok(header, 0, 20)
    built = ipv4.build(0, 0x73, 0, ipv4.IP_DF, 64, 17, b"\xc0\xa8\0\x01", b"\xc0\xa8\0\xc7")
    assert built == header
    assert ipv4.parse(header, 0) == (0x45, 0, 0x73, 0, ipv4.IP_DF, 64, 17, 0xB861, b"\xc0\xa8\0\x01", b"\xc0\xa8\0\xc7")


def test_known_header_with_a_router_alert() -> None:
    # An IGMPv3 report to 224.0.0.22. 46c0 0028 0000 4000 0102 0a00 0001 e000 0016 9404 0000 sum, folded, to 0x0607.
    header = ipv4.build(0xC0, 40, 0, ipv4.IP_DF, 1, 2, b"\x0a\0\0\x01", b"\xe0\0\0\x16", ipv4.ROUTER_ALERT)
    assert header == bytes.fromhex("46c0 0028 0000 4000 0102 f9f8 0a00 0001 e000 0016 9404 0000")


@given(st.binary(min_size=20, max_size=60))
def test_damage_is_seen(b: bytes) -> None:
    header = ipv4.build(0, 20, 0, 0, 64, b[0], b[1:5], b[5:9])
    for bit in range(8):
        damaged = bytearray(header)
        damaged[b[9] % 20] ^= 1 << bit
        assert not ipv4.header_csum_ok(bytes(damaged), 0, 20)


def test_zeros_are_no_header() -> None:
    assert not ipv4.header_csum_ok(bytes(20), 0, 20)


@given(u8, u16, u16, u16, st.integers(1, 255), u8, ip4, ip4, options)
def test_decrease_ttl_keeps_the_checksum_right(
    tos: int, tot_len: int, ident: int, frag_off: int, ttl: int, protocol: int, saddr: bytes, daddr: bytes, opts: bytes
) -> None:
    header = ipv4.build(tos, tot_len, ident, frag_off, ttl, protocol, saddr, daddr, opts)
    expected = ipv4.build(tos, tot_len, ident, frag_off, ttl - 1, protocol, saddr, daddr, opts)
    assert ipv4.decrease_ttl(header) == expected


def test_decrease_ttl_keeps_a_wrong_checksum_wrong() -> None:
    header = bytearray(ipv4.build(0, 20, 0, 0, 64, 6, b"\x0a\0\0\x01", b"\x0a\0\0\x02"))
    header[11] ^= 1
    assert not ipv4.header_csum_ok(ipv4.decrease_ttl(bytes(header)), 0, 20)


@pytest.mark.parametrize("check", [0xFEFE, 0xFEFF, 0xFF00, 0xFFFE, 0xFFFF, 0])
def test_decrease_ttl_at_the_ends_of_the_range(check: int) -> None:
    header = bytes(8) + b"\x40\x06" + check.to_bytes(2, "big") + bytes(8)
    after = int.from_bytes(ipv4.decrease_ttl(header)[10:12], "big")
    assert after % 0xFFFF == (check + 0x100) % 0xFFFF


@given(ip4)
def test_text_round_trip(addr: bytes) -> None:
    text = ipv4.format_addr(addr)
    assert text == socket.inet_ntoa(addr)
    assert ipv4.parse_addr(text) == addr


@given(st.text(alphabet="0123456789.", max_size=16) | st.text())
def test_text_is_read_as_inet_pton_reads_it(text: str) -> None:
    try:
        expected: bytes | None = socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        expected = None
    try:
        got: bytes | None = ipv4.parse_addr(text)
    except ValueError:
        got = None
    assert got == expected


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.-4", "1.2.3.٤", "1..2.3", "a.b.c.d"]
)
def test_text_that_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        ipv4.parse_addr(text)


@given(st.binary(min_size=ipv4.IP_HLEN))
def test_any_bytes(b: bytes) -> None:
    ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, _, saddr, daddr = ipv4.parse(b, 0)
    assert ipv4.build(tos, tot_len, ident, frag_off, ttl, protocol, saddr, daddr)[1:10] == b[1:10]
    ipv4.header_csum_ok(b, 0, (ver_ihl & 15) * 4)
    if ttl:
        assert ipv4.decrease_ttl(b)[8] == ttl - 1


def test_the_options_are_here_too() -> None:
    assert ipv4.parse_options(ipv4.router_alert()) == [(ipv4.IPOPT_RA, 0, b"\0\0")]
