"""Addresses: what programs may write, what they get back, and every error of the standard module."""

from __future__ import annotations

import errno
import socket as standard
from typing import Any

import pytest

from usernet.drivers.loopback import Loopback
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sock.msg import PacketAddr, SockAddr
from usernet.sockets.address import (
    AF_INET,
    AF_INET6,
    AF_PACKET,
    Names,
    format_address,
    hosts_lookup,
    lookup_host,
    numeric_address,
    parse_address,
    resolve_host,
)

BAD_INET = [
    "127.0.0.1", None, 5, (), ("127.0.0.1",), ("127.0.0.1", 1, 2), ("127.0.0.1", "80"), ("127.0.0.1", 1.5),
    ("127.0.0.1", 65536), ("127.0.0.1", -1), ("127.0.0.1", 2**40), (5, 80), (None, 80), ("a\0b", 80), ("é" * 70, 80),
]  # fmt: skip


@pytest.mark.parametrize("address", BAD_INET)
def test_a_bad_address_is_the_standard_modules_error(net: Net, address: Any) -> None:
    with standard.socket(standard.AF_INET, standard.SOCK_DGRAM) as host, pytest.raises(Exception) as expected:
        host.bind(address)
    with pytest.raises(type(expected.value)) as raised:
        parse_address(net, AF_INET, address, "bind")
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize(
    "address", [("::1",), ("::1", 1, 2, 3, 4), ("::1", 1, -1), ("::1", 1, 2**20), "x", ("::1", 65536)]
)
def test_a_bad_ipv6_address_is_an_error(net: Net, address: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        parse_address(net, AF_INET6, address, "bind")


@pytest.mark.parametrize(
    ("host", "packed"),
    [
        ("10.1.2.3", b"\x0a\x01\x02\x03"),
        (b"10.1.2.3", b"\x0a\x01\x02\x03"),
        (bytearray(b"10.1.2.3"), b"\x0a\x01\x02\x03"),
        ("", bytes(4)),
        ("<broadcast>", b"\xff" * 4),
        ("255.255.255.255", b"\xff" * 4),
        ("127.1", b"\x7f\x00\x00\x01"),
        ("0x7f.1", b"\x7f\x00\x00\x01"),
        ("localhost", b"\x7f\x00\x00\x01"),
    ],
)
def test_hosts_that_need_no_nameserver(net: Net, host: Any, packed: bytes) -> None:
    name = parse_address(net, AF_INET, (host, 80), "connect")
    assert isinstance(name, SockAddr)
    assert (name.family, name.addr, name.port) == (AF_INET, packed, 80)


def test_ipv6_addresses_have_flow_and_scope(net: Net) -> None:
    name = parse_address(net, AF_INET6, ("fe80::1", 53, 7, 2), "connect")
    assert isinstance(name, SockAddr)
    assert (name.port, name.flowinfo, name.scope_id) == (53, 7, 2)
    assert format_address(net, name) == ("fe80::1", 53, 7, 2)


def test_packet_addresses_name_a_device(net: Net) -> None:
    devices = net.get(DeviceNamespace)
    dev = devices.register(Loopback(), "lo")
    name = parse_address(net, AF_PACKET, ("lo", 0x0800, 1, 2, b"\x01\x02\x03\x04\x05\x06"), "bind")
    assert isinstance(name, PacketAddr)
    assert (name.ifindex, name.protocol, name.pkttype, name.hatype) == (dev.index, 0x0800, 1, 2)
    assert format_address(net, name) == ("lo", 0x0800, 1, 2, b"\x01\x02\x03\x04\x05\x06")
    assert format_address(net, PacketAddr(3, 0, 0, 0, b"")) == ("", 3, 0, 0, b"")
    with pytest.raises(OSError) as raised:
        parse_address(net, AF_PACKET, ("eth9", 3), "bind")
    assert raised.value.errno == errno.ENODEV
    devices.close()


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("lo", TypeError), (("lo",), TypeError), ((5, 3), TypeError), (("", 65536), OverflowError),
        (("", 3, 0, 0, b"123456789"), ValueError), (("", 3, "x"), TypeError),
    ],
)  # fmt: skip
def test_a_bad_packet_address_is_an_error(net: Net, address: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parse_address(net, AF_PACKET, address, "bind")


def test_a_family_without_addresses_is_an_error(net: Net) -> None:
    with pytest.raises(OSError, match=r"bind\(\): bad family"):
        parse_address(net, 99, ("x", 1), "bind")


def test_addresses_as_programs_see_them(net: Net) -> None:
    assert format_address(net, SockAddr(AF_INET, b"\x0a\x00\x00\x01", 80)) == ("10.0.0.1", 80)
    assert format_address(net, SockAddr(0, b"", 0)) is None
    assert format_address(net, None) is None


def test_the_hosts_table(net: Net) -> None:
    names = net.get(Names)
    names.hosts["Server.example"] = ["fd00::1", "10.0.0.1", "10.0.0.2"]
    names.hosts["six.example"] = ["fd00::1"]
    assert lookup_host(net, "server.EXAMPLE.", AF_INET) == [b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"]
    assert len(lookup_host(net, "server.example", 0)) == 3
    assert hosts_lookup(names, "other.example", AF_INET) is None
    with pytest.raises(standard.gaierror) as raised:
        lookup_host(net, "six.example", AF_INET)
    assert raised.value.errno == standard.EAI_ADDRFAMILY
    names.hosts["wrong.example"] = ["10.0.0.256"]
    with pytest.raises(ValueError, match=r"'wrong.example': expected an IP address, not '10.0.0.256'"):
        lookup_host(net, "wrong.example", AF_INET)


def test_another_lookup_can_be_put_in(net: Net) -> None:
    asked: list[tuple[str, int]] = []

    def lookup(asking: Net, name: str, family: int) -> list[bytes]:
        assert asking is net
        asked.append((name, family))
        return [b"\x0a\x00\x00\x07"] if name == "there" else []

    net.get(Names).lookup = lookup
    assert resolve_host(net, "there", AF_INET) == b"\x0a\x00\x00\x07"
    with pytest.raises(standard.gaierror, match="Name or service not known"):
        resolve_host(net, "nowhere", AF_INET)
    assert asked == [("there", AF_INET), ("nowhere", AF_INET)]


def test_an_address_of_the_other_family_is_no_name(net: Net) -> None:
    with pytest.raises(standard.gaierror) as raised:
        resolve_host(net, "::1", AF_INET)
    assert raised.value.errno == standard.EAI_ADDRFAMILY
    with pytest.raises(OSError, match="address family mismatched"):
        resolve_host(net, "<broadcast>", AF_INET6)


@pytest.mark.parametrize(
    ("text", "packed"),
    [("1.2.3.4", b"\1\2\3\4"), ("1.2.3.4 x", None), ("1.2.3.400", None), ("name", None),
     ("::1", bytes(15) + b"\1"), ("::x", None)],
)  # fmt: skip
def test_numeric_addresses(text: str, packed: bytes | None) -> None:
    assert numeric_address(text) == packed
