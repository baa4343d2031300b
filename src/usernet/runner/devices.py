"""The descriptors that the stacks of a process watch: one epoll for all, and the eventfd that ends a sleep in it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final, final

from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC
from usernet.core.loop import Loop
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER

SELECT_BELOW: Final = 2 * NSEC_PER_MSEC
"""Shorter sleeps (ns) go through select(2), whose time-out has microseconds where epoll's has milliseconds."""

LONGEST_SLEEP: Final = 86_400 * NSEC_PER_SEC
"""A sleep (ns) that epoll can be asked for; its milliseconds are a C int."""

MAX_EVENTS: Final = 64
"""Devices that one look at epoll reports; the others are seen at the next."""

MISSES: Final = 8
"""So many looks in a row that found nothing to see end busy-polling, …"""

TRY_EVERY: Final = 64
"""… but for every so-manieth wait, which finds out whether it pays again."""

EDGE: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
"""How a descriptor is watched that is told of by edges."""

Events = list[tuple[int, int]]
"""Descriptors, and what epoll says of each."""


@final
class Devices:
    """What is watched. watched: whom a descriptor is for, and whether it is told of by edges. edges: how many are.
    missed: how often in a row busy-polling was in vain."""

    def __init__(self) -> None:
        self.edges: int = 0
        self.missed: int = 0
        self.watched: dict[int, tuple[Loop, Napi, bool]] = {}
        self._epoll = select.epoll()
        self._kick_fd: int = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._kick_fd, select.EPOLLIN)
        self._selected: list[int] = [self._epoll.fileno()] if self._epoll.fileno() < 1024 else []

    def close(self) -> None:
        """Let go of the epoll; what is watched is others' to close."""
        self._epoll.close()
        os.close(self._kick_fd)

    def watch(self, fd: int, loop: Loop, napi: Napi, edge: bool, quiet: bool) -> None:
        """See `Trampoline.watch`."""
        # First the table: an event of a descriptor that is not in it would be lost, and edges come once.
        self.watched[fd] = (loop, napi, edge)
        try:
            events = EDGE if edge else select.EPOLLIN
            self._epoll.register(fd, events & ~(select.EPOLLIN | select.EPOLLPRI) if quiet else events)
        except OSError:
            del self.watched[fd]
            raise
        if edge:
            self.edges += 1

    def unwatch(self, fd: int) -> None:
        """See `Trampoline.unwatch`."""
        watched = self.watched.pop(fd, None)
        if watched is not None:
            if watched[2]:
                self.edges -= 1
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # it was closed, and so left the epoll by itself

    def unwatch_all(self, loop: Loop) -> None:
        """Nothing is watched for `loop` any more."""
        for fd in [fd for fd, watched in tuple(self.watched.items()) if watched[0] is loop]:
            self.unwatch(fd)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        """See `Trampoline.watch_writable`."""
        watched = self.watched.get(fd)
        if watched is not None:
            events = EDGE if watched[2] else select.EPOLLIN
            self._epoll.modify(fd, events | select.EPOLLOUT if wanted else events)

    def kick(self) -> None:
        """End the sleep of whoever sleeps here."""
        os.eventfd_write(self._kick_fd, 1)

    def look(self) -> Events:
        """What there is to be told now."""
        return self._epoll.poll(0, MAX_EVENTS)

    def busy_look(self, end: int) -> Events:
        """Look again and again until `end` (ns, monotonic), instead of sleeping (Linux: napi_busy_loop).

        Adaptive: where it was in vain for long, only now and then, to find out whether it pays again.
        """
        if self.missed >= MISSES:
            self.missed += 1
            if self.missed % TRY_EVERY:
                return []
        while True:
            # Whoever wakes this thread kicks, which is an event too.
            events = self.look()
            if events:
                self.missed = 0
                return events
            if time.monotonic_ns() >= end:
                self.missed += 1
                return events

    def sleep(self, timeout: int) -> Events:
        """Wait for something to be told, at most `timeout` ns, sometimes for less."""
        epoll = self._epoll
        if timeout <= 0:
            return epoll.poll(0, MAX_EVENTS)
        if timeout > LONGEST_SLEEP:
            return epoll.poll(-1 if timeout >= NEVER >> 1 else LONGEST_SLEEP / NSEC_PER_SEC, MAX_EVENTS)
        if timeout >= SELECT_BELOW or not self._selected:
            # Whole milliseconds, and epoll.poll rounds up: half of one less than what is wanted comes out right.
            return epoll.poll(max(timeout // NSEC_PER_MSEC - 0.5, 0.5) / 1000, MAX_EVENTS)
        if not select.select(self._selected, (), (), timeout / NSEC_PER_SEC)[0]:
            return []
        return epoll.poll(0, MAX_EVENTS)

    def receive(self, events: Events, enqueue: Callable[[Loop], None]) -> None:
        """Schedule the polling of the devices that `events` tell of, and `enqueue` their loops."""
        for fd, mask in events:
            watched = self.watched.get(fd)
            if watched is not None:
                loop, napi, edge = watched
                if edge:
                    napi.interrupt(mask)
                loop.softirq.schedule(napi)
                enqueue(loop)
            elif fd == self._kick_fd:
                try:
                    os.eventfd_read(fd)
                except BlockingIOError:
                    pass  # one kick, seen by two leaders one after the other
