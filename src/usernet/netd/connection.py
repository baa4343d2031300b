"""A client's connection to a service, without a way to wait: what the blocking, the asynchronous client and the
supervisor's stand on.

Requests are sent by `request`, which is told whom to call with the answer; `receive` takes what the service has sent,
and calls them. Whoever has the connection watches its descriptor in his own way. It may be used by several threads: one
at a time receives.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from usernet.core.errors import error
from usernet.netd import protocol
from usernet.netd.messages import OversizedError, Wire, close_all
from usernet.netd.places import socket_path

Answered = Callable[[Any, list[int]], None]
"""`answered(message, fds)`: a Done, Given, Failed or Chunk, with its descriptors, which are the callee's; or a
ServiceError in place of a message, when the service is gone."""

PATIENCE: Final = 30.0
"""Seconds to wait for the service's welcome."""


class ServiceError(ConnectionError):
    """The service does not take this client, or is gone."""


@final
class Connection:
    """A connection to the service of a stack, by its name, or by the path of its socket.

    on_reach: called with a handle whose descriptor the service wants; gives a duplicate, or -1. on_closed: called with
    a handle whose socket is no more.
    """

    def __init__(self, stack: str = "", program: str = "") -> None:
        """Raises ServiceError where there is no such service, or it refuses; ValueError for what is no name."""
        self.path = socket_path(stack)
        self.on_reach: Callable[[int], int] | None = None
        self.on_closed: Callable[[int], None] | None = None
        self.over: bool = False
        self._serial = 0
        self._answers: dict[int, Answered] = {}
        self._lock = threading.Lock()
        self._broken: ServiceError | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(self.path)
        except OSError as problem:
            sock.close()
            where = stack or "the default one"
            text = f"no service of stack {where} answers at {self.path}: {problem.strerror or problem}"
            raise ServiceError(problem.errno, text) from None
        self._wire = Wire(sock)
        try:
            self.welcome = self._greet(program or os.path.basename(sys.argv[0] or "python"))
        except BaseException:
            self._wire.close()
            raise

    def _greet(self, program: str) -> protocol.Welcome:
        try:
            self._send(protocol.encode(protocol.Hello(protocol.VERSION, program[:200])), ())
        except ServiceError:
            pass  # what it said before it closed the connection is read next
        self.wait(PATIENCE)
        try:
            data, fds = self._wire.receive()
        except BlockingIOError:
            raise ServiceError(f"{self.path}: no welcome within {PATIENCE:g} seconds") from None
        except OSError as problem:
            raise ServiceError(problem.errno, f"{self.path}: {problem.strerror}") from None
        close_all(fds)
        answer = protocol.decode_answer(data) if data else None
        if isinstance(answer, protocol.Rejected):
            raise ServiceError(f"{self.path}: {answer.text}")
        if not isinstance(answer, protocol.Welcome):
            raise ServiceError(f"{self.path}: this is no service of usernet")
        return answer

    def fileno(self) -> int:
        return self._wire.fileno()

    def wait(self, seconds: float | None) -> bool:
        """Wait until there is something to receive. False where it took longer than `seconds`."""
        poller = select.poll()
        poller.register(self._wire.fileno(), select.POLLIN)
        return bool(poller.poll(None if seconds is None else max(seconds, 0) * 1000))

    # -- sending

    def request(self, make: Callable[[int], Any], answered: Answered, fds: Sequence[int] = ()) -> int:
        """Send the request that `make` gives for its number, which is returned. fds: their duplicates go along.

        Waits where the service is slow to read. `answered` is not called where it raises: ServiceError where the
        service is gone, OSError EMSGSIZE or EINVAL for arguments that no message can have.
        """
        with self._lock:
            broken = self._broken
            if broken is not None:
                raise broken
            while True:
                self._serial = self._serial % 0xFFFFFFFF + 1
                number = self._serial
                if number not in self._answers:
                    break
            self._answers[number] = answered
        try:
            data = protocol.encode(make(number))
            _check(data)
            self._send(data, fds)
        except BaseException:
            self._answers.pop(number, None)
            raise
        return number

    def tell(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send what has no answer. Raises ServiceError where the service is gone."""
        self._send(protocol.encode(message), fds)

    def replace(self, number: int, answered: Answered) -> bool:
        """Have someone else called with an answer. False where it was given already."""
        with self._lock:
            if number not in self._answers:
                return False
            self._answers[number] = answered
            return True

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                self._wire.send(data, fds)
                return
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._wire.fileno(), select.POLLOUT)
                poller.poll()
            except OSError as problem:
                if problem.errno in (errno.EBADF, errno.EINVAL):
                    raise
                raise ServiceError(problem.errno, f"{self.path}: the service is gone: {problem.strerror}") from None

    # -- receiving

    def receive(self, most: int = 64) -> int:
        """Take up to `most` messages that are there, and call those whom they are for. Returns how many. When the
        service is gone, all who wait are told ServiceError."""
        for count in range(most):
            try:
                data, fds = self._wire.receive()
            except BlockingIOError:
                return count
            except (OSError, OversizedError, ValueError) as problem:
                self._break(str(problem))
                return count
            if not data:
                close_all(fds)
                self._break("the service has closed the connection")
                return count
            try:
                message = protocol.decode_answer(data)
            except protocol.DecodeError as problem:
                close_all(fds)
                self._break(str(problem))
                return count
            self._take(message, fds)
        return most

    def _take(self, message: Any, fds: list[int]) -> None:
        kind = type(message)
        if kind is protocol.Reach:
            self._reach(message)
        elif kind is protocol.Closed:
            if self.on_closed is not None:
                self.on_closed(message.handle)
        elif kind is protocol.Rejected:
            self._break(message.text)
        elif kind is not protocol.Welcome:
            number = message.id
            answered = self._answers.get(number) if kind is protocol.Chunk else self._answers.pop(number, None)
            if answered is not None:
                answered(message, fds)
                return
            if kind is protocol.Given and fds:
                self.tell(protocol.GiveBack(message.handle))
        close_all(fds)

    def _reach(self, message: protocol.Reach) -> None:
        fd = self.on_reach(message.handle) if self.on_reach is not None else -1
        try:
            self.tell(protocol.Reached(message.handle), (fd,) if fd >= 0 else ())
        except ServiceError:
            pass  # who waits is told by what is read next
        finally:
            if fd >= 0:
                os.close(fd)

    def _break(self, why: str) -> None:
        with self._lock:
            if self._broken is not None:
                return
            broken = self._broken = ServiceError(f"{self.path}: {why}")
            answers, self._answers = self._answers, {}
        for answered in answers.values():
            answered(broken, [])

    @property
    def broken(self) -> ServiceError | None:
        """Why nothing more is answered."""
        return self._broken

    def close(self) -> None:
        """End it. Sockets live on by their descriptors; calls that wait are told ServiceError."""
        if self.over:
            return
        self.over = True
        self._break("the connection is closed")
        self._wire.close()


def _check(data: bytes) -> None:
    """Raises OSError for a request for which the service would end the connection."""
    if len(data) > protocol.MAX_MESSAGE:
        raise error(errno.EMSGSIZE)
    try:
        protocol.decode_request(data)
    except protocol.DecodeError as problem:
        raise error(errno.EINVAL, str(problem)) from None


def failure(message: Any) -> OSError:
    """What a call raises that was answered so."""
    if isinstance(message, protocol.Failed):
        return error(message.errno, message.text or os.strerror(message.errno))
    if isinstance(message, OSError):
        return message
    return ServiceError(f"an answer that makes no sense: {type(message).__name__}")


def until(deadline: float | None) -> float | None:
    """Seconds left."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
