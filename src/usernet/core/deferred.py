"""A blocking call with no thread of its own: a service answers it when it is done.

The fourth of those that run a `Blocking` generator (core/wait.py), beside the thread, asyncio and virtual time. The
call's `Deferred` stands in the wait queues itself. Whoever wakes it has it resumed at the end of the same batch, under
the same hold of the lock; a timer does so at the deadline. What the call returns or raises goes to a callback, once the
lock is released. So a thousand calls may wait at once, and none of them delays another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from usernet.core.errors import UnusableStackError
from usernet.core.loop import Loop
from usernet.core.timer import NEVER, Timer
from usernet.core.wait import Blocked, Blocking, Wait, Waiter

Done = Callable[[Any, BaseException | None], None]
"""`done(result, problem)`: what the call returned, or what it raised."""


@final
class Deferred(Waiter):
    """A call under way. `over`: it has ended, or was cancelled."""

    def __init__(self, loop: Loop, call: Blocked[Any], done: Done) -> None:
        """Run `call` until it has to wait. With the lock held, and held since the attempt that gave `call`.

        done: called exactly once, without the lock, unless `cancel` comes first. What it raises is reported.
        """
        super().__init__()
        self.over: bool = False
        self._loop = loop
        self._call: Blocking[Any] = iter(call)
        self._done: Done | None = done
        self._wait: Wait | None = None
        self._timer: Timer | None = None
        self._woken = False
        loop.blocked.add(self)
        self._step()

    def wake(self, mask: int) -> bool:
        if self._woken or self.over:
            return False
        self._woken = True
        self._loop.softirq.defer(self._resume)
        return True

    def cancel(self) -> None:
        """Give the call up; `done` is not called. With the lock held. Does nothing where the call has ended."""
        if self.over:
            return
        woken = self._woken
        wait = self._wait
        self._finish()
        self._done = None
        self._call.close()
        if woken and wait is not None and wait.exclusive:
            # Nobody acts on this wake-up: it is the next one's.
            for queue in wait.queues:
                queue.wake(wait.mask)

    def _resume(self) -> None:
        if self.over or not self._woken:
            return
        self._part()
        loop = self._loop
        if loop.unusable:
            self._call.close()
            self._end(None, UnusableStackError(loop.unusable))
            return
        self._step()

    def _expire(self, now: int) -> None:
        self._woken = True
        self._resume()

    def _step(self) -> None:
        """Let the call go on to its end, or to where it must wait again."""
        try:
            wait = next(self._call)
        except StopIteration as stop:
            self._end(stop.value, None)
            return
        except BaseException as problem:
            self._end(None, problem)
            return
        self.mask = wait.mask
        self.exclusive = wait.exclusive
        self._wait = wait
        for queue in wait.queues:
            queue.add(self)
        if wait.deadline < NEVER:
            timer = self._timer
            if timer is None:
                timer = self._timer = Timer(self._loop.timers, self._expire)
            timer.mod(wait.deadline)

    def _part(self) -> None:
        """Leave the queues."""
        self._woken = False
        wait = self._wait
        if wait is not None:
            self._wait = None
            for queue in wait.queues:
                queue.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    def _finish(self) -> None:
        self._part()
        self.over = True
        self._loop.blocked.discard(self)
        if self._timer is not None:
            self._timer.delete()
            self._timer = None

    def _end(self, result: Any, problem: BaseException | None) -> None:
        self._finish()
        done = self._done
        self._done = None
        if done is not None:
            self._loop.after(lambda: done(result, problem))
