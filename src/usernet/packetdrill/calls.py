"""System calls of a script: from its expressions to a call on the target, and from what came of it to a verdict.

`runner` starts a `Prepared` call when it is due and asks for the verdict when it has finished, which for one that
blocks is later. What is compared follows packetdrill's `run_system_call.c`: results exactly, except new descriptors, of
which only the sign counts; errno only where it is written; what a call that failed leaves behind not at all.
"""

from __future__ import annotations

from typing import Final

from usernet.packetdrill import calls_data, calls_event, calls_socket
from usernet.packetdrill.ast import SystemCall
from usernet.packetdrill.call_context import Context, Handler, Prepared
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.values import Arguments

HANDLERS: Final[dict[str, Handler]] = {**calls_socket.HANDLERS, **calls_data.HANDLERS, **calls_event.HANDLERS}


def prepare(context: Context, spec: SystemCall) -> Prepared:
    """Evaluate a call's arguments.

    Args:
        context: the run's descriptors and sockets.
        spec: the call as it stands in the script.

    Raises:
        BadEvent: a call that is not known, or can't be made as written.
    """
    handler = HANDLERS.get(spec.name)
    if handler is None:
        raise BadEvent(f"found the call '{spec.name}', expected one of {', '.join(sorted(HANDLERS))}")
    return handler(context, spec, Arguments(spec.name, spec.arguments))
