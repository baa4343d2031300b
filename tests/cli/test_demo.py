"""`usernet demo`: it ends well, and one seed gives one capture."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support import netns
from usernet.cli import tools
from usernet.cli.app import cli
from usernet.cli.demo import called
from usernet.cli.stage import sparkline


def run_demo(*args: str) -> str:
    result = CliRunner().invoke(cli, ["demo", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_person_sees_every_step(tmp_path: Path):
    path = tmp_path / "demo.pcapng"
    text = run_demo("--size", "600k", "--loss", "2%", "--capture", str(path))
    for expected in (
        "ARP, Request who-has 10.0.0.2 tell 10.0.0.1", "Flags [S]", "Flags [S.]", "200 OK", "100 % [#", "goodput",
        "sends the oldest missing segment again", "Flags [F", "verified", "usernet tcpdump -r", "SHA-256 received",
        "recoveries by SACK", "cwnd over time", "sack 1 {", "stays in TIME-WAIT",
    ):  # fmt: skip
        assert expected in text, expected
    assert "\x1b" not in text
    dropped = tools.tcpdump(None, "-r", str(path), "tcp").count("[dropped: IMPAIRED]")
    assert dropped > 0


def test_what_it_says_to_type_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "usernet"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert called() == "bin/usernet"
    monkeypatch.setenv("PATH", f"/nowhere:{program.parent}")
    assert called() == "usernet"
    monkeypatch.setattr(sys, "argv", ["main.py", "demo"])
    assert called() == "usernet"


@pytest.mark.parametrize("args", [("--loss", "0", "--delay", "0", "--rate", "0"), ("--loss", "20%", "--size", "100k")])
def test_any_cable_will_do(tmp_path: Path, args):
    assert "verified" in run_demo("--size", "300k", *args, "--capture", str(tmp_path / "demo.pcapng"))


def test_two_processes_with_one_seed_write_the_same_capture(tmp_path: Path):
    digests = []
    for number in ("1", "2"):
        path = tmp_path / f"{number}.pcapng"
        command = [sys.executable, "-c", "from usernet.cli.main import main; main()", "demo", "--size", "500k"]
        subprocess.run(
            [*command, "--seed", "11", "--loss", "3%", "--capture", str(path)],
            env={**os.environ, "PYTHONHASHSEED": number},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("--size", "big"), "--size"),
        (("--size", "0"), "--size"),
        (("--loss", "200%"), "--loss"),
        (("--delay", "soon"), "--delay"),
        (("--rate", "x"), "--rate"),
        (("--seed", "x"), "--seed"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, args, field):
    path = tmp_path / "demo.pcapng"
    result = CliRunner().invoke(cli, ["demo", *args, "--capture", str(path)])
    assert result.exit_code == 2
    assert field in result.output
    assert "expected" in result.output or "not a valid" in result.output
    assert not path.exists()


def test_a_capture_that_cannot_be_written(tmp_path: Path):
    result = CliRunner().invoke(cli, ["demo", "--size", "1k", "--capture", str(tmp_path / "none" / "demo.pcapng")])
    assert result.exit_code == 1
    assert "--capture" in result.output


def test_sparkline():
    assert sparkline([], 10) == ""
    assert sparkline([1, 8], 10) == "▂█"
    assert len(sparkline([float(value) for value in range(1000)], 60)) == 60


@pytest.mark.interop
@netns.requires_root_netns
@netns.requires_tun
def test_with_the_kernel_on_the_other_end(tmp_path: Path):
    program = (sys.executable, "-c", "from usernet.cli.main import main; main()")
    path = str(tmp_path / "tap.pcapng")
    with netns.Netns("demo") as peer:
        done = peer.run(*program, "demo", "--tap", "--size", "500k", "--capture", path)
    assert "verified" in done.stdout
    assert "10.77.0.1" in tools.tcpdump(None, "-nr", path)
