"""Header options of received packets: RFC 791 section 3.1, RFC 1122 section 3.2.1.8, RFC 1812 section 5.2.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import FAR, PEER, ROUTER, START, US, Host, addr, packet
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_BROADCAST
from usernet.wire import icmp, ipv4

NOW = (START // 1_000_000 % 86_400_000).to_bytes(4, "big")
ALIAS = addr("10.0.0.3")


def received(host: Host, options: bytes, **fields: bytes | int) -> bytes | None:
    """The options as the transport sees them; None where the packet was dropped."""
    before = len(host.udp.packets)
    host.receive(packet(b"12345678", protocol=17, options=options, **fields))  # type: ignore[arg-type]
    if len(host.udp.packets) == before:
        return None
    skb = host.udp.packets[-1]
    head = skb.head
    at = skb.network_header
    hlen = (head[at] & 15) * 4
    assert ipv4.header_csum_ok(head, at, hlen)
    return head[at + 20 : at + hlen]


def test_options_of_no_meaning_here_are_left(host: Host) -> None:
    for options in (b"\x01\x01\x01\0", b"\x82\x0b" + bytes(9) + b"\0", b"\x86\x06\0\0\0\x01\0\0", b"\x1e\x04\xab\xcd"):
        assert received(host, options) == options
    assert host.net.mib.ip.InHdrErrors == 0


def test_what_follows_the_end_is_cleared(host: Host) -> None:
    assert received(host, b"\x01\0\xab\xcd") == b"\x01\0\0\0"


def test_a_record_route_gets_the_address(host: Host) -> None:
    assert received(host, ipv4.build_record_route(2)) == b"\x07\x0b\x08" + US + bytes(4) + b"\0"


def test_a_full_record_route_is_left(host: Host) -> None:
    full = b"\x07\x07\x08" + FAR + b"\0"
    assert received(host, full) == full


def test_a_broadcast_records_the_address_of_the_answer(host: Host) -> None:
    options = received(host, ipv4.build_record_route(1), daddr=addr("10.0.0.255"))
    assert options == b"\x07\x07\x08" + US + b"\0"


def test_timestamps(host: Host) -> None:
    assert received(host, ipv4.build_timestamp(ipv4.IPOPT_TS_TSONLY, 2)) == b"\x44\x0c\x09\0" + NOW + bytes(4)
    both = ipv4.build_timestamp(ipv4.IPOPT_TS_TSANDADDR, 2)
    assert received(host, both) == b"\x44\x14\x0d\x01" + US + NOW + bytes(8)
    ours = ipv4.build_timestamp(ipv4.IPOPT_TS_PRESPEC, 2, [US, PEER])
    assert received(host, ours) == b"\x44\x14\x0d\x03" + US + NOW + PEER + bytes(4)
    others = ipv4.build_timestamp(ipv4.IPOPT_TS_PRESPEC, 2, [FAR, US])
    assert received(host, others) == others


def test_a_timestamp_without_room_counts(host: Host) -> None:
    full = b"\x44\x08\x09\x20" + bytes(4)
    assert received(host, full) == b"\x44\x08\x09\x30" + bytes(4)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        (b"\x07\x01\0\0", 20),  # a length that holds not even itself
        (b"\x01\x07\x09\x04", 21),  # longer than the header
        (b"\x07\x07\x03" + bytes(5), 22),  # a pointer into the option's own head
        (b"\x07\x08\x06" + bytes(5), 22),  # a last slot that is cut
        (b"\x07\x03\x04\x07\x03\x04\0\0", 23),  # twice
        (b"\x44\x03\x05\0", 21),
        (b"\x44\x08\x04\0" + bytes(4), 22),
        (b"\x44\x08\x05\x01" + bytes(4), 22),  # no room for address and time
        (b"\x44\x08\x09\xf0" + bytes(4), 23),  # an overflow count that is full
        (b"\x94\x03\0\0", 21),
        (b"\x83\x03\x02\0", 22),
        (b"\x01\x01\x01\x07", 23),  # no length
    ],
)
def test_a_bad_option_is_pointed_at(host: Host, options: bytes, pointer: int) -> None:
    assert received(host, options) is None
    [problem] = host.sent()
    kind, code, _, rest = icmp.parse(problem.checked(), 0)
    assert (kind, code, rest) == (icmp.ICMP_PARAMETERPROB, 0, pointer << 24)
    assert host.net.mib.ip.InHdrErrors == 1
    assert host.dropped(DropReason.IP_OPTIONS) == 1


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=20))
def test_any_options_are_survived(options: bytes, payload: bytes) -> None:
    host = Host()
    host.net.sysctl["net.ipv4.conf.all.accept_source_route"] = 1
    for protocol in (1, 17, 200):
        host.receive(packet(icmp.build(8, 0, 0, payload), protocol=protocol, options=options))
    host.run()
    host.sent()
    host.close()


# -- source routes


def source_route(*hops: bytes, kind: int = ipv4.IPOPT_LSRR) -> bytes:
    return ipv4.build_source_route(kind, hops)


def test_source_routes_are_refused(host: Host) -> None:
    assert received(host, source_route(FAR)) is None
    assert host.dropped(DropReason.IP_OPTIONS) == 1
    assert host.sent() == []


@pytest.fixture
def router(host: Host) -> Host:
    host.net.sysctl["net.ipv4.conf.all.accept_source_route"] = 1
    host.sysctl("ip_forward", 1)
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("10.1.0.1"), 24)
    host.addresses.add(host.eth0, ALIAS, 24)
    return host


def test_a_source_route_leads_on(router: Host) -> None:
    hop = addr("10.1.0.9")
    router.receive(packet(b"12345678", protocol=17, options=source_route(hop, FAR)))
    [passed] = router.sent("eth1")
    assert passed.daddr == hop
    assert passed.saddr == PEER
    assert passed.options == b"\x83\x0b\x08" + addr("10.1.0.1") + FAR + b"\0"
    assert passed.ttl == 63


def test_hops_that_are_this_host_are_stepped_over(router: Host) -> None:
    hop = addr("10.1.0.9")
    router.receive(packet(b"12345678", protocol=17, options=source_route(ALIAS, hop)))
    [passed] = router.sent("eth1")
    assert passed.daddr == hop
    assert passed.options[2] == 12
    assert passed.options[7:11] == addr("10.1.0.1")


def test_a_source_route_that_ends_here_is_delivered(router: Host) -> None:
    route = source_route(FAR)
    ended = route[:2] + b"\x08" + route[3:] + b"\0"
    assert received(router, ended) == ended
    assert received(router, source_route(ALIAS)) == source_route(ALIAS) + b"\0"
    assert router.udp.packets[-1].daddr == ALIAS


def test_a_strict_route_may_not_come_by_another_way(router: Host) -> None:
    router.receive(
        packet(b"12345678", protocol=17, daddr=addr("10.1.0.9"), options=source_route(FAR, kind=ipv4.IPOPT_SSRR))
    )
    assert router.sent("eth1") == []
    [problem] = router.sent()
    assert icmp.parse(problem.payload, 0)[3] == 16 << 24


def test_a_loose_route_may(router: Host) -> None:
    router.receive(packet(b"12345678", protocol=17, daddr=addr("10.1.0.9"), options=source_route(FAR)))
    [passed] = router.sent("eth1")
    assert passed.options == source_route(FAR) + b"\0"


def test_a_strict_routes_next_hop_must_be_on_the_link(router: Host) -> None:
    router.receive(packet(b"12345678", protocol=17, options=source_route(FAR, kind=ipv4.IPOPT_SSRR)))
    [failed] = router.sent()
    assert icmp.parse(failed.payload, 0)[:2] == (icmp.ICMP_DEST_UNREACH, icmp.ICMP_SR_FAILED)


def test_a_source_route_with_half_a_hop(router: Host) -> None:
    router.receive(packet(b"12345678", protocol=17, options=b"\x83\x06\x04\0\0\0\0\0"))
    [problem] = router.sent()
    assert icmp.parse(problem.payload, 0)[3] == 22 << 24


@pytest.mark.parametrize("hop", ["10.1.0.255", "224.0.0.1", "255.255.255.255"])
def test_a_source_route_to_many_is_dropped(router: Host, hop: str) -> None:
    assert received(router, source_route(addr(hop))) is None
    assert router.sent() == router.sent("eth1") == []


def test_a_source_route_in_a_frame_to_many_is_dropped(router: Host) -> None:
    router.receive(packet(b"12345678", protocol=17, options=source_route(FAR)), pkt_type=PACKET_BROADCAST)
    assert router.dropped(DropReason.IP_OPTIONS) == 1


def test_a_record_route_that_passes_has_the_way_out(router: Host) -> None:
    router.receive(packet(b"12345678", protocol=17, daddr=addr("10.1.0.9"), options=ipv4.build_record_route(2)))
    [passed] = router.sent("eth1")
    assert passed.options == b"\x07\x0b\x08" + addr("10.1.0.1") + bytes(4) + b"\0"


def test_a_timestamp_that_passes_has_the_way_in(router: Host) -> None:
    stamp = ipv4.build_timestamp(ipv4.IPOPT_TS_TSANDADDR, 1)
    router.receive(packet(b"12345678", protocol=17, daddr=addr("10.1.0.9"), options=stamp))
    [passed] = router.sent("eth1")
    assert passed.options == b"\x44\x0c\x0d\x01" + US + NOW


# -- answers


def answer(host: Host, options: bytes) -> tuple[bytes, bytes]:
    """The options and destination of the answer to an echo request."""
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 0, b""), options=options))
    [reply] = host.sent()
    return reply.options, reply.daddr


def test_timestamps_of_answers(host: Host) -> None:
    options, _ = answer(host, ipv4.build_timestamp(ipv4.IPOPT_TS_TSANDADDR, 3))
    assert options == b"\x44\x1c\x15\x01" + (US + NOW) * 2 + bytes(8)
    options, _ = answer(host, b"\x44\x08\x09\x20" + bytes(4))
    assert options == b"\x44\x08\x09\x30" + bytes(4)


def test_a_router_alert_is_not_echoed(host: Host) -> None:
    assert answer(host, ipv4.router_alert())[0] == b""


def test_a_source_route_is_reversed(router: Host) -> None:
    route = source_route(ROUTER, addr("10.0.0.253"))
    ended = route[:2] + b"\x0c" + route[3:]
    options, daddr = answer(router, ended)
    assert daddr == addr("10.0.0.253")
    assert options == source_route(ROUTER, PEER) + b"\0"
