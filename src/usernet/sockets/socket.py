"""The socket between its users and its protocol (Linux: `struct socket` and its `struct file`, net/socket.c).

`Socket` holds what belongs to the open socket and not to the protocol: its type, the file's flags, how many hold it,
its descriptor's readiness, and the epolls that watch it. Above it stand the objects of programs (sockets/base.py), and
whatever else makes system calls; below it is `sk`, the protocol's own (sock/sock.py). All is called with the stack's
lock held, but for `release` and `put_later`.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

from usernet.core.errors import UnusableStackError, error
from usernet.core.timer import NEVER
from usernet.core.wait import Blocked, Blocking, WaitQueue
from usernet.net.families import Families
from usernet.net.pernet import Net
from usernet.sock.msg import MSG_DONTWAIT, MsgHdr, Name
from usernet.sock.sock import O_NONBLOCK, Sock

if TYPE_CHECKING:
    from usernet.sockets.epoll import EpollItem
    from usernet.sockets.readiness import Readiness

SOCK_TYPE_MASK: Final = 0xF
SOCK_MAX: Final = 11
NPROTO: Final = 46
SOCK_NONBLOCK: Final = O_NONBLOCK
SOCK_CLOEXEC: Final = 0o2000000

_T = TypeVar("_T")


def timed_out() -> TimeoutError:
    """What a time-out of the handle raises: as in the standard module, without an errno."""
    return TimeoutError("timed out")


@final
class Socket:
    """An open socket. `references`: how many program objects, descriptors and waiting calls hold it; the last to let
    go closes the protocol's side. `nonblock`: O_NONBLOCK of the file."""

    __slots__ = ("epitems", "loop", "net", "nonblock", "protocol", "readiness", "references", "sk", "type")

    def __init__(self, net: Net, sk: Sock, sock_type: int, protocol: int) -> None:
        """`sk` has no socket yet: it was just made, or accepted."""
        self.net = net
        self.loop = net.loop
        self.sk = sk
        self.type = sock_type
        self.protocol = protocol
        self.nonblock: bool = False
        self.references: int = 1
        self.readiness: Readiness | None = None
        self.epitems: list[EpollItem] | None = None

    @staticmethod
    def create(net: Net, family: int, sock_type: int, protocol: int) -> Socket:
        """A new socket (socket(2)); `sock_type` may bring SOCK_NONBLOCK and SOCK_CLOEXEC.

        Raises OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EINVAL, EPERM, EACCES.
        """
        flags = sock_type & ~SOCK_TYPE_MASK
        if flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
            raise error(errno.EINVAL)
        kind = sock_type & SOCK_TYPE_MASK
        if not 0 <= family < NPROTO:
            raise error(errno.EAFNOSUPPORT)
        if kind >= SOCK_MAX:
            raise error(errno.EINVAL)
        sk: Sock = net.get(Families).create(family, kind, protocol)
        socket = Socket(net, sk, kind, sk.protocol)
        socket.nonblock = bool(flags & SOCK_NONBLOCK)
        return socket

    # -- what stands in a system call of its own before the protocol is asked

    def wait_queue(self) -> WaitQueue:
        """Whom the socket's events are told (Linux: sk_sleep)."""
        return self.sk.wait

    def poll(self) -> int:
        """The events that are so now (EPOLL*)."""
        return self.sk.poll()

    def connect(self, name: Name) -> Blocking[None] | None:
        """connect(2), for as long as O_NONBLOCK and SO_SNDTIMEO allow."""
        return self.sk.connect(name, O_NONBLOCK if self.nonblock else 0, self._deadline(self.sk.sndtimeo))

    def accept(self) -> Blocking[Sock] | Sock:
        """accept(2), for as long as O_NONBLOCK and SO_RCVTIMEO allow; `adopt` makes a socket of what it returns."""
        return self.sk.accept(O_NONBLOCK if self.nonblock else 0, self._deadline(self.sk.rcvtimeo))

    def adopt(self, sk: Sock) -> Socket:
        """The socket of a connection that this one accepted."""
        return Socket(self.net, sk, self.type, self.protocol)

    def unaccept(self, sk: Sock) -> None:
        """The undoing of `accept`: `sk`, which nobody has used, is the next to be accepted again."""
        self.sk.unaccept(sk)

    def sendmsg(self, msg: MsgHdr, flags: int) -> Blocking[int] | int:
        """sendmsg(2), for as long as O_NONBLOCK, MSG_DONTWAIT and SO_SNDTIMEO allow."""
        return self.sk.sendmsg(msg, flags | MSG_DONTWAIT if self.nonblock else flags, self._deadline(self.sk.sndtimeo))

    def recvmsg(self, msg: MsgHdr, flags: int) -> Blocked[int] | int:
        """recvmsg(2), for as long as O_NONBLOCK, MSG_DONTWAIT and SO_RCVTIMEO allow."""
        return self.sk.recvmsg(msg, flags | MSG_DONTWAIT if self.nonblock else flags, self._deadline(self.sk.rcvtimeo))

    def _deadline(self, timeo: int) -> int:
        return NEVER if timeo >= NEVER else self.loop.now + timeo

    # -- who holds it

    def get(self) -> None:
        """One more holds it."""
        self.references += 1

    def put(self) -> Blocking[None] | None:
        """One fewer holds it; the last one closes it, which may wait where SO_LINGER says so."""
        self.references -= 1
        if self.references:
            return None
        epitems = self.epitems
        if epitems is not None:
            for item in tuple(epitems):
                item.remove()
        if self.readiness is not None:
            self.readiness.close()
            self.readiness = None
        # Nobody could end a wait on a stack that nothing drives.
        return self.sk.close(NEVER if self.loop.trampoline is not None else self.loop.now)

    def release(self, fd: int = -1) -> None:
        """A holder lets go, with its descriptor, without the lock held. Waits where SO_LINGER says so."""
        loop = self.loop
        try:
            loop.enter()
        except UnusableStackError:
            self._end()
            return
        try:
            lingering = self._put(fd)
        finally:
            loop.leave()
        if lingering is not None:
            loop.run_blocked(lingering)

    def put_later(self, fd: int = -1) -> None:
        """As `release`, from a finaliser, which may run anywhere, inside this stack or another: it must not enter."""
        loop = self.loop
        if loop.unusable:
            self._end()
            return
        loop.after(partial(self._put_deferred, fd))
        trampoline = loop.trampoline
        if trampoline is not None:
            trampoline.schedule(loop)

    def _put_deferred(self, fd: int) -> None:
        loop = self.loop
        try:
            loop.enter()
        except UnusableStackError:
            self._end()
            return
        try:
            lingering = self._put(fd)
            if lingering is not None:
                lingering.close()
        finally:
            loop.leave()

    def _put(self, fd: int) -> Blocking[None] | None:
        if fd >= 0 and self.readiness is not None:
            self.readiness.release(fd)
        return self.put()

    def _end(self) -> None:
        """A holder lets go after the stack has ended: only the host's descriptors are left to be closed."""
        self.references -= 1
        if self.references <= 0 and self.readiness is not None:
            self.readiness.close()
            self.readiness = None

    # -- a call's frame

    def check_open(self) -> None:
        """Another thread may have closed the socket before this one got the lock. Raises OSError EBADF."""
        if not self.references:
            raise error(errno.EBADF)

    def block(self, call: Blocked[_T], timeout: int = -1) -> _T:
        """Run a call that has to wait to its end. The lock is let go of only while it waits, and a socket closed
        meanwhile lives until its last call returns.

        timeout: above 0, the handle's own (ns), which `call` ends by: running out of it is its TimeoutError. Without,
        what ran out is the socket's (SO_RCVTIMEO, SO_SNDTIMEO), and EAGAIN.
        """
        self.references += 1
        if self.readiness is not None:
            self.readiness.refresh()
        try:
            return self.loop.block(call)
        except BlockingIOError:
            if timeout > 0:
                raise timed_out() from None
            raise
        finally:
            if self.loop.unusable:
                self._end()
            else:
                lingering = self.put()
                if lingering is not None:
                    self.loop.block(lingering)

    def leave(self) -> None:
        """The end of a call: its descriptor is brought in step, and the lock released."""
        readiness = self.readiness
        if readiness is not None and not self.loop.unusable:
            readiness.refresh()
        self.loop.leave()
