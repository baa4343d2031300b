"""`usernet up`: with no privilege in a namespace of its own, several stacks, signals, systemd, names that are taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support import unprivileged
from usernet.cli.app import cli
from usernet.netd import places, systemd
from usernet.netd.client import Client, ServiceError
from usernet.netd.config import read
from usernet.netd.service import Service
from usernet.netd.table import ConfigError
from usernet.runner import close_process_runner

PATIENCE = 60.0
USERNET = (sys.executable, "-c", "from usernet.cli.main import main; main()")

TWO = """
[stack.left.devices.eth0]
driver = "veth"
peer = "right.eth0"
addresses = ["10.0.0.1/24"]

[stack.right.devices.eth0]
driver = "veth"
peer = "left.eth0"
addresses = ["10.0.0.2/24"]
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USERNET_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@contextmanager
def up(*words: str, before: Sequence[str] = (), stacks: int = 1) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*before, *USERNET, "up", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        for _ in range(stacks):
            assert " is up at " in process.stdout.readline(), process.stdout.read()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.communicate()


def tool(*words: str) -> str:
    done = subprocess.run([*USERNET, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_stacks_side_by_side_and_the_tools_on_them(tmp_path: Path):
    (tmp_path / "two.toml").write_text(TWO)
    with up("--config", str(tmp_path / "two.toml"), stacks=2) as service:
        assert "10.0.0.1/24" in tool("ip", "--stack", "left", "-br", "addr")
        assert "10.0.0.2/24" in tool("ip", "--stack", "right", "-br", "addr")
        assert "2 received, 0% packet loss" in tool("ping", "--stack", "left", "-c", "2", "-i", "0.05", "10.0.0.2")
        with Client("left") as left, Client("right") as right:
            server = right.socket()
            server.bind(("", 80))
            server.listen()
            sock = left.socket()
            sock.connect(("10.0.0.2", 80))
            connection, _ = server.accept()
            assert "ESTAB" in tool("ss", "--stack", "left", "-tn")
            sock.sendall(b"x" * 200_000)
            # The end of the service: what was written arrives, and then the end of the stream.
            service.send_signal(signal.SIGTERM)
            got = 0
            while data := connection.recv(1 << 16):
                got += len(data)
            assert got == 200_000
            assert service.wait(PATIENCE) == 0
            with pytest.raises(ServiceError):
                sock.getsockname()
            for one in (sock, connection, server):
                one.close()
    assert not list((tmp_path / "run").iterdir())


def test_no_privilege_in_a_new_user_and_network_namespace(tmp_path: Path):
    unshare = ("unshare", "--user", "--map-root-user", "--net")
    if subprocess.run([*unshare, "test", "-c", "/dev/net/tun"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces, or /dev/net/tun, can't be had here")
    words = ("--stack", "mine", "--tap", "tap0", "--address", "10.77.0.2/24", "--host-address", "10.77.0.1/24")
    with up(*words, before=unshare):
        # A client need not be in the namespace.
        assert "10.77.0.2/24" in tool("ip", "--stack", "mine", "addr")
        assert "1 received" in tool("ping", "--stack", "mine", "-c", "1", "10.77.0.1")


@unprivileged.requires_unprivileged
def test_a_user_who_is_root_in_a_namespace_serves_at_the_users_place(tmp_path: Path):
    """So the commands of docs/service.md find each other."""
    code = "from usernet.netd import places; print(places.directory())"
    unshare = ("unshare", "--user", "--map-root-user")
    environment = unprivileged.environment()
    found = []
    for before in ((), unshare):
        for runtime in ({}, {"XDG_RUNTIME_DIR": "/run/user/7"}):
            argv = [*unprivileged.drop(), *before, *unprivileged.interpreter("-c", code)]
            done = subprocess.run(argv, env=environment | runtime, cwd="/", capture_output=True, text=True, check=False)
            if done.returncode and before:
                pytest.skip(done.stderr)
            found.append(done.stdout.strip())
    assert found == [f"/tmp/usernet-{unprivileged.UID}", "/run/user/7/usernet"] * 2


def test_a_wrong_configuration_is_told_and_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "usernet.toml"
    path.write_text(TWO + "[stack.left.sysctl]\nnet.ipv4.foo = 1\n")
    for words in ((), ("--check",), ("--config", str(path))):
        done = CliRunner().invoke(cli, ["up", *words])
        assert done.exit_code == 1
        assert "stack.left.sysctl: there is no sysctl 'net.ipv4.foo'" in done.output
    assert not (tmp_path / "run").exists()
    path.write_text(TWO)
    done = CliRunner().invoke(cli, ["up", "--check"])
    lines = [f"usernet.toml: stack {name}: eth0: right" for name in ("left", "right")]
    assert done.output.splitlines() == lines
    for wrong in (("--config", "missing.toml"), ("--config", str(path), "--stack", "x")):
        done = CliRunner().invoke(cli, ["up", *wrong])
        assert done.exit_code == 2
        assert "--config" in done.output
    close_process_runner()


def test_a_name_that_is_taken_and_one_whose_service_was_killed(tmp_path: Path):
    config = read({"stack": {"one": {}}})
    path = Path(places.socket_path("one"))
    with Service(config):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match="a service has this stack already"):
            Service(config)
        with Client("one") as client:
            assert client.name == "one"
    assert not path.exists()
    # One that was killed leaves its socket behind.
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(path))
    left.close()
    with pytest.raises(ServiceError, match="Connection refused"):
        Client("one")
    with Service(config), Client("one"):
        pass
    close_process_runner()


def test_a_second_signal_ends_it_at_once(tmp_path: Path):
    (tmp_path / "two.toml").write_text(TWO.replace('addresses = ["10.0.0.2/24"]', "up = false"))
    with up("--config", str(tmp_path / "two.toml"), stacks=2) as service, Client("left") as client:
        sock = client.socket()
        sock.setblocking(False)
        sock.connect_ex(("10.0.0.2", 80))  # nobody answers
        service.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE) == 0
        sock.close()


def test_a_group_that_does_not_exist_and_a_place_that_can_not_be(tmp_path: Path):
    with pytest.raises(ConfigError, match="no group"):
        Service(read({"stack": {"one": {"access": {"group": "no-such-group"}}}}))
    with pytest.raises(ConfigError, match=r"stack\.one\.socket"):
        Service(read({"stack": {"one": {"socket": "/proc/nowhere/one.sock"}}}))
    close_process_runner()


# -- systemd


def test_a_socket_of_systemds_and_that_it_is_ready(tmp_path: Path):
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(PATIENCE)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "activated"))
    listener.listen()
    with waiting_client(tmp_path / "activated") as early:
        script = 'exec 3<&"$1"; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=main exec "$2" "$3" "$4" up --stack main'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(listener.fileno()), *USERNET],
            pass_fds=(listener.fileno(),), env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )  # fmt: skip
        try:
            assert told.recv(1000).splitlines() == [b"READY=1", b"STATUS=serving main"]
            early()
            process.send_signal(signal.SIGTERM)
            assert told.recv(1000).startswith(b"STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
    told.close()
    listener.close()


@contextmanager
def waiting_client(path: Path) -> Iterator[Callable[[], None]]:
    """A client that was there before the service."""
    names: list[str] = []

    def connect() -> None:
        with Client(str(path)) as client:
            names.append(client.name)

    thread = threading.Thread(target=connect)
    thread.start()

    def check() -> None:
        thread.join(PATIENCE)
        assert names == ["main"]

    yield check
    thread.join(PATIENCE)


def test_what_systemd_passes(monkeypatch: pytest.MonkeyPatch):
    def given(pid: str, count: str, names: str = "") -> list[tuple[str, int]]:
        for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)):
            monkeypatch.setenv(name, value)
        return systemd.listen_fds()

    assert systemd.listen_fds() == []
    assert given("1", "1") == []
    assert "LISTEN_FDS" not in os.environ
    for wrong in (("x", "1"), (str(os.getpid()), "-1"), (str(os.getpid()), "99999"), (str(os.getpid()), "2", "a")):
        with pytest.raises(ValueError):
            given(*wrong)
    with pytest.raises(ValueError, match="expected a socket"):
        read_end, write_end = os.pipe()
        try:
            systemd.listening_socket(read_end)
        finally:
            os.close(read_end)
            os.close(write_end)
    with socket.socket() as sock, pytest.raises(ValueError, match="SequentialPacket"):
        systemd.listening_socket(sock.fileno())
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    assert not systemd.notify("READY=1")


def test_where_sockets_are(monkeypatch: pytest.MonkeyPatch):
    assert places.socket_path("./x.sock") == os.path.abspath("x.sock")
    assert places.socket_path().endswith("/run/default.sock")
    for wrong in ("a b", "-x", "x" * 99):
        with pytest.raises(ValueError):
            places.socket_path(wrong)
    monkeypatch.delenv("USERNET_RUNTIME_DIR")
    assert places.directory() == "/run/usernet" if os.getuid() == 0 else f"{os.getuid()}" in places.directory()
