"""Data to be sent of which a part may be missing: it was read from memory that ends before its length does."""

from __future__ import annotations

import errno
from typing import final

from usernet.core.errors import error
from usernet.core.iov import IovIter, Payload


@final
class PartIter(IovIter):
    """`size` bytes to send, of which only the first, `data`, are there: reading behind them is EFAULT, at the moment
    Linux would find out."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(size)
        self._data = data
        self._offset: int = 0

    def read(self, size: int) -> Payload:
        size = min(size, self.length)
        start = self._offset
        if start + size > len(self._data):
            raise error(errno.EFAULT)
        self._offset = start + size
        self.length -= size
        return self._data[start : start + size]

    def front(self) -> tuple[int, bool]:
        return self.length, False

    def write(self, data: Payload) -> int:
        raise error(errno.EFAULT, "memory given to be sent can't be written to")

    def revert(self, size: int) -> None:
        self._offset -= size
        self.length += size
