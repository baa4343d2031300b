"""What the tools print, and how they fail: in this process, or in that of a service."""

from __future__ import annotations

from typing import Self, final


class UsageError(ValueError):
    """A wrong option or argument of a command: which, and what was expected."""


@final
class Text(str):
    """What a command printed. status: its exit status."""

    status: int

    __slots__ = ("status",)

    def __new__(cls, text: str = "", status: int = 0) -> Self:
        self = super().__new__(cls, text)
        self.status = status
        return self
