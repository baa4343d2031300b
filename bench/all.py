"""Every benchmark, one after the other: the whole of docs/performance.md.

    bench/all [--quick] [--build interpreted|compiled|both] [--only NAME,NAME] [--minutes M] [--write] [--list]

Takes three quarters of an hour at most, or what --minutes says, of which each benchmark has its share: one that would
take longer measures fewer rounds than five. --quick takes some minutes. A benchmark that fails or exceeds its time by
far is reported, the others run all the same, and the program ends with 1. --write puts each table into
docs/performance.md as soon as it is there, and draws docs/pictures/scaling.svg. Both builds are measured where
`make compiled` has made the compiled one of this very source. Needs root (namespaces, TAP), an idle machine, and for
some rows slirp4netns, PyTCP (see others.py), iperf3, redis, nginx, wrk and PostgreSQL; what is not installed is left
out with a line that says so.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _builds as builds
import _report as report

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
MINUTES = 45.0
SLACK = 240.0
"""Seconds by which a benchmark may exceed its share before it is ended: one round may be longer than that."""

PROGRAMS = {
    "bulk": 8.0,
    "streams": 4.0,
    "datapath": 0.5,
    "packets": 1.0,
    "loss": 4.0,
    "latency": 2.0,
    "ping": 1.0,
    "connections": 2.0,
    "udp": 3.0,
    "forward": 1.0,
    "others": 6.0,
    "channel": 1.0,
    "channel_requests": 2.0,
    "channel_udp": 1.0,
    "service": 1.5,
    "beside": 4.0,
    "workers": 2.0,
    "memory": 2.5,
    "stacks": 1.0,
    "scaling": 5.0,
    "layers": 1.0,
}
"""Each benchmark, and its share of the time, about the minutes that it takes with both builds."""


def run(name: str, arguments: argparse.Namespace, minutes: float) -> tuple[str, bool]:
    """Run one benchmark. Returns what it printed, and whether all went well."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--minutes", f"{minutes:.2f}"]
    if arguments.quick:
        command.append("--quick")
    if arguments.build and name != "layers":
        command += ["--build", arguments.build]
    if arguments.write and name == "scaling":
        command.append("--write")
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, env={**builds.environment("interpreted"), "BENCH_PART": "1"}, stdout=output, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(minutes * 60 + SLACK)
            problem = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            problem = f"not done after {(time.monotonic() - start) / 60:.0f} minutes"
        finally:
            if process.poll() is None:
                # It ends what it has started.
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        output.seek(0)
        text = output.read().strip()
    print(f"\n== {name}, {time.monotonic() - start:.0f} s\n\n{text}", flush=True)
    if problem:
        print(f"\n{name}: {problem}", flush=True)
    return text, not problem


def _between(text: str, found: re.Match[str]) -> str:
    return f"{found[1]}{text}\n{found[2]}"


def write(name: str, text: str) -> None:
    """Put a benchmark's output between its marks in docs/performance.md."""
    page, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)", functools.partial(_between, text), PAGE.read_text(),
        count=1, flags=re.DOTALL,
    )  # fmt: skip
    if count:
        PAGE.write_text(page)
    else:
        print(f"docs/performance.md has no place for {name}", file=sys.stderr)


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each: shows that they work")
    parser.add_argument("--build", choices=(*builds.BUILDS, "both"), default="", help="default: what is there")
    parser.add_argument("--only", default="", help="some of them, with commas")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"how long all may take together (default {MINUTES:g})"
    )
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--list", action="store_true", help="list them")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(PROGRAMS)
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    if arguments.list:
        print(*names, sep="\n")
        return
    machine = f"{report.machine()}. {datetime.date.today()}, commit {report.commit()}."
    print(f"{machine}\nBuilds: {builds.named(builds.choose(arguments.build))}.", flush=True)
    if arguments.write and names == list(PROGRAMS):
        write("machine", machine)
    end = time.monotonic() + arguments.minutes * 60
    failed = []
    for number, name in enumerate(names):
        # What one has left over, the others share.
        left = max(end - time.monotonic(), 0) / 60
        share = left * PROGRAMS[name] / sum(PROGRAMS[later] for later in names[number:])
        text, well = run(name, arguments, max(share, 0.1))
        if not well:
            failed.append(name)
        if arguments.write and text.startswith("`bench/"):
            write(name, text)
    if failed:
        sys.exit(f"\nfailed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
