"""What ARP must know of IPv4, and address conflicts (Linux: the IN_DEV_ARP_* settings in net/ipv4/arp.c; RFC 5227).

An address is used, and announced, from the moment a device gets it. Whether another host has it is found out beside
that: it is asked for `arp_probe` times, and every ARP packet from another host that bears it as the sender's is a
conflict. A conflict is counted (Arp.Conflicts), kept with the address (`IfAddr.conflict`), logged, told to
`conflict_observers`, and answered by one announcement at most every ten seconds (RFC 5227 section 2.4, case c).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from usernet.core import log
from usernet.core.timer import Timer
from usernet.ip.fib import RT_SCOPE_HOST, RT_SCOPE_LINK
from usernet.ip.v4.conf import InetDevices
from usernet.ip.v4.devinet import ADDR_ADDED, Devinet, IfAddr
from usernet.ip.v4.fib4 import ANY, Fib4
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.route_input import RouteInput
from usernet.link.arp import Arp, ArpHost
from usernet.net.pernet import Net
from usernet.netdevice.device import IFF_LOOPBACK, IFF_NOARP, NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_LOCAL
from usernet.wire.ethernet import ETH_P_IP, format_mac
from usernet.wire.icmp import ICMP_DEST_UNREACH, ICMP_HOST_UNREACH
from usernet.wire.ipv4 import format_addr

SECOND: Final = 1_000_000_000
PROBE_WAIT: Final = SECOND
PROBE_MIN: Final = SECOND
PROBE_MAX: Final = 2 * SECOND
DEFEND_INTERVAL: Final = 10 * SECOND

Observer = Callable[[IfAddr, bytes], None]
"""`observer(ifa, mac)`: the host with link address `mac` uses our address `ifa`. It is called inside the stack."""


@final
class InetArpHost(ArpHost):
    """ARP's view of one namespace's IPv4."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._arp = net.get(Arp)
        self._fib = net.get(Fib4)
        self._devinet = net.get(Devinet)
        self._in_devices = net.get(InetDevices)
        self._routes = net.get(RouteInput)
        self._icmp = net.get(Icmp)
        self._devices = net.get(DeviceNamespace)
        self.conflict_observers: list[Observer] = []
        self._probing: dict[IfAddr, tuple[Timer, int]] = {}
        self._defended: dict[bytes, int] = {}
        self._devinet.notifiers.append(self._address_event)
        self._arp.changed_address.append(self._announce_all)
        self._arp.host = self

    # -- what ARP asks

    def addr_type(self, addr: bytes) -> int:
        return self._fib.addr_type(addr)

    def request_type(self, skb: SKBuff, target: bytes, sender: bytes) -> int:
        if self._fib.addr_type(target) != RTN_LOCAL:
            return -1
        in_dev = self._in_devices.get(skb.dev)
        if in_dev is None or self._routes.validate_source(sender, in_dev, 0) < 0:
            return -1
        return RTN_LOCAL

    def answers(self, dev: NetDevice, sender: bytes, target: bytes) -> bool:
        in_dev = self._in_devices.get(dev)
        if in_dev is None:
            return False
        ignore = in_dev.arp_ignore()
        if ignore:
            if ignore == 8:
                return False
            confirm = self._devinet.confirm
            if ignore == 1 and confirm(dev, ANY, target, RT_SCOPE_HOST) == ANY:
                return False
            if ignore == 2 and confirm(dev, sender, target, RT_SCOPE_HOST) == ANY:
                return False
            if ignore == 3 and confirm(None, ANY, target, RT_SCOPE_LINK) == ANY:
                return False
        if in_dev.arp_filter() and sender != ANY:
            back = self._fib.lookup(sender)
            if back is None or back.dev is not dev:
                self._net.mib.tcp_ext.ArpFilter += 1
                return False
        return True

    def accepts(self, dev: NetDevice, sender: bytes) -> bool:
        in_dev = self._in_devices.get(dev)
        accept = in_dev.arp_accept() if in_dev is not None else 0
        if accept == 2:
            return self._devinet.confirm(dev, sender, ANY, RT_SCOPE_LINK) != ANY
        return accept == 1

    def drops_gratuitous(self, dev: NetDevice) -> bool:
        in_dev = self._in_devices.get(dev)
        return in_dev is not None and in_dev.drop_gratuitous_arp()

    def loopback_allowed(self, dev: NetDevice) -> bool:
        in_dev = self._in_devices.get(dev)
        return in_dev is not None and in_dev.route_localnet()

    def source(self, dev: NetDevice, target: bytes, skb: SKBuff | None) -> bytes:
        in_dev = self._in_devices.get(dev)
        if in_dev is not None and skb is not None and skb.protocol == ETH_P_IP and skb.network_header >= 0:
            announce = in_dev.arp_announce()
            if announce < 2:
                at = skb.network_header + 12
                saddr = skb.head[at : at + 4]
                if self._fib.addr_type(saddr) == RTN_LOCAL:
                    if announce == 0 or self._devinet.onlink(dev, target, saddr):
                        return saddr
        return self._devinet.select_addr(dev, target, RT_SCOPE_LINK)

    def link_failure(self, skb: SKBuff) -> None:
        self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH)

    # -- announcements and probes

    def _address_event(self, event: int, ifa: IfAddr) -> None:
        self._stop_probing(ifa)
        self._defended.pop(ifa.addr, None)
        if event != ADDR_ADDED or not ifa.dev.up or ifa.dev.flags & (IFF_NOARP | IFF_LOOPBACK):
            return
        in_dev = self._in_devices.of(ifa.dev)
        if in_dev.arp_notify():
            self._arp.announce(ifa.dev, ifa.addr)
        count = in_dev.conf.arp_probe
        if count:
            timer = Timer(self._net.loop.timers, _Probe(self, ifa))
            self._probing[ifa] = (timer, count)
            timer.mod(self._net.loop.now + self._net.random.randrange(PROBE_WAIT))

    def _announce_all(self, dev: NetDevice) -> None:
        """The device has another link address: others must learn it."""
        if dev.up:
            for ifa in self._devinet.of(dev):
                if self._in_devices.of(dev).arp_notify():
                    self._arp.announce(dev, ifa.addr)

    def probe(self, ifa: IfAddr) -> None:
        """Ask once more whether another host has the address."""
        timer, left = self._probing[ifa]
        if not ifa.dev.up:
            self._stop_probing(ifa)
            return
        self._arp.probe(ifa.dev, ifa.addr)
        if left <= 1:
            self._stop_probing(ifa)
            return
        self._probing[ifa] = (timer, left - 1)
        timer.mod(self._net.loop.now + PROBE_MIN + self._net.random.randrange(PROBE_MAX - PROBE_MIN))

    def _stop_probing(self, ifa: IfAddr) -> None:
        found = self._probing.pop(ifa, None)
        if found is not None:
            found[0].delete()

    # -- conflicts

    def heard(self, dev: NetDevice, sender: bytes, target: bytes, sha: bytes) -> None:
        ifa = self._devinet.find_on(dev, sender if sender != ANY else target)
        # Who only asks whether an address is free has none yet; it's a conflict while we ask the same (section 2.1.1).
        if ifa is None or (sender == ANY and ifa not in self._probing):
            return
        # A host with two devices on one link hears itself.
        if any(own.mac == sha for own in self._devices.values()):
            return
        now = self._net.loop.now
        self._arp.mib.Conflicts += 1
        if ifa.conflict != sha:
            ifa.conflict = sha
            log.warning("%s: %s is in use by %s too", dev.name, format_addr(ifa.addr), format_mac(sha))
        self._stop_probing(ifa)
        for observer in tuple(self.conflict_observers):
            observer(ifa, sha)
        if now >= self._defended.get(ifa.addr, -DEFEND_INTERVAL) + DEFEND_INTERVAL:
            self._defended[ifa.addr] = now
            self._arp.announce(dev, ifa.addr)

    def close(self) -> None:
        """The stack ends."""
        for ifa in list(self._probing):
            self._stop_probing(ifa)
        self._defended.clear()


@final
class _Probe:
    """The timer's call for one address."""

    def __init__(self, host: InetArpHost, ifa: IfAddr) -> None:
        self._host = host
        self._ifa = ifa

    def __call__(self, now: int) -> None:
        self._host.probe(self._ifa)
