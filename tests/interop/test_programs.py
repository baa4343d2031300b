"""Programs as they come under `usernet run`, as clients and as servers, with the kernel on the other end.

What is done with each is in bench/programs.py, which also prints the table that README shows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.netd.supervisor.running import requires_supervisor
from tests.support import netns

pytestmark = [*netns.INTEROP, requires_supervisor]

SCRIPT = Path(__file__).parents[2] / "bench" / "programs.py"
QUICK = (
    "curl", "ssh, sshd", "wrk, nginx", "redis-benchmark, redis-server", "iperf3", "iperf3 -u -b 50M", "dig", "node",
    "nc", "openssl s_client, s_server", "ip", "ss", "tcpdump", "ping",
)  # fmt: skip
SLOW = (
    "wget", "python3 -m http.server, urllib", "iperf3 -R", "iperf3 -P 8", "socat", "pgbench, postgres",
    "a static Go program",
)  # fmt: skip


def attempt(program: str, where: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--exactly", program, "--on", where, "--verbose"],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    if "(needs " in done.stdout:
        pytest.skip(done.stdout.partition("(needs ")[2].partition(")")[0] + " is not installed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 programs, 0 failures" in done.stdout


@pytest.mark.parametrize("program", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_program(program: str):
    attempt(program, "usernet")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["curl", "ssh, sshd", "wrk, nginx", "redis-benchmark, redis-server", "iperf3 -P 8"])
def test_another_stack_on_the_other_end(program: str):
    attempt(program, "stacks")


def test_every_program_is_tested():
    listed = subprocess.run([sys.executable, str(SCRIPT), "--list"], capture_output=True, text=True, check=True).stdout
    assert sorted(listed.splitlines()) == sorted((*QUICK, *SLOW))
