"""A packet as it is on the wire, taken apart: what the stack sent, and what it is given.

`exchange` translates between these and the packets of a script, `match` compares, `pretty` prints. Fields are integers
and packed addresses; nothing here knows of a connection.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, final

from usernet.packetdrill.ast import Encapsulation, Gre, IpEncap, IpInfo, MplsEntry, MplsStack, TcpOption
from usernet.packetdrill.errors import Mismatch
from usernet.wire import icmp, ipv4, tcp, udp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

IPPROTO_ICMP: Final = 1
IPPROTO_IPIP: Final = 4
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_IPV6: Final = 41
IPPROTO_GRE: Final = 47
IPPROTO_ICMPV6: Final = 58
IPPROTO_MPLS: Final = 137
IPPROTO_RAW: Final = 255

ETH_P_IP: Final = 0x0800
ETH_P_IPV6: Final = 0x86DD
ETH_P_MPLS_UC: Final = 0x8847

IPV6_HLEN: Final = 40
RESERVED_FLAGS: Final = 0xE00  # the three bits between doff and AE

_IPV6: Final = Struct("!IHBB16s16s")
_U16: Final = Struct("!H")
_U32: Final = Struct("!I")
_GRE: Final = Struct("!HH")


@final
class Live:
    """One packet.

    Of the innermost IP header: `version`, `source`, `destination`, `tos`, `flow_label` (IPv6), `ttl`, `header_length`
    (bytes), `length` (bytes of the whole IP packet), `protocol`. Of TCP: ports, `seq`, `ack`, `flags` (nine bits, and
    RESERVED_FLAGS above them), `window`, `urg`, `options`, `options_length` (bytes). Of UDP: ports and `udp_length`.
    Of ICMP: `icmp_type`, `icmp_code`, `icmp_rest`. `payload`: of TCP, UDP or ICMP. `encapsulations`: outer headers.
    """

    def __init__(self) -> None:
        self.encapsulations: list[Encapsulation] = []
        self.version = 0
        self.source = b""
        self.destination = b""
        self.tos = 0
        self.flow_label = 0
        self.ttl = 0
        self.header_length = 0
        self.length = 0
        self.protocol = 0
        self.source_port = 0
        self.destination_port = 0
        self.seq = 0
        self.ack = 0
        self.flags = 0
        self.window = 0
        self.urg = 0
        self.options: list[TcpOption] = []
        self.options_length = 0
        self.udp_length = 0
        self.icmp_type = 0
        self.icmp_code = 0
        self.icmp_rest = 0
        self.payload = b""

    @property
    def is_tcp(self) -> bool:
        return self.protocol == IPPROTO_TCP

    @property
    def is_udp(self) -> bool:
        return self.protocol == IPPROTO_UDP

    @property
    def is_icmp(self) -> bool:
        return self.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6)

    def time_stamp(self) -> tuple[int, int] | None:
        """TS val and ecr of TCP, None without."""
        for option in self.options:
            if option.kind == tcp.TCPOPT_TIMESTAMP and len(option.data) == 8:
                return _U32.unpack_from(option.data)[0], _U32.unpack_from(option.data, 4)[0]
        return None


def dissect(data: bytes, *, checksummed: bool = False) -> Live:
    """Take an IP packet apart.

    Args:
        data: the packet.
        checksummed: its transport checksum is in place, and so is checked; IPv4's header checksum always is.

    Raises:
        Mismatch: with what is wrong, for a packet that is not well formed.
    """
    live = Live()
    _ip(live, data, 0)
    if checksummed:
        _check_transport(live, data)
    return live


def _check_transport(live: Live, data: bytes) -> None:
    """Raise Mismatch for a wrong checksum of TCP, UDP or ICMP."""
    start, end = len(data) - live.length + live.header_length, len(data)
    if live.protocol == IPPROTO_ICMP:
        seed = 0
    elif live.protocol in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6):
        seed = pseudo_sum(live.source, live.destination, live.protocol, end - start)
    else:
        return
    if live.protocol == IPPROTO_UDP and live.version == 4 and data[start + 6 : start + 8] == b"\0\0":
        return  # RFC 768: none was made
    if csum_fold(csum(data[start:end], 0, end - start, seed)) != 0:
        raise Mismatch(f"bad outbound checksum of protocol {live.protocol}")


def _need(data: bytes, end: int, what: str) -> None:
    if len(data) < end:
        raise Mismatch(f"malformed packet: found {len(data)} bytes, expected {end} for {what}")


def _ip(live: Live, data: bytes, at: int) -> None:
    _need(data, at + 1, "an IP header")
    live.version = data[at] >> 4
    if live.version == 4:
        _need(data, at + ipv4.IP_HLEN, "an IPv4 header")
        ver_ihl, live.tos, total, _, _, live.ttl, protocol, _, live.source, live.destination = ipv4.parse(data, at)
        live.header_length = (ver_ihl & 0xF) * 4
        live.flow_label = 0
        if live.header_length < ipv4.IP_HLEN or total < live.header_length:
            raise Mismatch(f"malformed IPv4 header: found ihl {ver_ihl & 0xF} and total length {total}")
        _need(data, at + total, "the IPv4 total length")
        if not ipv4.header_csum_ok(data, at, live.header_length):
            raise Mismatch("bad outbound IPv4 header checksum")
    elif live.version == 6:
        _need(data, at + IPV6_HLEN, "an IPv6 header")
        word, payload, protocol, live.ttl, live.source, live.destination = _IPV6.unpack_from(data, at)
        live.tos, live.flow_label = word >> 20 & 0xFF, word & 0xFFFFF
        live.header_length, total = IPV6_HLEN, IPV6_HLEN + payload
        _need(data, at + total, "the IPv6 payload length")
    else:
        raise Mismatch(f"malformed packet: found IP version {live.version}, expected 4 or 6")
    live.length, live.protocol = total, protocol
    _transport(live, data[: at + total], at + live.header_length)


def _outer(live: Live) -> None:
    """What was read as the IP header is an outer one."""
    info = IpInfo(tos=live.tos, flow_label=live.flow_label, ttl=live.ttl)
    live.encapsulations.append(IpEncap(live.version, live.source, live.destination, info))


def _transport(live: Live, data: bytes, at: int) -> None:
    protocol = live.protocol
    if protocol == IPPROTO_TCP:
        _tcp(live, data, at)
    elif protocol == IPPROTO_UDP:
        _need(data, at + udp.UDP_HLEN, "a UDP header")
        live.source_port, live.destination_port, live.udp_length, _ = udp.parse(data, at)
        live.payload = data[at + udp.UDP_HLEN :]
    elif protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        _need(data, at + icmp.ICMP_HLEN, "an ICMP header")
        live.icmp_type, live.icmp_code, _, live.icmp_rest = icmp.parse(data, at)
        live.payload = data[at + icmp.ICMP_HLEN :]
    elif protocol in (IPPROTO_IPIP, IPPROTO_IPV6):
        _outer(live)
        _ip(live, data, at)
    elif protocol == IPPROTO_GRE:
        _outer(live)
        _gre(live, data, at)
    elif protocol == IPPROTO_MPLS:
        _outer(live)
        _mpls(live, data, at)
    else:
        live.payload = data[at:]


def _tcp(live: Live, data: bytes, at: int) -> None:
    _need(data, at + tcp.TCP_HLEN, "a TCP header")
    sport, dport, live.seq, live.ack, doff, flags, live.window, _, live.urg = tcp.parse(data, at)
    live.source_port, live.destination_port = sport, dport
    live.flags = flags | (_U16.unpack_from(data, at + 12)[0] & RESERVED_FLAGS)
    if doff < tcp.TCP_HLEN:
        raise Mismatch(f"malformed TCP header: found a data offset of {doff} bytes, expected at least {tcp.TCP_HLEN}")
    _need(data, at + doff, "the TCP data offset")
    live.options = parse_options(data[at + tcp.TCP_HLEN : at + doff])
    live.options_length = doff - tcp.TCP_HLEN
    live.payload = data[at + doff :]


def parse_options(data: bytes) -> list[TcpOption]:
    """All TCP options in order, NOPs and EOLs too. Raises Mismatch for a length that can't be."""
    options: list[TcpOption] = []
    at = 0
    while at < len(data):
        kind = data[at]
        if kind in (tcp.TCPOPT_EOL, tcp.TCPOPT_NOP):
            options.append(TcpOption(kind))
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if length < 2 or at + length > len(data):
            left = len(data) - at
            raise Mismatch(f"malformed TCP option of kind {kind}: found length {length} with {left} bytes left")
        options.append(TcpOption(kind, data[at + 2 : at + length]))
        at += length
    return options


def _gre(live: Live, data: bytes, at: int) -> None:
    _need(data, at + 4, "a GRE header")
    flags, protocol = _GRE.unpack_from(data, at)
    header = Gre(flags)
    at += 4
    if flags & 0xC000:  # checksum or routing: both fields are there
        _need(data, at + 4, "GRE's checksum")
        header.sum, header.off = _GRE.unpack_from(data, at)
        at += 4
    if flags & 0x2000:
        _need(data, at + 4, "GRE's key")
        header.key = _U32.unpack_from(data, at)[0]
        at += 4
    if flags & 0x1000:
        _need(data, at + 4, "GRE's sequence number")
        header.seq = _U32.unpack_from(data, at)[0]
        at += 4
    live.encapsulations.append(header)
    if protocol == ETH_P_MPLS_UC:
        _mpls(live, data, at)
    elif protocol in (ETH_P_IP, ETH_P_IPV6):
        _ip(live, data, at)
    else:
        raise Mismatch(f"malformed packet: found GRE protocol 0x{protocol:04x}, expected IPv4, IPv6 or MPLS")


def _mpls(live: Live, data: bytes, at: int) -> None:
    entries: list[MplsEntry] = []
    while not entries or not entries[-1].bottom:
        _need(data, at + 4, "an MPLS label")
        word = _U32.unpack_from(data, at)[0]
        entries.append(MplsEntry(word >> 12, word >> 9 & 7, bool(word >> 8 & 1), word & 0xFF))
        at += 4
    live.encapsulations.append(MplsStack(entries))
    _ip(live, data, at)
