from __future__ import annotations

import pytest

from usernet.packetdrill.ast import (
    ECHOED_RAW,
    ECHOED_TCP,
    ECHOED_UDP,
    ECN_CE,
    ECN_ECT0,
    TOS_ANY,
    TOS_BYTE,
    TOS_ECN,
    TOS_ECT01,
    Gre,
    Icmp,
    IpEncap,
    IpInfo,
    MplsEntry,
    MplsStack,
    Packet,
    Tcp,
    TcpOption,
    Udp,
)
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.parser import parse
from usernet.wire import tcp


def packet(text: str) -> Packet:
    (event,) = parse(f"0 {text}").events
    assert isinstance(event.action, Packet)
    return event.action


def segment(text: str) -> Tcp:
    body = packet(text).body
    assert isinstance(body, Tcp)
    return body


def message(text: str) -> str:
    with pytest.raises(ScriptError) as caught:
        packet(text)
    return caught.value.message


def test_a_segment():
    assert segment("< P. 1:1001(1000) ack 2 win 300 urg 4 <nop,nop,TS val 5 ecr 6>") == Tcp(
        tcp.PSH | tcp.ACK, 1, 1000, 2, 300, 4,
        [TcpOption(1), TcpOption(1), TcpOption(8, bytes.fromhex("0000000500000006"))],
    )


def test_what_an_outbound_segment_leaves_open():
    assert segment("> . 1:1(0)").window is None
    assert segment("> . 1:1(0) <...>").options is None
    assert segment("> . 1:1(0)").options == []
    assert segment("> 80 > 9000 . 1:1(0)").destination_port == 9000


@pytest.mark.parametrize(
    ("flags", "bits", "ace"),
    [
        ("S", tcp.SYN, False),
        ("-", 0, False),
        (".", tcp.ACK, False),
        ("FP.", tcp.FIN | tcp.PSH | tcp.ACK, False),
        ("SEWA", tcp.SYN | tcp.ECE | tcp.CWR | tcp.AE, False),
        ("EAP.", tcp.ECE | tcp.AE | tcp.PSH | tcp.ACK, False),
        ("P.5", tcp.PSH | tcp.ACK | tcp.AE | tcp.ECE, True),
        (".6", tcp.ACK | tcp.AE | tcp.CWR, True),
        ("P.0", tcp.PSH | tcp.ACK, False),
        ("U.", tcp.URG | tcp.ACK, False),
        ("R", tcp.RST, False),
    ],
)
def test_flags(flags: str, bits: int, ace: bool):
    got = segment(f"> {flags} 1:1(0)")
    assert (got.flags, got.ace) == (bits, ace)


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("mss 1460", 2, "05b4"),
        ("wscale 7,nop", 3, "07"),
        ("sackOK,nop,nop", 4, ""),
        ("sack 1:2 3:4,nop,nop", 5, "00000001000000020000000300000004"),
        ("FO,nop,nop", 34, ""),
        ("FO abcd1234,nop,nop", 34, "abcd1234"),
        ("FO 12345678,nop,nop", 34, "12345678"),
        ("FOEXP", 254, "f989"),
        ("FOEXP abcd1234", 254, "f989abcd1234"),
        ("md5 000102030405060708090a0b0c0d0e0f,nop,nop", 19, "000102030405060708090a0b0c0d0e0f"),
        ("ECN e0b 1 ceb 2 e1b 3,nop", 172, "000001000002000003"),
        ("ECN e1b 1 ceb 2 e0b 3,nop", 174, "000001000002000003"),
        ("ECN e1b 1001,nop,nop,nop", 174, "0003e9"),
        ("kind 30 0a0b", 30, "0a0b"),
        ("kind 253,nop,nop", 253, ""),
    ],
)
def test_options(text: str, kind: int, data: str):
    options = segment(f"< . 1:1(0) win 1 <{text}>").options
    assert options is not None
    assert options[0] == TcpOption(kind, bytes.fromhex(data))


@pytest.mark.parametrize(
    ("mark", "info"),
    [
        ("", IpInfo()),
        ("[noecn]", IpInfo(TOS_ECN, 0)),
        ("[ect0]", IpInfo(TOS_ECN, ECN_ECT0)),
        ("(ce)", IpInfo(TOS_ECN, ECN_CE)),
        ("[ect01]", IpInfo(TOS_ECT01, 0)),
        ("[tos 0x10]", IpInfo(TOS_BYTE, 0x10)),
        ("[flowlabel 0x12345]", IpInfo(TOS_ANY, 0, 0x12345)),
        ("[ect0, flowlabel 0x1]", IpInfo(TOS_ECN, ECN_ECT0, 1)),
        ("[ttl 3]", IpInfo(ttl=3)),
    ],
)
def test_what_is_asked_of_the_ip_header(mark: str, info: IpInfo):
    assert packet(f"> {mark} . 1:1(0)").info == info


def test_udp():
    assert packet("> udp (100)").body == Udp(100)
    assert packet("< udp 53 > 1024 (0)").body == Udp(0, 53, 1024)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("icmp unreachable", Icmp("unreachable")),
        ("icmp unreachable frag_needed mtu 800", Icmp("unreachable", "frag_needed", 800)),
        ("icmp unreachable [5000:6000(1000)]", Icmp("unreachable", echoed=ECHOED_TCP, seq=5000, length=1000)),
        ("icmp packet_too_big mtu 1280 [udp (8)]", Icmp("packet_too_big", "", 1280, echoed=ECHOED_UDP, length=8)),
        ("icmp echo_request id 7 [raw (64)]", Icmp("echo_request", echo_id=7, echoed=ECHOED_RAW, length=64)),
        ("icmp type_42 code_3", Icmp("type_42", "code_3")),
        ("icmp time_exceeded exceeded_hop_limit", Icmp("time_exceeded", "exceeded_hop_limit")),
    ],
)
def test_icmp(text: str, expected: Icmp):
    assert packet(f"< {text}").body == expected


def test_outer_headers():
    outer = packet(
        "> ipv4 [ect0] 1.1.1.1 > 2.2.2.2: gre flags [key present, sequence# present], sum 0, off 0, key = 0x5, seq 6: "
        "mpls (label 7, tc 1, [S], ttl 64): ipv6 a::1 > a::2: gre: . 1:1(0)"
    ).encapsulations
    assert outer == [
        IpEncap(4, b"\1\1\1\1", b"\2\2\2\2", IpInfo(TOS_ECN, ECN_ECT0)),
        Gre(0x3000, 0, 0, 5, 6),
        MplsStack([MplsEntry(7, 1, True, 64)]),
        IpEncap(6, bytes.fromhex("000a") + bytes(13) + b"\1", bytes.fromhex("000a") + bytes(13) + b"\2", IpInfo()),
        Gre(),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("< S 0:0(0)", "an inbound packet needs a window"),
        ("< S 0:0(0) win 70000", "win out of range: found 70000, expected 0 to 65535"),
        ("< S 0:0(0) win 1 <...>", "an inbound packet needs them as they are"),
        ("> S 0:10(11)", "found 0:10(11), expected a length of 10 or an end of 11"),
        ("> S 4294967296:4294967296(0)", "out of range"),
        ("> X 0:0(0)", "found 'X' with 'X', expected TCP flags"),
        ("> E5 0:0(0)", "either E, W and A or one digit"),
        ("> P.55 0:0(0)", "either E, W and A or one digit"),
        ("> 0:0(0)", "found '0', expected TCP flags"),
        ("> S 0:0(0) <nop>", "found 1 bytes of TCP options, expected a multiple of 4"),
        ("> S 0:0(0) <sack 1:2 3:4 5:6 7:8 9:10,nop,nop>", "expected at most 40"),
        ("> S 0:0(0) <foo>", "found 'foo', expected a TCP option"),
        ("> S 0:0(0) <mss 65536>", "mss out of range"),
        ("> S 0:0(0) <FO abc>", "of 3 digits, expected an even number"),
        ("> S 0:0(0) <FO xy>", "expected a Fast Open cookie in hexadecimal digits"),
        ("> S 0:0(0) <md5>", "expected an MD5 digest"),
        ("> S 0:0(0) <ECN ceb 1>", "expected 'e0b' or 'e1b'"),
        ("> S 0:0(0) <mss 1", "expected '>'"),
        ("< [ect01] S 0:0(0) win 1", "[ect01] is a choice"),
        ("> [ect2] S 0:0(0)", "found 'ect2', expected noecn"),
        ("> [tos 16] S 0:0(0)", "expected tos, an integer with 0x"),
        ("> [ect0] udp (1)", "found an ECN mark"),
        ("> udp (65536)", "out of range"),
        ("> ipv4 1.1.1.1 > a::1: . 1:1(0)", "expected the destination, an IPv4 address"),
        ("> ipv4 1.1.1.999 > 2.2.2.2: . 1:1(0)", "found '1.1.1.999'"),
        ("> gre flags [rhubarb]: . 1:1(0)", "expected a GRE flag"),
        ("> mpls (label 1048576, tc 0, ttl 1): . 1:1(0)", "MPLS label out of range"),
        ("> encap psp spi 1 . 1:1(0)", "PSP encapsulation is not supported"),
        ("> icmp rhubarb", "expected a type of ICMP message: echo_reply"),
        ("> icmp unreachable rhubarb", "expected a code of ICMP unreachable: net_unreachable"),
        ("> icmp echo_request [raw (4)]", "expected at least its header's 8"),
    ],
)
def test_errors(text: str, expected: str):
    assert expected in message(text)
