"""Virtual time: drives many stacks that share one clock, in an order that only the simulation decides.

Events are ordered by time, and those of one time by when they were scheduled. Whoever holds the baton drives: a task
that must wait runs the stacks' batches itself, then the next task that was woken, and where there is none moves the
clock on to the next event. So the clock stands still while any task runs, and a blocking call completes at the very
nanosecond at which what it waits for happens.

A signal handler runs in the main thread, and may raise (KeyboardInterrupt): so handlers are put off while that thread
drives or sleeps here, and run where it has the baton and is inside of nothing.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, final

from usernet.core.clock import ManualClock
from usernet.core.errors import error
from usernet.core.loop import ENTERED, INTERRUPTS, Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER
from usernet.core.wait import Wait, Waiter
from usernet.lab.tasks import LabClosedError, StalledError, Task

BATCHES_PER_CALL: Final = 1024
"""How many batches a call runs on its way out. What is left then runs when the task next waits."""


@final
class TaskWaiter(Waiter):
    """A task that waits: for events of a queue, for a time, or for another task."""

    def __init__(self, time: VirtualTime, task: Task, mask: int = 0, exclusive: bool = False) -> None:
        super().__init__(mask, exclusive)
        self.woken: bool = False
        self._time = time
        self._task = task

    def wake(self, mask: int) -> bool:
        if self.woken:
            return False
        self.woken = True
        self._time.runnable.append(self._task)
        return True


@final
class VirtualTime(Trampoline):
    """The trampoline of a lab. All its stacks have the clock `clock`."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.runnable: deque[Task] = deque()
        self.main = Task("main", int, daemon=True)
        """Stands for whoever is no task: the thread that made the lab and calls `run`."""
        self.on_end: Callable[[Task], None] | None = None
        """Called when a task has ended."""
        self.closing: bool = False
        self._current: Task = self.main
        self._tasks: list[Task] = []
        self._idents: dict[int, Task] = {threading.get_ident(): self.main}
        self._loops: set[Loop] = set()
        self._ready: deque[Loop] = deque()
        self._events: list[tuple[int, int, Any]] = []
        """When (ns), a serial number, and a Loop whose timers are due or a TaskWaiter whose wait is over."""
        self._serial: int = 0
        self._draining: bool = False
        self._stalled: bool = False
        self._recall: bool = False
        """The main thread was given a signal, and wants the baton next."""

    # -- the stacks

    def attach(self, loop: Loop) -> None:
        INTERRUPTS.hold()
        try:
            INTERRUPTS.add(loop)
            self._loops.add(loop)
            loop.trampoline = self
            loop.filed = NEVER
            self.left(loop)
        finally:
            INTERRUPTS.let_go()

    def detach(self, loop: Loop) -> None:
        INTERRUPTS.hold()
        try:
            self._loops.discard(loop)
            loop.filed = NEVER
            INTERRUPTS.remove(loop)
        finally:
            INTERRUPTS.let_go()

    @property
    def loops(self) -> int:
        """How many stacks it drives."""
        return len(self._loops)

    def schedule(self, loop: Loop) -> None:
        self._ready.append(loop)

    def left(self, loop: Loop) -> None:
        self._file(loop)
        if loop.softirq.pending:
            self._ready.append(loop)
        # A packet sent over a cable without delay is received before the call that sent it returns, at the same time.
        if self._ready and not self._draining:
            self._drain(BATCHES_PER_CALL)

    def _file(self, loop: Loop) -> None:
        earliest = loop.timers.earliest_entry()
        if earliest < loop.filed and loop in self._loops:
            loop.filed = earliest
            self._push(earliest, loop)

    def _push(self, when: int, target: Loop | TaskWaiter) -> None:
        self._serial += 1
        heappush(self._events, (when, self._serial, target))

    def _drain(self, limit: int) -> None:
        ready = self._ready
        loops = self._loops
        ident = threading.get_ident()
        if ident in ENTERED:
            return
        signals = INTERRUPTS.pending if ident == INTERRUPTS.main else ()
        self._draining = True
        try:
            while ready and limit and not signals:
                limit -= 1
                loop = ready.popleft()
                if loop in loops:
                    loop.try_batch()
                    self._file(loop)
                    if loop.softirq.pending:
                        ready.append(loop)
        finally:
            self._draining = False

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool = False, quiet: bool = False) -> None:
        raise error(errno.EOPNOTSUPP, "a device of the host can't be on virtual time: use it on a started stack")

    def unwatch(self, fd: int) -> None:
        pass

    def watch_writable(self, fd: int, wanted: bool) -> None:
        pass

    # -- tasks

    def task(self) -> Task:
        """The task that the calling thread is. Raises RuntimeError in a thread that the lab does not know."""
        task = self._idents.get(threading.get_ident())
        if task is None:
            if self._current is not self.main:
                raise RuntimeError("only tasks may wait on virtual time: start this thread's function by lab.spawn()")
            # Nothing runs: another thread than the one that made the lab takes its part.
            self._idents = {ident: known for ident, known in self._idents.items() if known is not self.main}
            self._idents[threading.get_ident()] = task = self.main
        return task

    def spawn(self, task: Task) -> None:
        """Let `task` run, when those that were woken before have had their turn."""
        INTERRUPTS.hold()
        try:
            task.thread = threading.Thread(target=self._run, args=(task,), name=f"usernet-lab-{task.name}", daemon=True)
            self._tasks.append(task)
            task.thread.start()
            self._idents[task.thread.ident or 0] = task
            self.runnable.append(task)
        finally:
            INTERRUPTS.let_go()

    def _run(self, task: Task) -> None:
        """A task's thread."""
        self._await_turn(task)
        if not self.closing:
            task.call()
        task.done = True
        self._tasks.remove(task)
        if self.on_end is not None:
            self.on_end(task)
        del self._idents[threading.get_ident()]
        self._drive(None)

    def wait(self, loop: Loop, wait: Wait) -> None:
        task = self.task()
        waiter = TaskWaiter(self, task, wait.mask, wait.exclusive)
        for queue in wait.queues:
            queue.add(waiter)
        if wait.deadline < NEVER:
            self._push(wait.deadline, waiter)
        over = False
        try:
            loop.suspend()
            self._block(task, waiter)
            over = True
        finally:
            loop.resume()
            for queue in wait.queues:
                queue.remove(waiter)
            if not over and waiter.woken and waiter.exclusive:
                # The lab is closed, so that nobody acts on this wake-up: it is the next one's.
                for queue in wait.queues:
                    queue.wake(wait.mask)

    def wait_for(self, waiter: TaskWaiter, task: Task, deadline: int) -> None:
        """Wait, outside of any stack, until `waiter` is woken, at the latest until `deadline` (ns)."""
        INTERRUPTS.hold()
        try:
            if deadline < NEVER:
                self._push(deadline, waiter)
            self._block(task, waiter)
        finally:
            INTERRUPTS.let_go()

    def _block(self, task: Task, waiter: TaskWaiter) -> None:
        """Called with handlers put off."""
        main = task is self.main
        outer = INTERRUPTS.wakeup
        signals = INTERRUPTS.pending if threading.get_ident() == INTERRUPTS.main else ()
        if signals is INTERRUPTS.pending:
            INTERRUPTS.wakeup = task.nudge
        try:
            if self.closing and not main:
                raise LabClosedError
            while True:
                # Also where it is woken already: those that were woken before have their turn first.
                self._drive(task)
                if signals:
                    INTERRUPTS.release()
                if self.closing and not main:
                    raise LabClosedError
                if self._stalled and main:
                    self._stalled = False
                    raise StalledError("nothing is planned that could end this wait, and no other task can run")
                if waiter.woken:
                    return
        finally:
            waiter.woken = True  # an event of it that is still filed does nothing
            if signals is INTERRUPTS.pending:
                INTERRUPTS.wakeup = outer

    # -- the heart of it

    def _drive(self, task: Task | None) -> None:
        """Run what there is to run until it is `task`'s turn, or a signal came for it; None: hand the baton on, and
        return."""
        runnable = self.runnable
        signals = INTERRUPTS.pending if threading.get_ident() == INTERRUPTS.main else ()
        while not signals:
            if self._recall:
                self._recall = False
                self._hand_over(task, self.main)
                return
            if self._ready:
                self._drain(-1)
                if signals:
                    return
            if runnable:
                chosen = runnable.popleft()
                if chosen is not task:
                    self._hand_over(task, chosen)
                return
            if not self._advance():
                self._stalled = True
                runnable.append(self.main)

    def _hand_over(self, task: Task | None, chosen: Task) -> None:
        self._current = chosen
        chosen.nudge()
        if task is not None:
            self._await_turn(task)

    def _await_turn(self, task: Task) -> None:
        signals = INTERRUPTS.pending if threading.get_ident() == INTERRUPTS.main else ()
        while self._current is not task:
            if signals:
                # It must have the baton before a handler may run: the one that has it gives it when it next waits.
                self._recall = True
            task.sleep()

    def _advance(self) -> bool:
        """Move the clock on to the next event. False where there is none."""
        events = self._events
        while events and not _valid(events[0]):
            heappop(events)
        if not events:
            return False
        now = max(events[0][0], self.clock.now())
        self.clock.set(now)
        while events and events[0][0] <= now:
            event = heappop(events)
            target = event[2]
            if not _valid(event):
                continue
            if isinstance(target, Loop):
                target.filed = NEVER
                self._ready.append(target)
            else:
                target.wake(0)
        return True

    # -- the end

    def close(self) -> None:
        """End every task: each wait raises `LabClosedError`. Called by the main task."""
        self.closing = True
        INTERRUPTS.hold()
        outer = INTERRUPTS.wakeup
        mine = threading.get_ident() == INTERRUPTS.main
        if mine:
            INTERRUPTS.wakeup = self.main.nudge
        try:
            for task in tuple(self._tasks):
                while not task.done:
                    self.runnable = deque([task, self.main])
                    self._drive(self.main)
                    if mine and INTERRUPTS.pending:
                        INTERRUPTS.release()
                if task.thread is not None:
                    task.thread.join()
            self.runnable.clear()
            self._events.clear()
        finally:
            if mine:
                INTERRUPTS.wakeup = outer
            INTERRUPTS.let_go()


def _valid(event: tuple[int, int, Any]) -> bool:
    """Whether an event is still wanted: the loop was not filed anew for an earlier time, the wait is not over."""
    when, _, target = event
    return target.filed == when if isinstance(target, Loop) else not target.woken
