"""What drives the started stacks of a process: its threads (runner.py).

    Runner      the leader and the followers, and the background thread
    Devices     epoll on the descriptors that they watch
    Deadlines   when each stack wants to run next
"""

from __future__ import annotations

from usernet.runner.process import close_process_runner, process_runner
from usernet.runner.runner import Runner

__all__ = ["Runner", "close_process_runner", "process_runner"]
