"""Programs that a test starts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is waited for at the end; killed first where the test fails, for it might wait for ever then.

    options: as for `subprocess.Popen`; its output is text.
    """
    with subprocess.Popen(argv, text=True, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
