"""Sums of eight bytes at a time, where mypyc's runtime library is installed (the extra `usernet[fast]`).

Compiled code looks at `bytes` byte by byte, each with a check of its bounds; librt reads a 64-bit word with one check,
which makes a checksum four times as fast. Imported by wire/checksum alone, and by that only where it is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from librt.strings import read_i64_be

if TYPE_CHECKING:
    from usernet.core.native import i64


def sum64(b: bytes, start: i64, end: i64) -> i64:
    """Add up the 32-bit words, big-endian, from byte `start` on, as long as eight bytes are left before `end`.

    Raises IndexError where `end` is beyond the bytes, or `start` is negative.
    """
    total: i64 = 0
    at: i64 = start
    last: i64 = end - 7
    while at < last:
        word: i64 = read_i64_be(b, at)
        total += (word >> 32 & 0xFFFFFFFF) + (word & 0xFFFFFFFF)
        at += 8
    return total
