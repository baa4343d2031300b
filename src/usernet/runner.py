"""Threads: the leader and the followers.

Two busy threads in CPython hand the interpreter lock to and fro at each system call, and waking a sleeping thread
costs some 50 µs: more than the stack takes for a segment. So a thread whose call must wait drives all started stacks of
the process itself while it waits: it is the leader, it sleeps in epoll on the devices, receives, fires timers. Other
waiting threads are followers: they sleep on a lock of their own until their wait is met, or until the leader, its own
wait being over, passes the lead to one of them. With nobody waiting, a single background thread leads; it takes the
lead only after a moment without a leader, so that calls in quick succession never meet it.

The runner is the one thing the stacks of a process share: its epoll, its eventfd and its thread.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Final, final

from usernet.core.loop import INTERRUPTS, Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER
from usernet.core.wait import Wait, Waiter

MOMENT: Final = 0.005
"""How long (s) there must have been no leader before the background thread takes the lead."""

SELECT_BELOW: Final = 0.010
"""Sleeps shorter than this (s) go through select(2), whose time-out has microseconds where epoll's has milliseconds."""

DRAIN_LIMIT: Final = 64
"""How many batches of other stacks a call runs on its way out before it leaves the rest to the leader."""

_monotonic_ns = time.monotonic_ns


@final
class ThreadWaiter(Waiter):
    """A thread that waits, leading or following."""

    def __init__(self, runner: Runner, mask: int, exclusive: bool) -> None:
        super().__init__(mask, exclusive)
        self.woken: bool = False
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
        """Make the thread look again: at its wait, or at the lead."""
        if self._runner.leader is self:
            self._runner.kick()
        else:
            try:
                self._gate.release()
            except RuntimeError:
                pass  # it was nudged already and has not looked yet

    def sleep(self, timeout: float) -> None:
        """Sleep until nudged, at most `timeout` seconds; below zero, without end."""
        self._gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX) if timeout >= 0 else -1)


@final
class Runner(Trampoline):
    """Drives every started stack of the process."""

    def __init__(self) -> None:
        self.leader: ThreadWaiter | None = None
        self._mutex = threading.Lock()
        self._followers: deque[ThreadWaiter] = deque()
        self._loops: set[Loop] = set()
        self._ready: deque[Loop] = deque()
        self._deadlines: list[tuple[int, int, Loop]] = []
        self._serial: int = 0
        self._watched: dict[int, tuple[Loop, Napi]] = {}
        self._epoll = select.epoll()
        self._kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._kick_fd, select.EPOLLIN)
        self._asleep: bool = False
        self._wakes_at: int = NEVER
        self._background: ThreadWaiter | None = None
        self._thread: threading.Thread | None = None
        self._stopping: bool = False
        self._lead_count: int = 0

    # -- the stacks

    def attach(self, loop: Loop) -> None:
        with self._mutex:
            self._loops.add(loop)
        INTERRUPTS.install()
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run_background, name="usernet-runner", daemon=True)
            self._thread.start()
        self.schedule(loop)

    def detach(self, loop: Loop) -> None:
        with self._mutex:
            self._loops.discard(loop)
            last = not self._loops
            self._deadlines = [entry for entry in self._deadlines if entry[2] is not loop]
            heapify(self._deadlines)
        loop.filed = NEVER
        if last:
            INTERRUPTS.uninstall()

    @property
    def loops(self) -> int:
        """How many stacks are started."""
        return len(self._loops)

    def close(self) -> None:
        """End the background thread and close the descriptors. Only with no stack started."""
        thread = self._thread
        self._stopping = True
        if thread is not None:
            background = self._background
            if background is not None:
                background.nudge()
            self.kick()
            thread.join()
            self._thread = None
        self._epoll.close()
        os.close(self._kick_fd)

    # -- work from outside

    def schedule(self, loop: Loop) -> None:
        self._ready.append(loop)
        if self._asleep:
            self.kick()

    def kick(self) -> None:
        """Wake the leader from its sleep."""
        os.eventfd_write(self._kick_fd, 1)

    def left(self, loop: Loop) -> None:
        earliest = loop.timers.earliest_entry()
        if earliest < loop.filed:
            self._file(loop, earliest)
        if loop.softirq.pending:
            self._ready.append(loop)
        if self._ready:
            self._drain(DRAIN_LIMIT)
            if self._ready and self._asleep:
                self.kick()

    def _file(self, loop: Loop, deadline: int) -> None:
        """Remember when `loop` wants to run next (ns of its own clock)."""
        loop.filed = deadline
        when = deadline if deadline < 0 else deadline - loop.clock.now() + _monotonic_ns()
        with self._mutex:
            self._serial += 1
            heappush(self._deadlines, (when, self._serial, loop))
        if self._asleep and when < self._wakes_at:
            self.kick()

    def _drain(self, limit: int) -> None:
        """Run the batches of stacks that were given work, one after the other, never one inside another."""
        ready = self._ready
        while ready and limit:
            try:
                loop = ready.popleft()
            except IndexError:
                return
            limit -= 1
            if loop.try_batch():
                earliest = loop.timers.earliest_entry()
                if earliest < loop.filed:
                    self._file(loop, earliest)
                if loop.softirq.pending:
                    ready.append(loop)

    # -- devices

    def watch(self, fd: int, loop: Loop, napi: Napi) -> None:
        self._watched[fd] = (loop, napi)
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        if fd in self._watched:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    # -- waiting threads

    def wait(self, loop: Loop, wait: Wait) -> None:
        waiter = ThreadWaiter(self, wait.mask, wait.exclusive)
        deadline = wait.deadline
        if deadline != NEVER:
            deadline += _monotonic_ns() - loop.clock.now()
        for queue in wait.queues:
            queue.add(waiter)
        try:
            while not waiter.woken and (deadline == NEVER or _monotonic_ns() < deadline):
                if self._take_lead(waiter):
                    try:
                        self._lead(waiter, deadline)
                    finally:
                        self._pass_lead(waiter)
                else:
                    try:
                        waiter.sleep(-1 if deadline == NEVER else max(0, deadline - _monotonic_ns()) / 1e9)
                    finally:
                        with self._mutex:
                            if waiter in self._followers:
                                self._followers.remove(waiter)
        finally:
            for queue in wait.queues:
                queue.remove(waiter)

    def _take_lead(self, waiter: ThreadWaiter) -> bool:
        """Become the leader, or a follower. The background thread gives way."""
        with self._mutex:
            if self.leader is None:
                self.leader = waiter
                self._lead_count += 1
                return True
            self._followers.append(waiter)
            if self.leader is not self._background:
                return False
            background = self.leader
        background.woken = True
        self.kick()
        return False

    def _pass_lead(self, waiter: ThreadWaiter) -> None:
        with self._mutex:
            if self.leader is waiter:
                self.leader = None
            heir = self._followers.popleft() if self._followers else None
            background = self._background
        if heir is not None:
            heir.nudge()
        elif background is not None and background is not waiter and background.mask == 0:
            background.nudge()

    def _lead(self, waiter: ThreadWaiter, deadline: int) -> None:
        """Drive the stacks until `waiter` is woken or `deadline` (ns, monotonic) has passed."""
        ready = self._ready
        while not waiter.woken:
            self._drain(len(ready) + DRAIN_LIMIT)
            if waiter.woken:
                return
            now = _monotonic_ns()
            if now >= deadline:
                return
            wakes_at = min(self._expire(now), deadline)
            # Order matters: whoever gives work after this line sees _asleep, and kicks.
            self._wakes_at = wakes_at
            self._asleep = True
            try:
                events = self._sleep(0.0 if ready or waiter.woken else (wakes_at - now) / 1e9, wakes_at == NEVER)
            finally:
                self._asleep = False
            for fd, _ in events:
                watched = self._watched.get(fd)
                if watched is not None:
                    watched[0].softirq.schedule(watched[1])
                    ready.append(watched[0])
                elif fd == self._kick_fd:
                    try:
                        os.eventfd_read(fd)
                    except BlockingIOError:
                        pass

    def _sleep(self, timeout: float, forever: bool) -> list[tuple[int, int]]:
        if forever and timeout > 0:
            return self._epoll.poll()
        if 0 < timeout < SELECT_BELOW and self._epoll.fileno() < 1024:
            if not select.select([self._epoll], (), (), timeout)[0]:
                return []
            timeout = 0.0
        return self._epoll.poll(max(timeout, 0.0))

    def _expire(self, now: int) -> int:
        """Ready the loops whose deadline has come; returns when the next comes (ns, monotonic)."""
        with self._mutex:
            deadlines = self._deadlines
            while deadlines:
                when, _, loop = deadlines[0]
                if when > now:
                    return when
                heappop(deadlines)
                loop.filed = NEVER
                if loop in self._loops:
                    self._ready.append(loop)
        return now if self._ready else NEVER

    # -- the background thread

    def _run_background(self) -> None:
        """Lead whenever nobody has for a moment. `mask` 0 on its waiter means that it sleeps without end."""
        waiter = ThreadWaiter(self, 1, exclusive=False)
        self._background = waiter
        seen = -1
        while not self._stopping:
            waiter.woken = False
            with self._mutex:
                leader = self.leader
                count = self._lead_count
                idle = leader is None and count == seen and not self._followers
                if idle:
                    self.leader = waiter
                elif leader is None and self._followers:
                    # Every follower has been nudged or is about to look; nothing may stay without a leader.
                    self._followers[0].nudge()
                waiter.mask = 0 if leader is not None and count == seen else 1
            if idle:
                try:
                    self._lead(waiter, NEVER)
                finally:
                    self._pass_lead(waiter)
                seen = -1
            else:
                seen = count
                waiter.sleep(-1.0 if waiter.mask == 0 else MOMENT)
        self._background = None


_runners: list[Runner] = []


def process_runner() -> Runner:
    """The runner of this process, made on first use."""
    if not _runners:
        _runners.append(Runner())
    return _runners[0]


def close_process_runner() -> None:
    """End the runner's thread and close its descriptors, where no stack is started; the next start makes a new one."""
    if _runners and not _runners[0].loops:
        _runners.pop().close()


def _after_fork_in_child() -> None:
    """The child's copies of the stacks are dead: their devices belong to the parent."""
    INTERRUPTS.inside = False
    for runner in _runners:
        for loop in runner._loops:
            loop.close("this stack belongs to the parent process: make a new one after fork()")
            loop.trampoline = None
            loop._lock = threading.Lock()
            loop._owner = 0
    _runners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
