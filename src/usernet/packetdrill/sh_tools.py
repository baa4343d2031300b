"""The commands of shell lines that touch nothing but text: echo, printf, grep, wc, head, tail, test.

A part of `sh_commands`. Each has the arguments that scripts give it, and refuses others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from usernet.packetdrill.sh import Result

MAX_LINES: Final = 1 << 20

_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_DIRECTIVE: Final = re.compile(r"%(-?[0-9]*)([sdx%])")
_COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}


class Usage(Exception):
    """A command's arguments can't be understood; the text says which."""


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text)


def echo(words: list[str], piped: str) -> Result:
    """`echo [-n] [-e] WORD …`."""
    rest = words[1:]
    end, escapes = "\n", False
    while rest and rest[0] in ("-n", "-e", "-ne", "-en"):
        end = "" if "n" in rest[0] else end
        escapes = escapes or "e" in rest[0]
        rest = rest[1:]
    text = " ".join(rest)
    return Result(output=(_unescape(text) if escapes else text) + end)


def printf(words: list[str], piped: str) -> Result:
    """`printf FORMAT WORD …`, with %s, %d, %x and %%."""
    if len(words) < 2:
        raise Usage("found no format, expected one")
    values = iter(words[2:])

    def one(match: re.Match[str]) -> str:
        if match[2] == "%":
            return "%"
        value = next(values, "")
        if match[2] == "s":
            return f"%{match[1]}s" % value
        return f"%{match[1]}{match[2]}" % number(value or "0")

    return Result(output=_DIRECTIVE.sub(one, _unescape(words[1])))


def number(text: str) -> int:
    """A whole number, decimal or with 0x."""
    try:
        return int(text, 16 if text[:2] == "0x" else 10)
    except ValueError:
        raise Usage(f"found '{text}', expected a number") from None


def grep(words: list[str], piped: str) -> Result:
    """`grep [-EFciqvwo] PATTERN`, on what is piped into it."""
    flags = "".join(word[1:] for word in words[1:] if word.startswith("-"))
    rest = [word for word in words[1:] if not word.startswith("-")]
    if len(rest) != 1 or set(flags) - set("EFciqvwo"):
        raise Usage("found other arguments, expected [-EFciqvwo] and one pattern, and the text from a pipe")
    pattern = re.escape(rest[0]) if "F" in flags else rest[0]
    try:
        compiled = re.compile(rf"\b(?:{pattern})\b" if "w" in flags else pattern, re.IGNORECASE if "i" in flags else 0)
    except re.error:
        raise Usage(f"found '{rest[0]}', expected a pattern") from None
    lines = [line for line in piped.splitlines() if (compiled.search(line) is None) == ("v" in flags)]
    if "o" in flags:
        shown = [match[0] for line in lines for match in compiled.finditer(line)]
    else:
        shown = lines
    output = f"{len(lines)}\n" if "c" in flags else "".join(line + "\n" for line in shown)
    return Result(0 if lines else 1, "" if "q" in flags else output)


def wc(words: list[str], piped: str) -> Result:
    """`wc -l`, `-w` or `-c`."""
    counts = {"-l": piped.count("\n"), "-w": len(piped.split()), "-c": len(piped.encode())}
    if len(words) != 2 or words[1] not in counts:
        raise Usage("found other arguments, expected -l, -w or -c")
    return Result(output=f"{counts[words[1]]}\n")


def head(words: list[str], piped: str) -> Result:
    """`head [-N | -n N]` and `tail` likewise."""
    count, rest = 10, words[1:]
    if rest and rest[0] == "-n" and len(rest) > 1:
        count = number(rest[1])
        rest = rest[2:]
    elif rest and rest[0].startswith("-"):
        count = number(rest[0][1:].removeprefix("n"))
        rest = rest[1:]
    if rest or not 0 <= count <= MAX_LINES:
        raise Usage("found other arguments, expected -n and a number of lines")
    lines = piped.splitlines(keepends=True)
    return Result(output="".join(lines[:count] if words[0] == "head" else lines[max(len(lines) - count, 0) :]))


def test(words: list[str], piped: str) -> Result:
    """`test EXPRESSION` and `[ EXPRESSION ]`: numbers and strings compared, `-n`, `-z`, `!`, `-a`, `-o`."""
    rest = words[1:]
    if words[0] == "[":
        if not rest or rest[-1] != "]":
            raise Usage("found no ']' at the end, expected one")
        rest = rest[:-1]
    return Result(0 if _condition(rest) else 1)


def _condition(words: list[str]) -> bool:
    for joiner in ("-o", "-a"):
        if joiner in words[1:]:
            at = words.index(joiner, 1)
            left, right = _condition(words[:at]), _condition(words[at + 1 :])
            return left or right if joiner == "-o" else left and right
    if words and words[0] == "!":
        return not _condition(words[1:])
    if len(words) == 3:
        left_word, operator, right_word = words
        if operator in _COMPARE:
            return _COMPARE[operator](number(left_word), number(right_word))
        if operator in ("=", "==", "!="):
            return (left_word == right_word) == (operator != "!=")
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) <= 1:
        return bool(words and words[0])
    raise Usage(f"found '{' '.join(words)}', expected a comparison of two words, or -n or -z and a word")


TOOLS: Final[dict[str, Callable[[list[str], str], Result]]] = {
    "echo": echo,
    "printf": printf,
    "grep": grep,
    "wc": wc,
    "head": head,
    "tail": head,
    "test": test,
    "[": test,
    "true": lambda words, piped: Result(),
    ":": lambda words, piped: Result(),
    "false": lambda words, piped: Result(1),
    "modprobe": lambda words, piped: Result(),  # what the stack has is there
    "set": lambda words, piped: Result(),
    "sync": lambda words, piped: Result(),
}


def counters_text(counters: dict[str, int], groups: tuple[str, ...]) -> str:
    """/proc/net/snmp or netstat: two lines a group, names and values.

    Args:
        counters: by nstat's names, the group in front.
        groups: those that the file has.
    """
    lines: list[str] = []
    for group in groups:
        names = [name for name in counters if _group(name) == group]
        if names:
            lines.append(" ".join([f"{group}:", *(name.removeprefix(group) for name in names)]))
            lines.append(" ".join([f"{group}:", *(str(counters[name]) for name in names)]))
    return "".join(line + "\n" for line in lines)


_GROUPS: Final = ("IpExt", "TcpExt", "MPTcpExt", "IcmpMsg", "UdpLite", "Icmp", "Ip", "Tcp", "Udp")
SNMP: Final = ("Ip", "Icmp", "IcmpMsg", "Tcp", "Udp", "UdpLite")
NETSTAT: Final = ("TcpExt", "IpExt", "MPTcpExt")


def _group(name: str) -> str:
    """The group of a counter, of all there are: the longest name that fits."""
    return next((group for group in _GROUPS if name.startswith(group)), "")
