"""What a test left behind in this process: threads, descriptors, child processes.

`conftest.py` takes a `Snapshot` before each test and compares after it. A descriptor is known by its number *and*
what it refers to (`/proc/self/fd`, where a socket or pipe shows its inode), so a number that was closed and given
out again is not mistaken for one that stayed.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

RUNNER_THREAD_PREFIX: Final = "usernet-runner"

#: What the process-wide runner thread holds while it lives: an epoll to wait with, an eventfd to be woken by.
RUNNER_DESCRIPTORS: Final = {"anon_inode:[eventpoll]": 1, "anon_inode:[eventfd]": 1}


class Snapshot(NamedTuple):
    """What the process holds at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[int]


def take() -> Snapshot:
    """Return what this process holds now."""
    return Snapshot(frozenset(threading.enumerate()), _descriptors(), _children())


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the descriptor that listed the directory
            continue
    return frozenset(found)


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:  # the thread ended meanwhile, or a kernel without CONFIG_PROC_CHILDREN
            continue
    return frozenset(found)


def runner_thread_may_stay(thread: threading.Thread) -> bool:
    """Tell whether this is the runner, one daemon thread per process that usernet itself keeps and ends."""
    return thread.daemon and thread.name.startswith(RUNNER_THREAD_PREFIX)


def without_the_runners_own(
    descriptors: set[tuple[int, str]], threads: frozenset[threading.Thread]
) -> set[tuple[int, str]]:
    """Return the descriptors without those that a living runner thread may keep (`RUNNER_DESCRIPTORS`)."""
    if not any(map(runner_thread_may_stay, threads)):
        return descriptors
    allowed = dict(RUNNER_DESCRIPTORS)
    left = set()
    for number, target in sorted(descriptors):
        if allowed.get(target, 0):
            allowed[target] -= 1
        else:
            left.add((number, target))
    return left


def left_over(before: Snapshot, patience: float = 2.0) -> list[str]:
    """Return one line for each thing that this process holds now and did not hold at `before`.

    Args:
        before: the snapshot from before the test.
        patience: seconds that something still here is given to end by itself (a thread past its last statement,
            an object in a reference cycle); a test that leaves nothing never waits.
    """
    deadline = time.monotonic() + patience
    lines = _compare(before, take())
    if lines:
        gc.collect()
        lines = _compare(before, take())
    while lines and time.monotonic() < deadline:
        time.sleep(0.01)
        lines = _compare(before, take())
    return lines


def _compare(before: Snapshot, after: Snapshot) -> list[str]:
    lines = [
        f"thread {thread.name!r} (daemon={thread.daemon}) still runs"
        for thread in sorted(after.threads - before.threads, key=lambda thread: thread.name)
        if not runner_thread_may_stay(thread)
    ]
    new = without_the_runners_own(set(after.descriptors - before.descriptors), after.threads)
    lines += [f"descriptor {number} is still open: {target}" for number, target in sorted(new)]
    lines += [f"child process {pid} was not waited for" for pid in sorted(after.children - before.children)]
    return lines
