"""Sending: segments, Nagle, windows, probes, retransmission, recovery, congestion control (output, recovery, rack)."""

from __future__ import annotations

import errno
import socket as std
from itertools import pairwise

import pytest

from tests.transport.tcp.harness import (
    SEC,
    Pair,
    Peer,
    code,
    flags,
    icmp_packet,
    left_over,
    length,
    payload,
    seq,
    sock_of,
    state_of,
    urgent,
)
from tests.transport.tcp.invariants import broken
from usernet.core.wait import EPOLLERR
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.const import TCP_CA_LOSS, TCP_CA_OPEN, TCP_CA_RECOVERY, TCP_CLOSE
from usernet.transport.tcp.output import packets_in_flight
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

MSS = 1460
MSG_EOR = 0x80


def sack(*blocks: tuple[int, int], peer: Peer) -> bytes:
    """A SACK option with relative blocks."""
    base = peer.their_iss or 0
    body = b"".join(
        ((low + base) & 0xFFFFFFFF).to_bytes(4, "big") + ((high + base) & 0xFFFFFFFF).to_bytes(4, "big")
        for low, high in blocks
    )
    return b"\1\1\5" + bytes((2 + len(body),)) + body


def sound(sock: UserSocket) -> None:
    assert broken(sock_of(sock)) == []


class TestSegments:
    def test_data_is_cut_at_the_peers_mss(self, peer: Peer) -> None:
        sock = peer.active(mss=1000)
        sock.send(b"x" * 2500)
        peer.settle()
        first, second, third = peer.sent()
        assert [len(segment.payload) for segment in (first, second, third)] == [1000, 1000, 500]
        assert third.flags & PSH

    def test_without_an_mss_option_536(self, peer: Peer) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN, 0, 1, options=b"")
        peer.sent()
        sock.send(b"x" * 536)
        peer.settle()
        peer.expect(length(536))
        assert sock.getsockopt(std.IPPROTO_TCP, std.TCP_MAXSEG) == 536

    def test_time_stamps_take_their_room(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        sock.send(b"x" * 3000)
        peer.settle()
        assert [len(segment.payload) for segment in peer.sent()] == [1448, 1448, 104]

    def test_maxseg_limits_both_ways(self, peer: Peer) -> None:
        sock = peer.dial(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_MAXSEG, 700))
        syn = peer.expect(flags(SYN))
        assert syn.options.mss == 700
        peer.send(SYN, 0, 1, options=peer.syn_options())
        peer.sent()
        sock.send(b"x" * 1400)
        peer.settle()
        assert [len(segment.payload) for segment in peer.sent()] == [700, 700]

    def test_super_segments_on_a_device_that_splits(self) -> None:
        peer = Peer(offload=True)
        sock = peer.active()
        sock.send(b"x" * (MSS * 10))
        peer.settle()
        found = peer.sent()
        assert sum(segment.segs for segment in found) == 10
        assert max(segment.segs for segment in found) > 1
        sound(sock)
        peer.end()

    def test_never_more_than_half_the_peers_largest_window(self, peer: Peer) -> None:
        sock = peer.active(win=2000)
        sock.send(b"x" * 3000)
        peer.settle()
        assert [len(segment.payload) for segment in peer.sent()] == [1000, 1000]

    def test_an_mss_below_the_least_is_raised(self, peer: Peer) -> None:
        sock = peer.active(mss=1)
        sock.send(b"x" * 100)
        peer.settle()
        assert peer.sent()[0].end - 1 == 48

    def test_out_of_band(self, peer: Peer) -> None:
        sock = peer.active()
        assert sock.send(b"abc", std.MSG_OOB) == 3
        peer.settle()
        peer.expect(flags(ACK | URG), urgent(3), payload(b"abc"))
        sock.send(b"d")
        peer.settle()
        # Announced until it is acknowledged, and no longer.
        peer.send(ACK, 1, 4)
        later = [segment for segment in peer.sent() if segment.seq >= 4]
        sock.send(b"e")
        peer.settle()
        assert not any(segment.flags & URG for segment in [*later, *peer.sent()])


class TestNagle:
    def test_a_small_segment_waits_for_the_one_under_way(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"a")
        sock.send(b"b")
        sock.send(b"c")
        peer.settle()
        peer.expect(payload(b"a"))
        peer.silent()
        peer.send(ACK, 1, 2)
        peer.expect(payload(b"bc"))

    def test_the_first_write_of_a_segment_is_referenced_and_the_others_are_gathered(self, peer: Peer) -> None:
        sock = peer.active()
        first, second = b"a" * 10, bytearray(b"b" * 10)
        sock.send(first)
        sock.send(second)
        second[:] = b"!" * 10
        sock.send(b"c")
        sock.send(b"d")
        peer.settle()
        peer.expect(payload(first))
        queue = sock_of(sock).write_queue
        assert queue.first is not None
        assert [bytes(frag) for frag in queue.first.frags or ()] == [b"b" * 10, b"cd"]
        sent = sock_of(sock).rtx_queue.first
        assert sent is not None
        assert sent.frags == [first]
        assert (sent.frags or [b""])[0] is first
        peer.send(ACK, 1, 11)
        peer.expect(payload(b"b" * 10 + b"cd"))

    def test_a_small_rest_behind_full_segments_goes_at_once(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (MSS + 1))
        peer.settle()
        assert [len(segment.payload) for segment in peer.sent()] == [MSS, 1]

    def test_a_full_segment_with_time_stamps_does_not_wait(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        sock.send(b"a")
        sock.send(b"x" * 1448)
        peer.settle()
        assert [len(segment.payload) for segment in peer.sent()][:2] == [1, 1448]

    def test_nodelay(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1))
        for byte in (b"a", b"b", b"c"):
            sock.send(byte)
        peer.settle()
        assert [segment.payload for segment in peer.sent()] == [b"a", b"b", b"c"]

    def test_nodelay_sends_what_was_held_back(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"a")
        sock.send(b"b")
        peer.settle()
        peer.expect(payload(b"a"))
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
        peer.settle()
        peer.expect(payload(b"b"))

    def test_cork(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 1))
        sock.send(b"x" * 100)
        sock.send(b"y" * (MSS - 50))
        peer.settle()
        peer.expect(length(MSS))
        peer.silent()
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 0)
        peer.settle()
        peer.expect(length(50))

    def test_what_is_corked_goes_after_200_ms(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 1))
        sock.send(b"x")
        peer.silent()
        peer.expect_after(0.2, length(1))

    def test_more(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"ab", std.MSG_MORE)
        peer.silent()
        sock.send(b"cd")
        peer.settle()
        peer.expect(payload(b"abcd"))

    def test_a_fin_is_not_held_back(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"a")
        sock.send(b"b")
        sock.close()
        peer.settle()
        assert [(segment.payload, bool(segment.flags & FIN)) for segment in peer.sent()] == [
            (b"a", False), (b"b", True)
        ]  # fmt: skip


class TestWindow:
    def test_no_more_than_the_peer_takes(self, peer: Peer) -> None:
        sock = peer.active(win=4 * MSS)
        sock.send(b"x" * (10 * MSS))
        peer.settle()
        assert peer.sent()[-1].end == 1 + 4 * MSS
        peer.send(ACK, 1, 1 + 4 * MSS, win=MSS)
        assert peer.sent()[-1].end == 1 + 5 * MSS

    def test_scaling(self, peer: Peer) -> None:
        sock = peer.active(wscale=7, win=1000)
        assert sock_of(sock).snd_wnd == 1000  # a SYN's is never scaled
        peer.send(ACK, 1, 1, win=1000)
        assert sock_of(sock).snd_wnd == 128_000

    def test_a_scale_above_14_counts_as_14(self, peer: Peer) -> None:
        sock = peer.active(wscale=200)
        assert sock_of(sock).snd_wscale == 14

    def test_no_scaling_where_the_peer_does_not(self, peer: Peer) -> None:
        sock = peer.active()
        assert (sock_of(sock).snd_wscale, sock_of(sock).rcv_wscale) == (0, 0)

    def test_an_old_segment_does_not_change_it(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 11, 1, b"x", win=5000)
        assert sock_of(sock).snd_wnd == 5000
        peer.send(ACK, 1, 1, b"y" * 10, win=3000)
        assert sock_of(sock).snd_wnd == 5000

    def test_a_silly_window_is_not_filled(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (2 * MSS))
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 1 + 2 * MSS, win=100)
        sock.send(b"y" * 2000)
        peer.silent()

    def test_a_zero_window_is_probed_ever_more_rarely(self, peer: Peer) -> None:
        sock = peer.active(win=2 * MSS)
        peer.send(ACK, 1, 1, win=MSS)
        sock.send(b"x" * MSS)
        peer.settle()
        peer.sent()
        sock.send(b"y" * MSS)
        peer.send(ACK, 1, 1 + MSS, win=0)
        peer.silent()
        rto = sock_of(sock).rto / SEC
        waited = rto
        for _ in range(6):
            peer.expect_after(waited, seq(MSS), length(0))
            peer.send(ACK, 1, 1 + MSS, win=0)
            waited = min(waited * 2, 120)
        assert peer.mib.tcp_ext.TCPWinProbe >= 6
        peer.send(ACK, 1, 1 + MSS, win=65535)
        peer.expect(length(MSS), seq(1 + MSS))
        sound(sock)

    def test_a_zero_window_that_is_answered_lasts_for_ever(self, peer: Peer) -> None:
        sock = peer.active(win=0)
        sock.send(b"x")
        for _ in range(40):
            peer.run(130.0)
            peer.sent()
            peer.send(ACK, 1, 1, win=0)
        assert state_of(sock) != TCP_CLOSE
        peer.send(ACK, 1, 1, win=100)
        peer.expect(payload(b"x"))

    def test_probes_that_nobody_answers_end_the_connection(self, peer: Peer) -> None:
        sock = peer.active(win=0)
        sock.send(b"x")
        peer.run(3000.0)
        assert code(sock.send, b"x") == errno.ETIMEDOUT
        assert len(peer.sent()) == 15

    def test_user_timeout_of_probes(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_USER_TIMEOUT, 5000), win=0)
        sock.send(b"x")
        peer.run(4.5)
        assert state_of(sock) != TCP_CLOSE
        peer.run(2.0)
        assert state_of(sock) == TCP_CLOSE

    def test_a_window_that_shrinks_below_what_was_sent(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (4 * MSS))
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 1 + MSS, win=MSS)
        peer.run(1.0)
        for segment in peer.sent():
            assert segment.end <= 1 + 4 * MSS
        sound(sock)
        peer.send(ACK, 1, 1 + 4 * MSS)
        sound(sock)

    def test_the_send_buffer_pushes_back(self, peer: Peer) -> None:
        sock = peer.active(win=0)
        total = 0
        with pytest.raises(BlockingIOError):
            while True:
                total += sock.send(bytes(100_000))
        assert total < 1_000_000
        sound(sock)


class TestRetransmission:
    def test_backs_off_and_gives_up(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        peer.sent()
        times = []
        while state_of(sock) != TCP_CLOSE:
            peer.run(1.0)
            times += [segment.at for segment in peer.sent()]
        start = times[0]
        gaps = [round((after - before) / SEC, 1) for before, after in pairwise(times)]
        assert gaps == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, *[120.0] * 6]
        assert round((start - SEC) / SEC, 1) == 0.2
        assert code(sock.recv, 1) == errno.ETIMEDOUT
        assert peer.mib.tcp_ext.TCPTimeouts == 17

    def test_user_timeout(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_USER_TIMEOUT, 3000))
        sock.send(b"x")
        peer.run(2.9)
        assert state_of(sock) != TCP_CLOSE
        peer.run(0.4)
        assert code(sock.send, b"x") == errno.ETIMEDOUT

    def test_the_error_is_the_networks_where_it_told(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        packet = peer.nic.sent[-1][0]
        peer.sent()
        peer.packet(icmp_packet(3, 1, 0, packet[:28]))
        assert state_of(sock) != TCP_CLOSE
        peer.run(2000.0)
        assert code(sock.send, b"x") == errno.EHOSTUNREACH

    def test_the_least_time_out_by_the_sysctl(self) -> None:
        peer = Peer(tcp_rto_min_us=50_000)
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        peer.sent()
        peer.expect_after(0.05, seq(1), length(1))
        peer.end()

    def test_rto_follows_the_round_trip(self, peer: Peer) -> None:
        sock = peer.active()
        assert sock_of(sock).rto == 200_000_000
        sock.send(b"x" * 1000)
        peer.run(0.1)
        peer.send(ACK, 1, 1001)
        # RFC 6298 with Linux's gains: srtt 12.5 ms, deviation at least 200 ms.
        assert sock_of(sock).srtt_us >> 3 == 12_500
        assert sock_of(sock).rto == (12_500 + 200_000) * 1000

    def test_rto_max(self) -> None:
        peer = Peer(tcp_rto_max_ms=1000)
        sock = peer.active()
        sock.send(b"x")
        peer.run(10.0)
        times = [segment.at for segment in peer.sent()]
        gaps = [round((after - before) / SEC, 1) for before, after in pairwise(times)]
        assert set(gaps[3:]) == {1.0}
        peer.end()

    def test_the_syn_plus_ack_is_sent_again(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.run(200.0)
        times = [round(segment.at / SEC) - 1 for segment in peer.sent()]
        assert times == [0, 1, 3, 7, 15, 31]
        assert sock_of(server).request_queue.syn_queue == 0

    def test_a_lost_handshake_means_a_longer_first_time_out(self, peer: Peer) -> None:
        peer.dial()
        peer.expect(flags(SYN))
        peer.run(1.5)
        peer.sent()
        peer.send(SYN, 0, 1, options=peer.syn_options())
        assert peer.sock is not None
        assert sock_of(peer.sock).rto == 3 * SEC

    def test_small_segments_are_joined(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1))
        for byte in (b"a", b"b", b"c"):
            sock.send(byte)
        peer.settle()
        peer.sent()
        peer.run(0.25)
        peer.expect(payload(b"abc"))
        sound(sock)

    def test_data_already_acknowledged_in_part(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"0123456789")
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 5)
        sound(sock)
        peer.run(0.5)
        peer.expect(seq(5), payload(b"456789"))
        sound(sock)


class TestRecovery:
    def test_three_duplicates(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (10 * MSS))
        peer.settle()
        assert len(peer.sent()) == 10
        peer.send(ACK, 1, 1)  # the first with data's sequence number tells the window, and is no duplicate
        for _ in range(2):
            peer.send(ACK, 1, 1)
            peer.silent()
        peer.send(ACK, 1, 1)
        peer.expect(seq(1), length(MSS))
        assert sock_of(sock).ca_state == TCP_CA_RECOVERY
        sound(sock)
        # A partial acknowledgement shows the next hole (RFC 6582).
        peer.send(ACK, 1, 1 + 5 * MSS)
        peer.expect(seq(1 + 5 * MSS), length(MSS))
        peer.send(ACK, 1, 1 + 10 * MSS)
        sound(sock)
        assert peer.mib.tcp_ext.TCPRenoRecovery == 1

    def test_sack(self, peer: Peer) -> None:
        sock = peer.active(sack=True, rtt=0.1)
        sock.send(b"x" * (10 * MSS))
        peer.settle()
        peer.sent()
        peer.run(0.1)
        # The second and the fifth are lost.
        for block in range(2, 5):
            blocks = [(1 + (block if block < 4 else 3) * MSS, 1 + (block + 1) * MSS)]
            blocks = [(1 + 2 * MSS, 1 + min(block + 1, 4) * MSS)] if block < 4 else [
                (1 + 5 * MSS, 1 + 6 * MSS), (1 + 2 * MSS, 1 + 4 * MSS)
            ]  # fmt: skip
            peer.send(ACK, 1, 1 + MSS, options=sack(*blocks, peer=peer))
            sound(sock)
        again = peer.sent()
        assert again[0].seq == 1 + MSS
        assert sock_of(sock).ca_state == TCP_CA_RECOVERY
        assert sock_of(sock).sacked_out == 3
        peer.send(ACK, 1, 1 + 10 * MSS)
        sound(sock)
        assert sock_of(sock).ca_state == TCP_CA_OPEN
        assert sock_of(sock).snd_cwnd == sock_of(sock).snd_ssthresh == 8  # 0.7 of the twelve it had grown to

    @pytest.mark.parametrize(
        "blocks",
        [[(5, 5)], [(1 << 30, (1 << 30) + 5)], [(900, 400)], [(0, 1)], [(1, 0x80000000)], [(3000, 100_000)]],
    )
    def test_sack_blocks_that_can_not_be_true(self, peer: Peer, blocks: list[tuple[int, int]]) -> None:
        sock = peer.active(sack=True)
        sock.send(b"x" * (4 * MSS))
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 1, options=sack(*blocks, peer=peer))
        assert sock_of(sock).sacked_out == 0
        sound(sock)
        peer.send(ACK, 1, 1 + 4 * MSS)
        sound(sock)

    def test_a_peer_that_takes_back_what_it_had(self, peer: Peer) -> None:
        sock = peer.active(sack=True)
        sock.send(b"x" * (6 * MSS))
        peer.settle()
        peer.sent()
        peer.send(ACK, 1, 1, options=sack((1 + MSS, 1 + 6 * MSS), peer=peer))
        sound(sock)
        peer.sent()
        peer.send(ACK, 1, 1 + MSS)
        peer.run(1.0)
        assert peer.mib.tcp_ext.TCPSACKReneging == 1
        assert sock_of(sock).sacked_out == 0
        sound(sock)
        assert any(segment.seq == 1 + MSS for segment in peer.sent())
        peer.send(ACK, 1, 1 + 6 * MSS)
        sound(sock)

    def test_a_time_out_starts_at_one_segment(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (8 * MSS))
        peer.settle()
        peer.sent()
        peer.run(0.25)
        peer.expect(seq(1), length(MSS))
        peer.silent()
        sk = sock_of(sock)
        assert (sk.ca_state, sk.snd_cwnd, sk.lost_out) == (TCP_CA_LOSS, 1, 8)
        sound(sock)
        peer.send(ACK, 1, 1 + MSS)
        assert len(peer.sent()) <= 3
        sound(sock)

    def test_a_loss_probe(self, peer: Peer) -> None:
        sock = peer.active(sack=True, rtt=0.1)
        sock.send(b"x" * MSS)
        peer.run(0.1)
        peer.send(ACK, 1, 1 + MSS)
        peer.sent()
        sock.send(b"y" * (3 * MSS))
        peer.settle()
        assert len(peer.sent()) == 3
        probe = peer.expect_after(0.202)  # two round trips and 2 ms
        assert (probe.seq, len(probe.payload)) == (1 + 3 * MSS, MSS)
        assert peer.mib.tcp_ext.TCPLossProbes == 1
        sound(sock)
        # The tail was lost: the probe's SACK shows it.
        peer.run(0.1)
        peer.send(ACK, 1, 1 + 2 * MSS, options=sack((1 + 3 * MSS, 1 + 4 * MSS), peer=peer))
        peer.run(0.15)
        assert any(segment.seq == 1 + 2 * MSS for segment in peer.sent())
        sound(sock)

    def test_a_time_out_that_was_needless_is_undone(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        sock.send(b"x" * (4 * 1448))
        peer.settle()
        original = peer.tsecr
        for segment in peer.sent():
            original = segment.options.tsval
        peer.run(0.25)
        assert sock_of(sock).ca_state == TCP_CA_LOSS
        peer.sent()
        peer.tsecr = original
        peer.send(ACK, 1, 1 + 4 * 1448)
        assert sock_of(sock).snd_cwnd >= 10
        assert peer.mib.tcp_ext.TCPLossUndo + peer.mib.tcp_ext.TCPFullUndo >= 1
        sound(sock)

    def test_what_was_sent_before_a_retransmission_in_one_batch_does_not_prove_it_lost(self, peer: Peer) -> None:
        sock = peer.active(sack=True, rtt=0.1)
        sock.send(b"x" * 20 * MSS)
        peer.sent()
        peer.run(0.1)
        # One instant: a first report sends new data (limited transmit), the next has the first segment sent again.
        peer.send(ACK, 1, 1, options=sack((1 + MSS, 1 + 2 * MSS), peer=peer))
        peer.expect(seq(1 + 10 * MSS), length(MSS))
        peer.send(ACK, 1, 1, options=sack((1 + MSS, 1 + 4 * MSS), peer=peer))
        peer.expect(seq(1), length(MSS))
        peer.sent()
        # A round trip later: the new data arrives in the order it was sent, so before the retransmission.
        peer.run(0.1)
        peer.send(ACK, 1, 1, options=sack((1 + MSS, 1 + 11 * MSS), peer=peer))
        assert peer.stack.mib["TcpExt"]["TCPLostRetransmit"] == 0
        assert all(segment.seq != 1 for segment in peer.sent())
        sound(sock)

    def test_a_dsack_undoes_a_needless_retransmission(self, peer: Peer) -> None:
        sock = peer.active(sack=True, rtt=0.1)
        sock.send(b"x" * (10 * MSS))
        peer.settle()
        peer.sent()
        peer.run(0.1)
        peer.send(ACK, 1, 1, options=sack((1 + MSS, 1 + 4 * MSS), peer=peer))
        peer.run(0.001)
        assert [segment.seq for segment in peer.sent()][:1] == [1]
        reduced = sock_of(sock).snd_ssthresh
        peer.send(ACK, 1, 1 + 10 * MSS)
        peer.send(ACK, 1, 1 + 10 * MSS, options=sack((1, 1 + MSS), peer=peer))
        sound(sock)
        assert reduced == 7
        assert peer.mib.tcp_ext.TCPDSACKRecv == 1

    def test_reordering_is_learned(self, peer: Peer) -> None:
        sock = peer.active(sack=True, rtt=0.1)
        for turn in range(3):
            start = 1 + turn * 10 * MSS
            sock.send(b"x" * (10 * MSS))
            peer.run(0.1)
            peer.sent()
            peer.send(ACK, 1, start, options=sack((start + MSS, start + 2 * MSS), peer=peer))
            peer.send(ACK, 1, start + 10 * MSS)
            sound(sock)
        assert sock_of(sock).reord_seen >= 1
        assert peer.mib.tcp_ext.TCPSACKReorder >= 1


class TestCongestion:
    def test_the_initial_window(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (30 * MSS))
        peer.settle()
        assert sum(segment.segs for segment in peer.sent()) == 10

    def test_slow_start_doubles(self) -> None:
        pair = Pair(delay=0.05)
        client, server = pair.connected()
        sk = sock_of(client)
        windows = []
        for _ in range(4):
            with pytest.raises(BlockingIOError):
                while True:
                    client.send(bytes(65536))
            pair.run(0.1)
            windows.append(sk.snd_cwnd)
            with pytest.raises(BlockingIOError):
                while True:
                    server.recv(1 << 20)
        assert windows[0] == 20
        assert 35 <= windows[1] <= 40
        pair.end()

    def test_reno_adds_one_a_round_trip(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_CONGESTION, b"reno"))
        sk = sock_of(sock)
        sk.snd_ssthresh = 10
        sent = 0
        for expected in (10, 11, 12):
            sock.send(b"x" * (expected * MSS))
            peer.settle()
            peer.sent()
            assert sk.snd_cwnd == expected
            for _ in range(expected):
                sent += MSS
                peer.send(ACK, 1, 1 + sent)
        assert sk.snd_cwnd == 13

    def test_cubic_reduces_by_three_tenths_and_climbs_back(self) -> None:
        pair = Pair(delay=0.02, rate=10e6, limit=60)
        client, server = pair.connected()
        sk = sock_of(client)
        seen = []

        def step() -> bool:
            try:
                while True:
                    client.send(bytes(65536))
            except BlockingIOError:
                pass
            try:
                while server.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
            seen.append(sk.snd_cwnd)
            return False

        pair.run(20.0, step)
        assert pair.left.mib.tcp_ext.TCPSackRecovery >= 1
        # 10 Mbit/s for 20 s: at least 85 % of it.
        assert sk.bytes_acked > 0.85 * 10e6 / 8 * 20
        pair.end()

    def test_the_window_restarts_after_idleness(self, peer: Peer) -> None:
        sock = peer.active()
        sk = sock_of(sock)
        sent = 0
        for _ in range(3):
            count = sk.snd_cwnd
            sock.send(b"x" * (count * MSS))
            peer.settle()
            peer.sent()
            for _ in range(count):
                sent += MSS
                peer.send(ACK, 1, 1 + sent)
        assert sk.snd_cwnd == 80
        peer.run(60.0)
        sock.send(b"x")
        peer.settle()
        assert sk.snd_cwnd == 10

    def test_an_unknown_name(self, peer: Peer) -> None:
        assert code(peer.socket().setsockopt, std.IPPROTO_TCP, std.TCP_CONGESTION, b"nosuch") == errno.ENOENT


class TestPathMtu:
    def test_needed_fragmentation_makes_segments_smaller(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * (3 * MSS))
        peer.settle()
        packet = peer.nic.sent[0][0]
        peer.sent()
        peer.packet(icmp_packet(3, 4, 1000, packet[:28]))
        again = peer.sent()
        assert again
        assert again[0].seq == 1
        assert max(len(segment.payload) for segment in again) == 960
        sound(sock)
        peer.send(ACK, 1, 1 + 3 * MSS)
        sound(sock)
        sock.send(b"y" * 2000)
        peer.settle()
        assert len(peer.sent()[0].payload) == 960

    def test_about_what_was_never_sent_is_ignored(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * MSS)
        peer.settle()
        packet = bytearray(peer.nic.sent[0][0][:28])
        peer.sent()
        packet[24] ^= 0x40
        peer.packet(icmp_packet(3, 4, 600, bytes(packet)))
        assert sock_of(sock).mss_cache == MSS

    def test_an_error_reaches_an_established_socket_only_where_it_asked(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x")
        peer.settle()
        packet = peer.nic.sent[0][0]
        peer.sent()
        peer.packet(icmp_packet(3, 3, 0, packet[:28]))
        assert sock_of(sock).poll() & EPOLLERR == 0
        assert sock.send(b"y") == 1
        # SO_ERROR tells of it nevertheless.
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == errno.ECONNREFUSED
        sock.setsockopt(std.IPPROTO_IP, 11, 1)  # IP_RECVERR
        peer.packet(icmp_packet(3, 3, 0, packet[:28]))
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == errno.ECONNREFUSED
        assert state_of(sock) == 1


class TestKeepalive:
    def options(self, sock: UserSocket) -> None:
        sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_KEEPIDLE, 10)
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_KEEPINTVL, 3)
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_KEEPCNT, 2)

    def test_an_idle_peer_is_asked(self, peer: Peer) -> None:
        sock = peer.active(self.options)
        for _ in range(3):
            peer.expect_after(10.0, flags(ACK), seq(0), length(0))
            peer.send(ACK, 1, 1)
        assert state_of(sock) == 1

    def test_a_dead_peer_is_given_up(self, peer: Peer) -> None:
        sock = peer.active(self.options)
        peer.expect_after(10.0, seq(0))
        peer.expect_after(3.0, seq(0))
        peer.expect_after(3.0, flags(RST | ACK))
        assert code(sock.recv, 1) == errno.ETIMEDOUT

    def test_switched_on_and_off_later(self, peer: Peer) -> None:
        sock = peer.active()
        self.options(sock)
        sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 0)
        peer.run(100.0)
        peer.silent()

    def test_by_the_sysctls(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1))
        assert sock.getsockopt(std.IPPROTO_TCP, std.TCP_KEEPIDLE) == 7200
        peer.expect_after(7200.0, seq(0))


class TestNothingStays:
    def test_after_a_transfer_nothing_is_under_way(self, pair: Pair) -> None:
        client, server = pair.connected()
        client.send(b"x" * 50_000)
        pair.run(2.0)
        received = 0
        while received < 50_000:
            received += len(server.recv(65536))
        sk = sock_of(client)
        assert (sk.packets_out, sk.wmem_queued, sk.wmem_alloc, packets_in_flight(sk)) == (0, 0, 0, 0)
        assert sock_of(server).rmem_alloc == 0
        assert not sk.retransmit_timer.pending

    def test_a_stack_is_closed_in_the_middle(self) -> None:
        pair = Pair(delay=0.01)
        client, server = pair.connected()
        client.send(bytes(10_000))
        pair.run(0.005)
        pair.left.close()
        pair.right.close()
        client.close()
        server.close()
        assert left_over(pair.left) == left_over(pair.right) == []


class TestLargeSuperSegments:
    """A device that takes more than 64 KiB at once."""

    @staticmethod
    def bulk(peer: Peer) -> tuple[UserSocket, int]:
        """A connection whose windows have grown, with nothing under way; and how much it has sent."""
        sock = peer.active(wscale=14, ts=True, sack=True)
        peer.stack.devices["tun0"].set_gso_max_size(262_144)
        total = 0
        while sock_of(sock).snd_cwnd < 1000:
            total += sock.send(bytes(2_000_000))
            peer.settle()
            while sent := peer.sent():
                peer.send(ACK, 1, sent[-1].seq + len(sent[-1].payload))
                peer.settle()
        return sock, total

    def test_one_is_as_large_as_the_device_takes(self) -> None:
        with Peer(offload=True) as peer:
            sock, _ = self.bulk(peer)
            sock.send(bytes(600_000))
            peer.settle()
            assert [len(segment.payload) for segment in peer.sent()][:2] == [180 * 1448] * 2

    def test_one_that_is_not_full_waits_for_more_while_another_is_under_way(self) -> None:
        with Peer(offload=True) as peer:
            sock, total = self.bulk(peer)
            total += sock.send(bytes(180 * 1448))
            peer.settle()
            assert len(peer.sent()) == 1
            sock.send(bytes(100_000))
            peer.settle()
            assert peer.sent() == []
            sock.send(bytes(180 * 1448 - 100_000))
            peer.settle()
            assert [len(segment.payload) for segment in peer.sent()] == [180 * 1448]
            sock.send(bytes(50_000))
            peer.settle()
            assert peer.sent() == []
            peer.send(ACK, 1, 1 + total)
            peer.settle()
            assert sum(len(segment.payload) for segment in peer.sent()) == 50_000

    @pytest.mark.parametrize("at_once", ["nodelay", "autocorking", "eor"])
    def test_it_does_not_where_it_is_not_to(self, at_once: str) -> None:
        with Peer(offload=True) as peer:
            sock, _ = self.bulk(peer)
            if at_once == "nodelay":
                sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
            elif at_once == "autocorking":
                peer.stack.sysctl["net.ipv4.tcp_autocorking"] = 0
            sock.send(bytes(180 * 1448))
            sock.send(bytes(100_000), MSG_EOR if at_once == "eor" else 0)
            peer.settle()
            assert sum(len(segment.payload) for segment in peer.sent()) >= 180 * 1448 + 69 * 1448
