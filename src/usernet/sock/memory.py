"""What the sockets of one protocol hold in memory, all together, and its limit (Linux: sk_mem_schedule, `sk_prot_mem`).

A socket takes whole pages from the protocol's account before it queues what needs them, and gives them back when it is
read empty. The limits are three numbers of pages. Up to the first nobody asks; beyond it only a socket that holds less
than a minimum gets more; beyond the last nobody does.
"""

from __future__ import annotations

from typing import Final, final

PAGE: Final = 4096
"""Bytes."""

KEPT: Final = 4 * PAGE
"""Bytes that a socket keeps for itself when it is empty, so as not to ask again for every packet."""


@final
class SockMemory:
    """The account of one protocol in one namespace.

    allocated: pages that its sockets have. limits: pages (Linux: udp_mem). minimum: bytes of received packets that each
    socket may have beyond the first limit (udp_rmem_min).
    """

    __slots__ = ("allocated", "limits", "minimum")

    def __init__(self, limits: tuple[int, int, int], minimum: int) -> None:
        self.allocated: int = 0
        self.limits: tuple[int, ...] = limits
        self.minimum: int = minimum

    def reserve(self, have: int, wanted: int) -> int:
        """A socket that has `have` bytes reserved is to hold `wanted`, more than that: returns what it has reserved
        then; `have`, where there is no more for it."""
        pages = -(-(wanted - have) // PAGE)
        allocated = self.allocated + pages
        if allocated > self.limits[0] and (allocated > self.limits[2] or wanted >= self.minimum):
            return have
        self.allocated = allocated
        return have + pages * PAGE

    def release(self, have: int, keep: int = 0) -> int:
        """A socket gives back of its `have` bytes all but `keep`; returns what it has then."""
        self.allocated -= (have - keep) // PAGE
        return keep
