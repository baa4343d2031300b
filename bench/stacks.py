"""A thousand stacks in one process: how long each takes to make, start and close, and what they hold together.

python bench/stacks.py [--count N]
"""

from __future__ import annotations

import argparse
import os
import resource
import threading
import time

import _net as net

import usernet


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many stacks (default 1000)")
    count = parser.parse_args().count
    usernet.Stack("warm-up").start().close()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks = [time.perf_counter()]
    stacks = [usernet.Stack(f"stack{number}") for number in range(count)]
    marks.append(time.perf_counter())
    for stack in stacks:
        stack.start()
    marks.append(time.perf_counter())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    more_threads = threading.active_count() - threads
    more_descriptors = len(os.listdir("/proc/self/fd")) - descriptors
    marks.append(time.perf_counter())
    for stack in stacks:
        stack.close()
    marks.append(time.perf_counter())
    print(f"{count} stacks. {net.describe()}\n")
    rows = [
        ("make one", f"{(marks[1] - marks[0]) / count * 1e6:,.0f} µs"),
        ("start one", f"{(marks[2] - marks[1]) / count * 1e6:,.0f} µs"),
        ("close one", f"{(marks[4] - marks[3]) / count * 1e6:,.0f} µs"),
        ("memory of one", f"{held / count:,.0f} KiB"),
        ("threads of all", f"{more_threads + 1}"),
        ("descriptors of all beyond the runner's", f"{more_descriptors}"),
    ]
    net.table(("stacks", ""), rows)


if __name__ == "__main__":
    main()
