"""What one packet costs the stack, with no kernel and no system call on the other side, as it is without offload.

    python bench/packets.py [--rounds N] [--packets N] [--only REGEX] [--profile]

A driver in memory plays an Ethernet without a wire: whole frames, every checksum filled in, none bigger than the MTU;
those to be received are made beforehand, those that are sent are thrown away. Printed: the least CPU time a packet over
the rounds, and how many that is in a second. Received data is read, and its acknowledgements are sent; sent data is
acknowledged. --profile shows where the time goes, function by function. Needs no privilege.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import re
import time
from collections import deque
from collections.abc import Callable
from time import thread_time_ns as now

import _net as net
import _report as report

import usernet
from usernet.core.malloc import tune_malloc
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import NETIF_F_GRO, NETIF_F_SG, Driver
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


class Wire(Driver):
    """A NIC without a wire: `frames` are what it receives next; of what is sent it keeps TCP's last header."""

    hw_features = NETIF_F_SG
    mac = US_MAC
    plain_frames = True

    def __init__(self) -> None:
        self.dev: NetDevice | None = None
        self.frames: deque[bytes] = deque()
        self.sent = self.acked = self.window = self.count = 0
        self.wscale = -1

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def xmit(self, skb: SKBuff) -> bool:
        self.write_frame(skb.tobytes())
        skb.consume()
        return True

    def write_frame(self, frame: bytes) -> bool:
        self.count += 1
        if frame[23] == 6:
            _, _, seq, self.acked, hlen, flags, window, _, _ = tcp.parse(frame, 34)
            if flags & tcp.SYN:
                self.wscale = tcp.parse_options(frame, 34 + tcp.TCP_HLEN, 34 + hlen).wscale
                seq += 1
            else:
                self.window = window << self.wscale
            self.sent = seq + len(frame) - 34 - hlen & 0xFFFFFFFF
        return True

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        napi = self.dev.napi
        frames = self.frames
        done = 0
        while frames and done < budget:
            frame = frames.popleft()
            done += 1
            train = napi.train
            if train is not None and train.take(frame):
                continue
            napi.receive(SKBuff(frame))
        return done


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


ROWS: dict[str, Callable[[World, int], Callable[[], int]]] = {
    "TCP data received, merged by GRO": lambda world, packets: received(world, packets, True),
    "TCP data received, one by one": lambda world, packets: received(world, packets, False),
    "TCP data sent": sent,
    "TCP, 64 bytes there and back": exchanged,
    "UDP, 18 bytes received": datagrams_received,
    "UDP, 18 bytes sent": datagrams_sent,
    "forwarded, 64 bytes": forwarded,
}


def measure(make: Callable[[World, int], Callable[[], int]], rounds: int, packets: int, profile: bool) -> list[float]:
    """Nanoseconds a packet of each round, after a warm-up."""
    world = World()
    once = make(world, packets)
    once()
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(once)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    values = []
    for _ in range(rounds):
        world.spent = 0
        done = once()
        values.append(world.spent / done)
    world.stack.close()
    return values


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, of which the fastest counts (default 9)")
    parser.add_argument("--packets", type=int, default=20_000, help="packets of a round (default 20000)")
    parser.add_argument("--only", default="", help="only rows that match this regular expression")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    arguments = parser.parse_args()
    tune_malloc()
    rows = []
    for name, make in ROWS.items():
        if re.search(arguments.only, name):
            values = measure(make, arguments.rounds, arguments.packets, arguments.profile)
            least = min(values)
            rows.append((name, f"{least:,.0f}", f"{report.median(values):,.0f}", f"{1e9 / least:,.0f}"))
    print(f"{report.describe()}\n")
    report.table(("a packet", "least ns", "median ns", "per second"), rows)


if __name__ == "__main__":
    main()
