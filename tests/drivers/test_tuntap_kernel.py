"""TAP and TUN with the kernel's own stack on the far end, in a network namespace of the test's own."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pytest

from tests.netdevice.packets import make_dev, make_net, sink
from tests.support import netns
from usernet.core.errors import UnusableStackError
from usernet.core.loop import Loop, Trampoline
from usernet.drivers import host
from usernet.drivers.frame_reader import ALONE
from usernet.drivers.host_napi import (
    BUSY,
    FLUSH_TIMEOUT,
    HOLD,
    INTERVAL,
    THREAD_DEFER,
    THREAD_FLUSH_TIMEOUT,
)
from usernet.drivers.impair import Impair
from usernet.drivers.tuntap import BIG_TCP_SIZE, IFF_NAPI, LOOK, Tap, Tun, TunTap
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import NETIF_F_GSO_UDP_L4, NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, GSO_LEGACY_MAX_SIZE, SKB_GSO_UDP_L4, SKBuff
from usernet.wire import checksum, ethernet, ipv4, tcp, udp, virtio_net

pytestmark = netns.INTEROP

HOST, OURS = bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2])
MAC = bytes.fromhex("020000000002")
SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.fixture
def peer() -> Iterator[netns.Netns]:
    with netns.Netns("drivers") as namespace:
        yield namespace


class Host:
    """A device on a TAP or TUN whose other end, 10.77.0.1, is in the namespace `peer`."""

    def __init__(self, peer: netns.Netns, kind: type[TunTap], offload: bool) -> None:
        self.peer = peer
        self.tap = kind("dut", address="10.77.0.1/24", offload=offload, netns=peer.name)
        self.net: Net = make_net()
        self.dev: NetDevice = make_dev(self.net, self.tap)
        self.up = sink(self.net)
        if kind is Tap:
            peer.run("ip", "neigh", "add", "10.77.0.2", "lladdr", MAC.hex(":"), "dev", "dut")
            self.net.get(DeviceNamespace).set_mac(self.dev, MAC)
        self.mac = bytes.fromhex(
            peer.run("cat", "/sys/class/net/dut/address").stdout.strip().replace(":", "") if kind is Tap else ""
        )

    def poll(self) -> Self:
        """Receive what is there."""
        self.net.loop.softirq.schedule(self.dev.napi)
        self.net.loop.poll(0)
        return self

    def datagrams(self, port: int) -> list[SKBuff]:
        """What the kernel sent to our `port`, and nothing of what else it says."""
        return [
            skb for skb in self.up if skb.head[skb.data + 9] == 17 and udp.parse(skb.head, skb.data + 20)[1] == port
        ]

    def close(self) -> None:
        self.net.get(DeviceNamespace).remove(self.dev)
        self.net.close()

    def send_udp(self, payload: bytes, gso_size: int = 0) -> None:
        skb = SKBuff()
        skb.add_frag(payload)
        length = 8 + len(payload)
        skb.push_header(udp.build(5000, 7000, length, checksum.pseudo_sum(OURS, HOST, 17, length)))
        skb.transport_header = skb.csum_start = 0
        skb.csum_offset = 6
        skb.ip_summed = CHECKSUM_PARTIAL
        if gso_size:
            skb.gso_size, skb.gso_type, skb.gso_segs = gso_size, SKB_GSO_UDP_L4, -(-len(payload) // gso_size)
        skb.push_header(ipv4.build(0, 20 + length, 1, 0, 64, 17, OURS, HOST))
        skb.network_header = 0
        skb.protocol = 0x0800
        if self.mac:
            skb.push_header(ethernet.build(self.mac, MAC, 0x0800))
        self.dev.queue_xmit(skb)


@contextmanager
def hosted(peer: netns.Netns, kind: type[TunTap], offload: bool) -> Iterator[Host]:
    bench = Host(peer, kind, offload)
    try:
        yield bench
    finally:
        bench.close()


KINDS = [(Tap, True), (Tap, False), (Tun, True), (Tun, False)]


@pytest.mark.parametrize(("kind", "offload"), KINDS)
def test_datagrams_both_ways(peer, kind, offload):
    with hosted(peer, kind, offload) as bench:
        with peer.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            kernel.settimeout(5)
            kernel.bind(("10.77.0.1", 7000))
            bench.send_udp(b"up")
            assert kernel.recvfrom(100) == (b"up", ("10.77.0.2", 5000))
            kernel.sendto(b"down", ("10.77.0.2", 5000))
            bench.poll()
            (got,) = bench.datagrams(5000)
            assert got.tobytes(28) == b"down"
            # The checksum is left to the receiver's good faith with offload, and right without.
            assert (got.ip_summed == CHECKSUM_PARTIAL) is offload
        assert bench.dev.statistics.tx_packets == 1
        assert bool(bench.dev.features & NETIF_F_TSO) is offload


@pytest.mark.parametrize(("kind", "offload"), KINDS)
def test_udp_super_segments_both_ways(peer, kind, offload):
    with hosted(peer, kind, offload) as bench:
        with peer.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            kernel.settimeout(5)
            kernel.bind(("10.77.0.1", 7000))
            payload = bytes(range(250)) * 16
            bench.send_udp(payload, gso_size=1000)
            assert [kernel.recv(2000) for _ in range(4)] == [payload[i : i + 1000] for i in range(0, 4000, 1000)]
            kernel.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
            kernel.sendto(payload, ("10.77.0.2", 5000))
            bench.poll()
            got = bench.datagrams(5000)
            assert b"".join(skb.tobytes(28) for skb in got) == payload
            if bench.dev.features & NETIF_F_GSO_UDP_L4:
                assert [(skb.gso_size, skb.gso_segs) for skb in got] == [(1000, 4)]
            else:
                assert [skb.gso_size for skb in got] == [0] * 4
        assert bench.dev.statistics.tx_packets == 4


class Driven(Trampoline):
    """Someone hears of the descriptor; here the test does the polling."""

    def left(self, loop: Loop) -> None:
        pass

    def unwatch(self, fd: int) -> None:
        pass


@pytest.mark.parametrize("kind", [Tap, Tun])
def test_where_packets_come_alone_the_first_is_taken_for_all(peer, kind):
    # Nothing comes but what is sent here: no multicast of IPv6.
    peer.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    with hosted(peer, kind, True) as host, peer.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:

        def received(sent: int) -> int:
            """How many of so many that lie there a poll takes."""
            before = len(host.datagrams(5000))
            for _ in range(sent):
                kernel.sendto(b"x", ("10.77.0.2", 5000))
            return len(host.poll().datagrams(5000)) - before

        received(1)
        while host.poll().up and received(0):
            pass
        assert [received(2) for _ in range(3)] == [2, 2, 2], "driven by hand: what a poll leaves nobody tells of"
        host.net.loop.trampoline = Driven()
        assert received(1) == 1
        assert [received(2)] + [received(0) for _ in range(2)] == [1, 1, 0]
        for _ in range(ALONE - 2):
            assert received(1) == 1
        assert received(3) == 3, "the next one looks for more"
        assert [received(2) for _ in range(3)] == [2, 2, 2], "and where there was more, so do those after it"
        host.net.loop.trampoline = None


def test_tcp_super_segments_from_the_kernel(peer):
    """A kernel socket is answered by hand up to its first window of data, which arrives as one packet."""
    with hosted(peer, Tap, True) as bench:
        with peer.entered():
            kernel = socket.socket()
        kernel.setblocking(False)
        with kernel:
            with pytest.raises(BlockingIOError):
                kernel.connect(("10.77.0.2", 80))
            netns.wait_until(lambda: _tcp(bench.poll()), "the SYN")
            syn = _tcp(bench)[0]
            seq = int.from_bytes(syn.head[syn.data + 24 : syn.data + 28], "big")
            sport = int.from_bytes(syn.head[syn.data + 20 : syn.data + 22], "big")
            header = tcp.build(80, sport, 1, seq + 1 & 0xFFFFFFFF, tcp.SYN | tcp.ACK, 65535, 0, 0, b"\2\4\x05\xb4")
            reply = SKBuff(header)
            reply.store(16, checksum.pseudo_sum(OURS, HOST, 6, len(header)).to_bytes(2, "big"))
            reply.ip_summed, reply.csum_start, reply.csum_offset = CHECKSUM_PARTIAL, 0, 16
            reply.push_header(ipv4.build(0, 20 + reply.len, 1, 0, 64, 6, OURS, HOST))
            reply.protocol = 0x0800
            reply.push_header(ethernet.build(bench.mac, MAC, 0x0800))
            bench.dev.queue_xmit(reply)
            kernel.setblocking(True)
            kernel.send(b"d" * 14000)
            bench.up.clear()
            netns.wait_until(lambda: any(skb.gso_size for skb in bench.poll().up), "a super-segment")
            big = next(skb for skb in bench.up if skb.gso_size)
            assert big.gso_size == 1460
            assert big.gso_segs == -(-(big.len - 40) // 1460) > 1
            assert big.ip_summed == CHECKSUM_PARTIAL
            assert big.csum_start == big.data + 20


def test_the_datagrams_of_a_super_segment_count_one_by_one(peer):
    with hosted(peer, Tap, True) as bench:
        if not bench.tap.hw_features & NETIF_F_GSO_UDP_L4:
            pytest.skip("the kernel has no UDP segmentation here")
        bench.poll()
        with peer.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            kernel.setsockopt(SOL_UDP, UDP_SEGMENT, 100)
            for _ in range(3):
                kernel.sendto(bytes(4000), ("10.77.0.2", 5000))
        assert bench.tap.poll(64) >= 64
        assert [skb.gso_segs for skb in bench.datagrams(5000)] == [40, 40]
        assert bench.tap.poll(64) < 64
        assert len(bench.datagrams(5000)) == 3


def _tcp(bench: Host) -> list[SKBuff]:
    return [skb for skb in bench.up if skb.head[skb.data + 9] == 6]


def test_what_the_kernel_queued_before_the_device_is_up_is_not_received(peer):
    with peer.entered():
        tap = Tap("dut", address="10.77.0.1/24")
    peer.run("ip", "neigh", "add", "10.77.0.2", "lladdr", MAC.hex(":"), "dev", "dut")
    peer.run("ping", "-c1", "-W1", "-i0.2", "10.77.0.2", check=False)
    net = make_net()
    up = sink(net)
    dev = make_dev(net, tap)
    net.loop.softirq.schedule(dev.napi)
    net.loop.poll(0)
    assert [skb for skb in up if skb.head[skb.data + 9] == 1] == []
    net.get(DeviceNamespace).remove(dev)
    net.close()


def test_a_host_side_that_is_down_drops_and_says_so(peer):
    with hosted(peer, Tap, True) as bench:
        peer.run("ip", "link", "set", "dut", "down")
        bench.send_udp(b"lost")
        assert bench.net.drops.counts == {DropReason.DEV_READY: 1}
        assert bench.dev.statistics.tx_carrier_errors == bench.dev.statistics.tx_errors == 1
        assert bench.dev.statistics.tx_packets == 0
        bench.poll()


def test_a_frame_the_kernel_takes_for_none_is_dropped(peer):
    with hosted(peer, Tap, True) as bench:
        bench.dev.queue_xmit(SKBuff(b"short"))
        assert bench.net.drops.counts == {DropReason.DEV_HDR: 1}


def test_the_host_side_is_set_up_as_asked(peer):
    tap = Tap(
        "dut", address=["10.77.0.1/24", "fd77::1/64"], mtu=1300, routes=["10.78.0.0/16 via 10.77.0.2", "10.79.0.0/16"],
        netns=peer.name,
    )  # fmt: skip
    try:
        assert tap.mtu == 1300
        shown = peer.run("ip", "addr", "show", "dev", "dut").stdout
        assert "mtu 1300" in shown
        assert "10.77.0.1/24" in shown
        assert "fd77::1/64" in shown
        assert ",UP" in shown
        routes = peer.run("ip", "route").stdout
        assert "10.78.0.0/16 via 10.77.0.2 dev dut" in routes
        assert "10.79.0.0/16 dev dut" in routes
        host.configure("dut", "10.77.0.1/24", netns=peer.name)
        with pytest.raises(OSError, match="no interface 'nosuch'"):
            host.configure("nosuch", netns=peer.name)
        with pytest.raises(OSError, match="host's side of dut"):
            host.configure("dut", routes=["10.80.0.0/16 via 172.16.0.1"], netns=peer.name)
    finally:
        tap.close()
    assert "dut" not in peer.run("ip", "link").stdout


def test_what_can_not_be_set_up_leaves_no_device(peer):
    with pytest.raises(OSError, match="host's side of dut"):
        Tap("dut", address="10.77.0.1/24", routes=["10.80.0.0/16 via 172.16.0.1"], netns=peer.name)
    assert "dut" not in peer.run("ip", "link").stdout


def test_attaching_to_a_device_that_is_there(peer):
    peer.run("ip", "tuntap", "add", "there", "mode", "tap")
    peer.run("ip", "link", "set", "there", "mtu", "2000")
    tap = Tap("there", netns=peer.name)
    assert tap.mtu == 2000
    with pytest.raises(OSError, match="another program is attached"):
        Tap("there", netns=peer.name)
    with pytest.raises(OSError, match="which is no TUN"):
        Tun("there", netns=peer.name)
    tap.close()
    tap.close()
    assert "there" in peer.run("ip", "link").stdout
    with pytest.raises(OSError, match="has been closed"):
        make_dev(make_net(), tap)


def test_the_kernel_chooses_a_name_and_keeps_what_is_to_persist(peer):
    tun = Tun(netns=peer.name, persist=True)
    assert tun.name.startswith("tun")
    tun.close()
    assert tun.name in peer.run("ip", "link").stdout


def test_an_impaired_tap(peer):
    with peer.entered():
        tap = Tap("dut", address="10.77.0.1/24")
        kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    net = make_net()
    dev = make_dev(net, Impair(tap, delay=0.010, loss=0.5, seed=1))
    assert dev.hw_features == NETIF_F_SG | NETIF_F_HW_CSUM | dev.hw_features & 1 << 40
    up = sink(net)
    with kernel:
        kernel.connect(("10.77.0.2", 5000))
        peer.run("ip", "neigh", "replace", "10.77.0.2", "lladdr", dev.mac.hex(":"), "dev", "dut")
        for n in range(50):
            kernel.send(bytes([n]))
        while (deadline := _poll_until_idle(net, dev)) is not None:
            net.loop.clock.set(deadline)  # type: ignore[attr-defined]
    numbers = [skb.tobytes(28)[0] for skb in up if skb.head[skb.data + 9] == 17 and skb.len == 29]
    assert 5 < len(numbers) < 45
    assert numbers == sorted(numbers)
    net.get(DeviceNamespace).remove(dev)
    net.close()


def _poll_until_idle(net: Net, dev: NetDevice) -> int | None:
    net.loop.softirq.schedule(dev.napi)
    return net.loop.poll(net.loop.clock.now())


def test_the_runner_receives_what_becomes_readable(peer):
    from usernet.core.clock import MonotonicClock
    from usernet.runner import process_runner

    with peer.entered():
        tap = Tap("dut", address="10.77.0.1/24")
        kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    net = make_net()
    net.loop.clock = MonotonicClock()
    arrived = threading.Event()
    up = sink(net)
    net.trace.netif_receive_skb.attach(lambda skb: arrived.set() if skb.protocol == 0x0800 else None)
    runner = process_runner()
    net.loop.trampoline = runner
    dev = make_dev(net, tap)
    runner.attach(net.loop)
    try:
        with kernel:
            peer.run("ip", "neigh", "add", "10.77.0.2", "lladdr", dev.mac.hex(":"), "dev", "dut")
            kernel.sendto(b"x", ("10.77.0.2", 5000))
            assert arrived.wait(5)
        assert up
    finally:
        net.loop.enter()
        net.get(DeviceNamespace).remove(dev)
        net.loop.leave()
        net.loop.close("done")
        net.loop.trampoline = None
        runner.detach(net.loop)
    with pytest.raises(UnusableStackError):
        net.loop.enter()


def attribute(peer: netns.Netns, name: str, dev: str = "dut") -> int:
    """An attribute of the host's interface."""
    return int(peer.run("cat", f"/sys/class/net/{dev}/{name}").stdout, 0)


@pytest.mark.parametrize(
    ("offload", "gro", "timeout"),
    [(False, True, FLUSH_TIMEOUT), (False, False, 0), (True, True, 0)],
    ids=["plain", "without", "offload"],
)
def test_the_host_is_to_merge_where_there_is_no_offload(peer, offload, gro, timeout):
    tap = Tap("dut", offload=offload, gro=gro, netns=peer.name)
    assert attribute(peer, "gro_flush_timeout") == timeout
    assert attribute(peer, "gro_flush_timeout", "lo") == 0
    tap.close()


def test_where_the_host_may_not_be_told_it_is_not(peer, monkeypatch):
    def refused() -> int:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(host, "sysfs", refused)
    tap = Tap("dut", offload=False, threaded=True, netns=peer.name)
    assert attribute(peer, "gro_flush_timeout") == 0
    assert not attribute(peer, "tun_flags") & IFF_NAPI
    tap.close()


@pytest.mark.parametrize("offload", [True, False])
def test_the_host_has_a_thread_while_much_is_moved(peer, monkeypatch, offload):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with hosted(peer, Tap, offload) as host:
        loop = host.net.loop

        def threaded(moved: int, duration: int) -> tuple[int, int, int]:
            """After `moved` bytes in `duration` ns: whether there is a thread, and how packets are held."""
            host.dev.statistics.rx_bytes += moved
            loop.now += duration
            for _ in range(LOOK):
                host.tap.poll(64)
            return (
                attribute(peer, "threaded"),
                attribute(peer, "napi_defer_hard_irqs"),
                attribute(peer, "gro_flush_timeout"),
            )

        alone = (0, 0, 0 if offload else FLUSH_TIMEOUT)
        busy = (1, 0, 0) if offload else (1, THREAD_DEFER, THREAD_FLUSH_TIMEOUT)
        much = BUSY * INTERVAL // 8_000 + 1
        assert threaded(0, INTERVAL) == alone
        assert threaded(much, INTERVAL) == busy
        with peer.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            kernel.settimeout(5)
            kernel.bind(("10.77.0.1", 7000))
            host.send_udp(b"by the thread")
            assert kernel.recv(100) == b"by the thread"
        assert threaded(0, HOLD) == alone
        assert threaded(much, INTERVAL) == busy
        host.tap.stop()
        assert threaded(0, 0) == alone


def test_queues_are_for_as_many_cores(peer, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    tap = Tap("dut", queues=2, netns=peer.name)
    assert not attribute(peer, "tun_flags") & IFF_NAPI
    tap.close()
    tap = Tap("dut", queues=2, threaded=True, netns=peer.name)
    assert attribute(peer, "threaded") == 1
    tap.close()


def test_the_host_has_pieces_for_every_size_up_to_the_largest(peer):
    """Each is divided in pieces of another number: where they are too many, the host says ENOBUFS."""
    headers = 14 + 20 + 32
    with hosted(peer, Tap, True) as host:
        for size in range(BIG_TCP_SIZE - 32768, BIG_TCP_SIZE + 1, 2048):
            frame = [virtio_net.build(0, 0, headers, 0, 0, 0), bytes(headers), bytes(size)]
            assert os.writev(host.tap.fileno(), frame) == virtio_net.VIRTIO_NET_HDR_LEN + headers + size


def test_a_host_without_contiguous_pages_is_given_smaller_super_segments(peer):
    with hosted(peer, Tap, True) as host:
        host.dev.set_gso_max_size(BIG_TCP_SIZE)
        skb = SKBuff(bytes(100))
        # The packet is kept, to be split when there is room again.
        for size in (BIG_TCP_SIZE // 2, BIG_TCP_SIZE // 4, GSO_LEGACY_MAX_SIZE, GSO_LEGACY_MAX_SIZE):
            assert not host.tap._write_failed(skb, errno.ENOBUFS)
            assert host.dev.stopped
            assert host.dev.gso_max_size == size
        host.dev.wake_queue()
        assert not host.tap._write_failed(skb, errno.EAGAIN)
        assert host.dev.gso_max_size == GSO_LEGACY_MAX_SIZE
