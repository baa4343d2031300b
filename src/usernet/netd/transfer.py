"""Data that a call sends or receives, in place of the socket's descriptor: with an address, ancillary data, or a flag
that a pair of UNIX sockets does not know.

What is sent on a stream comes behind what was written to its descriptor. A datagram is received from the pair, if it
was put there, with what is remembered of it; one who waits gets it from the receive queue, past the pair.
"""

from __future__ import annotations

import errno

from usernet.core.errors import error
from usernet.core.iov import BytesIter, CollectIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, Blocked, Blocking, Wait
from usernet.netd.interface import Received
from usernet.netd.layouts import pack_control, short, unpack_control, unpack_name
from usernet.netd.opensocket import Later, OpenSocket
from usernet.netd.part import PartIter
from usernet.posix.channel import DatagramChannel, StreamChannel
from usernet.posix.channel.datagram import LARGEST
from usernet.sock.msg import (
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_FASTOPEN,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    MsgHdr,
)
from usernet.sock.optval import pack_name
from usernet.sockets.socket import Socket


def send(
    opened: OpenSocket, data: bytes, size: int, flags: int, name: bytes | None, control: bytes
) -> int | Later:
    """See `Backend.sendmsg`."""
    socket = opened.socket
    sk = socket.sk
    stream = isinstance(opened.channel, StreamChannel)
    to = None
    if name is not None and (not stream or flags & MSG_FASTOPEN):
        to = unpack_name(sk, short(name))
    items = unpack_control(control) if control else None
    msg = MsgHdr(BytesIter(data) if size == len(data) else PartIter(data, size), to, items)
    if isinstance(opened.channel, DatagramChannel):
        opened.channel.settle()
        sent = socket.sendmsg(msg, flags | MSG_NOSIGNAL)
        return sent if isinstance(sent, int) else Later(sent)
    channel = opened.channel
    now = socket.loop.now
    if channel.ready and not channel.over:
        waits = not socket.nonblock and not flags & MSG_DONTWAIT
        drained = channel.drain(min(now + sk.sndtimeo, NEVER) if waits else now)
        if drained is not None:
            return Later(_send_behind(drained, socket, msg, flags))
    try:
        sent = socket.sendmsg(msg, flags | MSG_NOSIGNAL)
    finally:
        channel.follow()
    return sent if isinstance(sent, int) else Later(sent)


def _send_behind(drained: Blocking[None], socket: Socket, msg: MsgHdr, flags: int) -> Blocking[int]:
    """Send behind what was written to the descriptor."""
    yield from drained
    sent = socket.sendmsg(msg, flags | MSG_NOSIGNAL)
    return sent if isinstance(sent, int) else (yield from sent)


def receive(opened: OpenSocket, size: int, flags: int, room: int) -> Received | Later:
    """See `Backend.recvmsg`."""
    socket = opened.socket
    channel = opened.channel
    if isinstance(channel, DatagramChannel) and not channel.over and not flags & MSG_ERRQUEUE:
        got = _receive(opened, channel, size, flags, room)
        if got is not None:
            return got
        if socket.nonblock or flags & MSG_DONTWAIT:
            raise error(errno.EAGAIN)
        return Later(_receive_later(opened, channel, size, flags, room))
    sink = CollectIter(size)
    msg = MsgHdr(sink)
    result = socket.recvmsg(msg, flags)
    if isinstance(result, int):
        return _received(sink.getvalue(), result, msg, room)
    return Later(_read_later(result, sink, msg, room))


def _read_later(waiting: Blocked[int], sink: CollectIter, msg: MsgHdr, room: int) -> Blocking[Received]:
    result = yield from waiting
    return _received(sink.getvalue(), result, msg, room)


def _received(data: bytes, result: int, msg: MsgHdr, room: int) -> Received:
    control, cut = pack_control(msg.control, room)
    name = b"" if msg.name is None else pack_name(msg.name)
    return Received(data, result, name, control, msg.flags | MSG_CTRUNC if cut else msg.flags)


def _receive(opened: OpenSocket, channel: DatagramChannel, size: int, flags: int, room: int) -> Received | None:
    """A datagram, from the pair or from the receive queue; None where there is none."""
    socket = opened.socket
    sk = socket.sk
    sk.raise_error()
    got = channel.receive(max(size, 65536), flags & ~MSG_TRUNC)
    if got is not None:
        data, length, msg = got
    else:
        sink = CollectIter(LARGEST)
        msg = MsgHdr(sink)
        try:
            sk.recvmsg(msg, flags & ~MSG_TRUNC | MSG_DONTWAIT, socket.loop.now)
        except BlockingIOError:
            return None
        data = sink.getvalue()
        length = len(data)
    opened.taken = None if flags & MSG_PEEK else (data, msg)
    answer = _received(data[:size], length if flags & MSG_TRUNC else min(length, size), msg, room)
    answer.flags = answer.flags & ~MSG_TRUNC | (MSG_TRUNC if length > size else 0)
    return answer


def _receive_later(
    opened: OpenSocket, channel: DatagramChannel, size: int, flags: int, room: int
) -> Blocking[Received]:
    sk = opened.socket.sk
    loop = opened.socket.loop
    deadline = NEVER if sk.rcvtimeo >= NEVER else loop.now + sk.rcvtimeo
    channel.receivers += 1
    try:
        while True:
            got = _receive(opened, channel, size, flags, room)
            if got is not None:
                return got
            if loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, deadline, exclusive=True)
    finally:
        channel.receivers -= 1
        if not channel.receivers and not channel.over:
            loop.softirq.schedule(channel)
