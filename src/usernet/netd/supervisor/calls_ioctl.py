"""ioctl, by request: of sockets, and of interfaces by way of any socket (netdevice(7)).

What the pointer points to has a size that the request says. Where that holds another pointer, it is followed here:
the backend sees bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from usernet.netd.supervisor.call import INT_MASK, Call, Proceed, Steps
from usernet.sockets.ifreq import ETHTOOL_SIZES, SIOCETHTOOL

SIOCATMARK: Final = 0x8905
FIRST: Final = 0x8900
OF_THE_DESCRIPTOR: Final = frozenset({0x8901, 0x8902, 0x8903, 0x8904, SIOCATMARK})
"""Who gets its signals (FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP), and where urgent data stands."""
SIOCGIFCONF: Final = 0x8912
SIOCADDRT: Final = 0x890B
SIOCDELRT: Final = 0x890C
IFREQ: Final = 40
IFCONF: Final = 16
SIZES: Final[Mapping[int, int]] = {
    0x5411: 4,  # SIOCOUTQ
    0x894B: 4,  # SIOCOUTQNSD
    0x8906: 16,  # SIOCGSTAMP
    0x8907: 16,  # SIOCGSTAMPNS
    SIOCADDRT: 120,
    SIOCDELRT: 120,
    0x8953: 68,  # SIOCDARP
    0x8954: 68,  # SIOCGARP
    0x8955: 68,  # SIOCSARP
}
"""Bytes that a request points to, where it is not a struct ifreq."""
ALL: Final = 0x7FFFFFFF
WORD: Final = 4


def _ioctl(call: Call) -> Steps:
    request = call.args[1] & INT_MASK
    address = call.args[2]
    if request in OF_THE_DESCRIPTOR:
        raise Proceed
    handle = 0
    try:
        handle = call.entry().handle
    except Proceed:
        if request < FIRST or not call.is_socket():
            raise
    ask = call.supervisor.backend.ioctl
    if request == SIOCGIFCONF:
        return (yield from _interfaces(call, handle, address))
    if request == SIOCETHTOOL:
        return (yield from _ethtool(call, handle, address))
    argument = call.read(address, SIZES.get(request, IFREQ))
    missed = call.repeat(argument)
    if missed is not None:
        return missed
    answer: bytes = yield partial(ask, handle, request, argument)
    if answer:
        call.write(address, answer)
    return 0


def _interfaces(call: Call, handle: int, address: int) -> Steps:
    """struct ifconf: how much room there is, and where. Without a buffer: how much is needed."""
    ifconf = call.read(address, IFCONF)
    buffer = int.from_bytes(ifconf[8:16], "little")
    room = int.from_bytes(ifconf[:4], "little", signed=True)
    ask = call.supervisor.backend.ioctl
    row: bytes = yield partial(ask, handle, SIOCGIFCONF, (room if buffer else ALL).to_bytes(4, "little", signed=True))
    if buffer and row:
        call.write(buffer, row)
    call.write(address, len(row).to_bytes(4, "little"))
    return 0


def _ethtool(call: Call, handle: int, address: int) -> Steps:
    """An ifreq whose data is a pointer to a structure, of which the first word says what it is, and so its size."""
    ifreq = call.read(address, IFREQ)
    pointer = int.from_bytes(ifreq[16:24], "little")
    command = call.read(pointer, WORD)
    size = ETHTOOL_SIZES.get(int.from_bytes(command, "little"), WORD)
    # The command is the one that was read first: it decided the size.
    structure = command + (call.read(pointer + WORD, size - WORD) if size > WORD else b"")
    answer: bytes = yield partial(call.supervisor.backend.ioctl, handle, SIOCETHTOOL, ifreq + structure)
    if len(answer) > IFREQ:
        call.write(pointer, answer[IFREQ:])
    return 0


HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {"ioctl": _ioctl}
