"""Changes of a device as programs ask for them, by netlink and by ioctl: Linux's checks, errors and words (Linux:
dev_change_flags, dev_set_mtu, dev_set_mac_address, dev_change_name)."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from usernet.core.errors import error
from usernet.netdevice.device import (
    IFF_ALLMULTI,
    IFF_LOWER_UP,
    IFF_MULTICAST,
    IFF_PROMISC,
    IFF_RUNNING,
    IFF_UP,
    IFNAMSIZ,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.netdevice.qdisc.pfifo import PfifoFast

_MAX_NUMBER: Final = 8 * 4096
"""Numbers that "eth%d" is tried with (Linux: __dev_alloc_name)."""


def get_flags(dev: NetDevice) -> int:
    """The flags as programs are told them: promiscuous only where an administrator said so, running as the carrier is
    (Linux: dev_get_flags)."""
    flags = dev.flags & ~(IFF_PROMISC | IFF_ALLMULTI | IFF_RUNNING | IFF_LOWER_UP)
    flags |= dev.gflags & (IFF_PROMISC | IFF_ALLMULTI)
    if dev.running:
        flags |= IFF_RUNNING | IFF_LOWER_UP
    return flags


def change_flags(devices: DeviceNamespace, dev: NetDevice, flags: int) -> None:
    """Give `dev` those of `flags` that can be changed. Raises OSError where its driver can't be opened."""
    dev.flags = dev.flags & ~IFF_MULTICAST | flags & IFF_MULTICAST
    changed = (flags ^ dev.gflags) & (IFF_PROMISC | IFF_ALLMULTI)
    dev.gflags ^= changed
    if changed & IFF_PROMISC:
        dev.set_promiscuity(1 if flags & IFF_PROMISC else -1)
    if changed & IFF_ALLMULTI:
        dev.flags = dev.flags & ~IFF_ALLMULTI | flags & IFF_ALLMULTI
    if flags & IFF_UP:
        devices.set_up(dev)
    else:
        devices.set_down(dev)


def set_mtu(devices: DeviceNamespace, dev: NetDevice, mtu: int) -> None:
    """Raises OSError EINVAL out of the driver's bounds, or what the driver raises."""
    if mtu == dev.mtu:
        return
    nic: Any = dev.driver
    if mtu > 0x7FFFFFFF or mtu < nic.min_mtu:
        raise error(errno.EINVAL, "mtu less than device minimum")
    if mtu > nic.max_mtu:
        raise error(errno.EINVAL, "mtu greater than device maximum")
    devices.set_mtu(dev, mtu)


def set_mac(devices: DeviceNamespace, dev: NetDevice, mac: bytes) -> None:
    """Raises OSError: EOPNOTSUPP (it has none), EINVAL (too short), EADDRNOTAVAIL (no unicast address)."""
    if not dev.has_link_header or dev.loopback:
        raise error(errno.EOPNOTSUPP)
    if len(mac) < len(dev.mac):
        raise error(errno.EINVAL)
    mac = mac[: len(dev.mac)]
    if mac[0] & 1 or not any(mac):
        raise error(errno.EADDRNOTAVAIL)
    devices.set_mac(dev, mac)


def set_name(devices: DeviceNamespace, dev: NetDevice, name: str) -> None:
    """Rename it; "eth%d" takes the first number that is free. Raises OSError: EINVAL, EEXIST, ENFILE (no number)."""
    if name == dev.name:
        return
    if "%" in name:
        before, _, after = name.partition("%d")
        if name.count("%") != 1 or "%d" not in name:
            raise error(errno.EINVAL)
        for number in range(_MAX_NUMBER):
            if f"{before}{number}{after}" not in devices:
                name = f"{before}{number}{after}"
                break
        else:
            raise error(errno.ENFILE)
    if name in devices:
        raise error(errno.EEXIST)
    if len(os.fsencode(name)) >= IFNAMSIZ:
        raise error(errno.EINVAL)
    try:
        devices.rename(dev, name)
    except ValueError:
        raise error(errno.EINVAL) from None


def set_tx_queue_len(dev: NetDevice, length: int) -> None:
    """How many packets a queue of `dev` holds (Linux: dev_change_tx_queue_len)."""
    dev.tx_queue_len = length
    if isinstance(dev.qdisc, PfifoFast):
        dev.qdisc.limit = length
