"""Frames side by side: none is cut, lost or changed, whatever their lengths."""

from __future__ import annotations

import errno
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from usernet.skbuff.rx_ring import SLOTS, RxRing

LENGTH, PAYLOAD, LARGEST = 20, 6, 50


def reads(frames: list[bytes], at_the_end: int | None = None) -> Callable[[memoryview], int | None]:
    """A descriptor that gives `frames`, and then nothing, or an error."""
    waiting = list(frames)

    def readinto(buffer: memoryview) -> int | None:
        if not waiting:
            if at_the_end is not None:
                raise OSError(at_the_end, "")
            return None
        frame = waiting.pop(0)
        size = min(len(frame), len(buffer))
        buffer[:size] = frame[:size]
        return size

    return readinto


def numbered(count: int, length: int = LENGTH) -> list[bytes]:
    return [bytes([number]) * length for number in range(count)]


def test_headers_and_payloads_come_out_as_one_piece_each():
    frames = [bytes(range(number, number + LENGTH)) for number in range(3)]
    ring = RxRing(LENGTH, PAYLOAD, LARGEST)
    assert ring.fill(reads(frames), 64) == errno.EAGAIN
    assert (ring.at, ring.count, ring.other) == (0, 3, None)
    assert ring.headers(1, 3) == frames[1][:PAYLOAD] + frames[2][:PAYLOAD]
    assert ring.payloads(0, 2) == frames[0][PAYLOAD:] + frames[1][PAYLOAD:]
    assert ring.frame(2) == frames[2]


def test_it_holds_no_more_than_asked_for_nor_than_it_has_slots():
    readinto = reads(numbered(100))
    ring = RxRing(LENGTH, PAYLOAD, LARGEST)
    assert ring.fill(readinto, 10) == 0
    assert ring.count == 10
    assert ring.fill(readinto, 1000) == 0
    assert ring.count == SLOTS
    assert ring.frame(SLOTS - 1) == bytes([10 + SLOTS - 1]) * LENGTH


def test_the_largest_frame_fits_the_last_slot():
    largest = bytes(range(LARGEST))
    ring = RxRing(LENGTH, PAYLOAD, LARGEST)
    assert ring.fill(reads([*numbered(SLOTS - 1), largest]), SLOTS) == 0
    assert ring.count == SLOTS - 1
    assert ring.other == largest


def test_an_error_leaves_what_came_before():
    ring = RxRing(LENGTH, PAYLOAD, LARGEST)
    assert ring.fill(reads(numbered(2), errno.EIO), 64) == errno.EIO
    assert ring.count == 2
    assert ring.fill(reads([], errno.EIO), 64) == errno.EIO
    assert ring.count == 0


@given(st.lists(st.binary(max_size=LARGEST) | st.binary(min_size=LENGTH, max_size=LENGTH), max_size=100))
def test_every_frame_comes_out_in_its_place(frames: list[bytes]) -> None:
    readinto = reads(frames)
    ring = RxRing(LENGTH, PAYLOAD, LARGEST)
    out: list[bytes] = []
    while not ring.fill(readinto, SLOTS):
        out += [ring.frame(number) for number in range(ring.count)]
        if ring.other is not None:
            out.append(ring.other)
    out += [ring.frame(number) for number in range(ring.count)]
    assert out == frames
