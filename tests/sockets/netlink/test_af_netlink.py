"""Netlink sockets: addresses, groups, options, what is lost; and the frame of requests and answers."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sockets.netlink.asker import ACK, DUMP, ON, REQUEST, ask, dump, ended, host, open_socket, read, take_apart
from tests.transport.hosts import Blocked, Host
from usernet.core.iov import SourceIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLIN, EPOLLOUT
from usernet.drivers.veth import veth
from usernet.net.families import Families
from usernet.sock import sockopt as so
from usernet.sock.msg import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC, MsgHdr, Name, NetlinkAddr, SockAddr
from usernet.sock.optval import pack_name
from usernet.sockets.netlink import af_netlink as nl
from usernet.sockets.netlink.rtnetlink import RTM_GETLINK, RTM_NEWADDR, RTNLGRP_IPV4_IFADDR, RTNLGRP_LINK
from usernet.wire import netlink as wire

LINK = struct.Struct("=BxHiII")
ANYTHING = LINK.pack(0, 0, 0, 0, 0)


@pytest.fixture
def one() -> Iterator[Host]:
    with host() as made:
        yield made


def code(call: Callable[..., Any], *args: Any, **more: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    return caught.value.errno or 0


def where(name: Name) -> tuple[int, int]:
    """Port and groups of an address."""
    assert isinstance(name, NetlinkAddr)
    return name.portid, name.groups


class TestAddresses:
    def test_what_can_be_made(self, one: Host):
        families = one.net.get(Families)
        assert code(one.call, families.create, 16, 1, 0) == errno.ESOCKTNOSUPPORT
        assert code(one.call, families.create, 16, 3, 15) == errno.EPROTONOSUPPORT
        assert one.call(families.create, 16, 2, 4).protocol == 4

    def test_a_port_is_chosen_on_first_use_and_is_free_again(self, one: Host):
        first, second = open_socket(one), open_socket(one)
        assert pack_name(one.call(first.getsockname)) == b"\x10\0" + bytes(10)
        one.call(first.bind, NetlinkAddr())
        one.send(second, wire.build(RTM_GETLINK, DUMP, 1, 0, ANYTHING))
        ports = [sk.portid for sk in (first, second)]
        assert ports == [1, 0xFFFFEFFF]
        one.close(first)
        third = open_socket(one)
        one.call(third.bind, NetlinkAddr(1))
        assert third.portid == 1

    def test_bind(self, one: Host):
        first, second = open_socket(one), open_socket(one)
        one.call(first.bind, NetlinkAddr(77, 0b101))
        assert where(one.call(first.getsockname)) == (77, 0b101)
        assert code(one.call, second.bind, NetlinkAddr(77)) == errno.EADDRINUSE
        assert code(one.call, first.bind, NetlinkAddr(78)) == errno.EINVAL
        assert code(one.call, first.bind, SockAddr(2, bytes(4), 0)) == errno.EINVAL
        one.call(first.bind, NetlinkAddr(77, 0b10))
        assert where(one.call(first.getsockname)) == (77, 0b10)

    def test_from_one_program_to_another(self, one: Host):
        left, right = open_socket(one), open_socket(one)
        one.call(right.bind, NetlinkAddr(9))
        assert code(one.send, left, b"hello", NetlinkAddr(8)) == errno.ECONNREFUSED
        one.call(left.connect, NetlinkAddr(9), 0, NEVER)
        assert where(one.call(left.getpeername)) == (9, 0)
        assert one.send(left, b"hello") == 5
        data, msg = one.receive(right)
        assert data == b"hello"
        assert isinstance(msg.name, NetlinkAddr)
        assert msg.name.portid == left.portid
        one.call(left.connect, SockAddr(0, b"", 0), 0, NEVER)
        assert where(one.call(left.getpeername)) == (0, 0)

    def test_to_a_group(self, one: Host):
        left, right = open_socket(one), open_socket(one)
        one.call(right.bind, NetlinkAddr(9, 1 << 20))
        one.send(left, wire.build(3, 0, 0, 0, b""), NetlinkAddr(0, 1 << 20))
        _, msg = one.receive(right)
        assert isinstance(msg.name, NetlinkAddr)
        assert (msg.name.portid, msg.name.groups) == (left.portid, 1 << 20)

    def test_calls_that_there_are_none_of(self, one: Host):
        sk = open_socket(one)
        assert code(one.call, sk.listen, 5) == errno.EOPNOTSUPP
        assert code(one.call, sk.shutdown, 2) == errno.EOPNOTSUPP
        assert code(one.call, sk.ioctl, 0x541B) == errno.ENOTTY
        assert code(one.send, sk, b"") == errno.ENODATA
        assert code(one.send, sk, b"a", None, MSG_OOB) == errno.EOPNOTSUPP
        assert code(one.send, sk, bytes(sk.sndbuf - 31)) == errno.EMSGSIZE
        assert code(one.send, sk, b"a", SockAddr(2, bytes(4), 1)) == errno.EINVAL
        assert code(one.receive, sk, 100, MSG_OOB | MSG_DONTWAIT) == errno.EOPNOTSUPP
        assert code(one.receive, sk) == errno.EAGAIN


class TestOptions:
    @pytest.mark.parametrize("option", [nl.NETLINK_PKTINFO, nl.NETLINK_BROADCAST_ERROR, nl.NETLINK_NO_ENOBUFS,
                                        nl.NETLINK_CAP_ACK, nl.NETLINK_EXT_ACK, nl.NETLINK_GET_STRICT_CHK])  # fmt: skip
    def test_a_flag(self, one: Host, option: int):
        sk = open_socket(one)
        for value in (1, 0):
            one.call(sk.setsockopt, nl.SOL_NETLINK, option, struct.pack("=i", value))
            assert one.call(sk.getsockopt, nl.SOL_NETLINK, option, 4) == struct.pack("=i", value)
        assert code(one.call, sk.getsockopt, nl.SOL_NETLINK, option, 3) == errno.EINVAL

    def test_membership(self, one: Host):
        sk = open_socket(one)
        for group in (RTNLGRP_LINK, 36):
            one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, struct.pack("=i", group))
        assert one.call(sk.getsockopt, nl.SOL_NETLINK, nl.NETLINK_LIST_MEMBERSHIPS, 64) == b"\1\0\0\0\x08\0\0\0"
        one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_DROP_MEMBERSHIP, struct.pack("=i", 36))
        assert sk.groups == {RTNLGRP_LINK}
        for wrong in (0, 40):
            value = struct.pack("=i", wrong)
            assert code(one.call, sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, value) == errno.EINVAL

    def test_the_others(self, one: Host):
        sk = open_socket(one)
        assert code(one.call, sk.setsockopt, nl.SOL_NETLINK, 6, ON) == errno.ENOPROTOOPT
        assert code(one.call, sk.getsockopt, nl.SOL_NETLINK, 6, 4) == errno.ENOPROTOOPT
        assert code(one.call, sk.setsockopt, 6, 1, ON) == errno.ENOPROTOOPT
        one.call(sk.setsockopt, so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 8192))
        assert one.call(sk.getsockopt, so.SOL_SOCKET, so.SO_RCVBUF, 4) == struct.pack("=i", 16384)

    def test_ancillary_data(self, one: Host):
        sk = open_socket(one)
        one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_PKTINFO, ON)
        one.call(sk.setsockopt, so.SOL_SOCKET, so.SO_PASSCRED, ON)
        one.send(sk, wire.build(RTM_GETLINK, DUMP, 1, 0, ANYTHING))
        _, msg = one.receive(sk)
        assert msg.control == [(nl.SOL_NETLINK, nl.NETLINK_PKTINFO, bytes(4)), (1, 2, bytes(12))]


class TestRequests:
    def test_several_in_one_datagram(self, one: Host):
        sk = open_socket(one)
        requests = wire.build(RTM_GETLINK, ACK, 1, 0, LINK.pack(0, 0, 1, 0, 0)) * 2
        one.send(sk, requests + bytes(20))
        kinds = [kind for kind, _, _ in read(one, sk)]
        assert kinds == [16, wire.NLMSG_ERROR] * 2

    def test_what_is_no_request_is_only_acknowledged(self, one: Host):
        sk = open_socket(one)
        assert ask(one, sk, RTM_GETLINK, 0, ANYTHING) == []
        assert ended(ask(one, sk, RTM_GETLINK, wire.NLM_F_ACK, ANYTHING)) == (0, "")
        assert ended(ask(one, sk, wire.NLMSG_NOOP, ACK, b"")) == (0, "")

    @pytest.mark.parametrize("data", [b"\x10\0\0\0" * 3, wire.build(18, 1, 0, 0, b"abcd")[:-1], b"\x40" + bytes(30)])
    def test_a_header_that_lies_ends_the_datagram(self, one: Host, data: bytes):
        sk = open_socket(one)
        one.send(sk, data)
        assert read(one, sk) == []

    def test_an_error_brings_the_request_back(self, one: Host):
        sk = open_socket(one)
        ((kind, flags, payload),) = ask(one, sk, 74, REQUEST, b"\0abc")
        assert (kind, flags) == (wire.NLMSG_ERROR, 0)
        assert struct.unpack_from("=iIHHII", payload) == (-errno.EOPNOTSUPP, 20, 74, REQUEST, 7, 0)
        assert payload[20:] == b"\0abc"
        one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_CAP_ACK, ON)
        ((_, flags, payload),) = ask(one, sk, 74, REQUEST, b"\0abc")
        assert flags == wire.NLM_F_CAPPED
        assert len(payload) == 20

    def test_without_extended_acknowledgements_there_is_no_text(self, one: Host):
        sk = open_socket(one)
        bad = LINK.pack(0, 1, 0, 0, 0)
        assert ended(ask(one, sk, RTM_GETLINK, DUMP, bad)) == (
            errno.EINVAL, "Invalid values in header for link dump request"
        )  # fmt: skip
        one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_EXT_ACK, bytes(4))
        assert ended(ask(one, sk, RTM_GETLINK, DUMP, bad)) == (errno.EINVAL, "")

    def test_one_who_may_not(self, one: Host):
        sk = open_socket(one)
        sk.admin = False
        assert ended(ask(one, sk, RTM_NEWADDR, ACK, bytes(8)))[0] == errno.EPERM
        assert dump(one, sk, RTM_GETLINK, ANYTHING)


class TestDumps:
    def test_in_pieces_as_they_are_read(self, one: Host):
        for number in range(20):
            one.add(veth()[0], f"v{number}", f"10.1.{number}.1")
        sk = open_socket(one)
        one.send(sk, wire.build(RTM_GETLINK, DUMP, 1, 0, ANYTHING))
        first, msg = one.receive(sk, 0, MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC)
        assert first == b""
        assert msg.flags & MSG_TRUNC
        assert sk.receive_queue.qlen == 2, "a reader who looks has the next piece made"
        sizes: list[int] = []
        kinds: list[int] = []
        while not kinds or kinds[-1] != wire.NLMSG_DONE:
            data = one.recv(sk, 8192)
            sizes.append(len(data))
            kinds += [kind for kind, _, _ in take_apart(data)]
        assert kinds == [16] * 22 + [wire.NLMSG_DONE]
        assert max(sizes[:2]) <= nl.DUMP_SIZE
        assert nl.DUMP_SIZE < max(sizes) <= 8192, "the pieces follow the reader's buffer"

    def test_one_at_a_time(self, one: Host):
        sk = open_socket(one)
        one.send(sk, wire.build(RTM_GETLINK, DUMP, 1, 0, ANYTHING))
        assert sk.running is not None
        one.send(sk, wire.build(RTM_GETLINK, DUMP, 2, 0, ANYTHING))
        assert ended([message for message in read(one, sk) if message[0] == wire.NLMSG_ERROR])[0] == errno.EBUSY
        assert sk.running is None

    def test_a_closed_asker(self, one: Host):
        sk = open_socket(one)
        one.send(sk, wire.build(RTM_GETLINK, DUMP, 1, 0, ANYTHING))
        one.close(sk)
        assert not sk.table.sockets
        assert sk.rmem_alloc == 0


class TestLosses:
    def flood(self, one: Host, sk: nl.NetlinkSock) -> None:
        one.call(sk.setsockopt, so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 2048))
        for _ in range(8):
            one.call(sk.table.broadcast, RTNLGRP_LINK, wire.build(16, 0, 0, 0, bytes(1000)))

    def test_are_told_once(self, one: Host):
        sk = open_socket(one)
        one.call(sk.bind, NetlinkAddr(0, 1 << RTNLGRP_LINK - 1))
        self.flood(one, sk)
        assert sk.drops > 0
        assert one.call(sk.poll) & (EPOLLERR | EPOLLIN) == EPOLLERR | EPOLLIN
        assert code(one.receive, sk) == errno.ENOBUFS
        count = len(read(one, sk))
        assert count + sk.drops == 8
        assert not sk.congested
        one.call(sk.table.broadcast, RTNLGRP_LINK, wire.build(16, 0, 0, 0, b""))
        assert len(read(one, sk)) == 1

    def test_are_not_told_who_does_not_mind(self, one: Host):
        sk = open_socket(one)
        one.call(sk.setsockopt, nl.SOL_NETLINK, nl.NETLINK_NO_ENOBUFS, ON)
        one.call(sk.bind, NetlinkAddr(0, 1 << RTNLGRP_LINK - 1))
        self.flood(one, sk)
        assert sk.drops > 0
        assert len(read(one, sk)) + sk.drops == 8

    def test_a_program_that_sends_waits_for_room(self, one: Host):
        left, right = open_socket(one), open_socket(one)
        one.call(right.bind, NetlinkAddr(9))
        one.call(right.setsockopt, so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 1024))
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                one.send(left, bytes(1000), NetlinkAddr(9))
                sent += 1
        with one.inside():
            call = left.sendmsg(MsgHdr(SourceIter((bytes(1000),)), NetlinkAddr(9)), 0, NEVER)
        assert not isinstance(call, int)
        blocked = Blocked(one, call)
        assert not blocked.done
        for _ in range(sent):
            one.recv(right)
        blocked.step()
        assert blocked.result == 1000
        assert one.recv(right) == bytes(1000)
        assert one.call(left.poll) & EPOLLOUT


def test_notifications_reach_only_those_who_asked(one: Host):
    listener, other = open_socket(one), open_socket(one)
    one.call(listener.bind, NetlinkAddr(0, 1 << RTNLGRP_IPV4_IFADDR - 1))
    payload = struct.pack("=BBBBi", 2, 24, 0, 0, 2) + wire.attribute(2, bytes((10, 0, 0, 5)))
    assert ended(ask(one, other, RTM_NEWADDR, ACK | wire.NLM_F_CREATE, payload)) == (0, "")
    data, msg = one.receive(listener)
    assert isinstance(msg.name, NetlinkAddr)
    assert msg.name.groups == 1 << RTNLGRP_IPV4_IFADDR - 1
    assert wire.parse(data, 0)[1:] == (RTM_NEWADDR, 0, 7, other.portid)
    # Who asks for the echo gets it as an answer, before the acknowledgement.
    payload = payload[:-1] + b"\6"
    kinds = [kind for kind, _, _ in ask(one, other, RTM_NEWADDR, ACK | wire.NLM_F_ECHO, payload)]
    assert kinds == [RTM_NEWADDR, wire.NLMSG_ERROR]
