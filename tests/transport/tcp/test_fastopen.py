"""TCP Fast Open: keys, the queue of a listener, black holes (fastopen*.py)."""

from __future__ import annotations

import socket as std

import pytest

from tests.transport.tcp.harness import Peer, ack, code, flags, length, sock_of
from usernet.sock.af_ops import Flow
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.fastopen import format_keys, make_cookie, parse_keys
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN

TCP_FASTOPEN, TCP_FASTOPEN_KEY, MSG_FASTOPEN = 23, 33, 0x20000000
KEY = bytes(range(16))


def listener(peer: Peer, queue: int = 5) -> UserSocket:
    def prepare(sock: UserSocket) -> None:
        sock.setsockopt(std.IPPROTO_TCP, TCP_FASTOPEN, queue)
        sock.setsockopt(std.IPPROTO_TCP, TCP_FASTOPEN_KEY, KEY)

    peer.local_port = 80
    return peer.listen(prepare=prepare)


def cookie(key: bytes = KEY) -> bytes:
    return make_cookie(key, b"\x0a\0\0\2", b"\x0a\0\0\1")


def syn(peer: Peer, port: int, data: bytes = b"", value: bytes | None = None) -> None:
    peer.port = port
    option = cookie() if value is None else value
    peer.send(SYN, data=data, options=wire.build_syn_options(1460, -1, False, None, option))


class TestKeys:
    @pytest.mark.parametrize(
        "text", ["", "1-2-3", "1-2-3-4-5", "1-2-3-x", "1-2-3-1ffffffff", "1-2-3-4,5-6-7-8,9-a-b-c"]
    )
    def test_a_wrong_key_leaves_the_old_one(self, peer: Peer, text: str) -> None:
        path = "net.ipv4.tcp_fastopen_key"
        peer.stack.sysctl[path] = "1-2-3-4,5-6-7-8"
        before = peer.stack.sysctl[path]
        assert before == "00000001-00000002-00000003-00000004,00000005-00000006-00000007-00000008"
        with pytest.raises(ValueError, match="tcp_fastopen_key"):
            peer.stack.sysctl[path] = text
        assert peer.stack.sysctl[path] == before

    def test_there_and_back(self) -> None:
        assert format_keys([]) == "00000000-00000000-00000000-00000000"
        assert parse_keys(format_keys([KEY, bytes(16)])) == [KEY, bytes(16)]

    def test_a_socket_tells_only_its_own(self, peer: Peer) -> None:
        sock = peer.socket()
        sock.setsockopt(std.IPPROTO_TCP, TCP_FASTOPEN, 1)
        assert sock.getsockopt(std.IPPROTO_TCP, TCP_FASTOPEN_KEY, 32) == b""
        assert set(str(peer.stack.sysctl["net.ipv4.tcp_fastopen_key"])) != set("0-")
        sock.setsockopt(std.IPPROTO_TCP, TCP_FASTOPEN_KEY, KEY + KEY)
        assert sock.getsockopt(std.IPPROTO_TCP, TCP_FASTOPEN_KEY, 32) == KEY + KEY


class TestServer:
    @pytest.fixture
    def peer(self) -> Peer:
        return Peer(tcp_fastopen=3)

    def test_the_queue_is_bounded_and_resets_fill_it_for_a_minute(self, peer: Peer) -> None:
        with peer:
            server = listener(peer, 1)
            syn(peer, 1000, b"hello")
            peer.expect(flags(SYN | ACK), ack(6))
            child = peer.accept(server)
            peer.send(RST, 6)
            assert child.recv(10) == b"hello"
            overflow = peer.mib.tcp_ext
            syn(peer, 1001, b"hello")
            peer.expect(flags(SYN | ACK), ack(1))
            assert overflow.TCPFastOpenListenOverflow == 1
            peer.run(61)
            peer.sent()
            syn(peer, 1002, b"hello")
            peer.expect(flags(SYN | ACK), ack(6))
            assert sock_of(server).request_queue.fastopen_qlen == 1
            peer.send(ACK, 6, 1)
            assert sock_of(server).request_queue.fastopen_qlen == 0

    def test_a_reset_before_it_is_accepted_makes_room_at_once(self, peer: Peer) -> None:
        with peer:
            server = listener(peer, 1)
            syn(peer, 1000, b"hello")
            peer.expect(flags(SYN | ACK), ack(6))
            peer.send(RST, 6)
            assert sock_of(server).request_queue.fastopen_qlen == 0
            assert peer.accept(server).recv(10) == b"hello"

    def test_a_route_may_need_no_cookie(self, peer: Peer) -> None:
        with peer:
            listener(peer)
            peer.stack.add_route("10.0.0.2/32", dev="tun0", fastopen_no_cookie=1)
            syn(peer, 1000, b"hello", b"")
            peer.expect(flags(SYN | ACK), ack(6))

    def test_closing_the_listener_ends_those_that_wait(self, peer: Peer) -> None:
        with peer:
            server = listener(peer)
            syn(peer, 1000, b"hello")
            peer.expect(flags(SYN | ACK), ack(6))
            server.close()
            peer.settle()
            peer.expect(flags(RST | ACK))


class TestBlackHole:
    @pytest.fixture
    def peer(self) -> Peer:
        return Peer(tcp_fastopen=1, tcp_fastopen_blackhole_timeout_sec=10)

    def dial(self, peer: Peer, size: int) -> UserSocket:
        """A Fast Open with a known cookie; `size` bytes go with the SYN, 0 where it is an ordinary one."""
        sock = peer.socket()
        local, remote = b"\x0a\0\0\1", b"\x0a\0\0\2"
        dst = sock_of(sock).af.route(Flow(remote, local))
        peer.tcp.metrics.make(local, remote, dst, peer.clock.now()).cookie = b"12345678"
        try:
            assert sock.sendto(b"data", MSG_FASTOPEN, ("10.0.0.2", 80)) == size
        except BlockingIOError:
            assert not size
        peer.settle()
        peer.expect(flags(SYN), length(size))
        return sock

    def established(self, peer: Peer) -> UserSocket:
        sock = self.dial(peer, 4)
        peer.send(SYN, 0, 5, options=peer.syn_options())
        peer.expect(flags(ACK), ack(1))
        return sock

    def test_a_reset_beyond_nothing(self, peer: Peer) -> None:
        with peer:
            self.established(peer)
            peer.send(RST, 100)
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole == 1
            peer.sent()
            self.dial(peer, 0)
            peer.run(10)
            peer.sent()
            self.dial(peer, 4)

    def test_a_reset_beyond_data_that_came_is_no_sign(self, peer: Peer) -> None:
        with peer:
            self.established(peer)
            peer.send(ACK | PSH, 1, 5, b"x")
            peer.send(RST, 100)
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole == 0
            peer.sent()

    def test_a_fin_alone(self, peer: Peer) -> None:
        with peer:
            sock = self.established(peer)
            peer.send(ACK | FIN, 100, 5)
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole == 0
            sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole >= 1
            peer.sent()

    def test_a_fin_after_close(self, peer: Peer) -> None:
        with peer:
            sock = self.established(peer)
            sock.close()
            peer.settle()
            peer.sent()
            peer.send(ACK | FIN, 100, 6, b"lost")
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole == 1
            peer.sent()

    def test_each_time_twice_as_long_and_setting_it_begins_anew(self, peer: Peer) -> None:
        with peer:
            for times in range(1, 10):
                seconds = 10 << min(times - 1, 6)
                self.established(peer)
                peer.send(RST, 100)
                assert peer.tcp.tfo_disable_times == times
                peer.sent()
                peer.run(seconds - 1)
                peer.sent()
                self.dial(peer, 0)
                peer.run(1)
                peer.sent()
            peer.stack.sysctl["net.ipv4.tcp_fastopen_blackhole_timeout_sec"] = 20
            assert peer.tcp.tfo_disable_times == 0

    def test_never_by_default(self) -> None:
        with Peer(tcp_fastopen=1) as peer:
            self.established(peer)
            peer.send(RST, 100)
            peer.sent()
            self.dial(peer, 4)
            assert peer.mib.tcp_ext.TCPFastOpenBlackhole == 0

    def test_it_takes_a_blackhole_to_wait(self, peer: Peer) -> None:
        with peer:
            assert code(self.dial, peer, 4) == 0
