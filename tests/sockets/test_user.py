"""What the standard class adds in Python: files, sendfile, weak references, the with statement."""

from __future__ import annotations

import io
import weakref
from pathlib import Path

import pytest

from tests.sockets.fake import ROOM
from tests.sockets.pairs import sk_of, stream_pair
from tests.sockets.virtual import Virtual
from usernet.net.pernet import Net
from usernet.sockets.user import UserSocket


def test_files_on_a_socket(net: Net) -> None:
    with stream_pair(net) as (left, right):
        with left.makefile("wb") as out, right.makefile("r", encoding="utf-8") as lines:
            out.write("grüße\nzwei\n".encode())
            out.flush()
            assert lines.readline() == "grüße\n"
            assert lines.readline() == "zwei\n"
        with right.makefile("rwb", buffering=0) as raw:
            raw.write(b"x")
        assert left.recv(1) == b"x"
        with pytest.raises(ValueError, match="invalid mode"):
            left.makefile("a")


def test_a_file_keeps_the_socket_open(net: Net) -> None:
    with stream_pair(net) as (left, right):
        file = left.makefile("wb")
        left.close()
        file.write(b"last")
        file.close()
        assert right.recv(10) == b"last"
        assert right.recv(10) == b""


def test_sendfile(virtual: Virtual, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10
    path = tmp_path / "file"
    path.write_bytes(content)
    with stream_pair(virtual.net) as (left, right):
        received = bytearray()
        for second in range(1, 5):
            virtual.at(second, lambda: received.extend(right.recv(ROOM)))
        with path.open("rb") as file:
            assert left.sendfile(file) == len(content)
            assert file.tell() == len(content)
            while len(received) < len(content):
                received += right.recv(ROOM)
            assert received == content
            assert left.sendfile(file, 10, 20) == 20
            assert file.tell() == 30
            assert right.recv(100) == content[10:30]
            assert left.sendfile(io.BytesIO(b"memory")) == 6
            assert right.recv(100) == b"memory"


def test_sendfile_checks_its_arguments(net: Net, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with stream_pair(net) as (left, _), UserSocket(net, 2, 2) as datagram, (tmp_path / "file").open() as text:
        with pytest.raises(ValueError, match="binary mode"):
            left.sendfile(text)
        with pytest.raises(ValueError, match="only SOCK_STREAM"):
            datagram.sendfile(io.BytesIO())
        with pytest.raises(ValueError, match="count must be a positive integer"):
            left.sendfile(io.BytesIO(), 0, 0)
        with pytest.raises(TypeError, match="count must be a positive integer"):
            left.sendfile(io.BytesIO(), 0, 1.5)  # type: ignore[arg-type]
        left.setblocking(False)
        with pytest.raises(ValueError, match="non-blocking sockets are not supported"):
            left.sendfile(io.BytesIO())


def test_sockets_can_be_referenced_weakly(net: Net) -> None:
    with UserSocket(net) as sock:
        assert weakref.ref(sock)() is sock


def test_leaving_the_with_block_of_a_closed_socket(net: Net) -> None:
    with UserSocket(net) as sock:
        sk = sk_of(sock)
        sock.close()
    assert sk.closed
