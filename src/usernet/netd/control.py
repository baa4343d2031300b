"""The control of a stack by the command-line tools: their commands, and packets as they pass.

The commands are functions that the command line puts in here, since it stands above: each takes the stack and words,
and returns what it prints, with its exit status. They run in a thread of their own, one after the other, and hold the
stack's lock only while they look; so no command, of however many sockets, is in a client's way for long. What a command
prints can be much, so it goes to the client as a file in memory.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import UnusableStackError, error
from usernet.netd import protocol
from usernet.stack import Stack
from usernet.wire import pcapng

if TYPE_CHECKING:
    from usernet.drivers.capture import Capture
    from usernet.netd.session import Session

MAX_COMMANDS: Final = 64
"""Commands that may wait for their turn."""

MAX_STREAMS: Final = 16
"""Clients that may look at packets at once."""

MAX_HELD: Final = 4 << 20
"""Bytes of packets held for a client that looks at them and is slow; more are left out."""


@final
class ServedCommand:
    """A tool. run: of the stack and words; returns a string with `status`. reads: whether such words only look, and
    look at nothing that is secret: then every client may give them."""

    def __init__(self, run: Callable[..., Any], reads: Callable[[Sequence[str]], bool]) -> None:
        self.run = run
        self.reads = reads


Commands = Mapping[str, ServedCommand]
_Job = tuple["Session", protocol.Command]


@final
class Control:
    """The commands of one stack."""

    def __init__(self, stack: Stack, commands: Commands) -> None:
        self._stack = stack
        self._commands = commands
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._streams = 0

    # -- commands

    def command(self, session: Session, request: protocol.Command) -> None:
        """Have a command run. Raises OSError: ENOENT, EPERM, EBUSY."""
        served = self._commands.get(request.tool)
        if served is None:
            raise error(errno.ENOENT, f"expected one of {', '.join(self._commands)}, not {request.tool!r}")
        if not session.privileged and not served.reads(request.words):
            raise error(errno.EPERM, f"{request.tool}: only those who may control the stack may ask for that")
        if self._jobs.qsize() >= MAX_COMMANDS:
            raise error(errno.EBUSY, f"{MAX_COMMANDS} commands are waiting")
        self._jobs.put((session, request))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="usernet-control", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            session, request = job
            if not session.over:
                self._answer(session, request)

    def _answer(self, session: Session, request: protocol.Command) -> None:
        number = request.id
        try:
            text = self._commands[request.tool].run(self._stack, *request.words)
            fd = _in_memory(text)
        except (OSError, UnusableStackError) as problem:
            code = problem.errno if isinstance(problem, OSError) else None
            what = problem.strerror if isinstance(problem, OSError) else None
            session.finish(number, protocol.Failed(number, code or errno.EIO, (what or str(problem))[:1000]))
        except ValueError as problem:
            # A wrong word: which, and what was expected.
            session.finish(number, protocol.Done(number, 2, str(problem).encode()[:8192]))
        except Exception as problem:
            session.finish(number, protocol.Failed(number, errno.EIO, f"{type(problem).__name__}: {problem}"[:1000]))
        else:
            session.finish(number, protocol.Done(number, getattr(text, "status", 0)), fd)

    # -- packets

    def watch(self, session: Session, request: protocol.Watch) -> None:
        """Begin a stream of packets. Raises OSError: EPERM, ENODEV, EBUSY."""
        from usernet.drivers.capture import Capture

        if not session.privileged:
            raise error(errno.EPERM, "packets are shown to those who may control the stack")
        if self._streams >= MAX_STREAMS:
            raise error(errno.EBUSY, f"{MAX_STREAMS} clients look at packets, and no more may")
        devices = []
        for name in request.devices:
            dev = self._stack.devices.get(name)
            if dev is None:
                there = ", ".join(self._stack.devices)
                raise error(errno.ENODEV, f"there is no device {name!r}; expected one of {there}")
            devices.append(dev)
        stream = PacketStream(session, request.id)
        self._streams += 1
        session.streams[request.id] = stream
        file: Any = stream
        capture = Capture(
            self._stack.net, file, devices if request.devices else None, snaplen=request.snaplen, drops=request.drops
        )
        stream.capture = capture
        capture.start()

    def unwatch(self, session: Session, number: int) -> None:
        """End it."""
        stream = session.streams.pop(number, None)
        if stream is not None:
            self._streams -= 1
            stream.closed = True
            capture = stream.capture
            if capture is not None:
                capture.stop()

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join(10)


def _in_memory(text: str) -> int:
    """A file in memory with what a command printed."""
    fd = os.memfd_create("usernet", os.MFD_CLOEXEC)
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(text.encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


@final
class PacketStream:
    """What a capture writes to: blocks of a pcapng file, sent on when the stack's lock is free.

    A client that does not read loses packets, and is told how many; blocks that describe interfaces are kept.
    """

    def __init__(self, session: Session, number: int) -> None:
        self.capture: Capture | None = None
        self.closed: bool = False
        self.lost: int = 0
        self._session = session
        self._number = number
        self._held: list[bytes] = []
        self._size = 0
        self._told = False

    def write(self, block: bytes) -> int:
        """With the stack's lock held."""
        if self.closed:
            return len(block)
        packet = block[:4] == _PACKET
        if packet and self._size + len(block) > MAX_HELD:
            self.lost += 1
            return len(block)
        self._held.append(bytes(block))
        self._size += len(block)
        if not self._told:
            self._told = True
            self._session.server.loop.after(self._pass_on)
        return len(block)

    def flush(self) -> None:
        """For the capture; what is written goes out by itself."""

    def close(self) -> None:
        self.closed = True

    def _pass_on(self) -> None:
        session = self._session
        self._told = False
        while self._held and not self.closed and not session.outbox.waiting:
            size = 0
            count = 0
            for block in self._held:
                if count and size + len(block) > protocol.MAX_DATA:
                    break
                size += len(block)
                count += 1
            data = b"".join(self._held[:count])
            del self._held[:count]
            self._size -= size
            for start in range(0, len(data), protocol.MAX_DATA):
                session.send(protocol.Chunk(self._number, data[start : start + protocol.MAX_DATA], self.lost))
        if self._held and not self.closed:
            session.outbox.when_room(self._pass_on)


_PACKET: Final = pcapng.BLOCK_ENHANCED_PACKET.to_bytes(4, "little")
