"""Signals against the stack's batches: a Python signal handler never cuts one in two.

CPython runs signal handlers in the main thread between any two bytecodes; one that raises, as the default handler of
SIGINT does with KeyboardInterrupt, would leave a stack half updated. So while the main thread is inside a stack, the
handlers wrapped here are put off until it has left. This is state of the process, as signal handlers are.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import final

_Handler = Callable[[int, FrameType | None], object]


@final
class DeferredHandler:
    """A signal handler that waits while the main thread is inside a stack, and then calls the user's own."""

    def __init__(self, guard: InterruptGuard, handler: _Handler) -> None:
        self._guard = guard
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> object:
        guard = self._guard
        if guard.inside:
            guard.pending.append((self.handler, signum))
            return None
        return self.handler(signum, frame)


@final
class InterruptGuard:
    """Wraps the process's Python signal handlers while any stack is started. Used by the main thread alone."""

    def __init__(self) -> None:
        self.inside: bool = False
        self.main: int = threading.main_thread().ident or 0
        self.pending: list[tuple[_Handler, int]] = []
        self._wrapped: list[tuple[int, DeferredHandler, _Handler]] = []

    def install(self) -> None:
        """Wrap every Python handler that isn't wrapped yet. Does nothing outside the main thread."""
        if threading.get_ident() != self.main:
            return
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if not callable(handler) or isinstance(handler, DeferredHandler):
                continue
            wrapper = DeferredHandler(self, handler)
            try:
                signal.signal(number, wrapper)
            except (OSError, ValueError):
                continue
            self._wrapped.append((number, wrapper, handler))

    def uninstall(self) -> None:
        """Put back the user's handlers where they are still wrapped."""
        if threading.get_ident() != self.main:
            return
        for number, wrapper, handler in self._wrapped:
            if signal.getsignal(number) == wrapper:
                signal.signal(number, handler)
        self._wrapped.clear()

    def release(self) -> None:
        """The main thread has left: run what was put off. May raise what a handler raises."""
        pending = self.pending
        while pending and not self.inside:
            handler, signum = pending.pop(0)
            handler(signum, None)
