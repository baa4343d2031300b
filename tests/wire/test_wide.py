"""Sums of eight bytes at a time are the sums of four; words are changed in place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("librt.strings", reason="needs the extra `usernet[fast]`")

from usernet.wire.wide import Template, sum64


@given(st.binary(max_size=200), st.integers(0, 30), st.integers(0, 30))
def test_the_words_are_added_up(b, front, back):
    end = len(b) - back
    whole = b[front : front + (end - front) // 8 * 8] if end > front else b""
    assert sum64(b, front, end) == sum(int.from_bytes(whole[i : i + 4], "big") for i in range(0, len(whole), 4))


def test_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        sum64(bytes(15), 0, 16)


@given(st.binary(min_size=2, max_size=80), st.data())
def test_words_are_put_where_they_are_to_be_and_nowhere_else(first, data):
    template = Template(first)
    expected = bytearray(first)
    puts = st.lists(st.tuples(st.integers(0, len(first) - 2), st.integers(0, 1 << 32)), max_size=5)
    for at, word in data.draw(puts):
        template.put(at, word)
        expected[at : at + 2] = (word & 0xFFFF).to_bytes(2, "big")
        assert template.value() == expected


def test_a_word_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        Template(bytes(2)).put(1, 0x1234)
