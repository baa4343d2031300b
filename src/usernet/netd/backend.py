"""Who carries out a supervisor's calls: here, a stack in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.errors import UnusableStackError
from usernet.core.loop import Loop
from usernet.core.softirq import Napi
from usernet.core.timer import Timer
from usernet.netd.calls import Calls
from usernet.netd.interface import Backend, Done, Opened, Pending, Reach, Received, SpentChannelError
from usernet.stack import Stack

__all__ = ["Backend", "Done", "LocalBackend", "Opened", "Pending", "Reach", "Received", "SpentChannelError"]

PERIOD: Final = NSEC_PER_SEC


@final
class Watch(Napi):
    """Calls `ready` after each batch of the stack in which one of the descriptors was readable."""

    def __init__(self, loop: Loop, fds: tuple[int, ...], ready: Callable[[], None]) -> None:
        super().__init__()
        self._loop = loop
        self._fds = fds
        self._ready = ready
        self._over = False
        self._timer = Timer(loop.timers, self._tick)
        trampoline = loop.trampoline
        if trampoline is None:
            raise UnusableStackError("a supervisor needs a stack that is driven: start it (`with stack:`)")
        for fd in fds:
            trampoline.watch(fd, loop, self)
        loop.enter()
        try:
            self._timer.mod(loop.now + PERIOD)
        finally:
            loop.leave()

    def poll(self, budget: int) -> int:
        if not self._over:
            self._loop.after(self._ready)
        return 0

    def _tick(self, now: int) -> None:
        self._loop.after(self._ready)
        self._timer.mod(now + PERIOD)

    def end(self) -> None:
        """No more calls, but for one that is under way."""
        self._over = True
        trampoline = self._loop.trampoline
        if trampoline is not None:
            for fd in self._fds:
                trampoline.unwatch(fd)
        try:
            self._loop.enter()
        except UnusableStackError:
            return
        try:
            self._timer.delete()
        finally:
            self._loop.leave()


@final
class LocalBackend(Calls):
    """The sockets of `stack`, which is started."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.net)

    def watch(self, fds: tuple[int, ...], ready: Callable[[], None]) -> Callable[[], None] | None:
        return Watch(self.loop, fds, ready).end
