"""Fixtures: a stack against a peer made by hand, and two stacks on a cable. Both end with nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.tcp.harness import Pair, Peer
from usernet.transport.tcp import mtup, parts

SHARED = (
    parts.DEFAULT_PARAMS, parts.NOT_LISTENING, parts.NO_FASTOPEN, parts.NO_TIMEOUTS, parts.NO_REORDERING,
    mtup.NO_PROBING,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_default_is_written_to() -> Iterator[None]:
    """What all sockets share that have nothing of it stays as it was made."""
    yield
    for default in SHARED:
        fresh = type(default)()
        for name in dir(fresh):
            value = getattr(fresh, name)
            if not name.startswith("__") and not callable(value):
                assert getattr(default, name) == value, f"{type(default).__name__}.{name} is every socket's"


@pytest.fixture
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.end()


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair(delay=0.01)
    yield found
    found.end()
