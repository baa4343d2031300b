"""sendto, sendmsg, sendmmsg, recvfrom, recvmsg, recvmmsg: data that comes with an address, ancillary data, or flags.

On a stream what a pair of UNIX sockets does as TCP does is left to the kernel, by the flags alone: nothing in memory is
looked at for that. All else is read from the process, or written there, here.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.netd.interface import Received
from usernet.netd.supervisor.call import INT_MASK, Call, Gone, Proceed, Steps, c_int
from usernet.netd.supervisor.memory import (
    MAX_RW_COUNT,
    MSG_CONTROLLEN_OFFSET,
    MSG_FLAGS_OFFSET,
    MSG_NAMELEN_OFFSET,
    TASK_SIZE,
    UserMsgHdr,
    Vector,
)
from usernet.netd.supervisor.table import Entry
from usernet.sock.msg import (
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_ERRQUEUE,
    MSG_FASTOPEN,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_WAITFORONE,
    MSG_ZEROCOPY,
)

SENT_BY_CALL: Final = MSG_OOB | MSG_MORE | MSG_EOR | MSG_ZEROCOPY | MSG_FASTOPEN
"""Flags of which a pair of UNIX sockets does not know what TCP makes of them."""
MSG_CMSG_CLOEXEC: Final = 0x40000000

STREAM_MAX: Final = 1 << 20
"""Bytes that one call sends on a stream, of which it may take fewer than it was given."""
DATAGRAM_MAX: Final = 1 << 19
"""Bytes of the largest datagram."""
CONTROL_MAX: Final = 1 << 17
"""Bytes of ancillary data (net.core.optmem_max)."""
UIO_MAXIOV: Final = 1024
"""Messages that one call sends or receives."""
MMSGHDR: Final = 64
MSG_LEN_OFFSET: Final = 56
NAME_MAX: Final = 128

_TIMESPEC: Final = Struct("=qq")


# -- sending


def _sendto(call: Call) -> Steps:
    _, address, length, flags, name_at, name_length = call.args
    flags &= INT_MASK
    entry = call.entry(waits=True)
    size = min(length, MAX_RW_COUNT)
    if address >= TASK_SIZE and size:
        raise error(errno.EFAULT)
    name = call.read_name(name_at, c_int(name_length)) if name_at else None
    return (yield from _send(call, entry, ((address, size),), size, flags, name or None, b""))


def _sendmsg(call: Call) -> Steps:
    flags = call.args[2] & INT_MASK
    entry = call.entry(waits=True)
    if entry.stream and not flags & SENT_BY_CALL:
        raise Proceed
    return (yield from _send_message(call, entry, call.args[1], flags))


def _sendmmsg(call: Call) -> Steps:
    _, address, count, flags, _, _ = call.args
    flags &= INT_MASK
    entry = call.entry(waits=True)
    if entry.stream and not flags & SENT_BY_CALL:
        raise Proceed
    missed = call.repeat()
    if missed is not None:
        return missed
    sent = 0
    for _ in range(min(count & INT_MASK, UIO_MAXIOV)):
        try:
            size = yield from _send_message(call, entry, address, flags, one=False)
            call.write(address + MSG_LEN_OFFSET, (size or 0).to_bytes(4, "little"))
        except OSError:
            if sent:
                break  # it is told at the next call
            raise
        sent += 1
        address += MMSGHDR
    return sent


def _send_message(call: Call, entry: Entry, address: int, flags: int, *, one: bool = True) -> Steps:
    memory = call.supervisor.memory
    message, vectors, size = _read_message(call, address)
    name = None
    if message.name and message.namelen:
        name = memory.read(call.tid, message.name, min(message.namelen, NAME_MAX))
    control = b""
    if message.control and message.controllen:
        if message.controllen > CONTROL_MAX:
            raise error(errno.ENOBUFS)
        control = memory.read(call.tid, message.control, message.controllen)
    return (yield from _send(call, entry, vectors, size, flags, name, control, one=one))


def _read_message(call: Call, address: int) -> tuple[UserMsgHdr, list[Vector], int]:
    """struct user_msghdr, and what its iovecs point to (Linux: copy_msghdr_from_user)."""
    memory = call.supervisor.memory
    message = memory.read_msghdr(call.tid, address)
    if message.namelen >> 31:
        raise error(errno.EINVAL)
    vectors = memory.read_iovecs(call.tid, message.iov, message.iovlen) if message.iovlen else []
    return message, vectors, sum([length for _, length in vectors])


def _send(
    call: Call,
    entry: Entry,
    vectors: Sequence[Vector],
    size: int,
    flags: int,
    name: bytes | None,
    control: bytes,
    *,
    one: bool = True,
) -> Steps:
    """one: it is all that the call sends."""
    most = STREAM_MAX if entry.stream else DATAGRAM_MAX
    data = call.supervisor.memory.gather(call.tid, vectors, min(size, most))
    call.check()
    if entry.stream and len(data) == most:
        size = most
    if one:
        missed = call.repeat(data)
        if missed is not None:
            return missed
    call.sigpipe = entry.stream and not flags & MSG_NOSIGNAL
    send = call.supervisor.backend.sendmsg
    sent: int = yield partial(send, entry.handle, data, size, flags, name, control, call.nonblock)
    return sent


# -- receiving


def _recvfrom(call: Call) -> Steps:
    _, address, length, flags, name_at, length_at = call.args
    flags &= INT_MASK
    entry = call.entry(waits=True)
    if entry.stream and not flags & MSG_ERRQUEUE:
        raise Proceed
    size = min(length, MAX_RW_COUNT)
    if address >= TASK_SIZE and size:
        raise error(errno.EFAULT)
    receive = call.supervisor.backend.recvmsg
    got: Received = yield partial(receive, entry.handle, min(size, DATAGRAM_MAX), flags, 0, call.nonblock)
    try:
        _scatter(call, ((address, size),), got.data)
        if name_at:
            call.write_name(got.name, name_at, length_at)
    except Gone:
        call.supervisor.backend.unreceive(entry.handle)
        raise
    if not call.answer(got.result):
        call.supervisor.backend.unreceive(entry.handle)
    return None


def _recvmsg(call: Call) -> Steps:
    flags = call.args[2] & INT_MASK
    entry = call.entry(waits=True)
    if entry.stream and not flags & MSG_ERRQUEUE:
        raise Proceed
    result = yield from _receive_message(call, entry, call.args[1], flags)
    if not call.answer(result or 0):
        call.supervisor.backend.unreceive(entry.handle)
    return None


def _recvmmsg(call: Call) -> Steps:
    _, address, count, flags, timeout_at, _ = call.args
    flags &= INT_MASK
    entry = call.entry(waits=True)
    if entry.stream and not flags & MSG_ERRQUEUE:
        raise Proceed
    until = None
    if timeout_at:
        seconds, nanoseconds = _TIMESPEC.unpack(call.read(timeout_at, _TIMESPEC.size))
        if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
            raise error(errno.EINVAL)
        until = time.monotonic() + seconds + nanoseconds / 1e9
    missed = call.repeat()
    if missed is not None:
        return missed
    received = 0
    try:
        for _ in range(min(count & INT_MASK, UIO_MAXIOV)):
            try:
                size = yield from _receive_message(call, entry, address, flags & ~MSG_WAITFORONE)
                call.write(address + MSG_LEN_OFFSET, (size or 0).to_bytes(4, "little"))
            except OSError:
                if received:
                    break
                raise
            received += 1
            address += MMSGHDR
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            if until is not None and time.monotonic() >= until:
                break
    except GeneratorExit:
        # A signal, while it waited for more: those that it has got are what it returns.
        if received:
            call.supervisor.missed.add(call, b"", received, 0)
        raise
    if until is not None:
        left = max(int((until - time.monotonic()) * 1e9), 0)
        call.write(timeout_at, _TIMESPEC.pack(*divmod(left, 1_000_000_000)))
    return received


def _receive_message(call: Call, entry: Entry, address: int, flags: int) -> Steps:
    message, vectors, size = _read_message(call, address)
    call.check()
    room = min(message.controllen, CONTROL_MAX) if message.control else 0
    backend = call.supervisor.backend
    flags &= ~MSG_CMSG_CLOEXEC
    got: Received = yield partial(backend.recvmsg, entry.handle, min(size, DATAGRAM_MAX), flags, room, call.nonblock)
    try:
        _scatter(call, vectors, got.data)
        if message.name:
            length = min(message.namelen, NAME_MAX)
            call.put_name(got.name, message.name, length, address + MSG_NAMELEN_OFFSET)
        if got.control:
            call.write(message.control, got.control)
        call.write(address + MSG_FLAGS_OFFSET, got.flags.to_bytes(4, "little"))
        call.write(address + MSG_CONTROLLEN_OFFSET, len(got.control).to_bytes(8, "little"))
    except Gone:
        backend.unreceive(entry.handle)
        raise
    return got.result


def _scatter(call: Call, vectors: Sequence[Vector], data: bytes) -> None:
    call.check()
    if data and call.supervisor.memory.scatter(call.tid, vectors, data) < len(data):
        raise error(errno.EFAULT)


HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {
    "sendto": _sendto,
    "sendmsg": _sendmsg,
    "sendmmsg": _sendmmsg,
    "recvfrom": _recvfrom,
    "recvmsg": _recvmsg,
    "recvmmsg": _recvmmsg,
}
