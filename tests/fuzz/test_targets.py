"""Every fuzz target on its seeds, and on mutations of them that hypothesis chooses."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff")

Edit = tuple[int, int, bytes]


def mutate(seed: bytes, edits: list[Edit]) -> bytes:
    """Overwrite, insert, delete, cut, repeat: each at a place of its own."""
    data = seed
    for kind, place, value in edits:
        at = place % (len(data) + 1)
        if kind == 0:
            data = data[:at] + value + data[at + len(value) :]
        elif kind == 1:
            data = data[:at] + value + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + len(value) :]
        elif kind == 3:
            data = data[:at]
        else:
            data = data[:at] + data[at // 2 : at] + data[at:]
    return data


def inputs(name: str) -> st.SearchStrategy[bytes]:
    edits = st.tuples(
        st.integers(0, 4),
        st.integers(0, 2000),
        st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(INTERESTING)),
    )
    return st.one_of(
        st.builds(mutate, st.sampled_from(seeds(name)), st.lists(edits, min_size=1, max_size=8)),
        st.binary(max_size=300),
    )


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name):
    found = seeds(name)
    assert found
    assert all(len(seed) <= 4096 for seed in found)
    for seed in found:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name):
    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutations(name):
    @settings(max_examples=3000, derandomize=False, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
