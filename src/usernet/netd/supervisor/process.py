"""The descriptors of other processes: pidfd_open(2), pidfd_getfd(2).

A descriptor in the arguments of a call is a number of the process that made it. What is behind it is found out by
having a duplicate of it for a moment. For a moment only: as long as there is one, the application's close is not seen.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict
from typing import Final, final

from usernet.core.errors import error

PIDFD_THREAD: Final = os.O_EXCL
"""A pidfd of a thread, by its own number (Linux 6.9)."""
SYS_PIDFD_GETFD: Final = 438
"""On every architecture."""
THREADS_MAX: Final = 1024
"""Threads of which a pidfd is kept."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_GETFD: Final = ctypes.c_long(SYS_PIDFD_GETFD)


@final
class PidFd:
    """A thread, for as long as it lives: its number may be another's afterwards. fd: closed with the last reference."""

    __slots__ = ("fd", "tid")

    def __init__(self, tid: int) -> None:
        """Raises OSError ESRCH."""
        self.fd: int = -1
        self.tid = tid
        try:
            self.fd = os.pidfd_open(tid, PIDFD_THREAD)
        except OSError as problem:
            if problem.errno != errno.EINVAL:
                raise
            self.fd = os.pidfd_open(group_of(tid), 0)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def get_fd(self, number: int) -> int:
        """A duplicate of its descriptor `number`, close-on-exec. Raises OSError: EBADF, ESRCH (it is gone), EPERM,
        EMFILE."""
        fd: int = _syscall(_GETFD, self.fd, number, 0)
        if fd < 0:
            raise error(ctypes.get_errno())
        return fd


def group_of(tid: int) -> int:
    """The process of a thread. Raises OSError ESRCH."""
    try:
        with open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    raise error(errno.ESRCH)


@final
class Threads:
    """The threads that made calls lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, PidFd] = OrderedDict()

    def of(self, tid: int) -> PidFd:
        """Raises OSError ESRCH. Whether it is still the thread that is meant, the caller finds out afterwards."""
        known = self._known
        pidfd = known.get(tid)
        if pidfd is None:
            pidfd = known[tid] = PidFd(tid)
            if len(known) > THREADS_MAX:
                known.popitem(last=False)
        return pidfd

    def forget(self, tid: int) -> None:
        self._known.pop(tid, None)

    def clear(self) -> None:
        self._known.clear()


def close_on_exec(tid: int, number: int) -> bool:
    """Whether a descriptor of another process has FD_CLOEXEC (proc(5): fdinfo)."""
    try:
        with open(f"/proc/{tid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags:"):
                    return bool(int(line.split()[1], 8) & os.O_CLOEXEC)
    except (OSError, ValueError):
        pass
    return False
