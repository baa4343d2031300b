"""Fixtures: a stack against a peer made by hand, and two stacks on a cable. Both end with nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.tcp.harness import Pair, Peer


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
