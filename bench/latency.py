"""Request and response of 64 bytes on one TCP connection: round trips per second, and how long each takes.

    python bench/latency.py [--seconds S] [--rounds N]

The kernel is on the other end of a TAP; beside it kernel to kernel over veth in the same round. The same program runs
on either side. Printed: medians over the rounds after a warm-up. Needs root (namespaces, TAP).
"""

from __future__ import annotations

from typing import Any

import _net as net

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

Figures = tuple[float, ...]


def kernel(seconds: float) -> Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        server = net.peer(a, KERNEL_ECHO, str(PORT))
        found = net.answer(net.peer(b, KERNEL_ASK, "10.78.0.1", str(PORT), str(seconds)))
        net.answer(server)
        return tuple(found)


def stack_asks(seconds: float) -> Figures:
    """The stack sends the requests."""
    with net.tap_stack() as (name, stack), stack.socket() as sock:
        server = net.peer(name, KERNEL_ECHO, str(PORT))
        sock.connect(("10.77.0.1", PORT))
        found: Figures = OURS["ask"](sock, seconds)
        net.answer(server)
        return found


def stack_answers(seconds: float) -> Figures:
    """The stack sends the responses."""
    with net.tap_stack() as (name, stack), stack.socket() as listener:
        listener.bind(("", PORT))
        listener.listen()
        client = net.peer(name, KERNEL_ASK, "10.77.0.2", str(PORT), str(seconds))
        OURS["echo"](listener.accept()[0])
        return tuple(net.answer(client))


def main() -> None:
    """Measure, and print the table."""
    rows = [("kernel to kernel, veth", kernel), ("the stack asks", stack_asks), ("the stack answers", stack_answers)]
    net.compare(__doc__, "64 B there and back", ("per second", "median µs", "99 % µs"), rows)


if __name__ == "__main__":
    main()
