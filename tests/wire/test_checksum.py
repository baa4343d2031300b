from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, ip4, ip6, u8, u16, u32
from usernet.wire.checksum import (
    csum,
    csum_block_add,
    csum_fold,
    csum_replace2,
    csum_replace4,
    csum_sub,
    pseudo_sum,
)

part = u16
data = st.binary(max_size=300) | st.builds(bytes, st.integers(0, 300))


def naive(b: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    if len(b) & 1:
        b += b"\0"
    total = 0
    for i in range(0, len(b), 2):
        total += b[i] << 8 | b[i + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_example_of_rfc_1071() -> None:
    block = bytes.fromhex("0001 f203 f4f5 f6f7")
    assert csum(block, 0, 8) == 0xDDF2
    assert csum_fold(0xDDF2) == 0x220D


@given(around, data, around)
def test_csum_is_the_sum_of_the_words(before: bytes, block: bytes, after: bytes) -> None:
    b = before + block + after
    start, end = len(before), len(before) + len(block)
    assert csum(b, start, end) == naive(block)
    assert csum(memoryview(b), start, end) == naive(block)


@pytest.mark.parametrize("size", [640, 641, 1448, 1536, 1537, 6143, 6144, 6145, 12287, 12288, 12289, 65160, 65535])
@pytest.mark.parametrize("start", [0, 1])
def test_csum_of_blocks_that_are_summed_in_pieces(size: int, start: int) -> None:
    b = os.urandom(start + size + 3)
    assert csum(b, start, start + size) == naive(b[start : start + size])
    assert csum(memoryview(b), start, start + size, 0x1234) == naive(b"\x12\x34" + b[start : start + size])
    assert csum(b"\xff" * size + b"\0", 0, size) == naive(b"\xff" * size)
    assert csum(bytes(size), 0, size) == 0


@given(st.integers(0, 20000), st.integers(0, 3), st.randoms(use_true_random=False), st.sampled_from([0, 1, 255, 256]))
def test_csum_of_any_length_and_content(size: int, start: int, source: Random, kinds: int) -> None:
    content = bytes(size) if kinds == 0 else source.randbytes(size) if kinds == 256 else bytes([kinds]) * size
    assert csum(bytes(start) + content + b"\xff", start, start + size) == naive(content)


@given(data, part)
def test_csum_adds_its_seed(block: bytes, seed: int) -> None:
    assert csum(block, 0, len(block), seed) == naive(seed.to_bytes(2, "big") + block)


@given(data, data)
def test_a_block_at_any_offset(first: bytes, second: bytes) -> None:
    total = csum(first, 0, len(first))
    assert csum_block_add(total, csum(second, 0, len(second)), len(first)) == naive(first + second)


@given(part, part)
def test_csum_sub_undoes_an_addition(total: int, taken: int) -> None:
    both = csum_block_add(total, taken, 0)
    # 0 and 0xFFFF are the two zeros of one's complement; their complements verify alike.
    assert csum_sub(both, taken) % 0xFFFF == total % 0xFFFF
    assert 0 <= csum_sub(both, taken) <= 0xFFFF


@given(st.lists(part, max_size=5))
def test_fold_takes_an_unfolded_sum(parts: list[int]) -> None:
    assert csum_fold(sum(parts)) == naive(b"".join(p.to_bytes(2, "big") for p in parts)) ^ 0xFFFF


@given(st.binary(max_size=40).map(lambda b: b + b"\x01"))
def test_a_block_with_its_checksum_verifies(block: bytes) -> None:
    if len(block) & 1:
        block += b"\0"
    check = csum_fold(csum(block, 0, len(block)))
    sealed = block + check.to_bytes(2, "big")
    assert csum_fold(csum(sealed, 0, len(sealed))) == 0
    damaged = bytes([sealed[0] ^ 1]) + sealed[1:]
    assert csum_fold(csum(damaged, 0, len(damaged))) != 0


def test_words_of_zero_have_a_checksum_of_ones() -> None:
    assert csum(bytes(8), 0, 8) == 0
    assert csum_fold(0) == 0xFFFF
    assert csum_fold(0xFFFF) == 0


@given(ip4, ip4, u8, u16)
def test_pseudo_header_of_ipv4(saddr: bytes, daddr: bytes, protocol: int, length: int) -> None:
    header = saddr + daddr + bytes([0, protocol]) + length.to_bytes(2, "big")
    assert pseudo_sum(saddr, daddr, protocol, length) == naive(header)


@given(ip6, ip6, u8, u32)
def test_pseudo_header_of_ipv6(saddr: bytes, daddr: bytes, protocol: int, length: int) -> None:
    header = saddr + daddr + length.to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    assert pseudo_sum(saddr, daddr, protocol, length) == naive(header)


def test_example_of_rfc_1624() -> None:
    # Section 4: the equation of RFC 1141 gives 0xFFFF here, where a sum over the words gives 0.
    assert csum_replace2(0xDD2F, 0x5555, 0x3285) == 0


# A header is never all zeros, so each block here starts with a word that is not.
words = st.lists(u16, min_size=4, max_size=10).map(lambda w: [0x4500, *w])


@given(words, st.integers(0, 4), u16)
def test_replace2_is_the_checksum_of_the_changed_block(block: list[int], at: int, new: int) -> None:
    def check(w: list[int]) -> int:
        return csum_fold(sum(w))

    changed = list(block)
    changed[at] = new
    if any(changed):
        assert csum_replace2(check(block), block[at], new) == check(changed)


@given(words, st.integers(1, 3), u32)
def test_replace4_is_the_checksum_of_the_changed_block(block: list[int], at: int, new: int) -> None:
    changed = list(block)
    changed[at : at + 2] = [new >> 16, new & 0xFFFF]
    old = block[at] << 16 | block[at + 1]
    assert csum_replace4(csum_fold(sum(block)), old, new) == csum_fold(sum(changed))
