"""One client of the service: its requests, its sockets, what it may have, and its end.

A message is read in the softirq of the stack, as a packet is from a device: one at a time, then all others have their
turn. It is acted on once the stack's lock is free, in the same thread. A call that has to wait is a `Deferred`, so it
costs nobody else anything; its answer is sent by whoever has driven the stack to that point. What the client is slow to
read waits (outbox.py), and meanwhile nothing more is read from it. What each request asks for is in requests.py.

When the connection ends, for whatever reason, its calls are cancelled, what was prepared for it is undone, and its
sockets are left to their descriptors: a socket lives for as long as anyone has one, as on Linux.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import UnusableStackError, error, report
from usernet.core.softirq import Napi
from usernet.netd import protocol, rights
from usernet.netd.interface import Opened, Pending, Received
from usernet.netd.messages import OversizedError, Wire, close_all
from usernet.netd.outbox import Outbox
from usernet.netd.requests import CALLS

if TYPE_CHECKING:
    from usernet.netd.control import PacketStream
    from usernet.netd.server import Server

MAX_REQUESTS: Final = 16384
"""Requests of one client that may be under way."""

Finish = Callable[[Any], None]
"""Sends the answer to a call that has gone well."""


@final
class Session(Napi):
    """A client. owned: the sockets that it made. handles: those that it may use. peer: its (pid, uid, gid)."""

    def __init__(self, server: Server, wire: Wire, peer: tuple[int, int, int], privileged: bool) -> None:
        super().__init__()
        self.server = server
        self.peer = peer
        self.privileged = privileged
        self.program: str = ""
        self.owned: set[int] = set()
        self.handles: set[int] = set()
        self.streams: dict[int, PacketStream] = {}
        self.requests: int = 0
        """How many it has made."""
        self._wire = wire
        self._greeted = False
        self._under_way: dict[int, Pending | None] = {}
        self._prepared: set[int] = set()
        self._ended: set[int] = set()
        """Of those, the ones that have ended before the client said whether it has got them. It will."""
        self._asked: set[int] = set()
        """Handles of which the descriptor was asked for by `Reach`."""
        self._brought: dict[int, tuple[int, int]] = {}
        """By request: the handle that it is on, and the descriptor that came along."""
        self._inbox: tuple[bytes, list[int]] | Exception | None = None
        self.outbox = Outbox(wire, server.loop, lambda writable: server.rearm(self, writable), self.end)

    def fileno(self) -> int:
        return self._wire.fileno()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.outbox.over

    # -- reading, in the softirq

    def poll(self, budget: int) -> int:
        if self.over or self._inbox is not None:
            return 0
        if self.outbox.waiting and not self.outbox.flush():
            return 0
        try:
            self._inbox = self._wire.receive()
        except BlockingIOError:
            return 0
        except (OversizedError, OSError) as problem:
            self._inbox = problem
        self.server.loop.after(self._serve)
        return 1

    def _serve(self) -> None:
        """Act on the message, without the stack's lock."""
        inbox = self._inbox
        if self.over or inbox is None:
            return
        if isinstance(inbox, OversizedError):
            self.reject(str(inbox))
            return
        if isinstance(inbox, Exception) or not inbox[0]:
            if not isinstance(inbox, Exception):
                close_all(inbox[1])
            self.end()
            return
        data, fds = inbox
        try:
            request = protocol.decode_request(data)
        except protocol.DecodeError as problem:
            close_all(fds)
            self.reject(f"not a message of this protocol: {problem}")
            return
        except RecursionError:
            close_all(fds)
            self.reject("not a message of this protocol: nested too deep")
            return
        self.requests += 1
        try:
            self._take(request, fds)
        except Exception as problem:
            # A fault of ours: without an answer the client would wait for ever.
            report(problem)
            self.reject(f"{type(request).__name__} came upon a fault of the service: {problem!r}")
        finally:
            close_all(fds)
        self._inbox = None
        if not self.over:
            # Tells again of what has come meanwhile, when all others have had their turn.
            self.server.rearm(self, self.outbox.waiting)

    def _take(self, request: Any, fds: list[int]) -> None:
        """fds: closed afterwards, but for those taken out."""
        kind = type(request)
        if not self._greeted or kind is protocol.Hello:
            if self._greeted or kind is not protocol.Hello:
                self.reject(f"expected {'no second' if self._greeted else 'first a'} Hello, not {kind.__name__}")
            elif request.version != protocol.VERSION:
                self.reject(f"expected version {protocol.VERSION} of the protocol, not {request.version}")
            else:
                self._greet(request)
            return
        action = _ACTIONS.get(kind)
        if action is not None:
            action(self, request, fds)
            return
        number = request.id
        if number in self._under_way:
            self.reject(f"request {number} is under way: expected another number")
            return
        if len(self._under_way) >= MAX_REQUESTS:
            self.send(protocol.Failed(number, errno.ENOBUFS, f"{MAX_REQUESTS} requests are under way"))
            return
        self._under_way[number] = None
        try:
            handle = getattr(request, "handle", 0)
            if handle and handle not in self.handles:
                raise error(errno.EBADF, f"there is no socket {handle} of this client")
            if fds and handle:
                self._bring(number, handle, fds)
            CALLS[kind](self, request, fds)
        except OSError as problem:
            self._fail(number, problem)

    def _greet(self, hello: protocol.Hello) -> None:
        server = self.server
        self._greeted = True
        self.program = hello.program
        quota = server.quota
        self.send(
            protocol.Welcome(protocol.VERSION, server.name, quota.sockets, quota.memory, self.privileged)
        )

    # -- answering

    def send(self, message: Any, fd: int = -1) -> bool:
        """Send, or keep until the client has room. fd: goes along, and is closed here. False where it is not sent."""
        return self.outbox.send(protocol.encode(message), fd)

    def reject(self, text: str) -> None:
        """Tell the client that it does not keep to the protocol, and end."""
        self.server.rejected += 1
        self.send(protocol.Rejected(text[:1000]))
        self.end()

    def _fail(self, number: int, problem: BaseException) -> None:
        self._forget(number)
        if isinstance(problem, OSError):
            code = problem.errno or errno.EIO
            text = "" if problem.strerror in (None, os.strerror(code)) else str(problem.strerror)
        elif isinstance(problem, UnusableStackError):
            code, text = errno.ENETDOWN, str(problem)
        else:
            raise problem
        self.send(protocol.Failed(number, code, text[:1000]))

    def _forget(self, number: int) -> None:
        self._under_way.pop(number, None)
        brought = self._brought.pop(number, None)
        if brought is not None:
            self.server.parted(*brought)

    def finish(self, number: int, message: Any, fd: int = -1) -> bool:
        """The answer to a request that has gone well."""
        self._forget(number)
        return self.send(message, fd)

    # -- the service's calls

    def call(self, number: int, finish: Finish, call: Callable[..., Pending | None], *args: Any) -> None:
        """Carry out `call` of the service's for a request; `finish` is called with its result, and a problem told."""
        pending = call(*args, partial(self._answer, number, finish))
        if pending is None:
            return
        if self.over:
            pending.cancel()
        elif number in self._under_way:
            self._under_way[number] = pending

    def _answer(self, number: int, finish: Finish, result: Any, problem: BaseException | None) -> None:
        if problem is not None:
            if not self.over:
                self._fail(number, problem)
        elif not self.over or isinstance(result, (Opened, Received)):
            finish(result)

    def given(self, number: int, opened: Opened | None) -> None:
        """A socket was prepared: pass it on, for the client to say whether it has got it."""
        if opened is None:
            self.finish(number, protocol.Done(number))
            return
        server = self.server
        handle = opened.handle
        if self.over:
            os.close(opened.fd)
            server.calls.give_back(handle)
            return
        if handle not in server.calls.table:
            # Its peer has ended it before anybody could be told of it.
            os.close(opened.fd)
            self._fail(number, error(errno.ECONNABORTED))
            return
        new = handle not in self.handles
        if new:
            if not self.privileged:
                rights.restrict(server.calls.table[handle].socket.sk)
            try:
                server.quota.admit(self)
            except OSError as problem:
                os.close(opened.fd)
                server.calls.give_back(handle)
                self._fail(number, problem)
                return
            self.owned.add(handle)
            self.handles.add(handle)
            server.made(handle, self)
        self._prepared.add(handle)
        self.finish(number, self.describe(number, opened), opened.fd)

    def describe(self, number: int, opened: Opened) -> protocol.Given:
        socket = self.server.calls.table[opened.handle].socket
        return protocol.Given(
            number, opened.handle, opened.inode, opened.family, socket.type, socket.protocol, opened.stream, opened.name
        )

    # -- what is not answered

    def _cancel(self, request: protocol.Cancel, fds: list[int]) -> None:
        number = request.id
        pending = self._under_way.get(number)
        stream = self.streams.get(number)
        if stream is not None:
            self.server.control.unwatch(self, number)
        elif pending is None or not pending.cancel():
            return  # it is done, or about to be, and answered
        self._fail(number, error(errno.ECANCELED))

    def _commit(self, request: protocol.Commit, fds: list[int]) -> None:
        handle = request.handle
        if not self._taken(handle):
            return
        self.server.calls.commit(handle, partial(self.server.reach, handle))

    def _give_back(self, request: protocol.GiveBack, fds: list[int]) -> None:
        handle = request.handle
        if not self._taken(handle):
            return
        self.server.calls.give_back(handle)

    def _taken(self, handle: int) -> bool:
        """Whether it waits to be taken; once for each that was given."""
        if handle in self._prepared:
            self._prepared.discard(handle)
            return True
        if handle in self._ended:
            self._ended.discard(handle)
        else:
            self.reject(f"socket {handle} is none that was given, and waits to be taken")
        return False

    def _unreceive(self, request: protocol.Unreceive, fds: list[int]) -> None:
        if request.handle in self.handles:
            self.server.calls.unreceive(request.handle)

    def _reached(self, request: protocol.Reached, fds: list[int]) -> None:
        handle = request.handle
        if handle not in self._asked:
            self.reject(f"the descriptor of socket {handle} was not asked for")
            return
        self._asked.discard(handle)
        if fds and handle in self.handles:
            opened = self.server.calls.table.get(handle)
            if opened is not None and opened.channel.inode == os.fstat(fds[0]).st_ino:
                self.server.brought(handle, fds[0])

    # -- descriptors of sockets

    def _bring(self, number: int, handle: int, fds: list[int]) -> None:
        """The socket's descriptor has come along. Raises OSError EBADF where it is another's."""
        opened = self.server.calls.table.get(handle)
        if opened is None or len(fds) != 1 or os.fstat(fds[0]).st_ino not in _inodes(opened):
            raise error(errno.EBADF, f"expected the descriptor of socket {handle}, and no other")
        fd = fds.pop()
        self._brought[number] = handle, fd
        self.server.has_brought(handle, fd)

    def ask_for(self, handle: int, inode: int) -> None:
        """Have the client send the socket's descriptor, where it was not asked to already."""
        if handle not in self._asked and not self.over:
            self._asked.add(handle)
            self.send(protocol.Reach(handle, inode))

    def gone(self, handle: int) -> None:
        """The socket is no more."""
        self.owned.discard(handle)
        self.handles.discard(handle)
        if handle in self._prepared:
            self._prepared.discard(handle)
            self._ended.add(handle)
        self._asked.discard(handle)
        if not self.over:
            self.send(protocol.Closed(handle))

    # -- the end

    def end(self) -> None:
        """Let go of all that it has. Without the stack's lock; does nothing the second time."""
        if not self.outbox.close():
            return
        server = self.server
        for number in tuple(self.streams):
            server.control.unwatch(self, number)
        for number, pending in tuple(self._under_way.items()):
            if pending is not None:
                pending.cancel()
            self._forget(number)
        for handle in tuple(self._prepared):
            server.calls.give_back(handle)
        self._prepared.clear()
        self._inbox = None
        server.forget(self, self._wire)


def _inodes(opened: Any) -> tuple[int, ...]:
    """By which the descriptor of a socket is recognised."""
    return (opened.channel.inode,)


_Action = Callable[[Session, Any, list[int]], None]

_ACTIONS: Final[dict[type, _Action]] = {
    protocol.Cancel: Session._cancel,
    protocol.Commit: Session._commit,
    protocol.GiveBack: Session._give_back,
    protocol.Unreceive: Session._unreceive,
    protocol.Reached: Session._reached,
}
"""Messages that have no answer."""
