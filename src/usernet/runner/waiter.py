"""A thread that waits in a stack's call, leading or following."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.loop import Loop
from usernet.core.timer import NEVER
from usernet.core.wait import Waiter

if TYPE_CHECKING:
    from usernet.runner.runner import Runner


@final
class ThreadWaiter(Waiter):
    """A thread that waits in `loop` (None: the background thread), leading or following."""

    def __init__(self, runner: Runner, loop: Loop | None, mask: int, exclusive: bool) -> None:
        super().__init__(mask, exclusive)
        self.loop = loop
        self.ident: int = threading.get_ident()
        self.woken: bool = False
        self.heir: bool = False
        """The lead was offered to it."""
        self.outer: ThreadWaiter | None = None
        """The same thread's wait that led already, where a callback made this call on the way."""
        self.since: int = 0
        """When (ns) it took the lead."""
        self.busy_poll: int = 0
        """How long (ns) it looks at the devices before it sleeps."""
        self._runner = runner
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self, mask: int) -> bool:
        if self.woken:
            return False
        self.woken = True
        self.nudge()
        return True

    def nudge(self) -> None:
        """Make the thread look again: at its wait, at the lead, or at a signal."""
        runner = self._runner
        if runner.leader is self:
            runner.rouse()
        else:
            try:
                self._gate.release()
            except RuntimeError:
                pass  # it was nudged already and has not looked yet

    def sleep(self, timeout: int) -> None:
        """Sleep until nudged, at most `timeout` ns."""
        self._gate.acquire(True, -1 if timeout >= NEVER >> 1 else max(timeout, 0) / NSEC_PER_SEC)
