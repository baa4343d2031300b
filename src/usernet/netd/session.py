"""One client of the service: its requests, its sockets, what it may have, and its end.

A message is read in the softirq of the stack, as a packet is from a device: one at a time, then all others have their
turn. It is acted on once the stack's lock is free, in the same thread. A call that has to wait is a `Deferred`, so it
costs nobody else anything; its answer is sent by whoever has driven the stack to that point. What the client is slow to
read waits here, and meanwhile nothing more is read from it.

When the connection ends, for whatever reason, its calls are cancelled, what was prepared for it is undone, and its
sockets are left to their descriptors: a socket lives for as long as anyone has one, as on Linux.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import UnusableStackError, error
from usernet.core.softirq import Napi
from usernet.netd import protocol, rights
from usernet.netd.interface import Opened, Pending, Received
from usernet.netd.messages import OversizedError, Wire, close_all

if TYPE_CHECKING:
    from usernet.netd.control import PacketStream
    from usernet.netd.server import Server

MAX_REQUESTS: Final = 16384
"""Requests of one client that may be under way."""

MAX_BACKLOG: Final = 1 << 20
"""Bytes of answers that may wait for a client; while any do, nothing is read from it."""

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
        self.over: bool = False
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
        self._out: deque[tuple[bytes, int]] = deque()
        self._out_bytes = 0
        self._out_lock = threading.Lock()
        self._on_room: list[Callable[[], None]] = []

    def fileno(self) -> int:
        return self._wire.fileno()

    # -- reading, in the softirq

    def poll(self, budget: int) -> int:
        if self.over or self._inbox is not None:
            return 0
        if self._out and not self._flush():
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
        finally:
            close_all(fds)
        self._inbox = None
        if not self.over:
            # Tells again of what has come meanwhile, when all others have had their turn.
            self.server.rearm(self, bool(self._out))

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
            _CALLS[kind](self, request, fds)
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
        data = protocol.encode(message)
        with self._out_lock:
            if not self.over and not self._out:
                try:
                    self._wire.send(data, (fd,) if fd >= 0 else ())
                except BlockingIOError:
                    pass
                except OSError:
                    if fd >= 0:
                        os.close(fd)
                    return False  # gone: its end is read soon
                else:
                    if fd >= 0:
                        os.close(fd)
                    return True
            if self.over or self._out_bytes > MAX_BACKLOG:
                if fd >= 0:
                    os.close(fd)
                cut = not self.over
            else:
                self._out.append((data, fd))
                self._out_bytes += len(data) + (4096 if fd >= 0 else 0)
                cut = False
        if cut:
            self.server.loop.after(self.end)  # it makes requests, and reads no answers
            return False
        self.server.rearm(self, True)
        return not self.over

    def _flush(self) -> bool:
        """Send what waits. False where the client has no room for it."""
        with self._out_lock:
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
                self._out_bytes -= len(data) + (4096 if fd >= 0 else 0)
                if fd >= 0:
                    os.close(fd)
            waiting, self._on_room = self._on_room, []
        self.server.rearm(self, False)
        for callback in waiting:
            self.server.loop.after(callback)
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback`, without the stack's lock, once the client has read what waits for it."""
        with self._out_lock:
            if self._out:
                self._on_room.append(callback)
                return
        self.server.loop.after(callback)

    @property
    def slow(self) -> bool:
        """Whether answers wait for the client to read others."""
        return bool(self._out)

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

    def is_under_way(self, number: int) -> bool:
        return number in self._under_way

    # -- the service's calls

    def _call(self, number: int, finish: Finish, call: Callable[..., Pending | None], *args: Any) -> None:
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

    def _given(self, number: int, opened: Opened | None) -> None:
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
        self.finish(number, self._describe(number, opened), opened.fd)

    def _describe(self, number: int, opened: Opened) -> protocol.Given:
        socket = self.server.calls.table[opened.handle].socket
        return protocol.Given(
            number, opened.handle, opened.inode, opened.family, socket.type, socket.protocol, opened.stream, opened.name
        )

    def _open(self, request: protocol.Open, fds: list[int]) -> None:
        rights.check_open(request.family, request.type, self.privileged)
        self.server.quota.admit(self)
        self._call(
            request.id, partial(self._given, request.id), self.server.calls.socket, request.family, request.type,
            request.protocol,
        )  # fmt: skip

    def _accept(self, request: protocol.Accept, fds: list[int]) -> None:
        self.server.quota.admit(self)
        self._call(
            request.id, partial(self._given, request.id), self.server.calls.accept, request.handle, request.flags,
            request.nonblock,
        )  # fmt: skip

    def _renew(self, request: protocol.Renew, fds: list[int]) -> None:
        self._call(request.id, partial(self._given, request.id), self.server.calls.renew, request.handle)

    def _plain(self, number: int, call: Callable[..., Pending | None], *args: Any) -> None:
        """A call whose result is a number, or bytes."""

        def finish(result: Any) -> None:
            if isinstance(result, int):
                self.finish(number, protocol.Done(number, result))
            else:
                self.finish(number, protocol.Done(number, 0, result))

        self._call(number, finish, call, *args)

    def _bind(self, request: protocol.Bind, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.bind, request.handle, request.name)

    def _listen(self, request: protocol.Listen, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.listen, request.handle, request.backlog)

    def _connect(self, request: protocol.Connect, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.connect, request.handle, request.name, request.nonblock)

    def _getsockname(self, request: protocol.SockName, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.getsockname, request.handle)

    def _getpeername(self, request: protocol.PeerName, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.getpeername, request.handle)

    def _shutdown(self, request: protocol.Shutdown, fds: list[int]) -> None:
        self._plain(request.id, self.server.calls.shutdown, request.handle, request.how)

    def _getsockopt(self, request: protocol.GetOption, fds: list[int]) -> None:
        size = min(request.size, 65536)
        self._plain(
            request.id, self.server.calls.getsockopt, request.handle, request.level, request.option, size, request.value
        )

    def _setsockopt(self, request: protocol.SetOption, fds: list[int]) -> None:
        rights.check_option(request.level, request.option, request.value, self.privileged)
        self._plain(
            request.id, self.server.calls.setsockopt, request.handle, request.level, request.option, request.value
        )

    def _ioctl(self, request: protocol.Ioctl, fds: list[int]) -> None:
        rights.check_ioctl(request.request, self.privileged)
        self._plain(request.id, self.server.calls.ioctl, request.handle, request.request, request.argument)

    def _ring(self, request: protocol.Ring, fds: list[int]) -> None:
        def finish(fd: int) -> None:
            self.finish(request.id, protocol.Done(request.id), fd)

        self._call(request.id, finish, self.server.calls.ring, request.handle, request.size)

    def _sendmsg(self, request: protocol.Send, fds: list[int]) -> None:
        self.server.quota.check_memory(self)
        self._plain(
            request.id, self.server.calls.sendmsg, request.handle, request.data, max(request.size, len(request.data)),
            request.flags, request.name, request.control, request.nonblock,
        )  # fmt: skip

    def _recvmsg(self, request: protocol.Receive, fds: list[int]) -> None:
        def finish(got: Received) -> None:
            number = request.id
            answer = protocol.Done(number, got.result, got.data, got.name, got.control, got.flags)
            if not self.finish(number, answer):
                self.server.calls.unreceive(request.handle)

        self._call(
            request.id, finish, self.server.calls.recvmsg, request.handle, min(request.size, protocol.MAX_DATA),
            request.flags, min(request.control, 8192), request.nonblock,
        )  # fmt: skip

    def _duplicate(self, request: protocol.Duplicate, fds: list[int]) -> None:
        if len(fds) != 1:
            raise error(errno.EBADF, f"expected one descriptor, not {len(fds)}")
        opened = self.server.of_inode(os.fstat(fds[0]).st_ino)
        if opened is None:
            raise error(errno.ENOTSOCK, "the descriptor is that of no socket of this stack")
        self.handles.add(opened.handle)
        self.server.shared(opened.handle, self)
        found = Opened(
            opened.handle, -1, opened.channel.inode, opened.socket.sk.family, opened.socket.type == 1
        )
        self.finish(request.id, self._describe(request.id, found))

    def _command(self, request: protocol.Command, fds: list[int]) -> None:
        self.server.control.command(self, request)

    def _watch(self, request: protocol.Watch, fds: list[int]) -> None:
        self.server.control.watch(self, request)

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
        with self._out_lock:
            if self.over:
                return
            self.over = True
            out, self._out = self._out, deque()
            for _, fd in out:
                if fd >= 0:
                    os.close(fd)
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

_CALLS: Final[dict[type, _Action]] = {
    protocol.Open: Session._open,
    protocol.Renew: Session._renew,
    protocol.Bind: Session._bind,
    protocol.Listen: Session._listen,
    protocol.Connect: Session._connect,
    protocol.Accept: Session._accept,
    protocol.SockName: Session._getsockname,
    protocol.PeerName: Session._getpeername,
    protocol.Shutdown: Session._shutdown,
    protocol.GetOption: Session._getsockopt,
    protocol.SetOption: Session._setsockopt,
    protocol.Send: Session._sendmsg,
    protocol.Receive: Session._recvmsg,
    protocol.Ioctl: Session._ioctl,
    protocol.Ring: Session._ring,
    protocol.Duplicate: Session._duplicate,
    protocol.Command: Session._command,
    protocol.Watch: Session._watch,
}
