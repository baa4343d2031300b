"""A stack reduced to what a loop needs of it: a port with a ring, a queue of messages and a wait queue."""

from __future__ import annotations

from collections import deque

from usernet.core.clock import Clock, MonotonicClock
from usernet.core.loop import Loop, Trampoline
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, Blocking, Wait, WaitQueue


class Port(Napi):
    """One end of a cable: what the other end sends is received into `got` by the softirq of this end's loop."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop
        self.peer: Port = self
        self.ring: deque[object] = deque()
        self.got: deque[object] = deque()
        self.queue = WaitQueue()
        self.exclusive = False

    def poll(self, budget: int) -> int:
        done = 0
        while self.ring and done < budget:
            self.got.append(self.ring.popleft())
            self.queue.wake(EPOLLIN)
            done += 1
        return done

    def send(self, message: object) -> None:
        """A call that never waits."""
        self.loop.enter()
        try:
            self.transmit(message)
        finally:
            self.loop.leave()

    def transmit(self, message: object) -> None:
        """As a driver's xmit: append to the other end's ring, and schedule it."""
        self.peer.ring.append(message)
        self.peer.loop.schedule(self.peer)

    def recv(self, timeout: float | None = None) -> object:
        """A call that may have to wait. Raises TimeoutError after `timeout` seconds."""
        loop = self.loop
        now = loop.enter()
        try:
            if self.got:
                return self.got.popleft()
            call = self._recv_blocked(NEVER if timeout is None else now + int(timeout * 1e9))
        finally:
            loop.leave()
        return loop.run_blocked(call)

    def _recv_blocked(self, deadline: int) -> Blocking[object]:
        # Yields before it looks, as a call may that has just looked.
        while True:
            yield Wait((self.queue,), EPOLLIN, deadline, self.exclusive)
            if self.got:
                return self.got.popleft()
            if self.loop.now >= deadline:
                raise TimeoutError


def start(trampoline: Trampoline, clock: Clock | None = None) -> Loop:
    """A loop that `trampoline` drives."""
    loop = Loop(clock or MonotonicClock())
    loop.trampoline = trampoline
    trampoline.attach(loop)
    return loop


def stop(loop: Loop) -> None:
    """The end of `start`."""
    trampoline = loop.trampoline
    loop.trampoline = None
    if trampoline is not None:
        trampoline.detach(loop)


def cable(one: Loop, other: Loop) -> tuple[Port, Port]:
    """Two ports, joined."""
    left, right = Port(one), Port(other)
    left.peer, right.peer = right, left
    return left, right
