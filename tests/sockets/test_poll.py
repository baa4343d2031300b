"""select and poll on a stack's sockets."""

from __future__ import annotations

import errno
import select as host
import threading
from typing import Any

import pytest

from tests.sockets.fake import ROOM, make_net
from tests.sockets.pairs import listener, sk_of, stream_pair
from tests.sockets.virtual import Virtual
from usernet.net.pernet import Net
from usernet.sockets.poll import Epoll, Poll, select
from usernet.sockets.user import UserSocket
from usernet.stack import Stack


def test_select(net: Net) -> None:
    with stream_pair(net) as (left, right):
        assert select(net, [left, right], [left, right], [left], 0) == ([], [left, right], [])
        left.send(bytes(ROOM))
        assert select(net, [left, right], [left], [], 0) == ([right], [], [])
        assert select(net, [right.fileno()], [], [], 0) == ([right.fileno()], [], [])


def test_select_waits_and_gives_up(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        assert select(virtual.net, [left, right], [], [], 1.5) == ([], [], [])
        assert virtual.seconds == 1.5
        virtual.at(2, lambda: right.send(b"x"))
        assert select(virtual.net, [left, right], [], []) == ([left], [], [])
        assert virtual.seconds == 2
        assert select(virtual.net, [], [], [], 1) == ([], [], [])
        assert virtual.seconds == 3


def test_select_refuses_what_is_no_socket_of_the_stack(net: Net) -> None:
    foreign: Any
    with UserSocket(net) as sock:
        pass
    with UserSocket(make_net()) as other:
        for foreign, kind in (("x", TypeError), (sock, OSError), (2, OSError), (other, ValueError)):
            with pytest.raises(kind) as raised:
                select(net, [foreign], [], [], 0)
            if kind is OSError:
                assert isinstance(raised.value, OSError)
                assert raised.value.errno == errno.EBADF
    for timeout in (-1, -0.5, "x"):
        with pytest.raises((ValueError, TypeError)):
            select(net, [], [], [], timeout)  # type: ignore[arg-type]


def test_poll(net: Net) -> None:
    poll = Poll(net)
    with stream_pair(net) as (left, right):
        poll.register(left, host.POLLOUT)
        poll.register(right)
        assert poll.poll(0) == [(left, host.POLLOUT), (right, host.POLLOUT)]
        poll.modify(right, host.POLLIN)
        left.send(b"x")
        assert poll.poll() == [(left, host.POLLOUT), (right, host.POLLIN)]
        poll.unregister(left)
        right.recv(1)
        left.shutdown(1)
        poll.register(right, host.POLLRDHUP)
        assert poll.poll(-1) == [(right, host.POLLRDHUP)]
        right.shutdown(1)
        poll.register(right, 0)
        assert poll.poll(-1) == [(right, host.POLLHUP)]
    assert poll.poll() == [(right, host.POLLNVAL)]


def test_poll_waits_for_milliseconds(virtual: Virtual) -> None:
    poll = Poll(virtual.net)
    with stream_pair(virtual.net) as (left, right):
        poll.register(right.fileno(), host.POLLIN)
        assert poll.poll(1500) == []
        assert virtual.seconds == 1.5
        assert poll.poll(0.2) == []
        assert virtual.seconds == 1.501
        virtual.at(2, lambda: left.send(b"x"))
        assert poll.poll(None) == [(right.fileno(), host.POLLIN)]
        sk_of(right).fail(errno.ECONNRESET)
        assert poll.poll()[0][1] & host.POLLERR
        right.getsockopt(1, 4)


def test_wrong_calls_of_poll(net: Net) -> None:
    poll = Poll(net)
    with UserSocket(net) as sock:
        with pytest.raises(OSError) as raised:
            poll.modify(sock, 1)
        assert raised.value.errno == errno.ENOENT
        with pytest.raises(KeyError):
            poll.unregister(sock)
        with pytest.raises(TypeError):
            poll.register("x")
        with pytest.raises(OverflowError):
            poll.register(sock, 1 << 16)
        with pytest.raises(ValueError, match="positive"):
            poll.register(sock, -1)
        with pytest.raises(ValueError, match="NaN"):
            poll.poll(float("nan"))
        with pytest.raises(OverflowError):
            poll.poll(2**40)


def test_an_epoll_can_be_polled(net: Net) -> None:
    poll = Poll(net)
    with UserSocket(net, 2, 2) as sock, Epoll(net) as epoll:
        poll.register(epoll, host.POLLIN)
        assert poll.poll(0) == []
        epoll.register(sock, host.EPOLLOUT)
        assert poll.poll(0) == [(epoll, host.POLLIN)]


def test_waiting_for_many_in_threads(threaded: Net) -> None:
    with listener(threaded) as server, Epoll(threaded) as epoll:
        clients = [UserSocket(threaded) for _ in range(5)]
        epoll.register(server, host.EPOLLIN)
        caller = threading.Thread(target=lambda: [client.connect_ex(("127.0.0.1", 80)) for client in clients])
        caller.start()
        connections: list[UserSocket] = []
        while len(connections) < 5:
            assert epoll.poll(30)
            connections.append(server.accept()[0])
        caller.join()
        for sock in clients + connections:
            sock.close()


def test_the_stack_has_them() -> None:
    with Stack("poll") as stack, stack.socket(2, 2) as sock:
        assert stack.select([sock], [sock], [], 0) == ([], [sock], [])
        poller = stack.poller()
        poller.register(sock, host.POLLOUT)
        assert poller.poll() == [(sock, host.POLLOUT)]
        with stack.epoll() as epoll:
            epoll.register(sock, host.EPOLLOUT)
            assert epoll.poll() == [(sock, host.EPOLLOUT)]
