"""The data path alone: what the stack takes for a super-segment, with no kernel and no system call on the other side.

    python bench/datapath.py [--rounds N] [--build B] [--only REGEX] [--quick]
    python bench/datapath.py --profile

A driver in memory plays a peer whose every segment and acknowledgement is made beforehand. Printed: medians over the
rounds of the least µs for 128 KiB received (recv_into) and sent (send), in super-segments with a virtio-net header as a
TAP has them. --profile shows where the time goes, function by function. Needs no privilege.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections.abc import Callable

import _net as net
import _report as report
from _nic import MemoryNic

import usernet
from usernet.core.malloc import tune_malloc
from usernet.drivers.tuntap import BIG_TCP_SIZE
from usernet.drivers.vnet_hdr import transmit_header
from usernet.netdevice.driver import (
    ARPHRD_NONE,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
)
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum, ipv4, tcp, virtio_net

MSS = 1448
SEGMENTS = 45
PEER = bytes((10, 0, 0, 1))
US = bytes((10, 0, 0, 2))
PORT = 5001
WINDOW = 60000


class Peer(MemoryNic):
    """The peer's side of it: what was acknowledged and sent last."""

    link_type = ARPHRD_NONE
    hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_TSO
    tso_max_size = BIG_TCP_SIZE
    vnet_hdr = virtio_net.VIRTIO_NET_HDR_LEN

    def __init__(self) -> None:
        super().__init__()
        self.acked = 0
        self.window = 0
        self.wscale = 0
        self.sent = 0
        """The next sequence number of the stack's, after all that it has sent."""

    def xmit(self, skb: SKBuff) -> bool:
        transmit_header(skb)
        _, _, seq, self.acked, hlen, flags, window, _, _ = tcp.parse(skb.head, 20)
        if flags & tcp.SYN:
            self.wscale = tcp.parse_options(skb.head, 20 + tcp.TCP_HLEN, 20 + hlen).wscale
        else:
            self.window = window << self.wscale
        self.sent = seq + skb.len - 20 - hlen + bool(flags & (tcp.SYN | tcp.FIN)) & 0xFFFFFFFF
        destructor = skb.destructor
        if destructor is not None:
            skb.destructor = None
            destructor(skb)
        return True

    def segment(self, seq: int, ack: int, flags: int, payload: bytes = b"", ident: int = 0) -> bytes:
        """A frame from the peer."""
        if flags & tcp.SYN:
            options = tcp.build_syn_options(mss=1460, wscale=14, sack_ok=True, ts=(1, 0))
        else:
            options = bytes((1, 1, 8, 10)) + (1).to_bytes(4, "big") * 2
        length = tcp.TCP_HLEN + len(options) + len(payload)
        pseudo = checksum.pseudo_sum(PEER, US, 6, length)
        header = tcp.build(PORT, PORT, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, WINDOW, pseudo, 0, options)
        gso = len(payload) > MSS
        vnet = virtio_net.build(1, 1 if gso else 0, 20 + len(header), MSS if gso else 0, 20, 16)
        return vnet + ipv4.build(0, 20 + length, ident & 0xFFFF, ipv4.IP_DF, 64, 6, PEER, US) + header + payload


class Connection:
    """A stack with one connection to a `Peer`."""

    def __init__(self) -> None:
        self.stack = usernet.Stack("bench")
        self.peer = Peer()
        self.dev = self.stack.add_device(self.peer, "eth0", "10.0.0.2/24")
        self.socket = self.stack.socket()
        self.socket.setblocking(False)
        self.socket.bind(("", PORT))
        self.socket.connect_ex(("10.0.0.1", PORT))
        self.seq = 1
        self.feed(self.peer.segment(0, self.peer.sent, tcp.SYN | tcp.ACK))

    def feed(self, *frames: bytes) -> None:
        """Have the stack receive `frames` in one batch."""
        self.peer.frames.extend(frames)
        self.stack.net.loop.schedule(self.dev.napi)
        self.stack.poll(time.monotonic_ns())

    def receive(self, megabytes: int) -> float:
        """µs for 128 KiB received, in polls of 16 super-segments."""
        whole = bytes(MSS * SEGMENTS)
        buffer = bytearray(net.CHUNK)
        socket = self.socket
        spent = total = ident = 0
        while total < megabytes << 20:
            frames: list[bytes] = []
            # Small ones until the window has grown.
            payload = whole if self.peer.window > 2 * len(whole) else whole[: MSS * 10]
            while len(frames) < 16 and (len(frames) + 1) * len(payload) <= self.peer.window:
                frames.append(self.peer.segment(self.seq, self.peer.sent, tcp.ACK | tcp.PSH, payload, ident))
                self.seq += len(payload)
                ident += len(payload) // MSS
            start = time.perf_counter_ns()
            self.feed(*frames)
            left = len(frames) * len(payload)
            while left:
                left -= socket.recv_into(buffer)
            spent += time.perf_counter_ns() - start
            total += len(frames) * len(payload)
        return spent / 1000 / (total / net.CHUNK)

    def send(self, megabytes: int) -> float:
        """µs for 128 KiB sent, an acknowledgement for each call, four of them in a poll."""
        block = bytes(net.CHUNK)
        socket = self.socket
        spent = total = turn = 0
        while total < megabytes << 20:
            turn += 1
            start = time.perf_counter_ns()
            try:
                total += socket.send(block)
                full = False
            except BlockingIOError:
                full = True
            spent += time.perf_counter_ns() - start
            self.peer.frames.append(self.peer.segment(self.seq, self.peer.sent, tcp.ACK))
            if turn % 4 == 0 or full:
                start = time.perf_counter_ns()
                self.feed()
                spent += time.perf_counter_ns() - start
        return spent / 1000 / (total / net.CHUNK)

    def close(self) -> None:
        self.socket.close()
        self.stack.close()


MEGABYTES = 32
"""Data of a pass."""

PASSES = 5
"""Of which the fastest counts."""

Work = Callable[[Connection, int], float]


def least(work: Work) -> report.Figures:
    """Of some passes after a short one: the least µs for 128 KiB, and the Gbit/s that they come to."""
    connection = Connection()
    work(connection, MEGABYTES // 4)
    found = min(work(connection, MEGABYTES) for _ in range(PASSES))
    connection.close()
    return found, net.CHUNK * 8 / found / 1000


def profile(work: Work) -> None:
    """Print where the time goes, function by function."""
    connection = Connection()
    work(connection, MEGABYTES // 4)
    profiler = cProfile.Profile()
    profiler.runcall(work, connection, MEGABYTES)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    connection.close()


BENCH = report.Bench(
    what="128 KiB",
    units=[("µs", ".1f"), ("Gbit/s", ".2f")],
    groups=[
        [
            report.Row("received", lambda _: least(Connection.receive)),
            report.Row("sent", lambda _: least(Connection.send)),
        ]
    ],
    setting=f"MTU 1500, offload; the least of {PASSES} passes of {MEGABYTES} MiB.",
    ratios=[],
    warm_up=False,
)

if __name__ == "__main__":
    if "--profile" in sys.argv:
        tune_malloc()
        for name, work in (("received", Connection.receive), ("sent", Connection.send)):
            print(name)
            profile(work)
    else:
        report.main(__doc__, BENCH, tune_malloc)
