"""IPv4 put together: two hosts on a cable, and nothing left when they end."""

from __future__ import annotations

import random

from tests.ip.v4.host import START, Transport, addr
from usernet.core.clock import ManualClock
from usernet.drivers.loopback import Loopback
from usernet.drivers.veth import veth
from usernet.ip.v4.ipv4 import Ipv4
from usernet.net.pernet import Net
from usernet.net.protocols import Protocols
from usernet.netdevice.driver import Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import Flow
from usernet.wire import icmp


class End:
    """A host on one end of a cable."""

    def __init__(self, clock: ManualClock, driver: Driver, text: str) -> None:
        self.net = Net(text, clock, random.Random(text))
        self.ipv4 = self.net.get(Ipv4)
        self.devices = self.net.get(DeviceNamespace)
        self.udp = Transport()
        self.net.get(Protocols).register(17, self.udp)
        lo = self.devices.register(Loopback(), "lo")
        self.devices.set_up(lo)
        self.ipv4.devinet.add(lo, addr("127.0.0.1"), 8)
        self.eth0 = self.devices.register(driver, "eth0")
        self.devices.set_up(self.eth0)
        self.ipv4.devinet.add(self.eth0, addr(text), 24)

    def send(self, daddr: str, payload: bytes, protocol: int) -> None:
        self.net.loop.enter()
        dst = self.ipv4.af.route(Flow(addr(daddr), bytes(4)))
        skb = SKBuff(payload)
        skb.transport_header = 0
        self.ipv4.af.xmit_skb(skb, dst, dst.saddr, dst.daddr, protocol, 0, 0, False)
        self.net.loop.leave()

    def close(self) -> None:
        self.net.loop.enter()
        self.devices.close()
        self.net.close()
        self.net.loop.leave()
        assert self.net.loop.timers.pending() == 0


def test_two_hosts_find_and_answer_each_other():
    clock = ManualClock(START)
    one, other = veth()
    left, right = End(clock, one, "10.0.0.1"), End(clock, other, "10.0.0.2")
    left.send("10.0.0.2", icmp.build(icmp.ICMP_ECHO, 0, 7, b"payload"), 1)
    left.send("10.0.0.2", b"x" * 5000, 17)
    left.send("127.0.0.1", b"to myself", 17)
    for _ in range(6):
        for end in (left, right):
            end.net.loop.poll(clock.now())
    assert right.net.mib.icmp.InEchos == 1
    assert left.net.mib.icmp.InEchoReps == 1
    assert right.udp.received == [b"x" * 5000]
    assert left.udp.received == [b"to myself"]
    # Each has one neighbour on the cable, and one that stands for all on loopback at most.
    assert {neigh.addr for neigh in left.ipv4.arp.table} == {addr("10.0.0.2"), bytes(4)}
    left.close()
    right.close()


def test_two_stacks_do_not_see_each_other_s_addresses():
    clock = ManualClock(START)
    one, other = veth()
    left, right = End(clock, one, "10.0.0.1"), End(clock, other, "10.0.0.2")
    assert left.ipv4.devinet.find(addr("10.0.0.2")) is None
    right.ipv4.devinet.add(right.eth0, addr("10.9.9.9"), 24)
    assert left.ipv4.fib.addr_type(addr("10.9.9.9")) != right.ipv4.fib.addr_type(addr("10.9.9.9"))
    left.close()
    right.close()
