"""A bad link in front of any driver: delay, jitter, rate, loss, duplication, corruption, reordering, a queue limit.

`Impair` wraps a driver and is one (Linux: net/sched/sch_netem.c, tc-netem(8), whose terms these are). What is sent, and
what is received, passes a `Pipe` (drivers/pipe), each way its own with its own source of randomness, so two runs with
one seed lose the same packets.

Where a fraction is set (loss, duplicate, corrupt, reorder) it is of packets on the wire, and a queue measured in bytes
is one of such packets. So super-segments are then taken apart: the device no longer has TSO and USO, and received ones
are split before the pipe (GRO joins again what arrives together). With nothing but delay, jitter and rate they pass
whole, as in netem; a super-segment occupies the link for as long as its packets would, and arrives when its last byte
does.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.errors import check_type
from usernet.drivers.pipe import Impairment, Pipe
from usernet.net.offload import Offloads
from usernet.net.pernet import Net
from usernet.netdevice.driver import (
    ARPHRD_NONE,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.netdevice.napi import NicNapi
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import ethernet

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice
    from usernet.netdevice.statistics import LinkStats

SUPER_SEGMENTS: Final = NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_GSO_UDP_L4


@final
class PortNapi(NicNapi):
    """The Napi that the wrapped driver sees: what it receives enters the pipe, each packet to a fate of its own."""

    def __init__(self, owner: Impair, dev: NetDevice) -> None:
        super().__init__()
        self._owner = owner
        self._dev = dev

    def poll(self, budget: int) -> int:
        return self._dev.napi.poll(budget)

    def receive(self, skb: SKBuff) -> None:
        self._owner.receive(skb)


@final
class Port:
    """The device that the wrapped driver sees: the real one, but for receiving and for who is told of room.

    Has what drivers use of a `NetDevice`; all else it asks of the real one.
    """

    def __init__(self, owner: Impair, dev: NetDevice) -> None:
        self._owner = owner
        self._dev = dev
        self.napi: NicNapi = PortNapi(owner, dev) if owner.receiving else dev.napi
        self.net: Net = dev.net
        self.statistics: LinkStats = dev.statistics
        self.hard_header_len: int = dev.hard_header_len

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dev, name)

    def receive(self, skb: SKBuff) -> None:
        self._owner.receive(skb)

    def wake_queue(self) -> None:
        self._owner.resume()


@final
class Impair(Driver):
    """A driver with a bad link behind it: `Impair(Tap("tap0"), delay=0.05, loss=0.02, reorder=0.1)`."""

    def __init__(
        self,
        driver: Driver,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        rate: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        reorder: float = 0.0,
        limit: int = 1000,
        buffer: int = 0,
        ecn_threshold: int = 0,
        seed: int | None = None,
        send: bool = True,
        receive: bool = True,
    ) -> None:
        """Put the link described in front of `driver`, both ways unless `send` or `receive` is False.

        delay: seconds, one way. jitter: seconds; each packet's delay is drawn from delay ± jitter, so they may overtake
        one another. rate: bit/s; packets are sent one after the other, none while another is. loss, duplicate, corrupt
        (one bit turned over), reorder: the fraction of packets, 0 to 1, that this happens to. A packet to be reordered
        skips the delay and so overtakes those before it; on a link without delay it is held back for 1 ms. limit: with
        a rate, packets that wait for their turn; without, packets on their way; one more is dropped with
        QDISC_OVERLIMIT. buffer: with a rate, bytes in the link's queue, the packet that is being sent among them; what
        finds no room is dropped likewise. ecn_threshold: with a rate, bytes; a packet that finds more in the queue is
        marked (CE) if it is ECN-capable. seed: of this link's chance; None: drawn from the stack's source of randomness
        when opened.

        Raises ValueError for a value out of its bounds, naming it.
        """
        check_type("driver", driver, Driver, "the driver that the link is put in front of")
        self.driver = driver
        self.sending: bool = send
        self.receiving: bool = receive
        self._what = Impairment(
            delay, jitter, rate, loss, duplicate, corrupt, reorder, limit, buffer, ecn_threshold
        )
        self._settings: dict[str, float] = {
            "delay": delay, "jitter": jitter, "rate": rate, "loss": loss, "duplicate": duplicate, "corrupt": corrupt,
            "reorder": reorder, "limit": limit, "buffer": buffer, "ecn_threshold": ecn_threshold,
        }  # fmt: skip
        self._seed = seed
        self._sources: tuple[random.Random, random.Random] | None = None
        self.sent: Pipe | None = None
        """The pipe of what is sent, with its counters; None before the device was up, or where it isn't impaired."""
        self.received: Pipe | None = None
        self._dev: NetDevice | None = None
        self._port: Port | None = None
        self._due: deque[SKBuff] = deque()
        self._arrived: deque[SKBuff] = deque()
        self._polling: bool = False
        nic: Any = driver
        self.hw_features = (
            nic.hw_features & ~SUPER_SEGMENTS if send and self._what.packetwise else nic.hw_features
        )
        self.link_type = nic.link_type
        self.mac = nic.mac
        self.mtu = nic.mtu
        self.min_mtu = nic.min_mtu
        self.max_mtu = nic.max_mtu
        self.tso_max_size = nic.tso_max_size
        self.queue_length = nic.queue_length
        self.kind = nic.kind

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:g}" for name, value in self._settings.items() if value)
        return f"<Impair {self.driver!r} {shown}>"

    def change(self, **settings: float) -> None:
        """Change some of the link's settings from the next packet on: `impair.change(loss=0.5)`.

        Raises TypeError for a setting that there is none of, ValueError as the constructor; nothing is changed then.
        """
        unknown = settings.keys() - self._settings.keys()
        if unknown:
            raise TypeError(f"settings: expected some of {', '.join(self._settings)}, not {min(unknown)!r}")
        merged: dict[str, Any] = self._settings | settings
        what = Impairment(**merged)
        self._settings = merged
        self._what = what
        for pipe in (self.sent, self.received):
            if pipe is not None:
                pipe.what = what

    # -- towards the stack

    def open(self, dev: NetDevice) -> None:
        if self._sources is None:
            seed = self._seed if self._seed is not None else dev.net.random.getrandbits(64)
            source = random.Random(seed)
            self._sources = source, random.Random(source.getrandbits(64))
        header = dev.hard_header_len
        if self.sending:
            self.sent = Pipe(dev.net, self._what, self._sources[0], self._transmit, self._send_overflow, header)
        if self.receiving:
            self.received = Pipe(dev.net, self._what, self._sources[1], self._arrive, self._receive_overflow, header)
        self._dev = dev
        self._port = Port(self, dev)
        try:
            self.driver.open(self._port)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        dev = self._dev
        self._dev = self._port = None
        for pipe in (self.sent, self.received):
            if pipe is not None:
                pipe.close()
        for queue in (self._due, self._arrived):
            while queue and dev is not None:
                queue.popleft().drop(DropReason.DEV_DOWN, dev.net.drops)

    def stop(self) -> None:
        self.driver.stop()
        self._let_go()

    def close(self) -> None:
        self.driver.close()

    def fileno(self) -> int:
        return self.driver.fileno()

    def carrier(self) -> bool:
        return self.driver.carrier()

    def set_mtu(self, mtu: int) -> None:
        self.driver.set_mtu(mtu)

    def set_mac(self, mac: bytes) -> None:
        self.driver.set_mac(mac)

    # -- sending

    def xmit(self, skb: SKBuff) -> bool:
        pipe = self.sent
        if pipe is None:
            return self.driver.xmit(skb)
        if self._dev is None:
            return False
        skb.mac_header = skb.data
        if skb.gso_size and self._what.packetwise:
            for segment in self._split(skb):
                pipe.send(segment)
        else:
            pipe.send(skb)
        return True

    def _transmit(self, skb: SKBuff) -> None:
        if self._due or not self.driver.xmit(skb):
            self._due.append(skb)

    def resume(self) -> None:
        """The wrapped driver has room again: what is due goes first, then the device's queue."""
        due = self._due
        while due:
            if not self.driver.xmit(due[0]):
                return
            due.popleft()
        if self._dev is not None:
            self._dev.wake_queue()

    def _send_overflow(self, skb: SKBuff) -> None:
        dev = self._dev
        if dev is not None:
            dev.statistics.tx_dropped += 1
            skb.drop(DropReason.QDISC_OVERLIMIT, dev.net.drops)

    # -- receiving

    def poll(self, budget: int) -> int:
        dev = self._dev
        if dev is None:
            return 0
        arrived = self._arrived
        receive = dev.napi.receive
        done = 0
        while arrived and done < budget:
            receive(arrived.popleft())
            done += 1
        if done >= budget:
            return done
        self._polling = True
        try:
            done += self.driver.poll(budget - done)
        finally:
            self._polling = False
        while arrived:
            receive(arrived.popleft())
        return done

    def receive(self, skb: SKBuff) -> None:
        """A packet from the wrapped driver."""
        dev = self._dev
        pipe = self.received
        if dev is None:
            return
        if pipe is None:
            dev.napi.receive(skb)
            return
        skb.dev = dev
        skb.mac_header = skb.data
        if skb.gso_size and self._what.packetwise:
            for segment in self._split_received(skb, dev):
                pipe.send(segment)
        else:
            pipe.send(skb)

    def _arrive(self, skb: SKBuff) -> None:
        self._arrived.append(skb)
        dev = self._dev
        if dev is not None and not self._polling:
            dev.net.loop.softirq.schedule(dev.napi)

    def _receive_overflow(self, skb: SKBuff) -> None:
        dev = self._dev
        if dev is not None:
            dev.statistics.rx_dropped += 1
            skb.drop(DropReason.QDISC_OVERLIMIT, dev.net.drops)

    def _split_received(self, skb: SKBuff, dev: NetDevice) -> list[SKBuff]:
        data = skb.data
        if self.link_type == ARPHRD_NONE:
            skb.network_header = data
            version = skb.head[data] >> 4 if skb.tail > data else 0
            skb.protocol = ethernet.ETH_P_IPV6 if version == 6 else ethernet.ETH_P_IP
        elif skb.tail - data >= ethernet.ETH_HLEN:
            skb.network_header = data + ethernet.ETH_HLEN
            skb.protocol = ethernet.parse(skb.head, data)[2]
        segments = self._split(skb)
        for segment in segments:
            # They are read anew when they have arrived.
            segment.network_header = segment.transport_header = -1
        return segments

    def _split(self, skb: SKBuff) -> list[SKBuff]:
        dev = self._dev
        if dev is None:
            return []
        offload = dev.net.get(Offloads).packet.get(skb.protocol)
        try:
            if offload is None:
                raise ValueError(f"no segmentation for EtherType {skb.protocol:#06x}")
            segments = offload.gso_segment(skb)
        except ValueError:
            skb.drop(DropReason.SKB_GSO_SEG, dev.net.drops)
            return []
        skb.orphan()
        return segments
