"""Bulk TCP in many streams at once, each way, over TAP, beside kernel TCP over veth; and the CPU time of a gigabit.

    python bench/streams.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

One thread on either side serves all streams by epoll, 64 KiB a call. Printed: what all streams carried together, and
the CPU time of the process that has the stack for each gigabit (of the receiver, for the kernel). Needs root.
"""

from __future__ import annotations

import functools
from typing import Any

import _net as net
import _report as report

PORT = 5001
COUNTS = (16, 256)

# Gives the bytes received after the first second's tenth, the time, and the CPU time of it.
RECEIVE = """
import time
def receive(make, epoll, key, port, many, ready):
    l = make(); l.bind(("0.0.0.0", port)); l.listen(many); ready()
    open = {}
    for _ in range(many):
        s, _ = l.accept(); s.setblocking(False); open[key(s)] = s; epoll.register(s, 1)
    buffer = bytearray(65536); count = 0; begin = time.monotonic(); cpu = time.process_time()
    while open:
        for name, _ in epoll.poll(5):
            s = open[name]
            try:
                n = s.recv_into(buffer)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                n = 0
            count += n
            if not n:
                epoll.unregister(s); del open[name]; s.close()
    l.close(); epoll.close()
    return count * 8, time.monotonic() - begin, time.process_time() - cpu
"""

SEND = """
import time
def send(make, epoll, key, address, many, seconds):
    open = {}; block = bytes(65536)
    for _ in range(many):
        s = make(); s.connect(address); s.setblocking(False); open[key(s)] = s; epoll.register(s, 4)
    begin = time.monotonic(); end = begin + seconds; cpu = time.process_time(); count = 0
    while time.monotonic() < end:
        for name, _ in epoll.poll(1):
            try:
                count += open[name].send(block)
            except BlockingIOError:
                pass
    found = count * 8, time.monotonic() - begin, time.process_time() - cpu
    for s in open.values():
        s.close()
    epoll.close()
    return found
"""

KERNEL = """
import select, socket, sys
def ready(): print("ready", flush=True)
arguments = socket.socket, select.epoll(), lambda s: s.fileno()
"""
KERNEL_RECEIVE = RECEIVE + KERNEL + "print(*receive(*arguments, int(sys.argv[1]), int(sys.argv[2]), ready))"
KERNEL_SEND = (
    SEND
    + KERNEL
    + "ready(); print(*send(*arguments, (sys.argv[1], int(sys.argv[2])), int(sys.argv[3]), float(sys.argv[4])))"
)

OURS: dict[str, Any] = {}
exec(RECEIVE + SEND, OURS)

Figures = report.Figures


def own(socket: Any) -> Any:
    """What a stack's epoll calls a socket: itself."""
    return socket


def per_gbit(bits: float, seconds: float, cpu: float) -> Figures:
    """Gbit/s, and CPU time of a gigabit in ms."""
    return bits / seconds / 1e9, cpu * 1e3 / (bits / 1e9)


def kernel(seconds: float, many: int) -> Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, KERNEL_RECEIVE, str(PORT), str(many))
        sender = net.peer(b, KERNEL_SEND, "10.78.0.1", str(PORT), str(many), str(seconds))
        bits, elapsed, cpu = net.answer(receiver, seconds + 30)
        net.answer(sender)
        return per_gbit(bits, elapsed, cpu)


def stack_receives(seconds: float, many: int, offload: bool) -> Figures:
    """The kernel sends to the stack."""
    with net.tap_stack(offload) as (name, stack):
        started: list[Any] = []

        def ready() -> None:
            started.append(net.peer(name, KERNEL_SEND, "10.77.0.2", str(PORT), str(many), str(seconds)))

        bits, elapsed, cpu = OURS["receive"](stack.socket, stack.epoll(), own, PORT, many, ready)
        net.answer(started[0])
        return per_gbit(bits, elapsed, cpu)


def stack_sends(seconds: float, many: int, offload: bool) -> Figures:
    """The stack sends to the kernel."""
    with net.tap_stack(offload) as (name, stack):
        receiver = net.peer(name, KERNEL_RECEIVE, str(PORT), str(many))
        _, _, cpu = OURS["send"](stack.socket, stack.epoll(), own, ("10.77.0.1", PORT), many, seconds)
        bits, elapsed, _ = net.answer(receiver, seconds + 60)
        return per_gbit(bits, elapsed, cpu)


def group(many: int) -> list[report.Row]:
    """The rows of so many streams, the kernel's first."""
    rows = [report.Row(f"{many}: kernel to kernel, veth", lambda seconds: kernel(seconds, many), stack=False)]
    for offload in (True, False):
        words = f"TAP {'with' if offload else 'without'} offload"
        rows += [
            report.Row(
                f"{many}: stack receives, {words}", functools.partial(stack_receives, many=many, offload=offload)
            ),
            report.Row(f"{many}: stack sends, {words}", functools.partial(stack_sends, many=many, offload=offload)),
        ]
    return rows


BENCH = report.Bench(
    what="bulk TCP, streams",
    units=[("Gbit/s", ".2f"), ("CPU ms a Gbit", ".1f")],
    groups=[group(many) for many in COUNTS],
    setting="64 KiB a call, epoll on either side, MTU 1500, CUBIC on both ends.",
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
