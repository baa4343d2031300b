"""Fixtures: a stack and a peer whose packets are made by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.tcp.harness import Peer


@pytest.fixture
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.end()
