"""Every state and transition of RFC 9293: opens, closes, resets."""

from __future__ import annotations

import errno
import socket as std
from collections.abc import Callable, Iterator

import pytest

from tests.transport.tcp.harness import (
    LOCAL,
    MSEC,
    REMOTE,
    SEC,
    Pair,
    Peer,
    ack,
    code,
    flags,
    icmp_packet,
    left_over,
    length,
    payload,
    seq,
    sock_of,
    state_of,
)
from tests.transport.tcp.invariants import broken
from tests.transport.tcp.states import STATES, SYNCHRONISED, enter
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLRDNORM, EPOLLWRNORM
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.const import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

IN = EPOLLIN | EPOLLRDNORM
OUT = EPOLLOUT | EPOLLWRNORM


def records(peer: Peer) -> list[TimeWaitSock]:
    return [entry for entry in peer.tcp.table.values() if isinstance(entry, TimeWaitSock)]


class TestOpening:
    def test_active(self, peer: Peer) -> None:
        sock = peer.dial()
        assert state_of(sock) == TCP_SYN_SENT
        syn = peer.expect(flags(SYN), length(0))
        assert (syn.options.mss, syn.options.sack_ok, syn.options.has_ts) == (1460, True, True)
        assert syn.options.wscale >= 0
        peer.send(SYN, 0, 1, options=peer.syn_options())
        peer.expect(flags(ACK), seq(1), ack(1), length(0))
        assert state_of(sock) == TCP_ESTABLISHED
        assert sock.connect_ex(("10.0.0.2", 80)) == 0
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.EISCONN
        assert (peer.mib.tcp.ActiveOpens, peer.mib.tcp.CurrEstab) == (1, 1)

    def test_passive(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK), ack(1))
        assert code(server.accept) == errno.EAGAIN
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        assert sock.getpeername() == ("10.0.0.2", 40000)
        assert state_of(sock) == TCP_ESTABLISHED
        assert (peer.mib.tcp.PassiveOpens, peer.mib.tcp.CurrEstab) == (1, 1)
        peer.silent()

    def test_simultaneous(self, peer: Peer) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK), seq(0), ack(1))
        assert state_of(sock) == TCP_SYN_RECV
        peer.send(SYN, 0, 1, options=peer.syn_options())
        assert state_of(sock) == TCP_ESTABLISHED
        peer.sent()
        assert sock.connect_ex(("10.0.0.2", 80)) == 0
        assert sock.send(b"hello") == 5
        peer.settle()
        peer.expect(payload(b"hello"), seq(1), ack(1))
        peer.send(ACK, 1, 6, b"back")
        assert sock.recv(10) == b"back"

    def test_simultaneous_acknowledged_without_a_second_syn(self, peer: Peer) -> None:
        sock = enter(peer, "SYN_RECV")
        assert sock is not None
        peer.send(ACK, 1, 1)
        assert state_of(sock) == TCP_ESTABLISHED

    def test_two_stacks_open_at_the_same_time(self) -> None:
        pair = Pair(delay=0.01)
        one, two = pair.socket(pair.left), pair.socket(pair.right)
        for sock in (one, two):
            sock.bind(("0.0.0.0", 5000))
        assert one.connect_ex(("10.0.0.2", 5000)) == errno.EINPROGRESS
        assert two.connect_ex(("10.0.0.1", 5000)) == errno.EINPROGRESS
        pair.run(1.0)
        assert one.connect_ex(("10.0.0.2", 5000)) == 0
        assert two.connect_ex(("10.0.0.1", 5000)) == 0
        one.send(b"one")
        two.send(b"two")
        pair.run(1.0)
        assert (one.recv(9), two.recv(9)) == (b"two", b"one")
        one.close()
        two.close()
        pair.end()

    def test_a_socket_connects_to_itself(self, peer: Peer) -> None:
        sock = peer.socket()
        sock.bind(("127.0.0.1", 7000))
        sock.connect_ex(("127.0.0.1", 7000))
        peer.settle()
        assert state_of(sock) == TCP_ESTABLISHED
        sock.send(b"me")
        peer.settle()
        assert sock.recv(9) == b"me"

    def test_data_with_the_handshakes_last_segment_is_taken(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        peer.send(ACK | PSH, 1, 1, b"GET")
        sock = peer.accept(server)
        assert sock.recv(9) == b"GET"

    def test_a_fin_with_the_handshakes_last_segment_is_taken(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        peer.send(ACK | FIN, 1, 1)
        sock = peer.accept(server)
        assert state_of(sock) == TCP_CLOSE_WAIT
        assert sock.recv(9) == b""
        peer.expect(flags(ACK), ack(2))


    def test_data_and_a_fin_with_the_syn_and_ack(self, peer: Peer) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(SYN | FIN, 0, 1, b"hi", options=peer.syn_options())
        peer.expect(flags(ACK), ack(4))
        assert sock.recv(9) == b"hi"
        assert sock.recv(9) == b""
        assert state_of(sock) == TCP_CLOSE_WAIT

    def test_data_with_the_first_syn_is_not_taken(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, 0, None, b"early", options=peer.syn_options())
        peer.expect(flags(SYN | ACK), ack(1))
        peer.send(ACK, 1, 1, b"early")
        assert peer.accept(server).recv(9) == b"early"

    def test_closed_before_the_simultaneous_open_is_complete(self, peer: Peer) -> None:
        sock = enter(peer, "SYN_RECV")
        assert sock is not None
        sock.close()
        peer.settle()
        peer.expect(flags(FIN | ACK), seq(1))
        peer.send(ACK, 1, 2)
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK), ack(2))
        assert len(records(peer)) == 1

    def test_a_simultaneous_open_that_is_not_answered_gives_up(self, peer: Peer) -> None:
        sock = enter(peer, "SYN_RECV")
        assert sock is not None
        peer.run(400.0)
        assert [round(segment.at / SEC) - 1 for segment in peer.sent()] == [1, 3, 7, 15, 31, 63]
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.ETIMEDOUT


class TestOrphans:
    def test_are_bounded(self) -> None:
        with Peer(tcp_max_orphans=2) as peer:
            ends = []
            for _ in range(4):
                sock = peer.active()
                sock.send(b"x")
                sock.close()
                peer.settle()
                ends.append(peer.sent()[-1].flags & (FIN | RST))
            assert ends == [FIN, FIN, RST, RST]
            assert len(peer.tcp.orphans) == 2
            assert peer.mib.tcp_ext.TCPAbortOnMemory == 2


class TestFailedConnect:
    def check(self, peer: Peer, wanted: int) -> None:
        sock = peer.sock
        assert sock is not None
        assert sock_of(sock).poll() & (EPOLLERR | EPOLLHUP) == EPOLLERR | EPOLLHUP
        assert broken(sock_of(sock)) == []
        assert sock.connect_ex(("10.0.0.2", 80)) == wanted
        assert peer.tcp.table == {}
        assert peer.tcp.ports.buckets == {}
        # The same socket may try again.
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
        peer.settle()
        peer.sent()
        sock.close()
        peer.settle()
        assert left_over(peer.stack) == []

    def test_refused(self, peer: Peer) -> None:
        peer.dial()
        peer.expect(flags(SYN))
        peer.send(RST, 0, 1)
        peer.silent()
        assert peer.mib.tcp.AttemptFails == 1
        self.check(peer, errno.ECONNREFUSED)

    def test_so_error_gives_it_once(self, peer: Peer) -> None:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.send(RST, 0, 1)
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == errno.ECONNREFUSED
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == 0
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.ECONNABORTED

    def test_timed_out(self, peer: Peer) -> None:
        peer.dial()
        peer.run(300.0)
        # Four time-outs of a second each, then doubling.
        times = [segment.at / SEC - 1.0 for segment in peer.sent()]
        assert times == [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67]
        self.check(peer, errno.ETIMEDOUT)

    def test_syncnt(self, peer: Peer) -> None:
        peer.dial(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_SYNCNT, 1))
        peer.run(300.0)
        # Four linear time-outs are added to the count, but the time that one retransmission takes is over first.
        assert [segment.at / SEC - 1.0 for segment in peer.sent()] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("kind", "icmp_code", "wanted"),
        [(3, 0, errno.ENETUNREACH), (3, 1, errno.EHOSTUNREACH), (3, 2, errno.ENOPROTOOPT), (3, 3, errno.ECONNREFUSED)],
    )
    def test_icmp(self, peer: Peer, kind: int, icmp_code: int, wanted: int) -> None:
        peer.dial()
        packet = peer.nic.sent[0][0]
        peer.expect(flags(SYN))
        peer.packet(icmp_packet(kind, icmp_code, 0, packet[:28]))
        self.check(peer, wanted)

    def test_icmp_about_another_sequence_number_is_ignored(self, peer: Peer) -> None:
        sock = peer.dial()
        packet = bytearray(peer.nic.sent[0][0][:28])
        packet[24] ^= 0x40
        peer.expect(flags(SYN))
        peer.packet(icmp_packet(3, 3, 0, bytes(packet)))
        assert state_of(sock) == TCP_SYN_SENT
        assert peer.mib.tcp_ext.OutOfWindowIcmps == 1

    def test_no_route(self, peer: Peer) -> None:
        sock = peer.socket()
        assert code(sock.connect, ("192.0.2.1", 80)) == errno.ENETUNREACH
        assert left_over(peer.stack)[1:] == []
        assert sock.getsockname() == ("0.0.0.0", 0)

    def test_no_port_left(self, peer: Peer) -> None:
        peer.stack.sysctl["net.ipv4.ip_local_port_range"] = (40000, 40001)
        socks = [peer.dial() for _ in range(2)]
        last = peer.socket()
        assert code(last.connect, ("10.0.0.2", 80)) == errno.EADDRNOTAVAIL
        assert state_of(last) == TCP_CLOSE
        # To another peer the ports serve again.
        assert last.connect_ex(("10.0.0.3", 80)) == errno.EINPROGRESS
        for sock in (*socks, last):
            sock.close()

    @pytest.mark.parametrize(
        ("address", "wanted"), [("224.0.0.1", errno.ENETUNREACH), ("255.255.255.255", errno.ENETUNREACH)]
    )
    def test_to_a_group_or_a_broadcast(self, peer: Peer, address: str, wanted: int) -> None:
        assert code(peer.socket().connect, (address, 80)) == wanted

    def test_twice_from_one_port(self, peer: Peer) -> None:
        first, second = peer.socket(), peer.socket()
        for sock in (first, second):
            sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
            sock.bind(("10.0.0.1", 6000))
        assert first.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
        assert second.connect_ex(("10.0.0.2", 80)) == errno.EADDRNOTAVAIL
        assert second.connect_ex(("10.0.0.2", 81)) == errno.EINPROGRESS
        assert len(peer.tcp.table) == 2

    def test_in_progress_already_connected(self, peer: Peer) -> None:
        sock = peer.dial()
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.EALREADY
        peer.expect(flags(SYN))
        assert code(sock.recv, 1) == errno.EAGAIN
        assert code(sock.send, b"x") == errno.EAGAIN
        assert code(sock.getpeername) == errno.ENOTCONN
        peer.send(SYN, 0, 1, options=peer.syn_options())
        assert sock.getpeername() == ("10.0.0.2", 80)

    def test_closed_while_connecting(self, peer: Peer) -> None:
        peer.dial().close()
        peer.expect(flags(SYN))
        assert left_over(peer.stack) == []
        # The answer finds nobody.
        peer.send(SYN, 0, 1, options=peer.syn_options())
        peer.expect(flags(RST), seq(1))

    def test_listening_socket_can_not_connect(self, peer: Peer) -> None:
        server = peer.listen()
        assert code(server.connect, ("10.0.0.2", 80)) == errno.EISCONN


class TestClosing:
    def test_the_stack_first(self, peer: Peer) -> None:
        sock = peer.active()
        sock.close()
        peer.settle()
        peer.expect(flags(FIN | ACK), seq(1))
        peer.send(ACK, 1, 2)
        # Nobody holds it: only a record is left while the peer's FIN is missing.
        assert records(peer)[0].substate == TCP_FIN_WAIT2
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK), seq(2), ack(2))
        assert records(peer)[0].substate == 6
        peer.run(59.9)
        assert len(records(peer)) == 1
        peer.run(0.2)
        assert left_over(peer.stack) == []

    def test_half_closed_the_peer_goes_on_sending(self, peer: Peer) -> None:
        sock = peer.active()
        sock.shutdown(std.SHUT_WR)
        peer.settle()
        peer.expect(flags(FIN | ACK))
        assert state_of(sock) == TCP_FIN_WAIT1
        peer.send(ACK, 1, 2)
        assert state_of(sock) == TCP_FIN_WAIT2
        peer.send(ACK, 1, 2, b"still here")
        assert sock.recv(100) == b"still here"
        assert code(sock.send, b"no") == errno.EPIPE
        # Held by a program, FIN-WAIT-2 has no end of its own.
        peer.run(1000.0)
        assert state_of(sock) == TCP_FIN_WAIT2
        peer.sent()
        peer.send(FIN, 11, 2)
        peer.expect(flags(ACK), ack(12))
        assert sock.recv(100) == b""
        assert len(records(peer)) == 1

    def test_the_peer_first(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(FIN, 1, 1)
        peer.expect(flags(ACK), ack(2))
        assert state_of(sock) == TCP_CLOSE_WAIT
        assert sock.recv(1) == b""
        assert sock.send(b"rest") == 4
        sock.close()
        peer.settle()
        segments = peer.sent()
        assert segments[0].payload == b"rest"
        assert segments[-1].flags & FIN
        assert segments[-1].seq + len(segments[-1].payload) == 5
        peer.send(ACK, 2, 6)
        assert left_over(peer.stack) == []

    def test_both_at_the_same_time(self, peer: Peer) -> None:
        sock = peer.active()
        sock.shutdown(std.SHUT_WR)
        peer.settle()
        peer.expect(flags(FIN | ACK), ack(1))
        peer.send(FIN, 1, 1)
        peer.expect(flags(ACK), seq(2), ack(2))
        assert state_of(sock) == TCP_CLOSING
        peer.send(ACK, 2, 2)
        assert state_of(sock) == TCP_CLOSE
        assert len(records(peer)) == 1

    def test_fin_and_acknowledgement_of_ours_in_one(self, peer: Peer) -> None:
        sock = enter(peer, "FIN_WAIT1")
        assert sock is not None
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK), ack(2))
        assert len(records(peer)) == 1

    @pytest.mark.parametrize("state", ["FIN_WAIT1", "CLOSING", "LAST_ACK"])
    def test_a_lost_fin_is_sent_again(self, peer: Peer, state: str) -> None:
        enter(peer, state)
        expected = 1 if state == "FIN_WAIT1" else 2
        for _ in range(3):
            peer.run(10.0)
            again = peer.sent()
            assert again
            assert all(segment.flags & FIN and segment.seq == 1 and segment.ack == expected for segment in again)

    @pytest.mark.parametrize("state", ["FIN_WAIT1", "CLOSING", "LAST_ACK"])
    def test_an_orphan_gives_up(self, peer: Peer, state: str) -> None:
        enter(peer, state, held=False)
        peer.run(2000.0)
        assert left_over(peer.stack) == []
        assert peer.mib.tcp_ext.TCPAbortOnTimeout == 1

    def test_fin_wait2_of_an_orphan_ends(self, peer: Peer) -> None:
        enter(peer, "FIN_WAIT2", held=False)
        peer.run(61.0)
        assert left_over(peer.stack) == []
        peer.send(FIN, 1, 2)
        peer.expect(flags(RST))

    def test_fin_wait2_of_an_orphan_by_linger2(self, peer: Peer) -> None:
        peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_LINGER2, 5)).close()
        peer.settle()
        peer.send(ACK, 1, 2)
        peer.run(5.1)
        assert left_over(peer.stack) == []

    def test_fin_wait2_longer_than_time_wait(self) -> None:
        peer = Peer(tcp_fin_timeout=100)
        enter(peer, "FIN_WAIT2", held=False)
        # 40 s as a socket, and as Linux has it 40 more as a record.
        peer.run(39.0)
        assert records(peer) == []
        peer.run(40.0)
        assert len(records(peer)) == 1
        peer.run(2.0)
        assert left_over(peer.stack) == []
        peer.end()

    def test_negative_linger2_resets_instead(self, peer: Peer) -> None:
        peer.active(lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_LINGER2, -1)).close()
        peer.settle()
        peer.expect(flags(FIN | ACK))
        peer.send(ACK, 1, 2)
        peer.expect(flags(RST))
        assert left_over(peer.stack) == []

    def test_data_for_a_closed_socket_is_reset(self, peer: Peer) -> None:
        enter(peer, "FIN_WAIT1", held=False)
        peer.send(ACK, 1, 1, b"too late")
        peer.expect(flags(RST), seq(1))
        assert left_over(peer.stack) == []

    def test_data_for_a_closed_socket_in_fin_wait2_is_reset(self, peer: Peer) -> None:
        enter(peer, "FIN_WAIT2", held=False)
        peer.send(ACK, 1, 2, b"too late")
        peer.expect(flags(RST))
        assert left_over(peer.stack) == []

    def test_close_with_unread_data_resets(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"unread")
        peer.sent()
        sock.close()
        peer.settle()
        peer.expect(flags(RST | ACK), seq(1), ack(7))
        peer.silent()
        assert left_over(peer.stack) == []
        assert peer.mib.tcp_ext.TCPAbortOnClose == 1

    def test_close_with_only_the_end_of_stream_unread_does_not(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(FIN, 1, 1)
        peer.sent()
        sock.close()
        peer.settle()
        peer.expect(flags(FIN | ACK))

    def test_close_after_part_was_read_resets(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"unread")
        assert sock.recv(3) == b"unr"
        peer.sent()
        sock.close()
        peer.settle()
        peer.expect(flags(RST | ACK))

    def test_shutdown_to_read_gives_the_end_of_stream(self, peer: Peer) -> None:
        sock = peer.active()
        sock.shutdown(std.SHUT_RD)
        assert sock.recv(1) == b""
        # Nothing is told to the peer, and what it sends is still taken, as in Linux.
        peer.silent()
        peer.send(ACK, 1, 1, b"data")
        assert sock.recv(9) == b"data"

    def test_shutdown_in_every_state_that_has_no_connection(self, peer: Peer) -> None:
        assert code(peer.socket().shutdown, 2) == errno.ENOTCONN
        server = peer.listen()
        server.shutdown(std.SHUT_WR)
        assert state_of(server) == TCP_LISTEN
        server.shutdown(std.SHUT_RD)
        assert state_of(server) == TCP_CLOSE
        server.listen(1)
        assert state_of(server) == TCP_LISTEN


class TestLinger:
    def linger(self, seconds: int) -> Callable[[UserSocket], None]:
        value = (1).to_bytes(4, "little") + seconds.to_bytes(4, "little")
        return lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, value)

    @pytest.mark.parametrize("state", ["ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT2"])
    def test_zero_aborts(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state)
        assert sock is not None
        self.linger(0)(sock)
        sock.close()
        peer.settle()
        peer.expect(flags(RST | ACK))
        peer.silent()
        assert left_over(peer.stack) == []

    def step(self, peer: Peer, call: Iterator[object]) -> bool:
        """Run a waiting call on; returns whether it still waits."""
        loop = peer.stack.loop
        loop.enter()
        try:
            next(call)
        except StopIteration:
            return False
        finally:
            loop.leave()
        return True

    def close(self, peer: Peer, sock: UserSocket) -> Iterator[object]:
        loop = peer.stack.loop
        loop.enter()
        try:
            call = sock_of(sock).close()
        finally:
            loop.leave()
        assert call is not None
        return call

    def test_waits_until_all_is_acknowledged(self, peer: Peer) -> None:
        sock = peer.active(self.linger(5))
        sock.send(b"x")
        call = self.close(peer, sock)
        peer.settle()
        assert self.step(peer, call)
        peer.send(ACK, 1, 2)
        assert self.step(peer, call)
        peer.send(ACK, 1, 3)
        assert not self.step(peer, call)
        assert records(peer)[0].substate == TCP_FIN_WAIT2

    def test_waits_no_longer_than_it_says(self, peer: Peer) -> None:
        sock = peer.active(self.linger(5))
        call = self.close(peer, sock)
        assert self.step(peer, call)
        peer.run(5.1)
        assert not self.step(peer, call)
        # The connection goes on closing without anyone.
        assert sock_of(sock).dead
        assert state_of(sock) == TCP_FIN_WAIT1
        peer.run(300.0)
        assert left_over(peer.stack) == []

    def test_zero_drops_what_was_not_sent(self, peer: Peer) -> None:
        sock = peer.active(self.linger(0), win=0)
        sock.send(b"never")
        sock.close()
        peer.settle()
        peer.expect(flags(RST | ACK), seq(1))
        assert left_over(peer.stack) == []


class TestResets:
    @pytest.mark.parametrize("state", SYNCHRONISED)
    def test_exact_reset_ends_it(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state)
        assert sock is not None
        peer.send(RST, sock_of(sock).rcv_nxt - peer.iss)
        peer.silent()
        assert state_of(sock) == TCP_CLOSE
        wanted = errno.EPIPE if state == "CLOSE_WAIT" else errno.ECONNRESET
        assert sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == wanted
        assert peer.tcp.table == {}

    @pytest.mark.parametrize("state", ["FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK"])
    def test_exact_reset_of_an_orphan_leaves_nothing(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state, held=False)
        assert sock is not None
        peer.send(RST, 2 if state in ("CLOSING", "LAST_ACK") else 1)
        assert left_over(peer.stack) == []

    @pytest.mark.parametrize("state", SYNCHRONISED)
    def test_a_reset_elsewhere_in_the_window_is_challenged(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state)
        assert sock is not None
        before = state_of(sock)
        peer.send(RST, 100)
        peer.expect(flags(ACK), length(0))
        assert peer.mib.tcp_ext.TCPChallengeACK == 1
        # Outside the window there is no answer at all.
        peer.send(RST, 10_000_000)
        peer.silent()
        assert state_of(sock) == before

    @pytest.mark.parametrize("state", SYNCHRONISED)
    def test_a_syn_is_challenged(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state)
        assert sock is not None
        before = state_of(sock)
        peer.send(SYN, 10)
        peer.expect(flags(ACK), length(0))
        assert peer.mib.tcp_ext.TCPSYNChallenge == 1
        assert state_of(sock) == before

    def test_challenges_are_rationed(self, peer: Peer) -> None:
        peer.active()
        for _ in range(10):
            peer.send(SYN, 10)
        assert len(peer.sent()) == 1
        assert peer.mib.tcp_ext.TCPACKSkippedChallenge == 9
        peer.run(0.6)
        peer.send(SYN, 10)
        assert len(peer.sent()) == 1

    def test_the_namespace_rations_challenges(self) -> None:
        peer = Peer(tcp_challenge_ack_limit=2, tcp_invalid_ratelimit=0)
        peer.active()
        for _ in range(20):
            peer.send(SYN, 10)
        assert len(peer.sent()) <= 3
        peer.end()

    def test_in_listen(self, peer: Peer) -> None:
        enter(peer, "LISTEN")
        peer.send(RST)
        peer.send(RST, 0, 5)
        peer.silent()

    def test_in_syn_sent_without_acknowledgement(self, peer: Peer) -> None:
        sock = enter(peer, "SYN_SENT")
        assert sock is not None
        peer.send(RST, 0)
        peer.silent()
        assert state_of(sock) == TCP_SYN_SENT

    @pytest.mark.parametrize("acknowledged", [0, 2, -1])
    def test_in_syn_sent_with_a_wrong_acknowledgement(self, peer: Peer, acknowledged: int) -> None:
        sock = enter(peer, "SYN_SENT")
        assert sock is not None
        peer.send(RST, 0, acknowledged)
        peer.silent()
        assert state_of(sock) == TCP_SYN_SENT
        peer.send(SYN, 0, acknowledged)
        reset = peer.expect(flags(RST), length(0))
        assert reset.seq == acknowledged & 0xFFFFFFFF
        assert state_of(sock) == TCP_SYN_SENT

    def test_in_syn_recv(self, peer: Peer) -> None:
        sock = enter(peer, "SYN_RECV")
        assert sock is not None
        peer.send(RST, 1)
        assert state_of(sock) == TCP_CLOSE
        assert peer.tcp.table == {}

    def test_of_a_request(self, peer: Peer) -> None:
        server = enter(peer, "NEW_SYN_RECV")
        assert server is not None
        peer.send(RST, 1)
        peer.silent()
        assert sock_of(server).request_queue.syn_queue == 0
        assert peer.tcp.table == {}
        assert peer.mib.tcp_ext.EmbryonicRsts == 1

    def test_in_time_wait(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT")
        peer.send(RST, 2)
        assert records(peer) == []

    def test_in_time_wait_rfc1337(self) -> None:
        peer = Peer(tcp_rfc1337=1)
        enter(peer, "TIME_WAIT")
        peer.send(RST, 2)
        assert len(records(peer)) == 1
        peer.end()

    def test_of_closed_ports(self, peer: Peer) -> None:
        enter(peer, "CLOSED")
        peer.send(SYN, 7)
        peer.expect(flags(RST | ACK), seq(0), ack(8))
        peer.send(ACK, 7, 99)
        peer.expect(flags(RST), seq(99))
        peer.send(FIN | PSH, 7, None, b"ab")
        peer.expect(flags(RST | ACK), ack(10))
        peer.send(RST, 7)
        peer.silent()
        assert peer.mib.tcp.OutRsts == 3

    def test_pending_data_is_readable_no_more(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"data")
        peer.send(RST, 5)
        assert sock.recv(2) == b"da"
        assert sock.recv(9) == b"ta"
        assert code(sock.recv, 1) == errno.ECONNRESET
        assert sock.recv(1) == b""
        assert code(sock.send, b"x") == errno.EPIPE

    def test_a_reset_at_the_edge_of_what_was_selectively_acknowledged(self, peer: Peer) -> None:
        sock = peer.active(sack=True)
        peer.send(ACK, 101, 1, b"x" * 100)
        peer.sent()
        peer.send(RST, 201)
        assert state_of(sock) == TCP_CLOSE


class TestTimeWait:
    def test_a_retransmitted_fin_is_acknowledged_and_starts_the_clock_anew(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT")
        peer.run(50.0)
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK), seq(2), ack(2))
        peer.run(50.0)
        assert len(records(peer)) == 1
        peer.run(11.0)
        assert records(peer) == []

    def test_a_new_syn_above_opens_a_new_connection(self, peer: Peer) -> None:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        sock.close()
        peer.settle()
        old = peer.expect(flags(FIN | ACK))
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK))
        assert len(records(peer)) == 1
        peer.send(SYN, 1000, options=peer.syn_options())
        answer = peer.expect(flags(SYN | ACK), ack(1001))
        assert records(peer) == []
        # Its numbers can't be confused with the old ones.
        assert (answer.raw_seq - old.raw_seq) & 0xFFFFFFFF == 1 + 65535 + 2
        peer.send(ACK, 1001, 1)
        assert code(peer.accept, server) == 0

    def test_an_old_syn_is_acknowledged(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT")
        peer.send(SYN, -500)
        peer.expect(flags(ACK), ack(2))

    def test_a_syn_where_nobody_listens_any_more(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT")
        peer.send(SYN, 1000)
        peer.expect(flags(ACK), ack(2))
        assert len(records(peer)) == 1

    def test_the_port_can_be_bound_with_reuseaddr_only(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT", held=False)
        port = peer.local_port
        assert code(peer.socket().bind, ("0.0.0.0", port)) == errno.EADDRINUSE

    def test_connecting_again_from_the_same_port_goes_on_from_the_old_numbers(self, peer: Peer) -> None:
        def prepare(sock: UserSocket) -> None:
            sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
            sock.bind(("10.0.0.1", 6000))

        sock = peer.active(prepare, ts=True)
        sock.close()
        peer.settle()
        fin = peer.expect(flags(FIN | ACK))
        peer.send(FIN, 1, 2)
        peer.expect(flags(ACK))
        again = peer.socket()
        again.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        again.bind(("10.0.0.1", 6000))
        assert again.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
        peer.settle()
        syn = peer.expect(flags(SYN))
        assert (syn.raw_seq - fin.raw_seq) & 0xFFFFFFFF == 1 + 65535 + 2
        assert records(peer) == []

    def test_as_many_as_are_allowed(self) -> None:
        peer = Peer(tcp_max_tw_buckets=1)
        enter(peer, "TIME_WAIT")
        enter(peer, "TIME_WAIT")
        assert len(records(peer)) == 1
        assert peer.mib.tcp_ext.TCPTimeWaitOverflow == 1
        peer.end()

    def test_paws(self, peer: Peer) -> None:
        enter(peer, "TIME_WAIT", ts=True)
        peer.tsval -= 1000
        peer.send(ACK, 2, 2, b"old")
        peer.expect(flags(ACK), ack(2))
        assert peer.mib.tcp_ext.PAWSTimewait == 1


class TestPoll:
    """The masks of tcp_poll."""

    MASKS = {
        "LISTEN": 0,
        "SYN_SENT": 0,
        "SYN_RECV": 0,
        "ESTABLISHED": OUT,
        "CLOSE_WAIT": IN | OUT | EPOLLRDHUP,
        "FIN_WAIT1": OUT,
        "FIN_WAIT2": OUT,
        "CLOSING": IN | OUT | EPOLLRDHUP | EPOLLHUP,
        "TIME_WAIT": IN | OUT | EPOLLRDHUP | EPOLLHUP,
        "LAST_ACK": IN | OUT | EPOLLRDHUP | EPOLLHUP,
    }

    @pytest.mark.parametrize("state", MASKS)
    def test_in_state(self, peer: Peer, state: str) -> None:
        sock = enter(peer, state)
        assert sock is not None
        assert sock_of(sock).poll() == self.MASKS[state]

    def test_of_a_new_socket(self, peer: Peer) -> None:
        assert sock_of(peer.socket()).poll() == OUT | EPOLLHUP

    def test_with_data_and_with_a_connection_to_accept(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"x")
        assert sock_of(sock).poll() == IN | OUT
        server = peer.listen(port=8080)
        peer.their_iss = None
        peer.local_port, peer.port = 8080, 1234
        peer.sent()
        peer.send(SYN, options=peer.syn_options())
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1)
        assert sock_of(server).poll() == IN

    def test_after_a_reset(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(RST, 1)
        assert sock_of(sock).poll() == IN | OUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR

    def test_without_room(self, peer: Peer) -> None:
        sock = peer.active(win=0)
        while True:
            try:
                sock.send(bytes(50_000))
            except BlockingIOError:
                break
        assert sock_of(sock).poll() == 0

    def test_below_the_low_water_mark(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setsockopt(std.SOL_SOCKET, std.SO_RCVLOWAT, 10)
        peer.send(ACK, 1, 1, b"x" * 9)
        assert sock_of(sock).poll() == OUT
        peer.send(ACK, 10, 1, b"x")
        assert sock_of(sock).poll() == IN | OUT


class TestHostile:
    """Whatever comes is survived: nothing raises, and what doesn't fit changes nothing."""

    ALL_FLAGS = range(64)

    @pytest.fixture(autouse=True)
    def no_reports(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """What a timer or a batch raises is reported; here it fails the test."""
        raised: list[BaseException] = []
        for module in ("usernet.core.timer", "usernet.core.softirq", "usernet.core.loop"):
            monkeypatch.setattr(f"{module}.report", raised.append, raising=False)
        yield
        assert raised == []

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("place", ["exact", "old", "window", "beyond"])
    def test_every_combination_of_flags(self, state: str, place: str) -> None:
        for combination in self.ALL_FLAGS:
            peer = Peer()
            enter(peer, state, held=bool(combination & 1))
            at = {"exact": 1, "old": -50, "window": 500, "beyond": 10_000_000}[place]
            peer.send(combination, at, 1 if combination & ACK else None, b"data" * (combination % 3), urg=3)
            peer.send(combination, at + 1, 2 if combination & ACK else None, urg=60000)
            for segment in peer.sent():
                if combination & RST:
                    assert not segment.flags & RST, f"a reset was answered with a reset: {combination:#x}"
            peer.end()

    @pytest.mark.parametrize("state", ["LISTEN", "ESTABLISHED", "SYN_SENT"])
    def test_land(self, peer: Peer, state: str) -> None:
        """A segment that claims to come from the very socket that it is for."""
        enter(peer, state)
        for combination in (SYN, SYN | ACK, ACK, FIN | ACK, RST):
            peer.send(combination, 5, 7, saddr=LOCAL, daddr=LOCAL, sport=peer.local_port)
            peer.run(1.0)
        assert len(peer.sent()) < 20

    def test_christmas_tree(self, peer: Peer) -> None:
        server = enter(peer, "LISTEN")
        assert server is not None
        peer.send(FIN | PSH | URG, 1)
        peer.send(FIN | SYN | RST | PSH | URG, 1)
        peer.silent()
        peer.send(FIN | SYN | RST | PSH | URG | ACK, 1, 1)
        peer.silent()
        assert sock_of(server).request_queue.syn_queue == 0

    def test_syn_and_fin_opens_nothing(self, peer: Peer) -> None:
        enter(peer, "LISTEN")
        peer.send(SYN | FIN)
        peer.silent()

    def test_a_wrong_checksum_is_counted_and_dropped(self, peer: Peer) -> None:
        enter(peer, "LISTEN")
        peer.send(SYN, bad_checksum=True)
        peer.silent()
        assert (peer.mib.tcp.InCsumErrors, peer.mib.tcp.InErrs) == (1, 1)

    @pytest.mark.parametrize("size", [0, 1, 19])
    def test_a_header_cut_short(self, peer: Peer, size: int) -> None:
        from tests.transport.tcp.harness import ip_packet

        peer.packet(ip_packet(REMOTE, LOCAL, 6, bytes(size)))
        assert peer.mib.tcp.InErrs == 1

    @pytest.mark.parametrize("doff", [0, 4, 15])
    def test_a_wrong_header_length(self, peer: Peer, doff: int) -> None:
        from tests.transport.tcp.harness import ip_packet

        body = bytearray(24)
        body[12] = doff << 4
        peer.packet(ip_packet(REMOTE, LOCAL, 6, bytes(body)))
        assert peer.mib.tcp.InErrs == 1

    def test_to_an_address_of_many(self, peer: Peer) -> None:
        enter(peer, "LISTEN")
        peer.send(SYN, daddr=bytes((255, 255, 255, 255)))
        peer.send(SYN, daddr=bytes((224, 0, 0, 1)))
        peer.send(SYN, daddr=bytes((10, 0, 0, 255)))
        peer.silent()

    def test_acknowledging_what_was_never_sent(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 5000, b"x")
        assert sock_of(sock).rcv_nxt - peer.iss == 1
        assert state_of(sock) == TCP_ESTABLISHED
        # RFC 5961 section 5.2: too old.
        peer.send(ACK, 1, -100_000)
        assert peer.mib.tcp_ext.TCPChallengeACK >= 1

    def test_a_flood_of_syns_is_bounded(self) -> None:
        with Peer(tcp_syncookies=0) as peer:
            server = peer.listen(backlog=8)
            peer.local_port = 80
            for port in range(1000, 1100):
                peer.send(SYN, sport=port, options=peer.syn_options())
            assert sock_of(server).request_queue.syn_queue == 9
            assert len(peer.sent()) == 9
            assert peer.mib.tcp_ext.TCPReqQFullDrop == 91
            # The requests give up by themselves.
            peer.run(200.0)
            assert sock_of(server).request_queue.syn_queue == 0
            assert (peer.tcp.table, sock_of(server).request_queue.young) == ({}, 0)

    def test_a_reset_is_not_answered_and_nothing_loops(self, peer: Peer) -> None:
        for state_flags in (RST, RST | ACK, RST | SYN, RST | FIN | ACK):
            peer.send(state_flags, 1, 1 if state_flags & ACK else None, dport=1)
        peer.silent()


_ = (MSEC, TCP_LAST_ACK, TCP_CLOSING, TCP_FIN_WAIT1)
