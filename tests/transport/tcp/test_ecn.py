"""Which ECN two ends agree to (ecn.py), by hand-made handshakes: RFC 9768 tables 2 and 4, RFC 3168 section 6.1.1."""

from __future__ import annotations

import pytest

from tests.transport.tcp.harness import Peer, ack, flags, seq, sock_of
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.accecn import (
    INET_ECN_CE,
    INET_ECN_ECT_0,
    INET_ECN_ECT_1,
    INET_ECN_NOT_ECT,
    TCP_ACCECN_ACE_FAIL_RECV,
    TCP_ACCECN_ACE_FAIL_SEND,
    TCP_ACCECN_OPT_FAIL_RECV,
    TCPHDR_ACE,
    ace_flags,
)
from usernet.transport.tcp.ecn import TCP_ECN_MODE_ACCECN, TCP_ECN_MODE_ANY, TCP_ECN_MODE_RFC3168
from usernet.wire import checksum
from usernet.wire.tcp import ACK, AE, CWR, ECE, SYN

NONE, CLASSIC, ACCURATE = 0, TCP_ECN_MODE_RFC3168, TCP_ECN_MODE_ACCECN


def marked(packet: bytes, mark: int) -> bytes:
    """The packet with `mark` in its IP header."""
    header = bytearray(packet[:20])
    header[1] = mark
    header[10:12] = b"\0\0"
    header[10:12] = checksum.csum_fold(checksum.csum(bytes(header), 0, 20)).to_bytes(2, "big")
    return bytes(header) + packet[20:]


def mark_of(peer: Peer) -> int:
    """The mark of the packet that was taken last."""
    return peer.last[1] & 3


def mode(sock: UserSocket) -> int:
    return sock_of(sock).ecn_flags & TCP_ECN_MODE_ANY


def ask(peer: Peer, what: int, mark: int = INET_ECN_NOT_ECT) -> int:
    """The flags that a SYN with the flags `what` is answered with."""
    peer.local_port, peer.port = 80, 40000
    peer.packet(marked(peer.segment(SYN | what, options=peer.syn_options()), mark))
    answer = peer.expect(flags(SYN | ACK), ack(1))
    assert mark_of(peer) == INET_ECN_NOT_ECT
    return answer.flags & TCPHDR_ACE


class TestServer:
    @pytest.mark.parametrize(
        ("mark", "answer"),
        [(INET_ECN_NOT_ECT, CWR), (INET_ECN_ECT_1, CWR | ECE), (INET_ECN_ECT_0, AE), (INET_ECN_CE, AE | CWR)],
    )
    @pytest.mark.parametrize("what", [AE | CWR | ECE, AE, AE | CWR, AE | ECE, CWR, ECE])
    def test_accurate_ecn_tells_the_syns_mark(self, what: int, mark: int, answer: int) -> None:
        """All but none and classic ECN's flags ask for it, or for what will come after it."""
        with Peer(tcp_ecn=3) as peer:
            server = peer.listen()
            assert ask(peer, what, mark) == answer
            peer.send(ACK | CWR, 1, 1)
            assert mode(peer.accept(server)) == ACCURATE

    @pytest.mark.parametrize(
        ("setting", "what", "answer", "agreed"),
        [
            (0, CWR | ECE, 0, NONE),
            (0, AE | CWR | ECE, 0, NONE),
            (1, CWR | ECE, ECE, CLASSIC),
            (1, AE | CWR | ECE, ECE, CLASSIC),
            (1, ECE, 0, NONE),
            (2, CWR | ECE, ECE, CLASSIC),
            (2, CWR, 0, NONE),
            (3, CWR | ECE, ECE, CLASSIC),
            (3, 0, 0, NONE),
            (4, AE | CWR | ECE, CWR, ACCURATE),
            (5, AE | CWR | ECE, CWR, ACCURATE),
            (5, CWR | ECE, ECE, CLASSIC),
        ],
    )
    def test_what_the_sysctl_lets_it_agree_to(self, setting: int, what: int, answer: int, agreed: int) -> None:
        with Peer(tcp_ecn=setting) as peer:
            server = peer.listen()
            assert ask(peer, what) == answer
            peer.send(ACK | (CWR if agreed == ACCURATE else 0), 1, 1)
            assert mode(peer.accept(server)) == agreed

    def test_a_marked_syn_with_classic_flags_is_not_believed(self) -> None:
        with Peer(tcp_ecn=1) as peer:
            peer.listen()
            assert ask(peer, CWR | ECE, INET_ECN_ECT_0) == 0

    @pytest.mark.parametrize(
        ("value", "failed", "marks"),
        [
            # The SYN+ACK leaves unmarked, so any other mark was put on it underway.
            (0b010, 0, 0),
            (0b011, TCP_ACCECN_ACE_FAIL_RECV, 0),
            (0b100, TCP_ACCECN_ACE_FAIL_RECV, 0),
            (0b110, TCP_ACCECN_ACE_FAIL_RECV, 0),
            (0b000, TCP_ACCECN_ACE_FAIL_RECV | TCP_ACCECN_OPT_FAIL_RECV, 0),
            (0b001, 0, 0),
            (0b101, 0, 0),
            (0b111, 0, 0),
        ],
    )
    def test_the_last_acknowledgement(self, value: int, failed: int, marks: int) -> None:
        with Peer(tcp_ecn=3) as peer:
            server = peer.listen()
            ask(peer, AE | CWR | ECE)
            peer.send(ACK | ace_flags(value), 1, 1)
            sock = peer.accept(server)
            state = sock_of(sock).ecn
            assert state is not None
            assert (mode(sock), state.fail_mode, sock_of(sock).delivered_ce) == (ACCURATE, failed, marks)
            # Where marks are mangled, nothing is marked; what came is told all the same.
            sock.send(b"x")
            peer.run()
            told = peer.expect(flags(ACK), seq(1)).flags & TCPHDR_ACE
            assert (told, mark_of(peer)) == (AE | ECE, INET_ECN_NOT_ECT if failed else INET_ECN_ECT_0)

    def test_without_fallback_marks_are_believed(self) -> None:
        with Peer(tcp_ecn=3, tcp_ecn_fallback=0) as peer:
            server = peer.listen()
            ask(peer, AE | CWR | ECE)
            peer.send(ACK | ace_flags(0b110), 1, 1)
            sk = sock_of(peer.accept(server))
            assert sk.ecn is not None
            assert (sk.ecn.fail_mode, sk.delivered_ce) == (0, 1)

    def test_a_repeated_syn_without_flags(self) -> None:
        """The first had them: they are cleared on the way, or the peer has given up asking."""
        with Peer(tcp_ecn=3) as peer:
            server = peer.listen()
            ask(peer, AE | CWR | ECE)
            ask(peer, 0)
            peer.send(ACK | CWR, 1, 1)
            sock = peer.accept(server)
            state = sock_of(sock).ecn
            assert state is not None
            assert state.fail_mode & TCP_ACCECN_ACE_FAIL_RECV
            sock.send(b"x")
            peer.run()
            peer.expect(flags(ACK), seq(1))
            assert mark_of(peer) == INET_ECN_NOT_ECT

    def test_the_syn_ack_gives_up_the_flags(self) -> None:
        """Its second repetition has none, and then nothing is marked (RFC 9768 section 3.1.4.2)."""
        with Peer(tcp_ecn=3) as peer:
            server = peer.listen()
            assert ask(peer, AE | CWR | ECE) == CWR
            told = [peer.expect_after(delay, flags(SYN | ACK), within=0.3).flags & TCPHDR_ACE for delay in (1.0, 2.0)]
            assert told == [CWR, 0]
            peer.send(ACK, 1, 1)
            sock = peer.accept(server)
            state = sock_of(sock).ecn
            assert state is not None
            assert state.fail_mode & TCP_ACCECN_ACE_FAIL_SEND


class TestClient:
    @pytest.mark.parametrize(
        ("setting", "asked"),
        [(0, 0), (1, CWR | ECE), (2, 0), (3, AE | CWR | ECE), (4, CWR | ECE), (5, 0)],
    )
    def test_what_it_asks_for(self, setting: int, asked: int) -> None:
        with Peer(tcp_ecn=setting) as peer:
            peer.dial()
            assert peer.expect(flags(SYN)).flags & TCPHDR_ACE == asked
            assert mark_of(peer) == INET_ECN_NOT_ECT

    @pytest.mark.parametrize(
        ("setting", "value", "agreed"),
        [
            (3, 0b000, NONE),
            (3, 0b001, CLASSIC),
            (3, 0b010, ACCURATE),
            (3, 0b011, ACCURATE),
            (3, 0b100, ACCURATE),
            (3, 0b101, ACCURATE),
            (3, 0b110, ACCURATE),
            (3, 0b111, NONE),
            (1, 0b001, CLASSIC),
            (1, 0b101, CLASSIC),
            (1, 0b011, NONE),
            (1, 0b010, NONE),
            (1, 0b000, NONE),
            (0, 0b001, NONE),
        ],
    )
    def test_what_it_makes_of_the_answer(self, setting: int, value: int, agreed: int) -> None:
        with Peer(tcp_ecn=setting) as peer:
            sock = peer.dial()
            peer.expect(flags(SYN))
            peer.send(SYN | ace_flags(value), 0, 1, options=peer.syn_options())
            peer.expect(flags(ACK), seq(1), ack(1))
            assert mode(sock) == agreed

    @pytest.mark.parametrize(
        ("mark", "told"),
        [(INET_ECN_NOT_ECT, CWR), (INET_ECN_ECT_1, CWR | ECE), (INET_ECN_ECT_0, AE), (INET_ECN_CE, AE | CWR)],
    )
    def test_the_last_acknowledgement_tells_the_syn_acks_mark(self, mark: int, told: int) -> None:
        with Peer(tcp_ecn=3) as peer:
            sock = peer.dial()
            peer.expect(flags(SYN))
            peer.packet(marked(peer.segment(SYN | CWR, 0, 1, options=peer.syn_options()), mark))
            assert peer.expect(flags(ACK), ack(1)).flags & TCPHDR_ACE == told
            assert mark_of(peer) == INET_ECN_ECT_0
            # A mark on it counts as the first.
            sock.send(b"x")
            peer.run()
            count = 6 if mark == INET_ECN_CE else 5
            assert peer.expect(flags(ACK), seq(1)).flags & TCPHDR_ACE == ace_flags(count)

    @pytest.mark.parametrize(("setting", "asked"), [(3, [7, 7, 0, 0]), (1, [3, 0, 0, 0])])
    def test_a_syn_gives_up_the_flags(self, setting: int, asked: list[int]) -> None:
        """Classic ECN at once, accurate ECN at the second repetition (RFC 9768 section 3.1.4.1)."""
        with Peer(tcp_ecn=setting) as peer:
            peer.dial()
            peer.run(3.5)
            assert [segment.flags & TCPHDR_ACE for segment in peer.sent()] == [ace_flags(value) for value in asked]

    def test_a_syn_keeps_asking_without_fallback(self) -> None:
        with Peer(tcp_ecn=1, tcp_ecn_fallback=0) as peer:
            peer.dial()
            peer.run(3.5)
            assert {segment.flags & TCPHDR_ACE for segment in peer.sent()} == {CWR | ECE}
