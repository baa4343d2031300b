"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import calls, connection, frames, messages, parsers

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Callable[[bytes], None]] = {
    "ethernet": frames.ethernet_frames,
    "virtio": frames.virtio_frames,
    "arp": frames.arp_packets,
    "ipv4": frames.ipv4_packets,
    "icmp": frames.icmp_messages,
    "igmp": frames.igmp_messages,
    "udp": frames.udp_datagrams,
    "tcp": frames.tcp_segments,
    "connection": connection.tcp_connection,
    "sockopt": calls.socket_options,
    "cmsg": calls.ancillary_data,
    "address": calls.addresses,
    "tcp_options": parsers.tcp_options,
    "ip_options": parsers.ip_options,
    "igmp_parsers": parsers.igmp_parsers,
    "pcap": parsers.pcap_files,
    "bpf": parsers.bpf_programs,
    "dns": parsers.dns_answers,
    "packetdrill": parsers.packetdrill_scripts,
    "texts": parsers.texts,
    "service": messages.service_messages,
}


def seeds(name: str) -> list[bytes]:
    """The seed corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
