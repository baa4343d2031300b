"""The sockets that a command has, found by the inode of their channel's application's end.

By the inode, and not by who holds it under which number: so it is the same socket after dup, fork, exec, and in a
process that it was passed to.
"""

from __future__ import annotations

import os
from _socket import AF_PACKET, AF_UNIX, SOCK_STREAM, socketpair
from typing import Final, final

from usernet.netd.supervisor.process import PidFd

HOLDERS: Final = 3
"""Processes by whom a descriptor is looked for."""


@final
class Holders:
    """Who made the last calls on a socket, and by which number: there its descriptor can be had for a moment."""

    __slots__ = ("_known", "inode")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self._known: tuple[tuple[PidFd, int], ...] = ()

    def add(self, pidfd: PidFd, number: int) -> None:
        known = self._known
        if not known or known[0][0] is not pidfd or known[0][1] != number:
            self._known = ((pidfd, number), *[one for one in known if one[0].tid != pidfd.tid][: HOLDERS - 1])

    def __call__(self) -> int:
        """A duplicate of it, -1 where none of them has it any more. From any thread."""
        for pidfd, number in self._known:
            try:
                fd = pidfd.get_fd(number)
            except OSError:
                continue
            if os.fstat(fd).st_ino == self.inode:
                return fd
            os.close(fd)
        return -1


@final
class Entry:
    """A socket. stream: data goes through its descriptor alone."""

    __slots__ = ("family", "handle", "holders", "stream")

    def __init__(self, handle: int, inode: int, family: int, stream: bool) -> None:
        self.handle = handle
        self.family = family
        self.stream = stream
        self.holders = Holders(inode)


@final
class Table:
    """All of them. device: of the inodes, which are those of the kernel's sockets."""

    def __init__(self) -> None:
        self.by_inode: dict[int, Entry] = {}
        self.by_handle: dict[int, Entry] = {}
        self.by_memory: dict[tuple[int, int], Entry] = {}
        """By device and inode of the memory of its ring, which stands in its descriptor's place for a moment."""
        one, other = socketpair(AF_UNIX, SOCK_STREAM)
        self.device: int = os.fstat(one.fileno()).st_dev
        one.close()
        other.close()

    def find(self, status: os.stat_result) -> Entry | None:
        """Whose descriptor that is; None for one that is the host's."""
        if status.st_dev == self.device:
            return self.by_inode.get(status.st_ino)
        return self.by_memory.get((status.st_dev, status.st_ino)) if self.by_memory else None

    def add(self, entry: Entry) -> None:
        self.by_handle[entry.handle] = entry
        self.by_inode[entry.holders.inode] = entry

    def renewed(self, entry: Entry, inode: int) -> None:
        """Its channel is another one."""
        self.by_inode.pop(entry.holders.inode, None)
        entry.holders = Holders(inode)
        self.by_inode[inode] = entry

    def remove(self, handle: int) -> None:
        entry = self.by_handle.pop(handle, None)
        if entry is None:
            return
        if self.by_inode.get(entry.holders.inode) is entry:
            del self.by_inode[entry.holders.inode]
        if entry.family == AF_PACKET:
            for memory in [memory for memory, one in self.by_memory.items() if one is entry]:
                del self.by_memory[memory]

    def clear(self) -> None:
        self.by_handle.clear()
        self.by_inode.clear()
        self.by_memory.clear()
