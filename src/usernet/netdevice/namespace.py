"""The devices of one stack, by name and index, and who is told when they change (Linux: netdevice notifiers)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, final

from usernet.core.errors import check_type
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    IFNAMSIZ,
    NETDEV_CHANGEADDR,
    NETDEV_CHANGEMTU,
    NETDEV_CHANGENAME,
    NETDEV_DOWN,
    NETDEV_REGISTER,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    NetDevice,
)
from usernet.netdevice.driver import Driver

Notifier = Callable[[int, NetDevice], None]
"""`notifier(event, dev)`, event being NETDEV_*. Layers keep their own state of a device in step by it."""


@final
class DeviceNamespace:
    """A mapping of names to devices: `stack.devices["eth0"]`."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._by_name: dict[str, NetDevice] = {}
        self._by_index: dict[int, NetDevice] = {}
        self._next_index: int = 1
        self._notifiers: list[Notifier] = []

    def __getitem__(self, name: str) -> NetDevice:
        dev = self._by_name.get(name)
        if dev is None:
            raise KeyError(f"no device named {name!r}; there are: {', '.join(self._by_name) or 'none'}")
        return dev

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str, default: Any = None) -> Any:
        """The device of that name, or `default`."""
        return self._by_name.get(name, default)

    def values(self) -> list[NetDevice]:
        """All devices in the order of their index."""
        return [self._by_index[index] for index in sorted(self._by_index)]

    def by_index(self, index: int) -> NetDevice | None:
        return self._by_index.get(index)

    def subscribe(self, notifier: Notifier) -> None:
        self._notifiers.append(notifier)

    def notify(self, event: int, dev: NetDevice) -> None:
        for notifier in tuple(self._notifiers):
            notifier(event, dev)

    def _check_name(self, name: str) -> None:
        check_type("device name", name, str, "a str")
        wrong = not name or len(os.fsencode(name)) >= IFNAMSIZ or name in (".", "..")
        if wrong or any(char in "/:\0" or char.isspace() for char in name):  # Linux: dev_valid_name
            raise ValueError(
                f"device name: expected 1 to {IFNAMSIZ - 1} bytes without slash, colon or space, not {name!r}"
            )
        if name in self._by_name:
            raise ValueError(f"device name: {name!r} is taken")

    def register(self, driver: Driver, name: str) -> NetDevice:
        """A new device, down, on `driver`. Raises ValueError for a name that is taken or no name (IFNAMSIZ), and for a
        driver that is a device's already."""
        self._check_name(name)
        if driver.claimed:
            raise ValueError(f"driver of {name}: {driver!r} is another device's already")
        dev = NetDevice(self._net, driver, name, self._next_index)
        self._next_index += 1
        self._by_name[name] = dev
        self._by_index[dev.index] = dev
        driver.claimed = True
        try:
            self.notify(NETDEV_REGISTER, dev)
        except BaseException:
            del self._by_name[name]
            del self._by_index[dev.index]
            driver.claimed = False
            raise
        return dev

    def set_up(self, dev: NetDevice) -> None:
        """Bring `dev` up. Raises OSError where its driver can't be opened."""
        if not dev.up:
            dev.open()
            self.notify(NETDEV_UP, dev)

    def set_down(self, dev: NetDevice) -> None:
        """Take `dev` down; its routes, neighbours and what is queued go."""
        if dev.up:
            dev.stop()
            self.notify(NETDEV_DOWN, dev)

    def rename(self, dev: NetDevice, name: str) -> None:
        """Raises ValueError as `register` does."""
        if name == dev.name:
            return
        self._check_name(name)
        del self._by_name[dev.name]
        dev.name = name
        self._by_name[name] = dev
        self.notify(NETDEV_CHANGENAME, dev)

    def set_mtu(self, dev: NetDevice, mtu: int) -> None:
        """Raises ValueError out of the driver's bounds, OSError where it refuses."""
        dev.set_mtu(mtu)
        self.notify(NETDEV_CHANGEMTU, dev)

    def set_mac(self, dev: NetDevice, mac: bytes) -> None:
        """Raises ValueError for what is no unicast address, OSError where the driver refuses."""
        dev.set_mac(mac)
        self.notify(NETDEV_CHANGEADDR, dev)

    def remove(self, dev: NetDevice) -> None:
        """Take `dev` away, and all that depends on it."""
        if self._by_index.get(dev.index) is not dev:
            raise ValueError(f"device {dev.name!r} is not one of this stack's")
        self.set_down(dev)
        self.notify(NETDEV_UNREGISTER, dev)
        dev.driver.close()
        dev.driver.claimed = False
        del self._by_name[dev.name]
        del self._by_index[dev.index]

    def close(self) -> None:
        """The stack ends: remove all devices, the newest first."""
        for dev in list(self.values())[::-1]:
            self.remove(dev)
