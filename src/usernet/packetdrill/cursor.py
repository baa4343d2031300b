"""A place in a row of tokens: what the parsers of packets, of calls and of the script share.

Between `lexer` and `parser`. Here a symbol that was defined (`--define=NAME=VALUE`) takes its value, as in
packetdrill's scanner: a name stands for one word, number, string or shell command, never for more.
"""

from __future__ import annotations

from typing import Final, NoReturn, final

from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.lexer import (
    BACKQUOTED,
    END,
    HEX,
    INTEGER,
    PUNCTUATION,
    STRING,
    WORD,
    Token,
    classify_word,
    source_line,
    tokenize,
)

U8_MAX: Final = 0xFF
U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFFFFFF


@final
class Cursor:
    """Tokens, and the next one to read.

    `path`: the script's name. `defines`: symbol to value, as written after `--define=NAME=`; may grow while parsing.
    """

    def __init__(self, text: str, path: str, defines: dict[str, str]) -> None:
        self.text = text
        self.path = path
        self.defines = defines
        self._tokens = tokenize(text, path)
        self._index = 0

    def peek(self, ahead: int = 0) -> Token:
        """The token `ahead` places on; the END again beyond it."""
        index = min(self._index + ahead, len(self._tokens) - 1)
        token = self._tokens[index]
        if token.kind == WORD and token.text in self.defines:
            token = _expand(token, self.defines[token.text])
            self._tokens[index] = token
        return token

    def next(self) -> Token:
        """The next token, and step over it."""
        token = self.peek()
        if token.kind != END:
            self._index += 1
        return token

    def at(self, text: str) -> bool:
        """Whether the next token is this word or punctuation."""
        token = self.peek()
        return token.text == text and token.kind in (WORD, PUNCTUATION)

    def accept(self, text: str) -> bool:
        """Step over the next token if it is this word or punctuation; whether it was."""
        if self.at(text):
            self.next()
            return True
        return False

    def expect(self, text: str, context: str = "") -> Token:
        """Step over this word or punctuation. Raises ScriptError for another; `context` says what it is for."""
        if not self.at(text):
            self.fail_expected(f"'{text}'{' ' + context if context else ''}")
        return self.next()

    def expect_kind(self, kind: str, what: str) -> Token:
        """Step over a token of this kind. Raises ScriptError, saying that `what` was expected, for another."""
        if self.peek().kind != kind:
            self.fail_expected(what)
        return self.next()

    def word(self, what: str) -> str:
        """A word's text."""
        return self.expect_kind(WORD, what).text

    def integer(self, what: str, low: int, high: int) -> int:
        """A decimal integer within `low` to `high`, both included. `what`: its name, for messages."""
        token = self.peek()
        if token.kind != INTEGER:
            self.fail_expected(f"{what}, a decimal integer")
        return self._in_range(what, low, high)

    def any_integer(self, what: str, low: int, high: int) -> int:
        """A decimal or hexadecimal integer within `low` to `high`."""
        token = self.peek()
        if token.kind not in (INTEGER, HEX):
            self.fail_expected(f"{what}, an integer")
        return self._in_range(what, low, high)

    def hexadecimal(self, what: str, high: int) -> int:
        """An integer written with 0x, 0 to `high`."""
        if self.peek().kind != HEX:
            self.fail_expected(f"{what}, an integer with 0x")
        return self._in_range(what, 0, high)

    def _in_range(self, what: str, low: int, high: int) -> int:
        token = self.peek()
        if not low <= token.value <= high:
            self.fail(f"{what} out of range: found {token.text}, expected {low} to {high}")
        return self.next().value

    def fail_expected(self, what: str) -> NoReturn:
        """Raise ScriptError at the next token: found it, expected `what`."""
        self.fail(f"found {self.peek().describe()}, expected {what}")

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raise ScriptError at `token`, the next one by default."""
        if token is None:
            token = self.peek()
        raise self.error_at(token.line, token.column, message)

    def error_at(self, line: int, column: int, message: str) -> ScriptError:
        """A ScriptError at a place, with the text of its line."""
        return ScriptError(self.path, line, column, message, source_line(self.text, line))


def _expand(token: Token, value: str) -> Token:
    """The token that a defined symbol stands for, at the symbol's place."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return Token(STRING, value[1:-1], token.line, token.column)
    if len(value) >= 2 and value[0] == value[-1] == "`":
        return Token(BACKQUOTED, value[1:-1], token.line, token.column)
    if value.startswith("-") and value[1:].isdecimal():
        return Token(INTEGER, value, token.line, token.column, int(value))
    kind, number = classify_word(value)
    # packetdrill's own integer type for a symbol is the decimal one, in whatever base it was defined.
    return Token(INTEGER if kind == HEX else kind, value, token.line, token.column, number)
