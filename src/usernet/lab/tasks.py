"""Tasks: plain Python functions, each in a thread of its own, of which one runs at a time.

A thread, and not a coroutine, so that code written for blocking sockets (http.client, http.server, a user's own) runs
as it is. The threads hand one baton on by locks, always at a place where a task waits, so that which of them runs when
depends on the simulation alone and never on the host's scheduler.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, final


class StalledError(RuntimeError):
    """All tasks wait, and nothing is planned that could wake one of them."""


class LabClosedError(BaseException):
    """Raised in a task that waits when its lab is closed, to end it. No `Exception`, so that no handler keeps it."""


@final
class Task:
    """One function that runs on virtual time. Made by `Lab.spawn`.

    name: for people. daemon: `Lab.run` doesn't wait for its end. done: whether it has ended. error: what it raised.
    """

    def __init__(self, name: str, function: Callable[[], Any], daemon: bool) -> None:
        self.name = name
        self.daemon = daemon
        self.done: bool = False
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._function = function
        self._context = contextvars.copy_context()
        self._value: Any = None
        self._gate = threading.Lock()
        self._gate.acquire()
        self.observed: bool = False
        """Whether `result` was asked for, so that an error has been told of."""

    def __repr__(self) -> str:
        state = "waiting" if not self.done else "ended" if self.error is None else f"failed: {self.error!r}"
        return f"<Task {self.name} {state}>"

    def result(self) -> Any:
        """What the function returned. Raises what it raised; RuntimeError while it has not ended."""
        if not self.done:
            raise RuntimeError(f"task {self.name} has not ended: lab.run() first, or lab.join(task) from another task")
        self.observed = True
        if self.error is not None:
            raise self.error
        return self._value

    # -- for VirtualTime

    def call(self) -> None:
        """Run the function to its end, in the context of who spawned it."""
        try:
            self._value = self._context.run(self._function)
        except LabClosedError:
            self.observed = True
        except BaseException as problem:
            self.error = problem

    def nudge(self) -> None:
        """Have `sleep` return."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it was nudged already, and has not looked yet

    def sleep(self) -> None:
        """Sleep until nudged. It may have been nudged before, for a reason that is gone: look again, and again."""
        self._gate.acquire()
