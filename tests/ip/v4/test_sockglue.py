"""Socket options of level SOL_IP and IPv4's ancillary data, in Linux's layouts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import FAR, PEER, US, Host, addr, packet
from usernet.ip.v4 import sockglue
from usernet.ip.v4.fib4 import ANY
from usernet.skbuff.skbuff import PACKET_BROADCAST, SKBuff
from usernet.sock.af_ops import Flow
from usernet.sock.errqueue import ExtendedError, queue_error
from usernet.sock.inet import InetSock
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, SOCK_STREAM
from usernet.wire import ipv4


@pytest.fixture
def sk(host: Host) -> Iterator[InetSock]:
    sock = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    yield sock
    sock.destroy()


def put(sk: InetSock, option: int, value: int | bytes) -> None:
    sk.af.setsockopt(sk, option, value if isinstance(value, bytes) else pack("=i", value))


def get(sk: InetSock, option: int) -> int:
    value: int = unpack("=i", sk.af.getsockopt(sk, option, 4))[0]
    return value


def refused(sk: InetSock, option: int, value: int | bytes) -> int:
    with pytest.raises(OSError) as caught:
        put(sk, option, value)
    assert caught.value.errno is not None
    return caught.value.errno


def test_the_numbers_are_those_of_the_standard_module():
    for name in dir(sockglue):
        if name.startswith("IP_") and hasattr(socket, name):
            assert getattr(sockglue, name) == getattr(socket, name), name


@pytest.mark.parametrize(
    "option",
    [
        sockglue.IP_PKTINFO, sockglue.IP_RECVTTL, sockglue.IP_RECVTOS, sockglue.IP_RECVOPTS, sockglue.IP_RETOPTS,
        sockglue.IP_RECVORIGDSTADDR, sockglue.IP_RECVFRAGSIZE, sockglue.IP_RECVERR, sockglue.IP_FREEBIND,
        sockglue.IP_TRANSPARENT, sockglue.IP_MULTICAST_LOOP, sockglue.IP_MULTICAST_ALL, sockglue.IP_PASSSEC,
        sockglue.IP_BIND_ADDRESS_NO_PORT, sockglue.IP_RECVERR_RFC4884,
    ],
)  # fmt: skip
def test_switches(sk: InetSock, option: int):
    for value in (1, 0, 1):
        put(sk, option, value)
        assert get(sk, option) == value
    put(sk, option, b"\0")
    assert sk.af.getsockopt(sk, option, 1) == b"\0"


def test_ttl(sk: InetSock, host: Host):
    assert get(sk, sockglue.IP_TTL) == 64
    put(sk, sockglue.IP_TTL, 9)
    assert get(sk, sockglue.IP_TTL) == 9
    put(sk, sockglue.IP_TTL, -1)
    assert sk.ttl == -1
    for value in (0, 256, b""):
        assert refused(sk, sockglue.IP_TTL, value) == errno.EINVAL
    put(sk, sockglue.IP_MINTTL, 255)
    assert (sk.min_ttl, get(sk, sockglue.IP_MINTTL)) == (255, 255)
    assert refused(sk, sockglue.IP_MINTTL, 256) == errno.EINVAL


def test_tos_sets_the_priority_and_leaves_tcp_its_ecn_bits(sk: InetSock, host: Host):
    put(sk, sockglue.IP_TOS, 0x10)
    assert (sk.tos, sk.priority, get(sk, sockglue.IP_TOS)) == (0x10, 6, 0x10)
    put(sk, sockglue.IP_TOS, b"\x08")
    assert (sk.tos, sk.priority) == (0x08, 2)
    stream = InetSock(host.net, host.af, SOCK_STREAM, 6)
    stream.tos = 2
    put(stream, sockglue.IP_TOS, 0x13)
    assert stream.tos == 0x12
    stream.destroy()


def test_path_mtu_discovery_and_the_mtu(sk: InetSock):
    assert get(sk, sockglue.IP_MTU_DISCOVER) == 1
    for value in range(6):
        put(sk, sockglue.IP_MTU_DISCOVER, value)
        assert get(sk, sockglue.IP_MTU_DISCOVER) == value
    assert refused(sk, sockglue.IP_MTU_DISCOVER, 6) == errno.EINVAL
    with pytest.raises(OSError) as caught:
        get(sk, sockglue.IP_MTU)
    assert caught.value.errno == errno.ENOTCONN
    sk.daddr = FAR
    sk.route().update_pmtu(1300)
    assert get(sk, sockglue.IP_MTU) == 1300


def test_options_for_raw_sockets_only(sk: InetSock, host: Host):
    for option in (sockglue.IP_HDRINCL, sockglue.IP_NODEFRAG):
        assert refused(sk, option, 1) == errno.ENOPROTOOPT
    assert refused(sk, sockglue.IP_ROUTER_ALERT, 1) == errno.EINVAL
    raw = InetSock(host.net, host.af, SOCK_RAW, 99)
    raw.num = 99
    put(raw, sockglue.IP_HDRINCL, 1)
    assert raw.hdrincl and get(raw, sockglue.IP_PROTOCOL) == 99
    put(raw, sockglue.IP_ROUTER_ALERT, 1)
    assert get(raw, sockglue.IP_ROUTER_ALERT) == 1
    assert refused(raw, sockglue.IP_ROUTER_ALERT, 1) == errno.EADDRINUSE
    put(raw, sockglue.IP_ROUTER_ALERT, 0)
    assert refused(raw, sockglue.IP_ROUTER_ALERT, 0) == errno.ENOBUFS
    raw.destroy()


def test_multicast_settings(sk: InetSock, host: Host):
    put(sk, sockglue.IP_MULTICAST_TTL, 32)
    assert get(sk, sockglue.IP_MULTICAST_TTL) == 32
    put(sk, sockglue.IP_MULTICAST_TTL, -1)
    assert sk.mc_ttl == 1
    assert refused(sk, sockglue.IP_MULTICAST_TTL, 256) == errno.EINVAL
    assert refused(sk, sockglue.IP_MULTICAST_ALL, 2) == errno.EINVAL
    put(sk, sockglue.IP_MULTICAST_IF, US)
    assert (sk.mc_index, sk.af.getsockopt(sk, sockglue.IP_MULTICAST_IF, 4)) == (host.eth0.index, US)
    put(sk, sockglue.IP_MULTICAST_IF, bytes(8) + pack("=i", host.eth0.index))
    assert (sk.mc_index, sk.mc_addr) == (host.eth0.index, ANY)
    put(sk, sockglue.IP_MULTICAST_IF, bytes(8))
    assert sk.mc_index == 0
    assert refused(sk, sockglue.IP_MULTICAST_IF, PEER) == errno.EADDRNOTAVAIL
    assert refused(sk, sockglue.IP_MULTICAST_IF, bytes(8) + pack("=i", 99)) == errno.EADDRNOTAVAIL
    assert refused(sk, sockglue.IP_MULTICAST_IF, b"\1") == errno.EINVAL
    sk.bound_dev_if = 99
    assert refused(sk, sockglue.IP_MULTICAST_IF, US) == errno.EINVAL
    sk.bound_dev_if = 0
    put(sk, 35, addr("239.1.2.3") + US)
    assert len(sk.memberships) == 1
    sk.af.drop_memberships(sk)
    stream = InetSock(host.net, host.af, SOCK_STREAM, 6)
    assert refused(stream, sockglue.IP_MULTICAST_IF, US) == errno.EINVAL
    assert refused(stream, sockglue.IP_MULTICAST_TTL, 1) == errno.EINVAL
    stream.destroy()


def test_unicast_device(sk: InetSock, host: Host):
    put(sk, sockglue.IP_UNICAST_IF, host.eth0.index.to_bytes(4, "big"))
    assert sk.unicast_if == host.eth0.index
    assert sk.af.getsockopt(sk, sockglue.IP_UNICAST_IF, 4) == host.eth0.index.to_bytes(4, "big")
    assert refused(sk, sockglue.IP_UNICAST_IF, b"\0\0\0\x63") == errno.EADDRNOTAVAIL
    assert refused(sk, sockglue.IP_UNICAST_IF, b"\1") == errno.EINVAL
    sk.bound_dev_if = host.eth0.index
    assert refused(sk, sockglue.IP_UNICAST_IF, host.eth0.index.to_bytes(4, "big")) == errno.EINVAL
    put(sk, sockglue.IP_UNICAST_IF, bytes(4))
    assert sk.unicast_if == 0


def test_local_port_range(sk: InetSock):
    put(sk, sockglue.IP_LOCAL_PORT_RANGE, pack("=HH", 40000, 50000))
    assert sk.local_port_range == (40000, 50000)
    assert sk.af.getsockopt(sk, sockglue.IP_LOCAL_PORT_RANGE, 4) == pack("=HH", 40000, 50000)
    assert refused(sk, sockglue.IP_LOCAL_PORT_RANGE, pack("=HH", 5, 4)) == errno.EINVAL
    assert refused(sk, sockglue.IP_LOCAL_PORT_RANGE, b"\1\0\0\0\0\0\0\0") == errno.EINVAL


def test_ip_options(sk: InetSock):
    assert sk.af.getsockopt(sk, sockglue.IP_OPTIONS, 40) == b""
    options = ipv4.build_record_route(3)
    put(sk, sockglue.IP_OPTIONS, options)
    assert sk.options == ipv4.pad_options(options)
    assert sk.af.getsockopt(sk, sockglue.IP_OPTIONS, 40) == ipv4.pad_options(options)
    for bad in (bytes(41), b"\x07\x30\x04", b"\x07\x01"):
        assert refused(sk, sockglue.IP_OPTIONS, bad) == errno.EINVAL
    assert sk.options == ipv4.pad_options(options)
    put(sk, sockglue.IP_OPTIONS, b"")
    assert sk.options == b""


def test_turning_recverr_off_forgets_errors(sk: InetSock):
    put(sk, sockglue.IP_RECVERR, 1)
    queue_error(sk, ExtendedError(errno.EHOSTUNREACH, 2, 3, 1, 0, 0, None, None), SKBuff(b"quoted"))
    assert sk.error_queue is not None and sk.rmem_alloc
    put(sk, sockglue.IP_RECVERR, 0)
    assert sk.error_queue is None and sk.rmem_alloc == 0


def test_unknown_options(sk: InetSock):
    assert refused(sk, 200, 1) == errno.ENOPROTOOPT
    for option in (200, sockglue.IP_PKTOPTIONS):
        with pytest.raises(OSError) as caught:
            sk.af.getsockopt(sk, option, 4)
        assert caught.value.errno == errno.ENOPROTOOPT


def test_pktoptions_of_a_stream_socket(host: Host):
    stream = InetSock(host.net, host.af, SOCK_STREAM, 6)
    stream.rcv_saddr = US
    assert stream.af.getsockopt(stream, sockglue.IP_PKTOPTIONS, 200) == b""
    for option in (sockglue.IP_PKTINFO, sockglue.IP_RECVTTL, sockglue.IP_RECVTOS):
        put(stream, option, 1)
    value = stream.af.getsockopt(stream, sockglue.IP_PKTOPTIONS, 200)
    assert unpack("=Qii", value[:16]) == (28, 0, sockglue.IP_PKTINFO)
    assert value[20:28] == US + US
    assert len(value) == 32 + 24 + 24
    stream.destroy()


# -- ancillary data


def items(host: Host, sk: InetSock, data: bytes, pkt_type: int = 0) -> dict[int, bytes]:
    host.receive(data, pkt_type=pkt_type)
    skb = host.udp.packets.pop()
    # A queued packet holds no route any more.
    skb.dst = None
    found = host.af.receive_control(sk, skb)
    assert all(level == 0 for level, _, _ in found)
    return {kind: value for _, kind, value in found}


def test_nothing_comes_that_was_not_asked_for(host: Host, sk: InetSock):
    assert items(host, sk, packet(b"12345678", protocol=17)) == {}


def test_what_comes_with_a_datagram(host: Host, sk: InetSock):
    for option in (
        sockglue.IP_PKTINFO, sockglue.IP_RECVTTL, sockglue.IP_RECVTOS, sockglue.IP_RECVOPTS, sockglue.IP_RETOPTS,
        sockglue.IP_RECVORIGDSTADDR,
    ):  # fmt: skip
        put(sk, option, 1)
    data = packet(pack("!HH", 5, 7777) + b"1234", protocol=17, ttl=17, tos=0xB8)
    assert items(host, sk, data) == {
        sockglue.IP_PKTINFO: pack("=i", host.eth0.index) + US + US,
        sockglue.IP_TTL: pack("=i", 17),
        sockglue.IP_TOS: b"\xb8",
        sockglue.IP_ORIGDSTADDR: pack("=H", 2) + pack("!H", 7777) + US + bytes(8),
    }
    data = packet(b"12345678", protocol=17, options=ipv4.build_record_route(3))
    found = items(host, sk, data)
    assert found[sockglue.IP_RECVOPTS][:3] == b"\x07\x0f\x08"
    assert found[sockglue.IP_RETOPTS][:2] == b"\x07\x0f"


def test_pktinfo_of_a_broadcast_names_the_address_to_answer_from(host: Host, sk: InetSock):
    put(sk, sockglue.IP_PKTINFO, 1)
    found = items(host, sk, packet(b"12345678", daddr=addr("10.0.0.255"), protocol=17), PACKET_BROADCAST)
    assert found[sockglue.IP_PKTINFO] == pack("=i", host.eth0.index) + US + addr("10.0.0.255")


def test_pktinfo_of_our_own_packets_names_the_device_of_the_address(host: Host, sk: InetSock):
    put(sk, sockglue.IP_PKTINFO, 1)
    host.net.loop.enter()
    dst = host.af.route(Flow(US, ANY))
    host.af.xmit_skb(SKBuff(b"12345678"), dst, US, US, 17, 0, 0, False)
    host.net.loop.leave()
    host.run()
    found = host.af.receive_control(sk, host.udp.packets[-1])
    assert found == [(0, sockglue.IP_PKTINFO, pack("=i", host.eth0.index) + US + US)]


def test_what_may_be_sent_along(host: Host, sk: InetSock):
    flow = Flow(PEER, ANY)

    def send(kind: int, data: bytes) -> int | None:
        return host.af.send_control(sk, 0, kind, data, flow)

    assert send(sockglue.IP_PKTINFO, pack("=i", 7) + US + ANY) is None
    assert (flow.oif, flow.saddr) == (7, US)
    send(sockglue.IP_PKTINFO, bytes(12))
    assert (flow.oif, flow.saddr) == (7, US)
    assert send(sockglue.IP_TTL, pack("=i", 3)) == 3
    assert send(sockglue.IP_TOS, pack("=i", 0x10)) is None and flow.tos == 0x10
    send(sockglue.IP_TOS, b"\x20")
    assert flow.tos == 0x20
    send(sockglue.IP_PROTOCOL, pack("=i", 99))
    assert flow.protocol == 99
    for kind, data in (
        (sockglue.IP_PKTINFO, bytes(11)), (sockglue.IP_TTL, pack("=i", 0)), (sockglue.IP_TTL, b"\1"),
        (sockglue.IP_TOS, pack("=i", 256)), (99, b""),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            send(kind, data)
        assert caught.value.errno == errno.EINVAL


@given(st.integers(-1, 60), st.binary(max_size=48))
def test_any_value_is_taken_or_refused_with_an_errno(option: int, value: bytes):
    host = Host()
    sk = InetSock(host.net, host.af, SOCK_DGRAM, 17)
    codes: list[int | None] = []
    for call, argument in ((host.af.setsockopt, value), (host.af.getsockopt, 4)):
        try:
            call(sk, option, argument)  # type: ignore[arg-type]
        except OSError as cause:
            codes.append(cause.errno)
    assert None not in codes
    host.af.drop_memberships(sk)
    sk.destroy()
    host.close()
