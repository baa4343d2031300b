from __future__ import annotations

import pytest

from tests.netdevice.packets import ETH_P_TEST, frame, make_dev, make_net, sink, tcp_packet
from usernet.drivers.impair import Impair
from usernet.drivers.veth import VETH_RING_SIZE, Veth, veth
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKBuff


class Pair:
    """Two namespaces with a cable between them."""

    def __init__(self) -> None:
        left, right = veth()
        self.left, self.right = make_net(1), make_net(2)
        self.left_dev, self.right_dev = make_dev(self.left, left), make_dev(self.right, right)
        self.up = sink(self.right, ETH_P_TEST)

    def frame(self, payload: bytes = b"hello") -> SKBuff:
        return frame(payload, self.right_dev.mac)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def drain(net: Net) -> None:
    while net.loop.softirq.pending:
        net.loop.poll(0)


def test_what_one_end_sends_the_other_receives_when_it_is_driven(pair):
    pair.left_dev.queue_xmit(pair.frame())
    assert pair.up == []
    assert pair.left.loop.poll(0) is None
    assert pair.up == []
    drain(pair.right)
    assert [skb.tobytes() for skb in pair.up] == [b"hello"]
    assert pair.right_dev.statistics.rx_packets == pair.left_dev.statistics.tx_packets == 1


def test_the_packet_forgets_where_it_comes_from(pair):
    freed = []
    skb = pair.frame()
    skb.sk, skb.dst, skb.mark, skb.priority, skb.tstamp = object(), object(), 7, 6, 5
    skb.destructor = lambda one: freed.append(one)
    pair.left_dev.queue_xmit(skb)
    assert freed == [skb]
    pair.right.loop.clock.set(1000)
    drain(pair.right)
    (got,) = pair.up
    assert (got.sk, got.dst, got.mark, got.priority) == (None, None, 0, 0)
    assert got.dev is pair.right_dev
    assert got.tstamp == 1000


def test_super_segments_pass_by_reference():
    left, right = make_net(), make_net()
    ends = veth()
    left_dev, right_dev = make_dev(left, ends[0]), make_dev(right, ends[1])
    up = sink(right)
    payload = bytes(60000)
    skb = tcp_packet(payload, gso_size=1448)
    skb.store(0, right_dev.mac)
    left_dev.queue_xmit(skb)
    drain(right)
    assert up[0].frags is not None
    assert up[0].frags[0] is payload
    assert (up[0].gso_size, up[0].ip_summed) == (1448, CHECKSUM_PARTIAL)
    assert left_dev.statistics.tx_packets == right_dev.statistics.rx_packets == 42


def test_the_ring_is_bounded(pair):
    for _ in range(VETH_RING_SIZE + 3):
        pair.left_dev.queue_xmit(pair.frame())
    drain(pair.right)
    assert len(pair.up) == VETH_RING_SIZE
    assert pair.left.drops.counts == {DropReason.FULL_RING: 3}
    assert pair.left_dev.statistics.tx_dropped == 3


def test_without_the_other_end_there_is_no_carrier():
    end, other = veth()
    net, there = make_net(), make_net()
    dev = make_dev(net, end)
    assert not dev.running
    dev.queue_xmit(frame())
    assert net.drops.counts == {DropReason.DEV_READY: 1}
    assert dev.statistics.tx_carrier_errors == dev.statistics.tx_dropped == 1
    far = make_dev(there, other)
    assert dev.running
    far.stop()
    assert not dev.running


def test_an_end_that_goes_down_drops_what_waits_for_it(pair):
    pair.left_dev.queue_xmit(pair.frame())
    pair.right_dev.stop()
    assert pair.right.drops.counts == {DropReason.DEV_DOWN: 1}
    drain(pair.right)
    assert pair.up == []


def test_an_end_that_is_removed_leaves_the_other_without_a_peer(pair):
    pair.right.get(DeviceNamespace).remove(pair.right_dev)
    pair.left_dev.queue_xmit(pair.frame())
    assert pair.left.drops.counts == {DropReason.DEV_READY: 1}
    assert isinstance(pair.left_dev.driver, Veth)
    assert pair.left_dev.driver.peer is None


def test_both_ends_may_be_on_one_stack():
    net = make_net()
    ends = veth()
    a, b = make_dev(net, ends[0], "a"), make_dev(net, ends[1], "b")
    up = sink(net, ETH_P_TEST)
    a.queue_xmit(frame(dst=b.mac))
    b.queue_xmit(frame(dst=a.mac))
    drain(net)
    assert {skb.dev for skb in up} == {a, b}


def test_the_budget_is_kept(pair):
    for _ in range(100):
        pair.left_dev.queue_xmit(pair.frame())
    assert pair.right_dev.driver.poll(30) == 30
    assert len(pair.up) == 30
    assert pair.right_dev.driver.poll(300) == 70


def test_plain_ends_unless_impaired():
    assert [type(end) for end in veth()] == [Veth, Veth]
    assert [type(end) for end in veth(delay=0.010, loss=0.01, rate=100e6, seed=7)] == [Impair, Impair]
    with pytest.raises(ValueError, match="loss"):
        veth(loss=2)


def test_both_ways_are_impaired_each_in_its_own_way():
    lost: list[list[int]] = []
    for _ in range(2):
        ends = veth(loss=0.5, seed=3)
        nets = make_net(1), make_net(2)
        devs: list[NetDevice] = [make_dev(net, end) for net, end in zip(nets, ends, strict=True)]
        ups = [sink(net, ETH_P_TEST) for net in nets]
        for n in range(40):
            devs[0].queue_xmit(frame(bytes([n]), devs[1].mac))
            devs[1].queue_xmit(frame(bytes([n]), devs[0].mac))
        for net in nets:
            drain(net)
        lost += [[skb.tobytes()[0] for skb in up] for up in ups]
    assert lost[0] == lost[2]
    assert lost[1] == lost[3]
    assert lost[0] != lost[1]
    assert all(5 < len(got) < 35 for got in lost)


def test_the_way_back_may_be_another():
    left, right = veth(delay=0.01, loss=0.5, seed=1, back={"loss": 0.0, "rate": 1e6, "buffer": 3000})
    assert repr(left).endswith("delay=0.01, loss=0.5, limit=1000>")
    assert repr(right).endswith("delay=0.01, rate=1e+06, limit=1000, buffer=3000>")
    with pytest.raises(TypeError, match="colour"):
        veth(delay=0.01, back={"colour": 1})
