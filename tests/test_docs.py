"""The documents say what is so: their Python programs run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every block in that language."""
    return [
        (page.name, match.group(2))
        for page in PAGES
        for match in BLOCK.finditer(page.read_text())
        if match.group(1) == language
    ]


PROGRAMS = [(page, text) for page, text in blocks("python") if text.startswith(("import ", "from "))]
COMMANDS = [
    (page, line[2:].split("  #")[0].strip())
    for page, text in blocks("console")
    for line in text.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.parametrize(("page", "text"), PROGRAMS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(PROGRAMS)])
def test_every_program_runs(page: str, text: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{page}: {done.stderr}"
    assert "Traceback" not in done.stderr, f"{page}: {done.stderr}"


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_every_command_exists(page: str, command: str, tmp_path: Path):
    words = command.split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif words[:2] == ["pip", "install"]:
        # The Makefile installs so; each extra that is named must be one.
        for extra in re.findall(r"\[(\w+)\]", command):
            assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), command
    elif words[0] == "usernet" or words[:2] == ["sudo", "usernet"]:
        subcommand = words[words.index("usernet") + 1]
        done = subprocess.run(
            [sys.executable, "-m", "usernet.cli.main", subcommand, "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{page}: {command}: {done.stderr}"
        for option in re.findall(r" (--[a-z_-]+)", command.partition(" -- ")[0]):
            assert option == "--version" or option in done.stdout, f"{page}: {command}: {done.stdout}"
    else:
        assert words[0] in ("git", "tcpdump", "wireshark", "sudo", "python"), f"{page}: what is {command!r}?"


BENCHMARKS = sorted(
    {words for page in PAGES for words in re.findall(r"`(?:python )?(bench/\w[^`]*)`", page.read_text())}
)


@pytest.mark.parametrize("words", BENCHMARKS)
def test_every_benchmark_exists_and_has_the_options_that_are_named(words: str):
    program, *options = words.split()
    assert (ROOT / program).is_file()
    if options:
        argv = [sys.executable, ROOT / program] if program.endswith(".py") else [ROOT / program]
        done = subprocess.run(
            [*argv, "--help"], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert set(options) <= set(re.findall(r"--[a-z-]+", done.stdout)), words


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_somewhere(page: Path):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
