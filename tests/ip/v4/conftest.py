"""A host for each test, which is closed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ip.v4.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    machine = Host()
    yield machine
    machine.close()
