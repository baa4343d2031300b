"""What a hostile peer sends: malformed options in every place, other content for the same numbers, many guesses."""

from __future__ import annotations

import random

import pytest

from tests.transport.tcp.harness import Peer, flags, sock_of
from tests.transport.tcp.invariants import broken
from usernet.skbuff.dropreason import DropReason
from usernet.transport.tcp.const import TCP_ESTABLISHED
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN

MALFORMED = {
    "length 0": b"\x02\x00\x05\xb4",
    "length 1": b"\x08\x01\x01\x01",
    "past the end": b"\x08\x0a\x00\x00",
    "a kind and nothing else": b"\x01\x01\x01\x05",
    "MSS of 3 bytes": b"\x02\x03\x05\x01",
    "MSS of 5 bytes": b"\x02\x05\x05\xb4\x00\x01\x01\x01",
    "scale of 4 bytes": b"\x03\x04\x07\x07",
    "SACK permitted of 3 bytes": b"\x04\x03\x00\x01",
    "SACK of 9 bytes": b"\x05\x09\x00\x00\x00\x01\x00\x00\x00\x01\x01\x01",
    "SACK of no block": b"\x05\x02\x01\x01",
    "time stamp of 9 bytes": b"\x08\x09" + bytes(7) + b"\x01\x01\x01",
    "an unknown kind": b"\xc8\x04\xff\xff",
    "an unknown kind past the end": b"\xc8\xff\xff\xff",
    "nothing but ends": bytes(40),
    "nothing but nops": b"\x01" * 40,
    "Fast Open of 3 bytes": b"\x22\x05\x01\x02\x03\x01\x01\x01",
    "Fast Open of 18 bytes": b"\x22\x14" + bytes(18),
}
UNTRUSTED = {
    "MD5 of 3 bytes": b"\x13\x03\x00\x01\x01\x01\x01\x01",
    "TCP-AO of 3 bytes": b"\x1d\x03\x00\x01\x01\x01\x01\x01",
    "SACK of five blocks, which reach past the end": b"\x05\x2a" + bytes(38),
    "all ones": b"\xff" * 40,
}


@pytest.mark.parametrize("options", MALFORMED.values(), ids=MALFORMED)
class TestMalformedOptions:
    def test_on_a_syn(self, peer: Peer, options: bytes) -> None:
        """They are passed over: the handshake is one without options."""
        server = peer.listen()
        peer.local_port, peer.port = 80, 1000
        peer.send(SYN, options=options)
        answer = peer.expect(flags(SYN | ACK))
        assert not answer.options.has_ts
        assert not answer.options.sack_ok
        assert answer.options.wscale == -1
        peer.send(ACK, 1, 1)
        sk = sock_of(peer.accept(server))
        assert (sk.mss_clamp, sk.tstamp_ok, sk.sack_ok, sk.wscale_ok) == (536, False, False, False)

    def test_on_a_syn_and_ack(self, peer: Peer, options: bytes) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN, 0, 1, options=options)
        peer.expect(flags(ACK))
        sk = sock_of(sock)
        assert sk.state == TCP_ESTABLISHED
        assert (sk.mss_clamp, sk.tstamp_ok, sk.sack_ok, sk.wscale_ok) == (536, False, False, False)

    def test_on_the_last_acknowledgement(self, peer: Peer, options: bytes) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 1000
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1, options=options)
        assert sock_of(peer.accept(server)).state == TCP_ESTABLISHED

    @pytest.mark.parametrize("ts", [False, True])
    def test_on_data(self, peer: Peer, options: bytes, ts: bool) -> None:
        """Data without a time stamp that can be read is taken, as Linux takes it."""
        sock = peer.active(ts=ts, sack=True)
        peer.send(ACK | PSH, 1, 1, b"data", options=options)
        assert sock.recv(10) == b"data"
        assert not broken(sock_of(sock))
        peer.sent()


@pytest.mark.parametrize("options", UNTRUSTED.values(), ids=UNTRUSTED)
class TestOptionsThatHideASignature:
    """Where a signature may stand that can't be told, nothing is taken (Linux: tcp_parse_auth_options)."""

    def test_on_a_syn(self, peer: Peer, options: bytes) -> None:
        peer.listen()
        peer.local_port, peer.port = 80, 1000
        peer.send(SYN, options=options)
        peer.silent()
        assert peer.drops(DropReason.TCP_AUTH_HDR) == 1

    def test_on_data(self, peer: Peer, options: bytes) -> None:
        sock = peer.active()
        peer.send(ACK | PSH, 1, 1, b"data", options=options)
        assert sock_of(sock).rcv_nxt == (peer.iss + 1) & 0xFFFFFFFF
        assert peer.drops(DropReason.TCP_AUTH_HDR) == 1
        peer.sent()


@pytest.mark.parametrize(("last", "wanted"), [(5, b"w" * 5 + b"x" * 5 + b"B" * 10 + b"y" * 5), (40, b"w" * 40)])
def test_overlaps_with_other_content(peer: Peer, last: int, wanted: bytes) -> None:
    """Of what waits out of order the first that came for a place is delivered; what arrives in order is delivered as it
    came, whatever waited (Linux: tcp_data_queue)."""
    sock = peer.active(sack=True)
    peer.send(ACK, 11, 1, b"B" * 10)
    peer.send(ACK, 6, 1, b"x" * 10)  # over its head
    peer.send(ACK, 16, 1, b"y" * 10)  # over its tail
    peer.send(ACK, 12, 1, b"z" * 5)  # within
    peer.send(ACK, 1, 1, b"w" * last)
    peer.sent()
    assert sock.recv(100) == wanted


def test_what_was_received_in_order_is_never_replaced(peer: Peer) -> None:
    """The first data wins, read or not."""
    sock = peer.active(sack=True)
    peer.send(ACK, 1, 1, b"a" * 20)
    peer.send(ACK, 1, 1, b"b" * 20)
    peer.send(ACK, 11, 1, b"c" * 20)
    assert sock.recv(100) == b"a" * 20 + b"c" * 10
    peer.send(ACK, 1, 1, b"d" * 35)
    assert sock.recv(100) == b"d" * 5
    peer.sent()


def test_a_fin_within_data_that_is_known_ends_nothing_early(peer: Peer) -> None:
    sock = peer.active(sack=True)
    peer.send(ACK, 1, 1, b"0123456789")
    peer.send(ACK | FIN, 1, 1, b"012")
    peer.send(ACK, 11, 1, b"more")
    assert sock.recv(100) == b"0123456789more"
    peer.sent()


@pytest.mark.parametrize("kind", [RST, RST | ACK, SYN, SYN | ACK])
def test_guesses_do_not_end_a_connection(peer: Peer, kind: int) -> None:
    """2,000 of each, in the window and out, none exact; the answers are rationed, and the connection goes on."""
    sock = peer.active(sack=True)
    rng = random.Random(5)
    for _ in range(2000):
        guess = rng.choice((rng.randrange(2, 60_000), rng.randrange(1 << 32)))
        if guess == 1:
            continue
        peer.send(kind, guess, rng.randrange(1 << 32) if kind & ACK else None)
    assert sock_of(sock).state == TCP_ESTABLISHED
    assert len(peer.sent()) <= 1
    peer.send(ACK | PSH, 1, 1, b"still here")
    assert sock.recv(20) == b"still here"
    peer.sent()


def test_blind_data_needs_an_acknowledgement_that_could_be_right(peer: Peer) -> None:
    """RFC 5961 section 5: data in the window, with a guessed acknowledgement."""
    sock = peer.active()
    peer.stack.sysctl["net.ipv4.tcp_invalid_ratelimit"] = 0
    rng = random.Random(6)
    for _ in range(500):
        guess = rng.randrange(2, (1 << 32) - 70_000)
        peer.send(ACK | PSH, 1, guess, b"evil")
    assert sock_of(sock).rcv_nxt == (peer.iss + 1) & 0xFFFFFFFF
    peer.sent()


def test_a_flood_costs_no_memory_once_it_is_over(peer: Peer) -> None:
    server = peer.listen(backlog=64)
    peer.local_port = 80
    for port in range(1024, 5024):
        peer.send(SYN, sport=port, options=peer.syn_options(mss=500 + port % 900, wscale=port % 15, sack=True, ts=True))
        peer.nic.sent.clear()
    assert len(peer.tcp.table) == 65
    assert peer.mib.tcp_ext.SyncookiesSent == 4000 - 65
    peer.run(200.0)
    assert peer.tcp.table == {}
    assert sock_of(server).request_queue.syn_queue == 0
    peer.nic.sent.clear()
