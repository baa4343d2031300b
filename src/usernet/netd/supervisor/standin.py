"""The memory of a packet socket's ring in the place of the socket's descriptor, while its process maps it.

    mmap is taken      a duplicate of the descriptor is kept here, the memory put in its place (ADDFD, SETFD)
    it continues       the kernel maps what it finds there
    a call is taken    the descriptor is put back, before anything else

A descriptor can only be put into a process while a call of it is pending. So it is put back when the thread that maps
makes its next one, by which its mmap is over, or when another thread of the process does and the mapping is there to be
seen. Until then the socket is recognised by the memory, too. libpcap binds the socket at once after it has mapped.

As long as the duplicate is here nobody hears that the application has closed its own: so those who make no call any
more are looked at.
"""

from __future__ import annotations

import os
from typing import TypeAlias, final

from usernet.netd.supervisor.call import Call, Gone
from usernet.netd.supervisor.process import PidFd, Threads, close_on_exec, group_of
from usernet.netd.supervisor.seccomp import Notification, Notifier
from usernet.netd.supervisor.table import Entry, Table

Memory: TypeAlias = tuple[int, int]
"""The device and inode of a ring's memory."""


@final
class StandIn:
    """One of them. process: whose descriptor `number` it is; tid: of its threads, the one that maps. fd: the duplicate
    of what was there. memory: what is there."""

    __slots__ = ("cloexec", "fd", "memory", "number", "process", "tid")

    def __init__(self, process: PidFd, tid: int, number: int, fd: int, cloexec: bool, memory: Memory) -> None:
        self.process = process
        self.tid = tid
        self.number = number
        self.fd = fd
        self.cloexec = cloexec
        self.memory = memory

    def is_there(self) -> bool:
        """Whether the memory is still where it was put."""
        try:
            fd = self.process.get_fd(self.number)
        except OSError:
            return False  # closed, or the process is gone
        try:
            return _identity(fd) == self.memory
        finally:
            os.close(fd)

    def is_mapped(self) -> bool:
        """Whether the process has mapped it, or its thread is gone that was to do so."""
        inode = b" %d " % self.memory[1]
        try:
            with open(f"/proc/{self.tid}/maps", "rb") as file:
                return any(inode in line and b"/memfd:" in line for line in file)
        except OSError:
            return True


@final
class StandIns:
    """Those of one supervisor. some: whether there are any."""

    def __init__(self, notifier: Notifier, threads: Threads, table: Table) -> None:
        self.some: bool = False
        self._all: list[StandIn] = []
        self._notifier = notifier
        self._threads = threads
        self._table = table

    def put(self, call: Call, entry: Entry, number: int, memory: int) -> None:
        """Put `memory`, a descriptor that is closed here, in the place of `number`. Raises `Gone`, OSError, `Proceed`
        where there is no such descriptor any more."""
        fd = -1
        try:
            fd = call.duplicate(number)
            identity = _identity(memory)
            if self._table.find(os.fstat(fd)) is not entry or _identity(fd) == identity:
                return  # another one is there by now, or the memory still
            standin = StandIn(
                PidFd(group_of(call.tid)), call.tid, number, fd, close_on_exec(call.tid, number), identity
            )
            call.check()
            # Known before it is there: another thread may come upon it at once.
            by_memory = self._table.by_memory
            first = identity not in by_memory
            by_memory[identity] = entry
            put = False
            try:
                put = self._notifier.add_fd(call.id, memory, cloexec=standin.cloexec, send=False, replace=number) >= 0
            finally:
                if first and not put:
                    del by_memory[identity]
            if not put:
                raise Gone
            fd = -1
            self._all.append(standin)
            self.some = True
        finally:
            os.close(memory)
            if fd >= 0:
                os.close(fd)

    def put_back(self, notification: Notification) -> None:
        """A call was taken: put back what can be put back by it."""
        tid = notification.pid
        for standin in tuple(self._all):
            if tid != standin.tid:
                try:
                    if group_of(tid) != standin.process.tid:
                        continue
                except OSError:
                    continue
                if not standin.is_mapped():
                    continue
            if standin.is_there():
                put = self._notifier.add_fd(
                    notification.id, standin.fd, cloexec=standin.cloexec, send=False, replace=standin.number
                )
                if put < 0:
                    continue  # the call is gone; the next one does it
            self._forget(standin)

    def look(self) -> None:
        """Let go of those whose descriptor was closed."""
        for standin in tuple(self._all):
            if not standin.is_there():
                self._forget(standin)

    def clear(self) -> None:
        """Let go of all."""
        for standin in tuple(self._all):
            self._forget(standin)

    def _forget(self, standin: StandIn) -> None:
        self._all.remove(standin)
        self.some = bool(self._all)
        os.close(standin.fd)


def _identity(fd: int) -> Memory:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
