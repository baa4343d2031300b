"""Commands on the stack of a running service, beside one another, and when the service goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netd.supervisor.running import USERNET, requires_supervisor, run
from tests.support.processes import started

pytestmark = requires_supervisor

CONFIG = """
[stack.default]
nameservers = ["192.0.2.53"]
hosts = { "db.test" = ["10.5.0.9"] }
"""


@contextmanager
def service(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A service, up; ended by SIGTERM."""
    environment = {**os.environ, "USERNET_RUNTIME_DIR": str(directory)}
    argv = [sys.executable, *USERNET, "up", *words]
    with started(argv, env=environment, cwd=directory, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "is up at" in process.stdout.readline()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "usernet.toml").write_text(CONFIG)
    with service(tmp_path):
        yield tmp_path


def on(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(*words, env={"USERNET_RUNTIME_DIR": str(directory)})


SERVER = """
import socket
with socket.create_server(("127.0.0.1", 80)) as listener:
    print("ready", flush=True)
    connection, _ = listener.accept()
    with connection:
        data = b""
        while part := connection.recv(65536):
            data += part
        connection.sendall(str(len(data)).encode())
"""
CLIENT = """
import socket
with socket.create_connection(("127.0.0.1", 80)) as s:
    s.sendall(bytes(3_000_000))
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode())
"""


def test_two_commands_share_its_stack(directory: Path):
    environment = {**os.environ, "USERNET_RUNTIME_DIR": str(directory)}
    argv = [sys.executable, *USERNET, "run", "--stack", "default", "--", sys.executable, "-c", SERVER]
    with started(argv, env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        # Without --stack it is the default service's.
        done = on(directory, "--", sys.executable, "-c", CLIENT)
        assert (done.stdout, done.stderr) == ("3000000\n", "")
        assert server.wait(20) == 0


def test_one_that_is_not_there(tmp_path: Path):
    done = on(tmp_path, "--stack", "default", "--", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("Error: --stack default: no service of stack default answers at ")
    assert on(tmp_path, "--stack", "default", "--tap", "t0", "--", "true").returncode == 2


def test_own_is_another(directory: Path):
    script = "cat /etc/resolv.conf"
    assert on(directory, "--own", "--", "sh", "-c", script).stdout == "nameserver 10.0.2.2\n"
    assert on(directory, "--", "sh", "-c", script).stdout == "nameserver 192.0.2.53\noptions ndots:1\n"
    assert on(directory, "--", "getent", "hosts", "db.test").stdout.split() == ["10.5.0.9", "db.test"]


def test_its_end_is_seen(tmp_path: Path):
    code = """
import socket, sys
s = socket.create_server(("127.0.0.1", 80))
print("ready", flush=True)
try:
    s.accept()
except OSError as problem:
    print(problem.errno)
try:
    socket.socket()
except OSError as problem:
    print(problem.errno)
"""
    with service(tmp_path) as process:
        environment = {**os.environ, "USERNET_RUNTIME_DIR": str(tmp_path)}
        argv = [sys.executable, *USERNET, "run", "--", sys.executable, "-c", code]
        with started(argv, env=environment, stdout=subprocess.PIPE) as command:
            assert command.stdout is not None
            assert command.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            out, _ = command.communicate(timeout=30)
    import errno

    assert int(out.split()[-1]) == errno.ENETDOWN
    assert command.returncode == 0
