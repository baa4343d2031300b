"""Who paces what a socket sends: agreed on between sockets above and qdiscs below (Linux: enum sk_pacing)."""

from __future__ import annotations

from typing import Final

SK_PACING_NONE: Final = 0
SK_PACING_NEEDED: Final = 1
"""The transport itself."""
SK_PACING_FQ: Final = 2
"""The device's qdisc, which has said so: the transport only stamps its packets."""

PACING_UNLIMITED: Final = (1 << 64) - 1
"""A rate, in bytes per second, that is no limit (Linux: ~0UL)."""
