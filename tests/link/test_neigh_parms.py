"""Settings of neighbour resolution."""

from __future__ import annotations

import pytest

from tests.link.station import Station
from usernet.link.neigh_parms import NeighParms


def test_a_device_takes_the_defaults_of_the_moment_it_is_made(station: Station):
    parent = NeighParms()
    parent.gc_stale_time = 5
    child = NeighParms(parent)
    parent.gc_stale_time = 6
    assert child.gc_stale_time == 5


def test_bounds_are_checked(station: Station):
    sysctl = station.net.sysctl
    with pytest.raises(ValueError, match="retrans_time_ms: expected 1 to"):
        sysctl["net.ipv4.neigh.default.retrans_time_ms"] = 0
    sysctl["net.ipv4.neigh.default.retrans_time_ms"] = 200
    assert station.table.parms.retrans_time_ms == 200


def test_the_reachable_time_is_random_around_its_base_and_changes(station: Station):
    parms = station.table.parms_of(station.dev)
    first = station.table.reachable_time(parms)
    assert 15_000_000_000 <= first < 45_000_000_000
    assert station.table.reachable_time(parms) == first
    station.run(301)
    assert station.table.reachable_time(parms) != first
    station.net.sysctl["net.ipv4.neigh.eth0.base_reachable_time_ms"] = 1000
    assert 500_000_000 <= station.table.reachable_time(parms) < 1_500_000_000
