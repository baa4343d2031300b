"""Settings of IPv4 by device (Linux: `struct ipv4_devconf`, `struct in_device`; net.ipv4.conf.{all,default,<device>}).

How "all" and a device's own combine differs from setting to setting; `InDevice` has a method for each, as the IN_DEV_*
macros do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, final

from usernet.core.sysctl import SysctlTable
from usernet.net.pernet import Net
from usernet.netdevice.device import NETDEV_CHANGENAME, NETDEV_REGISTER, NetDevice
from usernet.netdevice.namespace import DeviceNamespace

if TYPE_CHECKING:
    from usernet.ip.v4.devinet import IfAddr

_SETTINGS: Final = (
    ("forwarding", 0), ("mc_forwarding", 0), ("bc_forwarding", 0), ("accept_redirects", 1), ("secure_redirects", 1),
    ("send_redirects", 1), ("shared_media", 1), ("rp_filter", 0), ("accept_source_route", 1), ("log_martians", 0),
    ("accept_local", 0), ("route_localnet", 0), ("promote_secondaries", 0), ("drop_unicast_in_l2_multicast", 0),
    ("arp_filter", 0), ("arp_announce", 0), ("arp_ignore", 0), ("arp_accept", 0), ("arp_notify", 1),
    ("arp_probe", 3), ("drop_gratuitous_arp", 0), ("force_igmp_version", 0),
    ("igmpv2_unsolicited_report_interval", 10000), ("igmpv3_unsolicited_report_interval", 1000),
)  # fmt: skip
_LIMITS: Final = {"force_igmp_version": 3, "arp_ignore": 8, "arp_announce": 2, "arp_accept": 2, "rp_filter": 2}


@final
class Ipv4Conf:
    """One set of settings, under the names of ip-sysctl.

    Two differ from Linux: arp_notify is on, so that a new address is announced; arp_probe (not in Linux) is how often a
    new address is asked for to find out whether another host has it (RFC 5227), while it is in use already.
    """

    def __init__(self, parent: Ipv4Conf | None = None) -> None:
        self.forwarding: int = 0
        self.mc_forwarding: int = 0
        self.bc_forwarding: int = 0
        self.accept_redirects: int = 1
        self.secure_redirects: int = 1
        self.send_redirects: int = 1
        self.shared_media: int = 1
        self.rp_filter: int = 0
        self.accept_source_route: int = 1
        self.log_martians: int = 0
        self.accept_local: int = 0
        self.route_localnet: int = 0
        self.promote_secondaries: int = 0
        self.drop_unicast_in_l2_multicast: int = 0
        self.arp_filter: int = 0
        self.arp_announce: int = 0
        self.arp_ignore: int = 0
        self.arp_accept: int = 0
        self.arp_notify: int = 1
        self.arp_probe: int = 3
        self.drop_gratuitous_arp: int = 0
        self.force_igmp_version: int = 0
        self.igmpv2_unsolicited_report_interval: int = 10000
        self.igmpv3_unsolicited_report_interval: int = 1000
        if parent is not None:
            for name, _ in _SETTINGS:
                setattr(self, name, getattr(parent, name))

    def register(self, table: SysctlTable, prefix: str, devices: InetDevices) -> None:
        """Publish the settings below `prefix`."""
        table.later(partial(self._publish, table, prefix, devices))

    def _publish(self, table: SysctlTable, prefix: str, devices: InetDevices) -> None:
        for name, _ in _SETTINGS:
            callback = devices.forward_all if name == "forwarding" and self is devices.all else devices.changed
            table.register(f"{prefix}.{name}", self, name, 0, _LIMITS.get(name, 2**31 - 1), on_change=callback)


@final
class InDevice:
    """A device as IPv4 sees it: its settings and addresses (primary ones first)."""

    __slots__ = ("_all", "addrs", "conf", "dev")

    def __init__(self, dev: NetDevice, conf: Ipv4Conf, everywhere: Ipv4Conf) -> None:
        self.dev = dev
        self.conf = conf
        self._all = everywhere
        self.addrs: list[IfAddr] = []

    def forwarding(self) -> bool:
        return bool(self.conf.forwarding)

    def broadcast_forwarding(self) -> bool:
        return bool(self._all.bc_forwarding and self.conf.bc_forwarding)

    def rp_filter(self) -> int:
        """0: off, 1: strict, 2: loose (RFC 3704)."""
        return max(self._all.rp_filter, self.conf.rp_filter)

    def log_martians(self) -> bool:
        return bool(self._all.log_martians or self.conf.log_martians)

    def accept_local(self) -> bool:
        return bool(self._all.accept_local or self.conf.accept_local)

    def route_localnet(self) -> bool:
        return bool(self._all.route_localnet or self.conf.route_localnet)

    def promote_secondaries(self) -> bool:
        return bool(self._all.promote_secondaries or self.conf.promote_secondaries)

    def drop_unicast_in_l2_multicast(self) -> bool:
        return bool(self._all.drop_unicast_in_l2_multicast or self.conf.drop_unicast_in_l2_multicast)

    def shared_media(self) -> bool:
        return bool(self._all.shared_media or self.conf.shared_media)

    def send_redirects(self) -> bool:
        return bool(self._all.send_redirects or self.conf.send_redirects)

    def secure_redirects(self) -> bool:
        return bool(self._all.secure_redirects or self.conf.secure_redirects)

    def accept_redirects(self) -> bool:
        # A router must be told twice (Linux: IN_DEV_RX_REDIRECTS).
        if self.conf.forwarding:
            return bool(self._all.accept_redirects and self.conf.accept_redirects)
        return bool(self._all.accept_redirects or self.conf.accept_redirects)

    def accept_source_route(self) -> bool:
        return bool(self._all.accept_source_route and self.conf.accept_source_route)

    def arp_filter(self) -> bool:
        return bool(self._all.arp_filter or self.conf.arp_filter)

    def arp_announce(self) -> int:
        return max(self._all.arp_announce, self.conf.arp_announce)

    def arp_ignore(self) -> int:
        return max(self._all.arp_ignore, self.conf.arp_ignore)

    def arp_accept(self) -> int:
        return max(self._all.arp_accept, self.conf.arp_accept)

    def arp_notify(self) -> bool:
        return bool(self.conf.arp_notify)

    def drop_gratuitous_arp(self) -> bool:
        return bool(self._all.drop_gratuitous_arp or self.conf.drop_gratuitous_arp)


@final
class InetDevices:
    """The devices of a namespace as IPv4 sees them. `changed_hooks` are called when a setting was changed."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.all = Ipv4Conf()
        self.all.accept_source_route = 0
        self.default = Ipv4Conf()
        self.ip_forward: int = 0
        self.generation: int = 0
        """Grows with every change of a setting."""
        self._by_index: dict[int, InDevice] = {}
        self._names: dict[int, str] = {}
        self.all.register(net.sysctl, "net.ipv4.conf.all", self)
        self.default.register(net.sysctl, "net.ipv4.conf.default", self)
        net.sysctl.register("net.ipv4.ip_forward", self, low=0, high=1, on_change=self._ip_forward)
        devices = net.get(DeviceNamespace)
        for dev in devices.values():
            self._register(dev)
        devices.subscribe(self._device_event)

    def of(self, dev: NetDevice) -> InDevice:
        """`dev` as IPv4 sees it."""
        return self._by_index[dev.index]

    def get(self, dev: NetDevice) -> InDevice | None:
        return self._by_index.get(dev.index)

    def values(self) -> list[InDevice]:
        """All of them, in the order of their index."""
        return list(self._by_index.values())

    def _register(self, dev: NetDevice) -> None:
        in_dev = InDevice(dev, Ipv4Conf(self.default), self.all)
        self._by_index[dev.index] = in_dev
        self._names[dev.index] = dev.name
        in_dev.conf.register(self._net.sysctl, f"net.ipv4.conf.{dev.name}", self)

    def _device_event(self, event: int, dev: NetDevice) -> None:
        if event == NETDEV_REGISTER:
            self._register(dev)
        elif event == NETDEV_CHANGENAME:
            self._net.sysctl.unregister(f"net.ipv4.conf.{self._names[dev.index]}")
            self._names[dev.index] = dev.name
            self.of(dev).conf.register(self._net.sysctl, f"net.ipv4.conf.{dev.name}", self)

    def forget(self, dev: NetDevice) -> None:
        """`dev` is gone."""
        if self._by_index.pop(dev.index, None) is not None:
            self._net.sysctl.unregister(f"net.ipv4.conf.{self._names.pop(dev.index)}")

    def changed(self) -> None:
        """A setting was changed: decisions cached by it hold no more."""
        self.generation += 1

    def _ip_forward(self) -> None:
        self.all.forwarding = self.ip_forward
        self.forward_all()

    def forward_all(self) -> None:
        """net.ipv4.ip_forward and conf.all.forwarding set every device's (Linux: inet_forward_change)."""
        on = self.all.forwarding
        self.ip_forward = 1 if on else 0
        self.default.forwarding = on
        # A router isn't to be told the way (RFC 1812 section 5.2.7.2).
        self.all.accept_redirects = 0 if on else 1
        for in_dev in self._by_index.values():
            in_dev.conf.forwarding = on
        self._net.mib.ip.Forwarding = 1 if on else 2
        self.changed()
