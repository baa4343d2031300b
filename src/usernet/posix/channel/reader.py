"""What the application has written to a stream's pair, read so that at least one byte of it stays there.

An end that is closed while bytes lie in it unread shows its peer a reset (stream.py). So of what has been forwarded the
last bytes are left where they are, the guard. Small writes are looked at (MSG_PEEK) and left: one system call where
reading all but a byte, and looking at that byte, would be two, and asking how much there is a third. Only when a few
have gathered they are taken out. Large ones are read in pieces that make whole super-segments.
"""

from __future__ import annotations

from _socket import MSG_PEEK, socket
from fcntl import ioctl
from struct import Struct
from termios import FIONREAD
from typing import Final, final

from usernet.core.iov import BytesIter, IovIter, Payload
from usernet.transport.tcp.mss import current_mss
from usernet.transport.tcp.sendmsg import size_goal
from usernet.transport.tcp.sock import TcpSock

CHUNK: Final = 1 << 18
"""Bytes moved at once, either way, or one super-segment where that is more."""

SMALL: Final = 2048
"""Bytes up to which what was written is made one piece before it is sent."""

LEFT: Final = 128
"""Bytes of the guard, at most, once no more comes. As long as the application has as many packets in the pair, its end
must be writable: a packet of one byte counts for 768, and a UNIX socket is writable while a quarter of its buffer is in
use at most, which is 104 KiB where no more than net.core.wmem_max was allowed."""

_INT: Final = Struct("=i")


@final
class PairReader:
    """Reads `own`, the stack's end of the pair, for `sk`.

    more: the last read has left something to be read. marked: among it is a byte that was sent with MSG_OOB, at which a
    read ends.
    """

    __slots__ = ("_fd", "_guard", "_large", "_own", "_sk", "marked", "more")

    def __init__(self, own: socket, sk: TcpSock) -> None:
        self._own = own
        self._fd: int = own.fileno()
        self._sk = sk
        self._guard: int = 1
        """How many bytes were forwarded and lie in the pair still."""
        self._large: bool = False
        """The last read was one for which there is no need to look first."""
        self.more: bool = False
        self.marked: bool = False

    def read(self) -> IovIter | None:
        """What was written since, as much of it as makes whole super-segments; None where there is nothing.

        Raises OSError where the pair is reset.
        """
        self.more = False
        own = self._own
        guard = self._guard
        if not (self.marked or self._large):
            data = own.recv(SMALL, MSG_PEEK)
            there = len(data)
            if there < SMALL:
                if there <= guard:
                    return None
                if there > LEFT:
                    own.recv(there - 1)
                    self._guard = 1
                else:
                    self._guard = there
                return BytesIter(data[guard:])
        return self._read_large()

    def _read_large(self) -> IovIter | None:
        own = self._own
        guard = self._guard
        there = self._there()
        fresh = there - guard
        self._large = fresh > SMALL
        if fresh <= 0:
            self.marked = False
            return None
        if fresh > SMALL:
            wanted = self._wanted()
            if wanted < fresh:
                self.more = True
                self._guard = 0
                source = BytesIter(own.recv(wanted + guard))
                source.read(guard)
                return source
        data = own.recv(there - 1) if there > 1 else b""
        if len(data) < there - 1:
            # It ends at the mark.
            self.more = True
            self._guard = 0
            return BytesIter(data[guard:])
        last = own.recv(1, MSG_PEEK)
        self._guard = 1
        if fresh <= SMALL:
            return BytesIter(data[guard:] + last)
        return Pieces([memoryview(data)[guard:], last])

    def _wanted(self) -> int:
        """How many bytes to read at once: what fills up the last super-segment of the queue, or a new one."""
        sk = self._sk
        goal = size_goal(sk, current_mss(sk), True)
        size = max(CHUNK // goal, 1) * goal
        last = sk.write_queue.last
        if last is not None and last.len < goal:
            size -= last.len
        return min(size, max(sk.sndbuf - sk.wmem_queued, SMALL))

    def _there(self) -> int:
        """How many bytes lie in the pair."""
        return _INT.unpack(ioctl(self._fd, FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]

    @property
    def empty(self) -> bool:
        """Whether all that was written has been read."""
        return self._own.fileno() < 0 or self._there() <= self._guard


@final
class Pieces(IovIter):
    """What was read, in its pieces: each is referenced, and none is joined with the next."""

    def __init__(self, pieces: list[Payload]) -> None:
        self._pieces = pieces
        super().__init__(sum([len(piece) for piece in pieces]))

    def read(self, size: int) -> Payload:
        """The next bytes, to keep; fewer than `size` where a piece ends."""
        pieces = self._pieces
        piece = pieces[0]
        if len(piece) > size:
            pieces[0] = memoryview(piece)[size:]
            piece = memoryview(piece)[:size]
        else:
            pieces.pop(0)
        self.length -= len(piece)
        return piece
