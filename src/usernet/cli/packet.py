"""One captured packet taken apart, for people to read and for filters to choose by.

Only what the headers say is kept; a packet that is cut short or damaged is taken apart as far as it goes. `Packet` is
what `cli/show.py` writes out and `cli/filter.py` decides on.
"""

from __future__ import annotations

from typing import Final, final

from usernet.wire import arp, ethernet, icmp, ipv4, pcapng, tcp, udp
from usernet.wire.ipv4 import format_addr

IPPROTO_ICMP: Final = 1
IPPROTO_IGMP: Final = 2
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17


@final
class Packet:
    """A packet. What it does not have is 0, empty or None.

    when: ns since 1970. data: as captured, `size` bytes long before it was cut. dst, src, ethertype: the link header's
    (link False where there is none). network, transport, payload: where in `data` those begin, -1 where it doesn't go
    so far; end: where the network layer's data ends. kind: "arp", "ip", "ip6" or "". ip: its header as `ipv4.parse`
    gives it. proto: the protocol's number. saddr, daddr: packed. sport, dport: ports. fragment: no first one. comment:
    the capture's own, such as why the packet was dropped.
    """

    __slots__ = (
        "arp", "comment", "daddr", "data", "device", "dport", "dst", "end", "ethertype", "fragment", "icmp", "ip",
        "kind", "link", "network", "outgoing", "payload", "proto", "saddr", "size", "sport", "src", "tcp",
        "transport", "when",
    )  # fmt: skip

    def __init__(self, data: bytes, linktype: int, when: int = 0, size: int = 0, device: str = "") -> None:
        """linktype: a pcapng.LINKTYPE_."""
        self.when = when
        self.data = data
        self.size = size or len(data)
        self.device = device
        self.outgoing: bool | None = None
        self.comment = ""
        self.link = linktype == pcapng.LINKTYPE_ETHERNET
        self.dst = self.src = b""
        self.ethertype = 0
        self.network = self.transport = self.payload = -1
        self.end = len(data)
        self.kind = ""
        self.arp: arp.ArpHeader | None = None
        self.ip: ipv4.Ipv4Header | None = None
        self.tcp: tcp.TcpHeader | None = None
        self.icmp: tuple[int, int, int, int] | None = None
        self.proto = 0
        self.saddr = self.daddr = b""
        self.sport = self.dport = 0
        self.fragment = False
        self._dissect()

    def _dissect(self) -> None:
        data = self.data
        at = 0
        if self.link:
            if len(data) < ethernet.ETH_HLEN:
                return
            self.dst, self.src, self.ethertype = ethernet.parse(data, 0)
            at = ethernet.ETH_HLEN
        elif data:
            self.ethertype = ethernet.ETH_P_IPV6 if data[0] >> 4 == 6 else ethernet.ETH_P_IP
        self.network = at
        if self.ethertype == ethernet.ETH_P_ARP:
            self.kind = "arp"
            if len(data) - at >= arp.ARP_HLEN:
                self.arp = arp.parse(data, at)
                self.saddr, self.daddr = self.arp[6], self.arp[8]
        elif self.ethertype == ethernet.ETH_P_IP:
            self.kind = "ip"
            self._dissect_ip(at)
        elif self.ethertype == ethernet.ETH_P_IPV6:
            self.kind = "ip6"
            if len(data) - at >= 40:
                self.proto = data[at + 6]
                self.saddr, self.daddr = data[at + 8 : at + 24], data[at + 24 : at + 40]

    def _dissect_ip(self, at: int) -> None:
        data = self.data
        if len(data) - at < ipv4.IP_HLEN:
            return
        self.ip = header = ipv4.parse(data, at)
        hlen = (header[0] & 15) * 4
        self.proto, self.saddr, self.daddr = header[6], header[8], header[9]
        if hlen < ipv4.IP_HLEN or header[0] >> 4 != 4:
            return
        total = header[2]
        # A frame may be padded behind the packet; a super-segment of 64 KiB and more has no length in its header.
        if hlen <= total <= len(data) - at:
            self.end = at + total
        at += hlen
        if header[4] & ipv4.IP_OFFSET:
            self.fragment = True
            return
        if at > self.end:
            return
        self.transport = at
        room = self.end - at
        if self.proto == IPPROTO_TCP and room >= tcp.TCP_HLEN:
            self.tcp = tcp.parse(data, at)
            self.sport, self.dport = self.tcp[0], self.tcp[1]
            if tcp.TCP_HLEN <= self.tcp[4] <= room:
                self.payload = at + self.tcp[4]
        elif self.proto == IPPROTO_UDP and room >= udp.UDP_HLEN:
            self.sport, self.dport = udp.parse(data, at)[:2]
            self.payload = at + udp.UDP_HLEN
        elif self.proto == IPPROTO_ICMP and room >= icmp.ICMP_HLEN:
            self.icmp = icmp.parse(data, at)
            self.payload = at + icmp.ICMP_HLEN

    @property
    def hosts(self) -> tuple[str, str]:
        """The IPv4 addresses it goes from and to, "" where it has none."""
        return (
            format_addr(self.saddr) if len(self.saddr) == 4 else "",
            format_addr(self.daddr) if len(self.daddr) == 4 else "",
        )
