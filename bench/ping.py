"""ICMP echo of 56 bytes: how long one takes, one after the other, asked by the kernel and asked by the stack.

    python bench/ping.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

Beside it kernel to kernel over veth in the same round. The asking program is the same on either side, a ping socket
(`SOCK_DGRAM`, `IPPROTO_ICMP`). A ratio is of the medians, so more is slower. Needs root (namespaces, TAP).
"""

from __future__ import annotations

from typing import Any

import _net as net
import _report as report

# Gives echoes per second, and of single ones the median and the 99th percentile (µs).
ASK = """
import time
def ask(s, address, seconds):
    s.settimeout(1); times = []; clock = time.perf_counter; s.connect((address, 0)); number = 0
    begin = before = clock(); end = begin + seconds
    while before < end:
        number = number + 1 & 0xFFFF
        s.send(b"\\x08\\0\\0\\0\\0\\0" + number.to_bytes(2, "big") + bytes(56))
        assert len(s.recv(128)) == 64
        now = clock(); times.append(now - before); before = now
    s.close(); times.sort()
    return len(times) / (before - begin), times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6
"""
KERNEL_ASK = (
    ASK
    + """
import socket, sys
open("/proc/sys/net/ipv4/ping_group_range", "w").write("0 2147483647")
print("ready", flush=True); print(*ask(socket.socket(2, 2, 1), sys.argv[1], float(sys.argv[2])))
"""
)

OURS: dict[str, Any] = {}
exec(ASK, OURS)

Figures = report.Figures


def kernel(seconds: float) -> Figures:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (_, b):
        return tuple(net.answer(net.peer(b, KERNEL_ASK, "10.78.0.1", str(seconds))))


def stack_asks(seconds: float) -> Figures:
    """The stack pings the kernel."""
    with net.tap_stack() as (_, stack):
        stack.sysctl["net.ipv4.ping_group_range"] = "0 2147483647"
        found: Figures = OURS["ask"](stack.socket(2, 2, 1), "10.77.0.1", seconds)
        return found


def stack_answers(seconds: float) -> Figures:
    """The kernel pings the stack, which no thread of the application drives."""
    with net.tap_stack() as (name, _):
        return tuple(net.answer(net.peer(name, KERNEL_ASK, "10.77.0.2", str(seconds))))


BENCH = report.Bench(
    what="ping, 56 B",
    units=[("per second", ",.0f"), ("median µs", ",.1f"), ("99 % µs", ",.0f")],
    groups=[
        [
            report.Row("kernel to kernel, veth", kernel, stack=False),
            report.Row("the stack asks", stack_asks),
            report.Row("the stack answers", stack_answers),
        ]
    ],
    setting="TAP with offload, MTU 1500.",
    ratios=[report.Ratio("time of the kernel's", unit=1)],
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
