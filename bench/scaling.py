"""What a packet costs among many: connections from 10 to 100,000, routes from 1 to 1,000,000, stacks from 1 to 1,000.

    python bench/scaling.py [--rounds N] [--build B] [--only REGEX] [--quick] [--write]

No kernel and no system call is on the other side: packets come from memory. With so many connections, each of a
thousand chosen by chance receives 100 bytes, which are read; with so many routes, packets to destinations chosen by
chance are forwarded, none from a cache of routes; with so many stacks, each in turn answers 10 pings. Each point is
made ready in a process of its own; then each round measures all points one after the other. Printed: µs of CPU time per
packet, the least of the rounds after a warm-up, and by how much a tenfold number raises it on average. --write draws
docs/pictures/scaling.svg (the extra `plots`). Needs no privilege.
"""

from __future__ import annotations

import argparse
import gc
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _builds as builds
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
BATCH = 10
"""Packets that the stack finds at once: of as many connections, so that GRO has nothing to merge."""

QUICK_ACKS = 16
"""Packets of a connection that are acknowledged at once (TCP_MAX_QUICKACKS)."""

ROUNDS = 15
QUICK_LIMIT = 1000
TIMESTAMP = bytes((1, 1, 8, 10)) + (1).to_bytes(4, "big") * 2
PEER, US = b"\x0a\0\0\1", b"\x0a\0\0\2"

cpu = time.process_time
"""What other programs on the machine take of it, does not count."""


class Sink(memory.Callers):
    """A NIC without a wire that forgets what is sent."""

    def xmit(self, skb: SKBuff) -> bool:
        return True


def feed(stack: usernet.Stack, dev: NetDevice, driver: memory.Callers, frames: list[bytes]) -> float:
    """Have the stack receive `frames`. Returns seconds of CPU time."""
    driver.frames.extend(frames)
    start = cpu()
    while driver.frames:
        stack.net.loop.schedule(dev.napi)
        stack.poll(0)
    return cpu() - start


def data(address: bytes, port: int, seq: int, ack: int) -> bytes:
    """A packet with 100 bytes for port 80, from `port` of `address`, with a time stamp, as was agreed."""
    payload = bytes(100)
    header = tcp.build(port, 80, seq, ack, tcp.ACK, 65535, 0, 0, TIMESTAMP)
    total = checksum.pseudo_sum(address, US, 6, len(header) + len(payload))
    total = checksum.csum(header + payload, 0, len(header) + len(payload), total)
    header = header[:16] + checksum.csum_fold(total).to_bytes(2, "big") + header[18:]
    return ipv4.build(0, 20 + len(header) + len(payload), 0, ipv4.IP_DF, 64, 6, address, US) + header + payload


def connections(count: int) -> Iterator[float]:
    """µs to receive and read 100 bytes, with so many connections."""
    crowd = memory.Crowd(count)
    chosen = random.Random(1).sample(range(count), min(count, SAMPLE))
    sockets = {sock.getpeername(): sock for sock in crowd.accepted}
    flows = []
    for number in chosen:
        host, port = divmod(number, 50_000)
        address = (0x0A010001 + host).to_bytes(4, "big")
        flows.append((address, 1024 + port, sockets[(".".join(map(str, address)), 1024 + port)]))
    # An even number for each, for every other packet is acknowledged, …
    order = flows * max(2, 2 * SAMPLE // len(flows))
    seq = 1
    gc.collect()
    gc.freeze()
    warm = 0
    while True:
        spent = 0.0
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            frames = []
            for number, (address, port, _) in enumerate(batch, first):
                frames.append(data(address, port, seq + number // len(flows) * 100, crowd.sequence(address, port)))
            spent += feed(crowd.stack, crowd.dev, crowd.callers, frames)
            readers = dict.fromkeys(sock for _, _, sock in batch)
            start = cpu()
            for sock in readers:
                sock.recv(65536)
            spent += cpu() - start
        seq += len(order) // len(flows) * 100
        crowd.callers.answered.clear()
        # … once the first ones, of which each is, are over.
        warm += len(order) // len(flows)
        if warm > QUICK_ACKS:
            yield spent / len(order) * 1e6


def routes(count: int) -> Iterator[float]:
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
    gc.collect()
    gc.freeze()
    while True:
        frames = []
        for _ in range(PACKETS):
            daddr = (source.choice(prefixes) << 8 | source.randrange(1, 255)).to_bytes(4, "big")
            frames.append(ipv4.build(0, 46, 0, 0, 64, 17, PEER, daddr) + struct.pack("!HHHH", 7, 9, 26, 0) + bytes(18))
        yield feed(stack, dev, near, frames) / PACKETS * 1e6


def stacks(count: int) -> Iterator[float]:
    """µs to answer a ping, of a batch for each of so many stacks in turn."""
    made = []
    for number in range(count):
        stack = usernet.Stack(f"stack{number}", clock=ManualClock(0), seed=number)
        driver = Sink()
        made.append((stack, stack.add_device(driver, "eth0", "10.0.0.2/24"), driver))
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 0) + bytes(56)
    echo = echo[:2] + checksum.csum_fold(checksum.csum(echo, 0, len(echo), 0)).to_bytes(2, "big") + echo[4:]
    frame = ipv4.build(0, 84, 0, 0, 64, 1, PEER, US) + echo
    turns = max(1, PACKETS // (count * BATCH))
    gc.collect()
    gc.freeze()
    while True:
        spent = 0.0
        for _ in range(turns):
            for stack, dev, driver in made:
                spent += feed(stack, dev, driver, [frame] * BATCH)
        yield spent / (turns * count * BATCH) * 1e6


CURVES: dict[str, tuple[Callable[[int], Iterator[float]], list[int], str]] = {
    "connections": (connections, [10, 100, 1000, 10_000, 100_000], "100 bytes received and read"),
    "routes": (routes, [1, 10, 100, 1000, 10_000, 100_000, 1_000_000], "a packet forwarded"),
    "stacks": (stacks, [1, 10, 100, 1000], "a ping answered"),
}


def serve(name: str, count: int) -> None:
    """Be a point: make it ready, then measure a round for each line that comes."""
    tune_malloc()
    measured = CURVES[name][0](count)
    next(measured)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(next(measured), flush=True)


class Point:
    """A process that measures one point when it is asked to."""

    def __init__(self, name: str, build: str, count: int) -> None:
        self.name, self.build, self.count = name, build, count
        self.least = float("inf")
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], "--one", f"{name}.{count}"], env=builds.environment(build),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.count:,} {self.name}, {self.build}: failed")
        return line

    def wait(self) -> None:
        """Until it is ready."""
        self._line()

    def measure(self) -> None:
        """One round."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.least = min(self.least, float(self._line()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure(chosen: tuple[str, ...], only: str, limit: int, rounds: int, minutes: float) -> list[Point]:
    """Measure the curves whose name matches, up to `limit`, in so many rounds. What takes long to be made ready, is
    left out where it would take more than so many minutes."""
    points: list[Point] = []
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    try:
        for name, (_, counts, _) in CURVES.items():
            for build in chosen if re.search(only, name) else ():
                for count in counts:
                    if count <= limit and time.monotonic() < end:
                        points.append(Point(name, build, count))
                        points[-1].wait()
        for _ in range(rounds):
            for point in points:
                point.measure()
    finally:
        for point in points:
            point.close()
    return points


Curves = dict[tuple[str, str], dict[int, float]]
"""Of each curve's name and build: µs by number."""


def per_decade(points: dict[int, float]) -> float:
    """By which part a tenfold number raises the cost, on average."""
    counts = list(points)
    return float((points[counts[-1]] / points[counts[0]]) ** (1 / max(len(counts) - 1, 1)) - 1)


def draw(results: Curves) -> None:
    """Draw the curves into docs/pictures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "usernet", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
        "lines.linewidth": 1.0,
    })  # fmt: skip
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(9.5, 3.2))
    colours = {"interpreted": "tab:blue", "compiled": "tab:orange"}
    for axis, (name, (_, _, what)) in zip(axes, CURVES.items(), strict=True):
        for (curve, build), points in results.items():
            if curve == name:
                colour = colours[build]
                counts = list(points)
                axis.plot(counts, list(points.values()), marker="o", markersize=4, color=colour, label=build)
                # What was aimed at: a tenth more for ten times as many.
                aim = [points[counts[0]] * 1.1**number for number in range(len(counts))]
                axis.plot(counts, aim, linestyle=":", linewidth=0.8, color=colour)
        axis.set_title(what)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(name)
    axes[0].set_ylabel("µs of CPU time")
    handles: list[Any] = axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.06))
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")
    # A tenth of a point is finer than anyone sees.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d+\.\d)\d+", r"\1", path[0]), PICTURE.read_text())
    PICTURE.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    report.add_options(parser, 0.0, ROUNDS)
    parser.add_argument("--write", action="store_true", help="draw docs/pictures/scaling.svg")
    arguments = parser.parse_args()
    if arguments.one:
        name, _, count = arguments.one.partition(".")
        serve(name, int(count))
        return
    _, rounds = report.settings(arguments, 0.0, ROUNDS)
    chosen = builds.choose(arguments.build)
    limit = QUICK_LIMIT if arguments.quick else 1 << 30
    results: Curves = {}
    for point in measure(chosen, arguments.only, limit, rounds, arguments.minutes):
        results.setdefault((point.name, point.build), {})[point.count] = point.least
    words = f"the least of {rounds} rounds" if rounds > 1 else "one round"
    print(report.heading(f"{builds.named(chosen)}; CPU time, {words}"), end="\n\n")
    every = sorted({count for points in results.values() for count in points})
    rows = [
        [
            f"{name}, {build}",
            *(f"{points[count]:.1f}" if count in points else "" for count in every),
            f"{per_decade(points) * 100:+.1f} %",
        ]
        for (name, build), points in results.items()
    ]
    report.table(("µs per packet", *(f"{count:,}" for count in every), "per decade"), rows)
    if arguments.write:
        draw(results)


if __name__ == "__main__":
    main()
