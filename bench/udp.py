"""UDP each way, as much as gets through: 18-byte datagrams per second, and bytes per second of full ones.

    python bench/udp.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The kernel is on the other end of a TAP; beside it kernel to kernel over veth in the same round. The same program runs
on either side: a loop over send(), and one over recv_into(), which counts what arrives. 18 bytes make 64-byte frames.
The full ones have 1,472 bytes; with USO, 44 of them go in one call as they do with `UDP_SEGMENT`, and come back so with
`UDP_GRO`. Needs root (namespaces, TAP).
"""

from __future__ import annotations

from typing import Any

import _net as net
import _report as report

PORT = 5001
FULL = 1472
"""Payload of a full datagram at MTU 1500."""

BATCH = 44
"""Full datagrams in one call, with USO: 64,768 bytes."""

# Ends with some datagrams of one byte, so that the receiver knows.
SEND = """
import time
def send(s, address, seconds, size, segment):
    block = bytes(size); end = time.monotonic() + seconds; s.connect(address)
    if segment: s.setsockopt(17, 103, segment)
    while time.monotonic() < end:
        for _ in range(50 if size < 2000 else 4):
            try:
                s.send(block)
            except OSError:
                pass
    if segment: s.setsockopt(17, 103, 0)
    for _ in range(20):
        time.sleep(0.02)
        try:
            s.send(b"0")
        except OSError:
            pass
    s.close()
"""

# Gives bytes per second.
RECEIVE = """
import time
def receive(s, gro):
    if gro: s.setsockopt(17, 104, 1)
    buffer = bytearray(65536); s.recv_into(buffer); count = 0; begin = last = time.monotonic()
    while (size := s.recv_into(buffer)) > 1:
        count += size
    last = time.monotonic(); s.close()
    return count / (last - begin)
"""

KERNEL_SEND = (
    SEND
    + """
import socket, sys
print("ready", flush=True)
send(socket.socket(2, 2), (sys.argv[1], int(sys.argv[2])), *map(eval, sys.argv[3:])); print(0)
"""
)
KERNEL_RECEIVE = (
    RECEIVE
    + """
import socket, sys
s = socket.socket(2, 2); s.setsockopt(1, 33, 4 << 20); s.bind(("0.0.0.0", int(sys.argv[1]))); print("ready", flush=True)
print(receive(s, int(sys.argv[2])))
"""
)

OURS: dict[str, Any] = {}
exec(SEND + RECEIVE, OURS)

Figures = report.Figures


def figures(rate: float, datagram: int) -> Figures:
    """Datagrams per second, and Gbit/s, of so many bytes per second."""
    return rate / datagram, rate * 8 / 1e9


def kernel(seconds: float, size: int, segment: int) -> Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, KERNEL_RECEIVE, str(PORT), str(segment))
        net.answer(net.peer(b, KERNEL_SEND, "10.78.0.1", str(PORT), str(seconds), str(size), str(segment)))
        return figures(net.answer(receiver)[0], segment or size)


def stack_sends(seconds: float, size: int, segment: int) -> Figures:
    """The stack sends, the kernel counts."""
    with net.tap_stack() as (name, stack):
        receiver = net.peer(name, KERNEL_RECEIVE, str(PORT), str(segment))
        OURS["send"](stack.socket(2, 2), ("10.77.0.1", PORT), seconds, size, segment)
        return figures(net.answer(receiver)[0], segment or size)


def stack_receives(seconds: float, size: int, segment: int) -> Figures:
    """The kernel sends, the stack counts."""
    with net.tap_stack() as (name, stack):
        stack.sysctl["net.core.rmem_max"] = 4 << 20
        sock = stack.socket(2, 2)
        sock.setsockopt(1, 8, 4 << 20)
        sock.bind(("", PORT))
        sender = net.peer(name, KERNEL_SEND, "10.77.0.2", str(PORT), str(seconds), str(size), str(segment))
        rate: float = OURS["receive"](sock, segment)
        net.answer(sender)
        return figures(rate, segment or size)


def group(label: str, size: int, segment: int) -> list[report.Row]:
    """The rows of one kind, the kernel's first."""
    return [
        report.Row(f"{label}: kernel to kernel, veth", lambda seconds: kernel(seconds, size, segment), stack=False),
        report.Row(f"{label}: the stack sends", lambda seconds: stack_sends(seconds, size, segment)),
        report.Row(f"{label}: the stack receives", lambda seconds: stack_receives(seconds, size, segment)),
    ]


BENCH = report.Bench(
    what="UDP",
    units=[("per second", ",.0f"), ("Gbit/s", ".2f")],
    groups=[
        group("18 B", 18, 0),
        group(f"{FULL:,} B", FULL, 0),
        group(f"{FULL:,} B with USO", FULL * BATCH, FULL),
    ],
    setting="TAP with offload, MTU 1500, receive buffers of 4 MiB.",
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
