from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.netd.supervisor.memory import BUFFER, IOV_MAX, MAX_RW_COUNT, Memory, skip

PAGE = mmap.PAGESIZE
ME = os.getpid()


@pytest.fixture
def pages() -> Iterator[tuple[int, mmap.mmap]]:
    """Two pages of memory with nothing behind them: where they are, and what they hold."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    area = mmap.mmap(-1, 3 * PAGE)
    anchor = ctypes.c_char.from_buffer(area)
    start = ctypes.addressof(anchor)
    assert libc.mprotect(start + 2 * PAGE, PAGE, 0) == 0
    yield start, area
    libc.mprotect(start + 2 * PAGE, PAGE, 3)
    del anchor
    area.close()


def raises(code: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda problem: problem.errno == code)


def test_all_of_it_or_efault(pages):
    start, area = pages
    area[: 2 * PAGE] = bytes(range(256)) * (2 * PAGE // 256)
    memory = Memory()
    assert memory.read(ME, start + 5, 7) == bytes(range(5, 12))
    assert memory.read(ME, start, 0) == b""
    assert len(memory.read_some(ME, start + PAGE, 2 * PAGE)) == PAGE
    for address in (start + 2 * PAGE - 3, start + 2 * PAGE, 0, 8, (1 << 63) - 8, 1 << 63, (1 << 64) - 1):
        with raises(errno.EFAULT):
            memory.read(ME, address, 8)
        with raises(errno.EFAULT):
            memory.write(ME, address, bytes(8))


def test_written_bytes_are_there_and_a_length_beyond_the_address_space_ends_where_memory_does(pages):
    start, area = pages
    memory = Memory()
    memory.write(ME, start + 10, b"hello")
    assert area[10:15] == b"hello"
    assert len(memory.read_some(ME, start, (1 << 64) - 1)) == 2 * PAGE
    assert memory.scatter(ME, [(start + PAGE, 1 << 62)], b"x" * 3 * PAGE) == PAGE
    assert area[PAGE : 2 * PAGE] == b"x" * PAGE


def test_more_than_the_buffer_holds_moves_in_turns():
    memory = Memory()
    area = mmap.mmap(-1, 3 * BUFFER)
    anchor = ctypes.c_char.from_buffer(area)
    start = ctypes.addressof(anchor)
    data = os.urandom(2 * BUFFER + 77)
    vectors = [(start + 3, BUFFER // 2), (start + BUFFER, 2 * BUFFER)]
    assert memory.scatter(ME, vectors, data) == len(data)
    assert memory.gather(ME, vectors, len(data)) == data
    del anchor
    area.close()


@given(st.lists(st.integers(0, 30), max_size=9), st.integers(0, 200))
def test_skipping_is_the_same_as_counting(lengths, size):
    vectors = []
    address = 100
    for length in lengths:
        vectors.append((address, length))
        address += 50
    flat = [start + i for start, length in vectors for i in range(length)]
    assert [start + i for start, length in skip(vectors, size) for i in range(length)] == flat[size:]


def test_vectors_are_looked_at_as_the_kernel_does(pages):
    start, _ = pages
    memory = Memory()

    def put(*vectors: tuple[int, int]) -> list[tuple[int, int]]:
        memory.write(ME, start, b"".join(struct.pack("=QQ", *vector) for vector in vectors))
        return memory.read_iovecs(ME, start, len(vectors))

    assert put((1, 2), (3, 0)) == [(1, 2), (3, 0)]
    assert put() == []
    assert put((1, MAX_RW_COUNT), (2, 5)) == [(1, MAX_RW_COUNT), (2, 0)]
    with raises(errno.EINVAL):
        put((1, 1 << 63))
    with raises(errno.EFAULT):
        put((1 << 63, 1))
    with raises(errno.EMSGSIZE):
        memory.read_iovecs(ME, start, IOV_MAX + 1)
    with raises(errno.EFAULT):
        memory.read_iovecs(ME, start + 2 * PAGE, 1)


def test_a_message_header_is_read_field_by_field(pages):
    start, _ = pages
    memory = Memory()
    memory.write(ME, start, struct.pack("=QI4xQQQQi4x", 1, 2, 3, 4, 5, 6, 7))
    assert tuple(memory.read_msghdr(ME, start)) == (1, 2, 3, 4, 5, 6, 7)


def test_a_process_that_is_none():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    with raises(errno.ESRCH):
        Memory().read(pid, 4096, 1)
