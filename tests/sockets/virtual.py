"""Virtual time for calls that wait, on one thread: an agenda of what others do, and when."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from usernet.core.clock import ManualClock
from usernet.core.loop import Loop, Trampoline
from usernet.core.timer import NEVER
from usernet.core.wait import Wait, Waiter
from usernet.net.pernet import Net

SECOND = 1_000_000_000


class _Woken(Waiter):
    def __init__(self, mask: int, exclusive: bool) -> None:
        super().__init__(mask, exclusive)
        self.woken = False

    def wake(self, mask: int) -> bool:
        first = not self.woken
        self.woken = True
        return first


class Virtual(Trampoline):
    """Runs blocked calls: goes on to the next entry of the agenda, the next timer, or the call's deadline."""

    def __init__(self, net: Net, clock: ManualClock) -> None:
        self.net = net
        self.clock = clock
        self.waits = 0
        self._agenda: list[tuple[int, int, Callable[[], object]]] = []
        self._serial = 0
        net.loop.trampoline = self

    @property
    def seconds(self) -> float:
        """The time."""
        return self.clock.now() / SECOND

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Have `action` done at that time, while some call waits."""
        self._serial += 1
        heappush(self._agenda, (round(seconds * SECOND), self._serial, action))

    def attach(self, loop: Loop) -> None:
        pass

    def detach(self, loop: Loop) -> None:
        pass

    def schedule(self, loop: Loop) -> None:
        pass

    def left(self, loop: Loop) -> None:
        pass

    def wait(self, loop: Loop, wait: Wait) -> None:
        self.waits += 1
        waiter = _Woken(wait.mask, wait.exclusive)
        for queue in wait.queues:
            queue.add(waiter)
        loop.suspend()
        try:
            while not waiter.woken and self.clock.now() < wait.deadline:
                self._go_on(loop, wait.deadline)
        finally:
            loop.resume()
            for queue in wait.queues:
                queue.remove(waiter)

    def _go_on(self, loop: Loop, deadline: int) -> None:
        agenda = self._agenda
        then = min(deadline, loop.timers.next_deadline(), agenda[0][0] if agenda else NEVER)
        assert then != NEVER, "a call waits for what will never happen"
        self.clock.set(max(then, self.clock.now()))
        if agenda and agenda[0][0] <= then:
            heappop(agenda)[2]()
        loop.try_batch()
