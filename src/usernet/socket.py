"""`import usernet.socket as socket`: the whole surface of the standard module, on the current stack.

Which stack that is, `usernet.use(stack)` and `with usernet.using(stack):` say. Sockets that belong to no network
namespace (AF_UNIX) are the host's. See docs/sockets.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usernet.posix.library import LIBRARY as _LIBRARY

if TYPE_CHECKING:
    from socket import *  # noqa: F403

__all__ = list(_LIBRARY.__all__)
globals().update({name: value for name, value in vars(_LIBRARY).items() if not name.startswith("__")})


def __getattr__(name: str) -> Any:
    """What is not there by name; for type checkers, what the platform has or has not."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
