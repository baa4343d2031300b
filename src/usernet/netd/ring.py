"""The memory of a packet socket's ring: a file of no file system (memfd_create(2)), which a program can map.

It is sealed, so that nobody who has its descriptor can make it shorter: reading behind its end would be a SIGBUS here.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.posix.channel import DatagramChannel
from usernet.sockets.packet import PacketSock

if TYPE_CHECKING:
    from usernet.netd.opensocket import OpenSocket

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@final
class RingMemory:
    """`size` bytes, all zero. view: of them, the ring's to release. Raises OSError: EMFILE, ENOMEM."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._fd = os.memfd_create("usernet-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, size)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
            self.view = memoryview(mmap.mmap(self._fd, size))
        except BaseException:
            os.close(self._fd)
            raise

    def descriptor(self, size: int) -> int:
        """A descriptor of it, the caller's, for a mapping of `size` bytes from its start on. Raises OSError EINVAL
        where that is not all of it (Linux: packet_mmap)."""
        if (size + mmap.PAGESIZE - 1) & -mmap.PAGESIZE != self.size:
            raise error(errno.EINVAL, f"mmap: expected {self.size} bytes, all of the ring, not {size}")
        return os.dup(self._fd)

    def close(self) -> None:
        """Let go of it. The program's mapping of it stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def ring_descriptor(opened: OpenSocket, size: int) -> int:
    """See `Backend.ring`. Raises OSError."""
    if opened.ring is not None:
        return opened.ring.descriptor(size)
    raise error(errno.EINVAL if isinstance(opened.socket.sk, PacketSock) else errno.ENODEV)


def ring_changed(opened: OpenSocket) -> None:
    """A packet socket has got a ring, or has none any more."""
    channel, sk = opened.channel, opened.socket.sk
    if isinstance(sk, PacketSock) and sk.ring is None and opened.ring is not None:
        opened.ring.close()
        opened.ring = None
    if isinstance(channel, DatagramChannel) and not channel.over:
        channel.ring_changed()
