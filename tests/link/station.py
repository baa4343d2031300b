"""A host on an Ethernet with ARP and nothing above it, on virtual time."""

from __future__ import annotations

import random

from usernet.core.clock import NSEC_PER_SEC, ManualClock
from usernet.link.arp import Arp, ArpHost
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_ETHER, Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST
from usernet.wire import arp, ethernet, ipv4

START = 1000 * NSEC_PER_SEC
MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
OTHER_MAC = bytes.fromhex("020000000003")


def addr(text: str) -> bytes:
    return ipv4.parse_addr(text)


US = addr("10.0.0.1")
PEER = addr("10.0.0.2")
ANY = bytes(4)


class Ethernet(Driver):
    """A NIC that keeps the frames it is given."""

    queue_length = 0

    def __init__(self, link_type: int = ARPHRD_ETHER) -> None:
        self.link_type = link_type
        self.mac = MAC if link_type == ARPHRD_ETHER else b""
        self.frames: list[bytes] = []

    def open(self, dev: NetDevice) -> None:
        pass

    def stop(self) -> None:
        pass

    def xmit(self, skb: SKBuff) -> bool:
        self.frames.append(skb.tobytes())
        skb.consume()
        return True

    def poll(self, budget: int) -> int:
        return 0


class Addresses(ArpHost):
    """Which addresses there are, as a test says."""

    def __init__(self) -> None:
        self.local = {US}
        self.broadcast = {addr("10.0.0.255")}
        self.accept = False
        self.answer = True
        self.drop_gratuitous = False
        self.failed: list[SKBuff] = []
        self.heard_from: list[tuple[bytes, bytes, bytes]] = []

    def addr_type(self, addr: bytes) -> int:
        if addr in self.local:
            return RTN_LOCAL
        if addr in self.broadcast:
            return RTN_BROADCAST
        return RTN_MULTICAST if addr[0] & 0xF0 == 0xE0 else RTN_UNICAST

    def request_type(self, skb: SKBuff, target: bytes, sender: bytes) -> int:
        return -1 if sender in self.local else self.addr_type(target)

    def answers(self, dev: NetDevice, sender: bytes, target: bytes) -> bool:
        return self.answer

    def accepts(self, dev: NetDevice, sender: bytes) -> bool:
        return self.accept

    def drops_gratuitous(self, dev: NetDevice) -> bool:
        return self.drop_gratuitous

    def source(self, dev: NetDevice, target: bytes, skb: SKBuff | None) -> bytes:
        return US

    def heard(self, dev: NetDevice, sender: bytes, target: bytes, sha: bytes) -> None:
        self.heard_from.append((sender, target, sha))

    def link_failure(self, skb: SKBuff) -> None:
        self.failed.append(skb)


class Station:
    """`eth0` with MAC 02:00:00:00:00:01."""

    def __init__(self, link_type: int = ARPHRD_ETHER) -> None:
        self.clock = ManualClock(START)
        self.net = Net("station", self.clock, random.Random(1))
        self.devices = self.net.get(DeviceNamespace)
        self.arp = self.net.get(Arp)
        self.table = self.arp.table
        self.addresses = Addresses()
        self.arp.host = self.addresses
        self.driver = Ethernet(link_type)
        self.dev = self.devices.register(self.driver, "eth0")
        self.devices.set_up(self.dev)

    def frames(self) -> list[tuple[bytes, bytes, int, bytes]]:
        """What was sent since the last call: destination, source, EtherType, payload."""
        found = [(*ethernet.parse(frame, 0), frame[14:]) for frame in self.driver.frames]
        self.driver.frames.clear()
        return found

    def requests(self) -> list[tuple[bytes, bytes, bytes]]:
        """The ARP requests among them: destination MAC, sender address, target address."""
        found = []
        for dst, _, proto, payload in self.frames():
            if proto == ethernet.ETH_P_ARP:
                fields = arp.parse(payload, 0)
                if fields[4] == arp.ARPOP_REQUEST:
                    found.append((dst, fields[6], fields[8]))
        return found

    def receive(
        self, op: int, sha: bytes, spa: bytes, tha: bytes, tpa: bytes, dst: bytes = MAC, data: bytes | None = None
    ) -> None:  # fmt: skip
        """An ARP packet comes in."""
        payload = data if data is not None else arp.build(op, sha, spa, tha, tpa)
        self.net.loop.enter()
        try:
            self.dev.receive(SKBuff(ethernet.build(dst, sha, ethernet.ETH_P_ARP) + payload))
        finally:
            self.net.loop.leave()

    def reply(self, sha: bytes = PEER_MAC, spa: bytes = PEER) -> None:
        self.receive(arp.ARPOP_REPLY, sha, spa, MAC, US)

    def packet(self, payload: bytes = b"payload") -> SKBuff:
        skb = SKBuff(payload)
        skb.network_header = 0
        skb.protocol = ethernet.ETH_P_IP
        return skb

    def run(self, seconds: float = 0.0) -> None:
        """Let that much time pass, timer by timer."""
        loop = self.net.loop
        end = self.clock.now() + round(seconds * NSEC_PER_SEC)
        while True:
            deadline = loop.poll(self.clock.now())
            if deadline is None or deadline > end:
                break
            self.clock.set(max(deadline, self.clock.now()))
        self.clock.set(end)
        loop.poll(end)

    def dropped(self, reason: DropReason) -> int:
        return self.net.drops.counts.get(reason, 0)

    def close(self) -> None:
        self.net.loop.enter()
        try:
            self.devices.close()
            self.net.close()
        finally:
            self.net.loop.leave()
        assert self.net.loop.timers.pending() == 0
