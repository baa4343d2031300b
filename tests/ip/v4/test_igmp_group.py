"""The sum of source filters: RFC 3376 section 3.2, as a property against a model of its text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usernet.ip.v4.igmp_group import MCAST_EXCLUDE, MCAST_INCLUDE, McGroup

GROUP = b"\xe8\1\2\3"
SOURCES = [bytes((10, 0, 0, number)) for number in range(1, 6)]

filters = st.lists(st.tuples(st.sampled_from((MCAST_EXCLUDE, MCAST_INCLUDE)), st.sets(st.sampled_from(SOURCES))))


def model(memberships: list[tuple[int, set[bytes]]]) -> set[bytes]:
    """The sources that any membership takes."""
    wanted: set[bytes] = set()
    for mode, named in memberships:
        wanted |= named if mode == MCAST_INCLUDE else set(SOURCES) - named
    return wanted


@given(filters.filter(bool))
def test_a_group_takes_what_any_membership_takes(memberships: list[tuple[int, set[bytes]]]) -> None:
    first_mode, first = memberships[0]
    group = McGroup(GROUP, first_mode)
    group.add_sources(first_mode, first, True, 2)
    for mode, named in memberships[1:]:
        group.users += 1
        group.add_sources(mode, named, False, 2)
    while memberships:
        assert {source for source in SOURCES if group.allows(source)} == model(memberships)
        excluded = any(mode == MCAST_EXCLUDE for mode, _ in memberships)
        assert group.sfmode == (MCAST_EXCLUDE if excluded else MCAST_INCLUDE)
        mode, named = memberships.pop()
        group.del_sources(mode, named, False, 2, True)
    assert group.sources == {}


def test_a_change_of_mode_is_told_instead_of_its_sources() -> None:
    group = McGroup(GROUP, MCAST_INCLUDE)
    assert group.add_sources(MCAST_INCLUDE, SOURCES[:1], True, 2)
    assert group.sources[SOURCES[0]].crcount == 2
    assert group.add_sources(MCAST_EXCLUDE, (), False, 2)
    assert group.sfmode == MCAST_EXCLUDE
    assert group.crcount == 2
    assert group.sources[SOURCES[0]].crcount == 0
    assert group.del_sources(MCAST_EXCLUDE, (), False, 2, True)
    assert group.sfmode == MCAST_INCLUDE


def test_nothing_to_tell_of_a_second_membership_like_the_first() -> None:
    group = McGroup(GROUP, MCAST_INCLUDE)
    group.add_sources(MCAST_INCLUDE, SOURCES[:2], True, 2)
    assert not group.add_sources(MCAST_INCLUDE, SOURCES[:2], False, 2)
    assert not group.del_sources(MCAST_INCLUDE, SOURCES[:2], False, 2, True)


def test_a_source_that_goes_is_remembered_until_it_was_told() -> None:
    group = McGroup(GROUP, MCAST_INCLUDE)
    group.add_sources(MCAST_INCLUDE, SOURCES[:2], True, 2)
    assert group.del_sources(MCAST_INCLUDE, SOURCES[:1], True, 2, True)
    assert list(group.tomb) == SOURCES[:1]
    assert group.add_sources(MCAST_INCLUDE, SOURCES[:1], True, 2)
    assert group.tomb == {}


def test_sources_that_are_not_there_do_not_matter() -> None:
    group = McGroup(GROUP, MCAST_EXCLUDE)
    assert not group.del_sources(MCAST_EXCLUDE, SOURCES, True, 2, True)
    assert not group.del_sources(MCAST_INCLUDE, SOURCES, False, 2, True)


def test_a_query_about_sources() -> None:
    included = McGroup(GROUP, MCAST_INCLUDE)
    included.add_sources(MCAST_INCLUDE, SOURCES[:2], True, 2)
    assert included.mark_query(SOURCES[1:3])
    assert included.gsquery
    assert [entry.gsresp for entry in included.sources.values()] == [False, True]
    assert not included.mark_query(SOURCES[3:])
    excluded = McGroup(GROUP, MCAST_EXCLUDE)
    excluded.add_sources(MCAST_EXCLUDE, SOURCES[:2], True, 2)
    assert not excluded.mark_query(SOURCES[:2])
    assert excluded.mark_query(SOURCES[:3])
    assert not excluded.gsquery
