"""Whether the stack runs compiled (by mypyc, from the same source) or interpreted.

`COMPILED` chooses, once at import, between two bodies of a function where no one body is fast both ways: wire/ has such
pairs, with the same signatures. The compiler is told that it is true and leaves the other body out.
"""

from __future__ import annotations

from typing import Final

COMPILED: Final[bool] = not __file__.endswith(".py")
