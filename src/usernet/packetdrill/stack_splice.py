"""sendfile and splice between a script's descriptors (Linux: fs/splice.c, tcp_splice_read, tcp_splice_eof).

Used by `stack_calls`. One side of a splice is a pipe. A socket is read as `read` would, but never past the urgent mark:
the byte there can't be spliced, and stops what is behind it.
"""

from __future__ import annotations

import errno
from typing import Final, TypeAlias

from usernet.core.errors import error
from usernet.core.iov import CollectIter, SourceIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLHUP, EPOLLIN, EPOLLOUT, Blocked, Blocking, Wait
from usernet.packetdrill.stack_files import MemoryFile, OpenFile, PipeEnd
from usernet.sock.msg import MSG_MORE, MsgHdr
from usernet.sockets.socket import Socket
from usernet.transport.tcp.sock import TcpSock

Outcome: TypeAlias = int | Blocked[int]

SIOCATMARK: Final = 0x8905
SPLICE_F_NONBLOCK: Final = 2
SPLICE_F_MORE: Final = 4
SPLICE_F_ALL: Final = 15


def sendfile(target: Socket, file: OpenFile, offset: int, count: int) -> Outcome:
    """Send at most `count` bytes of a file from `offset` on; 0 at its end. Raises EINVAL, and what send does."""
    if not isinstance(file, MemoryFile) or offset < 0:
        raise error(errno.EINVAL)
    data = file.take(count, offset)
    return target.sendmsg(MsgHdr(SourceIter([data])), 0) if data else 0


def splice(
    source: OpenFile, source_offset: int | None, target: OpenFile, target_offset: int | None, length: int, flags: int
) -> Outcome:
    """Move at most `length` bytes; 0 at the end of what is read.

    Raises OSError: EINVAL (no pipe among them, unknown flags, a place in what has none), ESPIPE (a place in a pipe),
    EAGAIN (SPLICE_F_NONBLOCK is about the pipe, O_NONBLOCK about each), and what reading and sending do.
    """
    if not length:
        return 0
    if flags & ~SPLICE_F_ALL or length < 0:
        raise error(errno.EINVAL)
    for file, offset in ((source, source_offset), (target, target_offset)):
        if offset is not None:
            raise error(errno.ESPIPE if isinstance(file, PipeEnd) else errno.EINVAL)
    if isinstance(target, PipeEnd) and isinstance(source, (Socket, MemoryFile)):
        if target.room():
            return _fill(source, target, length)
        if flags & SPLICE_F_NONBLOCK or target.nonblock:
            raise error(errno.EAGAIN)
        return _fill_later(source, target, length)
    if isinstance(source, PipeEnd) and isinstance(target, Socket):
        if source.pipe.data:
            return _drain(source, target, length, flags)
        if not source.pipe.writers:
            return 0
        if flags & SPLICE_F_NONBLOCK or source.nonblock:
            raise error(errno.EAGAIN)
        return _drain_later(source, target, length, flags)
    raise error(errno.EINVAL)


def _fill(source: Socket | MemoryFile, target: PipeEnd, length: int) -> Outcome:
    """Into a pipe that has room."""
    if isinstance(source, MemoryFile):
        piece = source.take(min(length, target.room()))
        target.put(piece)
        return len(piece)
    sk = source.sk
    if isinstance(sk, TcpSock) and sk.receive_queue.first is not None and sk.ioctl(SIOCATMARK):
        if source.nonblock:
            raise error(errno.EAGAIN)
        return 0
    sink = CollectIter(min(length, target.room()))
    outcome = source.recvmsg(MsgHdr(sink), 0)
    if isinstance(outcome, int):
        target.put(sink.getvalue())
        return outcome
    return _received(target, sink, outcome)


def _received(target: PipeEnd, sink: CollectIter, waiting: Blocked[int]) -> Blocking[int]:
    result = yield from waiting
    target.put(sink.getvalue())
    return result


def _fill_later(source: Socket | MemoryFile, target: PipeEnd, length: int) -> Blocking[int]:
    while not target.room():
        yield Wait((target.pipe.wait,), EPOLLOUT | EPOLLHUP, NEVER)
    outcome = _fill(source, target, length)
    return outcome if isinstance(outcome, int) else (yield from outcome)


def _drain(source: PipeEnd, target: Socket, length: int, flags: int) -> Outcome:
    """Out of a pipe that holds something. What the socket does not take stays in it."""
    data = source.take(length)
    try:
        outcome = target.sendmsg(MsgHdr(SourceIter([data])), MSG_MORE if flags & SPLICE_F_MORE else 0)
    except OSError:
        source.give_back(data)
        raise
    if isinstance(outcome, int):
        source.give_back(data[outcome:])
        return outcome
    return _sent(source, data, outcome)


def _sent(source: PipeEnd, data: bytes, waiting: Blocked[int]) -> Blocking[int]:
    taken = 0
    try:
        taken = yield from waiting
        return taken
    finally:
        source.give_back(data[taken:])


def _drain_later(source: PipeEnd, target: Socket, length: int, flags: int) -> Blocking[int]:
    while not source.pipe.data:
        if not source.pipe.writers:
            return 0
        yield Wait((source.pipe.wait,), EPOLLIN | EPOLLHUP, NEVER)
    outcome = _drain(source, target, length, flags)
    return outcome if isinstance(outcome, int) else (yield from outcome)
