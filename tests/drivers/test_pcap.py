from __future__ import annotations

from pathlib import Path

import pytest

from tests.netdevice.packets import ETH_P_TEST, MAC, frame, make_dev, make_net, sink, tcp_packet
from usernet.drivers.pcap import Pcap
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.wire import pcapng

MS = 1_000_000
START = 1_700_000_000 * 1_000_000_000


def packet(n: int) -> bytes:
    return MAC + frame(bytes([n])).tobytes()[6:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two interfaces; on the first, four frames 0, 1, 1 and 5 ms after the first."""
    file = tmp_path / "some.pcapng"
    blocks = [pcapng.section_header(), pcapng.interface_description("eth0", pcapng.LINKTYPE_ETHERNET)]
    blocks.append(pcapng.interface_description("tun0", pcapng.LINKTYPE_RAW))
    for n, (interface, at) in enumerate([(0, 0), (0, 1), (1, 1), (0, 1), (0, 5)]):
        data = packet(n) if interface == 0 else tcp_packet(b"x", link=False).tobytes()
        blocks.append(pcapng.enhanced_packet(interface, START + at * MS, [data], len(data)))
    file.write_bytes(b"".join(blocks))
    return file


def replay(driver: Pcap, protocol: int = ETH_P_TEST) -> list[tuple[int, bytes]]:
    """What is received, and when, until nothing more is planned."""
    net = make_net()
    dev = make_dev(net, driver)
    up = sink(net, protocol)
    got: list[tuple[int, bytes]] = []
    deadline: int | None = 0
    while deadline is not None:
        net.loop.clock.set(deadline)  # type: ignore[attr-defined]
        now, deadline = deadline, net.loop.poll(deadline)
        got += [(now, skb.tobytes()) for skb in up]
        up.clear()
    net.get(DeviceNamespace).remove(dev)
    net.close()
    return got


def test_packets_come_as_they_did_when_recorded(path):
    driver = Pcap(path)
    assert replay(driver) == [(0, b"\0"), (MS, b"\1"), (MS, b"\3"), (5 * MS, b"\4")]
    assert driver.finished
    assert driver.replayed == 4


def test_twice_as_fast(path):
    assert [when for when, _ in replay(Pcap(path, speed=2))] == [0, MS // 2, MS // 2, 5 * MS // 2]


def test_as_fast_as_it_is_polled(path):
    assert [when for when, _ in replay(Pcap(path, speed=0))] == [0, 0, 0, 0]


@pytest.mark.parametrize("interface", ["tun0", 1])
def test_one_interface_of_several(path, interface):
    assert [data[40:] for _, data in replay(Pcap(path, interface=interface), 0x0800)] == [b"x"]


def test_a_classic_file(tmp_path):
    file = tmp_path / "some.pcap"
    file.write_bytes(pcapng.pcap_header(pcapng.LINKTYPE_ETHERNET) + pcapng.pcap_packet(START, packet(9), 15))
    assert replay(Pcap(file)) == [(0, b"\x09")]


def test_what_is_sent_has_nowhere_to_go(path):
    net = make_net()
    dev = make_dev(net, Pcap(path))
    dev.queue_xmit(frame())
    assert net.drops.counts == {DropReason.LINK_FAILURE: 1}
    assert (dev.statistics.tx_dropped, dev.statistics.tx_packets) == (1, 0)
    net.get(DeviceNamespace).remove(dev)


def test_or_is_recorded(path, tmp_path):
    net = make_net()
    dev = make_dev(net, Pcap(path, record=tmp_path / "out.pcapng"))
    dev.queue_xmit(frame(b"sent"))
    net.get(DeviceNamespace).remove(dev)
    (record,) = pcapng.read_blocks((tmp_path / "out.pcapng").read_bytes())
    assert record.data == frame(b"sent").tobytes()
    assert dev.statistics.tx_packets == 1


def test_a_flood_keeps_to_the_budget(tmp_path):
    file = tmp_path / "flood.pcapng"
    blocks = [pcapng.section_header(), pcapng.interface_description("eth0", pcapng.LINKTYPE_ETHERNET)]
    blocks += [pcapng.enhanced_packet(0, START, [packet(1)], 15) for _ in range(100)]
    file.write_bytes(b"".join(blocks))
    net = make_net()
    driver = Pcap(file)
    dev = make_dev(net, driver)
    up = sink(net, ETH_P_TEST)
    assert driver.poll(64) == 64
    assert len(up) == 64
    assert driver.poll(64) == 36
    net.get(DeviceNamespace).remove(dev)


def test_a_damaged_file_ends_the_replay_where_it_is_damaged(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    driver = Pcap(path)
    assert len(replay(driver)) == 3
    assert driver.finished
    assert driver.problem is not None


def test_going_down_and_up_goes_on(path):
    net = make_net()
    driver = Pcap(path)
    dev = make_dev(net, driver)
    up = sink(net, ETH_P_TEST)
    net.loop.poll(0)
    dev.stop()
    assert net.loop.timers.pending() == 0
    net.loop.clock.set(50 * MS)  # type: ignore[attr-defined]
    net.loop.poll(50 * MS)
    assert len(up) == 1
    dev.open()
    net.loop.poll(50 * MS)
    assert len(up) == 3
    net.get(DeviceNamespace).remove(dev)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "magic"),
        (b"hello world, this is text", "magic number"),
        (pcapng.section_header(), "there is no packet"),
        (
            pcapng.pcap_header(147) + pcapng.pcap_packet(0, b"x", 1),
            "expected a capture of .* IP, not of link type 147",
        ),
    ],
)
def test_what_is_no_capture_is_a_value_error(tmp_path, content, text):
    file = tmp_path / "bad"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        Pcap(file)


def test_other_bad_arguments(path, tmp_path):
    with pytest.raises(ValueError, match="speed: expected"):
        Pcap(path, speed=-1)
    with pytest.raises(ValueError, match="no packet of interface 'eth7'"):
        Pcap(path, interface="eth7")
    with pytest.raises(FileNotFoundError):
        Pcap(tmp_path / "nosuch")
    with pytest.raises(FileNotFoundError):
        Pcap(path, record=tmp_path / "no" / "such")
