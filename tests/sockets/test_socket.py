"""The socket between users and protocol, as other callers than Python programs use it: with the lock held."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.sockets.fake import FakeSock
from tests.sockets.virtual import SECOND, Virtual
from usernet.core.iov import CollectIter, SourceIter
from usernet.core.wait import EPOLLIN, Blocking, Wait
from usernet.net.pernet import Net
from usernet.sock.msg import MsgHdr, SockAddr
from usernet.sockets.socket import SOCK_CLOEXEC, SOCK_NONBLOCK, Socket

SERVER = SockAddr(2, b"\x7f\x00\x00\x01", 80)


@pytest.fixture
def inside(virtual: Virtual) -> Iterator[Net]:
    virtual.net.loop.enter()
    yield virtual.net
    virtual.net.loop.leave()


def test_a_connection_with_the_lock_held(inside: Net) -> None:
    server = Socket.create(inside, 2, 1 | SOCK_CLOEXEC, 0)
    server.sk.bind(SERVER)
    server.sk.listen(5)
    client = Socket.create(inside, 2, 1 | SOCK_NONBLOCK, 6)
    assert (client.type, client.protocol, client.nonblock, server.nonblock) == (1, 6, True, False)
    assert client.connect(SERVER) is None
    accepted = server.accept()
    assert isinstance(accepted, FakeSock)
    connection = server.adopt(accepted)
    assert client.sendmsg(MsgHdr(SourceIter([b"hello"])), 0) == 5
    sink = CollectIter(10)
    assert connection.recvmsg(MsgHdr(sink), 0) == 5
    assert sink.getvalue() == b"hello"
    with pytest.raises(BlockingIOError):
        client.recvmsg(MsgHdr(CollectIter(1)), 0)
    server.nonblock = True
    with pytest.raises(BlockingIOError):
        server.accept()
    assert client.poll() == client.sk.poll()
    for socket in (server, client, connection):
        assert socket.put() is None


def test_so_rcvtimeo_is_the_deadline(virtual: Virtual) -> None:
    net = virtual.net
    net.loop.enter()
    socket = Socket.create(net, 2, 2, 0)
    socket.sk.rcvtimeo = 2 * SECOND
    call = socket.recvmsg(MsgHdr(CollectIter(1)), 0)
    assert not isinstance(call, int)
    with pytest.raises(BlockingIOError):
        socket.block(call)
    socket.leave()
    assert virtual.seconds == 2
    assert socket.references == 1
    socket.release()
    assert socket.references == 0


@pytest.mark.parametrize(
    ("family", "kind", "number"),
    [(46, 1, errno.EAFNOSUPPORT), (-1, 1, errno.EAFNOSUPPORT), (2, 1 | 16, errno.EINVAL), (2, 12, errno.EINVAL)],
)
def test_what_cannot_be(inside: Net, family: int, kind: int, number: int) -> None:
    with pytest.raises(OSError) as raised:
        Socket.create(inside, family, kind, 0)
    assert raised.value.errno == number


def test_the_last_to_let_go_closes(inside: Net) -> None:
    socket = Socket.create(inside, 2, 1, 0)
    sk = socket.sk
    assert isinstance(sk, FakeSock)
    socket.get()
    socket.put()
    assert not sk.closed
    socket.put()
    assert sk.closed


def test_a_socket_closed_while_a_call_waits_lives_until_that_returns(virtual: Virtual) -> None:
    net = virtual.net
    net.loop.enter()
    socket = Socket.create(net, 2, 1, 0)
    sk = socket.sk
    assert isinstance(sk, FakeSock)
    left: list[int] = []

    def wait() -> Blocking[str]:
        yield Wait((sk.wait,), EPOLLIN, SECOND)
        left.append(socket.references)
        assert not sk.closed
        return "done"

    virtual.at(0.5, lambda: socket.release())
    assert socket.block(wait()) == "done"
    assert left == [1]
    assert sk.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.check_open()
    socket.leave()


@pytest.mark.parametrize(("timeout", "raised"), [(-1, BlockingIOError), (0, BlockingIOError), (1, TimeoutError)])
def test_whose_time_out_it_was_that_ended_a_call(virtual: Virtual, timeout: int, raised: type[OSError]) -> None:
    def give_up() -> Blocking[str]:
        yield Wait((socket.sk.wait,), EPOLLIN, SECOND)
        raise BlockingIOError(errno.EAGAIN, "no more")

    net = virtual.net
    net.loop.enter()
    socket = Socket.create(net, 2, 1, 0)
    with pytest.raises(raised) as caught:
        socket.block(give_up(), timeout)
    assert type(caught.value) is raised
    assert socket.references == 1
    socket.put()
    socket.leave()


def test_a_finaliser_lets_go_later(virtual: Virtual) -> None:
    net = virtual.net
    net.loop.enter()
    socket = Socket.create(net, 2, 1, 0)
    sk = socket.sk
    assert isinstance(sk, FakeSock)
    sk.linger = 60
    socket.put_later()
    assert not sk.closed
    net.loop.leave()
    assert sk.closed  # without lingering: nobody is there to wait
    assert virtual.seconds == 0
