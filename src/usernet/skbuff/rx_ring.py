"""A receive ring: a buffer that is kept, in which frames are read side by side (ethtool -g: rx).

For a device that is read a frame at a time, with bulk data under way: frames of one length, of which nearly all are the
next of one flow. So that they need not become objects one by one, they are read into slots made once. What is decided
of them is decided of many at once: their headers, and their payloads, come out of the ring as one piece each, the
headers in one place and the data in another (what a NIC calls header split, or TCP data split). A frame that belongs to
no such run is taken out whole, and is as any other.

A slot is where a frame of the expected length begins, but it ends no earlier than the longest frame would: the next
ones are not filled yet. So a longer frame is not cut; it is the last that is read, as is a shorter one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, final

SLOTS: Final = 64
"""Frames that a ring holds: what one poll may receive (NAPI_WEIGHT)."""


@final
class RxRing:
    """Slots for frames of `length` bytes whose payload starts at `payload`; those from `at` to `count` are filled.
    `other`: the frame of another length that came after them, or None.
    `clean`: frames since the last with a wrong checksum, as far as whoever takes them says."""

    __slots__ = ("_headers", "_payloads", "_slots", "at", "clean", "count", "length", "other", "payload")

    def __init__(self, length: int, payload: int, largest: int) -> None:
        """length: bytes of a frame, all that is read of it. payload: where its headers end. largest: bytes of the
        longest frame that there may be, `length` at least."""
        self.length: int = length
        self.payload: int = payload
        self.at: int = 0
        self.count: int = 0
        self.other: bytes | None = None
        self.clean: int = 0
        buffer = memoryview(bytearray((SLOTS - 1) * length + largest))
        starts = range(0, SLOTS * length, length)
        self._slots: list[memoryview] = [buffer[start : start + largest] for start in starts]
        self._headers: list[memoryview] = [buffer[start : start + payload] for start in starts]
        self._payloads: list[memoryview] = [buffer[start + payload : start + length] for start in starts]

    def fill(self, readinto: Callable[[memoryview], int | None], most: int) -> int:
        """Read up to `most` frames; what the ring held is gone.

        Args:
            readinto: reads one frame into a buffer; returns its bytes, None where there is none (FileIO.readinto).
            most: how many.

        Returns:
            0 where all that was asked for came, or a frame of another length; else why nothing came any more: EAGAIN
            or another errno. What came before is there in any case.
        """
        length = self.length
        slots = self._slots
        if most < SLOTS:
            slots = slots[:most]
        count = 0
        self.at = 0
        self.other = None
        problem = 0
        try:
            for slot in slots:
                size = readinto(slot)
                if size is None:
                    problem = errno.EAGAIN
                    break
                if size != length:
                    self.other = bytes(slot[:size])
                    break
                count += 1
        except OSError as failed:
            problem = failed.errno or errno.EIO
        self.count = count
        return problem

    def frame(self, number: int) -> bytes:
        """One of the frames, whole."""
        return bytes(self._slots[number][: self.length])

    def headers(self, start: int, end: int) -> bytes:
        """The headers of some frames, one after the other."""
        return b"".join(self._headers[start:end])

    def payloads(self, start: int, end: int) -> bytes:
        """The payloads of some frames, one after the other."""
        return b"".join(self._payloads[start:end])
