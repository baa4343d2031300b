"""Bulk TCP of an ordinary process through a channel, each way, over TAP with offload, beside kernel TCP over veth.

    python bench/channel.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]
    python bench/channel.py --profile

The application is a process of its own with nothing but the descriptor; it is the same program as on the kernel's
sockets: a loop over send() or recv_into() with 128 KiB. In between is the stack, in this process, with nobody calling
it. One round measures every row one after the other; a row's ratio is to the kernel's figure of its own round. Printed:
medians over the rounds after a warm-up. --profile shows where the stack's thread spends its time. Needs root.
"""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import _net as net
import _report as report

import usernet
from usernet import socket
from usernet.runner import close_process_runner

# Sends for so many seconds, then closes. The receiver's figure is the one that counts: what arrived.
SENDER = """
import socket, sys, time
if len(sys.argv) > 4: s = socket.socket(); s.connect((sys.argv[3], int(sys.argv[4])))
else: s = socket.socket(fileno=int(sys.argv[3]))
print("ready", flush=True)
block = bytes(int(sys.argv[2])); end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end: s.send(block)
s.close(); print(0)
"""

RECEIVER = """
import socket, sys, time
if len(sys.argv) > 3: l = socket.socket(); l.bind(("0.0.0.0", int(sys.argv[3]))); l.listen()
print("ready", flush=True)
if len(sys.argv) > 3: s, _ = l.accept()
else: s = socket.socket(fileno=int(sys.argv[2]))
buffer = bytearray(int(sys.argv[1])); count = s.recv_into(buffer); start = time.monotonic()
while True:
    n = s.recv_into(buffer)
    if not n: break
    count += n
print(count * 8 / (time.monotonic() - start))
"""

PORT = 5001


def kernel(seconds: float) -> report.Figures:
    """Kernel to kernel over veth (Gbit/s)."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, RECEIVER, str(net.CHUNK), "-1", str(PORT))
        sender = net.peer(b, SENDER, str(seconds), str(net.CHUNK), "10.78.0.1", str(PORT))
        rate = net.answer(receiver, seconds + 30)[0]
        net.answer(sender)
        return (rate / 1e9,)


def application(program: str, connections: Sequence[Any], *arguments: str) -> subprocess.Popen[str]:
    """A process that has the descriptors of `connections` and nothing else; they are closed here."""
    fds = [connection.fileno() for connection in connections]
    process = net.start([sys.executable, "-c", program, *arguments, *map(str, fds)], pass_fds=fds)
    for connection in connections:
        connection.close()
    return process


def receives(seconds: float) -> report.Figures:
    """The kernel sends to an application on the stack (Gbit/s)."""
    with net.tap_stack() as (name, stack), usernet.using(stack, descriptors=True):
        listener = socket.socket()
        listener.bind(("", PORT))
        listener.listen()
        sender = net.peer(name, SENDER, str(seconds), str(net.CHUNK), "10.77.0.2", str(PORT))
        connection, _ = listener.accept()
        receiver = application(RECEIVER, [connection], str(net.CHUNK))
        rate = net.answer(receiver, seconds + 30)[0]
        net.answer(sender)
        listener.close()
        return (rate / 1e9,)


def sends(seconds: float) -> report.Figures:
    """An application on the stack sends to the kernel (Gbit/s)."""
    with net.tap_stack() as (name, stack), usernet.using(stack, descriptors=True):
        receiver = net.peer(name, RECEIVER, str(net.CHUNK), "-1", str(PORT))
        connection = socket.socket()
        connection.connect(("10.77.0.1", PORT))
        sender = application(SENDER, [connection], str(seconds), str(net.CHUNK))
        rate = net.answer(receiver, seconds + 30)[0]
        net.answer(sender)
        return (rate / 1e9,)


def profile(measure: report.Measure, seconds: float) -> None:
    """Print what is measured, and where the thread that drives the stack spends its time, function by function."""
    profiler = cProfile.Profile()

    def begin(frame: FrameType, event: str, arg: object) -> None:
        # The first thread that starts is the one that leads.
        threading.setprofile(None)
        profiler.enable()

    close_process_runner()
    threading.setprofile(begin)
    print("under the profiler:", measure(seconds))
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


BENCH = report.Bench(
    what="bulk TCP of a process",
    units=[("Gbit/s", ".2f")],
    groups=[
        [
            report.Row("kernel to kernel, veth", kernel, stack=False),
            report.Row("an application on the stack receives", receives),
            report.Row("an application on the stack sends", sends),
        ]
    ],
    setting=f"One TCP stream, MTU 1500, {net.CHUNK >> 10} KiB a call, CUBIC on both ends.",
)

if __name__ == "__main__":
    if "--profile" in sys.argv:
        net.prepare()
        for row in BENCH.groups[0][1:]:
            print(row.label)
            profile(row.measure, 2.0)
    else:
        report.main(__doc__, BENCH, net.prepare)
