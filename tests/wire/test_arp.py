from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, ip4, mac, u16
from usernet.wire import arp


@given(around, u16, mac, ip4, mac, ip4, around)
def test_round_trip(before: bytes, op: int, sha: bytes, spa: bytes, tha: bytes, tpa: bytes, after: bytes) -> None:
    packet = arp.build(op, sha, spa, tha, tpa)
    assert len(packet) == arp.ARP_HLEN
    assert arp.parse(before + packet + after, len(before)) == (1, 0x0800, 6, 4, op, sha, spa, tha, tpa)


def test_known_request() -> None:
    # 10.0.0.1 at 02:00:00:00:00:01 asks for 10.0.0.2
    packet = bytes.fromhex("0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002")
    built = arp.build(arp.ARPOP_REQUEST, b"\x02\0\0\0\0\x01", b"\x0a\0\0\x01", bytes(6), b"\x0a\0\0\x02")
    assert built == packet


@given(st.binary(min_size=arp.ARP_HLEN))
def test_any_bytes(b: bytes) -> None:
    htype, ptype, hlen, plen, op, sha, spa, tha, tpa = arp.parse(b, 0)
    assert (htype, ptype, hlen, plen) == (b[0] << 8 | b[1], b[2] << 8 | b[3], b[4], b[5])
    assert arp.build(op, sha, spa, tha, tpa)[6:] == b[6:28]
