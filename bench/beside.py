"""What programs measure as clients under `usernet run`, beside the kernel's sockets and beside slirp4netns.

    python bench/beside.py [--rounds N] [--build B] [--only REGEX] [--quick]

The server runs on a kernel; the client on the kernel of another namespace (veth), on a stack (TAP), or in a namespace
that slirp4netns serves. One round measures each in turn. Printed: medians over the rounds, and their ratios to the
kernel's. A program that isn't installed is left out. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Final

import _net as net
import _report as report
from programs import CASES, attempt, missing

COMPARED: Final = (
    ("iperf3, sent, Gbit/s", "iperf3"),
    ("iperf3 -R, received, Gbit/s", "iperf3 -R"),
    ("redis-benchmark, 50 clients, GET/s", "redis-benchmark, redis-server"),
    ("wrk, 40 connections, requests/s", "wrk, nginx"),
    ("pgbench, 8 clients, transactions/s", "pgbench, postgres"),
)
BY_NAME: Final = {name: (programs, case) for name, programs, case, _ in CASES}


def measure(_: float, name: str, where: str) -> report.Figures:
    """The last figure that a program tells, as a client at that end."""
    told = attempt(BY_NAME[name][1], "client", where)
    return (float(re.findall(r"[0-9][0-9,.]*", told)[-1].replace(",", "")),)


def groups() -> list[list[report.Row]]:
    """The rows of each program that is installed."""
    found = []
    for title, name in COMPARED:
        if absent := missing(BY_NAME[name][0]):
            print(f"{title}: left out, {' and '.join(absent)} not being installed", file=sys.stderr)
            continue
        rows = [
            report.Row(f"{title}: kernel, veth", partial(measure, name=name, where="kernel"), stack=False),
            report.Row(f"{title}: usernet run, TAP", partial(measure, name=name, where="usernet")),
        ]
        if not missing(["slirp4netns"]):
            there = partial(measure, name=name, where="slirp4netns")
            rows.append(report.Row(f"{title}: slirp4netns", there, stack=False, other=True))
        found.append(rows)
    return found


BENCH = report.Bench(
    what="programs",
    units=[("", ",.2f")],
    groups=groups(),
    setting="MTU 1500, offload, CUBIC on both ends; slirp4netns with MTU 65520. Each program takes the time it takes.",
    rounds=3,
    warm_up=False,
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
