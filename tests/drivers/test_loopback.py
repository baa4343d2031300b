from __future__ import annotations

from tests.netdevice.packets import ETH_P_TEST, frame, make_dev, make_net, sink, tcp_packet
from usernet.drivers.loopback import MAX_BACKLOG, Loopback
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, PACKET_HOST

HERE = bytes(6)


def test_what_is_sent_is_received_but_not_inside_the_transmit():
    net = make_net()
    lo = make_dev(net, Loopback(), "lo")
    up = sink(net, ETH_P_TEST)
    freed = []
    skb = frame(b"hello", HERE)
    skb.destructor = lambda one: freed.append(1)
    skb.sk = object()
    lo.queue_xmit(skb)
    assert up == []
    assert freed == [1]
    net.loop.poll(0)
    (got,) = up
    assert (got.tobytes(), got.pkt_type, got.sk, got.dst, got.dev) == (b"hello", PACKET_HOST, None, None, lo)
    assert lo.statistics.tx_packets == lo.statistics.rx_packets == 1


def test_super_segments_and_unfilled_checksums_pass_whole():
    net = make_net()
    lo = make_dev(net, Loopback(), "lo")
    up = sink(net)
    payload = bytes(60000)
    skb = tcp_packet(payload, gso_size=1400)
    skb.store(0, HERE)
    lo.queue_xmit(skb)
    net.loop.poll(0)
    assert up[0].ip_summed == CHECKSUM_PARTIAL
    assert (up[0].gso_size, up[0].gso_segs) == (1400, 43)
    assert up[0].frags is not None
    assert up[0].frags[0] is payload
    assert lo.statistics.rx_packets == 43


def test_the_backlog_is_bounded():
    net = make_net()
    lo = make_dev(net, Loopback(), "lo")
    up = sink(net, ETH_P_TEST)
    for _ in range(MAX_BACKLOG + 2):
        lo.queue_xmit(frame(dst=HERE))
    while net.loop.softirq.pending:
        net.loop.poll(0)
    assert len(up) == MAX_BACKLOG
    assert net.drops.counts == {DropReason.CPU_BACKLOG: 2}
    assert lo.statistics.tx_dropped == 2
    assert lo.statistics.tx_packets == MAX_BACKLOG


def test_going_down_drops_what_waits():
    net = make_net()
    lo = make_dev(net, Loopback(), "lo")
    lo.queue_xmit(frame(dst=HERE))
    lo.stop()
    net.loop.poll(0)
    assert net.drops.counts == {DropReason.DEV_DOWN: 1}
    lo.open()
    up = sink(net, ETH_P_TEST)
    lo.queue_xmit(frame(dst=HERE))
    net.loop.poll(0)
    assert len(up) == 1
