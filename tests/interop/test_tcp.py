"""TCP between the stack and the kernel: options switched off on either side, small MTUs, and every way of ending.

What was negotiated is read from both ends: the stack's counters and `TCP_INFO`, and the kernel's `TCP_INFO`.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Final

import pytest

import usernet
from tests.interop.bed import HOST, KERNEL, Bed, stack_bed
from tests.support import netns
from usernet import drivers
from usernet.net.hooks import NF_ACCEPT, Hooks
from usernet.skbuff.skbuff import GSO_LEGACY_MAX_SIZE, SKBuff

pytestmark = netns.INTEROP

PORT: Final = 7000
SO_BUSY_POLL: Final = 46
TIMESTAMPS, SACK, WSCALE = 1, 2, 4  # tcpi_options (linux/tcp.h)

DEVICES: Final = [
    pytest.param({}, id="tap"),
    pytest.param({"offload": False}, id="tap-plain"),
    pytest.param({"tun": True}, id="tun"),
    pytest.param({"tun": True, "offload": False}, id="tun-plain"),
]


@contextmanager
def connected(bed: Bed, *, passive: bool) -> Iterator[tuple[Any, socket.socket]]:
    """A connection: the stack's socket and the kernel's. passive: the stack listens, else the kernel does."""
    with ExitStack() as to_close:
        with bed.client.entered():
            kernel = to_close.enter_context(socket.socket())
        ours: Any = to_close.enter_context(bed.stack.socket())
        kernel.settimeout(20)
        ours.settimeout(20)
        listener: Any = ours if passive else kernel
        address = (HOST if passive else KERNEL, PORT)
        # A connection before this one may have left a TIME-WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        (kernel if passive else ours).connect(address)
        accepted = to_close.enter_context(listener.accept()[0])
        accepted.settimeout(20)
        listener.close()
        yield (accepted, kernel) if passive else (ours, accepted)


def tcp_info(sock: Any) -> dict[str, int]:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (snd_mss,) = struct.unpack_from("=I", info, 16)
    return {"options": info[5], "snd_wscale": info[6] & 15, "rcv_wscale": info[6] >> 4, "snd_mss": snd_mss}


def exchange(one: Any, other: Any, size: int = 1_000_000) -> None:
    """Send different data both ways at the same time; each must arrive whole, and then the end of it."""
    source = random.Random(size)
    data = [source.randbytes(size), source.randbytes(size)]
    got = [bytearray(), bytearray()]

    def send(sock: Any, block: bytes) -> None:
        sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: Any, into: bytearray) -> None:
        while block := sock.recv(65536):
            into += block

    threads = [
        threading.Thread(target=send, args=(one, data[0])),
        threading.Thread(target=send, args=(other, data[1])),
        threading.Thread(target=receive, args=(one, got[1])),
        threading.Thread(target=receive, args=(other, got[0])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0] == data[0]
    assert got[1] == data[1]


def wait_for_no_sockets(bed: Bed) -> None:
    netns.wait_until(lambda: not bed.stack.sockets(), "the stack's sockets to end")


@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
@pytest.mark.parametrize("device", DEVICES)
def test_data_both_ways_at_once(device, passive):
    with stack_bed(**device) as bed, connected(bed, passive=passive) as (ours, kernel):
        exchange(ours, kernel)
        assert tcp_info(ours)["options"] == tcp_info(kernel)["options"] == TIMESTAMPS | SACK | WSCALE


@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
@pytest.mark.parametrize("at", ["kernel", "stack"])
@pytest.mark.parametrize(
    ("setting", "bit"),
    [("tcp_timestamps", TIMESTAMPS), ("tcp_sack", SACK), ("tcp_window_scaling", WSCALE)],
)
def test_an_option_switched_off(setting, bit, at, passive):
    """On an imperfect link, so that SACK and time stamps would be used."""
    with stack_bed(impair={"loss": 0.01, "reorder": 0.01, "seed": 5}) as bed:
        if at == "kernel":
            bed.sysctl(**{setting: 0})
        else:
            bed.stack.sysctl[f"net.ipv4.{setting}"] = 0
        with connected(bed, passive=passive) as (ours, kernel):
            exchange(ours, kernel, 300_000)
            assert tcp_info(ours)["options"] == tcp_info(kernel)["options"] == 7 - bit
            if bit == WSCALE:
                assert tcp_info(ours)["snd_wscale"] == tcp_info(ours)["rcv_wscale"] == 0
            assert tcp_info(ours)["snd_mss"] == tcp_info(kernel)["snd_mss"] == (1460 if bit == TIMESTAMPS else 1448)


@pytest.mark.parametrize("at", ["kernel", "stack"])
def test_every_option_switched_off(at):
    with stack_bed(impair={"loss": 0.01, "seed": 5}) as bed:
        for setting in ("tcp_timestamps", "tcp_sack", "tcp_window_scaling"):
            if at == "kernel":
                bed.sysctl(**{setting: 0})
            else:
                bed.stack.sysctl[f"net.ipv4.{setting}"] = 0
        with connected(bed, passive=True) as (ours, kernel):
            exchange(ours, kernel, 300_000)
            assert tcp_info(ours)["options"] == tcp_info(kernel)["options"] == 0


@pytest.mark.parametrize("mtu", [576, 296, 9000])
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_an_mtu_other_than_ethernets(mtu, offload):
    with stack_bed(mtu=mtu, offload=offload) as bed:
        for passive in (True, False):
            with connected(bed, passive=passive) as (ours, kernel):
                exchange(ours, kernel, 300_000)
                assert tcp_info(ours)["snd_mss"] == tcp_info(kernel)["snd_mss"] == mtu - 52


@pytest.mark.parametrize("captured", [False, True], ids=["", "captured"])
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_super_segments_above_64_kib(offload, captured, tmp_path):
    with stack_bed(offload=offload) as bed, connected(bed, passive=False) as (ours, kernel):
        largest = bed.stack.devices["eth0"].gso_max_size
        if largest <= GSO_LEGACY_MAX_SIZE:
            pytest.skip("this kernel takes no IPv4 super-segment above 64 KiB")
        sizes: list[int] = []

        def watch(skb: SKBuff, indev: object, outdev: object) -> int:
            sizes.append(skb.len)
            return NF_ACCEPT

        bed.stack.net.get(Hooks).post_routing.register(watch)
        with bed.stack.capture(tmp_path / "file") if captured else nullcontext():
            exchange(ours, kernel, 20_000_000)
        assert GSO_LEGACY_MAX_SIZE < max(sizes) <= largest


@pytest.mark.parametrize("bridged", [False, True], ids=["routed", "bridged"])
def test_the_host_passes_super_segments_above_64_kib_on(bridged):
    """To a machine behind the host: what the next device can't take whole, the host's kernel splits."""
    with netns.Netns("host") as host, netns.Netns("far") as far:
        tap = drivers.Tap("tap0", netns=host.name, up=True)
        host.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", far.name)
        host.run("ip", "link", "set", "veth0", "up")
        far.run("ip", "link", "set", "eth0", "up")
        if bridged:
            host.run("ip", "link", "add", "br0", "type", "bridge")
            host.run("ip", "link", "set", "br0", "up")
            for name in ("tap0", "veth0"):
                host.run("ip", "link", "set", name, "master", "br0")
            far.run("ip", "address", "add", "10.77.0.3/24", "dev", "eth0")
        else:
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            host.run("ip", "address", "add", "10.77.0.1/24", "dev", "tap0")
            host.run("ip", "address", "add", "10.79.0.1/24", "dev", "veth0")
            far.run("ip", "address", "add", "10.79.0.3/24", "dev", "eth0")
            far.run("ip", "route", "add", "default", "via", "10.79.0.1")
        # A NIC that takes no super-segment.
        host.run("ethtool", "-K", "veth0", "tso", "off", "gso", "off")
        address = "10.77.0.3" if bridged else "10.79.0.3"
        with usernet.Stack("interop") as stack, ExitStack() as to_close:
            stack.add_device(tap, "eth0", "10.77.0.2/24")
            if not bridged:
                stack.add_route("default", via="10.77.0.1")
            with far.entered():
                listener = to_close.enter_context(socket.create_server((address, PORT)))
            listener.settimeout(20)
            ours: Any = to_close.enter_context(stack.socket())
            ours.settimeout(20)
            ours.connect((address, PORT))
            kernel = to_close.enter_context(listener.accept()[0])
            kernel.settimeout(20)
            exchange(ours, kernel, 5_000_000)


def test_a_reader_looks_at_the_device_before_it_sleeps():
    with stack_bed() as bed, connected(bed, passive=True) as (ours, kernel):
        ours.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL, 200_000)
        for turn in range(50):
            kernel.sendall(bytes([turn]))
            assert ours.recv(10) == bytes([turn])
        ours.setblocking(False)
        kernel.sendall(b"x")
        assert ours.recv(10) == b"x"


def test_each_side_has_an_mtu_of_its_own():
    """The smaller MSS holds both ways, and neither sends what the other's device wouldn't take."""
    with stack_bed(offload=False) as bed:
        bed.client.run("ip", "link", "set", "net0", "mtu", "1000")
        with connected(bed, passive=False) as (ours, kernel):
            exchange(ours, kernel, 300_000)
            assert tcp_info(ours)["snd_mss"] == tcp_info(kernel)["snd_mss"] == 1000 - 52


def test_without_offload_the_kernel_merges_what_it_is_sent():
    """It acknowledges super-segments then; without, every few of their packets."""
    with stack_bed(offload=False) as bed:
        assert bed.stack is not None
        counters = bed.stack.devices["eth0"].statistics
        with connected(bed, passive=False) as (ours, kernel):
            sent, acknowledged = counters.tx_packets, counters.rx_packets
            data = random.Random(3).randbytes(4 << 20)
            sender = threading.Thread(target=ours.sendall, args=(data,))
            sender.start()
            got = bytearray()
            while len(got) < len(data):
                got += kernel.recv(1 << 20)
            sender.join()
            assert got == data
            assert (counters.rx_packets - acknowledged) * 12 < counters.tx_packets - sent


@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_half_close_each_way(passive):
    with stack_bed() as bed:
        for first in (0, 1):
            with connected(bed, passive=passive) as pair:
                closer, other = pair[first], pair[1 - first]
                closer.sendall(b"question")
                closer.shutdown(socket.SHUT_WR)
                assert other.recv(100) == b"question"
                assert other.recv(100) == b""
                other.sendall(b"answer" * 10_000)
                other.close()
                got = b""
                while block := closer.recv(65536):
                    got += block
                assert got == b"answer" * 10_000
        if not passive:
            return
        # With the stack as the first to close, it has a TIME-WAIT, which is no socket any more.
        wait_for_no_sockets(bed)


def test_a_reset_from_the_kernel():
    with stack_bed() as bed, connected(bed, passive=True) as (ours, kernel):
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        kernel.close()
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
        assert bed.stack.mib["Tcp"]["EstabResets"] == 1
        with pytest.raises(BrokenPipeError):
            ours.send(b"x")


def test_a_reset_from_the_stack():
    with stack_bed() as bed, connected(bed, passive=False) as (ours, kernel):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        with pytest.raises(ConnectionResetError):
            kernel.recv(1)
        wait_for_no_sockets(bed)


def test_closing_with_data_unread_resets():
    with stack_bed() as bed:
        for who in (0, 1):
            with connected(bed, passive=True) as pair:
                pair[1 - who].sendall(b"never read")
                pair[who].recv(1, socket.MSG_PEEK)
                pair[who].close()
                with pytest.raises(ConnectionResetError):
                    pair[1 - who].recv(1)


def test_a_reset_wakes_a_blocked_reader():
    with stack_bed() as bed, connected(bed, passive=True) as (ours, kernel):
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        timer = threading.Timer(0.1, kernel.close)
        timer.start()
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
        timer.join()


def test_nobody_listens_at_the_stack():
    with stack_bed() as bed, bed.client.entered(), socket.socket() as kernel:
        with pytest.raises(ConnectionRefusedError):
            kernel.connect((HOST, PORT))


def test_nobody_listens_at_the_kernel():
    with stack_bed() as bed, bed.stack.socket() as ours, pytest.raises(ConnectionRefusedError):
        ours.connect((KERNEL, PORT))


def test_nobody_has_the_address():
    with stack_bed() as bed, bed.stack.socket() as ours, pytest.raises(OSError) as caught:
        ours.connect(("10.77.0.99", PORT))
    assert caught.value.errno == errno.EHOSTUNREACH


def _has_urgent(sock: Any) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False  # it is told of, and not there
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        return False


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("sender", [0, 1], ids=["from-the-stack", "from-the-kernel"])
def test_an_urgent_byte(sender, inline):
    with stack_bed() as bed, connected(bed, passive=True) as pair:
        one, other = pair[sender], pair[1 - sender]
        if inline:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        one.sendall(b"before")
        one.send(b"!", socket.MSG_OOB)
        one.sendall(b"after")
        if not inline:
            netns.wait_until(lambda: _has_urgent(other), "the urgent byte")
        # Reading stops at the mark.
        netns.wait_until(lambda: len(other.recv(100, socket.MSG_PEEK)) >= 6, "what is before the mark")
        assert other.recv(100) == b"before"
        if inline:
            got = other.recv(1)
            assert got == b"!"
        else:
            assert other.recv(1, socket.MSG_OOB) == b"!"
        got = b""
        while len(got) < 5:
            got += other.recv(100)
        assert got == b"after"


def test_the_urgent_byte_of_a_large_transfer():
    with stack_bed() as bed:
        for sender in (0, 1):
            with connected(bed, passive=False) as pair:
                one, other = pair[sender], pair[1 - sender]

                def send(sock: Any = one) -> None:
                    sock.sendall(b"a" * 200_000)
                    sock.send(b"!", socket.MSG_OOB)
                    sock.sendall(b"b" * 200_000)
                    sock.shutdown(socket.SHUT_WR)

                thread = threading.Thread(target=send)
                thread.start()
                got = bytearray()
                while block := other.recv(65536):
                    got += block
                thread.join()
                # The byte itself was out of line and is not in the stream.
                assert got == b"a" * 200_000 + b"b" * 200_000


def test_a_zero_window_is_probed_and_opens():
    with stack_bed() as bed:
        for sender in (0, 1):
            with connected(bed, passive=True) as pair:
                one, other = pair[sender], pair[1 - sender]
                one.setblocking(False)
                sent = 0
                with pytest.raises(BlockingIOError):
                    while True:
                        sent += one.send(bytes(65536))
                threading.Event().wait(0.5)
                # Full on both sides for long enough that a probe went out.
                one.setblocking(True)
                got = 0
                one.shutdown(socket.SHUT_WR)
                while block := other.recv(1 << 20):
                    got += len(block)
                assert got >= sent


def test_keepalive_finds_a_peer_that_is_gone():
    with stack_bed() as bed, connected(bed, passive=True) as (ours, _kernel):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
        # The kernel answers the first probe; then its device is down.
        bed.client.run("ip", "link", "set", "net0", "down")
        with pytest.raises(OSError) as caught:
            ours.recv(1)
        assert caught.value.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
