"""What a test can only do with interpreted code: stand-ins for the stack's own classes, and patched modules.

Compiled code takes no object of another class where its own is declared, and its constants are part of the code.
"""

from __future__ import annotations

import pytest

from usernet.core.compiled import COMPILED

interpreted_only = pytest.mark.skipif(COMPILED, reason="stands in for, or patches, what is compiled")
