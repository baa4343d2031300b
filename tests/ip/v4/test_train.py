"""Trains: with them and without, the same goes up, and the same is counted."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.netdevice.packets import FakeDriver, make_dev, make_net, sink, tcp_packet
from usernet.drivers.vnet_hdr import receive_header, transmit_header
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import tcp
from usernet.wire.virtio_net import VIRTIO_NET_HDR_LEN

MSS = 100
STAMP = b"\1\1\x08\x0a" + (77).to_bytes(4, "big") + (5).to_bytes(4, "big")


class FrameDriver(FakeDriver):
    """Reads frames, as a TAP does, and offers them to the train where there is to be one."""

    def __init__(self, trains: bool, offload: bool) -> None:
        super().__init__()
        self.trains = trains
        self.header = VIRTIO_NET_HDR_LEN if offload else 0
        self.frames: list[bytes] = []
        self.taken = 0

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        napi = self.dev.napi
        done = 0
        while self.frames and done < budget:
            frame = self.frames.pop(0)
            done += 1
            if self.trains and napi.train is not None and napi.train.take(frame):
                self.taken += 1
                continue
            skb = SKBuff(frame, self.header)
            if self.header:
                assert receive_header(skb, 14)
            napi.receive(skb)
        return done


def frame_of(skb: SKBuff, offload: bool) -> bytes:
    if offload:
        return transmit_header(skb) + skb.tobytes()
    checksum_help(skb)
    return skb.tobytes()


def received(
    frames: list[bytes], trains: bool, offload: bool, per_poll: int = 1000
) -> tuple[list[tuple[Any, ...]], dict[str, int], int]:
    """What went up, the device's counters, and how many frames a train took."""
    net = make_net()
    driver = FrameDriver(trains, offload)
    dev = make_dev(net, driver)
    up = sink(net)
    for start in range(0, len(frames), per_poll):
        driver.frames += frames[start : start + per_poll]
        net.loop.softirq.schedule(dev.napi)
        net.loop.softirq.run()
    shown: list[tuple[Any, ...]] = [
        (skb.tobytes(), skb.len, skb.data_len, skb.truesize, skb.gso_size, skb.gso_segs, skb.gso_type, skb.ip_summed)
        for skb in up
    ]
    return shown, dev.statistics.as_dict(), driver.taken


def row(count: int, segments: int, options: bytes = STAMP, step: int = 1) -> list[SKBuff]:
    size = segments * MSS
    return [
        tcp_packet(
            bytes([i]) * size, seq=1 + i * size, ident=9 + i * step * segments, options=options,
            gso_size=MSS if segments > 1 else 0,
        )
        for i in range(count)
    ]


def test_all_but_the_first_two_are_taken():
    for offload in (True, False):
        for segments in (3, 1) if offload else (1,):
            frames = [frame_of(skb, offload) for skb in row(9, segments)]
            up, _, taken = received(frames, True, offload)
            assert taken == 7
            assert len(up) == 1
            assert up[0][5] == 9 * segments


def test_they_may_be_of_different_sizes():
    up, _, taken = received(in_a_row([300, 300, 500, 200, 100, 900, 300, 100]), True, True)
    assert (len(up), taken) == (1, 5)  # the first single one is a model itself
    assert up == received(in_a_row([300, 300, 500, 200, 100, 900, 300, 100]), False, True)[0]


def test_a_train_of_super_segments_goes_on_in_the_next_poll():
    frames = in_a_row([300, 300, 100, 500, 300, 100, 300, 100, 300])
    up, _, taken = received(frames, True, True, per_poll=4)
    assert (len(up), taken) == (3, 1 + 3 + 0)
    frames = in_a_row([300] * 12)
    up, _, taken = received(frames, True, True, per_poll=4)
    assert (len(up), taken) == (3, 2 + 3 + 3)


def test_so_does_one_behind_a_packet_that_is_full():
    frames = in_a_row([60000] * 20)
    up, _, taken = received(frames, True, True)
    assert [entry[5] for entry in up] == [4800, 4800, 2400]
    assert taken == 20 - 2 - 2
    assert up == received(frames, False, True)[0]


def test_trains_of_flows_that_alternate():
    one, other = in_a_row([300] * 6), in_a_row([300] * 6, sport=1001)
    frames = [frame for pair in zip(one, other, strict=True) for frame in pair]
    up, _, taken = received([*frames, *in_a_row([300, 300], seq=1801, ident=27)], True, True)
    assert [entry[5] for entry in up] == [24, 18]
    assert taken == 1


def in_a_row(sizes: list[int], seq: int = 1, ident: int = 9, sport: int = 1000) -> list[bytes]:
    """Frames of so many bytes of payload each, super-segments where it is more than one segment."""
    frames = []
    for size in sizes:
        gso_size = MSS if size > MSS else 0
        skb = tcp_packet(bytes(size), seq=seq, ident=ident, options=STAMP, gso_size=gso_size, sport=sport)
        frames.append(frame_of(skb, True))
        seq += size
        ident += size // MSS
    return frames


def test_the_identification_may_stay_the_same():
    frames = [frame_of(skb, True) for skb in row(6, 2, step=0)]
    up, _, taken = received(frames, True, True)
    assert (len(up), taken) == (1, 4)


def test_a_wrong_checksum_ends_the_train():
    frames = [frame_of(skb, False) for skb in row(6, 1)]
    frames[4] = frames[4][:-1] + bytes([frames[4][-1] ^ 1])
    up, _, taken = received(frames, True, False)
    assert taken == 2
    assert up == received(frames, False, False)[0]


def test_a_train_is_bounded_as_merging_is():
    frames = [frame_of(skb, True) for skb in row(12, 600)]
    up, _, _ = received(frames, True, True)
    assert [entry[5] for entry in up] == [8 * 600, 4 * 600]
    assert up == received(frames, False, True)[0]


_segment = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.ACK | tcp.CWR, tcp.ACK | tcp.URG]),
        "window": st.sampled_from([500, 501]),
        "ttl": st.sampled_from([63, 64]),
        "tos": st.sampled_from([0, 3]),
        "ack": st.sampled_from([7, 8]),
        "options": st.sampled_from([STAMP, b"", STAMP[:4] + bytes(8)]),
        "sport": st.sampled_from([1000, 1001]),
        "frag_off": st.sampled_from([0, 0x4000, 0x2000]),
        "seq": st.integers(0, 4000),
        "ident": st.integers(0, 40),
        "size": st.sampled_from([1, 50, 99, 100, 101, 200]),
    },
)  # fmt: skip


_larger = st.sampled_from([{"size": 200}, {"size": 300}, {"size": 700}])


@given(
    st.lists(st.one_of(st.just({}), st.just({}), _larger, _segment), max_size=14),
    st.booleans(),
    st.booleans(),
    st.integers(1, 14),
)
@example([{}, {}, {"size": 700}, {"size": 100}, {"size": 150}, {}], True, True, 14)
@example([{}, {}, {}, {"flags": tcp.ACK | tcp.FIN}, {}], True, True, 14)
@example([{}, {}, {"size": 50}, {}], True, False, 14)
@example([{"ident": 9}, {"ident": 9}, {"frag_off": 0, "ident": 9}, {"frag_off": 0, "ident": 9}], True, True, 2)
@example([{}, {}, {"ttl": 63, "size": 100}, {}], True, True, 2)
@example([{"flags": tcp.ACK | tcp.PSH}] * 2 + [{"size": 100}] * 2 + [{"flags": tcp.ACK | tcp.PSH}], True, True, 3)
def test_it_makes_no_difference(changes, offload, large, per_poll):
    frames = []
    seq, ident = 1, 9
    for change in changes:
        change = dict(change)
        size = change.pop("size", 300 if large and offload else MSS)
        skb = tcp_packet(
            bytes([seq & 0xFF]) * size, gso_size=MSS if size > MSS and offload else 0,
            **{"seq": seq, "ident": ident, "options": STAMP, **change},
        )  # fmt: skip
        frames.append(frame_of(skb, offload))
        seq += size
        ident += -(-size // MSS)
    with_trains, counted, _ = received(frames, True, offload, per_poll)
    without, expected, _ = received(frames, False, offload, per_poll)
    assert with_trains == without
    assert counted == expected
