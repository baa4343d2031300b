"""TCP MD5 signatures: RFC 2385, with Linux's socket option, counters and drop reasons."""

from __future__ import annotations

import errno
import socket as std
from collections.abc import Iterator
from typing import Any

import pytest

from tests.transport.tcp.harness import MASK, Pair, Peer, code, flags, length, seq, sock_of, state_of
from tests.transport.tcp.harness import ack as acks
from tests.transport.tcp.keys import (
    MD5_OPTION,
    TCP_MD5SIG,
    TCP_MD5SIG_EXT,
    md5_good,
    md5_of,
    md5_signed,
    md5sig,
    option_at,
    segment,
    set_md5,
    with_code,
)
from usernet.core.mib import TcpExtMib
from usernet.skbuff.dropreason import DropReason
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp.const import TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT2
from usernet.transport.tcp.md5 import MD5_KEY_SIZE
from usernet.wire.tcp import ACK, FIN, RST, SYN

LEFT, RIGHT = "10.0.0.1", "10.0.0.2"
KEY = b"between you and me"


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


@pytest.fixture
def sock() -> Iterator[UserSocket]:
    stack = Stack("keys", seed=1)
    sock = stack.socket(std.AF_INET, std.SOCK_STREAM)
    yield sock
    sock.close()
    stack.close()


def watch(stack: Stack) -> list[bytes]:
    """The IPv4 packets that a stack sends from now on."""
    sent: list[bytes] = []

    def probe(skb: Any, accepted: bool) -> None:
        assert not skb.gso_size, "a super-segment can't be signed"
        packet = skb.tobytes()
        if packet[12:14] == b"\x08\x00" and packet[23] == 6:
            sent.append(packet[14:])

    stack.trace.net_dev_xmit.attach(probe)
    return sent


def signed_pair(pair: Pair, left: bytes = KEY, right: bytes = KEY) -> tuple[UserSocket, UserSocket]:
    server = pair.listener()
    set_md5(server, LEFT, right)
    client = pair.socket(pair.left)
    set_md5(client, RIGHT, left)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    return client, server


def ext(stack: Stack) -> TcpExtMib:
    return stack.net.mib.tcp_ext


def transfer(pair: Pair, source: UserSocket, sink: UserSocket, data: bytes) -> bytes:
    """Send `data`, and read what comes."""
    view = memoryview(data)
    got = bytearray()

    def step() -> bool:
        nonlocal view
        while view:
            try:
                view = view[source.send(view) :]
            except BlockingIOError:
                break
        while len(got) < len(data):
            try:
                part = sink.recv(1 << 20)
            except BlockingIOError:
                break
            if not part:
                return True
            got.extend(part)
        return len(got) == len(data)

    pair.run(120.0, step)
    return bytes(got)


# -- connections


def test_a_connection_with_the_same_key_on_both_sides(pair: Pair):
    sent = watch(pair.left), watch(pair.right)
    client, server = signed_pair(pair)
    accepted = pair.accept(server)
    data = bytes(range(256)) * 1200
    assert transfer(pair, client, accepted, data) == data
    assert transfer(pair, accepted, client, data) == data
    client.close()
    accepted.close()
    pair.run(1.0)
    for packets in sent:
        assert len(packets) > 100
        assert all(md5_good(packet, KEY) for packet in packets)
        # 20 bytes of option, and no time stamps: 1460 - 20.
        assert max(len(packet) for packet in packets) == 1500
    for stack in pair.stacks:
        mib = ext(stack)
        assert mib.TCPMD5Failure == mib.TCPMD5NotFound == mib.TCPMD5Unexpected == 0
    server.close()


def test_lost_segments_are_signed_again_and_two_sack_blocks_fit():
    with Pair(loss=0.05) as pair:
        sent = watch(pair.left), watch(pair.right)
        client, server = signed_pair(pair)
        pair.run(30.0, lambda: bool(sock_of(server).request_queue.accept_queue))
        accepted = pair.accept(server)
        data = bytes(range(256)) * 2000
        assert transfer(pair, client, accepted, data) == data
        assert pair.left.net.mib.tcp.RetransSegs > 5
        assert all(md5_good(packet, KEY) for packets in sent for packet in packets)
        sizes = {packet[option_at(packet, 5) + 1] for packet in sent[1] if option_at(packet, 5)}
        assert max(sizes) == 2 + 2 * 8
        server.close()


@pytest.mark.parametrize(
    ("left", "right", "counter", "reason"),
    [
        (KEY, b"another", "TCPMD5Failure", DropReason.TCP_MD5FAILURE),
        (KEY, b"", "TCPMD5Unexpected", DropReason.TCP_MD5UNEXPECTED),
        (b"", KEY, "TCPMD5NotFound", DropReason.TCP_MD5NOTFOUND),
    ],
)
def test_keys_that_differ_make_no_connection(pair: Pair, left: bytes, right: bytes, counter: str, reason: DropReason):
    server = pair.listener()
    if right:
        set_md5(server, LEFT, right)
    client = pair.socket(pair.left)
    if left:
        set_md5(client, RIGHT, left)
    client.connect_ex((RIGHT, 80))
    sent = watch(pair.right)
    pair.run(0.9)
    assert ext(pair.right)[counter] == pair.right.drops[reason] == 1
    # No answer: not even a reset, which could tell that someone is there.
    assert not sent
    assert not sock_of(server).request_queue.accept_queue


def test_a_key_for_a_network_and_the_most_specific_counts(pair: Pair):
    server = pair.listener()
    for prefix, key in ((0, b"everyone"), (8, b"ten"), (30, b"four"), (16, b"ten, null")):
        network = {0: "0.0.0.0", 8: "10.0.0.0", 16: "10.0.0.0", 30: "10.0.0.0"}[prefix]
        set_md5(server, network, key, flags=1, prefix=prefix)
    client = pair.socket(pair.left)
    set_md5(client, RIGHT, b"four")
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    accepted = pair.accept(server)
    # The connection has a key for its peer alone, under the same secret.
    auth = sock_of(accepted).auth
    assert auth is not None
    assert [(key.prefix, key.key) for key in auth.md5] == [(32, b"four")]
    assert sock_of(accepted).omem_alloc == MD5_KEY_SIZE
    # Without it the next one counts.
    server.setsockopt(6, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"", flags=1, prefix=30))
    second = pair.socket(pair.left)
    set_md5(second, RIGHT, b"ten, null")
    second.connect_ex((RIGHT, 80))
    pair.run(0.5)
    pair.accept(server)
    assert state_of(second) == TCP_ESTABLISHED
    server.close()


def test_a_key_may_change_while_connected(pair: Pair):
    client, server = signed_pair(pair)
    accepted = pair.accept(server)
    set_md5(client, RIGHT, b"changed")
    client.send(b"one")
    pair.run(0.1)
    assert code(accepted.recv, 10) == errno.EAGAIN
    assert ext(pair.right).TCPMD5Failure > 0
    set_md5(accepted, LEFT, b"changed")
    pair.run(5.0)
    assert accepted.recv(10) == b"one"
    server.close()


def test_a_close_with_unread_data_sends_a_signed_reset(pair: Pair):
    client, server = signed_pair(pair)
    accepted = pair.accept(server)
    client.send(b"never read")
    pair.run(0.1)
    sent = watch(pair.right)
    accepted.close()
    pair.run(0.1)
    assert [packet[33] & RST for packet in sent] == [RST]
    assert md5_good(sent[0], KEY)
    assert code(client.recv, 1) == errno.ECONNRESET
    server.close()


def test_nobody_listens_and_no_reset_is_sent_that_nobody_could_check(pair: Pair):
    client = pair.socket(pair.left)
    set_md5(client, RIGHT, KEY)
    sent = watch(pair.right)
    client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    assert not sent
    assert ext(pair.right).TCPMD5Unexpected == 0  # nobody was there to expect anything


def test_a_lost_connection_is_reset_with_the_key_of_a_listener_at_the_peers_port():
    """A host that rebooted: the BGP speaker that it was connected from listens again, and has the key."""
    with Peer() as peer:
        peer.port = 179
        server = peer.listen(179)
        set_md5(server, RIGHT, KEY)
        peer.their_iss, peer.local_port = 0, 40000
        peer.packet(md5_signed(peer, KEY, ACK, 1, 1, b"are you there?"))
        answer = peer.expect(flags(RST), seq(1))
        assert answer.options.md5 == md5_of(peer.last, KEY)
        # A wrong signature isn't answered, nor is the right one of a peer without a key.
        peer.packet(md5_signed(peer, b"guessed", ACK, 1, 1))
        peer.silent()
        server.setsockopt(6, TCP_MD5SIG, md5sig(RIGHT, b""))
        peer.packet(md5_signed(peer, KEY, ACK, 1, 1))
        peer.silent()


def test_nothing_changes_for_other_peers_of_a_listener(pair: Pair):
    server = pair.listener()
    set_md5(server, "10.0.0.77", KEY)
    client = pair.dial()
    pair.run(0.5)
    accepted = pair.accept(server)
    assert sock_of(accepted).auth is None
    assert sock_of(client).tstamp_ok
    assert transfer(pair, client, accepted, b"x" * 100_000) == b"x" * 100_000
    server.close()


# -- what an attacker may try


def signed_active(peer: Peer) -> UserSocket:
    """A connection of the stack's to the peer, signed."""
    sock = peer.dial(lambda sock: set_md5(sock, RIGHT, KEY))
    syn = peer.expect(flags(SYN))
    assert md5_good(peer.last, KEY)
    assert not syn.options.has_ts and syn.options.sack_ok and syn.options.wscale >= 0
    packet = segment(peer, SYN, 0, 1, options=MD5_OPTION + b"\2\4\5\xb4")
    peer.packet(with_code(packet, 44, md5_of(packet, KEY)))
    peer.expect(flags(ACK), seq(1), acks(1))
    assert md5_good(peer.last, KEY)
    return sock


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (b"", DropReason.TCP_MD5NOTFOUND),
        (MD5_OPTION, DropReason.TCP_MD5FAILURE),
        (b"\1\1\x1d\x10" + bytes(14) + b"\1\1", DropReason.TCP_AOUNEXPECTED),
        (b"\1\1\x13\x11" + bytes(16), DropReason.TCP_AUTH_HDR),
        (MD5_OPTION + MD5_OPTION, DropReason.TCP_AUTH_HDR),
        (MD5_OPTION + b"\1\1\x1d\x10" + bytes(14) + b"\1\1", DropReason.TCP_AUTH_HDR),
        (b"\1\1\1\x13", DropReason.TCP_MD5NOTFOUND),
        (b"\1\1\x13\x12", DropReason.TCP_MD5NOTFOUND),
        (b"\x13\x12" + bytes(10), DropReason.TCP_AUTH_HDR),
    ],
)
def test_forged_resets_and_data_have_no_effect(options: bytes, reason: DropReason):
    with Peer() as peer:
        sock = signed_active(peer)
        peer.send(RST, 1, options=options)
        peer.send(0, 1, 1, b"forged", options=options)
        peer.send(SYN, 1, options=options)
        peer.send(FIN, 1, 1, options=options)
        peer.silent()
        assert peer.drops(reason) == 4
        assert state_of(sock) == TCP_ESTABLISHED
        assert code(sock.recv, 10) == errno.EAGAIN
        assert sock_of(sock).segs_in == 1  # the SYN+ACK
        peer.packet(md5_signed(peer, KEY, ACK, 1, 1, b"right"))
        assert sock.recv(10) == b"right"
        peer.run(0.1)
        peer.packet(md5_signed(peer, KEY, RST, 6))
        assert state_of(sock) == TCP_CLOSE


def test_a_signature_that_nobody_asked_for_is_dropped_in_every_state():
    with Peer() as peer:
        peer.port = 5000
        server = peer.listen()
        peer.local_port = 80
        peer.send(SYN, 0, options=MD5_OPTION + b"\2\4\5\xb4")
        peer.silent()
        assert ext(peer.stack).TCPMD5Unexpected == 1
        peer.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1, options=MD5_OPTION)
        assert ext(peer.stack).TCPMD5Unexpected == 2
        assert code(server.accept) == errno.EAGAIN
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        peer.send(ACK, 1, 1, b"signed", options=MD5_OPTION)
        peer.send(RST, 1, options=MD5_OPTION)
        assert ext(peer.stack).TCPMD5Unexpected == 4
        assert peer.drops(DropReason.TCP_MD5UNEXPECTED) == 4
        peer.silent()
        assert state_of(sock) == TCP_ESTABLISHED
        peer.send(RST, 1)


def test_a_request_is_acknowledged_again_with_a_signature():
    with Peer() as peer:
        peer.port, peer.local_port = 5000, 80
        server = peer.listen(prepare=lambda sock: set_md5(sock, RIGHT, KEY))
        packet = segment(peer, SYN, 0, options=MD5_OPTION + b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8))
        peer.packet(with_code(packet, 44, md5_of(packet, KEY)))
        answer = peer.expect(flags(SYN | ACK))
        assert md5_good(peer.last, KEY)
        # Both don't fit later, so the time stamps are declined.
        assert answer.options.sack_ok and not answer.options.has_ts
        peer.packet(md5_signed(peer, KEY, ACK, 100_000, 1))
        peer.expect(flags(ACK), seq(1), acks(1), length(0))
        assert md5_good(peer.last, KEY)
        # What acknowledges nothing of ours is reset, signed.
        peer.packet(md5_signed(peer, KEY, ACK, 1, 77))
        peer.expect(flags(RST), seq(77))
        assert md5_good(peer.last, KEY)
        # Unsigned, neither is.
        peer.send(ACK, 1, 1)
        peer.send(RST, 1)
        peer.silent()
        assert ext(peer.stack).TCPMD5NotFound == 2
        peer.packet(md5_signed(peer, KEY, ACK, 1, 1))
        accepted = peer.accept(server)
        peer.packet(md5_signed(peer, KEY, RST, 1))
        assert state_of(accepted) == TCP_CLOSE


def test_time_stamps_stay_where_sack_is_not_offered():
    with Peer() as peer:
        peer.port, peer.local_port = 5000, 80
        server = peer.listen(prepare=lambda sock: set_md5(sock, RIGHT, KEY))
        packet = segment(peer, SYN, 0, options=MD5_OPTION + b"\2\4\5\xb4\1\1\x08\x0a\0\0\0\1\0\0\0\0")
        peer.packet(with_code(packet, 44, md5_of(packet, KEY)))
        answer = peer.expect(flags(SYN | ACK))
        assert answer.options.has_ts and not answer.options.sack_ok
        packet = segment(peer, ACK, 1, 1, options=MD5_OPTION + b"\1\1\x08\x0a\0\0\0\2" + peer.tsecr.to_bytes(4, "big"))
        peer.packet(with_code(packet, 44, md5_of(packet, KEY)))
        sock = peer.accept(server)
        sock.send(b"x" * 3000)
        sent = peer.expect(length(1460 - 20 - 12))
        assert sent.options.has_ts and md5_good(peer.last, KEY)
        packet = segment(peer, RST, 1, options=MD5_OPTION + b"\1\1\x08\x0a\0\0\0\2" + bytes(4))
        peer.packet(with_code(packet, 44, md5_of(packet, KEY)))
        assert state_of(sock) == TCP_CLOSE


def test_time_wait_signs_and_checks():
    with Peer() as peer:
        sock = signed_active(peer)
        sock.close()
        peer.expect(flags(FIN | ACK), seq(1))
        peer.packet(md5_signed(peer, KEY, ACK, 1, 2))
        assert peer.tcp.tw_count == 1  # FIN-WAIT-2, with nobody to hold it
        (record,) = list(peer.tcp.table.values())
        assert record.substate == TCP_FIN_WAIT2  # type: ignore[union-attr]
        peer.send(FIN, 1, 2)
        peer.send(RST, 1)
        peer.silent()
        assert ext(peer.stack).TCPMD5NotFound == 2
        peer.packet(md5_signed(peer, KEY, FIN | ACK, 1, 2))
        peer.expect(flags(ACK), seq(2), acks(2))
        assert md5_good(peer.last, KEY)
        # The peer's FIN again, and an unsigned reset that would end it.
        peer.run(1.0)
        peer.packet(md5_signed(peer, KEY, FIN | ACK, 1, 2))
        peer.expect(flags(ACK), seq(2), acks(2))
        assert md5_good(peer.last, KEY)
        peer.send(RST, 2)
        assert peer.tcp.tw_count == 1
        peer.packet(md5_signed(peer, KEY, RST, 2))
        assert peer.tcp.tw_count == 0


def test_what_a_probe_sees():
    with Peer() as peer:
        seen: list[str] = []
        for name in ("required", "unexpected", "mismatch"):
            point = peer.stack.trace[f"tcp_hash_md5_{name}"]
            point.attach(lambda sk, skb, name=name: seen.append(name))
        peer.stack.trace["tcp_hash_bad_header"].attach(lambda sk, skb: seen.append("bad"))
        sock = signed_active(peer)
        peer.send(0, 1, 1)
        peer.send(0, 1, 1, options=MD5_OPTION)
        peer.send(0, 1, 1, options=MD5_OPTION + MD5_OPTION)
        sock.setsockopt(6, TCP_MD5SIG, md5sig(RIGHT, b""))
        peer.send(0, 1, 1, options=MD5_OPTION)
        assert seen == ["required", "mismatch", "bad", "unexpected"]
        peer.send(RST, 1)


# -- the socket option


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (TCP_MD5SIG, md5sig(RIGHT, KEY), 0),
        (TCP_MD5SIG, md5sig(RIGHT, KEY) + b"more", 0),
        (TCP_MD5SIG, md5sig(RIGHT, KEY)[:-1], errno.EINVAL),
        (TCP_MD5SIG, b"", errno.EINVAL),
        (TCP_MD5SIG, md5sig(RIGHT, KEY, family=10), errno.EINVAL),
        (TCP_MD5SIG, md5sig("fd00::1", KEY), errno.EINVAL),
        (TCP_MD5SIG, md5sig(RIGHT, KEY, family=0), errno.EINVAL),
        (TCP_MD5SIG, md5sig(RIGHT, KEY, keylen=81), errno.EINVAL),
        (TCP_MD5SIG, md5sig(RIGHT, b"k" * 80), 0),
        (TCP_MD5SIG, md5sig(RIGHT, b""), errno.ENOENT),
        (TCP_MD5SIG, md5sig(RIGHT, KEY, flags=1, prefix=33), 0),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=1, prefix=33), errno.EINVAL),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=1, prefix=24), 0),
        (TCP_MD5SIG_EXT, md5sig("0.0.0.0", KEY, flags=1, prefix=0), 0),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=2, ifindex=1), errno.EINVAL),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=2, ifindex=999), errno.EINVAL),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=2, ifindex=-1), errno.EINVAL),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=2), 0),
        (TCP_MD5SIG_EXT, md5sig(RIGHT, KEY, flags=0x84), 0),
    ],
)
def test_malformed_structures_fail_as_in_linux(sock: UserSocket, option: int, value: bytes, expected: int):
    """What a kernel of 6.18 says to each."""
    assert code(sock.setsockopt, 6, option, value) == expected
    assert code(sock.getsockopt, 6, option, 256) == errno.ENOPROTOOPT


def test_setting_again_replaces_and_deleting_needs_the_same_prefix_and_flag(sock: UserSocket):
    set_md5(sock, RIGHT, b"one")
    set_md5(sock, RIGHT, b"two")
    set_md5(sock, RIGHT, b"net", flags=1, prefix=24)
    set_md5(sock, RIGHT, b"if", flags=2)
    auth = sock_of(sock).auth
    assert auth is not None
    assert [key.key for key in auth.md5] == [b"if", b"net", b"two"]
    assert sock_of(sock).omem_alloc == 3 * MD5_KEY_SIZE
    assert code(sock.setsockopt, 6, TCP_MD5SIG_EXT, md5sig(RIGHT, b"", flags=1, prefix=25)) == errno.ENOENT
    for more in ({"flags": 1, "prefix": 24}, {"flags": 2}, {}):
        sock.setsockopt(6, TCP_MD5SIG_EXT, md5sig(RIGHT, b"", **more))
    assert auth.md5 == [] and sock_of(sock).omem_alloc == 0


def test_keys_are_bounded_by_optmem_max(sock: UserSocket):
    count = 0
    while True:
        failed = code(set_md5, sock, f"10.1.{count >> 8}.{count & 255}", KEY)
        if failed:
            break
        count += 1
    assert failed == errno.ENOMEM
    # As many as with the kernel's structures
    assert count == 963


def test_a_connection_may_lose_its_key_and_goes_on_unsigned():
    """Linux lets that happen, too: the application says so."""
    with Peer() as peer:
        sock = signed_active(peer)
        sock.setsockopt(6, TCP_MD5SIG, md5sig(RIGHT, b""))
        sock.send(b"plain")
        sent = peer.expect(length(5))
        assert sent.options.md5 is None
        peer.send(0, 1, 6 & MASK, options=b"")
        peer.send(RST, 1)
        assert state_of(sock) == TCP_CLOSE
