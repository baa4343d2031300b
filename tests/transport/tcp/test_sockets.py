"""TCP as programs use it: listening and accepting, ports, options, errors (sock, handshake, sockopt, info)."""

from __future__ import annotations

import errno
import socket as std
import struct

import pytest

from tests.transport.tcp.harness import (
    LOCAL,
    Pair,
    Peer,
    ack,
    code,
    flags,
    icmp_packet,
    left_over,
    seq,
    sock_of,
    state_of,
)
from tests.transport.tcp.states import enter
from usernet.transport.tcp.request import RequestSock
from usernet.wire.tcp import ACK, FIN, RST, SYN

SOL_TCP = std.IPPROTO_TCP


def knock(peer: Peer, port: int, *, answer: bool = True) -> None:
    """The peer opens a connection from `port` to the stack's port 80."""
    peer.local_port, peer.port = 80, port
    peer.send(SYN, options=peer.syn_options())
    if answer and peer.take() is not None:
        peer.send(ACK, 1, 1)


class TestBacklog:
    def test_the_accept_queue_is_bounded(self, peer: Peer) -> None:
        server = peer.listen(backlog=2)
        for port in range(1000, 1005):
            knock(peer, port)
        queue = sock_of(server).request_queue.accept_queue
        assert queue is not None
        assert len(queue) == 3
        assert peer.mib.tcp_ext.ListenOverflows >= 1
        assert peer.mib.tcp_ext.ListenDrops >= 1
        names = [peer.accept(server).getpeername()[1] for _ in range(3)]
        assert names == [1000, 1001, 1002]
        assert code(server.accept) == errno.EAGAIN

    def overflow(self, peer: Peer) -> None:
        """Three handshakes for a listener that has room for two; the third's last segment comes last."""
        answers = {}
        for port in (1000, 1001, 1002):
            knock(peer, port, answer=False)
            answer = peer.expect(flags(SYN | ACK))
            answers[port] = answer.raw_seq
            if port == 1000:
                peer.send(ACK, 1, 1)
        for port in (1001, 1002):
            peer.port, peer.their_iss = port, answers[port]
            peer.send(ACK, 1, 1)

    def test_a_handshake_that_finds_the_queue_full_is_completed_later(self, peer: Peer) -> None:
        server = peer.listen(backlog=1)
        self.overflow(peer)
        assert peer.mib.tcp_ext.ListenOverflows == 1
        peer.silent()
        peer.accept(server)
        # The SYN+ACK comes again, and so does the peer's acknowledgement.
        peer.expect_after(1.0, flags(SYN | ACK))
        peer.send(ACK, 1, 1)
        assert [peer.accept(server).getpeername()[1] for _ in range(2)] == [1001, 1002]

    def test_abort_on_overflow(self) -> None:
        with Peer(tcp_abort_on_overflow=1) as peer:
            server = peer.listen(backlog=1)
            self.overflow(peer)
            peer.expect(flags(RST))
            assert sock_of(server).request_queue.syn_queue == 0

    def test_somaxconn(self, peer: Peer) -> None:
        peer.stack.sysctl["net.core.somaxconn"] = 3
        assert sock_of(peer.listen(backlog=100)).request_queue.backlog == 3

    def test_a_negative_backlog_is_none(self, peer: Peer) -> None:
        """As the standard module has it."""
        assert sock_of(peer.listen(backlog=-1)).request_queue.backlog == 0

    def test_a_repeated_syn_is_answered_again(self, peer: Peer) -> None:
        server = peer.listen()
        knock(peer, 1000, answer=False)
        first = peer.expect(flags(SYN | ACK))
        peer.run(0.6)
        knock(peer, 1000, answer=False)
        assert peer.expect(flags(SYN | ACK)).raw_seq == first.raw_seq
        assert sock_of(server).request_queue.syn_queue == 1

    @pytest.mark.parametrize(("icmp_code", "stays"), [(0, False), (1, False), (3, True), (4, True)])
    def test_an_icmp_error_about_the_syn_and_ack(self, peer: Peer, icmp_code: int, stays: bool) -> None:
        server = peer.listen()
        knock(peer, 1000, answer=False)
        packet = peer.nic.sent[0][0]
        peer.packet(icmp_packet(3, icmp_code, 576, packet[:28]))
        assert sock_of(server).request_queue.syn_queue == int(stays)
        assert len(peer.tcp.table) == int(stays)

    def test_a_wrong_acknowledgement_of_a_request_is_reset(self, peer: Peer) -> None:
        server = enter(peer, "NEW_SYN_RECV")
        peer.send(ACK, 1, 5)
        peer.expect(flags(RST), seq(5))
        assert server is not None
        assert sock_of(server).request_queue.syn_queue == 1
        peer.send(ACK, 1, 1)
        peer.accept(server)

    def test_closing_the_listener_resets_those_who_wait(self, peer: Peer) -> None:
        server = peer.listen()
        knock(peer, 1000)
        knock(peer, 1001)
        knock(peer, 1002, answer=False)
        peer.sent()
        server.close()
        peer.settle()
        resets = peer.sent()
        assert [segment.dport for segment in resets] == [1000, 1001]
        assert all(segment.flags & RST for segment in resets)
        assert left_over(peer.stack) == []

    def test_one_that_was_reset_before_accept_is_handed_out(self, peer: Peer) -> None:
        """As Linux does: the program learns of it when it reads."""
        server = peer.listen()
        knock(peer, 1000)
        peer.send(RST, 1)
        sock = peer.accept(server)
        assert code(sock.recv, 1) == errno.ECONNRESET

    def test_defer_accept(self, peer: Peer) -> None:
        server = peer.listen(prepare=lambda sock: sock.setsockopt(SOL_TCP, std.TCP_DEFER_ACCEPT, 5))
        knock(peer, 1000)
        assert code(server.accept) == errno.EAGAIN
        peer.send(ACK, 1, 1, b"hello")
        assert peer.accept(server).recv(9) == b"hello"

    def test_the_options_of_a_listener_are_its_childrens(self, peer: Peer) -> None:
        def prepare(sock) -> None:
            sock.setsockopt(SOL_TCP, std.TCP_NODELAY, 1)
            sock.setsockopt(SOL_TCP, std.TCP_CONGESTION, b"reno")
            sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)

        server = peer.listen(prepare=prepare)
        knock(peer, 1000)
        child = peer.accept(server)
        assert child.getsockopt(SOL_TCP, std.TCP_NODELAY) == 1
        name = child.getsockopt(SOL_TCP, std.TCP_CONGESTION, 16)
        assert isinstance(name, bytes)
        assert name.rstrip(b"\0") == b"reno"
        assert child.getsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE) == 1
        peer.run(7201.0)
        assert peer.sent()


class TestPorts:
    def test_chosen_ones_are_in_the_range_and_differ(self, peer: Peer) -> None:
        ports = {peer.dial().getsockname()[1] for _ in range(20)}
        assert len(ports) == 20
        assert all(32768 <= port <= 60999 for port in ports)

    def test_initial_sequence_numbers_differ(self, peer: Peer) -> None:
        numbers = set()
        for _ in range(20):
            peer.dial()
            numbers.add(peer.expect(flags(SYN)).raw_seq)
        assert len(numbers) == 20

    def test_a_port_in_use(self, peer: Peer) -> None:
        peer.listen()
        other = peer.socket()
        assert code(other.bind, ("0.0.0.0", 80)) == errno.EADDRINUSE
        other.bind(("0.0.0.0", 81))
        assert code(other.bind, ("0.0.0.0", 82)) == errno.EINVAL

    def test_reuseaddr_does_not_share_with_a_listener(self, peer: Peer) -> None:
        peer.listen(prepare=lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1))
        other = peer.socket()
        other.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        assert code(other.bind, ("0.0.0.0", 80)) == errno.EADDRINUSE

    def test_a_server_restarts_with_reuseaddr_while_connections_remain(self, peer: Peer) -> None:
        server = peer.listen(prepare=lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1))
        knock(peer, 1000)
        peer.accept(server)
        server.close()
        again = peer.socket()
        assert code(again.bind, ("0.0.0.0", 80)) == errno.EADDRINUSE
        again.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        again.bind(("0.0.0.0", 80))
        again.listen(1)

    def test_reuseport_spreads_connections(self, peer: Peer) -> None:
        servers = [
            peer.listen(backlog=100, prepare=lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEPORT, 1))
            for _ in range(2)
        ]
        for port in range(1000, 1040):
            knock(peer, port)
        counts = [len(sock_of(server).request_queue.accept_queue or ()) for server in servers]
        assert sum(counts) == 40
        assert min(counts) >= 5

    def test_a_listener_on_one_address_goes_before_one_on_all(self, peer: Peer) -> None:
        def prepare(sock) -> None:
            sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEPORT, 1)

        everywhere = peer.listen(prepare=prepare)
        here = peer.socket()
        prepare(here)
        here.bind(("10.0.0.1", 80))
        here.listen(5)
        knock(peer, 1000)
        assert code(everywhere.accept) == errno.EAGAIN
        peer.accept(here)

    def test_listen_without_bind_takes_a_port(self, peer: Peer) -> None:
        sock = peer.socket()
        sock.listen(1)
        assert sock.getsockname()[1] != 0
        assert code(sock.accept) == errno.EAGAIN

    def test_not_for_this_socket(self, peer: Peer) -> None:
        sock = peer.active()
        assert code(sock.listen, 1) == errno.EINVAL
        assert code(sock.accept) == errno.EINVAL
        assert code(peer.socket().accept) == errno.EINVAL
        assert code(peer.socket().bind, ("192.0.2.1", 0)) == errno.EADDRNOTAVAIL


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            (std.TCP_NODELAY, 1), (std.TCP_CORK, 1), (std.TCP_MAXSEG, 1000), (std.TCP_KEEPIDLE, 100),
            (std.TCP_KEEPINTVL, 10), (std.TCP_KEEPCNT, 3), (std.TCP_SYNCNT, 4), (std.TCP_LINGER2, 30),
            (std.TCP_USER_TIMEOUT, 5000), (std.TCP_QUICKACK, 0), (std.TCP_WINDOW_CLAMP, 20000),
            (std.TCP_NOTSENT_LOWAT, 16384),
        ],
    )  # fmt: skip
    def test_set_and_read_back(self, peer: Peer, option: int, value: int) -> None:
        sock = peer.socket()
        sock.setsockopt(SOL_TCP, option, value)
        assert sock.getsockopt(SOL_TCP, option) == value

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            (std.TCP_MAXSEG, 5), (std.TCP_MAXSEG, 40000), (std.TCP_KEEPIDLE, 0), (std.TCP_KEEPIDLE, 40000),
            (std.TCP_KEEPINTVL, 0), (std.TCP_KEEPCNT, 128), (std.TCP_SYNCNT, 0), (std.TCP_USER_TIMEOUT, -1),
        ],
    )  # fmt: skip
    def test_out_of_bounds(self, peer: Peer, option: int, value: int) -> None:
        assert code(peer.socket().setsockopt, SOL_TCP, option, value) == errno.EINVAL

    def test_unknown(self, peer: Peer) -> None:
        sock = peer.socket()
        assert code(sock.setsockopt, SOL_TCP, 250, 1) == errno.ENOPROTOOPT
        assert code(sock.getsockopt, SOL_TCP, 250) == errno.ENOPROTOOPT
        assert code(sock.setsockopt, SOL_TCP, std.TCP_NODELAY, b"\1") == errno.EINVAL

    def test_info(self, peer: Peer) -> None:
        sock = peer.active()
        sock.send(b"x" * 5000)
        peer.settle()
        info = sock.getsockopt(SOL_TCP, std.TCP_INFO, 256)
        assert isinstance(info, bytes)
        assert info[0] == 1
        unacked = struct.unpack_from("=I", info, 24)[0]
        assert unacked == 4
        assert sock.getsockopt(SOL_TCP, std.TCP_INFO, 8) == info[:8]

    def test_the_window_is_clamped(self, peer: Peer) -> None:
        peer.dial(lambda sock: sock.setsockopt(SOL_TCP, std.TCP_WINDOW_CLAMP, 5000))
        assert peer.expect(flags(SYN)).window <= 5000

    def test_accepted_data_counts(self, peer: Peer) -> None:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"12345")
        peer.send(FIN, 6, 1)
        loop = peer.stack.loop
        loop.enter()
        try:
            assert sock_of(sock).ioctl(0x541B) == 5
            assert sock_of(sock).ioctl(0x5411) == 0
        finally:
            loop.leave()


class TestCalls:
    def test_names(self, peer: Peer) -> None:
        sock = peer.socket()
        assert sock.getsockname() == ("0.0.0.0", 0)
        assert code(sock.getpeername) == errno.ENOTCONN
        sock = peer.active()
        assert sock.getsockname() == ("10.0.0.1", peer.local_port)
        assert sock.getpeername() == ("10.0.0.2", 80)

    def test_disconnect_and_connect_again(self, peer: Peer) -> None:
        sock = peer.active()
        loop = peer.stack.loop
        loop.enter()
        try:
            sock_of(sock).disconnect()
        finally:
            loop.leave()
        peer.settle()
        peer.expect(flags(RST | ACK))
        assert peer.tcp.table == {}
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
        peer.settle()
        peer.expect(flags(SYN))
        peer.send(SYN, 0, 1, options=peer.syn_options())
        assert state_of(sock) == 1

    def test_a_port_that_was_asked_for_stays_after_a_failed_connect(self, peer: Peer) -> None:
        sock = peer.dial(lambda sock: sock.bind(("0.0.0.0", 5000)))
        peer.expect(flags(SYN))
        peer.send(RST, 0, 1)
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.ECONNREFUSED
        assert sock.getsockname()[1] == 5000
        assert list(peer.tcp.ports.buckets) == [5000]
        sock.close()
        assert left_over(peer.stack) == []

    def test_a_call_on_a_stack_that_nothing_drives_raises_instead_of_hanging(self, peer: Peer) -> None:
        sock = peer.active()
        sock.setblocking(True)
        with pytest.raises(RuntimeError):
            sock.recv(1)

    def test_many_connections_at_once(self) -> None:
        with Pair(delay=0.01) as pair:
            server = pair.listener(backlog=500)
            clients = [pair.dial() for _ in range(200)]
            pair.run(3.0)
            accepted = [pair.accept(server) for _ in range(200)]
            for number, client in enumerate(clients):
                client.send(b"%d" % number)
            pair.run(1.0)
            assert sorted(int(sock.recv(99)) for sock in accepted) == list(range(200))

    def test_over_the_loopback(self, peer: Peer) -> None:
        server = peer.listen()
        client = peer.socket()
        client.connect_ex(("127.0.0.1", 80))
        peer.settle()
        accepted = peer.accept(server)
        data = bytes(range(256)) * 1000
        sent, received = 0, bytearray()
        while len(received) < len(data):
            try:
                sent += client.send(data[sent:]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            peer.run(0.05)
            try:
                received += accepted.recv(1 << 20)
            except BlockingIOError:
                pass
        assert bytes(received) == data
        assert peer.mib.tcp_ext.TCPTimeouts == 0

    def test_two_stacks_with_the_same_addresses_do_not_see_each_other(self) -> None:
        with Pair() as one, Pair() as two:
            one.connected()
            assert two.left.mib.tcp.InSegs == 0

    def test_a_request_is_small(self, peer: Peer) -> None:
        enter(peer, "NEW_SYN_RECV")
        requests = [entry for entry in peer.tcp.table.values() if isinstance(entry, RequestSock)]
        assert len(requests) == 1
        assert not hasattr(requests[0], "__dict__")

    def test_an_idle_connection_s_memory(self) -> None:
        """Printed, not judged: what a connection costs while nothing is under way."""
        import tracemalloc

        with Pair(delay=0.001) as pair:
            server = pair.listener(backlog=300)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(100):
                pair.dial()
            pair.run(2.0)
            for _ in range(100):
                pair.accept(server)
            used = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            each = used / 200
            print(f"{each:.0f} bytes each end of an idle connection")
            assert each < 100_000


_ = (LOCAL, ack)


def test_bytes_acked_counts_the_syn_of_an_active_open_only():
    """As Linux does."""
    with Pair() as pair:
        client, server = pair.connected()
        assert (sock_of(client).bytes_acked, sock_of(server).bytes_acked) == (1, 0)
        server.send(b"x" * 100)
        client.send(b"x" * 10)
        pair.run(1.0)
        assert (sock_of(client).bytes_acked, sock_of(server).bytes_acked) == (11, 100)
