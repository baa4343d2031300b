"""Datagrams of 18 bytes (64-byte frames) of an ordinary process through a channel, each way, as many as get through.

    python bench/channel_udp.py [--quick | --profile]

The process on the stack has nothing but the descriptor of a connected UDP socket, and does what the one on the kernel's
does: a loop over send(), or over recv(), which counts what arrives. The kernel is on the other end of a TAP; beside it
kernel to kernel over veth in the same round. Needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import _net as net
import _report as report
from channel import profile

import usernet
from usernet import socket
from usernet.posix.channel import open_channel

PORT = 5001
SIZE = 18

# Where from and where to, or the descriptor of one that is connected. Ends with some empty datagrams, so that the
# receiver knows.
SEND = """
import socket, sys, time
seconds, size = float(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "-": s = socket.socket(fileno=int(sys.argv[4]))
else: s = socket.socket(2, 2); s.bind(("0.0.0.0", int(sys.argv[4]))); s.connect((sys.argv[3], int(sys.argv[4])))
print("ready", flush=True)
block = bytes(size); end = time.monotonic() + seconds
while time.monotonic() < end:
    for _ in range(50):
        try: s.send(block)
        except OSError: pass
for _ in range(20):
    time.sleep(0.02)
    try: s.send(b"!")
    except OSError: pass
s.close(); print(0)
"""

RECEIVE = """
import socket, sys, time
size = int(sys.argv[1])
if sys.argv[2] == "-": s = socket.socket(fileno=int(sys.argv[3]))
else:
    s = socket.socket(2, 2); s.setsockopt(1, 8, 1 << 20); s.bind(("0.0.0.0", int(sys.argv[3])))
    s.connect((sys.argv[2], int(sys.argv[3])))
print("ready", flush=True)
s.recv(64); count = 0; begin = last = time.monotonic()
while len(s.recv(64)) == size: count += 1
last = time.monotonic(); s.close()
print(count / (last - begin))
"""


def connected(stack: usernet.Stack) -> int:
    """The descriptor of a UDP socket of the stack that is connected with the kernel."""
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("", PORT))
        sock.connect(("10.77.0.1", PORT))
        opened: Any = sock._socket
        opened.loop.enter()
        try:
            opened.get()
            opened.nonblock = False
            return open_channel(opened).take_app()
        finally:
            opened.loop.leave()


def application(program: str, fd: int, *arguments: str) -> subprocess.Popen[str]:
    """A process that has the descriptor and nothing else; it is closed here."""
    process = net.start([sys.executable, "-c", program, *arguments, "-", str(fd)], pass_fds=(fd,))
    os.close(fd)
    return process


def kernel(seconds: float) -> report.Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, RECEIVE, str(SIZE), "10.78.0.2", str(PORT))
        net.answer(net.peer(b, SEND, str(seconds), str(SIZE), "10.78.0.1", str(PORT)))
        return (net.answer(receiver)[0],)


def sends(seconds: float) -> report.Figures:
    """A process on the stack sends."""
    with net.tap_stack() as (name, stack):
        receiver = net.peer(name, RECEIVE, str(SIZE), "10.77.0.2", str(PORT))
        net.answer(application(SEND, connected(stack), str(seconds), str(SIZE)))
        return (net.answer(receiver)[0],)


def receives(seconds: float) -> report.Figures:
    """A process on the stack receives."""
    with net.tap_stack() as (name, stack):
        receiver = application(RECEIVE, connected(stack), str(SIZE))
        net.answer(net.peer(name, SEND, str(seconds), str(SIZE), "10.77.0.2", str(PORT)))
        return (net.answer(receiver)[0],)


BENCH = report.Bench(
    what=f"datagrams of {SIZE} B of a process",
    units=[("per second", ",.0f")],
    groups=[
        [
            report.Row("kernel to kernel, veth", kernel, stack=False),
            report.Row("an application on the stack sends", sends),
            report.Row("an application on the stack receives", receives),
        ]
    ],
    setting="Connected UDP sockets, TAP with offload, MTU 1500.",
)

if __name__ == "__main__":
    if "--profile" in sys.argv:
        net.prepare()
        for row in BENCH.groups[0][1:]:
            print(row.label)
            profile(row.measure, 2.0)
    else:
        report.main(__doc__, BENCH, net.prepare)
