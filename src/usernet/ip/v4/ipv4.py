"""IPv4 of one namespace, put together (Linux: inet_init, `struct netns_ipv4`).

The parts know what is below them; what one needs of another above it is joined here.
"""

from __future__ import annotations

from typing import final

from usernet.ip.v4.af import Ipv4Family
from usernet.ip.v4.arp_host import InetArpHost
from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.fib4 import Fib4
from usernet.ip.v4.forward import Ip4Forward
from usernet.ip.v4.fragment import Fragments
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.igmp import Igmp
from usernet.ip.v4.input import Ip4Input
from usernet.ip.v4.multicast import Multicast
from usernet.ip.v4.output import Ip4Output
from usernet.ip.v4.route import Ipv4Routes
from usernet.ip.v4.route_input import RouteInput
from usernet.link.arp import Arp
from usernet.net.packet_type import PacketTypes
from usernet.net.pernet import Net
from usernet.netdevice.device import NETDEV_UNREGISTER, NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.wire.ethernet import ETH_P_IP


@final
class Ipv4:
    """IPv4 in one namespace. `af` is what transports see of it."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.devices = net.get(InetDevices)
        self.fib = net.get(Fib4)
        self.arp = net.get(Arp)
        self.devinet = net.get(Devinet)
        self.routes = net.get(Ipv4Routes)
        self.icmp = net.get(Icmp)
        self.fragments = net.get(Fragments)
        self.igmp = net.get(Igmp)
        self.output = net.get(Ip4Output)
        self.forward = net.get(Ip4Forward)
        self.route_input = net.get(RouteInput)
        self.input = net.get(Ip4Input)
        self.multicast = net.get(Multicast)
        self.af = net.get(Ipv4Family)
        self.arp_host = net.get(InetArpHost)
        self.input.af = self.af
        self.icmp.af = self.af
        self.igmp.af = self.af
        self.output.is_member = self.igmp.check
        self.route_input.is_member = self.igmp.check
        net.mib.ip.Forwarding = 2
        net.get(PacketTypes).register(ETH_P_IP, self.input.receive)
        net.get(DeviceNamespace).subscribe(self._device_event)

    def _device_event(self, event: int, dev: NetDevice) -> None:
        if event == NETDEV_UNREGISTER:
            self.route_input.forget_device(dev)
