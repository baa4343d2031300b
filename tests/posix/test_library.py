"""The drop-in module: the standard one's surface and objects, on a stack; the host's sockets beside it."""

from __future__ import annotations

import errno
import io
import os
import select
import socket as standard
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import usernet.socket as socket
from usernet.posix.handle import Accepted
from usernet.sock.sock import SockNet
from usernet.sockets.readiness import find
from usernet.stack import Stack


@pytest.fixture
def pair(stack: Stack) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 80)) as server, socket.create_connection(("127.0.0.1", 80)) as client:
        connection, _ = server.accept()
        with connection:
            yield client, connection


def test_the_surface_is_the_standard_modules() -> None:
    assert set(dir(standard)) - set(dir(socket)) == set()
    assert set(socket.__all__) == set(standard.__all__)


def test_what_can_be_shared_is_the_same_object() -> None:
    for name in ("AddressFamily", "SocketKind", "MsgFlag", "AddressInfo", "error", "timeout", "gaierror", "herror"):
        assert getattr(socket, name) is getattr(standard, name)
    assert socket.AF_INET is standard.AF_INET
    assert socket.MSG_PEEK is standard.MSG_PEEK
    assert vars(socket)["_GLOBAL_DEFAULT_TIMEOUT"] is vars(standard)["_GLOBAL_DEFAULT_TIMEOUT"]
    assert issubclass(socket.timeout, OSError)


def test_the_standard_module_is_untouched() -> None:
    assert standard.socket.__module__ == "socket"
    assert standard.socket is not socket.socket
    assert sys.modules["socket"] is standard


def test_there_is_no_such_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        socket.nothing


def test_connections(pair: tuple[socket.socket, socket.socket]) -> None:
    client, connection = pair
    assert type(connection) is type(client) is socket.socket
    assert client.family is standard.AF_INET
    assert client.getpeername() == connection.getsockname() == ("127.0.0.1", 80)
    with client.makefile("wb") as out, connection.makefile("r") as lines:
        out.write(b"one\ntwo\n")
        out.flush()
        assert lines.readline() == "one\n"
        assert lines.readline() == "two\n"
    client.close()
    assert connection.recv(1) == b""


def test_no_descriptor_before_it_is_asked_for(stack: Stack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 80)) as server, socket.create_connection(("127.0.0.1", 80)) as client:
        connection, _ = server.accept()
        with connection:
            repr(client), repr(connection)
            assert len(os.listdir("/proc/self/fd")) == before
            assert "fd=-1" in repr(client)
            client.fileno()
            assert f"fd={client.fileno()}" in repr(client)
    assert "[closed] fd=-1" in repr(client)
    assert repr(client).startswith("<usernet.socket.socket ")


def test_a_raw_accept_can_be_made_a_socket(pair: tuple[socket.socket, socket.socket], stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 81)) as server, socket.create_connection(("127.0.0.1", 81)):
        token, address = server._accept()  # type: ignore[attr-defined]
        assert isinstance(token, Accepted)
        assert address[0] == "127.0.0.1"
        socket.socket(fileno=token).close()


def test_timeouts_and_defaults(stack: Stack) -> None:
    socket.setdefaulttimeout(0.01)
    try:
        assert standard.getdefaulttimeout() == socket.getdefaulttimeout() == 0.01
        with socket.create_server(("127.0.0.1", 80)) as server:
            assert server.gettimeout() == 0.01
            with pytest.raises(socket.timeout):
                server.accept()
    finally:
        socket.setdefaulttimeout(None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9), timeout=5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", 9))


def test_no_ipv6_yet_and_nothing_falls_through_to_the_host(stack: Stack) -> None:
    assert not socket.has_dualstack_ipv6()
    for family in (socket.AF_INET6, socket.AF_APPLETALK, 99):
        with pytest.raises(OSError) as raised:
            socket.socket(family, socket.SOCK_DGRAM)
        assert raised.value.errno == errno.EAFNOSUPPORT


def test_unix_sockets_are_the_hosts(stack: Stack, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        server.bind(path)
        server.listen()
        client.settimeout(5)
        assert client.gettimeout() == 5.0
        assert client.getblocking()
        assert client.connect_ex(path) == 0
        connection, _ = server.accept()
        with connection:
            assert isinstance(connection, socket.socket)
            client.sendall(b"over")
            assert connection.recv(10) == b"over"
            connection.sendmsg([b"back"])
            assert client.recvmsg(10)[0] == b"back"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 9999)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 9999
            assert client.getpeername() == path
            assert client.sendfile(io.BytesIO(b"file")) == 4
            with (tmp_path / "file").open("w+b") as file:
                file.write(b"real file")
                file.flush()
                assert client.sendfile(file) == 9
            assert connection.recv(100) == b"filereal file"
            client.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
            assert client.family is standard.AF_UNIX
            assert "family=1" in repr(client)
    assert not stack.net.get(SockNet).sockets
    with pytest.raises(OSError) as raised:
        client.send(b"x")
    assert raised.value.errno == errno.EBADF


def test_every_method_of_the_standard_class_is_there(stack: Stack) -> None:
    assert [name for name in dir(standard.socket) if not hasattr(socket.socket, name)] == []
    with socket.socket() as sock, pytest.raises(OSError, match="only supported for AF_ALG"):
        sock.sendmsg_afalg(op=1)


def test_socketpair_and_descriptors_of_the_host(stack: Stack) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"x")
        assert select.select([right], [], [], 0)[0]
        twin = right.dup()
        right.close()
        with twin:
            assert twin.recv(1) == b"x"
        with socket.fromfd(left.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as again:
            assert again.fileno() != left.fileno()
        fd = left.detach()
        assert left.fileno() == -1
        socket.close(fd)


def test_descriptors_of_the_stack_come_back_as_its_sockets(pair: tuple[socket.socket, socket.socket]) -> None:
    client, connection = pair
    twin = client.dup()
    assert find(twin.fileno()) is find(client.fileno()) is not None
    twin.sendall(b"1")
    with socket.fromfd(client.fileno(), client.family, client.type) as again:
        again.sendall(b"2")
    assert connection.recv(2, socket.MSG_WAITALL) == b"12"
    fd = twin.detach()
    with socket.socket(fileno=fd) as back:
        assert back.fileno() == fd
        assert back.getpeername() == client.getpeername()
        assert back.type is standard.SOCK_STREAM


def test_closing_a_descriptor_closes_its_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    client, connection = pair
    fd = client.detach()
    socket.close(fd)
    assert connection.recv(1) == b""
    with pytest.raises(OSError) as raised:
        socket.close(connection.fileno())
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("fileno", "kind"),
    [(-1, ValueError), (1.5, TypeError), ("x", TypeError), (99999, OSError)],
)
def test_what_is_no_descriptor(stack: Stack, fileno: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        socket.socket(fileno=fileno)
    with pytest.raises(kind) as expected:
        standard.socket(fileno=fileno)
    assert str(raised.value) == str(expected.value)


def test_sendfile_goes_through_the_stack(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    client, connection = pair
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        assert client.sendfile(file, 2, 5) == 5
    assert connection.recv(100) == b"23456"


def test_subclasses_of_the_socket_class(stack: Stack, tmp_path: Path) -> None:
    class Shouting(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            return super().send(bytes(data).upper(), flags)

    with socket.create_server(("127.0.0.1", 80)) as server, Shouting() as client:
        client.connect(("127.0.0.1", 80))
        client.send(b"loud")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(10) == b"LOUD"
    left, right = socket.socketpair()
    with right, Shouting(fileno=left.detach()) as shouting:
        shouting.send(b"loud")
        assert right.recv(10) == b"LOUD"


def test_sockets_of_a_stack_that_is_no_longer_chosen(stack: Stack) -> None:
    with Stack("other") as other, socket.create_server(("127.0.0.1", 80)) as server:
        import usernet

        with usernet.using(other), pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 80))
        with usernet.using(other):
            server.settimeout(5)
            with usernet.using(stack):
                client = socket.create_connection(("127.0.0.1", 80))
            connection, _ = server.accept()  # on the listener's stack, whichever is chosen
        client.close()
        connection.close()


def test_a_forgotten_socket_warns(stack: Stack) -> None:
    sock = [socket.socket()]
    with pytest.warns(ResourceWarning, match=r"unclosed <usernet.socket.socket fd=-1"):
        sock.clear()


def test_a_socket_that_could_not_be_made_does_not_warn(stack: Stack) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError):
            socket.socket(99)


def test_devices_are_the_stacks(stack: Stack) -> None:
    assert socket.if_nameindex() == [(1, "lo")]
    assert socket.if_nametoindex("lo") == 1
    assert socket.if_indextoname(1) == "lo"
    with pytest.raises(OSError, match="no interface with this name"):
        socket.if_nametoindex("eth0")
    with pytest.raises(OSError) as raised:
        socket.if_indextoname(99)
    assert raised.value.errno == errno.ENXIO
