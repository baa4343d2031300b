"""The notation of packets, in the manner of tcpdump.

A part of `parser`. Everything that a packet's own text can get wrong is found here (a payload that does not fit its
sequence numbers, options that are no multiple of four bytes), so what comes after builds packets without checking.
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
    ECN_CE,
    ECN_ECT0,
    ECN_ECT1,
    ECN_NONE,
    INBOUND,
    OUTBOUND,
    TOS_BYTE,
    TOS_ECN,
    TOS_ECT01,
    Encapsulation,
    Gre,
    Icmp,
    IpEncap,
    IpInfo,
    MplsEntry,
    MplsStack,
    Packet,
    Tcp,
    TcpOption,
    Udp,
)
from usernet.packetdrill.cursor import U8_MAX, U16_MAX, U32_MAX, Cursor
from usernet.packetdrill.lexer import ELLIPSIS, FLOAT, HEX, INTEGER, IPV4, IPV6, WORD
from usernet.wire import tcp

U20_MAX: Final = 0xFFFFF
U24_MAX: Final = 0xFFFFFF
TCP_MAX_OPTIONS: Final = tcp.MAX_TCP_OPTION_SPACE
IP_MAX_LENGTH: Final = 0xFFFF

GRE_CHECKSUM: Final = 0x8000
GRE_KEY: Final = 0x2000
GRE_SEQUENCE: Final = 0x1000

_FLAGS: Final = {
    "F": tcp.FIN,
    "S": tcp.SYN,
    "R": tcp.RST,
    "P": tcp.PSH,
    ".": tcp.ACK,
    "U": tcp.URG,
    "E": tcp.ECE,
    "W": tcp.CWR,
    "A": tcp.AE,
}
_ECN_FLAGS: Final = "EWA"
_ACE_DIGITS: Final = "01234567"
_ECN_MARKS: Final = {"noecn": ECN_NONE, "ect0": ECN_ECT0, "ect1": ECN_ECT1, "ce": ECN_CE}
_U16: Final = Struct("!H")
_U32_PAIR: Final = Struct("!II")


def parse_packet(cursor: Cursor) -> Packet:
    """Read a packet; the cursor stands at its `<` or `>`. Raises ScriptError."""
    direction = OUTBOUND if cursor.accept(">") else cursor.expect(INBOUND).text
    encapsulations: list[Encapsulation] = []
    while (encapsulation := _encapsulation(cursor)) is not None:
        encapsulations.append(encapsulation)
    start = cursor.peek()
    info = _ip_info(cursor)
    if info.check == TOS_ECT01 and direction == INBOUND:
        cursor.fail("[ect01] is a choice, and an inbound packet needs one value: expected [ect0] or [ect1]", start)
    body: Tcp | Udp | Icmp
    if cursor.accept("udp"):
        if info.check == TOS_ECN:
            cursor.fail("found an ECN mark, expected none: it is for TCP and ICMP packets", start)
        source_port, destination_port = _ports(cursor)
        cursor.expect("(", "and a payload's length")
        length = cursor.integer("UDP payload length", 0, IP_MAX_LENGTH - 48)
        cursor.expect(")")
        body = Udp(length, source_port, destination_port)
    elif cursor.accept("icmp"):
        body = _icmp(cursor)
    elif cursor.at("encap"):
        cursor.fail("found 'encap': PSP encapsulation is not supported")
    else:
        body = _tcp(cursor, direction)
    return Packet(direction, body, info, encapsulations)


# ---------------------------------------------------------------- in front of the packet


def _encapsulation(cursor: Cursor) -> Encapsulation | None:
    """An outer header, None where there is none (any more)."""
    if cursor.at("ipv4") or cursor.at("ipv6"):
        version = 4 if cursor.next().text == "ipv4" else 6
        info = _ip_info(cursor)
        kind, family = (IPV4, socket.AF_INET) if version == 4 else (IPV6, socket.AF_INET6)
        source = _address(cursor, kind, family, "source")
        cursor.expect(">", "between the addresses")
        destination = _address(cursor, kind, family, "destination")
        cursor.expect(":", "after the outer header")
        return IpEncap(version, source, destination, info)
    if cursor.accept("gre") or cursor.accept("GREv0"):
        gre = Gre()
        if not cursor.at(":"):
            cursor.accept(",")
            gre = parse_gre(cursor)
        cursor.expect(":", "after the GRE header")
        return gre
    if cursor.accept("mpls"):
        stack = parse_mpls_stack(cursor)
        cursor.expect(":", "after the label stack")
        return stack
    return None


def _address(cursor: Cursor, kind: str, family: int, what: str) -> bytes:
    token = cursor.expect_kind(kind, f"the {what}, an {kind}")
    try:
        return socket.inet_pton(family, token.text)
    except OSError:
        cursor.fail(f"found '{token.text}', expected the {what}, an {kind}", token)


def parse_gre(cursor: Cursor) -> Gre:
    """`flags [key present], sum 0, off 0, key 1, seq 0`; also the value of a socket option."""
    if not (cursor.accept("flags") or cursor.accept("Flags")):
        cursor.fail_expected("'flags' of a GRE header")
    flags = 0
    if cursor.accept("["):
        while True:
            name = cursor.word("a GRE flag")
            if name == "checksum":
                flags |= GRE_CHECKSUM
            elif name == "key":
                flags |= GRE_KEY
            elif name == "sequence":
                cursor.expect("#")
                flags |= GRE_SEQUENCE
            elif name != "none":
                cursor.fail(f"found '{name}', expected a GRE flag: none, checksum, key or sequence#")
            if name != "none":
                cursor.expect("present")
            if not cursor.accept(","):
                break
        cursor.expect("]", "after the GRE flags")
    else:
        flags = cursor.any_integer("GRE flags", 0, U16_MAX)
    values: list[int] = []
    for name, high in (("sum", U16_MAX), ("off", U16_MAX), ("key", U32_MAX), ("seq", U32_MAX)):
        cursor.accept(",")
        cursor.expect(name, "of a GRE header")
        if name == "key":
            cursor.accept("=")
        values.append(cursor.any_integer(f"GRE {name}", 0, high))
    return Gre(flags, *values)


def parse_mpls_stack(cursor: Cursor) -> MplsStack:
    """`(label 1, tc 0, [S], ttl 64) …`; also the value of a socket option."""
    entries: list[MplsEntry] = []
    while cursor.accept("("):
        cursor.expect("label")
        label = cursor.integer("MPLS label", 0, U20_MAX)
        cursor.expect(",")
        cursor.expect("tc")
        tc = cursor.integer("MPLS traffic class", 0, 7)
        cursor.expect(",")
        bottom = cursor.accept("[")
        if bottom:
            cursor.expect("S", "for the bottom of the stack")
            cursor.expect("]")
            cursor.expect(",")
        cursor.expect("ttl")
        ttl = cursor.integer("MPLS ttl", 0, U8_MAX)
        cursor.expect(")")
        entries.append(MplsEntry(label, tc, bottom, ttl))
    return MplsStack(entries)


def _ip_info(cursor: Cursor) -> IpInfo:
    """`[ect0]`, `(tos 0x10, flowlabel 0x1)`, `[ttl 1]`; nothing asked where there is none."""
    # Parentheses belong to UDP's length too; only what follows tells them apart.
    opening = cursor.peek()
    if not (cursor.at("[") or cursor.at("(")) or cursor.peek(1).kind != WORD:
        return IpInfo()
    cursor.next()
    info = IpInfo()
    if cursor.accept("ttl"):
        info.ttl = cursor.integer("ttl", 1, U8_MAX)
    elif not _flow_label(cursor, info):
        if cursor.accept("tos"):
            info.check, info.tos = TOS_BYTE, cursor.hexadecimal("tos", U8_MAX)
        elif cursor.accept("ect01"):
            info.check = TOS_ECT01
        elif (mark := cursor.peek().text) in _ECN_MARKS:
            cursor.next()
            info.check, info.tos = TOS_ECN, _ECN_MARKS[mark]
        else:
            cursor.fail_expected("noecn, ect0, ect1, ect01, ce, tos, flowlabel or ttl")
        if cursor.accept(",") and not _flow_label(cursor, info):
            cursor.fail_expected("'flowlabel'")
    cursor.expect("]" if opening.text == "[" else ")", "after what is asked of the IP header")
    return info


def _flow_label(cursor: Cursor, info: IpInfo) -> bool:
    if not cursor.accept("flowlabel"):
        return False
    info.flow_label = cursor.hexadecimal("flowlabel", U20_MAX)
    return True


def _ports(cursor: Cursor) -> tuple[int, int]:
    """`80 > 9000`, (0, 0) where none are written."""
    if cursor.peek().kind != INTEGER or cursor.peek(1).text != ">":
        return 0, 0
    source = cursor.integer("source port", 0, U16_MAX)
    cursor.next()
    return source, cursor.integer("destination port", 0, U16_MAX)


# ---------------------------------------------------------------- TCP


def _tcp(cursor: Cursor, direction: str) -> Tcp:
    source_port, destination_port = _ports(cursor)
    flags, ace = _tcp_flags(cursor)
    seq, length = _sequence(cursor)
    segment = Tcp(flags, seq, length, ace=ace, source_port=source_port, destination_port=destination_port)
    if cursor.accept("ack"):
        segment.ack = cursor.integer("ack", 0, U32_MAX)
    if cursor.accept("win"):
        segment.window = cursor.integer("win", 0, U16_MAX)
    elif direction == INBOUND:
        cursor.fail_expected("'win': an inbound packet needs a window")
    if cursor.accept("urg"):
        segment.urg = cursor.integer("urg", 0, U16_MAX)
    if cursor.at("<") and _starts_options(cursor):
        opening = cursor.next()
        if cursor.peek().kind == ELLIPSIS:
            cursor.next()
            if direction == INBOUND:
                cursor.fail("found <...>, expected options: an inbound packet needs them as they are", opening)
            segment.options = None
        else:
            segment.options = [_tcp_option(cursor)]
            while cursor.accept(","):
                segment.options.append(_tcp_option(cursor))
        cursor.expect(">", "after the TCP options")
        size = options_length(segment.options)
        if size % 4:
            cursor.fail(f"found {size} bytes of TCP options, expected a multiple of 4: pad with nop or eol", opening)
        if size > TCP_MAX_OPTIONS:
            cursor.fail(f"found {size} bytes of TCP options, expected at most {TCP_MAX_OPTIONS}", opening)
    return segment


def _starts_options(cursor: Cursor) -> bool:
    """Whether a `<` opens options. The next event begins with a time, so it does, always; said for the reader."""
    return cursor.peek(1).kind in (WORD, ELLIPSIS)


def options_length(options: list[TcpOption] | None) -> int:
    """How many bytes the options take in a header, without padding."""
    total = 0
    for option in options or []:
        total += 1 if option.kind in (tcp.TCPOPT_EOL, tcp.TCPOPT_NOP) else 2 + len(option.data)
    return total


def _tcp_flags(cursor: Cursor) -> tuple[int, bool]:
    """`S.`, `P.5`, `.`, `-`: (nine bits, whether a digit gave the upper three)."""
    start = cursor.peek()
    if cursor.accept("-"):
        return 0, False
    text = ""
    if start.kind == WORD:
        text = cursor.next().text
    if cursor.peek().kind == FLOAT:  # ".5": the ACK flag, and an ACE counter
        text += cursor.next().text
    elif cursor.accept("."):
        text += "."
    if not text:
        cursor.fail_expected("TCP flags (F, S, R, P, '.', U, E, W, A, 0 to 7, or '-' for none), udp or icmp")
    flags, ace, digits = 0, 0, ""
    for char in text:
        if char in _FLAGS:
            flags |= _FLAGS[char]
        elif char in _ACE_DIGITS:
            digits += char
            ace = int(char)
        else:
            cursor.fail(f"found '{text}' with '{char}', expected TCP flags: F S R P . U E W A or 0 to 7", start)
    if len(digits) > 1 or (digits and any(char in _ECN_FLAGS for char in text)):
        cursor.fail(f"found '{text}', expected either E, W and A or one digit for the ACE counter", start)
    if ace:
        flags |= tcp.ECE * (ace & 1) | tcp.CWR * (ace >> 1 & 1) | tcp.AE * (ace >> 2)
    return flags, ace != 0


def _sequence(cursor: Cursor) -> tuple[int, int]:
    """`1:1001(1000)`: (1, 1000)."""
    start = cursor.peek()
    seq = cursor.integer("TCP sequence number", 0, U32_MAX)
    cursor.expect(":", "in a range of sequence numbers")
    end = cursor.integer("TCP sequence number", 0, U32_MAX)
    cursor.expect("(", "and the payload's length")
    length = cursor.integer("TCP payload length", 0, IP_MAX_LENGTH)
    cursor.expect(")")
    if end != seq + length:
        cursor.fail(f"found {seq}:{end}({length}), expected a length of {end - seq} or an end of {seq + length}", start)
    return seq, length


def _tcp_option(cursor: Cursor) -> TcpOption:
    start = cursor.peek()
    name = cursor.word("a TCP option")
    if name == "nop":
        return TcpOption(tcp.TCPOPT_NOP)
    if name == "eol":
        return TcpOption(tcp.TCPOPT_EOL)
    if name == "mss":
        return TcpOption(tcp.TCPOPT_MSS, _U16.pack(cursor.integer("mss", 0, U16_MAX)))
    if name == "wscale":
        return TcpOption(tcp.TCPOPT_WINDOW, bytes([cursor.integer("wscale", 0, U8_MAX)]))
    if name == "sackOK":
        return TcpOption(tcp.TCPOPT_SACK_PERM)
    if name == "sack":
        return _sack(cursor)
    if name == "TS":
        cursor.expect("val", "of a time stamp")
        val = cursor.integer("TS val", 0, U32_MAX)
        cursor.expect("ecr", "of a time stamp")
        return TcpOption(tcp.TCPOPT_TIMESTAMP, _U32_PAIR.pack(val, cursor.integer("TS ecr", 0, U32_MAX)))
    if name == "FO":
        return TcpOption(tcp.TCPOPT_FASTOPEN, _hex_blob(cursor, "a Fast Open cookie", optional=True))
    if name == "FOEXP":
        magic = _U16.pack(tcp.TCPOPT_FASTOPEN_MAGIC)
        return TcpOption(tcp.TCPOPT_EXP, magic + _hex_blob(cursor, "a Fast Open cookie", optional=True))
    if name == "md5":
        return TcpOption(tcp.TCPOPT_MD5SIG, _hex_blob(cursor, "an MD5 digest"))
    if name == "ECN":
        return _accecn(cursor)
    if name == "kind":
        kind = cursor.integer("kind of a TCP option", 0, U8_MAX)
        return TcpOption(kind, _hex_blob(cursor, "an option's data", optional=True))
    cursor.fail(
        f"found '{name}', expected a TCP option: nop, eol, mss, wscale, sackOK, sack, TS, FO, FOEXP, md5, ECN or kind",
        start,
    )


def _sack(cursor: Cursor) -> TcpOption:
    data = b""
    while True:
        left = cursor.integer("left edge of a SACK block", 0, U32_MAX)
        cursor.expect(":", "in a SACK block")
        data += _U32_PAIR.pack(left, cursor.integer("right edge of a SACK block", 0, U32_MAX))
        if cursor.peek().kind != INTEGER:
            return TcpOption(tcp.TCPOPT_SACK, data)


def _accecn(cursor: Cursor) -> TcpOption:
    """`ECN e0b 1 ceb 0 e1b 1`: one to three 24-bit counters, in one of two orders (RFC 9768 section 3.2.3)."""
    if cursor.accept("e0b"):
        kind, rest = tcp.TCPOPT_ACCECN0, ("ceb", "e1b")
    elif cursor.accept("e1b"):
        kind, rest = tcp.TCPOPT_ACCECN1, ("ceb", "e0b")
    else:
        cursor.fail_expected("'e0b' or 'e1b', the first counter of an AccECN option")
    data = cursor.integer("AccECN counter", 0, U24_MAX).to_bytes(3, "big")
    for name in rest:
        if not cursor.accept(name):
            break
        data += cursor.integer("AccECN counter", 0, U24_MAX).to_bytes(3, "big")
    return TcpOption(kind, data)


def _hex_blob(cursor: Cursor, what: str, *, optional: bool = False) -> bytes:
    """Bytes as hexadecimal digits, without 0x; empty where there are none and there need not be."""
    token = cursor.peek()
    if token.kind not in (WORD, INTEGER, HEX):
        if optional:
            return b""
        cursor.fail_expected(f"{what}, in hexadecimal digits")
    digits = token.text
    if len(digits) % 2:
        cursor.fail(f"found {what} of {len(digits)} digits, expected an even number")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        cursor.fail(f"found '{digits}', expected {what} in hexadecimal digits")
    cursor.next()
    return data


# ---------------------------------------------------------------- ICMP


def _icmp(cursor: Cursor) -> Icmp:
    start = cursor.peek()
    message = Icmp(cursor.word("a type of ICMP message"))
    if not icmp_names.knows_type(message.type):
        cursor.fail(f"found '{message.type}', expected a type of ICMP message: {icmp_names.type_list()}", start)
    token = cursor.peek()
    if token.kind == WORD and token.text not in ("mtu", "id"):
        message.code = cursor.next().text
        if not icmp_names.knows_code(message.type, message.code):
            cursor.fail(f"found '{token.text}', expected a code of ICMP {message.type}: "
                        f"{icmp_names.code_list(message.type)}", token)
    if cursor.accept("mtu"):
        message.mtu = cursor.integer("mtu", 0, U32_MAX)
    if cursor.accept("id"):
        message.echo_id = cursor.integer("id", 0, U16_MAX)
    if cursor.accept("["):
        if cursor.at("udp") or cursor.at("raw"):
            message.echoed = ECHOED_UDP if cursor.next().text == "udp" else ECHOED_RAW
            cursor.expect("(", "and a length")
            message.length = cursor.integer("length", 0, IP_MAX_LENGTH)
            cursor.expect(")")
        else:
            message.echoed = ECHOED_TCP
            message.seq, message.length = _sequence(cursor)
        cursor.expect("]", "after the quoted packet")
    if message.echoed == ECHOED_RAW and message.length < 8:
        cursor.fail(f"found an ICMP message of {message.length} bytes, expected at least its header's 8", start)
    return message
