"""Handles: time-outs, descriptors, connections and options, on virtual time."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import socket as standard
import sys
import threading
import warnings
from typing import Any

import pytest

from tests.sockets.fake import SYN_SENT, FakeNet, FakeSock
from tests.sockets.pairs import listener, sk_of, stream_pair
from tests.sockets.virtual import SECOND, Virtual
from usernet.core.errors import UnusableStackError
from usernet.net.pernet import Net
from usernet.sock.sock import SockNet
from usernet.sockets.readiness import DESCRIPTORS, find
from usernet.sockets.socket import SOCK_CLOEXEC, SOCK_NONBLOCK
from usernet.sockets.user import UserSocket


def test_what_a_socket_says_of_itself(net: Net) -> None:
    with UserSocket(net, standard.AF_INET, standard.SOCK_DGRAM) as sock:
        assert sock.family is standard.AF_INET
        assert sock.type is standard.SOCK_DGRAM
        assert sock.proto == 0
        assert sock.timeout is None
        assert "family=<AddressFamily.AF_INET: 2>" in repr(sock)
        assert "laddr=('0.0.0.0', 0)" in repr(sock)
        assert "raddr" not in repr(sock)
    assert "[closed]" in repr(sock)
    assert sock.family is standard.AF_INET
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(sock)


def test_type_flags_are_taken_off_the_type(net: Net) -> None:
    with UserSocket(net, 2, 1 | SOCK_NONBLOCK | SOCK_CLOEXEC) as sock:
        assert sock.type is standard.SOCK_STREAM
        assert sock.gettimeout() == 0.0
        assert not sock.getblocking()


def test_timeouts_and_blocking_are_one(net: Net) -> None:
    with UserSocket(net) as sock:
        assert sock.gettimeout() is None
        sock.settimeout(2.5)
        assert sock.gettimeout() == 2.5
        assert sock.getblocking()
        sock.setblocking(False)
        assert sock.gettimeout() == 0.0
        sock.setblocking(True)
        assert sock.gettimeout() is None


def test_new_sockets_take_the_default_timeout(net: Net) -> None:
    standard.setdefaulttimeout(7.0)
    try:
        with stream_pair(net) as (left, right):
            assert left.gettimeout() == right.gettimeout() == 7.0
    finally:
        standard.setdefaulttimeout(None)


CLOSED: list[tuple[str, tuple[Any, ...]]] = [
    ("recv", (1,)), ("recvfrom", (1,)), ("recv_into", (bytearray(1),)), ("recvfrom_into", (bytearray(1),)),
    ("recvmsg", (1,)), ("recvmsg_into", ([bytearray(1)],)), ("send", (b"x",)), ("sendall", (b"x",)),
    ("sendto", (b"x", ("127.0.0.1", 1))), ("sendmsg", ([b"x"],)), ("bind", (("", 0),)), ("listen", ()),
    ("connect", (("127.0.0.1", 1),)), ("accept", ()), ("getsockname", ()), ("getpeername", ()), ("shutdown", (0,)),
    ("setsockopt", (1, 2, 3)), ("getsockopt", (1, 2)), ("settimeout", (1,)), ("setblocking", (0,)), ("dup", ()),
    ("ioctl", (0x541B,)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "args"), CLOSED)
def test_a_closed_socket_is_a_bad_descriptor(net: Net, call: str, args: tuple[Any, ...]) -> None:
    sock = UserSocket(net)
    sock.close()
    with pytest.raises(OSError) as raised:
        getattr(sock, call)(*args)
    assert raised.value.errno == errno.EBADF


def test_closing_twice_and_the_rest_of_a_closed_socket(net: Net) -> None:
    sock = UserSocket(net)
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    assert sock.detach() == -1
    assert sock.connect_ex(("127.0.0.1", 1)) == errno.EBADF
    assert sock.gettimeout() is None


# -- connecting


def test_a_refused_connection(net: Net) -> None:
    with UserSocket(net) as sock:
        with pytest.raises(ConnectionRefusedError):
            sock.connect(("127.0.0.1", 9))
        assert sock.connect_ex(("127.0.0.1", 9)) == errno.ECONNREFUSED


def _hold_handshakes(net: Net) -> None:
    net.get(FakeNet).manual_handshake = True


def test_connect_waits_for_the_handshake(virtual: Virtual) -> None:
    net = virtual.net
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        virtual.at(3, sk_of(sock).establish)
        sock.connect(("127.0.0.1", 80))
        assert virtual.seconds == 3
        assert sock.getpeername() == ("127.0.0.1", 80)


def test_connect_gives_up_at_the_timeout(virtual: Virtual) -> None:
    net = virtual.net
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        sock.settimeout(2)
        with pytest.raises(TimeoutError, match=r"^timed out$") as raised:
            sock.connect(("127.0.0.1", 80))
        assert raised.value.errno is None
        assert virtual.seconds == 2
        with pytest.raises(BlockingIOError) as again:
            sock.connect(("127.0.0.1", 80))
        assert again.value.errno == errno.EALREADY


def test_connect_under_a_timeout_tells_the_sockets_error(virtual: Virtual) -> None:
    net = virtual.net
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        sock.settimeout(5)
        virtual.at(1, lambda: sk_of(sock).fail(errno.EHOSTUNREACH))
        with pytest.raises(OSError) as raised:
            sock.connect(("127.0.0.1", 80))
        assert raised.value.errno == errno.EHOSTUNREACH


def test_connect_ex_returns_eagain_at_the_timeout(virtual: Virtual) -> None:
    net = virtual.net
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        sock.settimeout(2)
        assert sock.connect_ex(("127.0.0.1", 80)) == errno.EAGAIN


def test_connect_without_blocking_is_in_progress(net: Net) -> None:
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError) as raised:
            sock.connect(("127.0.0.1", 80))
        assert raised.value.errno == errno.EINPROGRESS
        assert sk_of(sock).state == SYN_SENT
        sk_of(sock).establish()
        assert sock.connect_ex(("127.0.0.1", 80)) == errno.EISCONN


def test_so_sndtimeo_ends_a_blocking_connect(virtual: Virtual) -> None:
    net = virtual.net
    _hold_handshakes(net)
    with listener(net), UserSocket(net) as sock:
        sk_of(sock).sndtimeo = 4 * SECOND
        with pytest.raises(BlockingIOError) as raised:
            sock.connect(("127.0.0.1", 80))
        assert raised.value.errno == errno.EINPROGRESS
        assert virtual.seconds == 4


# -- accepting


def test_accept_waits(virtual: Virtual) -> None:
    with listener(virtual.net) as server, UserSocket(virtual.net) as client:
        virtual.at(1, lambda: client.connect(("127.0.0.1", 80)))
        connection, address = server.accept()
        with connection:
            assert address == client.getsockname() == connection.getpeername()
            assert type(connection) is UserSocket


def test_accept_gives_up_at_the_timeout_and_connections_still_block(virtual: Virtual) -> None:
    with listener(virtual.net) as server, UserSocket(virtual.net) as client:
        server.settimeout(3)
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            server.accept()
        client.connect(("127.0.0.1", 80))
        connection, _ = server.accept()
        with connection:
            assert connection.gettimeout() is None


def test_accept_without_blocking(net: Net) -> None:
    with listener(net) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_so_rcvtimeo_ends_a_blocking_accept(virtual: Virtual) -> None:
    with listener(virtual.net) as server:
        sk_of(server).rcvtimeo = SECOND
        with pytest.raises(BlockingIOError):
            server.accept()
        assert virtual.seconds == 1


def test_nothing_drives_the_stack(net: Net) -> None:
    net.loop.trampoline = None
    with listener(net) as server, pytest.raises(UnusableStackError, match="nothing drives the stack"):
        server.accept()


# -- options


def test_options_are_ints_bytes_or_nothing(net: Net) -> None:
    with UserSocket(net) as sock:
        sock.setsockopt(1, 9, -2)
        assert sock.getsockopt(1, 9) == -2
        assert sock.getsockopt(1, 9, 16) == (-2).to_bytes(4, sys.byteorder, signed=True)
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x02\x00\x00\x00")
        assert sock.getsockopt(1, 13, 8) == b"\x01\x00\x00\x00\x02\x00\x00\x00"
        assert sock.getsockopt(1, 13, 2) == b"\x01\x00"
        sock.setsockopt(1, 5, True)
        assert sock.getsockopt(1, 5) == 1
        sock.setsockopt(0, 1, b"\xff")  # an option of one byte reads as a number without sign
        assert sock.getsockopt(0, 1) == 255
        sock.setsockopt(1, 8, None, 0)
        assert sock.getsockopt(1, 8, 4) == b""
        with pytest.raises(OSError) as raised:
            sock.setsockopt(99, 1, 1)
        assert raised.value.errno == errno.ENOPROTOOPT


def test_ioctl(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.send(b"abc")
        assert right.ioctl(0x541B) == 3
        with pytest.raises(OSError) as raised:
            right.ioctl(1)
        assert raised.value.errno == errno.ENOTTY


def test_shutdown_takes_three_ways(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.shutdown(standard.SHUT_WR)
        assert right.recv(1) == b""
        with pytest.raises(OSError) as raised:
            left.shutdown(3)
        assert raised.value.errno == errno.EINVAL


# -- who holds it


def test_dup_is_the_same_socket(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.settimeout(9)
        twin = left.dup()
        assert twin.gettimeout() == 9
        assert twin.fileno() != left.fileno()
        left.close()
        twin.send(b"x")
        assert right.recv(1) == b"x"
        twin.close()
        assert right.recv(1) == b""


def test_detach_hands_the_socket_to_the_descriptor(net: Net) -> None:
    with stream_pair(net) as (left, right):
        fd = left.detach()
        assert left.fileno() == -1
        readiness = find(fd)
        assert readiness is not None
        again = UserSocket.__new__(UserSocket)
        again._io_refs, again._closed = 0, False
        again._attach(readiness, fd)
        assert again.fileno() == fd
        again.send(b"x")
        assert right.recv(1) == b"x"
        again.close()
        assert find(fd) is None
        assert right.recv(1) == b""


def test_a_number_given_out_again_is_not_taken_for_the_socket(net: Net) -> None:
    sock = UserSocket(net)
    fd = sock.detach()
    readiness = find(fd)
    assert readiness is not None
    os.close(fd)  # what a program may do with what is its own
    assert find(fd) is None
    readiness.socket.release()


def test_a_call_that_waits_holds_the_socket(virtual: Virtual) -> None:
    with stream_pair(virtual.net) as (left, right):
        sk = sk_of(right)

        def close_and_send() -> None:
            right.close()
            assert not sk.closed
            left.send(b"late")

        virtual.at(1, close_and_send)
        assert right.recv(10) == b"late"
        assert sk.closed


def test_lingering_close_waits(virtual: Virtual) -> None:
    sock = UserSocket(virtual.net)
    sk = sk_of(sock)
    sk.linger = 5
    sock.close()
    assert sk.lingering_until == 5 * SECOND


def test_lingering_does_not_wait_where_nothing_drives(net: Net) -> None:
    trampoline = net.loop.trampoline
    net.loop.trampoline = None
    with UserSocket(net) as sock:
        sk_of(sock).linger = 5
        sk = sk_of(sock)
        net.loop.trampoline = trampoline
    assert sk.closed


def _drop(net: Net) -> None:
    sock = UserSocket(net)
    sock.fileno()
    del sock
    gc.collect()


def test_a_forgotten_socket_warns_and_is_closed(net: Net) -> None:
    with pytest.warns(ResourceWarning, match=r"unclosed <usernet.socket family"):
        _drop(net)
    net.loop.enter()
    net.loop.leave()
    assert not net.get(SockNet).sockets
    assert not DESCRIPTORS


def test_a_socket_forgotten_inside_the_stack_is_closed_afterwards(net: Net) -> None:
    sock = UserSocket(net)
    keep = [sock]
    del sock
    net.loop.enter()
    try:
        with pytest.warns(ResourceWarning):
            keep.clear()
        assert net.get(SockNet).sockets
    finally:
        net.loop.leave()
    assert not net.get(SockNet).sockets


def test_a_socket_that_could_not_be_made_does_not_warn(net: Net) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError):
            UserSocket(net, 99)
        gc.collect()


def test_closing_after_the_stack_has_ended() -> None:
    from tests.sockets.fake import make_net, stop

    net = make_net()
    first, second, third = UserSocket(net), UserSocket(net), UserSocket(net)
    first.fileno()
    second.fileno()
    stop(net)
    first.close()
    keep = [second]
    del second
    with pytest.warns(ResourceWarning):
        keep.clear()
    with pytest.raises(UnusableStackError):
        third.bind(("", 1))
    third.close()
    assert not DESCRIPTORS


def test_a_socket_closed_by_another_thread_just_before(net: Net) -> None:
    sock = UserSocket(net)
    socket = sock._socket
    assert socket is not None
    twin = UserSocket.of(socket)  # one reference, two handles: what a race would look like
    sock.close()
    with pytest.raises(OSError) as raised:
        twin.recv(1)
    assert raised.value.errno == errno.EBADF
    twin._socket = twin._sk = None


def test_inheritable_is_the_descriptors(net: Net) -> None:
    with UserSocket(net) as sock:
        assert not sock.get_inheritable()
        sock.set_inheritable(True)
        assert sock.get_inheritable()


def test_audit_events_are_the_standard_modules(net: Net) -> None:
    seen: list[tuple[str, Any]] = []
    active = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if active and event in ("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"):
            seen.append((event, args[1]))

    sys.addaudithook(hook)  # there is no way to take it out again
    with UserSocket(net, 2, 2) as sock:
        sock.bind(("", 5))
        sock.sendto(b"x", ("127.0.0.1", 6))
        sock.connect(("127.0.0.1", 6))
        sock.sendmsg([b"x"])
    active.clear()
    assert seen == [
        ("socket.bind", ("", 5)),
        ("socket.sendto", ("127.0.0.1", 6)),
        ("socket.connect", ("127.0.0.1", 6)),
        ("socket.sendmsg", None),
    ]


def test_a_blocked_reader_in_another_thread(threaded: Net) -> None:
    with stream_pair(threaded) as (left, right):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(right.recv(10)))
        reader.start()
        left.sendall(b"hello")
        reader.join(30)
        assert got == [b"hello"]


def test_exclusive_acceptors_are_woken_one_by_one(threaded: Net) -> None:
    with listener(threaded) as server:
        accepted: list[UserSocket] = []
        threads = [threading.Thread(target=lambda: accepted.append(server.accept()[0])) for _ in range(4)]
        for thread in threads:
            thread.start()
        clients = [UserSocket(threaded) for _ in threads]
        for client in clients:
            client.connect(("127.0.0.1", 80))
        for thread in threads:
            thread.join(30)
        assert len(accepted) == 4
        for sock in clients + accepted:
            sock.close()


def test_peer_gone_before_accept_returns_has_no_address(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(net) as server, UserSocket(net) as client:
        client.connect(("127.0.0.1", 80))

        def gone(self: FakeSock) -> Any:
            raise OSError(errno.ENOTCONN, "gone")

        monkeypatch.setattr(FakeSock, "getpeername", gone)
        connection, address = server.accept()
        connection.close()
        assert address is None
