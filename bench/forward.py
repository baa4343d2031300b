"""Forwarding of 64-byte packets between two TAPs, beside a CPython loop that only copies them, and the kernel.

    python bench/forward.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

A namespace on either side: one sends datagrams of 18 bytes as fast as it can (44 a call, which the kernel splits), the
other counts what its interface receives and throws it away. Between them the stack as a router, with a route to look
up, a TTL to count down and a neighbour to find; or _tun.py's loop over read() and write(), which does none of that; or
the kernel as a router over veth. No offload, no GRO on the host. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import subprocess
import time

import _net as net
import _report as report

import usernet
from usernet import drivers

FAR = "10.99.0.1"
"""Where the datagrams go: through the other namespace, which does not forward them."""

SEND = """
import socket, sys
s = socket.socket(2, 2); s.connect((sys.argv[1], 9)); s.setsockopt(17, 103, 18); block = bytes(18 * 44)
print("ready", flush=True)
while True:
    try:
        s.send(block)
    except OSError:
        pass
"""

Figures = report.Figures


def packets(name: str, dev: str) -> int:
    """What an interface has received."""
    path = f"/sys/class/net/{dev}/statistics/rx_packets"
    return int(net.run("ip", "netns", "exec", name, "cat", path))


def measure(left: str, right: str, dev: str, seconds: float) -> Figures:
    """Packets per second that arrive at the right while the left sends."""
    sender = net.peer(left, SEND, FAR)
    try:
        time.sleep(0.2)
        begin, before = time.monotonic(), packets(right, dev)
        time.sleep(seconds)
        return ((packets(right, dev) - before) / (time.monotonic() - begin),)
    finally:
        net.stop(sender)


def mac(name: str, dev: str) -> str:
    """The MAC address of an interface."""
    return net.run("ip", "netns", "exec", name, "cat", f"/sys/class/net/{dev}/address").strip()


def stack(seconds: float, offload: bool = False) -> Figures:
    """The stack between two TAPs."""
    with net.namespace("left") as left, net.namespace("right") as right, usernet.Stack("router") as router:
        for number, name in ((1, left), (2, right)):
            address = f"10.{number}.0.1/24"
            device = drivers.Tap("dev0", offload=offload, gro=False, threaded=False, address=address, netns=name)
            router.add_device(device, f"eth{number}", f"10.{number}.0.2/24")
        router.sysctl["net.ipv4.ip_forward"] = 1
        router.add_route("10.99.0.0/16", via="10.2.0.1")
        net.run("ip", "-n", left, "route", "add", "default", "via", "10.1.0.2")
        return measure(left, right, "dev0", seconds)


def copying_loop(seconds: float) -> Figures:
    """A CPython loop between two TAPs."""
    with net.namespace("left") as left, net.namespace("right") as right:
        loop = net.reference("copy", left, right)
        net.run("ip", "-n", left, "route", "add", "default", "via", "10.1.0.2")
        address = mac(right, "dev0")
        net.run("ip", "-n", left, "neighbour", "add", "10.1.0.2", "lladdr", address, "dev", "dev0")
        try:
            return measure(left, right, "dev0", seconds)
        finally:
            net.stop(loop)


def kernel(seconds: float) -> Figures:
    """The kernel between two pairs of veth."""
    with net.namespace("left") as left, net.namespace("mid") as middle, net.namespace("right") as right:
        for number, name in ((1, left), (2, right)):
            net.run(
                *("ip", "link", "add", "dev0", "netns", name, "type", "veth"),
                *("peer", "name", f"eth{number}", "netns", middle),
            )
            net.run("ip", "-n", name, "address", "add", f"10.{number}.0.1/24", "dev", "dev0")
            net.run("ip", "-n", name, "link", "set", "dev0", "up")
            net.run("ip", "-n", middle, "address", "add", f"10.{number}.0.2/24", "dev", f"eth{number}")
            net.run("ip", "-n", middle, "link", "set", f"eth{number}", "up")
            net.run("ip", "netns", "exec", name, "ethtool", "-K", "dev0", "tx-udp-segmentation", "off")
        net.run("ip", "netns", "exec", middle, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        net.run("ip", "-n", middle, "route", "add", "10.99.0.0/16", "via", "10.2.0.1")
        net.run("ip", "-n", left, "route", "add", "default", "via", "10.1.0.2")
        return measure(left, right, "dev0", seconds)


BENCH = report.Bench(
    what="forwarding, 64-byte packets",
    units=[("per second", ",.0f")],
    groups=[
        [
            report.Row("a CPython loop that only copies, TAP to TAP", copying_loop, stack=False),
            report.Row("the stack, TAP to TAP", stack),
            report.Row("the kernel, veth to veth", kernel, stack=False),
        ]
    ],
    setting="MTU 1500, no offload.",
    ratios=[report.Ratio("of the loop")],
)

if __name__ == "__main__":
    try:
        report.main(__doc__, BENCH, net.prepare)
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"{failure.cmd}: {failure.stderr}") from failure
