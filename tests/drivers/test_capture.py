from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.netdevice.packets import (
    ETH_P_TEST,
    MAC,
    PEER_MAC,
    FakeDriver,
    as_received,
    frame,
    make_dev,
    make_net,
    sink,
    tcp_packet,
)
from usernet.drivers.capture import Capture
from usernet.netdevice.driver import ARPHRD_NONE
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire.pcapng import PcapInterface, PcapReader, PcapRecord


class Bench:
    """Two devices, the second without link headers, and a capture in memory."""

    def __init__(self) -> None:
        self.net = make_net()
        self.net.loop.clock.realtime_offset = 1_700_000_000_000_000_000
        self.drivers = FakeDriver(), FakeDriver()
        self.drivers[1].link_type = ARPHRD_NONE
        self.eth, self.tun = (
            make_dev(self.net, driver, name) for driver, name in zip(self.drivers, ("eth0", "tun0"), strict=True)
        )
        self.file = io.BytesIO()
        sink(self.net, ETH_P_TEST)

    def receive(self, skb: SKBuff, at: int = 0) -> None:
        self.net.loop.clock.set(at)  # type: ignore[attr-defined]
        self.net.loop.now = at
        self.eth.napi.receive(skb)
        for held in self.eth.napi.gro.flush():
            self.eth.receive(held)

    def read(self) -> tuple[list[PcapInterface], list[PcapRecord]]:
        self.file.seek(0)
        reader = PcapReader(self.file)
        records = list(reader)
        return reader.interfaces, records


@pytest.fixture
def bench() -> Bench:
    return Bench()


def incoming(payload: bytes = b"in") -> SKBuff:
    return as_received(MAC + PEER_MAC + frame(payload).tobytes()[12:])


def test_both_directions_with_link_header_time_and_interface(bench):
    with Capture(bench.net, bench.file) as capture:
        bench.receive(incoming(), at=5_000_000_001)
        bench.eth.queue_xmit(frame(b"out"))
        bench.tun.queue_xmit(tcp_packet(b"bare", link=False))
    interfaces, records = bench.read()
    assert [(one.name, one.linktype) for one in interfaces] == [("eth0", 1), ("tun0", 101)]
    assert [(one.if_index, one.ts_ns - 1_700_000_000_000_000_000) for one in records] == [
        (0, 5_000_000_001), (0, 5_000_000_001), (1, 5_000_000_001),
    ]  # fmt: skip
    assert [one.data for one in records] == [
        incoming().tobytes(), frame(b"out").tobytes(), tcp_packet(b"bare", link=False).tobytes(),
    ]  # fmt: skip
    assert (capture.packets, capture.dropped) == (3, 0)
    assert capture.bytes == len(bench.file.getvalue())


def test_directions_are_marked(bench):
    with Capture(bench.net, bench.file):
        bench.receive(incoming())
        bench.eth.queue_xmit(frame(b"out"))
    raw = bench.file.getvalue()
    # OPT_EPB_FLAGS: inbound is 1, outbound 2.
    assert b"\2\0\4\0\1\0\0\0\0\0\0\0" in raw
    assert b"\2\0\4\0\2\0\0\0\0\0\0\0" in raw


def test_a_dropped_packet_is_written_with_the_reason(bench):
    with Capture(bench.net, bench.file) as capture:
        bench.receive(as_received(frame(protocol=0x9999, dst=MAC).tobytes()))
    _, records = bench.read()
    assert [one.comment for one in records] == [None, "dropped: UNHANDLED_PROTO"]
    assert records[0].data == records[1].data
    assert (capture.packets, capture.dropped) == (1, 1)


def test_or_not_where_that_is_not_wanted(bench):
    with Capture(bench.net, bench.file, drops=False):
        bench.receive(as_received(frame(protocol=0x9999, dst=MAC).tobytes()))
    assert len(bench.read()[1]) == 1
    assert bench.net.trace.kfree_skb.probes == []


def test_what_is_dropped_in_any_state_is_survived(bench):
    with Capture(bench.net, bench.file):
        no_device = tcp_packet(b"x", link=False)
        no_device.drop(DropReason.NO_SOCKET, bench.net.drops)
        no_link = tcp_packet(b"x", link=False)
        no_link.dev = bench.eth
        no_link.drop(DropReason.NEIGH_FAILED, bench.net.drops)
        SKBuff(b"").drop(DropReason.NOMEM, bench.net.drops)
        pulled = tcp_packet(b"pulled")
        pulled.dev, pulled.mac_header, pulled.network_header = bench.eth, 0, 14
        pulled.pull(54)
        pulled.drop(DropReason.TCP_CSUM, bench.net.drops)
        short = SKBuff(b"\2\0")
        short.dev, short.mac_header = bench.eth, 0
        short.drop(DropReason.PKT_TOO_SMALL, bench.net.drops)
    interfaces, records = bench.read()
    assert [(interfaces[one.if_index].name, one.comment) for one in records] == [
        ("none", "dropped: NO_SOCKET"), ("none", "dropped: NEIGH_FAILED"), ("eth0", "dropped: TCP_CSUM"),
    ]  # fmt: skip
    assert records[2].data == tcp_packet(b"pulled").tobytes()


def test_a_super_segment_is_one_packet(bench):
    with Capture(bench.net, bench.file):
        bench.eth.queue_xmit(tcp_packet(bytes(30_000), gso_size=1000))
    (record,) = bench.read()[1]
    assert len(record.data) == 30_054


@pytest.mark.parametrize(("snaplen", "kept"), [(20, 20), (60, 60), (54, 54), (200, 154)])
def test_snaplen(bench, snaplen, kept):
    with Capture(bench.net, bench.file, snaplen=snaplen):
        bench.eth.queue_xmit(tcp_packet([b"a" * 50, b"b" * 50]))
    interfaces, (record,) = bench.read()
    assert interfaces[0].snaplen == snaplen
    assert record.data == tcp_packet([b"a" * 50, b"b" * 50]).tobytes()[:kept]


def test_chosen_devices_alone(bench):
    with Capture(bench.net, bench.file, [bench.tun]):
        bench.eth.queue_xmit(frame())
        bench.receive(as_received(frame(protocol=0x9999, dst=MAC).tobytes()))
        bench.tun.queue_xmit(tcp_packet(b"bare", link=False))
    interfaces, records = bench.read()
    assert [one.name for one in interfaces] == ["tun0"]
    assert len(records) == 1


def test_devices_that_come_later_are_seen(bench):
    with Capture(bench.net, bench.file):
        late = make_dev(bench.net, FakeDriver(), "late0")
        late.queue_xmit(frame())
    interfaces, records = bench.read()
    assert interfaces[records[0].if_index].name == "late0"


def test_nothing_is_seen_before_and_after(bench):
    capture = Capture(bench.net, bench.file)
    bench.eth.queue_xmit(frame())
    assert capture.start() is capture.start()
    assert capture.running
    ended = []
    capture.on_stop(lambda: ended.append(1))
    with capture:
        bench.eth.queue_xmit(frame())
    bench.eth.queue_xmit(frame())
    capture.stop()
    assert ended == [1]
    assert not capture.running
    assert len(bench.read()[1]) == 1


def test_to_a_path(bench, tmp_path: Path):
    path = tmp_path / "some.pcapng"
    with Capture(bench.net, path) as capture:
        bench.eth.queue_xmit(frame())
        capture.flush()
        assert len(path.read_bytes()) == capture.bytes
    capture.start()
    assert not capture.running
    with pytest.raises(FileNotFoundError):
        Capture(bench.net, tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="snaplen: expected"):
        Capture(bench.net, path, snaplen=-1)


def test_a_full_disk_does_not_stop_the_stack_and_is_told_of_at_the_end(bench):
    class FullDisk(io.BytesIO):
        full = False

        def write(self, data: object) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return 0

    disk = FullDisk()
    capture = Capture(bench.net, disk).start()
    disk.full = True
    bench.eth.queue_xmit(frame())
    bench.eth.queue_xmit(frame())
    assert len(bench.drivers[0].sent) == 2
    with pytest.raises(OSError, match="No space"):
        capture.stop()
    capture.stop()


def test_two_equal_runs_leave_equal_files():
    files = []
    for _ in range(2):
        bench = Bench()
        with Capture(bench.net, bench.file):
            bench.receive(incoming())
            bench.eth.queue_xmit(tcp_packet(b"abc"))
        files.append(bench.file.getvalue())
    assert files[0] == files[1]
