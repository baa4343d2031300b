"""getsockopt and setsockopt.

An option is the stack's, but for those that say how the application reads its descriptor (SO_RCVLOWAT, SO_OOBINLINE,
SO_PEEK_OFF): these are the descriptor's own. Time-outs are both's: read(2) waits on the descriptor, accept(2) on the
stack. SO_SNDBUF and SO_RCVBUF size the stack's buffers, and by way of the channel what lies between.
"""

from __future__ import annotations

import errno
from _socket import AF_UNIX, SO_OOBINLINE, SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Descriptor
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from usernet.core.errors import error
from usernet.netd.supervisor.call import Call, Steps, c_int

SO_PEEK_OFF: Final = 42
SO_ATTACH_FILTER: Final = 26
SO_GET_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51
SO_RCVTIMEO_NEW: Final = 66
SO_SNDTIMEO_NEW: Final = 67
SO_ERROR: Final = 4
SOL_IP: Final = 0
IP_MSFILTER: Final = 41
MCAST_MSFILTER: Final = 48
SOL_TCP: Final = 6
SOL_PACKET: Final = 263
PACKET_HDRLEN: Final = 11
TCP_AO_INFO: Final = 40
TCP_AO_GET_KEYS: Final = 41

OF_THE_DESCRIPTOR: Final = frozenset({SO_RCVLOWAT, SO_OOBINLINE, SO_PEEK_OFF})
TIMEOUTS: Final = frozenset({SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW})
FILTERS: Final = frozenset({SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF})
READ_FIRST: Final = frozenset(
    {
        (SOL_IP, IP_MSFILTER), (SOL_IP, MCAST_MSFILTER), (SOL_TCP, TCP_AO_INFO), (SOL_TCP, TCP_AO_GET_KEYS),
        (SOL_PACKET, PACKET_HDRLEN),
    }
)  # fmt: skip
"""Options whose getsockopt reads the buffer."""

VALUE_MAX: Final = 1 << 16
"""Bytes of a value that are read at most; what is behind them no option looks at."""
SOCK_FPROG: Final = 16
INSTRUCTION: Final = 8
BPF_MAXINSNS: Final = 4096


def _setsockopt(call: Call) -> Steps:
    entry = call.entry(check=False)
    level, option = c_int(call.args[1]), c_int(call.args[2])
    address, length = call.args[3], c_int(call.args[4])
    if length < 0:
        raise error(errno.EINVAL)
    value = call.supervisor.memory.read_some(call.tid, address, min(length, VALUE_MAX))
    if length and not value:
        raise error(errno.EFAULT)
    if level == SOL_SOCKET and option in FILTERS:
        value = _filter(call, value)
    call.check()
    missed = call.repeat(value)
    if missed is not None:
        return missed
    if level == SOL_SOCKET:
        if option in OF_THE_DESCRIPTOR:
            return _at_descriptor(call, lambda end: _set(end, option, value))
        if option in TIMEOUTS:
            _at_descriptor(call, lambda end: _set(end, option, value))
    result: int = yield partial(call.supervisor.backend.setsockopt, entry.handle, level, option, value)
    return result


def _filter(call: Call, value: bytes) -> bytes:
    """The instructions that a struct sock_fprog points to (Linux: copy_bpf_fprog_from_user)."""
    if len(value) != SOCK_FPROG:
        raise error(errno.EINVAL)
    count = int.from_bytes(value[:2], "little")
    address = int.from_bytes(value[8:16], "little")
    if not 0 < count <= BPF_MAXINSNS:
        raise error(errno.EINVAL)
    return call.read(address, count * INSTRUCTION)


def _getsockopt(call: Call) -> Steps:
    entry = call.entry()
    level, option = c_int(call.args[1]), c_int(call.args[2])
    address, length_at = call.args[3:5]
    length = call.read_int(length_at)
    if length < 0:
        raise error(errno.EINVAL)
    ask = call.supervisor.backend.getsockopt
    if level == SOL_SOCKET:
        if option == SO_GET_FILTER:
            code: bytes = yield partial(ask, entry.handle, level, option, BPF_MAXINSNS * INSTRUCTION, None)
            count = len(code) // INSTRUCTION
            if length:
                if length < count:
                    raise error(errno.EINVAL)
                call.write(address, code)
            call.write(length_at, count.to_bytes(4, "little"))
            return 0
        if option in OF_THE_DESCRIPTOR:
            found: list[bytes] = []
            _at_descriptor(call, lambda end: found.append(end.getsockopt(SOL_SOCKET, option, min(length, 1024))))
            return _give(call, found[0], address, length_at)
        if option == SO_ERROR:
            # Telling it takes it away.
            missed = call.repeat()
            if missed is not None:
                return missed
    before = None
    if (level, option) in READ_FIRST:
        before = call.read(address, min(length, VALUE_MAX))
    value: bytes = yield partial(ask, entry.handle, level, option, length, before)
    return _give(call, value[:length], address, length_at)


def _give(call: Call, value: bytes, address: int, length_at: int) -> int:
    call.write_both(address, value, length_at, len(value))
    return 0


def _set(end: Descriptor, option: int, value: bytes) -> None:
    end.setsockopt(SOL_SOCKET, option, value)


def _at_descriptor(call: Call, action: Callable[[Descriptor], object]) -> int:
    """Do something to the descriptor itself. Raises OSError as the kernel does."""
    end = Descriptor(AF_UNIX, SOCK_STREAM, 0, call.duplicate(c_int(call.args[0])))
    try:
        action(end)
    finally:
        end.close()
    return 0


HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {"setsockopt": _setsockopt, "getsockopt": _getsockopt}
