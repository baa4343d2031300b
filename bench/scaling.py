"""What a packet costs among many: connections from 10 to 100,000, routes from 1 to 1,000,000, stacks from 1 to 1,000.

    python bench/scaling.py [--rounds N] [--build B] [--only REGEX] [--quick] [--write]

No kernel and no system call is on the other side: packets come from memory. With so many connections, each of a
thousand chosen by chance receives 100 bytes, which are read; with so many routes, packets to destinations chosen by
chance are forwarded, none from a cache of routes; with so many stacks, each in turn answers 16 pings. Printed: µs per
packet, the least of the rounds after a warm-up, and by how much a tenfold number raises it on average. --write draws
docs/pictures/scaling.svg (the extra `plots`). Needs no privilege.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _report as report
import memory

import usernet
from usernet.core.clock import ManualClock
from usernet.core.malloc import tune_malloc
from usernet.netdevice.device import NetDevice
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum, ipv4, tcp

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "scaling.svg"
SAMPLE = 1000
PACKETS = 4000
BATCH = 16
QUICK_LIMIT = 1000
PEER, US = b"\x0a\0\0\1", b"\x0a\0\0\2"


class Sink(memory.Callers):
    """A NIC without a wire that forgets what is sent."""

    def xmit(self, skb: SKBuff) -> bool:
        return True


def feed(stack: usernet.Stack, dev: NetDevice, driver: memory.Callers, frames: list[bytes]) -> float:
    """Have the stack receive `frames`. Returns seconds."""
    driver.frames.extend(frames)
    start = time.perf_counter()
    while driver.frames:
        stack.net.loop.schedule(dev.napi)
        stack.poll(0)
    return time.perf_counter() - start


def connections(count: int, rounds: int) -> float:
    """µs to receive and read 100 bytes, with so many connections."""
    crowd = memory.Crowd(count)
    source = random.Random(1)
    chosen = source.sample(range(count), min(count, SAMPLE))
    sockets = {sock.getpeername(): sock for sock in crowd.accepted}
    gc.freeze()
    flows = []
    for number in chosen:
        host, port = divmod(number, 50_000)
        address = (0x0A010001 + host).to_bytes(4, "big")
        flows.append((address, 1024 + port, sockets[(".".join(map(str, address)), 1024 + port)]))
    least = 1e9
    seq = 1
    payload = bytes(100)
    for _ in range(rounds + 1):
        frames, readers = [], []
        order = [flow for _ in range(max(1, SAMPLE // len(flows))) for flow in flows]
        seqs: dict[int, int] = {}
        for address, port, sock in order:
            offset = seqs.get(id(sock), seq)
            header = tcp.build(port, 80, offset, crowd.sequence(address, port), tcp.ACK, 65535, 0, 0, b"")
            total = checksum.pseudo_sum(address, US, 6, len(header) + 100)
            total = checksum.csum(header + payload, 0, len(header) + 100, total)
            header = header[:16] + checksum.csum_fold(total).to_bytes(2, "big") + header[18:]
            packet = ipv4.build(0, 20 + len(header) + 100, 0, ipv4.IP_DF, 64, 6, address, US) + header + payload
            frames.append(packet)
            readers.append(sock)
            seqs[id(sock)] = offset + 100
        spent = 0.0
        for first in range(0, len(frames), 16):
            spent += feed(crowd.stack, crowd.dev, crowd.callers, frames[first : first + 16])
            start = time.perf_counter()
            for sock in dict.fromkeys(readers[first : first + 16]):
                sock.recv(65536)
            spent += time.perf_counter() - start
        seq = max(seqs.values())
        crowd.callers.answered.clear()
        least = min(least, spent / len(frames) * 1e6)
    gc.unfreeze()
    crowd.close()
    return least


def routes(count: int, rounds: int) -> float:
    """µs to forward a packet, with so many routes."""
    stack = usernet.Stack("router", clock=ManualClock(0), seed=1)
    near, far = Sink(), Sink()
    dev = stack.add_device(near, "eth0", "10.0.0.2/24")
    stack.add_device(far, "eth1", "10.1.0.2/24")
    stack.sysctl["net.ipv4.ip_forward"] = 1
    # A look-up for each packet, not the memory of the last one.
    stack.sysctl["net.ipv4.route.max_size"] = 1
    source = random.Random(1)
    prefixes = source.sample(range(0x0B0000, 0xDF0000), count)
    for prefix in prefixes:
        stack.add_route(f"{prefix >> 16}.{prefix >> 8 & 255}.{prefix & 255}.0/24", dev="eth1")
    gc.freeze()
    least = 1e9
    for _ in range(rounds + 1):
        frames = []
        for _ in range(PACKETS):
            daddr = (source.choice(prefixes) << 8 | source.randrange(1, 255)).to_bytes(4, "big")
            frames.append(ipv4.build(0, 46, 0, 0, 64, 17, PEER, daddr) + struct.pack("!HHHH", 7, 9, 26, 0) + bytes(18))
        least = min(least, feed(stack, dev, near, frames) / PACKETS * 1e6)
    gc.unfreeze()
    stack.close()
    return least


def stacks(count: int, rounds: int) -> float:
    """µs to answer a ping, of a batch for each of so many stacks in turn."""
    made = []
    for number in range(count):
        stack = usernet.Stack(f"stack{number}", clock=ManualClock(0), seed=number)
        driver = Sink()
        made.append((stack, stack.add_device(driver, "eth0", "10.0.0.2/24"), driver))
    gc.freeze()
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 0) + bytes(56)
    echo = echo[:2] + checksum.csum_fold(checksum.csum(echo, 0, len(echo), 0)).to_bytes(2, "big") + echo[4:]
    frame = ipv4.build(0, 84, 0, 0, 64, 1, PEER, US) + echo
    least = 1e9
    for _ in range(rounds + 1):
        spent = 0.0
        turns = max(1, PACKETS // (count * BATCH))
        for _ in range(turns):
            for stack, dev, driver in made:
                spent += feed(stack, dev, driver, [frame] * BATCH)
        least = min(least, spent / (turns * count * BATCH) * 1e6)
    gc.unfreeze()
    for stack, _, _ in made:
        stack.close()
    return least


CURVES: dict[str, tuple[Callable[[int, int], float], list[int]]] = {
    "connections": (connections, [10, 100, 1000, 10_000, 100_000]),
    "routes": (routes, [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]),
    "stacks": (stacks, [1, 10, 100, 1000]),
}


def measure(name: str, count: int, rounds: int, build: str) -> float:
    """One point, in a process of its own."""
    command = [sys.executable, sys.argv[0], "--one", f"{name}.{count}", "--rounds", str(rounds)]
    found = subprocess.run(
        command, env=report.environment(build), stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    return float(json.loads(found.stdout))


def draw(results: dict[tuple[str, str], dict[int, float]]) -> None:
    """Draw the curves into docs/pictures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "usernet"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(11, 3.4))
    for axis, name in zip(axes, CURVES, strict=True):
        for (curve, build), points in results.items():
            if curve == name:
                axis.plot(list(points), list(points.values()), marker="o", label=build)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(name)
        axis.set_ylabel("µs per packet")
        axis.legend()
        axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    text = PICTURE.read_text()
    PICTURE.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    report.add_options(parser, 1.0, 5)
    parser.add_argument("--write", action="store_true", help="draw docs/pictures/scaling.svg")
    arguments = parser.parse_args()
    tune_malloc()
    if arguments.one:
        name, _, count = arguments.one.partition(".")
        print(json.dumps(CURVES[name][0](int(count), arguments.rounds)))
        return
    rounds = 1 if arguments.quick else arguments.rounds
    results: dict[tuple[str, str], dict[int, float]] = {}
    for build in report.builds(arguments.build):
        for name, (_, counts) in CURVES.items():
            if re.search(arguments.only, name):
                wanted = [count for count in counts if not arguments.quick or count <= QUICK_LIMIT]
                results[name, build] = {count: measure(name, count, rounds, build) for count in wanted}
    if not os.environ.get("BENCH_PART"):
        print(report.machine(), end=".\n\n")
    every = sorted({count for points in results.values() for count in points})
    rows = []
    for (name, build), points in results.items():
        counts = list(points)
        decades = sum(1 for count in counts[1:] if count)
        rise = (points[counts[-1]] / points[counts[0]]) ** (1 / decades) - 1 if decades else 0
        cells = [f"{points[count]:.1f}" if count in points else "" for count in every]
        rows.append([f"{name}, {build}", *cells, f"{rise * 100:+.1f}%"])
    report.table(("µs per packet", *(f"{count:,}" for count in every), "per decade"), rows)
    if arguments.write:
        draw(results)


if __name__ == "__main__":
    main()
