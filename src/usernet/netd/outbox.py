"""What a client is told: sent at once, or kept until it has room. From any thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, final

from usernet.core.loop import Loop
from usernet.netd.messages import Wire

MAX_BACKLOG: Final = 1 << 20
"""Bytes of answers that may wait for a client; while any do, nothing is read from it."""

DESCRIPTOR: Final = 4096
"""Bytes that one which goes along counts as."""


@final
class Outbox:
    """The messages to one client. waiting: whether some wait for it to read others. over: nothing is sent any more.

    rearm: called with whether to be told of room for more. cut: called, without the stack's lock, where more than
    MAX_BACKLOG would wait.
    """

    def __init__(self, wire: Wire, loop: Loop, rearm: Callable[[bool], None], cut: Callable[[], None]) -> None:
        self.over: bool = False
        self._wire = wire
        self._loop = loop
        self._rearm = rearm
        self._cut = cut
        self._out: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._on_room: list[Callable[[], None]] = []

    @property
    def waiting(self) -> bool:
        return bool(self._out)

    def send(self, data: bytes, fd: int = -1) -> bool:
        """Send a message, or keep it. fd: goes along, and is closed here. False where it is not sent."""
        with self._lock:
            if not self.over and not self._out:
                try:
                    self._wire.send(data, (fd,) if fd >= 0 else ())
                except BlockingIOError:
                    pass
                except OSError:
                    _close(fd)
                    return False  # gone: its end is read soon
                else:
                    _close(fd)
                    return True
            if self.over or self._bytes > MAX_BACKLOG:
                _close(fd)
                cut = not self.over
            else:
                self._out.append((data, fd))
                self._bytes += _size(data, fd)
                cut = False
        if cut:
            self._loop.after(self._cut)  # it makes requests, and reads no answers
            return False
        self._rearm(True)
        return not self.over

    def flush(self) -> bool:
        """Send what waits. False where the client has no room for it."""
        with self._lock:
            out = self._out
            while out:
                data, fd = out[0]
                try:
                    self._wire.send(data, (fd,) if fd >= 0 else ())
                except BlockingIOError:
                    return False
                except OSError:
                    pass  # gone: its end is read next
                out.popleft()
                self._bytes -= _size(data, fd)
                _close(fd)
            waiting, self._on_room = self._on_room, []
        self._rearm(False)
        for callback in waiting:
            self._loop.after(callback)
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback`, without the stack's lock, once the client has read what waits for it."""
        with self._lock:
            if self._out:
                self._on_room.append(callback)
                return
        self._loop.after(callback)

    def close(self) -> bool:
        """Send nothing any more. False the second time."""
        with self._lock:
            if self.over:
                return False
            self.over = True
            out, self._out = self._out, deque()
        for _, fd in out:
            _close(fd)
        return True


def _size(data: bytes, fd: int) -> int:
    return len(data) + (DESCRIPTOR if fd >= 0 else 0)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
