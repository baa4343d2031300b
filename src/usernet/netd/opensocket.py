"""A socket in the table of a client's calls, and a call on it that waits."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, final

from usernet.core.deferred import Deferred, Done
from usernet.core.wait import Wait
from usernet.netd.interface import Pending, SpentChannelError
from usernet.netd.ring import RingMemory
from usernet.posix.channel import Channel
from usernet.sock.msg import MsgHdr
from usernet.sockets.socket import Socket


@final
class OpenSocket:
    """A socket in the table. listener: whose queue it was taken from, as long as it may go back there. renewed: the
    channel that is to take the place of one that is spent. taken: the datagram that a call received last. ring: where
    the frames of a packet socket go that has a ring."""

    __slots__ = ("channel", "handle", "listener", "pending", "renewed", "ring", "socket", "taken")

    def __init__(self, handle: int, socket: Socket, channel: Channel, listener: OpenSocket | None) -> None:
        self.handle = handle
        self.socket = socket
        self.channel = channel
        self.listener = listener
        self.renewed: Channel | None = None
        self.taken: tuple[bytes, MsgHdr] | None = None
        self.ring: RingMemory | None = None
        self.pending: set[Waiting] = set()

    def unspent(self) -> Channel:
        """Its channel. Raises SpentChannelError where that has ended, and the socket needs another."""
        if self.channel.over:
            raise SpentChannelError
        return self.channel


@final
class Later:
    """What a call returns in place of its result when it has to wait."""

    __slots__ = ("call",)

    def __init__(self, call: Generator[Wait, None, Any]) -> None:
        self.call = call


@final
class Waiting(Pending):
    """A call that waits, of one socket."""

    __slots__ = ("_cancel", "deferred", "done")

    def __init__(self, cancel: Callable[[Waiting], bool], done: Done) -> None:
        self._cancel = cancel
        self.done = done
        self.deferred: Deferred | None = None

    def cancel(self) -> bool:
        return self._cancel(self)
