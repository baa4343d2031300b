"""Whether a packet that came is the packet that a script expects.

The last step of an outbound packet's way: `exchange` has put its numbers into the script's terms. All fields that
differ are named, not the first only. What is compared, and what is left open, is as in packetdrill
(`verify_outbound_live_packet`): the window only where it is written, the TTL and TOS likewise, options in order, the
echoed time stamp never, the sent one only with --tcp_ts_tick_usecs; never IP's identification.
"""

from __future__ import annotations

from copy import copy
from struct import Struct
from typing import Final

from usernet.packetdrill import build
from usernet.packetdrill.ast import (
    TOS_BYTE,
    TOS_ECN,
    TOS_ECT01,
    Encapsulation,
    Icmp,
    IpEncap,
    IpInfo,
    Packet,
    Tcp,
    TcpOption,
    Udp,
)
from usernet.packetdrill.errors import Mismatch
from usernet.packetdrill.exchange import U32, Connection
from usernet.packetdrill.live import RESERVED_FLAGS, Live
from usernet.packetdrill.parse_packet import options_length
from usernet.packetdrill.pretty import flags_text, option_text
from usernet.wire import tcp, udp

_U32_PAIR: Final = Struct("!II")


def differences(packet: Packet, live: Live, ts_tick: int, ts_tolerance: int) -> list[str]:
    """What differs between a packet of the script and one that came, one line each; nothing where they match.

    Args:
        packet: expected.
        live: came, in the script's numbers.
        ts_tick: ns of one tick of TCP time stamps; 0 to not compare their values.
        ts_tolerance: ns by which a time stamp may be off.
    """
    lines: list[str] = []
    body = packet.body
    _encapsulations(lines, packet.encapsulations, live.encapsulations)
    if isinstance(body, Tcp):
        name, is_one, size = "TCP", live.is_tcp, tcp.TCP_HLEN + _options_size(body, live) + body.length
    elif isinstance(body, Udp):
        name, is_one, size = "UDP", live.is_udp, udp.UDP_HLEN + body.length
    else:
        name, is_one, size = "ICMP", live.is_icmp, build.icmp_length(live.version, body)
    if not is_one:
        lines.append(f"protocol: expected {name}, came {live.protocol}")
        return lines
    minimum = 20 if live.version == 4 else 40
    _field(lines, "IP header length", minimum, live.header_length)
    _ip_info(lines, packet.info, live.tos, live.ttl)
    if isinstance(body, Tcp):
        _segment(lines, body, live)
        _options(lines, body, live, ts_tick, ts_tolerance)
    elif isinstance(body, Udp):
        _field(lines, "UDP length", udp.UDP_HLEN + body.length, live.udp_length)
    else:
        _icmp(lines, body, live)
    if not lines:  # else it only repeats what a line above says
        _field(lines, "IP total length", minimum + size, live.length)
    if not isinstance(body, Icmp) and not lines and live.payload.strip(b"\0"):
        at = len(live.payload) - len(live.payload.lstrip(b"\0"))
        lines.append(f"payload: expected zeros, came 0x{live.payload[at]:02x} at byte {at}")
    return lines


def _field(lines: list[str], name: str, expected: int, actual: int) -> None:
    if expected != actual:
        lines.append(f"{name}: expected {expected}, came {actual}")


def _options_size(segment: Tcp, live: Live) -> int:
    return live.options_length if segment.options is None else options_length(segment.options)


def _encapsulations(lines: list[str], expected: list[Encapsulation], actual: list[Encapsulation]) -> None:
    if len(expected) != len(actual):
        lines.append(f"outer headers: expected {len(expected)}, came {len(actual)}")
        return
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        if isinstance(want, IpEncap) and isinstance(got, IpEncap):
            if (want.version, want.source, want.destination) != (got.version, got.source, got.destination):
                lines.append(f"outer header {index}: expected other addresses than those that came")
            _ip_info(lines, want.info, got.info.tos, got.info.ttl)
        elif want != got:
            lines.append(f"outer header {index}: expected {want}, came {got}")


def _ip_info(lines: list[str], info: IpInfo, tos: int, ttl: int) -> None:
    if info.check == TOS_ECT01:
        if tos & 3 not in (1, 2):
            lines.append(f"ECN bits: expected 1 or 2, came {tos & 3}")
    elif info.check == TOS_ECN:
        _field(lines, "ECN bits", info.tos, tos & 3)
    elif info.check == TOS_BYTE and info.tos != tos:
        lines.append(f"TOS: expected 0x{info.tos:02x}, came 0x{tos:02x}")
    if info.ttl:
        _field(lines, "TTL", info.ttl, ttl)


def _segment(lines: list[str], segment: Tcp, live: Live) -> None:
    if segment.flags != live.flags & ~RESERVED_FLAGS:
        expected = flags_text(segment.flags, ace=segment.ace)
        lines.append(f"TCP flags: expected {expected}, came {flags_text(live.flags, ace=segment.ace)}")
    _field(lines, "TCP reserved bits", 0, (live.flags & RESERVED_FLAGS) >> 9)
    _field(lines, "TCP seq", segment.seq, live.seq)
    _field(lines, "TCP payload length", segment.length, len(live.payload))
    _field(lines, "TCP ack", segment.ack, live.ack)
    if segment.window is not None:
        _field(lines, "TCP win", segment.window, live.window)
    _field(lines, "TCP urg", segment.urg, live.urg)


def _options(lines: list[str], segment: Tcp, live: Live, ts_tick: int, ts_tolerance: int) -> None:
    if segment.options is None:
        return
    expected, actual = segment.options, live.options
    for index in range(max(len(expected), len(actual))):
        if index >= len(actual):
            lines.append(f"TCP option {index}: expected {option_text(expected[index])}, came none")
        elif index >= len(expected):
            lines.append(f"TCP option {index}: expected none, came {option_text(actual[index])}")
        elif not _option_matches(expected[index], actual[index], ts_tick, ts_tolerance):
            lines.append(
                f"TCP option {index}: expected {option_text(expected[index])}, came {option_text(actual[index])}"
            )


def _option_matches(expected: TcpOption, actual: TcpOption, ts_tick: int, ts_tolerance: int) -> bool:
    if expected.kind == actual.kind == tcp.TCPOPT_TIMESTAMP and len(expected.data) == len(actual.data) == 8:
        distance = (_U32_PAIR.unpack(actual.data)[0] - _U32_PAIR.unpack(expected.data)[0]) & U32
        if distance > U32 >> 1:
            distance = U32 + 1 - distance
        return ts_tick == 0 or distance * ts_tick <= ts_tolerance
    return expected == actual


def _icmp(lines: list[str], message: Icmp, live: Live) -> None:
    kind, code = build.type_and_code(live.version, message)
    _field(lines, "ICMP type", kind, live.icmp_type)
    _field(lines, "ICMP code", code, live.icmp_code)


def flow_label_difference(packet: Packet, live: Live, connection: Connection) -> str:
    """What is wrong with an IPv6 flow label; empty for nothing. A script's labels only say same or different."""
    wanted = packet.info.flow_label
    if live.version != 6 or not wanted:
        return ""
    if not live.flow_label:
        return "IPv6 flow label: expected one, came 0"
    before = connection.flow_labels
    if before is not None:
        same = live.flow_label == before[1]
        if wanted == before[0] and not same:
            return f"IPv6 flow label: expected the same 0x{before[1]:x}, came 0x{live.flow_label:x}"
        if wanted != before[0] and same:
            return f"IPv6 flow label: expected another than 0x{before[1]:x}, came the same"
    if before is None or wanted != before[0]:
        connection.flow_labels = (wanted, live.flow_label)
    return ""


# ---------------------------------------------------------------- several packets for one


def check_fragment(live: Live, previous: Live, missing: int) -> None:
    """Raise Mismatch unless a packet goes on where the previous one ended and is otherwise like it.

    `missing`: how much payload the script still expects; all packets but the last are of one size.
    """
    lines: list[str] = []
    loose = ~(tcp.FIN | tcp.PSH | tcp.CWR | RESERVED_FLAGS)
    if not (live.is_tcp and previous.is_tcp):
        lines.append("protocol: expected TCP, to put packets together")
    else:
        if live.flags & loose != previous.flags & loose:
            wanted, got = flags_text(previous.flags, ace=False), flags_text(live.flags, ace=False)
            lines.append(f"TCP flags: expected {wanted}, came {got}")
        _field(lines, "TCP options length", previous.options_length, live.options_length)
        _field(lines, "TCP seq", previous.seq + len(previous.payload) & U32, live.seq)
        _field(lines, "TCP ack", previous.ack, live.ack)
        _field(lines, "TCP win", previous.window, live.window)
        if len(live.payload) < missing:
            _field(lines, "TCP payload length", len(previous.payload), len(live.payload))
    if lines:
        raise Mismatch("packets that do not go together:\n" + "\n".join(f"  {line}" for line in lines))


def aggregate(packets: list[Live]) -> Live:
    """The packet that a row of packets was cut from: the last one's header, the first one's seq and CWR."""
    if len(packets) == 1:
        return packets[0]
    first, last = packets[0], copy(packets[-1])
    payload = b"".join(packet.payload for packet in packets)
    last.length += len(payload) - len(last.payload)
    last.payload = payload
    last.seq = first.seq
    last.flags = (last.flags & ~tcp.CWR) | (first.flags & tcp.CWR)
    return last
