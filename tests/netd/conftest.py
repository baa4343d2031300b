"""Two started stacks joined by a veth, and the calls of a client on each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.stacks import joined, until
from usernet.netd.backend import LocalBackend, Opened, Pending
from usernet.stack import Stack

PATIENCE = 10.0


class Answer:
    """What `done` was told."""

    def __init__(self) -> None:
        self.result: Any = None
        self.problem: BaseException | None = None
        self.times: int = 0
        self.pending: Pending | None = None
        self._told = threading.Event()

    def __call__(self, result: Any, problem: BaseException | None) -> None:
        self.result, self.problem = result, problem
        self.times += 1
        self._told.set()

    def wait(self) -> Any:
        """The result; raises the problem."""
        assert self._told.wait(PATIENCE), "no answer"
        if self.problem is not None:
            raise self.problem
        return self.result


class Client:
    """A backend, and what a supervisor does with what it gives: descriptors stay in this process."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.backend = LocalBackend(stack)
        self.closed: list[int] = []
        self.backend.closed = self.closed.append
        self.fds: dict[int, int] = {}

    def start(self, call: str, *args: Any) -> Answer:
        """Make a call, and do not wait for its answer."""
        answer = Answer()
        answer.pending = getattr(self.backend, call)(*args, answer)
        return answer

    def __getattr__(self, call: str) -> Callable[..., Any]:
        return lambda *args: self.start(call, *args).wait()

    def keep(self, opened: Opened) -> int:
        """Commit it; returns its handle."""
        handle, fd = opened.handle, opened.fd
        self.fds[handle] = fd

        def reach() -> int:
            return os.dup(self.fds[handle]) if handle in self.fds else -1

        self.backend.commit(handle, reach)
        return handle

    def open(self, kind: int) -> int:
        return self.keep(self.socket(2, kind, 0))

    def close(self, *handles: int) -> None:
        for handle in handles:
            os.close(self.fds.pop(handle))


def code(call: Callable[[], Any]) -> int:
    """The errno that it raises, 0 for none."""
    try:
        call()
    except OSError as problem:
        return problem.errno or -1
    return 0


def name(host: str, port: int) -> bytes:
    """struct sockaddr_in."""
    return (2).to_bytes(2, "little") + port.to_bytes(2, "big") + bytes(map(int, host.split("."))) + bytes(8)


@pytest.fixture
def pair() -> Iterator[tuple[Client, Client]]:
    """A client at 10.0.0.1 and one at 10.0.0.2."""
    with joined("left", "right") as (one, two):
        clients = Client(one), Client(two)
        yield clients
        for client in clients:
            for handle in tuple(client.fds):
                client.close(handle)
            until(lambda client=client: not client.backend.table, "a socket is left in the table")  # type: ignore[misc]


__all__ = ["Answer", "Client", "code", "name", "pair"]
