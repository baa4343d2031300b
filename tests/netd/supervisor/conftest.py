"""A command under the supervisor that is a function of the test, in a forked child: it finds the standard `socket`
module on a stack. On the other end, over a veth, a stack of the test's own process."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.stacks import joined, until
from usernet.netd.backend import LocalBackend
from usernet.netd.supervisor import bpf
from usernet.netd.supervisor.abi import of_this_machine
from usernet.netd.supervisor.process import PidFd
from usernet.netd.supervisor.seccomp import install
from usernet.netd.supervisor.supervisor import Supervisor
from usernet.sockets.user import UserSocket
from usernet.stack import Stack

PATIENCE = 60.0
PROGRAM = bpf.build(of_this_machine())


class Child:
    """A child that does `work` under the filter. What it raises is raised here, by `wait`."""

    def __init__(self, bed: Bed, work: Callable[[], Any]) -> None:
        go, told, said = os.pipe(), os.pipe(), os.pipe()
        self.pid: int = os.fork()
        if not self.pid:
            status = 1
            try:
                os.setpgid(0, 0)
                fd = install(PROGRAM)
                os.write(told[1], fd.to_bytes(4, "little"))
                os.read(go[0], 1)
                os.close(fd)
                for end in (*go, *told, said[0]):
                    os.close(end)
                work()
                status = 0
            except BaseException:
                os.write(said[1], traceback.format_exc().encode()[-60_000:])
            finally:
                os._exit(status)
        os.close(said[1])
        self._said = said[0]
        self._status: int | None = None
        number = int.from_bytes(os.read(told[0], 4), "little")
        self.supervisor = Supervisor(bed.backend, PidFd(self.pid).get_fd(number), verbose=bed.lines.append)
        os.write(go[1], b"x")
        for end in (*go, *told):
            os.close(end)
        self.supervisor.start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, below zero for a signal; fails where it raised something."""
        if self._status is None:
            poller = select.poll()
            pidfd = os.pidfd_open(self.pid)
            poller.register(pidfd, select.POLLIN)
            late = not poller.poll(PATIENCE * 1000)
            os.close(pidfd)
            if late:
                # With all that it has started: they hold the pipe that is read below.
                os.killpg(self.pid, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            said = os.read(self._said, 65536).decode()
            os.close(self._said)
            assert not late, f"the command did not end\n{said}"
            assert not said, said
        return self._status


class Bed:
    """stack: the command's, 10.0.0.1. peer: 10.0.0.2. lines: what the supervisor says."""

    def __init__(self, stack: Stack, peer: Stack) -> None:
        self.stack = stack
        self.peer = peer
        self.lines: list[str] = []
        self.backend = LocalBackend(stack)
        self.children: list[Child] = []

    def listener(self, port: int = 80, backlog: int = 128) -> UserSocket:
        """A socket of the peer's that listens."""
        sock = self.peer.socket()
        sock.bind(("", port))
        sock.listen(backlog)
        return sock

    def start(self, work: Callable[[], Any]) -> Child:
        child = Child(self, work)
        self.children.append(child)
        return child

    def run(self, work: Callable[[], Any]) -> Supervisor:
        """Have `work` done, to its end."""
        child = self.start(work)
        assert child.wait() == 0
        return child.supervisor

    def end(self) -> None:
        for child in self.children:
            child.wait()
        until(lambda: not self.backend.table, "a socket is left in the table")
        for child in self.children:
            child.supervisor.close()
            assert not child.supervisor.waiting
            assert not child.supervisor.table.by_handle and not child.supervisor.table.by_inode


@pytest.fixture
def bed() -> Iterator[Bed]:
    with joined("command", "peer") as (stack, peer):
        made = Bed(stack, peer)
        yield made
        made.end()
