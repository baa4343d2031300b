"""User memory: read, written and given back as one row of bytes, whatever buffers it comes in."""

from __future__ import annotations

import errno
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.core.iov import BufferIter, BytesIter, CollectIter, IovIter, SinkIter, SourceIter


def _in_a(kind: str, data: bytes) -> bytes | bytearray | memoryview:
    if kind == "bytearray":
        return bytearray(data)
    if kind == "view":
        return memoryview(data)
    return memoryview(bytearray(data)) if kind == "writable view" else data


_kinds = st.sampled_from(["bytes", "bytearray", "view", "writable view"])
_buffers = st.lists(st.builds(_in_a, _kinds, st.binary(max_size=40)), max_size=5)
_sizes = st.lists(st.integers(0, 60), max_size=8)


def test_the_interface_must_be_defined():
    iterator = IovIter(3)
    assert iterator.length == 3
    for call in (lambda: iterator.read(1), lambda: iterator.write(b"x"), lambda: iterator.revert(1)):
        with pytest.raises(NotImplementedError, match="IovIter must define"):
            call()


@given(_buffers, _sizes)
def test_a_source_reads_all_in_order(buffers, sizes):
    whole = b"".join(bytes(buffer) for buffer in buffers)
    source = SourceIter(buffers)
    position = 0
    for size in sizes:
        assert source.length == len(whole) - position
        got = source.read(size)
        assert bytes(got) == whole[position : position + size]
        position += len(got)
    assert bytes(source.read(source.length)) == whole[position:]
    assert source.length == 0
    assert bytes(source.read(10)) == b""


@given(_buffers, st.data())
def test_what_is_reverted_is_read_again(buffers, data):
    whole = b"".join(bytes(buffer) for buffer in buffers)
    source = SourceIter(buffers)
    position = 0
    for _ in range(data.draw(st.integers(0, 8))):
        if position and data.draw(st.booleans()):
            back = data.draw(st.integers(0, position))
            source.revert(back)
            position -= back
        else:
            got = source.read(data.draw(st.integers(0, 60)))
            assert bytes(got) == whole[position : position + len(got)]
            position += len(got)
        assert source.length == len(whole) - position
    source.revert(position)
    assert bytes(source.read(len(whole))) == whole


@given(st.binary(max_size=60), st.data())
def test_bytes_alone_are_read_as_a_row_of_them_is(payload, data):
    source, other = BytesIter(payload), SourceIter([payload])
    for _ in range(data.draw(st.integers(0, 8))):
        done = len(payload) - source.length
        if done and data.draw(st.booleans()):
            back = data.draw(st.integers(0, done))
            source.revert(back)
            other.revert(back)
        else:
            size = data.draw(st.integers(0, 70))
            assert bytes(source.read(size)) == bytes(other.read(size))
        assert source.length == other.length
    whole = BytesIter(payload)
    assert whole.read(len(payload)) is payload
    with pytest.raises(OSError, match="can't be written to"):
        whole.write(b"x")


def test_bytes_are_referenced():
    payload = bytes(range(200))
    source = SourceIter([payload])
    assert source.read(200) is payload
    source.revert(200)
    part = source.read(50)
    assert isinstance(part, memoryview)
    assert part.obj is payload
    assert source.read(1000).obj is payload  # type: ignore[union-attr]
    view = memoryview(payload)[10:20]
    assert SourceIter([view]).read(10).obj is payload  # type: ignore[union-attr]


def test_what_can_be_written_to_is_copied():
    memory = bytearray(b"before")
    row: list[list[Any]] = [[memory], [b"", memory], [memoryview(memory).toreadonly()]]
    for buffers in row:
        got = SourceIter(buffers).read(6)
        memory[:] = b"after!"
        assert got == b"before"
        memory[:] = b"before"


def test_items_of_any_kind_are_their_bytes():
    row: list[Any] = [array("H", [1, 2]), memoryview(array("B")), b"x"]
    assert bytes(SourceIter(row).read(9)) == array("H", [1, 2]).tobytes() + b"x"


@given(st.lists(st.integers(0, 30), max_size=5), st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_a_sink_is_filled_in_order(sizes, pieces, views):
    buffers = [bytearray(size) for size in sizes]
    sink = SinkIter([memoryview(buffer) for buffer in buffers] if views else buffers)
    room = sum(sizes)
    written = b""
    for piece in pieces:
        done = sink.write(memoryview(piece) if views else piece)
        assert done == min(len(piece), room - len(written))
        written += piece[:done]
        assert sink.length == room - len(written)
    assert b"".join(buffers) == written + bytes(room - len(written))


@given(st.integers(0, 60), st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_one_buffer_is_filled_as_a_row_of_it_is(size, pieces, view):
    buffer, other = bytearray(size), bytearray(size)
    sink, row = BufferIter(memoryview(buffer) if view else buffer), SinkIter([other])
    for piece in pieces:
        assert sink.write(piece) == row.write(piece)
        assert sink.length == row.length
    assert buffer == other
    with pytest.raises(OSError, match="can't be sent from"):
        sink.read(1)


@given(st.integers(0, 60), st.lists(st.binary(max_size=40), max_size=6))
def test_a_collector_takes_so_much(length, pieces):
    sink = CollectIter(length)
    for piece in pieces:
        before = sink.length
        assert sink.write(piece) == min(len(piece), before)
    whole = b"".join(pieces)[:length]
    assert sink.getvalue() == whole
    assert type(sink.getvalue()) is bytes
    assert sink.length == length - len(whole)


def test_a_collector_of_one_piece_copies_nothing():
    payload = bytes(100)
    sink = CollectIter(100)
    sink.write(payload)
    assert sink.getvalue() is payload
    part = CollectIter(10)
    part.write(memoryview(payload)[5:15])
    assert part.getvalue() == bytes(10)


def test_the_wrong_way_is_a_fault():
    for wrong in (
        lambda: SourceIter([b"x"]).write(b"y"),
        lambda: SinkIter([bytearray(1)]).read(1),
        lambda: CollectIter(1).read(1),
    ):
        with pytest.raises(OSError) as caught:
            wrong()
        assert caught.value.errno == errno.EFAULT


def test_the_piece_at_the_front() -> None:
    source = SourceIter([b"abc", bytearray(b"de"), b"", b"f"])
    found = []
    while source.length:
        size, referenced = source.front()
        found.append((bytes(source.read(size)), referenced))
    assert found == [(b"abc", True), (b"de", False), (b"f", True)]
    whole = BytesIter(b"abc")
    whole.read(1)
    assert whole.front() == (2, True)
