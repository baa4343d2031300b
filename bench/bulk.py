"""Bulk TCP in one stream, each way, over TAP at MTU 1500 with and without offload, beside kernel TCP over veth.

    python bench/bulk.py [--seconds S] [--rounds N]

The application is the same on every side: a loop over send() or recv_into() with 128 KiB. One round measures every row
one after the other; a row's ratio is to the kernel's figure of its own round. Printed: medians over the rounds after a
warm-up. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable

import _net as net

import usernet
from usernet import drivers

# Sends for so many seconds, then closes. The receiver's figure is the one that counts: what arrived.
SENDER = """
import socket, sys, time
s = socket.socket(); s.connect((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
block = bytes(int(sys.argv[4])); end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end: s.send(block)
s.close(); print(0)
"""

RECEIVER = """
import socket, sys, time
l = socket.socket(); l.bind(("0.0.0.0", int(sys.argv[1]))); l.listen()
print("ready", flush=True)
s, _ = l.accept(); buffer = bytearray(int(sys.argv[2])); count = s.recv_into(buffer); start = time.monotonic()
while True:
    n = s.recv_into(buffer)
    if not n: break
    count += n
print(count * 8 / (time.monotonic() - start))
"""

PORT = 5001


def kernel(seconds: float) -> float:
    """Kernel to kernel over veth (bit/s)."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, RECEIVER, str(PORT), str(net.CHUNK))
        sender = net.peer(b, SENDER, "10.78.0.1", str(PORT), str(seconds), str(net.CHUNK))
        rate = net.answer(receiver, seconds + 30)[0]
        net.answer(sender)
        return rate


def stack_receives(seconds: float, offload: bool) -> float:
    """The kernel sends to the stack (bit/s)."""
    with net.namespace("tap") as name, usernet.Stack("bench") as stack:
        stack.add_device(
            drivers.Tap("tap0", offload=offload, address="10.77.0.1/24", netns=name), "eth0", "10.77.0.2/24"
        )
        net.use_cubic(name, "10.77.0.0/24", "tap0")
        listener = stack.socket()
        listener.bind(("", PORT))
        listener.listen()
        sender = net.peer(name, SENDER, "10.77.0.2", str(PORT), str(seconds), str(net.CHUNK))
        connection, _ = listener.accept()
        buffer = bytearray(net.CHUNK)
        count = connection.recv_into(buffer)
        start = time.monotonic()
        while True:
            n = connection.recv_into(buffer)
            if not n:
                break
            count += n
        rate = count * 8 / (time.monotonic() - start)
        net.answer(sender)
        connection.close()
        listener.close()
        return rate


def stack_sends(seconds: float, offload: bool) -> float:
    """The stack sends to the kernel (bit/s)."""
    with net.namespace("tap") as name, usernet.Stack("bench") as stack:
        stack.add_device(
            drivers.Tap("tap0", offload=offload, address="10.77.0.1/24", netns=name), "eth0", "10.77.0.2/24"
        )
        net.use_cubic(name, "10.77.0.0/24", "tap0")
        receiver = net.peer(name, RECEIVER, str(PORT), str(net.CHUNK))
        connection = stack.socket()
        connection.connect(("10.77.0.1", PORT))
        block = bytes(net.CHUNK)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.send(block)
        connection.close()
        return net.answer(receiver, 60)[0]


ROWS: list[tuple[str, Callable[[float], float]]] = [
    ("kernel to kernel, veth", kernel),
    ("stack receives, TAP with offload", lambda seconds: stack_receives(seconds, True)),
    ("stack sends, TAP with offload", lambda seconds: stack_sends(seconds, True)),
    ("stack receives, TAP without offload", lambda seconds: stack_receives(seconds, False)),
    ("stack sends, TAP without offload", lambda seconds: stack_sends(seconds, False)),
]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that doesn't (default 5)")
    arguments = parser.parse_args()
    net.prepare()
    figures: list[list[float]] = [[] for _ in ROWS]
    ratios: list[list[float]] = [[] for _ in ROWS]
    for turn in range(arguments.rounds + 1):
        values = [measure(arguments.seconds if turn else 0.5) for _, measure in ROWS]
        if turn:
            for index, value in enumerate(values):
                figures[index].append(value)
                ratios[index].append(value / values[0])
    print(f"One TCP stream, MTU 1500, {net.CHUNK >> 10} KiB a call. {net.describe()}\n")
    rows = [
        (name, f"{net.median(figures[i]) / 1e9:.2f}", f"{net.median(ratios[i]):.3f}", net.spread(ratios[i]))
        for i, (name, _) in enumerate(ROWS)
    ]
    net.table(("bulk TCP", "Gbit/s", "of the kernel", "least–greatest"), rows)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"{failure.cmd}: {failure.stderr}") from failure
