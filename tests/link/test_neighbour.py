"""Neighbour states and their timers, the queue of what waits, and what needs no resolution."""

from __future__ import annotations

import pytest

from tests.link.station import MAC, OTHER_MAC, PEER, PEER_MAC, US, Station, addr
from usernet.link.neighbour import (
    NEIGH_UPDATE_F_ADMIN,
    NEIGH_UPDATE_F_OVERRIDE,
    NEIGH_UPDATE_F_WEAK_OVERRIDE,
    NUD_DELAY,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_NONE,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    Neighbour,
)
from usernet.netdevice.driver import ARPHRD_LOOPBACK, ARPHRD_NONE
from usernet.skbuff.dropreason import DropReason
from usernet.wire import ethernet


def neighbour(station: Station, text: str = "10.0.0.2") -> Neighbour:
    neigh = station.table.lookup(addr(text), station.dev)
    assert neigh is not None
    return neigh


def test_a_new_neighbour_is_asked_for_by_broadcast_and_the_packet_waits(station: Station):
    neigh = neighbour(station)
    assert neigh.state == NUD_NONE
    assert neigh.output(station.packet()) == 0
    assert neigh.state == NUD_INCOMPLETE
    assert neigh.waiting == 1
    assert station.requests() == [(ethernet.BROADCAST, US, PEER)]


def test_the_answer_sends_what_waits_in_order(station: Station):
    neigh = neighbour(station)
    for number in range(3):
        neigh.output(station.packet(b"packet %d" % number))
    station.frames()
    station.reply()
    assert neigh.state == NUD_REACHABLE
    assert [(dst, payload) for dst, _, _, payload in station.frames()] == [
        (PEER_MAC, b"packet 0"), (PEER_MAC, b"packet 1"), (PEER_MAC, b"packet 2"),
    ]  # fmt: skip
    assert neigh.waiting == 0 and neigh.queue_bytes == 0


def test_a_reachable_neighbour_has_its_whole_header(station: Station):
    neigh = neighbour(station)
    neigh.output(station.packet())
    station.reply()
    station.frames()
    assert neigh.hh == PEER_MAC + MAC + b"\x08\x00"
    neigh.output(station.packet(b"x"))
    assert station.frames() == [(PEER_MAC, MAC, ethernet.ETH_P_IP, b"x")]


def test_three_unanswered_requests_fail_and_tell_the_sender(station: Station):
    neigh = neighbour(station)
    neigh.output(station.packet())
    station.run(2.9)
    assert neigh.state == NUD_INCOMPLETE
    assert len(station.requests()) == 3
    station.run(0.2)
    assert neigh.state == NUD_FAILED
    assert station.requests() == []
    assert len(station.addresses.failed) == 1
    assert station.dropped(DropReason.NEIGH_FAILED) == 1
    assert station.table.res_failed == 1


def test_a_failed_neighbour_is_asked_for_again_when_there_is_something_to_send(station: Station):
    neigh = neighbour(station)
    neigh.output(station.packet())
    station.run(5)
    station.frames()
    neigh.output(station.packet())
    assert neigh.state == NUD_INCOMPLETE
    assert len(station.requests()) == 1
    station.reply()
    assert neigh.state == NUD_REACHABLE


def reachable(station: Station) -> Neighbour:
    neigh = neighbour(station)
    neigh.output(station.packet())
    station.reply()
    station.frames()
    return neigh


def test_what_is_not_confirmed_becomes_stale_and_keeps_its_address(station: Station):
    neigh = reachable(station)
    station.run(46)  # at most 1.5 times the base of 30 s
    assert neigh.state == NUD_STALE
    assert neigh.hh is None and neigh.ha == PEER_MAC
    assert station.frames() == []


def test_confirmation_by_upper_layers_keeps_it_reachable(station: Station):
    neigh = reachable(station)
    for _ in range(60):
        station.run(5)
        neigh.confirm()
    assert neigh.state == NUD_REACHABLE


def test_a_packet_to_a_stale_one_is_sent_at_once_and_starts_the_delay(station: Station):
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet(b"x"))
    assert neigh.state == NUD_DELAY
    assert station.frames() == [(PEER_MAC, MAC, ethernet.ETH_P_IP, b"x")]


def test_confirmation_during_the_delay_makes_it_reachable_without_a_probe(station: Station):
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet())
    station.frames()
    station.run(2)
    neigh.confirm()
    station.run(4)
    assert neigh.state == NUD_REACHABLE
    assert station.frames() == []


def test_after_the_delay_it_is_probed_directly_then_fails(station: Station):
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet())
    station.frames()
    station.run(5.1)
    assert neigh.state == NUD_PROBE
    assert station.requests() == [(PEER_MAC, US, PEER)]
    station.run(1)
    assert station.requests() == [(PEER_MAC, US, PEER)]
    station.run(1)
    assert station.requests() == [(PEER_MAC, US, PEER)]
    assert neigh.state == NUD_PROBE
    station.run(1)
    assert neigh.state == NUD_FAILED


def test_packets_are_sent_during_the_probes(station: Station):
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet())
    station.run(5.1)
    station.frames()
    neigh.output(station.packet(b"y"))
    assert station.frames() == [(PEER_MAC, MAC, ethernet.ETH_P_IP, b"y")]


def test_an_answer_to_a_probe_makes_it_reachable(station: Station):
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet())
    station.run(5.1)
    station.reply()
    assert neigh.state == NUD_REACHABLE


def test_mcast_resolicit_probes_go_to_all_in_the_end(station: Station):
    station.net.sysctl["net.ipv4.neigh.eth0.mcast_resolicit"] = 1
    neigh = reachable(station)
    station.run(46)
    neigh.output(station.packet())
    station.frames()
    station.run(9)
    assert [dst for dst, _, _ in station.requests()] == [PEER_MAC] * 3 + [ethernet.BROADCAST]


def test_the_queue_is_bounded_and_the_oldest_goes(station: Station):
    station.net.sysctl["net.ipv4.neigh.eth0.unres_qlen_bytes"] = 3 * station.packet().truesize
    neigh = neighbour(station)
    for number in range(5):
        neigh.output(station.packet(b"packet%d" % number))
    assert neigh.waiting == 3
    assert station.dropped(DropReason.NEIGH_QUEUEFULL) == 2
    assert station.table.unres_discards == 2
    station.frames()
    station.reply()
    assert [payload for _, _, _, payload in station.frames()] == [b"packet2", b"packet3", b"packet4"]


def test_a_packet_larger_than_the_bound_is_kept_alone(station: Station):
    station.net.sysctl["net.ipv4.neigh.eth0.unres_qlen_bytes"] = 0
    neigh = neighbour(station)
    neigh.output(station.packet(b"1"))
    neigh.output(station.packet(b"2"))
    assert neigh.waiting == 1
    station.frames()
    station.reply()
    assert [payload for _, _, _, payload in station.frames()] == [b"2"]


def test_a_permanent_one_is_not_changed_by_what_is_received(station: Station):
    neigh = station.table.add(station.dev, PEER, PEER_MAC)
    assert neigh.state == NUD_PERMANENT
    station.reply(OTHER_MAC)
    assert neigh.ha == PEER_MAC
    station.run(1000)
    assert neigh.state == NUD_PERMANENT
    neigh.output(station.packet(b"x"))
    assert station.frames()[0][0] == PEER_MAC


def test_an_administrator_replaces_what_was_learned(station: Station):
    neigh = reachable(station)
    station.table.add(station.dev, PEER, OTHER_MAC, NUD_PERMANENT)
    assert neigh.ha == OTHER_MAC
    assert neigh.hh is not None and neigh.hh[:6] == OTHER_MAC
    station.table.add(station.dev, PEER, OTHER_MAC, NUD_STALE)
    assert neigh.state == NUD_STALE


def test_a_bad_link_address_is_refused(station: Station):
    with pytest.raises(ValueError, match="expected 6 bytes"):
        station.table.add(station.dev, PEER, b"short")
    assert len(station.table) == 0


def test_a_removed_one_drops_what_waits(station: Station):
    neigh = neighbour(station)
    neigh.output(station.packet())
    assert station.table.remove(station.dev, PEER)
    assert neigh.dead
    assert station.dropped(DropReason.NEIGH_DEAD) == 1
    assert not station.table.remove(station.dev, PEER)
    neigh.output(station.packet())
    assert station.dropped(DropReason.NEIGH_DEAD) == 2
    assert not neigh.update(PEER_MAC, NUD_REACHABLE)


def test_a_weak_override_makes_a_connected_one_stale_and_keeps_its_address(station: Station):
    neigh = reachable(station)
    neigh.update(OTHER_MAC, NUD_REACHABLE, NEIGH_UPDATE_F_WEAK_OVERRIDE)
    assert (neigh.state, neigh.ha) == (NUD_STALE, PEER_MAC)
    neigh.update(OTHER_MAC, NUD_REACHABLE)
    assert (neigh.state, neigh.ha) == (NUD_STALE, PEER_MAC)
    neigh.update(OTHER_MAC, NUD_REACHABLE, NEIGH_UPDATE_F_OVERRIDE)
    assert (neigh.state, neigh.ha) == (NUD_REACHABLE, OTHER_MAC)


def test_nothing_is_learned_without_an_address(station: Station):
    neigh = neighbour(station)
    assert not neigh.update(None, NUD_REACHABLE, NEIGH_UPDATE_F_ADMIN)
    assert neigh.state == NUD_NONE
    neigh.update(None, NUD_FAILED, NEIGH_UPDATE_F_ADMIN)
    assert neigh.state == NUD_FAILED


def test_without_probes_nothing_is_resolved(station: Station):
    station.net.sysctl["net.ipv4.neigh.eth0.mcast_solicit"] = 0
    neigh = neighbour(station)
    neigh.output(station.packet())
    assert neigh.state == NUD_FAILED
    assert station.dropped(DropReason.NEIGH_FAILED) == 1
    assert station.frames() == []


def test_app_solicit_leaves_probes_to_a_program(station: Station):
    station.net.sysctl["net.ipv4.neigh.eth0.app_solicit"] = 2
    station.net.sysctl["net.ipv4.neigh.eth0.mcast_solicit"] = 1
    neigh = neighbour(station)
    neigh.output(station.packet())
    assert station.requests() == []
    station.run(2.5)
    assert len(station.requests()) == 1
    station.run(1)
    assert neigh.state == NUD_FAILED


def test_multicast_broadcast_and_loopback_need_no_resolution(station: Station):
    group = neighbour(station, "224.0.0.251")
    assert (group.state, group.ha) == (NUD_NOARP, bytes.fromhex("01005e0000fb"))
    everyone = neighbour(station, "10.0.0.255")
    assert (everyone.state, everyone.ha) == (NUD_NOARP, ethernet.BROADCAST)
    everyone.output(station.packet(b"x"))
    assert station.frames() == [(ethernet.BROADCAST, MAC, ethernet.ETH_P_IP, b"x")]


@pytest.mark.parametrize("link_type", [ARPHRD_NONE, ARPHRD_LOOPBACK])
def test_devices_without_neighbours_have_one_for_all(link_type: int):
    station = Station(link_type)
    neigh = neighbour(station)
    assert neigh.state == NUD_NOARP
    assert neighbour(station, "192.0.2.1") is neigh
    neigh.output(station.packet(b"x"))
    header = b"" if link_type == ARPHRD_NONE else bytes(12) + b"\x08\x00"
    assert station.driver.frames == [header + b"x"]
    station.close()


def test_changes_of_state_are_traced(station: Station):
    seen: list[tuple[int, int]] = []
    station.net.trace.neigh_update.attach(lambda neigh, old, new: seen.append((old, new)))
    reachable(station)
    assert seen == [(NUD_NONE, NUD_INCOMPLETE), (NUD_INCOMPLETE, NUD_REACHABLE)]
