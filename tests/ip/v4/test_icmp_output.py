"""Errors that are sent: the rules of RFC 1122 section 3.2.2 and RFC 1812 section 4.3.2, and the limits."""

from __future__ import annotations

import pytest

from tests.ip.v4.host import FAR, PEER, ROUTER, US, Host, addr, packet
from usernet.skbuff.skbuff import PACKET_BROADCAST, PACKET_MULTICAST, SKBuff
from usernet.wire import icmp, ipv4

UNKNOWN = 200
"""A protocol that nobody has: its packets are answered with "protocol unreachable"."""


def unknown(payload: bytes = b"12345678", **fields: bytes | int) -> bytes:
    return packet(payload, protocol=UNKNOWN, **fields)  # type: ignore[arg-type]


def test_an_error_quotes_the_packet(host: Host) -> None:
    data = unknown(tos=0x2F)
    host.receive(data)
    [error] = host.sent()
    assert (error.saddr, error.daddr, error.ttl, error.protocol) == (US, PEER, 64, 1)
    # "Internetwork control", and neither ECN nor more than the old TOS bits.
    assert error.tos == 0xCE
    assert error.frag_off == 0
    assert error.checked() == icmp.build(icmp.ICMP_DEST_UNREACH, icmp.ICMP_PROT_UNREACH, 0, data)
    assert host.net.mib.icmp.OutMsgs == 1
    assert host.net.mib.icmp.OutDestUnreachs == 1
    assert host.net.mib.icmp_msg["OutType3"] == 1


def test_at_most_576_bytes_are_sent(host: Host) -> None:
    data = unknown(bytes(1400))
    host.receive(data)
    [error] = host.sent()
    assert error.tot_len == 576
    assert error.payload[8:] == data[:548]


def test_a_small_mtu_leaves_less_room(host: Host) -> None:
    host.devices.set_mtu(host.eth0, 100)
    host.receive(unknown(bytes(70)))
    [error] = host.sent()
    assert error.tot_len == 100
    host.devices.set_mtu(host.eth0, 68)
    host.receive(unknown(bytes(40)))
    [error] = host.sent()
    assert error.tot_len == 68
    assert error.options == b""


def test_options_are_echoed_and_take_their_room(host: Host) -> None:
    host.receive(unknown(bytes(1000), options=ipv4.build_record_route(2)))
    [error] = host.sent()
    assert error.tot_len == 576
    assert error.options == b"\x07\x0b\x0c" + US + US + b"\0"


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12, 1, 19, 200])
def test_never_about_an_error(host: Host, kind: int) -> None:
    """An ICMP error that goes to a port of ours that nobody has gives no other; an unknown type counts as one."""
    skb = SKBuff(packet(icmp.build(kind, 0, 0, bytes(28))))
    skb.network_header = 0
    skb.dev = host.eth0
    host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, 3)
    assert host.sent() == []


@pytest.mark.parametrize("kind", [0, 8, 13, 18])
def test_about_a_query(host: Host, kind: int) -> None:
    skb = SKBuff(packet(icmp.build(kind, 0, 0, bytes(28))))
    skb.network_header = 0
    skb.dev = host.eth0
    host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, 3)
    assert len(host.sent()) == 1


def test_never_about_a_later_fragment(host: Host) -> None:
    skb = SKBuff(unknown(frag_off=1))
    skb.network_header = 0
    skb.dev = host.eth0
    host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, 3)
    assert host.sent() == []


@pytest.mark.parametrize("daddr", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_never_about_what_was_sent_to_many(host: Host, daddr: str) -> None:
    host.receive(unknown(daddr=addr(daddr)))
    assert host.sent() == []


def test_never_to_many(host: Host) -> None:
    """The source is the broadcast address of a link, which passes for a sender where rp_filter is off."""
    host.receive(unknown(saddr=addr("10.0.0.255")))
    assert host.sent() == []
    assert host.net.mib.icmp.OutMsgs == 0


@pytest.mark.parametrize("pkt_type", [PACKET_BROADCAST, PACKET_MULTICAST])
def test_never_about_a_frame_to_many(host: Host, pkt_type: int) -> None:
    host.receive(unknown(), pkt_type=pkt_type)
    assert host.sent() == []


def test_never_about_a_header_that_is_cut(host: Host) -> None:
    skb = SKBuff(unknown()[:19])
    skb.network_header = 0
    host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, 3)
    skb.network_header = -1
    host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, 3)
    assert host.sent() == []


def test_without_an_address_the_dummy_is_the_source(host: Host) -> None:
    """RFC 7600: 192.0.0.8."""
    host.addresses.remove(host.eth0, US)
    host.addresses.remove(host.devices["lo"], addr("127.0.0.1"))
    host.routes.add(bytes(4), 0, dev=host.eth0, replace=True)
    skb = SKBuff(unknown(daddr=FAR))
    skb.network_header = 0
    skb.dev = host.eth0
    host.icmp.send(skb, icmp.ICMP_TIME_EXCEEDED, 0)
    [error] = host.sent()
    assert error.saddr == addr("192.0.0.8")


@pytest.mark.parametrize(("inbound", "saddr"), [(0, "10.0.0.1"), (1, "10.1.0.1")])
def test_a_routers_source_address(host: Host, inbound: int, saddr: str) -> None:
    """A packet on its way elsewhere: the error comes from where it leaves by, or, if asked for, from where it came."""
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("10.1.0.1"), 24)
    host.sysctl("icmp_errors_use_inbound_ifaddr", inbound)
    host.sysctl("ip_forward", 1)
    host.receive(packet(b"12345678", saddr=PEER, daddr=FAR, ttl=1, protocol=17), dev=eth1)
    errors = host.sent()
    assert [error.saddr for error in errors] == [addr(saddr)]
    assert errors[0].payload[:2] == b"\x0b\0"


def test_one_host_gets_six_at_once_and_one_each_second(host: Host) -> None:
    for _ in range(10):
        host.receive(unknown())
    assert len(host.sent()) == 6
    assert host.net.mib.icmp.OutRateLimitHost == 4
    host.run(1.0)
    for _ in range(3):
        host.receive(unknown())
    assert len(host.sent()) == 1
    host.receive(unknown(saddr=addr("10.0.0.77")))
    assert len(host.sent()) == 1


def test_the_ratelimit_is_in_milliseconds(host: Host) -> None:
    host.sysctl("icmp_ratelimit", 0)
    for _ in range(10):
        host.receive(unknown())
    assert len(host.sent()) == 10


def test_types_outside_the_mask_are_not_limited(host: Host) -> None:
    host.sysctl("icmp_ratemask", 0)
    for _ in range(100):
        host.receive(unknown())
    assert len(host.sent()) == 100
    assert host.net.mib.icmp.OutRateLimitGlobal == 0


def test_fragmentation_needed_is_never_limited(host: Host) -> None:
    host.sysctl("icmp_msgs_per_sec", 0)
    for _ in range(10):
        skb = SKBuff(unknown())
        skb.network_header = 0
        skb.dev = host.eth0
        host.icmp.send(skb, icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 1000)
    assert len(host.sent()) == 10


def test_all_together_get_a_burst_of_fifty(host: Host) -> None:
    for number in range(200):
        host.receive(unknown(saddr=bytes((10, 0, 0, 3 + number))))
    # A message takes none, one or two credits, so that nobody can count them.
    sent = len(host.sent())
    assert 25 <= sent <= 100
    assert host.net.mib.icmp.OutRateLimitGlobal == 200 - sent
    host.run(1.0)
    host.receive(unknown(saddr=bytes((10, 0, 0, 210))))
    assert len(host.sent()) == 1


def test_answers_can_be_limited_too(host: Host) -> None:
    host.sysctl("icmp_ratemask", 1)
    for _ in range(10):
        host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 1, b"")))
    assert len(host.sent()) == 6
    assert host.net.mib.icmp.OutRateLimitHost == 4


def test_loopback_is_not_limited(host: Host) -> None:
    loopback = addr("127.0.0.1")
    for _ in range(10):
        host.receive(unknown(saddr=loopback, daddr=loopback), dev=host.devices["lo"])
    assert host.net.mib.icmp.OutDestUnreachs == 10
    assert host.net.mib.icmp.OutRateLimitHost == 0


def test_an_error_about_a_packet_of_its_own_comes_back(host: Host) -> None:
    """What the output path finds out of a packet being sent is told to this host's own transport."""
    inner = SKBuff(packet(b"12345678", saddr=US, daddr=FAR, protocol=17))
    inner.network_header = 0
    host.net.loop.enter()
    host.icmp.send(inner, icmp.ICMP_DEST_UNREACH, icmp.ICMP_HOST_UNREACH)
    host.net.loop.leave()
    host.run()
    [report] = host.udp.errors
    assert (report.offender, report.daddr, report.icmp_code) == (US, FAR, 1)
    assert host.sent() == []


def test_no_route_back_no_error(host: Host) -> None:
    host.routes.remove(bytes(4), 0)
    host.receive(unknown(saddr=FAR))
    assert host.sent() == []
    assert host.net.mib.icmp.OutMsgs == 0


def test_a_source_routed_packets_error_takes_the_route_back(host: Host) -> None:
    host.net.sysctl["net.ipv4.conf.all.accept_source_route"] = 1
    route = ipv4.build_source_route(ipv4.IPOPT_LSRR, [ROUTER])
    # Its pointer is behind the one hop, which it has passed.
    taken = route[:2] + b"\x08" + route[3:]
    host.receive(unknown(options=taken))
    [error] = host.sent()
    assert error.daddr == ROUTER
    assert error.options == ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [PEER]))
