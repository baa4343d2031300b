"""What is read of a pair, and what stays there."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from usernet.core.iov import IovIter
from usernet.posix.channel.reader import LEFT, SMALL, PairReader
from usernet.runner import close_process_runner
from usernet.stack import Stack
from usernet.transport.tcp.sock import TcpSock

LEAST = 212992
"""The default of net.core.wmem_max: what SO_SNDBUF is at least. The kernel counts double."""


class Pair:
    """A reader and what is written for it, a guard before it."""

    def __init__(self, sk: TcpSock) -> None:
        self.app, self.own = socket.socketpair()
        self.own.setblocking(False)
        self.own.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.app.send(b"\0")
        self.reader = PairReader(self.own, sk)

    def close(self) -> None:
        self.app.close()
        self.own.close()

    def read(self) -> bytes | None:
        source = self.reader.read()
        return None if source is None else everything(source)


def everything(source: IovIter) -> bytes:
    data = b""
    while source.length:
        data += source.read(source.length)
    return data


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Stack("reader") as stack, stack.socket() as sock:
        assert sock._socket is not None
        sk = sock._socket.sk
        assert isinstance(sk, TcpSock)
        made = Pair(sk)
        yield made
        made.close()
    close_process_runner()


def resets(pair: Pair) -> bool:
    """Whether closing the stack's end shows the application a reset."""
    pair.own.close()
    try:
        pair.app.recv(1)
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("size", [1, 63, LEFT - 1, LEFT, LEFT + 1, SMALL - 2, SMALL - 1, SMALL])
def test_what_was_written_is_read_once_and_something_stays(pair: Pair, size: int):
    for turn in range(1, 6):
        data = bytes([turn]) * size
        pair.app.sendall(data)
        got = pair.read()
        while pair.reader.more:
            got = (got or b"") + (pair.read() or b"")
        assert got == data
        assert pair.read() is None
        assert pair.reader.empty
    assert resets(pair)


def test_nothing_is_read_where_only_the_guard_lies(pair: Pair):
    assert pair.read() is None
    assert pair.reader.empty
    assert resets(pair)


def test_empty_tells_what_is_unread(pair: Pair):
    pair.app.send(b"a")
    assert not pair.reader.empty
    assert pair.read() == b"a"
    assert pair.reader.empty


def test_small_writes_stay_until_they_are_many(pair: Pair):
    pair.app.send(b"a" * (LEFT - 1))
    assert pair.read() == b"a" * (LEFT - 1)
    assert len(pair.own.recv(4096, socket.MSG_PEEK)) == LEFT
    pair.app.send(b"b")
    assert pair.read() == b"b"
    assert len(pair.own.recv(4096, socket.MSG_PEEK)) == 1


def test_a_writer_of_single_bytes_never_waits_for_the_reader(pair: Pair):
    """Each byte is a packet, which counts for far more than a byte."""
    pair.app.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LEAST)
    pair.app.setblocking(False)
    for number in range(5 * LEFT):
        assert select.select([], [pair.app], [], 0)[1], f"byte {number}"
        pair.app.send(b"a")
        assert pair.read() == b"a"
    # Also where it is read late: what stays then are as many packets as can be.
    for _ in range(LEFT):
        pair.app.send(b"b")
    while pair.read() is not None:
        pass
    assert select.select([], [pair.app], [], 0)[1]


def test_a_read_goes_past_a_marked_byte(pair: Pair):
    pair.app.send(b"abc")
    assert pair.read() == b"abc"
    pair.app.send(b"de")
    pair.app.send(b"!", socket.MSG_OOB)
    pair.app.send(b"fg")
    pair.reader.marked = True  # as the event says
    got = b""
    while (data := pair.read()) is not None:
        got += data
    assert got == b"de!fg"
    assert not pair.reader.marked
    assert resets(pair)


def test_the_end_is_nothing_more(pair: Pair):
    pair.app.send(b"last")
    pair.app.shutdown(socket.SHUT_WR)
    assert pair.read() == b"last"
    assert pair.read() is None
