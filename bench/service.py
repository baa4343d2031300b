"""Calls of one client of a service while another floods it: how long each takes, beside the quiet time.

    python bench/service.py [--seconds S] [--rounds N] [--build B] [--only REGEX] [--quick]

The service is a process with a stack that has `lo`. One client asks it for a socket's name, again and again, 64 bytes
each way or so: the ping-pong. Beside it, in turn: nobody; one that sends calls as fast as it can, without waiting for
answers; the same one at the lowest priority (nice 19), so that it takes no core from the one who asks; one whose calls
wait, a thousand of them; one that moves data through its descriptors as fast as it can; and, to tell the service from
the machine, two programs that have nothing to do with it and only compute.
Printed: the median and the 99th percentile of the ping-pong (µs), medians over the rounds, and the 99th percentile as a
multiple of the quiet one of the same round. Needs no privilege.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress

import _net as net
import _report as report

from usernet.netd import names, protocol
from usernet.netd.client import Client
from usernet.netd.messages import close_all

SERVE = """
import sys
from usernet.core.malloc import tune_malloc
from usernet.netd.config import read
from usernet.netd.service import Service
tune_malloc()
with Service(read({"stack": {"bench": {"socket": sys.argv[1]}}})) as service:
    service.run(lambda: print("ready", flush=True))
"""
LO = "127.0.0.1"
WAITING = 1000


def calls(path: str) -> None:
    """As many calls as the service takes."""
    with Client(path) as client:
        sock = client.socket()
        while True:
            for _ in range(100):
                client.connection.request(lambda number: protocol.SockName(number, sock.handle), _forget)
            client.connection.receive(1000)


def polite_calls(path: str) -> None:
    """The same, where nobody else wants the core."""
    os.nice(19)
    calls(path)


def strangers(path: str) -> None:
    """Two programs that keep the cores busy."""
    os.fork()
    while True:
        pass


def waiting(path: str) -> None:
    """A thousand calls that wait, one of which is answered, and made again, again and again."""
    with Client(path) as client:
        one, other = client.socket(2, 2), client.socket(2, 2)
        one.bind((LO, 9))
        for _ in range(WAITING):
            client.connection.request(lambda number: protocol.Receive(number, one.handle, 64, 0, 0), _forget)
        to = names.pack(2, (LO, 9))
        while True:
            client.call(lambda number: protocol.Send(number, other.handle, b"x", 1, 0, to, b""))
            client.connection.request(lambda number: protocol.Receive(number, one.handle, 64, 0, 0), _forget)


def data(path: str) -> None:
    """Bytes from one descriptor to another, by way of TCP on lo."""
    with Client(path) as client:
        server, sock = client.socket(), client.socket()
        server.bind((LO, 80))
        server.listen()
        sock.connect((LO, 80))
        connection, _ = server.accept()
        if not os.fork():
            while connection.recv(1 << 17):
                pass
            os._exit(0)
        block = bytes(1 << 17)
        while True:
            sock.sendall(block)


def _forget(message: object, fds: list[int]) -> None:
    close_all(fds)


def ask(path: str, seconds: float) -> tuple[float, float]:
    """The ping-pong: median and 99th percentile, µs."""
    times: list[float] = []
    clock = time.perf_counter
    with Client(path) as client:
        sock = client.socket()
        end = clock() + seconds
        while (before := clock()) < end:
            sock.getsockname()
            times.append(clock() - before)
        sock.close()
    times.sort()
    return times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6


def measure(path: str, seconds: float, flood: Callable[[str], None] | None) -> tuple[float, float]:
    """The ping-pong with `flood` beside it, in a process group of its own."""
    child = 0
    if flood is not None:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            with suppress(BaseException):
                flood(path)
            os._exit(0)
        with suppress(OSError):
            os.setpgid(child, child)
        time.sleep(0.3)
    try:
        return ask(path, seconds)
    finally:
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            time.sleep(0.2)


def beside(seconds: float, flood: Callable[[str], None] | None) -> report.Figures:
    """The ping-pong with a service of its own, and `flood` beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bench.sock")
        service = net.start([sys.executable, "-c", SERVE, path])
        try:
            return measure(path, seconds, flood)
        finally:
            service.terminate()
            with suppress(subprocess.TimeoutExpired):
                service.wait(20)
            service.kill()
            service.communicate()


BENCH = report.Bench(
    what="calls of a client, and beside it",
    units=[("median µs", ",.0f"), ("99 % µs", ",.0f")],
    groups=[
        [
            report.Row("nobody", lambda seconds: beside(seconds, None)),
            report.Row("calls without end", lambda seconds: beside(seconds, calls)),
            report.Row("calls without end, nice 19", lambda seconds: beside(seconds, polite_calls)),
            report.Row(f"{WAITING:,} calls that wait", lambda seconds: beside(seconds, waiting)),
            report.Row("data", lambda seconds: beside(seconds, data)),
            report.Row("two programs that only compute", lambda seconds: beside(seconds, strangers)),
        ]
    ],
    ratios=[report.Ratio("99 % of the quiet one's", unit=1)],
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, lambda: None)
