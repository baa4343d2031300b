"""What a TCP socket tells of the data it sent: MSG_ZEROCOPY and SO_TIMESTAMPING."""

from __future__ import annotations

import errno
import socket as std
import struct

import pytest

from tests.transport.tcp.harness import Pair, code, sock_of
from usernet.sock import sockopt as so
from usernet.sock.msg import MSG_DONTWAIT, MSG_ERRQUEUE, MSG_ZEROCOPY
from usernet.sock.zerocopy import UARG_TRUESIZE
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.segment import fragment

STAMPS = so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_OPT_ID | so.SOF_TIMESTAMPING_OPT_TSONLY
SCHED, SND, ACK = 1, 0, 2


def reports(sock: UserSocket) -> list[tuple[int, int, int, int]]:
    """All that the error queue holds: origin, code, info, data."""
    found: list[tuple[int, int, int, int]] = []
    while True:
        try:
            _, control, flags, _ = sock.recvmsg(0, 512, MSG_ERRQUEUE | MSG_DONTWAIT)
        except BlockingIOError:
            return found
        assert flags & MSG_ERRQUEUE
        data = next(data for level, kind, data in control if (level, kind) == (0, 11))
        _, origin, _, number, _, info, value = struct.unpack_from("=IBBBBII", data)
        found.append((origin, number, info, value))


def zerocopy(sock: UserSocket) -> None:
    sock.setsockopt(std.SOL_SOCKET, so.SO_ZEROCOPY, 1)


@pytest.mark.parametrize("memory", [bytes, bytearray])
def test_a_report_comes_with_the_acknowledgement(memory: type[bytes] | type[bytearray]) -> None:
    with Pair(delay=0.010) as pair:
        client, server = pair.connected()
        zerocopy(client)
        assert client.send(memory(30000), MSG_ZEROCOPY) == 30000
        assert client.send(memory(10), MSG_ZEROCOPY) == 10
        assert reports(client) == []
        pair.run(1)
        # Bytes that nobody can change are sent as they are; all else is copied first.
        assert reports(client) == [(5, 0 if memory is bytes else 1, 0, 1)]
        assert server.recv(100000) == bytes(30010)
        assert sock_of(client).omem_alloc == 0


def test_to_this_machine_is_a_copy() -> None:
    with Pair() as pair:
        server = pair.socket(pair.left)
        server.bind(("127.0.0.1", 80))
        server.listen()
        client = pair.socket(pair.left)
        client.connect_ex(("127.0.0.1", 80))
        pair.run(0.1)
        pair.accept(server)
        zerocopy(client)
        client.send(b"x" * 100, MSG_ZEROCOPY)
        pair.run(1)
        assert reports(client) == [(5, 1, 0, 0)]


def test_what_fails_has_no_number() -> None:
    with Pair() as pair:
        client, _ = pair.connected()
        zerocopy(client)
        fresh = pair.socket(pair.left)
        zerocopy(fresh)
        assert code(fresh.send, b"x", MSG_ZEROCOPY) == errno.EPIPE
        sk = sock_of(client)
        sk.settings.optmem_max = 100
        assert code(client.send, b"x", MSG_ZEROCOPY) == errno.ENOBUFS
        sk.settings.optmem_max = 100_000
        assert (sk.zckey, sk.omem_alloc, sock_of(fresh).zckey, sock_of(fresh).omem_alloc) == (0, 0, 0, 0)
        assert client.send(b"x", MSG_ZEROCOPY) == 1
        pair.run(1)
        assert reports(client) == [(5, 0, 0, 0)]


def test_a_full_buffer_takes_a_part_and_whole_pages() -> None:
    with Pair(delay=0.010) as pair:
        client, server = pair.connected()
        zerocopy(client)
        sk = sock_of(client)
        client.setsockopt(std.SOL_SOCKET, std.SO_SNDBUF, 20000)
        # Each piece of one byte keeps a page.
        sent = client.sendmsg([b"x"] * 1000, (), MSG_ZEROCOPY)
        assert 17 <= sent < 1000
        assert sk.wmem_queued >= 4096 * sent // 2
        pair.run(2)
        assert reports(client) == [(5, 0, 0, 0)]
        assert sk.wmem_queued == 0
        assert server.recv(1000) == b"x" * sent


def test_a_connection_that_is_reset_makes_its_reports() -> None:
    with Pair(delay=0.010) as pair:
        client, server = pair.connected()
        zerocopy(client)
        client.send(b"x" * 100, MSG_ZEROCOPY)
        client.send(b"x" * 100, MSG_ZEROCOPY)
        sk = sock_of(client)
        assert sk.omem_alloc == 2 * UARG_TRUESIZE
        server.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("=ii", 1, 0))
        server.close()
        pair.run(1)
        assert reports(client) == [(5, 0, 0, 1)]
        assert sk.omem_alloc == 0


def test_a_closed_socket_frees_them() -> None:
    with Pair(delay=0.010) as pair:
        client, _ = pair.connected()
        zerocopy(client)
        client.send(b"x" * 100, MSG_ZEROCOPY)
        sk = sock_of(client)
        client.close()
        pair.run(10)
        assert sk.omem_alloc == 0


def test_stamps_of_the_last_byte() -> None:
    with Pair(delay=0.010) as pair:
        client, server = pair.connected()
        everything = so.SOF_TIMESTAMPING_TX_SCHED | so.SOF_TIMESTAMPING_TX_SOFTWARE | so.SOF_TIMESTAMPING_TX_ACK
        client.setsockopt(std.SOL_SOCKET, so.SO_TIMESTAMPING, STAMPS | everything)
        client.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
        for _ in range(2):
            client.send(b"x" * 5000)
        pair.run(1)
        found = [(info, data) for origin, _, info, data in reports(client) if origin == 4]
        assert found == [(SCHED, 4999), (SND, 4999), (SCHED, 9999), (SND, 9999), (ACK, 4999), (ACK, 9999)]
        client.setsockopt(std.SOL_SOCKET, so.SO_TIMESTAMPING, 0)
        client.send(b"x")
        pair.run(1)
        assert reports(client) == []
        assert len(server.recv(100000)) == 10001


def test_a_mark_goes_with_its_byte() -> None:
    with Pair() as pair:
        client, _ = pair.connected()
        zerocopy(client)
        sk = sock_of(client)
        client.setsockopt(std.SOL_SOCKET, so.SO_TIMESTAMPING, STAMPS | so.SOF_TIMESTAMPING_TX_ACK)
        client.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 1)
        client.send(b"x" * 1000, MSG_ZEROCOPY)
        first = sk.write_queue.first
        assert first is not None
        rest = fragment(sk, sk.write_queue, first, 400, sk.mss_cache)
        assert (first.tx.mark.stamped, rest.tx.mark.stamped, rest.tx.mark.ack) == (False, True, True)
        assert first.tx.mark.uarg is rest.tx.mark.uarg
        assert first.tx.mark.uarg.refs == 2
        rest = fragment(sk, sk.write_queue, rest, 600, sk.mss_cache) if rest.len > 600 else rest
        client.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 0)
        pair.run(1)
        assert reports(client) == [(4, 0, ACK, 999), (5, 0, 0, 0)]


def test_keys_need_a_connection() -> None:
    with Pair() as pair:
        fresh = pair.socket(pair.left)
        assert code(fresh.setsockopt, std.SOL_SOCKET, so.SO_TIMESTAMPING, STAMPS) == errno.EINVAL
        assert code(fresh.setsockopt, std.SOL_SOCKET, so.SO_TIMESTAMPING, so.SOF_TIMESTAMPING_SOFTWARE) == 0
