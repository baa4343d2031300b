"""The target that is a real stack: virtual time, one device, system calls on its sockets.

    runner → StackTarget   call    → stack_calls → sockets/ → …
                           inject  → stack_device → ip/ → …
                           collect ← stack_device
                           shell   → stack_shell

Time stands still but for `step`, which moves it to the next timer of the stack, or deadline of a call that waits.
A call that must wait is a generator (core/wait.py), resumed when a queue it waits on was woken or its deadline has
come. The stack's randomness has a fixed seed, so that a script runs the same each time.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import Final, final

from usernet.core.clock import ManualClock
from usernet.core.errors import error
from usernet.core.loop import Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER
from usernet.core.wait import Blocking, Wait, Waiter
from usernet.packetdrill.config import Config
from usernet.packetdrill.shell import Shell
from usernet.packetdrill.stack_calls import SystemCalls
from usernet.packetdrill.stack_device import ScriptDevice
from usernet.packetdrill.stack_shell import StackShell
from usernet.packetdrill.target import Call, Frame, Target
from usernet.stack import Stack
from usernet.transport.tcp.tcp import Tcp

BOOT: Final = 1_000_000_000_000  # ns: not 0, which stands for "never happened" in many fields
SEED: Final = 1
MAX_SLEEP_STEPS: Final = 1_000_000  # of one `sleep` in a shell line
CALL_COST: Final = 1_000
"""ns that a system call takes. On a real host time passes between calls in a row, and scripts count on it where two
measures would else be equal to the nanosecond. None where the script is run without tolerance."""


@final
class _Sleeper(Waiter):
    """A call that waits."""

    def __init__(self, call: Call, generator: Blocking[int]) -> None:
        super().__init__()
        self.call = call
        self.generator = generator
        self.waiting: Wait | None = None
        self.woken = False

    def wake(self, mask: int) -> bool:
        self.woken = True
        return True

    def join(self, wait: Wait) -> None:
        self.waiting = wait
        self.woken = False
        self.mask = wait.mask
        self.exclusive = wait.exclusive
        for queue in wait.queues:
            queue.add(self)

    def part(self) -> None:
        if self.waiting is not None:
            for queue in self.waiting.queues:
                queue.remove(self)
            self.waiting = None


@final
class _ScriptTrampoline(Trampoline):
    """Says that the stack is driven, so that calls may wait; `StackTarget.step` drives it."""

    def attach(self, loop: Loop) -> None:
        loop.trampoline = self

    def detach(self, loop: Loop) -> None:
        return

    def schedule(self, loop: Loop) -> None:
        return

    def left(self, loop: Loop) -> None:
        return

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool = False, quiet: bool = False) -> None:
        return

    def unwatch(self, fd: int) -> None:
        return

    def watch_writable(self, fd: int, wanted: bool) -> None:
        return

    def wait(self, loop: Loop, wait: Wait) -> None:
        raise RuntimeError("calls of a script wait in StackTarget, not in the loop")


@final
class StackTarget(Target):
    """A fresh stack for one script. `stack`: it, once started."""

    stack: Stack
    calls: SystemCalls
    device: ScriptDevice

    def __init__(self) -> None:
        self._clock = ManualClock(BOOT)
        self._sleepers: list[_Sleeper] = []
        self._shell: Shell | None = None
        self._started = False
        self._call_cost = 0

    def start(self, config: Config) -> None:
        if config.wire_version != 4 or config.socket_domain != 2:
            raise OSError(errno.EAFNOSUPPORT, f"the stack has no {config.ip_version}")
        self._started = True
        self._call_cost = CALL_COST if config.tolerance else 0
        self.stack = stack = Stack("packetdrill", clock=self._clock, seed=SEED)
        _ScriptTrampoline().attach(stack.loop)
        # packetdrill's own capture holds a copy of what the kernel receives; its scripts know windows that come of it.
        stack.net.get(Tcp).rcv_coalesce = False
        self.device = ScriptDevice()
        local = ipaddress.ip_address(config.local_ip)
        stack.add_device(self.device, "tun0", f"{local}/{config.prefix_length}", mtu=config.mtu)
        remote = ipaddress.ip_network((config.remote_ip, config.remote_prefix_length), strict=False)
        gateway = None if config.gateway_ip == config.local_ip else str(ipaddress.ip_address(config.gateway_ip))
        stack.add_route(str(remote), via=gateway, dev="tun0", onlink=gateway is not None)
        self.calls = SystemCalls(stack.net)
        self._shell = StackShell(stack, config.local_ip, self.calls.files, self._sleep)

    def close(self) -> None:
        if not self._started or self.stack.closed:
            return
        for sleeper in tuple(self._sleepers):
            self.cancel(sleeper.call)
        loop = self.stack.loop
        loop.enter()
        try:
            self.calls.close_all()
        finally:
            loop.leave()
        self.stack.close()

    # ------------------------------------------------------------ time

    def now(self) -> int:
        return self._clock.now()

    def _due(self) -> int:
        """When there is something to do next; now, where there is already."""
        loop = self.stack.loop
        now = self._clock.now()
        if not loop.softirq.idle or any(sleeper.woken for sleeper in self._sleepers):
            return now
        deadline = loop.timers.next_deadline()
        for sleeper in self._sleepers:
            if sleeper.waiting is not None:
                deadline = min(deadline, sleeper.waiting.deadline)
        return max(deadline, now) if deadline < NEVER else NEVER

    def step(self, limit: int) -> bool:
        due = self._due()
        if due > limit:
            self._clock.set(limit)
            return False
        self._clock.set(due)
        self.stack.loop.try_batch(True)
        for sleeper in tuple(self._sleepers):
            waiting = sleeper.waiting
            if sleeper.woken or (waiting is not None and waiting.deadline <= due):
                self._resume(sleeper)
        return True

    def _sleep(self, duration: int) -> None:
        limit = self.now() + duration
        for _ in range(MAX_SLEEP_STEPS):
            if not self.step(limit):
                return
        raise error(errno.ETIME, f"still busy after {MAX_SLEEP_STEPS} steps")

    # ------------------------------------------------------------ calls

    def call(self, call: Call) -> None:
        loop = self.stack.loop
        loop.enter()
        try:
            try:
                outcome = self.calls.start(call)
            except OSError as failed:
                call.finish(loop.now, -1, failed.errno or errno.EINVAL)
                return
            if isinstance(outcome, int):
                call.finish(loop.now, outcome)
                return
            sleeper = _Sleeper(call, iter(outcome))
            self._sleepers.append(sleeper)
            self._continue(sleeper)
        finally:
            loop.leave()
            self._clock.advance(self._call_cost)

    def _resume(self, sleeper: _Sleeper) -> None:
        loop = self.stack.loop
        loop.enter()
        try:
            sleeper.part()
            self._continue(sleeper)
        finally:
            loop.leave()

    def _continue(self, sleeper: _Sleeper) -> None:
        """Run a call up to its next wait, or its end. With the lock held."""
        now = self.stack.loop.now
        try:
            sleeper.join(next(sleeper.generator))
        except StopIteration as stop:
            self._sleepers.remove(sleeper)
            sleeper.call.finish(now, stop.value)
        except OSError as failed:
            self._sleepers.remove(sleeper)
            sleeper.call.finish(now, -1, failed.errno or errno.EINVAL)

    def cancel(self, call: Call) -> None:
        for sleeper in tuple(self._sleepers):
            if sleeper.call is call:
                loop = self.stack.loop
                loop.enter()
                try:
                    sleeper.part()
                    sleeper.generator.close()
                finally:
                    loop.leave()
                self._sleepers.remove(sleeper)
                call.finish(self.now(), -1, errno.EINTR)

    # ------------------------------------------------------------ packets

    def inject(self, packet: bytes, gso_size: int) -> None:
        self.device.inject(packet, gso_size)

    def collect(self) -> list[Frame]:
        sent = self.device.sent
        if not sent:
            return []
        self.device.sent = []
        return sent

    def shell(self) -> Shell:
        if self._shell is None:
            raise RuntimeError("the target has not been started")
        return self._shell
