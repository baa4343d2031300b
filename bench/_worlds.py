"""The two ends between which `programs.py` has programs work: a stack and a kernel, two stacks, two kernels, or
slirp4netns and a kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

NEAR: Final = "10.77.0.2"
FAR: Final = "10.77.0.1"
USERNET: Final = (sys.executable, "-m", "usernet.cli.main")
PATIENCE: Final = 20.0
"""Seconds that a server has to become ready."""


class Failure(Exception):
    """A program did not do what it does on the kernel's sockets."""


class World:
    """Two ends, `near` and `far`, and a directory for files. What was started in it is ended with it.

    near, far: the words that go before a command to have it run at that end. near_address, far_address: theirs.
    """

    def __init__(self, near: Sequence[str], far: Sequence[str], near_address: str, far_address: str) -> None:
        self.near = tuple(near)
        self.far = tuple(far)
        self.near_address = near_address
        self.far_address = far_address
        self.exits = ExitStack()
        self.directory = Path(self.exits.enter_context(tempfile.TemporaryDirectory(prefix="programs-")))
        self.directory.chmod(0o755)
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def swapped(self) -> World:
        """The same with the ends exchanged: what is tested as a client here is tested as a server there."""
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.near, other.far = self.far, self.near
        other.near_address, other.far_address = self.far_address, self.near_address
        return other

    def start(self, where: Sequence[str], *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command at one of the ends; its output goes to a file that a failure shows."""
        log = self.directory / f"log{len(self._running)}"
        with log.open("wb") as file:
            options.setdefault("stdin", subprocess.DEVNULL)
            options.setdefault("stdout", file)
            process = subprocess.Popen(
                [*where, *argv], stderr=file, cwd=self.directory, start_new_session=True, **options
            )
        self._running.append((process, log))
        return process

    def run(
        self, where: Sequence[str], *argv: str, input: bytes | None = None, seconds: float = 60.0, check: bool = True
    ) -> str:
        """Run a command at one of the ends to its end; what it printed on both. Raises Failure."""
        process = subprocess.Popen(
            [*where, *argv], stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.directory, start_new_session=True,
        )  # fmt: skip
        try:
            output = process.communicate(input, seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            _kill(process)
            output = process.communicate()[0].decode(errors="replace")
            raise Failure(f"{argv[0]}: not done after {seconds:g} s\n{output}{self.logs()}") from None
        if "Traceback" in output or (check and process.returncode):
            raise Failure(f"{argv[0]}: status {process.returncode}\n{output}{self.logs()}")
        return output

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Failure(f"waited in vain for {what}\n{self.logs()}")
            time.sleep(0.05)

    def listening(self, port: int) -> None:
        """Wait until the server at the far end takes connections."""

        def taken() -> bool:
            probe = [*self.asking, "nc", "-z", "-w", "1", self.far_address, str(port)]
            return subprocess.run(probe, capture_output=True, check=False).returncode == 0

        self.until(taken, f"port {port} to be served")

    asking: tuple[str, ...] = ()
    """Where the kernel's programs run that ask whether a server is ready."""

    def logs(self) -> str:
        """What the commands printed that were started."""
        text = ""
        for process, log in self._running:
            name = " ".join(map(str, process.args if isinstance(process.args, list) else [process.args]))
            text += f"--- {name[-200:]}\n{log.read_text(errors='replace')[-3000:]}\n"
        return text

    def close(self) -> None:
        for process, _ in reversed(self._running):
            _kill(process)
        complaints = [log for _, log in self._running if b"Traceback" in log.read_bytes()]
        text = "".join(log.read_text(errors="replace")[-3000:] for log in complaints)
        self.exits.close()
        if complaints:
            raise Failure(f"a process that was started raised\n{text}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started: asked first."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            try:
                os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()


def ip(*words: str) -> None:
    """The host's ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespace(label: str) -> Iterator[str]:
    """A network namespace of the kernel's, deleted at the end. Yields its name."""
    name = f"programs-{label}-{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)


def inside(name: str) -> list[str]:
    """The words before a command that is to run in a namespace."""
    return ["ip", "netns", "exec", name]


def usernet_run(name: str, tap: str, address: str, gateway: str) -> list[str]:
    """The words before a command that is to run on a stack behind a TAP of that namespace, which is made here."""
    ip("-n", name, "tuntap", "add", tap, "mode", "tap")
    ip("-n", name, "address", "add", f"{gateway}/24", "dev", tap)
    ip("-n", name, "link", "set", tap, "up")
    stack = ("--tap", tap, "--address", f"{address}/24", "--route", f"default via {gateway}")
    return [*inside(name), *USERNET, "run", *stack, "--"]


@contextmanager
def on_usernet() -> Iterator[World]:
    """Near on a stack, far on the kernel."""
    with namespace("far") as name:
        world = World(usernet_run(name, "tap0", NEAR, FAR), inside(name), NEAR, FAR)
        world.asking = tuple(inside(name))
        try:
            yield world
        finally:
            world.close()


@contextmanager
def on_stacks() -> Iterator[World]:
    """Both on stacks, a kernel between them that forwards."""
    with namespace("router") as name:
        subprocess.run([*inside(name), "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        near = usernet_run(name, "tap0", NEAR, FAR)
        world = World(near, usernet_run(name, "tap1", "10.78.0.2", "10.78.0.1"), NEAR, "10.78.0.2")
        world.asking = tuple(inside(name))
        try:
            yield world
        finally:
            world.close()


@contextmanager
def on_kernel() -> Iterator[World]:
    """Both on the kernel, joined by veth."""
    with namespace("near") as near, namespace("far") as far:
        ip("-n", near, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far)
        for name, address in ((near, NEAR), (far, FAR)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        world = World(inside(near), inside(far), NEAR, FAR)
        world.asking = tuple(inside(far))
        try:
            yield world
        finally:
            world.close()


@contextmanager
def on_slirp() -> Iterator[World]:
    """Near in a namespace that slirp4netns joins to the other one; from there it can be called, and not be called."""
    with namespace("near") as near, namespace("far") as far:
        world = World(inside(near), inside(far), "10.0.2.100", "10.0.2.2")
        world.asking = tuple(inside(near))
        try:
            world.start(
                inside(far), "slirp4netns", "--configure", "--mtu=65520", "--netns-type=path", f"/run/netns/{near}",
                "tap0",
            )  # fmt: skip
            show = ["ip", "-n", near, "-4", "addr", "show", "dev", "tap0"]
            world.until(
                lambda: b"10.0.2.100" in subprocess.run(show, capture_output=True, check=False).stdout, "slirp4netns"
            )
            yield world
        finally:
            world.close()


WORLDS: Final = {"usernet": on_usernet, "kernel": on_kernel, "stacks": on_stacks, "slirp4netns": on_slirp}
