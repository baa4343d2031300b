"""What programs measure as clients under `usernet run`, beside the kernel's sockets and beside slirp4netns.

    python bench/beside.py [--rounds N] [PROGRAM…]

The server runs on a kernel; the client on the kernel of another namespace (veth), on a stack (TAP), or in a namespace
that slirp4netns serves. One round measures each in turn. Printed: medians over the rounds, and their ratios to the
kernel's. Needs root (namespaces, TAP). Status 1 where a program failed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from typing import Final

from programs import CASES, Failure, attempt, missing, table

COMPARED: Final = (
    ("iperf3, sent (Gbit/s)", "iperf3"),
    ("iperf3 -R, received (Gbit/s)", "iperf3 -R"),
    ("redis-benchmark, 50 clients (GET/s)", "redis-benchmark, redis-server"),
    ("wrk, 40 connections (requests/s)", "wrk, nginx"),
    ("pgbench, 8 clients (transactions/s)", "pgbench, postgres"),
)
BESIDE: Final = ("kernel", "usernet", "slirp4netns")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="those whose name contains it (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this makes network namespaces and TAP devices: run it as root")
    by_name = {name: (programs, case) for name, programs, case, _ in CASES}
    rows = []
    failed = 0
    for title, name in COMPARED:
        programs, case = by_name[name]
        if missing(programs) or not any(word in title for word in arguments.programs or ("",)):
            continue
        figures: dict[str, list[float]] = {where: [] for where in BESIDE}
        for _ in range(arguments.rounds):
            for where in BESIDE:
                if where == "slirp4netns" and missing(["slirp4netns"]):
                    continue
                try:
                    told = attempt(case, "client", where)
                    figures[where].append(float(re.findall(r"[0-9][0-9,.]*", told)[-1].replace(",", "")))
                except (Failure, subprocess.SubprocessError, OSError) as problem:
                    failed += 1
                    print(f"{name} on {where}: {problem}", file=sys.stderr)
        medians = [statistics.median(figures[where]) if figures[where] else 0.0 for where in BESIDE]
        kernel = medians[0] or 1.0
        shown = [f"{value:,.2f}" if medians[0] < 1000 else f"{value:,.0f}" for value in medians]
        rows.append((title, *shown, f"{medians[1] / kernel:.3f}", f"{medians[2] / kernel:.3f}"))
        print(*rows[-1], sep="; ", file=sys.stderr)
    header = ("", "kernel, veth", "usernet run", "slirp4netns", "usernet run : kernel", "slirp4netns : kernel")
    table(header, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
