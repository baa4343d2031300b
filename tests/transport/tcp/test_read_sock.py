"""read_sock: the receive queue shown as it lies, and taken as far as the one who looks wants."""

from __future__ import annotations

import socket as std
from collections.abc import Callable

import pytest

from tests.transport.tcp.harness import Pair, Peer, ack, flags, length, sock_of
from tests.transport.tcp.invariants import broken
from usernet.core.iov import Payload
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.read_sock import read_sock
from usernet.wire.tcp import ACK, FIN, URG


class Taker:
    """Takes up to `room` bytes of all that it is shown."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.data = b""
        self.pieces = 0

    def __call__(self, pieces: list[Payload], size: int) -> int:
        shown = b"".join(pieces)
        assert len(shown) == size
        self.pieces += len(pieces)
        self.data += shown[: self.room]
        return min(size, self.room)


def read(sock: UserSocket, limit: int, actor: Callable[[list[Payload], int], int]) -> tuple[int, int]:
    sk = sock_of(sock)
    sk.loop.enter()
    try:
        return read_sock(sk, limit, actor)
    finally:
        sk.loop.leave()
        assert broken(sk) == []


def test_nothing_there(peer: Peer) -> None:
    sock = peer.active()
    taker = Taker()
    assert read(sock, 100, taker) == (0, 0)
    assert taker.pieces == 0


def test_as_it_lies_in_several_packets(peer: Peer) -> None:
    sock = peer.active()
    peer.send(ACK, 1, 1, b"a" * 1000)
    peer.send(ACK, 1001, 1, b"b" * 1000)
    peer.sent()
    taker = Taker()
    assert read(sock, 1500, taker) == (1500, 1500)
    assert taker.data == b"a" * 1000 + b"b" * 500
    assert sock.recv(1000) == b"b" * 500
    peer.send(ACK, 2001, 1, b"c")
    assert read(sock, 1500, taker) == (1, 1)
    assert taker.data[-1:] == b"c"


def test_what_is_not_taken_stays(peer: Peer) -> None:
    sock = peer.active()
    peer.send(ACK, 1, 1, b"abcdef" * 100)
    peer.sent()
    assert read(sock, 1000, lambda pieces, size: 0) == (600, 0)
    first = Taker(250)
    assert read(sock, 1000, first) == (600, 250)
    second = Taker()
    assert read(sock, 1000, second) == (350, 350)
    assert first.data + second.data == b"abcdef" * 100


def test_an_actor_that_raises_has_taken_nothing(peer: Peer) -> None:
    sock = peer.active()
    peer.send(ACK, 1, 1, b"abc")

    def fails(pieces: list[Payload], size: int) -> int:
        raise KeyError

    with pytest.raises(KeyError):
        read(sock, 10, fails)
    assert sock.recv(10) == b"abc"


def test_the_window_opens_again(peer: Peer) -> None:
    sock = peer.active()
    sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 4096)
    at = window = 1
    while window:
        assert at < 100_000
        peer.send(ACK, at, 1, b"x" * 500)
        peer.run(0.3)
        last = peer.sent()[-1]
        at, window = last.ack, last.window
    taker = Taker()
    while read(sock, 1 << 20, taker)[0]:
        pass
    assert taker.data == b"x" * (at - 1)
    assert peer.expect(flags(ACK), ack(at), length(0)).window >= 500


def test_the_fin_is_taken_with_the_last_byte(peer: Peer) -> None:
    sock = peer.active()
    peer.send(ACK | FIN, 1, 1, b"last")
    peer.expect_after(0.04, ack(6))
    taker = Taker()
    assert read(sock, 3, taker) == (3, 3)
    assert read(sock, 100, taker) == (1, 1)
    assert taker.data == b"last"
    sk = sock_of(sock)
    assert sk.receive_queue.first is None and sk.copied_seq == sk.rcv_nxt
    assert sock.recv(10) == b""


class TestUrgent:
    def test_stops_before_the_urgent_byte_and_steps_over_it(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK | URG, 1, 1, b"ab!cd", urg=3)
        taker = Taker()
        assert read(sock, 100, taker) == (2, 2)
        assert sock.recv(1, std.MSG_OOB) == b"!"
        assert read(sock, 100, taker) == (2, 2)
        assert taker.data == b"abcd"
        assert not sock_of(sock).urg_data

    def test_inline_it_is_data(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setsockopt(std.SOL_SOCKET, std.SO_OOBINLINE, 1)
        peer.send(ACK | URG, 1, 1, b"ab!cd", urg=3)
        taker = Taker()
        assert read(sock, 100, taker) == (2, 2)
        assert read(sock, 100, taker) == (3, 3)
        assert taker.data == b"ab!cd"
        assert not sock_of(sock).urg_data


def test_a_transfer_over_a_lossy_cable() -> None:
    with Pair(seed=3, loss=0.02, delay=0.001) as pair:
        client, server = pair.connected()
        data = bytes(range(256)) * 1000
        sent = 0
        taker = Taker(7001)
        for _ in range(10_000):
            if sent < len(data):
                try:
                    sent += client.send(data[sent : sent + 20_000])
                except BlockingIOError:
                    pass
            pair.run(0.01)
            while read(server, 50_000, taker)[1]:
                pass
            if len(taker.data) == len(data):
                break
        assert taker.data == data
