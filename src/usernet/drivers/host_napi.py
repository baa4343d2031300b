"""The host's own work on what is written to a TUN or TAP: merged, and in a thread of the host's (Linux: napi.rst).

A packet that is written goes up the host's stack within the write(2), to the socket it is for; and where it
acknowledges data, the host sends more, all at the writer's cost. With IFF_NAPI the host holds what may be merged (GRO),
and the interface may be polled by a thread of the kernel's instead, on another core: then bulk data costs the writer
little more than the copy. But each packet that finds that thread asleep has to wake it, which a request and its answer
pay for twice. So there is such a thread while much is moved, and not otherwise (as ethtool's adaptive-rx moderates a
NIC's interrupts).
"""

from __future__ import annotations

import os
from typing import Final, final

from usernet.drivers import host

THREADED: Final = "threaded"
GRO_FLUSH_TIMEOUT: Final = "gro_flush_timeout"
DEFER_HARD_IRQS: Final = "napi_defer_hard_irqs"

FLUSH_TIMEOUT: Final = 5_000_000
"""For how long (ns) the host holds a segment that the next one may be merged with. Each write polls the interface anew,
so without it nothing is ever merged; and a timer that is due before the tick is set anew for each packet, which costs
more than merging saves. The last segment of what is sent has PSH, and goes up at once."""

THREAD_FLUSH_TIMEOUT: Final = 20_000
"""Likewise where a thread polls the interface: it sets the timer when it has found nothing, and not for each packet."""

THREAD_DEFER: Final = 2
"""How many times in a row that thread finds nothing before what is held goes up."""

BUSY: Final = 500
"""Mbit/s, both ways together, from which the host's thread is wanted. Half of it keeps it."""

INTERVAL: Final = 2_000_000
"""Nanoseconds over which a rate is taken, at least."""

HOLD: Final = 100_000_000
"""Nanoseconds for which the thread is kept at least, for to have it or not costs the host's lock and some 0.1 ms."""


@final
class HostNapi:
    """How the host polls one interface of ours."""

    def __init__(self, directory: int, merge: bool, threaded: bool | None) -> None:
        """directory: a descriptor of `/sys/class/net/NAME`, closed with this. merge: have the host hold packets to
        merge them. threaded: in a thread, where the host has that; None: while much is moved."""
        self._directory = directory
        self._merge = merge
        possible = os.access(THREADED, os.W_OK, dir_fd=directory)
        self._adaptive: bool = possible and threaded is None and (os.cpu_count() or 1) > 1
        self._always: bool = possible and threaded is True
        self.threaded: bool = False
        """Whether the host has a thread for it now."""
        self._time: int = 0
        self._moved: int = 0
        self._changed: int = 0

    def start(self) -> None:
        """Tell the host. Raises OSError where it may not be told to merge."""
        if self._merge:
            host.set_attribute(self._directory, GRO_FLUSH_TIMEOUT, FLUSH_TIMEOUT)
        if self._always:
            self._set(True)

    def begin(self, now: int, moved: int) -> None:
        """The interface is opened at `now` (ns), its counters at `moved` bytes, both ways together."""
        self._time = now
        self._moved = moved

    def look(self, now: int, moved: int) -> None:
        """Have the thread, or have it no longer, as the rate since the last look asks for. Arguments as `begin`'s."""
        elapsed = now - self._time
        if elapsed < INTERVAL or not self._adaptive:
            return
        rate = (moved - self._moved) * 8_000 // elapsed
        self._time = now
        self._moved = moved
        if self.threaded:
            if rate >= BUSY // 2 or now - self._changed < HOLD:
                return
        elif rate < BUSY:
            return
        self._changed = now
        self._set(not self.threaded)

    def rest(self) -> None:
        """The interface is closed for now: no thread for it, where that is for us to say."""
        if self._adaptive and self.threaded:
            self._set(False)

    def close(self) -> None:
        """Leave the interface as it is. May be called twice."""
        directory = self._directory
        self._directory = -1
        self._adaptive = False
        if directory >= 0:
            os.close(directory)

    def _set(self, threaded: bool) -> None:
        self.threaded = threaded
        try:
            if self._merge:
                host.set_attribute(self._directory, DEFER_HARD_IRQS, THREAD_DEFER if threaded else 0)
                host.set_attribute(
                    self._directory, GRO_FLUSH_TIMEOUT, THREAD_FLUSH_TIMEOUT if threaded else FLUSH_TIMEOUT
                )
            host.set_attribute(self._directory, THREADED, int(threaded))
        except OSError:
            # The interface was moved to another namespace, or the privilege given up: it stays as it is.
            self._adaptive = False
