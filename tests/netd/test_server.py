"""The service: clients that keep to the protocol, those that do not, what each may have, and what is left of them."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netd.serving import LO, Served, serving
from tests.support.stacks import PATIENCE, until
from usernet.netd import names, protocol
from usernet.netd.client import Client, RemoteSocket, ServiceError
from usernet.netd.messages import Wire, close_all


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as made:
        yield made


def listener(client: Client, port: int = 80) -> RemoteSocket:
    sock = client.socket()
    sock.bind((LO, port))
    sock.listen(64)
    return sock


# -- what it is for


def test_a_connection_between_two_clients(served: Served):
    with served.client() as here, served.client() as there:
        server = listener(there)
        sock = here.socket()
        sock.connect((LO, 80))
        connection, peer = server.accept()
        assert peer == sock.getsockname()
        assert connection.getpeername() == peer
        sock.sendall(b"a" * 300_000)
        got = b""
        while len(got) < 300_000:
            got += connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b""
        for one in (sock, connection, server):
            one.close()


def test_options_names_and_datagrams(served: Served):
    with served.client() as client:
        sock = client.socket()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        one, other = client.socket(2, 2), client.socket(2, 2)
        one.bind((LO, 9))
        other.bind((LO, 10))
        for number in range(5):
            other.sendto(b"datagram %d" % number, (LO, 9))
        for number in range(5):
            assert one.recvfrom(100) == (b"datagram %d" % number, (LO, 10))
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            one.recvfrom(100)
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recvfrom(100)
        for each in (sock, one, other):
            each.close()


def test_a_refused_connection_and_another_try(served: Served):
    with served.client() as client:
        sock = client.socket()
        assert sock.connect_ex((LO, 80)) == errno.ECONNREFUSED
        server = listener(client)
        assert sock.connect_ex((LO, 80)) == 0
        connection, _ = server.accept()
        connection.sendall(b"x")
        assert sock.recv(1) == b"x"
        for one in (sock, connection, server):
            one.close()


def test_connecting_without_waiting(served: Served):
    with served.client() as client:
        server = listener(client)
        sock = client.socket()
        sock.setblocking(False)
        assert sock.connect_ex((LO, 80)) == errno.EINPROGRESS
        connection, _ = server.accept()
        sock.settimeout(PATIENCE)
        # By now the service has asked for the descriptor; answers are given in the course of other calls.
        sock.getsockname()
        assert connection.send(b"x" * 100_000) > 50_000
        assert sock.recv(1) == b"x"
        for one in (sock, connection, server):
            one.close()


def test_calls_that_wait_are_in_nobodys_way(served: Served):
    with served.client() as client:
        server = listener(client)
        accepted: list[object] = []

        def accept() -> None:
            connection, _ = server.accept()
            accepted.append(connection)
            connection.close()

        threads = [threading.Thread(target=accept) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        calling = [client.socket() for _ in threads]
        for one in calling:
            one.connect((LO, 80))
        for thread in threads:
            thread.join(PATIENCE)
        assert len(accepted) == 4
        for each in (*calling, server):
            each.close()


def test_a_socket_lives_as_long_as_a_descriptor(served: Served):
    with served.client() as client, served.client() as other:
        server = listener(other)
        sock = client.socket()
        sock.connect((LO, 80))
        connection, _ = server.accept()
        fd = os.dup(sock.fileno())
        sock.close()
        client.close()
        until(lambda: len(served.server.sessions) == 1)
        os.write(fd, b"still there")
        assert connection.recv(100) == b"still there"
        adopted = other.adopt(fd)
        assert adopted.getpeername() == (LO, 80)
        adopted.close()
        assert connection.recv(1) == b""
        connection.close()
        server.close()


def test_a_call_that_nobody_waits_for_any_more(served: Served):
    with served.client() as client:
        server = listener(client)
        server.settimeout(0.02)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                server.accept()
        server.settimeout(None)
        sock = client.socket()
        sock.connect((LO, 80))
        connection, _ = server.accept()
        for one in (sock, connection, server):
            one.close()


def test_a_connection_that_a_client_did_not_take_goes_to_the_next(served: Served):
    with served.client() as client:
        server = listener(client)
        sock = client.socket()
        sock.connect((LO, 80))
        lost = served.raw()
        shown = lost.ask(protocol.Duplicate(1), server.fileno())
        assert isinstance(shown, protocol.Given)
        given = lost.ask(protocol.Accept(2, shown.handle))
        assert isinstance(given, protocol.Given)
        lost.close()  # without having said that it has it
        connection, peer = server.accept()
        assert peer == sock.getsockname()
        for one in (sock, connection, server):
            one.close()


# -- clients that do not keep to the protocol


def rejected(served: Served, greet: bool, *messages: object) -> str:
    raw = served.raw(greet)
    for message in messages:
        raw.say(message)
    answer, _ = raw.hear()
    assert isinstance(answer, protocol.Rejected)
    assert raw.hear()[0] is None
    raw.close()
    return answer.text


def test_messages_that_make_no_sense(served: Served):
    hello = protocol.encode(protocol.Hello(1, "x"))
    for message in (b"\xc1", hello[:-1], hello + b"\0", b"\x80", b"\x91\x63", b"\x93\x03\x01\x02", os.urandom(500)):
        assert "not a message" in rejected(served, True, message)
    assert "not a message" in rejected(served, True, b"\x91" * 100_000)
    assert served.server.rejected == 8


def test_messages_in_the_wrong_order(served: Served):
    assert "first a Hello" in rejected(served, False, protocol.Open(1, 2, 1, 0))
    assert "no second Hello" in rejected(served, True, protocol.Hello(1, "again"))
    assert "version" in rejected(served, False, protocol.Hello(99, "from the future"))
    assert "none that was given" in rejected(served, True, protocol.Commit(1))
    assert "none that was given" in rejected(served, True, protocol.GiveBack(77))
    assert "not asked for" in rejected(served, True, protocol.Reached(1))


def test_a_number_that_is_under_way(served: Served):
    raw = served.raw()
    raw.say(protocol.Open(1, 2, 1, 0))
    given, fds = raw.hear()
    raw.say(protocol.Commit(given.handle))
    assert isinstance(raw.ask(protocol.Bind(2, given.handle, names.pack(2, (LO, 80)))), protocol.Done)
    assert isinstance(raw.ask(protocol.Listen(3, given.handle, 5)), protocol.Done)
    raw.say(protocol.Accept(4, given.handle))
    assert isinstance(raw.ask(protocol.SockName(4, given.handle)), protocol.Rejected)
    close_all(fds)
    raw.close()


def test_an_oversized_message_and_too_many_descriptors(served: Served):
    raw = served.raw()
    raw.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    answer = raw.ask(bytes(protocol.MAX_MESSAGE + 1))
    assert isinstance(answer, protocol.Rejected)
    assert str(protocol.MAX_MESSAGE) in answer.text
    raw.close()
    raw = served.raw()
    answer = raw.ask(protocol.SockName(1, 1), *[0] * (protocol.MAX_FDS + 1))
    assert isinstance(answer, protocol.Rejected)
    assert "descriptors" in answer.text
    raw.close()


def test_others_handles_and_descriptors_that_are_something_else(served: Served):
    with served.client() as client:
        sock = client.socket()
        other = client.socket()
        raw = served.raw()
        for message in (protocol.SockName(1, sock.handle), protocol.SockName(1, 9999), protocol.SockName(1, 0)):
            assert raw.ask(message).errno == errno.EBADF
        assert raw.ask(protocol.Duplicate(2)).errno == errno.EBADF
        assert raw.ask(protocol.Duplicate(3), 0).errno == errno.ENOTSOCK
        pair = socket.socketpair()
        assert raw.ask(protocol.Duplicate(4), pair[0].fileno()).errno == errno.ENOTSOCK
        assert raw.ask(protocol.Duplicate(5), sock.fileno()).handle == sock.handle
        # It may use that one now, but not by another's descriptor.
        assert isinstance(raw.ask(protocol.SockName(6, sock.handle)), protocol.Done)
        assert raw.ask(protocol.SockName(7, sock.handle), other.fileno()).errno == errno.EBADF
        assert raw.ask(protocol.SockName(8, sock.handle), pair[1].fileno()).errno == errno.EBADF
        # Descriptors that nobody asked for are closed.
        assert isinstance(raw.ask(protocol.SockName(9, sock.handle), sock.fileno()), protocol.Done)
        raw.close()
        for end in (*pair, sock, other):
            end.close()


def test_calls_with_arguments_that_make_no_sense(served: Served):
    with served.client() as client:
        sock = client.socket()
        raw = served.raw()
        handle = raw.ask(protocol.Duplicate(1), sock.fileno()).handle
        assert raw.ask(protocol.Bind(2, handle, b"")).errno == errno.EINVAL
        assert raw.ask(protocol.Connect(3, handle, b"\2")).errno == errno.EINVAL
        assert raw.ask(protocol.Shutdown(4, handle, 9)).errno == errno.EINVAL
        assert raw.ask(protocol.GetOption(5, handle, 1, 99999, 4)).errno == errno.ENOPROTOOPT
        assert raw.ask(protocol.Accept(6, handle, 0x7FFFFFFF)).errno == errno.EINVAL
        assert raw.ask(protocol.Ioctl(7, handle, 0xFFFFFFFF, b"")).errno in (errno.ENOTTY, errno.EINVAL)
        assert raw.ask(protocol.Send(8, handle, b"", (1 << 63) - 1, 0, b"\xff" * 128, b"\xff" * 100)).errno > 0
        assert raw.ask(protocol.Open(9, 10, 1, 0)).errno == errno.EAFNOSUPPORT
        raw.close()
        sock.close()


# -- what a client may have


def test_a_quota_of_sockets(tmp_path: Path):
    with serving(tmp_path, sockets=3) as served, served.client() as client, served.client() as other:
        held = [client.socket() for _ in range(3)]
        with pytest.raises(OSError) as caught:
            client.socket()
        assert caught.value.errno == errno.EMFILE
        other.socket().close()
        held.pop().close()
        until(lambda: served.sockets == 2)
        held.append(client.socket())
        assert served.server.quota.refused == 1
        # What a client leaves behind counts for the next one of the same user.
        kept = os.dup(held[0].fileno())
        client.close()
        for sock in held:
            sock.close()
        until(lambda: served.sockets == 1)
        more = [other.socket() for _ in range(2)]
        with pytest.raises(OSError):
            other.socket()
        os.close(kept)
        until(lambda: served.sockets == 2)
        more.append(other.socket())
        for sock in more:
            sock.close()


def test_a_ring_counts_as_memory(tmp_path: Path):
    with serving(tmp_path, memory=3 * 65536) as served, served.client() as client:
        opened = [client.socket(17, 3) for _ in range(2)]
        ring = struct.pack("=IIII", 65536, 2, 2048, 64)
        opened[0].setsockopt(263, 5, ring)
        with pytest.raises(OSError) as caught:
            opened[1].setsockopt(263, 5, ring)
        assert caught.value.errno == errno.ENOMEM
        opened[0].setsockopt(263, 5, bytes(16))
        opened[1].setsockopt(263, 5, ring)
        for sock in opened:
            sock.close()


def test_a_quota_of_memory(tmp_path: Path):
    with serving(tmp_path, memory=65536) as served, served.client() as client:
        server = listener(client)
        sock = client.socket()
        sock.connect((LO, 80))
        connection, _ = server.accept()
        sock.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += sock.send(bytes(65536))
        session = next(iter(served.server.sessions))
        until(lambda: served.server.quota.look(session) > 65536)
        with pytest.raises(OSError) as caught:
            client.socket()
        assert caught.value.errno == errno.ENOBUFS
        connection.settimeout(PATIENCE)
        while sent:
            sent -= len(connection.recv(1 << 20))
        until(lambda: served.server.quota.look(session) < 65536)
        client.socket().close()
        for one in (sock, connection, server):
            one.close()


def test_clients_are_bounded(tmp_path: Path):
    with serving(tmp_path, clients=2) as served:
        with served.client(), served.client():
            with pytest.raises(ServiceError, match="2 clients are served"):
                served.client()
        until(lambda: not served.server.sessions)
        served.client().close()


def test_what_was_said_before_the_end_is_read():
    """Closed with something unread, a SOCK_SEQPACKET socket tells its peer ECONNRESET before all that it had sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire, other = Wire(ours), Wire(theirs)
    wire.send(b"unread")
    other.send(b"the last word")
    other.close()
    assert wire.receive() == (b"the last word", [])
    assert wire.receive() == (b"", [])
    wire.close()


def test_requests_under_way_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.netd.session.MAX_REQUESTS", 5)
    with served.client() as client:
        server = listener(client)
        raw = served.raw()
        handle = raw.ask(protocol.Duplicate(1), server.fileno()).handle
        for number in range(2, 7):
            raw.say(protocol.Accept(number, handle))
        assert raw.ask(protocol.SockName(9, handle)).errno == errno.ENOBUFS
        raw.close()
        server.close()


def test_a_client_that_reads_no_answers_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.netd.outbox.MAX_BACKLOG", 20_000)
    with served.client() as client:
        sock = client.socket(2, 2)
        sock.bind((LO, 9))
        raw = served.raw()
        handle = raw.ask(protocol.Duplicate(1), sock.fileno()).handle
        number = 2
        session = next(one for one in served.server.sessions if one.program == "raw")
        # It has so many calls waiting that their answers, all at once, are more than it may leave unread.
        for number in range(2, 200):
            while True:
                try:
                    raw.say(protocol.Receive(number, handle, 1000, 0, 0))
                    break
                except BlockingIOError:
                    pass
        until(lambda: len(session._under_way) == 198)
        sender = client.socket(2, 2)
        for _ in range(4000):
            if session.over:
                break
            sender.sendto(bytes(1000), (LO, 9))
            number += 1
            try:
                raw.say(protocol.Receive(number, handle, 1000, 0, 0))
            except BlockingIOError:
                pass
            except OSError:
                break
        until(lambda: session.over)
        assert isinstance(client.command("ss", "-ua"), str)
        raw.close()
        sock.close()
        sender.close()


# -- control


def test_commands(served: Served):
    with served.client() as client:
        assert client.command("ip", "addr", "add", "10.9.9.9/32", "dev", "lo") == ""
        assert "10.9.9.9/32" in client.command("ip", "addr")
        assert client.command("nstat", "-z", "TcpActiveOpens").startswith("#kernel")
        with pytest.raises(ValueError, match="expected something like"):
            client.command("ip", "addr", "add", "what", "dev", "lo")
        with pytest.raises(OSError, match="expected one of ip"):
            client.command("rm", "-rf")
        with pytest.raises(OSError) as caught:
            client.command("ip", "addr", "del", "10.1.1.1/8", "dev", "lo")
        assert caught.value.errno == errno.EADDRNOTAVAIL


def test_packets_as_they_pass(served: Served):
    from usernet.wire import pcapng

    with served.client() as client, served.client() as other:
        with other.watch("lo") as pieces:
            sock = client.socket(2, 2)
            sock.bind((LO, 9))
            sock.sendto(b"to be seen", (LO, 9))
            data = next(pieces)
            while b"to be seen" not in data:
                data += next(pieces)
            assert int.from_bytes(data[:4], "little") == pcapng.BLOCK_SECTION_HEADER
            sock.close()
        until(lambda: not served.server.control._streams)
        with other.watch("eth7") as pieces, pytest.raises(OSError) as caught:
            next(pieces)
        assert caught.value.errno == errno.ENODEV


def test_one_who_looks_at_packets_and_does_not_read_loses_some(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.netd.control.MAX_HELD", 100_000)
    raw = served.raw()
    raw.say(protocol.Watch(1, []))
    with served.client() as client:
        until(lambda: served.server.control._streams == 1)
        stream = next(iter(next(one for one in served.server.sessions if one.program == "raw").streams.values()))
        sock = client.socket(2, 2)
        sock.bind((LO, 9))
        for _ in range(3000):
            sock.sendto(bytes(1000), (LO, 9))
            if stream.lost:
                break
        assert stream.lost
        sock.close()
    raw.close()
    until(lambda: not served.server.control._streams)
