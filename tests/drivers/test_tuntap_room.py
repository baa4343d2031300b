"""A TAP that has no room for now, with a pipe for its device file: the kernel's own never fills."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netdevice.packets import make_dev, make_net, offload_of, tcp_packet
from tests.support import netns
from usernet.drivers.tuntap import Tap
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.skbuff import SKBuff

pytestmark = netns.INTEROP


@contextmanager
def piped(flags: int = 0) -> Iterator[tuple[NetDevice, int]]:
    """A device on a TAP without offload, and the descriptor where what it writes is read."""
    reader, writer = os.pipe2(os.O_NONBLOCK | flags)
    try:
        with netns.Netns("pipe") as namespace:
            tap = Tap("dut", offload=False, netns=namespace.name)
            real, tap._fd = tap._fd, writer
            net = make_net()
            dev = make_dev(net, tap)
            yield dev, reader
            tap._fd = real
            net.get(DeviceNamespace).remove(dev)
    finally:
        os.close(reader)
        os.close(writer)


def written(reader: int) -> list[bytes]:
    """The packets in a pipe that keeps them apart (O_DIRECT)."""
    found = []
    try:
        while True:
            found.append(os.read(reader, 1 << 16))
    except BlockingIOError:
        return found


def test_a_full_queue_stops_and_goes_on():
    with piped() as (dev, reader):
        packet = SKBuff(bytes(40_000))
        sent = 0
        while not dev.stopped:
            dev.queue_xmit(packet.clone())
            sent += 1
        assert dev.qdisc.qlen == 1
        os.read(reader, 1 << 20)
        dev.driver.poll(1)
        assert not dev.stopped
        assert dev.qdisc.qlen == 0
        assert dev.statistics.tx_packets == sent


def test_a_queue_full_in_the_middle_of_a_super_segment_loses_nothing_and_keeps_the_order():
    payload = b"".join(number.to_bytes(4, "big") for number in range(10_000))
    segments = offload_of(make_net()).gso_segment(_super_segment(payload))
    for segment in segments:
        checksum_help(segment)
    freed: list[SKBuff] = []
    with piped(os.O_DIRECT) as (dev, reader):
        skb = _super_segment(payload)
        skb.destructor = freed.append
        dev.queue_xmit(skb)
        dev.queue_xmit(SKBuff(b"the next"))
        found: list[bytes] = []
        pauses = 0
        while dev.stopped:
            assert not freed
            found += written(reader)
            dev.driver.poll(1)
            pauses += 1
        found += written(reader)
        assert pauses > 1
        assert found == [*(segment.tobytes() for segment in segments), b"the next"]
        assert freed == [skb]
        assert dev.statistics.tx_packets == len(found)
        assert dev.statistics.tx_bytes == sum(map(len, found))
        assert dev.statistics.tx_errors == dev.statistics.tx_dropped == 0


def _super_segment(payload: bytes) -> SKBuff:
    skb = tcp_packet(payload, gso_size=1000)
    skb.network_header = 14
    return skb
