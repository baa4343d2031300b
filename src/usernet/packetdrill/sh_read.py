"""Shell lines to a tree, which `sh` runs: POSIX sh's grammar as far as scripts use it, and bash's `&>`.

    list      and_or { ; and_or }             and_or    pipeline { && pipeline | || pipeline }
    pipeline  [!] command { | command }       command   words and redirections, or
              if list; then list; [elif list; then list;] [else list;] fi
              for NAME in WORDS; do list; done          while list; do list; done          { list; }   ( list )

Nothing is expanded here: a word is a row of parts, whose values are known only when it is its turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

from usernet.packetdrill.errors import BadEvent

MAX_NESTING: Final = 32  # of commands within commands

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_OPERATORS: Final = ("&&", "||", ";;", ";", "|", "&", "\n", "(", ")")
_REDIRECTION: Final = re.compile(r"([0-9]?)(>>|>&|>|<)|&>>?")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+|[?$!#*@]))")
_WORD_END: Final = frozenset(" \t\n;|&<>()")
_RESERVED: Final = frozenset({"if", "then", "elif", "else", "fi", "for", "while", "do", "done", "{", "}", "!"})


@final
@dataclass(slots=True)
class Literal:
    """Text as it is. `quoted`: it is a word even where it is empty."""

    text: str
    quoted: bool = False


@final
@dataclass(slots=True)
class Variable:
    """`$NAME`. Without quotes its value is split into words."""

    name: str
    quoted: bool = False


@final
@dataclass(slots=True)
class Arithmetic:
    """`$((text))`, whose variables are not known yet."""

    text: str


@final
@dataclass(slots=True)
class Substitution:
    """`$(list)`: what the list writes, without its last line ends."""

    body: List
    quoted: bool = False


Part: TypeAlias = Literal | Variable | Arithmetic | Substitution
Word: TypeAlias = list[Part]


@final
@dataclass(slots=True)
class Redirection:
    """`fd > path`; `path` "&1" for another descriptor's. `append`: >>. `fd` 0 reads."""

    fd: int
    path: Word
    append: bool = False


@final
@dataclass(slots=True)
class Simple:
    """One command: its words and its redirections."""

    words: list[Word] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)


@final
@dataclass(slots=True)
class If:
    """`branches`: condition and body; `otherwise`: after else."""

    branches: list[tuple[List, List]]
    otherwise: List | None = None


@final
@dataclass(slots=True)
class For:
    """`for name in words`."""

    name: str
    words: list[Word]
    body: List


@final
@dataclass(slots=True)
class While:
    """`while condition`."""

    condition: List
    body: List


@final
@dataclass(slots=True)
class Group:
    """`{ list; }` or `( list )`."""

    body: List


Command: TypeAlias = Simple | If | For | While | Group


@final
@dataclass(slots=True)
class Pipeline:
    """Commands joined by |, and what joins the pipeline to the one before it: ";", "&&" or "||"."""

    joined: str
    commands: list[Command] = field(default_factory=list)
    negated: bool = False


@final
@dataclass(slots=True)
class List:
    """Pipelines, one after the other."""

    pipelines: list[Pipeline] = field(default_factory=list)


@final
class _Reader:
    """The text, and how far it is read."""

    def __init__(self, text: str) -> None:
        # A backslash at the end of a line joins it to the next, before anything else.
        self.text = text.replace("\\\n", "")
        self.position = 0
        self.depth = 0

    # ------------------------------------------------------------ what comes next

    def skip(self, *, lines: bool = False) -> None:
        """Skip blanks and a comment, and with `lines` the ends of lines and stray semicolons too."""
        text = self.text
        while self.position < len(text):
            char = text[self.position]
            if char in " \t" or (lines and char in "\n;"):
                self.position += 1
            elif char == "#":
                end = text.find("\n", self.position)
                self.position = len(text) if end < 0 else end
            else:
                return

    def operator(self) -> str:
        """The operator that comes next, empty for none; it is not taken."""
        self.skip()
        if _REDIRECTION.match(self.text, self.position):
            return ""
        return next((each for each in _OPERATORS if self.text.startswith(each, self.position)), "")

    def accept(self, operator: str) -> bool:
        if self.operator() != operator:
            return False
        self.position += len(operator)
        return True

    def reserved(self) -> str:
        """The reserved word that comes next, empty for none; it is not taken."""
        self.skip()
        end = self.position
        while end < len(self.text) and self.text[end] not in _WORD_END:
            end += 1
        word = self.text[self.position : end]
        return word if word in _RESERVED else ""

    def expect(self, word: str, what: str) -> None:
        """Take a reserved word."""
        self.skip(lines=True)
        if self.reserved() != word:
            raise self.error(f"found {self.shown()}, expected '{word}' {what}")
        self.position += len(word)

    def shown(self) -> str:
        """What comes next, for a message."""
        rest = self.text[self.position :].split("\n", 1)[0].strip()
        return f"'{rest[:20]}'" if rest else "the end"

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1

    def error(self, message: str) -> BadEvent:
        return BadEvent(f"shell line {self.line()}: {message}")

    # ------------------------------------------------------------ commands

    def commands(self, *ends: str) -> List:
        """Pipelines up to a reserved word or operator of `ends`, which is not taken; up to the end of the text."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"found more than {MAX_NESTING} levels of commands, expected fewer")
        out = List()
        joined = ";"
        while True:
            self.skip(lines=True)  # a line may end after && and ||, too
            if self.position >= len(self.text) or self.reserved() in ends or (")" in ends and self.operator() == ")"):
                break
            pipeline = Pipeline(joined, [])
            if self.reserved() == "!":
                self.position += 1
                pipeline.negated = True
            pipeline.commands.append(self.command())
            while self.accept("|"):
                pipeline.commands.append(self.command())
            out.pipelines.append(pipeline)
            operator = self.operator()
            joined = operator if operator in ("&&", "||") else ";"
            if operator not in ("", ")", "("):
                self.position += len(operator)
        self.depth -= 1
        return out

    def command(self) -> Command:
        word = self.reserved()
        if word == "if":
            return self.conditional()
        if word == "for":
            return self.loop()
        if word == "while":
            self.position += len(word)
            condition = self.commands("do")
            self.expect("do", "after a condition")
            body = self.commands("done")
            self.expect("done", "after a loop")
            return While(condition, body)
        if word == "{":
            self.position += 1
            body = self.commands("}")
            self.expect("}", "after a group")
            return Group(body)
        if word:
            raise self.error(f"found '{word}', expected a command")
        if self.accept("("):
            body = self.commands(")")
            if not self.accept(")"):
                raise self.error(f"found {self.shown()}, expected ')'")
            return Group(body)
        return self.simple()

    def conditional(self) -> If:
        self.position += len("if")
        branches: list[tuple[List, List]] = []
        otherwise: List | None = None
        while True:
            condition = self.commands("then")
            self.expect("then", "after a condition")
            branches.append((condition, self.commands("elif", "else", "fi")))
            self.skip(lines=True)
            word = self.reserved()
            if word != "elif":
                break
            self.position += len(word)
        if word == "else":
            self.position += len(word)
            otherwise = self.commands("fi")
        self.expect("fi", "after 'if'")
        return If(branches, otherwise)

    def loop(self) -> For:
        self.position += len("for")
        self.skip()
        name = "".join(part.text for part in self.word() if isinstance(part, Literal))
        self.skip()
        if not name.isidentifier() or not self.text.startswith("in", self.position):
            raise self.error(f"found {self.shown()}, expected 'for NAME in WORDS'")
        self.position += len("in")
        words: list[Word] = []
        while not self.operator() and self.position < len(self.text):
            words.append(self.word())
        self.expect("do", "after the words of a loop")
        body = self.commands("done")
        self.expect("done", "after a loop")
        return For(name, words, body)

    def simple(self) -> Simple:
        command = Simple()
        while True:
            self.skip()
            if self.position >= len(self.text):
                break
            if match := _REDIRECTION.match(self.text, self.position):
                self.redirection(match, command)
            elif self.operator():
                break
            else:
                command.words.append(self.word())
        if not command.words and not command.redirections:
            raise self.error(f"found {self.shown()}, expected a command")
        return command

    def redirection(self, match: re.Match[str], command: Simple) -> None:
        self.position = match.end()
        self.skip()
        path = self.word()
        if not path:
            raise self.error("found a redirection without a file, expected its name")
        if match[0].startswith("&>"):
            command.redirections.append(Redirection(STDOUT, path, match[0] == "&>>"))
            command.redirections.append(Redirection(STDERR, [Literal("&1")]))
        elif match[2] == ">&":
            command.redirections.append(Redirection(int(match[1] or STDOUT), [Literal("&"), *path]))
        elif match[2] == "<":
            command.redirections.append(Redirection(STDIN, path))
        else:
            command.redirections.append(Redirection(int(match[1] or STDOUT), path, match[2] == ">>"))

    # ------------------------------------------------------------ words

    def word(self) -> Word:
        """The next word's parts; none where there is no word."""
        text = self.text
        out: Word = []
        while self.position < len(text):
            char = text[self.position]
            if char in _WORD_END:
                break
            if char == "'":
                end = self.find("'", "a quote")
                out.append(Literal(text[self.position + 1 : end], True))
                self.position = end + 1
            elif char == '"':
                self.position += 1
                out.append(Literal("", True))
                while self.must_follow("a quote") != '"':
                    out.append(self.part(quoted=True))
                self.position += 1
            else:
                out.append(self.part(quoted=False))
        return out

    def part(self, *, quoted: bool) -> Part:
        """One character, or what a $ or a backslash stands for."""
        text, at = self.text, self.position
        char = text[at]
        if char == "\\":
            following = text[at + 1 : at + 2]
            self.position += 2
            # Within double quotes a backslash is itself, but for these.
            return Literal("\\" + following if quoted and following not in '$`"\\' else following, True)
        if char == "`":
            raise self.error("found a command substitution in backquotes, expected $(…)")
        if text.startswith("$((", at):
            end = self.find("))", "an arithmetic expansion")
            self.position = end + 2
            return Arithmetic(text[at + 3 : end])
        if text.startswith("$(", at):
            self.position += 2
            body = self.commands(")")
            if not self.accept(")"):
                raise self.error("found a command substitution without an end, expected ')'")
            return Substitution(body, quoted)
        if match := _VARIABLE.match(text, at):
            self.position = match.end()
            return Variable(match[1] or match[2], quoted)
        self.position += 1
        return Literal(char, quoted)

    def find(self, what: str, name: str) -> int:
        end = self.text.find(what, self.position + 1)
        if end < 0:
            raise self.error(f"found {name} without an end, expected {what}")
        return end

    def must_follow(self, name: str) -> str:
        if self.position >= len(self.text):
            raise self.error(f"found {name} without an end")
        return self.text[self.position]


def read(text: str) -> List:
    """Split shell lines into commands. Raises BadEvent where they are no shell lines."""
    reader = _Reader(text)
    out = reader.commands()
    reader.skip(lines=True)
    if reader.position < len(reader.text):
        raise reader.error(f"found {reader.shown()}, expected a command")
    return out
