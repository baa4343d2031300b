"""The table of neighbours: its bounds, and what takes entries out of it."""

from __future__ import annotations

import pytest

from tests.link.station import OTHER_MAC, PEER, PEER_MAC, Station, addr
from usernet.link.neighbour import NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, Neighbour


def neighbour(station: Station) -> Neighbour:
    neigh = station.table.lookup(PEER, station.dev)
    assert neigh is not None
    return neigh


def reachable(station: Station) -> Neighbour:
    neigh = neighbour(station)
    neigh.output(station.packet())
    station.reply()
    station.frames()
    return neigh


def test_the_table_is_bounded(station: Station):
    station.net.sysctl["net.ipv4.neigh.default.gc_thresh2"] = 4
    station.net.sysctl["net.ipv4.neigh.default.gc_thresh3"] = 8
    for last in range(8):
        assert station.table.lookup(bytes([10, 0, 1, last]), station.dev) is not None
    station.run(0.01)
    assert station.table.lookup(bytes([10, 0, 1, 8]), station.dev) is None
    assert station.table.table_fulls == 1
    with pytest.raises(OSError, match="table is full"):
        station.table.add(station.dev, PEER, PEER_MAC)
    # What has not changed for five seconds makes room.
    station.run(6)
    assert station.table.lookup(bytes([10, 0, 1, 8]), station.dev) is not None
    assert len(station.table) == 5
    assert station.table.forced_gc_runs >= 1


def test_permanent_ones_do_not_count_and_are_not_collected(station: Station):
    station.net.sysctl["net.ipv4.neigh.default.gc_thresh2"] = 1
    station.net.sysctl["net.ipv4.neigh.default.gc_thresh3"] = 2
    for last in range(5):
        station.table.add(station.dev, bytes([10, 0, 2, last]), PEER_MAC)
    assert station.table.lookup(PEER, station.dev) is not None
    station.run(10)
    assert station.table.lookup(addr("10.0.0.3"), station.dev) is not None
    assert station.table.lookup(addr("10.0.0.4"), station.dev) is not None
    assert sum(neigh.state == NUD_PERMANENT for neigh in station.table) == 5


def test_stale_entries_are_collected_in_time_above_thresh1(station: Station):
    station.net.sysctl["net.ipv4.neigh.default.gc_thresh1"] = 4
    for last in range(6):
        neigh = station.table.lookup(bytes([10, 0, 1, last]), station.dev)
        assert neigh is not None
        neigh.update(PEER_MAC, NUD_STALE)
    station.run(50)
    assert len(station.table) == 6
    station.run(40)
    assert len(station.table) == 0
    assert station.table.periodic_gc_runs > 1


def test_few_entries_are_never_collected_and_arm_no_timer(station: Station):
    neigh = neighbour(station)
    neigh.update(PEER_MAC, NUD_STALE)
    assert station.net.loop.poll(station.clock.now()) is None
    station.run(1000)
    assert len(station.table) == 1


def test_a_device_that_goes_down_loses_its_neighbours(station: Station):
    neigh = reachable(station)
    station.devices.set_down(station.dev)
    assert neigh.dead and len(station.table) == 0


def test_another_link_address_of_the_device_makes_old_headers_void(station: Station):
    neigh = reachable(station)
    station.devices.set_mac(station.dev, OTHER_MAC)
    assert neigh.dead and neigh.hh is None
    fresh = neighbour(station)
    fresh.update(PEER_MAC, NUD_REACHABLE)
    assert fresh.hh == PEER_MAC + OTHER_MAC + b"\x08\x00"


def test_settings_are_by_device_and_follow_its_name(station: Station):
    sysctl = station.net.sysctl
    sysctl["net.ipv4.neigh.eth0.ucast_solicit"] = 7
    assert sysctl["net.ipv4.neigh.default.ucast_solicit"] == 3
    station.devices.rename(station.dev, "wan0")
    assert sysctl["net.ipv4.neigh.wan0.ucast_solicit"] == 7
    assert "net.ipv4.neigh.eth0.ucast_solicit" not in sysctl
    station.devices.remove(station.dev)
    assert "net.ipv4.neigh.wan0.ucast_solicit" not in sysctl
