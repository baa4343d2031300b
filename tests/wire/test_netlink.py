"""Netlink messages as bytes."""

from __future__ import annotations

import pytest

from usernet.wire import netlink as wire
from usernet.wire.errors import WireError


def test_a_message_is_padded_but_says_its_length():
    data = wire.build(18, 0x301, 7, 9, b"abcde")
    assert len(data) == 24
    assert wire.parse(data, 0) == (21, 18, 0x301, 7, 9)


def test_attributes_as_the_kernel_lays_them_out():
    assert wire.u8(1, 2) == b"\5\0\1\0\2\0\0\0"
    assert wire.u16(1, 0x203) == b"\6\0\1\0\3\2\0\0"
    assert wire.u32(13, 1000) == b"\x08\0\x0d\0\xe8\3\0\0"
    assert wire.u64(21, 1) == b"\x0c\0\x15\0\1\0\0\0\0\0\0\0"
    assert wire.string(3, "lo") == b"\7\0\3\0lo\0\0"
    assert wire.nest(18, wire.u8(1, 2)) == b"\x0c\0\x12\0\5\0\1\0\2\0\0\0"


def test_reading_attributes_back():
    data = b"head" + wire.u32(1, 5) + wire.string(3 | wire.NLA_F_NESTED, "eth0") + wire.u32(1, 6)
    found = wire.attributes(data, 4)
    assert found == {1: b"\6\0\0\0", 3: b"eth0\0"}
    assert wire.number(found[1]) == 6
    assert wire.text(found[3]) == "eth0"


@pytest.mark.parametrize("rest", [b"\0", b"\0" * 4, b"\x09\0\1\0abcd"])
def test_what_is_left_over(rest: bytes):
    assert wire.attributes(wire.u32(1, 5) + rest, 0) == {1: b"\5\0\0\0"}
    with pytest.raises(WireError):
        wire.attributes(wire.u32(1, 5) + rest, 0, strict=True)
