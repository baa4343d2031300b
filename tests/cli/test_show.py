"""Packets as lines, as tcpdump writes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.cli import packets
from usernet.cli.filter import compile_filter
from usernet.cli.packet import Packet
from usernet.cli.show import Printer
from usernet.wire import tcp


def body(packet: Packet, **settings: bool) -> str:
    return Printer(**settings).body(packet)  # type: ignore[arg-type]


def test_arp():
    assert body(packets.arp_packet(1)) == "ARP, Request who-has 10.0.0.2 tell 10.0.0.1, length 28"
    assert body(packets.arp_packet(2)) == "ARP, Reply 10.0.0.1 is-at 02:00:00:00:00:01, length 28"
    assert body(packets.arp_packet(1, tpa=packets.A)) == "ARP, Announcement 10.0.0.1, length 28"
    assert body(packets.arp_packet(1, spa=bytes(4))) == "ARP, Request who-has 10.0.0.2 (Probe), length 28"


def test_a_connection_counts_from_its_first_sequence_numbers():
    printer = Printer()
    options = tcp.build_syn_options(1460, 7, True, (1, 0))
    syn = packets.tcp_segment(tcp.SYN, 1000, options=options)
    assert printer.body(syn) == (
        "IP 10.0.0.1.4000 > 10.0.0.2.80: Flags [S], seq 1000, win 512, "
        "options [mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7], length 0"
    )
    synack = packets.tcp_segment(tcp.SYN | tcp.ACK, 5000, 1001, back=True)
    assert printer.body(synack) == "IP 10.0.0.2.80 > 10.0.0.1.4000: Flags [S.], seq 5000, ack 1, win 512, length 0"
    ack = packets.tcp_segment(tcp.ACK, 1001, 5001)
    assert printer.body(ack) == "IP 10.0.0.1.4000 > 10.0.0.2.80: Flags [.], ack 1, win 512, length 0"
    data = packets.tcp_segment(tcp.ACK | tcp.PSH, 1001, 5001, b"hello")
    assert printer.body(data).endswith("Flags [P.], seq 1:6, ack 1, win 512, length 5")
    sack = packets.tcp_segment(tcp.ACK, 5001, 1001, options=tcp.build_sack([(1006, 1011)], None), back=True)
    assert "sack 1 {6:11}" in printer.body(sack)
    assert "seq 1001:1006, ack 5001" in Printer(absolute=True).body(data)


def test_a_connection_older_than_the_capture_counts_from_what_is_seen():
    printer = Printer()
    assert "seq 0:5, ack 1," in printer.body(packets.tcp_segment(tcp.ACK, 1001, 5001, b"hello"))
    assert "seq 1:3, ack 5," in printer.body(packets.tcp_segment(tcp.ACK, 5001, 1006, b"hi", back=True))


def test_udp_icmp_and_fragments():
    assert body(packets.udp_datagram(b"abc")) == "IP 10.0.0.1.53 > 10.0.0.2.4000: UDP, length 3"
    assert Printer(ports={(17, 53): "domain"}).body(packets.udp_datagram(b"")).startswith("IP 10.0.0.1.domain >")
    echo = packets.icmp_message(8, 0, 3 << 16 | 9, bytes(56))
    assert body(echo) == "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 3, seq 9, length 64"
    inner = packets.udp_datagram(b"x", 99, 33434).data[14:]
    assert "ICMP 10.0.0.2 udp port 33434 unreachable" in body(packets.icmp_message(3, 3, 0, inner))
    assert "need to frag (mtu 1400)" in body(packets.icmp_message(3, 4, 1400, inner))
    assert "time exceeded in-transit" in body(packets.icmp_message(11, 0, 0, inner))
    assert body(packets.ip(17, bytes(16), frag=185)) == "IP 10.0.0.1 > 10.0.0.2: udp (frag 7:16@1480)"


def test_verbose_and_link_headers():
    text = body(packets.tcp_segment(tcp.SYN), verbose=True)
    assert text.startswith("IP (tos 0x0, ttl 64, id 7, offset 0, flags [DF], proto TCP (6), length 40)\n    ")
    assert "(correct)" in text
    line = Printer(ethernet=True, stamp="none").line(packets.arp_packet(1))
    assert line.startswith("02:00:00:00:00:01 > Broadcast, ethertype ARP (0x0806), length 42: ARP")


def test_stamps_and_comments():
    packet = packets.udp_datagram(b"")
    packet.comment = "dropped: IMPAIRED"
    assert Printer().line(packet).startswith("00:16:40.000123 IP")
    assert Printer(stamp="epoch").line(packet).startswith("1000.000123 IP")
    assert Printer(stamp="start").line(packet).startswith("00:00:00.000000 IP")
    assert Printer(stamp="none").line(packet).endswith("[dropped: IMPAIRED]")


@given(st.binary(max_size=120), st.sampled_from([1, 101]), st.booleans())
def test_any_bytes_are_survived(data: bytes, linktype: int, verbose: bool):
    packet = Packet(data, linktype)
    assert isinstance(Printer(verbose=verbose, ethernet=True).line(packet), str)
    compile_filter(["tcp port 80 or host 10.0.0.1 or ether 02:00:00:00:00:01 or multicast"])(packet)


@given(st.integers(0, 79), st.integers(0, 255))
def test_a_damaged_segment_is_survived(place: int, value: int):
    data = bytearray(packets.tcp_segment(tcp.SYN, options=tcp.build_syn_options(1460, 7, True, (1, 0))).data)
    data[place % len(data)] = value
    packet = Packet(bytes(data), 1)
    assert Printer(verbose=True, ethernet=True).line(packet)
