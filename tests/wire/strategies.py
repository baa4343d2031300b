"""What the tests of `wire/` draw from: integers that fill a field, addresses, and bytes around a header."""

from __future__ import annotations

from hypothesis import strategies as st

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
mac = st.binary(min_size=6, max_size=6)
ip4 = st.binary(min_size=4, max_size=4)
ip6 = st.binary(min_size=16, max_size=16)
around = st.binary(max_size=9)
"""What precedes or follows a header: it must not matter."""
