"""A script's text to its tree.

    --option=value …        options
    `shell`                 what is done first
    0   socket(...) = 3     events: a time, and a call, a packet, a shell command or a code block
    +.1 < S 0:0(0) …
    `shell`                 what is done last, pass or fail

`parse_packet` and `parse_call` read the two large notations. What can be known to be wrong before running is found
here, with line and column: `ScriptError` says what was found and what was expected.
Grammar: packetdrill's `syntax.md` and `parser.y`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from usernet.packetdrill.ast import (
    ABSOLUTE,
    ABSOLUTE_RANGE,
    ANY_TIME,
    INBOUND,
    OUTBOUND,
    RELATIVE,
    RELATIVE_RANGE,
    Action,
    Code,
    Command,
    Event,
    EventTime,
    Option,
    Packet,
    Script,
    SystemCall,
)
from usernet.packetdrill.cursor import Cursor
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.lexer import BACKQUOTED, CODE, ELLIPSIS, END, FLOAT, INTEGER, OPTION, WORD
from usernet.packetdrill.parse_call import parse_call
from usernet.packetdrill.parse_packet import parse_packet

NSEC_PER_SEC: Final = 1_000_000_000
MAX_TIME: Final = 1 << 62  # ns, 146 years: times are added to each other


@final
class _Parser:
    """The grammar's upper rules."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.last_absolute: int | None = None
        self.first = True

    def script(self) -> Script:
        cursor = self.cursor
        options: list[Option] = []
        while cursor.peek().kind == OPTION:
            options.append(self.option())
        init = self.command() if cursor.peek().kind == BACKQUOTED else None
        events: list[Event] = []
        while cursor.peek().kind not in (END, BACKQUOTED):
            events.append(self.event())
        cleanup = None
        if cursor.peek().kind == BACKQUOTED:
            cleanup = self.command()
            if cursor.peek().kind != END:
                cursor.fail_expected("the end of the script, after a shell command without a time")
        if not events:
            cursor.fail_expected("an event, which begins with its time")
        return Script(cursor.path, cursor.text, options, init, events, cleanup)

    def option(self) -> Option:
        token = self.cursor.next()
        if token.text == "define":
            name, equals, value = (token.argument or "").partition("=")
            if not name or not equals:
                self.cursor.fail(f"found '--define={token.argument or ''}', expected --define=NAME=VALUE", token)
            # What the command line defines goes before what the script does.
            self.cursor.defines.setdefault(name, value)
        return Option(token.text, token.argument, token.line, token.column)

    def command(self) -> Command:
        token = self.cursor.next()
        return Command(token.text, token.line)

    # ------------------------------------------------------------ events

    def event(self) -> Event:
        cursor = self.cursor
        start = cursor.peek()
        time = self.event_time()
        self.check_order(time, start.line, start.column)
        end: int | None = None
        if cursor.peek().kind == ELLIPSIS:
            cursor.next()
            end = self.time("the time at which a call returns")
            if cursor.peek().kind != WORD:
                cursor.fail_expected("a system call, which alone has a time of return")
        action = self.action(end)
        outbound = isinstance(action, Packet) and action.direction == OUTBOUND
        if time.kind in (ANY_TIME, ABSOLUTE_RANGE, RELATIVE_RANGE) and not outbound:
            what = "'*'" if time.kind == ANY_TIME else "a range of times"
            raise cursor.error_at(
                start.line, start.column, f"found {what} for something else than an outbound packet, expected one time"
            )
        if isinstance(action, SystemCall) and action.end is not None and action.end < time.start:
            raise cursor.error_at(start.line, start.column, "found a call that returns before it starts")
        return Event(start.line, start.column, time, action)

    def event_time(self) -> EventTime:
        cursor = self.cursor
        if cursor.accept("*"):
            return EventTime(ANY_TIME)
        start = cursor.peek()
        relative = cursor.accept("+")
        begin = self.time("a time, '+' and a time, or '*'" if not relative else "a time")
        if not cursor.accept("~"):
            return EventTime(RELATIVE if relative else ABSOLUTE, begin, begin)
        if relative:
            cursor.expect("+", "and the end of a range of relative times")
        end = self.time("the end of a range of times")
        if end < begin:
            cursor.fail("found a range of times that ends before it begins", start)
        return EventTime(RELATIVE_RANGE if relative else ABSOLUTE_RANGE, begin, end)

    def time(self, what: str) -> int:
        """A time in seconds, as nanoseconds, exactly: what a float would round is not rounded."""
        token = self.cursor.peek()
        if token.kind not in (INTEGER, FLOAT):
            self.cursor.fail_expected(what)
        whole, _, fraction = token.text.partition(".")
        if token.text.startswith("-"):
            self.cursor.fail(f"found the negative time {token.text}, expected {what}")
        nanoseconds = int(whole or "0") * NSEC_PER_SEC + int(fraction[:9].ljust(9, "0"))
        if nanoseconds > MAX_TIME:
            self.cursor.fail(f"found the time {token.text}, expected at most {MAX_TIME // NSEC_PER_SEC} seconds")
        self.cursor.next()
        return nanoseconds

    def check_order(self, time: EventTime, line: int, column: int) -> None:
        """The first event is at 0, and absolute times that follow each other do not go back."""
        if self.first and (time.kind == ANY_TIME or time.start != 0):
            raise self.cursor.error_at(line, column, "found a first event at another time, expected time 0")
        self.first = False
        if time.relative:
            self.last_absolute = None
            return
        if self.last_absolute is not None and time.start < self.last_absolute:
            raise self.cursor.error_at(
                line,
                column,
                f"found the time {time.start / NSEC_PER_SEC:g} after {self.last_absolute / NSEC_PER_SEC:g}, "
                "expected times to grow",
            )
        self.last_absolute = time.start

    def action(self, end: int | None) -> Action:
        cursor = self.cursor
        token = cursor.peek()
        if token.kind == BACKQUOTED:
            return self.command()
        if token.kind == CODE:
            return Code(cursor.next().text)
        if token.text in (INBOUND, OUTBOUND) and token.kind != WORD:
            return parse_packet(cursor)
        if token.kind == WORD:
            return parse_call(cursor, end)
        cursor.fail_expected("an action: a packet ('<' or '>'), a system call, a shell command or a code block")


def parse(text: str, path: str = "<script>", defines: Mapping[str, str] | None = None) -> Script:
    """Parse a script.

    Args:
        text: the script.
        path: its name, for messages.
        defines: symbols and what they stand for, as given after `--define=NAME=` on a command line.

    Raises:
        ScriptError: the text is no script.
    """
    return _Parser(Cursor(text, path, dict(defines or {}))).script()


def parse_file(path: str, defines: Mapping[str, str] | None = None) -> Script:
    """Parse the script in a file. Raises OSError where it can't be read, and ScriptError."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        column = bad.start - (data.rfind(b"\n", 0, bad.start) + 1) + 1
        raise ScriptError(path, line, column, f"found the byte 0x{data[bad.start]:02x}, expected UTF-8 text") from None
    return parse(text, path, defines)
