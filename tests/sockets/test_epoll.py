"""The epoll of a stack: level and edge, one-shot, exclusive, nested; what is collected, in which order."""

from __future__ import annotations

import errno
import select
from collections.abc import Iterator

import pytest

from tests.sockets.pairs import listener, sk_of, stream_pair
from tests.sockets.virtual import Virtual
from usernet.core.wait import EPOLLERR, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Waiter
from usernet.net.pernet import Net
from usernet.sockets.epoll import EpollItem
from usernet.sockets.poll import Epoll
from usernet.sockets.user import UserSocket

ET, ONESHOT, EXCLUSIVE = select.EPOLLET & 0xFFFFFFFF, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE


@pytest.fixture
def epoll(net: Net) -> Iterator[Epoll]:
    with Epoll(net) as made:
        yield made


def test_level_triggered_reports_for_as_long_as_it_is_so(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(right, EPOLLIN)
        assert epoll.poll(0) == []
        left.send(b"ab")
        for _ in range(3):
            assert epoll.poll(0) == [(right, EPOLLIN)]
        right.recv(2)
        assert epoll.poll(0) == []
        left.send(b"c")
        assert epoll.poll(0) == [(right, EPOLLIN)]


def test_edge_triggered_reports_each_wake_up_once(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(right, EPOLLIN | ET)
        left.send(b"a")
        assert epoll.poll(0) == [(right, EPOLLIN)]
        assert epoll.poll(0) == []
        left.send(b"b")  # though "a" was not read
        assert epoll.poll(0) == [(right, EPOLLIN)]
        epoll.modify(right, EPOLLIN | ET)
        assert epoll.poll(0) == [(right, EPOLLIN)]


def test_what_is_so_when_it_is_registered_is_reported(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, _):
        epoll.register(left, EPOLLIN | EPOLLOUT | ET)
        assert epoll.poll(0) == [(left, EPOLLOUT)]
        assert epoll.poll(0) == []


def test_one_shot_is_off_until_modified(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(right, EPOLLIN | ONESHOT)
        left.send(b"a")
        assert epoll.poll(0) == [(right, EPOLLIN)]
        left.send(b"b")
        assert epoll.poll(0) == []
        epoll.modify(right, EPOLLIN | ONESHOT)
        assert epoll.poll(0) == [(right, EPOLLIN)]


def test_errors_and_hanging_up_are_reported_unasked(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(right, 0)
        sk_of(right).fail(errno.ECONNRESET)
        assert epoll.poll(0)[0][1] & (EPOLLERR | EPOLLHUP) == EPOLLERR | EPOLLHUP
        right.getsockopt(1, 4)
        left.close()


def test_rdhup_where_asked_for(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(right, EPOLLRDHUP)
        left.shutdown(1)
        assert epoll.poll(0) == [(right, EPOLLRDHUP)]


def test_most_are_taken_in_turn(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right), UserSocket(net, 2, 2) as third:
        for sock in (left, right, third):
            epoll.register(sock, EPOLLOUT)
        seen = [sock for _ in range(2) for _ in range(3) for sock, _ in epoll.poll(0, 1)]
        assert seen == [left, right, third] * 2


def test_waiting_and_giving_up(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right), Epoll(virtual.net) as epoll:
        epoll.register(right, EPOLLIN)
        assert epoll.poll(2) == []
        assert virtual.seconds == 2
        virtual.at(3, lambda: left.send(b"x"))
        assert epoll.poll() == [(right, EPOLLIN)]
        assert virtual.seconds == 3
        right.recv(1)
        virtual.at(4, lambda: epoll.register(left, EPOLLOUT))
        assert epoll.poll(-1) == [(left, EPOLLOUT)]


def test_wrong_calls(net: Net, epoll: Epoll) -> None:
    with UserSocket(net) as sock, UserSocket(net) as other:
        epoll.register(sock, EPOLLIN)
        for call, number in (
            (lambda: epoll.register(sock, EPOLLIN), errno.EEXIST),
            (lambda: epoll.modify(other, EPOLLIN), errno.ENOENT),
            (lambda: epoll.unregister(other), errno.ENOENT),
            (lambda: epoll.register(epoll, EPOLLIN), errno.EINVAL),
            (lambda: epoll.modify(sock, EPOLLIN | EXCLUSIVE), errno.EINVAL),
            (lambda: epoll.register(other, EPOLLIN | ONESHOT | EXCLUSIVE), errno.EINVAL),
            (lambda: epoll.register(other, EPOLLRDHUP | EXCLUSIVE), errno.EINVAL),
        ):
            with pytest.raises(OSError) as raised:
                call()
            assert raised.value.errno == number
        epoll.register(other, EPOLLIN | EXCLUSIVE | ET)
        with pytest.raises(OSError) as raised:
            epoll.modify(other, EPOLLIN)
        assert raised.value.errno == errno.EINVAL
        with pytest.raises(ValueError, match="maxevents"):
            epoll.poll(0, 0)


def test_a_closed_socket_is_watched_no_longer(net: Net, epoll: Epoll) -> None:
    with stream_pair(net) as (left, right):
        epoll.register(left, EPOLLIN | EPOLLOUT)
        epoll.register(right, EPOLLOUT)
        twin = right.dup()
        right.close()
        assert len(epoll.poll(0)) == 2  # another handle keeps the socket open, as with descriptors
        twin.close()
        assert [sock for sock, _ in epoll.poll(0)] == [left]
        epoll.unregister(left)
        assert epoll.poll(0) == []
        assert not sk_of(left).wait.active


def test_closing_watches_nothing(net: Net) -> None:
    epoll = Epoll(net)
    with UserSocket(net) as sock:
        epoll.register(sock)
        epoll.close()
        epoll.close()
        assert epoll.closed
        assert not sk_of(sock).wait.active
        for call in (epoll.poll, lambda: epoll.register(sock), lambda: epoll.unregister(sock)):
            with pytest.raises(ValueError, match="closed epoll"):
                call()


def test_an_epoll_watches_another(virtual: Virtual) -> None:
    net = virtual.net
    with stream_pair(net) as (left, right), Epoll(net) as inner, Epoll(net) as outer:
        inner.register(right, EPOLLIN)
        outer.register(inner, EPOLLIN)
        assert outer.poll(0) == []
        virtual.at(1, lambda: left.send(b"x"))
        assert outer.poll() == [(inner, EPOLLIN)]
        assert inner.poll(0) == [(right, EPOLLIN)]
        right.recv(1)
        assert outer.poll(0) == []
        with pytest.raises(OSError) as raised:
            inner.register(outer, EPOLLIN)
        assert raised.value.errno == errno.ELOOP
        inner.close()
        assert outer.poll(0) == []


def test_epolls_nest_four_deep(net: Net) -> None:
    row = [Epoll(net) for _ in range(6)]
    for above, below in zip(row[1:5], row[:4], strict=True):
        above.register(below, EPOLLIN)
    for above, below in ((row[5], row[4]), (row[0], row[5])):
        if above is row[0]:
            below.close()
            continue
        with pytest.raises(OSError) as raised:
            above.register(below, EPOLLIN)
        assert raised.value.errno == errno.ELOOP
    for epoll in row:
        epoll.close()


class _Sleeper(Waiter):
    """Stands for a thread in epoll_wait."""

    def __init__(self) -> None:
        super().__init__(EPOLLIN, True)
        self.woken = 0

    def wake(self, mask: int) -> bool:
        self.woken += 1
        return True


def _sleeper(epoll: Epoll) -> _Sleeper:
    sleeper = _Sleeper()
    assert epoll.eventpoll is not None
    epoll.eventpoll.wait.add(sleeper)
    return sleeper


@pytest.mark.parametrize(("flags", "woken"), [(0, 2), (EPOLLEXCLUSIVE, 1)])
def test_exclusive_items_wake_one_epoll(net: Net, flags: int, woken: int) -> None:
    with listener(net) as server, UserSocket(net) as client, Epoll(net) as one, Epoll(net) as two:
        sleepers = []
        for epoll in (one, two):
            epoll.register(server, EPOLLIN | flags)
            sleepers.append(_sleeper(epoll))
        client.connect(("127.0.0.1", 80))
        assert sum(sleeper.woken for sleeper in sleepers) == woken
        server.accept()[0].close()


def test_an_exclusive_item_that_nobody_waits_for_passes_the_wake_up_on(net: Net) -> None:
    with listener(net) as server, UserSocket(net) as client, Epoll(net) as busy, Epoll(net) as idle:
        busy.register(server, EPOLLIN | EXCLUSIVE)
        idle.register(server, EPOLLIN | EXCLUSIVE)
        sleeper = _sleeper(idle)
        client.connect(("127.0.0.1", 80))
        assert sleeper.woken == 1
        server.accept()[0].close()


def test_an_exclusive_item_is_no_use_for_other_events(net: Net) -> None:
    with UserSocket(net) as sock, Epoll(net) as epoll:
        epoll.register(sock, EPOLLOUT | EXCLUSIVE)
        _sleeper(epoll)
        assert epoll.eventpoll is not None
        item: EpollItem = epoll.eventpoll.items[sock]
        assert item.wake(EPOLLOUT)
        assert not item.wake(EPOLLIN)
        assert item.wake(EPOLLERR)
        assert not item.wake(EPOLLIN | EPOLLOUT)
