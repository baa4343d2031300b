"""The benchmarks' frame: that each has its place in the document, and that one that fails does not lose the others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
PAGE = BENCH.parent / "docs" / "performance.md"

PROGRAM = f"""
import sys, time
sys.path.insert(0, {str(BENCH)!r})
import _report as report

def fails(seconds): raise ValueError("no such device")
def hangs(seconds): time.sleep(60)

rows = [
    report.Row("base", lambda seconds: (2.0,), stack=False),
    report.Row("good", lambda seconds: (3.0,), stack=False),
    report.Row("other fails", fails, stack=False, other=True),
    report.Row("other hangs", hangs, stack=False, other=True, limit=0.5),
]
if "ours" in sys.argv:
    sys.argv.remove("ours")
    rows.append(report.Row("ours fails", fails, stack=False))
report.main(None, report.Bench("what", [("figure", ".1f")], [rows]), lambda: None)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=100, check=False)


def cells(output: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split("|") for line in output.splitlines() if line.startswith("|")]
    return {label.strip(): [cell.strip() for cell in rest] for label, *rest in lines}


def test_each_benchmark_has_its_place_in_the_document() -> None:
    listed = run(str(BENCH / "all.py"), "--list").stdout.split()
    places = re.findall(r"^<!-- (\w+) -->\n(?:.*\n)*?<!-- end -->$", PAGE.read_text(), re.MULTILINE)
    assert len(listed) > 10
    assert sorted(places) == sorted([*listed, "machine"])
    for name in listed:
        assert f"`bench/{name}" in PAGE.read_text().replace("bench/profile", "bench/layers")


def test_what_fails_is_a_line_of_dashes_with_the_reason(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(str(program), "--build", "interpreted", "--rounds", "1", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    table = cells(done.stdout)
    assert table["good"] == ["3.0", "1.500", "1.5–1.5"]
    assert table["other fails"] == table["other hangs"] == ["–", "–", "–"]
    assert "- other fails: ValueError: no such device" in done.stdout
    assert "- other hangs: not done after 1 s" in done.stdout


def test_a_row_of_ours_that_fails_is_told_by_the_status(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(str(program), "ours", "--build", "interpreted", "--rounds", "1", "--seconds", "0.01", "--only", "ours")
    assert done.returncode == 1
    assert cells(done.stdout)["base"] == ["2.0", "1.000", "1–1"]


def test_a_build_is_compared_with_the_same_build_of_the_row_that_others_are_divided_by() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import _report as report
rows = [report.Row("one", lambda seconds: ()), report.Row("two", lambda seconds: ())]
plan = [(row, build) for row in (0, 1) for build in report.BUILDS]
group = report._Group(report.Bench("", [("figure", ".0f")], [rows]), "0.0", rows, plan)
group.figures = [[(1.0,)], [(4.0,)], [(2.0,)], [(6.0,)]]
print(*(line[2] for line in group.lines()))
"""
    assert run("-c", code).stdout == "1.000 1.000 2.000 1.500\n"


@pytest.mark.parametrize("name", ["all", "bulk", "scaling", "others", "layers"])
def test_each_says_how_it_is_used(name: str) -> None:
    done = run(str(BENCH / f"{name}.py"), "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
