"""The drop-in for the standard `socket` module: which stack it works on, and putting it in the standard one's place."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from usernet.posix.current import current, use, using

if TYPE_CHECKING:
    from usernet.posix.patch import patched

__all__ = ["current", "patched", "use", "using"]


def __getattr__(name: str) -> Any:
    # Loaded when named: choosing a stack, and resolving a name, need no second copy of socket.py.
    if name == "patched":
        return import_module("usernet.posix.patch").patched
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
