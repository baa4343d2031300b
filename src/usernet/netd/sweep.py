"""Whether programs still have the descriptors of channels that are over.

A channel that has ended with its connection has closed its pair, and hears nothing of the application's close. So as
long as there are any of those, the kernel is asked every second which of their other ends are still open: one by one,
or, of many, by one walk over all UNIX sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.loop import Loop
from usernet.core.timer import Timer
from usernet.posix.channel.peer import which_are_open

PERIOD: Final = NSEC_PER_SEC


@final
class Sweep:
    """The inodes that are looked after. With the stack's lock held."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._left: dict[int, Callable[[], None]] = {}
        self._timer = Timer(loop.timers, self._run)

    def add(self, inode: int, gone: Callable[[], None]) -> None:
        """Call `gone`, with the lock held, once nobody has it any more."""
        self._left[inode] = gone
        if not self._timer.pending:
            self._timer.mod(self._loop.now + PERIOD)

    def discard(self, inode: int) -> None:
        self._left.pop(inode, None)

    def close(self) -> None:
        self._left.clear()
        self._timer.delete()

    def _run(self, now: int) -> None:
        left = self._left
        if not left:
            return
        try:
            for inode in left.keys() - which_are_open(left):
                gone = left.pop(inode, None)
                if gone is not None:
                    gone()
        finally:
            if left:
                self._timer.mod(now + PERIOD)
