"""Forwarding: TTL, MTU, redirects, counters, and what a router answers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.ip.v4.host import FAR, PEER, ROUTER, US, Host, Recorder, Sent, addr, packet
from tests.support.compiled import interpreted_only
from usernet.net.hooks import NF_DROP, Hooks
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_NONE, NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4, SKBuff
from usernet.sock.inet import InetSock
from usernet.sock.sock import SOCK_RAW
from usernet.transport.tcp.offload import TcpOffload
from usernet.wire import icmp, ipv4, tcp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

INSIDE = addr("172.16.0.9")


@pytest.fixture
def router(host: Host) -> Host:
    """`host` with a second device, eth1 in 172.16/16, that forwards."""
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    host.sysctl("ip_forward", 1)
    host.run()
    host.sent("eth1")
    return host


def through(**other: object) -> bytes:
    return packet(b"12345678", daddr=INSIDE, protocol=17, **other)  # type: ignore[arg-type]


def errors(host: Host) -> list[tuple[int, int, int]]:
    return [icmp.parse(sent.checked(), 0)[:2] + (icmp.parse(sent.payload, 0)[3],) for sent in host.sent()]


def test_a_packet_goes_on_with_one_less_to_live(router: Host):
    router.receive(through(tos=0x10))
    (sent,) = router.sent("eth1")
    assert (sent.saddr, sent.daddr, sent.ttl, sent.tos, sent.payload) == (PEER, INSIDE, 63, 0x10, b"12345678")
    assert router.net.mib.ip.ForwDatagrams == 1
    assert router.net.mib.ip.OutTransmits == 1 and router.net.mib.ip.OutRequests == 0
    assert router.udp.received == []


def test_the_tos_byte_gives_the_priority(router: Host):
    given: list[int] = []
    router.net.trace.net_dev_xmit.attach(lambda skb, accepted: given.append(skb.priority))
    router.receive(through(tos=0x10))
    router.receive(through(tos=0x08))
    assert given == [6, 2]


def test_a_host_does_not_forward(router: Host):
    router.sysctl("ip_forward", 0)
    router.receive(through())
    assert router.sent("eth1") == [] and router.sent() == []
    assert router.net.mib.ip.InAddrErrors == 1


def test_forwarding_is_by_device_too(router: Host):
    assert router.net.sysctl["net.ipv4.conf.eth1.forwarding"] == 1
    router.sysctl("conf.eth0.forwarding", 0)
    router.receive(through())
    assert router.sent("eth1") == []
    assert router.net.mib.ip.Forwarding == 1


@pytest.mark.parametrize("ttl", [0, 1])
def test_time_exceeded(router: Host, ttl: int):
    router.receive(through(ttl=ttl))
    assert router.sent("eth1") == []
    assert errors(router) == [(icmp.ICMP_TIME_EXCEEDED, icmp.ICMP_EXC_TTL, 0)]
    assert router.net.mib.ip.InHdrErrors == 1
    assert router.dropped(DropReason.IP_TTL) == 1


def test_too_long_for_the_next_link(router: Host):
    router.devices.set_mtu(router.devices["eth1"], 600)
    big = packet(bytes(1000), daddr=INSIDE, protocol=17, frag_off=ipv4.IP_DF)
    router.receive(big)
    assert router.sent("eth1") == []
    assert errors(router) == [(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 600)]
    assert router.net.mib.ip.FragFails == 1
    router.receive(packet(bytes(1000), daddr=INSIDE, protocol=17))
    sizes = [sent.tot_len for sent in router.sent("eth1")]
    assert len(sizes) == 2 and max(sizes) <= 600
    assert router.net.mib.ip.FragOKs == 1 and router.net.mib.ip.FragCreates == 2


def test_the_way_back_to_the_sender_is_told(router: Host):
    for count in range(12):
        router.receive(packet(b"12345678", daddr=FAR, protocol=17))
        router.run(0.001 if count else 0)
    answers = [sent for sent in router.sent() if sent.protocol == 1]
    kind, code, _, gateway = icmp.parse(answers[0].checked(), 0)
    assert (kind, code, gateway) == (icmp.ICMP_REDIRECT, icmp.ICMP_REDIR_HOST, int.from_bytes(ROUTER, "big"))
    assert len(answers) == 1


def test_redirects_become_rarer_and_stop(router: Host):
    router.sysctl("icmp_ratelimit", 0)
    sent = []
    for _ in range(200):
        router.receive(packet(b"12345678", daddr=FAR, protocol=17))
        sent.append(sum(answer.protocol == 1 for answer in router.sent()))
        router.run(0.1)
    assert sum(sent) == 9
    times = [index for index, count in enumerate(sent) if count]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps) and gaps[-1] > 20
    # Silence for redirect_silence starts it anew.
    router.run(30)
    router.receive(packet(b"12345678", daddr=FAR, protocol=17))
    assert any(answer.protocol == 1 for answer in router.sent())


def test_no_redirects_where_not_wanted(router: Host):
    router.sysctl("conf.all.send_redirects", 0)
    router.sysctl("conf.eth0.send_redirects", 0)
    router.receive(packet(b"12345678", daddr=FAR, protocol=17))
    assert [sent.protocol for sent in router.sent()] == [17]


@interpreted_only
def test_the_memory_of_who_was_told_is_bounded(router: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.ip.v4.forward.MAX_PEERS", 3)
    for last in range(10, 20):
        router.receive(packet(b"12345678", saddr=bytes([10, 0, 0, last]), daddr=FAR, protocol=17))
    assert len(router.ipv4.forward._told) == 3


def test_directed_broadcasts_are_forwarded_where_both_settings_say_so(router: Host):
    data = packet(b"12345678", daddr=addr("172.16.255.255"), protocol=17)
    router.receive(data)
    assert router.sent("eth1") == [] and len(router.udp.received) == 1
    router.sysctl("conf.all.bc_forwarding", 1)
    router.sysctl("conf.eth0.bc_forwarding", 1)
    router.receive(data)
    assert [sent.daddr for sent in router.sent("eth1")] == [addr("172.16.255.255")]


def test_forwarded_packets_pass_the_hook(router: Host):
    router.net.get(Hooks).forward.register(lambda skb, indev, outdev: NF_DROP)
    router.receive(through())
    assert router.sent("eth1") == []
    assert router.dropped(DropReason.NETFILTER_DROP) == 1


def test_recorded_routes_name_the_way_out(router: Host):
    router.receive(through(options=ipv4.build_record_route(2)))
    (sent,) = router.sent("eth1")
    assert addr("172.16.0.1") in sent.options


def test_a_router_alert_goes_to_the_socket_that_wants_it(router: Host):
    sk = InetSock(router.net, router.af, SOCK_RAW, 46)
    sk.num = 46
    router.af.setsockopt(sk, 5, b"\1")
    data = packet(b"12345678", daddr=INSIDE, protocol=46, options=ipv4.router_alert())
    router.receive(data)
    assert router.sent("eth1") == []
    assert sk.receive_queue.qlen == 1
    router.receive(through(options=ipv4.router_alert()))
    assert len(router.sent("eth1")) == 1
    router.af.drop_memberships(sk)
    router.receive(data)
    assert len(router.sent("eth1")) == 1
    sk.destroy()


def test_the_received_bytes_are_not_touched(router: Host):
    seen: list[bytes] = []
    data = through()
    router.net.trace.netif_receive_skb.attach(lambda skb: seen.append(skb.head))
    router.receive(data)
    assert seen == [data] == [through()]


class Whole(Recorder):
    """A NIC that takes super-segments, and keeps them as they are."""

    hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO

    def __init__(self) -> None:
        super().__init__(ARPHRD_NONE)
        self.packets: list[SKBuff] = []

    def xmit(self, skb: SKBuff) -> bool:
        self.packets.append(skb)
        return True


def super_segment(dev: NetDevice, payload: int, mss: int, frag_off: int = ipv4.IP_DF) -> SKBuff:
    length = 20 + 20 + payload
    header = tcp.build(80, 1000, 1, 1, 16, 100, pseudo_sum(PEER, INSIDE, 6, length - 20), 0)
    skb = SKBuff(ipv4.build(0, length, 9, frag_off, 64, 6, PEER, INSIDE) + header)
    skb.add_frag(bytes(range(256)) * (payload // 256))
    skb.dev = dev
    skb.network_header = 0
    skb.protocol = 0x0800
    skb.ip_summed = CHECKSUM_PARTIAL
    skb.csum_start = 20 + 0
    skb.csum_offset = 16
    skb.gso_size = mss
    skb.gso_segs = -(-payload // mss)
    skb.gso_type = SKB_GSO_TCPV4
    return skb


def give(host: Host, skb: SKBuff) -> None:
    host.net.loop.enter()
    host.eth0.receive(skb)
    host.net.loop.leave()


def test_a_super_segment_is_forwarded_whole(router: Host):
    router.net.get(TcpOffload)
    nic = Whole()
    eth2 = router.add_device("eth2", nic)
    router.addresses.add(eth2, addr("172.17.0.1"), 16)
    router.routes.add(INSIDE, 32, dev=eth2)
    give(router, super_segment(router.eth0, 4096, 1024))
    (skb,) = nic.packets
    assert (skb.gso_size, skb.len, skb.ip_summed) == (1024, 4136, CHECKSUM_PARTIAL)
    assert skb.head[skb.data + 8] == 63
    assert skb.csum_start == skb.data + 20


def test_a_super_segment_is_split_for_a_simple_device(router: Host):
    router.net.get(TcpOffload)
    give(router, super_segment(router.eth0, 4096, 1024))
    sent = router.sent("eth1")
    assert [len(one.payload) for one in sent] == [1044] * 4
    assert [one.ident for one in sent] == [9, 10, 11, 12]
    for one in sent:
        assert one.ttl == 63
        total = csum(one.payload, 0, len(one.payload), pseudo_sum(PEER, INSIDE, 6, len(one.payload)))
        assert csum_fold(total) == 0


def test_segments_too_long_for_the_next_link(router: Host):
    router.net.get(TcpOffload)
    router.devices.set_mtu(router.devices["eth1"], 600)
    give(router, super_segment(router.eth0, 4096, 1024))
    assert router.sent("eth1") == []
    assert errors(router) == [(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 600)]
    give(router, super_segment(router.eth0, 4096, 1024, frag_off=0))
    sent: list[Sent] = router.sent("eth1")
    assert len(sent) == 8 and max(one.tot_len for one in sent) <= 600
    assert US not in {one.saddr for one in sent}
