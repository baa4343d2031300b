"""Makes the seed corpora from real packets: python -m tests.fuzz.seeds. The same files each time."""

from __future__ import annotations

from tests.fuzz.targets import CORPUS, TARGETS
from tests.fuzz.world import GROUP, PEER, US, ip_frame, series
from usernet.netd import names, protocol
from usernet.wire import arp, icmp, igmp, ipv4_options, pcapng, tcp, udp
from usernet.wire.igmp import build_v3_query

PING = icmp.build(8, 0, 0x12340001, b"abcdefgh" * 4)
DATAGRAM = udp.build(5000, 53, 24, 0) + b"sixteen bytes..."
SYN = tcp.build(40000, 80, 1000, 0, tcp.SYN, 65535, 0, 0, bytes.fromhex("020405b40402080a000000010000000001030307"))
XMAS = tcp.build(40000, 80, 1, 1, 0x1FF, 0, 0, 1) + b"lights"
LO = names.pack(2, ("127.0.0.1", 80))
STREAM = [
    protocol.Open(1, 2, 1, 0), protocol.Commit(2), protocol.Bind(3, 2, LO), protocol.Listen(4, 2, 10),
    protocol.Open(5, 2, 1, 0), protocol.Commit(3), protocol.Connect(6, 3, LO), protocol.Accept(7, 2),
    protocol.Commit(4), protocol.SockName(8, 3), protocol.PeerName(9, 4), protocol.Send(10, 3, b"abc", 3, 0, None, b""),
    protocol.Shutdown(11, 3, 1), protocol.GetOption(12, 3, 6, 11, 300), protocol.Ioctl(13, 3, 0x541B, bytes(4)),
    protocol.Renew(14, 3), protocol.GiveBack(4),
]  # fmt: skip
DATAGRAMS = [
    protocol.Open(1, 2, 2, 0), protocol.Commit(2), protocol.Bind(2, 2, LO),
    protocol.Send(3, 2, b"abc", 3, 0, LO, b""), protocol.Receive(4, 2, 100, 0, 100), protocol.Unreceive(2),
    protocol.SetOption(5, 2, 1, 8, bytes(4)), protocol.Receive(6, 2, 100, 0x40, 0), protocol.Receive(7, 2, 100, 2, 0),
]  # fmt: skip
SHARED = [
    protocol.Duplicate(1), protocol.SockName(2, 1), protocol.Receive(3, 1, 10, 0, 0, True),
    protocol.Send(4, 1, b"x", 1, 0, names.pack(2, ("127.0.0.1", 7)), b""), protocol.Receive(5, 1, 10, 0, 0),
    protocol.Reached(1),
]  # fmt: skip
RING = [
    protocol.Open(1, 17, 3, 0x0300), protocol.Commit(2), protocol.SetOption(2, 2, 263, 10, (2).to_bytes(4, "little")),
    protocol.SetOption(3, 2, 263, 5, b"".join(n.to_bytes(4, "little") for n in (4096, 2, 2048, 4, 10, 0, 0))),
    protocol.Ring(4, 2, 8192), protocol.Ring(5, 2, 4096), protocol.GetOption(6, 2, 263, 6, 12),
    protocol.Send(7, 1, b"x", 1, 0, LO, b""), protocol.SetOption(8, 2, 263, 5, bytes(28)), protocol.Ring(9, 2, 8192),
]  # fmt: skip
WAITING = [
    protocol.Accept(20, 2), protocol.Accept(21, 2), protocol.Cancel(20), protocol.Cancel(99), protocol.Watch(22, []),
    protocol.Command(23, "ss", ["-ta"]), protocol.Cancel(22), protocol.Accept(21, 2),
]  # fmt: skip
SACK = tcp.build_sack([(5000, 6000), (8000, 9000)], (3, 1))


def _ip(frame: bytes, **fields: int) -> bytes:
    """An IPv4 packet without its link header, with some 16-bit fields set: `ident`, `offset` (flags and all)."""
    packet = frame[14:]
    if "ident" in fields:
        packet = packet[:4] + fields["ident"].to_bytes(2, "big") + packet[6:]
    if "offset" in fields:
        packet = packet[:6] + fields["offset"].to_bytes(2, "big") + packet[8:]
    return packet


def _error(kind: int, code: int, rest: int, quoted: bytes) -> bytes:
    return icmp.build(kind, code, rest, quoted[:60])


def _segment(
    flags: int,
    payload: bytes = b"",
    options: bytes = b"",
    seq: int = 0,
    ack: int = 0,
    window: int = 512,
    control: int = 0,
) -> tuple[int, bytes]:
    head = bytes((flags,)) + window.to_bytes(2, "big") + seq.to_bytes(2, "big", signed=True)
    head += ack.to_bytes(2, "big", signed=True) + bytes((0, len(options)))
    return control, head + options + payload


def _filter(*insns: tuple[int, int, int, int]) -> bytes:
    return b"".join(code.to_bytes(2, "little") + bytes((jt, jf)) + k.to_bytes(4, "little") for code, jt, jf, k in insns)


def _query(sent: bytes = b"\x12\x34", flags: int = 0x8180, records: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    question = b"\x04host\x07example\0\0\x01\0\x01"
    body = b"".join(
        b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\x01\0\0\0\x3c" + len(data).to_bytes(2, "big") + data
        for kind, data in records
    )
    return sent + flags.to_bytes(2, "big") + b"\0\x01" + len(records).to_bytes(2, "big") + bytes(4) + question + body


def _capture() -> bytes:
    return (
        pcapng.section_header(comment="seed")
        + pcapng.interface_description("eth0", pcapng.LINKTYPE_ETHERNET)
        + pcapng.enhanced_packet(0, 1, (ip_frame(1, PING),), 74, "a ping", pcapng.EPB_INBOUND)
    )


def corpora() -> dict[str, dict[str, bytes]]:
    """The seeds: target → name → content."""
    ping, datagram, syn = ip_frame(1, PING), ip_frame(17, DATAGRAM), ip_frame(6, SYN)
    ours = ip_frame(17, udp.build(5000, 5000, 24, 0) + b"sixteen bytes...", US, PEER)[14:]
    ours_tcp = ip_frame(6, tcp.build(80, 40000, 1, 1001, 0x12, 1, 0, 0), US, PEER)[14:]
    request = arp.build(1, b"\2\0\0\0\0\2", PEER, bytes(6), US)
    big = b"0123456789abcdef" * 3
    options = ipv4_options.pad_options(ipv4_options.build_record_route(3))
    stamps = ipv4_options.build_timestamp(1, 2)
    route = ipv4_options.pad_options(ipv4_options.build_source_route(ipv4_options.IPOPT_LSRR, [PEER, US]))
    header = bytes(10)
    gso = bytes.fromhex("01010000600022001000")
    data = ip_frame(6, tcp.build(40000, 80, 1, 1, tcp.ACK | tcp.PSH, 512, 0, 0) + bytes(300))
    scripts = {
        "handshake": b"0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n+0 listen(3, 1) = 0\n"
        b"+0 < S 0:0(0) win 32792 <mss 1000,sackOK,nop,nop,nop,wscale 7>\n+0 > S. 0:0(0) ack 1 <...>\n"
        b"+.1 < . 1:1(0) ack 1 win 257\n+0 accept(3, ..., ...) = 4\n+0 %{ assert tcpi_state == 1 }%\n",
        "options": b"--tolerance_usecs=1000\n0.1 `sysctl -q net.ipv4.tcp_sack=1`\n+0~+1 < P. 1:11(10) ack 1 win 10 "
        b"<nop,nop,TS val 1 ecr 2,sack 3:4 5:6>\n* > icmp unreachable frag_needed mtu 1200 [1:1001(1000)]\n"
        b"+0 > udp (100)\n+0...0.2 write(4, ..., 10) = -1 EAGAIN (why)\n",
    }
    return {
        "ethernet": {
            "ping": series((1, ping)),
            "syn": series((1, syn)),
            "arp": series((0, b"\xff" * 6 + ping[6:12] + b"\x08\x06" + request)),
            "udp": series((1, datagram), (3, datagram)),
            "llc": series((0, b"\1\x80\xc2\0\0\0" + ping[6:12] + b"\0\x26BB\3" + bytes(35))),
            "vlan": series((0, ping[:12] + b"\x81\0\0\5" + ping[12:])),
            "short": series((0, b"\0"), (0, b"")),
            "xmas": series((1, ip_frame(6, XMAS))),
            "land": series((1, ip_frame(6, SYN, US, US))),
            "martian": series((1, ip_frame(1, PING, b"\x7f\0\0\1")), (1, ip_frame(17, DATAGRAM, b"\xe0\0\0\1"))),
        },
        "virtio": {
            "plain": series((0, header + ping)),
            "gso": series((0, gso + data)),
            "ecn": series((0, gso[:1] + b"\x81" + gso[2:] + data)),
            "uso": series((0, bytes.fromhex("01050000080022000600") + datagram)),
            "lie": series((0, b"\1\1" + b"\xff" * 8 + data)),
        },
        "arp": {
            "request": series((1, request)),
            "reply": series((7, arp.build(2, b"\2\0\0\0\0\7", b"\x0a\0\0\7", b"\2\0\0\0\0\1", US))),
            "gratuitous": series((0, arp.build(1, b"\2\0\0\0\0\3", PEER, bytes(6), PEER))),
            "conflict": series((2, arp.build(2, b"\2\0\0\0\0\3", US, bytes(6), US))),
            "cut": series((1, request[:20])),
        },
        "ipv4": {
            "ping": series((0, _ip(ping))),
            "options": series((0, _ip(ip_frame(1, PING, options=options)))),
            "stamps": series((0, _ip(ip_frame(1, PING, options=stamps)))),
            "route": series((0, _ip(ip_frame(1, PING, options=route)))),
            "fragments": series(
                (0, _ip(ip_frame(17, DATAGRAM), ident=7, offset=0x2000)), (0, _ip(ip_frame(17, big), ident=7, offset=3))
            ),
            "overlap": series(
                (0, _ip(ip_frame(17, big), ident=8, offset=0x2000)), (6, _ip(ip_frame(17, big), ident=8, offset=0x2002))
            ),
            "from_many": series((0, _ip(ip_frame(99, big, b"\x0a\0\0\xff")))),
            "forward": series((0, _ip(ip_frame(17, DATAGRAM, dst=b"\x08\x08\x08\x08")))),
            "protocol": series((0, _ip(ip_frame(99, big)))),
        },
        "icmp": {
            "ping": series((0, PING)),
            "stamp": series((0, icmp.build(13, 0, 1, bytes(12)))),
            "unreachable": series((0, _error(3, 3, 0, ours)), (0, _error(3, 1, 0, ours_tcp))),
            "too_big": series((0, _error(3, 4, 600, ours_tcp))),
            "redirect": series((0, _error(5, 1, int.from_bytes(b"\x0a\0\0\3", "big"), ours))),
            "exceeded": series((2, _error(11, 0, 0, ours))),
            "problem": series((0, _error(12, 0, 20 << 24, ours))),
            "probe": series((0, icmp.build(42, 0, 0x10001, bytes.fromhex("2000000000080301") + US))),
        },
        "igmp": {
            "query": series((4, igmp.build_query(bytes(4), 100))),
            "group": series((12, igmp.build_query(GROUP, 10)), (4, b"")),
            "v3": series((4, build_v3_query(GROUP, 10, False, 2, 125, [PEER, US]))),
            "v1": series((6, igmp.build_query(bytes(4), 0))),
            "report": series((8, igmp.build_v3_report([(4, GROUP, [PEER])]))),
            "leave": series((0, igmp.build_v2_leave(GROUP))),
        },
        "udp": {
            "datagram": series((0, DATAGRAM)),
            "group": series((8, DATAGRAM)),
            "nobody": series((0, udp.build(1, 9, 8, 0))),
            "gro": series(*[(0, udp.build(5000, 5000, 24, 0) + b"sixteen bytes...")] * 3),
            "lie": series((0, udp.build(1, 53, 400, 0))),
        },
        "tcp": {
            "syn": series((0, SYN), (2, SYN)),
            "xmas": series((0, XMAS)),
            "cut": series((0, SYN[:12])),
            "reset": series((0, SYN), (0, tcp.build(40000, 80, 1001, 0, tcp.RST, 0, 0, 0))),
            "data": series((0, data[34:])),
            "fastopen": series(
                (
                    0,
                    tcp.build(40000, 80, 1, 0, tcp.SYN, 512, 0, 0, bytes.fromhex("020405b42202010101010101"))
                    + b"GET /",
                )
            ),
        },
        "connection": {
            "request": series(
                _segment(0x18, b"GET / HTTP/1.0"),
                (0x81, b"x"),
                (0x80, b"HTTP/1.0 200 OK" * 9),
                _segment(0x10),
                _segment(0x11),
                (0x83, b""),
                _segment(0x10),
            ),
            "holes": series(
                _segment(0x18, big, seq=100),
                _segment(0x18, big, seq=300),
                _segment(0x18, big, seq=96),
                _segment(0x18, big * 3),
                (0x81, big),
            ),
            "sack": series(
                (0xF8, big), _segment(0x10, options=SACK, ack=-500), _segment(0x10, options=SACK, ack=-500), (0x96, b"")
            ),
            "urgent": series((0, b"\x38\2\0\0\0\0\0\3\0abc"), (0x85, b"!"), (0x81, b"x")),
            "reset": series(_segment(0x04, seq=1), _segment(0x04), (0x81, b"")),
            "window": series((0xF8, big), _segment(0x10, window=0), (0x96, b""), (0x9E, b""), _segment(0x10)),
            "closing": series((0x83, b""), _segment(0x11), (0x9E, b"")),
            "stamps": series(
                _segment(0x18, b"a", bytes.fromhex("0101080a0000000300000000")),
                _segment(0x18, b"b", bytes.fromhex("0101080a0000000100000000")),
            ),
            "keepalive": series((0x84, b"\x09\1\0\0\0"), (0x8C, b"\4\1\0\0\0"), (0x9E, b""), _segment(0x10, seq=-1)),
            "flood": series(*[_segment(0x18, big, seq=200 * n, control=6) for n in range(1, 12)], (0x81, big * 9)),
        },
        "sockopt": {
            "buffers": series((0, b"\1\0\x08\0\1\0\0"), (1, b"\1\0\x08"), (2, b"\1\0\x07\0\0\0\0")),
            "linger": series((0, b"\1\0\x0d\1\0\0\0\5\0\0\0")),
            "filter": series((4, b"\1\0\x1a\1\0\0\0\0\0\0\0" + bytes(8))),
            "groups": series((4, b"\0\0\x23" + GROUP + bytes(4)), (4, b"\0\0\x24" + GROUP + bytes(4))),
            "msfilter": series((4, b"\0\0\x29" + GROUP + bytes(4) + b"\1\0\0\0\1\0\0\0" + PEER)),
            "options": series((6, b"\0\0\4" + options)),
            "tcp": series(
                *[(0, b"\2\0" + bytes((number,)) + b"\1\0\0\0") for number in range(1, 40)],
                *[(1, b"\2\0" + bytes((number,))) for number in range(1, 40)],
            ),
            "packet": series(
                (32, b"\5\0\1\2\0\0\0\0\0\6\0\2\0\0\0\0\1\0\0"), (33, b"\5\0\6"), (32, b"\5\0\5" + bytes(16))
            ),
            "every": series(*[(5 + 4 * n, bytes((level, 0, n))) for level in range(6) for n in range(60)]),
        },
        "cmsg": {
            "pktinfo": series((1, b"\0\0\0\7\0\x08\x0c" + bytes(4) + US + bytes(4))),
            "ttl": series((1, b"\0\0\0\7\0\2\4\7\0\0\0\0\1\1\x10")),
            "segment": series((1, b"\0\0\0\7\3\x67\2\4\0")),
            "options": series((3, b"\0\0\0\7\0\7\x0f" + options[:15])),
            "flags": series((0, b"\x40\1\0\x50"), (5, b"\0\1\0\0")),
        },
        "address": {
            "ipv4": b"10.0.0.2,80",
            "short": b"10.2",
            "ipv6": b"fe80::1%eth0,443",
            "name": b"localhost",
            "idna": "bücher.example".encode(),
            "empty": b"",
            "big": b"4294967296,65536",
        },
        "tcp_options": {
            "syn": SYN[20:],
            "sack": SACK,
            "fastopen": bytes.fromhex("220a0102030405060708"),
            "exp": bytes.fromhex("fe04f989"),
            "md5": b"\x13\x12" + bytes(16),
            "cut": b"\x08\x0a\0",
        },
        "ip_options": {
            "rr": options,
            "ts": stamps,
            "lsrr": route,
            "ra": ipv4_options.router_alert(),
            "prespec": ipv4_options.build_timestamp(3, 2, [US, PEER]),
            "cut": b"\x07\x0b",
        },
        "igmp_parsers": {
            "query": igmp.build_query(GROUP, 10),
            "v3": build_v3_query(GROUP, 10, True, 2, 125, [PEER]),
            "report": igmp.build_v3_report([(4, GROUP, [PEER]), (1, GROUP, [])]),
        },
        "pcap": {
            "pcapng": _capture(),
            "pcap": pcapng.pcap_header(1) + pcapng.pcap_packet(5, ping, len(ping)),
            "cut": _capture()[:-7],
            "big_endian": bytes.fromhex("0a0d0d0a0000001c1a2b3c4d00010000ffffffffffffffff0000001c"),
        },
        "bpf": {
            "udp": bytes((len(datagram),))
            + datagram
            + _filter(
                (0x28, 0, 0, 12),
                (0x15, 0, 3, 0x800),
                (0x30, 0, 0, 23),
                (0x15, 0, 1, 17),
                (6, 0, 0, 65535),
                (6, 0, 0, 0),
            ),
            "memory": b"\0" + _filter((0, 0, 0, 7), (2, 0, 0, 3), (0x61, 0, 0, 3), (0x0C, 0, 0, 0), (0x16, 0, 0, 0)),
            "loads": b"\x14"
            + ping[:20]
            + _filter(
                (0xB1, 0, 0, 14),
                (0x48, 0, 0, 16),
                (0x20, 0, 0, 0xFFFFF000),
                (0x34, 0, 0, 3),
                (0x20, 0, 0, 0xFFF00000),
                (0x16, 0, 0, 0),
            ),
        },
        "dns": {
            "a": _query(records=((1, US), (1, PEER))),
            "alias": _query(records=((5, b"\xc0\x0c"),)),
            "none": _query(flags=0x8183),
            "cut": _query(flags=0x8380)[:20],
            "txt": _query(records=((16, b"\4text"), (28, bytes(16)))),
        },
        "packetdrill": scripts,
        "texts": {
            "prefix": b"10.0.0.1/24",
            "default": b"default",
            "ipv6": b"fd00::1/64",
            "mac": b"02:00:00:00:00:01",
            "ports": b"8080,9000-9010",
            "sysctl": b"net.ipv4.tcp_rmem=4096 87380 6291456",
            "range": b"net/ipv4/ip_local_port_range=60000 1",
            "choice": b"net.ipv4.tcp_congestion_control=reno",
        },
        "service": {
            "stream": series(*((0, protocol.encode(one)) for one in STREAM)),
            "datagrams": series(*((0, protocol.encode(one)) for one in DATAGRAMS)),
            "shared": series(*((1, protocol.encode(one)) for one in SHARED)),
            "ring": series(*((0, protocol.encode(one)) for one in RING)),
            "no_hello": series((0x40, protocol.encode(STREAM[0])), (0x80, protocol.encode(STREAM[0]))),
            "descriptors": series(*((control, protocol.encode(SHARED[0])) for control in (0, 2, 4, 15))),
            "waiting": series(*((0, protocol.encode(one)) for one in (*STREAM[:4], *WAITING))),
        },
    }


def main() -> None:
    """Write them all."""
    made = corpora()
    assert made.keys() == TARGETS.keys()
    for target, seeds in made.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
