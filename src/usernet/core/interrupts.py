"""Signals against the stack's batches: a Python signal handler never cuts one in two.

CPython runs signal handlers in the main thread between any two bytecodes; one that raises, as the default handler of
SIGINT does with KeyboardInterrupt, would leave a stack half updated. So while the main thread is inside a stack, or in
the bookkeeping of the runner, the handlers wrapped here are put off; they run once it has left, or at once where it
sleeps in a call that waits. This is state of the process, as signal handlers are.

Handlers that a program sets while stacks run are wrapped as they are set: all of Python's ways to set one come by
`_signal.signal`, which is replaced meanwhile. `signal.getsignal` goes on telling the program's own. One set past that
(by C code, or by a function taken from `_signal` before) is found within a tenth of a second of being used.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, final

from usernet.core.clock import NSEC_PER_MSEC
from usernet.core.timer import NEVER

_Handler = Callable[[int, FrameType | None], object]

_signal: Final[Any] = importlib.import_module("_signal")
_SET: Final[Any] = _signal.signal
_GET: Final[Any] = _signal.getsignal

SCAN_EVERY: Final = 100 * NSEC_PER_MSEC
"""How long (ns) a handler that was set past us may stay unwrapped."""

_SCANNED: Final = range(1, 32)
"""The standard signals. The real-time ones are looked at only when a stack is started."""


@final
class DeferredHandler:
    """A signal handler that waits while the main thread is inside a stack, and then calls the user's own."""

    def __init__(self, guard: InterruptGuard, handler: _Handler) -> None:
        self._guard = guard
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> object:
        guard = self._guard
        if guard.depth > 0:
            guard.put_off(self.handler, signum)
            return None
        return self.handler(signum, frame)


@final
class InterruptGuard:
    """Wraps the process's Python signal handlers while any stack is started. Used by the main thread alone.

    `depth` counts what the main thread is inside of; above 0, handlers are put off. `wakeup` ends the sleep of a call
    that the main thread waits in. `next_scan`: when (ns) to look for handlers that are not wrapped yet.
    """

    def __init__(self) -> None:
        self.depth: int = 0
        self.main: int = threading.main_thread().ident or 0
        self.pending: list[tuple[_Handler, int]] = []
        self.wakeup: Callable[[], None] | None = None
        self.next_scan: int = NEVER
        self._users: set[object] = set()
        # Bound once, so that they can be told from others' replacements.
        self._set: Any = self._set_handler
        self._get: Any = self._get_handler

    @property
    def inside(self) -> bool:
        """Whether handlers are put off."""
        return self.depth > 0

    def add(self, user: object) -> None:
        """`user`, a loop, is started: from now on handlers are wrapped."""
        self._users.add(user)
        self.install()

    def remove(self, user: object) -> None:
        """`user` is stopped; after the last one all is as it was before the first."""
        self._users.discard(user)
        if not self._users:
            self.uninstall()

    def install(self) -> None:
        """Wrap every Python handler that isn't wrapped yet; from another thread: the main thread is to do it."""
        self.next_scan = 0
        if threading.get_ident() == self.main:
            self._wrap(_signal.valid_signals())

    def scan(self, now: int) -> None:
        """Wrap the handlers that were set past us, in the main thread."""
        self.next_scan = now + SCAN_EVERY
        self._wrap(_SCANNED)

    def _wrap(self, numbers: set[int] | range) -> None:
        if _signal.signal is _SET and _signal.getsignal is _GET:
            _signal.signal, _signal.getsignal = self._set, self._get
        for number in numbers:
            handler = _GET(number)
            if not callable(handler) or isinstance(handler, DeferredHandler):
                continue
            try:
                _SET(number, DeferredHandler(self, handler))
            except (OSError, ValueError):
                continue

    def _set_handler(self, signum: int, handler: Any) -> Any:
        """`signal.signal` while stacks run."""
        wrapped = callable(handler) and not isinstance(handler, DeferredHandler) and self.next_scan != NEVER
        previous = _SET(signum, DeferredHandler(self, handler) if wrapped else handler)
        return previous.handler if isinstance(previous, DeferredHandler) else previous

    @staticmethod
    def _get_handler(signum: int) -> Any:
        """`signal.getsignal` while stacks run."""
        handler = _GET(signum)
        return handler.handler if isinstance(handler, DeferredHandler) else handler

    @staticmethod
    def installed(signum: int) -> Any:
        """What the interpreter calls at `signum`: a `DeferredHandler` while stacks run."""
        return _GET(signum)

    def uninstall(self) -> None:
        """Put back the user's handlers. From another thread than the main one they stay wrapped, which does nothing
        but pass signals on."""
        self.next_scan = NEVER
        if _signal.signal is self._set and _signal.getsignal is self._get:
            _signal.signal, _signal.getsignal = _SET, _GET
        if threading.get_ident() != self.main:
            return
        for number in _signal.valid_signals():
            handler = _GET(number)
            if isinstance(handler, DeferredHandler):
                _SET(number, handler.handler)

    def hold(self) -> None:
        """Put handlers off until `let_go`, where this is the main thread."""
        if threading.get_ident() == self.main:
            self.depth += 1

    def let_go(self) -> None:
        """The end of `hold`. May raise what a handler raises that was put off."""
        if threading.get_ident() == self.main:
            self.depth -= 1
            if self.pending and self.depth <= 0:
                self.release()

    def put_off(self, handler: _Handler, signum: int) -> None:
        """Call `handler` later. As with the kernel's pending signals, one that comes again meanwhile is one."""
        entry = (handler, signum)
        if entry not in self.pending:
            self.pending.append(entry)
        if self.wakeup is not None:
            self.wakeup()

    def release(self) -> None:
        """The main thread is inside nothing: run what was put off, all of it. May raise what a handler raises."""
        depth = self.depth
        self.depth = 0
        try:
            while self.pending:
                handler, signum = self.pending.pop(0)
                handler(signum, None)
        finally:
            self.depth = depth
            if self.pending:
                self.release()

    def forked(self, ident: int, inside: bool) -> None:
        """This is a forked child: `ident` is its main thread, from now on `inside` a stack or not."""
        if ident != self.main:
            self.main = ident
            self.depth = 1 if inside else 0
            self.pending.clear()
            self.wakeup = None
        self._users.clear()
        self.uninstall()
