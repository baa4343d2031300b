"""Bulk TCP at MTU 1500 through slirp4netns, beside usernet and the kernel, in one run.

    python bench/others.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

slirp4netns (C): a namespace's kernel sends to it over its TAP, or receives from it, and on its other side it has a
socket on the loopback of another namespace; MTU 1500. Where it is not
installed its rows are left out. Needs root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import _net as net
import _report as report
import bulk

PORT = bulk.PORT
HOST = "10.0.2.2"
"""What slirp4netns calls the host's loopback."""

Figures = report.Figures


def slirp(inside: str, outside: str) -> subprocess.Popen[bytes]:
    """Start slirp4netns: TAP in one namespace, sockets in the other."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", outside, "slirp4netns", "--configure", "--mtu=1500", "--netns-type=path",
         f"/run/netns/{inside}", "tap0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(100):
        if "10.0.2.100" in net.run("ip", "-n", inside, "address"):
            return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError("slirp4netns did not start")


def through_slirp(seconds: float, receives: bool) -> Figures:
    """Gbit/s into slirp4netns (receives), or out of it, where the one inside connects."""
    with net.namespace("inside") as inside, net.namespace("outside") as outside:
        process = slirp(inside, outside)
        try:
            if receives:
                receiver = net.peer(outside, bulk.RECEIVER, str(PORT), str(net.CHUNK))
                sender = net.peer(inside, bulk.SENDER, HOST, str(PORT), str(seconds), str(net.CHUNK))
            else:
                sender = net.peer(outside, SENDING_SERVER, str(PORT), str(seconds), str(net.CHUNK))
                receiver = net.peer(inside, RECEIVING_CLIENT, HOST, str(PORT), str(net.CHUNK))
            rate = net.answer(receiver, seconds + 60)[0]
            net.answer(sender)
            return (rate / 1e9,)
        finally:
            process.terminate()
            process.wait()


SENDING_SERVER = """
import socket, sys, time
l = socket.socket(); l.bind(("0.0.0.0", int(sys.argv[1]))); l.listen(); print("ready", flush=True)
s, _ = l.accept(); block = bytes(int(sys.argv[3])); end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end: s.send(block)
s.close(); print(0)
"""
RECEIVING_CLIENT = """
import socket, sys, time
print("ready", flush=True)
s = socket.socket(); s.connect((sys.argv[1], int(sys.argv[2]))); buffer = bytearray(int(sys.argv[3]))
count = s.recv_into(buffer); start = time.monotonic()
while n := s.recv_into(buffer): count += n
print(count * 8 / (time.monotonic() - start))
"""


def rows() -> list[report.Row]:
    """What is installed, the kernel first."""
    found = [
        report.Row("kernel to kernel, veth", lambda seconds: bulk.kernel(seconds, 1500), stack=False),
        report.Row("usernet receives, TAP without offload", lambda s: bulk.stack_receives(s, "TAP", False, 1500)),
        report.Row("usernet sends, TAP without offload", lambda s: bulk.stack_sends(s, "TAP", False, 1500)),
        report.Row("usernet receives, TAP with offload", lambda s: bulk.stack_receives(s, "TAP", True, 1500)),
        report.Row("usernet sends, TAP with offload", lambda s: bulk.stack_sends(s, "TAP", True, 1500)),
    ]
    if shutil.which("slirp4netns"):
        found += [
            report.Row("slirp4netns receives", lambda seconds: through_slirp(seconds, True), stack=False),
            report.Row("slirp4netns sends", lambda seconds: through_slirp(seconds, False), stack=False),
        ]
    else:
        print("slirp4netns is not installed, and left out", file=sys.stderr)
    return found


BENCH = report.Bench(
    what="bulk TCP, one stream",
    units=[("Gbit/s", ".3f")],
    groups=[rows()],
    setting=f"MTU 1500, {net.CHUNK >> 10} KiB a call, CUBIC at the kernel's end.",
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
