"""The laboratory: many stacks in one process, on virtual time, repeatable to the byte.

`Lab` is the whole of it for most users: `lab = usernet.Lab(seed=7); a, b = lab.hosts(2)`.
"""

from __future__ import annotations

from usernet.lab.lab import Lab
from usernet.lab.tasks import LabClosedError, StalledError, Task
from usernet.lab.virtual import VirtualTime

__all__ = ["Lab", "LabClosedError", "StalledError", "Task", "VirtualTime"]
