"""Values of a script's expressions, and typed access to the arguments of a call.

Used by `calls`. A message names the argument by its place, from 1, and says what was found and what was expected.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, final

from usernet.packetdrill.ast import (
    Array,
    Assignment,
    Braces,
    Cmsg,
    Ellipsis_,
    EpollEvent,
    Expression,
    ExtendedError,
    Gre,
    InAddr,
    Integer,
    Iovec,
    Linger,
    MplsStack,
    MsgHdr,
    Or,
    PollFd,
    ScmTimestamping,
    SockAddr,
    String,
    Symbol,
)
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.symbols import symbol
from usernet.packetdrill.target import Buffer

S32_MIN: Final = -(1 << 31)
U32_MAX: Final = (1 << 32) - 1
S64_MIN: Final = -(1 << 63)
U64_MAX: Final = (1 << 64) - 1
MAX_BUFFER: Final = 1 << 28  # bytes of one buffer of a call

_S32: Final = Struct("=i")
_LINGER: Final = Struct("=ii")
_GRE: Final = Struct("!HHHHII")

_NAMES: Final[dict[type, str]] = {
    Ellipsis_: "...", Integer: "an integer", Symbol: "a symbol", String: "a string", Or: "an integer",
    Assignment: "an assignment", Array: "an array", Braces: "braces", InAddr: "an address", SockAddr: "a sockaddr",
    Iovec: "a buffer", MsgHdr: "a msghdr", Cmsg: "a control message", ScmTimestamping: "a time stamp",
    ExtendedError: "an extended error", PollFd: "a pollfd", EpollEvent: "an epoll_event", Linger: "a linger",
    Gre: "a GRE header", MplsStack: "a label stack",
}


def describe(expression: Expression) -> str:
    """What kind of expression it is, for messages."""
    return _NAMES[type(expression)]


def integer(expression: Expression, what: str, low: int = S32_MIN, high: int = U32_MAX) -> int:
    """The number that an integer, a symbol, or several joined by | stand for. Raises BadEvent for anything else."""
    if isinstance(expression, Integer):
        value = expression.value
    elif isinstance(expression, Symbol):
        value = symbol(expression.name)
    elif isinstance(expression, Or):
        value = integer(expression.left, what, S64_MIN, U64_MAX) | integer(expression.right, what, S64_MIN, U64_MAX)
    else:
        raise BadEvent(f"{what}: found {describe(expression)}, expected an integer")
    if not low <= value <= high:
        raise BadEvent(f"{what}: found {value}, expected {low} to {high}")
    return value


def signed32(value: int) -> int:
    """A number as C's int has it: 0xffffffff is -1."""
    value &= U32_MAX
    return value - (1 << 32) if value >> 31 else value


def int_bytes(value: int) -> bytes:
    """The bytes of a C int."""
    return _S32.pack(signed32(value))


def linger_bytes(linger: Linger) -> bytes:
    """The bytes of a `struct linger`."""
    return _LINGER.pack(signed32(linger.onoff), signed32(linger.linger))


def gre_bytes(gre: Gre) -> bytes:
    """The GRE header of a socket option: all fields, whatever the flags."""
    return _GRE.pack(gre.flags, 0, gre.sum, gre.off, gre.key, gre.seq)


def mpls_bytes(stack: MplsStack) -> bytes:
    """The label stack of a socket option."""
    return b"".join(
        (entry.label << 12 | entry.tc << 9 | entry.bottom << 8 | entry.ttl).to_bytes(4, "big")
        for entry in stack.entries
    )


@final
class Arguments:
    """The arguments of one call. All methods raise BadEvent for an argument that is not what they expect."""

    def __init__(self, name: str, expressions: list[Expression]) -> None:
        self.name = name
        self.expressions = expressions

    def count(self, *allowed: int) -> int:
        """How many there are; one of `allowed`."""
        if len(self.expressions) not in allowed:
            expected = " or ".join(str(number) for number in allowed)
            raise BadEvent(f"{self.name}(): found {len(self.expressions)} arguments, expected {expected}")
        return len(self.expressions)

    def what(self, index: int) -> str:
        """An argument's name for messages."""
        return f"{self.name}(), argument {index + 1}"

    def bad(self, index: int, expected: str) -> BadEvent:
        """The error of an argument that is something else."""
        return BadEvent(f"{self.what(index)}: found {describe(self.expressions[index])}, expected {expected}")

    def int32(self, index: int) -> int:
        """A C int."""
        return signed32(integer(self.expressions[index], self.what(index)))

    def int64(self, index: int) -> int:
        """A C long long."""
        return integer(self.expressions[index], self.what(index), S64_MIN, U64_MAX)

    def size(self, index: int) -> int:
        """The size of a buffer."""
        return integer(self.expressions[index], self.what(index), 0, MAX_BUFFER)

    def is_ellipsis(self, index: int) -> bool:
        """Whether it is `...`."""
        return isinstance(self.expressions[index], Ellipsis_)

    def ellipsis(self, index: int) -> None:
        """Check that it is `...`."""
        if not self.is_ellipsis(index):
            raise self.bad(index, "...")

    def bracketed(self, index: int) -> Expression:
        """The one expression of an array: what C has as a pointer to a value."""
        expression = self.expressions[index]
        if not isinstance(expression, Array) or len(expression.items) != 1:
            raise self.bad(index, "one value in brackets")
        return expression.items[0]

    def buffer(self, index: int, size_index: int) -> Buffer:
        """A buffer, `...` or NULL, whose size is another argument."""
        size = self.size(size_index)
        if self.is_ellipsis(index):
            return Buffer(size)
        if isinstance(self.expressions[index], Integer | Symbol) and self.int64(index) == 0:
            return Buffer(size, null=True)
        raise self.bad(index, "... or NULL")

    def buffers(self, index: int, count_index: int) -> list[Buffer]:
        """An array of buffers, whose number is another argument."""
        expression = self.expressions[index]
        if not isinstance(expression, Array):
            raise self.bad(index, "an array of buffers")
        out: list[Buffer] = []
        for item in expression.items:
            if not isinstance(item, Iovec):
                raise BadEvent(f"{self.what(index)}: found {describe(item)} in it, expected a buffer {{..., LENGTH}}")
            out.append(Buffer(checked_size(item.length, self.what(index))))
        count = self.int32(count_index)
        if count != len(out):
            raise BadEvent(f"{self.what(count_index)}: found {count}, expected {len(out)}, the number of buffers")
        return out

    def string(self, index: int) -> bytes:
        """A string's bytes."""
        expression = self.expressions[index]
        if not isinstance(expression, String):
            raise self.bad(index, "a string")
        return expression.value


def checked_size(size: int, what: str) -> int:
    """A buffer's size. Raises BadEvent for one above MAX_BUFFER."""
    if size > MAX_BUFFER:
        raise BadEvent(f"{what}: found a buffer of {size} bytes, expected at most {MAX_BUFFER}")
    return size
