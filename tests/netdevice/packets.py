"""Small factories: a namespace with a device, drivers that are easy to look into, TCP and UDP packets over IPv4."""

from __future__ import annotations

import random

from usernet.core.clock import ManualClock
from usernet.ip.v4.offload import Ipv4Offload
from usernet.net.offload import Offloads
from usernet.net.packet_type import PacketTypes
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import (
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    SKB_GSO_TCPV4,
    SKB_GSO_UDP_L4,
    SKBuff,
)
from usernet.transport.tcp.offload import TcpOffload
from usernet.transport.udp_offload import UdpOffload
from usernet.wire import checksum, ethernet, ipv4, tcp, udp

SADDR = bytes([10, 0, 0, 1])
DADDR = bytes([10, 0, 0, 2])
MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
ALL_FEATURES = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO_ECN | NETIF_F_GSO_UDP_L4
ETH_P_IP = ethernet.ETH_P_IP
ETH_P_TEST = ethernet.ETH_P_802_EX1


class FakeDriver(Driver):
    """Keeps what it is given in `sent`, while there is `room`."""

    hw_features = ALL_FEATURES
    mac = MAC

    def __init__(self, features: int = ALL_FEATURES, room: int = 1 << 30) -> None:
        self.hw_features = features
        self.room = room
        self.sent: list[SKBuff] = []
        self.to_receive: list[SKBuff] = []
        self.dev: NetDevice | None = None

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def xmit(self, skb: SKBuff) -> bool:
        assert self.dev is not None
        if self.room <= 0:
            self.dev.stop_queue()
            return False
        self.room -= 1
        self.sent.append(skb)
        skb.consume()
        return True

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        done = 0
        while self.to_receive and done < budget:
            self.dev.napi.receive(self.to_receive.pop(0))
            done += 1
        return done


def make_net(seed: int = 1) -> Net:
    """A namespace on a manual clock, with the offloads of TCP and UDP over IPv4."""
    net = Net("test", ManualClock(), random.Random(seed))
    for state in (Ipv4Offload, TcpOffload, UdpOffload):
        net.get(state)
    return net


def make_dev(net: Net, driver: Driver, name: str = "eth0") -> NetDevice:
    """A device on `driver`, up."""
    devices = net.get(DeviceNamespace)
    dev = devices.register(driver, name)
    devices.set_up(dev)
    return dev


def sink(net: Net, protocol: int = ETH_P_IP) -> list[SKBuff]:
    """A list that gets what the namespace's devices receive of EtherType `protocol`."""
    received: list[SKBuff] = []
    net.get(PacketTypes).register(protocol, received.append)
    return received


def offload_of(net: Net) -> Ipv4Offload:
    found = net.get(Offloads).packet[ETH_P_IP]
    assert isinstance(found, Ipv4Offload)
    return found


def tcp_packet(
    payload: bytes | list[bytes] = b"", *, seq: int = 1, ack: int = 7, flags: int = tcp.ACK, gso_size: int = 0,
    options: bytes = b"", ident: int = 5, tos: int = 0, ttl: int = 64, frag_off: int = ipv4.IP_DF, window: int = 500,
    sport: int = 1000, dport: int = 2000, link: bool = True,
) -> SKBuff:  # fmt: skip
    """A TCP packet as the stack sends it: headers linear, payload in fragments, checksum PARTIAL, `data` at the link
    header."""
    parts = [payload] if isinstance(payload, bytes) else payload
    skb = SKBuff()
    for part in parts:
        if part:
            skb.add_frag(part)
    size = skb.len
    length = tcp.TCP_HLEN + len(options) + size
    check = checksum.pseudo_sum(SADDR, DADDR, 6, length)
    skb.push_header(tcp.build(sport, dport, seq, ack, flags, window, check, 0, options))
    skb.transport_header = skb.csum_start = 0
    skb.csum_offset = tcp.TCP_CHECK_OFFSET
    skb.ip_summed = CHECKSUM_PARTIAL
    if gso_size:
        skb.gso_size = gso_size
        skb.gso_type = SKB_GSO_TCPV4
        skb.gso_segs = -(-size // gso_size)
    return _with_ip(skb, tos, ident, frag_off, ttl, 6, link)


def udp_packet(
    payload: bytes, *, gso_size: int = 0, ident: int = 5, sport: int = 1000, dport: int = 2000, link: bool = True
) -> SKBuff:
    """A UDP packet as the stack sends it."""
    skb = SKBuff()
    skb.add_frag(payload)
    length = udp.UDP_HLEN + len(payload)
    skb.push_header(udp.build(sport, dport, length, checksum.pseudo_sum(SADDR, DADDR, 17, length)))
    skb.transport_header = skb.csum_start = 0
    skb.csum_offset = udp.UDP_CHECK_OFFSET
    skb.ip_summed = CHECKSUM_PARTIAL
    if gso_size:
        skb.gso_size = gso_size
        skb.gso_type = SKB_GSO_UDP_L4
        skb.gso_segs = -(-len(payload) // gso_size)
    return _with_ip(skb, 0, ident, ipv4.IP_DF, 64, 17, link)


def _with_ip(skb: SKBuff, tos: int, ident: int, frag_off: int, ttl: int, protocol: int, link: bool) -> SKBuff:
    skb.push_header(ipv4.build(tos, ipv4.IP_HLEN + skb.len, ident, frag_off, ttl, protocol, SADDR, DADDR))
    skb.network_header = 0
    skb.protocol = ETH_P_IP
    if link:
        skb.push_header(ethernet.build(PEER_MAC, MAC, ETH_P_IP))
    return skb


def frame(payload: bytes = b"x" * 50, dst: bytes = PEER_MAC, protocol: int = ETH_P_TEST) -> SKBuff:
    """An Ethernet frame with no protocol inside."""
    skb = SKBuff()
    skb.add_frag(payload)
    skb.push_header(ethernet.build(dst, MAC, protocol))
    return skb


def as_received(data: bytes, summed: int = CHECKSUM_NONE) -> SKBuff:
    """What a driver makes of the bytes it read: all linear."""
    skb = SKBuff(data)
    skb.ip_summed = summed
    return skb


def transport_checksum_ok(packet: bytes) -> bool:
    """Whether the TCP or UDP checksum of an IPv4 packet (from its network header on) is right."""
    header_len = (packet[0] & 15) * 4
    total = checksum.pseudo_sum(packet[12:16], packet[16:20], packet[9], len(packet) - header_len)
    return checksum.csum_fold(checksum.csum(packet, header_len, len(packet), total)) == 0
