"""The base of internet datagram sockets: routing of one datagram, its ancillary data, the rest of the calls."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.transport.hosts import Host, at, pair, run
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from usernet.sock import sockopt as so
from usernet.sock.inet_datagram import SIOCINQ, SIOCOUTQ
from usernet.sock.msg import MSG_DONTROUTE, MSG_DONTWAIT, SockAddr


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


def test_dontroute_reaches_the_link_alone(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with left.inside():
        left.ipv4.routes.add(at("99.0.0.0").addr, 8, gateway=at("10.0.0.2").addr)
    sk = left.udp_socket()
    left.send(sk, b"x", at("99.1.1.1", 7))
    flags = MSG_DONTROUTE | MSG_DONTWAIT
    assert code(left.send, sk, b"x", at("99.1.1.1", 7), flags) == errno.ENETUNREACH
    assert left.send(sk, b"x", at("10.0.0.2", 7), flags) == 1
    left.call(sk.setsockopt, so.SOL_SOCKET, so.SO_DONTROUTE, struct.pack("=i", 1))
    assert code(left.send, sk, b"x", at("99.1.1.1", 7)) == errno.ENETUNREACH
    run(left, right)


def test_marks_by_message(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
    left.call(server.setsockopt, so.SOL_SOCKET, so.SO_RCVMARK, struct.pack("=i", 1))
    mark = (so.SOL_SOCKET, so.SO_MARK, struct.pack("=I", 99))
    assert left.send(client, b"x", at("127.0.0.1", 7), control=[mark]) == 1
    # Credentials and descriptors mean nothing here, but are no error.
    assert left.send(client, b"x", at("127.0.0.1", 7), control=[(so.SOL_SOCKET, 1, bytes(4))]) == 1
    assert code(left.send, client, b"x", at("127.0.0.1", 7), control=[(so.SOL_SOCKET, 99, b"")]) == errno.EINVAL


def test_the_source_address_by_message(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
    with left.inside():
        left.ipv4.devinet.add(left.devices["eth0"], at("10.0.0.11").addr, 24)
    info = struct.pack("=i4s4x", 0, at("10.0.0.11").addr)
    left.send(client, b"x", at("10.0.0.2", 7), control=[(0, 8, info)])
    run(left, right)
    name = right.receive(server)[1].name
    assert isinstance(name, SockAddr)
    assert name.addr == at("10.0.0.11").addr


def test_the_device_for_unicast_and_for_groups(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.udp_socket()
    sk.unicast_if = 1
    flow = sk.send_flow(at("10.0.0.2").addr, 7, 0)
    sk.choose_device(flow)
    assert (flow.oif, flow.saddr) == (1, bytes(4))
    sk.mc_index, sk.mc_addr = 2, at("10.0.0.1").addr
    flow = sk.send_flow(at("239.1.1.1").addr, 7, 0)
    sk.choose_device(flow)
    assert (flow.oif, flow.saddr) == (2, at("10.0.0.1").addr)
    flow.oif, flow.saddr = 9, at("10.0.0.9").addr
    sk.choose_device(flow)
    assert (flow.oif, flow.saddr) == (9, at("10.0.0.9").addr)


def test_poll(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.udp_socket("127.0.0.1", 7)
    assert sk.poll() & (EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP) == EPOLLOUT
    sk.err = errno.EIO
    assert sk.poll() & (EPOLLERR | EPOLLPRI) == EPOLLERR
    left.call(sk.setsockopt, so.SOL_SOCKET, so.SO_SELECT_ERR_QUEUE, struct.pack("=i", 1))
    assert sk.poll() & (EPOLLERR | EPOLLPRI) == EPOLLERR | EPOLLPRI
    sk.take_error()
    left.send(sk, b"x", at("127.0.0.1", 7))
    assert sk.poll() & EPOLLIN
    left.call(sk.connect, at("127.0.0.1", 9), 0, 0)
    left.call(sk.shutdown, 0)
    assert sk.poll() & (EPOLLRDHUP | EPOLLHUP) == EPOLLRDHUP
    left.call(sk.shutdown, 1)
    assert sk.poll() & (EPOLLRDHUP | EPOLLHUP) == EPOLLRDHUP | EPOLLHUP


def test_ioctl(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.raw_socket(200)
    left.send(sk, b"1234", at("127.0.0.1"))
    assert sk.ioctl(SIOCINQ) == 24
    assert sk.ioctl(SIOCOUTQ) == 0
    assert code(sk.ioctl, 0) == errno.ENOTTY


def test_a_closed_socket_wakes_who_waits(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.udp_socket("0.0.0.0", 7)
    left.close(sk)
    assert sk.poll() & EPOLLHUP
    assert sk not in sk.settings.sockets
    # The port is free again.
    left.udp_socket("0.0.0.0", 7)


def test_a_full_device_queue_is_told_to_who_asks_for_errors(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.udp_socket()
    left.send(sk, b"x", at("127.0.0.1", 9))
    lo = left.devices["lo"]
    left.call(sk.connect, at("127.0.0.1", 9), 0, 0)
    lo.flags &= ~1
    try:
        assert left.send(sk, b"x") == 1
        assert left.net.mib.udp.SndbufErrors == 1
        sk.recverr = True
        assert code(left.send, sk, b"x") == errno.ENOBUFS
    finally:
        lo.flags |= 1
    assert sk.wmem_alloc == 0
