"""The TOS byte's meaning to queues (RFC 1349, RFC 2474; Linux: rt_tos2priority)."""

from __future__ import annotations

from typing import Final

IP_TOS2PRIO: Final = (0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4)
"""TC_PRIO_* by the four bits of RFC 1349: best effort, bulk, interactive, interactive bulk (Linux: ip_tos2prio)."""


def tos_priority(tos: int) -> int:
    """The priority (`skb.priority`) of a packet whose TOS byte is `tos`, 0 to 255."""
    return IP_TOS2PRIO[(tos & 0x1E) >> 1]
