"""A command's start: its namespaces, the names it sees, its environment and signals; what becomes of one that fails.

Each runs in an interpreter of its own, for the child is forked of it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import unprivileged
from tests.support.processes import started
from usernet.netd.supervisor import namespaces

RUN = """
import os, sys
from usernet.netd.supervisor.launch import Command, LaunchError
from usernet.netd.supervisor.resolve import NameFiles
from usernet.netd.supervisor.waiting import Waiting, end_as

waiting = Waiting(lambda line: print(line, file=sys.stderr))
names = NameFiles({"host.test": ["10.9.9.9"]}, ["10.9.9.53", "10.9.9.54:5353"], ["test"], own=["10.9.9.1"])
with Command(sys.argv[1:], mask=waiting.mask) as command:
    try:
        command.install(names)
        command.go()
    except LaunchError as problem:
        print(problem, file=sys.stderr)
        command.close()
        waiting.wait(command.pid)
        os._exit(problem.status)
    status = waiting.wait(command.pid)
    if "problems" in os.environ:
        print(command.namespaces, command.problems)
waiting.end()
end_as(status)
"""


def run(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings: dict = {"capture_output": True, "text": True, "timeout": 30, "check": False, **options}
    return subprocess.run([sys.executable, "-c", RUN, *argv], **settings)


def start(*argv: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started([sys.executable, "-c", RUN, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def isolated() -> None:
    """Skip where no namespaces can be made."""
    code = "from usernet.netd.supervisor import namespaces; print(namespaces.enter().problem)"
    problem = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if problem:
        pytest.skip(f"namespaces can't be made here: {problem}")


class TestStatus:
    @pytest.mark.parametrize("status", [0, 1, 42, 255])
    def test_is_the_commands(self, status):
        assert run("sh", "-c", f"exit {status}").returncode == status

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1])
    def test_of_one_that_a_signal_ended(self, number):
        assert run("sh", "-c", f"kill -{int(number)} $$").returncode == -number

    def test_of_one_that_is_not_there(self):
        done = run("no-such-command", "x")
        assert done.returncode == 127
        assert done.stderr == "no-such-command: No such file or directory\n"
        assert run("/no/such/command").returncode == 127

    def test_of_one_that_cannot_be_executed(self, tmp_path: Path):
        plain = tmp_path / "plain"
        plain.write_text("echo hello $1\n")
        done = run(str(plain))
        assert (done.returncode, done.stderr) == (126, f"{plain}: Permission denied\n")
        assert run(str(tmp_path)).returncode == 126

    def test_a_script_without_a_first_line_is_the_shells(self, tmp_path: Path):
        plain = tmp_path / "plain"
        plain.write_text("echo hello $1\n")
        plain.chmod(0o755)
        assert run(str(plain), "you").stdout == "hello you\n"
        path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert run("plain", "you", env=path).stdout == "hello you\n"


class TestWhatItIsGiven:
    def test_streams_arguments_directory(self, tmp_path: Path):
        done = run("sh", "-c", 'cat; pwd; echo "$0 $1" >&2', "a  b", "*", input="in\n", cwd=tmp_path)
        assert done.stdout == f"in\n{tmp_path}\n"
        assert done.stderr == "a  b *\n"

    def test_the_environment_is_as_it_was(self):
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HELLO": "there"}
        lines = run("env", env=given).stdout.splitlines()
        assert sorted(lines) == sorted(f"{name}={value}" for name, value in given.items())

    def test_no_descriptor_but_its_own(self):
        done = run("sh", "-c", "ls /proc/self/fd | wc -l")
        assert int(done.stdout) == 4  # the three, and the directory
        inside, outside = os.pipe()
        os.write(outside, b"passed")
        os.close(outside)
        assert run("sh", "-c", f"cat /dev/fd/{inside}", pass_fds=[inside]).stdout == "passed"
        os.close(inside)

    def test_signals_are_neither_blocked_nor_ignored(self):
        lines = run("grep", "^Sig", "/proc/self/status").stdout
        assert "SigBlk:\t0000000000000000" in lines
        # But for what was ignored when we were started, as a shell has it for what runs in the background (nohup(1)).
        # The kernel is asked: the signal module knows nothing of those that the C library keeps to itself.
        own = re.search(r"^SigIgn:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert own
        pythons_own = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
        ignored = int(own[1], 16) & ~pythons_own
        assert f"SigIgn:\t{ignored:016x}" in lines


@pytest.mark.usefixtures("isolated")
class TestNamespaces:
    def test_the_network_is_empty(self):
        devices = run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        code = "import socket; socket.socket().connect(('10.9.9.9', 80))"
        assert "Network is unreachable" in run(sys.executable, "-c", code).stderr

    def test_names_are_the_stacks(self):
        machine = os.uname().nodename
        assert run("cat", "/etc/resolv.conf").stdout == "nameserver 10.9.9.53\nsearch test\n"
        hosts = run("cat", "/etc/hosts").stdout
        assert hosts == f"127.0.0.1\tlocalhost\n10.9.9.9\thost.test\n10.9.9.1\t{machine}\n"
        code = "import socket; print(socket.gethostbyname('host.test'), socket.gethostbyname(socket.gethostname()))"
        assert run(sys.executable, "-c", code).stdout == "10.9.9.9 10.9.9.1\n"
        done = run("true", env={**os.environ, "problems": "1"})
        assert "nameserver 10.9.9.54:5353: resolv.conf has no port but 53" in done.stdout

    def test_the_hosts_own_files_are_untouched(self):
        before = Path("/etc/hosts").read_bytes()
        assert run("sh", "-c", "grep -c host.test /etc/hosts").stdout == "1\n"
        assert Path("/etc/hosts").read_bytes() == before
        assert "usernet-run" not in Path("/proc/self/mountinfo").read_text()

    def test_a_file_that_is_not_there_gets_room(self, tmp_path: Path):
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "other").write_text("other")
        (tmp_path / "etc" / "dangling").symlink_to("/nowhere/at/all")
        (tmp_path / "shown").write_text("shown")
        code = f"""
            from usernet.netd.supervisor import namespaces
            assert not namespaces.enter().problem
            base = {str(tmp_path)!r}
            files = {{base + "/etc/" + name: base + "/shown" for name in ("missing", "dangling", "other")}}
            print(namespaces.put_in_place(files))
            print(*(open(name).read() for name in sorted(files)))
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\nshown shown shown\n"
        assert sorted(os.listdir(tmp_path / "etc")) == ["dangling", "other"]
        assert (tmp_path / "etc" / "other").read_text() == "other"

    def test_daemons_that_look_up_names_are_hidden(self, tmp_path: Path):
        import socket

        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.bind(str(tmp_path / "daemon"))
            daemon.listen()
            (tmp_path / "empty").touch()
            code = f"""
                import socket
                from usernet.netd.supervisor import namespaces
                assert not namespaces.enter().problem
                paths = ({str(tmp_path / "daemon")!r}, "/no/such/daemon")
                print(namespaces.hide(paths, {str(tmp_path / "empty")!r}))
                try:
                    socket.socket(socket.AF_UNIX).connect(paths[0])
                except ConnectionRefusedError:
                    print("refused")
            """
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
            )
        assert done.stdout == "[]\nrefused\n"

    @unprivileged.requires_unprivileged
    def test_one_who_is_not_root_is_who_they_were(self):
        script = "id -u; id -g; cat /etc/resolv.conf; tail -n +3 /proc/net/dev"
        argv = unprivileged.command("-c", RUN, "sh", "-c", script)
        environment = unprivileged.environment() | {"problems": "1"}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=environment, cwd="/")
        assert done.returncode == 0, done.stderr
        user, group, *rest = done.stdout.splitlines()
        assert (user, group) == (str(unprivileged.UID), str(unprivileged.UID))
        assert rest[0] == "nameserver 10.9.9.53"
        assert rest[2].strip().startswith("lo:")
        assert namespaces.Made(True, True, True, "") == eval(rest[3].partition(")")[0] + ")", vars(namespaces))


class TestSignals:
    def until_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
    def test_are_passed_on(self, number):
        script = f"trap 'echo got {number.name}; exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
        with start("sh", "-c", script) as process:
            self.until_ready(process)
            process.send_signal(number)
            assert process.communicate(timeout=20)[0] == f"got {number.name}\n"
        assert process.returncode == 3

    def test_end_a_command_that_lets_them(self):
        with start("sh", "-c", "echo ready; exec sleep 60") as process:
            self.until_ready(process)
            process.terminate()
            process.communicate(timeout=20)
        assert process.returncode == -signal.SIGTERM

    def test_what_a_command_leaves_behind_is_waited_for(self):
        with start("sh", "-c", "(sleep 0.6; echo last) & echo ready; exit 7") as process:
            self.until_ready(process)
            out, err = process.communicate(timeout=20)
        assert out == "last\n"
        assert "waiting for the processes that it left" in err
        assert process.returncode == 7

    def test_what_a_command_leaves_behind_is_ended_by_a_signal(self):
        with start("sh", "-c", "setsid sh -c 'sleep 60 & echo ready; wait' & exit 7") as process:
            self.until_ready(process)
            # A signal before that would be the command's own end.
            assert process.stderr is not None
            assert "waiting for the processes that it left" in process.stderr.readline()
            process.terminate()
            process.communicate(timeout=20)
        assert process.returncode == 7


class TestTerminal:
    def session(self, script: str) -> tuple[int, int]:
        """A shell with job control on a terminal of its own; its process id, and the terminal."""
        pid, terminal = os.forkpty()
        if not pid:
            os.execvp("bash", ["bash", "--norc", "-ic", script])
        return pid, terminal

    def read_until(self, terminal: int, text: bytes) -> bytes:
        got = b""
        deadline = time.monotonic() + 20
        while text not in got:
            assert time.monotonic() < deadline, got
            try:
                got += os.read(terminal, 4096)
            except OSError:
                break
        assert text in got, got
        return got

    def command(self, tmp_path: Path, script: str) -> str:
        (tmp_path / "run.py").write_text(RUN)
        (tmp_path / "command.sh").write_text(script)
        return f"{sys.executable} {tmp_path}/run.py sh {tmp_path}/command.sh"

    def test_ctrl_c_reaches_the_command_once(self, tmp_path: Path):
        script = "trap 'echo got-it' INT; echo rea''dy; sleep 2; echo go''es; read x; echo e''nd"
        pid, terminal = self.session(self.command(tmp_path, script) + "; echo status $?")
        try:
            self.read_until(terminal, b"ready")
            os.write(terminal, b"\x03")
            got = self.read_until(terminal, b"goes")
            assert got.count(b"got-it") == 1
            os.write(terminal, b"line\n")
            self.read_until(terminal, b"status 0")
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)

    def test_ctrl_c_ends_both(self, tmp_path: Path):
        pid, terminal = self.session("exec " + self.command(tmp_path, "echo rea''dy; exec sleep 60"))
        try:
            self.read_until(terminal, b"ready")
            os.write(terminal, b"\x03")
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(terminal)
        assert status == -signal.SIGINT

    @pytest.mark.parametrize("how", ["by the terminal", "by itself"])
    def test_a_job_is_stopped_and_goes_on(self, tmp_path: Path, how):
        script = "echo rea''dy; read x; " + ("kill -TSTP $$; " if how == "by itself" else "") + "read x; echo got $x"
        pid, terminal = self.session(self.command(tmp_path, script) + "; echo st''opped; fg; echo st''atus $?")
        try:
            self.read_until(terminal, b"ready")
            os.write(terminal, b"\n")
            if how == "by the terminal":
                time.sleep(0.3)
                os.write(terminal, b"\x1a")
            self.read_until(terminal, b"stopped")
            time.sleep(0.3)
            os.write(terminal, b"again\n")
            self.read_until(terminal, b"got again")
            self.read_until(terminal, b"status 0")
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)
