"""What this host sends: headers, identification, fragments, copies back to itself, and the counters."""

from __future__ import annotations

import errno

import pytest

from tests.ip.v4.host import FAR, PEER, US, Host, addr
from usernet.net.dst import RTAX_HOPLIMIT, RTAX_MTU
from usernet.net.hooks import NF_ACCEPT, NF_DROP, Hooks
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import Flow
from usernet.sock.inet import (
    IP_PMTUDISC_DO,
    IP_PMTUDISC_DONT,
    IP_PMTUDISC_INTERFACE,
    IP_PMTUDISC_PROBE,
    IP_PMTUDISC_WANT,
    InetSock,
)
from usernet.sock.sock import SOCK_DGRAM, SOCK_STREAM
from usernet.wire import ipv4


def segment(payload: bytes = b"payload!") -> SKBuff:
    skb = SKBuff()
    skb.add_frag(payload)
    skb.push_header(b"transport")
    skb.transport_header = 0
    return skb


def connected(host: Host, daddr: bytes = PEER) -> InetSock:
    sk = InetSock(host.net, host.af, SOCK_STREAM, 6)
    sk.saddr = sk.rcv_saddr = US
    sk.daddr = daddr
    return sk


def xmit(host: Host, sk: InetSock, skb: SKBuff | None = None) -> int:
    host.net.loop.enter()
    try:
        return host.af.xmit(sk, skb or segment(), sk.route())
    finally:
        host.net.loop.leave()


def send(host: Host, payload: bytes = b"payload!", daddr: bytes = PEER, **other: object) -> int:
    host.net.loop.enter()
    try:
        dst = host.af.route(Flow(daddr, bytes(4)))
        arguments = {"tos": 0, "ttl": 0, "dont_fragment": False} | other
        return host.af.xmit_skb(segment(payload), dst, dst.saddr, daddr, 17, **arguments)  # type: ignore[arg-type]
    finally:
        host.net.loop.leave()


# -- connected sockets


def test_a_connected_socket_s_packet(host: Host):
    sk = connected(host)
    sk.ip_id = 0xFFFF
    assert xmit(host, sk) == 0
    xmit(host, sk)
    first, second = host.sent()
    assert (first.saddr, first.daddr, first.protocol, first.ttl, first.tos) == (US, PEER, 6, 64, 0)
    assert first.payload == b"transportpayload!"
    assert (first.ident, second.ident) == (0xFFFF, 0)
    assert first.frag_off == ipv4.IP_DF
    mib = host.net.mib
    assert (mib.ip.OutRequests, mib.ip.OutTransmits, mib.ip_ext.OutOctets) == (2, 2, 74)


def test_the_short_cut_and_the_long_way_send_the_same(host: Host):
    sk = connected(host)
    xmit(host, sk)
    sk.ip_id = 0
    host.net.get(Hooks).post_routing.register(lambda skb, indev, outdev: NF_ACCEPT)
    xmit(host, sk)
    sk.ip_id = 0
    host.net.get(Hooks).local_out.register(lambda skb, indev, outdev: NF_ACCEPT)
    xmit(host, sk)
    first, second, third = host.sent()
    assert first.data == second.data == third.data


def test_the_short_cut_sets_the_offsets(host: Host):
    sk = connected(host)
    dst = sk.route()
    for _ in range(2):
        skb = segment()
        host.net.loop.enter()
        host.af.xmit(sk, skb, dst)
        host.net.loop.leave()
        assert (skb.network_header, skb.transport_header, skb.protocol) == (0, 20, 0x0800)
    host.sent()


@pytest.mark.parametrize(
    ("discovery", "frag_off"),
    [
        (IP_PMTUDISC_DONT, 0), (IP_PMTUDISC_WANT, ipv4.IP_DF), (IP_PMTUDISC_DO, ipv4.IP_DF), (IP_PMTUDISC_PROBE, 0),
        (IP_PMTUDISC_INTERFACE, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [b"", ipv4.ROUTER_ALERT])
def test_the_dont_fragment_bit(host: Host, discovery: int, frag_off: int, options: bytes):
    sk = connected(host)
    sk.pmtudisc = discovery
    sk.options = options
    xmit(host, sk)
    assert host.sent()[0].frag_off == frag_off


def test_no_dont_fragment_where_the_mtu_is_not_to_be_believed(host: Host):
    sk = connected(host, FAR)
    sk.route().update_pmtu(100)
    xmit(host, sk)
    assert host.sent()[0].frag_off == 0


def test_ttl_tos_and_their_defaults(host: Host):
    sk = connected(host)
    sk.tos, sk.ttl = 0x10, 7
    xmit(host, sk)
    sk.ttl = -1
    host.sysctl("ip_default_ttl", 99)
    xmit(host, sk)
    host.routes.add(PEER, 32, dev=host.eth0, metrics={RTAX_HOPLIMIT: 33})
    xmit(host, sk)
    assert [(sent.ttl, sent.tos) for sent in host.sent()] == [(7, 0x10), (99, 0x10), (33, 0x10)]
    assert host.net.mib.ip.DefaultTTL == 99


def test_options_of_a_socket(host: Host):
    sk = connected(host)
    sk.options = ipv4.pad_options(ipv4.build_record_route(2) + ipv4.build_timestamp(ipv4.IPOPT_TS_TSANDADDR, 1))
    xmit(host, sk)
    (sent,) = host.sent()
    assert sent.options.count(US) == 2
    assert sent.daddr == PEER


def test_a_source_route_starts_at_its_first_hop(host: Host):
    sk = connected(host, FAR)
    sk.options = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [PEER]))
    xmit(host, sk)
    (sent,) = host.sent()
    assert sent.daddr == PEER and FAR in sent.options
    sk.options = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_SSRR, [addr("192.0.2.77")]))
    xmit(host, sk)
    assert host.sent() == []
    assert host.dropped(DropReason.IP_OUTNOROUTES) == 1
    assert host.net.mib.ip.OutNoRoutes == 1


def test_segments_of_a_super_segment_take_identifications(host: Host):
    sk = connected(host)
    skb = segment(bytes(3000))
    skb.gso_segs = 3
    skb.gso_size = 1000
    skb.gso_type = 1
    xmit(host, sk, skb)
    assert sk.ip_id == 3


def test_a_packet_too_long_is_fragmented_or_its_sender_told(host: Host):
    sk = connected(host)
    sk.pmtudisc = IP_PMTUDISC_DONT
    xmit(host, sk, segment(bytes(2000)))
    assert len(host.sent()) == 2
    sk.pmtudisc = IP_PMTUDISC_DO
    assert xmit(host, sk, segment(bytes(2000))) == 1
    assert host.sent() == []
    assert host.net.mib.ip.FragFails == 1
    assert host.dropped(DropReason.PKT_TOO_BIG) == 1


def test_route_metrics_bound_the_length_too(host: Host):
    host.routes.add(PEER, 32, dev=host.eth0, metrics={RTAX_MTU: 600})
    sk = connected(host)
    sk.pmtudisc = IP_PMTUDISC_DONT
    xmit(host, sk)
    host.sent()
    xmit(host, sk, segment(bytes(1000)))
    assert [sent.tot_len <= 600 for sent in host.sent()] == [True, True]


# -- single packets


def test_one_packet(host: Host):
    assert send(host, tos=0x20, ttl=5) == 0
    (sent,) = host.sent()
    assert (sent.saddr, sent.daddr, sent.protocol, sent.tos, sent.ttl) == (US, PEER, 17, 0x20, 5)
    assert sent.payload == b"transportpayload!"


def test_the_short_cut_and_the_long_way_send_the_same_packet(host: Host):
    for _ in range(2):
        send(host, dont_fragment=True)
    host.net.get(Hooks).post_routing.register(lambda skb, indev, outdev: NF_ACCEPT)
    send(host, dont_fragment=True)
    assert len({one.data for one in host.sent()}) == 1
    assert host.net.mib.ip.OutTransmits == 3


def test_identification_is_counted_by_destination_and_not_guessable(host: Host):
    for _ in range(2):
        send(host)
    send(host, daddr=FAR)
    a, b, other = [sent.ident for sent in host.sent()]
    assert b == (a + 1) & 0xFFFF
    assert other != (b + 1) & 0xFFFF
    send(host, dont_fragment=True)
    assert host.sent()[0].ident == 0


def test_a_long_packet_is_fragmented(host: Host):
    send(host, bytes(range(256)) * 16)
    sent = host.sent()
    assert len(sent) == 3
    assert {one.ident for one in sent} == {sent[0].ident}
    assert b"".join(one.payload for one in sent) == b"transport" + bytes(range(256)) * 16
    assert host.net.mib.ip.FragCreates == 3 and host.net.mib.ip.OutRequests == 1
    assert host.net.mib.ip.OutTransmits == 3


def test_a_long_packet_with_dont_fragment_is_an_error(host: Host):
    with pytest.raises(OSError) as caught:
        send(host, bytes(2000), dont_fragment=True)
    assert caught.value.errno == errno.EMSGSIZE
    assert host.dropped(DropReason.PKT_TOO_BIG) == 1
    send(host, bytes(2000), dont_fragment=True, local_df=True)
    assert [one.frag_off for one in host.sent()] == [ipv4.IP_MF, 185]
    send(host, dont_fragment=True, local_df=True)
    assert host.sent()[0].frag_off == ipv4.IP_DF
    with pytest.raises(OSError):
        send(host, bytes(65536))


def test_a_learned_mtu_is_kept_to_by_fragments(host: Host):
    host.af.route(Flow(FAR, bytes(4))).update_pmtu(1000)
    send(host, bytes(1200), FAR)
    assert max(one.tot_len for one in host.sent()) <= 1000
    host.af.route(Flow(FAR, bytes(4))).update_pmtu(500)
    send(host, dont_fragment=True, local_df=True, daddr=FAR)
    assert host.sent()[0].frag_off == 0


def test_a_socket_that_probes_looks_at_the_link_only(host: Host):
    host.af.route(Flow(FAR, bytes(4))).update_pmtu(1000)
    sk = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    sk.pmtudisc = IP_PMTUDISC_PROBE
    host.net.loop.enter()
    dst = host.af.route(Flow(FAR, bytes(4)))
    skb = segment(bytes(1200))
    sk.charge_send(skb)
    host.af.xmit_skb(skb, dst, US, FAR, 17, 0, 0, True, sk)
    host.net.loop.leave()
    (sent,) = host.sent()
    assert sent.frag_off == ipv4.IP_DF and sent.tot_len == 1229
    assert sk.wmem_alloc == 0
    sk.destroy()


def test_multicast_and_unicast_ttl_of_a_socket(host: Host):
    sk = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    sk.ttl, sk.mc_ttl = 9, 3
    send(host, sk=sk)
    send(host, daddr=addr("239.1.2.3"), sk=sk)
    send(host, daddr=addr("239.1.2.3"))
    assert [one.ttl for one in host.sent()] == [9, 3, 1]
    sk.destroy()


def test_hooks_on_the_way_out(host: Host):
    hooks = host.net.get(Hooks)
    drop = {"out": False, "post": False}
    hooks.local_out.register(lambda skb, indev, outdev: NF_DROP if drop["out"] else NF_ACCEPT)
    hooks.post_routing.register(lambda skb, indev, outdev: NF_DROP if drop["post"] else NF_ACCEPT)
    send(host)
    drop["post"] = True
    assert send(host) == 1
    drop["out"] = True
    assert send(host) == 1
    assert len(host.sent()) == 1
    assert host.dropped(DropReason.NETFILTER_DROP) == 2


# -- to this host and to many


def test_to_ourselves(host: Host):
    send(host, daddr=US)
    host.run()
    assert host.udp.received == [b"transportpayload!"]
    assert host.sent() == []


def test_what_is_broadcast_comes_back_once(host: Host):
    send(host, daddr=addr("10.0.0.255"))
    send(host, daddr=addr("255.255.255.255"))
    host.run()
    assert [one.daddr for one in host.sent()] == [addr("10.0.0.255"), addr("255.255.255.255")]
    assert host.udp.received == [b"transportpayload!"] * 2
    ext = host.net.mib.ip_ext
    assert (ext.OutBcastPkts, ext.InBcastPkts) == (2, 2)


def test_multicast_comes_back_to_a_member_who_wants_it(host: Host):
    group = addr("239.1.2.3")
    send(host, daddr=group)
    host.run()
    assert host.udp.received == []
    host.ipv4.igmp.join(host.eth0, group)
    sk = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    for loop in (True, False):
        sk.mc_loop = loop
        host.net.loop.enter()
        dst = host.af.route(Flow(group, bytes(4)))
        skb = segment()
        sk.charge_send(skb)
        host.af.xmit_skb(skb, dst, dst.saddr, group, 17, 0, 0, False, sk)
        host.net.loop.leave()
        host.run()
    assert host.udp.received == [b"transportpayload!"]
    assert sum(one.protocol == 17 for one in host.sent()) == 3
    assert host.net.mib.ip_ext.InMcastPkts == 1
    sk.destroy()


def test_multicast_with_a_ttl_of_zero_stays_here(host: Host):
    group = addr("239.1.2.3")
    host.ipv4.igmp.join(host.eth0, group)
    host.run(5)
    host.sent()
    sk = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    sk.mc_ttl = 0
    send(host, daddr=group, sk=sk)
    host.run()
    assert host.sent() == []
    assert len(host.udp.received) == 1
    sk.destroy()


def test_a_full_neighbour_table_drops(host: Host):
    host.net.sysctl["net.ipv4.neigh.default.gc_thresh3"] = 0
    host.net.sysctl["net.ipv4.neigh.default.gc_thresh2"] = 0
    # The neighbour of a device without addresses of its own is new.
    eth1 = host.add_device("eth1")
    host.routes.add(addr("192.0.2.0"), 24, dev=eth1)
    assert send(host, daddr=FAR) == 1
    assert host.dropped(DropReason.NEIGH_CREATEFAIL) == 1
