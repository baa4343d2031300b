"""NETLINK_ROUTE: devices, addresses, routes, neighbours and rules, asked about and changed."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.sockets.netlink import asker
from tests.sockets.netlink.asker import ACK, CREATE, DUMP, REQUEST, ask, change, dump, ended, host, open_socket, read
from tests.transport.hosts import Host, run
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.fib4 import Fib4
from usernet.link.arp import Arp
from usernet.link.neighbour import NUD_PERMANENT, NUD_STALE
from usernet.netdevice.device import IFF_PROMISC, IFF_UP
from usernet.sock.msg import NetlinkAddr
from usernet.sockets.netlink import rtm_addr, rtm_link, rtm_neigh, rtm_route
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.af_netlink import NetlinkSock
from usernet.wire import netlink as wire

LINK = struct.Struct("=BxHiII")
ADDR = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=BBBBBBBBI")
NEIGH = struct.Struct("=BxHiHBB")
SECOND = 1_000_000_000


def ip(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def later(one: Host, when: int) -> None:
    """Let time pass, up to `when` (ns)."""
    run(one, until=when)
    one.clock.set(when)
    run(one)


@pytest.fixture
def one() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.fixture
def sk(one: Host) -> NetlinkSock:
    return open_socket(one)


@pytest.fixture
def listener(one: Host) -> NetlinkSock:
    sk = open_socket(one)
    one.call(sk.bind, NetlinkAddr(0, 0b1010101))
    return sk


class TestLinks:
    def test_what_is_told_comes_in_linuxs_order(self, one: Host, sk: NetlinkSock):
        lo, eth0 = dump(one, sk, rt.RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + wire.u32(rtm_link.IFLA_EXT_MASK, 1))
        assert LINK.unpack_from(lo[2]) == (0, 772, 1, 0x10049, 0)
        kinds = list(wire.attributes(lo[2], LINK.size))
        # As of `ip link` on Linux 6.18, but for IFLA_PROP_LIST, DEVLINK_PORT and DPLL_PIN, which are empty there.
        assert kinds == [
            3, 13, 16, 17, 67, 4, 50, 51, 27, 30, 61, 31, 40, 41, 58, 63, 64, 59, 60, 66, 32, 33, 35, 47, 48, 68, 69,
            39, 1, 2, 23, 7, 43, 6, 26, 14,
        ]  # fmt: skip
        found = wire.attributes(eth0[2], LINK.size)
        assert wire.text(found[rtm_link.IFLA_IFNAME]) == "eth0"
        assert found[rtm_link.IFLA_ADDRESS] == one.devices["eth0"].mac
        assert len(found[rtm_link.IFLA_STATS64]) == 200
        conf = wire.attributes(wire.attributes(found[rtm_link.IFLA_AF_SPEC], 0)[2], 0)[1]
        assert len(conf) == 132

    def test_counters(self, one: Host, sk: NetlinkSock):
        one.devices["eth0"].statistics.rx_bytes = 1 << 33
        (found,) = ask(one, sk, rt.RTM_GETLINK, REQUEST, LINK.pack(0, 0, 2, 0, 0))
        attributes = wire.attributes(found[2], LINK.size)
        assert struct.unpack_from("=25Q", attributes[rtm_link.IFLA_STATS64])[2] == 1 << 33
        assert struct.unpack_from("=24I", attributes[rtm_link.IFLA_STATS])[2] == 0
        without = wire.u32(rtm_link.IFLA_EXT_MASK, rtm_link.RTEXT_FILTER_SKIP_STATS)
        (found,) = ask(one, sk, rt.RTM_GETLINK, REQUEST, LINK.pack(0, 0, 2, 0, 0) + without)
        assert rtm_link.IFLA_STATS64 not in wire.attributes(found[2], LINK.size)

    def test_one(self, one: Host, sk: NetlinkSock):
        (found,) = ask(one, sk, rt.RTM_GETLINK, REQUEST, LINK.pack(0, 0, 0, 0, 0) + wire.string(3, "eth0"))
        assert found[:2] == (rt.RTM_NEWLINK, 0)
        assert LINK.unpack_from(found[2])[2] == 2
        for payload, code in (
            (LINK.pack(0, 0, 0, 0, 0), errno.EINVAL), (LINK.pack(0, 0, 9, 0, 0), errno.ENODEV),
            (LINK.pack(0, 0, 0, 0, 0) + wire.string(3, "x"), errno.ENODEV), (LINK.pack(0, 0, 2, 1, 0), errno.EINVAL),
            (LINK.pack(0, 0, 2, 0, 0) + wire.u32(4, 1), errno.EINVAL), (b"\0" * 4, errno.EINVAL),
        ):  # fmt: skip
            assert ended(ask(one, sk, rt.RTM_GETLINK, REQUEST, payload))[0] == code

    def test_of_a_kind(self, one: Host, sk: NetlinkSock):
        for kind, count in (("veth", 1), ("bridge", 0)):
            wanted = wire.nest(rtm_link.IFLA_LINKINFO, wire.string(1, kind))
            assert len(dump(one, sk, rt.RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + wanted)) == count
        assert dump(one, sk, rt.RTM_GETLINK, LINK.pack(7, 0, 0, 0, 0)) == []

    def test_changes(self, one: Host, sk: NetlinkSock, listener: NetlinkSock):
        dev = one.devices["eth0"]
        payload = LINK.pack(0, 0, 2, IFF_PROMISC, IFF_PROMISC | IFF_UP) + b"".join(
            (wire.u32(4, 1400), wire.string(3, "wan0"), wire.attribute(1, b"\2\0\0\0\0\7"), wire.u32(13, 50))
        )
        assert change(one, sk, rt.RTM_NEWLINK, ACK, payload) == (0, "")
        assert (dev.name, dev.mtu, dev.mac, dev.up, dev.tx_queue_len) == ("wan0", 1400, b"\2\0\0\0\0\7", False, 50)
        assert dev.promiscuity == 1
        told = read(one, listener)
        assert {kind for kind, _, _ in told if kind < rt.RTM_NEWADDR} == {rt.RTM_NEWLINK}
        assert wire.text(wire.attributes(told[-1][2], LINK.size)[3]) == "wan0"
        assert change(one, sk, rt.RTM_SETLINK, ACK, LINK.pack(0, 0, 2, IFF_UP, IFF_UP)) == (0, "")
        assert dev.up
        assert change(one, sk, rt.RTM_DELLINK, ACK, LINK.pack(0, 0, 2, 0, 0)) == (0, "")
        assert "wan0" not in one.devices
        assert read(one, listener)[-1][0] == rt.RTM_DELLINK

    @pytest.mark.parametrize(
        ("kind", "flags", "payload", "code", "text"),
        [
            (16, ACK, LINK.pack(0, 0, 0, 0, 0), errno.ENODEV, ""),
            (16, CREATE, LINK.pack(0, 0, 0, 0, 0) + wire.string(3, "d0"), errno.EOPNOTSUPP, "Unknown device type"),
            (16, CREATE, LINK.pack(0, 0, 2, 0, 0), errno.EEXIST, ""),
            (16, ACK, LINK.pack(0, 0, -1, 0, 0), errno.EINVAL, "ifindex can't be negative"),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.u32(4, 10), errno.EINVAL, "mtu less than device minimum"),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.u32(4, 1 << 20), errno.EINVAL, "mtu greater than device maximum"),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.u16(4, 9), errno.ERANGE, "Attribute failed policy validation"),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.attribute(1, b"\1" * 6), errno.EADDRNOTAVAIL, ""),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.string(3, "lo"), errno.EEXIST, ""),
            (16, ACK, LINK.pack(0, 0, 2, 0, 0) + wire.u32(10, 1), errno.EOPNOTSUPP, ""),
            (19, ACK, LINK.pack(0, 0, 0, 0, 0), errno.EINVAL, ""),
            (17, ACK, LINK.pack(0, 0, 1, 0, 0), errno.EOPNOTSUPP, ""),
            (17, ACK | wire.NLM_F_BULK, bytes(16), errno.EOPNOTSUPP, "Bulk delete is not supported"),
        ],
    )  # fmt: skip
    def test_what_is_refused(
        self, one: Host, sk: NetlinkSock, kind: int, flags: int, payload: bytes, code: int, text: str
    ):  # fmt: skip
        assert change(one, sk, kind, flags, payload) == (code, text)


class TestAddresses:
    def add(self, local: str, length: int = 24, *more: bytes, flags: int = 0, index: int = 2) -> bytes:
        return ADDR.pack(2, length, flags, 0, index) + wire.attribute(2, ip(local)) + b"".join(more)

    def test_what_is_told(self, one: Host, sk: NetlinkSock):
        lo, eth0 = dump(one, sk, rt.RTM_GETADDR, ADDR.pack(0, 0, 0, 0, 0))
        assert lo[1] == wire.NLM_F_MULTI
        assert ADDR.unpack_from(lo[2]) == (2, 8, 0x80, 254, 1)
        assert ADDR.unpack_from(eth0[2]) == (2, 24, 0x80, 0, 2)
        found = wire.attributes(eth0[2], ADDR.size)
        assert list(found) == [1, 2, 4, 3, 8, 6]
        assert (found[1], found[2], found[4]) == (ip("10.0.0.1"), ip("10.0.0.1"), ip("10.0.0.255"))
        assert found[6][:8] == b"\xff" * 8

    def test_of_one_device(self, one: Host, sk: NetlinkSock):
        (found,) = dump(one, sk, rt.RTM_GETADDR, ADDR.pack(2, 0, 0, 0, 1))
        assert found[1] == wire.NLM_F_MULTI | wire.NLM_F_DUMP_FILTERED
        assert ended(ask(one, sk, rt.RTM_GETADDR, DUMP, ADDR.pack(2, 0, 0, 0, 9)))[0] == errno.ENODEV
        bad = ask(one, sk, rt.RTM_GETADDR, DUMP, ADDR.pack(2, 1, 0, 0, 0))
        assert ended(bad) == (errno.EINVAL, "ipv4: Invalid values in header for address dump request")
        loose = open_socket(one, strict=False)
        assert len(dump(one, loose, rt.RTM_GETADDR, ADDR.pack(2, 1, 0, 0, 1))) == 2

    def test_adding_and_taking_away(self, one: Host, sk: NetlinkSock, listener: NetlinkSock):
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, self.add("10.0.0.9", 24)) == (0, "")
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, self.add("10.0.0.9")) == (
            errno.EEXIST, "ipv4: Address already assigned"
        )  # fmt: skip
        (told, *routes) = [m for m in read(one, listener) if m[0] in (rt.RTM_NEWADDR, rt.RTM_NEWROUTE)][::-1]
        assert told[0] == rt.RTM_NEWADDR
        assert ADDR.unpack_from(told[2])[2] == rtm_addr.IFA_F_SECONDARY | rtm_addr.IFA_F_PERMANENT
        assert [kind for kind, _, _ in routes] == [rt.RTM_NEWROUTE]
        assert change(one, sk, rt.RTM_DELADDR, ACK, self.add("10.0.0.9")) == (0, "")
        assert [kind for kind, _, _ in read(one, listener)] == [rt.RTM_DELROUTE, rt.RTM_DELADDR]
        assert change(one, sk, rt.RTM_DELADDR, ACK, self.add("10.0.0.9")) == (
            errno.EADDRNOTAVAIL, "ipv4: Address not found"
        )  # fmt: skip

    def test_a_peer(self, one: Host, sk: NetlinkSock):
        payload = self.add("10.7.0.1", 32, wire.attribute(1, ip("10.7.0.2")), wire.string(3, "eth0:p"))
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, payload) == (0, "")
        route = one.net.get(Fib4).lookup(ip("10.7.0.2"))
        assert route is not None
        assert (route.dev, route.length, route.prefsrc) == (one.devices["eth0"], 32, ip("10.7.0.1"))
        ifa = one.net.get(Devinet).find(ip("10.7.0.1"))
        assert ifa is not None
        assert (ifa.peer, ifa.label, ifa.broadcast) == (ip("10.7.0.2"), "eth0:p", bytes(4))
        payload = self.add("10.7.0.1", 32, wire.attribute(1, ip("10.7.0.2")))
        assert change(one, sk, rt.RTM_DELADDR, ACK, payload) == (0, "")
        assert one.net.get(Fib4).lookup(ip("10.7.0.2")) is None

    def test_without_the_route_to_its_network(self, one: Host, sk: NetlinkSock):
        payload = self.add("10.8.0.1", 24, wire.u32(8, rtm_addr.IFA_F_NOPREFIXROUTE))
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, payload) == (0, "")
        assert one.net.get(Fib4).lookup(ip("10.8.0.7")) is None
        found = dump(one, sk, rt.RTM_GETADDR, ADDR.pack(2, 0, 0, 0, 2))[-1]
        assert wire.number(wire.attributes(found[2], ADDR.size)[8]) == 0x280

    def test_for_a_time(self, one: Host, sk: NetlinkSock, listener: NetlinkSock):
        info = struct.pack("=4I", 5, 20, 0, 0)
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, self.add("10.9.0.1", 24, wire.attribute(6, info))) == (0, "")
        later(one, 8 * SECOND)
        found = dump(one, sk, rt.RTM_GETADDR, ADDR.pack(2, 0, 0, 0, 2))[-1]
        attributes = wire.attributes(found[2], ADDR.size)
        assert wire.number(attributes[8]) == rtm_addr.IFA_F_DEPRECATED
        preferred, valid = struct.unpack_from("=2I", attributes[6])
        assert preferred == 0
        assert 12 <= valid <= 20
        longer = wire.attribute(6, struct.pack("=4I", 30, 60, 0, 0))
        replace = ACK | wire.NLM_F_REPLACE
        assert change(one, sk, rt.RTM_NEWADDR, replace, self.add("10.9.0.1", 24, longer)) == (0, "")
        later(one, 40 * SECOND)
        assert one.net.get(Devinet).find(ip("10.9.0.1")) is not None
        read(one, listener)
        later(one, 90 * SECOND)
        assert one.net.get(Devinet).find(ip("10.9.0.1")) is None
        assert rt.RTM_DELADDR in [kind for kind, _, _ in read(one, listener)]

    @pytest.mark.parametrize(
        ("payload", "code", "text"),
        [
            (ADDR.pack(2, 8, 0, 0, 2), errno.EINVAL, "ipv4: Local address is not supplied"),
            (ADDR.pack(2, 33, 0, 0, 2) + wire.attribute(2, bytes(4)), errno.EINVAL, "ipv4: Invalid prefix length"),
            (ADDR.pack(2, 8, 0, 0, 9) + wire.attribute(2, ip("10.0.0.1")), errno.ENODEV, "ipv4: Device not found"),
            (ADDR.pack(2, 8, 0, 0, 2) + wire.attribute(2, b"ab"), errno.ERANGE, "Attribute failed policy validation"),
            (
                ADDR.pack(2, 8, 0, 0, 2) + wire.attribute(2, ip("10.1.1.1")) + wire.attribute(6, bytes(16)),
                errno.EINVAL, "ipv4: address lifetime invalid",
            ),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, one: Host, sk: NetlinkSock, payload: bytes, code: int, text: str):
        assert change(one, sk, rt.RTM_NEWADDR, CREATE, payload) == (code, text)


class TestRoutes:
    def route(self, to: str, length: int, *more: bytes, kind: int = 1, scope: int = 0, table: int = 254) -> bytes:
        header = ROUTE.pack(2, length, 0, 0, table, 3, scope, kind, 0)
        return header + wire.attribute(rtm_route.RTA_DST, ip(to)) + b"".join(more)

    via = wire.attribute(rtm_route.RTA_GATEWAY, ip("10.0.0.7"))

    def test_tables(self, one: Host, sk: NetlinkSock):
        everything = dump(one, sk, rt.RTM_GETROUTE, ROUTE.pack(2, 0, 0, 0, 0, 0, 0, 0, 0))
        main = dump(one, sk, rt.RTM_GETROUTE, ROUTE.pack(2, 0, 0, 0, 0, 0, 0, 0, 0) + wire.u32(15, 254))
        assert len(everything) == 6
        ((kind, flags, payload),) = main
        assert (kind, flags) == (rt.RTM_NEWROUTE, wire.NLM_F_MULTI | wire.NLM_F_DUMP_FILTERED)
        # Linux 6.18's of the same address: 10.0.0.0/24 dev eth0 proto kernel scope link src …; the cable is unplugged.
        assert ROUTE.unpack_from(payload) == (2, 24, 0, 0, 254, 2, 253, 1, rtm_route.RTNH_F_LINKDOWN)
        assert list(wire.attributes(payload, ROUTE.size)) == [15, 1, 7, 4]
        missing = ask(one, sk, rt.RTM_GETROUTE, DUMP, ROUTE.pack(2, 0, 0, 0, 0, 0, 0, 0, 0) + wire.u32(15, 99))
        assert ended(missing) == (errno.ENOENT, "ipv4: FIB table does not exist")
        local = dump(one, sk, rt.RTM_GETROUTE, ROUTE.pack(2, 0, 0, 0, 0, 0, 0, 2, 0))
        assert len(local) == 3

    def test_adding_and_taking_away(self, one: Host, sk: NetlinkSock, listener: NetlinkSock):
        metrics = wire.nest(8, wire.u32(2, 1300), wire.u32(1, 1 << 2), wire.string(16, "reno"))
        payload = self.route("10.5.0.0", 16, self.via, wire.u32(6, 7), metrics)
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, payload) == (0, "")
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, payload) == (errno.EEXIST, "")
        ((kind, flags, told),) = read(one, listener)
        assert (kind, flags) == (rt.RTM_NEWROUTE, wire.NLM_F_CREATE | wire.NLM_F_EXCL)
        assert ROUTE.unpack_from(told)[:8] == (2, 16, 0, 0, 254, 3, 0, 1)
        found = wire.attributes(told, ROUTE.size)
        assert list(found) == [15, 1, 6, 8, 5, 4]
        assert wire.attributes(found[8], 0) == {1: b"\4\0\0\0", 2: b"\x14\5\0\0", 16: b"reno\0"}
        (route,) = one.net.get(Fib4).main.find(ip("10.5.0.0"), 16)
        assert (route.mtu_lock, route.congestion_control, route.metrics) == (True, "reno", {2: 1300})
        other = self.route("10.5.0.0", 16, wire.u32(6, 8))
        assert change(one, sk, rt.RTM_DELROUTE, ACK, other)[0] == errno.ESRCH
        gone = ROUTE.pack(2, 16, 0, 0, 254, 0, 255, 0, 0) + wire.attribute(1, ip("10.5.0.0"))
        assert change(one, sk, rt.RTM_DELROUTE, ACK, gone) == (0, "")
        assert read(one, listener)[0][0] == rt.RTM_DELROUTE

    def test_before_behind_and_instead(self, one: Host, sk: NetlinkSock):
        def gateways() -> list[int]:
            return [route.gateway[3] for route in one.net.get(Fib4).main.find(ip("10.5.0.0"), 16) if route.gateway]

        for number, flags in ((1, 0x400), (2, 0xC00), (3, 0x400), (4, 0x500)):
            payload = self.route("10.5.0.0", 16, wire.attribute(5, ip(f"10.0.0.{100 + number}")))
            assert change(one, sk, rt.RTM_NEWROUTE, ACK | flags, payload) == (0, "")
        assert gateways() == [104, 101, 102]
        assert change(one, sk, rt.RTM_NEWROUTE, ACK, self.route("10.6.0.0", 16, self.via))[0] == errno.ENOENT

    @pytest.mark.parametrize(
        ("more", "code", "text"),
        [
            (wire.attribute(5, ip("9.9.9.9")), errno.ENETUNREACH, "Nexthop has invalid gateway"),
            (wire.u32(4, 9), errno.ENODEV, ""),
            (wire.attribute(9, bytes(8)), errno.EINVAL, "Multipath support not enabled in kernel"),
            (wire.attribute(18, bytes(18)), errno.EINVAL, "IPv6 support not enabled in kernel"),
            (wire.u32(30, 5), errno.EINVAL, "Nexthop id does not exist"),
            (wire.u32(15, 77), errno.EOPNOTSUPP, "There are no routing tables but local and main"),
            (wire.nest(8, wire.string(16, "x")), errno.EINVAL, "Unknown tcp congestion algorithm"),
            (wire.nest(8, wire.u32(40, 1)), errno.EINVAL, "Invalid metric type"),
            (wire.nest(8, wire.u8(2, 1)), errno.EINVAL, "Invalid attribute in metrics"),
        ],
    )
    def test_what_is_refused(self, one: Host, sk: NetlinkSock, more: bytes, code: int, text: str):
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, self.route("10.5.0.0", 16, more)) == (code, text)

    def test_prefixes(self, one: Host, sk: NetlinkSock):
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, self.route("10.5.0.1", 16, self.via)) == (
            errno.EINVAL, "Invalid prefix for given prefix length"
        )  # fmt: skip
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, self.route("10.5.0.1", 33, self.via)) == (
            errno.EINVAL, "Invalid prefix length"
        )  # fmt: skip
        assert change(one, sk, rt.RTM_NEWROUTE, CREATE, self.route("10.6.0.0", 16, kind=7)) == (0, "")
        get = ROUTE.pack(2, 32, 0, 0, 0, 0, 0, 0, 0) + wire.attribute(1, ip("10.6.1.1"))
        assert ended(ask(one, sk, rt.RTM_GETROUTE, REQUEST, get))[0] == errno.EHOSTUNREACH

    def test_one_destination(self, one: Host, sk: NetlinkSock):
        ((_, flags, payload),) = ask(
            one, sk, rt.RTM_GETROUTE, REQUEST,
            ROUTE.pack(2, 32, 0, 0, 0, 0, 0, 0, rtm_route.RTM_F_LOOKUP_TABLE) + wire.attribute(1, ip("10.0.0.9")),
        )  # fmt: skip
        # Linux 6.18: `ip route get` of a neighbour.
        assert flags == 0
        assert ROUTE.unpack_from(payload) == (2, 32, 0, 0, 254, 0, 0, 1, rtm_route.RTM_F_CLONED)
        assert list(wire.attributes(payload, ROUTE.size)) == [15, 1, 4, 7, 25, 12]
        ((_, _, payload),) = ask(
            one, sk, rt.RTM_GETROUTE, REQUEST,
            ROUTE.pack(2, 32, 0, 0, 0, 0, 0, 0, rtm_route.RTM_F_LOOKUP_TABLE) + wire.attribute(1, ip("10.0.0.1")),
        )  # fmt: skip
        assert ROUTE.unpack_from(payload)[4:] == (255, 0, 0, 2, 0x80000200)
        nowhere = ROUTE.pack(2, 32, 0, 0, 0, 0, 0, 0, 0) + wire.attribute(1, ip("99.0.0.1"))
        assert ended(ask(one, sk, rt.RTM_GETROUTE, REQUEST, nowhere))[0] == errno.ENETUNREACH

    def test_of_a_packet_that_comes_in(self, one: Host, sk: NetlinkSock):
        header = ROUTE.pack(2, 32, 32, 0, 0, 0, 0, 0, 0)
        asked = header + wire.attribute(1, ip("10.0.0.1")) + wire.attribute(2, ip("10.0.0.7")) + wire.u32(3, 2)
        ((_, _, payload),) = ask(one, sk, rt.RTM_GETROUTE, REQUEST, asked)
        found = wire.attributes(payload, ROUTE.size)
        assert wire.number(found[rtm_route.RTA_IIF]) == 2
        assert ROUTE.unpack_from(payload)[7] == 2

    def test_the_route_that_matches(self, one: Host, sk: NetlinkSock):
        header = ROUTE.pack(2, 32, 0, 0, 0, 0, 0, 0, rtm_route.RTM_F_FIB_MATCH | rtm_route.RTM_F_LOOKUP_TABLE)
        ((_, _, payload),) = ask(one, sk, rt.RTM_GETROUTE, REQUEST, header + wire.attribute(1, ip("10.0.0.9")))
        assert ROUTE.unpack_from(payload)[1] == 24


class TestNeighbours:
    def neigh(self, addr: str, mac: bytes = b"", state: int = NUD_PERMANENT, index: int = 2) -> bytes:
        more = wire.attribute(rtm_neigh.NDA_LLADDR, mac) if mac else b""
        return NEIGH.pack(2, 0, index, state, 0, 0) + wire.attribute(rtm_neigh.NDA_DST, ip(addr)) + more

    mac = b"\2\0\0\0\0\x09"

    def test_adding_asking_and_taking_away(self, one: Host, sk: NetlinkSock, listener: NetlinkSock):
        assert change(one, sk, rt.RTM_NEWNEIGH, CREATE, self.neigh("10.0.0.9", self.mac)) == (0, "")
        assert change(one, sk, rt.RTM_NEWNEIGH, CREATE, self.neigh("10.0.0.9", self.mac))[0] == errno.EEXIST
        (found,) = dump(one, sk, rt.RTM_GETNEIGH, NEIGH.pack(0, 0, 0, 0, 0, 0))
        assert NEIGH.unpack_from(found[2]) == (2, 0, 2, NUD_PERMANENT, 0, 1)
        attributes = wire.attributes(found[2], NEIGH.size)
        assert list(attributes) == [1, 2, 4, 3]
        assert attributes[2] == self.mac
        ((kind, _, alone),) = ask(one, sk, rt.RTM_GETNEIGH, REQUEST, self.neigh("10.0.0.9", state=0))
        assert (kind, alone) == (rt.RTM_NEWNEIGH, found[2])
        replaced = self.neigh("10.0.0.9", b"\2\0\0\0\0\x0a")
        assert change(one, sk, rt.RTM_NEWNEIGH, ACK | wire.NLM_F_CREATE | wire.NLM_F_REPLACE, replaced) == (0, "")
        assert change(one, sk, rt.RTM_DELNEIGH, ACK, self.neigh("10.0.0.9")) == (0, "")
        told = [(kind, wire.attributes(payload, 12)[2][-1]) for kind, _, payload in read(one, listener)]
        assert told == [(rt.RTM_NEWNEIGH, 9), (rt.RTM_NEWNEIGH, 10), (rt.RTM_DELNEIGH, 10)]
        assert change(one, sk, rt.RTM_DELNEIGH, ACK, self.neigh("10.0.0.9"))[0] == errno.ENOENT
        assert not len(one.net.get(Arp).table)

    def test_of_one_device(self, one: Host, sk: NetlinkSock):
        change(one, sk, rt.RTM_NEWNEIGH, CREATE, self.neigh("10.0.0.9", self.mac, NUD_STALE))
        for index, count in ((1, 0), (2, 1)):
            assert len(dump(one, sk, rt.RTM_GETNEIGH, NEIGH.pack(2, 0, 0, 0, 0, 0) + wire.u32(8, index))) == count
        assert dump(one, sk, rt.RTM_GETNEIGH, NEIGH.pack(2, 0, 0, 0, rtm_neigh.NTF_PROXY, 0)) == []

    @pytest.mark.parametrize(
        ("payload", "code", "text"),
        [
            (NEIGH.pack(2, 0, 2, 128, 0, 0), errno.EINVAL, "Network address not specified"),
            (NEIGH.pack(2, 0, 0, 128, 0, 0) + wire.attribute(1, bytes(4)), errno.EINVAL, "Device not specified"),
            (NEIGH.pack(2, 0, 9, 128, 0, 0) + wire.attribute(1, bytes(4)), errno.ENODEV, ""),
            (NEIGH.pack(10, 0, 2, 128, 0, 0) + wire.attribute(1, bytes(16)), errno.EAFNOSUPPORT, ""),
            (NEIGH.pack(2, 0, 2, 128, 0, 0) + wire.attribute(1, b"ab"), errno.EINVAL, "Invalid network address"),
            (NEIGH.pack(2, 0, 2, 128, 0, 0) + wire.attribute(1, ip("10.0.0.8")), errno.EINVAL,
             "No link layer address given"),
            (NEIGH.pack(2, 0, 2, 128, 0, 0) + wire.attribute(1, bytes(4)) + wire.attribute(2, b"ab"), errno.EINVAL,
             "Invalid link address"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, one: Host, sk: NetlinkSock, payload: bytes, code: int, text: str):
        assert change(one, sk, rt.RTM_NEWNEIGH, CREATE, payload) == (code, text)


def test_rules_are_those_that_every_namespace_starts_with(one: Host, sk: NetlinkSock):
    rules = dump(one, sk, rt.RTM_GETRULE, b"\2" + bytes(11))
    # Linux 6.18, of a new namespace.
    assert [payload.hex() for _, _, payload in rules] == [
        "02000000ff00000100000000" + "08000f00ff000000" + "08000e00ffffffff" + "0500150002000000",
        "02000000fe00000100000000" + "08000f00fe000000" + "08000e00ffffffff" + "0500150002000000" + "08000600fe7f0000",
        "02000000fd00000100000000" + "08000f00fd000000" + "08000e00ffffffff" + "0500150002000000" + "08000600ff7f0000",
    ]
    assert change(one, sk, rt.RTM_NEWRULE, CREATE, b"\2" + bytes(11))[0] == errno.EOPNOTSUPP
    assert ended(ask(one, sk, rt.RTM_GETRULE, DUMP, b"\x0a" + bytes(11)))[0] == errno.EAFNOSUPPORT


def test_requests_that_nobody_has(one: Host, sk: NetlinkSock):
    for kind in (36, 74, 86, 124):
        assert ended(ask(one, sk, kind, DUMP if kind & 3 == 2 else ACK, bytes(4)))[0] == errno.EOPNOTSUPP
    assert ask(one, sk, rt.RTM_GETLINK, DUMP, b"") == []


def test_generic_families(one: Host):
    sk = open_socket(one, 16)
    ((kind, _, payload),) = ask(one, sk, 16, REQUEST, b"\3\2\0\0" + wire.string(2, "nlctrl"))
    assert kind == 16
    assert wire.number(wire.attributes(payload, 4)[1]) == 16
    assert ended(ask(one, sk, 16, REQUEST, b"\3\2\0\0" + wire.string(2, "nl80211")))[0] == errno.ENOENT
    assert ended(ask(one, sk, 16, REQUEST, b"\3\2\0\0"))[0] == errno.EINVAL
    assert ended(ask(one, sk, 30, REQUEST, b"\3\2\0\0"))[0] == errno.ENOENT
    assert len(asker.dump(one, sk, 16, b"\3\2\0\0")) == 1
