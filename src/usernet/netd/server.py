"""A stack as a service: its Unix socket, its clients, and the sockets that they have.

The listening socket and each client's are watched as a device's descriptor is, so whoever drives the stack serves the
clients too, in turn with the packets: no thread is there for them.

All sockets stand in one table (calls.py), since one that a client has passed to another process lives on when that
client is gone. Each client may use those that it made, or whose descriptors it has shown (`Duplicate`).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Final, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.errors import UnusableStackError
from usernet.core.softirq import Napi
from usernet.core.timer import Timer
from usernet.netd import protocol
from usernet.netd.calls import Calls
from usernet.netd.config import MAX_CLIENTS, MAX_MEMORY, MAX_SOCKETS
from usernet.netd.control import Commands, Control
from usernet.netd.messages import Wire
from usernet.netd.opensocket import OpenSocket
from usernet.netd.quota import Quota
from usernet.netd.session import Session
from usernet.posix.channel import StreamChannel
from usernet.posix.channel.channel import BY_INODE
from usernet.posix.channel.stream import CONNECTED
from usernet.sockets.socket import Socket
from usernet.stack import Stack
from usernet.transport.tcp.const import TCP_LISTEN

BACKLOG: Final = 1024
"""Clients that may wait to be taken."""

LOOK_EVERY: Final = NSEC_PER_SEC
"""How often (ns) the memory of each client is looked at."""

_UCRED: Final = struct.Struct("3i")


@final
class Server(Napi):
    """The service of one started stack. listener: a SOCK_SEQPACKET Unix socket that listens; it passes on here.

    privileged: says of a user id whether its clients may control the stack; by default the process's own and root may.
    """

    def __init__(
        self,
        stack: Stack,
        listener: socket.socket,
        *,
        commands: Commands | None = None,
        sockets: int = MAX_SOCKETS,
        memory: int = MAX_MEMORY,
        clients: int = MAX_CLIENTS,
        privileged: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.name = stack.name
        self.loop = stack.loop
        self.calls = Calls(stack.net, room=self._ring_room)
        self.calls.closed = self._closed
        self.quota = Quota(self, sockets, memory)
        self.control = Control(stack, commands or {})
        self.sessions: set[Session] = set()
        self.clients = clients
        self.rejected: int = 0
        """How many clients did not keep to the protocol."""
        self._privileged = privileged or (lambda uid: uid in (0, os.getuid()))
        self._listener: socket.socket | None = listener
        self._handles: dict[Socket, int] = {}
        self._sockets: dict[int, Socket] = {}
        self._owners: dict[int, Session] = {}
        self._users: dict[int, list[Session]] = {}
        """By handle: the clients that may use it, but for its owner."""
        self._brought: dict[int, list[int]] = {}
        """By handle: descriptors that have come along with requests under way."""
        self._closing = False
        listener.setblocking(False)
        trampoline = self.loop.trampoline
        if trampoline is None:
            raise UnusableStackError("a stack that is served has to be started")
        self.loop.enter()
        try:
            self._timer = Timer(self.loop.timers, self._look)
            trampoline.watch(listener.fileno(), self.loop, self, edge=True)
        finally:
            self.loop.leave()

    # -- clients that come and go

    def poll(self, budget: int) -> int:
        """Take a client; the next when all others had their turn."""
        listener = self._listener
        if listener is None:
            return 0
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return 0
        except OSError:
            # It has gone again, or there are no descriptors left: then who waits is looked at again in a second.
            self._timer.mod(self.loop.now + LOOK_EVERY)
            return 0
        self._rearm(listener.fileno(), False)
        self._admit(sock)
        return 1

    def _admit(self, sock: socket.socket) -> None:
        peer = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        wire = Wire(sock)
        if len(self.sessions) >= self.clients:
            self.quota.refused += 1
            try:
                wire.send(protocol.encode(protocol.Rejected(f"{self.clients} clients are served, and no more may be")))
            except OSError:
                pass
            wire.close()
            return
        session = Session(self, wire, peer, self._privileged(peer[1]))
        self.sessions.add(session)
        trampoline = self.loop.trampoline
        if trampoline is not None:
            trampoline.watch(wire.fileno(), self.loop, session, edge=True)
        if not self._timer.pending:
            self._timer.mod(self.loop.now + LOOK_EVERY)

    def rearm(self, session: Session, writable: bool) -> None:
        """Be told anew of what the client has sent, and where `writable`, of room for answers."""
        if not session.over:
            self._rearm(session.fileno(), writable)

    def _rearm(self, fd: int, writable: bool) -> None:
        trampoline = self.loop.trampoline
        if trampoline is not None and fd >= 0:
            try:
                trampoline.watch_writable(fd, writable)
            except OSError:
                pass  # it was closed by another thread

    def forget(self, session: Session, wire: Wire) -> None:
        """The client has ended."""
        entered = self._enter()
        try:
            trampoline = self.loop.trampoline
            if trampoline is not None:
                trampoline.unwatch(wire.fileno())
            wire.close()
            self.sessions.discard(session)
            self.quota.left(session)
            for users in self._users.values():
                if session in users:
                    users.remove(session)
        finally:
            if entered:
                self.loop.leave()

    def _enter(self) -> bool:
        """Take the lock; False where the stack has ended, and nothing of it is left to be guarded."""
        try:
            self.loop.enter()
        except UnusableStackError:
            return False
        return True

    def _look(self, now: int) -> None:
        """Once a second: what memory the clients have, and whether some could not be taken."""
        for session in self.sessions:
            if session.owned:
                self.quota.look(session)
        listener = self._listener
        if listener is not None:
            self._rearm(listener.fileno(), False)
        if self.sessions:
            self._timer.mod(now + LOOK_EVERY)

    # -- sockets

    def made(self, handle: int, session: Session) -> None:
        """`session` has made a socket."""
        opened = self.calls.table.get(handle)
        if opened is not None:
            self._owners[handle] = session
            self._handles[opened.socket] = handle
            self._sockets[handle] = opened.socket

    def shared(self, handle: int, session: Session) -> None:
        """`session` has shown the descriptor of a socket that another one made."""
        users = self._users.setdefault(handle, [])
        if session is not self._owners.get(handle) and session not in users:
            users.append(session)

    def of_inode(self, inode: int) -> OpenSocket | None:
        """The socket whose descriptor has this inode."""
        channel = BY_INODE.get(inode)
        if channel is None or channel.loop is not self.loop:
            return None
        return self.calls.table.get(self._handles.get(channel.socket, 0))

    def _ring_room(self, handle: int, size: int) -> None:
        owner = self._owners.get(handle)
        if owner is not None:
            self.quota.check_ring(owner, size)

    def _closed(self, handle: int) -> None:
        """A socket is no more."""
        owner = self._owners.pop(handle, None)
        opened = self._sockets.pop(handle, None)
        if opened is not None:
            del self._handles[opened]
        users = self._users.pop(handle, [])
        if owner is None:
            return
        if owner.over:
            self.quota.gone(owner.peer[1])
        for session in (owner, *users):
            session.gone(handle)

    # -- descriptors of sockets, for a moment

    def has_brought(self, handle: int, fd: int) -> None:
        """A request that is under way has brought a socket's descriptor along."""
        self._brought.setdefault(handle, []).append(fd)

    def parted(self, handle: int, fd: int) -> None:
        """That request is done."""
        fds = self._brought.get(handle)
        if fds is not None and fd in fds:
            fds.remove(fd)
            if not fds:
                del self._brought[handle]
        os.close(fd)

    def reach(self, handle: int) -> int:
        """Gives a duplicate of a socket's descriptor, where a request has brought one; else has its clients asked."""
        fds = self._brought.get(handle)
        if fds:
            return os.dup(fds[-1])
        opened = self.calls.table.get(handle)
        owner = self._owners.get(handle)
        if opened is not None and owner is not None:
            for session in (owner, *self._users.get(handle, ())):
                session.ask_for(handle, opened.channel.inode)
        return -1

    def brought(self, handle: int, fd: int) -> None:
        """A client that was asked has brought the descriptor: do what had to wait for it."""
        if not self._enter():
            return
        try:
            opened = self.calls.table.get(handle)
            if opened is None or opened.channel.over:
                return
            self.has_brought(handle, os.dup(fd))
            opened.channel.within_reach()
            self.parted(handle, self._brought[handle][-1])
        finally:
            self.loop.leave()

    # -- the end

    def close_connections(self) -> None:
        """The first part of the end: no client and no connection is taken any more, and the ones that there are end
        in order. What programs have written is sent, then the FIN."""
        self._stop_listening()
        if not self._enter():
            return
        try:
            for opened in tuple(self.calls.table.values()):
                channel = opened.channel
                if not isinstance(channel, StreamChannel) or channel.over:
                    continue
                if opened.socket.sk.state == TCP_LISTEN:
                    channel.abort()
                elif channel.state == CONNECTED:
                    try:
                        channel.shutdown(2)
                    except OSError:
                        pass  # it has ended by itself
        finally:
            self.loop.leave()

    def _stop_listening(self) -> None:
        entered = self._enter()
        try:
            listener, self._listener = self._listener, None
            if listener is not None:
                trampoline = self.loop.trampoline
                if trampoline is not None:
                    trampoline.unwatch(listener.fileno())
                listener.close()
        finally:
            if entered:
                self.loop.leave()

    def close(self) -> None:
        """End all clients and sockets. Does nothing the second time."""
        if self._closing:
            return
        self._closing = True
        self._stop_listening()
        for session in tuple(self.sessions):
            session.end()
        self.control.close()
        self.calls.close()
        for table in (self._handles, self._sockets, self._owners, self._users):
            table.clear()
        if self._enter():
            try:
                self._timer.delete()
            finally:
                self.loop.leave()
