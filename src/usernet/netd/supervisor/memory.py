"""The memory of another process: process_vm_readv(2), process_vm_writev(2).

What is read may change the moment after, and the process may be another by then: whoever acts on it asks first whether
the call that it belongs to is still pending (`Notifier.valid`), and reads nothing twice.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple, final

from usernet.core.errors import error

IOV_MAX: Final = 1024
MAX_RW_COUNT: Final = 0x7FFFF000
"""Bytes that one call moves at most (Linux: INT_MAX & PAGE_MASK)."""
TASK_SIZE: Final = 1 << 63
"""No address of a program is at or above it. Which of those below it has, the kernel knows."""

BUFFER: Final = 1 << 18
"""Bytes that are moved at a time."""

_IOVEC: Final = Struct("=QQ")
_PAIR: Final = Struct("=QQQQ")
_MSGHDR: Final = Struct("=QI4xQQQQi4x")
MSGHDR_SIZE: Final = _MSGHDR.size
MSG_FLAGS_OFFSET: Final = 48
MSG_NAMELEN_OFFSET: Final = 8
MSG_CONTROLLEN_OFFSET: Final = 40

Vector = tuple[int, int]
"""An address and a length in bytes."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_readv: Final = _libc.process_vm_readv
_writev: Final = _libc.process_vm_writev
for _call in (_readv, _writev):
    _call.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong,
    ]  # fmt: skip
    _call.restype = ctypes.c_ssize_t


class UserMsgHdr(NamedTuple):
    """struct user_msghdr: pointers and lengths as they stand in memory."""

    name: int
    namelen: int
    iov: int
    iovlen: int
    control: int
    controllen: int
    flags: int


@final
class Memory:
    """Reads and writes the memory of processes, for one thread. Addresses and lengths may be anything.

    All raise OSError: EFAULT where there is no such memory, ESRCH where there is no such process, EPERM.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(BUFFER)
        self._start: int = ctypes.addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B")
        # An iovec for our side, and a row for theirs.
        self._vectors = ctypes.create_string_buffer(_IOVEC.size * (IOV_MAX + 1))
        self._local: int = ctypes.addressof(self._vectors)
        self._remote: int = self._local + _IOVEC.size

    def read(self, pid: int, address: int, size: int) -> bytes:
        """All of the `size` bytes at `address`."""
        if 0 < size <= BUFFER and address < TASK_SIZE:
            _PAIR.pack_into(self._vectors, 0, self._start, size, address, size)
            if _readv(pid, self._local, 1, self._remote, 1, 0) == size:
                return ctypes.string_at(self._start, size)
        data = self.read_some(pid, address, size)
        if len(data) < size:
            raise error(errno.EFAULT)
        return data

    def read_some(self, pid: int, address: int, size: int) -> bytes:
        """The `size` bytes at `address`, as far as there is memory: all, some, or none."""
        return self.gather(pid, ((address, size),), size)

    def gather(self, pid: int, vectors: Sequence[Vector], size: int) -> bytes:
        """What lies in `vectors` one after the other, up to `size` bytes, as far as there is memory."""
        pieces: list[bytes] = []
        rest = [vector for vector in vectors if vector[1]]
        left = min(size, sum([length for _, length in rest]))
        while left:
            wanted = min(left, BUFFER)
            got = self._move(_readv, pid, rest, wanted)
            if got:
                pieces.append(ctypes.string_at(self._start, got))
            if got < wanted:
                break
            left -= got
            rest = skip(rest, got)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, pid: int, address: int, data: bytes) -> None:
        """Put all of `data` at `address`."""
        size = len(data)
        if 0 < size <= BUFFER and address < TASK_SIZE:
            _PAIR.pack_into(self._vectors, 0, self._start, size, address, size)
            self._view[:size] = data
            if _writev(pid, self._local, 1, self._remote, 1, 0) == size:
                return
        if self.scatter(pid, ((address, len(data)),), data) < len(data):
            raise error(errno.EFAULT)

    def scatter(self, pid: int, vectors: Sequence[Vector], data: bytes | memoryview) -> int:
        """Put `data` into `vectors` one after the other; returns how many bytes there was memory for."""
        rest = [vector for vector in vectors if vector[1]]
        view = memoryview(data)
        done = 0
        end = min(len(view), sum([length for _, length in rest]))
        while done < end:
            wanted = min(end - done, BUFFER)
            self._view[:wanted] = view[done : done + wanted]
            put = self._move(_writev, pid, rest, wanted)
            done += put
            if put < wanted:
                break
            rest = skip(rest, put)
        return done

    def _move(self, call: object, pid: int, vectors: Sequence[Vector], size: int) -> int:
        """Move `size` bytes between our buffer and `vectors`; returns how many it were."""
        _IOVEC.pack_into(self._vectors, 0, self._start, size)
        count = 0
        left = size
        offset = _IOVEC.size
        for address, length in vectors:
            take = min(length, left)
            if address >= TASK_SIZE:
                break
            _IOVEC.pack_into(self._vectors, offset, address, take)
            offset += _IOVEC.size
            count += 1
            left -= take
            if not left or count == IOV_MAX:
                break
        if not count:
            return 0
        moved: int = call(pid, self._local, 1, self._remote, count, 0)  # type: ignore[operator]
        if moved < 0:
            code = ctypes.get_errno()
            if code == errno.EFAULT:
                return 0
            raise error(code)
        return moved

    # -- structures

    def read_iovecs(self, pid: int, address: int, count: int) -> list[Vector]:
        """An array of `count` struct iovec (Linux: import_iovec). Raises OSError EMSGSIZE above IOV_MAX of them, as the
        message calls do, EINVAL for a length below zero."""
        if count > IOV_MAX:
            raise error(errno.EMSGSIZE)
        vectors = list(_IOVEC.iter_unpack(self.read(pid, address, count * _IOVEC.size)))
        left = MAX_RW_COUNT
        found: list[Vector] = []
        for start, length in vectors:
            if length >= 1 << 63:
                raise error(errno.EINVAL)
            if start >= TASK_SIZE and length:
                raise error(errno.EFAULT)
            take = min(length, left)
            left -= take
            found.append((start, take))
        return found

    def read_msghdr(self, pid: int, address: int) -> UserMsgHdr:
        """A struct user_msghdr."""
        return UserMsgHdr(*_MSGHDR.unpack(self.read(pid, address, MSGHDR_SIZE)))


def skip(vectors: Sequence[Vector], size: int) -> list[Vector]:
    """What is left of `vectors` behind their first `size` bytes."""
    rest: list[Vector] = []
    for address, length in vectors:
        if size >= length:
            size -= length
            continue
        rest.append((address + size, length - size))
        size = 0
    return rest
