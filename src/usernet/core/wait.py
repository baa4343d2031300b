"""Wait queues, and the one form of a blocking call.

A blocking call is first a plain attempt. Only where it must wait does it return a generator that yields `Wait`s: on
which queues, for which events, until when. Whoever drives the stack runs that generator: a thread sleeps (or leads),
asyncio awaits a future, virtual time resumes it from the event queue (see core/loop.py). A call that is made for each
packet returns a `BlockedCall` instead, which is such a generator without what one costs. The events are those of
poll(2), EPOLL* in Linux's numbering.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, Generic, TypeVar, final

from usernet.core.native import mypyc_attr

EPOLLIN: Final = 0x001
EPOLLPRI: Final = 0x002
EPOLLOUT: Final = 0x004
EPOLLERR: Final = 0x008
EPOLLHUP: Final = 0x010
EPOLLNVAL: Final = 0x020
EPOLLRDNORM: Final = 0x040
EPOLLRDBAND: Final = 0x080
EPOLLWRNORM: Final = 0x100
EPOLLWRBAND: Final = 0x200
EPOLLMSG: Final = 0x400
EPOLLRDHUP: Final = 0x2000
EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31

ALL_EVENTS: Final = 0x3FFF


@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter:
    """Something to be told when a queue is woken. Its `wake` runs inside the stack and may only schedule."""

    def __init__(self, mask: int = ALL_EVENTS, exclusive: bool = False) -> None:
        self.mask: int = mask
        self.exclusive: bool = exclusive

    def wake(self, mask: int) -> bool:
        """Called with the events that happened. True where it made its owner run (counts for exclusive waiters)."""
        raise NotImplementedError(f"{type(self).__name__} must define wake()")


@final
class WaitQueue:
    """Those who wait for one socket (Linux: `wait_queue_head_t`). Allocates nothing before the first of them."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[Waiter] | None = None

    def add(self, waiter: Waiter) -> None:
        """Exclusive waiters go to the end, so that all others are told before the one of them that is."""
        if self._waiters is None:
            self._waiters = [waiter]
        elif waiter.exclusive:
            self._waiters.append(waiter)
        else:
            self._waiters.insert(0, waiter)

    def remove(self, waiter: Waiter) -> None:
        """Take `waiter` out; nothing happens where it is not in the queue."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._waiters = None

    @property
    def active(self) -> bool:
        return self._waiters is not None

    def wake(self, mask: int) -> None:
        """Tell those who wait for any event of `mask`: all of them, but at most one exclusive one that acts on it."""
        waiters = self._waiters
        if waiters is None:
            return
        for waiter in list(waiters) if len(waiters) > 1 else waiters:
            if waiter.mask & mask and waiter.wake(mask) and waiter.exclusive:
                return

    def wake_all(self, mask: int) -> None:
        """As `wake`, with no regard to exclusiveness: for errors and closing."""
        for waiter in list(self._waiters or ()):
            if waiter.mask & mask:
                waiter.wake(mask)


@final
class Wait:
    """What a blocked call waits for: `mask` on any of `queues`, at the latest until `deadline` (ns).

    busy_poll: µs that a thread looks at the devices before it sleeps (SO_BUSY_POLL, net.core.busy_poll).
    """

    __slots__ = ("busy_poll", "deadline", "exclusive", "mask", "queues")

    def __init__(
        self, queues: tuple[WaitQueue, ...], mask: int, deadline: int, exclusive: bool = False, busy_poll: int = 0
    ) -> None:
        self.busy_poll = busy_poll
        self.queues = queues
        self.mask = mask
        self.deadline = deadline
        self.exclusive = exclusive


_T = TypeVar("_T")
Blocking = Generator[Wait, None, _T]
"""A call that has to wait: yields what for, and returns its result. Ends itself when a deadline has passed."""


@mypyc_attr(allow_interpreted_subclasses=True)
class BlockedCall(Generic[_T]):
    """A call that has to wait, as an object. To resume a generator and to hear by an exception that it has ended costs
    as much as a third of what TCP does for a small packet. Iterating over it is the generator that it stands for."""

    __slots__ = ("result",)

    result: _T
    """What the call returns, once `resume` has returned None."""

    def resume(self) -> Wait | None:
        """Begin, or look again after a wait: what to wait for, None at the end. Raises what the call raises."""
        raise NotImplementedError(f"{type(self).__name__} must define resume()")

    def close(self) -> None:
        """It has ended, or is given up."""

    def __iter__(self) -> Blocking[_T]:
        try:
            while (wait := self.resume()) is not None:
                yield wait
            return self.result
        finally:
            self.close()


Blocked = Blocking[_T] | BlockedCall[_T]
"""What an attempt returns that has to wait. `iter` makes a generator of either, and `yield from` runs both."""
