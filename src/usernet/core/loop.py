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
from typing import Final, TypeVar, final

from usernet.core.clock import Clock
from usernet.core.errors import ReentryError, UnusableStackError, report
from usernet.core.interrupts import InterruptGuard
from usernet.core.native import mypyc_attr
from usernet.core.softirq import Napi, SoftIRQ
from usernet.core.timer import NEVER, TimerQueue
from usernet.core.wait import ALL_EVENTS, Blocked, BlockedCall, Wait, Waiter

_T = TypeVar("_T")
_get_ident: Final = threading.get_ident

INTERRUPTS: Final = InterruptGuard()

ENTERED: Final[dict[int, Loop]] = {}
"""Which loop each thread of the process is inside of, by the thread's identifier. A thread is inside one at most."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Trampoline:
    """Who drives a loop, and runs its blocked calls."""

    def attach(self, loop: Loop) -> None:
        """`loop` is started under this trampoline."""
        raise NotImplementedError

    def detach(self, loop: Loop) -> None:
        """`loop` is stopped. Those who wait in it stop waiting."""
        raise NotImplementedError

    def schedule(self, loop: Loop) -> None:
        """`loop` has work that came from outside it. May be called from any thread, and from a finaliser that runs
        anywhere: it takes no lock."""
        raise NotImplementedError

    def left(self, loop: Loop) -> None:
        """A call has just left `loop`: its deadlines may have moved, and it may have given others work."""
        raise NotImplementedError

    def look(self) -> bool:
        """Schedule the polling of what was told by descriptors up to now, without waiting. Returns whether who drives
        the loop has something else to do, its own call, so that a batch should end."""
        return False

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool = False, quiet: bool = False) -> None:
        """Schedule `napi` whenever `fd` is readable.

        edge: once for each change, with its events told by `napi.interrupt` before: readable, urgent (EPOLLPRI), the
        end of what can be read (EPOLLRDHUP), hanging up, an error, and where `watch_writable` asks for it, writable.
        quiet: of what can be read only once `watch_writable` was called, so that what lies there already wakes nobody.
        """
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """The end of `watch`. Nothing happens where `fd` is not watched."""
        raise NotImplementedError

    def watch_writable(self, fd: int, wanted: bool) -> None:
        """Whether to schedule the Napi of the watched `fd` also when it is writable. With `edge`, what is so at this
        moment is told anew."""
        raise NotImplementedError

    def wait(self, loop: Loop, wait: Wait) -> None:
        """Return when `wait` is over. Called with the lock held, and returns, or raises, with it held: it joins the
        queues, `suspend`s the loop, sleeps, `resume`s the loop and leaves the queues, so that no wake-up is lost."""
        raise NotImplementedError


@final
class Loop:
    """What runs one stack. `now` (ns) is the time of the current entry, for everything in the stack to read; it never
    goes backwards. The trampoline's: `filed`, when (ns) it will look at the timers; `queued`, whether the stack is
    among those that it is about to run."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.now: int = clock.now()
        self.timers = TimerQueue()
        self.softirq = SoftIRQ()
        self.trampoline: Trampoline | None = None
        self.filed: int = NEVER
        self.queued: bool = False
        self.unusable: str = ""
        self.blocked: set[Waiter] = set()
        """The calls that wait here with no thread of their own (core/deferred.py)."""
        self._new_lock()
        self._owner: int = 0
        self._left_by: int = 0
        """The thread whose call was the last thing to happen here; 0 where it was a batch or a callback."""
        self._polled: int = -NEVER
        self._after: deque[Callable[[], None]] = deque()
        self._after_in: set[int] = set()

    def _new_lock(self) -> None:
        lock = threading.Lock()
        # Bound once: they are called several times for each packet.
        self._acquire: Callable[..., bool] = lock.acquire
        self._release: Callable[[], None] = lock.release

    # -- entering and leaving

    def enter(self) -> int:
        """Take the lock and read the clock; returns `now` (ns).

        Raises ReentryError when this thread is inside a stack already, UnusableStackError when this one has ended.
        """
        ident = _get_ident()
        if ident in ENTERED:
            raise ReentryError("a stack was called from code that runs inside a stack (a signal handler, a probe)")
        if ident == INTERRUPTS.main:
            INTERRUPTS.depth += 1
        self._acquire()
        ENTERED[ident] = self
        self._owner = ident
        if self.unusable:
            self._unlock(ident)
            self._let_go(ident)
            raise UnusableStackError(self.unusable)
        try:
            now = self.clock.now()
        except BaseException:
            self._unlock(ident)
            self._let_go(ident)
            raise
        if now > self.now:
            self.now = now
            if now >= INTERRUPTS.next_scan and ident == INTERRUPTS.main:
                INTERRUPTS.scan(now)
        return self.now

    def leave(self) -> None:
        """Run the softirq raised by this call, release the lock, then what was put off until then.

        In the main thread it may raise what a signal handler raises that was put off.
        """
        ident = self._owner
        softirq = self.softirq
        self._left_by = ident
        try:
            if (softirq.pending and not softirq.deferred) or softirq.tasklets:
                self._left_by = 0
                softirq.run()
        finally:
            self._owner = 0
            if ident in ENTERED:
                del ENTERED[ident]
            self._release()
            try:
                if self._after:
                    self._run_after(ident)
                trampoline = self.trampoline
                if trampoline is not None:
                    trampoline.left(self)
            finally:
                if ident == INTERRUPTS.main:
                    INTERRUPTS.depth -= 1
                    if INTERRUPTS.pending and INTERRUPTS.depth <= 0:
                        INTERRUPTS.release()

    def _unlock(self, ident: int) -> None:
        self._owner = 0
        if ident in ENTERED:
            del ENTERED[ident]
        self._release()

    def _let_go(self, ident: int) -> None:
        """The main thread is no longer inside: handlers may run."""
        if ident == INTERRUPTS.main:
            INTERRUPTS.depth -= 1
            if INTERRUPTS.pending and INTERRUPTS.depth <= 0:
                INTERRUPTS.release()

    def suspend(self) -> None:
        """Leave for a while, in the middle of a call: for trampolines. Signal handlers stay put off."""
        if self._owner == INTERRUPTS.main:
            INTERRUPTS.depth += 1
        self.leave()

    def resume(self) -> None:
        """The end of `suspend`: take the lock again, also of a stack that has ended meanwhile."""
        ident = _get_ident()
        self._acquire()
        ENTERED[ident] = self
        self._owner = ident
        now = self.clock.now()
        if now > self.now:
            self.now = now

    @property
    def inside(self) -> bool:
        """Whether the calling thread holds the lock."""
        return self._owner == _get_ident()

    def after(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the lock has been released: the place for a user's code. What it raises is reported."""
        self._after.append(callback)

    def _run_after(self, ident: int) -> None:
        inside = self._after_in
        if ident in inside:
            return  # a callback made this call: who called that one goes on with the rest
        inside.add(ident)
        after = self._after
        try:
            while after:
                try:
                    callback = after.popleft()
                except IndexError:
                    return  # another thread was faster
                try:
                    callback()
                except Exception as problem:
                    report(problem)
        finally:
            self._left_by = 0
            inside.discard(ident)

    # -- batches

    def try_batch(self, wait: bool = False) -> bool:
        """Run what is due. Where the lock is taken: with `wait`, wait for it; else return False, for its holder sees
        the work when it leaves."""
        ident = _get_ident()
        if ident in ENTERED:
            return False
        if ident == INTERRUPTS.main:
            INTERRUPTS.depth += 1
        try:
            if not self._acquire(wait):
                return False
            ENTERED[ident] = self
            self._owner = ident
            self._left_by = 0
            try:
                if not self.unusable:
                    now = self.clock.now()
                    if now > self.now:
                        self.now = now
                    self.timers.run(self.now)
                    self.softirq.run(self._look)
            finally:
                self._unlock(ident)
            if self._after:
                self._run_after(ident)
            return True
        finally:
            self._let_go(ident)

    def _look(self) -> bool:
        """In a long batch: hear of what has come meanwhile; whether something waits to be done without the lock, or by
        the thread whose batch it is: a flood must not keep the reader who leads from reading (Linux: ksoftirqd)."""
        if self._after:
            return True
        trampoline = self.trampoline
        return trampoline is not None and trampoline.look()

    def schedule(self, napi: Napi) -> None:
        """Have `napi` polled soon. Safe from inside another stack and from any thread."""
        # Who scheduled it before has told the trampoline, or is about to.
        if not napi.scheduled:
            self.softirq.schedule(napi)
            if self.trampoline is not None and self._owner != _get_ident():
                self.trampoline.schedule(self)

    def catch_up(self) -> None:
        """What programs have done to their descriptors up to now counts in this call: a close, of which nobody else
        tells, has freed its port, or ended a listener. With the lock held."""
        trampoline = self.trampoline
        if trampoline is not None:
            trampoline.look()
            self.softirq.run()

    def poll(self, now: int) -> int | None:
        """Do what is due at `now` (ns), by hand; returns the next deadline (ns), or None where nothing is planned.

        Where the clock is ahead of `now`, its time counts. Raises ValueError when `now` lies before an earlier one.
        """
        self.enter()
        try:
            if now < self._polled:
                raise ValueError(f"time can't go backwards: polled for {self._polled} ns before, now for {now} ns")
            self._polled = now
            if now > self.now:
                self.now = now
            self.timers.run(self.now)
            self.softirq.run()
            deadline = self.now if self.softirq.pending else self.timers.next_deadline()
        finally:
            self.leave()
        return None if deadline == NEVER else deadline

    # -- calls that wait

    def run_blocked(self, call: Blocked[_T]) -> _T:
        """Run a call that has to wait to its end. Enters without the lock held, returns without it.

        What it waits for may have come since the attempt that found that it must wait, when the lock was let go of.
        So where anything happened in between, the call is told at its first `Wait` to look again.
        Raises what the call raises; UnusableStackError where nothing drives the stack, or it ends meanwhile.
        """
        try:
            self.enter()
        except BaseException:
            call.close()
            raise
        try:
            return self._block(call, self._left_by != self._owner)
        finally:
            self.leave()

    def block(self, call: Blocked[_T]) -> _T:
        """As `run_blocked`, with the lock held since the attempt, and held when it returns or raises."""
        return self._block(call, False)

    def _block(self, call: Blocked[_T], stale: bool) -> _T:
        try:
            if isinstance(call, BlockedCall):
                while (wait := call.resume()) is not None:
                    if not stale:
                        self._wait(wait)
                    stale = False
                return call.result
            while True:
                try:
                    wait = next(call)
                except StopIteration as stop:
                    result: _T = stop.value
                    return result
                if not stale:
                    self._wait(wait)
                stale = False
        finally:
            call.close()

    def _wait(self, wait: Wait) -> None:
        trampoline = self.trampoline
        if trampoline is None:
            raise UnusableStackError(
                "this call has to wait, but nothing drives the stack: start it (`with stack:`), or make the "
                "socket non-blocking and call stack.poll(now)"
            )
        trampoline.wait(self, wait)
        if self.unusable:
            raise UnusableStackError(self.unusable)

    def close(self, why: str) -> None:
        """From now on every entry raises UnusableStackError(`why`), and nothing is polled any more."""
        self.unusable = why
        self.softirq.clear()
        for waiter in tuple(self.blocked):
            waiter.wake(ALL_EVENTS)

    def abandon(self, why: str) -> None:
        """Close the copy in a forked child, where another thread, which is not there, may hold the lock for ever."""
        held = self._owner == _get_ident()
        self.close(why)
        self.trampoline = None
        self._new_lock()
        if held:
            self._acquire()
        else:
            self._owner = 0
