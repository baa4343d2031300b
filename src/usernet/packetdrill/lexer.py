"""Text of a script to tokens, each with its line and column.

The first step of a script's way. The tokens are those of packetdrill's scanner (`lexer.l`), with its longest-match
rule, apart from its 80 reserved words: here they are plain words, and `parser` knows where each is expected. So a
message can say "found 'wim', expected 'win'".
"""

from __future__ import annotations

import re
import socket
from typing import Final, final

from usernet.packetdrill.errors import ScriptError

WORD: Final = "word"
INTEGER: Final = "integer"
HEX: Final = "hexadecimal integer"
FLOAT: Final = "number"
STRING: Final = "string"
BACKQUOTED: Final = "shell command"
CODE: Final = "code block"
OPTION: Final = "option"
IPV4: Final = "IPv4 address"
IPV6: Final = "IPv6 address"
ELLIPSIS: Final = "'...'"
PUNCTUATION: Final = "punctuation"
END: Final = "end of the script"

_OPTION: Final = re.compile(r"--([A-Za-z0-9_]+)(?:=((?:\"(?:\\.|[^\"])*\"|`(?:\\.|[^`])*`|[^\s\"`])+))?")
_STRING: Final = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_BACKQUOTED: Final = re.compile(r"`((?:\\.|[^`\\])*)`", re.DOTALL)
_IPV4: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
# Anything with '::' or with seven colons; `_ipv6` decides. 1:1001 is a sequence range.
_IPV6: Final = re.compile(r"[0-9A-Fa-f:]*::[0-9A-Fa-f:.]*|(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}")
_FLOAT: Final = re.compile(r"-?[0-9]*\.[0-9]+")
_INTEGER: Final = re.compile(r"-?[0-9]+")
_HEX: Final = re.compile(r"0x[0-9A-Fa-f]+")
_WORD: Final = re.compile(r"[A-Za-z0-9_]+")
_SPACE: Final = re.compile(r"[ \t\r\n\f\v]+")


@final
class Token:
    """One token.

    `kind`: one of this file's constants. `text`: what stands in the script; of a string, a command and a code block
    what is between the delimiters. `value`: of an integer its value; of an option `text` is its name and `argument`
    what follows '=', None without one. `line` and `column` count from 1.
    """

    __slots__ = ("argument", "column", "kind", "line", "text", "value")

    def __init__(self, kind: str, text: str, line: int, column: int, value: int = 0) -> None:
        self.kind = kind
        self.text = text
        self.line = line
        self.column = column
        self.value = value
        self.argument: str | None = None

    def describe(self) -> str:
        """The token as an error message shows it."""
        if self.kind == END:
            return "the end of the script"
        if self.kind in (STRING, BACKQUOTED, CODE):
            text = self.text if len(self.text) <= 24 else self.text[:21] + "..."
            return f"a {self.kind} {text!r}"
        if self.kind == OPTION:
            return f"option '--{self.text}'"
        return f"'{self.text}'"

    def __repr__(self) -> str:
        return f"Token({self.kind}, {self.text!r}, {self.line}:{self.column})"


def classify_word(text: str) -> tuple[str, int]:
    """The kind and value of a run of letters, digits and underscores: (WORD, 0), (INTEGER, n) or (HEX, n)."""
    if _HEX.fullmatch(text):
        return HEX, int(text, 16)
    if _INTEGER.fullmatch(text):
        return INTEGER, int(text)
    return WORD, 0


@final
class _Lexer:
    """The scanner: a position in the text, and where the line it is in began."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path
        self.position = 0
        self.line = 1
        self.line_start = 0
        self.tokens: list[Token] = []

    def error(self, message: str) -> ScriptError:
        return ScriptError(
            self.path, self.line, self.position - self.line_start + 1, message, source_line(self.text, self.line)
        )

    def advance(self, end: int) -> None:
        """Move to `end`, counting lines."""
        newlines = self.text.count("\n", self.position, end)
        if newlines:
            self.line += newlines
            self.line_start = self.text.rfind("\n", self.position, end) + 1
        self.position = end

    def emit(self, kind: str, text: str, end: int, value: int = 0) -> Token:
        token = Token(kind, text, self.line, self.position - self.line_start + 1, value)
        self.tokens.append(token)
        self.advance(end)
        return token

    def skip_blank(self) -> bool:
        """Skip white space or one comment; False where there is none."""
        text, at = self.text, self.position
        if match := _SPACE.match(text, at):
            self.advance(match.end())
        elif text.startswith("//", at):
            end = text.find("\n", at)
            self.advance(len(text) if end < 0 else end)
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                raise self.error("found a comment without an end, expected '*/'")
            self.advance(end + 2)
        else:
            return False
        return True

    def scan(self) -> list[Token]:
        text = self.text
        while True:
            while self.position < len(text) and self.skip_blank():
                pass
            if self.position >= len(text):
                self.emit(END, "", self.position)
                return self.tokens
            self.scan_token()

    def scan_token(self) -> None:
        text, at = self.text, self.position
        char = text[at]
        if char == '"':
            if not (match := _STRING.match(text, at)):
                raise self.error("found a string without an end, expected '\"'")
            self.emit(STRING, match[1], match.end())
        elif char == "`":
            if not (match := _BACKQUOTED.match(text, at)):
                raise self.error("found a shell command without an end, expected '`'")
            self.emit(BACKQUOTED, match[1], match.end())
        elif text.startswith("%{", at):
            end = text.find("}%", at + 2)
            if end < 0:
                raise self.error("found a code block without an end, expected '}%'")
            # Only blanks: a newline is part of a block, and Python minds the indentation after it.
            self.emit(CODE, text[at + 2 : end].strip(" \t"), end + 2)
        elif match := _OPTION.match(text, at):
            self.emit(OPTION, match[1], match.end()).argument = match[2]
        elif text.startswith("...", at):
            self.emit(ELLIPSIS, "...", at + 3)
        elif (match := _IPV6.match(text, at)) and (length := _ipv6(match[0])):
            self.emit(IPV6, text[at : at + length], at + length)
        elif match := _IPV4.match(text, at):
            self.emit(IPV4, match[0], match.end())
        elif match := _FLOAT.match(text, at):
            self.emit(FLOAT, match[0], match.end())
        elif match := _WORD.match(text, at):
            kind, value = classify_word(match[0])
            self.emit(kind, match[0], match.end(), value)
        elif match := _INTEGER.match(text, at):  # a negative one; the others are words
            self.emit(INTEGER, match[0], match.end(), int(match[0]))
        elif char.isprintable():
            self.emit(PUNCTUATION, char, at + 1)
        else:
            raise self.error(f"found the character {char!r}, expected text")


def _ipv6(candidate: str) -> int:
    """How much of a candidate is an IPv6 address, 0 for none: a header's own ':' may follow it directly."""
    for text in (candidate, candidate[:-1] if candidate.endswith(":") else ""):
        try:
            socket.inet_pton(socket.AF_INET6, text)
        except OSError:
            continue
        return len(text)
    return 0


def source_line(text: str, line: int) -> str:
    """Line number `line` (from 1) of a text, without its end; empty where there is no such line."""
    lines = text.split("\n", line)
    return lines[line - 1].rstrip("\r") if line <= len(lines) else ""


def tokenize(text: str, path: str = "<script>") -> list[Token]:
    """Split a script into tokens; the last is always an END.

    Args:
        text: the whole script.
        path: its name, for messages.

    Raises:
        ScriptError: a string, command, comment or code block without its end, or a control character.
    """
    return _Lexer(text, path).scan()
