from __future__ import annotations

import socket

import pytest

from usernet.packetdrill.config import IP_VERSIONS, Config, configure, default_defines
from usernet.packetdrill.errors import BadEvent, ScriptError
from usernet.packetdrill.parser import parse


def config(text: str = "", ip_version: str = "ipv4", **overrides: str | None) -> Config:
    script = parse(f"{text}\n0 f() = 0", "x.pkt")
    return configure(script.options, script.path, script.text, ip_version, overrides)


def test_defaults_are_those_of_the_public_suites():
    four = config()
    assert (socket.inet_ntoa(four.local_ip), socket.inet_ntoa(four.remote_ip)) == ("192.168.0.1", "192.0.2.1")
    assert (four.mtu, four.prefix_length, four.remote_prefix_length, four.socket_domain) == (1500, 16, 32, 2)
    assert (four.tolerance, four.tolerance_percent) == (4_000_000, 12.5)
    six = config(ip_version="ipv6")
    assert socket.inet_ntop(socket.AF_INET6, six.remote_ip) == "fd3d:fa7b:d17d::1"
    assert (six.mtu, six.wire_version, six.socket_domain) == (1520, 6, 10)
    mapped = config(ip_version="ipv4-mapped-ipv6")
    assert (mapped.wire_version, mapped.socket_domain) == (4, 10)
    assert mapped.socket_address(mapped.local_ip).hex() == "00000000000000000000ffffc0a80001"


def test_a_scripts_options_and_what_goes_before_them():
    got = config(
        "--mss=1000\n--tolerance_usecs=7000\n--strict_segments\n--tcp_ts_tick_usecs=1000\n--local_ip=192.168.0.2\n"
        "--remote_ip=10.1.2.3/24\n--netmask_ip=255.255.255.0\n--bind_port=81\n--non_fatal=packet,syscall\n--debug",
        local_ip="192.168.0.3",
    )
    assert (got.mss, got.tolerance, got.strict_segments, got.ts_tick, got.bind_port) == (
        1000, 7_000_000, True, 1_000_000, 81,
    )
    assert (socket.inet_ntoa(got.local_ip), socket.inet_ntoa(got.remote_ip)) == ("192.168.0.3", "10.1.2.3")
    assert (got.remote_prefix_length, got.prefix_length) == (24, 24)
    assert got.non_fatal_packet and got.non_fatal_syscall


def test_the_ip_version_may_stand_behind_addresses_of_it():
    got = config("--local_ip=fd::1\n--ip_version=ipv6")
    assert got.local_ip == socket.inet_pton(socket.AF_INET6, "fd::1")
    assert configure([], "x.pkt", "", "ipv4", {"ip_version": "ipv6"}).wire_version == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--frobnicate", "found --frobnicate without a value"),
        ("--frobnicate=1", "found the option --frobnicate, expected one that is known"),
        ("--mss", "expected --mss=VALUE"),
        ("--mss=0", "expected a number from 1 to 65535"),
        ("--mss=x", "expected a number"),
        ("--strict_segments=1", "found a value for --strict_segments, expected none"),
        ("--ip_version=ipv5", "expected one of ipv4, ipv6, ipv4-mapped-ipv6"),
        ("--local_ip=::1", "expected an IPv4 address"),
        ("--local_ip=1.2.3.4/8", "without a prefix length"),
        ("--remote_ip=1.2.3.4/33", "expected a number from 0 to 32"),
        ("--netmask_ip=255.0.255.0", "expected a netmask"),
        ("--tolerance_percent=101", "expected a number from 0 to 100"),
        ("--tolerance_percent=a", "expected a number from 0 to 100"),
        ("--non_fatal=all", "expected 'packet', 'syscall' or both"),
    ],
)
def test_bad_options(option: str, message: str):
    with pytest.raises(ScriptError) as caught:
        config(f"--define=A=1\n  {option}")
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (2, 3)


def test_a_bad_option_of_the_command_line():
    with pytest.raises(ValueError, match="--mss=0"):
        config(mss="0")
    with pytest.raises(ValueError, match="ipv5"):
        Config("ipv5")
    with pytest.raises(BadEvent):
        Config().set("mtu", "1")


def test_symbols_for_each_version():
    assert {default_defines(version)["CMSG_LEVEL_IP"] for version in IP_VERSIONS} == {"SOL_IP", "SOL_IPV6"}
    assert default_defines("ipv6")["TFO_COOKIE"] == "c1d1e9742a47a9bc"
