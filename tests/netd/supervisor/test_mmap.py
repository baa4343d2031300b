"""A packet socket's ring in a program under the supervisor, and where its descriptor is in the meantime."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from tests.netd.supervisor.conftest import Bed
from tests.netd.supervisor.test_seccomp import pytestmark as possible
from tests.netd.supervisor.test_supervisor import fails
from tests.support.stacks import until

pytestmark = possible

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_HDRLEN = 5, 6, 10, 11
PAGE = mmap.PAGESIZE
REQUEST = struct.pack("=IIII", PAGE, 2, 2048, 4)
SIZE = 2 * PAGE
EXPERIMENTAL = 0x88B5


def ring_socket(request: bytes = REQUEST) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VERSION, 1)
    sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    return sock


def send(sock: socket.socket, payload: bytes) -> None:
    """A frame over the loopback."""
    sock.send(b"\xff" * 6 + b"\2\0\0\0\0\1" + EXPERIMENTAL.to_bytes(2, "big") + payload)


def sender() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("lo", 0))
    return sock


def readable(sock: socket.socket, seconds: float) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def frame(memory: mmap.mmap, index: int) -> bytes:
    at = index * 2048
    _, _, snaplen, mac = struct.unpack_from("=IIIH", memory, at)
    return bytes(memory[at + mac + 14 : at + mac + snaplen])


def test_frames_in_mapped_memory(bed: Bed):
    def work() -> None:
        with ring_socket() as sock, sender() as other, mmap.mmap(sock.fileno(), SIZE) as memory:
            sock.bind(("lo", EXPERIMENTAL))
            assert not readable(sock, 0.05)
            send(other, b"one")
            assert readable(sock, 5)
            send(other, b"two")
            wait_for(lambda: memory[2048])
            assert (frame(memory, 0), frame(memory, 1)) == (b"one", b"two")
            memory[0:4] = bytes(4)
            assert readable(sock, 0)
            memory[2048:2052] = bytes(4)
            # Given back by writing to memory: the descriptor follows within a moment.
            wait_for(lambda: not readable(sock, 0))
            send(other, b"three")
            assert readable(sock, 5)
            assert frame(memory, 2) == b"three"
            assert struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)) == (3, 0)
            fails(errno.EAGAIN, sock.recv, 100, socket.MSG_DONTWAIT | socket.MSG_TRUNC)
            # Without its ring it is a socket as any other.
            sock.setsockopt(SOL_PACKET, PACKET_RX_RING, bytes(16))
            assert not readable(sock, 0)
            send(other, b"by a call")
            assert sock.recv(100)[14:] == b"by a call"
            assert frame(memory, 2) == b"three"

    bed.run(work)


def test_what_can_not_be_mapped(bed: Bed):
    def work() -> None:
        with ring_socket() as sock, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as bare:
            fails(errno.EINVAL, mmap.mmap, sock.fileno(), PAGE)
            fails(errno.EINVAL, mmap.mmap, sock.fileno(), 3 * PAGE)
            fails(errno.EINVAL, mmap.mmap, bare.fileno(), SIZE)
            # Past the filter, and so the host's: a channel can't be mapped.
            fails(errno.ENODEV, mmap.mmap, sock.fileno(), SIZE, mmap.MAP_PRIVATE)
            with socket.socket() as stream:
                fails(errno.ENODEV, mmap.mmap, stream.fileno(), SIZE)
        fd = os.memfd_create("the program's own")
        os.ftruncate(fd, SIZE)
        with mmap.mmap(fd, SIZE) as memory:
            memory[0:5] = b"file!"
            assert os.pread(fd, 5, 0) == b"file!"
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        for bad in (-1, 99):
            assert libc.mmap(None, PAGE, 3, mmap.MAP_SHARED, bad, 0) == ctypes.c_void_p(-1).value
            assert ctypes.get_errno() == errno.EBADF

    assert not bed.run(work).standins.some


def test_header_lengths_are_asked_for_by_version(bed: Bed):
    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            for version, expected in ((0, 32), (1, 32), (2, 48)):
                value, size = ctypes.c_int(version), ctypes.c_uint(4)
                assert not libc.getsockopt(
                    sock.fileno(), SOL_PACKET, PACKET_HDRLEN, ctypes.byref(value), ctypes.byref(size)
                )
                assert value.value == expected

    bed.run(work)


def test_the_descriptor_is_put_back_by_the_next_call(bed: Bed):
    def work() -> None:
        with ring_socket() as sock:
            before = os.fstat(sock.fileno()).st_ino
            os.set_inheritable(sock.fileno(), True)
            with mmap.mmap(sock.fileno(), SIZE):
                assert os.fstat(sock.fileno()).st_ino != before
                sock.getsockname()
                assert os.fstat(sock.fileno()).st_ino == before
                assert os.get_inheritable(sock.fileno())
            # A second mapping, of the same memory, and a call on another socket.
            with mmap.mmap(sock.fileno(), SIZE):
                sender().close()
                assert os.fstat(sock.fileno()).st_ino == before
            os.set_inheritable(sock.fileno(), False)
            with mmap.mmap(sock.fileno(), SIZE):
                sock.getsockname()
                assert not os.get_inheritable(sock.fileno())

    assert not bed.run(work).standins.some


def test_another_thread_finds_the_socket(bed: Bed):
    def work() -> None:
        with ring_socket() as sock:
            before = os.fstat(sock.fileno()).st_ino
            seen: list[object] = []

            def other() -> None:
                # Of the descriptor, while the memory may still stand in its place; then it is put back by this call.
                seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
                seen.append(os.fstat(sock.fileno()).st_ino)

            for _ in range(20):
                seen.clear()
                with mmap.mmap(sock.fileno(), SIZE):
                    thread = threading.Thread(target=other)
                    thread.start()
                    thread.join()
                    assert seen == [socket.SOCK_RAW, before]
                assert not sock.getsockname()[0]

    bed.run(work)


def test_threads_that_map_and_call_at_once(bed: Bed):
    def work() -> None:
        with ring_socket() as sock:
            before = os.fstat(sock.fileno()).st_ino
            over = threading.Event()

            def calls() -> None:
                while not over.is_set():
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_RAW

            threads = [threading.Thread(target=calls) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(100):
                    with mmap.mmap(sock.fileno(), SIZE) as memory:
                        memory[0:4] = bytes(4)
            finally:
                over.set()
                for thread in threads:
                    thread.join()
            sock.getsockname()
            assert os.fstat(sock.fileno()).st_ino == before

    bed.run(work)


def test_memory_that_can_not_be_put_there_is_not_known(bed: Bed):
    told, tell = os.pipe()
    asked, ask = os.pipe()

    def work() -> None:
        with ring_socket() as sock:
            high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 200)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
            fails(errno.EBADF, mmap.mmap, high, SIZE)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.write(ask, b"x")
            os.read(told, 1)
            os.close(high)

    child = bed.start(work)
    os.read(asked, 1)
    by_memory = dict(child.supervisor.table.by_memory)
    os.write(tell, b"x")
    assert child.wait() == 0
    assert not by_memory and not child.supervisor.standins.some
    for end in (told, tell, asked, ask):
        os.close(end)


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_who_makes_no_call_any_more_is_noticed(bed: Bed, how: str):
    told, tell = os.pipe()

    def work() -> None:
        os.read(told, 1)
        if how == "closed" or not os.fork():
            sock = ring_socket()
            mmap.mmap(sock.fileno(), SIZE)
            if how == "killed":
                os._exit(0)
            os.close(sock.detach())
        os.read(told, 1)

    child = bed.start(work)
    # It must not be noticed before this test has seen that there is something to notice.
    child.supervisor._look_at = float("inf")
    os.write(tell, b"x")
    until(lambda: child.supervisor.standins.some, "the memory does not stand in")
    child.supervisor._look_at = 0.0
    until(lambda: not child.supervisor.standins.some, "the duplicate is kept")
    until(lambda: not bed.backend.table, "the socket is kept")
    os.write(tell, b"x")
    assert child.wait() == 0
    os.close(told)
    os.close(tell)


def test_a_ring_is_passed_on_by_fork(bed: Bed):
    def work() -> None:
        with ring_socket() as sock, sender() as other, mmap.mmap(sock.fileno(), SIZE) as memory:
            sock.bind(("lo", EXPERIMENTAL))
            pid = os.fork()
            if not pid:
                good = readable(sock, 5) and frame(memory, 0) == b"for both"
                memory[0:4] = bytes(4)
                os._exit(not good)
            send(other, b"for both")
            assert os.waitpid(pid, 0)[1] == 0
            wait_for(lambda: not readable(sock, 0))

    bed.run(work)
