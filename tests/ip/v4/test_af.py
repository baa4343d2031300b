"""IPv4 as transports see it."""

from __future__ import annotations

from tests.ip.v4.host import FAR, PEER, US, Host, addr, packet
from usernet.sock.af_ops import RTN_LOCAL, RTN_UNICAST
from usernet.wire import icmp
from usernet.wire.checksum import pseudo_sum


def test_the_family_is_ipv4(host: Host):
    af = host.af
    assert (af.family, af.addr_len, af.header_len, af.any, af.loopback) == (2, 4, 20, bytes(4), addr("127.0.0.1"))
    assert af.format(PEER) == "10.0.0.2"
    assert (af.addr_type(US), af.addr_type(PEER)) == (RTN_LOCAL, RTN_UNICAST)
    assert af.pseudo_sum(US, PEER, 6, 20) == pseudo_sum(US, PEER, 6, 20)


def test_the_way_back_of_a_received_packet(host: Host):
    host.receive(packet(b"12345678", saddr=FAR, protocol=17))
    skb = host.udp.packets[0]
    route = host.af.route_reply(skb)
    assert route is not None and (route.daddr, route.saddr) == (FAR, US)
    host.routes.remove(bytes(4), 0)
    assert host.af.route_reply(skb) is None


def test_errors_about_a_received_packet(host: Host):
    host.receive(packet(b"12345678", protocol=17))
    skb = host.udp.packets[0]
    host.net.loop.enter()
    host.af.unreachable_port(skb)
    host.af.send_error(skb, icmp.ICMP_PARAMETERPROB, 0, 20 << 24)
    host.net.loop.leave()
    assert [icmp.parse(sent.checked(), 0)[:2] for sent in host.sent()] == [
        (icmp.ICMP_DEST_UNREACH, icmp.ICMP_PORT_UNREACH), (icmp.ICMP_PARAMETERPROB, 0),
    ]  # fmt: skip


def test_header_of_a_packet_with_options(host: Host):
    host.receive(packet(b"12345678", protocol=17, tos=0x2E, ttl=3, options=b"\x01\x01\x01\x00"))
    assert host.af.header_of(host.udp.packets[0]) == (0x2E, 3, b"\x01\x01\x01\x00")
