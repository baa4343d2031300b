"""What is printed is what the parser reads, for packets of scripts and of the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill import build
from usernet.packetdrill.ast import Icmp, IpInfo, Packet, Tcp, TcpOption
from usernet.packetdrill.live import dissect
from usernet.packetdrill.parser import parse
from usernet.packetdrill.pretty import live_text, option_text, packet_text

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"


def packet(text: str) -> Packet:
    (event,) = parse(f"0 {text}").events
    assert isinstance(event.action, Packet)
    return event.action


@pytest.mark.parametrize(
    "text",
    [
        "< S 0:0(0) win 32792 <mss 1000,sackOK,nop,nop,nop,wscale 7>",
        "> S. 0:0(0) ack 1 <mss 1460,nop,nop,sackOK,nop,wscale 8>",
        "> . 1:1(0) ack 1 <...>",
        "> P. 1:1001(1000) ack 1 win 257 urg 3 <nop,nop,TS val 1 ecr 2>",
        "> . 1:1(0) ack 1 <nop,nop,sack 1:2 3:4>",
        "> - 1:1(0)",
        "> R 1:1(0)",
        "> SEWA 0:0(0)",
        "> P.5 1:101(100) ack 1 <ECN e1b 1 ceb 0 e0b 1,nop>",
        "> [ect0] . 1:1(0) ack 1 <ECN e0b 1,nop,nop,nop>",
        "> [tos 0x10,flowlabel 0x12] . 1:1(0) ack 1",
        "> [ect01] . 1:1(0) ack 1",
        "> [ttl 3] . 1:1(0) ack 1",
        "< S 0:10(10) win 1 <FO 0123456789abcdef,nop,nop>",
        "< S 0:0(0) win 1 <FOEXP>",
        "< S 0:0(0) win 1 <FO,md5 000102030405060708090a0b0c0d0e0f>",
        "< S 0:0(0) win 1 <kind 30 0102030405060708,nop,nop>",
        "> 80 > 9000 . 1:1(0) ack 1",
        "> udp (100)",
        "< udp 53 > 1024 (0)",
        "< icmp unreachable frag_needed mtu 800 [1:1001(1000)]",
        "< icmp unreachable port_unreachable [udp (8)]",
        "< icmp echo_reply id 7 [raw (64)]",
        "> ipv4 1.1.1.1 > 2.2.2.2: gre: ipv6 [ce] a::1 > a::2: . 1:1(0) ack 1",
        "> gre flags 0x2000, sum 0x0, off 0x0, key 0x5, seq 0x0: mpls (label 7, tc 1, [S], ttl 64): . 1:1(0) ack 1",
    ],
)
def test_a_packet_of_a_script_is_printed_as_it_was_written(text: str):
    read = packet(text)
    assert packet_text(read) == text
    assert packet(packet_text(read)) == read


flags = st.integers(0, 0x1FF)
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
option = st.builds(
    TcpOption, st.integers(2, 255), st.binary(max_size=6).map(lambda data: data + bytes(-(2 + len(data)) % 4))
)


@given(flags, u32, st.integers(0, 50), u32, u16, st.lists(option, max_size=4))
def test_a_segment_of_the_wire_is_printed_so_that_it_can_be_read(bits, seq, length, ack, window, options):
    ack = ack if bits & 0x10 else 0
    seq = min(seq, 0xFFFFFFFF - 100)
    sent = Tcp(bits, seq, length, ack, window, 0, options, source_port=1, destination_port=2)
    live = dissect(build.tcp_packet(A, B, sent, IpInfo()))
    read = packet(live_text(live, ">")).body
    sent.source_port = sent.destination_port = 0
    assert read == sent


@given(option)
def test_any_option_has_a_notation(one: TcpOption):
    body = packet(f"< . 1:1(0) win 1 <{option_text(one)}>").body
    assert isinstance(body, Tcp)
    assert body.options == [one]


def test_other_packets_of_the_wire():
    assert live_text(dissect(build.udp_packet(A, B, 1, 2, 7, IpInfo())), ">") == "> udp (7)"
    message = Icmp("unreachable", "frag_needed", 800)
    assert live_text(dissect(build.icmp_packet(A, B, message, (1, 2), IpInfo())), ">") == (
        "> icmp unreachable frag_needed [raw (36)]"
    )
    message = Icmp("packet_too_big", "", 1280)
    assert live_text(dissect(build.icmp_packet(A6, B6, message, (1, 2), IpInfo())), ">") == (
        "> icmp packet_too_big [raw (56)]"
    )
    assert live_text(dissect(build.ip(A, B, 99, b"abc", IpInfo())), ">") == "> protocol 99 (3)"
