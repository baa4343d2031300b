"""One host with IPv4 and nothing above it, on virtual time, and the packets to give it.

Its devices have no link header, so nothing asks for neighbours; what it sends is a list of bytes.
"""

from __future__ import annotations

import random

from usernet.core.clock import NSEC_PER_SEC, ManualClock
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.ipv4 import Ipv4
from usernet.ip.v4.route import Ipv4Routes
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport, NetProtocol, Protocols
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_LOOPBACK, ARPHRD_NONE, Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_HOST, SKBuff
from usernet.sock.af_ops import AddressFamily
from usernet.wire import ethernet, ipv4
from usernet.wire.checksum import csum, csum_fold

START = 1000 * NSEC_PER_SEC


def addr(text: str) -> bytes:
    return ipv4.parse_addr(text)


US = addr("10.0.0.1")
PEER = addr("10.0.0.2")
ROUTER = addr("10.0.0.254")
FAR = addr("192.0.2.9")


def packet(
    payload: bytes, *, saddr: bytes = PEER, daddr: bytes = US, protocol: int = 1, ttl: int = 64, ident: int = 7,
    frag_off: int = 0, tos: int = 0, options: bytes = b"",
) -> bytes:  # fmt: skip
    """A whole IPv4 packet."""
    options = ipv4.pad_options(options)
    total = 20 + len(options) + len(payload)
    return ipv4.build(tos, total, ident, frag_off, ttl, protocol, saddr, daddr, options) + payload


class Sent:
    """A packet that the host sent, taken apart."""

    protocol: int
    saddr: bytes
    daddr: bytes

    def __init__(self, data: bytes) -> None:
        ver_ihl, self.tos, self.tot_len, self.ident, self.frag_off, self.ttl, *rest = ipv4.parse(data, 0)
        self.protocol, _, self.saddr, self.daddr = rest  # type: ignore[assignment]
        hlen = (ver_ihl & 15) * 4
        assert ipv4.header_csum_ok(data, 0, hlen)
        assert self.tot_len == len(data)
        self.data = data
        self.options = data[20:hlen]
        self.payload = data[hlen:]

    def checked(self) -> bytes:
        """The payload, whose ICMP or IGMP checksum must be right."""
        assert csum_fold(csum(self.payload, 0, len(self.payload))) == 0
        return self.payload


class Recorder(Driver):
    """A NIC that keeps what it is given."""

    queue_length = 0

    def __init__(self, link_type: int = ARPHRD_NONE) -> None:
        self.link_type = link_type
        self.frames: list[bytes] = []
        self.looped: list[SKBuff] = []
        self.dev: NetDevice | None = None

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def xmit(self, skb: SKBuff) -> bool:
        if self.link_type == ARPHRD_LOOPBACK:
            self.looped.append(SKBuff(skb.tobytes()))
            assert self.dev is not None
            self.dev.net.loop.softirq.schedule(self.dev.napi)
        else:
            self.frames.append(skb.tobytes())
        skb.consume()
        return True

    def poll(self, budget: int) -> int:
        looped, self.looped = self.looped, []
        for skb in looped:
            assert self.dev is not None
            self.dev.napi.receive(skb)
        return len(looped)


class Transport(NetProtocol):
    """A transport that keeps what it is given."""

    def __init__(self, known: bool = True) -> None:
        self.known = known
        self.received: list[bytes] = []
        self.packets: list[SKBuff] = []
        self.errors: list[ErrorReport] = []

    def receive(self, skb: SKBuff) -> None:
        self.received.append(skb.tobytes())
        self.packets.append(skb)
        skb.consume()

    def error(self, report: ErrorReport) -> bool:
        self.errors.append(report)
        return self.known


class Host:
    """A host with `eth0` (10.0.0.1/24) and loopback, and a default route by 10.0.0.254."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.net = Net("host", self.clock, random.Random(1))
        self.devices = self.net.get(DeviceNamespace)
        self.ipv4 = self.net.get(Ipv4)
        self.af: AddressFamily = self.ipv4.af
        self.icmp = self.net.get(Icmp)
        self.addresses = self.net.get(Devinet)
        self.routes = self.net.get(Ipv4Routes)
        self.drivers: dict[str, Recorder] = {}
        self.udp = Transport()
        self.net.get(Protocols).register(17, self.udp)
        lo = self.add_device("lo", Recorder(ARPHRD_LOOPBACK))
        if not self.addresses.of(lo):
            self.addresses.add(lo, addr("127.0.0.1"), 8)
        self.eth0 = self.add_device("eth0")
        self.addresses.add(self.eth0, US, 24)
        self.routes.add(bytes(4), 0, gateway=ROUTER, dev=self.eth0)
        self.run()
        self.sent()

    def add_device(self, name: str, driver: Recorder | None = None) -> NetDevice:
        driver = driver or Recorder()
        self.drivers[name] = driver
        dev = self.devices.register(driver, name)
        self.devices.set_up(dev)
        return dev

    def receive(self, data: bytes, dev: NetDevice | None = None, pkt_type: int = PACKET_HOST) -> None:
        """A packet comes in by `dev` (eth0)."""
        loop = self.net.loop
        loop.enter()
        try:
            skb = SKBuff(data)
            skb.dev = dev or self.eth0
            skb.protocol = ethernet.ETH_P_IP
            skb.pkt_type = pkt_type
            skb.network_header = 0
            skb.dev.receive(skb)
        finally:
            loop.leave()

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

    def sent(self, name: str = "eth0") -> list[Sent]:
        """What left by a device since the last call."""
        frames = self.drivers[name].frames
        found = [Sent(frame) for frame in frames]
        frames.clear()
        return found

    def dropped(self, reason: DropReason) -> int:
        return self.net.drops.counts.get(reason, 0)

    def sysctl(self, name: str, value: int) -> None:
        self.net.sysctl[f"net.ipv4.{name}"] = value

    def close(self) -> None:
        """The host ends; nothing of it may be left."""
        self.net.loop.enter()
        try:
            self.devices.close()
            self.net.close()
        finally:
            self.net.loop.leave()
        assert self.net.loop.timers.pending() == 0
