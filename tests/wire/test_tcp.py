from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, u16, u32
from usernet.wire import tcp

flags = st.integers(0, 0x1FF)
cookie = st.integers(2, 8).flatmap(lambda n: st.binary(min_size=2 * n, max_size=2 * n))
stamps = st.tuples(u32, u32)


# Spelled out: a compiled class keeps no list of its attributes.
NAMES = (
    "mss",
    "wscale",
    "sack_ok",
    "has_ts",
    "tsval",
    "tsecr",
    "sacks",
    "fastopen",
    "fastopen_exp",
    "md5",
    "ao",
    "accecn",
)


def read(options: bytes) -> tcp.TcpOptions:
    return tcp.parse_options(options, 0, len(options))


def fields(opts: tcp.TcpOptions) -> dict[str, object]:
    return {name: getattr(opts, name) for name in NAMES}


NOTHING = fields(tcp.TcpOptions())


def test_signatures_and_malformed_options_are_told_of() -> None:
    for octets, found in (
        ("01 01 02 04 05b4", False), ("13 12" + "00" * 16, True), ("13 04 0000", True), ("1d 03 00", True),
        ("02 00", True), ("02 09 05b4", True), ("02", False), ("00 13 12", False),
    ):  # fmt: skip
        assert read(bytes.fromhex(octets)).auth is found, octets


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        ("", (0, 0)),
        ("01 01 08 0a 00000001 00000000", (0, 0)),
        ("01 01 13 12" + "5a" * 16, (2, 0)),
        ("1d 05 01 02 5a", (0, 0)),  # at 0
        ("01 1d 05 01 02 5a", (0, 1)),
        ("02 04 05b4 1d 10" + "00" * 14, (0, 4)),
        # The list ends before it.
        ("01 00 13 12" + "5a" * 16, (0, 0)),
        # The wrong length
        ("01 13 11" + "5a" * 15, None),
        ("01 1d 04 01 02 01", None),
        # Twice, and both
        ("01 1d 05 01 02 5a 1d 05 01 02 5a", None),
        ("01 13 12" + "5a" * 16 + "13 12" + "5a" * 16, None),
        ("01 13 12" + "5a" * 16 + "1d 05 01 02 5a", None),
        ("01 1d 05 01 02 5a 13 12" + "5a" * 16, None),
        # An option without a length, and one that is cut off, with room for a signature behind
        ("02 00 05b4 01 01", None),
        ("08 0a 0000 0001", None),
        # Fewer bytes than a signature has are not looked at.
        ("02 00 05b4", (0, 0)),
    ],
)
def test_where_a_signature_is(octets: str, expected: tuple[int, int] | None) -> None:
    options = bytes.fromhex(octets)
    assert tcp.parse_auth_options(options, 0, len(options)) == expected


@given(st.binary(max_size=40))
def test_any_options_are_searched_for_a_signature_without_an_error(options: bytes) -> None:
    found = tcp.parse_auth_options(b"\0" * 20 + options, 20, 20 + len(options))
    if found is not None:
        md5, ao = found
        assert not (md5 and ao)
        assert not md5 or options[md5 - 20 : md5 - 18] == b"\x13\x12"
        assert not ao or options[ao - 20] == 29


def only(**changed: object) -> dict[str, object]:
    return NOTHING | changed


# ---- the fixed header


@given(around, u16, u16, u32, u32, flags, u16, u16, u16, st.integers(0, 10).map(lambda n: b"\x01" * 4 * n), around)
def test_round_trip(
    before: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    bits: int,
    window: int,
    check: int,
    urg_ptr: int,
    options: bytes,
    after: bytes,
) -> None:
    header = tcp.build(sport, dport, seq, ack, bits, window, check, urg_ptr, options)
    doff = tcp.TCP_HLEN + len(options)
    assert len(header) == doff
    assert header[tcp.TCP_HLEN :] == options
    assert header[tcp.TCP_CHECK_OFFSET : tcp.TCP_CHECK_OFFSET + 2] == check.to_bytes(2, "big")
    got = tcp.parse(before + header + after, len(before))
    assert got == (sport, dport, seq, ack, doff, bits, window, check, urg_ptr)


def test_known_header() -> None:
    header = bytes.fromhex("0050 c350 00000001 00000002 5012 ffff 1234 0005")
    assert tcp.parse(header, 0) == (80, 50000, 1, 2, 20, tcp.SYN | tcp.ACK, 0xFFFF, 0x1234, 5)
    assert tcp.build(80, 50000, 1, 2, tcp.SYN | tcp.ACK, 0xFFFF, 0x1234, 5) == header


def test_reserved_bits_are_not_flags() -> None:
    header = bytes.fromhex("0050 c350 00000001 00000002 5fff ffff 0000 0000")
    assert tcp.parse(header, 0)[4:6] == (20, 0x1FF)


@pytest.mark.parametrize(
    ("bit", "mask"),
    [
        (tcp.FIN, 0x0001),
        (tcp.SYN, 0x0002),
        (tcp.RST, 0x0004),
        (tcp.PSH, 0x0008),
        (tcp.ACK, 0x0010),
        (tcp.URG, 0x0020),
        (tcp.ECE, 0x0040),
        (tcp.CWR, 0x0080),
        (tcp.AE, 0x0100),
    ],
)
def test_each_flag_has_its_bit(bit: int, mask: int) -> None:
    assert tcp.build(0, 0, 0, 0, bit, 0, 0, 0)[12:14] == (0x5000 | mask).to_bytes(2, "big")


@given(u16, u16, u32, u32, flags, u16, u16, stamps)
def test_build_ts_is_build_with_a_timestamp(
    sport: int, dport: int, seq: int, ack: int, bits: int, window: int, check: int, ts: tuple[int, int]
) -> None:
    header = tcp.build_ts(sport, dport, seq, ack, bits, window, check, *ts)
    options = b"\x01\x01\x08\x0a" + struct.pack("!II", *ts)
    assert header == tcp.build(sport, dport, seq, ack, bits, window, check, 0, options)
    assert tcp.parse_ts(header, tcp.TCP_HLEN) == ts
    assert fields(tcp.parse_options(header, 20, 32)) == only(has_ts=True, tsval=ts[0], tsecr=ts[1])


def test_parse_ts_wants_the_usual_layout() -> None:
    assert tcp.parse_ts(b"\x08\x0a" + bytes(8) + b"\x01\x01", 0) is None
    assert tcp.parse_ts(b"\x01\x01\x08\x0a" + bytes(7), 0) is None
    assert tcp.parse_ts(b"", 0) is None


@given(st.binary(min_size=tcp.TCP_HLEN))
def test_any_bytes_for_a_header(b: bytes) -> None:
    sport, dport, seq, ack, doff, bits, window, check, urg_ptr = tcp.parse(b, 0)
    assert doff in range(0, tcp.TCP_MAX_HLEN + 1, 4)
    built = tcp.build(sport, dport, seq, ack, bits, window, check, urg_ptr)
    assert built[:12] + built[14:] == b[:12] + b[14:20]


# ---- options, read


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        ("", only()),
        ("02 04 05b4", only(mss=1460)),
        ("02 04 0000", only()),
        ("02 04 05b4 02 04 0218", only(mss=536)),
        ("02 04 05b4 02 04 0000", only(mss=1460)),
        ("03 03 0e", only(wscale=14)),
        ("03 03 ff", only(wscale=255)),
        ("03 03 00", only(wscale=0)),
        ("04 02", only(sack_ok=True)),
        ("08 0a 00000001 ffffffff", only(has_ts=True, tsval=1, tsecr=0xFFFFFFFF)),
        ("05 0a 00000001 00000002", only(sacks=[(1, 2)])),
        ("05 12 00000003 00000004 00000001 00000002", only(sacks=[(3, 4), (1, 2)])),
        ("22 02", only(fastopen=b"")),
        ("22 06 01020304", only(fastopen=b"\1\2\3\4")),
        ("fe 04 f989", only(fastopen=b"", fastopen_exp=True)),
        ("fe 08 f989 01020304", only(fastopen=b"\1\2\3\4", fastopen_exp=True)),
        ("13 12" + "5a" * 16, only(md5=b"\x5a" * 16)),
        ("1d 10 0102" + "a5" * 12, only(ao=b"\1\2" + b"\xa5" * 12)),
        ("ac 0b 000001 000002 000003", only(accecn=(172, bytes.fromhex("000001000002000003")))),
        ("ae 02", only(accecn=(174, b""))),
        # Padding, unknown kinds, the end of the list
        ("01 01 01 02 04 05b4 01", only(mss=1460)),
        ("1e 04 0000 02 04 05b4", only(mss=1460)),
        ("00 02 04 05b4", only()),
        # A known kind of the wrong length is passed over, and what follows is read.
        ("02 03 05 04 02", only(sack_ok=True)),
        ("03 04 0101 04 02", only(sack_ok=True)),
        ("04 03 00 02 04 05b4", only(mss=1460)),
        ("08 09" + "00" * 7 + "04 02", only(sack_ok=True)),
        ("05 02 04 02", only(sack_ok=True)),
        ("05 0b" + "00" * 9 + "04 02", only(sack_ok=True)),
        ("13 11" + "00" * 15 + "04 02", only(sack_ok=True)),
        ("1d 03 00 04 02", only(sack_ok=True)),
        ("fe 03 f9 04 02", only(sack_ok=True)),
        ("fe 06 e2d4 c3d9 04 02", only(sack_ok=True)),
        # Cookies of an odd length, of 2 bytes, of 18
        ("22 03 00 04 02", only(sack_ok=True)),
        ("22 04 0000 04 02", only(sack_ok=True)),
        ("22 14" + "00" * 18 + "04 02", only(sack_ok=True)),
        # "Silly" and partial options end the reading; what came before stays.
        ("02 04 05b4 04", only(mss=1460)),
        ("02 04 05b4 04 00 03 03 07", only(mss=1460)),
        ("02 04 05b4 04 01 03 03 07", only(mss=1460)),
        ("02 04 05b4 08 0a 00000001", only(mss=1460)),
    ],
)
def test_options_read(octets: str, expected: dict[str, object]) -> None:
    assert fields(read(bytes.fromhex(octets))) == expected


def test_only_the_bytes_of_the_header_are_read() -> None:
    b = b"\x02\x04\x05\xb4" + b"\x08\x0a" + bytes(8) + b"\x02\x04\x02\x18"
    assert fields(tcp.parse_options(b, 0, 4)) == only(mss=1460)
    assert fields(tcp.parse_options(b, 4, 13)) == only()
    assert fields(tcp.parse_options(b, 4, 14)) == only(has_ts=True)
    assert fields(tcp.parse_options(b, 14, 99)) == only(mss=536)
    assert fields(tcp.parse_options(b, 18, 18)) == only()


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 80))
def test_any_bytes_for_options(b: bytes, start: int, end: int) -> None:
    opts = tcp.parse_options(b, start, end)
    assert 0 <= opts.mss <= 0xFFFF
    assert -1 <= opts.wscale <= 255
    assert opts.fastopen is None or len(opts.fastopen) in (0, 4, 6, 8, 10, 12, 14, 16)
    assert tcp.parse_ts(b, start) is None or opts.has_ts or end < start + 12


kinds = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 19, 29, 34, 172, 174, 254])
option = st.tuples(kinds, st.integers(0, 40), st.binary(max_size=38)).map(lambda t: bytes(t[:2]) + t[2])


@given(st.lists(option, max_size=6).map(lambda found: b"".join(found)))
def test_options_that_look_like_options(b: bytes) -> None:
    read(b[:40])


# ---- options, built


@pytest.mark.parametrize(
    ("args", "octets"),
    [
        # As `tcp_options_write` lays them out
        ((1460, 7, True, (1, 0)), "020405b4 0402080a 00000001 00000000 01030307"),
        ((1460, 7, False, (1, 0)), "020405b4 0101080a 00000001 00000000 01030307"),
        ((1460, 7, True, None), "020405b4 01010402 01030307"),
        ((1460, -1, True, None), "020405b4 01010402"),
        ((1460, 0, False, None), "020405b4 01030300"),
        ((1460, -1, False, None), "020405b4"),
        ((0, -1, False, None), ""),
        ((1460, 7, True, (1, 0), b""), "020405b4 0402080a 00000001 00000000 01030307 22020101"),
        ((1460, -1, False, None, b"\1\2\3\4\5\6\7\x08"), "020405b4 220a0102030405060708 0101"),
        ((1460, -1, False, None, b"", True), "020405b4 fe04f989"),
        ((1460, -1, False, None, b"\1\2\3\4\5\6", True), "020405b4 fe0af989010203040506 0101"),
        ((1460, -1, True, None, None, False, b"\x1d\x10" + bytes(14)), "1d10" + "00" * 14 + "020405b4 01010402"),
    ],
)
def test_syn_options_are_laid_out_as_linux_does(
    args: tuple[int, int, bool, tuple[int, int] | None], octets: str
) -> None:
    assert tcp.build_syn_options(*args) == bytes.fromhex(octets)


@given(u16, st.integers(-1, 255), st.booleans(), st.none() | stamps, st.none() | st.just(b"") | cookie, st.booleans())
def test_syn_options_round_trip(
    mss: int, wscale: int, sack_ok: bool, ts: tuple[int, int] | None, fastopen: bytes | None, exp: bool
) -> None:
    options = tcp.build_syn_options(mss, wscale, sack_ok, ts, fastopen, fastopen_exp=exp)
    assert len(options) % 4 == 0
    expected = only(mss=mss, wscale=wscale, sack_ok=sack_ok, fastopen=fastopen)
    if fastopen is not None:
        expected["fastopen_exp"] = exp
    if ts is not None:
        expected |= {"has_ts": True, "tsval": ts[0], "tsecr": ts[1]}
    assert fields(read(options)) == expected


def test_sack_of_one_block_with_a_timestamp() -> None:
    options = tcp.build_sack([(0x1000, 0x2000)], (1, 2))
    assert options == bytes.fromhex("0101080a 00000001 00000002 0101050a 00001000 00002000")


def test_sack_of_four_blocks() -> None:
    blocks = [(7, 8), (1, 2), (3, 4), (5, 6)]
    options = tcp.build_sack(blocks, None)
    assert options[:4] == bytes.fromhex("01010522")
    assert len(options) == 36 <= tcp.MAX_TCP_OPTION_SPACE
    assert read(options).sacks == blocks


@given(st.lists(stamps, max_size=3), st.none() | stamps)
def test_sack_round_trip(blocks: list[tuple[int, int]], ts: tuple[int, int] | None) -> None:
    options = tcp.build_sack(blocks, ts)
    assert len(options) % 4 == 0 and len(options) <= tcp.MAX_TCP_OPTION_SPACE
    opts = read(options)
    assert (opts.sacks or []) == blocks
    assert opts.has_ts is (ts is not None)
    assert (opts.tsval, opts.tsecr) == (ts or (0, 0))
    if ts is not None:
        assert tcp.parse_ts(options, 0) == ts


@pytest.mark.parametrize(("count", "ts"), [(5, None), (4, (1, 2))])
def test_sack_of_more_blocks_than_fit(count: int, ts: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match=f"{count} SACK blocks do not fit"):
        tcp.build_sack([(1, 2)] * count, ts)
