"""A supervisor's calls, carried out by a running service.

What `LocalBackend` does on a stack in the same process, this one asks a service to do, one message each way. The
supervisor watches `fileno` and calls `ready`, in which all answers are given.

Where the service may need a socket's descriptor (`accept`, `connect`, a datagram to be received) a duplicate goes
along, had by the way of reaching it that `commit` was told.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Final, final

from usernet.core.deferred import Done
from usernet.core.errors import error
from usernet.netd import protocol
from usernet.netd.connection import Connection, ServiceError, failure
from usernet.netd.interface import Backend, Opened, Pending, Reach, Received, SpentChannelError
from usernet.netd.messages import close_all

MSG_MORE: Final = 0x8000
MSG_OOB: Final = 0x1
MSG_DONTWAIT: Final = 0x40
_AT_DESCRIPTOR: Final = frozenset({(1, 7), (1, 8), (1, 32), (1, 33), (263, 5)})
"""SO_SNDBUF, SO_RCVBUF, and with FORCE; PACKET_RX_RING: options that change something at the application's end."""


@final
class Asked(Pending):
    """A request under way."""

    def __init__(self, backend: RemoteBackend, done: Done) -> None:
        self.number = 0
        self.over = False
        self.done = done
        self._backend = backend

    def cancel(self) -> bool:
        if self.over:
            return False
        self.over = True
        self._backend.tell(protocol.Cancel(self.number))
        return True


@final
class RemoteBackend(Backend):
    """The calls of one client of the service of a stack: by its name, or the path of its socket.

    Raises ServiceError where there is none.
    """

    def __init__(self, stack: str = "", program: str = "") -> None:
        self.connection = Connection(stack, program)
        self.closed: Callable[[int], None] | None = None
        self._reach: dict[int, Reach] = {}
        self._streams: dict[int, bool] = {}
        self.connection.on_reach = self._get
        self.connection.on_closed = self._gone

    def fileno(self) -> int:
        return self.connection.fileno()

    def ready(self) -> None:
        self.connection.receive()

    def tell(self, message: Any) -> None:
        """Send what has no answer; where the service is gone, all who wait are told by `ready`."""
        try:
            self.connection.tell(message)
        except ServiceError:
            pass

    def _get(self, handle: int) -> int:
        reach = self._reach.get(handle)
        return reach() if reach is not None else -1

    def _gone(self, handle: int) -> None:
        self._reach.pop(handle, None)
        self._streams.pop(handle, None)
        if self.closed is not None:
            self.closed(handle)

    def _ask(
        self, make: Callable[[int], Any], done: Done, finish: Callable[[Any, list[int]], Any], handle: int = 0
    ) -> Pending | None:
        """Make a request. finish: what the call returns of the answer; the descriptors that it leaves are closed.
        handle: the socket whose descriptor goes along."""
        asked = Asked(self, done)

        def answered(message: Any, fds: list[int]) -> None:
            late = asked.over
            asked.over = True
            result: Any = None
            problem: BaseException | None = None
            try:
                if late:
                    self._undo(message, handle_of(make(0)))
                    return
                if isinstance(message, (protocol.Done, protocol.Given)):
                    result = finish(message, fds)
                elif isinstance(message, protocol.Failed) and message.errno == errno.EBADFD:
                    problem = SpentChannelError()
                elif isinstance(message, ServiceError):
                    problem = error(errno.ENETDOWN, str(message))
                else:
                    problem = failure(message)
            finally:
                close_all(fds)
            done(result, problem)

        fd = self._get(handle) if handle else -1
        try:
            asked.number = self.connection.request(make, answered, (fd,) if fd >= 0 else ())
        except ServiceError:
            done(None, error(errno.ENETDOWN, "the service of the stack is gone"))
            return None
        except OSError as problem:
            done(None, problem)
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        return asked

    def _undo(self, message: Any, handle: int) -> None:
        """Who asked is gone, and the answer came all the same."""
        if isinstance(message, protocol.Given):
            self.tell(protocol.GiveBack(message.handle))
        elif isinstance(message, protocol.Done) and handle:
            self.tell(protocol.Unreceive(handle))

    def _opened(self, message: Any, fds: list[int]) -> Opened | None:
        if not isinstance(message, protocol.Given) or len(fds) != 1:
            return None
        self._streams[message.handle] = message.stream
        return Opened(message.handle, fds.pop(), message.inode, message.family, message.stream, message.name)

    # -- sockets that come

    def socket(self, family: int, kind: int, protocol_: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Open(number, family, kind, protocol_), done, self._opened)

    def accept(self, handle: int, flags: int, nonblock: bool, done: Done) -> Pending | None:
        return self._ask(
            lambda number: protocol.Accept(number, handle, flags, nonblock), done, self._opened, handle
        )

    def renew(self, handle: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Renew(number, handle), done, self._opened)

    def commit(self, handle: int, reach: Reach) -> None:
        self._reach[handle] = reach
        self.tell(protocol.Commit(handle))

    def give_back(self, handle: int) -> None:
        self.tell(protocol.GiveBack(handle))

    def close(self) -> None:
        """End the connection. Descriptors that programs still have go on."""
        self.closed = None
        self.connection.close()

    # -- calls on a socket

    def bind(self, handle: int, name: bytes, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Bind(number, handle, name[:256]), done, _number)

    def listen(self, handle: int, backlog: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Listen(number, handle, backlog), done, _number, handle)

    def connect(self, handle: int, name: bytes, nonblock: bool, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Connect(number, handle, name[:256], nonblock), done, _number, handle)

    def getsockname(self, handle: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.SockName(number, handle), done, _data)

    def getpeername(self, handle: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.PeerName(number, handle), done, _data)

    def shutdown(self, handle: int, how: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Shutdown(number, handle, how), done, _number)

    def getsockopt(
        self, handle: int, level: int, option: int, length: int, value: bytes | None, done: Done
    ) -> Pending | None:
        return self._ask(
            lambda number: protocol.GetOption(number, handle, level, option, length, value), done, _data
        )

    def setsockopt(self, handle: int, level: int, option: int, value: bytes, done: Done) -> Pending | None:
        return self._ask(
            lambda number: protocol.SetOption(number, handle, level, option, value),
            done,
            _number,
            handle if (level, option) in _AT_DESCRIPTOR else 0,
        )

    def ring(self, handle: int, size: int, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Ring(number, handle, size), done, _descriptor)

    def ioctl(self, handle: int, request: int, argument: bytes, done: Done) -> Pending | None:
        return self._ask(lambda number: protocol.Ioctl(number, handle, request, argument), done, _data)

    def sendmsg(
        self,
        handle: int,
        data: bytes,
        size: int,
        flags: int,
        name: bytes | None,
        control: bytes,
        nonblock: bool,
        done: Done,
    ) -> Pending | None:
        most = protocol.MAX_DATA
        if len(data) <= most:
            return self._ask(
                lambda number: protocol.Send(number, handle, data, size, flags, name, control, nonblock), done, _number
            )
        if not self._streams.get(handle, False):
            done(None, error(errno.EMSGSIZE))
            return None
        return Pieces(self, handle, data, size, flags, control, nonblock, done).start()

    def recvmsg(self, handle: int, size: int, flags: int, control: int, nonblock: bool, done: Done) -> Pending | None:
        def finish(message: Any, fds: list[int]) -> Received:
            return Received(message.data, message.number, message.name, message.control, message.flags)

        return self._ask(
            lambda number: protocol.Receive(number, handle, size, flags, control, nonblock),
            done,
            finish,
            0 if self._streams.get(handle, True) else handle,
        )

    def unreceive(self, handle: int) -> None:
        self.tell(protocol.Unreceive(handle))


@final
class Pieces(Pending):
    """More data of a stream than a message holds, sent piece by piece as one call."""

    def __init__(
        self,
        backend: RemoteBackend,
        handle: int,
        data: bytes,
        size: int,
        flags: int,
        control: bytes,
        nonblock: bool,
        done: Done,
    ) -> None:
        self._backend = backend
        self._handle = handle
        self._data = data
        self._size = size
        self._flags = flags
        self._control = control
        self._nonblock = nonblock or bool(flags & MSG_DONTWAIT)
        self._done = done
        self._sent = 0
        self._pending: Pending | None = None
        self._over = False

    def start(self) -> Pending | None:
        self._next()
        return None if self._over else self

    def _next(self) -> None:
        start = self._sent
        piece = self._data[start : start + protocol.MAX_DATA]
        last = start + len(piece) == len(self._data)
        flags = self._flags if last else (self._flags | MSG_MORE) & ~MSG_OOB
        size = self._size - start if last else len(piece)
        self._pending = self._backend.sendmsg(
            self._handle, piece, size, flags, None, self._control, self._nonblock,
            lambda result, problem: self._answered(len(piece), last, result, problem),
        )  # fmt: skip

    def _answered(self, asked: int, last: bool, result: Any, problem: BaseException | None) -> None:
        if self._over:
            return
        if problem is None:
            self._sent += result
            if not last and result == asked:
                self._next()
                return
        elif self._sent:
            problem = None
        self._over = True
        self._done(self._sent if problem is None else None, problem)

    def cancel(self) -> bool:
        pending = self._pending
        if self._over or self._sent or pending is None or not pending.cancel():
            return False  # what was sent can't be taken back: the call returns how much that was
        self._over = True
        return True


def _number(message: Any, fds: list[int]) -> int:
    number: int = message.number
    return number


def _data(message: Any, fds: list[int]) -> bytes:
    data: bytes = message.data
    return data


def _descriptor(message: Any, fds: list[int]) -> int:
    if len(fds) != 1:
        raise error(errno.EPROTO, "the service gave no descriptor of the ring's memory")
    return fds.pop()


def handle_of(request: Any) -> int:
    """The socket of a request that receives; 0 of another."""
    return request.handle if isinstance(request, protocol.Receive) else 0
