"""Threads: the leader and the followers.

Two busy threads in CPython hand the interpreter lock to and fro at each system call, and waking a sleeping thread
costs some 50 µs: more than the stack takes for a segment. So a thread whose call must wait drives all started stacks of
the process itself while it waits: it is the leader, it sleeps in epoll on the devices, receives, fires timers. Other
waiting threads are followers: they sleep on a lock of their own until their wait is met, or until the lead falls to
one of them.

Passing the lead on wakes a thread, and a leader that is served within a millisecond most often waits again at once. So
it hands over only after a longer lead; else it just lets go, and takes the lead again when it comes back. Behind all
this stands one background thread. It looks after the lead: where nobody has had it for a moment it gives it to a
follower, or, with nobody waiting, takes it, and so calls in quick succession never meet it. While one thread leads on
and on it sleeps without end.

The runner is the one thing the stacks of a process share: its epoll, its eventfd and its thread.

No lock is needed to see that no wake-up is lost: a leader first says that it is about to sleep (`_asleep`), then looks
for work, deadlines and its own wait; whoever brings one of those first stores it, then looks at `_asleep`, and kicks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, final

from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC, NSEC_PER_USEC
from usernet.core.errors import report
from usernet.core.loop import ENTERED, INTERRUPTS, Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER
from usernet.core.wait import Wait
from usernet.runner.deadlines import Deadlines
from usernet.runner.devices import Devices
from usernet.runner.waiter import ThreadWaiter

MOMENT: Final = 0.005
"""How long (s) there must have been no leader before the background thread takes the lead."""

FOLLOWERS_MOMENT: Final = 0.002
"""The same where threads wait that could lead."""

LONG_LEAD: Final = NSEC_PER_MSEC
"""A leader that led for longer (ns) hands over to a follower at once when its wait is met."""

POLL_EVERY: Final = NSEC_PER_MSEC
"""How long (ns) leaders that never need to sleep may go without a look at the devices and deadlines."""

DRAIN_ROUNDS: Final = 16
"""How often a leader serves the stacks that give one another work before it looks at the devices again."""

DRAIN_LIMIT: Final = 64
"""How many batches of other stacks a call runs on its way out before it leaves the rest to the leader."""

_monotonic_ns: Final = time.monotonic_ns


@final
class Runner(Trampoline):
    """Drives every started stack of the process."""

    def __init__(self) -> None:
        self.leader: ThreadWaiter | None = None
        self._mutex = threading.Lock()
        self._followers: dict[ThreadWaiter, None] = {}
        self._waiting: set[ThreadWaiter] = set()
        self._loops: set[Loop] = set()
        self._ready: deque[Loop] = deque()
        """Who has work, each once (`Loop.queued`): a long batch of a stack hears again and again that there is more."""
        self._draining: set[int] = set()
        self._deadlines = Deadlines(self._loops)
        self._devices = Devices()
        """Behind each descriptor that is watched by edges someone waits in the kernel, where he can't lead, so the
        background thread has the lead whenever nobody else has."""
        self._asleep: bool = False
        self._wanted: bool = False
        self._wakes_at: int = NEVER
        self._left: int = 0
        self._looked: int = 0
        self._background: ThreadWaiter | None = None
        self._dormant: bool = False
        self._own_thread: threading.Thread | None = None
        self._stopping: bool = False
        self._lead_count: int = 0

    # -- the stacks

    def attach(self, loop: Loop) -> None:
        INTERRUPTS.hold()
        try:
            with self._mutex:
                self._loops.add(loop)
                # Another runner may have ended with the stack in its queue.
                loop.queued = False
                if self._own_thread is None:
                    self._own_thread = threading.Thread(target=self._run_background, name="usernet-runner", daemon=True)
                    self._own_thread.start()
            INTERRUPTS.add(loop)
            self.schedule(loop)
        finally:
            INTERRUPTS.let_go()

    def detach(self, loop: Loop) -> None:
        INTERRUPTS.hold()
        try:
            with self._mutex:
                self._loops.discard(loop)
            self._deadlines.forget(loop)
            self._devices.unwatch_all(loop)
            for waiter in tuple(self._waiting):
                if waiter.loop is loop:
                    waiter.wake(waiter.mask)
            if self._ready:
                # What this stack gave others to do on its last way out.
                self.rouse()
            INTERRUPTS.remove(loop)
        finally:
            INTERRUPTS.let_go()

    @property
    def loops(self) -> int:
        """How many stacks are started."""
        return len(self._loops)

    def close(self) -> None:
        """End the background thread and close the descriptors. Only with no stack started."""
        thread = self._own_thread
        self._stopping = True
        if thread is not None:
            while thread.is_alive():
                background = self._background
                if background is not None:
                    background.woken = True
                    background.nudge()
                thread.join(MOMENT)
            self._own_thread = None
        while self._waiting:
            time.sleep(MOMENT)  # its stack was stopped, and it is on its way out
        self._devices.close()

    def abandon(self) -> None:
        """This is the copy in a forked child: end its stacks, and touch nothing that is shared with the parent."""
        for loop in self._loops:
            loop.abandon("this stack belongs to the parent process: make a new one after fork()")
        self._loops.clear()
        self._devices.close()

    # -- work from outside

    def schedule(self, loop: Loop) -> None:
        self._enqueue(loop)
        # Who is inside a stack runs what is ready when it leaves, and wakes the leader only for what it leaves over.
        if self._asleep and not self._inside():
            self.kick()

    def _enqueue(self, loop: Loop) -> None:
        # Its work was stored before this look, and `_drain` takes the mark back before it looks for work: whatever
        # thread does which, none is missed.
        if not loop.queued:
            loop.queued = True
            self._ready.append(loop)

    def _inside(self) -> bool:
        """Whether this thread is inside a stack that it leaves by `left`."""
        inside = ENTERED.get(threading.get_ident())
        return inside is not None and inside.trampoline is self

    def rouse(self) -> None:
        """See to it that a leader that sleeps wakes: now, or when this thread leaves the stack that it is inside of,
        for the leader, awake, would at once wait for that stack's lock."""
        if self._asleep:
            if self._inside():
                self._wanted = True
            else:
                self.kick()

    def kick(self) -> None:
        """Wake the leader from its sleep."""
        self._asleep = False  # so that nobody else kicks it as well
        self._devices.kick()

    def _busy(self) -> bool:
        """Whether a thread is inside a stack: it looks after the devices on its way out."""
        return any(loop.trampoline is self for loop in tuple(ENTERED.values()))

    def left(self, loop: Loop) -> None:
        earliest = loop.timers.earliest_entry()
        if earliest < loop.filed:
            self._file(loop, earliest)
        deferred = loop.softirq.deferred
        if loop.softirq.pending:
            self._enqueue(loop)
        if self._ready and not deferred:
            ident = threading.get_ident()
            draining = self._draining
            # A callback on the way out of a batch may make calls: one drains, not one inside another.
            if ident not in draining:
                draining.add(ident)
                try:
                    self._drain(DRAIN_LIMIT, False)
                finally:
                    draining.discard(ident)
        if self._asleep and (self._wanted or self._ready):
            self.kick()
        devices = self._devices
        if devices.watched:
            now = _monotonic_ns()
            leader = self.leader
            if leader is None:
                if now - self._looked >= POLL_EVERY:
                    self._glance()
            elif leader is self._background and not (leader.woken or devices.edges) and now - self._left < POLL_EVERY:
                # Call follows call: this thread looks after the devices on its way out from now on.
                if leader.ident != threading.get_ident():
                    leader.woken = True
                    self.rouse()
            self._left = now

    def _glance(self) -> None:
        """A thread that is busy with calls looks after the devices on its way out, when nobody leads.

        Else the background thread would take the lead after a moment, and the two would fight for the interpreter.
        """
        ident = threading.get_ident()
        if ident in self._draining:
            return
        with self._mutex:
            if self.leader is not None:
                return
            self._lead_count += 1
            self._looked = _monotonic_ns()
        self._draining.add(ident)
        start = self._looked
        try:
            self._expire(start)
            self.look()
            self._drain(len(self._ready), False)
        finally:
            self._draining.discard(ident)
            # Under a flood, at least as much time goes to the calls as to the devices.
            end = _monotonic_ns()
            self._looked = max(start, 2 * end - start - POLL_EVERY)

    def _file(self, loop: Loop, deadline: int) -> None:
        """Remember when `loop` wants to run next (ns of its own clock)."""
        when = deadline if deadline < 0 else deadline - loop.clock.now() + _monotonic_ns()
        if self._deadlines.file(loop, when, deadline) and self._asleep and when < self._wakes_at:
            self.rouse()

    def _drain(self, limit: int, wait: bool) -> None:
        """Run the batches of stacks that were given work, one after the other, never one inside another.

        wait: also of those whose lock is taken. The leader has nothing better to do, and would hear again and again
        of a device that nobody reads from; others leave it to the lock's holder.
        """
        ready = self._ready
        loops = self._loops
        while ready and limit:
            try:
                loop = ready.popleft()
            except IndexError:
                return  # another thread was faster
            limit -= 1
            loop.queued = False
            if loop in loops and loop.try_batch(wait):
                earliest = loop.timers.earliest_entry()
                if earliest < loop.filed:
                    self._file(loop, earliest)
                if loop.softirq.pending:
                    self._enqueue(loop)

    # -- devices

    def look(self) -> bool:
        self._devices.receive(self._devices.look(), self._enqueue)
        leader = self.leader
        return leader is not None and leader.woken and leader.ident == threading.get_ident()

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool = False, quiet: bool = False) -> None:
        self._devices.watch(fd, loop, napi, edge, quiet)
        if edge:
            self._nudge_background()

    def unwatch(self, fd: int) -> None:
        self._devices.unwatch(fd)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        self._devices.watch_writable(fd, wanted)

    def _nudge_background(self) -> None:
        background = self._background
        if background is not None and self.leader is None:
            background.nudge()

    # -- waiting threads

    def wait(self, loop: Loop, wait: Wait) -> None:
        waiter = ThreadWaiter(self, loop, wait.mask, wait.exclusive)
        waiter.busy_poll = wait.busy_poll * NSEC_PER_USEC
        deadline = wait.deadline
        if deadline < NEVER:
            deadline += _monotonic_ns() - loop.clock.now()
        for queue in wait.queues:
            queue.add(waiter)
        self._waiting.add(waiter)
        over = False
        try:
            loop.suspend()
            if not waiter.woken:
                self._wait(waiter, deadline)
            over = True
        finally:
            loop.resume()
            self._waiting.discard(waiter)
            for queue in wait.queues:
                queue.remove(waiter)
            if not over and waiter.woken and waiter.exclusive:
                # A signal handler raised, so that nobody acts on this wake-up: it is the next one's.
                for queue in wait.queues:
                    queue.wake(wait.mask)

    def _wait(self, waiter: ThreadWaiter, deadline: int) -> None:
        """Lead or follow until `waiter` is woken or `deadline` (ns, monotonic) has passed."""
        if waiter.ident != INTERRUPTS.main:
            self._lead_or_follow(waiter, deadline, False)
            return
        # Signal handlers are put off but for between two sleeps, when this thread holds neither lock nor lead.
        outer = INTERRUPTS.wakeup
        INTERRUPTS.wakeup = waiter.nudge
        try:
            while True:
                self._lead_or_follow(waiter, deadline, True)
                if not INTERRUPTS.pending:
                    return
                INTERRUPTS.release()
                if waiter.loop is None or waiter.loop.unusable:
                    return  # a handler closed the stack, or forked and this is the child
        finally:
            INTERRUPTS.wakeup = outer

    def _lead_or_follow(self, waiter: ThreadWaiter, deadline: int, main: bool) -> None:
        signals = INTERRUPTS.pending if main else ()
        while not waiter.woken and not signals:
            now = _monotonic_ns()
            if now >= deadline:
                break
            if self._take_lead(waiter, now):
                try:
                    self._lead(waiter, deadline)
                finally:
                    self._pass_lead(waiter)
            else:
                # A signal that came before this looks is seen here; one that comes later opens the gate.
                if not signals:
                    waiter.sleep(deadline - now)
                with self._mutex:
                    self._followers.pop(waiter, None)
        if waiter.heir:
            # It was offered the lead, and is leaving.
            waiter.heir = False
            with self._mutex:
                heir = self._choose_heir()
            if heir is not None:
                heir.nudge()

    def _take_lead(self, waiter: ThreadWaiter, now: int) -> bool:
        """Become the leader, or a follower. The background thread gives way."""
        with self._mutex:
            waiter.heir = False
            leader = self.leader
            if leader is None or leader.ident == waiter.ident:
                waiter.outer = leader
                waiter.since = now
                self.leader = waiter
                self._lead_count += 1
                return True
            self._followers[waiter] = None
            if leader is not self._background:
                return False
            leader.woken = True
        self.rouse()
        return False

    def _choose_heir(self) -> ThreadWaiter | None:
        """A follower to offer the lead to, where nobody has it. Called with the mutex held."""
        if self.leader is None:
            for follower in self._followers:
                if not follower.woken:
                    follower.heir = True
                    return follower
        return None

    def _pass_lead(self, waiter: ThreadWaiter) -> None:
        background = self._background
        heir: ThreadWaiter | None = None
        with self._mutex:
            outer = waiter.outer
            self.leader = outer
            self._lead_count += 1
            if outer is not None:
                if outer is background and self._followers:
                    outer.woken = True
            elif self._followers and (waiter is background or _monotonic_ns() - waiter.since > LONG_LEAD):
                heir = self._choose_heir()
            dormant = self._dormant
            self._dormant = False
        if heir is not None:
            heir.nudge()
        if background is not None and (dormant or (self._devices.edges and waiter is not background)):
            background.nudge()

    def _lead(self, waiter: ThreadWaiter, deadline: int) -> None:
        """Drive the stacks until `waiter` is woken or `deadline` (ns, monotonic) has passed, or a signal came."""
        ready = self._ready
        signals = INTERRUPTS.pending if waiter.ident == INTERRUPTS.main else ()
        while True:
            rounds = DRAIN_ROUNDS
            while ready and rounds and not waiter.woken:
                self._drain(len(ready), True)
                rounds -= 1
                if ready and _monotonic_ns() - self._looked >= POLL_EVERY:
                    break  # a flood of one stack's must not keep the others' devices waiting
            over = waiter.woken or bool(signals)
            if over:
                # Others' devices and timers are not forgotten over calls that are all served at once.
                now = _monotonic_ns()
                if now - self._looked < POLL_EVERY:
                    return
                self._looked = now
                self._expire(now)
                self.look()
                self._drain(len(ready), True)
                return
            self._wanted = False
            self._wakes_at = NEVER
            self._asleep = True
            # From here on, whoever gives work, files a deadline or wakes this waiter kicks.
            try:
                now = _monotonic_ns()
                if now >= deadline:
                    return
                wakes_at = self._expire(now)
                if deadline < wakes_at:
                    wakes_at = deadline
                self._wakes_at = wakes_at
                if ready or waiter.woken or signals:
                    self._asleep = False
                    events = self._devices.look()
                else:
                    events = self._devices.busy_look(min(now + waiter.busy_poll, wakes_at)) if waiter.busy_poll else []
                    if not events:
                        events = self._devices.sleep(wakes_at - (_monotonic_ns() if waiter.busy_poll else now))
            finally:
                self._asleep = False
            self._looked = now
            if events:
                self._devices.receive(events, self._enqueue)

    def _expire(self, now: int) -> int:
        """Ready the loops whose deadline has come; returns when the next comes (ns, monotonic)."""
        return self._deadlines.expire(now, self._enqueue)

    # -- the background thread

    def _run_background(self) -> None:
        """Look after the lead: whoever has it is let alone, but nobody is to have it for no longer than a moment."""
        waiter = ThreadWaiter(self, None, 0, exclusive=False)
        self._background = waiter
        seen = -1
        while True:
            waiter.woken = False
            if self._stopping:
                break
            heir: ThreadWaiter | None = None
            lead = False
            with self._mutex:
                # The count changes whenever the lead is taken or passed.
                still = self._lead_count == seen
                seen = self._lead_count
                self._dormant = still and self.leader is not None
                moment = FOLLOWERS_MOMENT if self._followers else MOMENT
                if (still or self._devices.edges) and self.leader is None and not (still and self._busy()):
                    heir = self._choose_heir()
                    if not self._followers:
                        lead = True
                        waiter.since = 0
                        self.leader = waiter
            if lead:
                try:
                    self._lead(waiter, NEVER)
                except Exception as problem:
                    report(problem)
                finally:
                    self._pass_lead(waiter)
            if heir is not None:
                heir.nudge()
            waiter.sleep(NEVER if self._dormant else int(moment * NSEC_PER_SEC))
        self._background = None
