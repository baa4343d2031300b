"""ARP packets: which are answered, what is learned from them, which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.station import ANY, MAC, OTHER_MAC, PEER, PEER_MAC, US, Station, addr
from usernet.link.neighbour import NUD_REACHABLE, NUD_STALE
from usernet.skbuff.dropreason import DropReason
from usernet.wire import arp, ethernet
from usernet.wire.arp import ARPOP_REPLY, ARPOP_REQUEST


def test_a_request_for_our_address_is_answered_and_the_asker_remembered(station: Station):
    station.receive(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US, ethernet.BROADCAST)
    assert station.frames() == [(PEER_MAC, MAC, ethernet.ETH_P_ARP, arp.build(ARPOP_REPLY, MAC, US, PEER_MAC, PEER))]
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and (neigh.state, neigh.ha) == (NUD_STALE, PEER_MAC)


def test_a_request_for_another_address_is_not_answered_nor_remembered(station: Station):
    station.receive(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), addr("10.0.0.77"), ethernet.BROADCAST)
    assert station.frames() == []
    assert len(station.table) == 0


def test_a_request_may_be_left_unanswered_by_a_setting(station: Station):
    station.addresses.answer = False
    station.receive(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US)
    assert station.frames() == []
    assert len(station.table) == 0


def test_a_probe_for_our_address_is_answered_and_nothing_remembered(station: Station):
    station.receive(ARPOP_REQUEST, PEER_MAC, ANY, bytes(6), US, ethernet.BROADCAST)
    assert station.frames() == [(PEER_MAC, MAC, ethernet.ETH_P_ARP, arp.build(ARPOP_REPLY, MAC, US, PEER_MAC, ANY))]
    assert len(station.table) == 0
    assert station.arp.mib.InProbes == 1


def test_an_unasked_for_answer_makes_no_entry(station: Station):
    station.reply()
    assert len(station.table) == 0


def test_arp_accept_makes_entries_of_answers_and_announcements(station: Station):
    station.addresses.accept = True
    station.reply()
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and neigh.state == NUD_REACHABLE
    other = addr("10.0.0.3")
    station.receive(ARPOP_REQUEST, OTHER_MAC, other, bytes(6), other, ethernet.BROADCAST)
    neigh = station.table.find(other, station.dev)
    assert neigh is not None and (neigh.state, neigh.ha) == (NUD_STALE, OTHER_MAC)


def test_arp_accept_makes_no_entry_of_others_requests(station: Station):
    station.addresses.accept = True
    station.receive(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), addr("10.0.0.77"), ethernet.BROADCAST)
    assert len(station.table) == 0


def known(station: Station) -> None:
    neigh = station.table.lookup(PEER, station.dev)
    assert neigh is not None
    neigh.update(PEER_MAC, NUD_REACHABLE)


def test_an_announcement_updates_a_known_neighbour_at_once(station: Station):
    known(station)
    station.receive(ARPOP_REQUEST, OTHER_MAC, PEER, bytes(6), PEER, ethernet.BROADCAST)
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and (neigh.state, neigh.ha) == (NUD_STALE, OTHER_MAC)
    assert station.arp.mib.InGratuitous == 1


def test_a_gratuitous_answer_must_name_its_sender_twice(station: Station):
    known(station)
    station.receive(ARPOP_REPLY, OTHER_MAC, PEER, bytes(6), PEER, ethernet.BROADCAST)
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and neigh.ha == PEER_MAC
    station.receive(ARPOP_REPLY, OTHER_MAC, PEER, OTHER_MAC, PEER, ethernet.BROADCAST)
    assert neigh.ha == OTHER_MAC


def test_of_two_answers_the_first_counts_for_a_second(station: Station):
    known(station)
    station.run(0.5)
    station.reply(OTHER_MAC)
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and neigh.ha == PEER_MAC
    station.run(0.6)
    station.reply(OTHER_MAC)
    assert (neigh.ha, neigh.state) == (OTHER_MAC, NUD_REACHABLE)


def test_a_broadcast_answer_does_not_show_that_we_are_heard(station: Station):
    known(station)
    station.run(2)
    station.receive(ARPOP_REPLY, OTHER_MAC, PEER, MAC, US, ethernet.BROADCAST)
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and (neigh.state, neigh.ha) == (NUD_STALE, OTHER_MAC)


def test_gratuitous_packets_may_be_dropped(station: Station):
    station.addresses.drop_gratuitous = True
    known(station)
    station.receive(ARPOP_REQUEST, OTHER_MAC, PEER, bytes(6), PEER, ethernet.BROADCAST)
    neigh = station.table.find(PEER, station.dev)
    assert neigh is not None and neigh.ha == PEER_MAC
    assert station.dropped(DropReason.ARP_INVALID) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US)[:27],
        b"\x00\x05" + arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US)[2:],
        arp.build(3, PEER_MAC, PEER, bytes(6), US),
        arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), addr("127.0.0.1")),
        arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), addr("224.0.0.1")),
        arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US).replace(b"\x06\x04", b"\x08\x04"),
        arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US).replace(b"\x08\x00\x06", b"\x86\xdd\x06"),
    ],
    ids=["empty", "cut", "hardware", "op", "loopback", "group", "hlen", "protocol"],
)
def test_bad_packets_are_refused_and_counted(station: Station, data: bytes):
    station.receive(0, PEER_MAC, PEER, b"", b"", data=data)
    assert station.frames() == []
    assert station.arp.mib.InErrors == 1
    assert station.dropped(DropReason.ARP_INVALID) == 1


def test_padding_does_no_harm(station: Station):
    data = arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US) + bytes(18)
    station.receive(0, PEER_MAC, PEER, b"", b"", data=data)
    assert len(station.frames()) == 1


def test_ieee_802_hardware_is_taken_too(station: Station):
    data = b"\x00\x06" + arp.build(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US)[2:]
    station.receive(0, PEER_MAC, PEER, b"", b"", data=data)
    assert len(station.frames()) == 1


def test_frames_for_others_are_left_alone(station: Station):
    station.receive(ARPOP_REQUEST, PEER_MAC, PEER, bytes(6), US, dst=OTHER_MAC)
    assert station.frames() == []
    assert station.arp.mib.InRequests == 0


def test_an_announcement_bears_our_address_twice(station: Station):
    station.arp.announce(station.dev, US)
    assert station.frames() == [
        (ethernet.BROADCAST, MAC, ethernet.ETH_P_ARP, arp.build(ARPOP_REQUEST, MAC, US, MAC, US))
    ]


def test_a_probe_bears_no_sender(station: Station):
    station.arp.probe(station.dev, US)
    assert station.frames() == [
        (ethernet.BROADCAST, MAC, ethernet.ETH_P_ARP, arp.build(ARPOP_REQUEST, MAC, ANY, bytes(6), US))
    ]


def test_the_host_hears_of_every_sender(station: Station):
    station.receive(ARPOP_REQUEST, PEER_MAC, US, bytes(6), PEER, ethernet.BROADCAST)
    assert station.addresses.heard_from == [(US, PEER, PEER_MAC)]


@given(st.binary(max_size=64), st.sampled_from([MAC, ethernet.BROADCAST]))
def test_any_frame_is_survived(data: bytes, dst: bytes):
    station = Station()
    station.receive(0, PEER_MAC, PEER, b"", b"", dst=dst, data=data)
    assert len(station.table) <= 1
    station.close()


@given(
    st.sampled_from([ARPOP_REQUEST, ARPOP_REPLY]),
    st.sampled_from([PEER, US, ANY, addr("255.255.255.255"), addr("10.0.0.255")]),
    st.sampled_from([PEER, US, ANY, addr("10.0.0.9")]),
    st.booleans(),
)
def test_any_mixture_of_addresses_is_survived(op: int, spa: bytes, tpa: bytes, accept: bool):
    station = Station()
    station.addresses.accept = accept
    station.receive(op, PEER_MAC, spa, bytes(6), tpa)
    # Only who asked for us is answered, and nobody is told of an address that isn't ours.
    for _, _, _, payload in station.frames():
        assert arp.parse(payload, 0)[6] == US
    station.close()
