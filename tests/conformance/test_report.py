"""docs/conformance.md is what `report.py` makes of `corpora.tsv`; and a script does the same each time it runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.conformance.report import CORPORA, LIST, PAGE, Row, page, problems, read_list, run
from usernet.packetdrill.command import FAILED, MALFORMED, PASSED, SKIPPED, run_file

HERE = Path(__file__).parent
ROWS = read_list(LIST.read_text())
TEXT = PAGE.read_text()
LINE = re.compile(r"^\| ([^ ]+\.pkt) \| (\w+) \| ([a-z-]+) \| (\**[a-z ]+\**) \|(.*)\|$", re.MULTILINE)


def shown() -> list[tuple[str, ...]]:
    return [tuple(cell.strip() for cell in found) for found in LINE.findall(TEXT)]


def test_the_page_has_every_script_and_a_reason_for_each_that_fails():
    rows = shown()
    listed = [(row.path.partition("/")[2].removeprefix(CORPORA[row.corpus][1]), row.tier, row.linux) for row in ROWS]
    assert sorted(row[:3] for row in rows) == sorted(listed)
    assert len(ROWS) == 121
    for name, _, _, outcome, reason in rows:
        assert outcome in ("pass", "skip", "**fail**"), name
        assert bool(reason) == (outcome != "pass"), name


def test_the_page_counts_what_it_shows():
    rows = shown()
    linux = [row for row in rows if row[2] == "pass"]
    assert len(linux) == 94
    both = sum(row[3] == "pass" for row in linux)
    assert f"Linux 6.18 passes {len(linux)}; of these usernet passes\n**{both}**." in TEXT
    others = sum(row[3] == "pass" for row in rows if row[2] != "pass")
    assert f"passes only sometimes, it passes {others}." in TEXT
    assert "each time said the same" in TEXT


def test_what_should_not_be_is_said():
    good = Row("google/a.pkt", "core", "pass", "")
    assert problems([good]) == []
    bad = Row("google/b.pkt", "core", "pass", "", FAILED, "b.pkt:1: no", steady=False)
    assert problems([bad]) == [
        "google/b.pkt: two runs differ", "google/b.pkt: Linux passes it", "google/b.pkt: no reason in corpora.tsv",
        "    b.pkt:1: no",
    ]  # fmt: skip
    text = page([good, bad, Row("linux/c.pkt", "exotic", "fail", "IPv6", SKIPPED)], 3)
    assert "passes 2; of these usernet passes\n**1**." in text
    assert "Not the same in 3 runs: google/b.pkt." in text
    assert "| c.pkt | exotic | fail | skip | IPv6 |" in text


@pytest.mark.parametrize(
    ("text", "status"), [("0 socket(..., SOCK_STREAM, 0) = 3\n", PASSED), ("0 socket(", MALFORMED)]
)
def test_a_row_is_run(tmp_path: Path, text: str, status: int):
    (tmp_path / "a.pkt").write_text(text)
    row = Row("google/a.pkt", "core", "pass", "")
    run(row, {"google": tmp_path}, 3)
    assert (row.status, row.steady) == (status, True)


@pytest.mark.slow
def test_the_projects_own_scripts_are_the_same_in_20_runs():
    for path in sorted(HERE.glob("*.pkt")):
        said = set()
        for _ in range(20):
            outcome = run_file(str(path))
            said.add((outcome.status, outcome.message, *outcome.log))
        assert len(said) == 1, path.name


@pytest.mark.parametrize("corpus", list(CORPORA))
def test_the_scripts_of_a_public_corpus_that_linux_passes(corpus: str):
    """USERNET_CORPUS_GOOGLE and USERNET_CORPUS_LINUX name the directories, as report.py takes them."""
    root = os.environ.get(f"USERNET_CORPUS_{corpus.upper()}")
    if root is None:
        pytest.skip(f"USERNET_CORPUS_{corpus.upper()} is not set: the corpus is not part of this repository")
    rows = [row for row in ROWS if row.corpus == corpus and row.linux_passes]
    for row in rows:
        run(row, {corpus: Path(root)}, 1)
    assert [row.message for row in rows if row.status != PASSED] == []
