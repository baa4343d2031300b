"""Time for tools: waiting and measuring on the stack's own clock, be it the host's or a laboratory's."""

from __future__ import annotations

from typing import final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, Blocking, Wait, WaitQueue
from usernet.stack import Stack


@final
class Pause:
    """A wait that a callback can end."""

    def __init__(self, stack: Stack) -> None:
        self._loop = stack.loop
        self._queue = WaitQueue()
        self._over = False

    def wait(self, seconds: float | None) -> None:
        """Return after `seconds` (None: never by itself), or when `end` is called."""
        deadline = NEVER if seconds is None else self._loop.clock.now() + round(seconds * NSEC_PER_SEC)
        self._loop.run_blocked(self._wait(deadline))

    def _wait(self, deadline: int) -> Blocking[None]:
        while not self._over and self._loop.now < deadline:
            yield Wait((self._queue,), EPOLLIN, deadline)

    def end(self) -> None:
        self._over = True
        self._queue.wake_all(EPOLLIN)


class Elsewhere:
    """A stack in another process, as far as a tool needs it: its time is that of this one."""

    def now(self) -> float:
        """Seconds, for differences."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError


def now(stack: Stack | Elsewhere) -> float:
    """The stack's time in seconds, for differences."""
    if isinstance(stack, Elsewhere):
        return stack.now()
    return stack.loop.clock.now() / NSEC_PER_SEC


def sleep(stack: Stack | Elsewhere, seconds: float) -> None:
    """Let time pass on the stack's clock."""
    if isinstance(stack, Elsewhere):
        stack.sleep(max(seconds, 0.0))
    elif seconds > 0:
        Pause(stack).wait(seconds)
