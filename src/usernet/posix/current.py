"""Which stack the drop-in socket module works on: the process's, or the one of the running context.

A process has one network namespace, as setns(2) sets it: `use(stack)` holds in every thread and executor. Within
`with using(stack):` another one holds, for the running context (thread, task) and what it calls; a thread started
there begins with the process's again, as a thread does not inherit context variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple, final

from usernet.core.errors import check_type

if TYPE_CHECKING:
    from usernet.stack import Stack


class Chosen(NamedTuple):
    """A stack that was chosen, and whether its streams are to be real descriptors (posix/descriptor.py)."""

    stack: Stack
    descriptors: bool


@final
class ProcessStacks:
    """The process's stack, and those that `patched` put on top for a while."""

    def __init__(self) -> None:
        self.used: Chosen | None = None
        self.patched: list[Chosen] = []

    def top(self) -> Chosen | None:
        return self.patched[-1] if self.patched else self.used


PROCESS: Final = ProcessStacks()
_context: Final[ContextVar[Chosen | None]] = ContextVar("usernet_stack", default=None)


def _check(stack: object) -> None:
    from usernet.stack import Stack

    check_type("stack", stack, Stack, "a usernet.Stack")


def use(stack: Stack | None, *, descriptors: bool = False) -> None:
    """Make `stack` the process's network namespace, for `usernet.socket`, in every thread; None for none.

    descriptors: make stream sockets real descriptors, for code that works on those (ssl, child processes, C), at the
    price of a system call for each send and receive. See docs/descriptors.md.
    """
    if stack is not None:
        _check(stack)
    if descriptors:
        _serve_ssl()
    PROCESS.used = None if stack is None else Chosen(stack, descriptors)


@contextmanager
def using(stack: Stack, *, descriptors: bool = False) -> Iterator[Stack]:
    """Make `stack` the running context's network namespace for the `with` block. descriptors: as for `use`."""
    _check(stack)
    if descriptors:
        _serve_ssl()
    token = _context.set(Chosen(stack, descriptors))
    try:
        yield stack
    finally:
        _context.reset(token)


def _serve_ssl() -> None:
    try:
        from usernet.posix.tls import serve_ssl
    except ImportError:
        return  # a Python without ssl
    serve_ssl()


def chosen() -> Chosen:
    """What holds here. Raises RuntimeError where no stack was chosen."""
    choice = _context.get() or PROCESS.top()
    if choice is None:
        raise RuntimeError("no stack is chosen: call usernet.use(stack), or run this `with usernet.using(stack):`")
    return choice


def current() -> Stack:
    """The stack that holds here. Raises RuntimeError where none was chosen."""
    return chosen().stack
