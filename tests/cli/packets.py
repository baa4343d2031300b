"""Small packets, as they stand in a capture."""

from __future__ import annotations

from usernet.cli.packet import Packet
from usernet.wire import arp, checksum, ethernet, icmp, ipv4, pcapng, tcp, udp

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def ether(payload: bytes, proto: int = ethernet.ETH_P_IP, dst: bytes = MAC_B, src: bytes = MAC_A) -> Packet:
    return Packet(ethernet.build(dst, src, proto) + payload, pcapng.LINKTYPE_ETHERNET, 1_000_000_123_456)


def ip(proto: int, payload: bytes, saddr: bytes = A, daddr: bytes = B, frag: int = ipv4.IP_DF) -> Packet:
    return ether(ipv4.build(0, 20 + len(payload), 7, frag, 64, proto, saddr, daddr) + payload)


def tcp_segment(
    flags: int, seq: int = 100, ack: int = 0, data: bytes = b"", options: bytes = b"", back: bool = False
) -> Packet:
    ports, ends = ((80, 4000), (B, A)) if back else ((4000, 80), (A, B))
    header = tcp.build(*ports, seq, ack, flags, 512, 0, 0, options)
    pseudo = checksum.pseudo_sum(*ends, 6, len(header) + len(data))
    check = checksum.csum_fold(checksum.csum(header + data, 0, len(header) + len(data), pseudo))
    return ip(6, tcp.build(*ports, seq, ack, flags, 512, check, 0, options) + data, *ends)


def udp_datagram(data: bytes, sport: int = 53, dport: int = 4000) -> Packet:
    return ip(17, udp.build(sport, dport, 8 + len(data), 0) + data)


def arp_packet(op: int, spa: bytes = A, tpa: bytes = B) -> Packet:
    return ether(arp.build(op, MAC_A, spa, bytes(6), tpa), ethernet.ETH_P_ARP, ethernet.BROADCAST)


def icmp_message(kind: int, code: int = 0, rest: int = 0, payload: bytes = b"") -> Packet:
    return ip(1, icmp.build(kind, code, rest, payload))
