"""Handshakes of which nothing is remembered (syncookies.py), and what a listener does when its queues are full."""

from __future__ import annotations

import socket as std

import pytest

from tests.transport.tcp.harness import LOCAL, REMOTE, SEC, Peer, Segment, ack, flags, ip_packet, seq, sock_of
from usernet.net.dst import Dst
from usernet.sockets.user import UserSocket
from usernet.transport.tcp import syncookies
from usernet.transport.tcp.const import TCP_ESTABLISHED
from usernet.wire import checksum
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, PSH, RST, SYN


def answer_to(peer: Peer, port: int, **options: int | bool) -> Segment:
    """The SYN+ACK for a SYN from `port`."""
    peer.local_port, peer.port = 80, port
    peer.send(SYN, options=peer.syn_options(**options))  # type: ignore[arg-type]
    return peer.expect(flags(SYN | ACK), ack(1))


class TestCookies:
    @pytest.mark.parametrize(
        ("offered", "kept"), [(0, 536), (48, 536), (1299, 536), (1300, 1300), (1459, 1440), (1460, 1460), (9000, 1460)]
    )
    def test_the_mss_is_one_of_four(self, offered: int, kept: int) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen()
            answer_to(peer, 1000, mss=offered)
            assert peer.tcp.table == {}
            assert sock_of(server).request_queue.syn_queue == 0
            peer.send(ACK, 1, 1)
            assert sock_of(peer.accept(server)).mss_clamp == kept

    @pytest.mark.parametrize("sack", [False, True])
    @pytest.mark.parametrize("wscale", [-1, 0, 7, 14])
    def test_time_stamps_keep_the_options(self, sack: bool, wscale: int) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen()
            peer.run(12.345)
            answer_to(peer, 1000, sack=sack, wscale=wscale, ts=True)
            peer.ts = True
            peer.run(0.5)
            peer.send(ACK, 1, 1)
            sk = sock_of(peer.accept(server))
            assert (sk.sack_ok, sk.wscale_ok, sk.snd_wscale) == (sack, wscale >= 0, max(wscale, 0))
            assert sk.tstamp_ok
            assert sk.ts_recent == peer.tsval
            # The connection works, with time stamps that do not go back.
            echoed = peer.tsecr
            peer.send(ACK | PSH, 1, 1, b"hello")
            assert (peer.expect(flags(ACK), ack(6)).options.tsval - echoed) & 0xFFFFFFFF < 1000

    def test_ecn_is_kept_with_time_stamps_alone(self) -> None:
        with Peer(tcp_syncookies=2, tcp_ecn=1) as peer:
            server = peer.listen()
            for port, ts in ((1000, True), (1001, False)):
                peer.ts = False
                peer.local_port, peer.port = 80, port
                peer.send(SYN | 0xC0, options=peer.syn_options(ts=ts))
                assert bool(peer.expect(flags(SYN | ACK)).flags & 0x40) == ts
                peer.ts = ts
                peer.send(ACK, 1, 1)
                assert bool(sock_of(peer.accept(server)).ecn_flags & 1) == ts

    def test_the_echoed_options_must_be_allowed(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            peer.listen()
            answer_to(peer, 1000, sack=True, ts=True)
            peer.ts = True
            peer.stack.sysctl["net.ipv4.tcp_sack"] = 0
            peer.send(ACK, 1, 1)
            peer.expect(flags(RST), seq(1))

    def test_the_stamp_never_lies_ahead(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            peer.listen()
            for port in range(1000, 1080):
                peer.run(0.001)
                stamp = answer_to(peer, port, sack=True, wscale=7, ts=True).options.tsval
                offset = peer.tcp.secure_ts_offset(b"\x0a\0\0\1", b"\x0a\0\0\2")
                behind = peer.clock.now() // 1_000_000 - ((stamp - offset) & 0xFFFFFFFF)
                assert 0 <= behind < 64

    @pytest.mark.parametrize(("minutes", "valid"), [(0.5, True), (1, True), (1.99, False)])
    def test_a_cookie_lives_for_two_of_the_minute_counters_minutes(self, minutes: float, valid: bool) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen()
            peer.run(9.9)  # the clock stands at 10.9 s: the minute's end is 49.1 s off
            answer_to(peer, 1000)
            peer.run(60 * minutes)
            peer.send(ACK, 1, 1)
            assert bool(sock_of(server).request_queue.accept_queue) == valid
            assert peer.mib.tcp_ext.SyncookiesFailed == (not valid)
            if not valid:
                peer.expect(flags(RST), seq(1))

    def test_a_cookie_counts_while_the_queue_was_full_lately(self) -> None:
        with Peer() as peer:
            server = peer.listen(backlog=1)
            for port in (1000, 1001):
                answer_to(peer, port)
            answer = answer_to(peer, 1002)
            ext = peer.mib.tcp_ext
            assert (ext.SyncookiesSent, ext.TCPReqQFullDoCookies) == (1, 1)
            assert sock_of(server).request_queue.syn_queue == 2
            assert len(peer.tcp.table) == 2
            peer.send(ACK, 1, 1)
            assert ext.SyncookiesRecv == 1
            assert sock_of(peer.accept(server)).state == TCP_ESTABLISHED
            # Two minutes later it isn't looked at.
            peer.port = 1003
            peer.run(121)
            peer.their_iss = answer.raw_seq
            peer.sent()
            peer.send(ACK, 1, 1)
            peer.expect(flags(RST))
            assert (ext.SyncookiesRecv, ext.SyncookiesFailed) == (1, 0)

    def test_without_an_attack_no_guess_is_looked_at(self, peer: Peer) -> None:
        peer.listen()
        peer.local_port, peer.their_iss = 80, 12345
        for guess in range(50):
            peer.send(ACK, 1, guess)
            peer.expect(flags(RST))
        assert peer.mib.tcp_ext.SyncookiesFailed == 0

    def test_a_cookie_is_for_its_four_numbers(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen()
            answer_to(peer, 1000)
            peer.port = 1001
            peer.send(ACK, 1, 1)
            peer.expect(flags(RST))
            assert not sock_of(server).request_queue.accept_queue

    def test_guessing(self) -> None:
        """Of 3,000 guesses near the truth only the four that say an MSS are taken."""
        with Peer(tcp_syncookies=2) as peer:
            peer.listen()
            answer_to(peer, 1000)
            truth = peer.their_iss
            assert truth is not None
            key = b"\x0a\0\0\2\x0a\0\0\1" + (1000).to_bytes(2, "big") + (80).to_bytes(2, "big")
            found = [
                syncookies.check_sequence(peer.tcp, key, (truth + wrong) & 0xFFFFFFFF, peer.iss)
                for wrong in range(-1500, 1500)
            ]
            assert sorted(mss for mss in found if mss) == [536, 1300, 1440, 1460]

    def test_a_full_accept_queue_drops_syns_all_the_same(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen(backlog=0)
            answer_to(peer, 1000)
            second = answer_to(peer, 1001)
            peer.port = 1000
            peer.send(ACK, 1, 1)
            peer.expect(flags(RST))  # 1000's number is another
            peer.port, peer.their_iss = 1001, second.raw_seq
            peer.send(ACK, 1, 1)
            assert len(sock_of(server).request_queue.accept_queue or ()) == 1
            peer.port = 1002
            peer.send(SYN, options=peer.syn_options())
            peer.silent()
            assert peer.mib.tcp_ext.ListenOverflows == 1

    def test_an_acknowledgement_that_finds_the_accept_queue_full_is_dropped(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen(backlog=0)
            answers = {port: answer_to(peer, port).raw_seq for port in (1000, 1001)}
            for port, number in answers.items():
                peer.port, peer.their_iss = port, number
                peer.send(ACK, 1, 1)
            peer.silent()
            assert peer.mib.tcp_ext.ListenOverflows == 1
            # It tries again with its data.
            peer.accept(server)
            peer.send(ACK | PSH, 1, 1, b"x")
            assert peer.accept(server).recv(10) == b"x"

    def test_a_syn_in_time_wait_needs_no_cookie(self) -> None:
        with Peer(tcp_syncookies=2) as peer:
            server = peer.listen()
            answer_to(peer, 1000)
            peer.send(ACK, 1, 1)
            sock = peer.accept(server)
            sock.close()
            peer.settle()
            peer.sent()
            peer.send(ACK | 1, 1, 2)
            peer.sent()
            peer.send(SYN, 100_000, options=peer.syn_options())
            peer.expect(flags(SYN | ACK))
            assert sock_of(server).request_queue.syn_queue == 1


class TestQueue:
    def test_without_cookies_the_last_quarter_is_for_those_known(self) -> None:
        with Peer(tcp_syncookies=0, tcp_max_syn_backlog=16) as peer:
            server = peer.listen(backlog=100)
            peer.local_port = 80
            for port in range(1000, 1020):
                peer.send(SYN, sport=port, options=peer.syn_options())
            assert sock_of(server).request_queue.syn_queue == 13
            assert peer.mib.tcp_ext.ListenDrops == 7
            peer.tcp.metrics.make(LOCAL, REMOTE, Dst(None, REMOTE, LOCAL, None), peer.clock.now()).rtt = 8000
            peer.send(SYN, sport=1020, options=peer.syn_options())
            assert sock_of(server).request_queue.syn_queue == 14

    def test_old_requests_make_room(self, peer: Peer) -> None:
        """While they are more than half of the backlog, those that have timed out go after two SYN+ACKs."""
        server = peer.listen(backlog=10)
        peer.local_port = 80
        for port in range(1000, 1008):
            peer.send(SYN, sport=port, options=peer.syn_options())
        assert len(peer.sent()) == 8
        peer.run(6.9)
        assert sock_of(server).request_queue.syn_queue == 8
        peer.run(0.2)
        assert sock_of(server).request_queue.syn_queue == 5
        assert len(peer.sent()) == 8 * 2 + 5

    @pytest.mark.parametrize(("retries", "seconds"), [(0, 1), (1, 3), (3, 15)])
    def test_synack_retries(self, retries: int, seconds: int) -> None:
        with Peer(tcp_synack_retries=retries) as peer:
            peer.listen()
            answer_to(peer, 1000)
            peer.run(seconds - 0.001)
            assert len(peer.tcp.table) == 1
            peer.run(0.002)
            assert peer.tcp.table == {}
            assert len(peer.sent()) == retries

    def test_syncnt_and_rto_max_are_the_listeners(self, peer: Peer) -> None:
        def prepare(sock: UserSocket) -> None:
            sock.setsockopt(std.IPPROTO_TCP, 7, 4)
            sock.setsockopt(std.IPPROTO_TCP, 44, 2000)

        peer.listen(prepare=prepare)
        answer_to(peer, 1000)
        times = []
        while peer.tcp.table:
            peer.run(0.5)
            times += [segment.at / SEC for segment in peer.sent()]
        assert [round(after - before) for before, after in zip([1.0, *times], times, strict=False)] == [1, 2, 2, 2]

    def test_the_reset_of_a_wrong_syn(self, peer: Peer) -> None:
        """Another SYN within the window: the request ends (RFC 9293 section 3.10.7.4, fourth)."""
        server = peer.listen()
        answer_to(peer, 1000)
        peer.send(SYN, 5, options=peer.syn_options())
        peer.expect(flags(RST | ACK), ack(6))
        assert sock_of(server).request_queue.syn_queue == 0
        assert peer.mib.tcp_ext.EmbryonicRsts == 1
        assert peer.mib.tcp.AttemptFails == 1

    @pytest.mark.parametrize("reflect", [0, 1])
    def test_tos(self, reflect: int) -> None:
        with Peer(tcp_reflect_tos=reflect) as peer:
            server = peer.listen()
            peer.local_port, peer.port = 80, 1000
            packet = bytearray(_syn(peer))
            packet[1] = 0xB9
            _refresh(packet)
            peer.packet(bytes(packet))
            peer.expect(flags(SYN | ACK))
            assert peer.last[1] == (0xB8 if reflect else 0)
            peer.send(ACK, 1, 1)
            assert sock_of(peer.accept(server)).tos == (0xB8 if reflect else 0)


def _syn(peer: Peer) -> bytes:
    """A SYN from the peer's port to the stack's."""
    header = wire.build(peer.port, peer.local_port, peer.iss, 0, SYN, 65535, 0, 0, peer.syn_options())
    pseudo = checksum.pseudo_sum(REMOTE, LOCAL, 6, len(header))
    check = checksum.csum_fold(checksum.csum(header, 0, len(header), pseudo))
    return ip_packet(REMOTE, LOCAL, 6, header[:16] + check.to_bytes(2, "big") + header[18:])


def _refresh(packet: bytearray) -> None:
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum.csum_fold(checksum.csum(bytes(packet), 0, 20)).to_bytes(2, "big")


class TestSavedSyn:
    SAVE, SAVED = 27, 28

    @pytest.mark.parametrize("wanted", [1, 2])
    def test_given_once(self, peer: Peer, wanted: int) -> None:
        server = peer.listen()
        server.setsockopt(std.IPPROTO_TCP, self.SAVE, wanted)
        assert server.getsockopt(std.IPPROTO_TCP, self.SAVE) == wanted
        peer.local_port, peer.port = 80, 1000
        syn = _syn(peer)
        answer_to(peer, 1000)
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        with pytest.raises(OSError, match="room for 44 bytes"):
            sock.getsockopt(std.IPPROTO_TCP, self.SAVED, 43)
        assert sock.getsockopt(std.IPPROTO_TCP, self.SAVED, 500) == syn
        assert sock.getsockopt(std.IPPROTO_TCP, self.SAVED, 500) == b""

    def test_not_asked_for(self, peer: Peer) -> None:
        sock = peer.passive()
        assert sock.getsockopt(std.IPPROTO_TCP, self.SAVED, 500) == b""
        with pytest.raises(OSError, match="0 to 2"):
            sock.setsockopt(std.IPPROTO_TCP, self.SAVE, 3)


class TestMigration:
    def group(self, peer: Peer, count: int = 2) -> list[UserSocket]:
        return [
            peer.listen(backlog=64, prepare=lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEPORT, 1))
            for _ in range(count)
        ]

    @pytest.mark.parametrize("migrate", [0, 1])
    def test_closing_a_member(self, migrate: int) -> None:
        with Peer(tcp_migrate_req=migrate) as peer:
            first, second = self.group(peer)
            answers = {}
            for port in range(1000, 1020):
                answers[port] = answer_to(peer, port).raw_seq
                if port % 2:
                    peer.send(ACK, 1, 1)
            one, two = sock_of(first), sock_of(second)
            waiting, young = len(one.request_queue.accept_queue or ()), one.request_queue.syn_queue
            assert waiting
            assert young
            before = len(two.request_queue.accept_queue or ()), two.request_queue.syn_queue
            first.close()
            peer.settle()
            ext = peer.mib.tcp_ext
            if not migrate:
                assert (len(two.request_queue.accept_queue or ()), two.request_queue.syn_queue) == before
                assert len(peer.sent()) == waiting
                assert (ext.TCPMigrateReqSuccess, ext.TCPMigrateReqFailure) == (0, waiting + young)
                return
            assert (len(two.request_queue.accept_queue or ()), two.request_queue.syn_queue) == (10, 10)
            peer.silent()
            assert (ext.TCPMigrateReqSuccess, ext.TCPMigrateReqFailure) == (waiting + young, 0)
            for port in range(1000, 1020, 2):
                peer.port, peer.their_iss = port, answers[port]
                peer.send(ACK, 1, 1)
            ports = [peer.accept(second).getpeername()[1] for _ in range(20)]
            assert sorted(ports) == list(range(1000, 1020))

    def test_nobody_is_left(self) -> None:
        with Peer(tcp_migrate_req=1) as peer:
            (only,) = self.group(peer, 1)
            answer_to(peer, 1000)
            peer.send(ACK, 1, 1)
            only.close()
            peer.settle()
            peer.expect(flags(RST | ACK))
            assert peer.mib.tcp_ext.TCPMigrateReqFailure == 1

    def test_the_last_member_takes_the_place_of_one_that_goes(self, peer: Peer) -> None:
        first, second, third = self.group(peer, 3)
        first.close()
        assert peer.tcp.listeners[80] == [sock_of(third), sock_of(second)]
