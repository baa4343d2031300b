"""RTM_*ADDR: the addresses of devices (Linux: net/ipv4/devinet.c; rtnetlink(7), `ip addr`).

An address may be given for a time only (IFA_CACHEINFO): then it is taken away again when that is over.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.timer import Timer
from usernet.ip.v4.devinet import ADDR_ADDED, ADDR_REMOVED, Devinet, IfAddr
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.rtnetlink import (
    AF_INET,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTNLGRP_IPV4_IFADDR,
    Rtnetlink,
)
from usernet.wire import netlink as wire

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_LABEL: Final = 3
IFA_BROADCAST: Final = 4
IFA_CACHEINFO: Final = 6
IFA_FLAGS: Final = 8
IFA_TARGET_NETNSID: Final = 10

IFA_F_SECONDARY: Final = 0x01
IFA_F_DEPRECATED: Final = 0x20
IFA_F_PERMANENT: Final = 0x80
IFA_F_NOPREFIXROUTE: Final = 0x200

INFINITY: Final = 0xFFFFFFFF
SECOND: Final = 1_000_000_000
_CENTISECOND: Final = 10_000_000

_IFADDR: Final = Struct("=BBBBi")
_CACHEINFO: Final = Struct("=4I")


@final
class Lifetime:
    """How long an address holds. valid, preferred: seconds from `changed` on, INFINITY for ever. created, changed:
    when that was (ns)."""

    __slots__ = ("changed", "created", "preferred", "timer", "valid")

    def __init__(self, now: int) -> None:
        self.created: int = now
        self.changed: int = now
        self.valid: int = INFINITY
        self.preferred: int = INFINITY
        self.timer: Timer | None = None

    def left(self, now: int) -> tuple[int, int]:
        """Seconds that it is preferred, and valid, from now on."""
        passed = (now - self.changed) // SECOND
        return tuple(  # type: ignore[return-value]
            time if time == INFINITY else max(time - passed, 0) for time in (self.preferred, self.valid)
        )


@final
class RtmAddr:
    """The IPv4 addresses of one namespace, to NETLINK_ROUTE."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.devices = net.get(DeviceNamespace)
        self.devinet = net.get(Devinet)
        self._lifetimes: dict[IfAddr, Lifetime] = {}
        self._rtnl = rtnl = net.get(Rtnetlink)
        rtnl.register(AF_INET, RTM_GETADDR, dumpit=self.dump)
        rtnl.register(AF_INET, RTM_NEWADDR, self.new)
        rtnl.register(AF_INET, RTM_DELADDR, self.delete)
        self.devinet.notifiers.append(self._address_event)

    # -- telling

    def fill(self, ifa: IfAddr) -> bytes:
        """An address as RTM_NEWADDR tells of it (Linux: inet_fill_ifaddr)."""
        now = self.net.loop.now
        lifetime = self._lifetimes.get(ifa)
        if lifetime is None:
            lifetime = Lifetime(0)
        flags = IFA_F_SECONDARY if ifa.secondary else 0
        preferred = valid = INFINITY
        if lifetime.valid == INFINITY:
            flags |= IFA_F_PERMANENT
        else:
            preferred, valid = lifetime.left(now)
        if lifetime.preferred != INFINITY and not lifetime.left(now)[0]:
            flags |= IFA_F_DEPRECATED
        if not ifa.prefix_route:
            flags |= IFA_F_NOPREFIXROUTE
        parts = [
            _IFADDR.pack(AF_INET, ifa.prefixlen, flags & 0xFF, ifa.scope, ifa.dev.index),
            wire.attribute(IFA_ADDRESS, ifa.peer),
            wire.attribute(IFA_LOCAL, ifa.addr),
        ]
        if any(ifa.broadcast):
            parts.append(wire.attribute(IFA_BROADCAST, ifa.broadcast))
        stamps = (lifetime.created // _CENTISECOND & 0xFFFFFFFF, lifetime.changed // _CENTISECOND & 0xFFFFFFFF)
        parts += [
            wire.string(IFA_LABEL, ifa.label),
            wire.u32(IFA_FLAGS, flags),
            wire.attribute(IFA_CACHEINFO, _CACHEINFO.pack(preferred, valid, *stamps)),
        ]
        return b"".join(parts)

    def dump(self, request: Request) -> Messages:
        """RTM_GETADDR of all, or, strictly, of one device."""
        data = request.data
        index = 0
        if request.strict:
            rt.header(request, _IFADDR.size, "ipv4: Invalid header for address dump request")
            if any(data[1:4]):
                raise error(errno.EINVAL, "ipv4: Invalid values in header for address dump request")
            index = _IFADDR.unpack_from(data)[4]
            attributes = request.attributes(_IFADDR.size)
            rt.only(attributes, (IFA_TARGET_NETNSID,), "ipv4: Unsupported attribute in dump request")
            if IFA_TARGET_NETNSID in attributes:
                raise error(errno.EINVAL, "ipv4: Invalid target network namespace id")
        devices = self.devices.values()
        if index:
            dev = self.devices.by_index(index)
            if dev is None:
                raise error(errno.ENODEV)
            devices = [dev]
        for dev in devices:
            for ifa in self.devinet.of(dev):
                yield RTM_NEWADDR, self.fill(ifa)

    def _address_event(self, event: int, ifa: IfAddr) -> None:
        if event == ADDR_REMOVED:
            lifetime = self._lifetimes.pop(ifa, None)
            if lifetime is not None and lifetime.timer is not None:
                lifetime.timer.delete()
        elif event == ADDR_ADDED:
            if ifa in self._lifetimes:
                return  # its device went up
            self._lifetimes[ifa] = Lifetime(self.net.loop.now)
        self._notify(RTM_DELADDR if event == ADDR_REMOVED else RTM_NEWADDR, ifa)

    def _notify(self, kind: int, ifa: IfAddr) -> None:
        if self._rtnl.has_listeners(RTNLGRP_IPV4_IFADDR, kind):
            self._rtnl.notify(RTNLGRP_IPV4_IFADDR, kind, self.fill(ifa))

    # -- changing

    def _parse(self, request: Request) -> tuple[int, int, int, NetDevice | None, dict[int, bytes]]:
        attributes = request.attributes(_IFADDR.size)
        _, length, flags, scope, index = _IFADDR.unpack_from(request.data)
        return length, rt.u32(attributes, IFA_FLAGS, flags), scope, self.devices.by_index(index), attributes

    def new(self, request: Request) -> None:
        """RTM_NEWADDR (Linux: inet_rtm_newaddr)."""
        length, flags, scope, dev, attributes = self._parse(request)
        local = rt.address(attributes, IFA_LOCAL)
        if length > 32:
            raise error(errno.EINVAL, "ipv4: Invalid prefix length")
        if local is None:
            raise error(errno.EINVAL, "ipv4: Local address is not supplied")
        if dev is None:
            raise error(errno.ENODEV, "ipv4: Device not found")
        peer = rt.address(attributes, IFA_ADDRESS) or local
        preferred = valid = INFINITY
        info = attributes.get(IFA_CACHEINFO)
        if info is not None:
            if len(info) < _CACHEINFO.size:
                raise error(errno.ERANGE, "Attribute failed policy validation")
            preferred, valid, _, _ = _CACHEINFO.unpack_from(info)
            if not valid or preferred > valid:
                raise error(errno.EINVAL, "ipv4: address lifetime invalid")
        label = wire.text(attributes.get(IFA_LABEL, b""))
        ifa = self._matching(dev, local, length, peer)
        if ifa is not None:
            if request.flags & wire.NLM_F_EXCL or not request.flags & wire.NLM_F_REPLACE:
                raise error(errno.EEXIST, "ipv4: Address already assigned")
            self._set_lifetime(ifa, preferred, valid)
            self._notify(RTM_NEWADDR, ifa)
            return
        try:
            ifa = self.devinet.add(
                dev, local, length, rt.address(attributes, IFA_BROADCAST) or bytes(4), label, scope, peer,
                not flags & IFA_F_NOPREFIXROUTE,
            )  # fmt: skip
        except ValueError as bad:
            raise error(errno.EINVAL, str(bad)) from None
        self._set_lifetime(ifa, preferred, valid)

    def _matching(self, dev: NetDevice, local: bytes, length: int, peer: bytes) -> IfAddr | None:
        """Linux: find_matching_ifa."""
        for ifa in self.devinet.of(dev):
            if ifa.addr == local and ifa.prefixlen == length and ifa.holds(peer):
                return ifa
        return None

    def _set_lifetime(self, ifa: IfAddr, preferred: int, valid: int) -> None:
        now = self.net.loop.now
        lifetime = self._lifetimes.get(ifa)
        if lifetime is None:
            lifetime = self._lifetimes[ifa] = Lifetime(now)
        lifetime.changed = now
        lifetime.preferred = preferred
        lifetime.valid = valid
        if lifetime.timer is not None:
            lifetime.timer.delete()
            lifetime.timer = None
        if valid != INFINITY:
            lifetime.timer = Timer(self.net.loop.timers, lambda now: self._expired(ifa))
            lifetime.timer.mod(now + valid * SECOND)

    def _expired(self, ifa: IfAddr) -> None:
        self.devinet.remove(ifa.dev, ifa.addr, ifa.prefixlen)

    def delete(self, request: Request) -> None:
        """RTM_DELADDR: the first address that fits what is given."""
        length, _, _, dev, attributes = self._parse(request)
        if dev is None:
            raise error(errno.ENODEV, "ipv4: Device not found")
        local = rt.address(attributes, IFA_LOCAL)
        peer = rt.address(attributes, IFA_ADDRESS)
        label = attributes.get(IFA_LABEL)
        for ifa in self.devinet.of(dev):
            if local is not None and ifa.addr != local:
                continue
            if label is not None and wire.text(label) != ifa.label:
                continue
            if peer is not None and not (length == ifa.prefixlen and ifa.holds(peer)):
                continue
            self.devinet.remove(dev, ifa.addr, ifa.prefixlen)
            return
        raise error(errno.EADDRNOTAVAIL, "ipv4: Address not found")
