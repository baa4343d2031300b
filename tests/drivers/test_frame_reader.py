"""By the ring or one by one: the same goes up in the same order, and the same is counted."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.netdevice.packets import ETH_P_IP, FakeDriver, make_dev, make_net, sink, tcp_packet, udp_packet
from usernet.drivers.frame_reader import WORTHWHILE, FrameReader
from usernet.ip.v4 import train
from usernet.net.packet_type import PacketTypes
from usernet.netdevice.driver import NETIF_F_GRO
from usernet.netdevice.namespace import DeviceNamespace
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import tcp

MSS = 100
LARGEST = 4000
STAMP = b"\1\1\x08\x0a" + (77).to_bytes(4, "big") + (5).to_bytes(4, "big")


class Device(FakeDriver):
    """A device on a descriptor whose reads are frames, received with the reader or without."""

    def __init__(self, reader: bool) -> None:
        super().__init__()
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.far.setblocking(False)
        self.reader = FrameReader(self.near.fileno(), LARGEST) if reader else None
        self.net = make_net()
        self.up = sink(self.net)
        make_dev(self.net, self)

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        if self.reader is not None:
            return self.reader.poll(self.dev, self.dev.napi, budget)
        done = 0
        try:
            while done < budget:
                self.dev.napi.receive(SKBuff(os.read(self.near.fileno(), LARGEST)))
                done += 1
        except BlockingIOError:
            return done
        return done

    def fill(self, frames: list[bytes]) -> None:
        """Have `frames` ready to be read."""
        for frame in frames:
            self.far.send(frame)

    def receive(self, frames: list[bytes]) -> None:
        """Receive `frames`, as many polls as it takes."""
        assert self.dev is not None
        self.fill(frames)
        self.net.loop.softirq.schedule(self.dev.napi)
        while not self.net.loop.softirq.idle:
            self.net.loop.softirq.run()

    def outcome(self) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
        """What went up, and the device's counters."""
        assert self.dev is not None
        shown: list[tuple[Any, ...]] = [
            (
                skb.tobytes(), skb.len, skb.data_len, skb.truesize, skb.gso_size, skb.gso_segs, skb.gso_type,
                skb.ip_summed,
            )
            for skb in self.up
        ]  # fmt: skip
        return shown, self.dev.statistics.as_dict()

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def device():
    made = Device(True)
    yield made
    made.close()


def frame_of(seq: int, ident: int, size: int = MSS, **changes: Any) -> bytes:
    skb = tcp_packet(bytes([seq & 0xFF]) * size, **{"seq": seq, "ident": ident, "options": STAMP, **changes})
    checksum_help(skb)
    return skb.tobytes()


def flow(count: int, seq: int = 1, ident: int = 9, **changes: Any) -> list[bytes]:
    return [frame_of(seq + i * MSS, ident + i, **changes) for i in range(count)]


def segments(device: Device) -> list[int]:
    return [skb.gso_segs or 1 for skb in device.up]


def ring_is_used(device: Device) -> bool:
    assert device.reader is not None
    return device.reader._ringing


def test_the_second_long_run_has_it_use_the_ring(device):
    # Two frames are packets before there is a run.
    for wanted, count in ((False, WORTHWHILE + 1), (False, WORTHWHILE + 2), (True, WORTHWHILE + 2)):
        device.receive(flow(count))
        assert ring_is_used(device) == wanted
    device.receive(flow(20))
    assert ring_is_used(device)
    assert segments(device) == [9, 10, 10, 20]


def test_mixed_traffic_has_it_read_one_by_one_again(device):
    for _ in range(3):
        device.receive(flow(20))
    assert ring_is_used(device)
    device.receive([udp_packet(b"x" * 30, ident=i).tobytes() for i in range(8)])
    assert not ring_is_used(device)
    assert len(device.up) == 3 + 8


def test_another_length_gets_a_ring_of_its_own(device):
    for _ in range(3):
        device.receive(flow(20))
    assert device.reader._ring.length == MSS + 66
    for _ in range(3):
        device.receive([frame_of(1 + i * 200, i, 200) for i in range(20)])
    assert ring_is_used(device)
    assert device.reader._ring.length == 200 + 66
    assert segments(device) == [20] * 6


def test_a_run_ends_with_the_frame_that_is_pushed(device):
    for _ in range(3):
        device.receive(flow(20))
    frames = flow(30)
    for i in (9, 19):
        frames[i] = frame_of(1 + i * MSS, 9 + i, flags=tcp.ACK | tcp.PSH)
    device.receive(frames)
    assert segments(device)[3:] == [10, 10, 10]
    assert [tcp.parse(skb.head, skb.data + 20)[5] & tcp.PSH for skb in device.up[3:]] == [tcp.PSH, tcp.PSH, 0]


def test_a_wrong_checksum_is_found_and_nothing_else_is_lost(device):
    for _ in range(3):
        device.receive(flow(20))
    frames = flow(20)
    frames[12] = frames[12][:-1] + bytes([frames[12][-1] ^ 1])
    device.receive(frames)
    assert segments(device)[3:] == [12, 1, 7]
    # It goes up by itself, for its protocol to count and drop.
    assert device.up[4].tobytes()[-1] == frames[12][-1]


def test_sums_are_added_up_after_many_right_ones_only(device, monkeypatch):
    monkeypatch.setattr(train, "TRUSTED", 40)
    for _ in range(10):
        device.receive(flow(20))
    ring = device.reader._ring
    assert ring.clean > 40
    frames = flow(20)
    frames[12] = frames[12][:-1] + bytes([frames[12][-1] ^ 1])
    device.receive(frames)
    assert segments(device)[10:] == [12, 1, 7]
    assert ring.clean < 20


def test_a_packet_that_raises_on_its_way_up_costs_no_other_frame(device, monkeypatch):
    problems: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: problems.append(args.exc_value))
    for _ in range(3):
        device.receive(flow(20))
    device.up.clear()
    handlers = device.net.get(PacketTypes).handlers
    honest = handlers[ETH_P_IP]

    def raises_once(skb: SKBuff) -> None:
        if not problems:
            raise RuntimeError("on the way up")
        honest(skb)

    handlers[ETH_P_IP] = raises_once
    # The datagram has what is held go up within the poll, and that raises.
    datagram = udp_packet(b"y" * 124).tobytes()
    device.receive([*flow(10), datagram, *flow(10, 1001, 19)])
    assert [str(problem) for problem in problems] == ["on the way up"]
    assert segments(device) == [10]
    # So it does where a frame of another length has been read behind it.
    for _ in range(3):
        device.receive(flow(20))
    assert ring_is_used(device)
    device.up.clear()
    problems.clear()
    device.receive([*flow(10), datagram, frame_of(1, 1, 50, sport=3000)])
    assert [str(problem) for problem in problems] == ["on the way up"]
    assert segments(device) == [1]


def test_a_run_that_a_budget_cuts_goes_up_as_one(device):
    for _ in range(3):
        device.receive(flow(20))
    device.receive(flow(300))
    assert segments(device)[3:] == [300]
    # It waits for nothing else: neither for what it is not, nor where the run is at its end.
    device.up.clear()
    device.fill([frame_of(1, 1, sport=3000), *flow(100)])
    assert device.dev.napi.poll(64) == 64
    assert segments(device) == [1, 63]
    device.receive([])
    frames = flow(64)
    frames[63] = frame_of(1 + 63 * MSS, 9 + 63, flags=tcp.ACK | tcp.PSH)
    device.up.clear()
    device.fill(frames)
    assert device.dev.napi.poll(64) == 64
    assert segments(device) == [64]


def test_what_is_held_in_the_middle_of_a_run_has_an_end(device):
    for _ in range(3):
        device.receive(flow(20))
    device.up.clear()
    device.fill(flow(100))
    assert device.dev.napi.poll(64) == 64
    assert not device.up
    # Without GRO, the rest follows it packet by packet.
    device.dev.set_features(NETIF_F_GRO, False)
    device.receive([])
    assert segments(device) == [64] + [1] * 36
    device.dev.set_features(NETIF_F_GRO, True)
    device.up.clear()
    device.fill(flow(100))
    dev = device.dev
    assert dev.napi.poll(64) == 64
    device.net.get(DeviceNamespace).set_down(dev)
    assert not device.up
    assert device.net.drops.counts == {DropReason.DEV_DOWN: 1}
    assert dev.statistics.rx_packets == 60 + 100 + 64


def test_a_sender_that_does_not_count_is_found_out_by_the_second_packet(device):
    for _ in range(3):
        device.receive(flow(20))
    device.receive([frame_of(1 + i * MSS, 7) for i in range(30)])
    assert segments(device)[3:] == [30]


_odd = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.ACK | tcp.CWR]),
        "window": st.sampled_from([500, 501]),
        "ttl": st.sampled_from([63, 64]),
        "ack": st.sampled_from([7, 8]),
        "options": st.sampled_from([STAMP, STAMP[:4] + bytes(8)]),
        "sport": st.sampled_from([1000, 1001, 1002]),
        "seq": st.integers(0, 4000),
        "ident": st.integers(0, 40),
        "size": st.sampled_from([50, 99, 100, 101, 200]),
        "damage": st.tuples(st.integers(0, 165), st.integers(1, 255)),
    },
)  # fmt: skip
_row = st.integers(1, 30)
_other_flow = st.tuples(st.just("flow"), st.integers(2, 12))
_datagram = st.just("datagram")


@given(
    st.lists(st.one_of(_row, _row, _odd, _other_flow, _datagram), max_size=8),
    st.sampled_from([0xFFFFFFFF - 3000, 1]),
    st.sampled_from([0xFFF0, 9]),
)
@example([30, {"flags": tcp.ACK | tcp.PSH}, 30, ("flow", 9), 12], 1, 9)
@example([70, "datagram", 12, {"damage": (150, 1)}, 30], 0xFFFFFFFF - 3000, 0xFFF0)
@example([{"size": 200}, 20, {"size": 50}, 20], 1, 9)
def test_it_makes_no_difference(parts, seq, ident):
    frames: list[bytes] = []
    other = 500
    for part in parts:
        changes: dict[str, Any] = dict(part) if isinstance(part, dict) else {}
        if part == "datagram":
            frames.append(udp_packet(b"z" * 124).tobytes())
            continue
        if isinstance(part, tuple):
            for _ in range(part[1]):
                frames.append(frame_of(other, other, sport=3000))
                other += MSS
            continue
        damage = changes.pop("damage", None)
        for _ in range(part if isinstance(part, int) else 1):
            size = changes.get("size", MSS)
            frame = frame_of(**{"seq": seq & 0xFFFFFFFF, "ident": ident & 0xFFFF, **changes})
            if damage is not None:
                at = damage[0] % len(frame)
                frame = frame[:at] + bytes([frame[at] ^ damage[1]]) + frame[at + 1 :]
            frames.append(frame)
            seq += size
            ident += 1
    outcomes = []
    for reader in (True, False):
        device = Device(reader)
        try:
            for _ in range(3):
                device.receive(flow(20))
            if reader:
                assert ring_is_used(device)
            device.receive(frames)
            outcomes.append(device.outcome())
        finally:
            device.close()
    assert outcomes[0] == outcomes[1]
