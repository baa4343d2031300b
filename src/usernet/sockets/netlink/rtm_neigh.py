"""RTM_*NEIGH: the neighbours (Linux: net/core/neighbour.c; rtnetlink(7), `ip neigh`). There are no proxy entries."""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.v4.fib4 import Fib4
from usernet.link.arp import Arp
from usernet.link.neighbour import NUD_DELAY, NUD_INCOMPLETE, NUD_NONE, NUD_PERMANENT, NUD_VALID, Neighbour
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.rtnetlink import (
    AF_BRIDGE,
    AF_INET,
    AF_UNSPEC,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    RTNLGRP_NEIGH,
    Rtnetlink,
)
from usernet.wire import netlink as wire

NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NDA_CACHEINFO: Final = 3
NDA_PROBES: Final = 4
NDA_IFINDEX: Final = 8
NDA_MASTER: Final = 9
NTF_USE: Final = 0x01
NTF_PROXY: Final = 0x08

_NDMSG: Final = Struct("=BxHiHBB")
_CACHEINFO: Final = Struct("=4I")
_CLOCK_TICK: Final = 10_000_000
"""ns of USER_HZ, the unit of the ages."""


@final
class RtmNeigh:
    """The IPv4 neighbours of one namespace, to NETLINK_ROUTE."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.devices = net.get(DeviceNamespace)
        self._fib = net.get(Fib4)
        self._neighbours = net.get(Arp).table
        self._rtnl = rtnl = net.get(Rtnetlink)
        rtnl.register(AF_UNSPEC, RTM_GETNEIGH, self.get, self.dump)
        rtnl.register(AF_UNSPEC, RTM_NEWNEIGH, self.new)
        rtnl.register(AF_UNSPEC, RTM_DELNEIGH, self.delete)
        rtnl.register(AF_BRIDGE, RTM_GETNEIGH, dumpit=self._dump_bridges)
        self._neighbours.on_change = self._changed

    def fill(self, neigh: Neighbour) -> bytes:
        """A neighbour as RTM_NEWNEIGH tells of it (Linux: neigh_fill_info)."""
        now = self.net.loop.now
        kind = self._fib.addr_type(neigh.addr, neigh.dev)
        parts = [
            _NDMSG.pack(AF_INET, 0, neigh.dev.index, neigh.state, 0, kind),
            wire.attribute(NDA_DST, neigh.addr),
        ]
        if neigh.state & NUD_VALID:
            parts.append(wire.attribute(NDA_LLADDR, neigh.ha))
        ages = [max(now - stamp, 0) // _CLOCK_TICK for stamp in (neigh.confirmed, neigh.used, neigh.updated)]
        parts.append(wire.u32(NDA_PROBES, neigh.probes))
        parts.append(wire.attribute(NDA_CACHEINFO, _CACHEINFO.pack(*[age & 0xFFFFFFFF for age in ages], 0)))
        return b"".join(parts)

    def dump(self, request: Request) -> Messages:
        """RTM_GETNEIGH of all; of one device where NDA_IFINDEX says so."""
        data = request.data
        if request.strict:
            rt.header(request, _NDMSG.size, "Invalid header for neighbor dump request")
            _, pad, index, state, flags, kind = _NDMSG.unpack_from(data)
            if data[1] or pad or index or state or kind:
                raise error(errno.EINVAL, "Invalid values in header for neighbor dump request")
            if flags & ~NTF_PROXY:
                raise error(errno.EINVAL, "Invalid flags in header for neighbor dump request")
        attributes = request.attributes(_NDMSG.size) if len(data) >= _NDMSG.size else {}
        if request.strict:
            rt.only(attributes, (NDA_IFINDEX, NDA_MASTER), "Unsupported attribute in neighbor dump request")
        if data[0] not in (AF_UNSPEC, AF_INET):
            return
        if len(data) >= _NDMSG.size and data[10] & NTF_PROXY:
            return
        if rt.u32(attributes, NDA_MASTER):
            return
        index = rt.u32(attributes, NDA_IFINDEX)
        for neigh in self._neighbours:
            if not index or neigh.dev.index == index:
                yield RTM_NEWNEIGH, self.fill(neigh)

    def _dump_bridges(self, request: Request) -> Messages:
        """No device here is a bridge: there is no forwarding database."""
        return iter(())

    def _changed(self, neigh: Neighbour, there: bool) -> None:
        """Linux: neigh_update_notify. That a neighbour is asked for, or watched, is not told."""
        if neigh.state in (NUD_NONE, NUD_INCOMPLETE, NUD_DELAY):
            return
        if not self._rtnl.has_listeners(RTNLGRP_NEIGH, RTM_NEWNEIGH):
            return
        self._rtnl.notify(RTNLGRP_NEIGH, RTM_NEWNEIGH if there else RTM_DELNEIGH, self.fill(neigh))

    # -- one

    def get(self, request: Request) -> None:
        """RTM_GETNEIGH of one."""
        rt.header(request, _NDMSG.size, "Invalid header for neighbor get request")
        family, pad, index, state, flags, kind = _NDMSG.unpack_from(request.data)
        if request.data[1] or pad or state or kind:
            raise error(errno.EINVAL, "Invalid values in header for neighbor get request")
        if flags & ~NTF_PROXY:
            raise error(errno.EINVAL, "Invalid flags in header for neighbor get request")
        attributes = request.attributes(_NDMSG.size)
        if family != AF_INET:
            raise error(errno.EAFNOSUPPORT, "Unsupported family in header for neighbor get request")
        rt.only(attributes, (NDA_DST,), "Unsupported attribute in neighbor get request")
        dev = self.devices.by_index(index)
        if index and dev is None:
            raise error(errno.ENODEV, "Unknown device ifindex")
        addr = attributes.get(NDA_DST)
        if addr is None:
            raise error(errno.EINVAL, "Network address not specified")
        if len(addr) != 4:
            raise error(errno.EINVAL, "Invalid network address in neighbor get request")
        if flags & NTF_PROXY:
            raise error(errno.ENOENT, "Proxy neighbour entry not found")
        if dev is None:
            raise error(errno.EINVAL, "No device specified")
        neigh = self._neighbours.find(addr, dev)
        if neigh is None:
            raise error(errno.ENOENT, "Neighbour entry not found")
        request.reply(RTM_NEWNEIGH, self.fill(neigh))

    def new(self, request: Request) -> None:
        """RTM_NEWNEIGH (Linux: neigh_add)."""
        attributes = request.attributes(_NDMSG.size)
        family, _, index, state, flags, _ = _NDMSG.unpack_from(request.data)
        addr = attributes.get(NDA_DST)
        if addr is None:
            raise error(errno.EINVAL, "Network address not specified")
        mac = attributes.get(NDA_LLADDR)
        dev = self.devices.by_index(index)
        if index and dev is None:
            raise error(errno.ENODEV)
        if dev is not None and mac is not None and len(mac) < len(dev.mac):
            raise error(errno.EINVAL, "Invalid link address")
        if family != AF_INET:
            raise error(errno.EAFNOSUPPORT)
        if len(addr) < 4:
            raise error(errno.EINVAL, "Invalid network address")
        if flags & NTF_PROXY:
            raise error(errno.EOPNOTSUPP, "There are no proxy entries")
        if dev is None:
            raise error(errno.EINVAL, "Device not specified")
        addr = addr[:4]
        if mac is not None:
            mac = mac[: len(dev.mac)]
        neigh = self._neighbours.find(addr, dev)
        if neigh is None and not request.flags & wire.NLM_F_CREATE:
            raise error(errno.ENOENT)
        if neigh is not None and request.flags & wire.NLM_F_EXCL:
            raise error(errno.EEXIST)
        override = neigh is None or bool(request.flags & wire.NLM_F_REPLACE)
        neigh = self._neighbours.add(dev, addr, mac, state or (0 if flags & NTF_USE else NUD_PERMANENT), override)
        if flags & NTF_USE:
            neigh.event_send(None)

    def delete(self, request: Request) -> None:
        """RTM_DELNEIGH (Linux: neigh_delete)."""
        attributes = request.attributes(_NDMSG.size)
        family, _, index, _, flags, _ = _NDMSG.unpack_from(request.data)
        addr = attributes.get(NDA_DST)
        if addr is None:
            raise error(errno.EINVAL, "Network address not specified")
        dev = self.devices.by_index(index)
        if index and dev is None:
            raise error(errno.ENODEV)
        if family != AF_INET:
            raise error(errno.EAFNOSUPPORT)
        if len(addr) < 4:
            raise error(errno.EINVAL, "Invalid network address")
        if flags & NTF_PROXY:
            raise error(errno.ENOENT)
        if dev is None:
            raise error(errno.EINVAL)
        if not self._neighbours.remove(dev, addr[:4]):
            raise error(errno.ENOENT)
