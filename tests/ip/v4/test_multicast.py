"""Memberships and source filters of sockets: RFC 3678, ip(7)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.ip.v4.host import FAR, PEER, US, Host, addr
from usernet.ip.v4 import multicast as mc
from usernet.ip.v4.igmp import Igmp
from usernet.ip.v4.multicast import Multicast
from usernet.sock.inet import InetSock

GROUP = addr("239.1.2.3")
OTHER = addr("232.9.9.9")
SOURCES = [bytes((192, 0, 2, number)) for number in range(1, 20)]
EXCLUDE, INCLUDE = 0, 1


class User:
    """A socket on the host, and what it does with groups."""

    def __init__(self, host: Host, sock_type: int = 2) -> None:
        self.host = host
        self.multicast = host.net.get(Multicast)
        self.igmp = host.net.get(Igmp)
        self.sk = InetSock(host.net, host.af, sock_type, 17)

    def set(self, option: int, value: bytes) -> None:
        self.multicast.setsockopt(self.sk, option, value)

    def refused(self, code: int, option: int, value: bytes) -> None:
        with pytest.raises(OSError) as caught:
            self.set(option, value)
        assert caught.value.errno == code

    def takes(self, source: bytes = PEER, group: bytes = GROUP) -> bool:
        return self.multicast.allowed(self.sk, group, source, self.host.eth0.index)

    def in_group(self, source: bytes = PEER, group: bytes = GROUP) -> bool:
        return self.igmp.check(self.host.eth0, group, source, 17)

    def close(self) -> None:
        self.multicast.drop_socket(self.sk)
        self.sk.destroy()


@pytest.fixture
def user(host: Host) -> Iterator[User]:
    one = User(host)
    yield one
    one.close()
    assert not one.in_group()
    assert not one.in_group(group=OTHER)


def mreq(group: bytes = GROUP, interface: bytes = bytes(4)) -> bytes:
    return group + interface


def mreqn(group: bytes, interface: bytes, index: int) -> bytes:
    return group + interface + struct.pack("=i", index)


def mreq_source(source: bytes, group: bytes = GROUP, interface: bytes = bytes(4)) -> bytes:
    return group + interface + source


def sockaddr(address: bytes, family: int = socket.AF_INET) -> bytes:
    return struct.pack("=HH4s", family, 0, address).ljust(128, b"\0")


def group_req(index: int, group: bytes = GROUP) -> bytes:
    return struct.pack("=I4x", index) + sockaddr(group)


def group_source_req(index: int, source: bytes, group: bytes = GROUP) -> bytes:
    return group_req(index, group) + sockaddr(source)


def msfilter(mode: int, sources: list[bytes], group: bytes = GROUP) -> bytes:
    return group + bytes(4) + struct.pack("=II", mode, len(sources)) + b"".join(sources)


def group_filter(index: int, mode: int, sources: list[bytes]) -> bytes:
    return group_req(index) + struct.pack("=II", mode, len(sources)) + b"".join(map(sockaddr, sources))


def test_the_numbers_are_those_of_the_platform() -> None:
    assert mc.IP_ADD_MEMBERSHIP == socket.IP_ADD_MEMBERSHIP
    assert mc.IP_DROP_MEMBERSHIP == socket.IP_DROP_MEMBERSHIP


def test_join_and_leave(user: User) -> None:
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    assert user.in_group()
    assert user.sk.memberships[0].ifindex == user.host.eth0.index
    user.set(mc.IP_DROP_MEMBERSHIP, mreq())
    assert not user.in_group()
    assert user.sk.memberships == ()
    user.refused(errno.EADDRNOTAVAIL, mc.IP_DROP_MEMBERSHIP, mreq())


def test_the_device_by_address_by_index_and_by_route(user: User) -> None:
    eth1 = user.host.add_device("eth1")
    user.host.addresses.add(eth1, addr("10.1.0.1"), 24)
    user.set(mc.IP_ADD_MEMBERSHIP, mreq(GROUP, addr("10.1.0.1")))
    assert user.igmp.check(eth1, GROUP, PEER, 17)
    assert not user.in_group()
    user.set(mc.IP_ADD_MEMBERSHIP, mreqn(GROUP, bytes(4), user.host.eth0.index))
    assert user.in_group()
    user.set(mc.IP_ADD_MEMBERSHIP, mreqn(OTHER, US, eth1.index))
    assert user.igmp.check(eth1, OTHER, PEER, 17)
    user.set(mc.MCAST_JOIN_GROUP, group_req(0, OTHER))
    assert user.in_group(group=OTHER)
    user.set(mc.IP_DROP_MEMBERSHIP, mreq(GROUP, addr("10.1.0.1")))
    assert not user.igmp.check(eth1, GROUP, PEER, 17)
    assert user.in_group()
    user.set(mc.MCAST_LEAVE_GROUP, group_req(eth1.index, OTHER))
    assert user.in_group(group=OTHER)


def test_what_can_not_be_joined(user: User) -> None:
    user.refused(errno.EINVAL, mc.IP_ADD_MEMBERSHIP, mreq(FAR))
    user.refused(errno.EINVAL, mc.IP_ADD_MEMBERSHIP, GROUP)
    user.refused(errno.EINVAL, mc.MCAST_JOIN_GROUP, group_req(0)[:100])
    user.refused(errno.EINVAL, mc.MCAST_JOIN_GROUP, struct.pack("=I4x", 0) + sockaddr(GROUP, socket.AF_INET6))
    user.refused(errno.ENODEV, mc.IP_ADD_MEMBERSHIP, mreq(GROUP, FAR))
    user.refused(errno.ENODEV, mc.IP_ADD_MEMBERSHIP, mreqn(GROUP, bytes(4), 99))
    user.host.routes.remove(bytes(4), 0)
    user.refused(errno.ENODEV, mc.IP_ADD_MEMBERSHIP, mreq())
    user.refused(errno.ENODEV, mc.IP_DROP_MEMBERSHIP, mreq())
    user.refused(errno.ENOPROTOOPT, 99, b"")
    assert user.sk.memberships == ()


def test_not_twice(user: User) -> None:
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.refused(errno.EADDRINUSE, mc.IP_ADD_MEMBERSHIP, mreq())


def test_memberships_are_bounded(user: User) -> None:
    user.host.sysctl("igmp_max_memberships", 3)
    for number in range(3):
        user.set(mc.IP_ADD_MEMBERSHIP, mreq(bytes((239, 0, 1, number))))
    user.refused(errno.ENOBUFS, mc.IP_ADD_MEMBERSHIP, mreq())
    assert len(user.sk.memberships) == 3


def test_a_stream_socket_joins_nothing(host: Host) -> None:
    user = User(host, sock_type=1)
    user.refused(errno.EPROTO, mc.IP_ADD_MEMBERSHIP, mreq())
    user.close()


def test_two_sockets_in_one_group(host: Host) -> None:
    first, second = User(host), User(host)
    first.set(mc.IP_ADD_MEMBERSHIP, mreq())
    second.set(mc.IP_ADD_MEMBERSHIP, mreq())
    first.close()
    assert second.in_group()
    second.close()
    assert not second.in_group()


def test_what_a_socket_takes_without_a_membership(user: User) -> None:
    assert user.takes()
    assert user.takes(group=US)
    user.sk.mc_all = False
    assert not user.takes()
    assert user.takes(group=US)
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    assert user.takes()
    assert not user.multicast.allowed(user.sk, GROUP, PEER, user.host.devices["lo"].index)


def test_sources_included(user: User) -> None:
    user.set(mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[0]))
    user.set(mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[1]))
    assert [user.takes(source) for source in SOURCES[:3]] == [True, True, False]
    assert [user.in_group(source) for source in SOURCES[:3]] == [True, True, False]
    user.refused(errno.EADDRNOTAVAIL, mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[0]))
    user.refused(errno.EADDRNOTAVAIL, mc.IP_DROP_SOURCE_MEMBERSHIP, mreq_source(SOURCES[5]))
    user.refused(errno.EINVAL, mc.IP_BLOCK_SOURCE, mreq_source(SOURCES[0]))
    user.set(mc.IP_DROP_SOURCE_MEMBERSHIP, mreq_source(SOURCES[0]))
    assert not user.takes(SOURCES[0])
    # The last source goes, and the membership with it.
    user.set(mc.IP_DROP_SOURCE_MEMBERSHIP, mreq_source(SOURCES[1]))
    assert user.sk.memberships == ()


def test_sources_excluded(user: User) -> None:
    user.refused(errno.EINVAL, mc.IP_BLOCK_SOURCE, mreq_source(SOURCES[0]))
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.set(mc.IP_BLOCK_SOURCE, mreq_source(SOURCES[0]))
    assert not user.takes(SOURCES[0])
    assert user.takes(SOURCES[1])
    assert not user.in_group(SOURCES[0])
    user.refused(errno.EADDRNOTAVAIL, mc.IP_BLOCK_SOURCE, mreq_source(SOURCES[0]))
    user.refused(errno.EINVAL, mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[1]))
    user.set(mc.IP_UNBLOCK_SOURCE, mreq_source(SOURCES[0]))
    assert user.takes(SOURCES[0])
    user.refused(errno.EADDRNOTAVAIL, mc.IP_UNBLOCK_SOURCE, mreq_source(SOURCES[0]))


def test_an_empty_filter_may_change_its_mode(user: User) -> None:
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.set(mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[0]))
    assert [user.takes(source) for source in SOURCES[:2]] == [True, False]
    assert [user.in_group(source) for source in SOURCES[:2]] == [True, False]


def test_the_protocol_independent_options(user: User) -> None:
    index = user.host.eth0.index
    user.set(mc.MCAST_JOIN_SOURCE_GROUP, group_source_req(index, SOURCES[0]))
    assert user.takes(SOURCES[0])
    user.set(mc.MCAST_LEAVE_SOURCE_GROUP, group_source_req(index, SOURCES[0]))
    assert user.sk.memberships == ()
    user.set(mc.MCAST_JOIN_GROUP, group_req(index))
    user.set(mc.MCAST_BLOCK_SOURCE, group_source_req(index, SOURCES[0]))
    assert not user.takes(SOURCES[0])
    user.set(mc.MCAST_UNBLOCK_SOURCE, group_source_req(index, SOURCES[0]))
    assert user.takes(SOURCES[0])
    bad = group_req(index) + sockaddr(SOURCES[0], socket.AF_INET6)
    user.refused(errno.EADDRNOTAVAIL, mc.MCAST_BLOCK_SOURCE, bad)
    user.refused(errno.EINVAL, mc.MCAST_BLOCK_SOURCE, bad[:200])
    user.refused(errno.EINVAL, mc.IP_BLOCK_SOURCE, mreq_source(SOURCES[0]) + b"\0")


def test_sources_are_bounded(user: User) -> None:
    for source in SOURCES[:10]:
        user.set(mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(source))
    user.refused(errno.ENOBUFS, mc.IP_ADD_SOURCE_MEMBERSHIP, mreq_source(SOURCES[10]))
    user.refused(errno.ENOBUFS, mc.IP_MSFILTER, msfilter(INCLUDE, SOURCES[:11]))
    user.refused(errno.ENOBUFS, mc.MCAST_MSFILTER, group_filter(0, INCLUDE, SOURCES[:11]))


def test_a_whole_filter_at_once(user: User) -> None:
    user.refused(errno.EINVAL, mc.IP_MSFILTER, msfilter(INCLUDE, SOURCES[:2]))
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.set(mc.IP_MSFILTER, msfilter(INCLUDE, SOURCES[:2]))
    assert [user.takes(source) for source in SOURCES[:3]] == [True, True, False]
    user.set(mc.MCAST_MSFILTER, group_filter(user.host.eth0.index, EXCLUDE, SOURCES[1:2]))
    assert [user.takes(source) for source in SOURCES[:3]] == [True, False, True]
    assert [user.in_group(source) for source in SOURCES[:3]] == [True, False, True]
    user.refused(errno.EINVAL, mc.IP_MSFILTER, msfilter(2, []))
    user.refused(errno.EINVAL, mc.IP_MSFILTER, msfilter(EXCLUDE, SOURCES[:2])[:-1])
    user.refused(errno.EINVAL, mc.IP_MSFILTER, GROUP)
    user.set(mc.IP_MSFILTER, msfilter(EXCLUDE, []))
    assert user.takes(SOURCES[1])
    user.set(mc.IP_MSFILTER, msfilter(INCLUDE, []))
    assert user.sk.memberships == ()


def test_a_filter_can_be_read(user: User) -> None:
    ask = msfilter(0, [])[:12] + struct.pack("=I", 1)
    with pytest.raises(OSError) as caught:
        user.multicast.getsockopt(user.sk, mc.IP_MSFILTER, ask)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.set(mc.IP_MSFILTER, msfilter(INCLUDE, SOURCES[:2]))
    # The count of all, and as many as there is room for.
    answer = user.multicast.getsockopt(user.sk, mc.IP_MSFILTER, ask)
    assert answer == msfilter(INCLUDE, SOURCES[:2])[:20]
    index = user.host.eth0.index
    ask = group_filter(index, 0, [])[:-4] + struct.pack("=I", 5)
    answer = user.multicast.getsockopt(user.sk, mc.MCAST_MSFILTER, ask)
    assert answer == group_filter(index, INCLUDE, SOURCES[:2])
    with pytest.raises(OSError, match="Protocol not available"):
        user.multicast.getsockopt(user.sk, mc.IP_ADD_MEMBERSHIP, b"")


def test_the_device_may_go_first(user: User) -> None:
    user.set(mc.IP_ADD_MEMBERSHIP, mreq())
    user.host.devices.remove(user.host.eth0)
    user.multicast.drop_socket(user.sk)
    assert user.sk.memberships == ()
