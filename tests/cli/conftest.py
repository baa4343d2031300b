"""Two hosts of a laboratory, for the tools to work on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from usernet.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(seed=3) as made:
        yield made
