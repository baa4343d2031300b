"""When each stack wants to run next: a heap with one valid entry for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from heapq import heapify, heappop, heappush
from typing import final

from usernet.core.loop import Loop
from usernet.core.timer import NEVER


@final
class Deadlines:
    """The deadlines (ns, monotonic) of the stacks of a runner. From any thread.

    `loops`: the stacks that are started; what others file is not kept.
    """

    def __init__(self, loops: Container[Loop]) -> None:
        self._loops = loops
        self._mutex = threading.Lock()
        self._entries: list[tuple[int, int, Loop]] = []
        """When, a serial number, and whose."""
        self._filed: dict[Loop, int] = {}
        """The serial number of each loop's one valid entry. The others are of no use: an earlier one came up."""
        self._serial: int = 0

    def __len__(self) -> int:
        """How many are kept, those that are of no use any more too."""
        return len(self._entries)

    def file(self, loop: Loop, when: int, deadline: int) -> bool:
        """Remember that `loop` wants to run at `when`, which is `deadline` by its own clock. False where it has filed
        an earlier one, or is not started."""
        with self._mutex:
            if deadline >= loop.filed or loop not in self._loops:
                return False
            loop.filed = deadline
            self._serial += 1
            self._filed[loop] = self._serial
            heappush(self._entries, (when, self._serial, loop))
            if len(self._entries) > 2 * len(self._filed) + 64:
                self._entries = [entry for entry in self._entries if self._filed.get(entry[2]) == entry[1]]
                heapify(self._entries)
        return True

    def forget(self, loop: Loop) -> None:
        """`loop` is stopped."""
        with self._mutex:
            self._entries = [entry for entry in self._entries if entry[2] is not loop]
            heapify(self._entries)
            self._filed.pop(loop, None)
            loop.filed = NEVER

    def expire(self, now: int, ready: Callable[[Loop], None]) -> int:
        """Give `ready` the loops whose deadline has come; returns when the next comes, NEVER for none."""
        with self._mutex:
            entries = self._entries
            while entries:
                when, serial, loop = entries[0]
                valid = self._filed.get(loop) == serial
                if valid and when > now:
                    return when
                heappop(entries)
                if valid:
                    del self._filed[loop]
                    loop.filed = NEVER
                    ready(loop)
        return NEVER
