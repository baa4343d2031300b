"""Records of reports: RFC 3376 sections 4.2.12 and 5."""

from __future__ import annotations

import pytest

from usernet.ip.v4.igmp_group import MCAST_EXCLUDE, MCAST_INCLUDE, McGroup
from usernet.ip.v4.igmp_report import Record, Report
from usernet.wire import igmp

GROUP = b"\xe8\1\2\3"
SOURCES = [bytes((10, 0, number >> 8, number & 255)) for number in range(1000)]
INCLUDE, EXCLUDE = igmp.IGMPV3_MODE_IS_INCLUDE, igmp.IGMPV3_MODE_IS_EXCLUDE
TO_IN, TO_EX = igmp.IGMPV3_CHANGE_TO_INCLUDE, igmp.IGMPV3_CHANGE_TO_EXCLUDE
ALLOW, BLOCK = igmp.IGMPV3_ALLOW_NEW_SOURCES, igmp.IGMPV3_BLOCK_OLD_SOURCES


def group_of(mode: int, *sources: bytes) -> McGroup:
    group = McGroup(GROUP, mode)
    group.add_sources(mode, sources, True, 2)
    return group


def current(group: McGroup) -> list[list[Record]]:
    report = Report(1500)
    report.add_current(group)
    return report.finish()


def changes(group: McGroup) -> list[list[Record]]:
    report = Report(1500)
    report.add_changes(group)
    return report.finish()


@pytest.mark.parametrize("sources", [[], SOURCES[:1], SOURCES[:3]])
def test_the_state_as_it_is(sources: list[bytes]) -> None:
    assert current(group_of(MCAST_INCLUDE, *sources)) == [[(INCLUDE, GROUP, sources)]]
    assert current(group_of(MCAST_EXCLUDE, *sources)) == [[(EXCLUDE, GROUP, sources)]]


def test_of_an_excluding_group_only_what_all_exclude() -> None:
    group = group_of(MCAST_EXCLUDE, *SOURCES[:3])
    group.add_sources(MCAST_EXCLUDE, SOURCES[1:4], False, 2)
    group.add_sources(MCAST_INCLUDE, SOURCES[1:2], False, 2)
    assert current(group) == [[(EXCLUDE, GROUP, [SOURCES[2]])]]


def test_an_answer_about_sources_names_only_those() -> None:
    group = group_of(MCAST_INCLUDE, *SOURCES[:3])
    group.mark_query(SOURCES[1:2])
    assert current(group) == [[(INCLUDE, GROUP, SOURCES[1:2])]]
    assert current(group) == [[(INCLUDE, GROUP, SOURCES[:3])]]


def test_new_sources_are_told_as_often_as_needed() -> None:
    group = group_of(MCAST_INCLUDE, *SOURCES[:2])
    assert [changes(group) for _ in range(3)] == [[[(ALLOW, GROUP, SOURCES[:2])]]] * 2 + [[]]


def test_old_sources_too() -> None:
    group = group_of(MCAST_INCLUDE, *SOURCES[:2])
    changes(group), changes(group)
    group.del_sources(MCAST_INCLUDE, SOURCES[:1], True, 2, True)
    assert [changes(group) for _ in range(3)] == [[[(BLOCK, GROUP, SOURCES[:1])]]] * 2 + [[]]
    assert group.tomb == {}


def test_an_excluding_group_blocks_and_allows() -> None:
    group = group_of(MCAST_EXCLUDE, *SOURCES[:1])
    assert changes(group) == [[(BLOCK, GROUP, SOURCES[:1])]]
    group.del_sources(MCAST_EXCLUDE, SOURCES[:1], True, 2, True)
    assert changes(group) == [[(ALLOW, GROUP, SOURCES[:1])]]


def test_a_change_of_mode() -> None:
    group = group_of(MCAST_INCLUDE, *SOURCES[:1])
    group.add_sources(MCAST_EXCLUDE, SOURCES[1:2], False, 2)
    assert [changes(group) for _ in range(3)] == [[[(TO_EX, GROUP, SOURCES[1:2])]]] * 2 + [[]]
    group.del_sources(MCAST_EXCLUDE, SOURCES[1:2], False, 2, True)
    assert [changes(group) for _ in range(3)] == [[[(TO_IN, GROUP, SOURCES[:1])]]] * 2 + [[]]


def test_a_group_that_was_left() -> None:
    left = McGroup(GROUP, MCAST_EXCLUDE)
    left.crcount = 2
    told = []
    for _ in range(2):
        report = Report(1500)
        done = report.add_left(left)
        told.append((report.finish(), done))
    assert told == [([[(TO_IN, GROUP, [])]], False), ([[(TO_IN, GROUP, [])]], True)]


def test_a_group_of_sources_that_was_left() -> None:
    left = group_of(MCAST_INCLUDE, *SOURCES[:2])
    left.crcount = 2
    told = []
    for _ in range(2):
        report = Report(1500)
        done = report.add_left(left)
        told.append((report.finish(), done))
    record = (BLOCK, GROUP, SOURCES[:2])
    assert told == [([[record]], False), ([[record]], True)]


def test_many_sources_take_many_packets() -> None:
    group = group_of(MCAST_INCLUDE, *SOURCES)
    packets = current(group)
    assert [source for records in packets for _, _, sources in records for source in sources] == SOURCES
    assert all(len(igmp.build_v3_report(records)) + 24 <= 1500 for records in packets)
    assert len(packets) == 3


def test_what_is_excluded_is_cut_instead() -> None:
    """RFC 3376 section 4.2.16: a second record would replace the first."""
    [[(kind, _, sources)]] = current(group_of(MCAST_EXCLUDE, *SOURCES))
    assert kind == EXCLUDE
    assert sources == SOURCES[: (1500 - 24 - 8 - 8) // 4]


def test_a_long_list_of_what_is_excluded_gets_a_packet_of_its_own() -> None:
    report = Report(100)
    for _ in range(2):
        report.add_current(group_of(MCAST_EXCLUDE, *SOURCES[:8]))
    assert [len(records) for records in report.finish()] == [1, 1]


def test_many_groups_take_many_packets() -> None:
    report = Report(68)
    for number in range(10):
        report.add_current(McGroup(bytes((232, 0, 0, number)), MCAST_EXCLUDE))
    assert [len(records) for records in report.finish()] == [4, 4, 2]
