"""What others do that stand where usernet stands, beside it and the kernel in one run: slirp4netns and PyTCP.

    python bench/others.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

slirp4netns (C): the kernel of a namespace is on its TAP, and calls; on its other side it has sockets of its own in
another namespace. So its figures are those of two transports in series, and what it can't do is be called.
PyTCP (Python): a stack in its own process behind a TAP, in an environment of its own (build/pytcp), which is made where
it is missing and pip finds `pmd-pytcp`. Both at MTU 1500; neither has offload. What is not there is left out, and what
hangs is given up after half a minute; the line below the table says why. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import _builds as builds
import _net as net
import _report as report
import bulk
import connections
import latency
import udp

PORT = bulk.PORT
HOST = "10.0.2.2"
"""What slirp4netns calls the loopback of its other side."""

PATIENCE = 30.0
"""Seconds beyond its time after which a row of another's is given up."""

PYTCP = builds.ROOT / "build" / "pytcp"
PYTCP_PROGRAM = str(builds.ROOT / "bench" / "_pytcp.py")

Figures = report.Figures


# -- slirp4netns


@contextmanager
def slirp() -> Iterator[tuple[str, str]]:
    """Two namespaces: the one whose kernel is on the TAP, and the one that has the sockets."""
    with net.namespace("inside") as inside, net.namespace("outside") as outside:
        process = subprocess.Popen(
            ["ip", "netns", "exec", outside, "slirp4netns", "--configure", "--mtu=1500", "--netns-type=path",
             f"/run/netns/{inside}", "tap0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(100):
                if "10.0.2.100" in net.run("ip", "-n", inside, "address"):
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError("slirp4netns did not start")
            net.use_cubic(inside, "10.0.2.0/24", "tap0")
            yield inside, outside
        finally:
            process.terminate()
            process.wait()


def slirp_bulk(seconds: float, receives: bool) -> Figures:
    """Gbit/s into slirp4netns (receives), or out of it, where the one inside connects."""
    with slirp() as (inside, outside):
        if receives:
            receiver = net.peer(outside, bulk.RECEIVER, str(PORT), str(net.CHUNK))
            sender = net.peer(inside, bulk.SENDER, HOST, str(PORT), str(seconds), str(net.CHUNK))
        else:
            sender = net.peer(outside, SENDING_SERVER, str(PORT), str(seconds), str(net.CHUNK))
            receiver = net.peer(inside, RECEIVING_CLIENT, HOST, str(PORT), str(net.CHUNK))
        rate = net.answer(receiver, seconds + 60)[0]
        net.answer(sender)
        return (rate / 1e9,)


def slirp_request(seconds: float) -> Figures:
    """64 bytes there and back."""
    with slirp() as (inside, outside):
        server = net.peer(outside, latency.KERNEL_ECHO, str(PORT))
        found = net.answer(net.peer(inside, latency.KERNEL_ASK, HOST, str(PORT), str(seconds)))
        net.answer(server)
        return tuple(found)


def slirp_connections(seconds: float, many: int) -> Figures:
    """Connections per second."""
    with slirp() as (inside, outside):
        server = net.peer(outside, connections.KERNEL_SERVER, str(PORT))
        client = net.peer(inside, connections.KERNEL_CLIENT, HOST, str(PORT), str(seconds), str(many))
        rate = net.answer(client, seconds + 30)[0]
        net.stop(server)
        return (rate,)


def slirp_udp(seconds: float) -> Figures:
    """Datagrams of 18 bytes from the one inside to the other side."""
    with slirp() as (inside, outside):
        receiver = net.peer(outside, udp.KERNEL_RECEIVE, str(PORT), "0")
        net.answer(net.peer(inside, udp.KERNEL_SEND, HOST, str(PORT), str(seconds), "18", "0"))
        return (net.answer(receiver)[0] / 18,)


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


# -- PyTCP


def pytcp_missing() -> str:
    """Why PyTCP can't be measured; empty where it can. Makes its environment where there is none."""
    python = PYTCP / "bin" / "python"
    probe = [str(python), "-c", "import pmd_pytcp"]
    if python.exists() and not subprocess.run(probe, capture_output=True, check=False).returncode:
        return ""
    print("making build/pytcp for PyTCP", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(PYTCP)],
        [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "pmd-pytcp"],
        probe,
    ):
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            return f"its environment can't be made: {problem}"
        if made.returncode:
            return f"its environment can't be made: {([*made.stderr.strip().splitlines(), 'no reason given'])[-1]}"
    return ""


@contextmanager
def pytcp(role: str, seconds: float, number: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The namespace whose kernel is on the TAP, 10.77.0.1, and PyTCP's process behind it, 10.77.0.2, not begun yet."""
    with net.namespace("pytcp") as name:
        net.run("ip", "-n", name, "tuntap", "add", "tap0", "mode", "tap")
        net.run("ip", "-n", name, "address", "add", "10.77.0.1/24", "dev", "tap0")
        net.run("ip", "-n", name, "link", "set", "tap0", "up")
        net.use_cubic(name, "10.77.0.0/24", "tap0")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, str(PYTCP / "bin" / "python"), PYTCP_PROGRAM, role, "tap0", "10.77.0.2/24",
             "10.77.0.1", str(PORT), str(seconds), str(number)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        try:
            yield name, process
        finally:
            net.stop(process)


def begun(process: subprocess.Popen[str]) -> None:
    """Wait until PyTCP's program listens, or has connected."""
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("PyTCP did not start")


def pytcp_bulk(seconds: float, receives: bool) -> Figures:
    """Gbit/s into PyTCP (receives), or out of it."""
    with pytcp("receive" if receives else "send", seconds, net.CHUNK) as (name, process):
        if receives:
            begun(process)
            sender = net.peer(name, bulk.SENDER, "10.77.0.2", str(PORT), str(seconds), str(net.CHUNK))
            rate = net.answer(process, seconds + PATIENCE)[0]
            net.answer(sender)
        else:
            receiver = net.peer(name, bulk.RECEIVER, str(PORT), str(net.CHUNK))
            begun(process)
            rate = net.answer(receiver, seconds + PATIENCE)[0]
        return (rate / 1e9,)


def pytcp_request(seconds: float, asks: bool) -> Figures:
    """64 bytes there and back."""
    with pytcp("ask" if asks else "answer", seconds, 64) as (name, process):
        if asks:
            server = net.peer(name, latency.KERNEL_ECHO, str(PORT))
            begun(process)
            found = net.answer(process, seconds + PATIENCE)
            net.stop(server)
        else:
            begun(process)
            found = net.answer(net.peer(name, latency.KERNEL_ASK, "10.77.0.2", str(PORT), str(seconds)), PATIENCE)
        return tuple(found)


def pytcp_connections(seconds: float, many: int, calls: bool) -> Figures:
    """Connections per second."""
    with pytcp("call" if calls else "serve", seconds, many) as (name, process):
        if calls:
            server = net.peer(name, connections.KERNEL_SERVER, str(PORT))
            begun(process)
            rate = net.answer(process, seconds + PATIENCE)[0]
            net.stop(server)
        else:
            begun(process)
            client = net.peer(name, connections.KERNEL_CLIENT, "10.77.0.2", str(PORT), str(seconds), str(many))
            rate = net.answer(client, seconds + PATIENCE)[0]
        return (rate,)


# -- the tables


Others = dict[str, report.Measure]


def group(ours: list[report.Row], others: Others) -> list[report.Row]:
    """Rows of the kernel and of usernet, and then those of the others, by labels that begin with a name."""
    found = list(ours)
    for label, measure in others.items():
        found.append(report.Row(label, partial(_run, measure, label), stack=False, other=True, limit=PATIENCE))
    return found


def _run(measure: report.Measure, label: str, seconds: float) -> Figures:
    """Measure, or say why not: that is the line below the table."""
    if label.startswith("slirp4netns") and not shutil.which("slirp4netns"):
        raise SystemExit("not installed")
    if label.startswith("PyTCP") and (reason := pytcp_missing()):
        raise SystemExit(reason)
    return measure(seconds)


def kernel(measure: report.Measure) -> report.Row:
    """The first row of each table."""
    return report.Row("kernel to kernel, veth", measure, stack=False)


BULK = report.Bench(
    what="bulk TCP, one stream",
    units=[("Gbit/s", ".3f")],
    groups=[
        group(
            [
                kernel(lambda seconds: bulk.kernel(seconds, 1500)),
                report.Row("usernet receives, offload", lambda s: bulk.stack_receives(s, "TAP", True, 1500)),
                report.Row("usernet sends, offload", lambda s: bulk.stack_sends(s, "TAP", True, 1500)),
                report.Row("usernet receives", lambda s: bulk.stack_receives(s, "TAP", False, 1500)),
                report.Row("usernet sends", lambda s: bulk.stack_sends(s, "TAP", False, 1500)),
            ],
            {
                "slirp4netns receives": partial(slirp_bulk, receives=True),
                "slirp4netns sends": partial(slirp_bulk, receives=False),
                "PyTCP receives": partial(pytcp_bulk, receives=True),
                "PyTCP sends": partial(pytcp_bulk, receives=False),
            },
        )
    ],
    setting=f"TAP, MTU 1500, {net.CHUNK >> 10} KiB a call, CUBIC at all ends; offload where it says so, veth with it.",
)

REQUESTS = report.Bench(
    what="64 B there and back",
    units=[("per second", ",.0f"), ("median µs", ",.1f"), ("99 % µs", ",.0f")],
    groups=[
        group(
            [
                kernel(latency.kernel),
                report.Row("usernet asks", lambda seconds: latency.stack_asks(seconds, 0)),
                report.Row("usernet answers", lambda seconds: latency.stack_answers(seconds, 0)),
            ],
            {
                "slirp4netns passes on": slirp_request,
                "PyTCP asks": partial(pytcp_request, asks=True),
                "PyTCP answers": partial(pytcp_request, asks=False),
            },
        )
    ],
    setting="TCP, TCP_NODELAY, one at a time, TAP.",
)

CONNECTIONS = report.Bench(
    what="connections, 64 B each way",
    units=[("per second", ",.0f")],
    groups=[
        group(
            [
                kernel(lambda seconds: connections.kernel(seconds, 50)),
                report.Row("usernet calls", lambda seconds: connections.stack_calls(seconds, 50)),
                report.Row("usernet serves", lambda seconds: connections.stack_serves(seconds, 50)),
            ],
            {
                "slirp4netns passes on": partial(slirp_connections, many=50),
                "PyTCP calls": partial(pytcp_connections, many=50, calls=True),
                "PyTCP serves": partial(pytcp_connections, many=50, calls=False),
            },
        )
    ],
    setting="50 at a time, TAP, MTU 1500.",
)

DATAGRAMS = report.Bench(
    what="datagrams of 18 B",
    units=[("per second", ",.0f")],
    groups=[
        group(
            [
                kernel(lambda seconds: udp.kernel(seconds, 18, 0)[:1]),
                report.Row("usernet sends", lambda seconds: udp.stack_sends(seconds, 18, 0)[:1]),
                report.Row("usernet receives", lambda seconds: udp.stack_receives(seconds, 18, 0)[:1]),
            ],
            {"slirp4netns passes on": slirp_udp},
        )
    ],
    setting="What arrives, TAP, MTU 1500.",
)

if __name__ == "__main__":
    if "--one" not in sys.argv:
        # Before the time of a row begins to count.
        pytcp_missing()
    report.main(__doc__, [BULK, REQUESTS, CONNECTIONS, DATAGRAMS], net.prepare)
