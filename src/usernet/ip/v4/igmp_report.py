"""The records of IGMPv3 reports: what to say of a group, and how to fit it in packets (RFC 3376 sections 4.2 and 5).

Linux: is_in, add_grec, igmpv3_send_report, igmpv3_send_cr. Telling a change once takes one off its `crcount`.
"""

from __future__ import annotations

from typing import Final, final

from usernet.ip.v4.igmp_group import MCAST_EXCLUDE, MCAST_INCLUDE, McGroup, SourceFilter
from usernet.wire import igmp

IP_WITH_ROUTER_ALERT: Final = 24
"""Bytes of the IPv4 header of a report."""

Record = tuple[int, bytes, list[bytes]]
"""Type, group, sources."""


@final
class Report:
    """A report under construction: `packets` are those that are full, each a list of records."""

    def __init__(self, mtu: int) -> None:
        self._room = min(mtu, 0xFFFF) - IP_WITH_ROUTER_ALERT - igmp.IGMP_HLEN
        self._available = self._room
        self._records: list[Record] = []
        self.packets: list[list[Record]] = []

    def finish(self) -> list[list[Record]]:
        """Close the last packet; returns all of them."""
        if self._records:
            self.packets.append(self._records)
            self._records = []
            self._available = self._room
        return self.packets

    def _open(self, kind: int, group: bytes) -> list[bytes]:
        """Begin a record; returns its list of sources."""
        sources: list[bytes] = []
        self._records.append((kind, group, sources))
        self._available -= igmp.IGMPV3_GREC_HLEN
        return sources

    def add(self, group: McGroup, kind: int, group_gone: bool = False, source_gone: bool = False) -> None:
        """Add the record of type `kind` of a group, where it has anything to say (Linux: add_grec).

        group_gone: the group was left. source_gone: about the sources in its `tomb`.
        """
        query = kind in (igmp.IGMPV3_MODE_IS_INCLUDE, igmp.IGMPV3_MODE_IS_EXCLUDE)
        change = kind in (igmp.IGMPV3_ALLOW_NEW_SOURCES, igmp.IGMPV3_BLOCK_OLD_SOURCES)
        # A list of what is excluded can't be split: a second record would replace the first.
        truncate = kind in (igmp.IGMPV3_MODE_IS_EXCLUDE, igmp.IGMPV3_CHANGE_TO_EXCLUDE)
        table = group.tomb if source_gone else group.sources
        wanted = [entry for entry in table.values() if _is_in(group, entry, kind, group_gone, source_gone)]
        if truncate and table and self._records and self._available < igmp.IGMPV3_GREC_HLEN + 4 * len(wanted):
            self.finish()
        # A record of the change of mode says all; the sources' own changes need no telling then (RFC 3376 5.1).
        silent = change and ((group_gone and group.sfmode == MCAST_EXCLUDE) or (not group_gone and group.crcount > 0))
        sources: list[bytes] | None = None
        told = False
        for entry in wanted:
            if not (silent and entry.crcount):
                if query:
                    entry.gsresp = False
                if self._available < 4 + (igmp.IGMPV3_GREC_HLEN if sources is None else 0):
                    if truncate and sources is not None:
                        break
                    self.finish()
                    sources = None
                if sources is None:
                    sources = self._open(kind, group.addr)
                sources.append(entry.addr)
                self._available -= 4
                told = True
            if change and entry.crcount:
                entry.crcount -= 1
                if (source_gone or group_gone) and not entry.crcount:
                    del table[entry.addr]
        if not told and not change and (group.crcount or query):
            if self._available < igmp.IGMPV3_GREC_HLEN:
                self.finish()
            self._open(kind, group.addr)
        if query:
            group.gsquery = False

    def add_current(self, group: McGroup) -> None:
        """A group as it is now, in answer to a query (RFC 3376 section 5.2)."""
        excludes = group.sfcount[MCAST_EXCLUDE]
        self.add(group, igmp.IGMPV3_MODE_IS_EXCLUDE if excludes else igmp.IGMPV3_MODE_IS_INCLUDE)

    def add_left(self, group: McGroup) -> bool:
        """A group that was left, once more. True where it has been told often enough (Linux: igmpv3_send_cr)."""
        if group.sfmode == MCAST_INCLUDE:
            self.add(group, igmp.IGMPV3_BLOCK_OLD_SOURCES, group_gone=True)
            self.add(group, igmp.IGMPV3_BLOCK_OLD_SOURCES, group_gone=True, source_gone=True)
        if group.crcount:
            if group.sfmode == MCAST_EXCLUDE:
                self.add(group, igmp.IGMPV3_CHANGE_TO_INCLUDE, group_gone=True)
            group.crcount -= 1
            if not group.crcount:
                for table in (group.tomb, group.sources):
                    for addr in [addr for addr, entry in table.items() if not entry.crcount]:
                        del table[addr]
        return not (group.crcount or group.tomb or group.sources)

    def add_changes(self, group: McGroup) -> None:
        """What has changed of a group, once more (Linux: igmpv3_send_cr)."""
        if group.sfcount[MCAST_EXCLUDE]:
            came, went = igmp.IGMPV3_BLOCK_OLD_SOURCES, igmp.IGMPV3_ALLOW_NEW_SOURCES
        else:
            came, went = igmp.IGMPV3_ALLOW_NEW_SOURCES, igmp.IGMPV3_BLOCK_OLD_SOURCES
        self.add(group, came)
        self.add(group, went, source_gone=True)
        if group.crcount:
            excludes = group.sfmode == MCAST_EXCLUDE
            self.add(group, igmp.IGMPV3_CHANGE_TO_EXCLUDE if excludes else igmp.IGMPV3_CHANGE_TO_INCLUDE)
            group.crcount -= 1


def _is_in(group: McGroup, entry: SourceFilter, kind: int, group_gone: bool, source_gone: bool) -> bool:
    """Whether a source belongs in a record of type `kind` (Linux: is_in)."""
    including = entry.count[MCAST_INCLUDE]
    everywhere_excluded = group.sfcount[MCAST_EXCLUDE] == entry.count[MCAST_EXCLUDE]
    if kind == igmp.IGMPV3_ALLOW_NEW_SOURCES:
        if group_gone or not entry.crcount:
            return False
        return (group.sfmode == MCAST_INCLUDE) != source_gone
    if kind == igmp.IGMPV3_BLOCK_OLD_SOURCES:
        if group.sfmode == MCAST_INCLUDE:
            return group_gone or bool(entry.crcount and source_gone)
        return bool(entry.crcount) and not group_gone and not source_gone
    if group_gone or source_gone:
        return False
    if kind == igmp.IGMPV3_CHANGE_TO_INCLUDE:
        return including != 0
    if kind == igmp.IGMPV3_CHANGE_TO_EXCLUDE:
        return bool(group.sfcount[MCAST_EXCLUDE]) and not including and everywhere_excluded
    if group.gsquery and not entry.gsresp:
        return False
    if group.sfmode == MCAST_INCLUDE:
        return True
    if including:
        return kind == igmp.IGMPV3_MODE_IS_INCLUDE
    return everywhere_excluded
