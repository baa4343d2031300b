"""Messages over a Unix socket of type SOCK_SEQPACKET, each with the descriptors that go along (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, final

from usernet.netd.protocol import MAX_FDS, MAX_MESSAGE

_ROOM: Final = socket.CMSG_SPACE(MAX_FDS * 4)
_MSG_CTRUNC: Final = socket.MSG_CTRUNC
_MSG_TRUNC: Final = socket.MSG_TRUNC
_FLAGS: Final = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
_SEND_FLAGS: Final = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


class OversizedError(ValueError):
    """A message with more bytes, or more descriptors, than one may have."""


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


@final
class Wire:
    """One end of such a socket. It never waits: what would raises BlockingIOError."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._buffer = bytearray(MAX_MESSAGE + 1)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message, and its descriptors, which are the caller's. b"": the other side is gone, or has said
        nothing.

        Raises OversizedError, BlockingIOError; OSError where the other side was cut off.
        """
        try:
            size, control, flags, _ = self.sock.recvmsg_into([self._view], _ROOM, _FLAGS)
        except ConnectionResetError:
            # The other side was closed before it had read everything. That is told first, once; what it had sent is
            # still there to be read.
            size, control, flags, _ = self.sock.recvmsg_into([self._view], _ROOM, _FLAGS)
        fds: list[int] = []
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array("i")
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
                fds += found
        if flags & (_MSG_TRUNC | _MSG_CTRUNC) or size > MAX_MESSAGE:
            close_all(fds)
            what = f"{MAX_FDS} descriptors" if flags & _MSG_CTRUNC else f"{MAX_MESSAGE} bytes"
            raise OversizedError(f"expected a message of at most {what}")
        return bytes(self._view[:size]), fds

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, with duplicates of `fds`. Raises BlockingIOError; OSError where the other side is gone."""
        if not fds:
            self.sock.send(data, _SEND_FLAGS)
            return
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        self.sock.sendmsg([data], control, _SEND_FLAGS)

    def close(self) -> None:
        self._view.release()
        self.sock.close()
