"""Ends that stand alone: the descriptor of a stream socket before it is connected or listens.

On such a socket recv(2) fails at once and poll(2) says POLLOUT | POLLHUP; an end of a pair would have one wait. So the
application's end is a UNIX socket that is not connected. It is joined to the stack's, in place, when a call makes a
connection of it: it is connected to a listener of the stack's own, wherever it has got to by then.

What nobody tells of, the close of such an end by the last who had it, is told by inotify(7). It goes on telling of it
after the end was joined, when it is not always clear from the pair alone.
"""

from __future__ import annotations

import ctypes
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket
from collections.abc import Callable
from struct import Struct
from typing import Final, final

from usernet.core.softirq import Napi
from usernet.net.pernet import Net
from usernet.posix.channel.peer import which_are_open

IN_CLOSE: Final = 0x8 | 0x10
IN_Q_OVERFLOW: Final = 0x4000
IN_CLOEXEC: Final = os.O_CLOEXEC
IN_NONBLOCK: Final = os.O_NONBLOCK
BACKLOG: Final = 16

_EVENT: Final = Struct("=iIII")


@final
class Singles(Napi):
    """The ends of one stack that stand alone, or did at first. `waiting`: by inotify's number, the inode of one, and
    whom to tell of its close."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._loop = net.loop
        self._fd: int = -1
        self._libc: ctypes.CDLL | None = None
        self._listener: socket | None = None
        self._name: bytes = b""
        self.waiting: dict[int, tuple[int, Callable[[], None]]] = {}

    def _open(self) -> ctypes.CDLL:
        """Raises OSError where there is no inotify to be had, or it can't be watched."""
        libc = self._libc
        if libc is None:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "inotify_init1")
            listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            listener.bind(b"")  # the kernel chooses a name that nobody has
            listener.listen(BACKLOG)
            trampoline = self._loop.trampoline
            assert trampoline is not None
            trampoline.watch(fd, self._loop, self)
            self._fd = fd
            self._listener = listener
            self._name = listener.getsockname()
            self._libc = libc
        return libc

    def add(self, fd: int, inode: int, gone: Callable[[], None]) -> int:
        """Have `gone` called, under the lock, when the last descriptor of the file behind `fd` is closed, whose inode
        that is. Returns a number for `discard`. Raises OSError."""
        libc = self._open()
        watch: int = libc.inotify_add_watch(self._fd, f"/proc/self/fd/{fd}".encode(), IN_CLOSE)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self.waiting[watch] = (inode, gone)
        return watch

    def discard(self, watch: int) -> None:
        """It is not to be told of any more."""
        if self.waiting.pop(watch, None) is not None and self._libc is not None:
            self._libc.inotify_rm_watch(self._fd, watch)

    def join(self, end: socket) -> socket:
        """Connect `end`; returns the other one, non-blocking. Raises OSError."""
        self._open()
        listener = self._listener
        assert listener is not None
        end.connect(self._name)
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        own = socket(AF_UNIX, SOCK_STREAM, 0, fd)
        own.setblocking(False)
        return own

    def poll(self, budget: int) -> int:
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return 0
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            if mask & IN_CLOSE:
                known = self.waiting.pop(watch, None)
                if known is not None:
                    known[1]()
            elif mask & IN_Q_OVERFLOW:
                self._look_after_all()
        return 1

    def _look_after_all(self) -> None:
        """More was closed at once than the kernel remembers (fs.inotify.max_queued_events)."""
        try:
            still = which_are_open([inode for inode, _ in self.waiting.values()])
        except OSError:
            return
        for watch, (inode, gone) in tuple(self.waiting.items()):
            if inode not in still:
                self.waiting.pop(watch, None)
                gone()

    def close(self) -> None:
        """The stack ends."""
        if self._fd >= 0:
            trampoline = self._loop.trampoline
            if trampoline is not None:
                trampoline.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._libc = None
        self.waiting.clear()
