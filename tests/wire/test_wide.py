"""Sums of eight bytes at a time are the sums of four."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("librt.strings", reason="needs the extra `usernet[fast]`")

from usernet.wire.wide import sum64


@given(st.binary(max_size=200), st.integers(0, 30), st.integers(0, 30))
def test_the_words_are_added_up(b, front, back):
    end = len(b) - back
    whole = b[front : front + (end - front) // 8 * 8] if end > front else b""
    assert sum64(b, front, end) == sum(int.from_bytes(whole[i : i + 4], "big") for i in range(0, len(whole), 4))


def test_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        sum64(bytes(15), 0, 16)
