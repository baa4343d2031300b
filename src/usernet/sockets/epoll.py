"""Event polling (Linux: fs/eventpoll.c): who watches many sockets, and is told which of them are ready.

An `EventPoll` has an item for each socket that it watches, which stands in that socket's wait queue for as long as it
is watched. A wake-up puts the item on the ready list; collecting polls each socket on the list once more, and reports
it if it is still ready. A level-triggered item then goes back on the list, so that it is looked at next time too; an
edge-triggered one waits for the next wake-up; a one-shot one is off until it is modified. So the work is in proportion
to what happens, not to how many are watched.

All is called with the stack's lock held.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, TypeAlias, Union, final

from usernet.core.errors import error
from usernet.core.loop import Loop
from usernet.core.wait import (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDNORM,
    Blocking,
    Wait,
    Waiter,
    WaitQueue,
)

if TYPE_CHECKING:
    from usernet.sockets.socket import Socket

EPOLLWAKEUP: Final = 1 << 29
EP_PRIVATE_BITS: Final = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
"""How to watch, apart from what for."""
EPOLLINOUT_BITS: Final = EPOLLIN | EPOLLOUT
EPOLLEXCLUSIVE_OK_BITS: Final = EPOLLINOUT_BITS | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
EP_MAX_NESTS: Final = 4
"""How many epolls may watch one another in a row below one."""

Target: TypeAlias = Union["Socket", "EventPoll"]


@final
class EpollItem(Waiter):
    """One watched socket, or epoll (Linux: `struct epitem`). `key`: what the program calls it."""

    def __init__(self, epoll: EventPoll, target: Target, key: Hashable, events: int) -> None:
        super().__init__(events & ~EP_PRIVATE_BITS, bool(events & EPOLLEXCLUSIVE))
        self.epoll = epoll
        self.target = target
        self.key = key
        self.events = events
        self.listed = False

    def wake(self, mask: int) -> bool:
        """Linux: ep_poll_callback. An exclusive item counts as woken only where a thread waits for this epoll, and for
        what happened; else the next exclusive one of the socket is asked."""
        wanted = self.events & ~EP_PRIVATE_BITS
        if not wanted:
            return False  # a one-shot item that has fired
        epoll = self.epoll
        if not self.listed:
            self.listed = True
            epoll.ready.append(self)
        woke = not self.exclusive
        if epoll.wait.active:
            if self.exclusive:
                direction = mask & EPOLLINOUT_BITS
                woke = direction == 0 or (direction != EPOLLINOUT_BITS and wanted & direction != 0)
            epoll.wait.wake(EPOLLIN | EPOLLRDNORM)
        return woke

    def poll(self) -> int:
        """What of the wanted events is so now."""
        return self.target.poll() & self.events & ~EP_PRIVATE_BITS

    def remove(self) -> None:
        """Watch no longer: the program asked for it, or the socket is closed."""
        self.target.wait_queue().remove(self)
        epitems = self.target.epitems
        if epitems is not None and self in epitems:
            epitems.remove(self)
        epoll = self.epoll
        if epoll.items.get(self.key) is self:
            del epoll.items[self.key]
        if self.listed:
            epoll.ready.remove(self)
            self.listed = False


@final
class EventPoll:
    """One epoll (Linux: `struct eventpoll`). It can itself be watched by another."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.items: dict[Hashable, EpollItem] = {}
        self.ready: list[EpollItem] = []
        self.wait = WaitQueue()
        self.epitems: list[EpollItem] | None = None

    def wait_queue(self) -> WaitQueue:
        """Those who watch this epoll."""
        return self.wait

    def poll(self) -> int:
        """EPOLLIN where there would be something to collect."""
        for item in self.ready:
            if item.poll():
                return EPOLLIN | EPOLLRDNORM
        return 0

    def add(self, target: Target, key: Hashable, events: int) -> None:
        """EPOLL_CTL_ADD. Raises OSError: EEXIST, EINVAL (itself; EPOLLEXCLUSIVE with what it can't go with), ELOOP."""
        if target is self:
            raise error(errno.EINVAL)
        if events & EPOLLEXCLUSIVE and (events & ~EPOLLEXCLUSIVE_OK_BITS or isinstance(target, EventPoll)):
            raise error(errno.EINVAL)
        if isinstance(target, EventPoll) and target.depth(self) + self._height() > EP_MAX_NESTS:
            raise error(errno.ELOOP)
        if key in self.items:
            raise error(errno.EEXIST)
        item = EpollItem(self, target, key, events | EPOLLERR | EPOLLHUP)
        self.items[key] = item
        if target.epitems is None:
            target.epitems = []
        target.epitems.append(item)
        target.wait_queue().add(item)
        self._list_if_ready(item)

    def modify(self, key: Hashable, events: int) -> None:
        """EPOLL_CTL_MOD; arms a one-shot item anew. Raises OSError: ENOENT, EINVAL where EPOLLEXCLUSIVE is involved."""
        item = self._item(key)
        if (events | item.events) & EPOLLEXCLUSIVE:
            raise error(errno.EINVAL)
        item.events = events | EPOLLERR | EPOLLHUP
        item.mask = item.events & ~EP_PRIVATE_BITS
        self._list_if_ready(item)

    def delete(self, key: Hashable) -> None:
        """EPOLL_CTL_DEL. Raises OSError ENOENT."""
        self._item(key).remove()

    def _item(self, key: Hashable) -> EpollItem:
        item = self.items.get(key)
        if item is None:
            raise error(errno.ENOENT)
        return item

    def _list_if_ready(self, item: EpollItem) -> None:
        if not item.listed and item.poll():
            item.listed = True
            self.ready.append(item)
            if self.wait.active:
                self.wait.wake(EPOLLIN | EPOLLRDNORM)

    def depth(self, above: EventPoll) -> int:
        """How many epolls stand below one another from here, this one included. Raises ELOOP on meeting `above`."""
        deepest = 0
        for item in self.items.values():
            target = item.target
            if target is above:
                raise error(errno.ELOOP)
            if isinstance(target, EventPoll):
                deepest = max(deepest, target.depth(above))
        return deepest + 1

    def _height(self) -> int:
        """How many epolls watch one another from here upwards."""
        return 1 + max((item.epoll._height() for item in self.epitems or ()), default=-1)

    def collect(self, most: int) -> list[tuple[Hashable, int]]:
        """At most `most` of what is ready now, with its events (Linux: ep_send_events)."""
        found: list[tuple[Hashable, int]] = []
        pending = self.ready
        self.ready = again = []
        position = 0
        for item in pending:
            if len(found) == most:
                break
            position += 1
            item.listed = False
            events = item.poll()
            if not events:
                continue
            found.append((item.key, events))
            if item.events & EPOLLONESHOT:
                item.events &= EP_PRIVATE_BITS
            elif not item.events & EPOLLET:
                item.listed = True
                again.append(item)
        # What was not looked at comes first next time, before what was just reported.
        self.ready = pending[position:] + again
        return found

    def collect_blocked(self, most: int, deadline: int, busy_poll: int = 0) -> Blocking[list[tuple[Hashable, int]]]:
        """Collect as soon as something is ready; nothing once `deadline` (ns) has passed (epoll_wait(2)).

        busy_poll: µs, as `Wait` has it.
        """
        while True:
            found = self.collect(most)
            if found or self.loop.now >= deadline:
                return found
            yield Wait((self.wait,), EPOLLIN, deadline, True, busy_poll)

    def close(self) -> None:
        """Watch nothing any more."""
        for item in tuple(self.items.values()):
            item.remove()
        for item in tuple(self.epitems or ()):
            item.remove()
