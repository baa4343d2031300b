"""Ends that stand alone: a stream socket's descriptor before it is connected or listens."""

from __future__ import annotations

import errno
import os
import select
import socket as standard

import pytest

from tests.posix.channel.conftest import Net, mask
from tests.support.stacks import until
from usernet.posix.channel import Channel, open_channel
from usernet.posix.channel.channel import BY_INODE, OWN_ENDS, SINGLES
from usernet.posix.channel.single import Singles
from usernet.sock.msg import SockAddr
from usernet.sockets.socket import Socket

ADDR = SockAddr(2, bytes((10, 0, 0, 2)), 80)
OTHER = SockAddr(2, bytes((10, 0, 0, 1)), 81)


def fresh(net: Net) -> tuple[Channel, int]:
    """A new TCP socket of the client's, and its descriptor."""
    loop = net.client.loop
    loop.enter()
    try:
        channel = open_channel(Socket.create(net.client.net, 2, 1, 0))
    finally:
        loop.leave()
    fd = channel.take_app()
    channel.reach = lambda: os.dup(fd)
    return channel, fd


def code(fd: int) -> int:
    with standard.socket(fileno=os.dup(fd)) as sock, pytest.raises(OSError) as caught:
        sock.recv(1)
    return caught.value.errno or 0


def test_it_says_that_it_is_not_connected(net: Net):
    channel, fd = fresh(net)
    assert channel.single
    assert channel in SINGLES
    os.set_blocking(fd, True)
    # TCP says ENOTCONN; no UNIX socket of streams does.
    assert code(fd) == errno.EINVAL
    assert mask(fd) == select.POLLOUT | select.POLLHUP
    os.close(fd)
    until(lambda: channel.over)


def test_it_is_joined_where_it_is_by_connect(net: Net):
    channel, fd = fresh(net)
    inode = os.fstat(fd).st_ino
    again = os.dup(fd)
    loop = net.client.loop
    loop.enter()
    try:
        channel.limit_receive(8192)
        assert channel.socket.connect(ADDR) is not None
        channel.follow()
        assert not channel.single
    finally:
        loop.leave()
    peer, _ = net.listener.accept()
    until(lambda: mask(again) == select.POLLOUT)
    os.write(again, b"hello")
    assert peer.recv(10) == b"hello"
    peer.send(b"there")
    until(lambda: mask(fd) & select.POLLIN)
    assert os.read(fd, 10) == b"there"
    assert os.fstat(fd).st_ino == inode
    os.close(fd)
    os.close(again)
    assert peer.recv(10) == b""
    until(lambda: not net.client.net.get(Singles).waiting)
    peer.close()


def test_it_is_joined_by_listen(net: Net):
    channel, fd = fresh(net)
    loop = net.client.loop
    loop.enter()
    try:
        channel.socket.sk.bind(OTHER)
        channel.follow()
        assert channel.single
        channel.socket.sk.listen(5)
        channel.follow()
        assert not channel.single
    finally:
        loop.leave()
    asking = net.server.socket()
    asking.connect(("10.0.0.1", 81))
    until(lambda: mask(fd) & select.POLLIN)
    asking.close()
    os.close(fd)
    until(lambda: channel.over)


def test_out_of_reach_it_waits_until_it_is_in_reach(net: Net):
    channel, fd = fresh(net)
    channel.reach = None
    loop = net.client.loop
    loop.enter()
    try:
        assert channel.socket.connect(ADDR) is not None
        channel.follow()
        assert channel.single
    finally:
        loop.leave()
    peer, _ = net.listener.accept()
    loop.enter()
    try:
        channel.reach = lambda: os.dup(fd)
        channel.within_reach()
    finally:
        loop.leave()
    until(lambda: mask(fd) == select.POLLOUT)
    os.write(fd, b"late")
    assert peer.recv(10) == b"late"
    peer.close()
    os.close(fd)


def test_the_close_of_the_last_descriptor_is_noticed(net: Net):
    channel, fd = fresh(net)
    told: list[bool] = []
    channel.ended = told.append
    loop = net.client.loop
    loop.enter()
    try:
        channel.socket.sk.bind(OTHER)
    finally:
        loop.leave()
    again = os.dup(fd)
    os.close(fd)
    assert not channel.over
    os.close(again)
    until(lambda: channel.over)
    assert told == [True]
    assert not SINGLES
    # The port is free.
    with net.client.socket() as sock:
        sock.bind(("10.0.0.1", 81))


def test_closes_that_the_kernel_has_not_remembered_are_found(net: Net):
    channel, fd = fresh(net)
    other, open_still = fresh(net)
    singles = net.client.net.get(Singles)
    loop = net.client.loop
    loop.enter()
    try:
        os.close(fd)
        os.read(singles._fd, 65536)
        singles._look_after_all()
        assert channel.over
        assert not other.over
    finally:
        loop.leave()
    os.close(open_still)
    until(lambda: other.over)


def test_ended_both_ways_it_is_over_only_when_it_is_closed(net: Net):
    channel, fd = fresh(net)
    loop = net.client.loop
    loop.enter()
    try:
        assert channel.socket.connect(ADDR) is not None
        channel.follow()
    finally:
        loop.leave()
    peer, _ = net.listener.accept()
    until(lambda: mask(fd) == select.POLLOUT)
    with standard.socket(fileno=os.dup(fd)) as sock:
        sock.send(b"last")
        sock.shutdown(standard.SHUT_RDWR)
    assert peer.recv(10) == b"last"
    assert peer.recv(10) == b""
    peer.close()
    sk = channel.socket.sk
    until(lambda: channel._hung)
    assert not channel.over
    assert not sk.dead
    os.close(fd)
    until(lambda: channel.over)
    assert sk.dead


def test_without_inotify_it_is_one_of_a_pair_from_its_start(net: Net):
    singles = net.client.net.get(Singles)

    class Nothing:
        def inotify_add_watch(self, *arguments: object) -> int:
            return -1

    singles._libc = Nothing()  # type: ignore[assignment]
    channel, fd = fresh(net)
    assert not channel.single
    assert channel in OWN_ENDS.values()
    os.close(fd)
    until(lambda: channel.over)
    singles._libc = None


def test_the_end_of_the_stack_ends_it(net: Net):
    channel, fd = fresh(net)
    net.client.close()
    assert channel.over
    assert not SINGLES
    assert channel not in BY_INODE.values()
    os.close(fd)
