"""ARP on a host with IPv4: who is answered, which address asks, announcements, conflicts, hosts that are not there."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pytest

from tests.ip.v4.ethernet import MAC, OTHER_MAC, PEER_MAC, EthernetHost
from tests.ip.v4.host import FAR, PEER, ROUTER, US, addr, packet
from usernet.ip.v4.devinet import IfAddr
from usernet.link.neighbour import NUD_REACHABLE
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import Flow
from usernet.wire import ethernet, icmp
from usernet.wire.arp import ARPOP_REPLY, ARPOP_REQUEST

SECOND = addr("10.0.0.5")
ANY = bytes(4)


@pytest.fixture
def fresh() -> Iterator[EthernetHost]:
    machine = EthernetHost()
    yield machine
    machine.close()


@pytest.fixture
def host(fresh: EthernetHost) -> EthernetHost:
    """One whose new address has been announced and asked for."""
    fresh.quiet()
    return fresh


def send(host: EthernetHost, daddr: bytes, saddr: bytes = ANY, payload: bytes = b"payload!") -> None:
    host.net.loop.enter()
    dst = host.af.route(Flow(daddr, saddr))
    host.af.xmit_skb(SKBuff(payload), dst, dst.saddr, daddr, 17, 0, 0, False)
    host.net.loop.leave()


# -- a new address


def test_a_new_address_is_announced_then_asked_for(fresh: EthernetHost):
    fresh.asked()
    fresh.addresses.add(fresh.eth0, SECOND, 24)
    assert fresh.asked() == [(ethernet.BROADCAST, ARPOP_REQUEST, MAC, SECOND, MAC, SECOND)]
    fresh.run(6)
    probes = [one for one in fresh.asked() if one[5] == SECOND]
    assert probes == [(ethernet.BROADCAST, ARPOP_REQUEST, MAC, ANY, bytes(6), SECOND)] * 3
    fresh.run(100)
    assert fresh.asked() == []


def test_neither_where_not_wanted(host: EthernetHost):
    host.sysctl("conf.eth0.arp_notify", 0)
    host.sysctl("conf.eth0.arp_probe", 0)
    host.addresses.add(host.eth0, SECOND, 24)
    host.run(10)
    assert host.asked() == []


def test_a_removed_address_is_not_asked_for_any_more(host: EthernetHost):
    host.addresses.add(host.eth0, SECOND, 24)
    host.asked()
    host.addresses.remove(host.eth0, SECOND)
    host.run(10)
    assert host.asked() == []


def test_a_device_that_comes_up_announces_its_addresses(host: EthernetHost):
    host.devices.set_down(host.eth0)
    host.devices.set_up(host.eth0)
    assert host.asked() == [(ethernet.BROADCAST, ARPOP_REQUEST, MAC, US, MAC, US)]
    host.devices.set_down(host.eth0)
    host.run(10)
    assert host.asked() == []


def test_another_link_address_is_announced(host: EthernetHost):
    host.devices.set_mac(host.eth0, OTHER_MAC)
    assert host.asked() == [(ethernet.BROADCAST, ARPOP_REQUEST, OTHER_MAC, US, OTHER_MAC, US)]


# -- conflicts


def conflict(host: EthernetHost) -> bytes:
    found = host.addresses.find(US)
    assert found is not None
    return found.conflict


def test_a_host_with_our_address_is_noticed_counted_told_and_answered(
    host: EthernetHost, caplog: pytest.LogCaptureFixture
):  # fmt: skip
    told: list[tuple[IfAddr, bytes]] = []
    host.ipv4.arp_host.conflict_observers.append(lambda ifa, mac: told.append((ifa, mac)))
    caplog.set_level(logging.WARNING, "usernet")
    host.hear(ARPOP_REQUEST, OTHER_MAC, US, US)
    assert conflict(host) == OTHER_MAC
    assert host.ipv4.arp.mib.Conflicts == 1
    assert [(ifa.addr, mac) for ifa, mac in told] == [(US, OTHER_MAC)]
    assert caplog.messages == ["eth0: 10.0.0.1 is in use by 02:00:00:00:00:03 too"]
    assert host.asked() == [(ethernet.BROADCAST, ARPOP_REQUEST, MAC, US, MAC, US)]
    # Not twice in ten seconds, or two hosts would shout each other down.
    host.run(5)
    host.hear(ARPOP_REQUEST, OTHER_MAC, US, US)
    assert host.asked() == []
    assert host.ipv4.arp.mib.Conflicts == 2
    host.run(6)
    host.hear(ARPOP_REQUEST, OTHER_MAC, US, PEER)
    assert len(host.asked()) == 1
    assert len(caplog.messages) == 1


def test_an_answer_to_our_probe_is_a_conflict(host: EthernetHost):
    host.addresses.add(host.eth0, SECOND, 24)
    host.run(1.5)
    host.asked()
    host.hear(ARPOP_REPLY, OTHER_MAC, SECOND, ANY, MAC, MAC)
    found = host.addresses.find(SECOND)
    assert found is not None and found.conflict == OTHER_MAC
    host.asked()
    host.run(10)
    assert host.asked() == []


def test_who_asks_whether_our_address_is_free_is_told_no(host: EthernetHost):
    host.hear(ARPOP_REQUEST, OTHER_MAC, ANY, US)
    assert host.asked() == [(OTHER_MAC, ARPOP_REPLY, MAC, US, OTHER_MAC, ANY)]
    assert conflict(host) == b""


def test_two_hosts_that_ask_for_one_address_at_once_are_in_conflict(host: EthernetHost):
    host.addresses.add(host.eth0, SECOND, 24)
    host.hear(ARPOP_REQUEST, OTHER_MAC, ANY, SECOND)
    found = host.addresses.find(SECOND)
    assert found is not None and found.conflict == OTHER_MAC


def test_our_own_packets_and_those_of_our_other_devices_are_none(host: EthernetHost):
    eth1 = host.add_device("eth1")
    host.hear(ARPOP_REQUEST, MAC, US, US)
    host.hear(ARPOP_REQUEST, eth1.mac, US, US)
    assert conflict(host) == b"" and host.ipv4.arp.mib.Conflicts == 0


# -- who is answered


def answered(host: EthernetHost) -> bool:
    return any(op == ARPOP_REPLY for _, op, *_ in host.asked())


def test_requests_from_hosts_on_the_link(host: EthernetHost):
    host.ask(US)
    assert answered(host)
    host.ask(addr("10.0.0.77"))
    assert not answered(host)
    host.ask(US, spa=US)
    assert not answered(host)


def test_addresses_of_other_devices_are_told_unless_arp_ignore_says_no(host: EthernetHost):
    eth1 = host.add_device("eth1")
    elsewhere = addr("172.16.0.1")
    host.addresses.add(eth1, elsewhere, 16)
    host.ask(elsewhere)
    assert answered(host)
    host.sysctl("conf.all.arp_ignore", 1)
    host.ask(elsewhere)
    assert not answered(host)
    host.ask(US, spa=FAR)
    assert answered(host)
    host.sysctl("conf.all.arp_ignore", 2)
    host.ask(US, spa=FAR)
    assert not answered(host)
    host.ask(US)
    assert answered(host)
    host.sysctl("conf.all.arp_ignore", 3)
    host.ask(US)
    assert answered(host)
    host.sysctl("conf.all.arp_ignore", 8)
    host.ask(US)
    assert not answered(host)


def test_arp_filter_answers_only_where_the_way_back_is(host: EthernetHost):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.sysctl("conf.eth0.arp_filter", 1)
    host.ask(US)
    assert answered(host)
    host.ask(US, spa=addr("172.16.0.9"))
    assert not answered(host)
    assert host.net.mib.tcp_ext.ArpFilter == 1


def test_arp_accept_within_our_networks(host: EthernetHost):
    host.sysctl("conf.eth0.arp_accept", 2)
    host.hear(ARPOP_REQUEST, OTHER_MAC, FAR, FAR)
    assert host.ipv4.arp.table.find(FAR, host.eth0) is None
    host.hear(ARPOP_REQUEST, OTHER_MAC, PEER, PEER)
    assert host.ipv4.arp.table.find(PEER, host.eth0) is not None


def test_requests_for_loopback_addresses_need_route_localnet(host: EthernetHost):
    host.ask(addr("127.0.0.1"))
    assert not answered(host)
    host.sysctl("conf.eth0.route_localnet", 1)
    host.ask(addr("127.0.0.1"))
    assert answered(host)


# -- asking


def test_the_packet_s_source_asks(host: EthernetHost):
    host.addresses.add(host.eth0, SECOND, 24)
    host.quiet()
    send(host, PEER, SECOND)
    assert [one[3] for one in host.asked()] == [SECOND]


@pytest.mark.parametrize(("announce", "asker"), [(0, "172.16.0.1"), (1, "10.0.0.1"), (2, "10.0.0.1")])
def test_arp_announce_chooses_who_asks(host: EthernetHost, announce: int, asker: str):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.sysctl("conf.all.arp_announce", announce)
    host.quiet()
    send(host, PEER, addr("172.16.0.1"))
    assert [one[3] for one in host.asked()] == [addr(asker)]


def test_packets_to_a_gateway_ask_for_the_gateway(host: EthernetHost):
    send(host, FAR)
    assert [one[5] for one in host.asked()] == [ROUTER]
    host.answer(ROUTER)
    (sent,) = host.sent()
    assert sent.daddr == FAR


def test_broadcast_and_multicast_ask_for_nobody(host: EthernetHost):
    send(host, addr("255.255.255.255"))
    send(host, addr("10.0.0.255"))
    send(host, addr("239.1.2.3"))
    destinations = [frame[:6] for frame in host.drivers["eth0"].frames]
    assert destinations == [ethernet.BROADCAST, ethernet.BROADCAST, bytes.fromhex("01005e010203")]


def test_confirmed_by_an_upper_layer_it_is_not_probed(host: EthernetHost):
    send(host, PEER)
    host.answer()
    dst = host.af.route(Flow(PEER, ANY))
    host.asked()
    for _ in range(30):
        host.run(5)
        send(host, PEER)
        dst.confirm()
    assert host.asked() == []
    neigh = host.ipv4.arp.table.find(PEER, host.eth0)
    assert neigh is not None and neigh.state == NUD_REACHABLE


def test_a_forgotten_neighbour_is_found_anew_by_a_route_in_use(host: EthernetHost):
    send(host, PEER)
    host.answer()
    host.asked()
    host.ipv4.arp.table.remove(host.eth0, PEER)
    send(host, PEER)
    assert len(host.asked()) == 1
    host.answer()
    assert len(host.sent()) == 1


# -- who doesn't answer


def test_what_is_sent_to_a_host_that_is_not_there_comes_back_as_an_error(host: EthernetHost):
    send(host, PEER)
    host.run(4)
    assert host.dropped(DropReason.NEIGH_FAILED) == 1
    (report,) = host.udp.errors
    assert (report.errno, report.icmp_type, report.icmp_code) == (errno.EHOSTUNREACH, 3, icmp.ICMP_HOST_UNREACH)
    assert (report.saddr, report.daddr) == (US, PEER)


def test_the_sender_of_a_forwarded_packet_is_told(host: EthernetHost):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.sysctl("ip_forward", 1)
    host.quiet()
    send(host, PEER)
    host.answer()
    host.sent()
    data = packet(b"12345678", daddr=addr("172.16.0.9"), protocol=17)
    host.frame(data, ethernet.ETH_P_IP)
    host.run(4)
    answers = [sent for sent in host.sent() if sent.protocol == 1]
    assert [icmp.parse(sent.checked(), 0)[:2] for sent in answers] == [(icmp.ICMP_DEST_UNREACH, icmp.ICMP_HOST_UNREACH)]
    assert answers[0].daddr == PEER
    # What it quotes is the packet as it would have left, with one less to live.
    assert answers[0].payload[8 + 8] == 63


def test_frames_for_another_host_are_no_business_of_ours(host: EthernetHost):
    host.frame(packet(b"12345678", protocol=17), ethernet.ETH_P_IP, PEER_MAC, OTHER_MAC)
    assert host.udp.received == []
