"""Filters: which packets to show, in the part of pcap-filter(7)'s language that people type from memory.

    expression := term { or term }       term := factor { and factor | factor }
    factor     := not factor | ( expression ) | primitive
    primitive  := tcp | udp | icmp | igmp | arp | ip | ip6 | broadcast | multicast
                | [src|dst] host ADDRESS | [src|dst] net PREFIX | [tcp|udp] [src|dst] port NUMBER
                | [src|dst] portrange LOW-HIGH | ether [src|dst] MAC | less N | greater N
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from typing import Final, final

from usernet.cli.packet import IPPROTO_ICMP, IPPROTO_IGMP, IPPROTO_TCP, IPPROTO_UDP, Packet
from usernet.wire import ethernet

Test = Callable[[Packet], bool]

MAX_DEPTH: Final = 50
_PROTOCOLS: Final = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP, "icmp": IPPROTO_ICMP, "igmp": IPPROTO_IGMP}
_SERVICES: Final = {"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "http": 80, "https": 443}
_PRIMITIVES: Final = "host, net, port, portrange, ether, src, dst, tcp, udp, icmp, igmp, arp, ip, ip6, less, greater"


class FilterError(ValueError):
    """A filter that can't be understood: which word, and what was expected."""


@final
class _Parser:
    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def next(self, expected: str) -> str:
        if self.at >= len(self.words):
            raise FilterError(f"filter: expected {expected}, and it ends there")
        self.at += 1
        return self.words[self.at - 1]

    def expression(self) -> Test:
        tests = [self.term()]
        while self.peek() in ("or", "||"):
            self.at += 1
            tests.append(self.term())
        return tests[0] if len(tests) == 1 else lambda packet: any(test(packet) for test in tests)

    def term(self) -> Test:
        tests = [self.factor()]
        while self.peek() not in ("", ")", "or", "||"):
            if self.peek() in ("and", "&&"):
                self.at += 1
            tests.append(self.factor())
        return tests[0] if len(tests) == 1 else lambda packet: all(test(packet) for test in tests)

    def factor(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise FilterError(f"filter: expected at most {MAX_DEPTH} levels of not and parentheses")
        try:
            if self.peek() in ("not", "!"):
                self.at += 1
                inner = self.factor()
                return lambda packet: not inner(packet)
            if self.peek() == "(":
                self.at += 1
                inner = self.expression()
                if self.next("a closing parenthesis") != ")":
                    raise FilterError("filter: expected a closing parenthesis")
                return inner
            return self.primitive()
        finally:
            self.depth -= 1

    def primitive(self) -> Test:
        word = self.next(f"one of {_PRIMITIVES}")
        protocol = 0
        if word in _PROTOCOLS:
            protocol = _PROTOCOLS[word]
            if self.peek() not in ("src", "dst", "port", "portrange"):
                return lambda packet: packet.proto == protocol and packet.kind == "ip"
            word = self.next("")
        if word in ("arp", "ip", "ip6"):
            kind = word
            if word == "ip6" or self.peek() not in ("src", "dst", "host", "net"):
                return lambda packet: packet.kind == kind
            inner = self.primitive()
            return lambda packet: packet.kind == kind and inner(packet)
        if word in ("broadcast", "multicast"):
            group = word == "multicast"
            return lambda packet: packet.dst[:1] != b"" and (
                bool(packet.dst[0] & 1) if group else packet.dst == ethernet.BROADCAST
            )
        if word in ("less", "greater"):
            size = self.number(word, 0, 1 << 31)
            return lambda packet: packet.size <= size if word == "less" else packet.size >= size
        if word == "ether":
            return self.ether()
        way = ""
        if word in ("src", "dst"):
            way = word
            word = self.peek()
            if word in ("host", "net", "port", "portrange"):
                self.at += 1
            else:
                word = "host"
        if word == "host" or word == "net":
            return self.network(word, way)
        if word in ("port", "portrange"):
            return self.ports(word, way, protocol)
        raise FilterError(f"filter: expected one of {_PRIMITIVES}, not {word!r}")

    def number(self, field: str, low: int, high: int) -> int:
        word = self.next(f"a number after {field}")
        if not word.isdecimal() or not low <= int(word) <= high:
            raise FilterError(f"filter: {field}: expected a number from {low} to {high}, not {word!r}")
        return int(word)

    def network(self, field: str, way: str) -> Test:
        word = self.next(f"an address after {field}")
        try:
            network = IPv4Network(word)
        except ValueError:
            raise FilterError(f"filter: {field}: expected an IPv4 address or prefix, not {word!r}") from None
        base, mask = int(network.network_address), int(network.netmask)

        def holds(address: bytes) -> bool:
            return len(address) == 4 and int.from_bytes(address, "big") & mask == base

        if way == "src":
            return lambda packet: holds(packet.saddr)
        if way == "dst":
            return lambda packet: holds(packet.daddr)
        return lambda packet: holds(packet.saddr) or holds(packet.daddr)

    def ports(self, field: str, way: str, protocol: int) -> Test:
        if field == "port":
            word = self.peek()
            if word in _SERVICES:
                self.at += 1
                low = high = _SERVICES[word]
            else:
                low = high = self.number(field, 0, 65535)
        else:
            word = self.next("LOW-HIGH after portrange")
            first, _, last = word.partition("-")
            if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= 65535):
                raise FilterError(f"filter: portrange: expected LOW-HIGH, not {word!r}")
            low, high = int(first), int(last)

        def matches(packet: Packet) -> bool:
            if packet.proto not in (IPPROTO_TCP, IPPROTO_UDP) or packet.transport < 0:
                return False
            if protocol and packet.proto != protocol:
                return False
            return (way != "dst" and low <= packet.sport <= high) or (way != "src" and low <= packet.dport <= high)

        return matches

    def ether(self) -> Test:
        way = self.next("src, dst, host or a MAC address after ether")
        word = way
        if way in ("src", "dst", "host"):
            word = self.next(f"a MAC address after {way}")
        try:
            mac = ethernet.parse_mac(word)
        except ValueError:
            raise FilterError(f"filter: ether: expected a MAC address, not {word!r}") from None
        if way == "src":
            return lambda packet: packet.src == mac
        if way == "dst":
            return lambda packet: packet.dst == mac
        return lambda packet: mac in (packet.src, packet.dst)


def compile_filter(words: Sequence[str]) -> Test:
    """A test of packets from the words of a filter; none: all pass. Raises FilterError."""
    text = " ".join(words).replace("(", " ( ").replace(")", " ) ").replace("!", " ! ")
    parser = _Parser(text.split())
    if not parser.words:
        return lambda packet: True
    test = parser.expression()
    if parser.peek():
        raise FilterError(f"filter: unexpected {parser.peek()!r}")
    return test
