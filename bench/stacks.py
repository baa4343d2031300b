"""What it takes to begin: the import, a stack, and a thousand of them in one process.

    python bench/stacks.py [--rounds N] [--build B] [--only REGEX] [--quick]

The import is what `import usernet` and the modules of a stack with a device take beyond a bare interpreter, with the
byte code at hand. Printed: medians, the least and the greatest. Needs no privilege.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time

import _report as report

COUNT = 1000
BARE = "pass"
IMPORT = "import usernet; usernet.Stack"


def interpreter(program: str, cache: str) -> float:
    """Milliseconds that a Python program takes from start to end: the least of ten after the first. cache: the folder
    of its byte code."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1e3


def import_time() -> float:
    """Milliseconds for `import usernet` and what a stack needs."""
    with tempfile.TemporaryDirectory() as cache:
        return interpreter(IMPORT, cache) - interpreter(BARE, cache)


def begin(_: float) -> report.Figures:
    """Import; make, start and close a thousand stacks."""
    import usernet

    usernet.Stack("warm-up").start().close()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks = [time.perf_counter()]
    stacks = [usernet.Stack(f"stack{number}") for number in range(COUNT)]
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
    return (
        import_time(),
        *((after - before) / COUNT * 1e6 for before, after in (marks[0:2], marks[1:3], marks[3:5])),
        held / COUNT,
        more_threads + 1,
        more_descriptors,
    )


BENCH = report.Bench(
    what="to begin",
    units=[
        ("import, ms", ".1f"),
        ("make a stack, µs", ",.0f"),
        ("start it, µs", ",.0f"),
        ("close it, µs", ",.0f"),
        ("its memory, KiB", ",.0f"),
        ("threads", ".0f"),
        ("descriptors", ".0f"),
    ],
    groups=[[report.Row(f"a stack, of {COUNT:,}", begin)]],
    setting="Threads of all of them; descriptors of all beyond the runner's.",
    ratios=[],
    warm_up=False,
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, lambda: None)
