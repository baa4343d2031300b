"""The table of neighbours of one network protocol, and its bounds (Linux: `struct neigh_table`).

Who sends looks a neighbour up here once, and keeps it; garbage collection takes out what is old, and then says so in
`Neighbour.dead`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.core.sysctl import INT_MAX
from usernet.core.timer import Timer
from usernet.link.neigh_parms import HZ, MILLISECOND, SECOND, NeighParms
from usernet.link.neighbour import (
    NEIGH_UPDATE_F_ADMIN,
    NEIGH_UPDATE_F_OVERRIDE,
    NUD_FAILED,
    NUD_IN_TIMER,
    NUD_NOARP,
    NUD_PERMANENT,
    Neighbour,
    NeighOps,
)
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice

if TYPE_CHECKING:
    from usernet.core.trace import Tracepoint


_SYSCTLS: Final = (
    ("gc_interval", 0, INT_MAX), ("gc_thresh1", 0, INT_MAX), ("gc_thresh2", 0, INT_MAX), ("gc_thresh3", 0, INT_MAX),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class NeighbourTable:
    """All neighbours of one network protocol (Linux: `struct neigh_table`).

    Bounds: gc_thresh1 entries are never collected; above gc_thresh2 old ones are, at once, when another is made; at
    gc_thresh3 there is no room for one more: it isn't made, and what was to be sent is dropped (`table_fulls`).
    Permanent entries don't count. `on_change` is called with each neighbour whose state or address is another now
    (True), or that was forgotten (False).
    """

    def __init__(self, net: Net, ops: NeighOps, prefix: str) -> None:
        """prefix: where the settings are published, such as net.ipv4.neigh."""
        self.net = net
        self.ops = ops
        self.prefix = prefix
        self.trace: Tracepoint = net.trace.neigh_update
        self.parms = NeighParms()
        self.gc_interval: int = 30
        self.gc_thresh1: int = 128
        self.gc_thresh2: int = 512
        self.gc_thresh3: int = 1024
        self.on_change: Callable[[Neighbour, bool], None] | None = None
        self.table_fulls: int = 0
        self.unres_discards: int = 0
        self.res_failed: int = 0
        self.forced_gc_runs: int = 0
        self.periodic_gc_runs: int = 0
        self._entries: dict[tuple[int, bytes], Neighbour] = {}
        self._permanent: int = 0
        self._device_parms: dict[int, NeighParms] = {}
        self._device_names: dict[int, str] = {}
        self._last_flush: int = net.loop.now - 10 * SECOND
        self._timer = Timer(net.loop.timers, self._periodic)
        self.parms.register(net.sysctl, f"{prefix}.default")
        net.sysctl.register_rows(f"{prefix}.default", self, _SYSCTLS)

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def parms_of(self, dev: NetDevice) -> NeighParms:
        """The settings of `dev`, made from the default ones when first asked for (net.ipv4.neigh.<device>)."""
        parms = self._device_parms.get(dev.index)
        if parms is None:
            parms = self._device_parms[dev.index] = NeighParms(self.parms)
            self._device_names[dev.index] = dev.name
            parms.register(self.net.sysctl, f"{self.prefix}.{dev.name}")
        return parms

    def reachable_time(self, parms: NeighParms) -> int:
        """How long a confirmation holds (ns): between a half and three halves of the base, chosen anew every 300 s, so
        that hosts don't probe in step (RFC 4861 section 6.3.2)."""
        now = self.net.loop.now
        if not parms.reachable_time or now - parms.last_rand > 300 * SECOND:
            base = parms.base_reachable_time_ms * MILLISECOND
            parms.reachable_time = (base >> 1) + self.net.random.randrange(base)
            parms.last_rand = now
        return parms.reachable_time

    def find(self, addr: bytes, dev: NetDevice) -> Neighbour | None:
        """The neighbour, if it is known (Linux: neigh_lookup)."""
        return self._entries.get((dev.index, self.ops.key(dev, addr)))

    def lookup(self, addr: bytes, dev: NetDevice) -> Neighbour | None:
        """The neighbour `addr` on `dev`, made where it isn't known; None where the table is full."""
        key = (dev.index, self.ops.key(dev, addr))
        neigh = self._entries.get(key)
        if neigh is None:
            if not self._make_room():
                return None
            neigh = Neighbour(self, dev, key[1], self.parms_of(dev))
            self.ops.constructor(neigh)
            self._entries[key] = neigh
            if len(self._entries) >= self.gc_thresh1 and not self._timer.pending:
                self._arm()
        return neigh

    def add(
        self, dev: NetDevice, addr: bytes, mac: bytes | None, state: int = NUD_PERMANENT, override: bool = True
    ) -> Neighbour:  # fmt: skip
        """As an administrator: enter, or replace, a neighbour (`ip neigh replace`). override: another link address than
        it has is believed.

        Raises ValueError for a bad address, OSError: ENOBUFS where the table is full, EINVAL where a link address is
        missing.
        """
        if mac is not None and len(mac) != len(dev.mac):
            raise ValueError(f"link address: expected {len(dev.mac)} bytes for {dev.name}, not {len(mac)}")
        neigh = self.lookup(addr, dev)
        if neigh is None:
            raise error(errno.ENOBUFS, f"neighbour table is full: {self.gc_thresh3} entries ({self.prefix})")
        permanent = neigh.state & NUD_PERMANENT
        flags = NEIGH_UPDATE_F_ADMIN | (NEIGH_UPDATE_F_OVERRIDE if override else 0)
        if not neigh.update(mac, state, flags):
            raise error(errno.EINVAL, "No link layer address given")
        self._permanent += bool(neigh.state & NUD_PERMANENT) - bool(permanent)
        return neigh

    def remove(self, dev: NetDevice, addr: bytes) -> bool:
        """Forget a neighbour (`ip neigh del`). False where there is none."""
        neigh = self.find(addr, dev)
        if neigh is None:
            return False
        self._forget(neigh)
        return True

    def _forget(self, neigh: Neighbour) -> None:
        self._entries.pop((neigh.dev.index, neigh.addr), None)
        if neigh.state & NUD_PERMANENT:
            self._permanent -= 1
        if self.on_change is not None:
            self.on_change(neigh, False)
        neigh.kill()

    def flush(self, dev: NetDevice, permanent: bool = True) -> None:
        """Forget the neighbours on `dev` (Linux: neigh_ifdown, neigh_changeaddr); without `permanent`, not those."""
        for neigh in self:
            if neigh.dev is dev and (permanent or not neigh.state & NUD_PERMANENT):
                self._forget(neigh)

    def forget_device(self, dev: NetDevice) -> None:
        """`dev` is removed: its settings go too."""
        self.flush(dev)
        if self._device_parms.pop(dev.index, None) is not None:
            self.net.sysctl.unregister(f"{self.prefix}.{self._device_names.pop(dev.index)}")

    def rename_device(self, dev: NetDevice) -> None:
        """`dev` has another name now: so have its settings."""
        parms = self._device_parms.get(dev.index)
        if parms is not None:
            self.net.sysctl.unregister(f"{self.prefix}.{self._device_names[dev.index]}")
            self._device_names[dev.index] = dev.name
            parms.register(self.net.sysctl, f"{self.prefix}.{dev.name}")

    # -- bounds

    def _make_room(self) -> bool:
        """Whether there is room for one more (Linux: neigh_alloc)."""
        entries = len(self._entries) - self._permanent
        now = self.net.loop.now
        if entries >= self.gc_thresh3 or (entries >= self.gc_thresh2 and now > self._last_flush + 5 * SECOND):
            # A flood of new addresses must not make every packet scan the table: once a millisecond.
            shrunk = self._forced_gc(now, entries) if now >= self._last_flush + MILLISECOND else 0
            if not shrunk and entries >= self.gc_thresh3:
                self.table_fulls += 1
                return False
        return True

    def _forced_gc(self, now: int, entries: int) -> int:
        self.forced_gc_runs += 1
        self._last_flush = now
        excess = max(entries - self.gc_thresh2, 1)
        shrunk = 0
        for neigh in self:
            if neigh.state & NUD_PERMANENT:
                continue
            if (
                neigh.state == NUD_FAILED
                or neigh.state & NUD_NOARP
                or self.ops.is_multicast(neigh.addr)
                or now > neigh.updated + 5 * SECOND
            ):
                self._forget(neigh)
                shrunk += 1
                if shrunk >= excess:
                    break
        return shrunk

    def _arm(self) -> None:
        self._timer.mod(self.net.loop.now + (self.parms.base_reachable_time_ms >> 1) * MILLISECOND)

    def _periodic(self, now: int) -> None:
        """Linux: neigh_periodic_work. Runs only while there are gc_thresh1 entries or more."""
        self.periodic_gc_runs += 1
        if len(self._entries) < self.gc_thresh1:
            return
        for neigh in self:
            if neigh.state & (NUD_PERMANENT | NUD_IN_TIMER):
                continue
            used = max(neigh.used, neigh.confirmed)
            if neigh.state == NUD_FAILED or now >= used + neigh.parms.gc_stale_time * SECOND:
                self._forget(neigh)
        if len(self._entries) >= self.gc_thresh1:
            self._arm()

    def locked(self, neigh: Neighbour) -> bool:
        """Whether `neigh` was changed so recently that another answer must not replace it (`locktime`)."""
        return self.net.loop.now <= neigh.updated + neigh.parms.locktime * SECOND // HZ

    def close(self) -> None:
        """The stack ends."""
        self._timer.delete()
        for neigh in self:
            self._forget(neigh)
