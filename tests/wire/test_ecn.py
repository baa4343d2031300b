"""The CE mark, with the checksum that goes with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usernet.wire import ipv4
from usernet.wire.checksum import csum, csum_fold
from usernet.wire.ecn import with_ce


def header(tos: int, ident: int, ttl: int, source: bytes) -> bytes:
    raw = bytes((0x45, tos)) + b"\0\x28" + ident.to_bytes(2, "big") + b"\0\0" + bytes((ttl, 6, 0, 0))
    raw += source + b"\1\2\3\4"
    return raw[:10] + csum_fold(csum(raw, 0, 20)).to_bytes(2, "big") + raw[12:]


OCTET = st.integers(0, 255)


@given(OCTET, st.integers(0, 65535), OCTET, st.binary(min_size=4, max_size=4), st.integers(0, 3))
def test_ipv4_keeps_a_good_checksum(tos, ident, ttl, source, offset):
    packet = bytes(offset) + header(tos, ident, ttl, source)
    assert ipv4.header_csum_ok(packet, offset, 20)
    change = with_ce(packet, offset)
    if tos & 3 == 0:
        assert change is None
        return
    assert change is not None
    marked = packet[:offset] + change + packet[offset + len(change) :]
    assert marked[offset + 1] == tos | 3
    assert ipv4.header_csum_ok(marked, offset, 20)
    assert marked[offset + 2 : offset + 10] == packet[offset + 2 : offset + 10]
    assert with_ce(marked, offset) == b""


def test_ipv6_and_what_is_neither():
    packet = bytes((0x60, 0x2F, 1, 2)) + bytes(36)  # traffic class 2, flow label f0102
    assert with_ce(packet, 0) == bytes((0x60, 0x3F))
    assert with_ce(bytes((0x60, 0x0F)) + bytes(38), 0) is None
    assert with_ce(bytes((0x60, 0x3F)) + bytes(38), 0) == b""
    assert with_ce(bytes(40), 0) is None
    assert with_ce(b"\x45\x02", 0) is None
