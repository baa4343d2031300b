"""mmap of a packet socket's ring (Linux: packet_mmap). Any other mapping is the kernel's.

No process maps memory into another one: this one does it itself, by the call that was taken. The memory of the ring is
put in the place of its descriptor, and the call goes on; standin.py has the descriptor put back.
"""

from __future__ import annotations

from _socket import AF_PACKET
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from usernet.netd.supervisor.call import Call, Proceed, Steps, c_int


def _mmap(call: Call) -> Steps:
    entry = call.entry(4)
    if entry.family != AF_PACKET:
        raise Proceed
    memory: int = yield partial(call.supervisor.backend.ring, entry.handle, call.args[1])
    call.supervisor.standins.put(call, entry, c_int(call.args[4]), memory)
    raise Proceed


HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {"mmap": _mmap}
