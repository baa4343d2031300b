"""How the benchmarks measure and what they print: rounds, builds, medians and ratios, and the machine they ran on.

A benchmark is a list of groups of rows. Each round measures every row once, one after the other, in a process of its
own; where the stack takes part, once for each build (interpreted, and compiled where there is one). A ratio is to a row
of the same group in the same round, so that a machine that is slow for a while is slow for both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDS = ("interpreted", "compiled")

Figures = tuple[float, ...]
Measure = Callable[[float], Figures]


@dataclass(frozen=True)
class Row:
    """One line of a table. measure: takes seconds, returns a figure for each unit; its name stands in `label`. stack:
    it runs on the stack, so that builds differ."""

    label: str
    measure: Measure
    stack: bool = True


@dataclass(frozen=True)
class Ratio:
    """A column: the figure `unit` of a row divided by that of row `row` of its group."""

    label: str
    row: int = 0
    unit: int = 0


@dataclass
class Bench:
    """A benchmark. units: name and format of each figure. setting: what holds for all rows, printed above the table.
    ratios: none has the spread of the first figure printed."""

    what: str
    units: Sequence[tuple[str, str]]
    groups: Sequence[Sequence[Row]]
    setting: str = ""
    ratios: Sequence[Ratio] = (Ratio("of the kernel"),)
    seconds: float = 1.0
    rounds: int = 5


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The least and the greatest."""
    return f"{min(values):.3g}–{max(values):.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for index, row in enumerate((header, *rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")


# -- the machine, the source, the builds


def machine() -> str:
    """The machine, the versions, the date and the commit, in two lines."""
    model, memory = platform.machine(), 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = round(int(line.split()[1]) / (1 << 20))
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    return (
        f"{datetime.date.today()}, commit {commit()}. {model}, {os.cpu_count()} cores"
        f"{' of a virtual machine' if virtual else ''}, {memory} GiB; Linux {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def commit() -> str:
    """The source's commit; with "+" where files have been changed since."""
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def describe() -> str:
    """The machine and this process's build, in a line; nothing where bench/all.py says it for all."""
    return "" if os.environ.get("BENCH_PART") else f"{machine()}; {build()}.\n"


def build() -> str:
    """Which build this process runs: "interpreted" or "compiled"."""
    from usernet.skbuff import skbuff

    return "interpreted" if (skbuff.__file__ or "").endswith(".py") else "compiled"


def environment(name: str) -> dict[str, str]:
    """The environment in which Python imports the build `name`."""
    found = dict(os.environ)
    found.pop("USERNET_PURE", None)
    if name == "interpreted":
        found["USERNET_PURE"] = "1"
    return found


def builds(choice: str) -> tuple[str, ...]:
    """The builds to measure. choice: one's name, "both", or "" for what there is. Ends the program where a build that
    was asked for is missing."""
    if choice == "interpreted":
        return ("interpreted",)
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import _report; print(_report.build())"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment("compiled"), capture_output=True, text=True, check=True
    ).stdout.strip()
    if found != "compiled":
        if choice:
            sys.exit("there is no compiled build here")
        return ("interpreted",)
    return ("compiled",) if choice == "compiled" else BUILDS


# -- measuring


def add_options(parser: argparse.ArgumentParser, seconds: float, rounds: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"length of each measurement (default {seconds:g})"
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"rounds that count, after one that doesn't (default {rounds})"
    )
    parser.add_argument(
        "--build", choices=(*BUILDS, "both"), default="", help="what to measure (default: what is there)"
    )
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="only the rows whose name matches, and the first ones"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works")
    parser.add_argument("--one", metavar="GROUP.ROW", help=argparse.SUPPRESS)


def settings(arguments: argparse.Namespace) -> tuple[float, int, float]:
    """Seconds and rounds to measure, and the seconds of the warm-up (0 for none), as the options say."""
    return (0.2, 1, 0.0) if arguments.quick else (arguments.seconds, arguments.rounds, min(arguments.seconds, 0.3))


def main(doc: str | None, bench: Bench, prepare: Callable[[], None]) -> None:
    """Parse the command line, measure and print. prepare: what the measuring process does first."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, bench.seconds, bench.rounds)
    arguments = parser.parse_args()
    if arguments.one:
        group, _, row = arguments.one.partition(".")
        prepare()
        print(json.dumps(bench.groups[int(group)][int(row)].measure(arguments.seconds)))
        return
    prepare()
    chosen = builds(arguments.build)
    seconds, rounds, warm_up = settings(arguments)
    rows: list[list[str]] = []
    for number, group in enumerate(bench.groups):
        plan = _plan(group, chosen, arguments.only, {ratio.row for ratio in bench.ratios})
        if plan:
            rows += _measure(bench, number, plan, seconds, rounds, warm_up)
    if not os.environ.get("BENCH_PART"):
        print(machine(), end=".\n\n")
    if bench.setting:
        print(f"{bench.setting}\n")
    columns = [label for ratio in bench.ratios for label in (ratio.label, "least–greatest")] or ["least–greatest"]
    table((bench.what, *(unit for unit, _ in bench.units), *columns), rows)


def _plan(group: Sequence[Row], chosen: Sequence[str], only: str, bases: set[int]) -> list[tuple[int, str]]:
    """The rows to measure, each with its build."""
    wanted = [index for index, row in enumerate(group) if re.search(only, row.label)]
    if not wanted:
        return []
    return [
        (index, name)
        for index, row in enumerate(group)
        if index in wanted or index in bases
        for name in (chosen if row.stack else chosen[:1])
    ]


def _measure(
    bench: Bench, number: int, plan: list[tuple[int, str]], seconds: float, rounds: int, warm_up: float
) -> list[list[str]]:
    """Measure one group. Returns its lines of the table."""
    figures: list[list[Figures]] = [[] for _ in plan]
    for turn in range(0 if warm_up else 1, rounds + 1):
        for position, (index, name) in enumerate(plan):
            found = _one(number, index, name, seconds if turn else warm_up)
            if turn:
                figures[position].append(found)
    lines = []
    group = bench.groups[number]
    names = {name for _, name in plan}
    for position, (index, name) in enumerate(plan):
        row = group[index]
        label = f"{row.label}, {name}" if row.stack and len(names) > 1 else row.label
        line = [label]
        for unit, (_, form) in enumerate(bench.units):
            line.append(format(median([found[unit] for found in figures[position]]), form))
        if not bench.ratios:
            line.append(spread([found[0] for found in figures[position]]))
        for ratio in bench.ratios:
            base = figures[[index for index, _ in plan].index(ratio.row)]
            values = [
                found[ratio.unit] / other[ratio.unit] for found, other in zip(figures[position], base, strict=True)
            ]
            line += [f"{median(values):.3f}", spread(values)]
        lines.append(line)
    return lines


def _one(group: int, row: int, name: str, seconds: float) -> Figures:
    """Measure one row in a process of its own."""
    command = [sys.executable, sys.argv[0], "--one", f"{group}.{row}", "--seconds", str(seconds)]
    found = subprocess.run(
        command, env=environment(name), stdout=subprocess.PIPE, text=True, timeout=seconds * 10 + 120, check=False
    )
    if found.returncode:
        sys.exit(f"{' '.join(command[1:])}: ended with {found.returncode}")
    return tuple(json.loads(found.stdout.splitlines()[-1]))
