"""What each request of a client asks for: the service's call, with what the client's rights and its quota let it have.

A request comes with the descriptors that came along and belong to no socket. What is wrong is raised as OSError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from usernet.core.errors import error
from usernet.netd import protocol, rights
from usernet.netd.interface import Opened, Pending, Received

if TYPE_CHECKING:
    from usernet.netd.session import Session

Action = Callable[["Session", Any, list[int]], None]


def _open(session: Session, request: protocol.Open, fds: list[int]) -> None:
    rights.check_open(request.family, request.type, session.privileged)
    session.server.quota.admit(session)
    session.call(
        request.id, partial(session.given, request.id), session.server.calls.socket, request.family, request.type,
        request.protocol,
    )  # fmt: skip


def _accept(session: Session, request: protocol.Accept, fds: list[int]) -> None:
    session.server.quota.admit(session)
    session.call(
        request.id, partial(session.given, request.id), session.server.calls.accept, request.handle, request.flags,
        request.nonblock,
    )  # fmt: skip


def _renew(session: Session, request: protocol.Renew, fds: list[int]) -> None:
    session.call(request.id, partial(session.given, request.id), session.server.calls.renew, request.handle)


def _plain(session: Session, number: int, call: Callable[..., Pending | None], *args: Any) -> None:
    """A call whose result is a number, or bytes."""

    def finish(result: Any) -> None:
        if isinstance(result, int):
            session.finish(number, protocol.Done(number, result))
        else:
            session.finish(number, protocol.Done(number, 0, result))

    session.call(number, finish, call, *args)


def _bind(session: Session, request: protocol.Bind, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.bind, request.handle, request.name)


def _listen(session: Session, request: protocol.Listen, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.listen, request.handle, request.backlog)


def _connect(session: Session, request: protocol.Connect, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.connect, request.handle, request.name, request.nonblock)


def _getsockname(session: Session, request: protocol.SockName, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.getsockname, request.handle)


def _getpeername(session: Session, request: protocol.PeerName, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.getpeername, request.handle)


def _shutdown(session: Session, request: protocol.Shutdown, fds: list[int]) -> None:
    _plain(session, request.id, session.server.calls.shutdown, request.handle, request.how)


def _getsockopt(session: Session, request: protocol.GetOption, fds: list[int]) -> None:
    size = min(request.size, 65536)
    _plain(
        session, request.id, session.server.calls.getsockopt, request.handle, request.level, request.option, size,
        request.value,
    )  # fmt: skip


def _setsockopt(session: Session, request: protocol.SetOption, fds: list[int]) -> None:
    rights.check_option(request.level, request.option, request.value, session.privileged)
    _plain(
        session, request.id, session.server.calls.setsockopt, request.handle, request.level, request.option,
        request.value,
    )  # fmt: skip


def _ioctl(session: Session, request: protocol.Ioctl, fds: list[int]) -> None:
    rights.check_ioctl(request.request, session.privileged)
    _plain(session, request.id, session.server.calls.ioctl, request.handle, request.request, request.argument)


def _ring(session: Session, request: protocol.Ring, fds: list[int]) -> None:
    def finish(fd: int) -> None:
        session.finish(request.id, protocol.Done(request.id), fd)

    session.call(request.id, finish, session.server.calls.ring, request.handle, request.size)


def _sendmsg(session: Session, request: protocol.Send, fds: list[int]) -> None:
    session.server.quota.check_memory(session)
    size = max(request.size, len(request.data))
    _plain(
        session, request.id, session.server.calls.sendmsg, request.handle, request.data, size, request.flags,
        request.name, request.control, request.nonblock,
    )  # fmt: skip


def _recvmsg(session: Session, request: protocol.Receive, fds: list[int]) -> None:
    def finish(got: Received) -> None:
        number = request.id
        answer = protocol.Done(number, got.result, got.data, got.name, got.control, got.flags)
        if not session.finish(number, answer):
            session.server.calls.unreceive(request.handle)

    session.call(
        request.id, finish, session.server.calls.recvmsg, request.handle, min(request.size, protocol.MAX_DATA),
        request.flags, min(request.control, 8192), request.nonblock,
    )  # fmt: skip


def _duplicate(session: Session, request: protocol.Duplicate, fds: list[int]) -> None:
    if len(fds) != 1:
        raise error(errno.EBADF, f"expected one descriptor, not {len(fds)}")
    opened = session.server.of_inode(os.fstat(fds[0]).st_ino)
    if opened is None:
        raise error(errno.ENOTSOCK, "the descriptor is that of no socket of this stack")
    session.handles.add(opened.handle)
    session.server.shared(opened.handle, session)
    found = Opened(opened.handle, -1, opened.channel.inode, opened.socket.sk.family, opened.socket.type == 1)
    session.finish(request.id, session.describe(request.id, found))


def _command(session: Session, request: protocol.Command, fds: list[int]) -> None:
    session.server.control.command(session, request)


def _watch(session: Session, request: protocol.Watch, fds: list[int]) -> None:
    session.server.control.watch(session, request)


CALLS: Final[dict[type, Action]] = {
    protocol.Open: _open,
    protocol.Renew: _renew,
    protocol.Bind: _bind,
    protocol.Listen: _listen,
    protocol.Connect: _connect,
    protocol.Accept: _accept,
    protocol.SockName: _getsockname,
    protocol.PeerName: _getpeername,
    protocol.Shutdown: _shutdown,
    protocol.GetOption: _getsockopt,
    protocol.SetOption: _setsockopt,
    protocol.Send: _sendmsg,
    protocol.Receive: _recvmsg,
    protocol.Ioctl: _ioctl,
    protocol.Ring: _ring,
    protocol.Duplicate: _duplicate,
    protocol.Command: _command,
    protocol.Watch: _watch,
}
