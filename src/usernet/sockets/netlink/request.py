"""A request to the kernel's side of netlink, and its answers (Linux: netlink_rcv_skb, netlink_ack, netlink_dump_start).

A handler is called with a `Request`. It answers with `reply` (one message) or `dump` (a row of them), and fails by
raising `OSError`, whose errno becomes the acknowledgement, and whose text, where it has one of its own, the extended
acknowledgement.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.wire import netlink as wire
from usernet.wire.errors import WireError

if TYPE_CHECKING:
    from usernet.sockets.netlink.af_netlink import NetlinkSock

_ERRNO: Final = Struct("=i")

Messages = Iterator[tuple[int, bytes]]
"""The messages of a dump: type, and what is behind the header."""
Handler = Callable[["Request"], None]


@final
class Request:
    """One message to the kernel. `data` is what is behind its header; `strict`: the sender wants to be told of what is
    not understood (NETLINK_GET_STRICT_CHK)."""

    __slots__ = ("data", "flags", "header", "seq", "sk", "strict", "type")

    def __init__(self, sk: NetlinkSock, message: bytes) -> None:
        """message: header and data."""
        _, self.type, self.flags, self.seq, _ = wire.parse(message, 0)
        self.sk = sk
        self.header: bytes = message[: wire.NLMSG_HDRLEN]
        self.data: bytes = message[wire.NLMSG_HDRLEN :]
        self.strict: bool = sk.strict

    @property
    def is_dump(self) -> bool:
        return self.flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP

    def attributes(self, offset: int) -> dict[int, bytes]:
        """The attributes behind a header of `offset` bytes. Raises OSError EINVAL where the data is shorter, or,
        strictly, where something is left over."""
        if len(self.data) < offset:
            raise error(errno.EINVAL)
        try:
            return wire.attributes(self.data, offset + 3 & ~3, self.strict and self.type & 3 == 2)
        except WireError as bad:
            raise error(errno.EINVAL, bad.what) from None

    def reply(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Send one message to the asker."""
        self.sk.unicast_from_kernel(wire.build(kind, flags, self.seq, self.sk.portid, payload))

    def dump(self, messages: Messages, flags: int = 0) -> None:
        """Send a row of messages to the asker, as fast as it reads them, with NLMSG_DONE at the end. An `OSError` that
        the iterator raises ends the row, and is told there. flags: of each message, besides NLM_F_MULTI.

        Raises OSError EBUSY where the asker has not read another row to its end.
        """
        self.sk.start_dump(self, messages, flags)


@final
class Dump:
    """A row of messages of which the asker has not had the last."""

    __slots__ = ("flags", "held", "messages", "seq")

    def __init__(self, request: Request, messages: Messages, flags: int) -> None:
        self.seq = request.seq
        self.messages = messages
        self.flags = flags | wire.NLM_F_MULTI
        self.held: bytes = b""
        """A message for which there was no room in the last datagram."""

    def fill(self, port: int, size: int, extended: bool) -> tuple[bytes, bool]:
        """The next datagram, of at most `size` bytes where its first message leaves it so; and whether the row ends
        with it. extended: the asker wants errors with their text."""
        parts: list[bytes] = []
        used = 0
        code = 0
        text = b""
        try:
            while True:
                message = self.held
                if message:
                    self.held = b""
                else:
                    found = next(self.messages, None)
                    if found is None:
                        break
                    message = wire.build(found[0], self.flags, self.seq, port, found[1])
                if parts and used + len(message) > size:
                    self.held = message
                    return b"".join(parts), False
                parts.append(message)
                used += len(message)
        except OSError as problem:
            code = problem.errno or errno.EINVAL
            text = _tlvs(problem) if extended else b""
        if parts and not code:
            return b"".join(parts), False
        flags = self.flags | (wire.NLM_F_ACK_TLVS if text else 0)
        parts.append(wire.build(wire.NLMSG_DONE, flags, self.seq, port, _ERRNO.pack(-code) + text))
        return b"".join(parts), True


def _tlvs(problem: OSError) -> bytes:
    """What the extended acknowledgement says of an error beyond its number."""
    text = problem.strerror
    if not text or text == os.strerror(problem.errno or 0):
        return b""
    return wire.string(wire.NLMSGERR_ATTR_MSG, text)


def acknowledge(request: Request, problem: OSError | None) -> None:
    """Linux: netlink_ack. The request comes back with an error, unless the asker wants it short."""
    sk = request.sk
    code = (problem.errno or errno.EINVAL) if problem is not None else 0
    flags = 0
    payload = _ERRNO.pack(-code) + request.header
    if code and not sk.cap_ack:
        payload += request.data + bytes(-len(request.data) & 3)
    else:
        flags |= wire.NLM_F_CAPPED
    if problem is not None and sk.ext_ack:
        text = _tlvs(problem)
        if text:
            flags |= wire.NLM_F_ACK_TLVS
            payload += text
    sk.unicast_from_kernel(wire.build(wire.NLMSG_ERROR, flags, request.seq, sk.portid, payload))


def receive(sk: NetlinkSock, data: bytes, handler: Handler) -> None:
    """A datagram of requests (Linux: netlink_rcv_skb)."""
    offset = 0
    while len(data) - offset >= wire.NLMSG_HDRLEN:
        length, kind, flags, _, _ = wire.parse(data, offset)
        if length < wire.NLMSG_HDRLEN or length > len(data) - offset:
            return
        request = Request(sk, data[offset : offset + length])
        problem: OSError | None = None
        started = sk.dumps_started
        if flags & wire.NLM_F_REQUEST and kind >= wire.NLMSG_MIN_TYPE:
            try:
                handler(request)
            except OSError as caught:
                problem = caught
        if problem is not None or (flags & wire.NLM_F_ACK and sk.dumps_started == started):
            # The end of a dump is an acknowledgement already.
            acknowledge(request, problem)
        offset += length + 3 & ~3
