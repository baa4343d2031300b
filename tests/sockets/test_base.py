"""Moving data: every call, and what the time-out does to it, on virtual time."""

from __future__ import annotations

import errno
import socket as standard
from typing import Any

import pytest

from tests.sockets.fake import ROOM
from tests.sockets.pairs import sk_of, stream_pair
from tests.sockets.virtual import SECOND, Virtual
from usernet.net.pernet import Net
from usernet.sockets.user import UserSocket


@pytest.fixture
def datagrams(net: Net) -> Any:
    with UserSocket(net, 2, 2) as left, UserSocket(net, 2, 2) as right:
        left.bind(("127.0.0.1", 1000))
        right.bind(("127.0.0.1", 2000))
        yield left, right


def test_each_way_to_send_and_receive(datagrams: tuple[UserSocket, UserSocket]) -> None:
    left, right = datagrams
    there, here = ("127.0.0.1", 2000), ("127.0.0.1", 1000)
    assert left.sendto(b"one", there) == 3
    assert right.recvfrom(10) == (b"one", here)
    assert left.sendto(b"two", 0, there) == 3
    assert right.recv(10) == b"two"
    left.connect(there)
    assert left.send(b"three") == 5
    buffer = bytearray(8)
    assert right.recv_into(buffer) == 5
    assert bytes(buffer[:5]) == b"three"
    assert left.sendmsg([b"fo", bytearray(b"u"), memoryview(b"r")]) == 4
    assert right.recvfrom_into(buffer, 8) == (4, here)
    assert left.sendmsg([b"five"], [], 0, there) == 4
    assert right.recvmsg(10) == (b"five", [], 0, here)
    left.sendall(b"sixsix")
    first, second = bytearray(3), bytearray(10)
    assert right.recvmsg_into([first, second]) == (6, [], 0, here)
    assert first == b"six"
    assert second[:3] == b"six"
    left.sendall(b"")
    assert right.recv(10) == b""


def test_peek_and_truncate(datagrams: tuple[UserSocket, UserSocket]) -> None:
    left, right = datagrams
    left.sendto(b"abcdef", ("127.0.0.1", 2000))
    buffer = bytearray(2)
    assert right.recv_into(buffer, 2, standard.MSG_PEEK | standard.MSG_TRUNC) == 6
    assert right.recv(3, standard.MSG_PEEK) == b"abc"
    data, _, flags, _ = right.recvmsg(2)
    assert (data, flags) == (b"ab", standard.MSG_TRUNC)


def test_ancillary_data_and_its_room(datagrams: tuple[UserSocket, UserSocket]) -> None:
    left, right = datagrams
    sk_of(right).options[77, 1] = b"12345678"
    for room, control, flags in (
        (standard.CMSG_SPACE(8), [(77, 1, b"12345678")], 0),
        (standard.CMSG_LEN(4), [(77, 1, b"1234")], standard.MSG_CTRUNC),
        (0, [], standard.MSG_CTRUNC),
    ):
        left.sendto(b"x", ("127.0.0.1", 2000))
        assert right.recvmsg(10, room)[1:3] == (control, flags)


def test_receiving_waits_and_gives_up(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        virtual.at(1, lambda: left.send(b"one"))
        assert right.recv(10) == b"one"
        assert virtual.seconds == 1
        right.settimeout(2)
        with pytest.raises(TimeoutError, match=r"^timed out$") as raised:
            right.recv(10)
        assert raised.value.errno is None
        assert virtual.seconds == 3
        right.settimeout(0)
        with pytest.raises(BlockingIOError) as blocked:
            right.recv(10)
        assert blocked.value.errno == errno.EAGAIN


def test_settimeout_comes_before_so_rcvtimeo(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (_, right):
        sk_of(right).rcvtimeo = 5 * SECOND
        right.settimeout(1)
        with pytest.raises(TimeoutError):
            right.recv(1)
        assert virtual.seconds == 1
        right.settimeout(None)
        with pytest.raises(BlockingIOError):
            right.recv(1)
        assert virtual.seconds == 6


def test_dontwait_under_a_timeout_waits_as_in_the_standard_module(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        with pytest.raises(BlockingIOError):
            right.recv(1, standard.MSG_DONTWAIT)
        right.settimeout(2)
        virtual.at(1, lambda: left.send(b"x"))
        assert right.recv(1, standard.MSG_DONTWAIT) == b"x"


def test_waitall_waits_for_all_but_not_under_a_timeout(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        left.send(b"abc")
        virtual.at(1, lambda: left.send(b"def"))
        assert right.recv(6, standard.MSG_WAITALL) == b"abcdef"
        left.send(b"abc")
        right.settimeout(10)
        assert right.recv(6, standard.MSG_WAITALL) == b"abc"
        assert virtual.seconds == 1


def test_blocking_send_takes_all(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        virtual.at(1, lambda: right.recv(10000))
        virtual.at(2, lambda: right.recv(10000))
        assert left.send(bytes(2 * ROOM + 1)) == 2 * ROOM + 1
        assert virtual.seconds == 2


def test_send_under_a_timeout_takes_what_fits(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        left.settimeout(5)
        assert left.send(bytes(3 * ROOM)) == ROOM
        virtual.at(2, lambda: right.recv(7))
        assert left.send(bytes(3 * ROOM)) == 7
        assert virtual.seconds == 2
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            left.send(b"x")
        assert virtual.seconds == 7


def test_send_without_blocking(net: Net) -> None:
    with stream_pair(net) as (left, _):
        left.setblocking(False)
        assert left.send(bytes(ROOM + 5)) == ROOM
        with pytest.raises(BlockingIOError):
            left.send(b"x")


def test_sendall_has_one_deadline(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        left.settimeout(10)
        for second in range(1, 9):
            virtual.at(second, lambda: right.recv(100))
        left.sendall(bytes(ROOM + 800))
        assert virtual.seconds == 8
        right.recv(10000)
        virtual.at(15, lambda: right.recv(100))
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            left.sendall(bytes(3 * ROOM))
        assert virtual.seconds == 18


def test_sendall_without_blocking_stops_half_way(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.setblocking(False)
        with pytest.raises(BlockingIOError):
            left.sendall(bytes(ROOM + 1))
        assert len(right.recv(10000)) == ROOM


def test_so_sndtimeo_ends_a_blocking_send(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, _):
        sk_of(left).sndtimeo = 3 * SECOND
        assert left.send(bytes(ROOM + 1)) == ROOM
        assert virtual.seconds == 3
        with pytest.raises(BlockingIOError):
            left.send(b"x")


def test_a_blocked_reader_is_told_of_the_end(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        virtual.at(1, left.close)
        assert right.recv(1) == b""


def test_a_blocked_reader_is_told_of_an_error(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (_, right):
        virtual.at(1, lambda: sk_of(right).fail(errno.ECONNRESET))
        with pytest.raises(ConnectionResetError):
            right.recv(1)
