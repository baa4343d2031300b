"""The device: its state, what it does with what it receives and sends, its counters, its features."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netdevice.packets import ALL_FEATURES, ETH_P_TEST, MAC, PEER_MAC, FakeDriver, make_dev, make_net, sink
from usernet.core.clock import ManualClock
from usernet.core.loop import Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.net.packet_type import PacketTypes, Tap
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    IFF_ALLMULTI,
    IFF_BROADCAST,
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_POINTOPOINT,
    IFF_PROMISC,
    NET_XMIT_DROP,
    NET_XMIT_SUCCESS,
    NetDevice,
    fix_features,
)
from usernet.netdevice.driver import (
    ARPHRD_LOOPBACK,
    ARPHRD_NONE,
    NETIF_F_GRO,
    NETIF_F_GSO,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.netdevice.qdisc.pfifo import Pfifo
from usernet.netdevice.statistics import LinkStats
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_LOOPBACK,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    SKBuff,
)
from usernet.wire import ethernet


@pytest.fixture
def net() -> Net:
    return make_net()


def frame(dst: bytes = MAC, protocol: int = ETH_P_TEST, payload: bytes = bytes(46)) -> SKBuff:
    return SKBuff(ethernet.build(dst, PEER_MAC, protocol) + payload)


def receive(dev: NetDevice, *packets: SKBuff) -> None:
    """As the softirq does it."""
    assert isinstance(dev.driver, FakeDriver)
    dev.driver.to_receive += packets
    dev.net.loop.schedule(dev.napi)
    dev.net.loop.try_batch()


class Watching(Trampoline):
    """Knows which descriptors are watched."""

    def __init__(self, broken: bool = False) -> None:
        self.watched: dict[int, bool] = {}
        self.broken = broken

    def left(self, loop: Loop) -> None:
        pass

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool = False, quiet: bool = False) -> None:
        if self.broken:
            raise OSError(errno.EPERM, "not to be watched")
        self.watched[fd] = False

    def unwatch(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        self.watched[fd] = wanted


class WithDescriptor(FakeDriver):
    """Has a descriptor, number 99, while it is open."""

    def fileno(self) -> int:
        return 99 if self.dev is not None else -1


# -- state


def test_kinds_of_devices(net):
    ether = make_dev(net, FakeDriver(), "eth0")
    assert (ether.mac, ether.mtu, ether.hard_header_len) == (MAC, 1500, 14)
    assert ether.flags & (IFF_BROADCAST | IFF_LOOPBACK | IFF_POINTOPOINT) == IFF_BROADCAST
    driver = FakeDriver()
    driver.link_type = ARPHRD_LOOPBACK
    loopback = make_dev(net, driver, "lo")
    assert (loopback.mac, loopback.mtu, loopback.loopback) == (bytes(6), 65536, True)
    assert loopback.flags & IFF_LOOPBACK
    assert not loopback.features & NETIF_F_GRO
    driver = FakeDriver()
    driver.link_type, driver.mtu = ARPHRD_NONE, 1400
    tun = make_dev(net, driver, "tun0")
    assert (tun.mac, tun.mtu, tun.hard_header_len, tun.has_link_header) == (b"", 1400, 0, False)
    assert tun.flags & (IFF_POINTOPOINT | IFF_NOARP) == IFF_POINTOPOINT | IFF_NOARP
    assert repr(ether) == "<NetDevice eth0 index=1 mtu=1500 UP>"


def test_an_address_of_its_own_from_the_stacks_randomness():
    def made(seed: int) -> bytes:
        driver = FakeDriver()
        driver.mac = b""
        return make_dev(make_net(seed), driver).mac

    assert made(1) == made(1) != made(2)
    assert made(1)[0] & 3 == 2  # local, unicast


def test_up_and_down_watch_the_descriptor(net):
    trampoline = net.loop.trampoline = Watching()
    dev = make_dev(net, WithDescriptor())
    assert trampoline.watched == {99: False}
    assert dev.up
    assert dev.running
    dev.open()
    dev.stop()
    assert trampoline.watched == {}
    assert not dev.up
    dev.stop()
    dev.open()
    dev.stop_queue()
    assert trampoline.watched == {99: True}
    dev.wake_queue()
    assert trampoline.watched == {99: False}


def test_a_device_that_cannot_be_watched_stays_down(net):
    net.loop.trampoline = Watching(broken=True)
    driver = WithDescriptor()
    with pytest.raises(OSError, match="not to be watched"):
        make_dev(net, driver)
    assert driver.dev is None
    assert not next(iter(net.get(DeviceNamespace).values())).up


def test_running_takes_a_carrier(net):
    class NoCarrier(FakeDriver):
        def carrier(self) -> bool:
            return False

    dev = make_dev(net, NoCarrier())
    assert dev.up
    assert not dev.running


def test_going_down_drops_what_is_queued(net):
    driver = FakeDriver(room=0)
    dev = make_dev(net, driver)
    packets = [frame() for _ in range(3)]
    for skb in packets:
        assert dev.queue_xmit(skb) == NET_XMIT_SUCCESS
    assert dev.qdisc.qlen == 3
    dev.stop()
    assert dev.qdisc.qlen == 0
    assert net.drops.counts == {DropReason.DEV_DOWN: 3}
    assert dev.statistics.tx_dropped == 3
    driver.room = 10
    dev.open()
    assert not dev.stopped
    dev.queue_xmit(frame())
    assert len(driver.sent) == 1


def test_a_poll_after_it_went_down_finds_nothing(net):
    driver = FakeDriver()
    dev = make_dev(net, driver)
    driver.to_receive.append(frame())
    net.loop.softirq.schedule(dev.napi)
    dev.stop()
    net.loop.try_batch()
    assert len(driver.to_receive) == 1


@pytest.mark.parametrize("mac", [b"", bytes(5), bytes(7), bytes(6), b"\x01\0\0\0\0\0", ethernet.BROADCAST])
def test_what_is_no_unicast_address(net, mac):
    dev = make_dev(net, FakeDriver())
    with pytest.raises(ValueError, match="address of eth0: expected a unicast MAC address"):
        dev.set_mac(mac)
    assert dev.mac == MAC


def test_mtu_and_mac_are_the_drivers_to_refuse(net):
    class Refusing(FakeDriver):
        def set_mtu(self, mtu: int) -> None:
            raise OSError(errno.EBUSY, "mtu")

        def set_mac(self, mac: bytes) -> None:
            raise OSError(errno.EBUSY, "mac")

    dev = make_dev(net, Refusing())
    for call in (lambda: dev.set_mtu(1000), lambda: dev.set_mac(PEER_MAC)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBUSY
    assert (dev.mtu, dev.mac) == (1500, MAC)
    easy = make_dev(net, FakeDriver(), "eth1")
    for mtu in (68, 65535, 1400):
        easy.set_mtu(mtu)
        assert easy.mtu == mtu
    for mtu in (67, 65536, -1):
        with pytest.raises(ValueError, match=f"mtu of eth1: expected 68 to 65535, not {mtu}"):
            easy.set_mtu(mtu)


def test_no_link_no_address(net):
    driver = FakeDriver()
    driver.link_type = ARPHRD_NONE
    dev = make_dev(net, driver)
    with pytest.raises(OSError) as caught:
        dev.set_mac(PEER_MAC)
    assert caught.value.errno == errno.EOPNOTSUPP


# -- features


def test_super_segments_need_fragments_and_checksums(net):
    dev = make_dev(net, FakeDriver(ALL_FEATURES))
    assert dev.features == ALL_FEATURES | NETIF_F_GSO | NETIF_F_GRO
    dev.set_features(NETIF_F_HW_CSUM, on=False)
    assert dev.features == NETIF_F_SG | NETIF_F_GSO | NETIF_F_GRO
    assert not dev.checksums
    assert dev.scatter_gather
    dev.set_features(NETIF_F_HW_CSUM, on=True)
    assert dev.features == ALL_FEATURES | NETIF_F_GSO | NETIF_F_GRO
    dev.set_features(NETIF_F_TSO, on=False)
    assert not dev.features & (NETIF_F_TSO | NETIF_F_TSO_ECN)
    assert dev.features & NETIF_F_GSO_UDP_L4


def test_a_feature_the_nic_does_not_have(net):
    dev = make_dev(net, FakeDriver(NETIF_F_SG))
    with pytest.raises(OSError, match="eth0 can't do feature") as caught:
        dev.set_features(NETIF_F_TSO, on=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    dev.set_features(NETIF_F_TSO | NETIF_F_GRO, on=False)
    dev.set_features(NETIF_F_GRO, on=True)
    assert dev.features & NETIF_F_GRO


@given(st.sets(st.sampled_from([0, 3, 11, 14, 16, 18, 20, 25, 40])))
def test_fixed_features_stay_fixed_and_are_none_new(bits):
    features = sum(1 << bit for bit in bits)
    fixed = fix_features(features)
    assert fixed & ~features == 0
    assert fix_features(fixed) == fixed
    if fixed & (NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_GSO_UDP_L4):
        assert fixed & NETIF_F_SG
        assert fixed & NETIF_F_HW_CSUM


def test_promiscuity_and_groups_are_counted(net):
    dev = make_dev(net, FakeDriver())
    group = bytes.fromhex("01005e000001")
    assert dev.wants(MAC)
    assert dev.wants(ethernet.BROADCAST)
    assert not dev.wants(PEER_MAC)
    assert not dev.wants(group)
    dev.add_multicast(group)
    dev.add_multicast(group)
    dev.remove_multicast(group)
    assert dev.wants(group)
    dev.remove_multicast(group)
    dev.remove_multicast(group)
    assert not dev.wants(group)
    dev.set_promiscuity(1)
    dev.set_promiscuity(1)
    dev.set_promiscuity(-1)
    assert dev.wants(PEER_MAC)
    assert dev.flags & IFF_PROMISC
    dev.set_promiscuity(-1)
    dev.set_promiscuity(-1)
    assert not dev.flags & IFF_PROMISC
    dev.set_promiscuity(1)
    assert dev.flags & IFF_PROMISC
    assert not dev.flags & IFF_ALLMULTI


# -- receive


@pytest.mark.parametrize(
    ("dst", "pkt_type"),
    [
        (MAC, PACKET_HOST),
        (ethernet.BROADCAST, PACKET_BROADCAST),
        (bytes.fromhex("01005e000001"), PACKET_MULTICAST),
        (PEER_MAC, PACKET_OTHERHOST),
    ],
)
def test_the_link_header_is_read(net, dst, pkt_type):
    dev = make_dev(net, FakeDriver())
    received = sink(net, ETH_P_TEST)
    receive(dev, frame(dst, payload=b"x" * 50))
    (skb,) = received
    assert (skb.dev, skb.protocol, skb.pkt_type, skb.mac_header, skb.network_header) == (
        dev, ETH_P_TEST, pkt_type, 0, 14,
    )  # fmt: skip
    assert skb.tobytes() == b"x" * 50
    statistics = dev.statistics
    assert (statistics.rx_packets, statistics.rx_bytes) == (1, 64)
    assert statistics.multicast == (pkt_type == PACKET_MULTICAST)


@pytest.mark.parametrize("gro", [False, True])
@pytest.mark.parametrize("size", [0, 1, 13])
def test_a_frame_too_short_for_a_header(net, gro, size):
    dev = make_dev(net, FakeDriver())
    dev.set_features(NETIF_F_GRO, on=gro)
    receive(dev, SKBuff(bytes(size)))
    assert net.drops.counts == {DropReason.PKT_TOO_SMALL: 1}
    statistics = dev.statistics
    assert (statistics.rx_packets, statistics.rx_errors, statistics.rx_length_errors) == (0, 1, 1)


def test_what_nobody_takes(net):
    dev = make_dev(net, FakeDriver())
    receive(dev, frame(protocol=0x88CC), frame(protocol=46), frame(PEER_MAC, protocol=0x88CC))
    assert net.drops.counts == {DropReason.UNHANDLED_PROTO: 1, DropReason.LLC: 1, DropReason.OTHERHOST: 1}
    assert dev.statistics.rx_nohandler == 2
    assert dev.statistics.rx_packets == 3


@pytest.mark.parametrize(
    ("first", "protocol"), [(0x45, ethernet.ETH_P_IP), (0x60, ethernet.ETH_P_IPV6), (0x00, -1), (None, -1)]
)
def test_without_a_link_header_the_version_tells(net, first, protocol):
    driver = FakeDriver()
    driver.link_type = ARPHRD_NONE
    dev = make_dev(net, driver)
    skb = SKBuff(b"" if first is None else bytes([first]) + bytes(30))
    assert dev.prepare(skb)
    assert (skb.protocol, skb.network_header, skb.data) == (protocol, 0, 0)


def test_taps_and_probes_see_it_before_the_handler(net):
    dev = make_dev(net, FakeDriver())
    order: list[str] = []
    types = net.get(PacketTypes)
    types.add_tap(Tap(lambda skb: order.append("tap")))
    net.trace.netif_receive_skb.attach(lambda skb: order.append("probe"))
    types.register(ETH_P_TEST, lambda skb: order.append("handler"))
    receive(dev, frame())
    assert order == ["tap", "probe", "handler"]


def test_the_time_it_came(net):
    clock = net.loop.clock
    assert isinstance(clock, ManualClock)
    clock.advance(100)
    clock.realtime_offset = 1000
    received = sink(net, ETH_P_TEST)
    dev = make_dev(net, FakeDriver())
    stamped = frame()
    stamped.tstamp = 5
    receive(dev, frame(), stamped)
    assert [skb.tstamp for skb in received] == [1100, 5]


def test_a_super_segment_counts_as_its_packets(net):
    dev = make_dev(net, FakeDriver())
    sink(net, ETH_P_TEST)
    skb = frame(payload=bytes(3000))
    skb.gso_size, skb.gso_segs = 1000, 3
    receive(dev, skb)
    assert (dev.statistics.rx_packets, dev.statistics.rx_bytes) == (3, 3014)


def test_its_own_multicast_comes_back_uncounted(net):
    dev = make_dev(net, FakeDriver())
    received = sink(net, ETH_P_TEST)
    skb, partial = frame(), frame()
    partial.ip_summed = CHECKSUM_PARTIAL
    for packet in (skb, partial):
        packet.protocol, packet.network_header = ETH_P_TEST, 14
        packet.pull(14)
    net.loop.enter()
    dev.loopback_xmit(skb)
    dev.loopback_xmit(partial)
    assert received == []
    net.loop.leave()
    assert received == [skb, partial]
    assert [packet.pkt_type for packet in received] == [PACKET_LOOPBACK] * 2
    assert [packet.ip_summed for packet in received] == [CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL]
    assert dev.statistics.rx_packets == 0


# -- send


def test_a_device_that_is_down_sends_nothing(net):
    dev = make_dev(net, FakeDriver())
    dev.stop()
    assert dev.queue_xmit(frame()) == NET_XMIT_DROP
    assert net.drops.counts == {DropReason.DEV_DOWN: 1}
    assert dev.statistics.tx_dropped == 1


def test_an_empty_queue_is_stepped_over(net):
    driver = FakeDriver()
    dev = make_dev(net, driver)
    skb = frame()
    assert dev.queue_xmit(skb) == NET_XMIT_SUCCESS
    assert driver.sent == [skb]
    assert skb.dev is dev
    assert (dev.statistics.tx_packets, dev.statistics.tx_bytes) == (1, 60)
    assert (dev.qdisc.sent_packets, dev.qdisc.sent_bytes, dev.qdisc.requeues) == (1, 60, 0)


def test_back_pressure_keeps_the_order(net):
    driver = FakeDriver(room=2)
    dev = make_dev(net, driver)
    packets = [frame() for _ in range(6)]
    for skb in packets:
        assert dev.queue_xmit(skb) == NET_XMIT_SUCCESS
    assert driver.sent == packets[:2]
    assert dev.stopped
    assert dev.qdisc.qlen == 4
    driver.room = 3
    dev.wake_queue()
    assert driver.sent == packets[:5]
    assert dev.stopped
    driver.room = 10
    dev.wake_queue()
    assert driver.sent == packets
    assert dev.qdisc.sent_packets == dev.statistics.tx_packets == 6
    assert dev.qdisc.backlog == 0


def test_a_full_queue_drops(net):
    dev = make_dev(net, FakeDriver(room=0))
    dev.qdisc = Pfifo(2)
    results = [dev.queue_xmit(frame()) for _ in range(4)]
    assert results == [NET_XMIT_SUCCESS, NET_XMIT_SUCCESS, NET_XMIT_DROP, NET_XMIT_DROP]
    assert net.drops.counts == {DropReason.QDISC_DROP: 2}
    assert dev.statistics.tx_dropped == 2


def test_what_is_sent_inside_a_send_waits_for_its_turn(net):
    """A driver's transmit may give rise to another packet (a neighbour's answer, an error): never one in the other."""
    order: list[str] = []

    class Answering(FakeDriver):
        queue_length = 0

        def xmit(self, skb: SKBuff) -> bool:
            order.append("begin")
            if len(self.sent) < 2:
                assert self.dev is not None
                self.sent.append(skb)
                self.dev.queue_xmit(frame())
            order.append("end")
            return True

    dev = make_dev(net, Answering())
    dev.queue_xmit(frame())
    assert order == ["begin", "end"] * 3
    assert dev.qdisc.qlen == 0


def test_every_counter_has_linux_name(net):
    statistics = LinkStats()
    counters = statistics.as_dict()
    assert len(counters) == 24
    assert not any(counters.values())
    statistics.rx_packets += 1
    assert statistics.as_dict()["rx_packets"] == 1
    assert counters["rx_packets"] == 0


@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_any_frame_is_survived_and_accounted_for(frames, link):
    net = make_net()
    driver = FakeDriver()
    if not link:
        driver.link_type = ARPHRD_NONE
    dev = make_dev(net, driver)
    handled: list[SKBuff] = []
    register: Callable[[int, Callable[[SKBuff], None]], None] = net.get(PacketTypes).register
    register(ethernet.ETH_P_IP, handled.append)
    receive(dev, *[SKBuff(data) for data in frames])
    assert len(handled) + sum(net.drops.counts.values()) == len(frames)
    assert dev.statistics.rx_packets + dev.statistics.rx_errors == len(frames)
    assert dev.up
