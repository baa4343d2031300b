"""The TCP Authentication Option: RFC 5925 and 5926, with Linux's interface, counters and drop reasons."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.compiled import interpreted_only
from tests.transport.tcp.harness import MASK, Pair, Peer, code, flags, length, seq, sock_of, state_of
from tests.transport.tcp.harness import ack as acks
from tests.transport.tcp.keys import (
    MD5_OPTION,
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_INFO,
    ao_add,
    ao_code,
    ao_del,
    ao_good,
    ao_info,
    ao_traffic_key,
    option_at,
    segment,
    set_md5,
    with_code,
)
from tests.transport.tcp.test_md5 import ext, transfer, watch
from usernet.skbuff.dropreason import DropReason
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp.ao import AoInfo, compute_sne
from usernet.transport.tcp.const import TCP_CLOSE, TCP_ESTABLISHED
from usernet.wire.tcp import ACK, FIN, RST, SYN

LEFT, RIGHT = "10.0.0.1", "10.0.0.2"
KEY = b"a longer secret than most"


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


def add(sock: UserSocket, address: str, key: bytes = KEY, **more: Any) -> None:
    sock.setsockopt(6, TCP_AO_ADD_KEY, ao_add(address, key, **more))


def info_of(sock: UserSocket) -> AoInfo:
    auth = sock_of(sock).auth
    assert auth is not None and auth.ao is not None
    return auth.ao


def connect(pair: Pair, **more: Any) -> tuple[UserSocket, UserSocket]:
    """A client with a key, and a listener with the same; ids as each side has them."""
    server = pair.listener()
    add(server, LEFT, **(more | {"sndid": 2, "rcvid": 1}))
    client = pair.socket(pair.left)
    add(client, RIGHT, **(more | {"sndid": 1, "rcvid": 2}))
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    return client, server


def numbers(packets: list[bytes]) -> int:
    """The initial sequence number of those who sent `packets`."""
    (first,) = {packet[24:28] for packet in packets if packet[33] & SYN}
    return int.from_bytes(first, "big")


# -- connections


@pytest.mark.parametrize(
    ("alg", "digest"),
    [("hmac(sha1)", "sha1"), ("hmac(sha256)", "sha256"), ("hmac(sha512)", "sha512"), ("hmac(md5)", "md5")],
)
@pytest.mark.parametrize("keyflags", [0, 2], ids=["options", "exclude-options"])
def test_a_connection_signs_every_segment(pair: Pair, alg: str, digest: str, keyflags: int):
    sent = watch(pair.left), watch(pair.right)
    client, server = connect(pair, alg=alg, keyflags=keyflags)
    accepted = pair.accept(server)
    data = bytes(range(256)) * 800
    assert transfer(pair, client, accepted, data) == data
    assert transfer(pair, accepted, client, data) == data
    client.close()
    accepted.close()
    pair.run(1.0)
    isns = numbers(sent[0]), numbers(sent[1])
    for side, packets in enumerate(sent):
        assert len(packets) > 100
        for packet in packets:
            at = option_at(packet, 29)
            assert packet[at : at + 4] == bytes((29, 16, 1 + side, 2 - side))
            other = 0 if packet[33] & (SYN | ACK) == SYN else isns[1 - side]
            traffic = ao_traffic_key(packet, KEY, isns[side], other, digest)
            assert ao_good(packet, traffic, 0, digest, not keyflags)
    for stack, others in zip(pair.stacks, reversed(sent), strict=True):
        assert ext(stack).TCPAOGood == len(others)
        assert ext(stack).TCPAOBad == ext(stack).TCPAOKeyNotFound == ext(stack).TCPAORequired == 0
    server.close()


def test_aes(pair: Pair):
    """The code itself is held against RFC 9235 in test_ao_crypto.py."""
    client, server = connect(pair, alg="cmac(aes128)")
    accepted = pair.accept(server)
    assert transfer(pair, client, accepted, b"x" * 100_000) == b"x" * 100_000
    assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0
    server.close()


@pytest.mark.parametrize("maclen", [1, 4, 7, 12, 16])
def test_codes_of_any_length_that_fits(pair: Pair, maclen: int):
    sent = watch(pair.left)
    client, server = connect(pair, maclen=maclen)
    accepted = pair.accept(server)
    assert transfer(pair, client, accepted, b"x" * 50_000) == b"x" * 50_000
    assert {packet[option_at(packet, 29) + 1] for packet in sent} == {4 + maclen}
    # Filled up with NOPs to whole words
    packet = next(packet for packet in sent if not packet[33] & SYN)
    padded = 4 + maclen + 3 & ~3
    assert packet[40 + 4 + maclen : 40 + padded] == b"\1" * (padded - 4 - maclen)
    server.close()


def test_lost_segments_are_signed_again():
    with Pair(loss=0.05) as pair:
        client, server = connect(pair)
        pair.run(30.0, lambda: bool(sock_of(server).request_queue.accept_queue))
        accepted = pair.accept(server)
        data = bytes(range(256)) * 2000
        assert transfer(pair, client, accepted, data) == data
        assert pair.left.net.mib.tcp.RetransSegs > 5
        assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0
        server.close()


@pytest.mark.parametrize(
    ("left", "right", "counter", "reason"),
    [
        (KEY, b"another", "TCPAOBad", DropReason.TCP_AOFAILURE),
        (KEY, b"", "TCPAOKeyNotFound", DropReason.TCP_AOUNEXPECTED),
        (b"", KEY, "TCPAORequired", DropReason.TCP_AONOTFOUND),
    ],
)
def test_keys_that_differ_make_no_connection(pair: Pair, left: bytes, right: bytes, counter: str, reason: DropReason):
    server = pair.listener()
    if right:
        add(server, LEFT, right)
    client = pair.socket(pair.left)
    if left:
        add(client, RIGHT, left)
    sent = watch(pair.right)
    client.connect_ex((RIGHT, 80))
    pair.run(0.9)
    assert ext(pair.right)[counter] == pair.right.drops[reason] == 1
    assert not sent and not sock_of(server).request_queue.accept_queue


def test_an_id_or_a_length_that_differs(pair: Pair):
    server = pair.listener()
    add(server, LEFT, rcvid=7)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"sndid": 8}, "TCPAOKeyNotFound"), ({"sndid": 7, "maclen": 16}, "TCPAOBad"),
    )  # fmt: skip
    for more, counter in cases:
        client = pair.socket(pair.left)
        add(client, RIGHT, **more)
        client.connect_ex((RIGHT, 80))
        pair.run(0.9)
        client.close()
        assert ext(pair.right)[counter] == 1
    assert info_of(server).key_not_found == info_of(server).pkt_bad == info_of(server).keys[0].pkt_bad == 1


def test_no_connection_without_a_key_for_the_peer(pair: Pair):
    client = pair.socket(pair.left)
    add(client, "10.9.9.9")
    assert code(client.connect, (RIGHT, 80)) == errno.EKEYREJECTED
    assert state_of(client) == TCP_CLOSE
    # It can be tried again with one; the other peer's is forgotten then.
    add(client, RIGHT)
    server = pair.listener()
    add(server, LEFT)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    pair.accept(server)
    assert len(info_of(client).keys) == 1
    assert sock_of(client).omem_alloc == info_of(client).keys[0].omem


def test_a_peer_has_keys_of_one_kind(pair: Pair):
    client = pair.socket(pair.left)
    add(client, RIGHT)
    assert code(set_md5, client, RIGHT, KEY) == errno.EKEYREJECTED
    set_md5(client, "10.9.9.9", KEY)
    assert code(add, client, "10.9.9.9") == errno.EKEYREJECTED
    add(client, "10.9.9.0", prefix=24, sndid=5, rcvid=5)
    # ao_required leaves no room for MD5.
    assert code(client.setsockopt, 6, TCP_AO_INFO, ao_info(4)) == errno.EKEYREJECTED
    server = pair.listener()
    add(server, LEFT)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    accepted = pair.accept(server)
    assert sock_of(client).auth.md5 == []  # type: ignore[union-attr]
    assert transfer(pair, client, accepted, b"x" * 5000) == b"x" * 5000


def test_a_listener_may_have_both_kinds_for_different_peers(pair: Pair):
    server = pair.listener()
    set_md5(server, LEFT, KEY)
    add(server, "10.0.0.77")
    client = pair.socket(pair.left)
    set_md5(client, RIGHT, KEY)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    accepted = pair.accept(server)
    assert transfer(pair, client, accepted, b"x" * 5000) == b"x" * 5000
    assert sock_of(accepted).auth.ao is None  # type: ignore[union-attr]


def test_ao_required_refuses_peers_without_a_key(pair: Pair):
    server = pair.listener()
    server.setsockopt(6, TCP_AO_INFO, ao_info(4))
    client = pair.dial()
    pair.run(0.9)
    assert ext(pair.right).TCPAORequired == info_of(server).pkt_required == 1
    client.close()


# -- rotation


def test_the_peer_changes_to_the_key_it_is_asked_for(pair: Pair):
    client, server = connect(pair)
    accepted = pair.accept(server)
    add(client, RIGHT, b"the next one", sndid=3, rcvid=4)
    add(accepted, LEFT, b"the next one", sndid=4, rcvid=3)
    sent = watch(pair.left), watch(pair.right)
    # Ask for it: what the server sends is signed with it from the next segment on.
    client.setsockopt(6, TCP_AO_INFO, ao_info(2, rnext=4))
    assert transfer(pair, client, accepted, b"x") == b"x"
    assert transfer(pair, accepted, client, b"y") == b"y"
    at = option_at(sent[0][0], 29)
    assert sent[0][0][at + 2 : at + 4] == bytes((1, 4))
    assert sent[1][-1][option_at(sent[1][-1], 29) + 2] == 4
    current = info_of(accepted).current_key
    assert current is not None and current.sndid == 4
    # And use it ourselves.
    client.setsockopt(6, TCP_AO_INFO, ao_info(1, current=3))
    assert transfer(pair, client, accepted, b"x" * 5000) == b"x" * 5000
    assert sent[0][-1][option_at(sent[0][-1], 29) + 2] == 3
    # The server still asks for the old one.
    assert sent[1][-1][option_at(sent[1][-1], 29) + 3] == 1
    accepted.setsockopt(6, TCP_AO_INFO, ao_info(2, rnext=3))
    accepted.setsockopt(6, TCP_AO_DEL_KEY, ao_del(LEFT, sndid=2, rcvid=1))
    pair.run(0.1)
    assert transfer(pair, accepted, client, b"y" * 5000) == b"y" * 5000
    client.setsockopt(6, TCP_AO_DEL_KEY, ao_del(RIGHT, sndid=1, rcvid=2))
    assert transfer(pair, client, accepted, b"x" * 5000) == b"x" * 5000
    assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0
    server.close()


def test_a_key_in_use_is_not_deleted_but_for_another(pair: Pair):
    client, server = connect(pair)
    pair.accept(server)
    old = ao_del(RIGHT, sndid=1, rcvid=2)
    assert code(client.setsockopt, 6, TCP_AO_DEL_KEY, old) == errno.EBUSY
    add(client, RIGHT, b"next", sndid=3, rcvid=4)
    both = ao_del(RIGHT, sndid=1, rcvid=2, flags=3, current=3, rnext=4)
    assert code(client.setsockopt, 6, TCP_AO_DEL_KEY, both) == 0
    assert [key.sndid for key in info_of(client).keys] == [3]
    server.close()


def test_keys_of_a_listener_that_match_are_inherited_and_the_syn_says_which_to_use(pair: Pair):
    server = pair.listener()
    for number, (network, prefix) in enumerate((("10.0.0.0", 8), (LEFT, 32), ("10.0.0.77", 32), ("0.0.0.0", 0))):
        add(server, network, b"%d" % number, prefix=prefix, sndid=number, rcvid=number)
    client = pair.socket(pair.left)
    add(client, RIGHT, b"0", sndid=0, rcvid=0)
    add(client, RIGHT, b"1", sndid=1, rcvid=1)
    client.setsockopt(6, TCP_AO_INFO, ao_info(3, current=0, rnext=1))
    sent = watch(pair.left), watch(pair.right)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    accepted = pair.accept(server)
    at = option_at(sent[0][0], 29)
    assert sent[0][0][at + 2 : at + 4] == bytes((0, 1))
    assert sent[1][0][at + 2 : at + 4] == bytes((1, 0))
    info = info_of(accepted)
    assert sorted(key.sndid for key in info.keys) == [0, 1, 3]
    assert info.current_key is not None and info.current_key.sndid == 1
    assert info.rnext_key is not None and info.rnext_key.rcvid == 0
    assert transfer(pair, client, accepted, b"x" * 5000) == b"x" * 5000
    server.close()


def test_keys_deleted_during_the_handshake_end_it():
    with Peer() as peer:
        server = peer.listen(prepare=lambda sock: add(sock, RIGHT, sndid=1, rcvid=1))
        speaker = Speaker(peer, server_port=80)
        speaker.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        assert speaker.good()
        server.setsockopt(6, TCP_AO_DEL_KEY, ao_del(RIGHT, sndid=1, rcvid=1))
        # No SYN+ACK that couldn't be signed, and no connection.
        peer.run(3.5)
        peer.silent()
        speaker.send(ACK, 1, 1)
        assert code(server.accept) == errno.EAGAIN
        assert ext(peer.stack).TCPAOKeyNotFound == 1
        server.close()


# -- what an attacker may try


OPTION = b"\x1d\x10\x01\x01" + bytes(12)


class Speaker:
    """A peer made by hand that signs: TCP-AO by HMAC-SHA1 under `KEY`, all ids 1."""

    def __init__(self, peer: Peer, server_port: int = 0) -> None:
        self.peer = peer
        if server_port:
            peer.port, peer.local_port = 5000, server_port

    def signed(
        self, bits: int, number: int, ack: int | None = None, data: bytes = b"", *, options: bytes = b"", sne: int = 0,
        key: bytes = KEY, ids: bytes = b"\1\1", isns: tuple[int, int] | None = None,
    ) -> bytes:  # fmt: skip
        peer = self.peer
        packet = segment(peer, bits, number, ack, data, options=OPTION[:2] + ids + OPTION[4:] + options)
        ours, theirs = isns or (peer.iss, peer.their_iss or 0)
        if bits & SYN and ack is None:
            theirs = 0
        return with_code(packet, 44, ao_code(packet, ao_traffic_key(packet, key, ours, theirs), sne))

    def send(self, *args: Any, **more: Any) -> None:
        self.peer.packet(self.signed(*args, **more))

    def good(self, sne: int = 0) -> bool:
        """Whether the stack's last segment is signed as it should be."""
        packet = self.peer.last
        theirs = 0 if packet[33] & (SYN | ACK) == SYN else self.peer.iss
        assert self.peer.their_iss is not None
        return ao_good(packet, ao_traffic_key(packet, KEY, self.peer.their_iss, theirs), sne)

    def active(self) -> UserSocket:
        """A connection of the stack's to the peer."""
        peer = self.peer
        sock = peer.dial(lambda sock: add(sock, RIGHT, sndid=1, rcvid=1))
        peer.expect(flags(SYN))
        assert self.good()
        self.send(SYN, 0, 1, options=b"\2\4\5\xb4")
        peer.expect(flags(ACK), seq(1), acks(1))
        assert self.good()
        return sock


@pytest.mark.parametrize(
    ("options", "reason", "counter"),
    [
        (b"", DropReason.TCP_AONOTFOUND, "TCPAORequired"),
        (OPTION, DropReason.TCP_AOFAILURE, "TCPAOBad"),
        (b"\x1d\x10\x01\x02" + bytes(12), DropReason.TCP_AOFAILURE, "TCPAOBad"),
        (b"\x1d\x10\x02\x01" + bytes(12), DropReason.TCP_AOKEYNOTFOUND, "TCPAOKeyNotFound"),
        (b"\x1d\x0c\x01\x01" + bytes(8), DropReason.TCP_AOFAILURE, "TCPAOBad"),
        (b"\x1d\x05\x01\x01\x00\x01\x01\x01", DropReason.TCP_AOFAILURE, "TCPAOBad"),
        (MD5_OPTION, DropReason.TCP_MD5UNEXPECTED, "TCPMD5Unexpected"),
        (b"\x1d\x04\x01\x01\1\1\1\1", DropReason.TCP_AUTH_HDR, ""),
        (b"\x1d\x10\x01\x01" + bytes(8), DropReason.TCP_AUTH_HDR, ""),
        (OPTION + OPTION, DropReason.TCP_AUTH_HDR, ""),
        (OPTION + MD5_OPTION, DropReason.TCP_AUTH_HDR, ""),
    ],
)
def test_forged_segments_have_no_effect(options: bytes, reason: DropReason, counter: str):
    with Peer() as peer:
        speaker = Speaker(peer)
        sock = speaker.active()
        for forged in ((RST, 1), (RST, 1, 1), (SYN, 1), (FIN, 1, 1), (0, 1, 1, b"forged")):
            peer.send(*forged, options=options)
        peer.silent()
        assert peer.drops(reason) == 5
        if counter:
            assert ext(peer.stack)[counter] == 5
        assert state_of(sock) == TCP_ESTABLISHED
        assert code(sock.recv, 10) == errno.EAGAIN
        info = info_of(sock)
        current = info.current_key
        assert current is not None and current.sndid == 1
        speaker.send(ACK, 1, 1, b"right")
        assert sock.recv(10) == b"right"
        peer.run(0.1)
        speaker.send(RST, 6)
        assert state_of(sock) == TCP_CLOSE


def test_a_segment_of_an_earlier_connection_is_not_taken():
    """The same key, addresses and ports, other initial numbers: a replay (RFC 5925 section 5.2)."""
    with Peer() as peer:
        speaker = Speaker(peer)
        sock = speaker.active()
        speaker.send(ACK, 1, 1, b"replayed", isns=(peer.iss - 100_000, peer.their_iss or 0))
        assert ext(peer.stack).TCPAOBad == 1
        # Of this one, but 4 GiB back
        speaker.send(ACK, 1, 1, b"replayed", sne=MASK)
        assert ext(peer.stack).TCPAOBad == 2
        assert code(sock.recv, 10) == errno.EAGAIN
        speaker.send(RST, 1)


def test_a_signature_that_nobody_asked_for():
    with Peer() as peer:
        sock = peer.active()
        peer.send(0, 1, 1, b"x", options=OPTION)
        peer.send(RST, 1, options=OPTION)
        assert peer.drops(DropReason.TCP_AOUNEXPECTED) == ext(peer.stack).TCPAOKeyNotFound == 2
        assert state_of(sock) == TCP_ESTABLISHED
        peer.send(RST, 1)


def test_a_handshake_goes_on_as_it_began():
    """A listener with a key for one peer of many, and a SYN that is signed: the rest must be, and the reverse."""
    with Peer() as peer:
        speaker = Speaker(peer, server_port=80)
        seen: list[tuple[int, ...]] = []
        peer.stack.trace["tcp_ao_handshake_failure"].attach(lambda sk, skb, *ids: seen.append(ids))
        server = peer.listen()
        peer.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        add(server, RIGHT, sndid=1, rcvid=1)
        speaker.send(ACK, 1, 1)
        assert seen == [(1, 1, 12)]
        assert ext(peer.stack).TCPAOBad == peer.drops(DropReason.TCP_AOFAILURE) == 1
        peer.send(ACK, 1, 1)
        assert ext(peer.stack).TCPAORequired == 1
        server.setsockopt(6, TCP_AO_DEL_KEY, ao_del(RIGHT, sndid=1, rcvid=1))
        peer.send(ACK, 1, 1)
        peer.accept(server)
        peer.send(RST, 1)
    with Peer() as peer:
        speaker = Speaker(peer, server_port=80)
        peer.stack.trace["tcp_ao_handshake_failure"].attach(lambda sk, skb, *ids: seen.append(ids))
        server = peer.listen(prepare=lambda sock: add(sock, RIGHT, sndid=1, rcvid=1))
        speaker.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1)
        peer.send(RST, 1)
        assert seen[1:] == [(0, 0, 0)] * 2
        # Signed again: an acknowledgement of the SYN, and a reset for what was never sent.
        speaker.send(ACK, 100_000, 1)
        peer.expect(flags(ACK), seq(1), acks(1))
        assert speaker.good()
        speaker.send(ACK, 1, 77)
        peer.expect(flags(RST), seq(77))
        assert speaker.good()
        speaker.send(ACK, 1, 1, b"data")
        sock = peer.accept(server)
        assert sock.recv(10) == b"data"
        # The SYN once more, late: answered by a challenge, signed.
        peer.run(1.0)
        peer.sent()
        speaker.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(ACK), acks(5))
        assert speaker.good()
        speaker.send(RST, 5)


def test_a_refused_syn():
    with Peer() as peer:
        sock = peer.dial(lambda sock: add(sock, RIGHT, sndid=1, rcvid=1))
        peer.expect(flags(SYN))
        # A refusal: no number of the peer's but the reset's own.
        refusal = segment(peer, RST, -peer.iss, 1, options=OPTION)
        assert refusal[24:28] == bytes(4)
        peer.packet(refusal)
        assert state_of(sock) != TCP_CLOSE
        assert peer.their_iss is not None
        signed = with_code(refusal, 44, ao_code(refusal, ao_traffic_key(refusal, KEY, 0, peer.their_iss)))
        peer.packet(signed)
        assert state_of(sock) == TCP_CLOSE
        assert sock.getsockopt(1, 4) == errno.ECONNREFUSED


def test_without_a_socket_nothing_is_answered():
    with Peer() as peer:
        speaker = Speaker(peer, server_port=80)
        peer.their_iss = 0
        speaker.send(ACK, 1, 1)
        speaker.send(SYN, 0)
        peer.silent()


def test_time_wait_signs_and_checks():
    with Peer() as peer:
        speaker = Speaker(peer)
        sock = speaker.active()
        sock.close()
        peer.expect(flags(FIN | ACK), seq(1))
        speaker.send(FIN | ACK, 1, 2)
        peer.expect(flags(ACK), seq(2), acks(2))
        assert speaker.good() and peer.tcp.tw_count == 1
        peer.run(1.0)
        speaker.send(FIN | ACK, 1, 2)
        peer.expect(flags(ACK), seq(2), acks(2))
        assert speaker.good()
        peer.run(1.0)
        peer.send(FIN | ACK, 1, 2)
        peer.send(RST, 2)
        peer.silent()
        assert peer.tcp.tw_count == 1
        speaker.send(RST, 2)
        assert peer.tcp.tw_count == 0


@pytest.mark.parametrize("accept", [False, True])
def test_icmp_errors_that_anyone_can_forge(accept: bool):
    with Peer() as peer:
        speaker = Speaker(peer)
        sock = speaker.active()
        sock.setsockopt(6, TCP_AO_INFO, ao_info(16 if accept else 0))
        sock.setsockopt(0, 11, 1)  # IP_RECVERR: tell
        sock.send(b"x" * 1000)
        peer.expect(length(1000))
        quoted = peer.last[:28]
        for kind, number in ((3, 3), (3, 2)):
            icmp(peer, kind, number, quoted)
        assert info_of(sock).dropped_icmp == ext(peer.stack).TCPAODroppedIcmps == (0 if accept else 2)
        assert sock.getsockopt(1, 4) == (errno.ENOPROTOOPT if accept else 0)
        # Host unreachable is no hard error.
        icmp(peer, 3, 1, quoted)
        assert sock.getsockopt(1, 4) == errno.EHOSTUNREACH
        icmp(peer, 3, 4, quoted, 600)
        assert (sock_of(sock).pmtu_cookie == 600) is accept
        speaker.send(RST, 1)


def icmp(peer: Peer, kind: int, number: int, quoted: bytes, mtu: int = 0) -> None:
    from tests.transport.tcp.harness import LOCAL, REMOTE, ip_packet
    from usernet.wire import checksum

    body = bytes((kind, number, 0, 0, 0, 0)) + mtu.to_bytes(2, "big") + quoted
    check = checksum.csum_fold(checksum.csum(body, 0, len(body)))
    peer.packet(ip_packet(REMOTE, LOCAL, 1, body[:2] + check.to_bytes(2, "big") + body[4:]))
    peer.run(0.0)


# -- sequence numbers that go round


@pytest.mark.parametrize(
    ("sne", "basis", "number", "expected"),
    [
        (0, 1000, 2000, 0), (0, 2000, 1000, 0), (0, MASK, 0, 1), (0, 0, MASK, MASK), (5, MASK - 10, 10, 6),
        (6, 10, MASK - 10, 5), (MASK, MASK, 0, 0), (3, 0x80000001, 0, 4), (3, 0x80000000, 0, 3), (3, 0x7FFFFFFF, 0, 3),
    ],
)  # fmt: skip
def test_the_upper_half(sne: int, basis: int, number: int, expected: int):
    assert compute_sne(sne, basis, number) == expected


@interpreted_only  # the initial numbers are chosen by a patch
@pytest.mark.parametrize("start", [0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFF000])
def test_a_connection_goes_on_when_its_numbers_go_round(start: int, monkeypatch: pytest.MonkeyPatch):
    """The upper half is 1 behind the turn, on both sides, for data, retransmissions, and the FIN."""
    with Pair(loss=0.02) as pair:
        for stack in pair.stacks:
            monkeypatch.setattr(tcp_of(stack), "secure_seq", lambda *numbers: start)
        turns: list[tuple[str, int]] = []
        for name in ("snd", "rcv"):
            pair.left.trace[f"tcp_ao_{name}_sne_update"].attach(lambda sk, sne, name=name: turns.append((name, sne)))
        client, server = connect(pair)
        pair.run(30.0, lambda: bool(sock_of(server).request_queue.accept_queue))
        accepted = pair.accept(server)
        data = bytes(range(256)) * 400
        assert transfer(pair, client, accepted, data) == data
        assert transfer(pair, accepted, client, data) == data
        assert sorted(turns) == [("rcv", 1), ("snd", 1)]
        client.close()
        accepted.close()
        server.close()
        pair.run(5.0)
        assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0


def tcp_of(stack: Stack) -> Any:
    from usernet.transport.tcp.tcp import Tcp

    return stack.net.get(Tcp)


def test_the_turn_is_seen_by_a_peer_that_counts_as_the_rfc_says():
    with Peer() as peer:
        peer.iss = 0xFFFFFFF0
        speaker = Speaker(peer)
        sock = speaker.active()
        speaker.send(ACK, 1, 1, b"x" * 100)
        peer.run(0.1)
        peer.sent()
        # Number 101 is 0x54 of the next turn.
        speaker.send(ACK, 101, 1, b"old turn", sne=0)
        assert ext(peer.stack).TCPAOBad == 1
        speaker.send(ACK, 101, 1, b"new turn", sne=1)
        assert sock.recv(200)[100:] == b"new turn"
        # A retransmission from before the turn is still of the old one.
        good = ext(peer.stack).TCPAOGood
        speaker.send(ACK, 1, 1, b"x" * 10, sne=0)
        assert ext(peer.stack).TCPAOGood == good + 1
        speaker.send(RST, 109, sne=1)


# -- both open at the same time


def test_a_simultaneous_open():
    with Peer() as peer:
        speaker = Speaker(peer)
        sock = peer.dial(lambda sock: add(sock, RIGHT, sndid=1, rcvid=1))
        peer.expect(flags(SYN))
        speaker.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK), acks(1))
        assert speaker.good()
        peer.send(ACK, 1, 1)
        peer.send(RST, 1)
        assert state_of(sock) != TCP_ESTABLISHED
        speaker.send(ACK, 1, 1)
        assert state_of(sock) == TCP_ESTABLISHED
        sock.send(b"hello")
        peer.expect(length(5))
        assert speaker.good()
        speaker.send(RST, 1)


def test_fast_open_with_a_signature():
    """The cookie has no room beside the option and the time stamp, so without one data may go where none is needed."""
    with Pair(sysctl={"tcp_fastopen": 0x407}) as pair:
        server = pair.listener()
        server.setsockopt(6, 23, 5)
        add(server, LEFT, sndid=2, rcvid=1)
        server.setsockopt(6, 34, 1)
        client = pair.socket(pair.left)
        add(client, RIGHT, sndid=1, rcvid=2)
        client.setsockopt(6, 34, 1)
        sent = watch(pair.left)
        assert client.sendto(b"early", 0x20000000, (RIGHT, 80)) == 5
        pair.run(0.1)
        accepted = pair.accept(server)
        assert accepted.recv(10) == b"early"
        syn = sent[0]
        assert syn.endswith(b"early")
        assert ao_good(syn, ao_traffic_key(syn, KEY, int.from_bytes(syn[24:28], "big"), 0))
        assert transfer(pair, accepted, client, b"y" * 20_000) == b"y" * 20_000
        assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0
        assert ext(pair.right).TCPFastOpenPassive == 1
        server.close()


@pytest.mark.parametrize("maclen", [4, 12, 16])
def test_accurate_ecn_finds_what_room_a_signature_leaves(maclen: int):
    with Pair(sysctl={"tcp_ecn": 3, "tcp_ecn_option": 2}, loss=0.02) as pair:
        sent = watch(pair.left), watch(pair.right)
        client, server = connect(pair, maclen=maclen)
        pair.run(30.0, lambda: bool(sock_of(server).request_queue.accept_queue))
        accepted = pair.accept(server)
        data = bytes(range(256)) * 800
        assert transfer(pair, client, accepted, data) == data
        assert transfer(pair, accepted, client, data) == data
        for packets in sent:
            assert any(option_at(packet, 172) or option_at(packet, 174) for packet in packets)
            assert all(packet[32] >> 4 <= 15 and len(packet) <= 1500 for packet in packets)
        for stack in pair.stacks:
            assert ext(stack).TCPAOBad == ext(stack).TCPAORequired == 0
        server.close()


def test_time_stamps_and_sack_with_a_short_code(pair: Pair):
    """Linux declines time stamps of a signed SYN that offers SACK, whatever the length."""
    client, server = connect(pair, maclen=4)
    accepted = pair.accept(server)
    assert not sock_of(client).tstamp_ok and sock_of(client).sack_ok
    tcp_info = accepted.getsockopt(6, 11, 104)
    assert isinstance(tcp_info, bytes)
    assert struct.unpack_from("=I", tcp_info, 16)[0] == 1460 - 8
    server.close()
