from __future__ import annotations

import pytest

from tests.cli import packets
from usernet.cli.filter import FilterError, compile_filter
from usernet.wire import tcp

TCP = packets.tcp_segment(tcp.SYN)
UDP = packets.udp_datagram(b"abc")
ARP = packets.arp_packet(1)
PING = packets.icmp_message(8)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "tcp udp arp ping"),
        ("tcp", "tcp"),
        ("udp or arp", "udp arp"),
        ("not arp", "tcp udp ping"),
        ("icmp", "ping"),
        ("ip and not (tcp or icmp)", "udp"),
        ("port 80", "tcp"),
        ("port http", "tcp"),
        ("src port 53", "udp"),
        ("dst port 53", ""),
        ("tcp port 53", ""),
        ("udp port 53", "udp"),
        ("tcp dst port 80", "tcp"),
        ("portrange 50-60", "udp"),
        ("host 10.0.0.1", "tcp udp arp ping"),
        ("src host 10.0.0.2", ""),
        ("dst 10.0.0.2 and udp", "udp"),
        ("ip host 10.0.0.1", "tcp udp ping"),
        ("net 10.0.0.0/8 tcp", "tcp"),
        ("dst net 10.1.0.0/16", ""),
        ("broadcast", "arp"),
        ("ether src 02:00:00:00:00:01", "tcp udp arp ping"),
        ("ether dst 02:00:00:00:00:01", ""),
        ("less 45", "arp ping udp" if len(UDP.data) <= 45 else "arp ping"),
        ("greater 54 and tcp", "tcp"),
        ("!tcp && !udp && !arp", "ping"),
    ],
)
def test_filters(text, wanted):
    test = compile_filter(text.split())
    shown = {name for name, packet in (("tcp", TCP), ("udp", UDP), ("arp", ARP), ("ping", PING)) if test(packet)}
    assert shown == set(wanted.split())


@pytest.mark.parametrize(
    "text",
    [
        "prot 80", "port", "port x", "port 70000", "host", "host example", "( tcp", "tcp )", "portrange 9", "ether zz",
        "net 10.0.0.1/8", "less", "not", "and", "( " * 60 + "tcp",
    ],
)  # fmt: skip
def test_a_wrong_filter_says_what_was_expected(text):
    with pytest.raises(FilterError, match="filter: "):
        compile_filter([text])
