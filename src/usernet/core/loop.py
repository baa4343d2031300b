"""A stack's loop: its lock, its time, and how calls into it run.

One lock a stack. A system call enters, does its work, runs the softirq it raised, and leaves; a batch of received
packets does the same. Nothing waits while it holds the lock, and nobody holds two. What drives the loop is a
`Trampoline`: the process's runner (threads), the virtual time of a laboratory, or nobody, and then a call that would
have to wait raises.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar, final

from usernet.core.clock import Clock
from usernet.core.errors import ReentryError, UnusableStackError
from usernet.core.interrupts import InterruptGuard
from usernet.core.softirq import Napi, SoftIRQ
from usernet.core.timer import NEVER, TimerQueue
from usernet.core.wait import Blocking, Wait

_T = TypeVar("_T")
_get_ident = threading.get_ident

INTERRUPTS = InterruptGuard()


class Trampoline:
    """Who drives a loop, and runs its blocked calls."""

    def attach(self, loop: Loop) -> None:
        """`loop` is started under this trampoline."""
        raise NotImplementedError

    def detach(self, loop: Loop) -> None:
        """`loop` is stopped."""
        raise NotImplementedError

    def schedule(self, loop: Loop) -> None:
        """`loop` has work that came from outside it. May be called from any thread; takes no loop's lock."""
        raise NotImplementedError

    def left(self, loop: Loop) -> None:
        """A call has just left `loop`: its deadlines may have moved, and it may have given others work."""
        raise NotImplementedError

    def watch(self, fd: int, loop: Loop, napi: Napi) -> None:
        """Schedule `napi` whenever `fd` is readable."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        raise NotImplementedError

    def watch_writable(self, fd: int, wanted: bool) -> None:
        """Whether to schedule the Napi of the watched `fd` also when it is writable."""
        raise NotImplementedError

    def wait(self, loop: Loop, wait: Wait) -> None:
        """Return, with the lock not held, when `wait` is over. Called without the lock."""
        raise NotImplementedError


@final
class Loop:
    """What runs one stack. `now` (ns) is the time of the current entry, for everything in the stack to read."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.now: int = clock.now()
        self.timers = TimerQueue()
        self.softirq = SoftIRQ()
        self.trampoline: Trampoline | None = None
        self.filed: int = NEVER
        self.unusable: str = ""
        self._lock = threading.Lock()
        self._owner: int = 0
        self._after: deque[Callable[[], None]] = deque()

    def enter(self) -> int:
        """Take the lock and read the clock; returns `now` (ns).

        Raises ReentryError when this thread is inside already, UnusableStackError when the stack has ended.
        """
        ident = _get_ident()
        if self._owner == ident:
            raise ReentryError("this stack was called from code that runs inside it (a signal handler, a probe)")
        if ident == INTERRUPTS.main:
            INTERRUPTS.inside = True
        self._lock.acquire()
        self._owner = ident
        if self.unusable:
            self._release(ident)
            raise UnusableStackError(self.unusable)
        now = self.clock.now()
        self.now = now
        return now

    def leave(self) -> None:
        """Run the softirq raised by this call, release the lock, then what was put off until then."""
        if not self.softirq.idle:
            self.softirq.run()
        self._release(_get_ident())
        if self._after:
            self._run_after()
        trampoline = self.trampoline
        if trampoline is not None:
            trampoline.left(self)

    def _release(self, ident: int) -> None:
        self._owner = 0
        self._lock.release()
        if ident == INTERRUPTS.main:
            INTERRUPTS.inside = False
            if INTERRUPTS.pending:
                INTERRUPTS.release()

    def try_batch(self) -> bool:
        """Run what is due, unless the lock is taken (its holder then sees the work when it leaves)."""
        ident = _get_ident()
        if ident == INTERRUPTS.main:
            INTERRUPTS.inside = True
        if self._owner == ident or not self._lock.acquire(blocking=False):
            if ident == INTERRUPTS.main and self._owner != ident:
                INTERRUPTS.inside = False
            return False
        self._owner = ident
        if not self.unusable:
            self.now = self.clock.now()
            self.timers.run(self.now)
            self.softirq.run()
        self._release(ident)
        if self._after:
            self._run_after()
        return True

    @property
    def inside(self) -> bool:
        """Whether the calling thread holds the lock."""
        return self._owner == _get_ident()

    def after(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the lock has been released: the place for a user's code."""
        self._after.append(callback)

    def _run_after(self) -> None:
        after = self._after
        while after:
            try:
                callback = after.popleft()
            except IndexError:
                return
            callback()

    def schedule(self, napi: Napi) -> None:
        """Have `napi` polled soon. Safe from inside another stack and from any thread."""
        self.softirq.schedule(napi)
        if self.trampoline is not None and self._owner != _get_ident():
            self.trampoline.schedule(self)

    def poll(self, now: int) -> int | None:
        """Do what is due at `now` (ns), by hand; returns the next deadline (ns), or None where nothing is planned."""
        self.enter()
        try:
            if now < self.now:
                raise ValueError(f"time can't go backwards: at {self.now} ns, polled for {now} ns")
            self.now = now
            self.timers.run(now)
            self.softirq.run()
            deadline = now if self.softirq.pending else self.timers.next_deadline()
        finally:
            self.leave()
        return None if deadline == NEVER else deadline

    def run_blocked(self, call: Blocking[_T]) -> _T:
        """Run a call that has to wait to its end. Enters without the lock held, returns without it."""
        trampoline = self.trampoline
        if trampoline is None:
            call.close()
            raise UnusableStackError(
                "this call has to wait, but nothing drives the stack: start it (`with stack:`), or make the socket "
                "non-blocking and call stack.poll(now)"
            )
        try:
            while True:
                self.enter()
                try:
                    wait = next(call)
                except StopIteration as stop:
                    result: _T = stop.value
                    return result
                finally:
                    self.leave()
                trampoline.wait(self, wait)
        finally:
            call.close()

    def close(self, why: str) -> None:
        """From now on every entry raises UnusableStackError(`why`)."""
        self.unusable = why
