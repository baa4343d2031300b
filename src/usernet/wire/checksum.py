"""The Internet checksum: RFC 1071, RFC 1624 for updates, RFC 768/793/8200 for the pseudo headers.

Every protocol above the link uses it, on the way in to verify and on the way out to fill a field, wherever a device
does not vouch for the bytes. Linux: `csum_partial`, `csum_fold`, `csum_block_add`, `csum_tcpudp_nofold`,
`csum_replace2`.

A one's complement sum of 16-bit words is the number that the bytes spell, modulo 0xFFFF, because 0x10000 leaves 1. So a
block is one `int.from_bytes` and one remainder, instead of a loop over its words: 2 µs for 1,448 bytes. The remainder
gives 0 where the sum of words gives 0xFFFF; the two are told apart here as RFC 1071 does: 0 only when every word is 0.

A partial sum is an int of 0 to 0xFFFF. Sums may be added with a plain `+` before they go to `csum_fold`, which takes
any non-negative int. Verifying: the fold of the sum over all bytes, with the field itself included, is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.core.compiled import COMPILED

if TYPE_CHECKING:
    from usernet.core.native import i64

_from_bytes: Final = int.from_bytes

_found = False
if COMPILED:
    try:
        from usernet.wire.wide import sum64

        _found = True
    except (ImportError, ValueError):
        pass  # there is no librt, or not the one that the compiler knew

WIDE: Final[bool] = _found
"""Whether wire/wide may be used."""

# The remainder of a large int costs more than the conversion of the bytes: it divides digit by digit. Adding does not,
# so what is large is made small by adding: blocks to each other, 64 KiB in 54 µs instead of 108, and then one half to
# the other, up to five times, 1,448 bytes in 2.0 µs instead of 2.9. Blocks and halves are whole words, which a sum may
# be cut at.
_BLOCK: Final = 6144
_WORTHWHILE: Final = 640
"""Bytes from which on folding in halves takes less time than it saves."""
_HALF, _QUARTER, _EIGHTH, _SIXTEENTH, _LEAST = (_BLOCK * 8 >> n for n in range(1, 6))
_HALF_MASK, _QUARTER_MASK, _EIGHTH_MASK, _SIXTEENTH_MASK, _LEAST_MASK = (
    (1 << bits) - 1 for bits in (_HALF, _QUARTER, _EIGHTH, _SIXTEENTH, _LEAST)
)


if COMPILED:

    def words(b: bytes) -> int:
        """A number that the sum of the 16-bit words of `b`, few and even in number, is congruent to modulo 0xFFFF, and
        that is 0 only where all bytes are. Which one, is left to the body: interpreted, the call without a loop."""
        total: i64 = 0
        size: i64 = len(b)
        at: i64 = size & 1
        if at:
            total = b[0]
        while at < size:
            high: i64 = b[at]
            low: i64 = b[at + 1]
            total += high << 8 | low
            at += 2
        return total

else:
    words = int.from_bytes  # type: ignore[assignment]


if COMPILED:

    def _sum(b: bytes, start: i64, end: i64, seed: int) -> int:
        """A loop over 32-bit words; the range is within `b`."""
        total: i64 = 0
        at: i64 = start
        last: i64 = end - 7
        if WIDE and at < last:
            total = sum64(b, at, end)
            at += (end - at) // 8 * 8
        while at < last:
            b0: i64 = b[at]
            b1: i64 = b[at + 1]
            b2: i64 = b[at + 2]
            b3: i64 = b[at + 3]
            b4: i64 = b[at + 4]
            b5: i64 = b[at + 5]
            b6: i64 = b[at + 6]
            b7: i64 = b[at + 7]
            total += (b0 << 24 | b1 << 16 | b2 << 8 | b3) + (b4 << 24 | b5 << 16 | b6 << 8 | b7)
            at += 8
        last = end - 1
        while at < last:
            b0 = b[at]
            b1 = b[at + 1]
            total += b0 << 8 | b1
            at += 2
        if at < end:
            b0 = b[at]
            total += b0 << 8
        result: int = total + seed
        return result % 0xFFFF or (result and 0xFFFF)

    def csum(b: bytes | memoryview, start: int, end: int, seed: int = 0) -> int:
        """See below."""
        if not isinstance(b, bytes):
            b = bytes(b[start:end])
            end -= start
            start = 0
        if start < 0 or end > len(b):
            start, end, _ = slice(start, end).indices(len(b))
        return _sum(b, start, end, seed)

else:

    def csum(b: bytes | memoryview, start: int, end: int, seed: int = 0) -> int:
        """Sum the 16-bit words of `b[start:end]`, as if they started at an even offset (Linux: `csum_partial`).

        Args:
            b: the bytes.
            start: first byte, inclusive.
            end: last byte, exclusive; an odd last byte counts as the high half of a word.
            seed: a partial sum to add.

        Returns:
            The partial sum, 0 to 0xFFFF.
        """
        size = end - start
        odd = size & 1
        if size <= _BLOCK:
            total = _from_bytes(b[start:end], "big")
            if odd:
                total <<= 8
        else:
            total = b[end - 1] << 8 if odd else 0
            end -= odd
            last = end - _BLOCK
            while start < last:
                middle = start + _BLOCK
                total += _from_bytes(b[start:middle], "big")
                start = middle
            total += _from_bytes(b[start:end], "big")
        if size > _WORTHWHILE:
            if size > _BLOCK >> 2:
                total = (total >> _HALF) + (total & _HALF_MASK)
                total = (total >> _QUARTER) + (total & _QUARTER_MASK)
            total = (total >> _EIGHTH) + (total & _EIGHTH_MASK)
            total = (total >> _SIXTEENTH) + (total & _SIXTEENTH_MASK)
            total = (total >> _LEAST) + (total & _LEAST_MASK)
        total += seed
        return total % 0xFFFF or (total and 0xFFFF)


def csum_block_add(total: int, part: int, offset: int) -> int:
    """Add the sum of a block that was summed on its own (Linux: `csum_block_add`; RFC 1071 section 2, byte order).

    Args:
        total: partial sum of what precedes.
        part: partial sum of the block, taken as if it started at an even offset.
        offset: where the block starts, in bytes from where `total` starts; at an odd one its bytes change places.

    Returns:
        The partial sum of both, 0 to 0xFFFF.
    """
    if offset & 1:
        part <<= 8
    total += part
    return total % 0xFFFF or (total and 0xFFFF)


def csum_sub(total: int, part: int) -> int:
    """Take `part` (0 to 0xFFFF) out of `total` (Linux: `csum_sub`). Returns a partial sum, 0 to 0xFFFF."""
    total += 0xFFFF - part
    return total % 0xFFFF or (total and 0xFFFF)


def csum_fold(total: int) -> int:
    """Turn a sum into the value of a checksum field: its complement (Linux: `csum_fold`).

    Args:
        total: a partial sum, or several added up; never negative.

    Returns:
        0 to 0xFFFF. 0 when `total` covers a block whose checksum field is right. UDP sends 0xFFFF where this is 0
        (RFC 768: 0 in the field says that there is no checksum).
    """
    return -total % 0xFFFF if total else 0xFFFF


if COMPILED:

    def _load32(b: bytes) -> i64:
        b0: i64 = b[0]
        b1: i64 = b[1]
        b2: i64 = b[2]
        b3: i64 = b[3]
        return b0 << 24 | b1 << 16 | b2 << 8 | b3

    def pseudo_sum(saddr: bytes, daddr: bytes, protocol: int, length: int) -> int:
        """See below."""
        if len(saddr) == 4 and len(daddr) == 4:
            total: i64 = _load32(saddr) + _load32(daddr) + protocol + length
            result: i64 = total % 0xFFFF
            return result if result or not total else 0xFFFF
        return _sum(saddr + daddr, 0, 2 * len(saddr), protocol + length)

else:

    def pseudo_sum(saddr: bytes, daddr: bytes, protocol: int, length: int) -> int:
        """Sum the pseudo header of IPv4 or IPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).

        Linux: `csum_tcpudp_nofold`.

        Args:
            saddr: source, 4 or 16 bytes.
            daddr: destination, as long as `saddr`.
            protocol: IP protocol number.
            length: bytes of the transport header and its payload.

        Returns:
            The partial sum, 0 to 0xFFFF.
        """
        total = _from_bytes(saddr + daddr, "big") + protocol + length
        return total % 0xFFFF or (total and 0xFFFF)


def csum_replace2(check: int, old: int, new: int) -> int:
    """Update a checksum field for one changed 16-bit word (RFC 1624, equation 3).

    Args:
        check: the field as it stands.
        old: the word as it was.
        new: the word as it will be.

    Returns:
        The field's new value, 0 to 0xFFFF.
    """
    total = (check ^ 0xFFFF) + (old ^ 0xFFFF) + new
    return -total % 0xFFFF if total else 0xFFFF


def csum_replace4(check: int, old: int, new: int) -> int:
    """Update a checksum field for one changed, even-aligned 32-bit word (RFC 1624, equation 3).

    Args:
        check: the field as it stands.
        old: the 32-bit word as it was.
        new: the 32-bit word as it will be.

    Returns:
        The field's new value, 0 to 0xFFFF.
    """
    total = (check ^ 0xFFFF) + (old ^ 0xFFFFFFFF) + new
    return -total % 0xFFFF if total else 0xFFFF
