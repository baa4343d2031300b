"""Bytes of the packets that a script gives to the stack.

`exchange` has already put in the connection's addresses, ports and sequence numbers. Payloads are zeros, as
packetdrill's are; checksums are right. The TTL is 255 where a script does not say.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from usernet.packetdrill import icmp_names
from usernet.packetdrill.ast import (
    ECHOED_RAW,
    ECHOED_UDP,
    Encapsulation,
    Gre,
    Icmp,
    IpEncap,
    IpInfo,
    MplsStack,
    Tcp,
    TcpOption,
)
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.live import (
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_UC,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    IPPROTO_MPLS,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_HLEN,
)
from usernet.wire import icmp, ipv4, tcp, udp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

DEFAULT_TTL: Final = 255
ICMP_ECHO_BYTES: Final = 8  # of the quoted packet's transport header: its ports, and TCP's sequence number
IP_MAX_LENGTH: Final = 0xFFFF

_IPV6: Final = Struct("!IHBB16s16s")
_U16: Final = Struct("!H")
_U32: Final = Struct("!I")
_ECHOED_TCP: Final = Struct("!HHI")
_ECHOED_UDP: Final = Struct("!HHHH")


def ip(source: bytes, destination: bytes, protocol: int, payload: bytes, info: IpInfo) -> bytes:
    """An IP packet, of the version of its addresses. Raises BadEvent for one that is too long."""
    ttl = info.ttl or DEFAULT_TTL
    if len(source) == 4:
        total = ipv4.IP_HLEN + len(payload)
        if total > IP_MAX_LENGTH:
            raise BadEvent(f"found a packet of {total} bytes, expected at most {IP_MAX_LENGTH}")
        return ipv4.build(info.tos, total, 0, 0, ttl, protocol, source, destination) + payload
    if len(payload) > IP_MAX_LENGTH:
        raise BadEvent(f"found an IPv6 payload of {len(payload)} bytes, expected at most {IP_MAX_LENGTH}")
    word = 6 << 28 | info.tos << 20 | info.flow_label
    return _IPV6.pack(word, len(payload), protocol, ttl, source, destination) + payload


def options(row: list[TcpOption] | None) -> bytes:
    """TCP options as they are in a header."""
    out = bytearray()
    for option in row or []:
        out.append(option.kind)
        if option.kind not in (tcp.TCPOPT_EOL, tcp.TCPOPT_NOP):
            out.append(2 + len(option.data))
            out += option.data
    return bytes(out)


def tcp_packet(source: bytes, destination: bytes, segment: Tcp, info: IpInfo) -> bytes:
    """An IP packet with a segment, whose ports and sequence numbers are the wire's."""
    header = tcp.build(
        segment.source_port, segment.destination_port, segment.seq, segment.ack, segment.flags, segment.window or 0, 0,
        segment.urg, options(segment.options),
    )  # fmt: skip
    body = header + bytes(segment.length)
    check = csum_fold(csum(body, 0, len(body), pseudo_sum(source, destination, IPPROTO_TCP, len(body))))
    at = tcp.TCP_CHECK_OFFSET
    return ip(source, destination, IPPROTO_TCP, body[:at] + _U16.pack(check) + body[at + 2 :], info)


def udp_packet(
    source: bytes, destination: bytes, source_port: int, destination_port: int, length: int, info: IpInfo
) -> bytes:
    """An IP packet with a datagram of `length` bytes of payload."""
    total = udp.UDP_HLEN + length
    body = udp.build(source_port, destination_port, total, 0) + bytes(length)
    check = csum_fold(csum(body, 0, total, pseudo_sum(source, destination, IPPROTO_UDP, total))) or 0xFFFF
    return ip(source, destination, IPPROTO_UDP, udp.build(source_port, destination_port, total, check) + body[8:], info)


def icmp_packet(source: bytes, destination: bytes, message: Icmp, ports: tuple[int, int], info: IpInfo) -> bytes:
    """An IP packet with an ICMP message that quotes a packet which went from `destination` to `source`.

    Args:
        ports: the quoted packet's source and destination port.

    Raises:
        BadEvent: a type, code or field that this IP version does not have.
    """
    version = 4 if len(source) == 4 else 6
    kind, code = type_and_code(version, message)
    rest = message.echo_id << 16
    if message.mtu is not None:
        if version == 4:
            if (kind, code) != (icmp.ICMP_DEST_UNREACH, icmp.ICMP_FRAG_NEEDED) or message.mtu > 0xFFFF:
                raise BadEvent("found 'mtu', expected it with 'unreachable frag_needed' only, and up to 65535")
        elif kind != icmp_names.ICMPV6_PKT_TOOBIG:
            raise BadEvent("found 'mtu', expected it with 'packet_too_big' only")
        rest = message.mtu
    if message.echoed == ECHOED_RAW:
        payload = bytes(message.length - icmp.ICMP_HLEN)
    else:
        payload = _echoed(destination, source, message, ports)
    if version == 4:
        return ip(source, destination, IPPROTO_ICMP, icmp.build(kind, code, rest, payload), info)
    body = bytes([kind, code, 0, 0]) + _U32.pack(rest) + payload
    check = csum_fold(csum(body, 0, len(body), pseudo_sum(source, destination, IPPROTO_ICMPV6, len(body))))
    return ip(source, destination, IPPROTO_ICMPV6, body[:2] + _U16.pack(check) + body[4:], info)


def _echoed(source: bytes, destination: bytes, message: Icmp, ports: tuple[int, int]) -> bytes:
    """The quoted packet's IP header and the first eight bytes of its transport header."""
    is_udp = message.echoed == ECHOED_UDP
    header_length = udp.UDP_HLEN if is_udp else tcp.TCP_HLEN
    length = header_length + message.length
    if is_udp:
        quoted = _ECHOED_UDP.pack(*ports, length & 0xFFFF, 0)
    else:
        quoted = _ECHOED_TCP.pack(*ports, message.seq)
    protocol = IPPROTO_UDP if is_udp else IPPROTO_TCP
    # The lengths are those of the packet that was sent, of which only the beginning is here.
    if len(source) == 4:
        total = min(ipv4.IP_HLEN + length, IP_MAX_LENGTH)
        return ipv4.build(0, total, 0, 0, DEFAULT_TTL, protocol, source, destination) + quoted
    return _IPV6.pack(6 << 28, min(length, IP_MAX_LENGTH), protocol, DEFAULT_TTL, source, destination) + quoted


def type_and_code(version: int, message: Icmp) -> tuple[int, int]:
    """An ICMP message's numbers for an IP version. Raises BadEvent where that version has none of its names."""
    kind = icmp_names.type_number(version, message.type)
    if kind is None:
        raise BadEvent(f"found ICMP '{message.type}', expected a type that IPv{version} has")
    code = icmp_names.code_number(version, message.type, message.code)
    if code is None:
        raise BadEvent(f"found ICMP '{message.type} {message.code}', expected a code that IPv{version} has")
    return kind, code


def icmp_length(version: int, message: Icmp) -> int:
    """How many bytes an ICMP message takes, its header included."""
    if message.echoed == ECHOED_RAW:
        return message.length
    return icmp.ICMP_HLEN + (ipv4.IP_HLEN if version == 4 else IPV6_HLEN) + ICMP_ECHO_BYTES


def encapsulate(packet: bytes, encapsulations: list[Encapsulation]) -> bytes:
    """Put outer headers around a packet, the first of them outermost."""
    inner: Encapsulation | None = None
    version = packet[0] >> 4
    for header in reversed(encapsulations):
        if isinstance(header, IpEncap):
            packet = ip(header.source, header.destination, _protocol(inner, version), packet, header.info)
            version = header.version
        elif isinstance(header, Gre):
            packet = _gre(header, _ether_type(inner, version)) + packet
        else:
            packet = _mpls(header) + packet
        inner = header
    return packet


def _protocol(inner: Encapsulation | None, version: int) -> int:
    """The protocol number that says what follows an outer IP header."""
    if isinstance(inner, Gre):
        return IPPROTO_GRE
    if isinstance(inner, MplsStack):
        return IPPROTO_MPLS
    return IPPROTO_IPIP if version == 4 else IPPROTO_IPV6


def _ether_type(inner: Encapsulation | None, version: int) -> int:
    if isinstance(inner, MplsStack):
        return ETH_P_MPLS_UC
    return ETH_P_IP if version == 4 else ETH_P_IPV6


def _gre(header: Gre, protocol: int) -> bytes:
    out = _U16.pack(header.flags) + _U16.pack(protocol)
    if header.flags & 0xC000:
        out += _U16.pack(header.sum) + _U16.pack(header.off)
    if header.flags & 0x2000:
        out += _U32.pack(header.key)
    if header.flags & 0x1000:
        out += _U32.pack(header.seq)
    return out


def _mpls(stack: MplsStack) -> bytes:
    return b"".join(
        _U32.pack(entry.label << 12 | entry.tc << 9 | entry.bottom << 8 | entry.ttl) for entry in stack.entries
    )
