"""The administrator's routes, and the route and source address of what this host sends."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.v4.host import FAR, PEER, ROUTER, US, Host, addr
from tests.support.compiled import interpreted_only
from usernet.ip.fib import RTN_THROW
from usernet.ip.v4.fib4 import ANY
from usernet.ip.v4.rtable import Rtable
from usernet.net.dst import RTAX_ADVMSS, RTAX_HOPLIMIT, RTAX_MTU
from usernet.sock.af_ops import (
    RTN_BLACKHOLE,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    Flow,
)


def code_of(host: Host, flow: Flow) -> int:
    with pytest.raises(OSError) as caught:
        host.routes.output(flow)
    assert caught.value.errno is not None
    return caught.value.errno


def output(host: Host, daddr: str | bytes, saddr: str | bytes = ANY, **other: int | bool) -> Rtable:
    daddr = addr(daddr) if isinstance(daddr, str) else daddr
    saddr = addr(saddr) if isinstance(saddr, str) else saddr
    return host.routes.output(Flow(daddr, saddr, **other))  # type: ignore[arg-type]


# -- adding and removing


def refused(host: Host, text: str, length: int, **what: object) -> int:
    before = host.routes.routes() + host.routes.routes(True)
    with pytest.raises(OSError) as caught:
        host.routes.add(addr(text), length, **what)  # type: ignore[arg-type]
    assert host.routes.routes() + host.routes.routes(True) == before
    assert caught.value.errno is not None
    return caught.value.errno


def test_bad_routes_are_refused_as_linux_does(host: Host):
    eth1 = host.add_device("eth1")
    assert refused(host, "10.0.0.1", 24, dev=host.eth0) == errno.EINVAL
    assert refused(host, "10.0.0.0", 33, dev=host.eth0) == errno.EINVAL
    assert refused(host, "192.0.2.0", 24) == errno.ENODEV
    assert refused(host, "192.0.2.0", 24, gateway=addr("172.16.0.1")) == errno.ENETUNREACH
    assert refused(host, "192.0.2.0", 24, gateway=addr("10.0.0.255")) == errno.EINVAL
    assert refused(host, "192.0.2.0", 24, gateway=addr("10.0.0.9"), dev=eth1) == errno.ENETUNREACH
    assert refused(host, "192.0.2.0", 24, gateway=PEER, prefsrc=addr("10.0.0.77")) == errno.EINVAL
    assert refused(host, "192.0.2.0", 24, kind=RTN_BLACKHOLE, dev=eth1) == errno.EINVAL
    assert refused(host, "0.0.0.0", 0, gateway=PEER) == errno.EEXIST
    host.devices.set_down(eth1)
    assert refused(host, "192.0.2.0", 24, dev=eth1) == errno.ENETDOWN
    assert refused(host, "192.0.2.0", 24, gateway=addr("172.16.0.1"), dev=eth1, onlink=True) == errno.ENETDOWN


def test_a_gateway_must_be_on_a_link_not_behind_another(host: Host):
    assert refused(host, "198.51.100.0", 24, gateway=addr("172.16.0.1")) == errno.ENETUNREACH
    host.routes.add(addr("192.0.2.0"), 24, gateway=PEER)
    assert refused(host, "198.51.100.0", 24, gateway=FAR) == errno.ENETUNREACH


def test_onlink_believes_that_the_gateway_is_there(host: Host):
    eth1 = host.add_device("eth1")
    host.routes.add(addr("192.0.2.0"), 24, gateway=addr("172.16.0.1"), dev=eth1, onlink=True)
    route = output(host, FAR)
    assert (route.dev, route.gateway) == (eth1, addr("172.16.0.1"))
    assert refused(host, "198.51.100.0", 24, gateway=US, dev=eth1, onlink=True) == errno.EINVAL


def test_replace_and_remove(host: Host):
    host.routes.add(bytes(4), 0, gateway=PEER, replace=True)
    assert output(host, FAR).gateway == PEER
    host.routes.add(bytes(4), 0, gateway=ROUTER, metric=100)
    with pytest.raises(OSError) as caught:
        host.routes.remove(bytes(4), 0, gateway=FAR)
    assert caught.value.errno == errno.ESRCH
    host.routes.remove(bytes(4), 0, metric=0)
    assert output(host, FAR).gateway == ROUTER
    host.routes.remove(bytes(4), 0)
    assert code_of(host, Flow(FAR, ANY)) == errno.ENETUNREACH


@pytest.mark.parametrize(
    ("kind", "code"),
    [(RTN_BLACKHOLE, errno.EINVAL), (RTN_UNREACHABLE, errno.EHOSTUNREACH), (RTN_PROHIBIT, errno.EACCES)],
)
def test_routes_that_lead_nowhere(host: Host, kind: int, code: int):
    host.routes.add(addr("192.0.2.0"), 24, kind=kind)
    assert code_of(host, Flow(FAR, ANY)) == code
    assert output(host, "198.51.100.1").gateway == ROUTER


def test_throw_ends_in_network_unreachable(host: Host):
    host.routes.add(addr("192.0.2.0"), 24, kind=RTN_THROW)
    assert code_of(host, Flow(FAR, ANY)) == errno.ENETUNREACH


# -- what is sent


def test_on_the_link_and_by_the_gateway(host: Host):
    near = output(host, PEER)
    assert (near.dev, near.gateway, near.saddr, near.kind) == (host.eth0, None, US, RTN_UNICAST)
    far = output(host, FAR)
    assert (far.dev, far.gateway, far.saddr) == (host.eth0, ROUTER, US)


def test_to_ourselves_by_loopback(host: Host):
    for text in ("10.0.0.1", "127.0.0.1", "127.9.9.9", "0.0.0.0"):
        route = output(host, text)
        assert route.local and route.kind == RTN_LOCAL and route.dev.name == "lo"
    assert output(host, US).saddr == US
    assert output(host, "127.9.9.9").saddr == addr("127.0.0.1")
    assert output(host, "0.0.0.0").daddr == addr("127.0.0.1")
    assert output(host, "0.0.0.0", US).daddr == US
    host.devices.set_down(host.devices["lo"])
    assert code_of(host, Flow(US, ANY)) == errno.ENETUNREACH


def test_broadcast_and_multicast(host: Host):
    directed = output(host, "10.0.0.255")
    assert directed.broadcast and directed.kind == RTN_BROADCAST and directed.saddr == US
    limited = output(host, "255.255.255.255")
    assert limited.broadcast and limited.gateway is None
    group = output(host, "239.1.2.3")
    # By the default route's device, but not to its gateway.
    assert group.multicast and group.kind == RTN_MULTICAST and group.gateway is None and group.dev is host.eth0
    host.routes.remove(bytes(4), 0)
    assert code_of(host, Flow(addr("239.1.2.3"), ANY)) == errno.ENETUNREACH


def test_the_device_of_multicast_is_its_source_address_s(host: Host):
    eth1 = host.add_device("eth1")
    host.addresses.add(eth1, addr("172.16.0.1"), 16)
    assert output(host, "239.1.2.3", "172.16.0.1").dev is eth1
    assert output(host, "255.255.255.255", "172.16.0.1").dev is eth1
    assert output(host, "224.0.0.9", oif=eth1.index).saddr == addr("172.16.0.1")
    assert code_of(host, Flow(addr("239.1.2.3"), addr("172.16.0.9"))) == errno.ENETUNREACH


def test_a_bound_device_reaches_what_no_route_leads_to(host: Host):
    eth1 = host.add_device("eth1")
    route = output(host, "198.51.100.1", oif=eth1.index)
    assert (route.dev, route.gateway, route.saddr) == (eth1, None, US)
    assert output(host, FAR, oif=host.eth0.index).gateway == ROUTER
    assert code_of(host, Flow(FAR, ANY, oif=99)) == errno.ENODEV
    host.devices.set_down(eth1)
    assert code_of(host, Flow(FAR, ANY, oif=eth1.index)) == errno.ENETUNREACH


def test_sources_must_be_ours(host: Host):
    assert code_of(host, Flow(PEER, addr("10.0.0.77"))) == errno.ENETUNREACH
    assert output(host, PEER, "10.0.0.77", any_source=True).saddr == addr("10.0.0.77")
    # It was not remembered for one who may not.
    assert code_of(host, Flow(PEER, addr("10.0.0.77"))) == errno.ENETUNREACH
    for text in ("224.0.0.1", "255.255.255.255", "0.1.2.3"):
        assert code_of(host, Flow(PEER, addr(text))) == errno.EINVAL
    assert code_of(host, Flow(PEER, addr("127.0.0.1"))) == errno.EINVAL
    assert code_of(host, Flow(addr("0.1.2.3"), ANY)) == errno.EINVAL


def test_dontroute_reaches_only_the_link(host: Host):
    assert output(host, PEER, onlink=True).gateway is None
    assert code_of(host, Flow(FAR, ANY, onlink=True)) == errno.ENETUNREACH


def test_prefsrc_and_metrics_go_with_the_route(host: Host):
    host.addresses.add(host.eth0, addr("10.0.0.5"), 24)
    host.routes.add(
        addr("192.0.2.0"), 24, gateway=PEER, prefsrc=addr("10.0.0.5"), congestion_control="reno",
        metrics={RTAX_MTU: 1400, RTAX_HOPLIMIT: 9, RTAX_ADVMSS: 1000},
    )  # fmt: skip
    route = output(host, FAR)
    assert route.saddr == addr("10.0.0.5")
    assert (route.mtu(), route.advmss(), route.hoplimit, route.congestion_control) == (1400, 1000, 9, "reno")
    assert route.metric(RTAX_MTU) == 1400
    # The source goes, and the route that named it.
    host.addresses.remove(host.eth0, addr("10.0.0.5"))
    assert output(host, FAR).gateway == ROUTER


def test_a_route_in_use_knows_when_it_holds_no_more(host: Host):
    route = output(host, FAR)
    assert route.valid()
    assert output(host, FAR) is route
    host.routes.add(addr("192.0.2.0"), 24, gateway=PEER)
    assert not route.valid()
    assert output(host, FAR).gateway == PEER
    again = output(host, FAR)
    host.devices.set_down(host.eth0)
    assert not again.valid()
    assert code_of(host, Flow(FAR, ANY)) == errno.ENETUNREACH


def test_the_cache_of_flows_is_bounded(host: Host):
    host.sysctl("route.max_size", 4)
    first = output(host, "192.0.2.0")
    for last in range(1, 10):
        output(host, bytes([192, 0, 2, last]))
    assert len(host.routes._cache) == 4
    assert output(host, "192.0.2.0") is not first
    assert output(host, "192.0.2.9") is output(host, "192.0.2.9")


# -- what is learned


def test_a_path_mtu_is_believed_and_forgotten(host: Host):
    route = output(host, FAR)
    other = output(host, "192.0.2.8")
    held = output(host, FAR, US)
    route.update_pmtu(1400)
    assert route.mtu() == 1400 and held.mtu() == 1400 and output(host, FAR).mtu() == 1400
    assert other.mtu() == 1500
    assert not route.mtu_locked()
    route.update_pmtu(1450)
    assert route.mtu() == 1400
    host.run(599)
    assert route.mtu() == 1400
    host.run(2)
    assert route.mtu() == 1500


def test_a_tiny_path_mtu_is_not_believed(host: Host):
    route = output(host, FAR)
    route.update_pmtu(100)
    assert route.mtu() == 552 and route.mtu_locked()
    # Once locked, nothing changes it until it is forgotten.
    route.update_pmtu(560)
    assert route.mtu() == 552
    host.run(601)
    assert route.mtu() == 1500 and not route.mtu_locked()


def test_a_locked_mtu_is_not_discovered(host: Host):
    host.routes.add(addr("192.0.2.0"), 24, gateway=PEER, metrics={RTAX_MTU: 1300}, mtu_lock=True)
    route = output(host, FAR)
    route.update_pmtu(1000)
    assert (route.mtu(), route.mtu_locked()) == (1300, True)
    host.routes.add(addr("192.0.2.0"), 24, gateway=PEER, mtu_lock=True, replace=True)
    assert output(host, FAR).mtu() == 576


def test_the_mtu_is_the_device_s_and_follows_it(host: Host):
    route = output(host, PEER)
    assert route.mtu() == 1500 and route.advmss() == 1460
    host.devices.set_mtu(host.eth0, 1280)
    assert route.mtu() == 1280 and not route.valid()
    host.devices.set_mtu(host.eth0, 200)
    assert output(host, PEER).advmss() == 256


@interpreted_only
def test_exceptions_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.ip.v4.route.MAX_EXCEPTIONS", 3)
    for last in range(6):
        output(host, bytes([192, 0, 2, last])).update_pmtu(1400)
    fib = output(host, FAR).fib
    assert fib.exceptions is not None and len(fib.exceptions) == 3
    assert output(host, "192.0.2.0").mtu() == 1500
    assert output(host, "192.0.2.5").mtu() == 1400


def test_a_redirect_is_believed_from_the_gateway_about_a_neighbour(host: Host):
    route = output(host, FAR)
    better = addr("10.0.0.3")
    assert host.routes.redirect(host.eth0, ROUTER, FAR, US, better)
    assert not route.valid()
    assert output(host, FAR).gateway == better
    assert output(host, "192.0.2.8").gateway == ROUTER
    host.run(301)
    assert output(host, FAR).gateway == ROUTER


def test_redirects_that_are_not_believed(host: Host):
    better = addr("10.0.0.3")
    redirect = host.routes.redirect
    eth1 = host.add_device("eth1")
    assert not redirect(host.eth0, PEER, FAR, US, better)  # not from the gateway in use
    assert not redirect(eth1, ROUTER, FAR, US, better)  # by another device
    assert not redirect(host.eth0, ROUTER, PEER, US, better)  # about one on the link
    for gateway in (ROUTER, US, addr("224.0.0.1"), addr("0.0.0.0"), addr("255.255.255.255"), addr("10.0.0.255")):
        assert not redirect(host.eth0, ROUTER, FAR, US, gateway)
    host.sysctl("conf.all.accept_redirects", 0)
    host.sysctl("conf.eth0.accept_redirects", 0)
    assert not redirect(host.eth0, ROUTER, FAR, US, better)
    assert output(host, FAR).gateway == ROUTER


def test_without_shared_media_a_redirect_leads_to_a_known_gateway_on_the_link(host: Host):
    host.sysctl("conf.all.shared_media", 0)
    host.sysctl("conf.eth0.shared_media", 0)
    better = addr("10.0.0.3")
    assert not host.routes.redirect(host.eth0, ROUTER, FAR, US, addr("172.16.0.1"))
    assert not host.routes.redirect(host.eth0, ROUTER, FAR, US, better)
    host.routes.add(addr("198.51.100.0"), 24, gateway=better)
    assert host.routes.redirect(host.eth0, ROUTER, FAR, US, better)


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.integers(0, 3), st.booleans())
def test_any_flow_gives_a_route_or_an_errno_of_linux(daddr: bytes, saddr: bytes, oif: int, any_source: bool):
    host = Host()
    code = 0
    try:
        route = host.routes.output(Flow(daddr, saddr, oif=oif, any_source=any_source))
    except OSError as cause:
        code = cause.errno or -1
    else:
        assert route.dev.up and len(route.saddr) == 4 and route.valid()
    assert code in (0, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.ENODEV)
    host.close()
