"""usernet: a complete network stack in user space.

`Stack` is a network namespace with devices, routes, sockets, sysctls and counters of its own. Everything public is
loaded when first named (PEP 562), so that `import usernet` costs next to nothing and pulls in no surface.

The floors may be compiled; USERNET_PURE=1 in the environment has them run interpreted all the same.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
"""As typing's, which takes longer to load than all that is here."""
if TYPE_CHECKING:
    from typing import Any

    from usernet.lab import Lab
    from usernet.multiqueue import workers
    from usernet.posix import patched, use, using
    from usernet.stack import Stack

__version__ = "0.1.0"
__all__ = ["Lab", "Stack", "__version__", "drivers", "lab", "patched", "socket", "use", "using", "workers"]

if os.environ.get("USERNET_PURE", "0") not in ("", "0"):
    from usernet.core import pure

    pure.install()

_LAZY = {
    "Stack": ("usernet.stack", "Stack"),
    "workers": ("usernet.multiqueue", "workers"),
    "use": ("usernet.posix", "use"),
    "using": ("usernet.posix", "using"),
    "patched": ("usernet.posix", "patched"),
    "drivers": ("usernet.drivers", None),
    "socket": ("usernet.socket", None),
    "lab": ("usernet.lab", None),
    "Lab": ("usernet.lab", "Lab"),
}


def __getattr__(name: str) -> Any:
    entry = _LAZY.get(name)
    if entry is None:
        raise AttributeError(f"module 'usernet' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(entry[0])
    return module if entry[1] is None else getattr(module, entry[1])


def __dir__() -> list[str]:
    return sorted(__all__)
