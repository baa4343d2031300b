"""The words of an `ip` command line, and how its output is to look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from usernet.cli.tools.common import UsageError


@final
class Words:
    """The words of a command, taken one by one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._words)

    def peek(self) -> str:
        return self._words[self._at] if self.more() else ""

    def next(self, field: str, expected: str) -> str:
        """The next word, which stands for `field`. Raises UsageError where there is none."""
        if not self.more():
            raise UsageError(f"{field}: expected {expected}, and the command ends there")
        self._at += 1
        return self._words[self._at - 1]

    def choose(self, field: str, choices: Sequence[str], default: str = "") -> str:
        """The choice that the next word is, or begins. Raises UsageError."""
        if not self.more() and default:
            return default
        word = self.next(field, f"one of {', '.join(choices)}")
        for choice in choices:
            if choice.startswith(word):
                return choice
        raise UsageError(f"{field}: expected one of {', '.join(choices)}, not {word!r}")

    def end(self) -> None:
        """Raises UsageError where words are left."""
        if self.more():
            raise UsageError(f"unexpected {self.peek()!r}")


@final
class Format:
    """How to print: -j, -p, -s, -br."""

    def __init__(self) -> None:
        self.json = self.pretty = self.stats = self.brief = False
