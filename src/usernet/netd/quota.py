"""What each client of the service may have: sockets, and bytes in their buffers.

Sockets are counted one by one: those that a client made, for as long as they live, and those that earlier clients of
the same user have left to their descriptors. Memory is what the buffers of a client's sockets hold, looked at when
something is to be added, at most every tenth of a second, and once a second. A client that has more than it may gets no
more sockets and sends nothing by calls, and the buffers of its sockets do not grow any further, until it has less.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_MSEC
from usernet.core.errors import error

if TYPE_CHECKING:
    from usernet.netd.server import Server
    from usernet.netd.session import Session

FRESH: Final = 100 * NSEC_PER_MSEC
"""How long (ns) a sum is believed."""


@final
class Quota:
    """The limits of one stack's clients, and what they have."""

    def __init__(self, server: Server, sockets: int, memory: int) -> None:
        self.sockets = sockets
        self.memory = memory
        self.refused: int = 0
        """How often a client was told that it has enough."""
        self._server = server
        self._sums: dict[Session, tuple[int, int]] = {}
        self._left_behind: dict[int, int] = {}
        """By user: how many sockets outlive the clients that made them."""

    def admit(self, session: Session) -> None:
        """Raises OSError where the client may have no more sockets: EMFILE for their number, ENOBUFS for memory."""
        if len(session.owned) + self._left_behind.get(session.peer[1], 0) >= self.sockets:
            self.refused += 1
            raise error(errno.EMFILE, f"this client has {self.sockets} sockets, and may have no more")
        self.check_memory(session)

    def check_memory(self, session: Session) -> None:
        """Raises OSError ENOBUFS where the client's buffers hold more than they may."""
        now = self._server.loop.now
        when, held = self._sums.get(session, (-FRESH, 0))
        if now - when >= FRESH:
            held = self.look(session)
        if held > self.memory:
            self.refused += 1
            raise error(errno.ENOBUFS, f"this client's buffers hold {held} bytes, and may hold {self.memory}")

    def check_ring(self, session: Session, size: int) -> None:
        """Raises OSError ENOMEM where there is no room for the ring of a packet socket, `size` bytes."""
        held = self.look(session)
        if held + size > self.memory:
            self.refused += 1
            raise error(
                errno.ENOMEM, f"this client's buffers hold {held} bytes, and with {size} more than {self.memory}"
            )

    def look(self, session: Session) -> int:
        """Add up what the client's buffers hold, and stop them from growing where it is too much."""
        table = self._server.calls.table
        held = 0
        for handle in tuple(session.owned):
            opened = table.get(handle)
            if opened is not None:
                sk = opened.socket.sk
                held += sk.rmem_alloc + sk.wmem_queued + sk.omem_alloc
                if opened.ring is not None:
                    held += opened.ring.size
        self._sums[session] = (self._server.loop.now, held)
        if held > self.memory:
            for handle in tuple(session.owned):
                opened = table.get(handle)
                if opened is not None:
                    # As a program that has set SO_RCVBUF and SO_SNDBUF: they are not tuned any more.
                    opened.socket.sk.rcvbuf_locked = opened.socket.sk.sndbuf_locked = True
        return held

    def left(self, session: Session) -> None:
        """The client has ended; the sockets that it leaves are its user's."""
        self._sums.pop(session, None)
        uid = session.peer[1]
        if session.owned:
            self._left_behind[uid] = self._left_behind.get(uid, 0) + len(session.owned)

    def gone(self, uid: int) -> None:
        """One of those is no more."""
        count = self._left_behind.get(uid, 0) - 1
        if count > 0:
            self._left_behind[uid] = count
        else:
            self._left_behind.pop(uid, None)
