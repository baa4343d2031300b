"""What bytes need that are summed, or made, by the thousand: where mypyc's runtime library is there (`usernet[fast]`).

Compiled code looks at `bytes` byte by byte, each with a check of its bounds; librt reads a 64-bit word with one check,
which makes a checksum four times as fast. And it can't change a byte but by making all of them anew; librt has a writer
that can. Imported by wire/checksum and wire/tcp_ipv4, and by these only where they are compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from librt.strings import BytesWriter, read_i64_be

if TYPE_CHECKING:
    from usernet.core.native import i64


def sum64(b: bytes, start: i64, end: i64) -> i64:
    """Add up the 32-bit words, big-endian, from byte `start` on, as long as eight bytes are left before `end`.

    Raises IndexError where `end` is beyond the bytes, or `start` is negative.
    """
    total: i64 = 0
    at: i64 = start
    # Four words a turn, whose reads need not wait for one another's sum.
    last: i64 = end - 31
    while at < last:
        w0: i64 = read_i64_be(b, at)
        w1: i64 = read_i64_be(b, at + 8)
        w2: i64 = read_i64_be(b, at + 16)
        w3: i64 = read_i64_be(b, at + 24)
        total += (
            ((w0 >> 32 & 0xFFFFFFFF) + (w0 & 0xFFFFFFFF))
            + ((w1 >> 32 & 0xFFFFFFFF) + (w1 & 0xFFFFFFFF))
            + ((w2 >> 32 & 0xFFFFFFFF) + (w2 & 0xFFFFFFFF))
            + ((w3 >> 32 & 0xFFFFFFFF) + (w3 & 0xFFFFFFFF))
        )
        at += 32
    last = end - 7
    while at < last:
        word: i64 = read_i64_be(b, at)
        total += (word >> 32 & 0xFFFFFFFF) + (word & 0xFFFFFFFF)
        at += 8
    return total


@final
class Template:
    """Bytes of which some 16-bit words differ from one time to the next."""

    __slots__ = ("_writer",)

    def __init__(self, first: bytes) -> None:
        """first: all of them, whatever the words are that will differ."""
        self._writer = BytesWriter()
        self._writer.write(first)

    def put(self, at: i64, word: int) -> None:
        """Set the 16-bit word at byte `at`, big-endian, to the low bits of `word`. Raises IndexError."""
        writer = self._writer
        writer[at] = word >> 8 & 0xFF
        writer[at + 1] = word & 0xFF

    def value(self) -> bytes:
        """The bytes as they are now."""
        return self._writer.getvalue()
