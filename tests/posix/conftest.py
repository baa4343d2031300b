"""A started stack with its loopback, chosen for the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from usernet.posix.current import PROCESS, use
from usernet.runner import close_process_runner
from usernet.sockets.readiness import DESCRIPTORS
from usernet.stack import Stack


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack("here") as made:
        use(made)
        try:
            yield made
        finally:
            use(None)
        assert not PROCESS.patched
        assert not DESCRIPTORS
    close_process_runner()
