"""What can go wrong with a script: it is not a script, or the stack did not do what it says.

Two kinds, because they are two people's mistakes: `ScriptError` is the author's, `ScriptFailure` the stack's.
"""

from __future__ import annotations

from typing import final


@final
class ScriptError(ValueError):
    """A script that can't be run: a syntax error, a value out of range, an unknown name.

    `path`: the script's name, as given. `line` and `column`: where, both from 1. `message`: what was found and what
    was expected. `source`: the text of that line, for `report`.
    """

    __slots__ = ("column", "line", "message", "path", "source")

    def __init__(self, path: str, line: int, column: int, message: str, source: str = "") -> None:
        super().__init__(f"{path}:{line}:{column}: {message}")
        self.path = path
        self.line = line
        self.column = column
        self.message = message
        self.source = source

    def report(self) -> str:
        """The error, the line it is in, and a caret below the place."""
        if not self.source:
            return str(self)
        # Tabs are kept, so that the caret stands where the terminal put the character.
        indent = "".join("\t" if char == "\t" else " " for char in self.source[: self.column - 1])
        return f"{self}\n  {self.source}\n  {indent}^"


@final
class ScriptFailure(AssertionError):
    """A script whose stack did something else than the script says.

    `path` and `line`: the event of the script. `message`: what was expected and what came, over several lines where
    packets are shown.
    """

    __slots__ = ("line", "message", "path")

    def __init__(self, path: str, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path = path
        self.line = line
        self.message = message


class Mismatch(Exception):
    """One comparison that did not hold; the runner makes a `ScriptFailure` of it, with the event's place.

    The text says what was compared, what was expected and what came.
    """


class BadEvent(Exception):
    """An event that can't be carried out as written (an unknown symbol, too few arguments).

    The runner makes a `ScriptError` of it, with the event's place.
    """
