"""Settings by device, and how "all" joins in."""

from __future__ import annotations

import pytest

from tests.ip.v4.host import Host


def test_ip_forward_and_its_two_other_names_are_one(host: Host):
    sysctl = host.net.sysctl
    assert sysctl["net.ipv4.ip_forward"] == 0
    sysctl["net.ipv4.ip_forward"] = 1
    for name in ("all", "default", "eth0", "lo"):
        assert sysctl[f"net.ipv4.conf.{name}.forwarding"] == 1
    # A router isn't told the way.
    assert sysctl["net.ipv4.conf.all.accept_redirects"] == 0
    assert host.net.mib.ip.Forwarding == 1
    sysctl["net.ipv4.conf.all.forwarding"] = 0
    assert sysctl["net.ipv4.ip_forward"] == 0
    assert sysctl["net.ipv4.conf.eth0.forwarding"] == 0
    assert host.net.mib.ip.Forwarding == 2


def test_new_devices_take_the_defaults(host: Host):
    host.sysctl("conf.default.rp_filter", 1)
    host.add_device("eth1")
    assert host.net.sysctl["net.ipv4.conf.eth1.rp_filter"] == 1
    assert host.net.sysctl["net.ipv4.conf.eth0.rp_filter"] == 0


def test_settings_follow_a_device_s_name(host: Host):
    host.sysctl("conf.eth0.rp_filter", 2)
    host.devices.rename(host.eth0, "wan0")
    assert host.net.sysctl["net.ipv4.conf.wan0.rp_filter"] == 2
    assert "net.ipv4.conf.eth0.rp_filter" not in host.net.sysctl


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        ("log_martians", "log_martians"), ("accept_local", "accept_local"), ("route_localnet", "route_localnet"),
        ("promote_secondaries", "promote_secondaries"), ("arp_filter", "arp_filter"),
        ("drop_gratuitous_arp", "drop_gratuitous_arp"),
        ("drop_unicast_in_l2_multicast", "drop_unicast_in_l2_multicast"),
    ],
)  # fmt: skip
def test_either_is_enough(host: Host, setting: str, method: str):
    ask = getattr(host.ipv4.devices.of(host.eth0), method)
    assert not ask()
    for where in ("all", "eth0"):
        host.sysctl(f"conf.{where}.{setting}", 1)
        assert ask()
        host.sysctl(f"conf.{where}.{setting}", 0)
        assert not ask()


@pytest.mark.parametrize("setting", ["rp_filter", "arp_ignore", "arp_announce", "arp_accept"])
def test_the_greater_counts(host: Host, setting: str):
    ask = getattr(host.ipv4.devices.of(host.eth0), setting)
    host.sysctl(f"conf.all.{setting}", 1)
    assert ask() == 1
    host.sysctl(f"conf.eth0.{setting}", 2)
    assert ask() == 2


def test_redirects_are_accepted_by_a_host_and_hardly_by_a_router(host: Host):
    in_dev = host.ipv4.devices.of(host.eth0)
    assert in_dev.accept_redirects()
    host.sysctl("conf.all.accept_redirects", 0)
    assert in_dev.accept_redirects()
    host.sysctl("conf.eth0.forwarding", 1)
    assert not in_dev.accept_redirects()
    host.sysctl("conf.all.accept_redirects", 1)
    assert in_dev.accept_redirects()
    host.sysctl("conf.eth0.accept_redirects", 0)
    assert not in_dev.accept_redirects()


def test_source_routes_and_broadcast_forwarding_need_both(host: Host):
    in_dev = host.ipv4.devices.of(host.eth0)
    assert not in_dev.accept_source_route()
    host.sysctl("conf.all.accept_source_route", 1)
    assert in_dev.accept_source_route()
    host.sysctl("conf.all.bc_forwarding", 1)
    assert not in_dev.broadcast_forwarding()
    host.sysctl("conf.eth0.bc_forwarding", 1)
    assert in_dev.broadcast_forwarding()


def test_bounds(host: Host):
    with pytest.raises(ValueError, match=r"conf\.eth0\.rp_filter: expected 0 to 2, not 3"):
        host.sysctl("conf.eth0.rp_filter", 3)
    with pytest.raises(ValueError, match="ip_forward: expected 0 to 1"):
        host.sysctl("ip_forward", 2)
