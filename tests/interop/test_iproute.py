"""The system's own `ip`, `ss` and `ping` under `usernet run`: what they show of the stack, what they change, and that
their answers have what a kernel's have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.netd.supervisor.test_seccomp import pytestmark as possible

ROOT = Path(__file__).parents[2]
pytestmark = [
    possible,
    pytest.mark.skipif(not shutil.which("ip") or not shutil.which("ss"), reason="iproute2 is not installed"),
]


def run(script: str) -> str:
    """What a shell script prints under `usernet run`, errors too."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "usernet.cli.main", "run", "--", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    return done.stdout + done.stderr


def test_ip_shows_the_stack_and_changes_it():
    lines = run(
        """
        ip -br addr
        ip addr add 10.9.0.1/24 dev eth0 && ip -br addr show dev eth0
        ip addr add 10.9.0.1/24 dev eth0
        ip route add 10.8.0.0/16 via 10.9.0.7 metric 5 && ip route show 10.8.0.0/16
        ip route add 10.7.0.0/16 via 99.9.9.9
        ip route get 10.8.1.1
        ip neigh add 10.9.0.7 lladdr 02:00:00:00:00:07 dev eth0 && ip neigh show 10.9.0.7
        ip link set eth0 mtu 1400 && ip -o link show eth0
        ip addr del 10.9.0.1/24 dev eth0 && ip -br addr show dev eth0
        """
    ).splitlines()
    lines = [" ".join(line.split()) for line in lines]
    assert lines[0] == "lo UNKNOWN 127.0.0.1/8"
    assert "eth0 UP 10.0.2.15/24 10.9.0.1/24" in lines
    assert "Error: ipv4: Address already assigned." in lines
    assert "10.8.0.0/16 via 10.9.0.7 dev eth0 metric 5" in lines
    assert "Error: Nexthop has invalid gateway." in lines
    assert "10.8.1.1 via 10.9.0.7 dev eth0 src 10.9.0.1 uid 0" in lines
    assert "10.9.0.7 dev eth0 lladdr 02:00:00:00:00:07 PERMANENT" in lines
    assert any(line.startswith("2: eth0:") and " mtu 1400 " in line for line in lines)
    assert "eth0 UP 10.0.2.15/24" in lines


def test_ss_shows_sockets_and_whose_they_are():
    server = "import socket, subprocess; s = socket.create_server(('127.0.0.1', 9999)); subprocess.run(['ss', '-tlnp'])"
    text = run(f'python3 -c "{server}"')
    (line,) = [line for line in text.splitlines() if "9999" in line]
    words = line.split()
    assert words[:5] == ["LISTEN", "0", "128", "127.0.0.1:9999", "0.0.0.0:*"]
    assert 'users:(("python3",' in line


@pytest.mark.skipif(not shutil.which("ping"), reason="ping is not installed")
def test_ping():
    assert " 0% packet loss" in run("ping -c 2 -i 0.2 host.usernet")


def keys(text: str) -> list[set[str]]:
    found: list[dict[str, Any]] = json.loads(text)
    return [set(entry) for entry in found]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a network namespace")
@pytest.mark.parametrize(
    "command", ["ip -j link show lo", "ip -j rule", "ip -j -4 addr show lo", "ip -j -s link show lo"]
)
def test_answers_have_what_the_kernels_have(command: str):
    kernel = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"ip link set lo up; {command}"], capture_output=True, text=True, check=True
    ).stdout
    assert keys(run(command)) == keys(kernel)
