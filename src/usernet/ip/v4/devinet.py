"""IPv4 addresses of devices, and the routes that come with them (Linux: net/ipv4/devinet.c, fib_add_ifaddr).

An address brings a local route to itself, a route to its network, and one to the network's broadcast address. They go
with the address, and with the device. The first address in a network is primary; others there are secondary, and go
with it unless promote_secondaries is set.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.fib import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTPROT_KERNEL,
    FibRoute,
    FibTable,
)
from usernet.ip.v4.conf import InDevice, InetDevices
from usernet.ip.v4.fib4 import ANY, BROADCAST, Fib4
from usernet.link.arp import Arp
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    IFF_BROADCAST,
    NETDEV_CHANGEMTU,
    NETDEV_CHANGENAME,
    NETDEV_DOWN,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_UNICAST
from usernet.wire.ipv4 import format_addr

IPV4_MIN_MTU: Final = 68


def mask_of(length: int) -> int:
    """The netmask of a prefix length, as an integer."""
    return (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF


def network(addr: bytes, length: int) -> bytes:
    """The network that `addr` is in: its first `length` bits."""
    return (int.from_bytes(addr, "big") & mask_of(length)).to_bytes(4, "big")


@final
class IfAddr:
    """An address of a device (Linux: `struct in_ifaddr`). peer: the other end's, where the prefix is of that; the
    address itself on all other links. prefix_route: whether it brings a route to its network. conflict: the link
    address of another host that was heard to use it (RFC 5227), b"" for none."""

    __slots__ = (
        "addr", "broadcast", "conflict", "dev", "label", "mask", "network", "peer", "prefix_route", "prefixlen",
        "scope", "secondary",
    )  # fmt: skip

    def __init__(
        self, dev: NetDevice, addr: bytes, prefixlen: int, broadcast: bytes, label: str, scope: int, peer: bytes,
    ) -> None:  # fmt: skip
        self.dev = dev
        self.addr = addr
        self.peer = peer
        self.prefixlen = prefixlen
        self.broadcast = broadcast
        self.label = label
        self.scope = scope
        self.mask: int = mask_of(prefixlen)
        self.network: int = int.from_bytes(peer, "big") & self.mask
        self.prefix_route: bool = True
        self.secondary: bool = False
        self.conflict: bytes = b""

    def __repr__(self) -> str:
        return f"<IfAddr {format_addr(self.addr)}/{self.prefixlen} {self.dev.name}>"

    def holds(self, addr: bytes) -> bool:
        """Whether `addr` is in its network (Linux: inet_ifa_match)."""
        return int.from_bytes(addr, "big") & self.mask == self.network


ADDR_ADDED: Final = 1
ADDR_REMOVED: Final = 2
ADDR_PROMOTED: Final = 3
"""It was secondary."""


@final
class Devinet:
    """The IPv4 addresses of one namespace. `notifiers` are called with ADDR_* and the IfAddr; with ADDR_ADDED also when
    its device goes up."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self._devices = net.get(InetDevices)
        self._fib = net.get(Fib4)
        self._arp = net.get(Arp)
        self.notifiers: list[Callable[[int, IfAddr], None]] = []
        self._by_addr: dict[bytes, list[IfAddr]] = {}
        net.get(DeviceNamespace).subscribe(self._device_event)

    def of(self, dev: NetDevice) -> list[IfAddr]:
        """The addresses of `dev`, primary ones first."""
        in_dev = self._devices.get(dev)
        return list(in_dev.addrs) if in_dev is not None else []

    def find(self, addr: bytes) -> IfAddr | None:
        """The entry of one of this host's addresses (Linux: __ip_dev_find); None for any other, 127.0.0.2 too."""
        entries = self._by_addr.get(addr)
        return entries[0] if entries else None

    def find_on(self, dev: NetDevice, addr: bytes) -> IfAddr | None:
        """The entry of `addr` on `dev`."""
        for ifa in self._by_addr.get(addr, ()):
            if ifa.dev is dev:
                return ifa
        return None

    # -- adding and removing

    def add(
        self, dev: NetDevice, addr: bytes, prefixlen: int, broadcast: bytes | None = None, label: str = "",
        scope: int | None = None, peer: bytes | None = None, prefix_route: bool = True,
    ) -> IfAddr:  # fmt: skip
        """Give `dev` an address; it is usable at once (Linux: inet_insert_ifa).

        broadcast: the network's own where None. scope: RT_SCOPE_*; where None, HOST for 127/8 and UNIVERSE for others.
        peer: the address of the other end of the link, if the prefix is of that. prefix_route: whether a route to the
        network comes with it.
        Raises ValueError for no unicast address or prefix length, OSError EEXIST where `dev` has it already.
        """
        if len(addr) != 4 or addr[0] & 0xF0 == 0xE0 or addr == BROADCAST or addr[0] == 0:
            shown = format_addr(addr) if len(addr) == 4 else addr.hex(":")
            raise ValueError(f"address: expected an IPv4 unicast address, not {shown}")
        if not 0 <= prefixlen <= 32:
            raise ValueError(f"prefix length of {format_addr(addr)}: expected 0 to 32, not {prefixlen}")
        in_dev = self._devices.get(dev)
        if in_dev is None or dev.mtu < IPV4_MIN_MTU:
            raise error(errno.ENOBUFS, f"{dev.name} can't have IPv4 addresses: its MTU is below {IPV4_MIN_MTU}")
        if scope is None:
            scope = RT_SCOPE_HOST if addr[0] == 127 else RT_SCOPE_UNIVERSE
        if broadcast is None:
            made = dev.flags & IFF_BROADCAST and prefixlen < 31
            broadcast = self._broadcast(addr, prefixlen) if made else ANY
        ifa = IfAddr(dev, addr, prefixlen, broadcast, label or dev.name, scope, peer or addr)
        ifa.prefix_route = prefix_route
        self._insert(in_dev, ifa)
        self._by_addr.setdefault(addr, []).append(ifa)
        self._add_routes(ifa)
        self._fib.flush()
        for notifier in tuple(self.notifiers):
            notifier(ADDR_ADDED, ifa)
        return ifa

    @staticmethod
    def _broadcast(addr: bytes, prefixlen: int) -> bytes:
        return (int.from_bytes(addr, "big") | (~mask_of(prefixlen) & 0xFFFFFFFF)).to_bytes(4, "big")

    def _insert(self, in_dev: InDevice, ifa: IfAddr) -> None:
        addrs = in_dev.addrs
        for other in addrs:
            if other.prefixlen == ifa.prefixlen and other.network == ifa.network:
                if other.addr == ifa.addr:
                    raise error(errno.EEXIST, f"{ifa.dev.name} has {format_addr(ifa.addr)}/{ifa.prefixlen} already")
                if other.scope != ifa.scope:
                    raise error(errno.EINVAL, f"{format_addr(ifa.addr)}: expected the scope that its network has")
                ifa.secondary = True
        if ifa.secondary:
            addrs.append(ifa)
            return
        # Among the primary ones, the wider scope comes first: it is what source selection takes.
        place = 0
        for index, other in enumerate(addrs):
            if not other.secondary and other.scope <= ifa.scope:
                place = index + 1
        addrs.insert(place, ifa)

    def remove(self, dev: NetDevice, addr: bytes, prefixlen: int | None = None) -> None:
        """Take an address away, with its routes, and its network's secondary addresses unless they are promoted.

        Raises OSError EADDRNOTAVAIL where `dev` has no such address.
        """
        in_dev = self._devices.get(dev)
        for ifa in in_dev.addrs if in_dev is not None else ():
            if ifa.addr == addr and prefixlen in (None, ifa.prefixlen):
                break
        else:
            raise error(errno.EADDRNOTAVAIL, f"{dev.name} has no address {format_addr(addr)}")
        assert in_dev is not None
        if not ifa.secondary:
            rest = [
                other
                for other in in_dev.addrs
                if other.secondary and other.prefixlen == ifa.prefixlen and other.network == ifa.network
            ]
            if not in_dev.promote_secondaries():
                for other in rest:
                    self._drop(in_dev, other)
            elif rest:
                promoted = rest[0]
                in_dev.addrs.remove(promoted)
                promoted.secondary = False
                in_dev.addrs.insert(in_dev.addrs.index(ifa), promoted)
                self._drop(in_dev, ifa)
                for notifier in tuple(self.notifiers):
                    notifier(ADDR_PROMOTED, promoted)
                return
        self._drop(in_dev, ifa)

    def _drop(self, in_dev: InDevice, ifa: IfAddr) -> None:
        in_dev.addrs.remove(ifa)
        entries = self._by_addr[ifa.addr]
        entries.remove(ifa)
        if not entries:
            del self._by_addr[ifa.addr]
        self._delete_routes(ifa)
        for other in in_dev.addrs:
            # What two addresses shared must stay.
            self._add_routes(other)
        if ifa.addr not in self._by_addr:
            self._fib.main.flush(lambda route: route.prefsrc == ifa.addr)
            self._fib.local.flush(lambda route: route.prefsrc == ifa.addr)
        self._fib.flush()
        for notifier in tuple(self.notifiers):
            notifier(ADDR_REMOVED, ifa)

    # -- the routes of an address

    def _routes_of(self, ifa: IfAddr) -> list[tuple[FibTable, FibRoute]]:
        """Linux: fib_add_ifaddr."""
        dev = ifa.dev
        primary = ifa
        if ifa.secondary:
            for other in self._devices.of(dev).addrs:
                if not other.secondary and other.prefixlen == ifa.prefixlen and other.network == ifa.network:
                    primary = other
                    break
        source = primary.addr
        local = self._fib.local
        routes = [(local, self._route(ifa.addr, 32, RTN_LOCAL, dev, source))]
        if not dev.up:
            return routes
        if ifa.broadcast not in (ANY, BROADCAST):
            routes.append((local, self._route(ifa.broadcast, 32, RTN_BROADCAST, dev, source)))
        prefix = ifa.network.to_bytes(4, "big")
        if prefix[0] and not ifa.secondary and (prefix != ifa.addr or ifa.prefixlen < 32):
            if not ifa.prefix_route:
                pass
            elif dev.loopback:
                routes.append((local, self._route(prefix, ifa.prefixlen, RTN_LOCAL, dev, source)))
            else:
                routes.append((self._fib.main, self._route(prefix, ifa.prefixlen, RTN_UNICAST, dev, source)))
            if ifa.prefixlen < 31:
                last = self._broadcast(ifa.peer, ifa.prefixlen)
                routes.append((local, self._route(last, 32, RTN_BROADCAST, dev, source)))
        return routes

    @staticmethod
    def _route(prefix: bytes, length: int, kind: int, dev: NetDevice, source: bytes) -> FibRoute:
        """Linux: fib_magic."""
        route = FibRoute(prefix, length, kind, dev, None, 0)
        route.proto = RTPROT_KERNEL
        route.scope = RT_SCOPE_HOST if kind == RTN_LOCAL else RT_SCOPE_LINK
        route.nh_scope = 255 if kind == RTN_LOCAL else RT_SCOPE_HOST
        route.prefsrc = source
        return route

    def _add_routes(self, ifa: IfAddr) -> None:
        for table, route in self._routes_of(ifa):
            if any(route.same(other) for other in table.find(route.prefix, route.length)):
                continue
            table.insert(route, append=True)
            if route.kind == RTN_BROADCAST:
                self._arp.invalidate(ifa.dev, route.prefix)

    def _delete_routes(self, ifa: IfAddr) -> None:
        for table, route in self._routes_of(ifa):
            for other in table.find(route.prefix, route.length):
                if other.proto == RTPROT_KERNEL and other.dev is route.dev and other.kind == route.kind:
                    table.delete(other)

    # -- devices

    def _device_event(self, event: int, dev: NetDevice) -> None:
        """Linux: inetdev_event, fib_netdev_event."""
        in_dev = self._devices.get(dev)
        if in_dev is None:
            return
        if event == NETDEV_UP:
            for ifa in in_dev.addrs:
                self._add_routes(ifa)
            self._fib.flush()
            for ifa in list(in_dev.addrs):
                for notifier in tuple(self.notifiers):
                    notifier(ADDR_ADDED, ifa)
        elif event == NETDEV_CHANGENAME:
            for ifa in in_dev.addrs:
                ifa.label = dev.name + ifa.label[len(ifa.label.partition(":")[0]) :]
        elif event == NETDEV_DOWN:
            self._disable(dev, False)
        elif event == NETDEV_CHANGEMTU:
            if dev.mtu < IPV4_MIN_MTU:
                self._clear(in_dev)
            self._fib.flush()
        elif event == NETDEV_UNREGISTER:
            self._clear(in_dev)
            self._disable(dev, True)
            self._devices.forget(dev)

    def _disable(self, dev: NetDevice, gone: bool) -> None:
        """The device takes no packets: its routes go (Linux: fib_disable_ip). This host keeps knowing its own addresses
        on a device that is only down."""
        self._fib.main.flush(lambda route: route.dev is dev)
        self._fib.local.flush(lambda route: route.dev is dev and (gone or route.kind != RTN_LOCAL))
        self._fib.flush()

    def _clear(self, in_dev: InDevice) -> None:
        while in_dev.addrs:
            self._drop(in_dev, in_dev.addrs[-1])

    # -- choosing and asking

    def select_addr(self, dev: NetDevice | None, dst: bytes, scope: int) -> bytes:
        """The source address for `dst` (ANY: none in particular) on `dev`, of at most `scope`; ANY where there is none
        (Linux: inet_select_addr)."""
        if dev is not None:
            in_dev = self._devices.get(dev)
            if in_dev is not None:
                nearest = RT_SCOPE_LINK if in_dev.route_localnet() else RT_SCOPE_HOST
                found = ANY
                for ifa in in_dev.addrs:
                    if ifa.secondary or min(ifa.scope, nearest) > scope:
                        continue
                    if dst == ANY or ifa.holds(dst):
                        return ifa.addr
                    if found == ANY:
                        found = ifa.addr
                if found != ANY:
                    return found
        for in_dev in self._devices.values():
            for ifa in in_dev.addrs:
                if not ifa.secondary and ifa.scope != RT_SCOPE_LINK and ifa.scope <= scope:
                    return ifa.addr
        return ANY

    def onlink(self, dev: NetDevice, first: bytes, second: bytes) -> bool:
        """Whether both addresses are in one network of `dev`; `second` ANY: `first` alone (Linux: inet_addr_onlink)."""
        for ifa in self._devices.of(dev).addrs:
            if not ifa.secondary and ifa.holds(first) and (second == ANY or ifa.holds(second)):
                return True
        return False

    def confirm(self, dev: NetDevice | None, dst: bytes, local: bytes, scope: int) -> bytes:
        """An address of ours (`local`, or any where ANY) of at most `scope`, on `dev` (None: anywhere), in one network
        with `dst` (ANY: in any); ANY where there is none (Linux: inet_confirm_addr)."""
        for in_dev in [self._devices.of(dev)] if dev is not None else self._devices.values():
            for ifa in in_dev.addrs:
                if local != ANY and ifa.addr != local:
                    continue
                if ifa.scope <= scope and (dst == ANY or ifa.holds(dst)):
                    return ifa.addr
        return ANY
