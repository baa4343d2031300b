"""Bulk TCP in one stream, each way, over TAP and TUN, with and without offload, at three MTUs.

    python bench/bulk.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The application is the same on every side: a loop over send() or recv_into() with 128 KiB. One round measures every row
one after the other, kernel TCP over veth too; a row's ratio is to the kernel's figure at its MTU in its own round.
Printed: medians over the rounds after a warm-up. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import functools
import time

import _net as net
import _report as report

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
MTUS = (1500, 9000, 65520)

Figures = report.Figures


def kernel(seconds: float, mtu: int) -> Figures:
    """Kernel to kernel over veth (Gbit/s)."""
    with net.veth_pair(mtu) as (a, b):
        receiver = net.peer(a, RECEIVER, str(PORT), str(net.CHUNK))
        sender = net.peer(b, SENDER, "10.78.0.1", str(PORT), str(seconds), str(net.CHUNK))
        rate = net.answer(receiver, seconds + 30)[0]
        net.answer(sender)
        return (rate / 1e9,)


def stack_receives(seconds: float, kind: str, offload: bool, mtu: int) -> Figures:
    """The kernel sends to the stack (Gbit/s)."""
    with net.device_stack(kind, offload, mtu) as (name, stack), stack.socket() as listener:
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
        return (rate / 1e9,)


def stack_sends(seconds: float, kind: str, offload: bool, mtu: int) -> Figures:
    """The stack sends to the kernel (Gbit/s)."""
    with net.device_stack(kind, offload, mtu) as (name, stack):
        receiver = net.peer(name, RECEIVER, str(PORT), str(net.CHUNK))
        connection = stack.socket()
        connection.connect(("10.77.0.1", PORT))
        block = bytes(net.CHUNK)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.send(block)
        connection.close()
        return (net.answer(receiver, 60)[0] / 1e9,)


def group(mtu: int) -> list[report.Row]:
    """The rows of one MTU, the kernel's first."""
    rows = [report.Row(f"MTU {mtu}: kernel to kernel, veth", lambda seconds: kernel(seconds, mtu), stack=False)]
    for offload in (True, False):
        for kind in ("TAP", "TUN"):
            words = f"{kind} {'with' if offload else 'without'} offload"
            rows += [
                report.Row(
                    f"MTU {mtu}: stack receives, {words}",
                    functools.partial(stack_receives, kind=kind, offload=offload, mtu=mtu),
                ),
                report.Row(
                    f"MTU {mtu}: stack sends, {words}",
                    functools.partial(stack_sends, kind=kind, offload=offload, mtu=mtu),
                ),
            ]
    return rows


BENCH = report.Bench(
    what="bulk TCP, one stream",
    units=[("Gbit/s", ".2f")],
    groups=[group(mtu) for mtu in MTUS],
    setting=f"{net.CHUNK >> 10} KiB a call, CUBIC on both ends; veth with all its offloads.",
    seconds=0.7,
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
