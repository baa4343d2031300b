"""Connections per second: connect, 64 bytes there, 64 bytes back, close; one at a time and 50 at a time.

    python bench/connections.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The other end is the kernel, over a TAP with offload; beside it kernel to kernel over veth in the same round. The same
program, on epoll alone, runs on either side. Printed: medians over the rounds after a warm-up; a ratio is to the
kernel's figure of its own round. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import threading
from typing import Any

import _net as net
import _report as report

PORT = 5001

SERVER = """
def serve(make, epoll, key, ready, over, port):
    l = make(); l.setsockopt(1, 2, 1); l.bind(("0.0.0.0", port)); l.listen(128); l.setblocking(False)
    open = {}; epoll.register(l, 1); ready()
    while not over():
        for name, _ in epoll.poll(0.2):
            if name == key(l):
                try:
                    s, _ = l.accept()
                except BlockingIOError:
                    continue
                s.setblocking(False); open[key(s)] = s; epoll.register(s, 1)
                continue
            s = open[name]
            try:
                data = s.recv(64)
            except ConnectionResetError:
                data = b""
            if data:
                s.send(data)
            else:
                epoll.unregister(s); del open[name]; s.close()
    for s in open.values():
        s.close()
    epoll.close(); l.close()
"""

# It closes with a reset (SO_LINGER 0), so that no client runs out of ports in TIME-WAIT.
CLIENT = """
import struct, time
def call(make, epoll, key, address, seconds, many):
    open = {}; done = 0; block = bytes(64); reset = struct.pack("ii", 1, 0)
    begin = time.monotonic(); end = begin + seconds
    def start():
        s = make(); s.setblocking(False); s.setsockopt(1, 13, reset); s.connect_ex(address)
        open[key(s)] = s; epoll.register(s, 4)
    for _ in range(many):
        start()
    while open:
        for name, events in epoll.poll(1):
            s = open[name]
            if events & 4:
                s.send(block); epoll.modify(s, 1)
                continue
            assert len(s.recv(64)) == 64
            epoll.unregister(s); del open[name]; s.close(); done += 1
            if time.monotonic() < end:
                start()
    epoll.close()
    return done / (time.monotonic() - begin)
"""

KERNEL = """
import os, select, socket, sys
parent = os.getppid()
def ready(): print("ready", flush=True)
arguments = socket.socket, select.epoll(), lambda s: s.fileno()
"""
KERNEL_SERVER = SERVER + KERNEL + "serve(*arguments, ready, lambda: os.getppid() != parent, int(sys.argv[1]))"
KERNEL_CLIENT = (
    CLIENT
    + KERNEL
    + "ready()\nprint(call(*arguments, (sys.argv[1], int(sys.argv[2])), float(sys.argv[3]), int(sys.argv[4])))"
)

OURS: dict[str, Any] = {}
exec(SERVER + CLIENT, OURS)


def own(socket: Any) -> Any:
    """What a stack's epoll calls a socket: itself."""
    return socket


def kernel(seconds: float, many: int) -> tuple[float]:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        server = net.peer(a, KERNEL_SERVER, str(PORT))
        rate = net.answer(net.peer(b, KERNEL_CLIENT, "10.78.0.1", str(PORT), str(seconds), str(many)), seconds + 30)[0]
        net.stop(server)
        return (rate,)


def stack_calls(seconds: float, many: int) -> tuple[float]:
    """The stack's client, the kernel's server."""
    with net.tap_stack() as (name, stack):
        server = net.peer(name, KERNEL_SERVER, str(PORT))
        rate: float = OURS["call"](stack.socket, stack.epoll(), own, ("10.77.0.1", PORT), seconds, many)
        net.stop(server)
        return (rate,)


def stack_serves(seconds: float, many: int) -> tuple[float]:
    """The stack's server, the kernel's client."""
    with net.tap_stack() as (name, stack):
        ready, over = threading.Event(), threading.Event()
        arguments = (stack.socket, stack.epoll(), own, ready.set, over.is_set, PORT)
        thread = threading.Thread(target=OURS["serve"], args=arguments)
        thread.start()
        ready.wait()
        client = net.peer(name, KERNEL_CLIENT, "10.77.0.2", str(PORT), str(seconds), str(many))
        rate = net.answer(client, seconds + 30)[0]
        over.set()
        thread.join()
        return (rate,)


def group(many: int) -> list[report.Row]:
    """The rows of so many at a time, the kernel's first."""
    return [
        report.Row(f"kernel to kernel, veth, {many} at a time", lambda seconds: kernel(seconds, many), stack=False),
        report.Row(f"the stack calls, {many} at a time", lambda seconds: stack_calls(seconds, many)),
        report.Row(f"the stack serves, {many} at a time", lambda seconds: stack_serves(seconds, many)),
    ]


BENCH = report.Bench(
    what="connections, 64 B each way",
    units=[("per second", ",.0f")],
    groups=[group(1), group(50)],
    setting="TAP with offload, MTU 1500, CUBIC on both ends.",
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
