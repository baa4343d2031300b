"""UDP sockets: connect, send, receive, corking, segmentation, options."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.hosts import Blocked, Host, at, pair, run
from usernet.core.iov import CollectIter, SourceIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from usernet.skbuff.dropreason import DropReason
from usernet.sock.inet import IP_PMTUDISC_DO, IP_PMTUDISC_INTERFACE
from usernet.sock.msg import (
    MSG_CONFIRM,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_PROBE,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    MsgHdr,
    SockAddr,
)
from usernet.sock.sock import Sock
from usernet.sock.sockopt import SO_NO_CHECK, SO_SNDBUF, SO_ZEROCOPY, SOL_SOCKET
from usernet.transport.udp_sock import SOL_UDP, UDP_CORK, UDP_GRO, UDP_SEGMENT

SERVER = at("10.0.0.2", 7)
ON = struct.pack("=i", 1)
OFF = bytes(4)


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


def waiting(host: Host, sk: Sock) -> list[bytes]:
    """All that waits to be received."""
    found = []
    while sk.receive_queue:
        found.append(host.recv(sk))
    return found


class TestSending:
    def test_a_datagram_arrives_with_its_sender(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        assert left.send(client, b"hello", SERVER) == 5
        run(left, right)
        data, msg = right.receive(server)
        assert data == b"hello"
        assert isinstance(msg.name, SockAddr)
        assert (msg.name.addr, msg.name.port, msg.flags) == (at("10.0.0.1").addr, client.num, 0)
        assert right.send(server, b"back", msg.name) == 4
        run(left, right)
        assert left.recv(client) == b"back"
        assert (left.net.mib.udp.OutDatagrams, left.net.mib.udp.InDatagrams) == (1, 1)
        assert (client.wmem_alloc, client.rmem_alloc, server.rmem_alloc) == (0, 0, 0)

    @pytest.mark.parametrize("size", [0, 1, 18, 511, 512, 513, 1472, 1473, 9000, 65507])
    def test_every_size(self, hosts: tuple[Host, Host], size: int) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        payload = bytes(range(256)) * 256
        left.send(client, payload[:size], SERVER)
        run(left, right)
        assert waiting(right, server) == [payload[:size]]

    def test_too_large(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        assert code(left.send, client, bytes(65508), SERVER) == errno.EMSGSIZE
        assert code(left.send, client, bytes(70000), SERVER) == errno.EMSGSIZE

    def test_what_may_not_be_fragmented(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        for way in (IP_PMTUDISC_DO, IP_PMTUDISC_INTERFACE):
            client.pmtudisc = way
            assert code(left.send, client, bytes(1473), SERVER) == errno.EMSGSIZE
            assert left.send(client, bytes(1472), SERVER) == 1472
        run(left, right)
        assert client.wmem_alloc == 0

    def test_addresses_that_are_none(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        assert code(left.send, client, b"x") == errno.EDESTADDRREQ
        assert code(left.send, client, b"x", at("10.0.0.2", 0)) == errno.EINVAL
        assert code(left.send, client, b"x", SockAddr(10, bytes(16), 7)) == errno.EAFNOSUPPORT
        assert code(left.send, client, b"x", at("99.0.0.1", 7)) == errno.ENETUNREACH
        assert left.net.mib.ip.OutNoRoutes == 1
        assert code(left.send, client, b"x", SERVER, MSG_OOB | MSG_DONTWAIT) == errno.EOPNOTSUPP

    def test_any_is_this_machine(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, b"here", at("0.0.0.0", 7))
        assert left.recv(server) == b"here"

    def test_broadcast_needs_leave(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        for where in ("10.0.0.255", "255.255.255.255"):
            client.broadcast = False
            assert code(left.send, client, b"x", at(where, 7)) == errno.EACCES
            assert code(left.call, client.connect, at(where, 7), 0, 0) == errno.EACCES
            client.broadcast = True
            client.bound_dev_if = 2
            left.send(client, b"to all", at(where, 7))
            run(left, right)
            assert waiting(right, server) == [b"to all"]

    def test_what_is_sent_after_shutdown(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        left.call(client.connect, SERVER, 0, 0)
        left.call(client.shutdown, 1)
        assert code(left.send, client, b"x") == errno.EPIPE
        assert code(left.send, client, b"x", flags=MSG_MORE | MSG_DONTWAIT) == errno.EPIPE

    def test_a_full_send_buffer_waits_and_goes_on(self) -> None:
        left, right = pair(delay=0.01)
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.setsockopt, SOL_SOCKET, SO_SNDBUF, OFF)
        sent = 0
        while True:
            try:
                left.send(client, bytes(1000), SERVER)
            except BlockingIOError:
                break
            sent += 1
        assert 0 < sent < 20
        assert not client.poll() & EPOLLOUT
        with left.inside():
            started = client.sendmsg(MsgHdr(SourceIter((b"last",)), SERVER), 0, NEVER)
        call = Blocked(left, started)
        assert not call.done
        run(left, right, until=10**9)
        call.step()
        assert call.result == 4
        run(left, right, until=2 * 10**9)
        assert len(waiting(right, server)) == sent + 1
        assert client.poll() & EPOLLOUT
        left.end()
        right.end()

    def test_a_send_that_waits_ends_at_its_deadline(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        client.wmem_alloc = client.sndbuf
        with left.inside():
            started = client.sendmsg(MsgHdr(SourceIter((b"late",)), SERVER), 0, 5)
        call = Blocked(left, started)
        left.clock.set(5)
        assert code(call.step) == errno.EAGAIN
        client.wmem_alloc = 0

    def test_without_a_checksum(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.setsockopt, SOL_SOCKET, SO_NO_CHECK, ON)
        left.send(client, b"unsummed", SERVER)
        run(left, right)
        skb = server.receive_queue.first
        assert skb is not None
        assert skb.head[skb.data - 2 : skb.data] == b"\0\0"
        assert right.recv(server) == b"unsummed"

    def test_the_route_is_looked_up_again_when_it_must(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, b"1", SERVER)
        left.call(left.devices.set_down, left.devices["eth0"])
        assert code(left.send, client, b"2", SERVER) == errno.ENETUNREACH
        left.call(left.devices.set_up, left.devices["eth0"])
        left.send(client, b"3", SERVER)
        run(left, right, until=3 * 10**9)
        assert waiting(right, server)[-1] == b"3"

    def test_msg_confirm_and_probe(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        assert left.send(client, b"", SERVER, MSG_CONFIRM | MSG_PROBE) == 0
        assert left.send(client, b"yes", SERVER, MSG_CONFIRM | MSG_NOSIGNAL) == 3
        run(left, right)
        assert waiting(right, server) == [b"yes"]


class TestConnect:
    def test_addresses(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        assert code(client.getpeername) == errno.ENOTCONN
        left.call(client.connect, SERVER, 0, 0)
        here, there = client.getsockname(), client.getpeername()
        assert isinstance(here, SockAddr)
        assert isinstance(there, SockAddr)
        assert (here.addr, there.addr, there.port) == (at("10.0.0.1").addr, SERVER.addr, 7)
        assert here.port == client.num

    def test_only_the_peer_is_heard(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.connect, SERVER, 0, 0)
        peer, other = right.udp_socket("10.0.0.2", 7), right.udp_socket()
        back = client.getsockname()
        right.send(other, b"no", back)
        right.send(peer, b"yes", back)
        run(left, right)
        assert waiting(left, client) == [b"yes"]
        assert left.net.mib.udp.NoPorts == 1

    def test_disconnect_frees_what_was_not_asked_for(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client, bound = left.udp_socket(), left.udp_socket("0.0.0.0", 99)
        nobody = SockAddr(0, b"", 0)
        for sk in (client, bound):
            left.call(sk.connect, SERVER, 0, 0)
            left.call(sk.connect, nobody, 0, 0)
            assert (sk.daddr, sk.rcv_saddr, sk.dport) == (bytes(4), bytes(4), 0)
            assert code(left.send, sk, b"x") == errno.EDESTADDRREQ
        assert bound.num == 99
        assert not left.udp.table.connected

    def test_a_connected_socket_may_send_elsewhere(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        first, second = right.udp_socket("0.0.0.0", 7), right.udp_socket("0.0.0.0", 8)
        client = left.udp_socket()
        left.call(client.connect, SERVER, 0, 0)
        left.send(client, b"1")
        left.send(client, b"2", at("10.0.0.2", 8))
        left.send(client, b"3")
        run(left, right)
        assert (waiting(right, first), waiting(right, second)) == ([b"1", b"3"], [b"2"])

    def test_a_failed_connect_leaves_it_as_it_was(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.connect, SERVER, 0, 0)
        assert code(left.call, client.connect, at("99.1.1.1", 1), 0, 0) == errno.ENETUNREACH
        assert code(left.call, client.connect, SockAddr(10, bytes(16), 1), 0, 0) == errno.EAFNOSUPPORT
        assert client.daddr == SERVER.addr
        server = right.udp_socket("0.0.0.0", 7)
        left.send(client, b"still")
        run(left, right)
        assert waiting(right, server) == [b"still"]

    def test_shutdown_without_a_peer_says_so_and_works(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.udp_socket("0.0.0.0", 9)
        assert code(left.call, sk.shutdown, 2) == errno.ENOTCONN
        assert sk.poll() & (EPOLLHUP | EPOLLRDHUP | EPOLLIN) == EPOLLHUP | EPOLLRDHUP | EPOLLIN
        assert code(left.call, sk.shutdown, 3) == errno.EINVAL
        # A call that may wait finds the end; one that may not, nothing.
        with left.inside():
            call = sk.recvmsg(MsgHdr(CollectIter(10)), 0, NEVER)
        assert Blocked(left, call).result == 0
        assert code(left.recv, sk) == errno.EAGAIN


class TestReceiving:
    def test_nothing_there(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.udp_socket("0.0.0.0", 9)
        assert code(left.recv, sk) == errno.EAGAIN
        assert not sk.poll() & EPOLLIN

    def test_waiting(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        sink = CollectIter(100)
        with right.inside():
            started = server.recvmsg(MsgHdr(sink), 0, NEVER)
        call = Blocked(right, started)
        assert not call.done
        left.send(client, b"now", SERVER)
        run(left, right)
        call.step()
        assert (call.result, sink.getvalue()) == (3, b"now")

    def test_waiting_ends_at_the_deadline(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.udp_socket("0.0.0.0", 9)
        with left.inside():
            started = sk.recvmsg(MsgHdr(CollectIter(1)), 0, 100)
        call = Blocked(left, started)
        left.clock.set(100)
        assert code(call.step) == errno.EAGAIN

    def test_truncation(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
        for _ in range(3):
            left.send(client, b"0123456789", at("127.0.0.1", 7))
        data, msg = left.receive(server, 4)
        assert (data, msg.flags) == (b"0123", MSG_TRUNC)
        sink = CollectIter(4)
        with left.inside():
            assert server.recvmsg(MsgHdr(sink), MSG_TRUNC | MSG_DONTWAIT, 0) == 10
        assert left.recv(server, 0) == b""
        assert code(left.recv, server) == errno.EAGAIN

    def test_the_queue_is_bounded(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
        server.rcvbuf = 5000
        for number in range(50):
            left.send(client, bytes((number,)) * 100, at("127.0.0.1", 7))
        got = waiting(left, server)
        mib = left.net.mib.udp
        assert 0 < len(got) < 10
        assert [piece[0] for piece in got] == list(range(len(got)))
        lost = 50 - len(got)
        assert mib.RcvbufErrors == mib.InErrors == server.drops == left.drops(DropReason.SOCKET_RCVBUFF) == lost
        assert server.rmem_alloc == 0

    def test_sizes_by_ioctl(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
        assert server.ioctl(0x541B) == server.ioctl(0x5411) == 0
        left.send(client, bytes(30), at("127.0.0.1", 7))
        left.send(client, bytes(40), at("127.0.0.1", 7))
        assert server.ioctl(0x541B) == 30
        assert code(server.ioctl, 0x8905) == errno.ENOTTY


class TestCork:
    @pytest.mark.parametrize("way", ["more", "option"])
    def test_parts_become_one(self, hosts: tuple[Host, Host], way: str) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.connect, SERVER, 0, 0)
        if way == "option":
            left.call(client.setsockopt, SOL_UDP, UDP_CORK, ON)
        more = MSG_MORE if way == "more" else 0
        left.send(client, b"one ", None, MSG_DONTWAIT | more)
        left.send(client, b"two ", None, MSG_DONTWAIT | more)
        run(left, right)
        assert not server.receive_queue
        left.send(client, b"three", None)
        if way == "option":
            left.call(client.setsockopt, SOL_UDP, UDP_CORK, OFF)
        run(left, right)
        assert waiting(right, server) == [b"one two three"]
        assert left.net.mib.udp.OutDatagrams == 1

    def test_an_empty_datagram_may_be_gathered(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, b"", SERVER, MSG_MORE | MSG_DONTWAIT)
        left.send(client, b"", SERVER)
        run(left, right)
        assert waiting(right, server) == [b""]

    def test_too_much_is_given_up(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, bytes(40000), SERVER, MSG_MORE | MSG_DONTWAIT)
        assert code(left.send, client, bytes(40000), SERVER) == errno.EMSGSIZE
        left.send(client, b"anew", SERVER)
        run(left, right)
        assert waiting(right, server) == [b"anew"]

    def test_closing_gives_it_up(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, b"never", SERVER, MSG_MORE | MSG_DONTWAIT)
        left.close(client)
        run(left, right)
        assert waiting(right, server) == []


class TestSegmentation:
    def test_one_call_many_datagrams(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.setsockopt, SOL_UDP, UDP_SEGMENT, struct.pack("=i", 1000))
        payload = bytes(range(256)) * 15
        assert left.send(client, payload[:3500], SERVER) == 3500
        run(left, right)
        assert waiting(right, server) == [payload[i : min(i + 1000, 3500)] for i in range(0, 3500, 1000)]
        assert right.net.mib.udp.InDatagrams == 4

    def test_by_ancillary_data(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.send(client, b"aabbc", SERVER, control=[(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 2))])
        run(left, right)
        assert waiting(right, server) == [b"aa", b"bb", b"c"]
        for bad in ((SOL_UDP, UDP_SEGMENT, b"\1"), (SOL_UDP, 9, b"\1\0"), (SOL_SOCKET, 99, b"")):
            assert code(left.send, client, b"x", SERVER, control=[bad]) == errno.EINVAL

    def test_received_whole_where_asked_for(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        right.call(server.setsockopt, SOL_UDP, UDP_GRO, ON)
        left.call(client.setsockopt, SOL_UDP, UDP_SEGMENT, struct.pack("=i", 1000))
        left.send(client, bytes(2500), SERVER)
        left.send(client, bytes(500), SERVER)
        run(left, right)
        data, msg = right.receive(server)
        assert (len(data), msg.control) == (2500, [(SOL_UDP, UDP_GRO, struct.pack("=i", 1000))])
        data, msg = right.receive(server)
        assert (len(data), msg.control) == (500, None)

    @pytest.mark.parametrize(
        ("segment", "size"), [(1473, 3000), (10, 10 * 128 + 1), (1, 65000)]
    )
    def test_limits(self, hosts: tuple[Host, Host], segment: int, size: int) -> None:
        left, _ = hosts
        client = left.udp_socket()
        left.call(client.setsockopt, SOL_UDP, UDP_SEGMENT, struct.pack("=i", segment))
        assert code(left.send, client, bytes(size), SERVER) == errno.EINVAL
        assert client.wmem_alloc == 0

    @given(size=st.integers(0, 4000), segment=st.integers(50, 1472))
    def test_nothing_is_lost_or_added(self, size: int, segment: int) -> None:
        left, right = pair()
        right.devices["eth0"].features = 0
        left.devices["eth0"].features = 0
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        client.gso_size = segment
        payload = (bytes(range(251)) * 16)[:size]
        left.send(client, payload, SERVER)
        run(left, right)
        got = waiting(right, server)
        assert b"".join(got) == payload
        assert [len(piece) for piece in got[:-1]] == [segment] * (len(got) - 1)
        assert right.net.mib.udp.InErrors == 0
        left.end()
        right.end()


class TestOptions:
    def test_values(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = left.udp_socket()
        for option in (UDP_CORK, UDP_SEGMENT, UDP_GRO, 101, 102):
            assert sk.getsockopt(SOL_UDP, option, 4) == OFF
            left.call(sk.setsockopt, SOL_UDP, option, ON)
            assert sk.getsockopt(SOL_UDP, option, 4) == ON
            left.call(sk.setsockopt, SOL_UDP, option, OFF)
        assert code(sk.setsockopt, SOL_UDP, UDP_SEGMENT, struct.pack("=i", 65536)) == errno.EINVAL
        assert code(sk.setsockopt, SOL_UDP, UDP_CORK, b"") == errno.EINVAL
        assert code(sk.setsockopt, SOL_UDP, 100, ON) == errno.ENOPROTOOPT
        assert code(sk.getsockopt, SOL_UDP, 100, 4) == errno.ENOPROTOOPT
        assert code(sk.setsockopt, 6, 1, ON) == errno.ENOPROTOOPT
        assert code(sk.getsockopt, 6, 1, 4) == errno.ENOPROTOOPT

    def test_the_familys_options(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.setsockopt, 0, 2, struct.pack("=i", 33))
        assert client.getsockopt(0, 2, 4) == struct.pack("=i", 33)
        right.call(server.setsockopt, 0, 12, ON)
        right.call(server.setsockopt, 0, 8, ON)
        left.send(client, b"ttl", SERVER)
        run(left, right)
        control = right.receive(server)[1].control
        assert control is not None
        assert (0, 2, struct.pack("=i", 33)) in control
        assert (0, 8, struct.pack("=i", 2) + SERVER.addr * 2) in control

    @pytest.mark.parametrize("copied", [False, True])
    def test_zero_copy_is_told_when_done(self, hosts: tuple[Host, Host], copied: bool) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.setsockopt, SOL_SOCKET, SO_ZEROCOPY, ON)
        data = bytearray(b"data") if copied else b"data"
        for _ in range(3):
            left.call(client.sendmsg, MsgHdr(SourceIter([data]), SERVER), MSG_ZEROCOPY | MSG_DONTWAIT, 0)
        assert client.poll() & EPOLLERR
        _, msg = left.receive(client, 100, MSG_ERRQUEUE)
        assert msg.control is not None
        entry = msg.control[0][2]
        assert struct.unpack_from("=IBBBBII", entry) == (0, 5, 0, int(copied), 0, 0, 2)
        assert code(left.receive, client, 100, MSG_ERRQUEUE) == errno.EAGAIN
        run(left, right)


@pytest.mark.parametrize("flags", [0, MSG_PEEK])
def test_a_pending_error_comes_first(hosts: tuple[Host, Host], flags: int) -> None:
    left, _ = hosts
    server, client = left.udp_socket("0.0.0.0", 7), left.udp_socket()
    left.send(client, b"data", at("127.0.0.1", 7))
    server.err = errno.EHOSTUNREACH
    assert code(left.recv, server, 10, MSG_DONTWAIT | flags) == errno.EHOSTUNREACH
    assert left.recv(server, 10, MSG_DONTWAIT | flags) == b"data"
