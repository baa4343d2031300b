"""Settings of neighbour resolution, for a table's default and for each device (Linux: `struct neigh_parms`).

Under net.ipv4.neigh.default and net.ipv4.neigh.<device>; times as ip-sysctl and arp(7) have them. The data path reads
the attributes, which are in nanoseconds where their sysctl isn't.
"""

from __future__ import annotations

from functools import partial
from typing import Final, final

from usernet.core.sysctl import INT_MAX, SysctlTable

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
HZ: Final = 100
"""USER_HZ: the unit of the settings that arp(7) has in "jiffies"."""

_SETTINGS: Final = (
    "mcast_solicit", "ucast_solicit", "app_solicit", "mcast_resolicit", "retrans_time_ms", "base_reachable_time_ms",
    "delay_first_probe_time", "gc_stale_time", "unres_qlen_bytes", "locktime",
)  # fmt: skip


@final
class NeighParms:
    """One set of settings.

    mcast_solicit, ucast_solicit, mcast_resolicit: how many probes, of each sort. app_solicit: probes left to a
    program; none is sent for those. retrans_time_ms: between probes. base_reachable_time_ms: how long a confirmation
    holds, on average (RFC 4861 section 6.3.2). delay_first_probe_time, gc_stale_time: seconds. unres_qlen_bytes: what
    may wait for one unresolved neighbour. locktime: hundredths of a second in which a second answer doesn't replace
    the first one.
    """

    def __init__(self, parent: NeighParms | None = None) -> None:
        self.mcast_solicit: int = 3
        self.ucast_solicit: int = 3
        self.app_solicit: int = 0
        self.mcast_resolicit: int = 0
        self.retrans_time_ms: int = 1000
        self.base_reachable_time_ms: int = 30000
        self.delay_first_probe_time: int = 5
        self.gc_stale_time: int = 60
        self.unres_qlen_bytes: int = 212992
        self.locktime: int = HZ
        if parent is not None:
            for name in _SETTINGS:
                setattr(self, name, getattr(parent, name))
        self.reachable_time: int = 0
        """How long a confirmation holds now (ns): random, anew every 300 s; 0 where it is to be chosen."""
        self.last_rand: int = 0

    def register(self, table: SysctlTable, prefix: str) -> None:
        """Publish the settings below `prefix`, such as net.ipv4.neigh.default."""
        table.later(partial(self._publish, table, prefix))

    def _publish(self, table: SysctlTable, prefix: str) -> None:
        for name in _SETTINGS:
            low = 1 if name in ("retrans_time_ms", "base_reachable_time_ms") else 0
            table.register(f"{prefix}.{name}", self, name, low, INT_MAX, on_change=self._changed)

    def _changed(self) -> None:
        self.reachable_time = 0
