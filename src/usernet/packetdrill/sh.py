"""Runs shell lines: lists, pipelines, redirections, conditions, loops, variables, arithmetic, command substitution.

    cmd; cmd && cmd || cmd | cmd > /dev/null 2>&1   # comment
    if [ "$(sysctl -n net.ipv4.tcp_ecn)" = 1 ]; then …; fi        "$((32*1024*1024))"  ${PPID}

Between a script's shell lines, which `sh_read` takes apart, and `sh_commands`. Nothing is run on the host.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Final, TypeAlias, final

from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh_read import (
    STDERR,
    STDIN,
    STDOUT,
    Arithmetic,
    Command,
    For,
    If,
    List,
    Literal,
    Pipeline,
    Redirection,
    Simple,
    Variable,
    While,
    Word,
    read,
)

MAX_DEPTH: Final = 8  # of scripts that call scripts
MAX_LOOPS: Final = 10_000  # of a loop

_VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?|\b([A-Za-z_]\w*)")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")


@final
class Result:
    """What a command came to: its exit status, and what it wrote."""

    __slots__ = ("errors", "output", "status")

    def __init__(self, status: int = 0, output: str = "", errors: str = "") -> None:
        self.status = status
        self.output = output
        self.errors = errors


@final
class Exit(Exception):
    """`exit`: the script that it is in ends."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


Runner: TypeAlias = Callable[[list[str], str], Result]  # words, standard input
Reader: TypeAlias = Callable[[str], str]  # path: the text; raises OSError
Writer: TypeAlias = Callable[[str, str, bool], str]  # path, text, append: an error's text, empty for none

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


@final
class _Interpreter:
    """Runs a tree of commands. `last`: the status of the command before, `$?`."""

    def __init__(self, variables: dict[str, str], runner: Runner, reader: Reader, writer: Writer) -> None:
        self.variables = variables
        self.runner = runner
        self.reader = reader
        self.writer = writer

    def commands(self, body: List, total: Result) -> None:
        """Run a list; its output is added to `total`, whose status becomes its status."""
        total.status = 0
        for pipeline in body.pipelines:
            if (pipeline.joined == "&&" and total.status != 0) or (pipeline.joined == "||" and total.status == 0):
                continue
            self.pipeline(pipeline, total)
            self.variables["?"] = str(total.status)

    def pipeline(self, pipeline: Pipeline, total: Result) -> None:
        piped = ""
        for command in pipeline.commands:
            result = self.command(command, piped)
            total.errors += result.errors
            total.status = result.status
            piped = result.output
        total.output += piped
        if pipeline.negated:
            total.status = int(total.status == 0)

    def command(self, command: Command, piped: str) -> Result:
        result = Result()
        if isinstance(command, Simple):
            return self.simple(command, piped)
        if isinstance(command, If):
            for condition, body in command.branches:
                self.commands(condition, result)
                if result.status == 0:
                    self.commands(body, result)
                    return result
            result.status = 0
            if command.otherwise is not None:
                self.commands(command.otherwise, result)
        elif isinstance(command, For):
            for value in [each for word in command.words for each in self.expand(word)]:
                self.variables[command.name] = value
                self.commands(command.body, result)
        elif isinstance(command, While):
            for _ in range(MAX_LOOPS):
                self.commands(command.condition, result)
                if result.status != 0:
                    break
                self.commands(command.body, result)
            else:
                raise BadEvent(f"found a loop that went round {MAX_LOOPS} times, expected one that ends")
            result.status = 0
        else:
            self.commands(command.body, result)
        return result

    def simple(self, command: Simple, piped: str) -> Result:
        words = [each for word in command.words for each in self.expand(word)]
        redirections = [(each, " ".join(self.expand(each.path))) for each in command.redirections]
        for redirection, path in redirections:
            if redirection.fd == STDIN and not path.startswith("&"):
                try:
                    piped = self.reader(path)
                except OSError as failed:
                    return Result(1, errors=f"{path}: {failed.strerror or failed}\n")
        result = self.runner(words, piped) if words else Result()
        _redirect(result, redirections, self.writer)
        return result

    def expand(self, word: Word) -> list[str]:
        """The words that a word stands for: one, or what a variable without quotes holds."""
        out: list[str] = []
        current: str | None = None  # None: no word was begun
        first = word[0] if word else None
        splits = not (isinstance(first, Literal) and _ASSIGNMENT.match(_leading(word)))
        for part in word:
            if isinstance(part, Literal):
                if part.text or part.quoted:
                    current = (current or "") + part.text
                continue
            if isinstance(part, Arithmetic):
                current = (current or "") + str(_arithmetic(_VARIABLE.sub(self._number, part.text)))
                continue
            if isinstance(part, Variable):
                value = self.variables.get(part.name, "")
            else:
                inner = Result()
                self.commands(part.body, inner)
                value = inner.output.rstrip("\n")
            if part.quoted or not splits:
                current = (current or "") + value
                continue
            pieces = value.split()
            if not pieces or value[0].isspace():
                if current is not None:
                    out.append(current)
                current = None
            for index, piece in enumerate(pieces):
                if index and current is not None:
                    out.append(current)
                    current = None
                current = (current or "") + piece
            if pieces and value[-1].isspace() and current is not None:
                out.append(current)
                current = None
        if current is not None:
            out.append(current)
        return out

    def _number(self, match: re.Match[str]) -> str:
        """A variable within arithmetic; one that is not set is 0."""
        return self.variables.get(match[1] or match[2], "") or "0"


def _leading(word: Word) -> str:
    """The text that a word begins with."""
    out = ""
    for part in word:
        if not isinstance(part, Literal):
            break
        out += part.text
    return out


def run(text: str, variables: dict[str, str], runner: Runner, reader: Reader, writer: Writer) -> Result:
    """Run shell lines.

    Args:
        text: the lines.
        variables: name to value, for $NAME; loops and `$?` are written to it.
        runner: runs one command.
        reader: gives what is redirected from a file.
        writer: takes what is redirected to a file.

    Returns:
        The last command's status, as a shell's; and all output and errors that went nowhere else.

    Raises:
        BadEvent: the text is not shell.
    """
    total = Result()
    try:
        _Interpreter(variables, runner, reader, writer).commands(read(text), total)
    except Exit as end:
        total.status = end.status
    return total


def _redirect(result: Result, redirections: list[tuple[Redirection, str]], writer: Writer) -> None:
    """Take a command's output and errors to where they are redirected."""
    files: dict[int, tuple[str, list[bool]] | None] = {STDOUT: None, STDERR: None}  # None: the outside
    swapped: dict[int, int] = {}
    for redirection, path in redirections:
        if path.startswith("&"):
            other = int(path[1:]) if path[1:].isdecimal() else STDOUT
            files[redirection.fd] = files.get(other)
            swapped[redirection.fd] = other
        elif redirection.fd in files:
            files[redirection.fd] = (path, [redirection.append])
            swapped.pop(redirection.fd, None)
    output, errors = result.output, result.errors
    result.output = result.errors = ""
    for fd, text in ((STDOUT, output), (STDERR, errors)):
        file = files[fd]
        if file is not None:
            path, append = file
            if path != "/dev/null" and (failed := writer(path, text, append[0])):
                result.errors += failed
                result.status = 1
            append[0] = True  # both may go to one file
        elif (fd == STDOUT) != (fd in swapped):
            result.output += text
        else:
            result.errors += text
