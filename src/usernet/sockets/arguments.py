"""What the standard socket module checks of its arguments, with the errors that it raises (CPython: socketmodule.c)."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from typing import Any, Final

from usernet.core.iov import BufferIter, BytesIter, IovIter, SinkIter, SourceIter
from usernet.sock.msg import Control

INT_MAX: Final = 2**31 - 1
INT_MIN: Final = -(2**31)
SSIZE_MAX: Final = sys.maxsize
NSEC_PER_SEC: Final = 1_000_000_000

CMSG_HDR: Final = 16
"""sizeof(struct cmsghdr)."""
GETSOCKOPT_MAX: Final = 1024
"""The largest buffer the standard module's getsockopt takes."""


def c_int(value: object) -> int:
    """An argument that C takes as int. Raises TypeError for what is no integer, OverflowError."""
    number = operator.index(value)  # type: ignore[arg-type]
    if number > INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < INT_MIN:
        raise OverflowError("signed integer is less than minimum")
    return number


def c_int_alone(value: object) -> int:
    """As `c_int`, with the words for a call's only argument."""
    number = operator.index(value)  # type: ignore[arg-type]
    if not INT_MIN <= number <= INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return number


def c_long(value: object) -> int:
    """An argument that C takes as long. Raises TypeError, OverflowError."""
    number = operator.index(value)  # type: ignore[arg-type]
    if not -SSIZE_MAX - 1 <= number <= SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return number


def size(value: object, negative: str) -> int:
    """A number of bytes. Raises TypeError, OverflowError, and ValueError(`negative`) below zero."""
    number = operator.index(value)  # type: ignore[arg-type]
    if number < 0:
        raise ValueError(negative)
    if number > SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def timeout_ns(value: Any) -> int:
    """A time-out in seconds, or None, as ns; -1 for None. Rounds up, as select(2) must not return early.

    Raises TypeError, ValueError below zero and for NaN, OverflowError beyond what a time_t holds.
    """
    if value is None:
        return -1
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("Invalid value NaN (not a number)")
        if abs(value) >= 2**63 / NSEC_PER_SEC:
            raise OverflowError("timestamp out of range for platform time_t")
        nanoseconds = math.ceil(value * NSEC_PER_SEC)
    else:
        seconds = operator.index(value)
        nanoseconds = seconds * NSEC_PER_SEC
        if abs(nanoseconds) >= 2**63:
            raise OverflowError("timestamp too large to convert to C _PyTime_t")
    if nanoseconds < 0:
        raise ValueError("Timeout value out of range")
    return nanoseconds


def source(data: Any) -> IovIter:
    """One buffer to send from. Raises TypeError, and BufferError where it isn't contiguous."""
    if type(data) is bytes:
        return BytesIter(data)
    return SourceIter((_readable(data),))


def _readable(data: Any) -> memoryview:
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view if view.nbytes else memoryview(b"")


def sources(buffers: Any) -> SourceIter:
    """A row of buffers to send from, for sendmsg. Raises TypeError, BufferError."""
    try:
        row = iter(buffers)
    except TypeError:
        raise TypeError("sendmsg() argument 1 must be an iterable") from None
    return SourceIter([data if type(data) is bytes else _readable(data) for data in row])


def _writable(buffer: Any, otherwise: str) -> memoryview:
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError(otherwise) from None
    if view.readonly or not view.c_contiguous:
        raise TypeError(otherwise)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def sink(buffer: Any, nbytes: Any, call: str, too_small: str) -> BufferIter:
    """One buffer to receive up to `nbytes` into, 0 for all it holds. Raises TypeError, ValueError."""
    if type(buffer) is bytearray and type(nbytes) is int and not nbytes:
        return BufferIter(buffer)
    view = _writable(
        buffer, f"{call}() argument 1 must be read-write bytes-like object, not {type(buffer).__name__}"
    )
    wanted = size(nbytes, f"negative buffersize in {call}")
    if wanted > len(view):
        raise ValueError(too_small)
    return BufferIter(view[:wanted] if wanted else view)


def sinks(buffers: Any) -> SinkIter:
    """A row of buffers to receive into, for recvmsg_into. Raises TypeError."""
    try:
        row = iter(buffers)
    except TypeError:
        raise TypeError("recvmsg_into() argument 1 must be an iterable") from None
    otherwise = "recvmsg_into() argument 1 must be an iterable of single-segment read-write buffers"
    return SinkIter([_writable(buffer, otherwise) for buffer in row])


def control_items(ancdata: Any) -> list[Control] | None:
    """Ancillary data to send: (level, type, data) each. None where there is none. Raises TypeError, OverflowError."""
    try:
        row: Iterable[Any] = iter(ancdata)
    except TypeError:
        raise TypeError("sendmsg() argument 2 must be an iterable") from None
    items: list[Control] = []
    for item in row:
        if not isinstance(item, (tuple, list)):
            raise TypeError(
                f"[sendmsg() ancillary data items]() argument must be 3-item sequence, not {type(item).__name__}"
            )
        if len(item) != 3:
            raise TypeError(
                f"[sendmsg() ancillary data items]() argument must be sequence of length 3, not {len(item)}"
            )
        items.append((c_int(item[0]), c_int(item[1]), _readable(item[2]).tobytes()))
    return items or None


def control_room(value: object) -> int:
    """The room for received ancillary data, bytes. Raises TypeError, ValueError."""
    room = operator.index(value)  # type: ignore[arg-type]
    if not 0 <= room <= INT_MAX:
        raise ValueError("invalid ancillary data buffer length")
    return room


def fit_control(control: list[Control] | None, room: int) -> tuple[list[Control], bool]:
    """What of `control` fits into a buffer of `room` bytes, and whether some did not (Linux: put_cmsg).

    An item takes a header of 16 bytes and its data, filled up to a multiple of 8. The last one may be cut.
    """
    if not control:
        return [], False
    fitting: list[Control] = []
    for level, kind, data in control:
        if room < CMSG_HDR:
            return fitting, True
        length = CMSG_HDR + len(data)
        if length > room:
            fitting.append((level, kind, data[: room - CMSG_HDR]))
            return fitting, True
        fitting.append((level, kind, data))
        room -= min(room, (length + 7) & ~7)
    return fitting, False


def option_value(value: Any, optlen: int | None) -> bytes | None:
    """The value given to setsockopt, as the bytes C would pass; None for a null pointer.

    Raises TypeError for a value that is neither an int that fits, nor a buffer, nor None with a length.
    """
    if optlen is not None:
        if value is not None:
            raise TypeError("setsockopt() takes exactly 3 arguments (4 given)")
        c_int(optlen)
        return None
    if hasattr(type(value), "__index__"):
        number = operator.index(value)
        if INT_MIN <= number <= INT_MAX:
            return number.to_bytes(4, sys.byteorder, signed=True)
    return _readable(value).tobytes()
