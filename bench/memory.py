"""Bytes of memory for an idle TCP connection, a handshake under way, and a connection in TIME-WAIT.

    python bench/memory.py [--count N]

Two stacks on a cable in memory, on a clock that stands still; what tracemalloc counts before and after, for one end.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import _net as net

import usernet
from usernet import drivers
from usernet.core.clock import ManualClock
from usernet.wire import checksum, tcp

ADDRESS = ("10.0.0.2", 80)
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


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many of each (default 2000)")
    count = parser.parse_args().count
    print(f"{net.describe()}\n")
    rows = [
        ("idle connection, one end", measure(count, idle) / 2),
        ("handshake under way (SYN_RECV)", measure(count, half_open)),
        ("TIME-WAIT", measure(count, waiting)),
    ]
    net.table(("held", "bytes"), [(name, f"{size:,.0f}") for name, size in rows])


if __name__ == "__main__":
    main()
