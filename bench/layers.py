"""Where the time of a packet goes: nanoseconds of CPU time per packet, by layer, for each kind of traffic.

    python bench/layers.py [--seconds S] [--only REGEX] [--quick]

The kernel is on the other end of a TAP. A timer of CPU time interrupts the stack's thread each half millisecond, and
the layer whose function runs gets the sample; a system call counts for the driver that made it. So nothing is slowed
down but by the samples. A packet is what a device received or sent, a super-segment counting as those of which it is
made. It sees Python's frames, and so the interpreted build only. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import _builds as builds
import _net as net
import _report as report
import bulk
import connections
import forward
import latency
import udp

import usernet
from usernet import drivers
from usernet.core.interrupts import DeferredHandler, InterruptGuard

HOME = str(Path(usernet.__file__).parent) + os.sep
INTERVAL = 0.0005
SECONDS = 2.0
PORT = 5001
REST = "application"
LAYERS = (
    *("drivers", "netdevice", "link", "ip", "transport/tcp", "transport", "sock", "sockets", "core", "net", "skbuff"),
    *("wire", "runner", REST),
)  # fmt: skip


class Sampler:
    """Counts, by layer and by function, what the main thread is doing whenever it has used `INTERVAL` of CPU time."""

    def __init__(self) -> None:
        self.layers: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()

    def __enter__(self) -> Sampler:
        # A stack puts signal handlers off while it works; not this one, which has a guard of its own.
        signal.signal(signal.SIGPROF, DeferredHandler(InterruptGuard(), self._sample))
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        while frame is not None and not frame.f_code.co_filename.startswith(HOME):
            frame = frame.f_back
        if frame is None:
            self.layers[REST] += 1
            return
        path = frame.f_code.co_filename[len(HOME) :].removesuffix(".py")
        floor = path.partition("/")[0]
        self.layers["transport/tcp" if path.startswith("transport/tcp/") else floor] += 1
        self.functions[f"{path} {frame.f_code.co_qualname}"] += 1


def packets(stack: usernet.Stack) -> int:
    """What its devices have received and sent so far."""
    statistics = [dev.statistics for dev in stack.devices.values() if dev.name != "lo"]
    return sum(found.rx_packets + found.tx_packets for found in statistics)


def receive(stack: usernet.Stack, name: str, seconds: float) -> None:
    """Bulk TCP, from the kernel."""
    with stack.socket() as listener:
        listener.bind(("", PORT))
        listener.listen()
        sender = net.peer(name, bulk.SENDER, "10.77.0.2", str(PORT), str(seconds), str(net.CHUNK))
        connection, _ = listener.accept()
        buffer = bytearray(net.CHUNK)
        while connection.recv_into(buffer):
            pass
        net.answer(sender)
        connection.close()


def send(stack: usernet.Stack, name: str, seconds: float) -> None:
    """Bulk TCP, to the kernel."""
    receiver = net.peer(name, bulk.RECEIVER, str(PORT), str(net.CHUNK))
    with stack.socket() as connection:
        connection.connect(("10.77.0.1", PORT))
        block = bytes(net.CHUNK)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.send(block)
    net.answer(receiver)


def ask(stack: usernet.Stack, name: str, seconds: float) -> None:
    """64 bytes there and back over TCP."""
    with stack.socket() as sock:
        server = net.peer(name, latency.KERNEL_ECHO, str(PORT))
        sock.connect(("10.77.0.1", PORT))
        latency.OURS["ask"](sock, seconds)
        net.answer(server)


def call(stack: usernet.Stack, name: str, seconds: float) -> None:
    """Connections, 50 at a time."""
    server = net.peer(name, connections.KERNEL_SERVER, str(PORT))
    connections.OURS["call"](stack.socket, stack.epoll(), connections.own, ("10.77.0.1", PORT), seconds, 50)
    net.stop(server)


def datagrams(stack: usernet.Stack, name: str, seconds: float) -> None:
    """Datagrams of 18 bytes, from the kernel."""
    with stack.socket(2, 2) as sock:
        sock.bind(("", PORT))
        sender = net.peer(name, udp.KERNEL_SEND, "10.77.0.2", str(PORT), str(seconds), "18", "0")
        udp.OURS["receive"](sock, 0)
        net.answer(sender)


Work = Callable[[Any, str, float], None]


def on_tap(work: Work, offload: bool, seconds: float) -> tuple[Sampler, float, int]:
    """Profile `work` with a kernel on a TAP. Returns the samples, CPU seconds and packets."""
    with net.tap_stack(offload) as (name, stack), Sampler() as sampler:
        begin, before = time.process_time(), packets(stack)
        work(stack, name, seconds)
        return sampler, time.process_time() - begin, packets(stack) - before


def forwarding(seconds: float) -> tuple[Sampler, float, int]:
    """Profile a router between two TAPs, driven by hand, so that it is the main thread that works."""
    with net.namespace("left") as left, net.namespace("right") as right:
        router = usernet.Stack("router")
        wait = select.poll()
        for number, name in ((1, left), (2, right)):
            device = drivers.Tap("dev0", offload=False, address=f"10.{number}.0.1/24", netns=name)
            router.add_device(device, f"eth{number}", f"10.{number}.0.2/24")
            wait.register(device.fileno(), select.POLLIN)
        router.sysctl["net.ipv4.ip_forward"] = 1
        router.add_route("10.99.0.0/16", via="10.2.0.1")
        net.run("ip", "-n", left, "route", "add", "default", "via", "10.1.0.2")
        sender = net.peer(left, forward.SEND, forward.FAR)
        end = time.monotonic() + seconds
        with Sampler() as sampler:
            begin = time.process_time()
            while time.monotonic() < end:
                wait.poll(100)
                router.poll(time.monotonic_ns())
            spent = time.process_time() - begin
        net.stop(sender)
        count = packets(router)
        router.close()
        return sampler, spent, count


WORKS: list[tuple[str, Callable[[float], tuple[Sampler, float, int]]]] = [
    ("bulk in, offload", lambda seconds: on_tap(receive, True, seconds)),
    ("bulk out, offload", lambda seconds: on_tap(send, True, seconds)),
    ("bulk in", lambda seconds: on_tap(receive, False, seconds)),
    ("bulk out", lambda seconds: on_tap(send, False, seconds)),
    ("64 B ask", lambda seconds: on_tap(ask, True, seconds)),
    ("connections", lambda seconds: on_tap(call, True, seconds)),
    ("UDP in", lambda seconds: on_tap(datagrams, True, seconds)),
    ("forwarding", forwarding),
]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    report.add_options(parser, SECONDS, 1)
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="also the N functions that take most")
    arguments = parser.parse_args()
    if not usernet.__file__.startswith(str(builds.SOURCE)) or os.environ.get("USERNET_PURE") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], builds.environment("interpreted"))
    net.prepare()
    seconds, _ = report.settings(arguments, SECONDS, 1)
    columns: list[tuple[str, dict[str, float]]] = []
    for label, measure in WORKS:
        if not re.search(arguments.only, label):
            continue
        sampler, spent, count = measure(seconds)
        whole = sum(sampler.layers.values())
        share = spent * 1e9 / count / whole
        columns.append((label, {layer: hits * share for layer, hits in sampler.layers.items()}))
        for function, hits in sampler.functions.most_common(arguments.functions):
            print(f"{label}: {hits * share:8,.0f} ns  {function}")
    print(report.heading(f"interpreted; {report.of_rounds({1}, seconds)}"))
    print("\nNanoseconds of CPU time per packet, a super-segment counting as those of which it is made.\n")
    rows = [
        [layer, *(f"{found.get(layer, 0):,.0f}" for _, found in columns)]
        for layer in LAYERS
        if any(layer in found for _, found in columns)
    ]
    rows.append(["all", *(f"{sum(found.values()):,.0f}" for _, found in columns)])
    report.table(("layer", *(label for label, _ in columns)), rows)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"{failure.cmd}: {failure.stderr}") from failure
