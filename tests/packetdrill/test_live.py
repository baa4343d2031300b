from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill import build
from usernet.packetdrill.ast import ECHOED_RAW, ECHOED_UDP, Icmp, IpInfo, Packet, Tcp, TcpOption
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.live import dissect, parse_options
from usernet.packetdrill.match import differences
from usernet.packetdrill.parser import parse
from usernet.wire import tcp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"
SEGMENT = Tcp(tcp.ACK, 1, 0, 1, 100, 0, [], source_port=1, destination_port=2)


@pytest.mark.parametrize(("source", "destination"), [(A, B), (A6, B6)])
def test_built_packets_have_right_checksums(source: bytes, destination: bytes):
    header = 20 if len(source) == 4 else 40
    for data, protocol in (
        (build.tcp_packet(source, destination, SEGMENT, IpInfo()), 6),
        (build.udp_packet(source, destination, 1, 2, 5, IpInfo()), 17),
    ):
        total = csum(data, header, len(data), pseudo_sum(source, destination, protocol, len(data) - header))
        assert csum_fold(total) == 0
    data = build.icmp_packet(source, destination, Icmp("echo_request", echoed=ECHOED_RAW, length=20), (0, 0), IpInfo())
    seed = pseudo_sum(source, destination, 58, 20) if header == 40 else 0
    assert csum_fold(csum(data, header, len(data), seed)) == 0


@pytest.mark.parametrize(
    "data",
    [
        build.tcp_packet(A, B, SEGMENT, IpInfo()),
        build.udp_packet(A6, B6, 1, 2, 5, IpInfo()),
        build.icmp_packet(A, B, Icmp("echo_request", echoed=ECHOED_RAW, length=20), (0, 0), IpInfo()),
        build.icmp_packet(A6, B6, Icmp("packet_too_big", "", 1280), (1, 2), IpInfo()),
    ],
)
def test_a_checksum_that_is_in_place_is_checked(data: bytes):
    dissect(data, checksummed=True)
    broken = data[:-1] + bytes([data[-1] ^ 1])
    dissect(broken)
    with pytest.raises(Mismatch, match="bad outbound checksum"):
        dissect(broken, checksummed=True)


def test_what_is_built_is_taken_apart_again():
    live = dissect(build.tcp_packet(A6, B6, SEGMENT, IpInfo(tos=3, flow_label=0x12345, ttl=9)))
    assert (live.version, live.tos, live.flow_label, live.ttl, live.length) == (6, 3, 0x12345, 9, 60)
    assert (live.source, live.destination, live.source_port, live.destination_port) == (A6, B6, 1, 2)
    assert live.is_tcp and not live.is_udp and not live.is_icmp


@pytest.mark.parametrize(
    "outer",
    [
        "ipv4 1.1.1.1 > 2.2.2.2: ",
        "ipv6 a::1 > a::2: ",
        "ipv4 1.1.1.1 > 2.2.2.2: gre: ",
        "ipv4 1.1.1.1 > 2.2.2.2: gre flags 0xb000 sum 1 off 0 key 3 seq 4: ",
        "ipv6 a::1 > a::2: mpls (label 7, tc 1, ttl 63) (label 8, tc 0, [S], ttl 64): ",
        "ipv4 1.1.1.1 > 2.2.2.2: gre: mpls (label 7, tc 1, [S], ttl 64): ",
        "ipv4 1.1.1.1 > 2.2.2.2: ipv6 a::1 > a::2: ",
    ],
)
def test_outer_headers(outer: str):
    (event,) = parse(f"0 > {outer}. 1:1(0) ack 1 win 100").events
    packet = event.action
    assert isinstance(packet, Packet)
    data = build.encapsulate(build.tcp_packet(A, B, SEGMENT, IpInfo()), packet.encapsulations)
    assert differences(packet, dissect(data), 0, 0) == []
    (event,) = parse("0 > . 1:1(0) ack 1 win 100").events
    assert isinstance(event.action, Packet)
    assert "outer headers: expected 0, came" in differences(event.action, dissect(data), 0, 0)[0]


def test_what_icmp_cant_have():
    with pytest.raises(BadEvent, match="expected a type that IPv6 has"):
        build.icmp_packet(A6, B6, Icmp("source_quench"), (1, 2), IpInfo())
    with pytest.raises(BadEvent, match="expected a code that IPv4 has"):
        build.icmp_packet(A, B, Icmp("unreachable", "no_route"), (1, 2), IpInfo())
    with pytest.raises(BadEvent, match="with 'unreachable frag_needed' only"):
        build.icmp_packet(A, B, Icmp("unreachable", mtu=9), (1, 2), IpInfo())
    with pytest.raises(BadEvent, match="with 'packet_too_big' only"):
        build.icmp_packet(A6, B6, Icmp("unreachable", mtu=9), (1, 2), IpInfo())
    live = dissect(build.icmp_packet(A6, B6, Icmp("packet_too_big", "", 70000, echoed=ECHOED_UDP), (1, 2), IpInfo()))
    assert live.icmp_rest == 70000
    with pytest.raises(BadEvent, match="expected at most 65535"):
        build.ip(A, B, 6, bytes(65530), IpInfo())


@pytest.mark.parametrize(
    ("options", "message"), [("02", "length 0"), ("0204", "length 4 with 2 bytes left"), ("0801", "length 1")]
)
def test_malformed_options(options: str, message: str):
    with pytest.raises(Mismatch, match=message):
        parse_options(bytes.fromhex(options))


def test_options_behind_an_eol_are_still_compared():
    assert parse_options(bytes.fromhex("00010204ffff")) == [TcpOption(0), TcpOption(1), TcpOption(2, b"\xff\xff")]


@given(st.binary(max_size=120))
def test_any_bytes_are_a_packet_or_a_mismatch(data: bytes):
    for first in (b"", b"\x45", b"\x60"):
        try:
            dissect(first + data)
        except Mismatch:
            continue


def test_each_field_that_differs_is_named():
    (event,) = parse("0 > [tos 0x10, flowlabel 0x1] S 5:15(10) ack 6 win 7 urg 8 <mss 9>").events
    assert isinstance(event.action, Packet)
    lines = differences(event.action, dissect(build.tcp_packet(A, B, SEGMENT, IpInfo())), 0, 0)
    assert [line.split(":")[0] for line in lines] == [
        "TOS", "TCP flags", "TCP seq", "TCP payload length", "TCP ack", "TCP win", "TCP urg", "TCP option 0",
    ]
    udp = dissect(build.udp_packet(A, B, 1, 2, 5, IpInfo()))
    assert differences(event.action, udp, 0, 0) == ["protocol: expected TCP, came 17"]
    (event,) = parse("0 > udp (6)").events
    assert isinstance(event.action, Packet)
    assert differences(event.action, udp, 0, 0)[0] == "UDP length: expected 14, came 13"


def test_a_payload_is_zeros():
    (event,) = parse("0 > udp (5)").events
    assert isinstance(event.action, Packet)
    live = dissect(build.udp_packet(A, B, 1, 2, 5, IpInfo()))
    assert differences(event.action, live, 0, 0) == []
    live.payload = b"\0\0\0x\0"
    assert differences(event.action, live, 0, 0) == ["payload: expected zeros, came 0x78 at byte 3"]
