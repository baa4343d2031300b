"""ARP: IPv4 addresses to Ethernet addresses (RFC 826, RFC 5227; Linux: net/ipv4/arp.c).

Receives packets of ETH_P_ARP, answers requests for this host's addresses, and keeps the neighbour table of IPv4. What
it must know of addresses and routes it asks of its `ArpHost`, which the floor above sets: ARP itself is below IP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from usernet.core.mib import MibGroup
from usernet.core.native import mypyc_attr
from usernet.link.neigh_table import NeighbourTable
from usernet.link.neighbour import (
    NEIGH_UPDATE_F_OVERRIDE,
    NUD_REACHABLE,
    NUD_STALE,
    NUD_VALID,
    Neighbour,
    NeighOps,
)
from usernet.net.packet_type import PacketTypes
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_POINTOPOINT,
    NETDEV_CHANGEADDR,
    NETDEV_CHANGENAME,
    NETDEV_DOWN,
    NETDEV_REGISTER,
    NETDEV_UNREGISTER,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_HOST, PACKET_LOOPBACK, PACKET_OTHERHOST, SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_UNICAST
from usernet.wire import arp as wire
from usernet.wire import ethernet
from usernet.wire.arp import ARPOP_REPLY, ARPOP_REQUEST

ANY: Final = bytes(4)


@mypyc_attr(allow_interpreted_subclasses=True)
class ArpHost:
    """What ARP asks of the IPv4 layer. As it stands here: a host without addresses."""

    def addr_type(self, addr: bytes) -> int:
        """RTN_LOCAL, RTN_UNICAST, RTN_BROADCAST or RTN_MULTICAST (Linux: inet_addr_type)."""
        return RTN_UNICAST

    def request_type(self, skb: SKBuff, target: bytes, sender: bytes) -> int:
        """What `target` is to a packet from `sender` received as `skb` was: RTN_*, -1 where such a packet would be
        refused (Linux: ip_route_input)."""
        return -1

    def answers(self, dev: NetDevice, sender: bytes, target: bytes) -> bool:
        """Whether the settings arp_ignore and arp_filter let `target`, an address of ours, be told to `sender`."""
        return True

    def accepts(self, dev: NetDevice, sender: bytes) -> bool:
        """Whether the setting arp_accept lets an unasked-for announcement make an entry."""
        return False

    def drops_gratuitous(self, dev: NetDevice) -> bool:
        """The setting drop_gratuitous_arp."""
        return False

    def loopback_allowed(self, dev: NetDevice) -> bool:
        """The setting route_localnet: ARP for 127/8."""
        return False

    def source(self, dev: NetDevice, target: bytes, skb: SKBuff | None) -> bytes:
        """Which address of ours to ask from, by arp_announce (Linux: arp_solicit)."""
        return ANY

    def heard(self, dev: NetDevice, sender: bytes, target: bytes, sha: bytes) -> None:
        """An ARP packet was received: to notice that another host has an address of ours (RFC 5227)."""

    def link_failure(self, skb: SKBuff) -> None:
        """`skb`, at its network header, can't be delivered: tell its sender (Linux: ipv4_link_failure)."""


@final
class ArpMib(MibGroup):
    """What ARP counts: packets by kind, those refused, and conflicts noticed (RFC 5227)."""

    InRequests: int = 0
    InReplies: int = 0
    InProbes: int = 0
    InGratuitous: int = 0
    InErrors: int = 0
    OutRequests: int = 0
    OutReplies: int = 0
    OutAnnouncements: int = 0
    Conflicts: int = 0


@final
class ArpOps(NeighOps):
    """ARP as the neighbour table sees it."""

    ethertype = ethernet.ETH_P_IP

    def __init__(self, arp: Arp) -> None:
        self._arp = arp

    def key(self, dev: NetDevice, addr: bytes) -> bytes:
        # All of them are reached in the same way, so one entry serves (Linux: __ipv4_neigh_lookup_noref).
        return ANY if dev.flags & (IFF_LOOPBACK | IFF_POINTOPOINT) else addr

    def constructor(self, neigh: Neighbour) -> None:
        """Linux: arp_constructor."""
        dev = neigh.dev
        addr = neigh.addr
        if not dev.has_link_header:
            neigh.needs_no_resolution(b"")
        elif self.is_multicast(addr):
            neigh.needs_no_resolution(ethernet.ipv4_multicast_mac(addr))
        elif dev.flags & (IFF_NOARP | IFF_LOOPBACK):
            neigh.needs_no_resolution(dev.mac)
        elif dev.flags & IFF_POINTOPOINT or self._arp.host.addr_type(addr) == RTN_BROADCAST:
            neigh.needs_no_resolution(dev.broadcast)

    def is_multicast(self, key: bytes) -> bool:
        return key[0] & 0xF0 == 0xE0

    def solicit(self, neigh: Neighbour, skb: SKBuff | None) -> None:
        """Linux: arp_solicit. The first probes go to the address known so far, the rest to all."""
        dev = neigh.dev
        parms = neigh.parms
        unicast = neigh.probes < parms.ucast_solicit
        if not unicast and neigh.probes < parms.ucast_solicit + parms.app_solicit:
            return
        saddr = self._arp.host.source(dev, neigh.addr, skb)
        self._arp.mib.OutRequests += 1
        dst = neigh.ha if unicast and neigh.ha else dev.broadcast
        self._arp.send(ARPOP_REQUEST, dev, neigh.addr, saddr, ethernet.ZERO_MAC, dst)

    def error_report(self, neigh: Neighbour, skb: SKBuff) -> None:
        """Linux: arp_error_report."""
        self._arp.host.link_failure(skb)
        skb.drop(DropReason.NEIGH_FAILED, self._arp.net.drops)


@final
class Arp:
    """ARP of one namespace. `table` is the neighbour table of IPv4, `host` what it knows of IPv4."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.host = ArpHost()
        self.mib = ArpMib()
        self.ops = ArpOps(self)
        self.table = NeighbourTable(net, self.ops, "net.ipv4.neigh")
        self._devices = net.get(DeviceNamespace)
        self.changed_address: list[Callable[[NetDevice], None]] = []
        """Called after a device has another link address: whoever has addresses on it announces them."""
        net.mib.register("Arp", self.mib)
        net.get(PacketTypes).register(ethernet.ETH_P_ARP, self.receive)
        self._devices.subscribe(self._device_event)

    def _device_event(self, event: int, dev: NetDevice) -> None:
        if event == NETDEV_REGISTER:
            self.table.parms_of(dev)
        elif event == NETDEV_CHANGEADDR:
            self.table.flush(dev)
            for callback in self.changed_address:
                callback(dev)
        elif event == NETDEV_CHANGENAME:
            self.table.rename_device(dev)
        elif event == NETDEV_DOWN:
            self.table.flush(dev)
        elif event == NETDEV_UNREGISTER:
            self.table.forget_device(dev)

    # -- sending

    def send(self, op: int, dev: NetDevice, target: bytes, sender: bytes, target_mac: bytes, dst: bytes) -> None:
        """Send an ARP packet about this host's `sender` address to link address `dst` (Linux: arp_send)."""
        if dev.flags & IFF_NOARP or not dev.has_link_header:
            return
        skb = SKBuff(
            ethernet.build(dst, dev.mac, ethernet.ETH_P_ARP) + wire.build(op, dev.mac, sender, target_mac, target)
        )
        skb.protocol = ethernet.ETH_P_ARP
        skb.network_header = ethernet.ETH_HLEN
        dev.queue_xmit(skb)

    def announce(self, dev: NetDevice, addr: bytes) -> None:
        """Tell all on the link that `addr` is here: a gratuitous ARP request (RFC 5227 section 3; Linux:
        inetdev_send_gratuitous_arp)."""
        if dev.flags & (IFF_NOARP | IFF_LOOPBACK):
            return
        self.mib.OutAnnouncements += 1
        self.send(ARPOP_REQUEST, dev, addr, addr, dev.mac, dev.broadcast)

    def probe(self, dev: NetDevice, addr: bytes) -> None:
        """Ask whether another host has `addr`, without touching anyone's table (RFC 5227 section 2.1.1)."""
        self.mib.OutRequests += 1
        self.send(ARPOP_REQUEST, dev, addr, ANY, ethernet.ZERO_MAC, dev.broadcast)

    # -- receiving

    def receive(self, skb: SKBuff) -> None:
        """A packet of ETH_P_ARP, `data` at the ARP header (Linux: arp_rcv, arp_process)."""
        dev: NetDevice = skb.dev
        if dev.flags & IFF_NOARP or skb.pkt_type in (PACKET_OTHERHOST, PACKET_LOOPBACK):
            skb.consume()
            return
        if not self._process(skb, dev):
            self.mib.InErrors += 1
            skb.drop(DropReason.ARP_INVALID, self.net.drops)
            return
        skb.consume()

    def _process(self, skb: SKBuff, dev: NetDevice) -> bool:
        """False where the packet is refused."""
        if skb.len < wire.ARP_HLEN or not skb.may_pull(wire.ARP_HLEN):
            return False
        htype, ptype, hlen, plen, op, sha, spa, tha, tpa = wire.parse(skb.head, skb.data)
        if hlen != ethernet.ETH_ALEN or plen != 4 or ptype != ethernet.ETH_P_IP:
            return False
        if htype not in (wire.ARPHRD_ETHER, wire.ARPHRD_IEEE802) or op not in (ARPOP_REQUEST, ARPOP_REPLY):
            return False
        host = self.host
        if tpa[0] & 0xF0 == 0xE0 or (tpa[0] == 127 and not host.loopback_allowed(dev)):
            return False
        if spa == tpa:
            self.mib.InGratuitous += 1
            if host.drops_gratuitous(dev):
                return False
        if op == ARPOP_REQUEST:
            self.mib.InRequests += 1
        else:
            self.mib.InReplies += 1
        host.heard(dev, spa, tpa, sha)
        if spa == ANY:
            # Somebody asks whether the address is free (RFC 5227 section 2.1.1, RFC 2131 section 4.4.1).
            self.mib.InProbes += 1
            if op == ARPOP_REQUEST and host.addr_type(tpa) == RTN_LOCAL and host.answers(dev, spa, tpa):
                self._reply(dev, spa, tpa, sha)
            return True
        if op == ARPOP_REQUEST and host.request_type(skb, tpa, spa) == RTN_LOCAL:
            if host.answers(dev, spa, tpa) and self._learn_asker(dev, spa, sha):
                self._reply(dev, spa, tpa, sha)
            return True
        self._learn(skb, dev, op, sha, spa, tha, tpa)
        return True

    def _reply(self, dev: NetDevice, spa: bytes, tpa: bytes, sha: bytes) -> None:
        self.mib.OutReplies += 1
        self.send(ARPOP_REPLY, dev, spa, tpa, sha, sha)

    def _learn_asker(self, dev: NetDevice, spa: bytes, sha: bytes) -> bool:
        """Who asks for us is about to talk to us: know it (Linux: neigh_event_ns). False where there is no room."""
        neigh = self.table.lookup(spa, dev)
        if neigh is None:
            return False
        neigh.update(sha, NUD_STALE, NEIGH_UPDATE_F_OVERRIDE)
        return True

    def _learn(self, skb: SKBuff, dev: NetDevice, op: int, sha: bytes, spa: bytes, tha: bytes, tpa: bytes) -> None:
        """Bring what is known of the sender up to date; an entry is only made where arp_accept says so."""
        host = self.host
        neigh = self.table.find(spa, dev)
        accept = host.accepts(dev, spa)
        if neigh is None and not accept:
            return
        gratuitous = spa == tpa and (op == ARPOP_REQUEST or tha == sha) and host.addr_type(spa) == RTN_UNICAST
        if neigh is None:
            if not gratuitous and (op != ARPOP_REPLY or host.addr_type(spa) != RTN_UNICAST):
                return
            neigh = self.table.lookup(spa, dev)
            if neigh is None:
                return
        # Of several answers in a row the first one counts: it is the fastest router's (locktime).
        override = gratuitous or not neigh.state & NUD_VALID or not self.table.locked(neigh)
        # Neither a broadcast answer nor a request shows that the neighbour hears us.
        state = NUD_REACHABLE if op == ARPOP_REPLY and skb.pkt_type == PACKET_HOST else NUD_STALE
        neigh.update(sha, state, NEIGH_UPDATE_F_OVERRIDE if override else 0)

    def invalidate(self, dev: NetDevice, addr: bytes) -> None:
        """`addr` has become another kind of address (a broadcast one): forget how it was reached."""
        self.table.remove(dev, addr)

    def close(self) -> None:
        """The stack ends."""
        self.table.close()
