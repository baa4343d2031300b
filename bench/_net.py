"""What the benchmarks share: namespaces with a kernel in them, peers as processes of their own, and the table.

A peer is a small Python program run in a network namespace on the kernel's sockets, or in this process on a stack's:
the same code does the same work on either, so that the ratio is of the two transports and of nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import usernet
from usernet import drivers
from usernet.core.malloc import tune_malloc

_numbers = itertools.count()

CHUNK = 1 << 17
"""Bytes an application gives to send() and recv() at a time, on both sides (iperf3's default)."""


def run(*command: str) -> str:
    """Run a command; returns what it printed. Raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespace(label: str) -> Iterator[str]:
    """A network namespace of the kernel, deleted at the end. Yields its name."""
    name = f"bench-{label}-{os.getpid()}-{next(_numbers)}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextmanager
def veth_pair() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by the kernel's veth, 10.78.0.1 and 10.78.0.2, with CUBIC. Yields their names."""
    with namespace("a") as a, namespace("b") as b:
        run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        for name, address in ((a, "10.78.0.1"), (b, "10.78.0.2")):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
            use_cubic(name, "10.78.0.0/24", "veth0")
        yield a, b


@contextmanager
def tap_stack(offload: bool = True) -> Iterator[tuple[str, usernet.Stack]]:
    """A namespace, 10.77.0.1, and a started stack, 10.77.0.2, joined by a TAP. Yields its name and the stack."""
    with namespace("tap") as name, usernet.Stack("bench") as stack:
        stack.add_device(
            drivers.Tap("tap0", offload=offload, address="10.77.0.1/24", netns=name), "eth0", "10.77.0.2/24"
        )
        use_cubic(name, "10.77.0.0/24", "tap0")
        yield name, stack


def use_cubic(name: str, prefix: str, dev: str) -> None:
    """The kernel's connections along this route use CUBIC, as the stack's do."""
    run("ip", "-n", name, "route", "change", prefix, "dev", dev, "congctl", "cubic")


def peer(name: str, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program in a namespace; it prints a line when it is ready."""
    return start(["ip", "netns", "exec", name, sys.executable, "-c", program, *arguments])


def start(command: Sequence[str], pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
    """Start a peer by a command, which inherits `pass_fds`. Raises RuntimeError where it does not say "ready"."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.kill()
        raise RuntimeError("the peer did not start")
    return process


def answer(process: subprocess.Popen[str], seconds: float = 60.0) -> list[float]:
    """What a peer measured: the numbers of its last line."""
    output, _ = process.communicate(timeout=seconds)
    return [float(word) for word in output.split()]


def describe() -> str:
    """The machine, in a line."""
    return (
        f"Python {platform.python_version()} ({platform.python_implementation()}), Linux {platform.release()}, "
        f"{os.cpu_count()} cores; interpreted; CUBIC on both ends"
    )


def spread(values: Sequence[float]) -> str:
    """The least and the greatest."""
    return f"{min(values):.3g}–{max(values):.3g}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for index, row in enumerate((header, *rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")


def prepare() -> None:
    """What a benchmark does first: it must be root, and malloc must keep large buffers (DESIGN: page faults)."""
    if os.geteuid() != 0:
        sys.exit("this benchmark makes network namespaces and TAP devices: run it as root")
    tune_malloc()


def compare(
    description: str | None,
    what: str,
    units: Sequence[str],
    rows: Sequence[tuple[str, Callable[[float], tuple[float, ...]]]],
    group: int = 0,
) -> None:
    """Parse the command line, measure all rows in each round, and print medians and the ratios to the kernel's figure.

    units: of what a row measures; the first one is compared. rows: name, and what measures for so many seconds. group:
    so many rows are compared with the first of them; 0 for all.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that doesn't (default 5)")
    arguments = parser.parse_args()
    prepare()
    figures: list[list[tuple[float, ...]]] = [[] for _ in rows]
    ratios: list[list[float]] = [[] for _ in rows]
    for turn in range(arguments.rounds + 1):
        values = [measure(arguments.seconds if turn else 0.3) for _, measure in rows]
        for index, value in enumerate(values if turn else ()):
            figures[index].append(value)
            ratios[index].append(value[0] / values[index - index % (group or len(rows))][0])
    print(f"{describe()}\n")
    table(
        (what, *units, "of the kernel", "least–greatest"),
        [
            (
                name,
                *(f"{median([round_[n] for round_ in figures[i]]):,.0f}" for n in range(len(units))),
                f"{median(ratios[i]):.3f}",
                spread(ratios[i]),
            )
            for i, (name, _) in enumerate(rows)
        ],
    )
