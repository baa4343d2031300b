"""A supervisor's calls, carried out by a service: answers, cancelling, what comes too late, and the service's end."""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.netd.serving import LO, Served, serving
from tests.support.processes import started
from tests.support.stacks import PATIENCE, until
from usernet.netd import names, protocol
from usernet.netd.interface import Opened, Received, SpentChannelError
from usernet.netd.remote_backend import RemoteBackend

NAME = names.pack(2, (LO, 80))


class Supervisor:
    """One that has a backend and puts the descriptors into this process."""

    def __init__(self, path: str) -> None:
        self.backend = RemoteBackend(path, "test")
        self.fds: dict[int, int] = {}
        self.closed: list[int] = []
        self.backend.closed = self.closed.append

    def ask(self, call: str, *words: Any) -> list[Any]:
        """Make a call: what `done` is told comes into the list."""
        told: list[Any] = []
        pending = getattr(self.backend, call)(*words, lambda result, problem: told.extend((result, problem)))
        assert pending is not None or told
        told_and_pending = told
        self.pending = pending
        return told_and_pending

    def pump(self, seconds: float) -> None:
        if select.select([self.backend], [], [], seconds)[0]:
            self.backend.ready()

    def wait(self, told: list[Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not told:
            assert time.monotonic() < deadline, "no answer"
            self.pump(0.1)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def call(self, call: str, *words: Any) -> Any:
        return self.wait(self.ask(call, *words))

    def take(self, opened: Opened) -> int:
        """Put the descriptor into the process, and say so."""
        assert os.fstat(opened.fd).st_ino == opened.inode
        old = self.fds.get(opened.handle, -1)
        if old >= 0:
            os.close(old)
        self.fds[opened.handle] = opened.fd
        self.backend.commit(opened.handle, lambda: os.dup(self.fds[opened.handle]))
        return opened.handle

    def socket(self, kind: int = 1) -> int:
        return self.take(self.call("socket", 2, kind, 0))

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()
        self.backend.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def supervisor(served: Served) -> Iterator[Supervisor]:
    made = Supervisor(served.path)
    yield made
    made.close()


def listener(supervisor: Supervisor) -> int:
    handle = supervisor.socket()
    assert supervisor.call("bind", handle, NAME) == 0
    assert supervisor.call("listen", handle, 10) == 0
    return handle


def test_a_connection(supervisor: Supervisor):
    server, client = listener(supervisor), supervisor.socket()
    assert supervisor.call("connect", client, NAME, False) == 0
    opened = supervisor.call("accept", server, 0, False)
    assert opened.name == supervisor.call("getsockname", client)
    connection = supervisor.take(opened)
    os.write(supervisor.fds[client], b"by the descriptor")
    assert os.read(supervisor.fds[connection], 100) == b"by the descriptor"
    data = bytes(range(256)) * 2000  # more than a message holds
    told = supervisor.ask("sendmsg", client, data, len(data), 0, None, b"", False)
    got = b""
    while len(got) < len(data):
        supervisor.pump(0)
        if select.select([supervisor.fds[connection]], [], [], 0.05)[0]:
            got += os.read(supervisor.fds[connection], 1 << 16)
    assert got == data
    assert supervisor.wait(told) == len(data)
    assert supervisor.call("setsockopt", client, 1, 7, (100_000).to_bytes(4, "little")) == 0
    assert int.from_bytes(supervisor.call("getsockopt", client, 1, 7, 4, None), "little") == 200_000
    assert supervisor.call("shutdown", client, 1) == 0
    assert os.read(supervisor.fds[connection], 1) == b""
    os.close(supervisor.fds.pop(connection))
    deadline = time.monotonic() + PATIENCE
    while connection not in supervisor.closed and time.monotonic() < deadline:
        supervisor.pump(0.05)
    assert connection in supervisor.closed


def test_problems_are_told(supervisor: Supervisor):
    sock = supervisor.socket()
    for call, code in (
        (("getpeername", sock), errno.ENOTCONN), (("bind", 999, NAME), errno.EBADF),
        (("accept", sock, 0, True), errno.EINVAL), (("connect", sock, NAME, False), errno.ECONNREFUSED),
        (("sendmsg", sock, b"abc", 10, 0, None, b"", True), errno.EPIPE), (("socket", 10, 1, 0), errno.EAFNOSUPPORT),
        (("bind", sock, b"x" * 200), errno.EINVAL),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            supervisor.call(*call)
        assert caught.value.errno == code, call
    with pytest.raises(SpentChannelError):
        supervisor.call("connect", sock, NAME, False)
    supervisor.take(supervisor.call("renew", sock))
    listener(supervisor)
    assert supervisor.call("connect", sock, NAME, False) == 0
    assert supervisor.call("renew", sock) is None


def test_datagrams_and_their_return(supervisor: Supervisor):
    one, other = supervisor.socket(2), supervisor.socket(2)
    supervisor.call("bind", one, NAME)
    for text in (b"first", b"second"):
        assert supervisor.call("sendmsg", other, text, len(text), 0, NAME, b"", False) == len(text)
    got: Received = supervisor.call("recvmsg", one, 100, 0, 0, False)
    assert got.data == b"first"
    assert names.unpack(got.name) == (LO, names.unpack(supervisor.call("getsockname", other))[1])
    supervisor.backend.unreceive(one)
    assert supervisor.call("recvmsg", one, 2, 0x20, 0, False).result == 5
    assert supervisor.call("recvmsg", one, 100, 0, 0, False).data == b"second"
    with pytest.raises(BlockingIOError):
        supervisor.call("recvmsg", one, 100, 0, 0, True)


def test_a_cancelled_call_leaves_nothing(served: Served, supervisor: Supervisor):
    server, client = listener(supervisor), supervisor.socket()
    told = supervisor.ask("accept", server, 0, False)
    pending = supervisor.pending
    assert pending.cancel()
    assert not pending.cancel()
    # The connection comes after the call was given up, or at the same moment: it is there for the next one.
    told_later = supervisor.ask("accept", server, 0, False)
    later = supervisor.pending
    supervisor.call("connect", client, NAME, False)
    until(lambda: len(served.server.calls.table) == 3)
    if not later.cancel():
        opened = told_later[0]
        os.close(opened.fd)
        supervisor.backend.give_back(opened.handle)
    connection = supervisor.take(supervisor.call("accept", server, 0, False))
    assert told == []
    assert supervisor.call("getpeername", connection) == supervisor.call("getsockname", client)
    # A datagram likewise.
    sock = supervisor.socket(2)
    supervisor.call("bind", sock, NAME)
    supervisor.ask("recvmsg", sock, 100, 0, 0, False)
    waiting = supervisor.pending
    supervisor.call("sendmsg", sock, b"to myself", 9, 0, NAME, b"", False)
    if not waiting.cancel():
        supervisor.backend.unreceive(sock)
    assert supervisor.call("recvmsg", sock, 100, 0, 0, False).data == b"to myself"


def test_a_descriptor_that_went_nowhere(served: Served, supervisor: Supervisor):
    opened = supervisor.call("socket", 2, 1, 0)
    os.close(opened.fd)
    supervisor.backend.give_back(opened.handle)
    until(lambda: not served.server.calls.table)


def test_connecting_without_waiting_reaches_the_descriptor(supervisor: Supervisor):
    server, client = listener(supervisor), supervisor.socket()
    with pytest.raises(BlockingIOError):
        supervisor.call("connect", client, NAME, True)
    connection = supervisor.take(supervisor.call("accept", server, 0, False))
    fd = supervisor.fds[client]
    os.set_blocking(fd, False)
    assert select.select([], [fd], [], PATIENCE)[1]
    deadline = time.monotonic() + PATIENCE
    sent = 0
    # Once the service has reached it, it takes more than the smallest send buffer.
    while sent < 100_000:
        assert time.monotonic() < deadline
        supervisor.pump(0.01)
        try:
            sent = os.write(fd, bytes(200_000))
        except BlockingIOError:
            pass
    assert connection in supervisor.fds


def test_the_end_of_the_service(tmp_path: Path):
    with serving(tmp_path) as served:
        supervisor = Supervisor(served.path)
        server = listener(supervisor)
        told = supervisor.ask("accept", server, 0, False)
        served.server.close()
        with pytest.raises(OSError) as caught:
            supervisor.wait(told)
        assert caught.value.errno == errno.ENETDOWN
        with pytest.raises(OSError) as caught:
            supervisor.call("getsockname", server)
        assert caught.value.errno == errno.ENETDOWN
        supervisor.close()


LARGEST = 65507
"""Bytes of the largest datagram of UDP over IPv4."""
TTL = struct.pack("=Qiii4x", 20, 0, 2, 9)
"""Ancillary data of 24 bytes: IP_TTL."""


def test_the_largest_datagram_goes_with_ancillary_data_and_name(supervisor: Supervisor):
    sender, receiver = supervisor.socket(2), supervisor.socket(2)
    supervisor.call("bind", receiver, NAME)
    supervisor.call("setsockopt", receiver, 0, 12, struct.pack("=i", 1))  # IP_RECVTTL
    for handle, option in ((sender, 7), (receiver, 8)):
        supervisor.call("setsockopt", handle, 1, option, struct.pack("=i", 1 << 20))
    data = os.urandom(LARGEST)
    control = TTL * (4096 // len(TTL))
    assert supervisor.call("sendmsg", sender, data, LARGEST, 0, NAME, control, False) == LARGEST
    got = supervisor.call("recvmsg", receiver, 1 << 19, 0, 8192, False)
    assert (got.data, got.result, got.flags) == (data, LARGEST, 0)
    assert got.name == supervisor.call("getsockname", sender)[:4] + bytes((127, 0, 0, 1)) + bytes(8)
    assert got.control == TTL
    for size in (LARGEST + 1, protocol.MAX_DATA, protocol.MAX_DATA + 1, 1 << 19):
        with pytest.raises(OSError) as caught:
            supervisor.call("sendmsg", sender, bytes(size), size, 0, NAME, b"", False)
        assert caught.value.errno == errno.EMSGSIZE
    for size in (4097, 1 << 17):
        with pytest.raises(OSError) as caught:
            supervisor.call("sendmsg", sender, b"x", 1, 0, NAME, bytes(size), False)
        assert caught.value.errno in (errno.EINVAL, errno.EMSGSIZE)


@pytest.mark.parametrize("size", [protocol.MAX_DATA - 1, protocol.MAX_DATA, protocol.MAX_DATA + 1])
def test_data_of_a_stream_of_a_messages_size(supervisor: Supervisor, size: int):
    server, client = listener(supervisor), supervisor.socket()
    supervisor.call("connect", client, NAME, False)
    connection = supervisor.take(supervisor.call("accept", server, 0, False))
    data = os.urandom(size)
    told = supervisor.ask("sendmsg", client, data, size, 0, None, b"", False)
    got = b""
    while len(got) < size:
        supervisor.pump(0)
        if select.select([supervisor.fds[connection]], [], [], 0.05)[0]:
            got += os.read(supervisor.fds[connection], 1 << 17)
    assert got == data
    assert supervisor.wait(told) == size


def test_the_largest_message_is_one_that_the_service_takes(served: Served):
    raw = served.raw()
    data = bytes(protocol.MAX_DATA)
    largest = protocol.Send(0xFFFFFFFF, 0xFFFFFFFF, data, 1 << 62, -1, bytes(256), bytes(4096), True)
    assert len(protocol.encode(largest)) < protocol.MAX_MESSAGE
    assert raw.ask(largest).errno == errno.EBADF
    padded = protocol.encode(protocol.GetOption(1, 1, 1, 1, 4, bytes(65536)))
    assert raw.ask(padded).errno == errno.EBADF
    # What has a message's size and is none of the protocol's is read whole, and refused; one byte more is cut off.
    raw.say(bytes(protocol.MAX_MESSAGE))
    assert "not a message" in raw.hear()[0].text
    raw.close()
    raw = served.raw()
    raw.say(bytes(protocol.MAX_MESSAGE + 1))
    assert f"at most {protocol.MAX_MESSAGE} bytes" in raw.hear()[0].text
    raw.close()


def test_a_datagram_that_no_message_holds(served: Served):
    with served.client() as client, client.socket(2, 2) as sock:
        for size in (LARGEST + 1, protocol.MAX_DATA + 1):
            with pytest.raises(OSError) as caught:
                sock.sendto(bytes(size), (LO, 80))
            assert caught.value.errno == errno.EMSGSIZE


def test_the_ring_of_a_packet_socket(supervisor: Supervisor):
    page = mmap.PAGESIZE
    sock = supervisor.take(supervisor.call("socket", 17, 3, 0))
    set_option = partial(supervisor.call, "setsockopt", sock, 263)
    for handle, size, code in ((sock, page, errno.EINVAL), (supervisor.socket(), page, errno.ENODEV)):
        with pytest.raises(OSError) as caught:
            supervisor.call("ring", handle, size)
        assert caught.value.errno == code
    set_option(10, struct.pack("=i", 1))
    set_option(5, struct.pack("=IIII", page, 1, 2048, page // 2048))
    with pytest.raises(OSError) as caught:
        supervisor.call("ring", sock, page + 1)
    assert caught.value.errno == errno.EINVAL
    fd = supervisor.call("ring", sock, page)
    memory = mmap.mmap(fd, page)
    # Nobody can make it shorter, and have the service read behind its end.
    for size in (0, page - 1, page + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)
    assert supervisor.call("bind", sock, struct.pack("=H", 17) + bytes((0x88, 0xB5)) + struct.pack("=i12x", 1)) == 0
    other = supervisor.take(supervisor.call("socket", 17, 3, 0))
    frame = bytes(12) + bytes((0x88, 0xB5)) + b"a frame"
    name = struct.pack("=HHi12x", 17, 0, 1)
    assert supervisor.call("sendmsg", other, frame, len(frame), 0, name, b"", False) == len(frame)
    assert select.select([supervisor.fds[sock]], [], [], PATIENCE)[0]
    assert bytes(memory).count(b"a frame") == 1
    memory[:4] = bytes(4)
    deadline = time.monotonic() + PATIENCE
    while select.select([supervisor.fds[sock]], [], [], 0)[0]:
        # The service asks for the descriptor, to take the mark out of it.
        supervisor.pump(0.01)
        assert time.monotonic() < deadline, "the descriptor stays ready"
    set_option(5, bytes(16))
    with pytest.raises(OSError) as caught:
        supervisor.call("ring", sock, page)
    assert caught.value.errno == errno.EINVAL
    memory.close()


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="usernet run knows x86-64 and aarch64")
def test_a_command_on_the_stack_of_a_service(served: Served):
    program = """
import socket
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 99)); u.settimeout(10)
v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.sendto(b"datagram", ("127.0.0.1", 99))
assert u.recvfrom(100) == (b"datagram", ("127.0.0.1", v.getsockname()[1]))
s = socket.create_connection(("127.0.0.1", 80), 10); s.sendall(b"x" * 300000); print(s.recv(100).decode())
"""
    with served.client() as client:
        server = client.socket()
        server.bind((LO, 80))
        server.listen()
        command = ["-c", "from usernet.cli.main import main; main()", "run", "--stack", served.path, "--"]
        argv = [sys.executable, *command, sys.executable, "-c", program]
        with started(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
            server.settimeout(60)
            connection, _ = server.accept()
            left = 300_000
            while left:
                left -= len(connection.recv(1 << 16))
            connection.sendall(b"from the service's other client")
            output, _ = running.communicate(timeout=60)
        assert output == "from the service's other client\n"
        assert running.returncode == 0
        connection.close()
        server.close()
