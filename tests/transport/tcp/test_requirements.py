"""Requirements of RFC 9293 that no other test shows: see docs/rfc.md, which names the test of each."""

from __future__ import annotations

import errno
import socket as std
from itertools import pairwise

import pytest

from tests.transport.tcp.harness import (
    LOCAL,
    REMOTE,
    SEC,
    Peer,
    code,
    flags,
    icmp_packet,
    length,
    payload,
    seq,
    sock_of,
    state_of,
)
from tests.transport.tcp.invariants import broken
from usernet.core.wait import EPOLLERR
from usernet.netdevice.driver import NETIF_F_HW_CSUM
from usernet.transport.tcp.const import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_SENT
from usernet.transport.tcp.recvmsg import SIOCATMARK
from usernet.wire import checksum, ipv4
from usernet.wire.tcp import ACK, SYN, URG

MSS = 1460
HOP = bytes((10, 0, 0, 9))
OTHER = bytes((10, 0, 0, 8))


def ip_options(packet: bytes) -> bytes:
    return packet[20 : (packet[0] & 15) * 4]


def with_options(packet: bytes, options: bytes, tos: int = 0) -> bytes:
    """An IPv4 packet, with options put into its header."""
    header = bytearray(packet[:20])
    header[0] = 0x45 + len(options) // 4
    header[1] = tos
    header[2:4] = (len(packet) + len(options)).to_bytes(2, "big")
    header[10:12] = b"\0\0"
    whole = bytes(header) + options
    header[10:12] = checksum.csum_fold(checksum.csum(whole, 0, len(whole))).to_bytes(2, "big")
    return bytes(header) + options + packet[20:]


def accept_source_routes(peer: Peer) -> None:
    for name in ("all", "tun0"):
        peer.stack.sysctl[f"net.ipv4.conf.{name}.accept_source_route"] = 1


class TestHeader:
    def test_every_segment_has_a_right_checksum(self, peer: Peer) -> None:
        """On a device that fills in none."""
        peer.stack.devices["tun0"].set_features(NETIF_F_HW_CSUM, False)
        sock = peer.active(ts=True)
        sock.send(b"x" * 4001)
        sock.close()
        peer.run(2.0)
        peer.send(SYN, dport=1)
        count = 0
        while peer.take() is not None:
            body = peer.last[20:]
            pseudo = peer.last[12:20] + bytes((0, 6)) + len(body).to_bytes(2, "big")
            assert checksum.csum_fold(checksum.csum(pseudo + body, 0, len(pseudo) + len(body))) == 0
            count += 1
        assert count > 5

    def test_options_are_padded_so_that_nothing_undefined_is_sent(self, peer: Peer) -> None:
        """Linux pads in front, with NOP: behind the last option there is nothing."""
        sock = peer.dial()
        peer.take()
        found = [peer.last]
        peer.send(SYN, 0, 1, options=peer.syn_options(sack=True))
        sock.send(b"x")
        peer.settle()
        peer.send(ACK, 5, 1, b"y")
        while peer.take() is not None:
            found.append(peer.last)
        assert len(found) >= 3
        for packet in found:
            options = packet[40 : 20 + (packet[32] >> 4) * 4]
            at = 0
            while at < len(options):
                kind = options[at]
                assert kind != 0 or not any(options[at:])
                at += 1 if kind <= 1 else options[at + 1]
            assert at == len(options)

    @pytest.mark.parametrize(
        "options",
        [b"\xfd\x04\xab\xcd", b"\x63\x06\0\0\0\0\1\1", b"\x1b\x08" + bytes(6)],
        ids=["experiment", "unassigned", "quick-start"],
    )
    def test_unknown_options_are_passed_over(self, peer: Peer, options: bytes) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN, 0, 1, options=options + peer.syn_options(mss=1000))
        assert sock_of(sock).mss_clamp == 1000
        peer.expect(flags(ACK))
        peer.send(ACK, 1, 1, b"data", options=options)
        assert sock.recv(9) == b"data"

    @pytest.mark.parametrize(
        "options", [b"\x02\0\0\0", b"\x02\1\0\0", b"\x02\x28\0\0", b"\1\1\1\x02", b"\x08\x0b" + bytes(10)],
        ids=["zero", "one", "beyond the header", "no length", "too long by one"],
    )  # fmt: skip
    def test_an_illegal_length_of_an_option_is_survived(self, peer: Peer, options: bytes) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"data", options=options)
        assert sock.recv(9) == b"data"
        assert broken(sock_of(sock)) == []
        peer.sent()
        other = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN, 0, 1, options=options)
        assert state_of(other) == TCP_ESTABLISHED
        assert sock_of(other).mss_clamp == 536


class TestInitialNumbers:
    def isn(self, peer: Peer, port: int, local: int = 5000) -> int:
        sock = peer.socket()
        sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        sock.bind(("10.0.0.1", local))
        sock.connect_ex(("10.0.0.2", port))
        peer.settle()
        found = peer.expect(flags(SYN))
        sock.close()
        peer.settle()
        peer.sent()
        return found.raw_seq

    def test_a_clock_drives_them(self, peer: Peer) -> None:
        """Linux's ticks every 64 ns, where the RFC has 4 µs: so that fast connections stay apart too."""
        first = self.isn(peer, 80)
        peer.run(1.0)
        second = self.isn(peer, 80)
        peer.run(1.0)
        assert (second - first) & 0xFFFFFFFF == SEC >> 6
        assert (self.isn(peer, 80) - second) & 0xFFFFFFFF == SEC >> 6

    def test_each_connection_counts_from_elsewhere(self, peer: Peer) -> None:
        found = {self.isn(peer, port) for port in range(80, 90)}
        found |= {self.isn(peer, 80, port) for port in range(6000, 6010)}
        assert len(found) == 20
        gaps = sorted((after - before) & 0xFFFFFFFF for before, after in pairwise(sorted(found)))
        assert gaps[-1] > 1 << 24

    def test_they_hang_on_a_secret(self) -> None:
        found = set()
        for seed in range(5):
            with Peer(seed=seed) as peer:
                found.add(self.isn(peer, 80))
        assert len(found) == 5


class TestOpening:
    def test_a_port_can_be_listened_on_while_it_is_connecting(self, peer: Peer) -> None:
        client = peer.socket()
        client.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        client.bind(("10.0.0.1", 5000))
        client.connect_ex(("10.0.0.2", 80))
        server = peer.listen(5000, prepare=lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1))
        assert (state_of(client), state_of(server)) == (TCP_SYN_SENT, TCP_LISTEN)
        peer.expect(flags(SYN))
        # Each gets what is its own.
        peer.port = 7777
        peer.send(SYN, dport=5000, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        assert (state_of(client), sock_of(server).request_queue.syn_queue) == (TCP_SYN_SENT, 1)

    def test_listening_changes_no_other_connection(self, peer: Peer) -> None:
        first = peer.passive()
        other = peer.listen(81)
        assert code(peer.socket().bind, ("0.0.0.0", 81)) == errno.EADDRINUSE
        assert (state_of(first), state_of(other)) == (TCP_ESTABLISHED, TCP_LISTEN)
        peer.send(ACK, 1, 1, b"still")
        assert first.recv(9) == b"still"

    def test_the_source_is_the_routes_or_the_programs(self, peer: Peer) -> None:
        peer.stack.add_address("tun0", "10.0.1.1/24")
        for remote, wanted in (("10.0.0.2", "10.0.0.1"), ("10.0.1.2", "10.0.1.1")):
            sock = peer.socket()
            sock.connect_ex((remote, 80))
            assert sock.getsockname()[0] == wanted
        sock = peer.socket()
        sock.bind(("10.0.1.1", 0))
        sock.connect_ex(("10.0.0.2", 80))
        peer.settle()
        assert peer.sent()[-1].saddr == bytes((10, 0, 1, 1))
        # And it stays so, whatever the routes say later.
        peer.run(1.1)
        assert {found.saddr for found in peer.sent() if found.sport == sock.getsockname()[1]} == {bytes((10, 0, 1, 1))}

    @pytest.mark.parametrize(
        "saddr", [bytes((10, 0, 0, 255)), bytes((224, 0, 0, 1)), bytes((255,) * 4), LOCAL, bytes((127, 0, 0, 1))]
    )
    def test_a_syn_from_an_address_that_can_not_be(self, peer: Peer, saddr: bytes) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, saddr=saddr, options=peer.syn_options())
        assert sock_of(server).request_queue.syn_queue == 0
        assert not [found for found in peer.sent() if found.daddr == saddr]

    def test_the_mss_is_the_devices_less_the_headers(self) -> None:
        for mtu in (576, 1500, 9000):
            with Peer() as peer:
                peer.stack.devices["tun0"].set_mtu(mtu)
                peer.dial()
                assert peer.expect(flags(SYN)).options.mss == mtu - 40

    def test_the_mss_is_the_routes_where_that_is_smaller(self, peer: Peer) -> None:
        peer.stack.add_route("10.0.0.2", dev="tun0", mtu=1200)
        peer.dial()
        assert peer.expect(flags(SYN)).options.mss == 1160

    def test_only_a_syn_tells_the_mss(self, peer: Peer) -> None:
        sock = peer.active(ts=True, sack=True)
        sock.send(b"x" * 5000)
        peer.settle()
        peer.send(ACK, 3, 1, b"hole")
        peer.run(1.0)
        sock.close()
        peer.run(1.0)
        found = peer.sent()
        assert len(found) > 5
        assert {seen.options.mss for seen in found} == {0}


class TestAcknowledging:
    def test_what_comes_together_is_acknowledged_together(self, peer: Peer) -> None:
        """Segments of one batch are merged by GRO, and all are processed before the acknowledgement is sent."""
        sock = peer.active()
        for number in range(8):
            packet = peer.segment(ACK, 1 + number * MSS, 1, b"x" * MSS)
            # Not to be fragmented, as all of TCP: else packets with one identification are not merged.
            peer.nic.put(with_options(packet[:6] + b"\x40\0" + packet[8:], b""))
        peer.settle()
        assert [found.ack for found in peer.sent()] == [1 + 8 * MSS]
        assert len(sock.recv(1 << 16)) == 8 * MSS

    @pytest.mark.parametrize("delay", [0.001, 0.3, 2.0])
    def test_no_acknowledgement_waits_half_a_second(self, peer: Peer, delay: float) -> None:
        sock = peer.active()
        at = 1
        for number in range(30):
            peer.send(ACK, at, 1, b"x" * 300)
            at += 300
            sock.recv(300)
            if number % 3 == 0:
                sock.send(b"y")
            begun = peer.now
            peer.run(0.499)
            found = peer.sent()
            assert any(seen.ack == at and seen.at / SEC - begun < 0.5 for seen in found)
            peer.run(delay)
            peer.sent()
            peer.send(ACK, at, 1 + number // 3 + 1)

    def test_the_right_edge_never_moves_back(self, peer: Peer) -> None:
        sock = peer.active(wscale=7)
        edge = 0
        at = 1
        for number in range(400):
            size = (number * 37) % MSS + 1
            peer.send(ACK, at, 1, b"x" * size)
            at += size
            if number == 200:
                sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 4096)
            if number % 7 == 0:
                sock.recv(2000)
            peer.run(0.05)
            for seen in peer.sent():
                # A scaled window is rounded, by less than one unit.
                unit = 1 << sock_of(sock).rcv_wscale
                if not seen.window and peer.stack.mib["TcpExt"]["TCPRcvQDrop"]:
                    continue  # Linux closes the window where memory is so short that a segment had to be dropped
                assert seen.ack + (seen.window << sock_of(sock).rcv_wscale) > edge - unit
                edge = max(edge, seen.ack + (seen.window << sock_of(sock).rcv_wscale))
            if sock_of(sock).rcv_nxt - peer.iss != at:
                at = sock_of(sock).rcv_nxt - peer.iss


class TestWindow:
    def test_data_beyond_a_shrunk_window_ends_nothing(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (4 * MSS))
        peer.settle()
        peer.sent()
        # One segment is acknowledged and the window is taken back altogether; the peer goes on answering so.
        for _ in range(60):
            peer.send(ACK, 1, 1 + MSS, win=0)
            peer.run(60.0)
            for seen in peer.sent():
                assert seen.seq in (MSS, 1 + MSS), "only the first segment is sent again, as a probe"
        assert state_of(sock) == TCP_ESTABLISHED
        peer.send(ACK, 1, 1 + MSS)
        peer.run(121.0)
        assert {seen.seq for seen in peer.sent()} >= {1 + MSS}
        peer.send(ACK, 1, 1 + 4 * MSS)
        assert broken(sock_of(sock)) == []

    def test_what_was_granted_is_taken_though_the_window_has_shrunk(self) -> None:
        """RFC 7323 section 2.4, with tcp_shrink_window: else what is missing in front of what is held could never
        come."""
        with Peer(tcp_shrink_window=1, tcp_rmem=(4096, 8192, 1 << 20)) as peer:
            sock = peer.active(wscale=7)
            sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 2304)
            peer.send(ACK, 13, 1, b"b" * MSS)
            peer.send(ACK, 13 + MSS, 1, b"b" * (MSS - 12))
            assert peer.sent()[-1].window == 0
            peer.send(ACK, 1, 1, b"a" * 12)
            assert sock.recv(100) == b"a" * 12 + b"b" * 88
            assert broken(sock_of(sock)) == []

    def test_a_window_shrunk_to_zero_is_probed(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (2 * MSS))
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 1 + 2 * MSS, win=0)
        sock.send(b"y" * MSS)
        peer.expect_after(sock_of(sock).rto / SEC, seq(2 * MSS), length(0))
        peer.send(ACK, 1, 1 + 2 * MSS)
        peer.expect(seq(1 + 2 * MSS), length(MSS))


class TestUrgent:
    def test_the_mark_is_found(self, peer: Peer) -> None:
        """How much there is before it: reading stops there, and SIOCATMARK says that it did."""
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_OOBINLINE, 1))
        assert sock.ioctl(SIOCATMARK) == 0
        peer.send(ACK | URG, 1, 1, b"before!after", urg=7)
        assert sock.ioctl(SIOCATMARK) == 0
        assert sock.recv(100) == b"before"
        assert sock.ioctl(SIOCATMARK) == 1
        assert sock.recv(100) == b"!after"
        assert sock.ioctl(SIOCATMARK) == 0


class TestKeepalive:
    def test_none_unless_asked_for(self, peer: Peer) -> None:
        sock = peer.active()
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE) == 0
        peer.run(1_000_000.0)
        peer.silent()
        assert state_of(sock) == TCP_ESTABLISHED


class TestRetransmitting:
    def test_a_round_trip_is_not_taken_from_a_retransmission(self, peer: Peer) -> None:
        """Karn's algorithm, without time stamps to tell which copy is meant."""
        sock = peer.active(rtt=0.05)
        before = sock_of(sock).srtt_us
        sock.send(b"x")
        peer.run(0.3)
        assert len(peer.sent()) == 2
        peer.run(0.1)
        peer.send(ACK, 1, 2)
        assert sock_of(sock).srtt_us == before

    def test_each_packet_has_an_identification_of_its_own(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x")
        idents = []
        for _ in range(4):
            peer.run(1.0)
            while peer.take() is not None:
                idents.append(int.from_bytes(peer.last[4:6], "big"))
        assert len(idents) >= 3
        assert len(set(idents)) == len(idents)

    def test_after_three_the_route_is_looked_up_anew(self, peer: Peer) -> None:
        """R1 (tcp_retries1): advice to the network layer that this path may be dead."""
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        first = sock_of(sock).dst
        peer.run(0.2 + 0.4 + 0.8 + 0.1)
        assert len(peer.sent()) == 4
        assert sock_of(sock).dst is first
        peer.run(1.6 + 3.2)
        assert len(peer.sent()) == 2
        assert sock_of(sock).dst is not first
        assert state_of(sock) == TCP_ESTABLISHED

    @pytest.mark.parametrize(("retries", "seconds"), [(15, 924.6), (8, 102.2), (3, 3.0)])
    def test_r2_is_at_least_so_long(self, retries: int, seconds: float) -> None:
        """It ends with the first time-out after what so many retransmissions take from 200 ms on."""
        with Peer(tcp_retries2=retries) as peer:
            sock = peer.active()
            begun = peer.now
            sock.send(b"x")
            while state_of(sock) != TCP_CLOSE:
                peer.run(0.1)
                assert peer.now < begun + 2000
            assert seconds <= peer.now - begun <= 2 * seconds + 0.5
            assert code(sock.recv, 1) == errno.ETIMEDOUT

    def test_a_syn_may_be_tried_for_three_minutes_and_more(self) -> None:
        """Linux gives up after 131 s by default; tcp_syn_retries (or TCP_SYNCNT) makes it as long as is wanted."""
        with Peer(tcp_syn_retries=8) as peer:
            sock = peer.dial()
            peer.run(180.0)
            assert state_of(sock) == TCP_SYN_SENT
            assert peer.sent()[-1].at > 100 * SEC
            peer.run(600.0)
            assert sock.connect_ex(("10.0.0.2", 80)) == errno.ETIMEDOUT

    def test_trouble_is_told_where_it_was_asked_for(self, peer: Peer) -> None:
        """IP_RECVERR is the routine for error reports; without it nobody is disturbed."""
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        packet = peer.nic.sent[-1][0]
        peer.packet(icmp_packet(3, 1, 0, packet[:28]))
        assert not sock_of(sock).poll() & EPOLLERR
        sock.setsockopt(std.IPPROTO_IP, 11, 1)  # IP_RECVERR
        peer.packet(icmp_packet(3, 1, 0, packet[:28]))
        assert sock_of(sock).poll() & EPOLLERR
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == errno.EHOSTUNREACH
        assert state_of(sock) == TCP_ESTABLISHED

    @pytest.mark.parametrize(("kind", "icmp_code"), [(11, 0), (12, 0), (3, 0), (3, 1), (3, 5)])
    def test_soft_errors_end_nothing(self, peer: Peer, kind: int, icmp_code: int) -> None:
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        packet = peer.nic.sent[-1][0]
        peer.packet(icmp_packet(kind, icmp_code, 0, packet[:28]))
        assert state_of(sock) == TCP_ESTABLISHED
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) != 0


class TestHeaderFields:
    def test_time_to_live(self, peer: Peer) -> None:
        server = peer.listen(prepare=lambda sock: sock.setsockopt(std.IPPROTO_IP, std.IP_TTL, 33))
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        assert peer.expect(flags(SYN | ACK)).ttl == 33
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        sock.send(b"x")
        peer.settle()
        assert peer.expect(length(1)).ttl == 33
        sock.setsockopt(std.IPPROTO_IP, std.IP_TTL, 7)
        peer.send(ACK, 1, 2, b"y")
        assert peer.expect(flags(ACK)).ttl == 7

    def test_differentiated_services(self, peer: Peer) -> None:
        sock = peer.dial(lambda sock: sock.setsockopt(std.IPPROTO_IP, std.IP_TOS, 0xB8))
        peer.take()
        assert peer.last[1] == 0xB8
        peer.send(SYN, 0, 1, options=peer.syn_options())
        peer.take()
        assert peer.last[1] == 0xB8
        sock.setsockopt(std.IPPROTO_IP, std.IP_TOS, 0x28)
        sock.send(b"x")
        peer.settle()
        peer.take()
        assert peer.last[1] == 0x28

    @pytest.mark.parametrize("reflect", [0, 1])
    def test_differentiated_services_of_the_syn(self, reflect: int) -> None:
        with Peer(tcp_reflect_tos=reflect) as peer:
            server = peer.listen(prepare=lambda sock: sock.setsockopt(std.IPPROTO_IP, std.IP_TOS, 0x10))
            peer.local_port, peer.port = 80, 40000
            peer.packet(with_options(peer.segment(SYN, 0), b"", tos=0xB8))
            wanted = 0xB8 if reflect else 0x10
            peer.take()
            assert peer.last[1] == wanted
            peer.send(ACK, 1, 1)
            sock = peer.accept(server)
            assert sock.getsockopt(std.IPPROTO_IP, std.IP_TOS) == wanted
            sock.send(b"x")
            peer.settle()
            peer.take()
            assert peer.last[1] == wanted

    def test_received_time_to_live_and_services_are_told(self, peer: Peer) -> None:
        """IP_PKTOPTIONS, as for all that concerns a whole stream in Linux."""
        server = peer.listen(prepare=lambda sock: sock.setsockopt(std.IPPROTO_IP, std.IP_RECVTOS, 1))
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.sent()
        peer.packet(with_options(peer.segment(ACK, 1, 1), b"", tos=0x28))
        sock = peer.accept(server)
        told = sock.getsockopt(std.IPPROTO_IP, 9, 100)  # IP_PKTOPTIONS
        assert isinstance(told, bytes)
        assert 0x28 in told


class TestIpOptions:
    def test_those_that_mean_nothing_to_tcp_are_passed_over(self, peer: Peer) -> None:
        sock = peer.active()
        router_alert = b"\x94\x04\0\0"
        unknown = b"\x5e\x04\1\2"
        for number, options in enumerate((router_alert, unknown, b"\1\1\1\0")):
            peer.packet(with_options(peer.segment(ACK, 1 + number, 1, b"x"), options))
        assert sock.recv(9) == b"xxx"
        while peer.take() is not None:
            assert ip_options(peer.last) == b""

    def test_a_program_gives_a_source_route(self, peer: Peer) -> None:
        accept_source_routes(peer)
        route = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [HOP]))
        sock = peer.dial(lambda sock: sock.setsockopt(std.IPPROTO_IP, std.IP_OPTIONS, route))
        syn = peer.expect(flags(SYN))
        assert syn.daddr == HOP
        carried = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [REMOTE]))
        assert ip_options(peer.last) == carried
        # The peer's answer brings another route: the program's goes before it.
        answer = ipv4.build_source_route(ipv4.IPOPT_LSRR, [OTHER])
        answer = ipv4.pad_options(answer[:2] + bytes((8,)) + answer[3:])
        peer.packet(with_options(peer.segment(SYN, 0, 1, options=peer.syn_options()), answer))
        assert state_of(sock) == TCP_ESTABLISHED
        sock.send(b"x" * 3000)
        peer.settle()
        sizes = []
        while (found := peer.take()) is not None:
            assert (found.daddr, ip_options(peer.last)) == (HOP, carried)
            sizes.append(len(peer.last))
        assert max(sizes) == 1500  # the options have their room

    def test_options_set_later_make_segments_smaller(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setsockopt(std.IPPROTO_IP, std.IP_OPTIONS, b"\x94\x04\0\0" + b"\1\1\1\0")
        sock.send(b"x" * 3000)
        peer.settle()
        peer.expect(length(MSS - 8))
        assert len(peer.last) == 1500

    def test_the_way_a_syn_came_is_the_way_back(self, peer: Peer) -> None:
        accept_source_routes(peer)
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        # It came by HOP, then OTHER: both slots are used up.
        came = ipv4.build_source_route(ipv4.IPOPT_LSRR, [HOP, OTHER])
        came = ipv4.pad_options(came[:2] + bytes((12,)) + came[3:])
        peer.packet(with_options(peer.segment(SYN, 0, options=peer.syn_options()), came))
        back = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [HOP, REMOTE]))
        found = peer.expect(flags(SYN | ACK))
        assert (found.daddr, ip_options(peer.last)) == (OTHER, back)
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        sock.send(b"answer")
        peer.settle()
        found = peer.expect(payload(b"answer"))
        assert (found.daddr, ip_options(peer.last)) == (OTHER, back)
        given = ipv4.pad_options(ipv4.build_source_route(ipv4.IPOPT_LSRR, [OTHER, HOP]))
        assert sock.getsockopt(std.IPPROTO_IP, std.IP_OPTIONS, 40) == given

    @pytest.mark.parametrize("kind", ["record route", "timestamp"])
    def test_a_record_is_kept_both_ways(self, peer: Peer, kind: str) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        empty = bytes((7, 11, 4)) + bytes(8) if kind == "record route" else ipv4.build_timestamp(1, 1)
        options = ipv4.pad_options(empty)
        peer.packet(with_options(peer.segment(SYN, 0, options=peer.syn_options()), options))
        peer.expect(flags(SYN | ACK))
        assert LOCAL in ip_options(peer.last)
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        sock.send(b"x")
        peer.settle()
        peer.expect(length(1))
        assert LOCAL in ip_options(peer.last)
