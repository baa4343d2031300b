"""What becomes of a received packet: bad headers, padding, hooks, early demux, raw sockets, unknown protocols."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import FAR, PEER, ROUTER, US, Host, Transport, addr, packet
from usernet.net.hooks import NF_ACCEPT, NF_DROP, NF_STOLEN, Hooks
from usernet.net.protocols import Protocols
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_OTHERHOST, SKBuff
from usernet.wire import icmp, ipv4


def udp(payload: bytes = b"payload!", **other: int) -> bytes:
    return packet(payload, protocol=17, **other)  # type: ignore[arg-type]


def test_the_transport_gets_addresses_and_offsets(host: Host):
    host.receive(udp(b"12345678abc"))
    skb = host.udp.packets[0]
    assert (skb.saddr, skb.daddr, skb.af) == (PEER, US, host.af)
    assert (skb.network_header, skb.transport_header, skb.data) == (0, 20, 20)
    assert host.udp.received == [b"12345678abc"]
    assert skb.dst.local and not skb.dst.broadcast
    assert host.af.header_of(skb) == (0, 64, b"")
    mib = host.net.mib.ip
    assert (mib.InReceives, mib.InDelivers) == (1, 1)
    assert host.net.mib.ip_ext.InOctets == 31


def test_padding_is_trimmed(host: Host):
    host.receive(udp() + bytes(20))
    assert host.udp.received == [b"payload!"]


def test_options_go_before_the_transport(host: Host):
    host.receive(packet(b"payload!", protocol=17, options=ipv4.build_record_route(3)))
    assert host.udp.received == [b"payload!"]
    options = host.af.header_of(host.udp.packets[0])[2]
    assert US in options


def bad(data: bytes, at: int, value: int, fix: bool = True) -> bytes:
    """`data` with one header byte changed, and the checksum made right again."""
    changed = bytearray(data)
    changed[at] = value
    if fix:
        changed[10:12] = bytes(2)
        hlen = max((changed[0] & 15) * 4, 20)
        total = sum(changed[i] << 8 | changed[i + 1] for i in range(0, min(hlen, len(changed) - 1), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        changed[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DropReason.IP_INHDR),
        (udp()[:19], DropReason.IP_INHDR),
        (bad(udp(), 0, 0x55), DropReason.IP_INHDR),
        (bad(udp(), 0, 0x44), DropReason.IP_INHDR),
        (bad(udp(), 0, 0x4F), DropReason.IP_INHDR),
        (bad(udp(), 3, 19), DropReason.IP_INHDR),
        (bad(udp(), 8, 1, fix=False), DropReason.IP_CSUM),
        (bad(udp(options=ipv4.router_alert()), 8, 1, fix=False), DropReason.IP_CSUM),  # type: ignore[arg-type]
        (bad(udp(options=ipv4.router_alert()), 3, 20), DropReason.IP_INHDR),  # type: ignore[arg-type]
    ],
    ids=["empty", "cut", "version", "ihl 4", "ihl 15", "length", "checksum", "options' checksum", "options' length"],
)
def test_bad_headers(host: Host, data: bytes, reason: DropReason):
    host.receive(data)
    assert host.udp.received == [] and host.sent() == []
    assert host.dropped(reason) == 1
    assert host.net.mib.ip.InHdrErrors == 1
    assert host.net.mib.ip_ext.InCsumErrors == (reason == DropReason.IP_CSUM)


def test_a_truncated_packet(host: Host):
    host.receive(udp()[:-1])
    assert host.dropped(DropReason.PKT_TOO_SMALL) == 1
    assert host.net.mib.ip_ext.InTruncatedPkts == 1


def test_frames_for_others_are_left_alone(host: Host):
    host.receive(udp(), pkt_type=PACKET_OTHERHOST)
    assert host.net.mib.ip.InReceives == 0
    assert host.dropped(DropReason.OTHERHOST) == 1


def test_ecn_bits_are_counted(host: Host):
    for tos in (0, 1, 2, 3, 3):
        host.receive(udp(tos=tos))
    ext = host.net.mib.ip_ext
    assert (ext.InNoECTPkts, ext.InECT1Pkts, ext.InECT0Pkts, ext.InCEPkts) == (1, 1, 1, 2)


def test_a_header_in_fragments_of_memory_is_made_linear(host: Host):
    data = udp(options=ipv4.router_alert())  # type: ignore[arg-type]
    skb = SKBuff()
    for start in range(0, len(data), 7):
        skb.add_frag(data[start : start + 7])
    skb.dev = host.eth0
    skb.network_header = 0
    skb.protocol = 0x0800
    host.net.loop.enter()
    host.eth0.receive(skb)
    host.net.loop.leave()
    assert host.udp.received == [b"payload!"]


def test_fragments_are_put_together(host: Host):
    payload = bytes(range(16))
    host.receive(packet(payload[:8], protocol=17, frag_off=ipv4.IP_MF))
    assert host.udp.received == []
    host.receive(packet(payload[8:], protocol=17, frag_off=1))
    assert host.udp.received == [payload]
    assert (host.net.mib.ip.InReceives, host.net.mib.ip.InDelivers) == (2, 1)


def test_unknown_protocols_are_told_so(host: Host):
    host.receive(packet(b"12345678", protocol=253))
    assert host.net.mib.ip.InUnknownProtos == 1
    assert host.dropped(DropReason.IP_NOPROTO) == 1
    (answer,) = host.sent()
    assert icmp.parse(answer.checked(), 0)[:2] == (icmp.ICMP_DEST_UNREACH, icmp.ICMP_PROT_UNREACH)


def test_raw_sockets_see_packets_first_and_take_unknown_protocols(host: Host):
    seen: list[tuple[int, bytes]] = []

    def raw(skb: SKBuff, protocol: int) -> bool:
        seen.append((protocol, skb.tobytes()))
        return protocol == 253

    host.net.get(Protocols).raw_deliver = raw
    host.receive(udp())
    host.receive(packet(b"12345678", protocol=253))
    host.receive(packet(b"12345678", protocol=254))
    assert seen == [(17, b"payload!"), (253, b"12345678"), (254, b"12345678")]
    assert host.net.mib.ip.InDelivers == 2
    assert host.net.mib.ip.InUnknownProtos == 1


class Demux(Transport):
    """A transport that finds its sockets early."""

    def __init__(self) -> None:
        super().__init__()
        self.early: list[bytes] = []

    def early_demux(self, skb: SKBuff) -> bool:
        self.early.append(skb.head[skb.transport_header :])
        return True


def test_early_demux_comes_before_routing_but_not_for_fragments(host: Host):
    transport = Demux()
    host.net.get(Protocols).register(99, transport)
    host.receive(packet(b"12345678", protocol=99))
    assert transport.early == [b"12345678"]
    host.receive(packet(b"12345678", protocol=99, frag_off=ipv4.IP_MF))
    host.sysctl("ip_early_demux", 0)
    host.receive(packet(b"12345678", protocol=99))
    assert len(transport.early) == 1 and len(transport.received) == 2


def test_hooks_on_the_way_in(host: Host):
    hooks = host.net.get(Hooks)
    verdicts = {"pre": NF_ACCEPT, "in": NF_ACCEPT}
    seen: list[str] = []

    def pre(skb: SKBuff, indev: object, outdev: object) -> int:
        seen.append("pre")
        assert indev is host.eth0
        return verdicts["pre"]

    def local_in(skb: SKBuff, indev: object, outdev: object) -> int:
        seen.append("in")
        return verdicts["in"]

    hooks.pre_routing.register(pre)
    hooks.local_in.register(local_in)
    host.receive(udp())
    assert seen == ["pre", "in"] and len(host.udp.received) == 1
    verdicts["in"] = NF_DROP
    host.receive(udp())
    verdicts["pre"] = NF_STOLEN
    host.receive(udp())
    assert len(host.udp.received) == 1
    assert host.dropped(DropReason.NETFILTER_DROP) == 1
    assert seen == ["pre", "in", "pre", "in", "pre"]


def test_a_hook_may_change_where_a_packet_goes(host: Host):
    def rewrite(skb: SKBuff, indev: object, outdev: object) -> int:
        skb.daddr = US
        skb.store(skb.network_header, ipv4.build(0, skb.len, 7, 0, 64, 17, skb.saddr, US))
        return NF_ACCEPT

    host.net.get(Hooks).pre_routing.register(rewrite)
    host.receive(packet(b"payload!", daddr=FAR, protocol=17))
    assert host.udp.received == [b"payload!"]


def test_a_router_tells_that_there_is_no_route_within_limits(host: Host):
    host.sysctl("ip_forward", 1)
    host.routes.remove(bytes(4), 0)
    host.sysctl("icmp_ratelimit", 0)
    for _ in range(8):
        host.receive(packet(b"12345678", daddr=FAR, protocol=17))
    answers = host.sent()
    assert len(answers) == 5
    assert {icmp.parse(answer.checked(), 0)[:2] for answer in answers} == {
        (icmp.ICMP_DEST_UNREACH, icmp.ICMP_NET_UNREACH)
    }
    assert host.net.mib.ip_ext.InNoRoutes == 8
    host.run(1)
    host.receive(packet(b"12345678", daddr=FAR, protocol=17))
    assert len(host.sent()) == 1


@pytest.mark.parametrize(
    ("kind", "code"), [("unreachable", icmp.ICMP_HOST_UNREACH), ("prohibit", icmp.ICMP_PKT_FILTERED), ("blackhole", -1)]
)
def test_a_router_s_answer_depends_on_the_kind_of_route(host: Host, kind: str, code: int):
    host.sysctl("ip_forward", 1)
    number = {"blackhole": 6, "unreachable": 7, "prohibit": 8}[kind]
    host.routes.add(addr("192.0.2.0"), 24, kind=number)
    host.receive(packet(b"12345678", daddr=FAR, protocol=17))
    answers = [icmp.parse(answer.checked(), 0)[:2] for answer in host.sent()]
    assert answers == ([(icmp.ICMP_DEST_UNREACH, code)] if code >= 0 else [])


def test_source_routes_are_refused_and_may_be_allowed(host: Host):
    options = ipv4.build_source_route(ipv4.IPOPT_LSRR, [FAR])
    host.receive(packet(b"12345678", protocol=17, options=options))
    assert host.dropped(DropReason.IP_OPTIONS) == 1
    host.sysctl("conf.all.accept_source_route", 1)
    host.sysctl("ip_forward", 1)
    host.routes.add(addr("192.0.2.0"), 24, gateway=ROUTER)
    host.receive(packet(b"12345678", protocol=17, options=options))
    (passed,) = [sent for sent in host.sent() if sent.protocol == 17]
    assert passed.daddr == FAR
    assert US in passed.options


@given(st.binary(max_size=80))
def test_any_bytes_are_survived(data: bytes):
    host = Host()
    host.receive(data)
    host.run(60)
    host.close()


@given(
    st.binary(max_size=40).map(ipv4.pad_options).filter(lambda options: len(options) <= 40),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=64),
    st.booleans(),
)
def test_any_header_with_a_right_checksum_is_survived(
    options: bytes, frag_off: int, ttl: int, protocol: int, saddr: bytes, daddr: bytes, payload: bytes, router: bool
):  # fmt: skip
    host = Host()
    host.sysctl("ip_forward", int(router))
    host.sysctl("conf.all.accept_source_route", int(router))
    data = ipv4.build(0, 20 + len(options) + len(payload), 1, frag_off, ttl, protocol, saddr, daddr, options) + payload
    host.receive(data)
    host.receive(pack("!B", 0x45) + data[1:])
    for sent in host.sent():
        assert sent.ttl > 0
    host.run(60)
    host.close()
