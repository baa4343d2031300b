"""docs/packetdrill.md: every script in it runs, and every command says what the page shows."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.packetdrill.fake import FakeTarget
from usernet.cli.app import cli
from usernet.packetdrill.calls import HANDLERS
from usernet.packetdrill.command import FAILED, MALFORMED, PASSED, run_file
from usernet.packetdrill.config import IPV4, Config
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh_commands import Commands

PAGE = (Path(__file__).parents[2] / "docs" / "packetdrill.md").read_text()
NAMED = re.compile(r"`(\w+\.pkt)`((?:(?!`\w+\.pkt`).)*?)^```packetdrill\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPTS = {match[1]: match[3] for match in NAMED.finditer(PAGE)}
SESSIONS = [match[1] for match in re.finditer(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
STATUS = {"wrong.pkt": FAILED, "typo.pkt": MALFORMED}


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_script_has_a_name():
    assert len(SCRIPTS) == PAGE.count("```packetdrill\n") >= 8


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(scripts: Path, name: str):
    outcome = run_file(name)
    assert outcome.status == STATUS.get(name, PASSED), outcome.message
    if outcome.status == PASSED:
        exact = run_file(name, exact=True)
        assert exact.status == PASSED, exact.message


@pytest.mark.parametrize("session", SESSIONS)
def test_a_command(scripts: Path, session: str):
    lines = session.splitlines()
    for index, line in enumerate(lines):
        assert line.startswith("$ usernet ") or index, session
        if line.startswith("$ usernet "):
            result = CliRunner().invoke(cli, line.removeprefix("$ usernet ").split())
            shown = []
            for other in lines[index + 1 :]:
                if other.startswith("$ "):
                    break
                shown.append(other)
            named = [STATUS.get(word, PASSED) for word in line.split() if word in SCRIPTS]
            assert result.exit_code == max(named), result.output
            if shown:
                assert result.output.splitlines() == shown


def test_all_calls_are_named():
    text = re.search(r"^The calls:(.*?)^\n", PAGE, re.MULTILINE | re.DOTALL)
    assert text is not None
    assert set(re.findall(r"`(\w+)`", text[1].partition("`open` finds")[0])) == set(HANDLERS)


def test_all_commands_are_named():
    table = PAGE.partition("## Shell lines")[2].partition("## Code")[0]
    known = set(Commands(FakeTarget().shell(), ".").names())
    for name in known - {":", "modprobe", "set", "sync"}:
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", table), name


def test_all_options_are_named_and_known():
    table = PAGE.partition("## The parts of a script")[2].partition("## Times")[0]
    names = set(re.findall(r"`--(\w+)`", table))
    for name in names - {"is_anyip", "verbose", "debug", "dry_run", "send_omit_free", "define"}:
        if "segments" not in name and "scaled" not in name:
            # A bad value of an option that is known says so; of one that is not, that it is not.
            value = "1" if name in ("speed", "init_scripts") or name.startswith("code_") else "?"
            with (pytest.raises(BadEvent, match=name) if value == "?" else nullcontext()):
                Config(IPV4).set(name, value)
        else:
            Config(IPV4).set(name, None)
    assert {"tolerance_usecs", "mtu", "define", "strict_segments"} <= names
