"""A full receive buffer: what is copied together, what is thrown away, and what the peer is told."""

from __future__ import annotations

import socket as std
from itertools import pairwise

from tests.transport.tcp.harness import Peer, ack, flags, length, sock_of
from usernet.transport.tcp.rcvmem import _collapsed
from usernet.transport.tcp.window import select_initial_window, set_window_clamp
from usernet.wire.tcp import ACK, FIN, RST


def counters(peer: Peer) -> tuple[int, ...]:
    mib = peer.mib.tcp_ext
    return mib.PruneCalled, mib.TCPRcvCollapsed, mib.OfoPruned, mib.RcvPruned


def fill(peer: Peer, count: int, size: int, start: int = 1) -> int:
    """Segments in order; returns the sequence number behind them."""
    for number in range(count):
        peer.send(ACK, start + number * size, 1, bytes([number]) * size)
    return start + count * size


def test_small_segments_are_joined_as_they_come(peer: Peer) -> None:
    sock = peer.active()
    fill(peer, 20, 100)
    sk = sock_of(sock)
    assert len(sk.receive_queue) == 1
    assert sk.receive_queue.bytes == 2000
    assert peer.mib.tcp_ext.TCPRcvCoalesce == 19
    assert sk.rmem_alloc == sum(skb.truesize for skb in sk.receive_queue) < 20 * 700
    assert sock.recv(5000) == b"".join(bytes([number]) * 100 for number in range(20))
    assert sk.rmem_alloc == 0


def test_joined_segments_out_of_order(peer: Peer) -> None:
    sock = peer.active()
    peer.send(ACK, 101, 1, b"b" * 100)
    peer.send(ACK, 201, 1, b"c" * 100)
    ofo = sock_of(sock).ofo
    assert ofo is not None and len(ofo) == 1
    peer.send(ACK | FIN, 301, 1)
    peer.send(ACK, 1, 1, b"a" * 100)
    assert sock.recv(5000) == b"a" * 100 + b"b" * 100 + b"c" * 100
    assert sock.recv(5000) == b""


def test_a_full_queue_is_copied_into_less_memory(peer: Peer) -> None:
    peer.tcp.rcv_coalesce = False
    sock = peer.active()
    sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 4000)
    sk = sock_of(sock)
    end = fill(peer, 35, 120)
    assert counters(peer)[1] > 10
    assert sk.rcv_nxt - peer.iss == end
    assert len(sk.receive_queue) < 20
    assert sk.rmem_alloc == sum(skb.truesize for skb in sk.receive_queue)
    data = sock.recv(10000)
    assert data == b"".join(bytes([number]) * 120 for number in range(35))
    assert sk.rmem_alloc == 0


def test_what_is_out_of_order_goes_first(peer: Peer) -> None:
    peer.tcp.rcv_coalesce = False
    sock = peer.active()
    sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 6000)
    sk = sock_of(sock)
    for number in range(7):
        peer.send(ACK, 2001 + number * 1500, 1, b"z" * 1400)
    peer.sent()
    for number in range(6):
        peer.send(ACK, 1 + number * 300, 1, b"a" * 300)
    assert peer.mib.tcp_ext.OfoPruned > 0
    # What was thrown away is not reported any more.
    assert len(sk.selective_acks) == 0 or sk.selective_acks[0][0] - peer.iss == 2001
    assert sk.rcv_nxt - peer.iss == 1801


def test_a_segment_that_finds_no_room_closes_the_window(peer: Peer) -> None:
    peer.tcp.rcv_coalesce = False
    sock = peer.active()
    sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 1)
    end = fill(peer, 2, 1400)
    peer.sent()
    peer.send(ACK, end, 1, b"x" * 1400)
    peer.send(ACK, end, 1, b"x" * 1400)
    assert peer.mib.tcp_ext.TCPRcvQDrop >= 1
    seen = peer.sent()
    assert [(segment.ack, segment.window) for segment in seen][-1:] == [(end, 0)]
    sock.recv(10000)
    peer.expect(flags(ACK), ack(end), length(0))


def test_the_first_window_may_be_larger_than_a_syn_can_say() -> None:
    assert select_initial_window(None, 100_000, 1460, 0, True, 0, 1 << 20) == (99_280, 65535 << 5, 5)
    assert select_initial_window(None, 100_000, 1460, 0, False, 10)[0] == 14_600


def test_a_clamp_that_opens_lets_the_window_follow(peer: Peer) -> None:
    sk = sock_of(peer.active())
    sk.rcv_ssthresh, sk.rcv_wnd, sk.window_clamp = 1000, 5000, 2000
    set_window_clamp(sk, 4000)
    assert (sk.window_clamp, sk.rcv_ssthresh) == (4000, 4000)
    set_window_clamp(sk, 3000)
    assert (sk.window_clamp, sk.rcv_ssthresh) == (3000, 3000)
    set_window_clamp(sk, 65535)
    assert sk.rcv_ssthresh == 5000


def test_a_window_that_may_shrink(peer: Peer) -> None:
    peer.stack.sysctl["net.ipv4.tcp_shrink_window"] = 1
    sock = peer.active(wscale=7)
    sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 20000)
    edges = []
    for number in range(12):
        peer.send(ACK, 1 + number * 1400, 1, b"x" * 1400)
        peer.run(0.05)
        edges += [seen.ack + (seen.window << sock_of(sock).rcv_wscale) for seen in peer.sent()]
    assert any(later < earlier for earlier, later in pairwise(edges))
    assert sock_of(sock).rmem_alloc <= sock_of(sock).rcvbuf


def test_data_behind_the_peers_fin_is_reset(peer: Peer) -> None:
    peer.active()
    peer.send(ACK | FIN, 1, 1)
    peer.sent()
    peer.send(ACK, 1, 1, b"x" * 100)
    peer.expect(flags(RST))
    assert peer.mib.tcp_ext.TCPAbortOnData == 1


def test_memory_of_a_copy() -> None:
    assert [_collapsed(size) for size in (1, 256, 257, 704, 705, 1728, 1729, 3776, 9999)] == [
        832, 832, 1280, 1280, 2304, 2304, 4352, 4352, 4352,
    ]  # fmt: skip
