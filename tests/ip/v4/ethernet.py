"""A host whose devices are Ethernets: what it sends are frames, and neighbours must be found."""

from __future__ import annotations

from tests.ip.v4.host import PEER, US, Host, Recorder, Sent
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_ETHER
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import arp, ethernet
from usernet.wire.arp import ARPOP_REPLY, ARPOP_REQUEST

MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
OTHER_MAC = bytes.fromhex("020000000003")

Arp = tuple[bytes, int, bytes, bytes, bytes, bytes]
"""An ARP packet sent: destination MAC, operation, sender's MAC and address, target's MAC and address."""


class EthernetHost(Host):
    """`eth0` has MAC 02:00:00:00:00:01; what follows an address by itself has been sent already."""

    def __init__(self) -> None:
        self.arps: list[Arp] = []
        super().__init__()

    def add_device(self, name: str, driver: Recorder | None = None) -> NetDevice:
        if driver is None:
            driver = Recorder(ARPHRD_ETHER)
            driver.mac = MAC[:5] + bytes([len(self.drivers)])
        return super().add_device(name, driver)

    def sent(self, name: str = "eth0") -> list[Sent]:
        found = []
        for frame in self.drivers[name].frames:
            dst, _, proto = ethernet.parse(frame, 0)
            if proto == ethernet.ETH_P_ARP:
                fields = arp.parse(frame, 14)
                self.arps.append((dst, *fields[4:]))
            else:
                found.append(Sent(frame[14:]))
        self.drivers[name].frames.clear()
        return found

    def asked(self, name: str = "eth0") -> list[Arp]:
        """The ARP packets sent since the last call."""
        self.sent(name)
        found, self.arps = self.arps, []
        return found

    def quiet(self) -> None:
        """Let the probes for a new address pass."""
        self.run(10)
        self.asked()

    def frame(self, payload: bytes, proto: int, src: bytes = PEER_MAC, dst: bytes = MAC) -> None:
        """A frame comes in by eth0."""
        self.net.loop.enter()
        try:
            self.eth0.receive(SKBuff(ethernet.build(dst, src, proto) + payload))
        finally:
            self.net.loop.leave()

    def hear(
        self, op: int, sha: bytes, spa: bytes, tpa: bytes, tha: bytes = bytes(6), dst: bytes = ethernet.BROADCAST
    ) -> None:  # fmt: skip
        """An ARP packet comes in by eth0."""
        self.frame(arp.build(op, sha, spa, tha, tpa), ethernet.ETH_P_ARP, sha, dst)

    def answer(self, spa: bytes = PEER, sha: bytes = PEER_MAC) -> None:
        """The neighbour `spa` says where it is."""
        self.hear(ARPOP_REPLY, sha, spa, US, MAC, MAC)

    def ask(self, tpa: bytes, spa: bytes = PEER, sha: bytes = PEER_MAC) -> None:
        """The neighbour `spa` asks for `tpa`."""
        self.hear(ARPOP_REQUEST, sha, spa, tpa)
