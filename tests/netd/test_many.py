"""Many processes: as many connections as they like, and nothing left when they are killed in whatever they do."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from usernet.netd.client import Client

FARM = Path(__file__).with_name("farm.py")
PATIENCE = 120.0


@contextmanager
def farm(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process of farm.py that is ready. At the end its input ends, and it with it."""
    command = [sys.executable, str(FARM), *map(str, words)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n", f"{words}: it did not start"
        yield process
        if not process.stdin.closed:
            process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def service(tmp_path: Path) -> Iterator[tuple[str, int, Client]]:
    path = str(tmp_path / "many.sock")
    with farm("serve", path) as process, Client(path) as client:
        yield path, process.pid, client


SPENT_TIMERS = 16
"""A timer that was cancelled stays in the heap until its time comes; so a few of them come and go."""


def look(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.command("look"))
    found["many timers"] = found["objects"].pop("Timer", 0) > 16 + SPENT_TIMERS
    return found


def settled(client: Client, before: dict[str, Any]) -> dict[str, Any]:
    """What the service has, once it is what it was before, or after a while all the same."""
    deadline = time.monotonic() + PATIENCE
    while (now := look(client)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def open_at_once(tmp_path: Path, processes: int, each: int) -> None:
    with service(tmp_path) as (path, _, client):
        look(client)
        with farm("hold", path, processes, each):
            held = look(client)
            assert held["sockets"] == processes * each
            assert held["sessions"] == processes + 1
            assert held["socks"] == 2 * processes * each + 1
        dropped = 0
        while some := int(client.command("drop")):
            dropped += some
        assert dropped == processes * each
        now = look(client)
        deadline = time.monotonic() + PATIENCE
        while now["sockets"] or now["socks"] > 1 or now["sessions"] > 1:
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
            now = look(client)


def test_connections_of_many_processes(tmp_path: Path):
    open_at_once(tmp_path, 10, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_10_000_connections_of_100_processes(tmp_path: Path):
    open_at_once(tmp_path, 100, 100)


def killed(tmp_path: Path, rounds: int, farms: int, processes: int) -> None:
    chance = random.Random(7)
    with service(tmp_path) as (path, pid, client):

        def kill_some() -> None:
            with farm("busy", path, processes) as busy:
                assert busy.stdin is not None
                time.sleep(chance.uniform(0.05, 1.0))
                busy.stdin.write(b"kill\n")
                busy.stdin.flush()

        # What is made once, at first use, is made.
        kill_some()
        idle = {"sessions": 1, "sockets": 0, "socks": 1, "brought": 0, "owners": 0, "users": 0}
        deadline = time.monotonic() + PATIENCE
        while {name: look(client)[name] for name in idle} != idle:
            assert time.monotonic() < deadline, look(client)
            time.sleep(0.1)
        before = look(client)
        sizes: list[int] = []
        for _ in range(rounds):
            for _ in range(farms):
                kill_some()
            now = settled(client, before)
            assert now == before
            sizes.append(memory(pid))
        assert sizes[-1] < sizes[0] * 1.1 + (4 << 20), sizes


def test_processes_killed_in_the_midst_of_calls(tmp_path: Path):
    killed(tmp_path, 2, 1, 20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_rounds_of_1_000_processes_killed(tmp_path: Path):
    killed(tmp_path, 3, 10, 100)
