"""Ping sockets."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.transport.hosts import Host, at, pair, run
from usernet.skbuff.dropreason import DropReason
from usernet.sock.filter import Program
from usernet.sock.msg import MSG_ERRQUEUE, MSG_OOB, SockAddr
from usernet.transport.ping import PingSock
from usernet.wire import icmp

TWO = at("10.0.0.2")


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    left, right = pair()
    yield left, right
    left.end()
    right.end()


def code(call: Callable[..., Any], *args: Any, **more: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    return caught.value.errno or 0


def request(sequence: int = 1, payload: bytes = b"payload") -> bytes:
    """An echo request as programs give it: checksum and identifier are whatever."""
    return struct.pack("!BBHHH", icmp.ICMP_ECHO, 0, 0xBEEF, 0xDEAD, sequence) + payload


def test_question_and_answer(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    one, other = left.ping_socket(), left.ping_socket()
    left.call(other.bind, at("0.0.0.0", 5))
    assert left.send(one, request(3), TWO) == 15
    run(left, right)
    data, msg = left.receive(one)
    kind, reply_code, _, rest = icmp.parse(data, 0)
    assert (kind, reply_code, rest >> 16, rest & 0xFFFF) == (icmp.ICMP_ECHOREPLY, 0, one.num, 3)
    assert data[8:] == b"payload"
    assert isinstance(msg.name, SockAddr)
    assert (msg.name.addr, msg.name.port) == (TWO.addr, 0)
    assert not other.receive_queue
    mib = left.net.mib.icmp
    assert (mib.OutMsgs, mib.OutEchos, mib.InEchoReps, mib.InCsumErrors) == (1, 1, 1, 0)


def test_the_port_is_the_identifier(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = left.ping_socket()
    left.call(sk.bind, at("10.0.0.1", 77))
    left.call(sk.connect, TWO, 0, 0)
    left.send(sk, request())
    run(left, right)
    assert left.recv(sk)[4:6] == b"\0\x4d"
    name = sk.getsockname()
    assert isinstance(name, SockAddr)
    assert name.port == 77
    other = left.ping_socket()
    other.reuse = False
    assert code(left.call, other.bind, at("0.0.0.0", 77)) == errno.EADDRINUSE


def test_only_whole_echo_requests_are_sent(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.ping_socket()
    assert code(left.send, sk, request()[:7], TWO) == errno.EINVAL
    assert code(left.send, sk, b"\3" + request()[1:], TWO) == errno.EINVAL
    assert code(left.send, sk, b"\x08\1" + request()[2:], TWO) == errno.EINVAL
    assert code(left.send, sk, bytes(70000), TWO) == errno.EMSGSIZE
    assert code(left.send, sk, request()) == errno.EDESTADDRREQ
    assert code(left.send, sk, request(), SockAddr(0, TWO.addr, 0)) == errno.EAFNOSUPPORT
    assert code(left.send, sk, request(), TWO, MSG_OOB) == errno.EOPNOTSUPP
    assert code(left.recv, sk, 1, MSG_OOB) == errno.EOPNOTSUPP
    assert code(left.send, sk, request(), at("10.0.0.255")) == errno.EACCES
    assert sk.wmem_alloc == 0


def test_errors_reach_the_one_who_asked(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    router = right
    router.net.sysctl["net.ipv4.ip_forward"] = 1
    with left.inside():
        left.ipv4.routes.add(at("99.0.0.0").addr, 8, gateway=TWO.addr)
    plain, connected, asking = (left.ping_socket() for _ in range(3))
    far = at("99.1.1.1")
    left.call(connected.connect, far, 0, 0)
    left.call(asking.setsockopt, 0, 11, struct.pack("=i", 1))
    for sk in (plain, connected, asking):
        left.send(sk, request(), far)
        run(left, right)
    # Unreachable networks are no final error (RFC 1122, 4.2.3.9), so only the one who set IP_RECVERR is told.
    assert (plain.err, connected.err, asking.err) == (0, 0, errno.ENETUNREACH)
    data, msg = left.receive(asking, 100, MSG_ERRQUEUE)
    assert data[:1] == b"\x08"
    assert isinstance(msg.name, SockAddr)
    assert msg.name.addr == far.addr
    assert msg.control is not None
    assert msg.control[0][2][16 + 4 : 16 + 8] == TWO.addr


def test_time_to_live(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = left.ping_socket()
    left.call(sk.setsockopt, 0, 12, struct.pack("=i", 1))
    left.send(sk, request(), TWO)
    run(left, right)
    assert left.receive(sk)[1].control == [(0, 2, struct.pack("=i", 64))]


def test_replies_for_nobody_are_dropped(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = left.ping_socket()
    left.send(sk, request(), TWO)
    left.close(sk)
    run(left, right)
    assert left.drops(DropReason.NO_SOCKET) == 1


def test_another_device_or_address(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = left.ping_socket()
    left.send(sk, request(), TWO)
    sk.bound_dev_if = left.devices["lo"].index
    run(left, right)
    assert not sk.receive_queue


def test_a_filter(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = left.ping_socket()
    sk.filter = Program(struct.pack("=HBBIHBBIHBBIHBBI", 0x28, 0, 0, 6, 0x15, 0, 1, 2, 6, 0, 0, 8, 6, 0, 0, 0))
    left.send(sk, request(1), TWO)
    left.send(sk, request(2), TWO)
    run(left, right)
    assert left.recv(sk)[6:] == b"\0\2"
    assert left.drops(DropReason.SOCKET_FILTER) == 1


def test_who_may(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    left.net.sysctl["net.ipv4.ping_group_range"] = (1, 0)
    with pytest.raises(PermissionError):
        left.call(PingSock, left.net, left.ipv4.af)
