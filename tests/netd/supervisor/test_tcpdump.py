"""Debian's tcpdump under `usernet run`: on a stack of its own, and on that of a service."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.netd.supervisor.running import requires_supervisor, run
from tests.netd.supervisor.test_run_service import directory, on
from tests.support.netns import requires_program

__all__ = ["directory"]

pytestmark = [requires_supervisor, requires_program("tcpdump", "curl")]

WHILE = """
tcpdump {options} 2>said &
pid=$!
until grep -q "listening on" said; do kill -0 $pid || exit 1; sleep 0.05; done
{action}
{end}
wait $pid
echo "status $?" >&2
cat said >&2
"""
PAGE = "curl -sf http://host.usernet/ >/dev/null"


def watch(tmp_path: Path, options: str, action: str = PAGE, end: str = "") -> subprocess.CompletedProcess[str]:
    done = run("--", "sh", "-c", WHILE.format(options=options, action=action, end=end), cwd=tmp_path)
    assert "status 0\n" in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("mode", ["", "--immediate-mode "])
def test_a_handshake(tmp_path: Path, mode: str):
    done = watch(tmp_path, f"{mode}-n -c 3 -i eth0 tcp port 80")
    first, second, third = done.stdout.splitlines()
    assert re.search(r" IP 10\.0\.2\.15\.\d+ > 10\.0\.2\.2\.80: Flags \[S\], ", first)
    assert re.search(r" IP 10\.0\.2\.2\.80 > 10\.0\.2\.15\.\d+: Flags \[S\.\], ", second)
    assert re.search(r" Flags \[\.\], ack 1, ", third)
    assert "link-type EN10MB" in done.stderr
    assert "\n3 packets captured\n" in done.stderr
    assert "\n0 packets dropped by kernel\n" in done.stderr


def test_all_devices_with_their_directions(tmp_path: Path):
    lines = watch(tmp_path, "-n -c 2 -i any tcp port 80").stdout.splitlines()
    assert [re.sub(r".*(eth0 +\w+) .*", r"\1", line) for line in lines] == ["eth0  Out", "eth0  In"]


def test_the_loopback(tmp_path: Path):
    ping = "python3 -c \"import socket; socket.socket(type=2).sendto(b'x', ('127.0.0.1', 9))\""
    done = watch(tmp_path, "-n -c 2 -i lo", ping)
    assert re.search(r"127\.0\.0\.1\.9: UDP, length 1\n", done.stdout)
    assert re.search(r"ICMP 127\.0\.0\.1 udp port 9 unreachable", done.stdout)


def test_a_file_and_its_counts_at_an_interrupt(tmp_path: Path):
    # A block changes hands after a second at the latest; what is in one that has not is lost to tcpdump, as on Linux.
    done = watch(tmp_path, "-U -i eth0 -w file 'tcp[tcpflags] & tcp-fin != 0'", end="sleep 1.5; kill -INT $pid")
    read = subprocess.run(["tcpdump", "-nr", tmp_path / "file"], capture_output=True, text=True, check=True).stdout
    fins = [line for line in read.splitlines() if "Flags [F.]" in line]
    assert len(fins) == len(read.splitlines()) == 2
    assert "\n2 packets captured\n2 packets received by filter\n0 packets dropped by kernel\n" in done.stderr


def test_the_list_of_devices():
    listed = run("--", "tcpdump", "-D")
    assert "eth0 [Up, Running" in listed.stdout and "lo [Up, Running, Loopback]" in listed.stdout


def test_a_device_that_is_not_there():
    done = run("--", "tcpdump", "-i", "eth9")
    assert done.returncode == 1
    assert "eth9: No such device exists" in done.stderr


def test_on_the_stack_of_a_service(directory: Path):
    action = "python3 -c \"import socket; socket.socket(type=2).sendto(b'abc', ('127.0.0.1', 9))\""
    script = WHILE.format(options="-n -c 2 -i lo udp port 9 or icmp", action=action, end="")
    done = on(directory, "--", "sh", "-c", f"cd {directory}; {script}")
    assert "status 0\n" in done.stderr, done.stderr
    assert "127.0.0.1.9: UDP, length 3\n" in done.stdout
    assert "\n2 packets captured\n" in done.stderr
