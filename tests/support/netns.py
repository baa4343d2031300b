"""Network namespaces of the Linux kernel, for tests with the kernel or other programs on the far end.

    pytestmark = netns.INTEROP                       # the marker `interop`, and a skip where it can't run

    with netns.Netns("peer") as peer:                # a fresh namespace with `lo` up and no other device
        with peer.entered():                         # this thread is inside: a TAP made here is the namespace's
            tap = drivers.Tap("tap0")
            listener = socket.socket()               # and so is a kernel socket, for as long as it lives
        peer.run("ip", "address", "add", "10.77.0.1/24", "dev", "tap0")
        server = peer.popen("python3", "-m", "http.server", "80")    # killed at the end, with what it started
        netns.wait_until(lambda: "LISTEN" in peer.run("ss", "-ltn").stdout, "the server to listen")

Nothing here touches the host's own network: every device, address and packet is inside a namespace that the test
made and that is deleted after it. Sources: ip-netns(8), setns(2).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import pytest

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
TUN_DEVICE: Final = "/dev/net/tun"

# The fixtures are in tests/conftest.py: they ask only when the first test that needs it is about to run.
requires_root_netns = pytest.mark.usefixtures("root_netns")
requires_tun = pytest.mark.usefixtures("tun")

#: For `pytestmark` of a test file that needs a TUN/TAP device in a network namespace.
INTEROP: Final = [pytest.mark.interop, requires_root_netns, requires_tun]

_numbers = itertools.count()


class NetnsError(Exception):
    """A command failed; the text has the command, its exit status and what it printed."""


def requires_program(*names: str) -> pytest.MarkDecorator:
    """Return a marker that skips a test unless each of the programs `names` is installed."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs installed: {', '.join(missing)}")


@functools.cache
def why_no_netns() -> str:
    """Return why network namespaces can't be made here, or "" if they can. Makes one, once, to find out."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if shutil.which("ip") is None:
        return "needs the program ip (Debian: iproute2)"
    try:
        with Netns("probe") as probe, probe.entered():
            return ""
    except (NetnsError, OSError) as problem:
        return f"network namespaces can't be made here: {problem}"


@functools.cache
def why_no_tun() -> str:
    """Return why TUN/TAP devices can't be made here, or "" if they can."""
    if os.geteuid() != 0:
        return "needs root, to make TUN/TAP devices"
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as problem:
        return f"{TUN_DEVICE} can't be opened: {problem.strerror}"
    return ""


def wait_until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Return once `condition()` is true; fail the test, naming `what` was awaited, if it isn't within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


class Netns:
    """A network namespace of its own name, made on entry, deleted on exit with the processes started in it.

    Args:
        label: what the namespace is for; becomes part of its name.
    """

    def __init__(self, label: str = "peer") -> None:
        self.name = f"usernet-{label}-{os.getpid()}-{next(_numbers)}"
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        _run(["ip", "netns", "add", self.name])
        try:
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, *command: str, check: bool = True, seconds: float = 60.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside to its end and return its exit status and output, as text.

        Args:
            command: the program and its arguments.
            check: whether an exit status other than 0 raises.
            seconds: how long it may take.
            stdin: what it reads from standard input.

        Raises:
            NetnsError: it failed and `check` is set, or it took too long (it is killed then).
        """
        return _run(["ip", "netns", "exec", self.name, *command], check=check, seconds=seconds, stdin=stdin)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start `command` inside and return it, running; leaving the namespace's block kills it and what it started.

        Args:
            command: the program and its arguments.
            options: as for `subprocess.Popen`. Its three standard streams are /dev/null unless given, so that a
                server that logs can't block on a pipe nobody reads.
        """
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.DEVNULL)
        # A session of its own makes the process and its descendants one group to kill.
        process: subprocess.Popen[Any] = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], start_new_session=True, **options
        )
        self._processes.append(process)
        return process

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the block: what it opens there belongs to the namespace.

        Sockets and TUN/TAP devices stay in the namespace they were made in, and work from any thread afterwards.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def close(self) -> None:
        """Kill what `popen` started and whatever else still runs inside, then delete the namespace."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()
        # One that left its group (a daemon) is still found by the namespace it is in, which is this test's alone.
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _run(["ip", "netns", "delete", self.name])

    def pids(self) -> list[int]:
        """Return the ids of the processes that run inside, without this process itself."""
        found = _run(["ip", "netns", "pids", self.name], check=False).stdout.split()
        return [pid for pid in map(int, found) if pid != os.getpid()]


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _run(
    command: list[str], *, check: bool = True, seconds: float = 60.0, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", timeout=seconds)
    except subprocess.TimeoutExpired as late:
        raise NetnsError(f"{' '.join(command)}: not done after {seconds:g} s") from late
    if check and done.returncode != 0:
        raise NetnsError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done
