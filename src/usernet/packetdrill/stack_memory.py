"""A script's memory as the stack reads and writes it: buffers at an address, or at NULL, where every access faults.

Used by `stack_calls`. Faults come at the byte that is touched (Linux: copy_from_iter, copy_to_iter), so that what a
call checks before it touches memory is still found first.
"""

from __future__ import annotations

import errno
from typing import final

from usernet.core.errors import error
from usernet.core.iov import IovIter, Payload
from usernet.packetdrill.target import Buffer


@final
class UserMemory(IovIter):
    """A row of buffers, consumed from the front: read when sending, written when receiving."""

    def __init__(self, buffers: list[Buffer]) -> None:
        super().__init__(sum(buffer.length for buffer in buffers))
        self._buffers = [buffer for buffer in buffers if buffer.length]
        self._index = 0
        self._offset = 0

    def _here(self) -> tuple[bytearray, int]:
        """The memory at the front, and how much of it is left. Raises EFAULT for NULL."""
        buffer = self._buffers[self._index]
        if buffer.data is None:
            raise error(errno.EFAULT)
        return buffer.data, buffer.length - self._offset

    def _advance(self, size: int) -> None:
        self.length -= size
        self._offset += size
        while self._index < len(self._buffers) - 1 and self._offset >= self._buffers[self._index].length:
            self._offset -= self._buffers[self._index].length
            self._index += 1

    def front(self) -> tuple[int, bool]:
        if not self.length:
            return 0, False
        return min(self._buffers[self._index].length - self._offset, self.length), False

    def read(self, size: int) -> Payload:
        pieces: list[bytes] = []
        left = min(size, self.length)
        done = 0
        while left:
            try:
                data, available = self._here()
            except OSError:
                self.revert(done)
                raise
            take = min(left, available)
            pieces.append(bytes(data[self._offset : self._offset + take]))
            self._advance(take)
            left -= take
            done += take
        return b"".join(pieces)

    def write(self, data: Payload) -> int:
        done = 0
        left = min(len(data), self.length)
        while left:
            memory, available = self._here()
            take = min(left, available)
            memory[self._offset : self._offset + take] = data[done : done + take]
            self._advance(take)
            left -= take
            done += take
        return done

    def revert(self, size: int) -> None:
        self.length += size
        while size > self._offset:
            size -= self._offset
            self._index -= 1
            self._offset = self._buffers[self._index].length
        self._offset -= size
