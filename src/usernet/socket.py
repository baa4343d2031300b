"""`import usernet.socket as socket`: the whole surface of the standard module, on the current stack.

Which stack that is, `usernet.use(stack)` and `with usernet.using(stack):` say. Sockets that belong to no network
namespace (AF_UNIX) are the host's. See docs/sockets.md.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from usernet.posix.library import LIBRARY as _LIBRARY

if TYPE_CHECKING:
    from socket import *  # noqa: F403

__all__ = list(_LIBRARY.__all__)
globals().update({name: value for name, value in vars(_LIBRARY).items() if not name.startswith("__")})


class _DropIn(ModuleType):
    """What is put into the module (`unittest.mock.patch("usernet.socket.socket")`) holds for its functions too."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if not name.startswith("__"):
            setattr(_LIBRARY, name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if not name.startswith("__"):
            delattr(_LIBRARY, name)


sys.modules[__name__].__class__ = _DropIn


def __getattr__(name: str) -> Any:
    """What is not there by name; for type checkers, what the platform has or has not."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
