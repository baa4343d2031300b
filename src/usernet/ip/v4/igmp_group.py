"""What one device listens to of one multicast group: the sum of all sockets' source filters.

Each socket's membership either includes a list of sources or excludes one (RFC 3376 section 3.1). A group counts, for
each mode, how many memberships have it (`sfcount`), and how many name each source. From these follow its own mode and
the sources it wants (RFC 3376 section 3.2): it excludes where any membership does, and then keeps out only the sources
that all of those exclude and nobody includes. Linux: `struct ip_mc_list`, ip_mc_add_src, ip_mc_del_src, sf_setstate.

What changes has to be told to the routers `qrv` times: `crcount` of the group for a change of mode, `crcount` of a
source for its coming (`sources`) or going (`tomb`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from usernet.core.timer import Timer

MCAST_EXCLUDE: Final = 0
MCAST_INCLUDE: Final = 1


@final
class SourceFilter:
    """One source in a group's filters (Linux: `struct ip_sf_list`). count: memberships that name it, by MCAST_* mode.
    oldin: whether it was in effect before the change under way. gsresp: asked about by a query not yet answered."""

    __slots__ = ("addr", "count", "crcount", "gsresp", "oldin")

    def __init__(self, addr: bytes) -> None:
        self.addr = addr
        self.count: list[int] = [0, 0]
        self.crcount: int = 0
        self.gsresp: bool = False
        self.oldin: bool = False

    def copy(self) -> SourceFilter:
        other = SourceFilter(self.addr)
        other.count = list(self.count)
        other.crcount = self.crcount
        other.gsresp = self.gsresp
        other.oldin = self.oldin
        return other


@final
class McGroup:
    """One group on one device. `users`: how many memberships; `timer`: for the answer to a query; `unsolicit_count`:
    reports of versions 1 and 2 still to send unasked; `reporter`: this host was the last to report it; `loaded`: the
    device lets its frames through."""

    __slots__ = (
        "addr", "crcount", "gsquery", "loaded", "reporter", "sfcount", "sfmode", "sources", "timer", "tomb",
        "unsolicit_count", "users",
    )  # fmt: skip

    def __init__(self, addr: bytes, mode: int) -> None:
        self.addr = addr
        self.users: int = 1
        self.sfmode: int = mode
        self.sfcount: list[int] = [0, 0]
        self.sfcount[mode] = 1
        self.sources: dict[bytes, SourceFilter] = {}
        self.tomb: dict[bytes, SourceFilter] = {}
        self.timer: Timer | None = None
        self.unsolicit_count: int = 0
        self.reporter: bool = False
        self.loaded: bool = False
        self.gsquery: bool = False
        self.crcount: int = 0

    def allows(self, source: bytes) -> bool:
        """Whether any membership may want what `source` sends (Linux: ip_check_mc_rcu)."""
        entry = self.sources.get(source)
        if entry is None:
            return self.sfcount[MCAST_EXCLUDE] != 0
        return bool(entry.count[MCAST_INCLUDE]) or entry.count[MCAST_EXCLUDE] != self.sfcount[MCAST_EXCLUDE]

    def _in_effect(self, entry: SourceFilter) -> bool:
        """Whether a source is one of those that the group's mode is about."""
        excluding = self.sfcount[MCAST_EXCLUDE]
        if excluding:
            return excluding == entry.count[MCAST_EXCLUDE] and not entry.count[MCAST_INCLUDE]
        return entry.count[MCAST_INCLUDE] != 0

    def _mark(self) -> None:
        for entry in self.sources.values():
            entry.oldin = self._in_effect(entry)

    def _settle(self, qrv: int) -> bool:
        """Make change records of the difference to what `_mark` saw. True where there is any."""
        changed = False
        for entry in self.sources.values():
            if self._in_effect(entry):
                if not entry.oldin:
                    self.tomb.pop(entry.addr, None)
                    entry.crcount = qrv
                    changed = True
            elif entry.oldin:
                entry.crcount = 0
                gone = self.tomb.get(entry.addr)
                if gone is None:
                    gone = self.tomb[entry.addr] = entry.copy()
                gone.crcount = qrv
                changed = True
        return changed

    def _switch(self, mode: int, qrv: int) -> None:
        """Another mode: one record tells it, and the sources with it."""
        self.sfmode = mode
        self.crcount = qrv
        for entry in self.sources.values():
            entry.crcount = 0

    def add_sources(self, mode: int, sources: Iterable[bytes], delta: bool, qrv: int) -> bool:
        """A membership of `mode` names `sources` (Linux: ip_mc_add_src).

        delta: it is one that was counted before. qrv: how often to tell a change. Returns whether there is one.
        """
        excluded = self.sfmode == MCAST_EXCLUDE
        self._mark()
        if not delta:
            self.sfcount[mode] += 1
        for source in sources:
            entry = self.sources.get(source)
            if entry is None:
                entry = self.sources[source] = SourceFilter(source)
            entry.count[mode] += 1
        excludes = self.sfcount[MCAST_EXCLUDE] != 0
        if excluded != excludes:
            self._switch(
                MCAST_EXCLUDE if excludes else MCAST_INCLUDE if self.sfcount[MCAST_INCLUDE] else self.sfmode, qrv
            )
            return True
        return self._settle(qrv)

    def del_sources(self, mode: int, sources: Iterable[bytes], delta: bool, qrv: int, tell: bool) -> bool:
        """A membership of `mode` names `sources` no more (Linux: ip_mc_del_src).

        delta: the membership itself stays. tell: routers are to hear of sources that go (version 3). Returns whether
        there is a change to tell.
        """
        self._mark()
        if not delta:
            if not self.sfcount[mode]:
                return False
            self.sfcount[mode] -= 1
        changed = False
        for source in sources:
            entry = self.sources.get(source)
            if entry is None or not entry.count[mode]:
                continue
            entry.count[mode] -= 1
            if entry.count == [0, 0]:
                del self.sources[source]
                if entry.oldin and tell:
                    entry.crcount = qrv
                    self.tomb[source] = entry
                    changed = True
        if self.sfmode == MCAST_EXCLUDE and not self.sfcount[MCAST_EXCLUDE] and self.sfcount[MCAST_INCLUDE]:
            self._switch(MCAST_INCLUDE, qrv)
            return True
        return self._settle(qrv) or changed

    def mark_query(self, sources: list[bytes]) -> bool:
        """Note the sources that a query asks about (Linux: igmp_marksources). Returns whether it concerns the group."""
        if self.sfmode == MCAST_EXCLUDE:
            self.gsquery = False
            # Nothing to answer where the group keeps out every one of them.
            return not all(
                (entry := self.sources.get(source)) is not None and self._in_effect(entry) for source in sources
            )
        asked = [entry for source in sources if (entry := self.sources.get(source)) is not None]
        for entry in asked:
            entry.gsresp = True
        self.gsquery = bool(asked)
        return self.gsquery
