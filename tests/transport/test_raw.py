"""Raw sockets."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.transport.hosts import Host, at, pair, run
from usernet.skbuff.dropreason import DropReason
from usernet.sock.filter import Program
from usernet.sock.msg import MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, SockAddr
from usernet.transport.raw import ICMP_FILTER, SOL_RAW
from usernet.wire import icmp, ipv4

ONE, TWO = at("10.0.0.1"), at("10.0.0.2")


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


def test_a_protocol_of_ones_own(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sender, receiver, other = left.raw_socket(200), right.raw_socket(200), right.raw_socket(201)
    assert left.send(sender, b"private protocol", TWO) == 16
    run(left, right)
    data, msg = right.receive(receiver)
    header = ipv4.parse(data, 0)
    assert header[2] == len(data) == 36
    assert header[6:7] + header[8:] == (200, ONE.addr, TWO.addr)
    assert ipv4.header_csum_ok(data, 0, 20)
    assert data[20:] == b"private protocol"
    assert isinstance(msg.name, SockAddr)
    assert (msg.name.addr, msg.name.port) == (ONE.addr, 0)
    assert not other.receive_queue
    # Somebody takes the protocol, so nobody is told that it is unknown.
    assert right.net.mib.ip.InUnknownProtos == 0
    assert (sender.wmem_alloc, receiver.rmem_alloc) == (0, 0)


def test_the_local_port_is_the_protocol(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    name = left.raw_socket(200).getsockname()
    assert isinstance(name, SockAddr)
    assert name.port == 200


def test_large_packets_are_fragmented(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sender, receiver = left.raw_socket(200), right.raw_socket(200)
    left.send(sender, bytes(5000), TWO)
    run(left, right)
    assert len(right.recv(receiver)) == 5020


def test_a_copy_for_each_and_one_for_the_transport(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    first, second = right.raw_socket(17), right.raw_socket(17)
    server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
    left.send(client, b"data", at("10.0.0.2", 7))
    run(left, right)
    assert right.recv(first) == right.recv(second)
    assert right.recv(server) == b"data"
    right.close(first, second)
    assert right.net.mib.ip.InUnknownProtos == 0
    assert right.raw.sockets == {}


def test_bind_and_connect_choose(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    bound, connected, elsewhere, device = (right.raw_socket(200) for _ in range(4))
    right.call(bound.bind, TWO)
    right.call(connected.connect, ONE, 0, 0)
    right.call(elsewhere.connect, at("10.0.0.3"), 0, 0)
    device.bound_dev_if = right.devices["lo"].index
    left.send(left.raw_socket(200), b"x", TWO)
    run(left, right)
    assert [bool(sk.receive_queue) for sk in (bound, connected, elsewhere, device)] == [True, True, False, False]
    right.send(connected, b"back")
    receiver = left.raw_socket(200)
    run(left, right)
    assert left.recv(receiver)[20:] == b"back"


def test_binding(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.raw_socket(200)
    left.call(sk.bind, ONE)
    left.call(sk.bind, at("0.0.0.0"))
    assert code(left.call, sk.bind, at("1.2.3.4")) == errno.EADDRNOTAVAIL
    left.call(sk.bind, at("224.0.0.1"))
    assert (sk.rcv_saddr, sk.saddr) == (b"\xe0\0\0\1", bytes(4))
    left.call(sk.connect, TWO, 0, 0)
    assert code(left.call, sk.bind, ONE) == errno.EINVAL


def test_sending_to_nobody(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.raw_socket(200)
    assert code(left.send, sk, b"x") == errno.EDESTADDRREQ
    assert code(left.send, sk, b"x", at("10.0.0.255")) == errno.EACCES
    assert code(left.send, sk, bytes(70000), TWO) == errno.EMSGSIZE
    assert code(left.send, sk, b"x", SockAddr(10, bytes(16), 0)) == errno.EAFNOSUPPORT
    assert code(left.send, sk, b"x", TWO, MSG_OOB) == errno.EOPNOTSUPP
    assert code(left.recv, sk, 10, MSG_OOB) == errno.EOPNOTSUPP
    assert code(left.recv, sk) == errno.EAGAIN
    assert code(sk.setsockopt, 6, 1, bytes(4)) == errno.ENOPROTOOPT


class TestHeaderIncluded:
    def whole(self, payload: bytes, *, ident: int = 0, source: bytes = bytes(4), options: bytes = b"") -> bytes:
        header = ipv4.build(0, 0, ident, 0, 9, 200, source, TWO.addr, options)
        return header[:10] + b"\xff\xff" + header[12:] + payload

    def test_what_is_missing_is_filled_in(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sender, receiver = left.raw_socket(255), right.raw_socket(200)
        assert left.send(sender, self.whole(b"data"), TWO) == 24
        run(left, right)
        data = right.recv(receiver)
        _, _, total, ident, _, ttl, _, _, source, _ = ipv4.parse(data, 0)
        assert (total, ttl, source, bool(ident)) == (24, 9, ONE.addr, True)
        assert ipv4.header_csum_ok(data, 0, 20)

    def test_what_is_there_stays(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sender, receiver = left.raw_socket(200), right.raw_socket(200)
        left.call(sender.setsockopt, 0, 3, struct.pack("=i", 1))
        left.send(sender, self.whole(b"data", ident=77, source=b"\x0a\0\0\x63", options=b"\1\1\1\0"), TWO)
        run(left, right)
        data = right.recv(receiver)
        assert ipv4.parse(data, 0)[3] == 77
        assert ipv4.parse(data, 0)[8] == b"\x0a\0\0\x63"
        assert data[20:] == b"\1\1\1\0data"

    def test_errors(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.raw_socket(255)
        for short in (b"", bytes(19), b"\x4f" + bytes(30)):
            assert code(left.send, sk, short, TWO) == errno.EINVAL
        assert code(left.send, sk, bytes(1501), TWO) == errno.EMSGSIZE
        sk.options = b"\1\1\1\0"
        assert code(left.send, sk, self.whole(b"data"), TWO) == errno.EINVAL
        assert sk.wmem_alloc == 0

    def test_it_only_sends(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = right.raw_socket(255)
        left.send(left.raw_socket(200), b"x", TWO)
        run(left, right)
        assert not sk.receive_queue


class TestIcmp:
    def test_filter(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk, plain = left.raw_socket(1), left.raw_socket(1)
        # All but echo replies.
        left.call(sk.setsockopt, SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFE))
        assert sk.getsockopt(SOL_RAW, ICMP_FILTER, 4) == struct.pack("=I", 0xFFFFFFFE)
        left.send(sk, icmp.build(icmp.ICMP_ECHO, 0, 1 << 16 | 1, b"ping"), TWO)
        left.send(left.udp_socket(), b"x", at("10.0.0.2", 9))
        run(left, right)
        assert left.recv(sk)[20] == icmp.ICMP_ECHOREPLY
        assert code(left.recv, sk) == errno.EAGAIN
        assert [left.recv(plain)[20] for _ in range(2)] == [icmp.ICMP_ECHOREPLY, icmp.ICMP_DEST_UNREACH]
        assert left.net.mib.icmp.OutMsgs == left.net.mib.icmp.OutEchos == 1

    def test_filter_is_for_icmp(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.raw_socket(200)
        assert code(sk.setsockopt, SOL_RAW, ICMP_FILTER, bytes(4)) == errno.EOPNOTSUPP
        assert code(sk.getsockopt, SOL_RAW, ICMP_FILTER, 4) == errno.EOPNOTSUPP
        assert code(sk.setsockopt, SOL_RAW, 2, bytes(4)) == errno.ENOPROTOOPT
        icmp_sk = left.raw_socket(1)
        assert code(icmp_sk.getsockopt, SOL_RAW, ICMP_FILTER, -1) == errno.EINVAL
        # A short value sets only the bits it has.
        icmp_sk.setsockopt(SOL_RAW, ICMP_FILTER, b"\xff\xff\xff\xff")
        icmp_sk.setsockopt(SOL_RAW, ICMP_FILTER, b"\0")
        assert icmp_sk.icmp_filter == 0xFFFFFF00

    def test_errors_are_for_who_asks_or_has_a_peer(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        plain, connected, asking = (left.raw_socket(200) for _ in range(3))
        left.call(connected.connect, TWO, 0, 0)
        left.call(asking.setsockopt, 0, 11, struct.pack("=i", 1))
        left.send(plain, b"unknown protocol", TWO)
        run(left, right)
        assert (plain.err, connected.err, asking.err) == (0, errno.ENOPROTOOPT, errno.ENOPROTOOPT)
        data, msg = left.receive(asking, 100, MSG_ERRQUEUE)
        assert data == b"unknown protocol"
        assert msg.control is not None
        assert msg.control[0][2][5] == 3
        assert code(left.recv, connected) == errno.ENOPROTOOPT


def test_a_filter_sees_the_header(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sk = right.raw_socket(200)
    sk.filter = Program(struct.pack("=HBBIHBBIHBBIHBBI", 0x30, 0, 0, 20, 0x15, 0, 1, ord("y"), 6, 0, 0, 21, 6, 0, 0, 0))
    sender = left.raw_socket(200)
    left.send(sender, b"yes", TWO)
    left.send(sender, b"no", TWO)
    run(left, right)
    assert right.recv(sk)[20:] == b"y"
    assert code(right.recv, sk) == errno.EAGAIN
    assert right.drops(DropReason.SOCKET_FILTER) == 1


def test_a_group_is_heard_by_members(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    sender, member, stranger = left.raw_socket(200), right.raw_socket(200), right.raw_socket(200)
    stranger.mc_all = False
    group = at("239.1.1.1")
    right.call(member.setsockopt, 0, 35, group.addr + TWO.addr)
    left.call(sender.setsockopt, 0, 32, ONE.addr)
    left.send(sender, b"all", group)
    run(left, right, until=10**9)
    assert right.recv(member)[20:] == b"all"
    assert not stranger.receive_queue


def test_the_queue_is_bounded(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    sk = left.raw_socket(200)
    sk.rcvbuf = 3000
    for _ in range(20):
        left.send(sk, bytes(100), at("127.0.0.1"), MSG_DONTWAIT)
    assert sk.receive_queue.qlen + sk.drops == 20
    assert sk.drops == left.drops(DropReason.SOCKET_RCVBUFF) > 10
