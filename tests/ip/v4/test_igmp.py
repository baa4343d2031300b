"""The host's side of IGMP, in three versions: RFC 3376, RFC 2236, RFC 1112."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import PEER, ROUTER, US, Host, Sent, addr, packet
from usernet.ip.v4.igmp import Igmp
from usernet.ip.v4.igmp_group import MCAST_INCLUDE
from usernet.ip.v4.igmp_report import Record
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_MULTICAST
from usernet.wire import igmp, ipv4
from usernet.wire.checksum import csum, csum_fold
from usernet.wire.ethernet import ipv4_multicast_mac

GROUP = addr("239.1.2.3")
OTHER = addr("239.9.9.9")
LOCAL = addr("224.0.0.251")
SOURCES = [addr("192.0.2.1"), addr("192.0.2.2")]


@pytest.fixture
def protocol(host: Host) -> Igmp:
    return host.net.get(Igmp)


def reports(host: Host) -> list[list[Record]]:
    """The version 3 reports sent since the last call."""
    found = []
    for sent in host.sent():
        assert sent.daddr == igmp.IGMPV3_ALL_MCR
        check_header(sent)
        found.append(igmp.parse_v3_report(sent.payload, 0, len(sent.payload)))
    return found


def check_header(sent: Sent) -> None:
    """RFC 3376 section 4: TTL 1, router alert, internetwork control."""
    assert (sent.saddr, sent.ttl, sent.tos, sent.protocol) == (US, 1, 0xC0, 2)
    assert sent.options == ipv4.ROUTER_ALERT
    assert sent.frag_off == ipv4.IP_DF
    sent.checked()


def older(host: Host) -> list[tuple[int, bytes, bytes]]:
    """Type, group and destination of what was sent of versions 1 and 2."""
    found = []
    for sent in host.sent():
        check_header(sent)
        kind, _, _, group = igmp.parse(sent.payload, 0)
        found.append((kind, group, sent.daddr))
    return found


def query(host: Host, message: bytes, daddr: bytes = igmp.IGMP_ALL_HOSTS) -> None:
    host.receive(
        packet(message, saddr=ROUTER, daddr=daddr, protocol=2, ttl=1, options=ipv4.ROUTER_ALERT),
        pkt_type=PACKET_MULTICAST,
    )


def v3_query(host: Host, group: bytes = bytes(4), sources: list[bytes] | None = None, max_resp: int = 100) -> None:
    message = igmp.build_v3_query(group, max_resp, False, 2, 125, sources or [])
    query(host, message, group if any(group) else igmp.IGMP_ALL_HOSTS)


TO_EX: Record = (igmp.IGMPV3_CHANGE_TO_EXCLUDE, GROUP, [])
TO_IN: Record = (igmp.IGMPV3_CHANGE_TO_INCLUDE, GROUP, [])
IS_EX: Record = (igmp.IGMPV3_MODE_IS_EXCLUDE, GROUP, [])


def test_all_hosts_is_joined_and_never_reported(host: Host, protocol: Igmp) -> None:
    assert list(protocol.of(host.eth0).groups) == [igmp.IGMP_ALL_HOSTS]
    assert host.eth0.wants(ipv4_multicast_mac(igmp.IGMP_ALL_HOSTS))
    host.run(10)
    v3_query(host)
    host.run(20)
    assert host.sent() == []
    host.devices.set_down(host.eth0)
    assert not host.eth0.wants(ipv4_multicast_mac(igmp.IGMP_ALL_HOSTS))
    host.devices.set_up(host.eth0)
    assert host.eth0.wants(ipv4_multicast_mac(igmp.IGMP_ALL_HOSTS))


def test_a_join_is_reported_twice(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP)
    assert host.eth0.wants(ipv4_multicast_mac(GROUP))
    host.run(0.01)
    assert reports(host) == [[TO_EX]]
    host.run(1.01)
    assert reports(host) == [[TO_EX]]
    host.run(60)
    assert reports(host) == []


def test_robustness_is_how_often(host: Host, protocol: Igmp) -> None:
    host.sysctl("igmp_qrv", 4)
    host.devices.set_down(host.eth0)
    host.devices.set_up(host.eth0)
    protocol.join(host.eth0, GROUP)
    host.run(10)
    assert reports(host) == [[TO_EX]] * 4


def test_a_leave_is_reported_twice(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP)
    host.run(10)
    host.sent()
    protocol.join(host.eth0, GROUP)
    protocol.del_sources(host.eth0, GROUP, 0, (), False)
    protocol.leave(host.eth0, GROUP)
    host.run(10)
    assert reports(host) == []
    protocol.del_sources(host.eth0, GROUP, 0, (), False)
    protocol.leave(host.eth0, GROUP)
    assert not host.eth0.wants(ipv4_multicast_mac(GROUP))
    host.run(10)
    assert reports(host) == [[TO_IN], [TO_IN]]
    assert protocol.of(host.eth0).tomb == {}


def test_what_happens_at_once_is_told_at_once(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP)
    protocol.join(host.eth0, OTHER)
    host.run(0.01)
    [records] = reports(host)
    assert {record[1] for record in records} == {GROUP, OTHER}


def test_leaving_and_coming_back(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP)
    host.run(10)
    protocol.del_sources(host.eth0, GROUP, 0, (), False)
    protocol.leave(host.eth0, GROUP)
    protocol.join(host.eth0, GROUP)
    host.sent()
    host.run(10)
    assert reports(host) == [[TO_EX], [TO_EX]]


def test_sources(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP, MCAST_INCLUDE)
    protocol.add_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES[:1], True)
    host.run(10)
    allow = (igmp.IGMPV3_ALLOW_NEW_SOURCES, GROUP, SOURCES[:1])
    assert reports(host) == [[allow], [allow]]
    protocol.add_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES[1:], True)
    protocol.del_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES[:1], True)
    host.run(10)
    expected = [
        (igmp.IGMPV3_ALLOW_NEW_SOURCES, GROUP, SOURCES[1:]),
        (igmp.IGMPV3_BLOCK_OLD_SOURCES, GROUP, SOURCES[:1]),
    ]
    assert reports(host) == [expected, expected]
    protocol.del_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES[1:], False)
    protocol.leave(host.eth0, GROUP)
    host.run(10)
    block = (igmp.IGMPV3_BLOCK_OLD_SOURCES, GROUP, SOURCES[1:])
    assert reports(host) == [[block], [block]]


def test_whose_packets_are_for_this_host(host: Host, protocol: Igmp) -> None:
    assert not protocol.check(host.eth0, GROUP, PEER, 17)
    protocol.join(host.eth0, GROUP, MCAST_INCLUDE)
    protocol.add_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES[:1], True)
    assert protocol.check(host.eth0, GROUP, SOURCES[0], 17)
    assert not protocol.check(host.eth0, GROUP, SOURCES[1], 17)
    assert protocol.check(host.eth0, GROUP, SOURCES[1], 2)
    assert protocol.check(host.eth0, GROUP, bytes(4), 17)
    assert not protocol.check(host.devices["lo"], GROUP, SOURCES[0], 17)
    protocol.join(host.eth0, GROUP)
    assert protocol.check(host.eth0, GROUP, SOURCES[1], 17)


def test_a_group_reaches_the_transport(host: Host, protocol: Igmp) -> None:
    data = packet(b"12345678", protocol=17, daddr=GROUP)
    host.receive(data, pkt_type=PACKET_MULTICAST)
    assert host.udp.received == []
    protocol.join(host.eth0, GROUP)
    host.receive(data, pkt_type=PACKET_MULTICAST)
    assert host.udp.received == [b"12345678"]


# -- queries


def joined(host: Host, protocol: Igmp, *groups: bytes) -> None:
    for group in groups:
        protocol.join(host.eth0, group)
    host.run(30)
    host.sent()


def test_a_general_query_is_answered_in_its_time(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP, OTHER)
    v3_query(host, max_resp=50)
    host.run(5.01)
    [records] = reports(host)
    assert records == [(igmp.IGMPV3_MODE_IS_EXCLUDE, OTHER, []), IS_EX]
    host.run(20)
    assert reports(host) == []


def test_a_query_about_a_group(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP, OTHER)
    v3_query(host, GROUP)
    host.run(10.01)
    assert reports(host) == [[IS_EX]]


def test_a_query_about_sources(host: Host, protocol: Igmp) -> None:
    protocol.join(host.eth0, GROUP, MCAST_INCLUDE)
    protocol.add_sources(host.eth0, GROUP, MCAST_INCLUDE, SOURCES, True)
    host.run(30)
    host.sent()
    v3_query(host, GROUP, SOURCES[1:])
    host.run(10.01)
    assert reports(host) == [[(igmp.IGMPV3_MODE_IS_INCLUDE, GROUP, SOURCES[1:])]]
    v3_query(host, GROUP, [addr("192.0.2.77")])
    host.run(10.01)
    assert reports(host) == []


def test_an_answer_already_due_sooner_will_do(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    v3_query(host, GROUP, max_resp=1)
    v3_query(host, GROUP, max_resp=100)
    host.run(0.11)
    assert reports(host) == [[IS_EX]]
    host.run(20)
    assert reports(host) == []


def test_a_query_tells_the_robustness_and_interval(host: Host, protocol: Igmp) -> None:
    query(host, igmp.build_v3_query(bytes(4), 100, False, 5, 8))
    mc = protocol.of(host.eth0)
    assert (mc.qrv, mc.qi, mc.qri) == (5, 8 * 10**9, 7 * 10**9)
    query(host, igmp.build_v3_query(bytes(4), 100, False, 0, 0))
    assert (mc.qrv, mc.qi) == (2, 125 * 10**9)


def sealed(message: bytes) -> bytes:
    """A message with its checksum, which was left zero."""
    check = csum_fold(csum(message, 0, len(message)))
    return message[:2] + check.to_bytes(2, "big") + message[4:]


@pytest.mark.parametrize(
    "message",
    [
        igmp.build_v3_query(bytes(4), 100, False, 2, 125, SOURCES),
        sealed(b"\x11\x64" + bytes(8)),
        sealed(b"\x11\x64" + bytes(8) + b"\0\2" + SOURCES[0]),
    ],
)
def test_bad_queries_are_dropped(host: Host, protocol: Igmp, message: bytes) -> None:
    joined(host, protocol, GROUP)
    query(host, message)
    host.run(20)
    assert host.sent() == []
    assert host.dropped(DropReason.IGMP_INVALID) == 1


def test_a_bad_checksum(host: Host, protocol: Igmp) -> None:
    query(host, b"\x11\x64\0\0\0\0\0\0")
    assert host.dropped(DropReason.IGMP_CSUM) == 1


@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_anything_is_survived(data: bytes, right: bool) -> None:
    host = Host()
    protocol = host.net.get(Igmp)
    protocol.join(host.eth0, GROUP)
    if right and len(data) >= 4:
        data = sealed(data[:2] + b"\0\0" + data[4:])
    query(host, data)
    host.run(30)
    host.close()


# -- older versions


def test_version_2(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    query(host, igmp.build_query(bytes(4), 100))
    assert protocol.version(protocol.of(host.eth0)) == 2
    host.run(10.01)
    assert older(host) == [(igmp.IGMPV2_HOST_MEMBERSHIP_REPORT, GROUP, GROUP)]
    protocol.join(host.eth0, OTHER)
    host.run(21)
    assert older(host) == [(igmp.IGMPV2_HOST_MEMBERSHIP_REPORT, OTHER, OTHER)] * 2
    protocol.leave(host.eth0, OTHER)
    assert older(host) == [(igmp.IGMP_HOST_LEAVE_MESSAGE, OTHER, igmp.IGMP_ALL_ROUTER)]
    # Robustness x query interval + response interval after the last such query.
    host.run(2 * 125 + 10)
    assert protocol.version(protocol.of(host.eth0)) == 3


def test_version_1(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    query(host, igmp.build_query(bytes(4), 0))
    assert protocol.version(protocol.of(host.eth0)) == 1
    host.run(10.01)
    assert older(host) == [(igmp.IGMP_HOST_MEMBERSHIP_REPORT, GROUP, GROUP)]
    protocol.leave(host.eth0, GROUP)
    host.run(20)
    assert older(host) == []


def test_a_query_of_version_2_about_one_group(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP, OTHER)
    query(host, igmp.build_query(OTHER, 10), OTHER)
    host.run(1.01)
    assert older(host) == [(igmp.IGMPV2_HOST_MEMBERSHIP_REPORT, OTHER, OTHER)]


def test_another_hosts_report_will_do(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    query(host, igmp.build_query(bytes(4), 100))
    report = packet(igmp.build_v2_report(GROUP), daddr=GROUP, protocol=2, ttl=1)
    host.receive(report, pkt_type=PACKET_MULTICAST)
    host.run(20)
    assert older(host) == []
    # Not the last to have reported: leaves without a word.
    protocol.leave(host.eth0, GROUP)
    assert older(host) == []


def test_an_older_query_ends_what_was_being_told(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    protocol.del_sources(host.eth0, GROUP, 0, (), False)
    protocol.leave(host.eth0, GROUP)
    query(host, igmp.build_query(bytes(4), 100))
    host.run(20)
    assert host.sent() == []
    assert protocol.of(host.eth0).tomb == {}


@pytest.mark.parametrize("scope", ["all", "eth0"])
@pytest.mark.parametrize(
    ("version", "kind"), [(1, igmp.IGMP_HOST_MEMBERSHIP_REPORT), (2, igmp.IGMPV2_HOST_MEMBERSHIP_REPORT)]
)
def test_a_version_can_be_forced(host: Host, protocol: Igmp, scope: str, version: int, kind: int) -> None:
    host.net.sysctl[f"net.ipv4.conf.{scope}.force_igmp_version"] = version
    protocol.join(host.eth0, GROUP)
    host.run(30)
    assert older(host) == [(kind, GROUP, GROUP)] * 2


# -- groups of the link, devices


def test_groups_of_the_link_are_reported_only_where_asked_for(host: Host, protocol: Igmp) -> None:
    host.sysctl("igmp_link_local_mcast_reports", 0)
    protocol.join(host.eth0, LOCAL)
    v3_query(host)
    host.run(20)
    assert reports(host) == []
    host.sysctl("igmp_link_local_mcast_reports", 1)
    v3_query(host)
    host.run(20)
    assert reports(host) == [[(igmp.IGMPV3_MODE_IS_EXCLUDE, LOCAL, [])]]


def test_a_device_that_comes_back_reports_its_groups(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    host.devices.set_down(host.eth0)
    assert not host.eth0.wants(ipv4_multicast_mac(GROUP))
    host.run(30)
    assert host.sent() == []
    host.devices.set_up(host.eth0)
    assert host.eth0.wants(ipv4_multicast_mac(GROUP))
    host.run(30)
    assert reports(host) == [[TO_EX], [TO_EX]]


def test_a_device_that_goes_takes_its_groups_along(host: Host, protocol: Igmp) -> None:
    joined(host, protocol, GROUP)
    host.devices.remove(host.eth0)
    host.run(300)
    assert not protocol.check(host.eth0, GROUP, PEER, 17)


def test_without_an_address_reports_come_from_nowhere(host: Host, protocol: Igmp) -> None:
    """RFC 3376 section 4.2.13."""
    host.addresses.remove(host.eth0, US)
    protocol.join(host.eth0, GROUP)
    host.run(0.01)
    [report] = host.sent()
    assert report.saddr == bytes(4)
