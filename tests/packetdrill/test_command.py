"""Running scripts on a real stack: what is said, what is returned, and that a run is the same each time."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from usernet.packetdrill.command import FAILED, MALFORMED, PASSED, SKIPPED, find_scripts, main, run_file

GOOD = """
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0...0.100 connect(3, ..., ...) = 0
   +0 > S 0:0(0) <...>
  +.1 < S. 0:0(0) ack 1 win 5792 <mss 1000>
   +0 > . 1:1(0) ack 1
   +0 write(3, NULL, 10) = -1 EFAULT (Bad address)
"""
BAD = GOOD.replace("EFAULT", "EPIPE")


def script(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_a_script_passes_or_fails_with_its_line(tmp_path: Path) -> None:
    assert run_file(script(tmp_path, "good.pkt", GOOD)).status == PASSED
    outcome = run_file(script(tmp_path, "bad.pkt", BAD))
    assert outcome.status == FAILED
    assert "bad.pkt:7: write(): expected errno EPIPE" in outcome.message
    assert run_file(script(tmp_path, "none.pkt", "0 socket(")).status == MALFORMED


def test_main_counts_what_passed_and_returns_the_worst(tmp_path: Path) -> None:
    script(tmp_path, "b.pkt", BAD)
    script(tmp_path, "a.pkt", GOOD)
    out = io.StringIO()
    assert main([str(tmp_path)], out=out) == 1
    assert out.getvalue().splitlines()[-1] == "1 passed, 1 failed"
    assert main([script(tmp_path, "a.pkt", GOOD)], exact=True, verbose=True, out=out) == 0


@pytest.mark.parametrize("version", ["ipv6", "ipv4-mapped-ipv6"])
def test_a_script_of_an_ip_version_that_the_stack_has_not_is_skipped(tmp_path: Path, version: str) -> None:
    path = script(tmp_path, "six.pkt", f"--ip_version={version}\n" + GOOD)
    outcome = run_file(path)
    assert (outcome.status, outcome.message) == (SKIPPED, f"{path}: the stack has no {version}")
    script(tmp_path, "good.pkt", GOOD)
    out = io.StringIO()
    assert main([str(tmp_path)], out=out) == 0
    assert f"SKIP [{path}]" in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


def test_a_script_that_goes_on_too_long_fails(tmp_path: Path) -> None:
    start = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n"
    outcome = run_file(script(tmp_path, "long.pkt", start + "+604801 close(3) = 0\n"))
    assert outcome.status == FAILED
    assert "long.pkt:2: expected the script to end by 604800.000000 s" in outcome.message
    outcome = run_file(script(tmp_path, "sleep.pkt", start + "+0 `sleep 86401`\n"))
    assert outcome.status == FAILED
    assert "sleep: found a time of 86401 s, expected at most 86400" in outcome.message


def test_options_of_the_caller_go_before_the_scripts(tmp_path: Path) -> None:
    late = GOOD.replace("0.100 connect", "0.130 connect")
    path = script(tmp_path, "late.pkt", "--tolerance_usecs=5000\n" + late)
    assert run_file(path).status == FAILED
    assert run_file(path, overrides={"tolerance_usecs": "40000"}).status == PASSED
    with pytest.raises(ValueError, match="found the option --nonsense"):
        run_file(path, overrides={"nonsense": "1"})


def test_a_run_is_the_same_each_time(tmp_path: Path) -> None:
    path = script(tmp_path, "good.pkt", GOOD)
    assert len({tuple(run_file(path).log) for _ in range(5)}) == 1


def test_scripts_are_found_in_order_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    first, second = script(tmp_path, "a.pkt", GOOD), script(tmp_path, "b.pkt", GOOD)
    assert find_scripts([str(tmp_path), second]) == [first, second, second]
    with pytest.raises(FileNotFoundError):
        find_scripts([str(tmp_path / "none.pkt")])
