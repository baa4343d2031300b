"""Ancillary data of datagram sockets: what one message is sent with, and what is told of one that came."""

from __future__ import annotations

import errno
import socket as std
import struct
import sys

import pytest

from tests.transport.tcp.harness import LOCAL, REMOTE, Collector, Peer, code, icmp_packet, ip_packet
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.rfc4884 import extension
from usernet.sockets.user import UserSocket
from usernet.wire import checksum, ipv4

IP_RETOPTS, IP_RECVERR, IP_CHECKSUM, IP_RECVERR_RFC4884 = 7, 11, 23, 26
THERE = ("10.0.0.2", 9)


def datagram(peer: Peer, kind: int = std.SOCK_DGRAM, protocol: int = 0) -> UserSocket:
    sock = peer.stack.socket(std.AF_INET, kind, protocol)
    sock.setblocking(False)
    peer.open.append(sock)
    return sock


def sent(peer: Peer) -> list[bytes]:
    peer.settle()
    packets = [packet for packet, _, _ in peer.nic.sent]
    peer.nic.sent.clear()
    return packets


def ip_options(packet: bytes) -> bytes:
    return packet[20 : (packet[0] & 15) * 4]


class TestSent:
    @pytest.mark.parametrize(
        ("kind", "protocol", "message"),
        [
            (std.SOCK_DGRAM, 0, b"hello"),
            (std.SOCK_DGRAM, std.IPPROTO_ICMP, b"\x08\0\0\0\0\0\0\1ping"),
            (std.SOCK_RAW, 200, b"raw"),
        ],
        ids=["udp", "ping", "raw"],
    )
    def test_options_of_one_message(self, peer: Peer, kind: int, protocol: int, message: bytes) -> None:
        sock = datagram(peer, kind, protocol)
        given = b"\x94\x04\0\0\1"
        sock.setsockopt(std.IPPROTO_IP, std.IP_OPTIONS, b"\1\1\1\1")
        sock.sendmsg([message], [(std.IPPROTO_IP, IP_RETOPTS, given)], 0, THERE)
        sock.sendto(message, THERE)
        first, second = sent(peer)
        assert ip_options(first) == ipv4.pad_options(given)
        assert ip_options(second) == b"\1\1\1\1"
        assert first[28:] == second[24:]

    def test_a_source_route_for_one_message(self, peer: Peer) -> None:
        sock = datagram(peer)
        hop = bytes((10, 0, 0, 9))
        route = ipv4.build_source_route(ipv4.IPOPT_LSRR, [hop])
        sock.sendmsg([b"x"], [(std.IPPROTO_IP, IP_RETOPTS, route)], 0, THERE)
        packet = sent(peer)[0]
        assert packet[16:20] == hop
        assert ip_options(packet) == ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [REMOTE]))

    def test_they_make_less_room_for_the_datagram(self, peer: Peer) -> None:
        sock = datagram(peer)
        control = [(std.IPPROTO_IP, IP_RETOPTS, b"\1\1\1\1")]
        assert code(sock.sendmsg, [bytes(65535 - 28)], control, 0, THERE) == errno.EMSGSIZE
        assert code(sock.sendmsg, [bytes(65535 - 32)], control, 0, THERE) == 0

    @pytest.mark.parametrize("bad", [b"\x07", b"\x07\x02", b"\x83\x07\x04\0\0\0"])
    def test_bad_options(self, peer: Peer, bad: bytes) -> None:
        sock = datagram(peer)
        assert code(sock.sendmsg, [b"x"], [(std.IPPROTO_IP, IP_RETOPTS, bad)], 0, THERE) == errno.EINVAL
        assert sent(peer) == []

    def test_mark_and_priority_of_one_message(self) -> None:
        seen: list[tuple[int, int]] = []

        class Watching(Collector):
            def xmit(self, skb: SKBuff) -> bool:
                seen.append((skb.mark, skb.priority))
                return super().xmit(skb)

        with Peer() as peer:
            peer.stack.remove_device("tun0")
            peer.nic = Watching()
            peer.stack.add_device(peer.nic, "tun0", "10.0.0.1/24")
            peer.settle()
            seen.clear()
            for sock, message in ((datagram(peer), b"x"), (datagram(peer, std.SOCK_RAW, 200), b"x")):
                sock.setsockopt(std.SOL_SOCKET, std.SO_MARK, 1)
                sock.setsockopt(std.SOL_SOCKET, std.SO_PRIORITY, 2)
                items = [(std.SOL_SOCKET, std.SO_MARK, struct.pack("=I", 7))]
                items += [(std.SOL_SOCKET, std.SO_PRIORITY, struct.pack("=I", 5))]
                sock.sendmsg([message], items, 0, THERE)
                sock.sendto(message, THERE)
                # A TOS brings its priority.
                sock.sendmsg([message], [(std.IPPROTO_IP, std.IP_TOS, b"\x10")], 0, THERE)
                peer.settle()
            assert seen == [(7, 5), (1, 2), (1, 6)] * 2


def udp_packet(payload: bytes, dport: int) -> bytes:
    header = struct.pack("!HHHH", 9, dport, 8 + len(payload), 0)
    pseudo = REMOTE + LOCAL + bytes((0, 17)) + header[4:6]
    whole = pseudo + header + payload
    check = checksum.csum_fold(checksum.csum(whole, 0, len(whole)))
    return ip_packet(REMOTE, LOCAL, 17, header[:6] + check.to_bytes(2, "big") + payload)


class TestReceived:
    @pytest.mark.parametrize("payload", [b"", b"\1", b"even", b"odd..", bytes(range(256)) * 5], ids=len)
    def test_the_sum_of_what_came(self, peer: Peer, payload: bytes) -> None:
        sock = datagram(peer)
        sock.bind(("", 5000))
        sock.setsockopt(std.IPPROTO_IP, IP_CHECKSUM, 1)
        assert sock.getsockopt(std.IPPROTO_IP, IP_CHECKSUM) == 1
        peer.packet(udp_packet(payload, 5000))
        data, control, _, _ = sock.recvmsg(2000, 100)
        assert data == payload
        ((level, kind, value),) = control
        assert (level, kind, len(value)) == (std.IPPROTO_IP, IP_CHECKSUM, 4)
        # As csum_partial has it, up to multiples of 0xFFFF: words in this machine's order.
        words = struct.unpack(f"={len(payload + b'0') // 2}H", payload + bytes(len(payload) % 2))
        assert int.from_bytes(value, sys.byteorder) % 0xFFFF == sum(words) % 0xFFFF

    def test_none_where_nobody_summed(self, peer: Peer) -> None:
        sock = datagram(peer)
        sock.bind(("127.0.0.1", 5000))
        sock.setsockopt(std.IPPROTO_IP, IP_CHECKSUM, 1)
        sock.sendto(b"x", ("127.0.0.1", 5000))
        peer.settle()
        assert sock.recvmsg(10, 100)[:2] == (b"x", [])


OBJECT = b"\0\x08\1\1\0\1\2\3"
"""An object of MPLS, with one label."""


def with_checksum(objects: bytes, version: int = 0x20) -> bytes:
    header = bytes((version, 0, 0, 0))
    check = checksum.csum_fold(checksum.csum(header + objects, 0, 4 + len(objects)))
    return bytes((version, 0)) + check.to_bytes(2, "big") + objects


class TestExtendedErrors:
    """RFC 4884."""

    def told(self, peer: Peer, length: int, behind: bytes, asked: int = 1, kind: int = 11) -> tuple[int, int, bytes]:
        """What a socket is told of an ICMP error with `behind` at 128 bytes of what is quoted: offset, flags, data."""
        sock = datagram(peer)
        sock.setsockopt(std.IPPROTO_IP, IP_RECVERR, 1)
        sock.setsockopt(std.IPPROTO_IP, IP_RECVERR_RFC4884, asked)
        sock.sendto(b"A" * 50, THERE)
        packet = sent(peer)[0]
        peer.packet(icmp_packet(kind, 0, length << 16, packet.ljust(128, b"\0") + behind))
        data, control, _, _ = sock.recvmsg(1000, 1000, std.MSG_ERRQUEUE)
        (value,) = (item[2] for item in control if item[1] == IP_RECVERR)
        _, origin, its_kind, _, _, _, offset, flags, _ = struct.unpack("=IBBBBIHBB", value[:16])
        assert (origin, its_kind) == (2, kind)
        return offset, flags, data

    @pytest.mark.parametrize("kind", [3, 11, 12])
    def test_where_it_begins(self, peer: Peer, kind: int) -> None:
        offset, flags, data = self.told(peer, 32, with_checksum(OBJECT), kind=kind)
        assert (offset, flags) == (128 - 28, 0)
        assert data[offset + 4 :] == OBJECT

    def test_only_where_asked(self, peer: Peer) -> None:
        assert self.told(peer, 32, with_checksum(OBJECT), asked=0)[:2] == (0, 0)

    @pytest.mark.parametrize(
        ("length", "behind"),
        [(0, with_checksum(OBJECT)), (31, with_checksum(OBJECT)), (32, b""), (32, b"\x20\0\0"), (200, b"x")],
        ids=["none told", "too short a quotation", "nothing there", "cut in its header", "beyond the end"],
    )
    def test_there_is_none(self, peer: Peer, length: int, behind: bytes) -> None:
        assert self.told(peer, length, behind)[:2] == (0, 0)

    @pytest.mark.parametrize(
        ("behind", "flags"),
        [
            (with_checksum(OBJECT * 2), 0),
            (with_checksum(b""), 0),
            (b"\x20\0\0\0" + OBJECT, 0),  # without a checksum
            (with_checksum(OBJECT[:-1]), 1),
            (with_checksum(OBJECT + b"\0"), 1),
            (with_checksum(b"\0\3\1\1" + OBJECT), 1),
            (b"\x20\0\1\2" + OBJECT, 1),
            (with_checksum(b"\0\xff", version=0x10), 0),  # of another version
        ],
    )
    def test_whether_it_is_sound(self, peer: Peer, behind: bytes, flags: int) -> None:
        assert self.told(peer, 32, behind)[:2] == (100, flags)

    def test_headers_longer_than_the_quotation(self) -> None:
        assert extension(bytes(200), 128, 129) == 0
