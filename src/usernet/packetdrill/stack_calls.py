"""A script's system calls on the sockets of a stack, each with Linux's checks in Linux's order.

Between `StackTarget`, which runs what must wait, and sockets/. A handler does its work with the stack's lock held and
returns the result, or a generator (core/wait.py: Blocking) where it must wait; it raises OSError for -1 and errno.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, TypeAlias, final

from usernet.core.errors import error
from usernet.core.loop import Loop
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLNVAL, EPOLLOUT, Blocked, Blocking, Wait
from usernet.net.pernet import Net
from usernet.packetdrill.stack_files import Descriptors, EpollFile, MemoryFile, OpenFile, Pipe, PipeEnd
from usernet.packetdrill.stack_memory import UserMemory
from usernet.packetdrill.stack_splice import sendfile, splice
from usernet.packetdrill.target import (
    Buffer,
    Call,
    ControlMessage,
    EpollEvent,
    Message,
    PollFd,
    SocketAddress,
)
from usernet.sock.inet import InetSock
from usernet.sock.msg import MSG_CTRUNC, MsgHdr, SockAddr
from usernet.sock.sock import O_NONBLOCK, Sock
from usernet.sockets.arguments import fit_control
from usernet.sockets.socket import Socket

Outcome: TypeAlias = int | Blocked[int]

O_RDWR: Final = 2
F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
FIONBIO: Final = 0x5421
EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3
MSEC: Final = 1_000_000
INT_MAX: Final = 0x7FFFFFFF


def _int(value: object) -> int:
    """An argument that the interpreter gives as a number."""
    if not isinstance(value, int):
        raise TypeError(f"expected a number, not {value!r}")
    return value


def _buffer(value: object) -> Buffer:
    if not isinstance(value, Buffer):
        raise TypeError(f"expected a Buffer, not {value!r}")
    return value


def _buffers(value: object) -> list[Buffer]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of Buffers, not {value!r}")
    return [_buffer(item) for item in value]


def _address(value: object) -> SockAddr:
    if not isinstance(value, SocketAddress):
        raise TypeError(f"expected a SocketAddress, not {value!r}")
    return SockAddr(value.family, value.address, value.port)


def _message(value: object) -> Message:
    if not isinstance(value, Message):
        raise TypeError(f"expected a Message, not {value!r}")
    return value


def _nothing(call: Blocking[None]) -> Blocking[int]:
    """A call without a result, as one whose result is 0."""
    yield from call
    return 0


@final
class SystemCalls:
    """The calls of one script. `files`: what `open` finds, path to content."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.loop: Loop = net.loop
        self.files: dict[str, bytes] = {}
        self.fds = Descriptors()
        self._handlers: dict[str, Callable[[Call], Outcome]] = {
            name.removeprefix("sys_"): getattr(self, name) for name in dir(self) if name.startswith("sys_")
        }

    def start(self, call: Call) -> Outcome:
        """Do it, or what of it needs no waiting. Raises OSError (ENOSYS for a call that is not here)."""
        handler = self._handlers.get(call.name)
        if handler is None:
            raise error(errno.ENOSYS)
        return handler(call)

    def close_all(self) -> None:
        """As a process does that ends."""
        for fd in self.fds.all():
            self._close(fd)

    # ------------------------------------------------------------ sockets

    def sys_socket(self, call: Call) -> Outcome:
        family, kind, protocol = (_int(argument) for argument in call.arguments)
        return self.fds.add(Socket.create(self.net, family, kind, protocol))

    def _socket(self, call: Call) -> Socket:
        return self.fds.socket(_int(call.arguments[0]))

    def sys_bind(self, call: Call) -> Outcome:
        self._socket(call).sk.bind(_address(call.arguments[1]))
        return 0

    def sys_listen(self, call: Call) -> Outcome:
        self._socket(call).sk.listen(_int(call.arguments[1]))
        return 0

    def sys_connect(self, call: Call) -> Outcome:
        waiting = self._socket(call).connect(_address(call.arguments[1]))
        return 0 if waiting is None else _nothing(waiting)

    def sys_accept(self, call: Call) -> Outcome:
        socket = self._socket(call)
        accepted = socket.accept()
        if isinstance(accepted, Sock):
            return self._adopt(call, socket, accepted)
        return self._accept_later(call, socket, accepted)

    def _accept_later(self, call: Call, socket: Socket, waiting: Blocking[Sock]) -> Blocking[int]:
        return self._adopt(call, socket, (yield from waiting))

    def _adopt(self, call: Call, socket: Socket, sk: Sock) -> int:
        if isinstance(sk, InetSock):
            call.output.address = SocketAddress(sk.family, sk.daddr, sk.dport)
        return self.fds.add(socket.adopt(sk))

    def sys_shutdown(self, call: Call) -> Outcome:
        self._socket(call).sk.shutdown(_int(call.arguments[1]))
        return 0

    def sys_getsockopt(self, call: Call) -> Outcome:
        socket = self._socket(call)
        level, option, length = (_int(argument) for argument in call.arguments[1:])
        call.output.data = socket.sk.getsockopt(level, option, length)
        return 0

    def sys_setsockopt(self, call: Call) -> Outcome:
        socket = self._socket(call)
        level, option, value, length = call.arguments[1:]
        if not isinstance(value, bytes):
            raise TypeError(f"expected an option's bytes, not {value!r}")
        if _int(length) < 0:
            raise error(errno.EINVAL)
        socket.sk.setsockopt(_int(level), _int(option), value[: _int(length)].ljust(_int(length), b"\0"))
        return 0

    # ------------------------------------------------------------ descriptors

    def sys_close(self, call: Call) -> Outcome:
        return self._close(_int(call.arguments[0]))

    def _close(self, fd: int) -> Outcome:
        file = self.fds.remove(fd)
        if isinstance(file, Socket):
            waiting = file.put()
            return 0 if waiting is None else _nothing(waiting)
        if isinstance(file, PipeEnd):
            file.close()
        elif isinstance(file, EpollFile):
            file.eventpoll.close()
        return 0

    def sys_fcntl(self, call: Call) -> Outcome:
        file = self.fds.get(_int(call.arguments[0]))
        command = _int(call.arguments[1])
        argument = call.arguments[2]
        if command == F_GETFL:
            nonblock = isinstance(file, (Socket, PipeEnd)) and file.nonblock
            return O_RDWR | O_NONBLOCK if nonblock else O_RDWR
        if command == F_SETFL:
            if isinstance(file, (Socket, PipeEnd)):
                file.nonblock = bool(_int(argument) & O_NONBLOCK)
            return 0
        if command in (F_GETFD, F_SETFD):
            return 0
        raise error(errno.EINVAL)

    def sys_ioctl(self, call: Call) -> Outcome:
        socket = self._socket(call)
        request = _int(call.arguments[1])
        if request == FIONBIO:
            raise error(errno.EFAULT)
        call.output.data = (socket.sk.ioctl(request) & 0xFFFFFFFF).to_bytes(4, "little")
        return 0

    def sys_open(self, call: Call) -> Outcome:
        path = call.arguments[0]
        if not isinstance(path, str):
            raise TypeError(f"expected a path, not {path!r}")
        if path not in self.files:
            raise error(errno.ENOENT)
        return self.fds.add(MemoryFile(self.files[path]))

    def sys_pipe(self, call: Call) -> Outcome:
        pipe = Pipe()
        call.output.fds = [self.fds.add(PipeEnd(pipe, False)), self.fds.add(PipeEnd(pipe, True))]
        return 0

    def sys_cap_set(self, call: Call) -> Outcome:
        return 0

    # ------------------------------------------------------------ data

    def _receive(self, socket: Socket, buffers: list[Buffer], flags: int) -> Outcome:
        return socket.recvmsg(MsgHdr(UserMemory(buffers)), flags)

    def _send(self, socket: Socket, buffers: list[Buffer], flags: int, name: SockAddr | None = None) -> Outcome:
        return socket.sendmsg(MsgHdr(UserMemory(buffers), name), flags)

    def _read(self, fd: int, buffers: list[Buffer]) -> Outcome:
        file = self.fds.get(fd)
        memory = UserMemory(buffers)
        if isinstance(file, Socket):
            # sock_read_iter: nothing asked for, nothing done.
            return file.recvmsg(MsgHdr(memory), 0) if memory.length else 0
        if isinstance(file, MemoryFile):
            return memory.write(file.take(memory.length))
        if isinstance(file, PipeEnd):
            return memory.write(file.take(memory.length))
        raise error(errno.EINVAL)

    def _write(self, fd: int, buffers: list[Buffer]) -> Outcome:
        file = self.fds.get(fd)
        if isinstance(file, Socket):
            return self._send(file, buffers, 0)
        if isinstance(file, PipeEnd):
            data = bytes(UserMemory(buffers).read(file.room()))
            file.put(data)
            return len(data)
        raise error(errno.EBADF if isinstance(file, MemoryFile) else errno.EINVAL)

    def sys_read(self, call: Call) -> Outcome:
        return self._read(_int(call.arguments[0]), [_buffer(call.arguments[1])])

    def sys_readv(self, call: Call) -> Outcome:
        return self._read(_int(call.arguments[0]), _buffers(call.arguments[1]))

    def sys_write(self, call: Call) -> Outcome:
        return self._write(_int(call.arguments[0]), [_buffer(call.arguments[1])])

    def sys_writev(self, call: Call) -> Outcome:
        return self._write(_int(call.arguments[0]), _buffers(call.arguments[1]))

    def sys_recv(self, call: Call) -> Outcome:
        return self._receive(self._socket(call), [_buffer(call.arguments[1])], _int(call.arguments[2]))

    sys_recvfrom = sys_recv

    def sys_send(self, call: Call) -> Outcome:
        return self._send(self._socket(call), [_buffer(call.arguments[1])], _int(call.arguments[2]))

    def sys_sendto(self, call: Call) -> Outcome:
        name = _address(call.arguments[3])
        return self._send(self._socket(call), [_buffer(call.arguments[1])], _int(call.arguments[2]), name)

    def sys_sendmsg(self, call: Call) -> Outcome:
        socket, message, flags = self._socket(call), _message(call.arguments[1]), _int(call.arguments[2])
        name = None if message.address is None else _address(message.address)
        control = [(item.level, item.type, item.data) for item in message.control]
        return socket.sendmsg(MsgHdr(UserMemory(message.buffers), name, control or None), flags)

    def sys_recvmsg(self, call: Call) -> Outcome:
        socket, message, flags = self._socket(call), _message(call.arguments[1]), _int(call.arguments[2])
        msg = MsgHdr(UserMemory(message.buffers))
        outcome = socket.recvmsg(msg, flags)
        if isinstance(outcome, int):
            _fill(message, msg)
            return outcome
        return self._receive_later(message, msg, outcome)

    def _receive_later(self, message: Message, msg: MsgHdr, waiting: Blocked[int]) -> Blocking[int]:
        result = yield from waiting
        _fill(message, msg)
        return result

    def sys_sendfile(self, call: Call) -> Outcome:
        out, source, offset, count = (_int(argument) for argument in call.arguments)
        return sendfile(self.fds.socket(out), self.fds.get(source), offset, count)

    def sys_splice(self, call: Call) -> Outcome:
        source, source_offset, target, target_offset, length, flags = call.arguments
        places = [None if offset is None else _int(offset) for offset in (source_offset, target_offset)]
        return splice(
            self.fds.get(_int(source)), places[0], self.fds.get(_int(target)), places[1], _int(length), _int(flags)
        )

    # ------------------------------------------------------------ events

    def _deadline(self, milliseconds: int) -> int:
        return NEVER if milliseconds < 0 else self.loop.now + milliseconds * MSEC

    def sys_poll(self, call: Call) -> Outcome:
        fds = call.arguments[0]
        if not isinstance(fds, list):
            raise TypeError(f"expected a list of PollFds, not {fds!r}")
        polled = [fd for fd in fds if isinstance(fd, PollFd)]
        ready = self._scan(polled)
        timeout = _int(call.arguments[1])
        return ready if ready or timeout == 0 else self._poll_later(polled, self._deadline(timeout))

    def _scan(self, polled: list[PollFd]) -> int:
        """Set every revents; returns how many are not zero (poll(2))."""
        count = 0
        for item in polled:
            try:
                file = self.fds.get(item.fd)
            except OSError:
                item.revents = EPOLLNVAL
            else:
                item.revents = _events(file) & (item.events | EPOLLERR | EPOLLHUP)
            count += bool(item.revents)
        return count

    def _poll_later(self, polled: list[PollFd], deadline: int) -> Blocking[int]:
        queues = []
        mask = EPOLLERR | EPOLLHUP
        for item in polled:
            file = self.fds.get(item.fd)
            mask |= item.events
            if isinstance(file, Socket):
                queues.append(file.wait_queue())
            elif isinstance(file, EpollFile):
                queues.append(file.eventpoll.wait)
            elif isinstance(file, PipeEnd):
                queues.append(file.pipe.wait)
        while True:
            ready = self._scan(polled)
            if ready or self.loop.now >= deadline:
                return ready
            yield Wait(tuple(queues), mask, deadline)

    def sys_epoll_create(self, call: Call) -> Outcome:
        if _int(call.arguments[0]) <= 0:
            raise error(errno.EINVAL)
        return self.fds.add(EpollFile(self.loop))

    def _epoll(self, call: Call) -> EpollFile:
        file = self.fds.get(_int(call.arguments[0]))
        if not isinstance(file, EpollFile):
            raise error(errno.EINVAL)
        return file

    def sys_epoll_ctl(self, call: Call) -> Outcome:
        epoll = self._epoll(call)
        operation, fd, event = _int(call.arguments[1]), _int(call.arguments[2]), call.arguments[3]
        file = self.fds.get(fd)
        if not isinstance(event, EpollEvent):
            raise TypeError(f"expected an EpollEvent, not {event!r}")
        if not isinstance(file, (Socket, EpollFile)):
            raise error(errno.EPERM)
        if operation == EPOLL_CTL_ADD:
            epoll.eventpoll.add(file if isinstance(file, Socket) else file.eventpoll, fd, event.events)
        elif operation == EPOLL_CTL_MOD:
            epoll.eventpoll.modify(fd, event.events)
        elif operation == EPOLL_CTL_DEL:
            epoll.eventpoll.delete(fd)
        else:
            raise error(errno.EINVAL)
        epoll.data[fd] = event.data
        return 0

    def sys_epoll_wait(self, call: Call) -> Outcome:
        epoll = self._epoll(call)
        most, timeout = _int(call.arguments[1]), _int(call.arguments[2])
        if not 0 < most <= INT_MAX:
            raise error(errno.EINVAL)
        found = epoll.eventpoll.collect(most)
        if found or timeout == 0:
            return _report(call, epoll, found)
        return self._epoll_later(call, epoll, most, self._deadline(timeout))

    def _epoll_later(self, call: Call, epoll: EpollFile, most: int, deadline: int) -> Blocking[int]:
        return _report(call, epoll, (yield from epoll.eventpoll.collect_blocked(most, deadline)))


def _report(call: Call, epoll: EpollFile, found: list[tuple[object, int]]) -> int:
    call.output.events = [EpollEvent(events, epoll.data[fd]) for fd, events in found if isinstance(fd, int)]
    return len(found)


def _events(file: OpenFile) -> int:
    """What is so of a descriptor now (poll(2))."""
    if isinstance(file, EpollFile):
        return file.eventpoll.poll()
    if isinstance(file, MemoryFile):
        return EPOLLIN | EPOLLOUT
    return file.poll()


def _fill(message: Message, msg: MsgHdr) -> None:
    """Give a received message back to the script."""
    control, cut = fit_control(msg.control, message.control_length)
    message.control = [ControlMessage(level, kind, data) for level, kind, data in control]
    message.flags = msg.flags | MSG_CTRUNC if cut else msg.flags
    if isinstance(msg.name, SockAddr):
        message.address = SocketAddress(msg.name.family, msg.name.addr, msg.name.port)
