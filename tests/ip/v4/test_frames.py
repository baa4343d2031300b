"""The frames of a super-segment are what splitting it into packets and filling in their checksums gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import FakeDriver, make_dev, make_net, offload_of, tcp_packet
from usernet.ip.v4.frames import tcp_frames
from usernet.net.packet_type import PacketTypes, Tap
from usernet.netdevice.driver import NETIF_F_SG
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import SKB_GSO_TCP_ACCECN, SKB_GSO_UDP_L4, SKBuff
from usernet.wire import ipv4, tcp


class PlainDriver(FakeDriver):
    """A NIC that takes frames as bytes, `room` of them."""

    plain_frames = True

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__(NETIF_F_SG, room)
        self.frames: list[bytes] = []
        self.refused: set[int] = set()
        """Which frames of a super-segment are refused, by number."""

    def write_frames(self, frames: list[bytes], start: int) -> int:
        assert self.dev is not None
        for at in range(start, len(frames)):
            if self.room <= 0:
                self.dev.stop_queue()
                return at
            self.room -= 1
            if at in self.refused:
                self.dev.statistics.tx_errors += 1
                return at
            self.frames.append(frames[at])
        return len(frames)


def super_segment(payload: bytes | list[bytes], size: int = 400, accecn: bool = False, **kwargs: object) -> SKBuff:
    skb = tcp_packet(payload, gso_size=size, **kwargs)  # type: ignore[arg-type]
    skb.network_header = 14 if kwargs.get("link", True) else 0
    if accecn:
        skb.gso_type |= SKB_GSO_TCP_ACCECN
    return skb


def packet_by_packet(skb: SKBuff) -> list[bytes]:
    segments = offload_of(make_net()).gso_segment(skb)
    for segment in segments:
        checksum_help(segment)
    return [segment.tobytes() for segment in segments]


@given(
    st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4),
    st.integers(1, 1500),
    st.integers(0, 0xFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
    st.sampled_from([b"", b"\1\1\x08\x0a\xff\xff\xff\xff\0\0\0\1", b"\1" * 40]),
    st.booleans(),
    st.booleans(),
)
def test_they_are_the_same_as_packet_by_packet(parts, size, flags, seq, ident, options, link, accecn):
    def make() -> SKBuff:
        return super_segment(
            list(parts), size, accecn, flags=flags | tcp.ACK, seq=seq, ack=seq ^ 0x5555, ident=ident, tos=flags,
            options=options, link=link, window=ident,
        )  # fmt: skip

    assert tcp_frames(make()) == packet_by_packet(make())


def test_the_other_ones_go_the_ordinary_way():
    udp = super_segment(b"p" * 1000)
    udp.gso_type = SKB_GSO_UDP_L4
    assert tcp_frames(udp) is None
    fragment = super_segment(b"p" * 1000, frag_off=ipv4.IP_MF)
    assert tcp_frames(fragment) is None
    short = super_segment(b"p" * 1000)
    short.store(14 + 20 + 12, b"\x40")  # a data offset below the header's own length
    assert tcp_frames(short) is None
    options = super_segment(b"p" * 1000)
    options.store(14, b"\x46")
    assert tcp_frames(options) is None


def test_a_device_that_takes_plain_frames_gets_them_and_the_account_is_given_back_once():
    dev = make_dev(make_net(), driver := PlainDriver(room=1))
    freed: list[object] = []
    skb = super_segment(b"p" * 1000)
    skb.destructor = lambda one: freed.append(one.truesize)
    dev.queue_xmit(skb)
    assert len(driver.frames) == 1
    assert not freed
    later = tcp_packet(b"last", seq=1001)
    dev.queue_xmit(later)
    assert len(driver.frames) == 1
    driver.room = 100
    dev.wake_queue()
    assert driver.frames == packet_by_packet(super_segment(b"p" * 1000))
    assert driver.sent == [later]
    assert freed == [skb.truesize]
    assert dev.statistics.tx_packets == 4
    assert dev.statistics.tx_bytes == 1000 + 3 * 54 + 58


def test_what_still_waits_when_the_device_goes_down_is_dropped_and_the_account_given_back():
    net = make_net()
    dev = make_dev(net, driver := PlainDriver(room=1))
    freed: list[object] = []
    skb = super_segment(b"p" * 1000)
    skb.destructor = freed.append
    dev.queue_xmit(skb)
    left = dev.transmit.reset()
    assert [one.tobytes() for one in left] == packet_by_packet(super_segment(b"p" * 1000))[1:]
    assert freed == [skb]
    assert not dev.transmit.waiting
    assert len(driver.frames) == 1


@pytest.mark.parametrize("refused", [{0}, {1}, {2}, {0, 1}, {0, 1, 2}])
def test_a_frame_that_the_nic_refuses_is_an_error_and_not_counted_as_sent(refused):
    dev = make_dev(make_net(), driver := PlainDriver())
    driver.refused = set(refused)
    dev.queue_xmit(super_segment(b"p" * 1000))
    every = packet_by_packet(super_segment(b"p" * 1000))
    assert driver.frames == [frame for number, frame in enumerate(every) if number not in refused]
    assert not dev.transmit.waiting
    assert (dev.statistics.tx_packets, dev.statistics.tx_errors) == (3 - len(refused), len(refused))
    assert dev.statistics.tx_bytes == sum(map(len, driver.frames))


@pytest.mark.parametrize("observer", ["tap", "probe"])
def test_with_someone_looking_each_segment_is_a_packet(observer):
    net = make_net()
    dev = make_dev(net, driver := PlainDriver())
    seen = []

    if observer == "tap":
        net.get(PacketTypes).add_tap(Tap(lambda skb: seen.append(skb.len)))
    else:
        net.trace.net_dev_xmit.attach(lambda skb, ok: seen.append(skb.len))
    dev.queue_xmit(super_segment(b"p" * 1000))
    assert len(seen) == 3
    assert not driver.frames
    assert [skb.len - 54 for skb in driver.sent] == [400, 400, 200]
