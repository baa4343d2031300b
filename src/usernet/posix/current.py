"""Which stack the drop-in socket module works on: the process's, or the one of the running context.

A process has one network namespace, as setns(2) sets it: `use(stack)` holds in every thread and executor. Within
`with using(stack):` another one holds, for the running context (thread, task) and what it calls; a thread started
there begins with the process's again, as a thread does not inherit context variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from usernet.stack import Stack


@final
class ProcessStacks:
    """The process's stack, and those that `patched` put on top for a while."""

    def __init__(self) -> None:
        self.used: Stack | None = None
        self.patched: list[Stack] = []

    def top(self) -> Stack | None:
        return self.patched[-1] if self.patched else self.used


PROCESS: Final = ProcessStacks()
_context: Final[ContextVar[Stack | None]] = ContextVar("usernet_stack", default=None)


def use(stack: Stack | None) -> None:
    """Make `stack` the process's network namespace, for `usernet.socket`, in every thread; None for none."""
    PROCESS.used = stack


@contextmanager
def using(stack: Stack) -> Iterator[Stack]:
    """Make `stack` the running context's network namespace for the `with` block."""
    token = _context.set(stack)
    try:
        yield stack
    finally:
        _context.reset(token)


def current() -> Stack:
    """The stack that holds here. Raises RuntimeError where none was chosen."""
    stack = _context.get() or PROCESS.top()
    if stack is None:
        raise RuntimeError("no stack is chosen: call usernet.use(stack), or run this `with usernet.using(stack):`")
    return stack
