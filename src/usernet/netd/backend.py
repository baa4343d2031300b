"""Who carries out a supervisor's calls: here, a stack in the same process."""

from __future__ import annotations

from typing import final

from usernet.netd.calls import Calls
from usernet.netd.interface import Backend, Done, Opened, Pending, Reach, Received, SpentChannelError
from usernet.stack import Stack

__all__ = ["Backend", "Done", "LocalBackend", "Opened", "Pending", "Reach", "Received", "SpentChannelError"]


@final
class LocalBackend(Calls):
    """The sockets of `stack`, which is started."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.net)
