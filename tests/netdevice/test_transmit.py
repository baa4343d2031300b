from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.net.packet_type import PacketTypes, Tap
from usernet.netdevice.driver import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from usernet.netdevice.transmit import checksum_help, gso_header_length
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, PACKET_OUTGOING, SKB_GSO_TCP_ECN
from usernet.wire import tcp

from .packets import (
    ALL_FEATURES,
    FakeDriver,
    frame,
    make_dev,
    make_net,
    tcp_packet,
    transport_checksum_ok,
    udp_packet,
)


@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=5))
def test_checksum_help_fills_in_what_the_receiver_checks(frags):
    skb = tcp_packet(frags)
    checksum_help(skb)
    assert skb.ip_summed == CHECKSUM_NONE
    assert transport_checksum_ok(skb.tobytes(14))


def test_a_udp_checksum_of_zero_is_sent_as_ones():
    # Of 65,536 two-byte payloads one makes the sum come out as zero.
    for value in range(0x10000):
        skb = udp_packet(value.to_bytes(2, "big"))
        checksum_help(skb)
        check = skb.head[40:42]
        assert check != b"\0\0"
        if check == b"\xff\xff":
            return
    raise AssertionError("no payload gave ffff")


def test_a_device_that_can_gets_a_super_segment_whole():
    net = make_net()
    dev = make_dev(net, driver := FakeDriver())
    skb = tcp_packet(b"p" * 1000, gso_size=400)
    size = skb.len
    dev.queue_xmit(skb)
    assert driver.sent == [skb]
    assert dev.statistics.tx_packets == 3
    # Two more headers of 54 bytes on the wire.
    assert dev.statistics.tx_bytes == size + 2 * 54


@pytest.mark.parametrize("features", [0, NETIF_F_SG, NETIF_F_SG | NETIF_F_HW_CSUM, NETIF_F_SG | NETIF_F_TSO])
def test_for_others_it_is_split_and_completed(features):
    net = make_net()
    dev = make_dev(net, driver := FakeDriver(features))
    payload = bytes(range(250)) * 4
    if features & NETIF_F_TSO:
        payload_skb = tcp_packet(payload, gso_size=400)
        payload_skb.gso_type |= SKB_GSO_TCP_ECN  # a device without TSO_ECN can't do this one
        dev.queue_xmit(payload_skb)
    else:
        dev.queue_xmit(tcp_packet(payload, gso_size=400))
    assert [skb.len - 54 for skb in driver.sent] == [400, 400, 200]
    assert b"".join(skb.tobytes(54) for skb in driver.sent) == payload
    for skb in driver.sent:
        assert skb.gso_size == 0
        if features & NETIF_F_HW_CSUM:
            assert skb.ip_summed == CHECKSUM_PARTIAL
            checksum_help(skb)
        assert transport_checksum_ok(skb.tobytes(14))
        assert features & NETIF_F_SG or not skb.data_len
    assert dev.statistics.tx_packets == 3
    assert dev.statistics.tx_bytes == 1000 + 3 * 54


def test_segments_wait_in_order_while_the_driver_is_full_and_the_account_is_given_back_once():
    net = make_net()
    dev = make_dev(net, driver := FakeDriver(NETIF_F_SG, room=1))
    freed = []
    skb = tcp_packet(b"p" * 1000, gso_size=400)
    skb.destructor = lambda one: freed.append(one.truesize)
    truesize = skb.truesize
    dev.queue_xmit(skb)
    later = tcp_packet(b"last", seq=1001)
    dev.queue_xmit(later)
    assert len(driver.sent) == 1
    assert dev.transmit.waiting
    assert freed == []
    driver.room = 1
    dev.wake_queue()
    assert len(driver.sent) == 2
    assert freed == []
    driver.room = 10
    dev.wake_queue()
    assert [one.tobytes(54) for one in driver.sent[2:]] == [b"p" * 200, b"last"]
    assert freed == [truesize]


def test_segments_that_wait_are_dropped_when_the_device_goes_down():
    net = make_net()
    dev = make_dev(net, FakeDriver(NETIF_F_SG, room=1))
    freed = []
    skb = tcp_packet(b"p" * 1000, gso_size=400)
    skb.destructor = lambda one: freed.append(1)
    dev.queue_xmit(skb)
    dev.stop()
    assert net.drops.counts == {DropReason.DEV_DOWN: 2}
    assert freed == [1]


def test_a_super_segment_that_is_none_is_dropped():
    net = make_net()
    dev = make_dev(net, driver := FakeDriver(0))
    skb = frame()
    skb.gso_size, skb.gso_type, skb.gso_segs = 10, 1, 5
    dev.queue_xmit(skb)
    assert not driver.sent
    assert net.drops.counts == {DropReason.SKB_GSO_SEG: 1}
    assert dev.statistics.tx_dropped == 1


def test_taps_see_what_the_driver_is_given():
    net = make_net()
    dev = make_dev(net, FakeDriver(NETIF_F_SG))
    seen = []
    net.get(PacketTypes).add_tap(Tap(lambda skb: seen.append((skb.pkt_type, skb.len, skb.data - skb.mac_header))))
    dev.queue_xmit(tcp_packet(b"p" * 500, gso_size=400))
    assert seen == [(PACKET_OUTGOING, 440, 14), (PACKET_OUTGOING, 140, 14)]


def test_what_the_driver_drops_is_not_counted_as_sent():
    class Refusing(FakeDriver):
        def xmit(self, skb):
            assert self.dev is not None
            self.dev.statistics.tx_errors += 1
            skb.drop(DropReason.LINK_FAILURE, self.dev.net.drops)
            return True

    net = make_net()
    dev = make_dev(net, Refusing())
    told = []
    net.trace.net_dev_xmit.attach(lambda skb, accepted: told.append((skb.len, accepted)))
    dev.queue_xmit(frame())
    assert (dev.statistics.tx_packets, dev.statistics.tx_bytes, dev.statistics.tx_errors) == (0, 0, 1)
    assert told == [(64, False)]


def test_header_length_is_of_all_headers():
    assert gso_header_length(tcp_packet(b"p" * 10, gso_size=5, options=bytes(12))) == 66
    assert gso_header_length(udp_packet(b"p" * 10, gso_size=5)) == 42
    assert gso_header_length(frame()) == 0
    assert tcp.TCP_HLEN == 20
    assert ALL_FEATURES & NETIF_F_SG
