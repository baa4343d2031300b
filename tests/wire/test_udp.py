from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, u16
from usernet.wire import udp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum


@given(around, u16, u16, u16, u16, around)
def test_round_trip(before: bytes, sport: int, dport: int, length: int, check: int, after: bytes) -> None:
    header = udp.build(sport, dport, length, check)
    assert len(header) == udp.UDP_HLEN
    assert udp.parse(before + header + after, len(before)) == (sport, dport, length, check)
    assert header[udp.UDP_CHECK_OFFSET :] == check.to_bytes(2, "big")


def test_known_datagram() -> None:
    # 10.0.0.1:1000 to 10.0.0.2:53, "hi": words 0a00 0001 0a00 0002 0011 000a 03e8 0035 000a 6869 sum to 0x80ae
    src, dst, payload = b"\x0a\0\0\x01", b"\x0a\0\0\x02", b"hi"
    length = udp.UDP_HLEN + len(payload)
    bare = udp.build(1000, 53, length, 0) + payload
    check = csum_fold(csum(bare, 0, length, pseudo_sum(src, dst, 17, length)))
    assert check == 0x80AE ^ 0xFFFF
    assert udp.build(1000, 53, length, check) == bytes.fromhex("03e8 0035 000a 7f51")


@given(st.binary(min_size=udp.UDP_HLEN))
def test_any_bytes(b: bytes) -> None:
    assert udp.build(*udp.parse(b, 0)) == b[: udp.UDP_HLEN]
