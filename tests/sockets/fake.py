"""A protocol in memory, so that the socket layer is tested with no other above the base socket.

`FakeSock` is both a stream (SOCK_STREAM: connect, listen, accept, a byte stream with a bounded buffer) and a datagram
socket. Both ends are in one namespace, and data is there as soon as it is sent.
"""

from __future__ import annotations

import errno
import random
from collections import deque

from usernet.core.clock import Clock, ManualClock
from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRNORM,
    Blocking,
    Wait,
)
from usernet.net.families import Families, NetProtoFamily
from usernet.net.pernet import Net
from usernet.runner import process_runner
from usernet.sock.msg import MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MsgHdr, Name, SockAddr
from usernet.sock.sock import O_NONBLOCK, Sock

AF_INET = 2
ANY = bytes(4)
HERE = b"\x7f\x00\x00\x01"
ROOM = 1000
"""Bytes that a stream takes before its reader has taken any."""

SYN_SENT, ESTABLISHED, CLOSE, LISTEN = 2, 1, 7, 10


class FakeNet:
    """The fake protocol's ports."""

    def __init__(self, net: Net) -> None:
        self.bound: dict[tuple[int, int], FakeSock] = {}
        self.next_port = 40000
        self.manual_handshake = False
        """Connections stay under way until `FakeSock.establish`."""


class FakeSock(Sock):
    """See the module."""

    def __init__(self, net: Net, sock_type: int, protocol: int) -> None:
        super().__init__(net)
        self.family = AF_INET
        self.sock_type = sock_type
        self.protocol = protocol
        self.table = net.get(FakeNet)
        self.local = SockAddr(AF_INET, ANY, 0)
        self.remote: SockAddr | None = None
        self.peer: FakeSock | None = None
        self.stream = bytearray()
        self.datagrams: deque[tuple[bytes, SockAddr]] = deque()
        self.backlog: deque[FakeSock] = deque()
        self.options: dict[tuple[int, int], bytes] = {}
        self.closed = False
        self.lingering_until = 0

    def bind(self, name: Name) -> None:
        assert isinstance(name, SockAddr)
        port = name.port
        if port == 0:
            port = self.table.next_port
            self.table.next_port += 1
        if (self.sock_type, port) in self.table.bound:
            raise error(errno.EADDRINUSE)
        self.local = SockAddr(AF_INET, name.addr, port)
        self.table.bound[self.sock_type, port] = self

    def listen(self, backlog: int) -> None:
        if self.sock_type != 1:
            raise error(errno.EOPNOTSUPP)
        self.state = LISTEN

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        assert isinstance(name, SockAddr)
        if self.sock_type == 2:
            self.remote = name
            if not self.local.port:
                self.bind(SockAddr(AF_INET, HERE, 0))
            return None
        if self.state == SYN_SENT:
            raise error(errno.EALREADY)
        if self.state == ESTABLISHED:
            raise error(errno.EISCONN)
        listener = self.table.bound.get((1, name.port))
        if listener is None or listener.state != LISTEN:
            raise error(errno.ECONNREFUSED)
        self.local = SockAddr(AF_INET, HERE, self.table.next_port)
        self.table.next_port += 1
        self.remote = name
        self.state = SYN_SENT
        if not self.table.manual_handshake:
            self.establish()
            return None
        if flags & O_NONBLOCK:
            raise error(errno.EINPROGRESS)
        return self._wait_connect(deadline)

    def _wait_connect(self, deadline: int) -> Blocking[None]:
        while self.state == SYN_SENT:
            if self.loop.now >= deadline:
                raise error(errno.EINPROGRESS)
            yield Wait((self.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
        self.raise_error()

    def establish(self) -> None:
        assert self.remote is not None
        listener = self.table.bound[1, self.remote.port]
        child = FakeSock(self.net, 1, self.protocol)
        child.local, child.remote, child.peer, child.state = self.remote, self.local, self, ESTABLISHED
        self.peer, self.state = child, ESTABLISHED
        listener.backlog.append(child)
        listener.data_ready()
        self.state_change()

    def fail(self, code: int) -> None:
        self.state = CLOSE
        self.err = code
        self.error_report()

    def accept(self, flags: int, deadline: int) -> Blocking[Sock] | Sock:
        if self.state != LISTEN:
            raise error(errno.EINVAL)
        if self.backlog:
            return self.backlog.popleft()
        if flags & O_NONBLOCK:
            raise error(errno.EAGAIN)
        return self._wait_accept(deadline)

    def _wait_accept(self, deadline: int) -> Blocking[Sock]:
        while not self.backlog:
            if self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((self.wait,), EPOLLIN, deadline, exclusive=True)
        return self.backlog.popleft()

    def getsockname(self) -> Name:
        return self.local

    def getpeername(self) -> Name:
        if self.remote is None or self.state == SYN_SENT:
            raise error(errno.ENOTCONN)
        return self.remote

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        self.raise_error()
        if self.sock_type == 2:
            target = msg.name or self.remote
            if target is None:
                raise error(errno.EDESTADDRREQ)
            assert isinstance(target, SockAddr)
            if not self.local.port:
                self.bind(SockAddr(AF_INET, HERE, 0))
            data = bytes(msg.iter.read(msg.iter.length))
            receiver = self.table.bound.get((2, target.port))
            if receiver is not None:
                receiver.datagrams.append((data, self.local))
                receiver.data_ready()
            return len(data)
        if self.shutdown_mask & 2 or self.peer is None:
            raise error(errno.EPIPE if self.shutdown_mask & 2 else errno.ENOTCONN)
        sent = self._fill(msg)
        if msg.iter.length == 0 or (sent and flags & MSG_DONTWAIT):
            return sent
        if flags & MSG_DONTWAIT:
            raise error(errno.EAGAIN)
        return self._wait_send(msg, sent, deadline)

    def _fill(self, msg: MsgHdr) -> int:
        peer = self.peer
        assert peer is not None
        room = ROOM - len(peer.stream)
        if room <= 0 or not msg.iter.length:
            return 0
        data = msg.iter.read(min(room, msg.iter.length))
        peer.stream += data
        peer.data_ready()
        return len(data)

    def _wait_send(self, msg: MsgHdr, sent: int, deadline: int) -> Blocking[int]:
        while msg.iter.length:
            sent += self._fill(msg)
            if not msg.iter.length:
                break
            if self.loop.now >= deadline:
                if sent:
                    return sent
                raise error(errno.EAGAIN)
            yield Wait((self.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
            self.raise_error()
        return sent

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        self.raise_error()
        result = self._take(msg, flags, 0)
        if result is not None:
            return result
        if flags & MSG_DONTWAIT:
            raise error(errno.EAGAIN)
        return self._wait_receive(msg, flags, deadline)

    def _take(self, msg: MsgHdr, flags: int, had: int) -> int | None:
        if self.sock_type == 2:
            if not self.datagrams:
                return None
            data, msg.name = self.datagrams[0] if flags & MSG_PEEK else self.datagrams.popleft()
            written = msg.iter.write(data)
            if written < len(data):
                msg.flags |= MSG_TRUNC
            for (level, kind), value in self.options.items():
                if level == 77:  # what a test asks for as ancillary data
                    msg.put_control(level, kind, value)
            return len(data) if flags & MSG_TRUNC else written
        if self.state == CLOSE and self.remote is None:
            raise error(errno.ENOTCONN)
        wanted = msg.iter.length
        if not self.stream:
            return had if had or self.shutdown_mask & 1 or not wanted else None
        data = bytes(self.stream[:wanted])
        msg.iter.write(data)
        if not flags & MSG_PEEK:
            del self.stream[: len(data)]
            if self.peer is not None:
                self.peer.write_space()
        if flags & MSG_WAITALL and len(data) < wanted and not flags & MSG_DONTWAIT:
            return None
        return had + len(data)

    def _wait_receive(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int]:
        whole = msg.iter.length
        first = True
        while True:
            self.raise_error()
            had = whole - msg.iter.length if not first else 0
            result = self._take(msg, flags, had)
            if result is not None:
                return result
            first = False
            if self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((self.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, deadline, exclusive=True)

    def shutdown(self, how: int) -> None:
        if self.remote is None:
            raise error(errno.ENOTCONN)
        self.shutdown_mask |= how + 1
        if self.peer is not None and (how + 1) & 2:
            self.peer.shutdown_mask |= 1
            self.peer.state_change()
        self.state_change()

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        assert not self.closed
        self.closed = True
        self.dead = True
        self.table.bound.pop((self.sock_type, self.local.port), None)
        for child in self.backlog:
            child.close()
        if self.peer is not None:
            self.peer.shutdown_mask |= 1
            self.peer.peer = None
            self.peer.state_change()
        self.wait.wake_all(EPOLLHUP)
        self.destroy()
        if self.linger > 0:
            return self._linger(min(deadline, self.loop.now + self.linger * 10**9))
        return None

    def _linger(self, until: int) -> Blocking[None]:
        while self.loop.now < until:
            yield Wait((self.wait,), EPOLLHUP, until)
        self.lingering_until = self.loop.now

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if level == 99:
            raise error(errno.ENOPROTOOPT)
        self.options[level, option] = value

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if (level, option) == (1, 4):
            return self.take_error().to_bytes(4, "little")[:length]
        if (level, option) not in self.options:
            raise error(errno.ENOPROTOOPT)
        return self.options[level, option][:length]

    def ioctl(self, request: int) -> int:
        if request == 0x541B:
            return len(self.stream)
        raise error(errno.ENOTTY)

    def writeable(self) -> bool:
        return self.sock_type == 2 or (self.peer is not None and len(self.peer.stream) < ROOM)

    def poll(self) -> int:
        if self.state == LISTEN:
            return EPOLLIN | EPOLLRDNORM if self.backlog else 0
        if self.state == SYN_SENT:
            return EPOLLERR if self.err else 0
        mask = EPOLLERR if self.err else 0
        if (self.sock_type == 1 and self.state == CLOSE) or self.shutdown_mask == 3:
            mask |= EPOLLHUP
        if self.shutdown_mask & 1:
            mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP
        if self.stream or self.datagrams:
            mask |= EPOLLIN | EPOLLRDNORM
        if self.writeable() or self.state == CLOSE or self.shutdown_mask & 2:
            mask |= EPOLLOUT | EPOLLWRNORM
        return mask


class FakeFamily(NetProtoFamily):
    """AF_INET, all fake."""

    def __init__(self, net: Net) -> None:
        self.family = AF_INET
        self._net = net
        net.get(Families).register(self)

    def create(self, sock_type: int, protocol: int) -> FakeSock:
        if sock_type not in (1, 2):
            raise error(errno.ESOCKTNOSUPPORT)
        return FakeSock(self._net, sock_type, protocol or {1: 6, 2: 17}[sock_type])


def make_net(clock: Clock | None = None) -> Net:
    """A namespace with the fake protocol, not started."""
    net = Net("fake", clock or ManualClock(), random.Random(1))
    net.get(FakeFamily)
    return net


def start(net: Net) -> None:
    """Have the process's runner drive `net`."""
    runner = process_runner()
    net.loop.trampoline = runner
    runner.attach(net.loop)


def stop(net: Net) -> None:
    """End `net`."""
    trampoline = net.loop.trampoline
    net.loop.close("the test is over")
    net.loop.trampoline = None
    if trampoline is not None:
        trampoline.detach(net.loop)
