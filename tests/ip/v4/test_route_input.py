"""Where received packets go, and which are refused as martians."""

from __future__ import annotations

import logging

import pytest

from tests.ip.v4.host import FAR, PEER, US, Host, addr, packet
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_BROADCAST, PACKET_MULTICAST


def udp(saddr: str | bytes = PEER, daddr: str | bytes = US) -> bytes:
    saddr = addr(saddr) if isinstance(saddr, str) else saddr
    daddr = addr(daddr) if isinstance(daddr, str) else daddr
    return packet(b"payload!", saddr=saddr, daddr=daddr, protocol=17)


def test_packets_for_us_are_delivered_whatever_device_they_come_by(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.receive(udp())
    host.receive(udp(daddr="172.16.0.1"))
    assert len(host.udp.received) == 2


def test_decisions_are_kept_until_something_changes(host: Host):
    mib = host.routes.mib
    host.receive(udp())
    made = mib.in_slow_tot
    for _ in range(5):
        host.receive(udp())
    assert mib.in_slow_tot == made
    host.routes.add(addr("192.0.2.0"), 24, gateway=PEER)
    host.receive(udp())
    assert mib.in_slow_tot == made + 1
    host.sysctl("conf.all.rp_filter", 1)
    host.receive(udp())
    assert mib.in_slow_tot == made + 2
    assert len(host.udp.received) == 8


def test_what_is_kept_is_bounded(host: Host):
    host.sysctl("route.max_size", 10)
    for last in range(50):
        host.receive(udp(saddr=bytes([10, 0, 0, last + 2])))
    assert len(host.ipv4.route_input.caches[host.eth0.index]) == 10
    assert len(host.udp.received) == 50


@pytest.mark.parametrize(
    ("saddr", "daddr", "reason"),
    [
        ("224.0.0.1", "10.0.0.1", DropReason.IP_INVALID_SOURCE),
        ("255.255.255.255", "10.0.0.1", DropReason.IP_INVALID_SOURCE),
        ("0.0.0.0", "10.0.0.1", DropReason.IP_INVALID_SOURCE),
        ("0.1.2.3", "10.0.0.1", DropReason.IP_INVALID_SOURCE),
        ("127.0.0.1", "10.0.0.1", DropReason.IP_LOCALNET),
        ("10.0.0.1", "10.0.0.1", DropReason.IP_LOCAL_SOURCE),
        ("10.0.0.255", "10.0.0.1", DropReason.IP_LOCAL_SOURCE),
        ("224.0.0.1", "224.0.0.1", DropReason.IP_INVALID_SOURCE),
        ("10.0.0.1", "255.255.255.255", DropReason.IP_LOCAL_SOURCE),
    ],
)
def test_martian_sources(host: Host, saddr: str, daddr: str, reason: DropReason):
    for _ in range(3):
        host.receive(udp(saddr, daddr))
    assert host.udp.received == [] and host.sent() == []
    assert host.dropped(reason) == 3
    assert host.routes.mib.in_martian_src == 3


@pytest.mark.parametrize(
    ("daddr", "reason"), [("127.0.0.1", DropReason.IP_LOCALNET), ("0.1.2.3", DropReason.IP_INVALID_DEST)]
)
def test_martian_destinations(host: Host, daddr: str, reason: DropReason):
    host.receive(udp(daddr=daddr))
    assert host.udp.received == []
    assert host.dropped(reason) == 1
    assert host.routes.mib.in_martian_dst == 1


def test_martians_are_logged_where_asked_for(host: Host, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "usernet")
    host.receive(udp(US))
    assert caplog.messages == []
    host.sysctl("conf.eth0.log_martians", 1)
    host.receive(udp(US))
    host.receive(udp(daddr="127.0.0.1"))
    assert caplog.messages == [
        "martian source 10.0.0.1 from 10.0.0.1, on dev eth0", "martian destination 127.0.0.1 from 10.0.0.2, dev eth0",
    ]  # fmt: skip


def test_accept_local_and_route_localnet_let_them_in(host: Host):
    host.sysctl("conf.eth0.accept_local", 1)
    host.receive(udp(US))
    host.sysctl("conf.all.route_localnet", 1)
    host.receive(udp(daddr="127.0.0.1"))
    assert len(host.udp.received) == 2


def test_strict_reverse_path_filtering(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    stray = udp(addr("172.16.0.9"))
    host.receive(stray)
    assert len(host.udp.received) == 1
    host.sysctl("conf.eth0.rp_filter", 1)
    host.receive(stray)
    assert len(host.udp.received) == 1
    assert host.dropped(DropReason.IP_RPFILTER) == 1
    assert host.net.mib.tcp_ext.IPReversePathFilter == 1
    host.receive(udp(PEER))
    host.receive(udp(FAR))
    assert len(host.udp.received) == 3


def test_loose_reverse_path_filtering_wants_any_way_back(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.sysctl("conf.all.rp_filter", 2)
    host.receive(udp("172.16.0.9"))
    assert len(host.udp.received) == 1
    host.routes.remove(bytes(4), 0)
    host.receive(udp(FAR))
    assert len(host.udp.received) == 1
    assert host.dropped(DropReason.IP_RPFILTER) == 1


def test_broadcasts_are_for_us(host: Host):
    host.receive(udp(daddr="10.0.0.255"), pkt_type=PACKET_BROADCAST)
    host.receive(udp(daddr="255.255.255.255"), pkt_type=PACKET_BROADCAST)
    host.receive(udp("0.0.0.0", "255.255.255.255"), pkt_type=PACKET_BROADCAST)
    host.receive(udp("0.0.0.0", "0.0.0.0"), pkt_type=PACKET_BROADCAST)
    assert len(host.udp.received) == 4
    assert host.net.mib.ip_ext.InBcastPkts == 4
    assert [skb.dst.broadcast for skb in host.udp.packets] == [True] * 4


def test_groups_are_for_members(host: Host):
    group = addr("239.1.2.3")
    host.receive(udp(daddr=group), pkt_type=PACKET_MULTICAST)
    assert host.udp.received == []
    host.ipv4.igmp.join(host.eth0, group)
    host.receive(udp(daddr=group), pkt_type=PACKET_MULTICAST)
    assert len(host.udp.received) == 1
    assert host.net.mib.ip_ext.InMcastPkts == 1
    host.ipv4.igmp.leave(host.eth0, group)
    host.receive(udp(daddr=group), pkt_type=PACKET_MULTICAST)
    assert len(host.udp.received) == 1


def test_a_source_of_zero_is_for_groups_of_the_link_only(host: Host):
    host.ipv4.igmp.join(host.eth0, addr("239.1.2.3"))
    host.receive(udp("0.0.0.0", "239.1.2.3"), pkt_type=PACKET_MULTICAST)
    assert host.udp.received == []
    host.receive(udp("0.0.0.0", "224.0.0.1"), pkt_type=PACKET_MULTICAST)
    assert len(host.udp.received) == 1


def test_unicast_in_a_frame_to_all_may_be_dropped(host: Host):
    host.receive(udp(), pkt_type=PACKET_BROADCAST)
    assert len(host.udp.received) == 1
    host.sysctl("conf.eth0.drop_unicast_in_l2_multicast", 1)
    host.receive(udp(), pkt_type=PACKET_BROADCAST)
    assert len(host.udp.received) == 1
    assert host.dropped(DropReason.UNICAST_IN_L2_MULTICAST) == 1


def test_a_host_is_silent_about_what_is_not_for_it(host: Host):
    host.receive(udp(daddr=FAR))
    assert host.sent() == []
    assert host.net.mib.ip.InAddrErrors == 1
    assert host.dropped(DropReason.IP_INADDRERRORS) == 1
