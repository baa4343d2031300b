"""The network device of a script's stack: what it sends is kept, what it receives is what the script injects.

A TUN device with a virtio-net header, as packetdrill opens it (its netdev.c: TUNSETOFFLOAD): bare IP packets, checksums
and segments left to the device. Between `StackTarget` above and nothing below: there is no wire. As in Linux's tun.c,
received packets are not merged, and a sent packet leaves its socket's account as soon as it is handed over.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from usernet.netdevice.driver import (
    ARPHRD_NONE,
    NETIF_F_GRO,
    NETIF_F_GSO_ACCECN,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.packetdrill.target import Frame
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKB_GSO_TCPV4, SKB_GSO_TCPV6, SKBuff

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice

TUN_QUEUE_LENGTH: Final = 500  # tun.c: TUN_READQ_SIZE
FEATURES: Final = (
    NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_GSO_ACCECN | NETIF_F_RXCSUM
)
PAGE_SIZE: Final = 4096
MAX_ORDER: Final = 3  # PAGE_ALLOC_COSTLY_ORDER
_HEADROOM: Final = 64  # NET_SKB_PAD
_SHARED_INFO: Final = 320  # sizeof(struct skb_shared_info)
_SKB: Final = 256  # sizeof(struct sk_buff), aligned
_SLABS: Final = (576, 1024, 2048, 4096, 8192)  # the first: SKB_SMALL_HEAD_CACHE_SIZE, as the kernel was configured
_IPPROTO_TCP: Final = 6
_IPV6_HLEN: Final = 40


@final
class ScriptDevice(Driver):
    """The driver. `sent`: frames in order, for the target to take away."""

    hw_features = FEATURES
    link_type = ARPHRD_NONE
    max_mtu = 65535
    queue_length = TUN_QUEUE_LENGTH
    kind = "tun"

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self._dev: NetDevice | None = None
        self._ring: deque[tuple[bytes, int]] = deque()

    def open(self, dev: NetDevice) -> None:
        self._dev = dev
        dev.features &= ~NETIF_F_GRO

    def stop(self) -> None:
        self._dev = None
        self._ring.clear()

    def xmit(self, skb: SKBuff) -> bool:
        dev = self._dev
        if dev is None:
            return False
        self.sent.append(Frame(dev.net.loop.now, skb.tobytes(), skb.ip_summed != CHECKSUM_PARTIAL))
        skb.consume()
        return True

    def inject(self, packet: bytes, gso_size: int) -> None:
        """Put a packet into the ring and raise the interrupt. gso_size: as `Target.inject` has it."""
        dev = self._dev
        if dev is None:
            return
        self._ring.append((packet, gso_size))
        dev.net.loop.schedule(dev.napi)

    def poll(self, budget: int) -> int:
        dev = self._dev
        done = 0
        while self._ring and done < budget and dev is not None:
            packet, gso_size = self._ring.popleft()
            skb = SKBuff(packet)
            skb.truesize = truesize(len(packet))
            if gso_size:
                _mark_merged(skb, packet, gso_size)
            dev.napi.receive(skb)
            done += 1
        return done


def truesize(length: int) -> int:
    """The memory that a packet of `length` bytes takes in Linux when a TUN device receives it (tun_alloc_skb): up to a
    page from the slab, behind that whole pages, as few and as large as the rest fills. TCP's window depends on it."""
    if length + _HEADROOM < PAGE_SIZE:
        linear = (length + _HEADROOM + 63 & ~63) + _SHARED_INFO
        for size in _SLABS:
            if linear <= size:
                return size + _SKB
    total = PAGE_SIZE + _SKB
    left = length - (PAGE_SIZE - _HEADROOM - _SHARED_INFO)
    order = MAX_ORDER
    while left > 0:
        while order and (left + PAGE_SIZE - 1) // PAGE_SIZE < 1 << order:
            order -= 1
        total += PAGE_SIZE << order
        left -= PAGE_SIZE << order
    return total


def _mark_merged(skb: SKBuff, packet: bytes, gso_size: int) -> None:
    """Say of a TCP packet longer than one segment that it was merged, as a virtio-net header would."""
    version = packet[0] >> 4
    start = (packet[0] & 0xF) * 4 if version == 4 else _IPV6_HLEN
    protocol = packet[9] if version == 4 else packet[6]
    if protocol != _IPPROTO_TCP or len(packet) < start + 20:
        return
    payload = len(packet) - start - (packet[start + 12] >> 4) * 4
    if payload <= gso_size:
        return
    skb.gso_size = gso_size
    skb.gso_segs = -(-payload // gso_size)
    skb.gso_type = SKB_GSO_TCPV4 if version == 4 else SKB_GSO_TCPV6
    skb.ip_summed = CHECKSUM_UNNECESSARY
