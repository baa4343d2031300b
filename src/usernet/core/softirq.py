"""The softirq: where packets are received, in batches, with a budget.

A driver's interrupt only schedules its `Napi`; `SoftIRQ.run` polls those scheduled in turn, each with a weight, until
nothing is left or the budget is spent, so that a flooded device starves nobody (Linux: `net_rx_action`,
`napi_schedule`; `net.core.netdev_budget`, `dev_weight`). A transmit never receives: an in-memory device appends to the
other end's ring and schedules that end's Napi.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import report
from usernet.core.native import mypyc_attr

NAPI_WEIGHT: Final = 64
NETDEV_BUDGET: Final = 300

LONG: Final = 16
"""Of the budget: a run that has spent as much may have taken longer than others should wait, and looks for them."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Napi:
    """What can be scheduled to be polled. Subclassed by netdevice/napi.py."""

    def __init__(self) -> None:
        self.scheduled: bool = False

    def interrupt(self, mask: int) -> None:
        """What happened on the descriptor (EPOLL*), for one that is watched with `edge`. Without the lock, from the
        thread that leads; `poll` follows."""

    def poll(self, budget: int) -> int:
        """Receive at most `budget` packets; fewer than `budget` means that there is nothing left."""
        raise NotImplementedError(f"{type(self).__name__} must define poll()")


@final
class SoftIRQ:
    """The scheduled work of one stack: `pending` to be polled, `tasklets` to be called when the batch ends. `budget`:
    how many packets a run may receive. `squeezed`: how often that was not enough (/proc/net/softnet_stat)."""

    __slots__ = ("budget", "deferred", "pending", "squeezed", "tasklets")

    def __init__(self) -> None:
        self.pending: deque[Napi] = deque()
        self.tasklets: deque[Callable[[], None]] = deque()
        self.budget: int = NETDEV_BUDGET
        self.squeezed: int = 0
        self.deferred: bool = False
        """The last run left work behind: it is for whoever leads, and no call does it on its way out, else a flood
        would keep the one who reads from reading (Linux: ksoftirqd)."""

    def schedule(self, napi: Napi) -> None:
        """Have `napi` polled in the next run. Safe from another stack's thread: it appends, and takes no lock."""
        if not napi.scheduled:
            napi.scheduled = True
            self.pending.append(napi)

    def defer(self, tasklet: Callable[[], None]) -> None:
        """Call `tasklet` once at the end of the current batch, outside whatever is on the call stack now."""
        self.tasklets.append(tasklet)

    @property
    def idle(self) -> bool:
        return not self.pending and not self.tasklets

    def run(self, look: Callable[[], bool] | None = None) -> None:
        """Poll what is scheduled, up to the budget. What is left stays scheduled for the next run.

        look: called now and then in a long run, to schedule what has come meanwhile, which is then polled first; where
        it returns True the run ends, for what has come can't be done in it.

        What a poll or a tasklet raises is reported. A poll that raised is tried once more, since what it was given
        may not all have been bad; one that raises again waits for its next interrupt.
        """
        pending = self.pending
        tasklets = self.tasklets
        budget = self.budget
        failed: Napi | None = None
        next_look = budget - LONG
        while True:
            if pending and budget > 0:
                napi = pending.popleft()
                # Cleared before the poll: what arrives while it runs schedules it anew, and none is missed.
                napi.scheduled = False
                weight = min(budget, NAPI_WEIGHT)
                try:
                    done = napi.poll(weight)
                except Exception as problem:
                    report(problem)
                    done = 0
                    if failed is not napi:
                        failed = napi
                        self.schedule(napi)
                if done >= weight:
                    self.schedule(napi)
                # One that found nothing counts too: two that only schedule each other come to an end.
                budget -= done or 1
                if budget <= next_look and look is not None:
                    before = len(pending)
                    if look():
                        budget = 0
                    fresh = len(pending) - before
                    pending.rotate(fresh)
                    next_look = budget - (fresh or LONG)
            elif not tasklets:
                break
            while tasklets:
                self._call(tasklets.popleft())
        self.deferred = bool(pending)
        if pending:
            self.squeezed += 1

    def _call(self, tasklet: Callable[[], None]) -> None:
        try:
            tasklet()
        except Exception as problem:
            report(problem)

    def clear(self) -> None:
        """Forget all that is scheduled: the stack has ended."""
        for napi in self.pending:
            napi.scheduled = False
        self.pending.clear()
        self.tasklets.clear()
