"""The family AF_INET: which socket for which type and protocol, and Linux's errors for the rest."""

from __future__ import annotations

import errno
import socket as standard
from typing import Any

import pytest

from usernet.net.families import Families
from usernet.net.pernet import Net
from usernet.sock.af_ops import AddressFamily
from usernet.sock.sock import Sock
from usernet.sockets.inet import InetFamily
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.ping import PingSock
from usernet.transport.raw import RawSock
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.udp import UdpSock
from usernet.transport.udplite import UdpLiteSock

STREAM, DGRAM, RAW = standard.SOCK_STREAM, standard.SOCK_DGRAM, standard.SOCK_RAW


@pytest.fixture
def stack() -> Any:
    made = Stack("inet")
    yield made
    assert not made.sockets()
    made.close()


@pytest.mark.parametrize(
    ("kind", "protocol", "expected", "number"),
    [
        (DGRAM, 136, UdpLiteSock, 136),
        (STREAM, 0, TcpSock, 6), (STREAM, 6, TcpSock, 6), (DGRAM, 0, UdpSock, 17), (DGRAM, 17, UdpSock, 17),
        (DGRAM, 1, PingSock, 1), (RAW, 1, RawSock, 1), (RAW, 255, RawSock, 255), (RAW, 6, RawSock, 6),
    ],
)  # fmt: skip
def test_each_protocol(stack: Stack, kind: int, protocol: int, expected: type[Sock], number: int) -> None:
    with stack.socket(2, kind, protocol) as sock:
        assert type(sock._sk) is expected
        assert sock.proto == protocol  # as it was asked for
        assert sock.getsockopt(standard.SOL_SOCKET, standard.SO_PROTOCOL) == number
        assert sock.getsockopt(standard.SOL_SOCKET, standard.SO_TYPE) == kind
        assert sock.getsockopt(standard.SOL_SOCKET, standard.SO_DOMAIN) == 2


@pytest.mark.parametrize(
    ("kind", "protocol", "number"),
    [
        (STREAM, 17, errno.EPROTONOSUPPORT), (DGRAM, 6, errno.EPROTONOSUPPORT), (RAW, 0, errno.EPROTONOSUPPORT),
        (4, 0, errno.ESOCKTNOSUPPORT), (5, 0, errno.ESOCKTNOSUPPORT), (0, 0, errno.ESOCKTNOSUPPORT),
        (STREAM, -2, errno.EINVAL), (STREAM, 263, errno.EINVAL), (RAW, 263, errno.EINVAL), (11, 0, errno.EINVAL),
    ],
)  # fmt: skip
def test_what_there_is_not(stack: Stack, kind: int, protocol: int, number: int) -> None:
    with pytest.raises(OSError) as raised:
        stack.socket(2, kind, protocol)
    assert raised.value.errno == number
    with pytest.raises(OSError) as expected:
        standard.socket(2, kind, protocol).close()
    assert raised.value.errno == expected.value.errno


def test_ipv6_is_not_there_yet(stack: Stack) -> None:
    with pytest.raises(OSError) as raised:
        stack.socket(standard.AF_INET6)
    assert raised.value.errno == errno.EAFNOSUPPORT


def test_a_protocol_adds_itself(stack: Stack) -> None:
    made: list[int] = []

    def factory(net: Net, af: AddressFamily, protocol: int) -> Sock:
        made.append(protocol)
        return UdpSock(net, af)

    family = stack.net.get(InetFamily)
    assert stack.net.get(Families).table[2] is family
    family.register_protosw(5, 132, factory)
    UserSocket(stack.net, 2, 5).close()
    UserSocket(stack.net, 2, 5, 132).close()
    assert made == [132, 132]
