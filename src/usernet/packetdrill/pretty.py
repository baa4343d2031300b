"""Packets in packetdrill's notation, for messages: what a script expects, and what came, in the same words.

What is printed can be pasted into a script: `parser` reads it.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import Final

from usernet.packetdrill import icmp_names
from usernet.packetdrill.ast import (
    ECHOED_RAW,
    ECHOED_TCP,
    ECHOED_UDP,
    ECN_NONE,
    TOS_BYTE,
    TOS_ECN,
    TOS_ECT01,
    Encapsulation,
    Gre,
    Icmp,
    IpEncap,
    IpInfo,
    Packet,
    Tcp,
    TcpOption,
    Udp,
)
from usernet.packetdrill.live import Live
from usernet.wire import tcp

_ECN_NAMES: Final = ("noecn", "ect1", "ect0", "ce")
_FLAG_NAMES: Final = ((tcp.FIN, "F"), (tcp.SYN, "S"), (tcp.RST, "R"), (tcp.PSH, "P"), (tcp.URG, "U"))
_ECN_FLAG_NAMES: Final = ((tcp.ECE, "E"), (tcp.CWR, "W"), (tcp.AE, "A"))
_U16: Final = Struct("!H")
_U32_PAIR: Final = Struct("!II")


def flags_text(flags: int, *, ace: bool) -> str:
    """TCP flags; with `ace` the upper three as the AccECN counter's digit."""
    text = "".join(name for bit, name in _FLAG_NAMES if flags & bit)
    if not ace:
        text += "".join(name for bit, name in _ECN_FLAG_NAMES if flags & bit)
    if flags & tcp.ACK:  # last of the letters: the scanner takes no letter behind it
        text += "."
    if ace:
        text += str((flags & tcp.ECE and 1) | (flags & tcp.CWR and 2) | (flags & tcp.AE and 4))
    return text or "-"


def option_text(option: TcpOption) -> str:
    """One TCP option; by its number where it has no name, or a length that its kind does not have."""
    kind, data = option.kind, option.data
    if kind == tcp.TCPOPT_NOP:
        return "nop"
    if kind == tcp.TCPOPT_EOL:
        return "eol"
    if kind == tcp.TCPOPT_MSS and len(data) == 2:
        return f"mss {_U16.unpack(data)[0]}"
    if kind == tcp.TCPOPT_WINDOW and len(data) == 1:
        return f"wscale {data[0]}"
    if kind == tcp.TCPOPT_SACK_PERM and not data:
        return "sackOK"
    if kind == tcp.TCPOPT_SACK and data and len(data) % 8 == 0:
        return "sack " + " ".join(f"{left}:{right}" for left, right in _U32_PAIR.iter_unpack(data))
    if kind == tcp.TCPOPT_TIMESTAMP and len(data) == 8:
        val, ecr = _U32_PAIR.unpack(data)
        return f"TS val {val} ecr {ecr}"
    if kind == tcp.TCPOPT_FASTOPEN:
        return f"FO {data.hex()}".rstrip()
    if kind == tcp.TCPOPT_EXP and data[:2] == _U16.pack(tcp.TCPOPT_FASTOPEN_MAGIC):
        return f"FOEXP {data[2:].hex()}".rstrip()
    if kind == tcp.TCPOPT_MD5SIG and data:
        return f"md5 {data.hex()}"
    if kind in (tcp.TCPOPT_ACCECN0, tcp.TCPOPT_ACCECN1) and len(data) in (3, 6, 9):
        names = ("e0b", "ceb", "e1b") if kind == tcp.TCPOPT_ACCECN0 else ("e1b", "ceb", "e0b")
        counters = (int.from_bytes(data[at : at + 3], "big") for at in range(0, len(data), 3))
        return "ECN " + " ".join(f"{name} {count}" for name, count in zip(names, counters, strict=False))
    return f"kind {kind} {data.hex()}".rstrip()


def options_text(options: list[TcpOption] | None) -> str:
    """All options in their angle brackets; empty for none."""
    if options is None:
        return "<...>"
    return f"<{','.join(option_text(option) for option in options)}>" if options else ""


def address_text(address: bytes) -> str:
    """A packed address as text."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _encapsulation_text(header: Encapsulation, *, marks: bool) -> str:
    """An outer header; with `marks` what is asked of it."""
    if isinstance(header, IpEncap):
        info = _info_text(header.info) if marks else ""
        return f"ipv{header.version} {info}{address_text(header.source)} > {address_text(header.destination)}: "
    if isinstance(header, Gre):
        if not header.flags:
            return "gre: "
        return (
            f"gre flags 0x{header.flags:x}, sum 0x{header.sum:x}, off 0x{header.off:x}, "
            f"key 0x{header.key:x}, seq 0x{header.seq:x}: "
        )
    entries = " ".join(
        f"(label {entry.label}, tc {entry.tc}, {'[S], ' if entry.bottom else ''}ttl {entry.ttl})"
        for entry in header.entries
    )
    return f"mpls {entries}: "


def _info_text(info: IpInfo) -> str:
    marks: list[str] = []
    if info.check == TOS_ECN:
        marks.append(_ECN_NAMES[info.tos & 3])
    elif info.check == TOS_ECT01:
        marks.append("ect01")
    elif info.check == TOS_BYTE:
        marks.append(f"tos 0x{info.tos:x}")
    if info.flow_label:
        marks.append(f"flowlabel 0x{info.flow_label:x}")
    if info.ttl:
        marks.append(f"ttl {info.ttl}")
    return f"[{','.join(marks)}] " if marks else ""


def _tcp_text(segment: Tcp) -> str:
    ports = f"{segment.source_port} > {segment.destination_port}"
    words = [
        ports if segment.source_port or segment.destination_port else "",
        flags_text(segment.flags, ace=segment.ace),
        f"{segment.seq}:{segment.seq + segment.length}({segment.length})",
        f"ack {segment.ack}" if segment.flags & tcp.ACK else "",
        f"win {segment.window}" if segment.window is not None else "",
        f"urg {segment.urg}" if segment.urg else "",
        options_text(segment.options),
    ]
    return " ".join(word for word in words if word)


def _icmp_text(message: Icmp) -> str:
    words = ["icmp", message.type, message.code]
    if message.mtu is not None:
        words.append(f"mtu {message.mtu}")
    if message.echo_id:
        words.append(f"id {message.echo_id}")
    if message.echoed in (ECHOED_UDP, ECHOED_RAW):
        words.append(f"[{message.echoed} ({message.length})]")
    elif message.echoed == ECHOED_TCP and (message.seq or message.length):
        words.append(f"[{message.seq}:{message.seq + message.length}({message.length})]")
    return " ".join(word for word in words if word)


def packet_text(packet: Packet) -> str:
    """A packet of a script."""
    body = packet.body
    if isinstance(body, Tcp):
        text = _tcp_text(body)
    elif isinstance(body, Udp):
        ports = f"{body.source_port} > {body.destination_port} " if body.source_port or body.destination_port else ""
        text = f"udp {ports}({body.length})"
    else:
        text = _icmp_text(body)
    outer = "".join(_encapsulation_text(header, marks=True) for header in packet.encapsulations)
    return f"{packet.direction} {outer}{_info_text(packet.info)}{text}"


def live_text(live: Live, direction: str, like: Packet | None = None) -> str:
    """A packet of the wire. `like`: the packet it is shown beside; marks that neither needs are left out."""
    outer = "".join(_encapsulation_text(header, marks=False) for header in live.encapsulations)
    info = IpInfo()
    if like is not None and like.info.check == TOS_BYTE:
        info = IpInfo(TOS_BYTE, live.tos)
    elif live.tos & 3 != ECN_NONE or (like is not None and like.info.check != 0):
        info = IpInfo(TOS_ECN, live.tos & 3)
    if like is not None and like.info.flow_label:
        info.flow_label = live.flow_label
    if like is not None and like.info.ttl:
        info.ttl = live.ttl
    if live.is_tcp:
        ace = like is not None and isinstance(like.body, Tcp) and like.body.ace
        urg = f" urg {live.urg}" if live.urg else ""
        ack = f" ack {live.ack}" if live.flags & tcp.ACK else ""
        options = f" {options_text(live.options)}" if live.options else ""
        length = len(live.payload)
        text = (
            f"{flags_text(live.flags, ace=ace)} {live.seq}:{live.seq + length}({length}){ack} win {live.window}"
            f"{urg}{options}"
        )
    elif live.is_udp:
        text = f"udp ({len(live.payload)})"
    elif live.is_icmp:
        type_name, code_name = icmp_names.names(live.version, live.icmp_type, live.icmp_code)
        text = f"icmp {type_name} {code_name}".rstrip() + f" [raw ({8 + len(live.payload)})]"
    else:
        text = f"protocol {live.protocol} ({len(live.payload)})"
    return f"{direction} {outer}{_info_text(info)}{text}"
