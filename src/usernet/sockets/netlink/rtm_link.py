"""RTM_*LINK: the devices (Linux: net/core/rtnetlink.c; rtnetlink(7), `ip link`).

What is told of a device is what Linux tells, in its order, with what a device here doesn't have left at what a Linux
device without it has. Changed can be: flags (up, down, promiscuous), MTU, name, address, queue length.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.v4.conf import InetDevices
from usernet.net.pernet import Net
from usernet.netdevice.change import change_flags, get_flags, set_mac, set_mtu, set_name, set_tx_queue_len
from usernet.netdevice.device import (
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_PROMISC,
    IFF_UP,
    NETDEV_UNREGISTER,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.rtnetlink import (
    AF_BRIDGE,
    AF_INET,
    AF_UNSPEC,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    RTNLGRP_LINK,
    Rtnetlink,
)
from usernet.wire import netlink as wire

IFLA_ADDRESS: Final = 1
IFLA_BROADCAST: Final = 2
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_QDISC: Final = 6
IFLA_STATS: Final = 7
IFLA_MASTER: Final = 10
IFLA_TXQLEN: Final = 13
IFLA_MAP: Final = 14
IFLA_OPERSTATE: Final = 16
IFLA_LINKMODE: Final = 17
IFLA_LINKINFO: Final = 18
IFLA_NET_NS_PID: Final = 19
IFLA_IFALIAS: Final = 20
IFLA_STATS64: Final = 23
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_PROMISCUITY: Final = 30
IFLA_NUM_TX_QUEUES: Final = 31
IFLA_NUM_RX_QUEUES: Final = 32
IFLA_CARRIER: Final = 33
IFLA_CARRIER_CHANGES: Final = 35
IFLA_LINK_NETNSID: Final = 37
IFLA_PROTO_DOWN: Final = 39
IFLA_GSO_MAX_SEGS: Final = 40
IFLA_GSO_MAX_SIZE: Final = 41
IFLA_XDP: Final = 43
IFLA_TARGET_NETNSID: Final = 46
IFLA_CARRIER_UP_COUNT: Final = 47
IFLA_CARRIER_DOWN_COUNT: Final = 48
IFLA_MIN_MTU: Final = 50
IFLA_MAX_MTU: Final = 51
IFLA_ALT_IFNAME: Final = 53
IFLA_GRO_MAX_SIZE: Final = 58
IFLA_TSO_MAX_SIZE: Final = 59
IFLA_TSO_MAX_SEGS: Final = 60
IFLA_ALLMULTI: Final = 61
IFLA_GSO_IPV4_MAX_SIZE: Final = 63
IFLA_GRO_IPV4_MAX_SIZE: Final = 64
IFLA_MAX_PACING_OFFLOAD_HORIZON: Final = 66
IFLA_NETNS_IMMUTABLE: Final = 67
IFLA_HEADROOM: Final = 68
IFLA_TAILROOM: Final = 69

IFLA_INFO_KIND: Final = 1
IFLA_XDP_ATTACHED: Final = 2
IFLA_INET_CONF: Final = 1
RTEXT_FILTER_SKIP_STATS: Final = 1 << 3

IF_OPER_UNKNOWN: Final = 0
IF_OPER_DOWN: Final = 2
IF_OPER_UP: Final = 6

GSO_MAX_SEGS: Final = 65535

_IFINFO: Final = Struct("=BxHiII")
_STATS64: Final = Struct("=25Q")
_STATS: Final = Struct("=24I")
_DEVCONF: Final = (
    "forwarding", "mc_forwarding", "", "accept_redirects", "secure_redirects", "send_redirects", "shared_media",
    "rp_filter", "accept_source_route", "", "log_martians", "", "", "arp_filter", "arp_announce", "arp_ignore",
    "promote_secondaries", "arp_accept", "arp_notify", "accept_local", "", "", "route_localnet",
    "igmpv2_unsolicited_report_interval", "igmpv3_unsolicited_report_interval", "", "drop_unicast_in_l2_multicast",
    "drop_gratuitous_arp", "bc_forwarding", "", "", "", "",
)  # fmt: skip
"""The settings by IPV4_DEVCONF_* from 1 on; "" for those that there are none of here."""


@final
class RtmLink:
    """The devices of one namespace, to NETLINK_ROUTE."""

    def __init__(self, net: Net) -> None:
        self.devices = net.get(DeviceNamespace)
        self._inet = net.get(InetDevices)
        self._rtnl = rtnl = net.get(Rtnetlink)
        rtnl.register(AF_UNSPEC, RTM_GETLINK, self.get, self.dump)
        rtnl.register(AF_BRIDGE, RTM_GETLINK, dumpit=self._dump_bridges)
        rtnl.register(AF_UNSPEC, RTM_NEWLINK, self.new)
        rtnl.register(AF_UNSPEC, RTM_SETLINK, self.set)
        rtnl.register(AF_UNSPEC, RTM_DELLINK, self.delete)
        self.devices.subscribe(self._device_event)

    # -- telling

    def fill(self, dev: NetDevice, ext_mask: int, change: int = 0) -> bytes:
        """A device as RTM_NEWLINK tells of it (Linux: rtnl_fill_ifinfo). change: the flags that are others now."""
        loopback = dev.loopback
        up = dev.up
        running = dev.running
        if not up:
            state = IF_OPER_DOWN
        elif loopback or not dev.has_link_header:
            state = IF_OPER_UNKNOWN
        else:
            state = IF_OPER_UP if running else IF_OPER_DOWN
        driver = dev.driver
        size = dev.gso_max_size
        parts = [
            _IFINFO.pack(0, dev.link_type, dev.index, get_flags(dev), change),
            wire.string(IFLA_IFNAME, dev.name),
            wire.u32(IFLA_TXQLEN, dev.tx_queue_len),
            wire.u8(IFLA_OPERSTATE, state),
            wire.u8(IFLA_LINKMODE, 0),
            wire.u8(IFLA_NETNS_IMMUTABLE, loopback),
            wire.u32(IFLA_MTU, dev.mtu),
            wire.u32(IFLA_MIN_MTU, 0 if loopback else driver.min_mtu),
            wire.u32(IFLA_MAX_MTU, 0 if loopback else driver.max_mtu),
            wire.u32(IFLA_GROUP, 0),
            wire.u32(IFLA_PROMISCUITY, dev.promiscuity),
            wire.u32(IFLA_ALLMULTI, int(bool(dev.flags & IFF_ALLMULTI))),
            wire.u32(IFLA_NUM_TX_QUEUES, 1),
            wire.u32(IFLA_GSO_MAX_SEGS, GSO_MAX_SEGS),
            wire.u32(IFLA_GSO_MAX_SIZE, size),
            wire.u32(IFLA_GRO_MAX_SIZE, 65536),
            wire.u32(IFLA_GSO_IPV4_MAX_SIZE, size),
            wire.u32(IFLA_GRO_IPV4_MAX_SIZE, 65536),
            wire.u32(IFLA_TSO_MAX_SIZE, driver.tso_max_size),
            wire.u32(IFLA_TSO_MAX_SEGS, GSO_MAX_SEGS),
            wire.u32(IFLA_MAX_PACING_OFFLOAD_HORIZON, 0),
            wire.u32(IFLA_NUM_RX_QUEUES, 1),
            wire.u8(IFLA_CARRIER, driver.carrier()),
            wire.u32(IFLA_CARRIER_CHANGES, 0),
            wire.u32(IFLA_CARRIER_UP_COUNT, 0),
            wire.u32(IFLA_CARRIER_DOWN_COUNT, 0),
            wire.u16(IFLA_HEADROOM, 0),
            wire.u16(IFLA_TAILROOM, 0),
            wire.u8(IFLA_PROTO_DOWN, 0),
        ]
        if dev.has_link_header:
            parts.append(wire.attribute(IFLA_ADDRESS, dev.mac))
            parts.append(wire.attribute(IFLA_BROADCAST, bytes(6) if loopback else dev.broadcast))
        if not ext_mask & RTEXT_FILTER_SKIP_STATS:
            values = [value & 0xFFFFFFFFFFFFFFFF for value in dev.statistics.as_dict().values()]
            parts.append(wire.attribute(IFLA_STATS64, _STATS64.pack(*values, 0)))
            parts.append(wire.attribute(IFLA_STATS, _STATS.pack(*[value & 0xFFFFFFFF for value in values])))
        parts.append(wire.nest(IFLA_XDP, wire.u8(IFLA_XDP_ATTACHED, 0)))
        if not loopback:
            parts.append(wire.nest(IFLA_LINKINFO, wire.string(IFLA_INFO_KIND, driver.kind)))
        parts.append(wire.string(IFLA_QDISC, dev.qdisc.kind if up else "noop"))
        parts.append(wire.nest(IFLA_AF_SPEC, wire.nest(AF_INET, self._devconf(dev))))
        parts.append(wire.attribute(IFLA_MAP, bytes(32)))
        return b"".join(parts)

    def _devconf(self, dev: NetDevice) -> bytes:
        in_dev = self._inet.get(dev)
        if in_dev is None:
            return b""
        values = [getattr(in_dev.conf, name) if name else 0 for name in _DEVCONF]
        return wire.attribute(IFLA_INET_CONF, b"".join(value.to_bytes(4, "little") for value in values))

    def dump(self, request: Request) -> Messages:
        """RTM_GETLINK of all."""
        data = request.data
        offset = _IFINFO.size
        if request.strict:
            rt.header(request, offset, "Invalid header for link dump")
            if data[1] or any(data[2:4]) or any(data[8:16]):
                raise error(errno.EINVAL, "Invalid values in header for link dump request")
            if any(data[4:8]):
                raise error(errno.EINVAL, "Filter by device index not supported for link dumps")
        elif len(data) < offset:
            offset = 1  # iproute2 before 3.9 sent a struct rtgenmsg
        attributes = request.attributes(offset)
        if request.strict:
            known = (IFLA_TARGET_NETNSID, IFLA_EXT_MASK, IFLA_MASTER, IFLA_LINKINFO)
            rt.only(attributes, known, "Unsupported attribute in link dump request")
        if rt.u32(attributes, IFLA_MASTER):
            return  # no device here is another's master
        kind = b""
        if IFLA_LINKINFO in attributes:
            kind = wire.attributes(attributes[IFLA_LINKINFO], 0).get(IFLA_INFO_KIND, b"").rstrip(b"\0")
        mask = rt.u32(attributes, IFLA_EXT_MASK)
        for dev in self.devices.values():
            if not kind or (not dev.loopback and kind == dev.driver.kind.encode()):
                yield RTM_NEWLINK, self.fill(dev, mask)

    def _dump_bridges(self, request: Request) -> Messages:
        """No device here is a bridge, or a bridge's port."""
        return iter(())

    def _find(self, index: int, attributes: dict[int, bytes]) -> NetDevice | None:
        """Raises OSError EINVAL where neither index nor name is given, ENODEV where there is none such."""
        dev: NetDevice | None
        if index > 0:
            dev = self.devices.by_index(index)
        elif IFLA_IFNAME in attributes or IFLA_ALT_IFNAME in attributes:
            dev = self.devices.get(wire.text(attributes.get(IFLA_IFNAME) or attributes.get(IFLA_ALT_IFNAME, b"")))
        else:
            return None
        if dev is None:
            raise error(errno.ENODEV)
        return dev

    def get(self, request: Request) -> None:
        """RTM_GETLINK of one."""
        rt.header(request, _IFINFO.size, "Invalid header for get link")
        data = request.data
        if request.strict and (data[1] or any(data[2:4]) or any(data[8:16])):
            raise error(errno.EINVAL, "Invalid values in header for get link request")
        attributes = request.attributes(_IFINFO.size)
        if request.strict:
            known = (IFLA_IFNAME, IFLA_ALT_IFNAME, IFLA_EXT_MASK, IFLA_TARGET_NETNSID)
            rt.only(attributes, known, "Unsupported attribute in get link request")
        dev = self._find(_IFINFO.unpack_from(data)[2], attributes)
        if dev is None:
            raise error(errno.EINVAL)
        request.reply(RTM_NEWLINK, self.fill(dev, rt.u32(attributes, IFLA_EXT_MASK)))

    def _device_event(self, event: int, dev: NetDevice) -> None:
        """Linux: rtnetlink_event."""
        if self._rtnl.has_listeners(RTNLGRP_LINK, RTM_NEWLINK):
            kind = RTM_DELLINK if event == NETDEV_UNREGISTER else RTM_NEWLINK
            self._rtnl.notify(RTNLGRP_LINK, kind, self.fill(dev, 0, 0xFFFFFFFF))

    # -- changing

    def new(self, request: Request) -> None:
        """RTM_NEWLINK: change a device. A new one is not made by a message: a driver is needed for it."""
        attributes = request.attributes(_IFINFO.size)
        index = _IFINFO.unpack_from(request.data)[2]
        if index < 0:
            raise error(errno.EINVAL, "ifindex can't be negative")
        dev = self.devices.by_index(index) if index else None
        if not index and (IFLA_IFNAME in attributes or IFLA_ALT_IFNAME in attributes):
            dev = self.devices.get(wire.text(attributes.get(IFLA_IFNAME) or attributes.get(IFLA_ALT_IFNAME, b"")))
        if dev is not None:
            if request.flags & wire.NLM_F_EXCL:
                raise error(errno.EEXIST)
            if request.flags & wire.NLM_F_REPLACE:
                raise error(errno.EOPNOTSUPP)
            self._change(dev, request, attributes)
        elif not request.flags & wire.NLM_F_CREATE:
            raise error(errno.ENODEV)
        else:
            raise error(errno.EOPNOTSUPP, "Unknown device type")

    def set(self, request: Request) -> None:
        """RTM_SETLINK."""
        attributes = request.attributes(_IFINFO.size)
        dev = self._find(_IFINFO.unpack_from(request.data)[2], attributes)
        if dev is None:
            raise error(errno.EINVAL)
        self._change(dev, request, attributes)

    def _change(self, dev: NetDevice, request: Request, attributes: dict[int, bytes]) -> None:
        """Linux: do_setlink; in its order."""
        _, _, index, flags, change = _IFINFO.unpack_from(request.data)
        if IFLA_NET_NS_PID in attributes or IFLA_NET_NS_FD in attributes:
            raise error(errno.EINVAL, "The interface netns is immutable")
        master = rt.u32(attributes, IFLA_MASTER)
        if master:
            raise error(errno.EINVAL if self.devices.by_index(master) is None else errno.EOPNOTSUPP)
        if IFLA_LINKINFO in attributes:
            raise error(errno.EOPNOTSUPP)
        if rt.u32(attributes, IFLA_TXQLEN) > 0x7FFF:
            raise error(errno.ERANGE, "integer out of range")
        if IFLA_ADDRESS in attributes:
            set_mac(self.devices, dev, attributes[IFLA_ADDRESS])
        if IFLA_MTU in attributes:
            set_mtu(self.devices, dev, rt.u32(attributes, IFLA_MTU))
        if index > 0 and IFLA_IFNAME in attributes and wire.text(attributes[IFLA_IFNAME]):
            set_name(self.devices, dev, wire.text(attributes[IFLA_IFNAME]))
        if flags or change:
            wanted = flags & change | get_flags(dev) & ~change if change else flags
            change_flags(self.devices, dev, wanted & (IFF_UP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST))
        if IFLA_TXQLEN in attributes:
            set_tx_queue_len(dev, rt.u32(attributes, IFLA_TXQLEN))

    def delete(self, request: Request) -> None:
        """RTM_DELLINK: take a device away."""
        attributes = request.attributes(_IFINFO.size)
        dev = self._find(_IFINFO.unpack_from(request.data)[2], attributes)
        if dev is None:
            raise error(errno.EINVAL)
        if dev.loopback:
            raise error(errno.EOPNOTSUPP)
        self.devices.remove(dev)
