"""The network namespace as the layers see it, and what each layer keeps in it (Linux: `struct net`, pernet_operations).

A layer's state is a class whose constructor takes the `Net`. `net.get(Cls)` gives the namespace's instance, made when
first asked for, so that states may refer to one another in any order that has no circle. A state that holds anything
beyond memory has a `close()`, called in reverse order of making when the stack ends.
"""

from __future__ import annotations

import random
from typing import Any, TypeVar, final

from usernet.core.clock import Clock
from usernet.core.loop import Loop
from usernet.core.mib import Mib
from usernet.core.sysctl import SysctlTable
from usernet.core.trace import Trace
from usernet.skbuff.skbuff import Drops

_T = TypeVar("_T")


@final
class Net:
    """One network namespace. `loop.now` is its time (ns); `random` its source of randomness."""

    def __init__(self, name: str, clock: Clock, source: random.Random) -> None:
        """source: `random.SystemRandom()` for a stack on a real network, `random.Random(seed)` to repeat a run."""
        self.name = name
        self.loop = Loop(clock)
        self.random = source
        self.sysctl = SysctlTable()
        self.sysctl.register("net.core.netdev_budget", self.loop.softirq, "budget", low=1)
        self.mib = Mib()
        self.trace = Trace()
        self.drops = Drops(self.trace.kfree_skb.probes)
        self._states: dict[type, Any] = {}

    def get(self, state: type[_T]) -> _T:
        """This namespace's instance of `state`, a class constructed with the `Net`."""
        instance: _T | None = self._states.get(state)
        if instance is None:
            instance = state(self)  # type: ignore[call-arg]
            self._states[state] = instance
        return instance

    def close(self) -> None:
        """End every layer's state, the one made last first. Where one raises, the others are ended all the same."""
        problem: BaseException | None = None
        for instance in list(self._states.values())[::-1]:
            close = getattr(instance, "close", None)
            if close is not None:
                try:
                    close()
                except BaseException as cause:
                    problem = problem or cause
        self._states.clear()
        if problem is not None:
            raise problem
