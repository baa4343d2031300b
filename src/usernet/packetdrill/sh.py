"""The shell language, as far as scripts use it: lists, pipelines, redirections, quotes, variables and arithmetic.

    cmd; cmd && cmd || cmd | cmd > /dev/null 2>&1   # comment
    "$((32*1024*1024))"  ${PPID}

Between a script's shell lines and `sh_commands`. POSIX sh's grammar without control structures, and bash's `&>`.
Nothing is run on the host.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

from usernet.packetdrill.errors import BadEvent

MAX_DEPTH: Final = 8  # of scripts that call scripts

_OPERATORS: Final = ("&&", "||", ";;", ";", "|", "&", "\n")
_REDIRECTION: Final = re.compile(r"([0-9]?)(>>|>&|>|<)|&>>?")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+|[?$!#*@]))")
_PLAIN_END: Final = frozenset(" \t\n;|&<>")

STDOUT: Final = 1
STDERR: Final = 2


@final
@dataclass(slots=True)
class Redirection:
    """`fd > path`; `path` "&1" for another descriptor's. `append`: >>. `fd` 0 reads."""

    fd: int
    path: str
    append: bool = False


@final
@dataclass(slots=True)
class Command:
    """One command: its words, expanded, and its redirections. `line`: where it is in its text, from 1."""

    words: list[str]
    redirections: list[Redirection] = field(default_factory=list)
    line: int = 1


@final
@dataclass(slots=True)
class Pipeline:
    """Commands joined by |, and what joins the pipeline to the one before it: ";", "&&" or "||"."""

    joined: str
    commands: list[Command] = field(default_factory=list)


@final
class _Reader:
    """The text, split into commands."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        # A backslash at the end of a line joins it to the next, before anything else.
        self.text = text.replace("\\\n", "")
        self.variables = variables
        self.position = 0
        self.pipelines: list[Pipeline] = [Pipeline(";")]
        self.new_command()

    def new_command(self) -> None:
        self.command = Command([], line=self.text.count("\n", 0, self.position) + 1)
        self.pipelines[-1].commands.append(self.command)

    def read(self) -> list[Pipeline]:
        text = self.text
        while self.position < len(text):
            char = text[self.position]
            if char in " \t":
                self.position += 1
            elif char == "#":
                end = text.find("\n", self.position)
                self.position = len(text) if end < 0 else end
            elif match := _REDIRECTION.match(text, self.position):
                self.redirection(match)
            elif operator := next((each for each in _OPERATORS if text.startswith(each, self.position)), ""):
                self.position += len(operator)
                self.operator(operator)
            else:
                self.command.words.append(self.word())
        return [pipeline for pipeline in self.pipelines if any(c.words or c.redirections for c in pipeline.commands)]

    def operator(self, operator: str) -> None:
        if operator == "|":
            self.new_command()
            return
        if operator == "\n" and not self.command.words and self.pipelines[-1].joined != ";":
            return  # a line may end after && and ||
        self.pipelines.append(Pipeline(operator if operator in ("&&", "||") else ";"))
        self.new_command()

    def redirection(self, match: re.Match[str]) -> None:
        self.position = match.end()
        while self.position < len(self.text) and self.text[self.position] in " \t":
            self.position += 1
        path = self.word()
        if not path:
            raise BadEvent("found a redirection without a file, expected its name")
        redirections = self.command.redirections
        if match[0].startswith("&>"):
            redirections.append(Redirection(STDOUT, path, match[0] == "&>>"))
            redirections.append(Redirection(STDERR, "&1"))
        elif match[2] == ">&":
            redirections.append(Redirection(int(match[1] or STDOUT), "&" + path))
        elif match[2] == "<":
            redirections.append(Redirection(0, path))
        else:
            redirections.append(Redirection(int(match[1] or STDOUT), path, match[2] == ">>"))

    def word(self) -> str:
        """The next word, with quotes removed and variables and arithmetic expanded."""
        text, out = self.text, []
        while self.position < len(text):
            char = text[self.position]
            if char in _PLAIN_END:
                break
            if char == "'":
                end = self.find("'", "a quote")
                out.append(text[self.position + 1 : end])
                self.position = end + 1
            elif char == '"':
                self.position += 1
                while (char := self.must_follow("a quote")) != '"':
                    out.append(self.piece(char, quoted=True))
                self.position += 1
            else:
                out.append(self.piece(char, quoted=False))
        return "".join(out)

    def piece(self, char: str, *, quoted: bool) -> str:
        """One character, or what a $ or a backslash stands for."""
        if char == "\\":
            following = self.text[self.position + 1 : self.position + 2]
            self.position += 2
            # Within double quotes a backslash is itself, but for these.
            return "\\" + following if quoted and following not in '$`"\\' else following
        arithmetic = self.text.startswith("$((", self.position)
        if char == "`" or (self.text.startswith("$(", self.position) and not arithmetic):
            raise BadEvent("found a command substitution, expected plain commands: it is not supported")
        if char != "$":
            self.position += 1
            return char
        if arithmetic:
            end = self.find("))", "an arithmetic expansion")
            expression = self.text[self.position + 3 : end]
            self.position = end + 2
            return str(_arithmetic(_VARIABLE.sub(self.variable, expression)))
        if match := _VARIABLE.match(self.text, self.position):
            self.position = match.end()
            return self.variable(match)
        self.position += 1
        return char

    def variable(self, match: re.Match[str]) -> str:
        return self.variables.get(match[1] or match[2], "")

    def find(self, what: str, name: str) -> int:
        end = self.text.find(what, self.position + 1)
        if end < 0:
            raise BadEvent(f"found {name} without an end in shell line {self.line()}, expected {what}")
        return end

    def must_follow(self, name: str) -> str:
        if self.position >= len(self.text):
            raise BadEvent(f"found {name} without an end in shell line {self.line()}")
        return self.text[self.position]

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1


_INTEGER_OPERATORS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.LShift: lambda a, b: a << min(b, 63),
    ast.RShift: lambda a, b: a >> b,
    ast.BitOr: lambda a, b: a | b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitXor: lambda a, b: a ^ b,
}


def _arithmetic(text: str) -> int:
    """The value of `$((text))`: C's integer operators on numbers."""
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        raise BadEvent(f"found the arithmetic '{text}', expected integers and + - * / % << >> & | ^") from None


def _evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and (operator := _INTEGER_OPERATORS.get(type(node.op))):
        value = operator(_evaluate(node.left), _evaluate(node.right))
        if abs(value) < 1 << 64:
            return value
    raise ValueError


def read(text: str, variables: Mapping[str, str]) -> list[Pipeline]:
    """Split shell lines into pipelines. `variables`: name to value. Raises BadEvent where they are no shell lines."""
    return _Reader(text, variables).read()


@final
class Result:
    """What a command came to: its exit status, and what it wrote."""

    __slots__ = ("errors", "output", "status")

    def __init__(self, status: int = 0, output: str = "", errors: str = "") -> None:
        self.status = status
        self.output = output
        self.errors = errors


Runner: TypeAlias = Callable[[list[str], str], Result]  # words, standard input
Writer: TypeAlias = Callable[[str, str, bool], str]  # path, text, append: an error's text, empty for none


def run(text: str, variables: Mapping[str, str], runner: Runner, writer: Writer) -> Result:
    """Run shell lines.

    Args:
        text: the lines.
        variables: name to value, for $NAME.
        runner: runs one command.
        writer: takes what is redirected to a file.

    Returns:
        The last command's status, as a shell's; and all output and errors that went nowhere else.

    Raises:
        BadEvent: the text is not shell.
    """
    total = Result()
    for pipeline in read(text, variables):
        if (pipeline.joined == "&&" and total.status != 0) or (pipeline.joined == "||" and total.status == 0):
            continue
        piped = ""
        for command in pipeline.commands:
            result = runner(command.words, piped) if command.words else Result()
            _redirect(result, command.redirections, writer)
            total.errors += result.errors
            total.status = result.status
            piped = result.output
        total.output += piped
    return total


def _redirect(result: Result, redirections: list[Redirection], writer: Writer) -> None:
    """Take a command's output and errors to where they are redirected."""
    files: dict[int, Redirection | None] = {STDOUT: None, STDERR: None}  # None: the outside
    swapped: dict[int, int] = {}
    for redirection in redirections:
        if redirection.path.startswith("&"):
            other = int(redirection.path[1:]) if redirection.path[1:].isdecimal() else STDOUT
            files[redirection.fd] = files.get(other)
            swapped[redirection.fd] = other
        elif redirection.fd in files:
            files[redirection.fd] = redirection
            swapped.pop(redirection.fd, None)
    output, errors = result.output, result.errors
    result.output = result.errors = ""
    for fd, text in ((STDOUT, output), (STDERR, errors)):
        file = files[fd]
        if file is not None:
            if file.path != "/dev/null" and (failed := writer(file.path, text, file.append)):
                result.errors += failed
                result.status = 1
            file.append = True  # both may go to one file
        elif (fd == STDOUT) != (fd in swapped):
            result.output += text
        else:
            result.errors += text
