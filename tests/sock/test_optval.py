"""Option values and addresses as bytes."""

from __future__ import annotations

import errno

import pytest

from usernet.sock.msg import PacketAddr, SockAddr
from usernet.sock.optval import decode_int, encode_int, encode_int_or_byte, pack_name


def test_ints() -> None:
    assert decode_int(b"\xff\xff\xff\xff") == -1
    assert decode_int(b"\x01\0\0\0rest") == 1
    assert encode_int(-1, 8) == b"\xff" * 4
    assert encode_int(258, 1) == b"\x02"


def test_ints_that_may_be_a_byte() -> None:
    assert encode_int_or_byte(64, 1) == b"\x40"
    assert encode_int_or_byte(64, 3) == b"\x40"
    assert encode_int_or_byte(300, 2) == b"\x2c\x01"
    assert encode_int_or_byte(64, 4) == b"\x40\0\0\0"


@pytest.mark.parametrize("value", [b"", b"\0\0\0"])
def test_too_short(value: bytes) -> None:
    with pytest.raises(OSError) as caught:
        decode_int(value)
    assert caught.value.errno == errno.EINVAL


def test_no_room_below_zero() -> None:
    with pytest.raises(OSError):
        encode_int(1, -1)


def test_names() -> None:
    assert pack_name(SockAddr(2, b"\x7f\0\0\1", 80)) == b"\2\0\0\x50\x7f\0\0\1" + bytes(8)
    six = pack_name(SockAddr(10, b"\xfe\x80" + bytes(13) + b"\1", 80, 3, 7))
    assert six == b"\x0a\0\0\x50\0\0\0\7\xfe\x80" + bytes(13) + b"\1\3\0\0\0"
    assert pack_name(SockAddr(0, b"", 0)) == bytes(16)
    link = pack_name(PacketAddr(0x0800, 2, 1, 4, b"\2\0\0\0\0\1"))
    assert link == b"\x11\0\x08\0\2\0\0\0\1\0\4\6\2\0\0\0\0\1\0\0"
