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


def received(frames: list[bytes], trains: bool, offload: bool) -> tuple[list[tuple[Any, ...]], dict[str, int], int]:
    """What went up, the device's counters, and how many frames a train took."""
    net = make_net()
    driver = FrameDriver(trains, offload)
    dev = make_dev(net, driver)
    up = sink(net)
    driver.frames += frames
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
    sizes = [300, 300, 500, 200, 100, 900, 300]
    frames, seq, ident = [], 1, 9
    for size in sizes:
        gso_size = MSS if size > MSS else 0
        skb = tcp_packet(bytes(size), seq=seq, ident=ident, options=STAMP, gso_size=gso_size)
        frames.append(frame_of(skb, True))
        seq += size
        ident += size // MSS
    up, _, taken = received(frames, True, True)
    assert (len(up), taken) == (1, 3)  # the one that is no super-segment ends the train
    assert up == received(frames, False, True)[0]


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


@given(st.lists(st.one_of(st.just({}), st.just({}), _larger, _segment), max_size=14), st.booleans(), st.booleans())
@example([{}, {}, {"size": 700}, {"size": 100}, {"size": 150}, {}], True, True)
@example([{}, {}, {}, {"flags": tcp.ACK | tcp.FIN}, {}], True, True)
@example([{}, {}, {"size": 50}, {}], True, False)
def test_it_makes_no_difference(changes, offload, large):
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
    with_trains, counted, _ = received(frames, True, offload)
    without, expected, _ = received(frames, False, offload)
    assert with_trains == without
    assert counted == expected
