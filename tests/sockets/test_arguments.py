"""The checks of arguments: the same exceptions, with the same words, as the standard module's."""

from __future__ import annotations

import array
import socket as standard
from collections.abc import Callable
from typing import Any

import pytest

from tests.sockets.pairs import stream_pair
from usernet.net.pernet import Net
from usernet.sockets import arguments
from usernet.sockets.user import UserSocket

HUGE = 2**40
STRIDED = memoryview(bytearray(10))[::2]

CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("recv", (-1,)), ("recv", ("x",)), ("recv", (1.0,)), ("recv", (1, HUGE)), ("recv", (2**70,)), ("recv", (1, "x")),
    ("recvfrom", (-1,)), ("recvfrom", (None,)), ("recvfrom", (1, HUGE)),
    ("recv_into", (b"abc",)), ("recv_into", (bytearray(3), 4)), ("recv_into", (bytearray(3), -1)),
    ("recv_into", (bytearray(3), "x")), ("recv_into", ("x",)), ("recv_into", (STRIDED,)), ("recv_into", (5,)),
    ("recvfrom_into", (bytearray(3), -1)), ("recvfrom_into", (bytearray(3), 4)), ("recvfrom_into", (b"x",)),
    ("recvmsg", (-1,)), ("recvmsg", (1, -1)), ("recvmsg", (1, 2**33)), ("recvmsg", (1, "x")),
    ("recvmsg_into", (5,)), ("recvmsg_into", ([b"x"],)), ("recvmsg_into", ([5],)),
    ("send", ("x",)), ("send", (5,)), ("send", (STRIDED,)), ("send", (b"x", "y")), ("send", (b"x", HUGE)),
    ("sendall", ("x",)), ("sendall", (None,)),
    ("sendto", (b"x",)), ("sendto", (b"x", 1)), ("sendto", (b"x", 1, 2, 3)), ("sendto", (b"x", None)),
    ("sendto", (b"x", "y", ("127.0.0.1", 5))), ("sendto", ("x", ("127.0.0.1", 5))),
    ("sendmsg", (5,)), ("sendmsg", (b"xx",)), ("sendmsg", (["x"],)), ("sendmsg", ([b"x"], 5)),
    ("sendmsg", ([b"x"], [5])), ("sendmsg", ([b"x"], [(1, 2)])), ("sendmsg", ([b"x"], [(1, 2, "x")])),
    ("sendmsg", ([b"x"], [("x", 2, b"x")])), ("sendmsg", ([b"x"], [], "f")), ("sendmsg", ([b"x"], [], 0, 5)),
    ("settimeout", (-1,)), ("settimeout", (-0.5,)), ("settimeout", ("x",)), ("settimeout", (float("nan"),)),
    ("settimeout", (1e30,)), ("settimeout", (float("inf"),)), ("settimeout", (10**30,)),
    ("setblocking", ("x",)), ("setblocking", (2**70,)), ("setblocking", (1.0,)),
    ("shutdown", ("x",)), ("shutdown", (HUGE,)), ("listen", ("x",)), ("listen", (HUGE,)), ("listen", (-HUGE,)),
    ("connect", (5,)), ("connect_ex", (5,)), ("connect_ex", (("127.0.0.1", 99999),)), ("bind", ("x",)),
    ("setsockopt", (1, 2, HUGE)), ("setsockopt", (1, 2, "x")), ("setsockopt", (1, 2, None)),
    ("setsockopt", (1, 2, 1.5)), ("setsockopt", (1, 2, None, 4)),
    ("setsockopt", (1, 2, None, -1)), ("setsockopt", (1, 2, 1, 4)),
    ("getsockopt", (1, 2, -1)), ("getsockopt", (1, 2, 1025)), ("getsockopt", (1, "x")), ("getsockopt", (1, HUGE)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "args"), CALLS)
def test_a_wrong_argument_is_the_standard_modules_error(net: Net, call: str, args: tuple[Any, ...]) -> None:
    with standard.socket(standard.AF_INET, standard.SOCK_DGRAM) as host, pytest.raises(Exception) as expected:
        getattr(host, call)(*args)
    with UserSocket(net, 2, 2) as sock, pytest.raises(type(expected.value)) as raised:
        getattr(sock, call)(*args)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize(
    "args",
    [
        (2, 99), (2, 0), (99,), (-5,), (2, 1, -5), (2, 1, 300), (2, 1 | 1 << 20), ("x",), (2, "x"), (2, 1, "x"),
        (HUGE,), (2, 5), (2, 4),
    ],
)  # fmt: skip
def test_a_socket_that_cannot_be_is_the_standard_modules_error(net: Net, args: tuple[Any, ...]) -> None:
    with pytest.raises(Exception) as expected:
        standard.socket(*args).close()
    if isinstance(expected.value, OSError) and (args[1:] == (1, -5) or args[1:] == (1, 300)):
        return  # the fake family takes any protocol: see test_inet.py
    with pytest.raises(type(expected.value)) as raised:
        UserSocket(net, *args)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("b", b"abc")])
def test_any_buffer_can_be_sent(net: Net, value: Any) -> None:
    with stream_pair(net) as (left, right):
        for send in (left.send, left.sendall, lambda data: left.sendmsg([data])):
            send(value)
            assert right.recv(10) == b"abc"


def test_any_writable_buffer_can_be_received_into(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.send(b"abcdefgh")
        numbers = array.array("H", [0, 0])
        assert right.recv_into(numbers, 3) == 3
        assert numbers.tobytes() == b"abc\0"
        matrix = memoryview(bytearray(4)).cast("B", (2, 2))
        assert right.recv_into(matrix) == 4
        assert matrix.tobytes() == b"defg"


@pytest.mark.parametrize(
    ("value", "nanoseconds"), [(None, -1), (0, 0), (0.0, 0), (1, 10**9), (0.25, 25 * 10**7), (1e-12, 1), (True, 10**9)]
)
def test_timeouts_are_rounded_up(value: Any, nanoseconds: int) -> None:
    assert arguments.timeout_ns(value) == nanoseconds


def test_ancillary_data_is_cut_to_the_buffer_as_put_cmsg_does() -> None:
    items = [(0, 1, b"12345"), (0, 2, b"12345678")]
    assert arguments.fit_control(None, 100) == ([], False)
    assert arguments.fit_control(items, 48) == (items, False)
    assert arguments.fit_control(items, 47) == ([(0, 1, b"12345"), (0, 2, b"1234567")], True)
    assert arguments.fit_control(items, 40) == ([(0, 1, b"12345"), (0, 2, b"")], True)
    assert arguments.fit_control(items, 39) == ([(0, 1, b"12345")], True)
    assert arguments.fit_control(items, 21) == ([(0, 1, b"12345")], True)
    assert arguments.fit_control(items, 15) == ([], True)
    assert arguments.fit_control(items, 0) == ([], True)


@pytest.mark.parametrize(
    ("check", "value", "kind"),
    [
        (arguments.c_int, 2**31, OverflowError),
        (arguments.c_int, -(2**31) - 1, OverflowError),
        (arguments.c_int, None, TypeError),
        (arguments.control_room, 2**31, ValueError),
    ],
)
def test_numbers_have_bounds(check: Callable[[Any], int], value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        check(value)
