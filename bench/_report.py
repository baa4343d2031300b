"""How the benchmarks measure and what they print: rounds, builds, medians and ratios, and the machine they ran on.

A benchmark is a list of groups of rows. Each round measures every row once, one after the other, in a process of its
own; where the stack takes part, once for each build (interpreted, and compiled where there is one). A ratio is to a row
of the same group in the same round, so that a machine that is slow for a while is slow for both. A row that fails or
exceeds its time is a line of dashes, with the reason below the table, and does not keep the others from being measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import _builds as builds

Figures = tuple[float, ...]
Measure = Callable[[float], Figures]

BUILDS = builds.BUILDS
NOTHING = "–"
"""What stands in a table where there is no figure."""

LIMIT = 60.0
"""Seconds that a row may take beyond three times what it measures."""

GRACE = 5.0
"""Seconds that a process has to tidy up when it is told to end."""


@dataclass(frozen=True)
class Row:
    """One line of a table. measure: takes seconds, returns a figure for each unit; its name stands in `label`. stack:
    it runs on the stack, so that builds differ. other: it is of a program that is not ours, and may fail."""

    label: str
    measure: Measure
    stack: bool = True
    other: bool = False
    limit: float = LIMIT


@dataclass(frozen=True)
class Ratio:
    """A column: the figure `unit` of a row divided by that of row `row` of its group."""

    label: str
    row: int = 0
    unit: int = 0


@dataclass
class Bench:
    """A benchmark. units: name and format of each figure. setting: what holds for all rows, printed above the table.
    ratios: none has the spread of the first figure printed. warm_up: begin with a short round that does not count.
    quick: the seconds of --quick."""

    what: str
    units: Sequence[tuple[str, str]]
    groups: Sequence[Sequence[Row]]
    setting: str = ""
    ratios: Sequence[Ratio] = (Ratio("of the kernel"),)
    seconds: float = 1.0
    rounds: int = 5
    warm_up: bool = True
    quick: float = 0.2


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The least and the greatest."""
    least, most = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (min(values), max(values)))
    return f"{least}–{most}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for index, row in enumerate((header, *rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")


# -- the machine and the source


def machine() -> str:
    """The machine and the versions, in a line."""
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
        f"{model}, {os.cpu_count()} cores{' of a virtual machine' if virtual else ''}, {memory} GiB; "
        f"Linux {platform.release()}; {platform.python_implementation()} {platform.python_version()}"
    )


def commit() -> str:
    """The source's commit; with "+" where files have been changed since, but for documents."""
    try:
        found = subprocess.run(
            ["git", "-C", str(builds.ROOT), "rev-parse", "--short=7", "HEAD"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(builds.ROOT), "status", "--porcelain", "-uno", "--", "src", "bench", "setup.py"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def heading(what: str) -> str:
    """What every benchmark prints first: its file, the date, the commit, and `what` it is (builds, rounds); above it
    the machine, where bench/all.py does not say it for all."""
    name = Path(sys.argv[0]).name
    line = f"`bench/{name}`, {datetime.date.today()}, commit {commit()}: {what}."
    return line if os.environ.get("BENCH_PART") else f"{machine()}.\n\n{line}"


def of_rounds(counts: set[int], seconds: float) -> str:
    """How often was measured, in words: medians of 5 rounds of 1 s."""
    least, most = min(counts, default=0), max(counts, default=0)
    if most <= 1:
        return f"one round of {seconds:g} s"
    return f"medians of {most if least == most else f'{least} to {most}'} rounds of {seconds:g} s"


# -- measuring


def add_options(parser: argparse.ArgumentParser, seconds: float, rounds: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--seconds", type=float, help=f"length of each measurement (default {seconds:g})")
    parser.add_argument("--rounds", type=int, help=f"rounds that count, after one that doesn't (default {rounds})")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="do fewer rounds, one at least, where all would take longer"
    )
    parser.add_argument(
        "--build", choices=(*BUILDS, "both"), default="", help="what to measure (default: what is there)"
    )
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="only the rows whose name matches, and the first ones"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works")
    parser.add_argument("--one", metavar="BENCH.GROUP.ROW", help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)


def settings(arguments: argparse.Namespace, seconds: float, rounds: int, quick: float = 0.2) -> tuple[float, int]:
    """Seconds and rounds to measure, as the options say; `seconds` and `rounds` where they say nothing."""
    if arguments.quick:
        return quick, 1
    return arguments.seconds or seconds, arguments.rounds or rounds


def turn() -> int:
    """Which round it is that this process measures, from 1 on; 0 for the one that does not count."""
    return int(sys.argv[sys.argv.index("--turn") + 1]) if "--turn" in sys.argv else 1


def main(doc: str | None, benches: Bench | Sequence[Bench], prepare: Callable[[], object]) -> None:
    """Parse the command line, measure and print. prepare: what the measuring process does first. Exits with 1 where a
    row failed that is of the stack or the kernel."""
    every = [benches] if isinstance(benches, Bench) else list(benches)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, every[0].seconds, every[0].rounds)
    arguments = parser.parse_args()
    prepare()
    if arguments.one:
        one, place, row = map(int, arguments.one.split("."))
        signal.signal(signal.SIGTERM, _end)
        print(json.dumps(every[one].groups[place][row].measure(arguments.seconds)), flush=True)
        return
    chosen = builds.choose(arguments.build)
    clock = _Clock(arguments.minutes * 60, sum(len(bench.groups) for bench in every))
    failed = headed = False
    for number, bench in enumerate(every):
        seconds, rounds = settings(arguments, bench.seconds, bench.rounds, bench.quick)
        warm_up = min(seconds, 0.3) if bench.warm_up and not arguments.quick else 0.0
        lines: list[list[str]] = []
        notes: dict[str, None] = {}
        counts: set[int] = set()
        for index, group in enumerate(bench.groups):
            plan = _plan(group, chosen, arguments.only, {ratio.row for ratio in bench.ratios})
            if not plan:
                clock.skip()
                continue
            found = _Group(bench, f"{number}.{index}", group, plan)
            counts.add(found.measure(seconds, rounds, warm_up, clock))
            lines += found.lines()
            notes.update(dict.fromkeys(found.notes()))
            failed = failed or found.failed()
        if not lines:
            continue
        words = builds.named(chosen) if any(row.stack for group in bench.groups for row in group) else "no build of it"
        print("" if headed else heading(f"{words}; {of_rounds(counts, seconds)}") + "\n")
        headed = True
        if bench.setting:
            print(f"{bench.setting}\n")
        columns = [label for ratio in bench.ratios for label in (ratio.label, "least–greatest")] or ["least–greatest"]
        table((bench.what, *(unit for unit, _ in bench.units), *columns), lines)
        if notes:
            print()
            print("\n".join(notes), flush=True)
    if failed:
        sys.exit(1)


def _end(*_: object) -> None:
    raise SystemExit("told to end")


class _Clock:
    """Shares the time that a program has among its groups. limit: seconds, 0 for as long as it takes."""

    def __init__(self, limit: float, groups: int) -> None:
        self._end = time.monotonic() + limit if limit else 0.0
        self._groups = groups

    def skip(self) -> None:
        self._groups -= 1

    def share(self) -> float:
        """When the next group should be done (seconds of time.monotonic())."""
        if not self._end:
            return float("inf")
        now = time.monotonic()
        share = now + (self._end - now) / max(self._groups, 1)
        self._groups -= 1
        return share


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


class _Group:
    """The measuring of one group of rows, and its lines of the table."""

    def __init__(self, bench: Bench, name: str, rows: Sequence[Row], plan: list[tuple[int, str]]) -> None:
        self.bench, self.name, self.rows, self.plan = bench, name, rows, plan
        self.figures: list[list[Figures | None]] = [[] for _ in plan]
        self.reasons: list[list[str]] = [[] for _ in plan]

    def measure(self, seconds: float, rounds: int, warm_up: float, clock: _Clock) -> int:
        """Measure all rows in each round, as many as there is time for. Returns how many."""
        share = clock.share()
        for number in range(0 if warm_up else 1, rounds + 1):
            start = time.monotonic()
            for position in range(len(self.plan)):
                self._one(position, seconds if number else warm_up, number)
            now = time.monotonic()
            if number and now + (now - start) > share:
                return number
        return rounds

    def _one(self, position: int, seconds: float, number: int) -> None:
        index, build = self.plan[position]
        reasons = self.reasons[position]
        # What has failed twice fails again, and takes the time of others.
        found = self.run(index, build, seconds, number) if len(reasons) < 2 else reasons[-1]
        if isinstance(found, str) and len(reasons) < 2:
            reasons.append(found)
        if number:
            self.figures[position].append(None if isinstance(found, str) else found)

    def run(self, index: int, build: str, seconds: float, number: int) -> Figures | str:
        """Measure one row in a process of its own; why not, where it fails. Nothing of it is left."""
        command = [sys.executable, sys.argv[0], "--one", f"{self.name}.{index}"]
        command += ["--seconds", str(seconds), "--turn", str(number)]
        limit = seconds * 3 + self.rows[index].limit
        process = subprocess.Popen(
            command, env=builds.environment(build), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, problem = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            end(process)
            return f"not done after {limit:.0f} s"
        except BaseException:
            end(process)
            raise
        if process.returncode or not output.strip():
            sys.stderr.write(problem)
            end(process)
            return (problem.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:200]
        return tuple(json.loads(output.splitlines()[-1]))

    def label(self, position: int) -> str:
        """How a row is called in the table."""
        index, build = self.plan[position]
        row = self.rows[index]
        several = len({name for _, name in self.plan}) > 1
        return f"{row.label}, {build}" if row.stack and several else row.label

    def lines(self) -> list[list[str]]:
        """The lines of the table."""
        bench = self.bench
        lines = []
        for position in range(len(self.plan)):
            mine = self.figures[position]
            good = [found for found in mine if found is not None]
            line = [self.label(position)]
            for unit, (_, form) in enumerate(bench.units):
                line.append(format(median([found[unit] for found in good]), form) if good else NOTHING)
            if not bench.ratios:
                line.append(spread([found[0] for found in good]) if good else NOTHING)
            for ratio in bench.ratios:
                base = self.base(ratio.row, self.plan[position][1])
                values = [
                    found[ratio.unit] / other[ratio.unit]
                    for found, other in zip(mine, base, strict=True)
                    if found is not None and other is not None and other[ratio.unit]
                ]
                line += [f"{median(values):.3f}", spread(values)] if values else [NOTHING, NOTHING]
            lines.append(line)
        return lines

    def base(self, row: int, build: str) -> list[Figures | None]:
        """The figures of the row that others are divided by: of the same build, where it has builds."""
        found = (row, build) if (row, build) in self.plan else (row, self.plan[0][1])
        return self.figures[self.plan.index(found)]

    def notes(self) -> list[str]:
        """A line for each row that failed."""
        return [f"- {self.label(position)}: {reasons[0]}" for position, reasons in enumerate(self.reasons) if reasons]

    def failed(self) -> bool:
        """Whether a row that is ours or the kernel's has failed, and has no figure."""
        return any(
            not any(figures) and not self.rows[self.plan[position][0]].other
            for position, figures in enumerate(self.figures)
        )


def end(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session, all that belongs to it, and its network namespaces."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.send_signal(number) if number == signal.SIGTERM else os.killpg(process.pid, number)
            process.communicate(timeout=GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired, ValueError):
            continue
    for path in Path("/run/netns").glob(f"*-{process.pid}*"):
        if re.search(rf"-{process.pid}(-|$)", path.name):
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)
