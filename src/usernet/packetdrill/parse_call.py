"""The notation of system calls: `name(arguments) = result ERRNO (note)`.

A part of `parser`. Arguments are C-like: numbers, symbols joined by |, strings, arrays, `...`, and structures with
the names of their fields. A brace's first word tells which structure it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from usernet.packetdrill.ast import (
    Array,
    Assignment,
    Braces,
    Cmsg,
    Ellipsis_,
    EpollEvent,
    Expression,
    ExtendedError,
    InAddr,
    Integer,
    Iovec,
    Linger,
    MsgHdr,
    Or,
    PollFd,
    ScmTimestamping,
    SockAddr,
    String,
    Symbol,
    SystemCall,
)
from usernet.packetdrill.cursor import U16_MAX, Cursor
from usernet.packetdrill.lexer import ELLIPSIS, HEX, INTEGER, PUNCTUATION, STRING, WORD, Token
from usernet.packetdrill.parse_packet import parse_gre, parse_mpls_stack

MAX_DEPTH: Final = 32
INT_MAX: Final = 0x7FFFFFFF
S64_MIN: Final = -(1 << 63)
U64_MAX: Final = (1 << 64) - 1

_ESCAPES: Final = {
    "\\": b"\\", '"': b'"', "'": b"'", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v", "0": b"\0",
}


def parse_call(cursor: Cursor, end: int | None) -> SystemCall:
    """Read a call; the cursor stands at its name. `end`: when it returns, None for a call that does not block."""
    name = cursor.word("the name of a system call")
    cursor.expect("(", "and the call's arguments")
    arguments = [] if cursor.at(")") else _expressions(cursor, 0)
    cursor.expect(")", "after the call's arguments")
    cursor.expect("=", "and the call's result")
    result = _expression(cursor, 0)
    call = SystemCall(name, arguments, result, end=end)
    if cursor.peek().kind == WORD:
        call.errno = cursor.next().text
    if cursor.accept("("):
        call.note = _note(cursor)
    return call


def _note(cursor: Cursor) -> str:
    """Words for the reader, such as `Broken pipe`; the cursor stands behind the `(`."""
    words: list[str] = []
    while cursor.peek().kind in (WORD, INTEGER, HEX) or cursor.peek().text in ("|", ",", "-", "'", "/", "."):
        words.append(cursor.next().text)
    cursor.expect(")", "after a note")
    return " ".join(words)


def _expressions(cursor: Cursor, depth: int) -> list[Expression]:
    items = [_expression(cursor, depth)]
    while cursor.accept(","):
        items.append(_expression(cursor, depth))
    return items


def _expression(cursor: Cursor, depth: int) -> Expression:
    """One expression, with the |s that follow it."""
    if depth > MAX_DEPTH:
        cursor.fail(f"found more than {MAX_DEPTH} levels of brackets, expected fewer")
    left = _primary(cursor, depth + 1)
    while cursor.accept("|"):
        left = Or(left, _primary(cursor, depth + 1))
    return left


def _primary(cursor: Cursor, depth: int) -> Expression:
    token = cursor.peek()
    if token.kind == ELLIPSIS:
        cursor.next()
        return Ellipsis_()
    if token.kind in (INTEGER, HEX):
        return Integer(cursor.any_integer("a value", S64_MIN, U64_MAX), token.kind == HEX)
    if token.kind == STRING:
        return _string(cursor)
    if token.kind == WORD:
        if token.text in ("inet_addr", "inet6_addr"):
            return InAddr(_inet_addr(cursor, socket.AF_INET if token.text == "inet_addr" else socket.AF_INET6))
        cursor.next()
        if cursor.accept("="):
            return Assignment(token.text, _expression(cursor, depth))
        return Symbol(token.text)
    if cursor.accept("["):
        items = [] if cursor.at("]") else _expressions(cursor, depth)
        cursor.expect("]", "after an array")
        return Array(items)
    if cursor.accept("{"):
        value = _structure(cursor, depth)
        cursor.expect("}", "after a structure")
        return value
    cursor.fail_expected("an expression: a number, a symbol, a string, '...', '[' or '{'")


def _string(cursor: Cursor) -> String:
    """Strings that follow each other are one; `"text"...` is open."""
    value = b""
    while cursor.peek().kind == STRING:
        value += _unescape(cursor, cursor.next())
    if cursor.peek().kind == ELLIPSIS:
        cursor.next()
        return String(value, True)
    return String(value)


def _unescape(cursor: Cursor, token: Token) -> bytes:
    """A string's bytes: C's escapes, of which `\\x` has two digits."""
    text, out, at = token.text, bytearray(), 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\":
            out += char.encode()
            continue
        escape = text[at]  # the scanner has seen to it that something follows a backslash
        at += 1
        if escape == "x":
            digits = text[at : at + 2]
            try:
                out += bytes.fromhex(digits if len(digits) == 2 else "?")
            except ValueError:
                cursor.fail(f"found the escape '\\x{digits}', expected two hexadecimal digits after \\x", token)
            at += 2
        elif escape in _ESCAPES:
            out += _ESCAPES[escape]
        else:
            cursor.fail(f"found the escape '\\{escape}', expected \\ and one of \\ \" ' f n r t v 0 xhh", token)
    return bytes(out)


def _inet_addr(cursor: Cursor, family: int) -> bytes:
    name = cursor.next().text
    cursor.expect("(", f"after {name}")
    token = cursor.expect_kind(STRING, "an address in quotes")
    try:
        address = socket.inet_pton(family, token.text)
    except OSError:
        version = "IPv4" if family == socket.AF_INET else "IPv6"
        cursor.fail(f"found '{token.text}', expected an {version} address", token)
    cursor.expect(")", "after an address")
    return address


# ---------------------------------------------------------------- structures; the cursor stands behind the brace


def _structure(cursor: Cursor, depth: int) -> Expression:
    token = cursor.peek()
    if token.kind == ELLIPSIS and cursor.peek(1).text == ",":
        return _iovec(cursor)
    if token.kind == WORD and token.text in _STRUCTURES:
        return _STRUCTURES[token.text](cursor, depth)
    if token.kind == PUNCTUATION and token.text in ("(", "}"):
        return parse_mpls_stack(cursor)
    return Braces(_expressions(cursor, depth))


def _iovec(cursor: Cursor) -> Iovec:
    cursor.expect_kind(ELLIPSIS, "'...' for a buffer")
    cursor.expect(",", "and the buffer's length")
    return Iovec(cursor.integer("length of a buffer", 0, INT_MAX))


def _field(cursor: Cursor, name: str, depth: int, *, first: bool = False) -> Expression:
    """`name = value`, after a comma if it is not the first."""
    if not first:
        cursor.expect(",", f"and the field '{name}'")
    cursor.expect(name, "the name of the next field")
    cursor.expect("=", f"after '{name}'")
    return _expression(cursor, depth)


def _number_field(cursor: Cursor, name: str, *, first: bool = False) -> int:
    """A field whose value is a plain number."""
    if not first:
        cursor.expect(",", f"and the field '{name}'")
    cursor.expect(name, "the name of the next field")
    cursor.expect("=", f"after '{name}'")
    return cursor.integer(name, 0, U64_MAX >> 1)


def _sockaddr(cursor: Cursor, depth: int) -> SockAddr:
    cursor.next()
    cursor.expect("=")
    start = cursor.peek()
    family = cursor.word("AF_INET or AF_INET6")
    if family not in ("AF_INET", "AF_INET6"):
        cursor.fail(f"found '{family}', expected AF_INET or AF_INET6", start)
    cursor.expect(",")
    cursor.expect("sin_port")
    cursor.expect("=")
    cursor.expect("htons")
    cursor.expect("(")
    port = cursor.integer("port", 0, U16_MAX)
    cursor.expect(")")
    cursor.expect(",")
    cursor.expect("sin_addr")
    cursor.expect("=")
    if not cursor.at("inet_addr"):
        cursor.fail_expected("'inet_addr'")
    return SockAddr(family, port, _inet_addr(cursor, socket.AF_INET if family == "AF_INET" else socket.AF_INET6))


def _msghdr(cursor: Cursor, depth: int) -> MsgHdr:
    cursor.next()
    cursor.expect("(")
    cursor.expect_kind(ELLIPSIS, "'...' for the length of the name")
    cursor.expect(")")
    cursor.expect("=")
    cursor.expect_kind(ELLIPSIS, "'...' for the name")
    cursor.expect(",")
    cursor.expect("msg_iov")
    cursor.expect("(", "and the number of buffers")
    iovlen = cursor.integer("number of buffers", 0, INT_MAX)
    cursor.expect(")")
    cursor.expect("=")
    cursor.expect("[", "and the buffers")
    iov: list[Iovec] = []
    while not cursor.at("]"):
        if iov:
            cursor.expect(",")
        cursor.expect("{", "and a buffer")
        iov.append(_iovec(cursor))
        cursor.expect("}")
    cursor.expect("]")
    flags = _field(cursor, "msg_flags", depth)
    control: list[Cmsg] = []
    if cursor.accept(","):
        cursor.expect("msg_control")
        cursor.expect("=")
        cursor.expect("[", "and the control messages")
        while not cursor.at("]"):
            if control:
                cursor.expect(",")
            cursor.expect("{", "and a control message")
            control.append(_cmsg(cursor, depth))
            cursor.expect("}")
        cursor.expect("]")
    return MsgHdr(iovlen, iov, flags, control)


def _cmsg(cursor: Cursor, depth: int) -> Cmsg:
    level = _field(cursor, "cmsg_level", depth, first=True)
    kind = _field(cursor, "cmsg_type", depth)
    return Cmsg(level, kind, _field(cursor, "cmsg_data", depth))


def _scm_timestamping(cursor: Cursor, depth: int) -> ScmTimestamping:
    sec = _number_field(cursor, "scm_sec", first=True)
    return ScmTimestamping(sec, _number_field(cursor, "scm_nsec"))


def _extended_error(cursor: Cursor, depth: int) -> ExtendedError:
    errno = _field(cursor, "ee_errno", depth, first=True)
    origin, kind, code, info, data = (
        _field(cursor, name, depth) for name in ("ee_origin", "ee_type", "ee_code", "ee_info", "ee_data")
    )
    return ExtendedError(errno, origin, kind, code, info, data)


def _pollfd(cursor: Cursor, depth: int) -> PollFd:
    fd = _field(cursor, "fd", depth, first=True)
    events = _field(cursor, "events", depth)
    revents: Expression = Integer(0)
    if cursor.at(","):
        revents = _field(cursor, "revents", depth)
    return PollFd(fd, events, revents)


def _epoll_event(cursor: Cursor, depth: int) -> EpollEvent:
    events = _field(cursor, "events", depth, first=True)
    cursor.expect(",", "and the event's data")
    start = cursor.peek()
    member = cursor.word("fd, ptr, u32 or u64")
    if member not in ("fd", "ptr", "u32", "u64"):
        cursor.fail(f"found '{member}', expected fd, ptr, u32 or u64", start)
    cursor.expect("=")
    return EpollEvent(events, member, _expression(cursor, depth))


def _linger(cursor: Cursor, depth: int) -> Linger:
    onoff = _number_field(cursor, "onoff", first=True)
    return Linger(onoff, _number_field(cursor, "linger"))


def _gre(cursor: Cursor, depth: int) -> Expression:
    return parse_gre(cursor)


_STRUCTURES: Final[dict[str, Callable[[Cursor, int], Expression]]] = {
    "sa_family": _sockaddr,
    "msg_name": _msghdr,
    "cmsg_level": _cmsg,
    "scm_sec": _scm_timestamping,
    "ee_errno": _extended_error,
    "fd": _pollfd,
    "events": _epoll_event,
    "onoff": _linger,
    "flags": _gre,
    "Flags": _gre,
}
