"""Network devices (Linux: `struct net_device`, net/core/dev.c).

Receive: driver.poll → napi.receive (GRO) → `NetDevice.receive` → taps → packet_type[EtherType].
Send: neighbour → `NetDevice.queue_xmit` → qdisc → `hard_start_xmit` (what the NIC can't do is done here) → driver.xmit.
"""

from __future__ import annotations

import errno
from typing import Any, Final, final

from usernet.core.errors import check_type, error
from usernet.net.packet_type import PacketTypes
from usernet.net.pernet import Net
from usernet.netdevice.driver import (
    ARPHRD_ETHER,
    ARPHRD_LOOPBACK,
    ARPHRD_NONE,
    NETIF_F_GRO,
    NETIF_F_GSO,
    NETIF_F_GSO_ACCECN,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.netdevice.napi import DeviceNapi
from usernet.netdevice.qdisc.base import Qdisc
from usernet.netdevice.qdisc.pfifo import NoQueue, PfifoFast
from usernet.netdevice.statistics import LinkStats
from usernet.netdevice.transmit import Transmit
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_PARTIAL,
    PACKET_BROADCAST,
    PACKET_LOOPBACK,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    SCM_TSTAMP_SCHED,
    SKBTX_SCHED_TSTAMP,
    SKBuff,
)
from usernet.wire import ethernet

IFF_UP: Final = 0x1
IFF_BROADCAST: Final = 0x2
IFF_LOOPBACK: Final = 0x8
IFF_POINTOPOINT: Final = 0x10
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
IFF_MULTICAST: Final = 0x1000
IFF_LOWER_UP: Final = 0x10000

NETDEV_UP: Final = 1
NETDEV_DOWN: Final = 2
NETDEV_UNREGISTER: Final = 6
NETDEV_CHANGEMTU: Final = 7
NETDEV_CHANGEADDR: Final = 8
NETDEV_CHANGENAME: Final = 10
NETDEV_REGISTER: Final = 5

NET_XMIT_SUCCESS: Final = 0
NET_XMIT_DROP: Final = 1
NET_XMIT_CN: Final = 2

IFNAMSIZ: Final = 16

_SUPER_SEGMENTS: Final = NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_GSO_ACCECN | NETIF_F_GSO_UDP_L4


def fix_features(features: int) -> int:
    """`features` without those that can't be without another (Linux: netdev_fix_features): a super-segment is fragments
    behind a header, and each of its packets needs a checksum of its own. Software GSO does without either here."""
    if not (features & NETIF_F_SG and features & NETIF_F_HW_CSUM):
        features &= ~_SUPER_SEGMENTS
    if not features & (NETIF_F_TSO | NETIF_F_TSO6):
        features &= ~(NETIF_F_TSO_ECN | NETIF_F_GSO_ACCECN)
    return features


@final
class NetDevice:
    """A network device of one stack. `name`, `index`, `mac` (6 bytes), `mtu` (bytes), `flags` (IFF_*), `features`
    (NETIF_F_*), `statistics`; `gso_max_size`: bytes, from its network header on, of the largest super-segment to send
    by it (Linux: gso_max_size, gso_ipv4_max_size). Made by `DeviceNamespace.register`."""

    def __init__(self, net: Net, driver: Driver, name: str, index: int) -> None:
        self.net = net
        self.driver = driver
        self.name = name
        self.index = index
        # A driver that isn't compiled may say what it is on its class, where only Python's own look-up finds it.
        nic: Any = driver
        driver.plain_frames = nic.plain_frames
        self.link_type: int = nic.link_type
        self.loopback: bool = nic.link_type == ARPHRD_LOOPBACK
        self.has_link_header: bool = nic.link_type != ARPHRD_NONE
        self.hard_header_len: int = ethernet.ETH_HLEN if self.has_link_header else 0
        if self.loopback:
            self.mac = bytes(6)
            self.flags: int = IFF_LOOPBACK
        elif nic.link_type == ARPHRD_ETHER:
            # Locally administered, unicast (Linux: eth_random_addr).
            self.mac = nic.mac or bytes([net.random.getrandbits(8) & 0xFE | 0x02]) + net.random.randbytes(5)
            self.flags = IFF_BROADCAST | IFF_MULTICAST
        else:
            self.mac = b""
            self.flags = IFF_POINTOPOINT | IFF_NOARP | IFF_MULTICAST
        self.broadcast: bytes = ethernet.BROADCAST if self.has_link_header else b""
        self.mtu: int = nic.mtu or (65536 if self.loopback else 1500)
        self.hw_features: int = nic.hw_features
        self._wanted_features: int = nic.hw_features | NETIF_F_GSO
        if not self.loopback:
            self._wanted_features |= NETIF_F_GRO
        self.features: int = fix_features(self._wanted_features)
        self.gso_max_size: int = nic.tso_max_size
        self.statistics = LinkStats()
        self.napi = DeviceNapi(self)
        self.transmit = Transmit(self)
        self.qdisc: Qdisc = PfifoFast(nic.queue_length) if nic.queue_length else NoQueue()
        self.tx_queue_len: int = nic.queue_length or 1000
        """What a queue is made for, in packets, where it isn't said (Linux: the same name)."""
        self.gflags: int = 0
        """IFF_PROMISC and IFF_ALLMULTI, as an administrator has set them."""
        self.stopped: bool = False
        self.attached: dict[type, Any] = {}
        self._packet_types = net.get(PacketTypes)
        self._promiscuous: int = 0
        self._multicast: dict[bytes, int] = {}
        self._xmitting: bool = False

    def __repr__(self) -> str:
        return f"<NetDevice {self.name} index={self.index} mtu={self.mtu} {'UP' if self.flags & IFF_UP else 'DOWN'}>"

    # -- state

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        return self.up and self.driver.carrier()

    def open(self) -> None:
        """Bring it up. Raises OSError where the driver can't be opened; it stays down then."""
        if self.flags & IFF_UP:
            return
        self.driver.open(self)
        self.flags |= IFF_UP | IFF_RUNNING | IFF_LOWER_UP
        self.stopped = False
        try:
            self.start_watching()
        except BaseException:
            self.flags &= ~(IFF_UP | IFF_RUNNING | IFF_LOWER_UP)
            self.driver.stop()
            raise

    def start_watching(self) -> None:
        """Take the driver's descriptor as interrupt, where it has one and the stack is started."""
        fd = self.driver.fileno()
        trampoline = self.net.loop.trampoline
        if fd >= 0 and trampoline is not None and self.flags & IFF_UP:
            trampoline.watch(fd, self.net.loop, self.napi)

    def stop(self) -> None:
        """Take it down: what is queued is dropped."""
        if not self.flags & IFF_UP:
            return
        fd = self.driver.fileno()
        trampoline = self.net.loop.trampoline
        if fd >= 0 and trampoline is not None:
            trampoline.unwatch(fd)
        self.flags &= ~(IFF_UP | IFF_RUNNING | IFF_LOWER_UP)
        self.driver.stop()
        for skb in [*self.transmit.reset(), *self.qdisc.reset()]:
            self.statistics.tx_dropped += 1
            skb.drop(DropReason.DEV_DOWN, self.net.drops)
        for skb in self.napi.flush():
            skb.drop(DropReason.DEV_DOWN, self.net.drops)

    def set_mtu(self, mtu: int) -> None:
        """Raises ValueError out of the driver's bounds, OSError where the driver refuses."""
        check_type("mtu", mtu, int, "bytes, an int")
        nic: Any = self.driver
        low, high = nic.min_mtu, nic.max_mtu
        if not low <= mtu <= high:
            raise ValueError(f"mtu of {self.name}: expected {low} to {high}, not {mtu}")
        self.driver.set_mtu(mtu)
        self.mtu = mtu

    def set_mac(self, mac: bytes) -> None:
        """Raises ValueError for what is no unicast address, OSError where the driver refuses or has none."""
        if not self.has_link_header:
            raise error(errno.EOPNOTSUPP, f"{self.name} has no link address")
        if len(mac) != 6 or mac[0] & 1 or not any(mac):
            raise ValueError(f"address of {self.name}: expected a unicast MAC address, not {mac.hex(':')}")
        self.driver.set_mac(mac)
        self.mac = mac

    def set_features(self, changed: int, on: bool) -> None:
        """Turn features on or off (ethtool -K). One that can't be without another is off while that one is off.

        Raises OSError EOPNOTSUPP for one the driver doesn't have.
        """
        soft = NETIF_F_GSO | NETIF_F_GRO
        if on and changed & ~(self.hw_features | soft):
            raise error(errno.EOPNOTSUPP, f"{self.name} can't do feature {changed:#x}")
        if changed & NETIF_F_GRO:
            self.napi.end_train()
        wanted = self._wanted_features
        self._wanted_features = wanted | changed if on else wanted & ~changed
        self.features = fix_features(self._wanted_features)

    def set_promiscuity(self, delta: int) -> None:
        """Count those who want all frames (Linux: dev_set_promiscuity)."""
        self._promiscuous = max(self._promiscuous + delta, 0)
        self.flags = self.flags | IFF_PROMISC if self._promiscuous else self.flags & ~IFF_PROMISC

    @property
    def promiscuity(self) -> int:
        """How many want all frames."""
        return self._promiscuous

    def set_gso_max_size(self, size: int) -> None:
        """Send no super-segment above `size` bytes from now on (Linux: netif_set_gso_max_size)."""
        self.gso_max_size = size

    def add_multicast(self, mac: bytes) -> None:
        """Count those who want frames to `mac` (Linux: dev_mc_add)."""
        self._multicast[mac] = self._multicast.get(mac, 0) + 1

    def remove_multicast(self, mac: bytes) -> None:
        """Take back one `add_multicast`."""
        count = self._multicast.get(mac, 0) - 1
        if count > 0:
            self._multicast[mac] = count
        else:
            self._multicast.pop(mac, None)

    # -- receive

    def prepare(self, skb: SKBuff) -> bool:
        """Read the link header (Linux: eth_type_trans): sets `protocol`, `pkt_type`, `mac_header`,
        `network_header`, and moves `data` to it. False where it is too short to have one, and must be dropped."""
        skb.dev = self
        data = skb.data
        skb.mac_header = data
        if self.has_link_header:
            if skb.tail - data < ethernet.ETH_HLEN:
                self.statistics.rx_length_errors += 1
                self.statistics.rx_errors += 1
                skb.protocol = -1
                skb.network_header = data
                return False
            dst, _, protocol = ethernet.parse(skb.head, data)
            if dst != self.mac:
                if dst[0] & 1:
                    skb.pkt_type = PACKET_BROADCAST if dst == ethernet.BROADCAST else PACKET_MULTICAST
                else:
                    skb.pkt_type = PACKET_OTHERHOST
            skb.data = data = data + ethernet.ETH_HLEN
            skb.len -= ethernet.ETH_HLEN
            # Below 0x600 it is the length of an 802.3 frame: LLC follows, which no protocol here takes.
            skb.protocol = protocol if protocol >= ethernet.ETH_P_802_3_MIN else ethernet.ETH_P_802_2
        else:
            version = skb.head[data] >> 4 if skb.tail > data else 0
            skb.protocol = ethernet.ETH_P_IP if version == 4 else ethernet.ETH_P_IPV6 if version == 6 else -1
        skb.network_header = data
        return True

    def receive(self, skb: SKBuff) -> None:
        """Count a packet, and deliver it. `data` is at its link header, or, where `network_header` is set, there."""
        if skb.network_header < 0 and not self.prepare(skb):
            skb.drop(DropReason.PKT_TOO_SMALL, self.net.drops)
            return
        self.count(skb)
        self.deliver(skb)

    def count(self, skb: SKBuff) -> None:
        """Count a received packet, `data` at its network header."""
        statistics = self.statistics
        if skb.gso_segs > 1:
            statistics.rx_packets += skb.gso_segs
        else:
            statistics.rx_packets += 1
        statistics.rx_bytes += skb.len + self.hard_header_len
        if skb.pkt_type == PACKET_MULTICAST:
            statistics.multicast += 1

    def deliver(self, skb: SKBuff) -> None:
        """A packet goes up the stack, `data` at its network header (Linux: __netif_receive_skb_core)."""
        if not skb.tstamp:
            loop = self.net.loop
            skb.tstamp = loop.now + loop.clock.realtime_offset
        types = self._packet_types
        if types.taps:
            types.show(skb, False)
        probes = self.net.trace.netif_receive_skb.probes
        if probes:
            self.net.trace.netif_receive_skb.fire(skb)
        handler = types.handlers.get(skb.protocol)
        if handler is not None:
            handler(skb)
            return
        if skb.pkt_type == PACKET_OTHERHOST:
            skb.drop(DropReason.OTHERHOST, self.net.drops)
            return
        self.statistics.rx_nohandler += 1
        llc = skb.protocol == ethernet.ETH_P_802_2
        skb.drop(DropReason.LLC if llc else DropReason.UNHANDLED_PROTO, self.net.drops)

    def wants(self, mac: bytes) -> bool:
        """Whether a NIC with this device's filters would take a frame to `mac`."""
        return mac == self.mac or mac == ethernet.BROADCAST or bool(self.flags & IFF_PROMISC) or mac in self._multicast

    # -- send

    def queue_xmit(self, skb: SKBuff) -> int:
        """Send a packet with a complete link header (Linux: __dev_queue_xmit). Returns NET_XMIT_*."""
        skb.dev = self
        if skb.tx_flags & SKBTX_SCHED_TSTAMP and skb.sk is not None:
            skb.sk.tstamp_tx(skb, SCM_TSTAMP_SCHED)
        if not self.flags & IFF_UP:
            self.statistics.tx_dropped += 1
            skb.drop(DropReason.DEV_DOWN, self.net.drops)
            return NET_XMIT_DROP
        qdisc = self.qdisc
        if qdisc.can_bypass and not (qdisc.qlen or self.stopped or self._xmitting or self.transmit.waiting):
            # An empty queue is stepped over (Linux: TCQ_F_CAN_BYPASS).
            qdisc.sent_packets += skb.gso_segs or 1
            qdisc.sent_bytes += skb.len
            self._xmitting = True
            try:
                if not self.transmit.send(skb):
                    qdisc.requeue(skb)
            finally:
                self._xmitting = False
            self._run_rest()
            return NET_XMIT_SUCCESS
        verdict = qdisc.enqueue(skb)
        if verdict is not None:
            self.statistics.tx_dropped += 1
            verdict.drop(qdisc.drop_reason, self.net.drops)
        if not self.stopped:
            self.run_queue()
        return NET_XMIT_DROP if verdict is skb else NET_XMIT_CN if verdict is not None else NET_XMIT_SUCCESS

    def _run_rest(self) -> None:
        """What was queued while a packet was sent, or was given back by the driver."""
        if self.qdisc.qlen:
            self.run_queue()

    def set_qdisc(self, qdisc: Qdisc) -> None:
        """Take another queueing discipline; what waits in the old one is dropped (tc qdisc replace … root)."""
        old = self.qdisc
        for skb in old.reset():
            self.statistics.tx_dropped += 1
            skb.drop(DropReason.QDISC_DROP, self.net.drops)
        old.detach()
        self.qdisc = qdisc
        qdisc.attach(self)

    def run_queue(self) -> None:
        """Give the driver what the qdisc lets go, until it is empty, waits for its time, or the driver is full."""
        if self._xmitting:
            return
        self._xmitting = True
        qdisc = self.qdisc
        try:
            if self.transmit.waiting and not self.transmit.resume():
                return
            while not self.stopped and self.flags & IFF_UP:
                skb = qdisc.dequeue()
                if skb is None:
                    return
                if not self.transmit.send(skb):
                    qdisc.requeue(skb)
                    return
        finally:
            self._xmitting = False

    def stop_queue(self) -> None:
        """The driver takes no more for now (Linux: netif_stop_queue)."""
        self.stopped = True
        fd = self.driver.fileno()
        if fd >= 0 and self.net.loop.trampoline is not None:
            self.net.loop.trampoline.watch_writable(fd, True)

    def wake_queue(self) -> None:
        """The driver has room again (Linux: netif_wake_queue)."""
        if self.stopped:
            self.stopped = False
            fd = self.driver.fileno()
            if fd >= 0 and self.net.loop.trampoline is not None:
                self.net.loop.trampoline.watch_writable(fd, False)
            self.run_queue()

    def loopback_xmit(self, skb: SKBuff) -> None:
        """Receive a copy of a multicast or broadcast packet this machine sends (Linux: dev_loopback_xmit)."""
        skb.pkt_type = PACKET_LOOPBACK
        skb.dev = self
        if skb.ip_summed != CHECKSUM_PARTIAL:
            skb.ip_summed = 1
        self.net.loop.softirq.defer(lambda: self.deliver(skb))

    @property
    def scatter_gather(self) -> bool:
        return bool(self.features & NETIF_F_SG)

    @property
    def checksums(self) -> bool:
        return bool(self.features & NETIF_F_HW_CSUM)
