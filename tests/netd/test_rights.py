"""What a client may do that has not the right to control the stack."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.netd.serving import LO, serving
from usernet.netd import protocol
from usernet.netd.client import RemoteSocket
from usernet.sockets.netlink.rtnetlink import RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTNLGRP_LINK
from usernet.wire import netlink as wire

ROUTE, SOCK_DIAG = 0, 4
SOCK_DIAG_BY_FAMILY = 20


def ask(sock: RemoteSocket, kind: int, payload: bytes, flags: int = wire.NLM_F_DUMP) -> bytes:
    """The answers to a request, up to the end of the row."""
    sock.send(wire.build(kind, wire.NLM_F_REQUEST | flags, 1, 0, payload))
    got = b""
    while True:
        piece = sock.recv(65536)
        got += piece
        if wire.parse(piece, 0)[1] in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
            return got


def to_others(sock: RemoteSocket, port: int, groups: int) -> list[Callable[[int], protocol.Message]]:
    """The calls that send to another one than the kernel."""
    name = struct.pack("=HHII", 16, 0, port, groups)
    return [
        lambda number: protocol.Connect(number, sock.handle, name),
        lambda number: protocol.Send(number, sock.handle, bytes(16), 16, 0, name, b""),
    ]


def denied(answer: bytes) -> bool:
    """Whether the answer is an error, EPERM."""
    return wire.parse(answer, 0)[1] == wire.NLMSG_ERROR and answer[16:20] == struct.pack("=i", -errno.EPERM)


def test_strangers_get_no_more_than_a_user_without_capabilities(tmp_path: Path):
    with serving(tmp_path, privileged=lambda uid: False) as served, served.client() as client:
        assert not client.connection.welcome.control
        sock = client.socket()
        for refused in (
            lambda: client.socket(17, 3, 3),
            lambda: client.socket(2, 3, 1),
            lambda: sock.setsockopt(1, 36, 1),
            lambda: sock.ioctl(0x8914, bytes(40)),
            lambda: client.command("ip", "addr", "add", "10.0.0.1/8", "dev", "lo"),
            lambda: client.command("sysctl", "net.ipv4.ip_forward=1"),
            lambda: client.command("ss", "-tia"),
        ):
            with pytest.raises(PermissionError):
                refused()
        with client.watch() as pieces, pytest.raises(PermissionError):
            next(pieces)
        assert "127.0.0.1/8" in client.command("ip", "-br", "addr", "show")
        assert client.command("sysctl", "-n", "net.ipv4.ip_forward") == "0"
        assert "State" in client.command("ss", "-ta")
        sock.close()


def test_strangers_read_by_netlink_and_change_nothing(tmp_path: Path):
    with serving(tmp_path, privileged=lambda uid: False) as served, served.client() as client:
        sock = client.socket(16, 3, ROUTE)
        sock.settimeout(10)
        assert b"lo\0" in ask(sock, RTM_GETLINK, bytes(16))
        # The route that is asked for is one to LO, by the local table.
        destination = wire.attribute(1, bytes((127, 0, 0, 1)))
        assert not denied(ask(sock, RTM_GETROUTE, bytes((2, 32, 0, 0)) + bytes(8) + destination, wire.NLM_F_ACK))
        address = struct.pack("=BBBBI", 2, 8, 0, 0, 1) + wire.attribute(2, bytes((10, 0, 0, 1)))
        assert denied(ask(sock, RTM_NEWADDR, address, wire.NLM_F_ACK | wire.NLM_F_CREATE))
        assert "10.0.0.1" not in client.command("ip", "addr")
        sock.setsockopt(270, 1, RTNLGRP_LINK)
        # Others may take for the kernel's word what comes by netlink.
        for port, groups in ((77, 0), (0, 1)):
            for call in to_others(sock, port, groups):
                with pytest.raises(PermissionError):
                    client.call(call)
        sock.close()


def test_strangers_see_all_sockets_as_on_linux(tmp_path: Path):
    with serving(tmp_path, privileged=lambda uid: False) as served:
        with served.stack.socket() as listener, served.client() as client:
            listener.bind((LO, 4321))
            listener.listen()
            sock = client.socket(16, 3, SOCK_DIAG)
            sock.settimeout(10)
            query = struct.pack("=BBBBI", 2, 6, 0, 0, 0xFFFFFFFF) + bytes(48)
            assert (4321).to_bytes(2, "big") + bytes(2) + bytes((127, 0, 0, 1)) in ask(sock, SOCK_DIAG_BY_FAMILY, query)
            sock.close()


def test_who_controls_the_stack_changes_it_by_netlink(tmp_path: Path):
    with serving(tmp_path) as served, served.client() as client:
        sock = client.socket(16, 3, ROUTE)
        sock.settimeout(10)
        address = struct.pack("=BBBBI", 2, 8, 0, 0, 1) + wire.attribute(2, bytes((10, 0, 0, 1)))
        assert not denied(ask(sock, RTM_NEWADDR, address, wire.NLM_F_ACK | wire.NLM_F_CREATE))
        assert "10.0.0.1" in client.command("ip", "addr")
        sock.close()
