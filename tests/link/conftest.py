"""A station for each test, which is closed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.link.station import Station


@pytest.fixture
def station() -> Iterator[Station]:
    machine = Station()
    yield machine
    machine.close()
