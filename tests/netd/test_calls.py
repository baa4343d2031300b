"""System calls in terms of bytes, without threads."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

import pytest

from tests.netd.conftest import Client, code, name
from tests.support.stacks import until
from usernet.netd.backend import SpentChannelError

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
SERVER = name("10.0.0.2", 80)
Pair = tuple[Client, Client]


def listening(server: Client) -> int:
    handle = server.open(STREAM)
    server.bind(handle, name("0.0.0.0", 80))
    server.listen(handle, 16)
    return handle


def events(fd: int, timeout: int = 2000) -> int:
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    for _, mask in poller.poll(timeout):
        return mask
    return 0


def test_connection_of_two_descriptors(pair: Pair):
    client, server = pair
    listener = listening(server)
    assert server.getsockname(listener) == name("0.0.0.0", 80)
    waiting = server.start("accept", listener, socket.SOCK_NONBLOCK, False)
    assert waiting.pending is not None and not waiting.times
    one = client.open(STREAM)
    assert client.connect(one, SERVER, False) == 0
    opened = waiting.wait()
    assert opened.name[:4] == b"\2\0" + client.getsockname(one)[2:4] and opened.name[4:8] == bytes((10, 0, 0, 1))
    assert opened.stream and os.fstat(opened.fd).st_ino == opened.inode
    assert not os.get_blocking(opened.fd)
    two = server.keep(opened)
    assert server.getpeername(two) == client.getsockname(one)
    os.write(client.fds[one], b"hello")
    until(lambda: events(server.fds[two]) & select.POLLIN)
    assert os.read(server.fds[two], 100) == b"hello"
    assert client.shutdown(one, socket.SHUT_WR) == 0
    until(lambda: events(server.fds[two]) & select.POLLIN)
    assert os.read(server.fds[two], 100) == b""
    client.close(one)
    until(lambda: client.closed == [one])
    assert code(lambda: client.getsockname(one)) == errno.EBADF


def test_a_port_is_free_once_its_descriptor_was_closed(pair: Pair):
    _, server = pair
    listener = listening(server)
    channel = server.backend.table[listener].channel
    trampoline = channel.loop.trampoline
    assert trampoline is not None
    # The close is told to nobody, as if to a thread that has not come to act on it.
    trampoline.unwatch(channel._own_fd)
    server.close(listener)
    again = server.open(STREAM)
    server.bind(again, name("0.0.0.0", 80))
    assert channel.over


def test_nothing_to_accept_and_nobody_waits(pair: Pair):
    _, server = pair
    listener = listening(server)
    assert code(lambda: server.accept(listener, 0, True)) == errno.EAGAIN
    server.setsockopt(listener, socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 50_000))
    before = time.monotonic()
    assert code(lambda: server.accept(listener, 0, False)) == errno.EAGAIN
    assert time.monotonic() - before >= 0.05
    assert code(lambda: server.accept(listener, 1, True)) == errno.EINVAL
    assert code(lambda: server.accept(listener + 1000, 0, True)) == errno.EBADF


def test_connection_that_is_given_back_is_the_next_one(pair: Pair):
    client, server = pair
    listener = listening(server)
    clients = [client.open(STREAM) for _ in range(2)]
    for handle in clients:
        client.connect(handle, SERVER, False)
        os.write(client.fds[handle], b"%d" % handle)
    until(lambda: events(server.fds[listener]) & select.POLLIN)
    first = server.accept(listener, 0, True)
    second = server.accept(listener, 0, True)
    assert code(lambda: server.accept(listener, 0, True)) == errno.EAGAIN
    time.sleep(0.01)  # data comes meanwhile
    os.close(first.fd)
    server.backend.give_back(first.handle)
    assert events(server.fds[listener]) & select.POLLIN
    again = server.accept(listener, 0, True)
    assert again.name == first.name and again.handle != first.handle
    assert server.closed == [first.handle]
    server.keep(again)
    server.keep(second)
    assert os.read(again.fd, 10) == b"%d" % clients[0]
    assert os.read(second.fd, 10) == b"%d" % clients[1]


def test_connection_given_back_goes_to_one_who_waits(pair: Pair):
    client, server = pair
    listener = listening(server)
    handle = client.open(STREAM)
    client.connect(handle, SERVER, False)
    opened = server.accept(listener, 0, False)
    waiting = server.start("accept", listener, 0, False)
    os.close(opened.fd)
    server.backend.give_back(opened.handle)
    assert server.keep(waiting.wait())


def test_connection_given_back_to_a_listener_that_is_gone_is_reset(pair: Pair):
    client, server = pair
    listener = listening(server)
    handle = client.open(STREAM)
    client.connect(handle, SERVER, False)
    opened = server.accept(listener, 0, False)
    server.close(listener)
    until(lambda: listener in server.closed)
    os.close(opened.fd)
    server.backend.give_back(opened.handle)
    with pytest.raises(ConnectionResetError):
        os.read(client.fds[handle], 1)


def test_call_that_was_cancelled_takes_nothing(pair: Pair):
    client, server = pair
    listener = listening(server)
    given_up, waiting = [server.start("accept", listener, 0, False) for _ in range(2)]
    assert given_up.pending is not None and given_up.pending.cancel()
    assert not given_up.pending.cancel()
    handle = client.open(STREAM)
    client.connect(handle, SERVER, False)
    server.keep(waiting.wait())
    assert not given_up.times


def test_close_ends_the_calls_that_wait(pair: Pair):
    _, server = pair
    listener = listening(server)
    waiting = server.start("accept", listener, 0, False)
    server.close(listener)
    assert code(waiting.wait) == errno.EBADF
    assert waiting.pending is not None and not waiting.pending.cancel()


def test_socket_given_back_is_closed(pair: Pair):
    client, _ = pair
    opened = client.socket(2, STREAM, 0)
    os.close(opened.fd)
    client.backend.give_back(opened.handle)
    assert not client.backend.table


def test_refused_without_waiting_and_again(pair: Pair):
    client, server = pair
    handle = client.open(STREAM)
    assert code(lambda: client.connect(handle, SERVER, True)) == errno.EINPROGRESS
    assert events(client.fds[handle]) & select.POLLERR
    answer = client.getsockopt(handle, socket.SOL_SOCKET, socket.SO_ERROR, 4, None)
    assert answer == errno.ECONNREFUSED.to_bytes(4, "little")
    with pytest.raises(SpentChannelError):
        client.connect(handle, SERVER, False)
    renewed = client.renew(handle)
    assert renewed.handle == handle
    # Given back, it is as it was, whether the service hears of the close first or not; the next one is kept.
    os.close(renewed.fd)
    client.backend.give_back(handle)
    renewed = client.renew(handle)
    os.close(renewed.fd)
    held = client.backend.table[handle].renewed
    assert held is not None
    end = time.monotonic() + 5
    while not held.over and time.monotonic() < end:
        time.sleep(0.001)
    assert held.over
    client.backend.give_back(handle)
    renewed = client.renew(handle)
    os.dup2(renewed.fd, client.fds[handle])
    os.close(renewed.fd)
    client.backend.commit(handle, lambda: os.dup(client.fds[handle]))
    assert client.renew(handle) is None
    # As on Linux, the first call after SO_ERROR has told why learns that there was no connection.
    assert code(lambda: client.connect(handle, SERVER, False)) == errno.ECONNABORTED
    listening(server)
    assert client.connect(handle, SERVER, False) == 0
    assert events(client.fds[handle]) == select.POLLOUT


def test_refused_and_closed_leaves_nothing(pair: Pair):
    client, _ = pair
    handles = [client.open(STREAM) for _ in range(12)]
    for handle in handles:
        assert code(lambda handle=handle: client.connect(handle, SERVER, False)) == errno.ECONNREFUSED  # type: ignore[misc]
    client.close(*handles[:11])
    until(lambda: len(client.closed) == 11)
    client.close(handles[11])
    until(lambda: sorted(client.closed) == handles)


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_a_socket_whose_end_is_heard_of_in_a_call_is_gone(pair: Pair, kind):
    """Its application has closed it, and is gone; a call of it came behind. What it would take could never be freed."""
    _, server = pair
    for _ in range(50):
        handle = server.open(kind)
        server.close(handle)
        assert code(lambda handle=handle: server.bind(handle, name("0.0.0.0", 53))) == errno.EBADF  # type: ignore[misc]
        handle = server.open(kind)
        server.close(handle)
        assert code(lambda handle=handle: server.connect(handle, SERVER, True)) == errno.EBADF  # type: ignore[misc]
    handle = server.open(kind)
    assert server.bind(handle, name("0.0.0.0", 53)) == 0
    server.close(handle)


def test_datagrams_with_addresses(pair: Pair):
    client, server = pair
    one, two = client.open(DGRAM), server.open(DGRAM)
    server.bind(two, name("0.0.0.0", 53))
    waiting = server.start("recvmsg", two, 100, 0, 0, False)
    assert not waiting.times
    assert client.sendmsg(one, b"question", 8, 0, name("10.0.0.2", 53), b"", False) == 8
    got = waiting.wait()
    assert (got.data, got.result, got.flags, got.control) == (b"question", 8, 0, b"")
    assert got.name[4:8] == bytes((10, 0, 0, 1))
    assert server.sendmsg(two, b"answer", 6, 0, got.name, b"", True) == 6
    until(lambda: events(client.fds[one]) & select.POLLIN)
    peeked = client.recvmsg(one, 3, socket.MSG_PEEK | socket.MSG_TRUNC, 0, True)
    assert (peeked.data, peeked.result, peeked.flags) == (b"ans", 6, socket.MSG_TRUNC)
    got = client.recvmsg(one, 3, 0, 0, True)
    assert (got.data, got.result, got.flags, got.name) == (b"ans", 3, socket.MSG_TRUNC, name("10.0.0.2", 53))
    assert code(lambda: client.recvmsg(one, 3, 0, 0, True)) == errno.EAGAIN
    client.backend.unreceive(one)
    until(lambda: events(client.fds[one]) & select.POLLIN)
    got = client.recvmsg(one, 100, 0, 0, True)
    assert (got.data, got.name) == (b"answer", name("10.0.0.2", 53))


def test_datagrams_go_in_the_order_of_writes_and_calls(pair: Pair):
    """What was written before a call goes before it, as the socket was then."""
    client, server = pair
    two, other = server.open(DGRAM), server.open(DGRAM)
    server.bind(two, name("0.0.0.0", 53))
    server.bind(other, name("0.0.0.0", 54))
    for _ in range(20):
        one = client.open(DGRAM)
        client.connect(one, name("10.0.0.2", 53), False)
        count = 100
        for number in range(count):
            os.write(client.fds[one], b"%d" % number)
        client.sendmsg(one, b"by a call", 9, 0, name("10.0.0.2", 53), b"", False)
        os.write(client.fds[one], b"before another")
        client.connect(one, name("10.0.0.2", 54), False)
        os.write(client.fds[one], b"before the end")
        client.shutdown(one, socket.SHUT_WR)
        expected = [*(b"%d" % number for number in range(count)), b"by a call", b"before another"]
        assert [server.recvmsg(two, 100, 0, 0, False).data for _ in expected] == expected
        assert server.recvmsg(other, 100, 0, 0, False).data == b"before the end"
        client.close(one)


def test_datagram_with_ancillary_data(pair: Pair):
    client, server = pair
    one, two = client.open(DGRAM), server.open(DGRAM)
    server.bind(two, name("0.0.0.0", 53))
    server.setsockopt(two, socket.IPPROTO_IP, socket.IP_RECVTTL if hasattr(socket, "IP_RECVTTL") else 12, b"\1\0\0\0")
    ttl = struct.pack("=Qiii4x", 20, socket.IPPROTO_IP, socket.IP_TTL, 7)
    client.sendmsg(one, b"x", 1, 0, name("10.0.0.2", 53), ttl, False)
    got = server.recvmsg(two, 10, 0, 64, False)
    assert got.control == ttl
    client.sendmsg(one, b"x", 1, 0, name("10.0.0.2", 53), ttl, False)
    got = server.recvmsg(two, 10, 0, 17, False)
    assert got.control == struct.pack("=QiiB", 17, socket.IPPROTO_IP, socket.IP_TTL, 7)
    assert got.flags == socket.MSG_CTRUNC
    bad = struct.pack("=Qiii4x", 200, socket.IPPROTO_IP, socket.IP_TTL, 7)
    assert code(lambda: client.sendmsg(one, b"x", 1, 0, name("10.0.0.2", 53), bad, False)) == errno.EINVAL


def test_memory_that_is_nowhere(pair: Pair):
    client, _ = pair
    one = client.open(DGRAM)
    to = name("10.0.0.2", 53)
    assert code(lambda: client.sendmsg(one, b"abc", 8, 0, to, b"", False)) == errno.EFAULT
    # What is wrong with the call is found out before.
    assert code(lambda: client.sendmsg(one, b"abc", 8, 0, None, b"", False)) == errno.EDESTADDRREQ
    assert code(lambda: client.sendmsg(one, b"abc", 70_000, 0, to, b"", False)) == errno.EMSGSIZE


def test_what_is_sent_by_call_comes_behind_what_was_written(pair: Pair):
    client, server = pair
    listener = listening(server)
    one = client.open(STREAM)
    client.connect(one, SERVER, False)
    two = server.keep(server.accept(listener, 0, False))
    total = 0
    for round in range(20):
        os.write(client.fds[one], bytes((round,)) * 50_000)
        assert client.sendmsg(one, b"|" * 10, 10, 0x8000, None, b"", False) == 10  # MSG_MORE
        total += 50_010
        got = b""
        while len(got) < 50_010 and round < 19:
            got += os.read(server.fds[two], 50_010 - len(got))
        assert round == 19 or got == bytes((round,)) * 50_000 + b"|" * 10


def test_lengths_and_families_of_addresses(pair: Pair):
    client, _ = pair
    one, two = client.open(STREAM), client.open(DGRAM)
    assert code(lambda: client.bind(one, name("0.0.0.0", 0)[:15])) == errno.EINVAL
    assert code(lambda: client.bind(one, bytes(129))) == errno.EINVAL
    assert code(lambda: client.bind(one, b"\x0a\0" + bytes(26))) == errno.EAFNOSUPPORT
    assert client.bind(one, bytes(16)) == 0
    assert code(lambda: client.connect(one, b"\2", True)) == errno.EINVAL
    assert code(lambda: client.connect(one, b"\2\0", True)) == errno.EINVAL
    assert code(lambda: client.connect(one, b"\x0a\0" + bytes(26), True)) == errno.EAFNOSUPPORT
    assert client.connect(two, name("10.0.0.2", 9), True) == 0
    assert client.connect(two, b"\0\0", True) == 0
    assert code(lambda: client.getpeername(two)) == errno.ENOTCONN
    assert code(lambda: client.sendmsg(two, b"", 0, 0, b"\2\0", b"", True)) == errno.EINVAL
    assert code(lambda: client.socket(10, STREAM, 0)) == errno.EAFNOSUPPORT
    assert code(lambda: client.ioctl(one, 0x1234, b"")) == errno.ENOTTY
    assert client.ioctl(one, 0x5411, b"\0\0\0\0") == b"\0\0\0\0"


def test_no_more_sockets_than_are_admitted(pair: Pair):
    client, server = pair
    full = False

    def admit() -> None:
        if full:
            raise OSError(errno.ENFILE, "full")

    server.backend._admit = admit
    listener = listening(server)
    one = client.open(STREAM)
    client.connect(one, SERVER, False)
    until(lambda: events(server.fds[listener]) & select.POLLIN)
    full = True
    assert code(lambda: server.accept(listener, 0, False)) == errno.ENFILE
    assert code(lambda: server.socket(2, STREAM, 0)) == errno.ENFILE
    full = False
    server.keep(server.accept(listener, 0, False))


def test_end_of_the_client_resets_what_programs_have(pair: Pair):
    client, server = pair
    listener = listening(server)
    one = client.open(STREAM)
    client.connect(one, SERVER, False)
    two = server.keep(server.accept(listener, 0, False))
    waiting = server.start("accept", listener, 0, False)
    server.backend.close()
    assert not server.backend.table and not server.closed
    assert code(waiting.wait) == errno.EBADF
    assert events(server.fds[two]) & select.POLLERR
    # The peer sees what it sees of a process that ends.
    assert os.read(client.fds[one], 1) == b""


def test_connection_has_the_time_outs_of_its_listener(pair: Pair):
    client, server = pair
    listener = listening(server)
    server.setsockopt(listener, socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 50_000))
    one = client.open(STREAM)
    client.connect(one, SERVER, False)
    two = server.keep(server.accept(listener, 0, False))
    with pytest.raises(BlockingIOError):
        os.read(server.fds[two], 1)
