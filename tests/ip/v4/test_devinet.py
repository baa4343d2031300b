"""Addresses: the routes that come and go with them, primary and secondary ones, and which is chosen."""

from __future__ import annotations

import errno

import pytest

from tests.ip.v4.host import US, Host, addr
from usernet.ip.fib import RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE
from usernet.ip.v4.devinet import ADDR_ADDED, ADDR_REMOVED, IfAddr
from usernet.ip.v4.fib4 import ANY
from usernet.netdevice.device import IFF_BROADCAST
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST


def listed(host: Host, local: bool = False) -> list[str]:
    return [repr(route) for route in host.routes.routes(local) if "lo " not in repr(route)]


def test_an_address_brings_its_routes_and_takes_them_along(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("192.168.1.7"), 24)
    assert "<FibRoute unicast 192.168.1.0/24 dev eth1 metric=0>" in listed(host)
    local = listed(host, local=True)
    assert "<FibRoute local 192.168.1.7/32 dev eth1 metric=0>" in local
    assert "<FibRoute broadcast 192.168.1.255/32 dev eth1 metric=0>" in local
    host.addresses.remove(eth1, addr("192.168.1.7"), 24)
    assert not [line for line in listed(host) + listed(host, True) if "eth1" in line]
    assert host.addresses.of(eth1) == []


def test_what_an_address_is(host: Host):
    kind = host.ipv4.fib.addr_type
    assert kind(US) == RTN_LOCAL
    assert kind(addr("127.0.0.1")) == RTN_LOCAL
    assert kind(addr("127.3.4.5")) == RTN_LOCAL
    assert kind(addr("10.0.0.255")) == RTN_BROADCAST
    assert kind(addr("255.255.255.255")) == RTN_BROADCAST
    assert kind(addr("0.0.0.0")) == RTN_BROADCAST
    assert kind(addr("224.0.0.1")) == RTN_MULTICAST
    assert kind(addr("10.0.0.9")) == RTN_UNICAST
    eth1 = host.add_device("eth1")
    assert kind(US, eth1) == RTN_UNICAST
    assert kind(US, host.eth0) == RTN_LOCAL


@pytest.mark.parametrize("length", [31, 32])
def test_short_networks_have_no_broadcast_address(host: Host, length: int):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("192.168.1.4"), length)
    assert not [line for line in listed(host, True) if "broadcast" in line and "eth1" in line]
    assert ("192.168.1.4/31" in " ".join(listed(host))) == (length == 31)


@pytest.mark.parametrize("text", ["0.1.2.3", "224.0.0.1", "255.255.255.255"])
def test_only_unicast_addresses_are_taken(host: Host, text: str):
    with pytest.raises(ValueError, match="unicast"):
        host.addresses.add(host.eth0, addr(text), 24)


def test_a_bad_prefix_length_and_a_second_time_are_refused(host: Host):
    with pytest.raises(ValueError, match="expected 0 to 32, not 33"):
        host.addresses.add(host.eth0, addr("10.0.0.5"), 33)
    with pytest.raises(OSError) as caught:
        host.addresses.add(host.eth0, US, 24)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(OSError) as caught:
        host.addresses.remove(host.eth0, addr("10.0.0.5"))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_secondary_addresses_go_with_their_primary(host: Host):
    host.addresses.add(host.eth0, addr("10.0.0.5"), 24)
    host.addresses.add(host.eth0, addr("10.0.0.6"), 24)
    assert [(ifa.addr, ifa.secondary) for ifa in host.addresses.of(host.eth0)] == [
        (US, False), (addr("10.0.0.5"), True), (addr("10.0.0.6"), True),
    ]  # fmt: skip
    host.addresses.remove(host.eth0, US, 24)
    assert host.addresses.of(host.eth0) == []
    # The default route goes by a gateway that is no longer on a link; it stays, as in Linux.
    assert listed(host) == ["<FibRoute unicast 0.0.0.0/0 via 10.0.0.254 dev eth0 metric=0>"]
    assert not [line for line in listed(host, True) if "eth0" in line]


def test_promoted_secondaries_stay(host: Host):
    host.sysctl("conf.eth0.promote_secondaries", 1)
    host.addresses.add(host.eth0, addr("10.0.0.5"), 24)
    host.addresses.add(host.eth0, addr("10.0.0.6"), 24)
    host.addresses.remove(host.eth0, US, 24)
    assert [(ifa.addr, ifa.secondary) for ifa in host.addresses.of(host.eth0)] == [
        (addr("10.0.0.5"), False), (addr("10.0.0.6"), True),
    ]  # fmt: skip
    link = host.ipv4.fib.main.lookup(addr("10.0.0.9"))
    assert link is not None and link.length == 24 and link.prefsrc == addr("10.0.0.5")
    assert host.ipv4.fib.addr_type(addr("10.0.0.6")) == RTN_LOCAL
    assert host.ipv4.fib.addr_type(addr("10.0.0.255")) == RTN_BROADCAST
    assert host.ipv4.fib.addr_type(US) == RTN_UNICAST
    assert sum("10.0.0.6/32" in line for line in listed(host, True)) == 1


def test_removing_a_secondary_leaves_the_network(host: Host):
    host.addresses.add(host.eth0, addr("10.0.0.5"), 24)
    host.addresses.remove(host.eth0, addr("10.0.0.5"), 24)
    assert "<FibRoute unicast 10.0.0.0/24 dev eth0 metric=0>" in listed(host)
    assert host.ipv4.fib.addr_type(addr("10.0.0.255")) == RTN_BROADCAST


def test_a_device_that_goes_down_loses_its_routes_but_not_its_addresses(host: Host):
    host.devices.set_down(host.eth0)
    assert not [line for line in listed(host) if "eth0" in line]
    assert host.ipv4.fib.addr_type(addr("10.0.0.255")) == RTN_UNICAST
    assert host.ipv4.fib.addr_type(US) == RTN_LOCAL
    host.devices.set_up(host.eth0)
    assert "<FibRoute unicast 10.0.0.0/24 dev eth0 metric=0>" in listed(host)
    assert host.ipv4.fib.addr_type(addr("10.0.0.255")) == RTN_BROADCAST


def test_a_removed_device_leaves_nothing(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("192.168.1.7"), 24)
    host.routes.add(addr("203.0.113.0"), 24, gateway=addr("192.168.1.1"))
    host.devices.remove(eth1)
    assert not [line for line in listed(host) + listed(host, True) if "eth1" in line]
    assert host.addresses.find(addr("192.168.1.7")) is None
    assert "net.ipv4.conf.eth1.forwarding" not in host.net.sysctl


def test_labels_follow_the_device_s_name(host: Host):
    host.addresses.add(host.eth0, addr("10.0.0.5"), 24, label="eth0:web")
    host.devices.rename(host.eth0, "wan0")
    assert [ifa.label for ifa in host.addresses.of(host.eth0)] == ["wan0", "wan0:web"]


def test_a_tiny_mtu_takes_the_addresses_away(host: Host):
    host.eth0.driver.min_mtu = 0
    host.devices.set_mtu(host.eth0, 67)
    assert host.addresses.of(host.eth0) == []
    with pytest.raises(OSError, match="MTU is below 68"):
        host.addresses.add(host.eth0, US, 24)


def test_the_broadcast_address_of_a_broadcast_device(host: Host):
    host.eth0.flags |= IFF_BROADCAST
    assert host.addresses.add(host.eth0, addr("172.16.0.1"), 16).broadcast == addr("172.16.255.255")
    given = host.addresses.add(host.eth0, addr("172.17.0.1"), 16, broadcast=addr("172.17.0.0"))
    assert given.broadcast == addr("172.17.0.0")
    assert host.ipv4.fib.addr_type(addr("172.17.0.0")) == RTN_BROADCAST


def test_the_source_is_of_the_network_of_the_destination(host: Host):
    host.addresses.add(host.eth0, addr("172.16.0.1"), 16)
    select = host.addresses.select_addr
    assert select(host.eth0, addr("172.16.9.9"), RT_SCOPE_UNIVERSE) == addr("172.16.0.1")
    assert select(host.eth0, addr("10.0.0.9"), RT_SCOPE_UNIVERSE) == US
    assert select(host.eth0, ANY, RT_SCOPE_UNIVERSE) == US
    eth1 = host.add_device("eth1")
    assert select(eth1, ANY, RT_SCOPE_UNIVERSE) == US
    assert select(None, ANY, RT_SCOPE_UNIVERSE) == US


def test_host_scope_addresses_are_not_for_others(host: Host):
    lo = host.devices["lo"]
    assert host.addresses.select_addr(lo, ANY, RT_SCOPE_UNIVERSE) == US
    assert host.addresses.select_addr(lo, ANY, RT_SCOPE_HOST) == addr("127.0.0.1")


def test_asking_for_one_of_our_addresses(host: Host):
    confirm = host.addresses.confirm
    assert confirm(host.eth0, ANY, US, RT_SCOPE_HOST) == US
    assert confirm(host.eth0, addr("10.0.0.9"), ANY, RT_SCOPE_LINK) == US
    assert confirm(host.eth0, addr("192.0.2.1"), US, RT_SCOPE_HOST) == ANY
    assert confirm(None, ANY, addr("127.0.0.1"), RT_SCOPE_LINK) == ANY
    assert confirm(None, ANY, addr("127.0.0.1"), RT_SCOPE_HOST) == addr("127.0.0.1")


def test_whoever_asked_is_told(host: Host):
    seen: list[tuple[int, IfAddr]] = []
    host.addresses.notifiers.append(lambda event, ifa: seen.append((event, ifa)))
    ifa = host.addresses.add(host.eth0, addr("10.0.0.5"), 24)
    host.addresses.remove(host.eth0, addr("10.0.0.5"))
    assert seen == [(ADDR_ADDED, ifa), (ADDR_REMOVED, ifa)]
    assert repr(ifa) == "<IfAddr 10.0.0.5/24 eth0>"
