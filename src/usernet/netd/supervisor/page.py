"""What `host.usernet` shows of a connection: its handshake, its round trip, its segments, as this end sees them.

As text for programs, as a page for a browser, as JSON for both. The numbers are `struct tcp_info`'s (tcp(7)); the
handshake is what passed on the device.
"""

from __future__ import annotations

import html
import json
from typing import Any, Final, NamedTuple, final

from usernet.net.packet_type import PacketTypes, Tap
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import PACKET_OUTGOING, SKBuff
from usernet.transport.tcp.const import TCP_INFINITE_SSTHRESH
from usernet.transport.tcp.info import FIELDS, TCP_INFO, TCPI_OPT_ECN, TCPI_OPT_SACK, TCPI_OPT_TIMESTAMPS
from usernet.wire import ethernet, ipv4, tcp

IPPROTO_TCP: Final = 6
MAX_ENTRIES: Final = 1024
"""Handshakes remembered; of more, the oldest is forgotten."""
NAMES: Final = ((tcp.SYN, "SYN"), (tcp.ACK, "ACK"), (tcp.ECE, "ECE"), (tcp.CWR, "CWR"))


class Segment(NamedTuple):
    """A segment of a handshake. when: ns, on the stack's clock. sent: by this end."""

    when: int
    sent: bool
    flags: int
    seq: int
    ack: int
    window: int
    options: str

    @property
    def kind(self) -> str:
        return "+".join(name for bit, name in NAMES if self.flags & bit)


def options_text(data: bytes, start: int, end: int) -> str:
    """A header's options in tcpdump's words."""
    found = tcp.parse_options(data, start, end)
    words = []
    if found.mss:
        words.append(f"mss {found.mss}")
    if found.sack_ok:
        words.append("sackOK")
    if found.has_ts:
        words.append("TS")
    if found.wscale >= 0:
        words.append(f"wscale {found.wscale}")
    return ",".join(words)


@final
class Handshakes:
    """Remembers the handshakes that come to a stack, by (address, port) of the peer and the port here."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._seen: dict[tuple[bytes, int, int], list[Segment]] = {}
        self._open: set[tuple[bytes, int, int]] = set()
        self._tap = Tap(self._look)
        net.get(PacketTypes).add_tap(self._tap)

    def of(self, address: str, port: int, here: int) -> list[Segment]:
        """The handshake of a connection; nothing where it was long ago."""
        return list(self._seen.get((ipv4.parse_addr(address), port, here), ()))

    def _look(self, skb: SKBuff) -> None:
        """A packet passed: inside the stack, so only what belongs to a handshake is looked at any further."""
        head, at = skb.head, skb.data
        if skb.protocol != ethernet.ETH_P_IP or skb.tail - at < ipv4.IP_HLEN + tcp.TCP_HLEN:
            return
        start = at + (head[at] & 15) * 4
        if head[at + 9] != IPPROTO_TCP or skb.tail - start < tcp.TCP_HLEN:
            return
        sent = skb.pkt_type == PACKET_OUTGOING
        if not (head[start + 13] & tcp.SYN or (self._open and not sent)):
            return
        data = bytes(head[at : skb.tail])
        start -= at
        header = tcp.parse(data, start)
        if sent:
            key = (data[16:20], header[1], header[0])
        else:
            key = (data[12:16], header[0], header[1])
        flags = header[5]
        if flags & tcp.SYN and not flags & tcp.ACK:
            if sent:
                return
            seen = self._seen
            seen.pop(key, None)
            if len(seen) >= MAX_ENTRIES:
                oldest = next(iter(seen))
                del seen[oldest]
                self._open.discard(oldest)
            seen[key] = []
            self._open.add(key)
        elif key not in self._open:
            return
        elif not flags & tcp.SYN:
            self._open.discard(key)
        end = min(start + header[4], len(data))
        options = options_text(data, start + tcp.TCP_HLEN, end)
        segment = Segment(self._net.loop.now, sent, flags & 0x1FF, header[2], header[3], header[6], options)
        self._seen[key].append(segment)


@final
class Connection:
    """What this end knows of one connection."""

    def __init__(self, sock: Any, peer: tuple[str, int], handshakes: Handshakes, request: str) -> None:
        """sock: the accepted socket. request: the line that asked."""
        self.here = sock.getsockname()
        self.peer = peer
        self.request = request
        self.congestion = sock.getsockopt(IPPROTO_TCP, 13, 16).rstrip(b"\0").decode()  # TCP_CONGESTION
        self.info = dict(zip(FIELDS, TCP_INFO.unpack(sock.getsockopt(IPPROTO_TCP, 11, TCP_INFO.size)), strict=True))
        self.handshake = handshakes.of(peer[0], peer[1], self.here[1])

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Headings, and under each names with what they are."""
        info = self.info
        agreed = [
            name
            for bit, name in (
                (TCPI_OPT_SACK, "selective acknowledgements"),
                (TCPI_OPT_TIMESTAMPS, "time stamps"),
                (TCPI_OPT_ECN, "ECN"),
            )
            if info["options"] & bit
        ]
        threshold = "not set" if info["snd_ssthresh"] >= TCP_INFINITE_SSTHRESH else str(info["snd_ssthresh"])
        first = self.handshake[0].when if self.handshake else 0
        shake = [
            (
                f"{(one.when - first) / 1e6:.3f} ms",
                f"{'->' if one.sent else '<-'} {one.kind:<7} seq {one.seq}"
                + (f" ack {one.ack}" if one.flags & tcp.ACK else "")
                + f" win {one.window}"
                + (f" [{one.options}]" if one.options else ""),
            )
            for one in self.handshake
        ]
        return [
            (
                "connection",
                [
                    ("you", f"{self.peer[0]} port {self.peer[1]}"),
                    ("this host", f"{self.here[0]} port {self.here[1]}"),
                    ("you asked", self.request),
                ],
            ),
            ("handshake", shake or [("", "no longer known")]),
            (
                "agreed on",
                [
                    ("options", ", ".join(agreed) or "none"),
                    ("segments", f"of {info['snd_mss']} bytes to you, at most {info['advmss']} to this host"),
                    ("window scale", f"{info['wscale'] & 15} yours, {info['wscale'] >> 4} this host's"),
                ],
            ),
            (
                "round trip",
                [
                    ("smoothed", f"{info['rtt'] / 1000:.3f} ms, varies by {info['rttvar'] / 1000:.3f} ms"),
                    ("least", f"{info['min_rtt'] / 1000:.3f} ms"),
                    ("time-out", f"{info['rto'] / 1000:.0f} ms"),
                ],
            ),
            (
                "segments",
                [
                    ("from you", f"{info['segs_in']}, {info['data_segs_in']} with {info['bytes_received']} bytes"),
                    ("to you", f"{info['segs_out']}, {info['data_segs_out']} with {info['bytes_sent']} bytes"),
                    ("sent again", f"{info['total_retrans']}"),
                    ("out of order", f"{info['rcv_ooopack']}"),
                ],
            ),
            (
                "congestion",
                [
                    ("control", self.congestion),
                    ("window", f"{info['snd_cwnd']} segments, slow-start threshold {threshold}"),
                ],
            ),
        ]

    def text(self) -> str:
        lines = ["host.usernet: your connection, as this end of it sees it"]
        for heading, rows in self.sections():
            lines += ["", heading]
            lines += [f"  {name:<14}{value}" for name, value in rows]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        parts = [
            "<!doctype html><html lang=en><meta charset=utf-8><title>host.usernet</title>",
            "<style>body{font:15px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}",
            "th{text-align:left;font-weight:normal;color:#666;padding-right:1.5em;vertical-align:top}",
            "td{font-family:monospace}</style>",
            "<h1>Your connection, as this end of it sees it</h1>",
        ]
        for heading, rows in self.sections():
            cells = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in rows)
            parts.append(f"<h2>{html.escape(heading.capitalize())}</h2><table>{cells}</table>")
        return "\n".join(parts) + "\n"

    def json(self) -> str:
        first = self.handshake[0].when if self.handshake else 0
        return (
            json.dumps(
                {
                    "you": list(self.peer[:2]),
                    "host": list(self.here[:2]),
                    "request": self.request,
                    "handshake": [
                        {
                            "ms": (one.when - first) / 1e6,
                            "from": "host" if one.sent else "you",
                            "flags": one.kind,
                            "seq": one.seq,
                            "ack": one.ack,
                            "window": one.window,
                            "options": one.options,
                        }
                        for one in self.handshake
                    ],
                    "congestion": self.congestion,
                    "tcp_info": self.info,
                },
                indent=2,
            )
            + "\n"
        )
