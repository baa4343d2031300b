"""The calls that move data, from a program's arguments to its protocol and back (Linux: sys_recvfrom, sys_sendto).

What `SocketBase` does behind its methods: those stay interpreted, for programs subclass them, and this is compiled.
`timeout` is the handle's, in ns: below 0 the socket's own time-out holds (SO_RCVTIMEO, SO_SNDTIMEO), 0 never waits.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from usernet.core.errors import error
from usernet.core.iov import CollectIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLOUT, Blocking, Wait
from usernet.sock.msg import MSG_DONTWAIT, MSG_WAITALL, MsgHdr
from usernet.sock.sock import Sock
from usernet.sockets import arguments
from usernet.sockets.socket import Socket, timed_out

NEGATIVE_SIZE: Final = "negative buffersize in recv"


def recv(socket: Socket, timeout: int, bufsize: Any, flags: Any) -> bytes:
    """At most `bufsize` bytes; b"" at the end of a stream."""
    sink = CollectIter(arguments.size(bufsize, NEGATIVE_SIZE))
    recvmsg(socket, timeout, MsgHdr(sink), arguments.c_int(flags))
    return sink.getvalue()


def recvmsg(socket: Socket, timeout: int, msg: MsgHdr, flags: int) -> int:
    """Receive one message, or what a stream has. Raises OSError, TimeoutError."""
    sk = socket.sk
    now = socket.loop.enter()
    try:
        socket.check_open()
        if timeout < 0:
            timeo = sk.rcvtimeo
            deadline = NEVER if timeo == NEVER else now + timeo
        elif timeout == 0:
            flags |= MSG_DONTWAIT
            deadline = now
        else:
            # The standard module waits itself, and then asks once for what there is.
            flags &= ~(MSG_WAITALL | MSG_DONTWAIT)
            deadline = now + timeout
        result = sk.recvmsg(msg, flags, deadline)
        return result if isinstance(result, int) else socket.block(result, timeout)
    finally:
        socket.leave()


def send(socket: Socket, timeout: int, data: Any, flags: Any) -> int:
    """Send; returns how many bytes were taken, which a stream may make fewer than all."""
    return sendmsg(socket, timeout, MsgHdr(arguments.source(data)), arguments.c_int(flags))


def sendmsg(socket: Socket, timeout: int, msg: MsgHdr, flags: int, deadline: int = -1) -> int:
    """Send what of one message is taken. Raises OSError, TimeoutError.

    deadline (ns): where a time-out is set, wait until then for all to be taken.
    """
    sk = socket.sk
    now = socket.loop.enter()
    try:
        socket.check_open()
        if timeout < 0:
            timeo = sk.sndtimeo
            result = sk.sendmsg(msg, flags, NEVER if timeo == NEVER else now + timeo)
        elif timeout == 0:
            result = sk.sendmsg(msg, flags | MSG_DONTWAIT, now)
        elif deadline >= 0:
            result = sk.sendmsg(msg, flags & ~MSG_DONTWAIT, deadline)
        else:
            result = _try_send(sk, msg, flags)
            if result < 0:
                result = _send_when_writable(sk, msg, flags, now + timeout)
        return result if isinstance(result, int) else socket.block(result, timeout)
    finally:
        socket.leave()


def sendall(socket: Socket, timeout: int, data: Any, flags: Any) -> None:
    """Send all of `data`; the time-out holds for the whole."""
    source = arguments.source(data)
    flags = arguments.c_int(flags)
    msg = MsgHdr(source)
    if timeout <= 0:
        sendmsg(socket, timeout, msg, flags)
        while source.length:
            sendmsg(socket, timeout, msg, flags)
        return
    clock = socket.loop.clock
    deadline = clock.now() + timeout
    sendmsg(socket, timeout, msg, flags, deadline)
    while source.length:
        if clock.now() >= deadline:
            raise timed_out()
        sendmsg(socket, timeout, msg, flags, deadline)


def _try_send(sk: Sock, msg: MsgHdr, flags: int) -> int:
    """Send without waiting; -1 where there is no room."""
    before = msg.iter.length
    try:
        result = sk.sendmsg(msg, flags | MSG_DONTWAIT, sk.loop.now)
    except BlockingIOError as cause:
        if cause.errno != errno.EAGAIN:
            raise
        if msg.iter.length < before:
            msg.iter.revert(before - msg.iter.length)
        return -1
    if not isinstance(result, int):
        raise error(errno.EAGAIN)
    return result


def _send_when_writable(sk: Sock, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int]:
    """Wait for room until `deadline`, then send what fits, as the standard module does under a time-out."""
    while True:
        result = _try_send(sk, msg, flags)
        if result >= 0:
            return result
        if sk.loop.now >= deadline:
            raise timed_out()
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
