"""Control messages: what a script says that `recvmsg` returns, and what it gives `sendmsg`.

Used by `calls`. Layouts: `struct sock_extended_err` (errqueue.h), `struct scm_timestamping` (three timespecs), netlink
attributes of SCM_TIMESTAMPING_OPT_STATS (`tcp_get_timestamping_opt_stats`). Host order.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, final

from usernet.packetdrill.ast import (
    Assignment,
    Braces,
    Cmsg,
    Ellipsis_,
    Expression,
    ExtendedError,
    ScmTimestamping,
)
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.symbols import SYMBOLS, symbol
from usernet.packetdrill.target import ControlMessage
from usernet.packetdrill.values import U32_MAX, U64_MAX, describe, int_bytes, integer

CMSG_HEADER: Final = 16  # struct cmsghdr
_ALIGN: Final = 8

_SOL_SOCKET: Final = SYMBOLS["SOL_SOCKET"]
_SOL_IP: Final = SYMBOLS["SOL_IP"]
_SOL_IPV6: Final = SYMBOLS["SOL_IPV6"]
_IP_RECVERR: Final = SYMBOLS["IP_RECVERR"]
_IPV6_RECVERR: Final = SYMBOLS["IPV6_RECVERR"]
_SCM_TIMESTAMPING: Final = SYMBOLS["SCM_TIMESTAMPING"]
_OPT_STATS: Final = SYMBOLS["SCM_TIMESTAMPING_OPT_STATS"]

_ERROR: Final = Struct("=IBBBBII")
_ERROR_FIELDS: Final = ("ee_errno", "ee_origin", "ee_type", "ee_code", "ee_pad", "ee_info", "ee_data")
_TIMESTAMPING: Final = Struct("=6q")
_ATTRIBUTE: Final = Struct("=HH")

_U8_ATTRIBUTES: Final = frozenset({
    "TCP_NLA_RECUR_RETRANS", "TCP_NLA_DELIVERY_RATE_APP_LMT", "TCP_NLA_CA_STATE", "TCP_NLA_TTL",
})
_U64_ATTRIBUTES: Final = frozenset({
    "TCP_NLA_BUSY", "TCP_NLA_RWND_LIMITED", "TCP_NLA_SNDBUF_LIMITED", "TCP_NLA_DATA_SEGS_OUT", "TCP_NLA_TOTAL_RETRANS",
    "TCP_NLA_PACING_RATE", "TCP_NLA_DELIVERY_RATE", "TCP_NLA_BYTES_SENT", "TCP_NLA_BYTES_RETRANS", "TCP_NLA_EDT",
})
_TIME_ATTRIBUTES: Final = frozenset({"TCP_NLA_BUSY", "TCP_NLA_RWND_LIMITED", "TCP_NLA_SNDBUF_LIMITED"})  # us


@final
class Expected:
    """One control message as a script says: level, type, data, and which expression the data is from."""

    __slots__ = ("data", "level", "source", "type")

    def __init__(self, cmsg: Cmsg) -> None:
        self.level = integer(cmsg.level, "cmsg_level")
        self.type = integer(cmsg.type, "cmsg_type")
        self.source = cmsg.data
        self.data = _data(cmsg.data, self.level)

    def space(self) -> int:
        """CMSG_SPACE: what it takes in a buffer of control messages."""
        return CMSG_HEADER + (len(self.data) + _ALIGN - 1) // _ALIGN * _ALIGN

    def message(self) -> ControlMessage:
        """It, to be sent."""
        return ControlMessage(self.level, self.type, self.data)


def _data(expression: Expression, level: int) -> bytes:
    if isinstance(expression, ScmTimestamping):
        return _TIMESTAMPING.pack(expression.sec, expression.nsec, 0, 0, 0, 0)
    if isinstance(expression, ExtendedError):
        fixed = _ERROR.pack(
            integer(expression.errno, "ee_errno") & U32_MAX,
            integer(expression.origin, "ee_origin", 0, 255),
            integer(expression.type, "ee_type", 0, 255),
            integer(expression.code, "ee_code", 0, 255),
            0,
            integer(expression.info, "ee_info") & U32_MAX,
            integer(expression.data, "ee_data") & U32_MAX,
        )
        # The kernel puts the offender's address behind it: a sockaddr_in, or a sockaddr_in6.
        return fixed + bytes(16 if level == _SOL_IP else 28)
    if isinstance(expression, Braces):
        return b"".join(_attribute(item) for item in expression.items)
    return int_bytes(integer(expression, "cmsg_data"))


def _attribute_size(name: str) -> int:
    if name == "TCP_NLA_TIMEOUT_REHASH":
        return 2
    return 1 if name in _U8_ATTRIBUTES else 8 if name in _U64_ATTRIBUTES else 4


def _attribute(expression: Expression) -> bytes:
    """One netlink attribute, padded. A value `...` is zero here, and not compared."""
    if not isinstance(expression, Assignment) or not expression.name.startswith("TCP_NLA_"):
        raise BadEvent(f"cmsg_data: found {describe(expression)}, expected TCP_NLA_NAME=VALUE")
    kind, size = symbol(expression.name), _attribute_size(expression.name)
    value = 0
    if not isinstance(expression.value, Ellipsis_):
        value = integer(expression.value, expression.name, 0, (1 << 8 * size) - 1 if size < 8 else U64_MAX)
    packed = _ATTRIBUTE.pack(_ATTRIBUTE.size + size, kind) + value.to_bytes(size, "little")
    return packed + bytes(-len(packed) % 4)


def compare(expected: list[Expected], actual: list[ControlMessage], start: int, tolerance: int) -> None:
    """Raise Mismatch unless control messages are what a script says.

    Args:
        expected: the script's.
        actual: the call's.
        start: ns, when the script started, on the clock of time stamps.
        tolerance: ns by which a time may be off.
    """
    for index, (want, got) in enumerate(zip(expected, actual, strict=False)):
        where = f"control message {index}"
        if (want.level, want.type) != (got.level, got.type):
            raise Mismatch(
                f"{where}: expected level {want.level} and type {want.type}, came level {got.level} and type {got.type}"
            )
        if len(want.data) != len(got.data):
            raise Mismatch(f"{where}: expected {len(want.data)} bytes of data, came {len(got.data)}")
        if (want.level, want.type) in ((_SOL_IP, _IP_RECVERR), (_SOL_IPV6, _IPV6_RECVERR)):
            _compare_error(where, want, got)
        elif (want.level, want.type) == (_SOL_SOCKET, _SCM_TIMESTAMPING):
            _compare_timestamping(where, want, got, start, tolerance)
        elif (want.level, want.type) == (_SOL_SOCKET, _OPT_STATS):
            _compare_stats(where, want, got, tolerance)
        elif want.data != got.data:
            raise Mismatch(f"{where}: expected data {_show(want.data)}, came {_show(got.data)}")
    if len(expected) != len(actual):
        raise Mismatch(f"expected {len(expected)} control messages, came {len(actual)}")


def _show(data: bytes) -> str:
    return str(int.from_bytes(data, "little", signed=True)) if len(data) == 4 else data.hex()


def _compare_error(where: str, want: Expected, got: ControlMessage) -> None:
    expected, actual = _ERROR.unpack_from(want.data), _ERROR.unpack_from(got.data)
    for name, one, other in zip(_ERROR_FIELDS, expected, actual, strict=True):
        if one != other and name != "ee_pad":
            raise Mismatch(f"{where}: {name}: expected {one}, came {other}")


def _compare_timestamping(where: str, want: Expected, got: ControlMessage, start: int, tolerance: int) -> None:
    if len(want.data) != _TIMESTAMPING.size:
        raise BadEvent(f"{where}: found other data, expected {{scm_sec=…, scm_nsec=…}}")
    expected, actual = _TIMESTAMPING.unpack(want.data), _TIMESTAMPING.unpack(got.data)
    for at in (0, 2, 4):
        due = expected[at] * 1_000_000_000 + expected[at + 1]
        came = actual[at] * 1_000_000_000 + actual[at + 1] - start
        if due and abs(due - came) > tolerance:
            raise Mismatch(f"{where}: time stamp: expected {due / 1e9:.6f} s, came {came / 1e9:.6f} s")


def _compare_stats(where: str, want: Expected, got: ControlMessage, tolerance: int) -> None:
    items = want.source.items if isinstance(want.source, Braces) else []
    at = 0
    for item in items:
        if not isinstance(item, Assignment):
            continue
        size = _attribute_size(item.name)
        header = (_ATTRIBUTE.size + size, symbol(item.name))
        if _ATTRIBUTE.unpack_from(got.data, at) != header:
            length, kind = _ATTRIBUTE.unpack_from(got.data, at)
            raise Mismatch(f"{where}: expected {item.name}, came attribute {kind} of {length} bytes")
        first = at + _ATTRIBUTE.size
        expected = int.from_bytes(want.data[first : first + size], "little")
        actual = int.from_bytes(got.data[first : first + size], "little")
        at += (_ATTRIBUTE.size + size + 3) // 4 * 4
        if isinstance(item.value, Ellipsis_) or expected == actual:
            continue
        # Times are in us; only zero is exact.
        if item.name in _TIME_ATTRIBUTES and expected and abs(expected - actual) * 1_000 <= tolerance:
            continue
        raise Mismatch(f"{where}: {item.name}: expected {expected}, came {actual}")
