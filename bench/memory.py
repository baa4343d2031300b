"""Bytes of memory for an idle TCP connection, a handshake under way, and a connection in TIME-WAIT.

    python bench/memory.py [--build B] [--only REGEX] [--quick]

Two stacks on a cable in memory, on a clock that stands still; what tracemalloc counts before and after, for one end.
And what a process with a hundred thousand idle connections has resident, whose other ends are made-up packets. Needs no
privilege.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Any

import _report as report

import usernet
from usernet import drivers
from usernet.core.clock import ManualClock
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_NONE, Driver
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum, ipv4, tcp

ADDRESS = ("10.0.0.2", 80)
COUNT = 2000
CROWD = 100_000
STRANGER, SERVER = b"\x0a\0\0\3", b"\x0a\0\0\2"


class Bench:
    """Two stacks, and a listener on the second one."""

    def __init__(self, count: int) -> None:
        self.clock = ManualClock(0)
        self.client = usernet.Stack("client", clock=self.clock, seed=1)
        self.server = usernet.Stack("server", clock=self.clock, seed=2)
        near, far = drivers.veth()
        self.client.add_device(near, "eth0", "10.0.0.1/24")
        self.server.add_device(far, "eth0", "10.0.0.2/24")
        self.server.sysctl["net.core.somaxconn"] = count + 10
        self.client.sysctl["net.ipv4.ip_local_port_range"] = "1024 65535"
        self.listener = self.server.socket()
        self.listener.bind(("", 80))
        self.listener.listen(count + 10)
        self.listener.setblocking(False)
        self.server.add_neighbour("eth0", "10.0.0.3", "02:00:00:00:00:03")
        self.raw = self.client.socket(2, 3, 255)
        self.port = 1024

    def run(self) -> None:
        """Until the cable is empty again."""
        for _ in range(4):
            self.client.poll(self.clock.now())
            self.server.poll(self.clock.now())

    def call(self) -> Any:
        sock = self.client.socket()
        sock.setblocking(False)
        sock.connect_ex(ADDRESS)
        return sock

    def close(self) -> None:
        self.client.close()
        self.server.close()


def measure(count: int, step: Callable[[Bench], object]) -> float:
    """Bytes that one `step` leaves held."""
    bench = Bench(count)
    kept = [step(bench) for _ in range(50)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [step(bench) for _ in range(count - 50)]
    gc.collect()
    found = (tracemalloc.get_traced_memory()[0] - before) / (count - 50)
    tracemalloc.stop()
    del kept
    bench.close()
    return found


def idle(bench: Bench) -> object:
    """A connection with both its ends."""
    sock = bench.call()
    bench.run()
    return sock, bench.listener.accept()[0]


def waiting(bench: Bench) -> object:
    """A connection ended by the client, whose end is in TIME-WAIT; the server's is gone."""
    sock = bench.call()
    bench.run()
    accepted = bench.listener.accept()[0]
    sock.close()
    bench.run()
    accepted.close()
    bench.run()
    return None


def half_open(bench: Bench) -> object:
    """A handshake with a client that does not answer: another host's SYN, sent by a raw socket."""
    bench.port += 1
    header = tcp.build(bench.port, 80, 1, 0, tcp.SYN, 65535, 0, 0, tcp.build_syn_options(1460, 7, True, (1, 0)))
    total = checksum.csum(header, 0, len(header), checksum.pseudo_sum(STRANGER, SERVER, 6, len(header)))
    segment = header[:16] + checksum.csum_fold(total).to_bytes(2, "big") + header[18:]
    bench.raw.sendto(
        bytes((69, 0, 0, 20 + len(segment))) + bytes(4) + b"\x40\6\0\0" + STRANGER + SERVER + segment, ADDRESS
    )
    bench.run()
    return None


class Callers(Driver):
    """A NIC without a wire, whose other end completes a hundred thousand handshakes and then says nothing."""

    link_type = ARPHRD_NONE

    def __init__(self) -> None:
        self.dev: NetDevice | None = None
        self.frames: deque[bytes] = deque()
        self.answered: list[tuple[bytes, int, int, int]] = []
        """Of each SYN-ACK: to whom, to which port, its sequence number and its time stamp."""

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def xmit(self, skb: SKBuff) -> bool:
        packet = bytes(skb.head[skb.data : skb.tail])
        _, port, seq, _, _, _, _, _, _ = tcp.parse(packet, 20)
        stamp = tcp.parse_options(packet, 20 + tcp.TCP_HLEN, len(packet)).tsval
        self.answered.append((packet[16:20], port, seq, stamp))
        return True

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        done = 0
        while self.frames and done < budget:
            self.dev.napi.receive(SKBuff(self.frames.popleft(), 0))
            done += 1
        return done


class Crowd:
    """A server whose clients are all there and silent."""

    def __init__(self, count: int) -> None:
        self.stack = usernet.Stack("server", clock=ManualClock(0), seed=1)
        self.callers = Callers()
        self.dev = self.stack.add_device(self.callers, "eth0", "10.0.0.2/8")
        self.stack.sysctl["net.core.somaxconn"] = 1000
        self.listener = self.stack.socket()
        self.listener.bind(("", 80))
        self.listener.listen(1000)
        self.listener.setblocking(False)
        self.accepted: list[Any] = []
        self._sequences: dict[tuple[bytes, int], int] = {}
        while len(self.accepted) < count:
            for number in range(len(self.accepted), min(len(self.accepted) + 500, count)):
                host, port = divmod(number, 50_000)
                options = tcp.build_syn_options(1460, 7, True, (1, 0))
                self.segment((0x0A010001 + host).to_bytes(4, "big"), 1024 + port, 0, 0, tcp.SYN, options)
            self.poll()
            answers, self.callers.answered = self.callers.answered, []
            for address, port, seq, stamp in answers:
                self._sequences[address, port] = seq + 1 & 0xFFFFFFFF
                self.segment(
                    address, port, 1, seq + 1, tcp.ACK, bytes((1, 1, 8, 10, 0, 0, 0, 1)) + stamp.to_bytes(4, "big")
                )
            self.poll()
            self.callers.answered.clear()
            before = len(self.accepted)
            try:
                while True:
                    self.accepted.append(self.listener.accept()[0])
            except BlockingIOError:
                if len(self.accepted) == before:
                    raise RuntimeError("no connection came about") from None

    def segment(self, address: bytes, port: int, seq: int, ack: int, flags: int, options: bytes) -> None:
        header = tcp.build(port, 80, seq, ack & 0xFFFFFFFF, flags, 65535, 0, 0, options)
        total = checksum.csum(header, 0, len(header), checksum.pseudo_sum(address, SERVER, 6, len(header)))
        header = header[:16] + checksum.csum_fold(total).to_bytes(2, "big") + header[18:]
        self.callers.frames.append(ipv4.build(0, 20 + len(header), 0, ipv4.IP_DF, 64, 6, address, SERVER) + header)

    def sequence(self, address: bytes, port: int) -> int:
        """What a client acknowledges: all that the server has sent."""
        return self._sequences[address, port]

    def poll(self) -> None:
        while self.callers.frames:
            self.stack.net.loop.schedule(self.dev.napi)
            self.stack.poll(0)

    def close(self) -> None:
        self.stack.close()


def resident() -> int:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def crowd(_: float) -> report.Figures:
    """Resident memory (MB) of a process that has `CROWD` idle connections, beyond what it has without them."""
    before = resident()
    bench = Crowd(CROWD)
    held = resident() - before
    bench.close()
    return (held / 1e6,)


def row(label: str, step: Callable[[Bench], object], ends: int = 1) -> report.Row:
    """What one `step` leaves held."""
    return report.Row(label, lambda _: (measure(COUNT, step) / ends,), limit=120)


BENCH = report.Bench(
    what="memory",
    units=[("", ",.0f")],
    groups=[
        [
            row("idle connection, one end: bytes", idle, 2),
            row("handshake under way (SYN_RECV): bytes", half_open),
            row("TIME-WAIT: bytes", waiting),
            report.Row(f"{CROWD:,} idle connections, one end: MB resident", crowd, limit=300),
        ]
    ],
    ratios=[],
    rounds=1,
    warm_up=False,
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, lambda: None)
