from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, u8, u16
from usernet.wire import virtio_net


@given(around, u8, u8, u16, u16, u16, u16, around)
def test_round_trip(
    before: bytes, flags: int, kind: int, hdr_len: int, size: int, start: int, offset: int, after: bytes
) -> None:
    header = virtio_net.build(flags, kind, hdr_len, size, start, offset)
    assert len(header) == virtio_net.VIRTIO_NET_HDR_LEN
    assert virtio_net.parse(before + header + after, len(before)) == (flags, kind, hdr_len, size, start, offset)


def test_known_super_segment() -> None:
    # TCP over IPv4 behind Ethernet, segments of 1448 bytes: headers of 14 + 20 + 32, checksum at 34 + 16
    header = virtio_net.build(
        virtio_net.VIRTIO_NET_HDR_F_NEEDS_CSUM, virtio_net.VIRTIO_NET_HDR_GSO_TCPV4, 66, 1448, 34, 16
    )
    assert header == bytes.fromhex("01 01 4200 a805 2200 1000")


def test_empty() -> None:
    assert virtio_net.parse(virtio_net.EMPTY, 0) == (0, virtio_net.VIRTIO_NET_HDR_GSO_NONE, 0, 0, 0, 0)
    assert len(virtio_net.EMPTY) == virtio_net.VIRTIO_NET_HDR_LEN


@given(st.binary(min_size=virtio_net.VIRTIO_NET_HDR_LEN))
def test_any_bytes(b: bytes) -> None:
    assert virtio_net.build(*virtio_net.parse(b, 0)) == b[: virtio_net.VIRTIO_NET_HDR_LEN]
