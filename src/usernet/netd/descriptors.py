"""How many descriptors this process may have: each socket of a program takes one here, and one there."""

from __future__ import annotations

import resource
from typing import Final

DESCRIPTORS: Final = 1 << 20
"""As many as are asked for."""


def raise_descriptors() -> None:
    """Have as many as the host allows this process. What was forked before keeps what it had."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(most, DESCRIPTORS), most):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            continue  # beyond what it has takes CAP_SYS_RESOURCE
        return
