"""Packets as lines of text, in the layout of tcpdump(8)."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Final, final

from usernet.cli.packet import IPPROTO_ICMP, IPPROTO_IGMP, IPPROTO_TCP, IPPROTO_UDP, Packet
from usernet.wire import arp, checksum, ethernet, icmp, ipv4, tcp
from usernet.wire.ipv4 import format_addr

PROTOCOLS: Final = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 41: "IPv6", 47: "GRE", 58: "ICMPv6", 132: "SCTP"}
ETHERTYPES: Final = {
    ethernet.ETH_P_IP: "IPv4", ethernet.ETH_P_ARP: "ARP", ethernet.ETH_P_IPV6: "IPv6",
}  # fmt: skip
FLAGS: Final = (
    (tcp.FIN, "F"), (tcp.SYN, "S"), (tcp.RST, "R"), (tcp.PSH, "P"), (tcp.ACK, "."), (tcp.URG, "U"), (tcp.ECE, "E"),
    (tcp.CWR, "W"), (tcp.AE, "e"),
)  # fmt: skip
ICMP_UNREACHABLE: Final = {
    0: "net {dst} unreachable", 1: "host {dst} unreachable", 2: "{dst} protocol {proto} unreachable",
    3: "{dst} {name} port {dport} unreachable", 4: "{dst} unreachable - need to frag (mtu {mtu})",
    5: "{dst} unreachable - source route failed", 9: "{dst} unreachable - admin prohibited net",
    10: "host {dst} unreachable - admin prohibited", 13: "host {dst} unreachable - admin prohibited filter",
}  # fmt: skip


@final
class Printer:
    """Writes packets out, and remembers each connection's first sequence numbers to count from.

    ethernet: show link headers (-e). verbose: IP headers and checksums (-v). names: {number: name} of ports to be
    shown by name. stamp: "time" (of day, UTC), "none" (-t), "epoch" (-tt) or "start" (since the first packet, -ttttt).
    """

    def __init__(
        self,
        *,
        ethernet: bool = False,
        verbose: bool = False,
        absolute: bool = False,
        stamp: str = "time",
        device: bool = False,
        ports: dict[tuple[int, int], str] | None = None,
    ) -> None:
        self.ethernet = ethernet
        self.verbose = verbose
        self.absolute = absolute
        self.stamp = stamp
        self.device = device
        self.ports = ports or {}
        self._first: int = -1
        self._bases_of: dict[tuple[bytes, int, bytes, int], int] = {}

    def line(self, packet: Packet) -> str:
        """One packet; more than one line where verbose."""
        text = self._stamp(packet.when)
        if self.device:
            direction = "" if packet.outgoing is None else " Out" if packet.outgoing else " In "
            text += f"{packet.device:<5}{direction} "
        if self.ethernet and packet.link and packet.network >= 0:
            name = ETHERTYPES.get(packet.ethertype, "Unknown")
            src, dst = packet.src.hex(":"), "Broadcast" if packet.dst == ethernet.BROADCAST else packet.dst.hex(":")
            text += f"{src} > {dst}, ethertype {name} ({packet.ethertype:#06x}), length {packet.size}: "
        text += self.body(packet)
        return f"{text}  [{packet.comment}]" if packet.comment else text

    def _stamp(self, when: int) -> str:
        if self._first < 0:
            self._first = when
        if self.stamp == "none":
            return ""
        if self.stamp == "epoch":
            return f"{when // 10**9}.{when % 10**9 // 1000:06} "
        if self.stamp == "start":
            when -= self._first
        clock = time.gmtime(when // 10**9)
        return f"{clock.tm_hour:02}:{clock.tm_min:02}:{clock.tm_sec:02}.{when % 10**9 // 1000:06} "

    def body(self, packet: Packet) -> str:
        """The packet without time and link header."""
        if packet.kind == "arp":
            return self._arp(packet)
        if packet.kind == "ip":
            return self._ip(packet)
        if packet.kind == "ip6":
            if not packet.saddr:
                return f"IP6 truncated-ip6, length {len(packet.data)}"
            name = PROTOCOLS.get(packet.proto, f"protocol {packet.proto}")
            return f"IP6 {ip_address(packet.saddr)} > {ip_address(packet.daddr)}: {name}, length {packet.size}"
        if packet.network < 0:
            return f"[|ether], length {packet.size}"
        return f"{packet.src.hex(':')} > {packet.dst.hex(':')}, type {packet.ethertype:#06x}, length {packet.size}"

    def _arp(self, packet: Packet) -> str:
        size = len(packet.data) - packet.network
        header = packet.arp
        if header is None:
            return f"ARP, [|arp], length {size}"
        _, _, _, _, op, sha, spa, _, tpa = header
        sender, target = format_addr(spa), format_addr(tpa)
        if op == arp.ARPOP_REQUEST:
            if spa == bytes(4):
                what = f"Request who-has {target} (Probe)"
            elif spa == tpa:
                what = f"Announcement {target}"
            else:
                what = f"Request who-has {target} tell {sender}"
        elif op == arp.ARPOP_REPLY:
            what = f"Reply {sender} is-at {sha.hex(':')}"
        else:
            what = f"operation {op}"
        return f"ARP, {what}, length {size}"

    def _ip(self, packet: Packet) -> str:
        header = packet.ip
        if header is None or (packet.transport < 0 and not packet.fragment):
            return f"IP truncated-ip or bad header, length {len(packet.data) - max(packet.network, 0)}"
        source, target = packet.hosts
        protocol = PROTOCOLS.get(packet.proto, f"proto {packet.proto}")
        prefix = "IP "
        if self.verbose:
            ver_ihl, tos, total, ident, frag, ttl, proto, _, _, _ = header
            flags = "+" if frag & ipv4.IP_MF else "DF" if frag & ipv4.IP_DF else "none"
            good = ipv4.header_csum_ok(packet.data, packet.network, (ver_ihl & 15) * 4)
            prefix = (
                f"IP (tos {tos:#x}, ttl {ttl}, id {ident}, offset {(frag & ipv4.IP_OFFSET) * 8}, flags [{flags}], "
                f"proto {protocol} ({proto}), length {total}{'' if good else ', bad cksum'})\n    "
            )
        if packet.fragment:
            hlen = (header[0] & 15) * 4
            body = f"{protocol.lower()} (frag {header[3]}:{header[2] - hlen}@{(header[4] & ipv4.IP_OFFSET) * 8})"
            return f"{prefix}{source} > {target}: {body}"
        if packet.payload < 0:
            size = packet.end - packet.transport
            what = "igmp" if packet.proto == IPPROTO_IGMP else f"[|{protocol.lower()}]"
            if packet.proto not in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_IGMP):
                what = f"ip-proto-{packet.proto}"
            return f"{prefix}{source} > {target}: {what}, length {size}"
        if packet.proto == IPPROTO_ICMP:
            return f"{prefix}{source} > {target}: {self._icmp(packet)}"
        sport, dport = self._port(packet.proto, packet.sport), self._port(packet.proto, packet.dport)
        ends = f"{prefix}{source}.{sport} > {target}.{dport}: "
        if packet.proto == IPPROTO_UDP:
            return f"{ends}{self._sum(packet, '[{} udp sum] ')}UDP, length {packet.end - packet.payload}"
        return ends + self._tcp(packet)

    def _port(self, proto: int, port: int) -> str:
        return self.ports.get((proto, port)) or str(port)

    def _sum(self, packet: Packet, layout: str) -> str:
        """Whether the transport checksum is right; "" unless verbose."""
        if not self.verbose:
            return ""
        length = packet.end - packet.transport
        if packet.proto == IPPROTO_UDP and packet.data[packet.transport + 6 : packet.transport + 8] == b"\0\0":
            return layout.format("no")
        pseudo = checksum.pseudo_sum(packet.saddr, packet.daddr, packet.proto, length)
        total = checksum.csum(packet.data, packet.transport, packet.end, pseudo)
        return layout.format("correct" if checksum.csum_fold(total) == 0 else "incorrect")

    def _tcp(self, packet: Packet) -> str:
        assert packet.tcp is not None
        _, _, seq, ack, _, flags, window, check, urgent = packet.tcp
        size = packet.end - packet.payload
        seq_base, ack_base = self._bases(packet, seq, ack, flags)
        shown = "".join(letter for bit, letter in FLAGS if flags & bit) or "none"
        text = f"Flags [{shown}], "
        if self.verbose:
            text += f"cksum {check:#06x} {self._sum(packet, '({})')}, "
        relative = (seq - seq_base) & 0xFFFFFFFF
        if size:
            text += f"seq {relative}:{relative + size}, "
        elif flags & (tcp.SYN | tcp.FIN | tcp.RST):
            text += f"seq {relative}, "
        if flags & tcp.ACK:
            text += f"ack {(ack - ack_base) & 0xFFFFFFFF}, "
        text += f"win {window}, "
        if flags & tcp.URG:
            text += f"urg {urgent}, "
        options = self._options(packet, ack_base)
        return f"{text}{f'options [{options}], ' if options else ''}length {size}"

    def _bases(self, packet: Packet, seq: int, ack: int, flags: int) -> tuple[int, int]:
        """What this direction's sequence numbers, and the other's, are counted from: the SYN's own is absolute."""
        if self.absolute:
            return 0, 0
        key = (packet.saddr, packet.sport, packet.daddr, packet.dport)
        back = (packet.daddr, packet.dport, packet.saddr, packet.sport)
        if flags & tcp.SYN:
            self._bases_of[key] = seq
            if not flags & tcp.ACK:
                self._bases_of.pop(back, None)
                return 0, 0
            self._bases_of[back] = ack - 1 & 0xFFFFFFFF
            return 0, self._bases_of[back]
        # Where the connection, or one of its directions, was not seen to open, count from what is seen first.
        base = self._bases_of.setdefault(key, seq)
        return base, self._bases_of.setdefault(back, ack - 1 & 0xFFFFFFFF) if flags & tcp.ACK else 0

    def _options(self, packet: Packet, ack_base: int) -> str:
        data = packet.data
        at, end = packet.transport + tcp.TCP_HLEN, packet.payload
        parts: list[str] = []
        while at < end:
            kind = data[at]
            if kind in (tcp.TCPOPT_EOL, tcp.TCPOPT_NOP):
                parts.append("nop" if kind else "eol")
                at += 1
                if not kind:
                    break
                continue
            size = data[at + 1] if at + 1 < end else 0
            if size < 2 or at + size > end:
                parts.append(f"[bad opt {kind}]")
                break
            options = tcp.parse_options(data, at, at + size)
            if kind == tcp.TCPOPT_MSS:
                parts.append(f"mss {options.mss}")
            elif kind == tcp.TCPOPT_WINDOW:
                parts.append(f"wscale {options.wscale}")
            elif kind == tcp.TCPOPT_SACK_PERM:
                parts.append("sackOK")
            elif kind == tcp.TCPOPT_TIMESTAMP and options.has_ts:
                parts.append(f"TS val {options.tsval} ecr {options.tsecr}")
            elif kind == tcp.TCPOPT_SACK and options.sacks:
                blocks = "".join(
                    f"{{{(left - ack_base) & 0xFFFFFFFF}:{(right - ack_base) & 0xFFFFFFFF}}}"
                    for left, right in options.sacks
                )
                parts.append(f"sack {len(options.sacks)} {blocks}")
            else:
                parts.append(f"unknown-{kind} {data[at + 2 : at + size].hex()}".rstrip())
            at += size
        return ",".join(parts)

    def _icmp(self, packet: Packet) -> str:
        assert packet.icmp is not None
        kind, code, _, rest = packet.icmp
        size = packet.end - packet.transport
        if kind in (icmp.ICMP_ECHO, icmp.ICMP_ECHOREPLY):
            what = "request" if kind == icmp.ICMP_ECHO else "reply"
            return f"ICMP echo {what}, id {rest >> 16}, seq {rest & 0xFFFF}, length {size}"
        inner = Packet(packet.data[packet.payload : packet.end], 101)
        if kind == icmp.ICMP_DEST_UNREACH:
            about = ICMP_UNREACHABLE.get(code, f"{{dst}} unreachable - code {code}").format(
                dst=inner.hosts[1] or "?", proto=inner.proto, name=PROTOCOLS.get(inner.proto, str(inner.proto)).lower(),
                dport=inner.dport, mtu=rest & 0xFFFF,
            )  # fmt: skip
            if code == 3:
                about = f"{inner.hosts[1]} {PROTOCOLS.get(inner.proto, '?').lower()} port {inner.dport} unreachable"
            return f"ICMP {about}, length {size}"
        if kind == icmp.ICMP_TIME_EXCEEDED:
            return f"ICMP {'ip reassembly time exceeded' if code else 'time exceeded in-transit'}, length {size}"
        if kind == icmp.ICMP_REDIRECT:
            gateway = format_addr(rest.to_bytes(4, "big"))
            return f"ICMP redirect {inner.hosts[1]} to host {gateway}, length {size}"
        return f"ICMP type-#{kind}, code {code}, length {size}"
