"""Every benchmark, one after the other: the whole of docs/performance.md.

    bench/all [--quick] [--build interpreted|compiled|both] [--only NAME,NAME] [--write] [--list]

Takes an hour and a half at most with both builds, the half of it with one; --quick takes some minutes. A benchmark
that fails or exceeds its time is reported, the others run all the same, and the program ends with 1. --write puts the
tables into docs/performance.md. Needs root (namespaces, TAP), an idle machine, and for `others` slirp4netns; what is
not installed is left out with a line that says so.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import _report as report

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"

# Name, and the minutes it may take with both builds.
PROGRAMS = {
    "bulk": 16,
    "streams": 8,
    "channel": 3,
    "channel_requests": 5,
    "channel_udp": 3,
    "connections": 5,
    "latency": 5,
    "ping": 3,
    "udp": 6,
    "forward": 4,
    "others": 6,
    "workers": 4,
    "memory": 4,
    "stacks": 3,
    "scaling": 14,
    "layers": 3,
}


def run(name: str, arguments: argparse.Namespace) -> str | None:
    """Run one benchmark. Returns what it printed, or None where it failed."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    if arguments.quick:
        command.append("--quick")
    if arguments.build:
        command += ["--build", arguments.build]
    if arguments.write and name == "scaling":
        command.append("--write")
    start = time.monotonic()
    try:
        found = subprocess.run(
            command, env={**os.environ, "BENCH_PART": "1"}, stdout=subprocess.PIPE, text=True, check=False,
            timeout=PROGRAMS[name] * 60,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"\n{name}: not done after {PROGRAMS[name]} minutes\n", flush=True)
        return None
    print(f"\n== bench/{name}.py ({time.monotonic() - start:.0f} s)\n\n{found.stdout.strip()}", flush=True)
    if found.returncode:
        print(f"\n{name}: ended with {found.returncode}", flush=True)
        return None
    return found.stdout.strip()


def _between(text: str, found: re.Match[str]) -> str:
    return f"{found[1]}{text}\n{found[2]}"


def write(results: dict[str, str]) -> None:
    """Put each benchmark's output between its marks in docs/performance.md."""
    page = PAGE.read_text()
    for name, text in {"machine": report.machine() + ".", **results}.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", functools.partial(_between, text), page,
            count=1, flags=re.DOTALL,
        )  # fmt: skip
        if not count:
            print(f"docs/performance.md has no place for {name}", file=sys.stderr)
    PAGE.write_text(page)


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each: shows that they work")
    parser.add_argument("--build", choices=(*report.BUILDS, "both"), default="", help="default: what is there")
    parser.add_argument("--only", default="", help="some of them, with commas")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--list", action="store_true", help="list them")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(PROGRAMS)
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    if arguments.list:
        for name in names:
            print(f"{name:12} at most {PROGRAMS[name]} minutes")
        return
    print(f"{report.machine()}; builds: {', '.join(report.builds(arguments.build))}.", flush=True)
    results = {name: run(name, arguments) for name in names}
    if arguments.write:
        write({name: text for name, text in results.items() if text is not None})
    if failed := [name for name, text in results.items() if text is None]:
        sys.exit(f"\nfailed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
