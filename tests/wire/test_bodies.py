"""The codecs' two bodies, the one for the interpreter and the one for the compiler, give the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


def load(name: str, compiled: bool) -> Any:
    """A codec's module from its source, with the bodies of one kind; a compiled one of that name stays as it is."""
    found = importlib.util.find_spec(f"usernet.wire.{name}")
    assert found is not None and found.origin is not None
    source = Path(found.origin).parent / f"{name}.py"
    module = ModuleType(f"usernet.wire.{name}")
    module.__file__ = str(source)
    switch = ModuleType("usernet.core.compiled")
    switch.COMPILED = compiled  # type: ignore[attr-defined]
    before = sys.modules.get("usernet.core.compiled")
    sys.modules["usernet.core.compiled"] = switch
    sys.modules[module.__name__], kept = module, sys.modules.get(module.__name__)
    try:
        exec(compile(source.read_text(), source, "exec"), module.__dict__)
    finally:
        for key, value in (("usernet.core.compiled", before), (module.__name__, kept)):
            if value is None:
                del sys.modules[key]
            else:
                sys.modules[key] = value
    return module


class Bodies:
    """A codec three times: the two bodies of its source, and what the stack itself runs."""

    def __init__(self, name: str) -> None:
        self.interpreted = load(name, False)
        self.compiled = load(name, True)
        self.own = importlib.import_module(f"usernet.wire.{name}")

    def agree(self, function: str, *args: Any) -> None:
        wanted = getattr(self.interpreted, function)(*args)
        assert getattr(self.compiled, function)(*args) == wanted
        assert getattr(self.own, function)(*args) == wanted


CHECKSUM = Bodies("checksum")
PARSERS = [(Bodies(name), size) for name, size in
           (("ethernet", 14), ("ipv4", 20), ("tcp", 20), ("udp", 8), ("virtio_net", 10))]  # fmt: skip


@given(st.binary(max_size=200), st.data())
def test_sums(block: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(block)))
    end = data.draw(st.integers(start, len(block)))
    seed = data.draw(st.integers(0, 0x1FFFE))
    CHECKSUM.agree("csum", block, start, end, seed)
    assert CHECKSUM.compiled.words(block) % 0xFFFF == CHECKSUM.interpreted.words(block) % 0xFFFF
    assert CHECKSUM.own.words(block) % 0xFFFF == CHECKSUM.interpreted.words(block) % 0xFFFF
    assert bool(CHECKSUM.compiled.words(block)) == bool(CHECKSUM.own.words(block)) == any(block)
    CHECKSUM.agree("csum", memoryview(block), start, end, seed)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8191, 8193, 65535])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\xfe\x01\x80"])
def test_sums_of_large_blocks(size: int, fill: bytes) -> None:
    block = (fill * size)[:size]
    CHECKSUM.agree("csum", block, 0, size)
    CHECKSUM.agree("csum", block, 1, size, 0xFFFF)


@given(st.sampled_from([4, 16]), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.data())
def test_sums_of_pseudo_headers(size: int, protocol: int, length: int, data: st.DataObject) -> None:
    source, target = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    CHECKSUM.agree("pseudo_sum", source, target, protocol, length)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 30))
def test_headers(block: bytes, start: int) -> None:
    for bodies, size in PARSERS:
        bodies.agree("parse", bytes(start) + block[:size], start)


@given(st.binary(max_size=40).map(lambda tail: b"\x01\x01\x08\x0a" + tail), st.integers(0, 8))
def test_time_stamps(block: bytes, start: int) -> None:
    PARSERS[2][0].agree("parse_ts", bytes(start) + block, start)
    PARSERS[2][0].agree("parse_ts", bytes(start) + block, start + 1)


@given(st.binary(min_size=40, max_size=80), st.integers(0, 20), st.sampled_from([20, 24, 40, 60]), st.booleans())
def test_header_checksums(block: bytes, start: int, size: int, right: bool) -> None:
    block = block + bytes(60)
    if right:
        block = block[: start + 10] + bytes(2) + block[start + 12 :]
        check = CHECKSUM.own.csum_fold(CHECKSUM.own.csum(block, start, start + size))
        block = block[: start + 10] + check.to_bytes(2, "big") + block[start + 12 :]
    PARSERS[1][0].agree("header_csum_ok", block, start, size)
