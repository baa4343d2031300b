"""The interface of a driver, and what one gets that defines nothing more than it must."""

from __future__ import annotations

import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.pernet import Net
from usernet.netdevice.driver import ARPHRD_ETHER, Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import SKBuff


def test_what_it_must_define():
    driver = Driver()
    dev = Net("", ManualClock(), random.Random(1)).get(DeviceNamespace).register(driver, "eth0")
    for call in (lambda: driver.open(dev), driver.stop, lambda: driver.xmit(SKBuff()), lambda: driver.poll(1)):
        with pytest.raises(NotImplementedError, match="Driver must define"):
            call()


def test_what_it_need_not_define():
    driver = Driver()
    driver.set_mtu(1400)
    driver.set_mac(bytes(6))
    driver.close()
    assert driver.fileno() == -1
    assert driver.carrier()
    assert (driver.hw_features, driver.link_type, driver.mac, driver.mtu) == (0, ARPHRD_ETHER, b"", 0)
