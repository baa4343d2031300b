"""User memory: the one type by which an application's buffers reach the stack (Linux: `struct iov_iter`).

In process it is a row of Python buffers; a script, a supervised program or a remote client brings memory that may turn
out to be nowhere, and then reading or writing it is EFAULT, at the moment Linux would find out. `bytes` given to be
sent are referenced, not copied: nobody can change them behind the stack's back.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from usernet.core.errors import error
from usernet.core.native import mypyc_attr

Payload = bytes | memoryview
"""What the stack keeps of data to be sent: memory that nobody writes to any more."""


@mypyc_attr(allow_interpreted_subclasses=True)
class IovIter:
    """Memory to read from (sending) or to write to (receiving), consumed from the front.

    `length`: bytes still to go. Subclass for memory that can fault.
    """

    def __init__(self, length: int) -> None:
        self.length: int = length

    def read(self, size: int) -> Payload:
        """The next `size` bytes (at most `length`), to keep. Raises EFAULT where there is no such memory."""
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def front(self) -> tuple[int, bool]:
        """How many bytes lie in one piece at the front, and whether `read` gives them by reference."""
        return self.length, False

    def write(self, data: Payload) -> int:
        """Copy `data` in at the front; returns how much of it fitted. Raises EFAULT where there is no such memory."""
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def revert(self, size: int) -> None:
        """Un-read the last `size` bytes (Linux: iov_iter_revert), for a call that is tried again."""
        raise NotImplementedError(f"{type(self).__name__} must define revert()")


class BytesIter(IovIter):
    """Data to send that is one `bytes`: referenced, never copied."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset: int = 0
        self.length: int = len(data)

    def front(self) -> tuple[int, bool]:
        return self.length, True

    def read(self, size: int) -> Payload:
        data = self._data
        offset = self._offset
        if size >= self.length:
            size = self.length
            self._offset = offset + size
            self.length = 0
            return memoryview(data)[offset:] if offset else data
        self._offset = offset + size
        self.length -= size
        return memoryview(data)[offset : offset + size]

    def write(self, data: Payload) -> int:
        raise error(errno.EFAULT, "memory given to be sent can't be written to")

    def revert(self, size: int) -> None:
        self._offset -= size
        self.length += size


class SourceIter(IovIter):
    """Data to send from Python buffers. What is `bytes` is referenced; what can be written to is copied once."""

    def __init__(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        views: list[memoryview] = []
        self._whole: bytes | None = None
        total = 0
        for buffer in buffers:
            if type(buffer) is bytes and not views:
                self._whole = buffer
            view = memoryview(buffer).cast("B")
            views.append(view)
            total += len(view)
        if len(views) != 1:
            self._whole = None
        self._views = views
        self._index = 0
        self._offset = 0
        super().__init__(total)

    def read(self, size: int) -> Payload:
        if size > self.length:
            size = self.length
        if size == 0:
            return b""
        if self._whole is not None and size == len(self._whole):
            self._offset = size
            self.length = 0
            return self._whole
        view = self._views[self._index]
        offset = self._offset
        available = len(view) - offset
        if available >= size:
            part = view[offset : offset + size]
            self._advance(size)
            return part if type(view.obj) is bytes else part.tobytes()
        pieces: list[memoryview] = []
        left = size
        while left:
            view = self._views[self._index]
            part = view[self._offset : self._offset + left]
            pieces.append(part)
            left -= len(part)
            self._advance(len(part))
        return b"".join(pieces)

    def front(self) -> tuple[int, bool]:
        while self._index < len(self._views) - 1 and self._offset >= len(self._views[self._index]):
            self._offset -= len(self._views[self._index])
            self._index += 1
        view = self._views[self._index]
        return min(len(view) - self._offset, self.length), type(view.obj) is bytes

    def _advance(self, size: int) -> None:
        self.length -= size
        self._offset += size
        while self._index < len(self._views) - 1 and self._offset >= len(self._views[self._index]):
            self._offset -= len(self._views[self._index])
            self._index += 1

    def write(self, data: Payload) -> int:
        raise error(errno.EFAULT, "memory given to be sent can't be written to")

    def revert(self, size: int) -> None:
        self.length += size
        while size > self._offset:
            size -= self._offset
            self._index -= 1
            self._offset = len(self._views[self._index])
        self._offset -= size


class BufferIter(IovIter):
    """Received data into one writable buffer."""

    def __init__(self, buffer: bytearray | memoryview) -> None:
        """buffer: of bytes, not of anything larger."""
        self._view = memoryview(buffer)
        self._offset: int = 0
        self.length: int = len(buffer)

    def read(self, size: int) -> Payload:
        raise error(errno.EFAULT, "memory to receive into can't be sent from")

    def write(self, data: Payload) -> int:
        size = len(data)
        if size > self.length:
            size = self.length
            data = memoryview(data)[:size]
        start = self._offset
        self._offset = end = start + size
        self._view[start:end] = data
        self.length -= size
        return size


class SinkIter(IovIter):
    """Received data into a row of writable Python buffers."""

    def __init__(self, buffers: Iterable[bytearray | memoryview]) -> None:
        self._views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._index: int = 0
        self._offset: int = 0
        super().__init__(sum([len(view) for view in self._views]))

    def read(self, size: int) -> Payload:
        raise error(errno.EFAULT, "memory to receive into can't be sent from")

    def write(self, data: Payload) -> int:
        total = len(data)
        if total > self.length:
            data = memoryview(data)[: self.length]
            total = self.length
        if not total:
            return 0
        view = self._views[self._index]
        start = self._offset
        end = start + total
        if end <= len(view):
            view[start:end] = data
            self._offset = end
        else:
            self._scatter(memoryview(data))
        self.length -= total
        return total

    def _scatter(self, data: memoryview) -> None:
        """Write what goes beyond the current buffer."""
        while data:
            view = self._views[self._index]
            take = min(len(view) - self._offset, len(data))
            view[self._offset : self._offset + take] = data[:take]
            data = data[take:]
            self._offset += take
            if data:
                self._index += 1
                self._offset = 0


class CollectIter(IovIter):
    """Received data as new `bytes`: gathers references, and joins them once at the end."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self._pieces: list[Payload] = []

    def read(self, size: int) -> Payload:
        raise error(errno.EFAULT, "memory to receive into can't be sent from")

    def write(self, data: Payload) -> int:
        if len(data) > self.length:
            data = memoryview(data)[: self.length]
        self._pieces.append(data)
        self.length -= len(data)
        return len(data)

    def getvalue(self) -> bytes:
        """All that was written."""
        pieces = self._pieces
        if len(pieces) == 1:
            piece = pieces[0]
            return piece if type(piece) is bytes else bytes(piece)
        return b"".join(pieces)
