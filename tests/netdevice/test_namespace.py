"""The devices of a stack: names, indices, and who is told when they change."""

from __future__ import annotations

import random

import pytest

from tests.netdevice.packets import FakeDriver
from usernet.core.clock import ManualClock
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    NETDEV_CHANGEADDR,
    NETDEV_CHANGEMTU,
    NETDEV_CHANGENAME,
    NETDEV_DOWN,
    NETDEV_REGISTER,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace


@pytest.fixture
def devices() -> DeviceNamespace:
    return Net("", ManualClock(), random.Random(1)).get(DeviceNamespace)


class Closing(FakeDriver):
    """Writes down what becomes of it; `broken`: it can't be opened."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.log: list[str] = []

    def open(self, dev: NetDevice) -> None:
        if self.broken:
            raise OSError("no such NIC")
        super().open(dev)
        self.log.append("open")

    def stop(self) -> None:
        self.log.append("stop")

    def close(self) -> None:
        self.log.append("close")


def test_by_name_and_by_index(devices):
    lo, eth0 = devices.register(FakeDriver(), "lo"), devices.register(FakeDriver(), "eth0")
    assert (lo.index, eth0.index) == (1, 2)
    assert devices["eth0"] is devices.get("eth0") is devices.by_index(2) is eth0
    assert devices.get("eth1") is None
    assert devices.get("eth1", lo) is lo
    assert devices.by_index(3) is None
    assert list(devices) == ["lo", "eth0"]
    assert devices.values() == [lo, eth0]
    assert len(devices) == 2
    assert "lo" in devices
    assert "eth1" not in devices
    with pytest.raises(KeyError, match="no device named 'eth1'; there are: lo, eth0"):
        devices["eth1"]


def test_an_index_is_not_given_out_again(devices):
    first = devices.register(FakeDriver(), "eth0")
    devices.remove(first)
    assert devices.register(FakeDriver(), "eth0").index == 2
    devices.remove(devices["eth0"])
    with pytest.raises(KeyError, match="there are: none"):
        devices["eth0"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\tb", "a:1", "x" * 16, "ä" * 8, "a\0b"])
def test_names_that_are_none(devices, name):
    with pytest.raises(ValueError, match="device name: expected 1 to 15 bytes without slash, colon or space"):
        devices.register(FakeDriver(), name)
    dev = devices.register(FakeDriver(), "x" * 15)
    with pytest.raises(ValueError, match="device name"):
        devices.rename(dev, name)
    assert list(devices) == ["x" * 15]


def test_a_name_is_taken_once(devices):
    eth0, eth1 = devices.register(FakeDriver(), "eth0"), devices.register(FakeDriver(), "eth1")
    with pytest.raises(ValueError, match="'eth0' is taken"):
        devices.register(FakeDriver(), "eth0")
    with pytest.raises(ValueError, match="'eth0' is taken"):
        devices.rename(eth1, "eth0")
    devices.rename(eth0, "eth0")
    devices.rename(eth0, "wan")
    devices.rename(eth1, "eth0")
    assert (devices["wan"], devices["eth0"]) == (eth0, eth1)
    assert (eth0.name, eth1.name) == ("wan", "eth0")


def test_layers_are_told(devices):
    told: list[tuple[int, str]] = []
    devices.subscribe(lambda event, dev: told.append((event, dev.name)))
    dev = devices.register(FakeDriver(), "eth0")
    devices.set_up(dev)
    devices.set_up(dev)
    devices.set_mtu(dev, 1400)
    devices.set_mac(dev, bytes.fromhex("020000000009"))
    devices.rename(dev, "wan")
    devices.set_down(dev)
    devices.set_down(dev)
    devices.set_up(dev)
    devices.remove(dev)
    assert told == [
        (NETDEV_REGISTER, "eth0"), (NETDEV_UP, "eth0"), (NETDEV_CHANGEMTU, "eth0"), (NETDEV_CHANGEADDR, "eth0"),
        (NETDEV_CHANGENAME, "wan"), (NETDEV_DOWN, "wan"), (NETDEV_UP, "wan"), (NETDEV_DOWN, "wan"),
        (NETDEV_UNREGISTER, "wan"),
    ]  # fmt: skip


def test_nobody_is_told_of_what_failed(devices):
    driver = Closing(broken=True)
    dev = devices.register(driver, "eth0")
    told: list[int] = []
    devices.subscribe(lambda event, dev: told.append(event))
    with pytest.raises(OSError, match="no such NIC"):
        devices.set_up(dev)
    with pytest.raises(ValueError, match="mtu of eth0: expected 68 to 65535, not 10"):
        devices.set_mtu(dev, 10)
    with pytest.raises(ValueError, match="expected a unicast MAC address"):
        devices.set_mac(dev, bytes(6))
    assert told == []
    assert not dev.up


def test_a_layer_that_refuses_a_device_undoes_its_registration(devices):
    def refuse(event: int, dev: NetDevice) -> None:
        raise RuntimeError("no room")

    devices.subscribe(refuse)
    with pytest.raises(RuntimeError, match="no room"):
        devices.register(FakeDriver(), "eth0")
    assert len(devices) == 0
    assert devices.values() == []


def test_removing_takes_it_down_first(devices):
    driver = Closing()
    dev = devices.register(driver, "eth0")
    devices.set_up(dev)
    devices.remove(dev)
    assert driver.log == ["open", "stop", "close"]
    with pytest.raises(ValueError, match="'eth0' is not one of this stack's"):
        devices.remove(dev)


def test_the_end_removes_the_newest_first(devices):
    removed: list[str] = []
    for name in ("lo", "eth0", "eth1"):
        devices.register(FakeDriver(), name)
    devices.subscribe(lambda event, dev: removed.append(dev.name) if event == NETDEV_UNREGISTER else None)
    devices.close()
    assert removed == ["eth1", "eth0", "lo"]
    assert len(devices) == 0
