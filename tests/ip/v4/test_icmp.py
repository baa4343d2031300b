"""ICMP received: RFC 792, RFC 1122 section 3.2.2, RFC 1191, RFC 4884, and Linux's sysctls."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import FAR, PEER, ROUTER, US, Host, Recorder, Transport, addr, packet
from usernet.core.clock import NSEC_PER_SEC
from usernet.core.iov import Payload
from usernet.ip.v4.icmp import ICMP_ERR_CONVERT, plateau_below
from usernet.net.protocols import ErrorReport, Protocols
from usernet.netdevice.driver import NETIF_F_SG
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_BROADCAST, SKBuff
from usernet.sock.af_ops import Flow
from usernet.wire import icmp, ipv4

UDP_HEADER = b"\x04\xd2\x00\x35\0\x10\0\0"


def quoted(protocol: int = 17, daddr: bytes = FAR, size: int = 1500, data: bytes = UDP_HEADER) -> bytes:
    """The start of a packet that the host has sent, as a router quotes it."""
    return ipv4.build(0, size, 1, ipv4.IP_DF, 60, protocol, US, daddr) + data


def error(kind: int, code: int, rest: int = 0, inner: bytes = b"", saddr: bytes = ROUTER) -> bytes:
    return packet(icmp.build(kind, code, rest, inner or quoted()), saddr=saddr)


class Gather(Recorder):
    """A NIC that takes fragments as they are."""

    hw_features = NETIF_F_SG

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Payload] = []

    def xmit(self, skb: SKBuff) -> bool:
        self.parts += skb.frags or []
        return super().xmit(skb)


# -- answers


def test_an_echo_request_is_answered_with_its_payload(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 0x12340001, b"hello"), tos=0x10))
    [reply] = host.sent()
    assert (reply.saddr, reply.daddr, reply.ttl, reply.tos) == (US, PEER, 64, 0x10)
    assert icmp.parse(reply.checked(), 0)[:2] == (icmp.ICMP_ECHOREPLY, 0)
    assert icmp.parse(reply.payload, 0)[3] == 0x12340001
    assert reply.payload[8:] == b"hello"
    mib = host.net.mib
    assert (mib.icmp.InMsgs, mib.icmp.InEchos, mib.icmp.OutMsgs, mib.icmp.OutEchoReps) == (1, 1, 1, 1)
    assert mib.icmp_msg["InType8"] == 1
    assert mib.icmp_msg["OutType0"] == 1
    assert host.net.drops.counts == {}


@given(st.binary(max_size=1000), st.integers(0, 0xFFFFFFFF))
def test_the_answers_checksum_is_right(payload: bytes, rest: int) -> None:
    host = Host()
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, rest, payload)))
    [reply] = host.sent()
    assert reply.checked() == icmp.build(icmp.ICMP_ECHOREPLY, 0, rest, payload)
    host.close()


def test_the_answers_checksum_of_nothing_but_zeros(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 0, bytes(8))))
    [reply] = host.sent()
    assert reply.checked() == icmp.build(icmp.ICMP_ECHOREPLY, 0, 0, bytes(8))


def test_the_payload_is_referenced(host: Host) -> None:
    gather = Gather()
    eth1 = host.add_device("eth1", gather)
    host.addresses.add(eth1, addr("10.1.0.1"), 24)
    data = packet(icmp.build(icmp.ICMP_ECHO, 0, 0, bytes(1400)), saddr=addr("10.1.0.2"), daddr=addr("10.1.0.1"))
    host.receive(data, eth1)
    [part] = gather.parts
    assert isinstance(part, memoryview)
    assert part.obj is data


def test_a_large_echo_comes_and_goes_in_fragments(host: Host) -> None:
    payload = random.Random(1).randbytes(4000)
    message = icmp.build(icmp.ICMP_ECHO, 0, 1, payload)
    for start in range(0, len(message), 1480):
        more = ipv4.IP_MF if start + 1480 < len(message) else 0
        host.receive(packet(message[start : start + 1480], frag_off=more | start >> 3))
    parts = host.sent()
    assert len(parts) == 3
    assert all(part.tot_len <= 1500 for part in parts)
    assert b"".join(part.payload for part in parts) == icmp.build(icmp.ICMP_ECHOREPLY, 0, 1, payload)


def test_echo_can_be_turned_off(host: Host) -> None:
    host.sysctl("icmp_echo_ignore_all", 1)
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 1, b"")))
    assert host.sent() == []


@pytest.mark.parametrize("daddr", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_an_echo_to_many_is_answered_only_where_asked_for(host: Host, daddr: str) -> None:
    request = packet(icmp.build(icmp.ICMP_ECHO, 0, 1, b""), daddr=addr(daddr))
    host.receive(request, pkt_type=PACKET_BROADCAST)
    assert host.sent() == []
    assert host.net.mib.icmp.InErrors == 1
    assert host.dropped(DropReason.INVALID_PROTO) == 1
    host.sysctl("icmp_echo_ignore_broadcasts", 0)
    host.receive(request, pkt_type=PACKET_BROADCAST)
    [reply] = host.sent()
    assert (reply.saddr, reply.daddr) == (US, PEER)


def test_an_error_to_many_is_dropped(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_DEST_UNREACH, 3, 0, quoted()), daddr=addr("10.0.0.255")))
    assert host.udp.errors == []
    assert host.dropped(DropReason.INVALID_PROTO) == 1


def test_a_timestamp_request_is_answered(host: Host) -> None:
    host.clock.realtime_offset = 5 * NSEC_PER_SEC
    request = (123456).to_bytes(4, "big") + bytes(8)
    host.receive(packet(icmp.build(icmp.ICMP_TIMESTAMP, 0, 0x00070009, request)))
    [reply] = host.sent()
    now = (1005 * 1000).to_bytes(4, "big")
    assert reply.checked() == icmp.build(icmp.ICMP_TIMESTAMPREPLY, 0, 0x00070009, request[:4] + now + now)


def test_a_timestamp_request_that_is_cut(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_TIMESTAMP, 0, 1, b"\0\0")))
    assert host.sent() == []
    assert host.net.mib.icmp.InErrors == 1


def test_options_are_echoed(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 1, b""), options=ipv4.build_record_route(4)))
    [reply] = host.sent()
    # Once on the way in, once on the way out, as `ping -R` shows it of Linux.
    assert reply.options == b"\x07\x13\x0c" + US + US + bytes(8) + b"\0"
    reply.checked()


def test_a_bad_checksum(host: Host) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_ECHO, 0, 1, b"x")[:-1] + b"y"))
    assert host.sent() == []
    assert (host.net.mib.icmp.InCsumErrors, host.net.mib.icmp.InErrors) == (1, 1)
    assert host.dropped(DropReason.ICMP_CSUM) == 1


@pytest.mark.parametrize("size", [2, 4, 6])
def test_a_header_that_is_cut(host: Host, size: int) -> None:
    host.receive(packet(b"\xff" * size))
    assert host.net.mib.icmp.InErrors == 1
    assert host.net.mib.icmp.InMsgs == 1


def test_an_unknown_type_is_dropped(host: Host) -> None:
    host.receive(packet(icmp.build(200, 0, 0, b"")))
    assert host.net.mib.icmp.InErrors == 1
    assert host.dropped(DropReason.UNHANDLED_PROTO) == 1
    host.receive(packet(icmp.build(icmp.ICMP_INFO_REQUEST, 0, 0, b"")))
    assert host.net.mib.icmp.InErrors == 1
    assert host.sent() == []


@given(st.binary(min_size=1, max_size=80), st.booleans())
def test_anything_is_survived(data: bytes, right: bool) -> None:
    host = Host()
    if right and len(data) >= 8:
        kind, code, _, rest = icmp.parse(data, 0)
        data = icmp.build(kind, code, rest, data[8:])
    host.receive(packet(data))
    host.run()
    host.close()


# -- ping sockets


def test_echo_replies_go_to_ping_sockets(host: Host) -> None:
    seen: list[bytes] = []

    def take(skb: SKBuff) -> bool:
        seen.append(skb.tobytes())
        return len(seen) == 1

    message = icmp.build(icmp.ICMP_ECHOREPLY, 0, 1, b"abc")
    host.receive(packet(message))
    assert host.dropped(DropReason.NO_SOCKET) == 1
    host.icmp.ping_receive = take
    host.receive(packet(message))
    host.receive(packet(message))
    assert seen == [message, message]
    assert host.dropped(DropReason.NO_SOCKET) == 2


def test_errors_about_echo_requests_go_to_ping_sockets(host: Host) -> None:
    seen: list[ErrorReport] = []

    def take(report: ErrorReport) -> bool:
        seen.append(report)
        return True

    host.icmp.ping_error = take
    host.receive(error(icmp.ICMP_DEST_UNREACH, 1, 0, quoted(1, data=icmp.build(icmp.ICMP_ECHO, 0, 0x00050001, b""))))
    [report] = seen
    assert report.errno == errno.EHOSTUNREACH
    assert icmp.parse(report.skb.head, report.skb.transport_header)[3] == 0x00050001


def test_an_mtu_told_of_an_echo_reply_is_taken(host: Host) -> None:
    inner = quoted(1, data=icmp.build(icmp.ICMP_ECHOREPLY, 0, 1, b""))
    host.receive(error(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 1000, inner))
    assert host.af.route(Flow(FAR, host.af.any)).mtu() == 1000


# -- errors for transports


@pytest.mark.parametrize("code", range(16))
def test_an_unreachable_is_translated(host: Host, code: int) -> None:
    host.receive(error(icmp.ICMP_DEST_UNREACH, code, 1400))
    [report] = host.udp.errors
    assert (report.errno, report.fatal) == ICMP_ERR_CONVERT[code]
    assert (report.icmp_type, report.icmp_code, report.origin) == (3, code, 2)
    assert (report.offender, report.saddr, report.daddr) == (ROUTER, US, FAR)
    assert report.skb.head[report.skb.transport_header :] == UDP_HEADER
    assert report.skb.tobytes() == UDP_HEADER
    assert host.net.mib.icmp.InDestUnreachs == 1


def test_an_unreachable_of_unknown_code_is_ignored(host: Host) -> None:
    host.receive(error(icmp.ICMP_DEST_UNREACH, 16))
    assert host.udp.errors == []


def test_time_exceeded_and_parameter_problem(host: Host) -> None:
    host.receive(error(icmp.ICMP_TIME_EXCEEDED, 0))
    host.receive(error(icmp.ICMP_PARAMETERPROB, 0, 20 << 24))
    exceeded, problem = host.udp.errors
    assert (exceeded.errno, exceeded.fatal) == (errno.EHOSTUNREACH, False)
    assert (problem.errno, problem.fatal, problem.info) == (errno.EPROTO, True, 20)
    assert host.net.mib.icmp.InTimeExcds == 1


def test_a_reassembly_time_out_is_for_nobody(host: Host) -> None:
    host.receive(error(icmp.ICMP_TIME_EXCEEDED, icmp.ICMP_EXC_FRAGTIME))
    assert host.udp.errors == []


def test_a_source_quench_says_that_it_is_one(host: Host) -> None:
    host.receive(error(icmp.ICMP_SOURCE_QUENCH, 0))
    [report] = host.udp.errors
    assert report.quench
    assert report.errno == 0


def test_an_extension_is_tolerated(host: Host) -> None:
    """RFC 4884: the length of what is quoted in the header, and an object behind 128 bytes of it."""
    inner = quoted().ljust(128, b"\0") + b"\x20\0\0\0" + b"\0\x08\x01\x01" + bytes(4)
    host.receive(error(icmp.ICMP_TIME_EXCEEDED, 0, 32 << 16, inner))
    [report] = host.udp.errors
    assert report.info == 0
    assert report.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("size", [0, 19, 20, 27])
def test_a_quote_that_is_too_short(host: Host, size: int) -> None:
    host.receive(packet(icmp.build(icmp.ICMP_DEST_UNREACH, 3, 0, quoted()[:size])))
    assert host.udp.errors == []
    assert host.net.mib.icmp.InErrors == 1
    assert host.dropped(DropReason.PKT_TOO_SMALL) == 1


def test_a_quoted_header_that_is_mangled(host: Host) -> None:
    host.receive(error(icmp.ICMP_DEST_UNREACH, 3, 0, b"\x44" + quoted()[1:]))
    assert host.udp.errors == []
    assert host.dropped(DropReason.IP_INHDR) == 1


def test_raw_sockets_are_told_too(host: Host) -> None:
    seen: list[tuple[ErrorReport, int]] = []
    host.net.get(Protocols).raw_error = lambda report, protocol: seen.append((report, protocol))
    host.receive(error(icmp.ICMP_DEST_UNREACH, 3, 0, quoted(200)))
    [(report, protocol)] = seen
    assert protocol == 200
    assert report.errno == errno.ECONNREFUSED


def test_an_error_about_a_broadcast(host: Host) -> None:
    """With the sysctl off it is dropped, and with it on it is passed on: Linux has it so."""
    inner = quoted(daddr=addr("10.0.0.255"))
    host.receive(error(icmp.ICMP_DEST_UNREACH, 3, 0, inner))
    assert len(host.udp.errors) == 1
    host.sysctl("icmp_ignore_bogus_error_responses", 0)
    host.receive(error(icmp.ICMP_DEST_UNREACH, 3, 0, inner))
    assert len(host.udp.errors) == 1
    assert host.dropped(DropReason.ICMP_INVALID) == 1


# -- path MTU


@pytest.mark.parametrize(
    ("mode", "told", "info", "mtu"),
    [(0, 1400, 1400, 1400), (0, 60, 60, 68), (0, 0, 0, 1492), (1, 1400, 0, 68), (3, 1400, None, 0), (2, 1400, None, 0)],
)
def test_fragmentation_needed(host: Host, mode: int, told: int, info: int | None, mtu: int) -> None:
    host.sysctl("ip_no_pmtu_disc", mode)
    host.receive(error(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, told))
    if info is None:
        assert host.udp.errors == []
    else:
        [report] = host.udp.errors
        assert (report.info, report.mtu, report.errno) == (info, mtu, errno.EMSGSIZE)


def test_hardened_discovery_believes_what_quotes_a_protected_protocol(host: Host) -> None:
    tcp = Transport()
    host.net.get(Protocols).table[6] = tcp
    host.sysctl("ip_no_pmtu_disc", 3)
    host.receive(error(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 1400, quoted(6)))
    assert tcp.errors[0].mtu == 1400
    host.sysctl("ip_no_pmtu_disc", 2)
    host.receive(error(icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED, 1400, quoted(6)))
    assert len(tcp.errors) == 1


def test_plateaus() -> None:
    assert [plateau_below(size) for size in (65535, 1501, 1500, 1492, 577, 576, 68, 20)] == [
        32000, 1492, 1492, 576, 576, 296, 68, 68,
    ]  # fmt: skip


# -- redirects


def redirect(gateway: bytes, saddr: bytes = ROUTER, daddr: bytes = FAR, code: int = 1) -> bytes:
    return error(icmp.ICMP_REDIRECT, code, int.from_bytes(gateway, "big"), quoted(daddr=daddr), saddr)


def gateway_of(host: Host, daddr: bytes = FAR) -> bytes | None:
    return host.af.route(Flow(daddr, host.af.any)).gateway


def test_a_redirect_changes_the_route_of_its_destination(host: Host) -> None:
    better = addr("10.0.0.253")
    host.receive(redirect(better))
    [report] = host.udp.errors
    assert report.redirect
    assert report.errno == 0
    # The gateway is used once it is known to answer.
    host.receive(redirect(better))
    assert gateway_of(host) == better
    assert gateway_of(host, addr("192.0.2.10")) == ROUTER
    assert host.net.mib.icmp.InRedirects == 2


def test_redirects_that_are_not_believed(host: Host) -> None:
    better = addr("10.0.0.253")
    for message in (
        redirect(better, saddr=PEER),
        redirect(addr("224.0.0.9")),
        redirect(ROUTER),
        redirect(US),
        redirect(better, code=9),
    ):
        host.receive(message)
        host.receive(message)
        assert gateway_of(host) == ROUTER
    host.udp.known = False
    host.receive(redirect(better))
    host.receive(redirect(better))
    assert gateway_of(host) == ROUTER
    host.udp.known = True
    host.net.sysctl["net.ipv4.conf.all.accept_redirects"] = 0
    host.net.sysctl["net.ipv4.conf.eth0.accept_redirects"] = 0
    host.receive(redirect(better))
    assert gateway_of(host) == ROUTER
