"""The command line: each command, what a wrong option does, and the kernel on the other end of a TAP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import usernet
from tests.support import netns
from usernet.cli.app import TOOLS, cli
from usernet.core.compiled import COMPILED

PROGRAM = (sys.executable, "-c", "from usernet.cli.main import main; main()")


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def test_version_and_help():
    how = "compiled" if COMPILED else "interpreted"
    assert invoke("--version").output == f"usernet {usernet.__version__} ({how})\n"
    for command in ["demo", "python", "packetdrill", *TOOLS]:
        assert command in invoke("--help").output
        assert invoke(command, "--help").exit_code == 0


def test_tools_work_on_a_stack_of_their_own():
    assert "127.0.0.1/8 scope host lo" in invoke("ip", "addr").output
    assert invoke("ip", "-j", "link", "show", "lo").output.startswith('[{"ifindex":1')
    assert "2 received, 0% packet loss" in invoke("ping", "-c", "2", "-i", "0.01", "127.0.0.1").output
    assert " 1  127.0.0.1" in invoke("traceroute", "-q", "1", "127.0.0.1").output
    assert invoke("sysctl", "-n", "net.ipv4.tcp_sack").output == "1\n"
    assert "#kernel" in invoke("nstat").output
    assert "Netid" in invoke("ss", "-a").output
    assert invoke("nc", "-w", "1", "127.0.0.1", "9").exit_code == 1


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ("ip addr add 10.0.0.300/24 dev lo", "address: expected"),
        ("ip addr show eth9", "dev: expected"),
        ("ss -x", "-x"),
        ("ping nowhere", "host: expected"),
        ("ping -c x 127.0.0.1", "-c: expected"),
        ("tcpdump -r {tmp}/text", "-r:"),
        ("tcpdump port", "filter: expected"),
        ("nc 127.0.0.1", "host, port: expected"),
        ("sysctl net.nothing", "no sysctl"),
        ("ping --address 10.0.0.1 127.0.0.1", "--address"),
        ("ping --address 10.0.0.1/24 127.0.0.1", "--address"),
        ("ping --tap a --tun b 127.0.0.1", "--tun"),
        ("ping --tap {long} 127.0.0.1", "--tap"),
        ("ping --mtu 5 127.0.0.1", "--mtu"),
        ("ping --route nowhere 127.0.0.1", "--route"),
        ("ping --host-address 10.0.0.1 127.0.0.1", "--host-address"),
        ("python", "SCRIPT"),
        ("python {tmp}/none.py", "SCRIPT"),
        ("packetdrill {tmp}/none.pkt", "expected a file"),
        ("packetdrill -D X {tmp}/none.pkt", "--define"),
        ("packetdrill --mtu=9 {tmp}/good.pkt", "--mtu=9"),
        ("packetdrill --nonsense {tmp}/good.pkt", "--nonsense"),
        ("packetdrill -q {tmp}/good.pkt", "-q"),
        ("packetdrill --mtu=1400", "FILE"),
        ("nothing", "nothing"),
    ],
)
def test_what_is_wrong_is_named_and_exits_2(tmp_path: Path, args, field):
    (tmp_path / "text").write_text("no capture")
    (tmp_path / "good.pkt").write_text("0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n")
    result = invoke(*args.format(tmp=tmp_path, long="x" * 40).split())
    assert result.exit_code == 2, result.output
    assert field in result.output


def test_what_is_not_there_exits_1(tmp_path: Path):
    result = invoke("tcpdump", "-r", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "No such file" in result.output


def test_capture_of_a_command(tmp_path: Path):
    path = str(tmp_path / "ping.pcapng")
    assert invoke("ping", "--capture", path, "-c", "1", "127.0.0.1").exit_code == 0
    lines = invoke("tcpdump", "-nr", path, "icmp").output.splitlines()
    assert "ICMP echo request" in lines[0]
    assert "ICMP echo reply" in lines[-1]


def python(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, "python", *args], capture_output=True, text=True, timeout=60, check=False)


def test_python_runs_a_script_on_a_stack(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import socket, sys, threading\n"
        "with socket.create_server(('127.0.0.1', 80)) as server:\n"
        "    def serve():\n"
        "        with server.accept()[0] as connection:\n"
        "            connection.sendall(type(connection).__module__.encode())\n"
        "    thread = threading.Thread(target=serve)\n"
        "    thread.start()\n"
        "    with socket.create_connection(('127.0.0.1', 80)) as client:\n"
        "        print(client.recv(100).decode(), sys.argv[1:], __name__)\n"
        "    thread.join()\n"
        "sys.exit(7)\n"
    )
    done = python(script, "--tap", "-x")
    assert done.stdout == "usernet.socket ['--tap', '-x'] __main__\n"
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    "text", [
        "pass", "import sys; sys.exit()", "import sys; sys.exit('a message')", "raise SystemExit(3)", "1 // 0",
        "raise EOFError('no more')", "import os; os.close(os.pipe()[0]); raise BrokenPipeError(32, 'Broken pipe')",
        "def f(", "import sys; sys.excepthook = lambda *what: print('hook', what[0]); 1 // 0",
        "import click; raise click.UsageError('its own')",
    ],
)  # fmt: skip
def test_a_program_ends_as_it_does_under_python(tmp_path: Path, text: str):
    script = tmp_path / "script.py"
    script.write_text(text + "\n")
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    done = python(script)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_the_stack_is_there_until_the_program_is_over(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, socket, threading, time\n"
        "def fetch(what):\n"
        "    with socket.create_server(('127.0.0.1', 80)) as server:\n"
        "        with socket.create_connection(('127.0.0.1', 80)) as client, server.accept()[0] as connection:\n"
        "            connection.sendall(what.encode())\n"
        "            print(client.recv(100).decode(), flush=True)\n"
        "def later():\n"
        "    time.sleep(0.2)\n"
        "    fetch('in a thread')\n"
        "atexit.register(fetch, 'at the exit')\n"
        "threading.Thread(target=later).start()\n"
        "fetch('in the program')\n"
    )
    done = python(script)
    assert (done.stdout, done.stderr, done.returncode) == ("in the program\nin a thread\nat the exit\n", "", 0)


def test_python_runs_a_module():
    done = python("-m", "json.tool", "/dev/null")
    assert done.returncode == 1
    assert done.stderr.startswith("Expecting value")


def test_ctrl_c_ends_a_program(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, socket\n"
        "with socket.create_server(('127.0.0.1', 80)) as server:\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "    server.accept()\n"
    )
    done = python(script)
    assert done.returncode == 130
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("KeyboardInterrupt\n")


def test_a_device_with_an_r_in_its_name_is_no_capture_file():
    result = invoke("tcpdump", "-iveth-r", "-c", "1")
    assert result.output.endswith("-i: expected one of lo, not 'veth-r'\n")


def test_packetdrill_counts(tmp_path: Path):
    script = tmp_path / "socket.pkt"
    script.write_text("0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 close(3) = 0\n")
    result = invoke("packetdrill", str(script))
    assert result.output.splitlines()[-1] == "1 passed, 0 failed"
    assert result.exit_code == 0
    result = invoke("packetdrill", "--mtu=1400", "--strict_segments", str(script))
    assert result.exit_code == 0


@pytest.mark.interop
@netns.requires_root_netns
@netns.requires_tun
@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_against_the_kernel(kind):
    options = (f"--{kind}", "dut", "--address", "10.77.0.2/24", "--host-address", "10.77.0.1/24")
    with netns.Netns("cli") as peer:
        done = peer.run(*PROGRAM, "ping", *options, "-c", "2", "-i", "0.1", "10.77.0.1")
        assert "2 received, 0% packet loss" in done.stdout
        done = peer.run(*PROGRAM, "traceroute", *options, "-q", "1", "10.77.0.1")
        assert " 1  10.77.0.1" in done.stdout
        done = peer.run(*PROGRAM, "nc", *options, "-v", "10.77.0.1", "99", check=False)
        assert done.returncode == 1
        assert "Connection refused" in done.stderr
        done = peer.run(*PROGRAM, "ping", *options[:4], "--route", "default via 10.78.0.1", "10.77.0.1", check=False)
        assert done.returncode == 2
        assert "--route default" in done.stderr
