"""TCP over a long and lossy path: the stack's throughput beside the kernel's own in the same conditions.

    python bench/loss.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The path is a stack, in a process of its own and always interpreted, that routes between two TAPs, one of them impaired:
50 ms of delay each way, and 1 % or 5 % of all packets lost each way, by the same seed for all that a round compares.
The far end is always a kernel. At the near end is a kernel, or a stack on a TAP of that kernel, which passes its
packets on. Each row is the sum of several connections at the same time, so that a single unlucky one doesn't decide.
Printed: medians over the rounds, and the ratio to the kernel's figure of the same round. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import _builds as builds
import _net as net
import _report as report

import usernet
from usernet import drivers

DELAY = 0.050
STREAMS = 10
CONGESTION = "cubic"
PORT = 5001
NEAR, FAR = "10.81.0.1", "10.82.0.1"

PEER = """
import socket, sys, threading, time
role, host, port, seconds, streams, congestion = sys.argv[1:7]
def name(s): s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode()); return s
counts = []
def drain(s):
    buffer = bytearray(1 << 17); total = 0; end = time.monotonic() + float(seconds)
    s.settimeout(1)
    while time.monotonic() < end:
        try: n = s.recv_into(buffer)
        except TimeoutError: continue
        if not n: break
        total += n
    counts.append(total)
def pour(s):
    block = bytes(1 << 16); end = time.monotonic() + float(seconds); s.settimeout(1)
    while time.monotonic() < end:
        try: s.send(block)
        except TimeoutError: continue
        except OSError: break
work = drain if role.endswith("receiver") else pour
threads = []
def start(s): threads.append(threading.Thread(target=work, args=(s,))); threads[-1].start()
if role.startswith("listening"):
    l = name(socket.create_server((host, int(port)), backlog=64)); l.settimeout(float(seconds))
    print("ready", flush=True)
    # Each starts as it comes: the last acknowledgement of one's handshake may be lost, and hold up only that one.
    for _ in range(int(streams)):
        try: start(l.accept()[0])
        except TimeoutError: break
else:
    print("ready", flush=True)
    for _ in range(int(streams)):
        s = name(socket.socket()); s.connect((host, int(port))); start(s)
for t in threads: t.join()
print(sum(counts) * 8 / float(seconds))
import os; sys.stdout.flush(); os._exit(0)
"""


def route_packets(near: str, far: str, loss: float, seed: int) -> None:
    """The router, as a process of its own: between TAPs in two namespaces, the far one impaired, until it is killed."""
    with usernet.Stack("router") as router:
        router.sysctl["net.ipv4.ip_forward"] = 1
        tap = drivers.Tap("tap0", address=f"{FAR}/24", netns=far, routes=["default via 10.82.0.254"])
        router.add_device(drivers.Impair(tap, delay=DELAY, loss=loss, seed=seed), "eth1", "10.82.0.254/24")
        tap = drivers.Tap("tap0", address=f"{NEAR}/24", netns=near, routes=["10.82.0.0/24 via 10.81.0.254"])
        router.add_device(tap, "eth0", "10.81.0.254/24")
        router.add_route("10.77.0.0/24", via=NEAR)
        print("ready", flush=True)
        sys.stdin.read()


@contextmanager
def path(loss: float, seed: int, congestion: str, stack_end: bool) -> Iterator[tuple[str | usernet.Stack, str]]:
    """The near end (a namespace's name, or a stack on a TAP of that namespace, whose kernel passes its packets on) and
    the far end's namespace, with the lossy router between."""
    with ExitStack() as held:
        far = held.enter_context(net.namespace("far"))
        near = held.enter_context(net.namespace("near"))
        command = [sys.executable, __file__, "--router", near, far, str(loss), str(seed)]
        router = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=builds.environment("interpreted"),
        )  # fmt: skip
        held.callback(router.wait)
        held.callback(router.kill)
        assert router.stdout is not None
        if router.stdout.readline().strip() != "ready":
            raise RuntimeError("the router did not start")
        net.run("ip", "-n", far, "route", "change", "default", "via", "10.82.0.254", "congctl", congestion)
        net.run("ip", "-n", near, "route", "change", "10.82.0.0/24", "via", "10.81.0.254", "congctl", congestion)
        if not stack_end:
            yield near, far
            return
        net.run("ip", "netns", "exec", near, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        stack = held.enter_context(usernet.Stack("near"))
        stack.add_device(drivers.Tap("tap1", address="10.77.0.1/24", netns=near), "eth0", "10.77.0.2/24")
        stack.add_route("default", via="10.77.0.1")
        stack.sysctl["net.ipv4.tcp_congestion_control"] = congestion
        yield stack, far


def stack_peer(stack: usernet.Stack, sends: bool, seconds: float, streams: int) -> float:
    """The near end's part on a stack: connects, sends or receives; returns bit/s received."""
    counts: list[int] = []

    def drain(sock: Any) -> None:
        buffer = bytearray(1 << 17)
        total = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                count = sock.recv_into(buffer)
            except TimeoutError:
                continue
            if not count:
                break
            total += count
        counts.append(total)

    def pour(sock: Any) -> None:
        block = bytes(1 << 16)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                sock.send(block)
            except TimeoutError:
                continue
            except OSError:
                break

    ends = []
    threads = []
    for _ in range(streams):
        sock = stack.socket()
        sock.connect((FAR, PORT))
        sock.settimeout(1)
        ends.append(sock)
        threads.append(threading.Thread(target=pour if sends else drain, args=(sock,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for sock in ends:
        # What is still under way is of no interest.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    return sum(counts) * 8 / seconds


def measure(seconds: float, loss: float, sends: bool, stack_end: bool) -> report.Figures:
    """Mbit/s from the near end to the far one (sends), or the other way."""
    with path(loss, report.turn(), CONGESTION, stack_end) as (near, far):
        tail = (str(PORT), str(seconds), str(STREAMS), CONGESTION)
        other = net.peer(far, PEER, "listening-receiver" if sends else "listening-sender", FAR, *tail)
        try:
            if isinstance(near, usernet.Stack):
                rate = stack_peer(near, sends, seconds, STREAMS)
            else:
                client = net.peer(near, PEER, "connecting-sender" if sends else "connecting-receiver", FAR, *tail)
                rate = net.answer(client, seconds + 60)[0]
            far_rate = net.answer(other, seconds + 60)[0]
        finally:
            other.kill()
        return ((far_rate if sends else rate) / 1e6,)


def group(loss: float, sends: bool) -> list[report.Row]:
    """The rows of one rate of loss and one direction, the kernel's first."""
    words = f"{loss:.0%} lost, {'to' if sends else 'from'} a kernel"
    return [
        report.Row(f"{words}: a kernel", partial(measure, loss=loss, sends=sends, stack_end=False), stack=False),
        report.Row(f"{words}: the stack", partial(measure, loss=loss, sends=sends, stack_end=True)),
    ]


BENCH = report.Bench(
    what="sum of throughput",
    units=[("Mbit/s", ".2f")],
    groups=[group(loss, sends) for loss in (0.01, 0.05) for sends in (True, False)],
    setting=f"{STREAMS} connections, MTU 1500, {DELAY * 1000:g} ms each way, {CONGESTION.upper()} at all ends.",
    seconds=8.0,
    quick=3.0,
    warm_up=False,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--router"]:
        route_packets(sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
    else:
        report.main(__doc__, BENCH, net.prepare)
