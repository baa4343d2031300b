"""Request and response of 64 bytes on one TCP connection: round trips per second, and how long each takes.

    python bench/latency.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The kernel is on the other end of a TAP; beside it kernel to kernel over veth in the same round, and what the
interpreter costs alone: the kernel asking a loop of bare CPython on a TUN device, woken by epoll, that sends each
datagram back (_tun.py). With busy-poll, a reader looks at the device for 50 µs before it sleeps. The same program runs
on either side.
Printed: medians over the rounds after a warm-up; ratios to the kernel's rate, and to the loop's time. Needs root.
"""

from __future__ import annotations

from typing import Any

import _net as net
import _report as report

PORT = 5001

ECHO = """
def echo(s):
    s.setsockopt(6, 1, 1)
    while data := s.recv(64):
        s.send(data)
    s.close()
"""

# Gives round trips per second, and of single ones the median and the 99th percentile (µs).
ASK = """
import time
def ask(s, seconds):
    s.setsockopt(6, 1, 1); block = bytes(64); times = []; clock = time.perf_counter
    begin = before = clock(); end = begin + seconds
    while before < end:
        s.send(block); assert len(s.recv(64)) == 64
        now = clock(); times.append(now - before); before = now
    s.close(); times.sort()
    return len(times) / (before - begin), times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6
"""

KERNEL_ECHO = (
    ECHO
    + """
import socket, sys
l = socket.socket(); l.bind(("0.0.0.0", int(sys.argv[1]))); l.listen(); print("ready", flush=True)
echo(l.accept()[0]); print(0)
"""
)
KERNEL_ASK = (
    ASK
    + """
import socket, sys
print("ready", flush=True)
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); print(*ask(s, float(sys.argv[3])))
"""
)

OURS: dict[str, Any] = {}
exec(ECHO + ASK, OURS)

Figures = report.Figures


def kernel(seconds: float) -> Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        server = net.peer(a, KERNEL_ECHO, str(PORT))
        found = net.answer(net.peer(b, KERNEL_ASK, "10.78.0.1", str(PORT), str(seconds)))
        net.answer(server)
        return tuple(found)


ASK_UDP = """
import time, sys, socket
print("ready", flush=True)
s = socket.socket(2, 2); s.connect((sys.argv[1], int(sys.argv[2]))); s.settimeout(1)
block = bytes(64); times = []; clock = time.perf_counter
begin = before = clock(); end = begin + float(sys.argv[3])
while before < end:
    s.send(block); assert len(s.recv(64)) == 64
    now = clock(); times.append(now - before); before = now
times.sort()
print(len(times) / (before - begin), times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6)
"""

BUSY_POLL = 50
"""Microseconds (net.core.busy_read)."""


def bare_loop(seconds: float) -> Figures:
    """The kernel asks a bare CPython loop on a TUN."""
    with net.namespace("tun") as name:
        loop = net.reference("echo", name)
        found = net.answer(net.peer(name, ASK_UDP, "10.77.0.2", str(PORT), str(seconds)))
        net.stop(loop)
        return tuple(found)


def stack_asks(seconds: float, busy_poll: int) -> Figures:
    """The stack sends the requests."""
    with net.tap_stack() as (name, stack):
        stack.sysctl["net.core.busy_read"] = busy_poll
        with stack.socket() as sock:
            server = net.peer(name, KERNEL_ECHO, str(PORT))
            sock.connect(("10.77.0.1", PORT))
            found: Figures = OURS["ask"](sock, seconds)
            net.answer(server)
            return found


def stack_answers(seconds: float, busy_poll: int) -> Figures:
    """The stack sends the responses."""
    with net.tap_stack() as (name, stack):
        stack.sysctl["net.core.busy_read"] = busy_poll
        with stack.socket() as listener:
            listener.bind(("", PORT))
            listener.listen()
            client = net.peer(name, KERNEL_ASK, "10.77.0.2", str(PORT), str(seconds))
            OURS["echo"](listener.accept()[0])
            return tuple(net.answer(client))


BENCH = report.Bench(
    what="64 B there and back",
    units=[("per second", ",.0f"), ("median µs", ",.1f"), ("99 % µs", ",.0f")],
    groups=[
        [
            report.Row("kernel to kernel, veth", kernel, stack=False),
            report.Row("kernel to a bare CPython loop, TUN, UDP", bare_loop, stack=False),
            report.Row("the stack asks", lambda seconds: stack_asks(seconds, 0)),
            report.Row("the stack answers", lambda seconds: stack_answers(seconds, 0)),
            report.Row("the stack asks, busy-poll", lambda seconds: stack_asks(seconds, BUSY_POLL)),
            report.Row("the stack answers, busy-poll", lambda seconds: stack_answers(seconds, BUSY_POLL)),
        ]
    ],
    setting=(
        "TCP, TCP_NODELAY, one at a time, MTU 1500, CUBIC on both ends, TAP with offload; "
        f"busy-poll: net.core.busy_read = {BUSY_POLL}."
    ),
    ratios=[report.Ratio("rate of the kernel's"), report.Ratio("time of the loop's", row=1, unit=1)],
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
