"""What a slow-path parser says when the bytes are wrong.

Fixed headers never raise: their callers check the length first. Only the parsers of variable parts (IPv4 options, IGMP
source lists, capture files) do, and what they raise tells where the bad byte is, so that ICMP's Parameter Problem and a
message to a user can both point at it.
"""

from __future__ import annotations

from typing import final


@final
class WireError(ValueError):
    """Bytes that are not what the format says.

    Attributes:
        what: what was wrong and what was expected, one phrase.
        offset: the bad byte's place, in bytes from the start of what the parser was given.
    """

    what: str
    offset: int

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} (at byte {offset})")
        self.what = what
        self.offset = offset
