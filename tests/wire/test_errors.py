from __future__ import annotations

from usernet.wire.errors import WireError


def test_it_says_what_and_where() -> None:
    error = WireError("block of length 3; expected 12", 40)
    assert isinstance(error, ValueError)
    assert (error.what, error.offset) == ("block of length 3; expected 12", 40)
    assert str(error) == "block of length 3; expected 12 (at byte 40)"
