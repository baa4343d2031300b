"""A TCP connection as a descriptor: what read, write, poll and close do on it is what they do on TCP."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from typing import Any

import pytest

from tests.posix.channel.conftest import SERVER, Net, channel_of, mask
from tests.support.compiled import interpreted_only
from tests.support.stacks import until
from usernet.posix.channel import Channel
from usernet.posix.channel import channel_of as find
from usernet.posix.channel import peer as channel_peer
from usernet.sockets.user import UserSocket

BLOB = bytes(range(256)) * 4096  # 1 MiB


def read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 1 << 18):
        pieces.append(piece)
    return b"".join(pieces)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_and_close(fd: int, data: bytes) -> None:
    write_all(fd, data)
    os.close(fd)


def shutdown(fd: int, how: int) -> None:
    sock = socket.socket(fileno=os.dup(fd))
    sock.shutdown(how)
    sock.close()


def reset(sock: UserSocket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- bytes both ways, and the ends of them


def test_bytes_go_both_ways(net: Net):
    fd, peer = net.connect()
    assert mask(fd) == POLLOUT
    os.write(fd, b"hello")
    assert peer.recv(100) == b"hello"
    os.write(fd, b"x")
    assert peer.recv(100) == b"x"
    peer.sendall(b"world")
    assert os.read(fd, 100) == b"world"
    os.close(fd)
    assert peer.recv(100) == b""
    peer.close()


def test_writes_of_all_sizes_at_all_moments(net: Net):
    chance = random.Random(4)
    fd, other = net.both()
    data = chance.randbytes(1 << 20) * 12

    def write() -> None:
        view = memoryview(data)
        while view:
            size = chance.choice((1, 2, chance.randrange(1, 4096), chance.randrange(1, 700_000)))
            for _ in range(chance.choice((1, 1, 20))):
                view = view[os.write(fd, view[:size]) :]
            if chance.random() < 0.1:
                time.sleep(0.002)
        shutdown(fd, socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_all(other) == data
    writer.join()
    os.close(fd)
    os.close(other)


@pytest.mark.parametrize("size", [1, 2, 1000, 4097, 1 << 20, 5_000_003])
def test_every_byte_arrives_in_order(net: Net, size: int):
    data = (BLOB * (size // len(BLOB) + 1))[:size]
    one, two = net.both()
    thread = threading.Thread(target=write_and_close, args=(one, data))
    thread.start()
    assert read_all(two) == data
    thread.join()
    os.close(two)


def test_half_close_by_the_application(net: Net):
    fd, peer = net.connect()
    write_all(fd, BLOB)
    shutdown(fd, socket.SHUT_WR)
    got = b""
    while piece := peer.recv(1 << 20):
        got += piece
    assert got == BLOB
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"more")
    peer.sendall(b"answer")
    peer.close()
    assert read_all(fd) == b"answer"
    until(lambda: mask(fd) == POLLIN | POLLOUT | POLLHUP | POLLRDHUP)
    os.close(fd)


def test_half_close_by_the_peer(net: Net):
    fd, peer = net.connect()
    peer.sendall(b"all there is")
    peer.shutdown(socket.SHUT_WR)
    until(lambda: mask(fd) & POLLRDHUP)
    assert mask(fd) == POLLIN | POLLOUT | POLLRDHUP
    assert read_all(fd) == b"all there is"
    write_all(fd, b"and more")
    assert peer.recv(100) == b"and more"
    os.close(fd)
    assert peer.recv(100) == b""
    peer.close()


def test_what_was_written_before_close_is_sent(net: Net):
    fd, peer = net.connect()
    thread = threading.Thread(target=write_and_close, args=(fd, BLOB * 3))
    thread.start()
    got = 0
    while piece := peer.recv(1 << 16):
        got += len(piece)
    assert got == 3 * len(BLOB)
    thread.join()
    peer.close()


def test_a_duplicate_keeps_it_open(net: Net):
    fd, peer = net.connect()
    other = os.dup(fd)
    os.close(fd)
    os.write(other, b"still here")
    assert peer.recv(100) == b"still here"
    os.close(other)
    assert peer.recv(100) == b""
    peer.close()


def test_both_directions_ended_but_still_open(net: Net):
    kept: list[Channel] = []
    sock = net.client.socket()
    sock.connect(SERVER)
    peer, _ = net.listener.accept()
    fd = channel_of(sock, kept)
    peer.close()
    until(lambda: mask(fd) & POLLRDHUP)
    shutdown(fd, socket.SHUT_WR)
    until(lambda: kept[0].socket.sk.state == 7)
    # The socket is over, and still the application's to ask, until it closes.
    assert not kept[0].over
    assert find(fd) is kept[0]
    os.close(fd)
    until(lambda: kept[0].over)


# -- reset


def test_a_reset_comes_behind_what_was_received(net: Net):
    fd, peer = net.connect()
    peer.sendall(b"the last words")
    until(lambda: mask(fd) & POLLIN)
    reset(peer)
    until(lambda: mask(fd) & POLLERR)
    assert mask(fd) == POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP
    assert os.read(fd, 100) == b"the last words"
    with pytest.raises(ConnectionResetError):
        os.read(fd, 100)
    assert os.read(fd, 100) == b""
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    os.close(fd)


def test_a_reset_with_data_on_the_way_out(net: Net):
    fd, peer = net.connect()
    os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(fd, BLOB)
    reset(peer)
    until(lambda: mask(fd) & POLLERR)
    with pytest.raises(ConnectionResetError):
        os.read(fd, 100)
    os.close(fd)


def test_a_reset_waits_for_a_slow_reader(net: Net):
    fd, peer = net.connect()
    peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            peer.send(BLOB)
    got = 0
    reset(peer)
    with pytest.raises(ConnectionResetError):
        while True:
            got += len(os.read(fd, 1 << 16))
    assert got > 1 << 18
    os.close(fd)


def test_a_reset_after_the_end_of_file_is_a_broken_pipe(net: Net):
    fd, peer = net.connect()
    peer.shutdown(socket.SHUT_WR)
    until(lambda: mask(fd) & POLLRDHUP)
    reset(peer)
    until(lambda: mask(fd) & POLLHUP)
    assert os.read(fd, 100) == b""
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    os.close(fd)


def test_an_event_of_another_descriptor_with_the_same_number_is_not_believed(net: Net):
    sock = net.client.socket()
    sock.connect(SERVER)
    peer, _ = net.listener.accept()
    kept: list[Channel] = []
    fd = channel_of(sock, kept)
    net.client.loop.enter()
    kept[0].interrupt(POLLIN | POLLERR | POLLHUP | POLLRDHUP)
    net.client.loop.softirq.schedule(kept[0])
    net.client.loop.leave()
    os.write(fd, b"still here")
    assert peer.recv(100) == b"still here"
    assert not kept[0].over
    os.close(fd)
    peer.close()


def test_closing_with_data_unread_resets(net: Net):
    fd, peer = net.connect()
    peer.sendall(b"never read")
    until(lambda: mask(fd) & POLLIN)
    os.close(fd)
    with pytest.raises(ConnectionResetError):
        while True:
            peer.recv(100)
    peer.close()


def test_the_application_closes_in_the_middle(net: Net):
    fd, peer = net.connect()
    seen: list[OSError] = []

    def send() -> None:
        try:
            while True:
                peer.sendall(BLOB)
        except OSError as problem:
            seen.append(problem)

    thread = threading.Thread(target=send)
    thread.start()
    got = 0
    while got < 1 << 21:
        got += len(os.read(fd, 1 << 16))
    os.close(fd)
    thread.join(10)
    assert seen[0].errno in (errno.ECONNRESET, errno.EPIPE)
    peer.close()


# -- a full buffer


def test_one_who_does_not_read_stops_the_peer(net: Net):
    fd, peer = net.connect()
    peer.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += peer.send(BLOB)
    # The pair, the receive buffer and the peer's send buffer; and no more.
    assert sent < 16 << 20
    got = 0
    while got < sent:
        got += len(os.read(fd, 1 << 20))
    assert got == sent
    os.close(fd)
    peer.close()


def test_a_peer_who_does_not_read_stops_the_application(net: Net):
    fd, peer = net.connect()
    os.set_blocking(fd, False)
    sent = 0
    while True:
        try:
            sent += os.write(fd, BLOB)
        except BlockingIOError:
            before = sent
            threading.Event().wait(0.2)
            if not mask(fd) & POLLOUT:
                assert sent == before
                break
    assert sent < 16 << 20
    got = 0
    while got < sent:
        got += len(peer.recv(1 << 20))
    until(lambda: mask(fd) & POLLOUT)
    os.close(fd)
    peer.close()


# -- connecting, and listening


def connecting(net: Net, address: tuple[str, int]) -> tuple[int, UserSocket, Channel]:
    """The descriptor of a socket that has begun to connect, with the object that made the calls."""
    sock = net.client.socket()
    opened = sock._socket
    assert opened is not None
    kept: list[Channel] = []
    fd = channel_of(sock.dup(), kept)
    channel = kept[0]
    channel.reach = lambda: os.dup(fd)
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    sock.settimeout(10)
    net.client.loop.enter()
    channel.connecting()
    net.client.loop.leave()
    return fd, sock, channel


def test_connect_in_progress_is_not_writable_and_then_is(net: Net):
    net.client.add_neighbour("eth0", "10.0.0.9", "02:00:00:00:00:99")
    fd, sock, _ = connecting(net, ("10.0.0.9", 80))
    assert mask(fd) == 0
    sock.close()
    os.close(fd)
    fd, sock, _ = connecting(net, SERVER)
    until(lambda: mask(fd) == POLLOUT)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    peer, _ = net.listener.accept()
    peer.settimeout(10)
    thread = threading.Thread(target=write_all, args=(fd, BLOB))
    thread.start()
    got = 0
    while got < len(BLOB):
        got += len(peer.recv(1 << 18))
    thread.join()
    sock.close()
    os.close(fd)
    peer.close()


def test_connect_refused(net: Net):
    fd, sock, channel = connecting(net, ("10.0.0.2", 81))
    until(lambda: mask(fd))
    assert mask(fd) == POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert channel.over
    sock.close()
    os.close(fd)


def test_a_listener_is_readable_while_a_connection_waits(net: Net):
    listener = net.server.socket()
    listener.bind(("", 8080))
    kept: list[Channel] = []
    fd = channel_of(listener.dup(), kept)
    kept[0].reach = lambda: os.dup(fd)
    listener.listen()
    told(net, kept[0].listening)
    assert mask(fd) == 0
    first, second = net.client.socket(), net.client.socket()
    first.connect(("10.0.0.2", 8080))
    second.connect(("10.0.0.2", 8080))
    until(lambda: mask(fd) == POLLIN)
    one, _ = listener.accept()
    told(net, kept[0].accepted)
    assert mask(fd) == POLLIN
    two, _ = listener.accept()
    told(net, kept[0].accepted)
    assert mask(fd) == 0
    for each in (one, two, first, second, listener):
        each.close()
    os.close(fd)


def told(net: Net, tell: Any) -> None:
    net.server.loop.enter()
    tell()
    net.server.loop.leave()


# -- urgent data, and calls beside the descriptor


def test_urgent_data_is_out_of_band(net: Net):
    fd, peer = net.connect()
    peer.sendall(b"abc")
    peer.send(b"!", socket.MSG_OOB)
    peer.sendall(b"def")
    sock = socket.socket(fileno=fd)
    got = b""
    while len(got) < 6:
        try:
            assert sock.recv(1, socket.MSG_OOB) == b"!"
        except OSError:
            pass
        got += sock.recv(100)
    assert got == b"abcdef"
    sock.close()
    peer.close()


def test_urgent_data_sent_by_number_is_data(net: Net):
    fd, other = net.both()
    sock = socket.socket(fileno=fd)
    for _ in range(3):
        sock.sendall(b"abc")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"d" * 5000)
        sock.send(b"!", socket.MSG_OOB)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(other) == (b"abc!" + b"d" * 5000 + b"!") * 3
    sock.close()
    os.close(other)


def test_a_marked_byte_holds_nothing_up(net: Net):
    """Nothing follows that would tell of it once more."""
    fd, other = net.both()
    sock = socket.socket(fileno=fd)
    for turn in range(100):
        sock.sendall(b"abc")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(bytes([turn]))
        got = b""
        while len(got) < 5:
            got += os.read(other, 5 - len(got))
        assert got == b"abc!" + bytes([turn])
    sock.close()
    os.close(other)


@pytest.fixture
def no_unix_diag(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel without that module."""
    monkeypatch.setattr(channel_peer, "_ask", lambda inode: False)
    channel_peer._answers.cache_clear()
    yield
    channel_peer._answers.cache_clear()


@interpreted_only
@pytest.mark.usefixtures("no_unix_diag")
def test_shut_down_is_not_closed_where_the_kernel_does_not_answer(net: Net):
    test_shutdown_by_a_call_comes_behind_what_is_written(net)


def test_shutdown_by_a_call_comes_behind_what_is_written(net: Net):
    sock = net.client.socket()
    sock.connect(SERVER)
    peer, _ = net.listener.accept()
    peer.settimeout(10)
    kept: list[Channel] = []
    fd = channel_of(sock, kept)
    os.write(fd, b"before")
    net.client.loop.enter()
    kept[0].shutdown(socket.SHUT_RDWR)
    net.client.loop.leave()
    assert peer.recv(100) == b"before"
    assert peer.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"after")
    assert os.read(fd, 100) == b""
    assert not kept[0].over
    os.close(fd)
    until(lambda: kept[0].over)
    peer.close()


# -- many, and the end of the stack


def test_two_hundred_at_once(net: Net):
    pairs = [net.both() for _ in range(100)]
    for index, (one, two) in enumerate(pairs):
        write_all(one, b"%d" % index * 1000)
        write_all(two, b"%d" % -index * 1000)
    for index, (one, two) in enumerate(pairs):
        shutdown(one, socket.SHUT_WR)
        shutdown(two, socket.SHUT_WR)
        assert read_all(two) == b"%d" % index * 1000
        assert read_all(one) == b"%d" % -index * 1000
        os.close(one)
        os.close(two)


def test_the_end_of_the_stack_is_a_reset(net: Net):
    fd, peer = net.connect()
    peer.sendall(b"words")
    until(lambda: mask(fd) & POLLIN)
    net.client.close()
    assert mask(fd) == POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP
    assert os.read(fd, 100) == b"words"
    with pytest.raises(ConnectionResetError):
        os.read(fd, 100)
    os.close(fd)
    peer.close()
