"""Requests of 64 bytes and their answers, of an ordinary process through channels: how many a second.

    python bench/channel_requests.py [--quick | --profile]

One connection, one request at a time, and 50 of them, each with one request under way, as redis-benchmark and wrk have
them: the one who asks and the one who answers are loops over epoll. The process on the stack has nothing but its
descriptors. The kernel is on the other end of a TAP; beside it kernel to kernel over veth in the same round. CPU is
what the process of the stack takes for a request (that of both applications, of the kernel's row). Needs root.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import _net as net
import _report as report
from channel import application, profile

import usernet
from usernet import socket

PORT = 5001
SIZE = 64
MANY = 50

# How many connections, and then: the address and port to connect to, or their descriptors.
ASK = """
import select, socket, sys, time
seconds, count, size = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if sys.argv[4] == "-": made = [socket.socket(fileno=int(fd)) for fd in sys.argv[5:]]
else: made = [socket.create_connection((sys.argv[4], int(sys.argv[5]))) for _ in range(count)]
print("ready", flush=True)
poll = select.epoll(); block = bytes(size); by = {}; began = {}; times = []; clock = time.perf_counter
for s in made:
    try: s.setsockopt(6, 1, 1)
    except OSError: pass
    by[s.fileno()] = s; poll.register(s, 1)
begin = now = clock(); end = begin + seconds
for fd, s in by.items(): began[fd] = clock(); s.send(block)
while now < end:
    for fd, _ in poll.poll():
        s = by[fd]; assert len(s.recv(size)) == size
        now = clock(); times.append(now - began[fd]); began[fd] = now; s.send(block)
for s in made: s.close()
times.sort()
print(len(times) / (now - begin), times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6)
"""

ANSWER = """
import select, socket, sys
count, size = int(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "-": made = [socket.socket(fileno=int(fd)) for fd in sys.argv[4:]]; print("ready", flush=True)
else:
    l = socket.socket(); l.bind(("0.0.0.0", int(sys.argv[3]))); l.listen(1024); print("ready", flush=True)
    made = [l.accept()[0] for _ in range(count)]
poll = select.epoll(); by = {s.fileno(): s for s in made}
for s in made:
    try: s.setsockopt(6, 1, 1)
    except OSError: pass
    poll.register(s, 1)
while by:
    for fd, _ in poll.poll():
        s = by[fd]
        try: data = s.recv(size)
        except ConnectionResetError: data = b""
        if data: s.send(data)
        else: del by[fd]; poll.unregister(s); s.close()
print(0)
"""

def spent(since: os.times_result, requests: float) -> float:
    """What this process has used of CPU since then: µs for each request."""
    now = os.times()
    return (now.user - since.user + now.system - since.system) * 1e6 / requests


def kernel(count: int, seconds: float) -> report.Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        before = os.times()
        server = net.peer(a, ANSWER, str(count), str(SIZE), str(PORT))
        found = net.answer(net.peer(b, ASK, str(seconds), str(count), str(SIZE), "10.78.0.1", str(PORT)))
        net.answer(server)
        after = os.times()
        both = after.children_user + after.children_system - before.children_user - before.children_system
        return (*found, both * 1e6 / (found[0] * seconds))


def asks(count: int, seconds: float) -> report.Figures:
    """A process on the stack sends the requests."""
    with net.tap_stack() as (name, stack), usernet.using(stack, descriptors=True):
        server = net.peer(name, ANSWER, str(count), str(SIZE), str(PORT))
        made = []
        for _ in range(count):
            made.append(socket.create_connection(("10.77.0.1", PORT)))
            made[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = os.times()
        found = net.answer(application(ASK, made, str(seconds), str(count), str(SIZE), "-"))
        cpu = spent(before, found[0] * seconds)
        net.answer(server)
        return (*found, cpu)


def answers(count: int, seconds: float) -> report.Figures:
    """A process on the stack sends the answers."""
    with net.tap_stack() as (name, stack), usernet.using(stack, descriptors=True):
        listener = socket.socket()
        listener.bind(("", PORT))
        listener.listen(1024)
        client = net.peer(name, ASK, str(seconds), str(count), str(SIZE), "10.77.0.2", str(PORT))
        made: list[Any] = []
        for _ in range(count):
            made.append(listener.accept()[0])
            made[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.close()
        before = os.times()
        server = application(ANSWER, made, str(count), str(SIZE), "-")
        found = net.answer(client)
        cpu = spent(before, found[0] * seconds)
        net.answer(server)
        return (*found, cpu)


def group(count: int, name: str) -> list[report.Row]:
    """The rows of so many connections."""
    return [
        report.Row(f"kernel to kernel, veth, {name}", partial(kernel, count), stack=False),
        report.Row(f"an application on the stack asks, {name}", partial(asks, count)),
        report.Row(f"an application on the stack answers, {name}", partial(answers, count)),
    ]


BENCH = report.Bench(
    what="64 B there and back, of a process",
    units=[("per second", ",.0f"), ("median µs", ",.0f"), ("99 % µs", ",.0f"), ("CPU µs", ",.0f")],
    groups=[group(1, "1 connection"), group(MANY, f"{MANY} connections")],
    setting=(
        "TCP, TCP_NODELAY, one request under way on each connection, MTU 1500, TAP with offload. "
        "CPU: of the stack's process."
    ),
)

if __name__ == "__main__":
    if "--profile" in sys.argv:
        net.prepare()
        for row in (row for rows in BENCH.groups for row in rows[1:]):
            print(row.label)
            profile(row.measure, 2.0)
    else:
        report.main(__doc__, BENCH, net.prepare)
