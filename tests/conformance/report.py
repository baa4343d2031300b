"""Runs the public corpora's scripts, and writes docs/conformance.md.

    python tests/conformance/report.py --google ~/src/packetdrill --linux ~/src/linux

The corpora are not part of this repository; the options name where they lie (`--google`: a checkout of
github.com/google/packetdrill, `--linux`: the kernel's source tree). `corpora.tsv` has the scripts that count, what
Linux itself does with each, and why usernet fails those that it fails. Each script runs several times, and every run
must say the same to the letter. The status is 1 where a script fails that Linux passes, a failure has no reason, or two
runs differ.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from usernet.packetdrill.command import FAILED, MALFORMED, PASSED, SKIPPED, run_file

HERE = Path(__file__).resolve().parent
LIST = HERE / "corpora.tsv"
PAGE = HERE.parent.parent / "docs" / "conformance.md"
WORDS = {PASSED: "pass", FAILED: "**fail**", SKIPPED: "skip", MALFORMED: "**no script**"}
CORPORA = {
    "google": ("google/packetdrill", "gtests/net/tcp/"),
    "linux": ("Linux", "tools/testing/selftests/net/packetdrill/"),
}


@dataclass
class Row:
    """One script of the list. `linux`: what Linux 6.18 does with it; `status` and `message`: what usernet does."""

    path: str
    tier: str
    linux: str
    reason: str
    status: int = PASSED
    message: str = ""
    steady: bool = True

    @property
    def corpus(self) -> str:
        """Which of CORPORA."""
        return self.path.partition("/")[0]

    @property
    def linux_passes(self) -> bool:
        """Whether it is one that counts."""
        return self.linux == "pass"


def read_list(text: str) -> list[Row]:
    """The rows of `corpora.tsv`."""
    rows: list[Row] = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            path, tier, linux, reason = line.split("\t")
            rows.append(Row(path, tier, linux, reason))
    return rows


def run(row: Row, roots: dict[str, Path], runs: int) -> None:
    """Run one script `runs` times and note what became of it."""
    path = roots[row.corpus] / row.path.partition("/")[2]
    said: set[tuple[str, ...]] = set()
    for _ in range(max(runs, 1)):
        outcome = run_file(str(path))
        row.status, row.message = outcome.status, outcome.message
        said.add((str(outcome.status), outcome.message, *outcome.log, *outcome.warnings))
    row.steady = len(said) == 1


def page(rows: list[Row], runs: int) -> str:
    """The text of docs/conformance.md."""
    counts = [row for row in rows if row.linux_passes]
    passed = [row for row in counts if row.status == PASSED]
    others = [row for row in rows if not row.linux_passes]
    extra = sum(row.status == PASSED for row in others)
    lines = [
        "# Conformance",
        "",
        "The judge of usernet's TCP is packetdrill: the scripts with which Linux's own TCP is tested.",
        f"Of {len(rows)} scripts of two public corpora, Linux 6.18 passes {len(counts)}; of these usernet passes",
        f"**{len(passed)}**. Of the {len(others)} that Linux 6.18 fails, or passes only sometimes, it passes {extra}.",
        "",
        "| tier | scripts | Linux 6.18 passes | of these usernet passes | usernet passes in all |",
        "| --- | --- | --- | --- | --- |",
    ]
    for tier in ("core", "extended", "exotic"):
        mine = [row for row in rows if row.tier == tier]
        linux = [row for row in mine if row.linux_passes]
        both = sum(row.status == PASSED for row in linux)
        lines.append(f"| {tier} | {len(mine)} | {len(linux)} | {both} | {sum(r.status == PASSED for r in mine)} |")
    lines += [
        "",
        f"Each script ran {runs} times, and each time said the same, to the letter of its log."
        if all(row.steady for row in rows)
        else f"Not the same in {runs} runs: " + ", ".join(row.path for row in rows if not row.steady) + ".",
        "",
        "The corpora are not part of this repository. With a checkout of each, this command runs them and writes this",
        "page; `tests/conformance/corpora.tsv` has the list, and the reasons:",
        "",
        "```console",
        "$ python tests/conformance/report.py --google ~/src/packetdrill --linux ~/src/linux",
        "```",
        "",
        "The project's own scripts are in `tests/conformance/`, one for each behaviour, and run with every test run:",
        "",
        "```console",
        "$ usernet packetdrill tests/conformance",
        "```",
        "",
        "How to write one is in [packetdrill.md](packetdrill.md).",
    ]
    for corpus, (name, prefix) in CORPORA.items():
        lines += ["", f"## {name}, `{prefix.rstrip('/')}`", ""]
        lines += ["| script | tier | Linux 6.18 | usernet | |", "| --- | --- | --- | --- | --- |"]
        for row in sorted(rows, key=lambda row: row.path):
            if row.corpus == corpus:
                shown = row.path.partition("/")[2].removeprefix(prefix)
                reason = row.reason if row.status != PASSED else ""
                cells = (shown, row.tier, row.linux, WORDS[row.status], reason)
                lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
    return "\n".join(lines) + "\n"


def problems(rows: list[Row]) -> list[str]:
    """What should not be: one line each."""
    out = [f"{row.path}: two runs differ" for row in rows if not row.steady]
    for row in rows:
        if row.status != PASSED:
            if row.linux_passes:
                out.append(f"{row.path}: Linux passes it")
            if not row.reason:
                out.append(f"{row.path}: no reason in {LIST.name}")
            out.append("    " + row.message.replace("\n", "\n    "))
    return out


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--google", type=Path, required=True, metavar="DIR", help="a checkout of google/packetdrill")
    parser.add_argument("--linux", type=Path, required=True, metavar="DIR", help="Linux's source tree")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="how often each script runs (20)")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="the page to write")
    options = parser.parse_args()
    rows = read_list(LIST.read_text())
    roots = {"google": options.google, "linux": options.linux}
    for row in rows:
        run(row, roots, options.runs)
    options.output.write_text(page(rows, options.runs))
    sys.stdout.write("".join(f"{line}\n" for line in problems(rows)))
    total = Counter(row.status for row in rows)
    sys.stdout.write(f"{total[PASSED]} passed, {total[FAILED] + total[MALFORMED]} failed, {total[SKIPPED]} skipped\n")
    return int(any(not row.steady or (row.status != PASSED and (row.linux_passes or not row.reason)) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
