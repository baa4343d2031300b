"""socket, bind, listen, connect, accept, shutdown, and the names of a socket (Linux: net/socket.c).

The checks come in Linux's order, as far as two errors at once can tell the difference: the descriptor, the address, the
socket's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from usernet.netd.interface import Done, Opened, Pending, SpentChannelError
from usernet.netd.supervisor.call import Ask, Call, Gone, Steps, c_int
from usernet.netd.supervisor.process import close_on_exec
from usernet.netd.supervisor.table import Entry

SOCK_CLOEXEC: Final = os.O_CLOEXEC


def _socket(call: Call) -> Steps:
    family, kind, protocol = map(c_int, call.args[:3])
    opened: Opened = yield partial(call.supervisor.backend.socket, family, kind, protocol)
    _place(call, opened, bool(kind & SOCK_CLOEXEC))
    return None


def _accept(call: Call) -> Steps:
    return _accept_with(call, 0)


def _accept4(call: Call) -> Steps:
    return _accept_with(call, c_int(call.args[3]))


def _accept_with(call: Call, flags: int) -> Steps:
    backend = call.supervisor.backend
    entry = call.entry(waits=True)
    address, length_at = call.args[1:3]
    opened: Opened = yield partial(backend.accept, entry.handle, flags, call.nonblock)
    if address:
        try:
            call.write_name(opened.name, address, length_at)
        except Gone:
            os.close(opened.fd)
            backend.give_back(opened.handle)
            raise
        except OSError:
            # The connection was accepted, and is closed: so it is on Linux, too.
            os.close(opened.fd)
            backend.commit(opened.handle, _nowhere)
            raise
    _place(call, opened, bool(flags & SOCK_CLOEXEC))
    return None


def _nowhere() -> int:
    return -1


def _place(call: Call, opened: Opened, cloexec: bool) -> None:
    """Put a new socket into the process, which is the answer to the call; where that fails, nothing was done. Raises
    OSError EMFILE."""
    supervisor = call.supervisor
    entry = Entry(opened.handle, opened.inode, opened.family, opened.stream)
    supervisor.table.add(entry)
    number = -1
    try:
        number = supervisor.notifier.add_fd(call.id, opened.fd, cloexec=cloexec, send=True)
    finally:
        os.close(opened.fd)
        if number >= 0:
            try:
                entry.holders.add(supervisor.threads.of(call.tid), number)
            except OSError:
                pass  # it has ended meanwhile, and perhaps passed it on before
            supervisor.backend.commit(opened.handle, entry.holders)
        else:
            supervisor.table.remove(opened.handle)
            supervisor.backend.give_back(opened.handle)


def _bind(call: Call) -> Steps:
    entry = call.entry(check=False)
    name = call.read_name(call.args[1], c_int(call.args[2]))
    missed = call.repeat(name)
    if missed is not None:
        return missed
    result: int = yield partial(call.supervisor.backend.bind, entry.handle, name)
    return result


def _listen(call: Call) -> Steps:
    entry = call.entry()
    ask = partial(call.supervisor.backend.listen, entry.handle, c_int(call.args[1]))
    return (yield from _unspent(call, entry, ask))


def _connect(call: Call) -> Steps:
    entry = call.entry(check=False, waits=True)
    name = call.read_name(call.args[1], c_int(call.args[2]))
    missed = call.repeat(name)
    if missed is not None:
        return missed
    ask = partial(call.supervisor.backend.connect, entry.handle, name, call.nonblock)
    return (yield from _unspent(call, entry, ask))


def _unspent(call: Call, entry: Entry, ask: Ask) -> Steps:
    """Ask, and where the socket's descriptor is spent (a connection has failed), put another one in its place."""
    try:
        result: int = yield ask
        return result
    except SpentChannelError:
        pass
    supervisor = call.supervisor
    opened: Opened | None = yield partial(supervisor.backend.renew, entry.handle)
    if opened is not None:
        number = c_int(call.args[0])
        placed = -1
        try:
            cloexec = close_on_exec(call.tid, number)
            call.check()
            placed = supervisor.notifier.add_fd(call.id, opened.fd, cloexec=cloexec, send=False, replace=number)
        finally:
            os.close(opened.fd)
            if placed < 0:
                supervisor.backend.give_back(entry.handle)
        if placed < 0:
            raise Gone
        supervisor.table.renewed(entry, opened.inode)
        if call.pidfd is not None:
            entry.holders.add(call.pidfd, number)
        supervisor.backend.commit(entry.handle, entry.holders)
    result = yield ask
    return result


def _getsockname(call: Call) -> Steps:
    return _name_of(call, call.supervisor.backend.getsockname)


def _getpeername(call: Call) -> Steps:
    return _name_of(call, call.supervisor.backend.getpeername)


def _name_of(call: Call, ask: Callable[[int, Done], Pending | None]) -> Steps:
    entry = call.entry()
    name: bytes = yield partial(ask, entry.handle)
    call.write_name(name, call.args[1], call.args[2])
    return 0


def _shutdown(call: Call) -> Steps:
    entry = call.entry()
    missed = call.repeat()
    if missed is not None:
        return missed
    result: int = yield partial(call.supervisor.backend.shutdown, entry.handle, c_int(call.args[1]))
    return result


HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {
    "socket": _socket,
    "accept": _accept,
    "accept4": _accept4,
    "bind": _bind,
    "listen": _listen,
    "connect": _connect,
    "getsockname": _getsockname,
    "getpeername": _getpeername,
    "shutdown": _shutdown,
}
