"""What one packet costs the stack, with no kernel and no system call on the other side, as it is without offload.

    python bench/packets.py [--rounds N] [--build B] [--only REGEX] [--quick]
    python bench/packets.py --profile

A driver in memory plays an Ethernet without a wire: whole frames, every checksum filled in, none bigger than the MTU;
those to be received are made beforehand, those that are sent are thrown away, but for the last. Printed: medians over
the rounds of the least CPU time for a packet, and how many that is in a second. Received data is read, and its
acknowledgements are sent; sent data is acknowledged. --profile shows where the time goes, function by function. Needs
no privilege.
"""

from __future__ import annotations

import cProfile
import functools
import pstats
import sys
import time
from collections.abc import Callable
from time import thread_time_ns as now

import _net as net
import _report as report
from _nic import MemoryNic

import usernet
from usernet.core.malloc import tune_malloc
from usernet.netdevice.driver import NETIF_F_GRO, NETIF_F_SG
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum, ethernet, ipv4, tcp, udp

MSS = 1448
BATCH = 64
"""Frames in a poll: a NAPI's weight."""

PEER = bytes((10, 0, 0, 1))
US = bytes((10, 0, 0, 2))
FAR = bytes((10, 1, 0, 9))
"""Where forwarded packets go."""

PEER_MAC = bytes((2, 0, 0, 0, 0, 1))
US_MAC = bytes((2, 0, 0, 0, 0, 2))
PORT = 5001
WINDOW = 60000
MICE = 18
"""Bytes of a datagram that makes a frame of 64."""

PASSES = 7
PACKETS = 12_800


class Wire(MemoryNic):
    """Of what is sent it keeps the last."""

    hw_features = NETIF_F_SG
    mac = US_MAC
    plain_frames = True

    def __init__(self) -> None:
        super().__init__()
        self.last = b""
        self.wscale = 0
        self.count = 0

    def xmit(self, skb: SKBuff) -> bool:
        self.count += 1
        self.last = skb.tobytes()
        skb.consume()
        return True

    def write_frames(self, frames: list[bytes], start: int) -> int:
        self.count += len(frames) - start
        self.last = frames[-1]
        return len(frames)

    @property
    def sent(self) -> int:
        """The sequence number behind all that was sent by TCP."""
        _, _, seq, _, hlen, flags, _, _, _ = tcp.parse(self.last, 34)
        return seq + len(self.last) - 34 - hlen + bool(flags & tcp.SYN) & 0xFFFFFFFF

    @property
    def window(self) -> int:
        """The bytes that TCP let us send with what it sent last."""
        return tcp.parse(self.last, 34)[6] << self.wscale


def packet(protocol: int, payload: bytes, daddr: bytes = US, ident: int = 0) -> bytes:
    """A frame from the peer."""
    header = ipv4.build(0, 20 + len(payload), ident & 0xFFFF, ipv4.IP_DF, 64, protocol, PEER, daddr)
    return ethernet.build(US_MAC, PEER_MAC, ethernet.ETH_P_IP) + header + payload


def segment(seq: int, ack: int, flags: int, payload: bytes = b"", ident: int = 0) -> bytes:
    """A frame of TCP from the peer."""
    if flags & tcp.SYN:
        options = tcp.build_syn_options(mss=1460, wscale=14, sack_ok=True, ts=(1, 0))
    else:
        options = bytes((1, 1, 8, 10)) + (1).to_bytes(4, "big") * 2
    length = tcp.TCP_HLEN + len(options) + len(payload)
    seq, ack = seq & 0xFFFFFFFF, ack & 0xFFFFFFFF
    header = tcp.build(PORT, PORT, seq, ack, flags, WINDOW, 0, 0, options)
    total = checksum.pseudo_sum(PEER, US, 6, length) + checksum.csum(header + payload, 0, length)
    header = tcp.build(PORT, PORT, seq, ack, flags, WINDOW, checksum.csum_fold(total), 0, options)
    return packet(6, header + payload, ident=ident)


def datagram(payload: bytes, daddr: bytes = US) -> bytes:
    """A frame of UDP from the peer."""
    length = udp.UDP_HLEN + len(payload)
    total = checksum.pseudo_sum(PEER, daddr, 17, length)
    total += checksum.csum(udp.build(PORT, PORT, length, 0) + payload, 0, length)
    return packet(17, udp.build(PORT, PORT, length, checksum.csum_fold(total)) + payload, daddr)


class World:
    """A stack on a `Wire`, its neighbour known."""

    def __init__(self) -> None:
        self.stack = usernet.Stack("bench")
        self.wire = Wire()
        self.dev = self.stack.add_device(self.wire, "eth0", "10.0.0.2/24")
        self.stack.add_neighbour("eth0", "10.0.0.1", PEER_MAC.hex(":"))
        self.spent = 0

    def feed(self, frames: list[bytes]) -> None:
        """Have the stack receive `frames` in one batch; the clock runs."""
        self.wire.frames.extend(frames)
        start = now()
        self.stack.net.loop.schedule(self.dev.napi)
        self.stack.poll(time.monotonic_ns())
        self.spent += now() - start

    def connected(self) -> usernet.Socket:
        """A connection with the peer, its window grown."""
        sock = self.stack.socket()
        sock.setblocking(False)
        sock.bind(("", PORT))
        sock.connect_ex(("10.0.0.1", PORT))
        self.wire.wscale = tcp.parse_options(self.wire.last, 54, len(self.wire.last)).wscale
        self.feed([segment(0, self.wire.sent, tcp.SYN | tcp.ACK)])
        return sock


def received(world: World, packets: int, gro: bool) -> Callable[[], int]:
    """Segments of 1,448 bytes, and reading them by 128 KiB."""
    if not gro:
        world.dev.set_features(NETIF_F_GRO, False)
    sock = world.connected()
    wire = world.wire
    buffer = bytearray(net.CHUNK)
    payload = bytes(range(256)) * 6
    payload = payload[:MSS]
    seq = 1

    def once() -> int:
        nonlocal seq
        done = 0
        while done < packets:
            frames: list[bytes] = []
            while len(frames) < BATCH and (len(frames) + 1) * MSS <= max(wire.window, MSS):
                frames.append(segment(seq, wire.sent, tcp.ACK, payload, done + len(frames)))
                seq += MSS
            world.feed(frames)
            left = len(frames) * MSS
            start = now()
            while left:
                left -= sock.recv_into(buffer)
            world.spent += now() - start
            done += len(frames)
        return done

    return once


def sent(world: World, packets: int) -> Callable[[], int]:
    """Segments of 1,448 bytes, written by 128 KiB; one acknowledgement for each write."""
    sock = world.connected()
    wire = world.wire
    block = bytes(range(256)) * 512

    def once() -> int:
        before = wire.count
        while wire.count - before < packets:
            start = now()
            try:
                sock.send(block)
            except BlockingIOError:
                pass
            world.spent += now() - start
            world.feed([segment(1, wire.sent, tcp.ACK)])
        return wire.count - before

    return once


def exchanged(world: World, packets: int) -> Callable[[], int]:
    """A request of 64 bytes and its answer: two packets, each one's acknowledgement on the other."""
    sock = world.connected()
    sock.setsockopt(6, 1, 1)
    wire = world.wire
    block = bytes(64)
    buffer = bytearray(64)
    seq = 1

    def once() -> int:
        nonlocal seq
        frames = []
        for i in range(packets // 2):
            frames.append([segment(seq, wire.sent + 64 * i, tcp.ACK | tcp.PSH, block)])
            seq += 64
        start = now()
        for frame in frames:
            world.feed(frame)
            sock.recv_into(buffer)
            sock.send(block)
        world.spent = now() - start
        return packets

    return once


def datagrams_received(world: World, packets: int) -> Callable[[], int]:
    """Datagrams of 18 bytes, and reading each."""
    sock = world.stack.socket(2, 2)
    sock.setblocking(False)
    sock.bind(("", PORT))
    frames = [datagram(bytes(MICE))] * BATCH
    buffer = bytearray(2048)

    def once() -> int:
        for _ in range(packets // BATCH):
            world.feed(frames)
            start = now()
            for _ in range(BATCH):
                sock.recv_into(buffer)
            world.spent += now() - start
        return packets

    return once


def datagrams_sent(world: World, packets: int) -> Callable[[], int]:
    """Datagrams of 18 bytes from a connected socket."""
    sock = world.stack.socket(2, 2)
    sock.connect(("10.0.0.1", PORT))
    block = bytes(MICE)

    def once() -> int:
        start = now()
        for _ in range(packets):
            sock.send(block)
        world.spent += now() - start
        return packets

    return once


def forwarded(world: World, packets: int) -> Callable[[], int]:
    """Datagrams of 18 bytes from one device to another."""
    stack = world.stack
    stack.add_device(Wire(), "eth1", "10.1.0.2/24")
    stack.add_neighbour("eth1", "10.1.0.9", PEER_MAC.hex(":"))
    stack.sysctl["net.ipv4.ip_forward"] = 1
    frames = [datagram(bytes(MICE), FAR)] * BATCH

    def once() -> int:
        for _ in range(packets // BATCH):
            world.feed(frames)
        return packets

    return once


Kind = Callable[[World, int], Callable[[], int]]

KINDS: dict[str, Kind] = {
    "TCP data received, merged by GRO": lambda world, packets: received(world, packets, True),
    "TCP data received, one by one": lambda world, packets: received(world, packets, False),
    "TCP data sent": sent,
    "TCP, 64 B there and back": exchanged,
    f"UDP, {MICE} B received": datagrams_received,
    f"UDP, {MICE} B sent": datagrams_sent,
    "forwarded, 64 B": forwarded,
}


def least(kind: Kind) -> report.Figures:
    """Of some passes after a first one: the least CPU time (ns) for a packet, and how many that is in a second."""
    world = World()
    once = kind(world, PACKETS)
    once()
    found = []
    for _ in range(PASSES):
        world.spent = 0
        done = once()
        found.append(world.spent / done)
    world.stack.close()
    return min(found), 1e9 / min(found)


def _row(kind: Kind, _: float) -> report.Figures:
    return least(kind)


def profile(kind: Kind) -> None:
    """Print where the time goes, function by function."""
    world = World()
    once = kind(world, PACKETS)
    once()
    profiler = cProfile.Profile()
    profiler.runcall(once)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    world.stack.close()


BENCH = report.Bench(
    what="a packet",
    units=[("CPU ns", ",.0f"), ("per second", ",.0f")],
    groups=[[report.Row(name, functools.partial(_row, kind)) for name, kind in KINDS.items()]],
    setting=f"MTU 1500, no offload; the least of {PASSES} passes of {PACKETS:,} packets.",
    ratios=[],
    warm_up=False,
)

if __name__ == "__main__":
    if "--profile" in sys.argv:
        tune_malloc()
        for name, kind in KINDS.items():
            print(name)
            profile(kind)
    else:
        report.main(__doc__, BENCH, tune_malloc)
