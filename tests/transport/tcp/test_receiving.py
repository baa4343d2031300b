"""Receiving: order, acknowledgements, SACK blocks, the window, time stamps, urgent data."""

from __future__ import annotations

import errno
import random
import socket as std

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.tcp.harness import SEC, Pair, Peer, ack, code, flags, length, payload, seq, sock_of, state_of
from tests.transport.tcp.invariants import broken
from usernet.core.wait import EPOLLPRI
from usernet.sockets.user import UserSocket
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

MSS = 1460


def sound(sock: UserSocket) -> None:
    assert broken(sock_of(sock)) == []


def relative(peer: Peer, segment) -> list[tuple[int, int]]:
    """A segment's SACK blocks, counted from the peer's initial number."""
    return [(low - peer.iss, high - peer.iss) for low, high in segment.options.sacks or ()]


class TestAcknowledging:
    def test_the_first_segments_at_once(self, peer: Peer) -> None:
        peer.active()
        for number in range(4):
            peer.send(ACK, 1 + number * MSS, 1, b"x" * MSS)
            peer.expect(flags(ACK), ack(1 + (number + 1) * MSS), length(0))

    def test_later_every_second(self, peer: Peer) -> None:
        sock = peer.active()
        at = 1
        for _ in range(60):
            peer.send(ACK, at, 1, b"x" * MSS)
            at += MSS
            sock.recv(MSS)
            peer.run(0.001)
        acks = len(peer.sent())
        assert 25 <= acks <= 50

    def test_a_lonely_segment_after_40_ms(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_QUICKACK, 0)
        # An answer makes the connection interactive.
        peer.send(ACK, 1, 1, b"question")
        peer.sent()
        sock.recv(100)
        sock.send(b"answer")
        peer.settle()
        peer.expect(payload(b"answer"), ack(9))
        peer.send(ACK, 9, 7, b"question")
        peer.expect_after(0.04, flags(ACK), ack(17), length(0))
        assert peer.mib.tcp_ext.DelayedACKs == 1

    def test_quickack_switched_on_sends_what_was_delayed(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_QUICKACK, 0)
        peer.send(ACK, 1, 1, b"question")
        sock.recv(100)
        peer.silent()
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_QUICKACK, 1)
        peer.settle()
        assert any(segment.ack == 9 for segment in peer.sent())

    def test_out_of_order_at_once(self, peer: Peer) -> None:
        peer.active()
        for number in (2, 3, 4):
            peer.send(ACK, 1 + number * MSS, 1, b"x" * MSS)
            peer.expect(flags(ACK), ack(1))

    def test_what_fills_a_gap_at_once(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1 + MSS, 1, b"b" * MSS)
        peer.expect(ack(1))
        peer.send(ACK, 1, 1, b"a" * MSS)
        peer.expect(ack(1 + 2 * MSS))
        assert sock.recv(4 * MSS) == b"a" * MSS + b"b" * MSS
        sound(sock)

    def test_a_duplicate_is_acknowledged(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"data")
        peer.sent()
        peer.send(ACK, 1, 1, b"data")
        peer.expect(ack(5), length(0))
        assert sock.recv(100) == b"data"

    def test_beyond_the_window(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1_000_000, 1, b"far")
        peer.expect(ack(1))
        assert sock_of(sock).ofo in (None, [])

    def test_without_the_ack_flag_nothing_is_taken(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(PSH, 1, None, b"data")
        peer.silent()
        assert code(sock.recv, 10) == errno.EAGAIN

    def test_reading_opens_a_closed_window(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 8192))
        at = 1
        window = 65535
        while window >= 1000:
            peer.send(ACK, at, 1, b"x" * 1000)
            at += 1000
            peer.run(0.3)
            window = peer.sent()[-1].window
        sound(sock)
        while window:
            peer.send(ACK, at, 1, b"x" * window)
            at += window
            peer.run(0.3)
            window = peer.sent()[-1].window
        # Nothing more is taken; a probe is answered.
        peer.send(ACK, at, 1, b"y")
        assert all(segment.ack == (at & 0xFFFFFFFF) for segment in peer.sent())
        total = 0
        while total < at - 1:
            total += len(sock.recv(65536))
        peer.settle()
        assert peer.sent()[-1].window >= 1000
        sound(sock)

    def test_a_fin_behind_the_last_byte_of_the_window_is_taken(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 8192))
        at, last = 1, False
        while not last:
            sk = sock_of(sock)
            room = (sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt) & 0xFFFFFFFF
            last = room <= 1000
            peer.send(ACK | FIN if last else ACK, at, 1, b"x" * min(room, 1000))
            at += min(room, 1000)
            peer.run(0.3)
        assert state_of(sock) == 8
        assert peer.sent()[-1].ack == at + 1

    def test_a_window_is_never_opened_by_a_little(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 8192))
        at = 1
        for _ in range(50):
            sk = sock_of(sock)
            room = (sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt) & 0xFFFFFFFF
            if not room:
                break
            peer.send(ACK, at, 1, b"x" * min(room, MSS))
            at += min(room, MSS)
            peer.run(0.3)
        peer.sent()
        sock.recv(10)
        peer.settle()
        peer.silent()

    def test_the_buffer_grows_with_what_is_read(self) -> None:
        pair = Pair(delay=0.02)
        client, server = pair.connected()
        before = sock_of(server).rcvbuf

        def step() -> bool:
            for call in (lambda: client.send(bytes(200_000)), lambda: server.recv(1 << 20)):
                try:
                    while call():
                        pass
                except BlockingIOError:
                    pass
            return False

        pair.run(1.5, step)
        assert sock_of(server).rcvbuf > 4 * before
        assert sock_of(server).rcvbuf <= 33554432
        pair.end()

    def test_a_buffer_that_was_set_stays(self) -> None:
        pair = Pair(delay=0.02)
        server = pair.listener()
        server.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 20_000)
        client = pair.dial()
        pair.run(1.0)
        accepted = pair.accept(server)

        def step() -> bool:
            for call in (lambda: client.send(bytes(200_000)), lambda: accepted.recv(1 << 20)):
                try:
                    while call():
                        pass
                except BlockingIOError:
                    pass
            return False

        pair.run(1.0, step)
        assert sock_of(accepted).rcvbuf == 40_000
        pair.end()


class TestSelectiveAcknowledgements:
    def test_blocks_the_latest_first(self, peer: Peer) -> None:
        peer.active(sack=True)
        found = []
        for number in (2, 4, 6, 8, 10):
            peer.send(ACK, 1 + number * 100, 1, b"x" * 100)
            found = relative(peer, peer.expect(ack(1)))
        assert found == [(1001, 1101), (801, 901), (601, 701), (401, 501)]

    def test_three_with_time_stamps(self, peer: Peer) -> None:
        peer.active(sack=True, ts=True)
        found = []
        for number in (2, 4, 6, 8):
            peer.send(ACK, 1 + number * 100, 1, b"x" * 100)
            found = relative(peer, peer.expect(ack(1)))
        assert len(found) == 3

    def test_blocks_that_touch_become_one(self, peer: Peer) -> None:
        sock = peer.active(sack=True)
        for start in (201, 401, 301):
            peer.send(ACK, start, 1, b"x" * 100)
        assert relative(peer, peer.sent()[-1]) == [(201, 501)]
        peer.send(ACK, 1, 1, b"y" * 200)
        last = peer.sent()[-1]
        assert (last.ack, last.options.sacks) == (501, None)
        sound(sock)

    def test_a_duplicate_below(self, peer: Peer) -> None:
        peer.active(sack=True)
        peer.send(ACK, 1, 1, b"x" * 200)
        peer.sent()
        peer.send(ACK, 101, 1, b"x" * 100)
        assert relative(peer, peer.expect(ack(201))) == [(101, 201)]

    def test_a_duplicate_above(self, peer: Peer) -> None:
        sock = peer.active(sack=True)
        peer.send(ACK, 201, 1, b"x" * 200)
        peer.sent()
        peer.send(ACK, 301, 1, b"x" * 100)
        assert relative(peer, peer.expect(ack(1))) == [(301, 401), (201, 401)]
        sound(sock)

    def test_no_duplicate_blocks_where_switched_off(self) -> None:
        peer = Peer(tcp_dsack=0)
        peer.active(sack=True)
        peer.send(ACK, 1, 1, b"x" * 200)
        peer.sent()
        peer.send(ACK, 1, 1, b"x" * 200)
        assert peer.expect(ack(201)).options.sacks is None
        peer.end()

    def test_none_where_the_peer_did_not_permit_them(self, peer: Peer) -> None:
        peer.active()
        peer.send(ACK, 201, 1, b"x" * 200)
        assert peer.expect(ack(1)).options.sacks is None

    def test_a_fin_out_of_order_waits_for_what_is_before_it(self, peer: Peer) -> None:
        sock = peer.active(sack=True)
        peer.send(FIN, 6, 1, b"world")
        peer.sent()
        assert state_of(sock) == 1
        peer.send(ACK, 1, 1, b"hello")
        peer.settle()
        assert peer.sent()[-1].ack == 12
        assert sock.recv(100) == b"helloworld"
        assert sock.recv(100) == b""
        assert state_of(sock) == 8


@settings(max_examples=60)
@given(st.data())
def test_any_order_overlap_and_repetition_gives_the_stream(data: st.DataObject) -> None:
    """Pieces of a stream, cut and repeated at will, in any order: what is read is the stream."""
    size = data.draw(st.integers(1, 3000))
    stream = random.Random(size).randbytes(size)
    pieces = data.draw(
        st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 900)), max_size=25), label="pieces"
    )
    with Peer() as peer:
        sock = peer.active(sack=data.draw(st.booleans()), ts=data.draw(st.booleans()))
        read = bytearray()
        covering = [(start, 700) for start in range(0, size, 700)]
        order = pieces + (covering if data.draw(st.booleans()) else covering[::-1]) + covering
        for start, count in order:
            part = stream[start : start + count]
            last = start + count >= size and data.draw(st.booleans())
            peer.send(FIN | ACK if last else ACK, 1 + start, 1, part)
            sound(sock)
            if data.draw(st.booleans()):
                try:
                    read += sock.recv(data.draw(st.integers(1, 1000)))
                except BlockingIOError:
                    pass
                sound(sock)
        peer.send(FIN | ACK, 1 + size, 1)
        for _ in range(10_000):
            part = sock.recv(4000)
            read += part
            if not part:
                break
        assert bytes(read) == stream
        sound(sock)


class TestTimeStamps:
    def test_echoed(self, peer: Peer) -> None:
        peer.active(ts=True)
        peer.tsval = 20_000
        peer.send(ACK, 1, 1, b"x")
        assert peer.expect(flags(ACK)).options.tsecr == 20_000

    def test_of_an_out_of_order_segment_are_not_echoed(self, peer: Peer) -> None:
        peer.active(ts=True)
        peer.tsval = 20_000
        peer.send(ACK, 100, 1, b"x")
        assert peer.expect(flags(ACK)).options.tsecr == 10_000

    def test_an_old_segment_is_dropped_and_acknowledged(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        peer.tsval -= 100
        peer.send(ACK, 1, 1, b"old")
        peer.expect(flags(ACK), ack(1))
        assert peer.mib.tcp_ext.PAWSEstab == 1
        assert code(sock.recv, 9) == errno.EAGAIN

    def test_after_24_days_an_old_stamp_is_as_good_as_new(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        peer.run(25 * 86400.0)
        peer.sent()
        peer.tsval -= 100
        peer.send(ACK, 1, 1, b"new")
        assert sock.recv(9) == b"new"

    def test_a_reset_is_taken_even_so(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        peer.tsval -= 100
        peer.send(RST, 1)
        assert state_of(sock) == 7

    def test_not_offered_where_switched_off(self) -> None:
        peer = Peer(tcp_timestamps=0, tcp_sack=0, tcp_window_scaling=0)
        peer.dial()
        options = peer.expect(flags(SYN)).options
        assert (options.has_ts, options.sack_ok, options.wscale) == (False, False, -1)
        peer.end()

    def test_the_clock_runs_in_milliseconds(self, peer: Peer) -> None:
        sock = peer.active(ts=True)
        before = peer.tsecr
        peer.run(5.0)
        sock.send(b"x")
        peer.settle()
        peer.sent()
        assert peer.tsecr - before == 5000


class TestUrgent:
    def announce(self, peer: Peer) -> UserSocket:
        sock = peer.active()
        peer.send(ACK | URG, 1, 1, b"abcd", urg=3)
        return sock

    def test_out_of_band(self, peer: Peer) -> None:
        sock = self.announce(peer)
        assert sock_of(sock).poll() & EPOLLPRI
        assert sock.recv(100) == b"ab"
        assert sock.recv(1, std.MSG_OOB) == b"c"
        assert sock_of(sock).poll() & EPOLLPRI == 0
        assert sock.recv(100) == b"d"
        assert code(sock.recv, 1, std.MSG_OOB) == errno.EINVAL

    def test_peek_leaves_it(self, peer: Peer) -> None:
        sock = self.announce(peer)
        assert sock.recv(1, std.MSG_OOB | std.MSG_PEEK) == b"c"
        assert sock.recv(1, std.MSG_OOB) == b"c"
        assert code(sock.recv, 1, std.MSG_OOB) == errno.EINVAL

    def test_a_peek_beyond_the_mark_leaves_it_too(self, peer: Peer) -> None:
        sock = self.announce(peer)
        assert sock.recv(100) == b"ab"
        assert sock.recv(100, std.MSG_PEEK) == b"d"
        assert sock.recv(1, std.MSG_OOB) == b"c"
        assert sock.recv(100, std.MSG_PEEK) == b"d"
        assert sock.recv(100) == b"d"

    def test_inline(self, peer: Peer) -> None:
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_OOBINLINE, 1))
        peer.send(ACK | URG, 1, 1, b"abcd", urg=3)
        assert code(sock.recv, 1, std.MSG_OOB) == errno.EINVAL
        assert sock.recv(100) == b"ab"
        assert sock.recv(100) == b"cd"

    def test_announced_before_it_comes(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK | URG, 1, 1, b"ab", urg=5)
        assert code(sock.recv, 1, std.MSG_OOB) == errno.EAGAIN
        assert sock.recv(100) == b"ab"
        peer.send(ACK, 3, 1, b"cdef")
        assert sock.recv(1, std.MSG_OOB) == b"e"
        assert sock.recv(100) == b"cd"
        assert sock.recv(100) == b"f"

    def test_none_at_all(self, peer: Peer) -> None:
        assert code(peer.active().recv, 1, std.MSG_OOB) == errno.EINVAL

    def test_by_rfc_793_where_asked(self) -> None:
        peer = Peer(tcp_stdurg=1)
        sock = peer.active()
        peer.send(ACK | URG, 1, 1, b"abcd", urg=2)
        assert sock.recv(1, std.MSG_OOB) == b"c"
        peer.end()

    def test_between_two_stacks(self, pair: Pair) -> None:
        client, server = pair.connected()
        client.send(b"one")
        client.send(b"!", std.MSG_OOB)
        client.send(b"two")
        pair.run(1.0)
        assert server.recv(100) == b"one"
        assert server.recv(1, std.MSG_OOB) == b"!"
        assert server.recv(100) == b"two"


class TestReading:
    def test_peek(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"hello")
        peer.send(ACK, 6, 1, b"world")
        assert sock.recv(3, std.MSG_PEEK) == b"hel"
        assert sock.recv(100, std.MSG_PEEK) == b"helloworld"
        assert sock.recv(100) == b"helloworld"
        sound(sock)

    def test_trunc_throws_away(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"helloworld")
        buffer = bytearray(b"....." * 2)
        assert sock.recv_into(buffer, 5, std.MSG_TRUNC) == 5
        assert buffer == b".........."
        assert sock.recv(100) == b"world"
        sound(sock)

    def test_dontwait(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setblocking(True)
        assert code(sock.recv, 1, std.MSG_DONTWAIT) == errno.EAGAIN

    def test_waitall_has_what_there_is_at_the_end(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"hello")
        peer.send(FIN, 6, 1)
        assert sock.recv(100, std.MSG_WAITALL) == b"hello"
        assert sock.recv(100, std.MSG_WAITALL) == b""

    def test_not_connected(self, peer: Peer) -> None:
        assert code(peer.socket().recv, 1) == errno.ENOTCONN
        assert code(peer.listen().recv, 1) == errno.ENOTCONN
        assert code(peer.socket().send, b"x") == errno.EPIPE

    def test_nothing_asked_for(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"hello")
        assert sock.recv(0) == b""
        assert sock.recv(9) == b"hello"

    def test_a_peeked_end_of_stream_stays(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(FIN, 1, 1, b"x")
        assert sock.recv(5, std.MSG_PEEK) == b"x"
        assert sock.recv(5) == b"x"
        assert sock.recv(5, std.MSG_PEEK) == b""
        assert sock.recv(5) == b""
        assert sock.recv(5) == b""
        sound(sock)

    def test_memory_is_bounded_by_the_buffer(self, peer: Peer) -> None:
        """A peer that ignores the window, in order and out of order, with the smallest segments."""
        sock = peer.active(lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, 20_000), sack=True)
        for number in range(300):
            peer.send(ACK, 3 + 2 * number, 1, b"x")
            sound(sock)
        assert sock_of(sock).rmem_alloc <= sock_of(sock).rcvbuf + 2000
        peer.send(ACK, 1, 1, b"yy")
        sound(sock)
        for _ in range(300):
            peer.send(ACK, sock_of(sock).rcv_nxt - peer.iss, 1, b"z")
            sound(sock)
        assert sock_of(sock).rmem_alloc <= sock_of(sock).rcvbuf + 2000
        peer.sent()


_ = (SEC, seq, pytest)
