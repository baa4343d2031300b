"""The readiness of a packet socket with a ring (sockets/packet_ring.py): a mark lies in the application's end while a
frame, or block, is the program's.

The program gives frames back by writing to its memory, without a call. So while the mark is there the ring is looked at
from time to time: soon after something new has come, when the program is at work on it, and then less and less often.
Until the mark is taken away a program that polls is told once more of what it has seen already, and looks in vain.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, socket
from collections.abc import Callable
from typing import Final, final

from usernet.core.clock import NSEC_PER_MSEC
from usernet.core.loop import Loop
from usernet.core.timer import Timer
from usernet.sockets.packet import PacketSock

MARK: Final = b"\0"

FIRST_LOOK: Final = NSEC_PER_MSEC // 5
LAST_LOOK: Final = 20 * NSEC_PER_MSEC
"""How long (ns) after something new the ring is looked at first; the time doubles, up to the other."""

AtApp = Callable[[Callable[[socket], object]], bool]


@final
class RingMark:
    """The mark of one channel. With the stack's lock held."""

    def __init__(self, sk: PacketSock, loop: Loop, at_app: AtApp) -> None:
        """at_app: does something at the application's end, False where that is out of reach."""
        self._sk = sk
        self._loop = loop
        self._at_app = at_app
        self._timer = Timer(loop.timers, self._look)
        self._marked = False
        self._after: int = FIRST_LOOK

    @property
    def active(self) -> bool:
        """Whether there is a ring, and so nothing to be put into the pair but the mark."""
        return self._sk.ring is not None

    def follow(self, own: socket, in_pair: Callable[[], bool]) -> None:
        """Something new has come, or the application's end is in reach. own: the stack's end. in_pair: whether the
        application has still to read something."""
        if not self._readable():
            if self._marked:
                self._take()
            return
        if not self._marked or not in_pair():
            try:
                own.send(MARK, MSG_NOSIGNAL)
            except OSError:
                return  # it is full, or the application has closed its end
            self._marked = True
        self._after = FIRST_LOOK
        self._timer.mod(self._loop.now + FIRST_LOOK)

    def clear(self) -> None:
        """Take out whatever lies in the application's end: a ring has come, or gone."""
        self._take()

    def end(self) -> None:
        """The channel is over."""
        self._timer.delete()

    def _readable(self) -> bool:
        ring = self._sk.ring
        return ring is not None and ring.readable()

    def _look(self, now: int) -> None:
        if self._readable():
            self._after = min(self._after * 2, LAST_LOOK)
            self._timer.mod(now + self._after)
        elif self._marked:
            self._take()

    def _take(self) -> None:
        if self._at_app(_empty):
            self._marked = False
            self._timer.cancel()
        elif self._marked:
            self._timer.mod(self._loop.now + LAST_LOOK)


def _empty(app: socket) -> None:
    try:
        while app.recv(1, MSG_DONTWAIT):
            pass
    except OSError:
        pass
