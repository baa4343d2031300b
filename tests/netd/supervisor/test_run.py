"""`usernet run` with no option but its own: programs on a stack that is joined to `host.usernet`."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netd.supervisor.running import USERNET, python, requires_supervisor, run, run_unprivileged
from tests.support import unprivileged
from tests.support.netns import requires_program
from tests.support.processes import started
from usernet.cli.packet import Packet
from usernet.wire.pcapng import PcapReader

pytestmark = requires_supervisor


class TestHost:
    @requires_program("curl")
    def test_curl_sees_its_own_connection(self):
        done = run("--", "curl", "-sS", "--fail", "http://host.usernet/json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["you"][0] == "10.0.2.15"
        assert told["host"] == ["10.0.2.2", 80]
        assert [one["flags"] for one in told["handshake"]] == ["SYN", "SYN+ACK", "ACK"]
        assert told["tcp_info"]["data_segs_in"] == 1
        assert done.stderr == ""

    @requires_program("curl")
    @unprivileged.requires_unprivileged
    def test_so_it_does_with_no_privilege(self):
        done = run_unprivileged("--", "curl", "-sS", "--fail", "http://host.usernet/")
        assert done.returncode == 0, done.stderr
        assert "SYN+ACK" in done.stdout
        assert "round trip" in done.stdout
        assert done.stderr == ""

    def test_data_both_ways(self):
        code = """
            import hashlib, urllib.request
            body = bytes(range(256)) * 20000
            print(urllib.request.urlopen(urllib.request.Request("http://host.usernet/", body)).read().decode())
            print(len(urllib.request.urlopen("http://host.usernet/bytes/3000000").read()))
            import socket
            with socket.create_connection(("host.usernet", 7)) as s:
                s.sendall(b"there and back")
                s.shutdown(socket.SHUT_WR)
                print(s.makefile().read())
            with socket.socket(type=socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(b"a datagram", ("10.0.2.2", 7))
                print(s.recvfrom(100))
        """
        done = python(_dedent(code))
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            "5120000 bytes taken", "", "3000000", "there and back", "(b'a datagram', ('10.0.2.2', 7))",
        ]  # fmt: skip

    def test_names(self):
        done = run("--", "getent", "ahostsv4", "host.usernet")
        assert done.stdout.split()[:2] == ["10.0.2.2", "STREAM"]
        assert run("--", "getent", "hosts", "10.0.2.15").stdout.split()[0] == "10.0.2.15"
        assert run("--", "getent", "ahostsv4", "example.org").returncode == 2
        code = "import socket; print(socket.gethostbyname(socket.gethostname()), socket.getfqdn('10.0.2.2'))"
        assert python(code).stdout == "10.0.2.15 host.usernet\n"

    @requires_program("dig")
    def test_the_nameserver_is_asked_over_the_stack(self):
        assert run("--", "dig", "+short", "host.usernet").stdout == "10.0.2.2\n"
        assert run("--", "dig", "+short", "+tcp", "-x", "10.0.2.2").stdout == "host.usernet.\n"

    def test_nothing_else_is_in_reach(self):
        code = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
        assert "Network is unreachable" in python(code).stderr

    def test_the_hosts_loopback_is_not_the_stacks(self):
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            done = python(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        assert "ConnectionRefusedError" in done.stderr


@requires_program("unshare", "setpriv", "curl")
@unprivileged.requires_unprivileged
def test_where_no_namespaces_can_be_made():
    """As in a container that forbids them: names are asked of the host's nameservers, so `host.usernet` is those."""
    script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --securebits=+noroot,+noroot_locked "
    script += '--bounding-set=-all --inh-caps=-all "$@"'
    inner = unprivileged.interpreter(*USERNET, "run", "-v", "--", "curl", "-sS", "--fail", "http://host.usernet/json")
    environment = unprivileged.environment() | {"USERNET_RUNTIME_DIR": "/nonexistent"}
    done = subprocess.run(
        [*unprivileged.drop(), "unshare", "-Ur", "sh", "-c", script, "sh", *inner],
        capture_output=True, text=True, timeout=60, env=environment, cwd="/", check=False,
    )  # fmt: skip
    if "unshare" in done.stderr and "namespaces" not in done.stderr:
        pytest.skip(done.stderr.strip())
    assert "usernet: namespaces: " in done.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["you"][0] == "10.0.2.15"


class TestWithin:
    def test_servers_and_clients_of_one_command(self):
        code = """
            import socket, subprocess, sys, threading
            listener = socket.create_server(("", 8080))
            client = "import socket; print(socket.create_connection(('10.0.2.15', 8080)).recv(100).decode())"
            children = [subprocess.Popen([sys.executable, "-c", client]) for _ in range(3)]
            for _ in children:
                connection, peer = listener.accept()
                connection.sendall(peer[0].encode())
                connection.close()
            print(sorted(child.wait() for child in children))
        """
        done = python(_dedent(code))
        assert done.stderr == ""
        assert sorted(done.stdout.split()) == sorted(["10.0.2.15"] * 3 + ["[0,", "0,", "0]"])

    def test_two_commands_know_nothing_of_each_other(self):
        code = "import socket; s = socket.create_server(('', 80)); print(s.getsockname())"
        argv = [sys.executable, *USERNET, "run", "--", sys.executable, "-c", code + "; input()"]
        with started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "('0.0.0.0', 80)\n"
            assert python(code).stdout == "('0.0.0.0', 80)\n"
            first.communicate("\n", timeout=20)
        assert first.returncode == 0


class TestOptions:
    def test_a_capture(self, tmp_path: Path):
        path = tmp_path / "run.pcapng"
        code = "import urllib.request; urllib.request.urlopen('http://host.usernet/').read()"
        done = python(code, "--capture", str(path))
        assert done.returncode == 0, done.stderr
        with path.open("rb") as file:
            packets = [record.data for record in PcapReader(file)]
        assert any(b"GET / HTTP/1.1" in packet for packet in packets)

    def test_names_of_ones_own(self):
        done = run("--add-host", "db.test=10.0.2.2", "--", "getent", "hosts", "db.test")
        assert done.stdout.split() == ["10.0.2.2", "host.usernet", "db.test"]
        done = run("--nameserver", "10.9.9.9", "--", "cat", "/etc/resolv.conf")
        assert done.stdout == "nameserver 10.9.9.9\n"

    @pytest.mark.parametrize(
        "words",
        [("--add-host", "x", "true"), ("--nameserver", "x", "true"), ("--route", "default", "true"), ()],
    )
    def test_wrong_ones(self, words):
        done = run(*words)
        assert done.returncode == 2
        assert "Error: " in done.stderr

    def test_what_goes_wrong_before_the_command(self, tmp_path: Path):
        done = run("--capture", str(tmp_path / "no" / "such"), "--", "echo", "never")
        assert (done.returncode, done.stdout) == (125, "")
        assert "No such file or directory" in done.stderr

    def test_verbose(self):
        code = """
            import socket
            try:
                socket.socket(socket.AF_INET6)
            except OSError as problem:
                print(problem.errno)
        """
        done = python(_dedent(code), "--verbose")
        assert done.stdout.split() == [str(errno.EAFNOSUPPORT)]
        assert re.fullmatch(r"usernet: socket\(10, [0-9]+, 0\): EAFNOSUPPORT\n", done.stderr)
        assert python(_dedent(code)).stderr == ""


class TestEnd:
    def test_status(self):
        assert run("--", "sh", "-c", "exit 9").returncode == 9
        assert run("--", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
        done = run("--", "no-such-command")
        assert (done.returncode, done.stderr) == (127, "usernet: no-such-command: No such file or directory\n")
        assert run("--", "/etc").returncode == 126

    def test_what_was_written_last_is_sent(self):
        code = """
            import os, socket, sys, time
            reader = socket.create_server(("", 9))
            if os.fork():
                s = socket.create_connection(("127.0.0.1", 9))
                s.sendall(bytes(2_000_000))
            else:
                c, _ = reader.accept()
                time.sleep(0.3)
                print(sum(map(len, iter(lambda: c.recv(65536), b""))))
        """
        assert python(_dedent(code)).stdout == "2000000\n"

    def test_what_a_process_wrote_before_it_ended_is_sent(self, tmp_path: Path):
        """400 KB into each of thirty sockets, and away: the channels are full of it then."""
        code = """
            import os, socket
            body = b"POST / HTTP/1.1\\r\\nContent-Length: 400000\\r\\n\\r\\n" + bytes(400_000)
            socks = [socket.create_connection(("host.usernet", 80)) for _ in range(30)]
            for s in socks:
                s.setblocking(False)
                assert s.send(body) == len(body)
            os._exit(5)
        """
        path = tmp_path / "run.pcapng"
        assert python(_dedent(code), "--capture", str(path)).returncode == 5
        first: dict[int, int] = {}
        sent: dict[int, int] = {}
        with path.open("rb") as file:
            for record in PcapReader(file):
                packet = Packet(record.data, 1)
                if packet.tcp is not None and packet.dport == 80:
                    port, seq = packet.sport, packet.tcp[2]
                    start = first.setdefault(port, seq + 1)
                    if packet.end > packet.payload:
                        end = seq + packet.end - packet.payload - start & 0xFFFFFFFF
                        sent[port] = max(sent.get(port, 0), end)
        assert len(sent) == 30
        assert min(sent.values()) > 400_000

    def test_a_daemon_is_served_to_its_end(self):
        code = "import socket; print(socket.gethostbyname('host.usernet'))"
        done = run("--", "sh", "-c", f'(sleep 0.5; {sys.executable} -c "{code}") & exit 3')
        assert (done.returncode, done.stdout) == (3, "10.0.2.2\n")

    def test_a_signal_ends_one_that_waits_in_a_call(self):
        code = "import socket; s = socket.create_server(('', 80)); print('waits', flush=True); s.accept()"
        argv = [sys.executable, *USERNET, "run", "--", sys.executable, "-c", code]
        with started(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.terminate()
            process.communicate(timeout=20)
        assert process.returncode == -signal.SIGTERM


def _dedent(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)


def test_io_uring_is_not_there_unless_asked_for():
    code = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall(425, 0, 0), ctypes.get_errno())"
    assert python(code).stdout == f"-1 {errno.ENOSYS}\n"
    done = python(code, "--io-uring")
    assert done.stdout in (f"-1 {number}\n" for number in (errno.EINVAL, errno.EFAULT, errno.EPERM))


def test_unix_sockets_and_files_are_the_hosts(tmp_path: Path):
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        path = str(tmp_path / "socket")
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.send(b'x')"
        assert python(code).returncode == 0
        connection, _ = server.accept()
        with connection:
            assert connection.recv(10) == b"x"
    assert run("--", "cat", str(Path(__file__))).stdout == Path(__file__).read_text()
    assert os.path.exists(tmp_path)
