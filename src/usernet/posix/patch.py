"""`patched(stack)`: the standard library, and what it imports, on a stack.

Modules look up `socket.socket`, `socket.create_connection` and `socket.getaddrinfo` when they call them, so putting
the drop-in's in the standard module's place for a while moves http.server, socketserver, urllib, http.client, ftplib,
smtplib, xmlrpc and whatever is written like them. `select` and `selectors` need no change, as the sockets have real
descriptors. What was taken out of the module before (`from socket import socket`) stays the host's, and so does C code
that works on the descriptor (`ssl`, `os.sendfile`), but with `descriptors=True`.
"""

from __future__ import annotations

import socket as _standard
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

from usernet.posix.current import PROCESS, Chosen, using
from usernet.posix.library import LIBRARY

# Whatever subclasses the standard socket for good must find the standard one: these are loaded before any patch.
try:
    from usernet.posix import tls as _tls
except ImportError:  # a Python without ssl
    from usernet.posix import descriptor as _tls  # type: ignore[no-redef]

if TYPE_CHECKING:
    from usernet.stack import Stack

__all__ = ["patched"]

_LOADED: Final = _tls
_KEEP: Final = frozenset({"_socket"})


@final
class Patch:
    """The standard module's own attributes, while the drop-in's are in their place. A state of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved: dict[str, Any] = {}

    def push(self, choice: Chosen) -> None:
        with self._lock:
            if not PROCESS.patched:
                self._apply()
            PROCESS.patched.append(choice)

    def pop(self, choice: Chosen) -> None:
        with self._lock:
            # From the end: where two threads patch at once, each takes away its own, whichever ends first.
            for index in range(len(PROCESS.patched) - 1, -1, -1):
                if PROCESS.patched[index] is choice:
                    del PROCESS.patched[index]
                    break
            if not PROCESS.patched:
                self._restore()

    def _apply(self) -> None:
        standard = vars(_standard)
        for name, value in vars(LIBRARY).items():
            if not name.startswith("__") and name not in _KEEP and name in standard and standard[name] is not value:
                self._saved[name] = standard[name]
                standard[name] = value

    def _restore(self) -> None:
        vars(_standard).update(self._saved)
        self._saved.clear()


_PATCH: Final = Patch()


@contextmanager
def patched(stack: Stack, *, descriptors: bool = False) -> Iterator[Stack]:
    """Run the standard library's networking on `stack` for the `with` block, in every thread.

    descriptors: make stream sockets real descriptors, so that ssl, os.sendfile and child processes work on them too.
    Sockets made within stay the stack's afterwards. Blocks may be nested: the innermost holds.
    """
    choice = Chosen(stack, descriptors)
    _PATCH.push(choice)
    try:
        with using(stack, descriptors=descriptors):
            yield stack
    finally:
        _PATCH.pop(choice)
