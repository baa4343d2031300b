"""select, poll and epoll on a stack's own sockets: the objects of the standard `select` module, driven by the stack.

They see what the host's can't (EPOLLRDHUP, EPOLLPRI and EPOLLERR as they are), need no descriptor, and wait on the
stack's own time. Sockets are given as objects, or as descriptors (`fileno()`), and come back as they were given. For
sockets of several stacks, or together with the host's files, use the host's `select` on descriptors.
"""

from __future__ import annotations

import errno
import math
import operator
from collections.abc import Hashable, Iterable
from types import TracebackType
from typing import Any, Final, Self, final

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLNVAL, EPOLLOUT, EPOLLPRI, Blocking, Wait
from usernet.net.pernet import Net
from usernet.sock.sock import SockNet
from usernet.sockets import arguments, readiness
from usernet.sockets.epoll import EventPoll, Target
from usernet.sockets.handle import SocketHandle

POLLEX_SET: Final = EPOLLPRI
DEFAULT_EVENTS: Final = EPOLLIN | EPOLLPRI | EPOLLOUT
FD_SETSIZE: Final = 1024
"""How many events epoll returns at once where it is told no number (the standard module's FD_SETSIZE - 1)."""


def _target(net: Net, given: Any) -> Target:
    """The socket, or epoll, that a program gave as an object or a descriptor.

    Raises TypeError for what is neither, OSError EBADF for one that is closed or not a stack's, ValueError for one of
    another stack.
    """
    if isinstance(given, SocketHandle):
        target: Target | None = given._socket
        stack = given._loop
    elif isinstance(given, Epoll):
        target = given.eventpoll
        stack = given.net.loop
    else:
        if not isinstance(given, int):
            fileno = getattr(given, "fileno", None)
            if fileno is None:
                raise TypeError("argument must be an int, or have a fileno() method")
            given = fileno()
        found = readiness.find(given)
        target = None if found is None else found.socket
        stack = net.loop if found is None else found.socket.loop
    if target is None:
        raise error(errno.EBADF)
    if stack is not net.loop:
        raise ValueError("this socket belongs to another stack: wait for it with the host's select, by its fileno()")
    return target


def _deadline(net: Net, nanoseconds: int) -> int:
    return NEVER if nanoseconds < 0 else net.loop.now + nanoseconds


def _scan(entries: list[tuple[Target, int]]) -> list[int] | None:
    """Each one's wanted events that are so now, and errors; None where there are none at all."""
    found = [target.poll() & (events | EPOLLERR | EPOLLHUP) for target, events in entries]
    return found if any(found) else None


def _wait_any(net: Net, entries: list[tuple[Target, int]], deadline: int) -> Blocking[list[int] | None]:
    queues = tuple({id(target): target.wait_queue() for target, _ in entries}.values())
    mask = EPOLLERR | EPOLLHUP
    for _, events in entries:
        mask |= events
    while True:
        found = _scan(entries)
        if found is not None or net.loop.now >= deadline:
            return found
        yield Wait(queues, mask, deadline, False, net.get(SockNet).busy_poll)


def _poll(net: Net, entries: list[tuple[Target, int]], nanoseconds: int) -> list[int] | None:
    loop = net.loop
    loop.enter()
    try:
        found = _scan(entries)
        if found is not None or nanoseconds == 0:
            return found
        deadline = _deadline(net, nanoseconds)
    finally:
        loop.leave()
    return loop.run_blocked(_wait_any(net, entries, deadline))


def select(
    net: Net, rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    """select(2): which of `rlist` can be read, of `wlist` written, and which of `xlist` have urgent data.

    timeout: seconds, None to wait without end. Raises TypeError, ValueError, OSError EBADF.
    """
    nanoseconds = arguments.timeout_ns(timeout) if timeout is None or timeout >= 0 else -2
    if nanoseconds == -2:
        raise ValueError("timeout must be non-negative")
    lists = [list(rlist), list(wlist), list(xlist)]
    sets = (readiness.POLLIN_SET, readiness.POLLOUT_SET, POLLEX_SET)
    entries = [(_target(net, given), events) for row, events in zip(lists, sets, strict=True) for given in row]
    found = _poll(net, entries, nanoseconds)
    if found is None:
        return [], [], []
    masks = iter(found)
    ready = [
        [given for given in row if next(masks) & events] for row, events in zip(lists, sets, strict=True)
    ]
    return ready[0], ready[1], ready[2]


def _milliseconds(value: Any) -> int:
    """poll(2)'s time-out in ns; -1 for None and below zero. A fraction is rounded up."""
    if value is None:
        return -1
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("Invalid value NaN (not a number)")
        whole = math.ceil(value)
    else:
        whole = operator.index(value)
    if abs(whole) > arguments.INT_MAX:
        raise OverflowError("timeout is too large")
    return -1 if whole < 0 else whole * 1_000_000


def _event_mask(value: Any, bits: int) -> int:
    number = operator.index(value)
    if number < 0:
        raise ValueError("value must be positive")
    if number >= 1 << bits:
        raise OverflowError(f"Python int too large to convert to C unsigned {'short' if bits == 16 else 'int'}")
    return number


@final
class Poll:
    """poll(2): what `select.poll()` returns."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._watched: dict[Hashable, int] = {}

    def register(self, given: Any, eventmask: int = DEFAULT_EVENTS, /) -> None:
        """Watch a socket, or watch it for something else."""
        events = _event_mask(eventmask, 16)
        if not isinstance(given, (SocketHandle, Epoll)):
            _target(self._net, given)
        self._watched[given] = events

    def modify(self, given: Any, eventmask: int, /) -> None:
        """Watch for something else. Raises OSError ENOENT for one that isn't watched."""
        events = _event_mask(eventmask, 16)
        if given not in self._watched:
            raise error(errno.ENOENT)
        self._watched[given] = events

    def unregister(self, given: Any, /) -> None:
        """Watch no longer. Raises KeyError for one that isn't watched."""
        del self._watched[given]

    def poll(self, timeout: float | None = None, /) -> list[tuple[Any, int]]:
        """What is ready, as (socket, events); POLLNVAL for one that was closed.

        timeout: milliseconds; None, or below zero, to wait without end.
        """
        nanoseconds = _milliseconds(timeout)
        invalid: list[tuple[Any, int]] = []
        watched: list[Any] = []
        entries: list[tuple[Target, int]] = []
        for given, events in self._watched.items():
            try:
                entries.append((_target(self._net, given), events))
                watched.append(given)
            except OSError:
                invalid.append((given, EPOLLNVAL))
        found = _poll(self._net, entries, 0 if invalid else nanoseconds)
        return invalid + [pair for pair in zip(watched, found or (), strict=False) if pair[1]]


@final
class Epoll:
    """epoll(7): what `select.epoll()` returns; level and edge triggered, one-shot, exclusive."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.eventpoll: EventPoll | None = EventPoll(net.loop)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> EventPoll:
        eventpoll = self.eventpoll
        if eventpoll is None:
            raise ValueError("I/O operation on closed epoll object")
        return eventpoll

    @property
    def closed(self) -> bool:
        return self.eventpoll is None

    def close(self) -> None:
        """Watch nothing any more. Does nothing the second time."""
        eventpoll = self.eventpoll
        if eventpoll is None:
            return
        self.eventpoll = None
        loop = self.net.loop
        if loop.unusable:
            return
        loop.enter()
        try:
            eventpoll.close()
        finally:
            loop.leave()

    def register(self, given: Any, eventmask: int = DEFAULT_EVENTS) -> None:
        """Watch a socket. Raises OSError: EEXIST where it is watched, EBADF, EINVAL, ELOOP."""
        eventpoll = self._open()
        events = _event_mask(eventmask, 32)
        target = _target(self.net, given)
        loop = self.net.loop
        loop.enter()
        try:
            eventpoll.add(target, given, events)
        finally:
            loop.leave()

    def modify(self, given: Any, eventmask: int) -> None:
        """Watch for something else; arms what is one-shot anew. Raises OSError ENOENT, EINVAL."""
        eventpoll = self._open()
        events = _event_mask(eventmask, 32)
        loop = self.net.loop
        loop.enter()
        try:
            eventpoll.modify(given, events)
        finally:
            loop.leave()

    def unregister(self, given: Any) -> None:
        """Watch no longer. Raises OSError ENOENT."""
        eventpoll = self._open()
        loop = self.net.loop
        loop.enter()
        try:
            eventpoll.delete(given)
        finally:
            loop.leave()

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[Any, int]]:
        """What is ready, as (socket, events).

        timeout: seconds; None, or below zero, to wait without end. maxevents: -1 for as many as the standard module.
        """
        eventpoll = self._open()
        nanoseconds = -1 if timeout is None or timeout < 0 else arguments.timeout_ns(timeout)
        if maxevents == -1:
            maxevents = FD_SETSIZE - 1
        if maxevents <= 0:
            raise ValueError(f"maxevents must be greater than 0, got {maxevents}")
        loop = self.net.loop
        loop.enter()
        try:
            found = eventpoll.collect(maxevents)
            if found or nanoseconds == 0:
                return found
            deadline = _deadline(self.net, nanoseconds)
        finally:
            loop.leave()
        return loop.run_blocked(eventpoll.collect_blocked(maxevents, deadline, self.net.get(SockNet).busy_poll))
