"""What the compiler is told, at no cost where nothing is compiled.

The same source runs interpreted and compiled by mypyc. `mypyc_attr` marks how a class is compiled; interpreted, it does
nothing, and needs no package: mypy_extensions is read by the type checker and the compiler only. The native integer
types (`i64`, …) stand in annotations alone, never in a call that an interpreter would have to make.

`@mypyc_attr(allow_interpreted_subclasses=True)` is for the classes that interpreted code may subclass though they are
compiled: drivers, congestion controls, families, protocols, queueing disciplines, clocks, user memory, and what drives
a stack or waits in it. A compiled class without the mark can't be subclassed by a user's program.
Compiled code reads an attribute where the compiled class keeps it, and so doesn't see one that an interpreted subclass
sets on the class itself: what such a subclass may set there is a ClassVar, or read through a name of type Any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

_C = TypeVar("_C", bound=type)

if TYPE_CHECKING:
    from mypy_extensions import i16 as i16
    from mypy_extensions import i32 as i32
    from mypy_extensions import i64 as i64
    from mypy_extensions import mypyc_attr as mypyc_attr
    from mypy_extensions import u8 as u8
else:

    def mypyc_attr(**_attributes: Any) -> Callable[[_C], _C]:
        """How a class is compiled."""
        return _as_it_is


def _as_it_is(cls: _C) -> _C:
    return cls
