"""What people get wrong: each mistake is told at once, by an error that names what was wrong and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import usernet
from usernet import drivers
from usernet.core.compiled import COMPILED


@pytest.fixture
def stack() -> Iterator[Any]:
    """Typed as anything, so that it can be used wrongly."""
    made = usernet.Stack("misused")
    made.add_device(drivers.veth()[0], "eth0", "10.0.0.1/24")
    yield made
    made.close()


def end() -> Any:
    return drivers.veth()[0]


WRONG: list[tuple[str, Callable[[Any], object], type[Exception], str]] = [
    ("stack-name", lambda _: usernet.Stack(5), TypeError, "name: expected a str, not 5"),  # type: ignore[arg-type]
    ("no-driver", lambda s: s.add_device(None, "e"), TypeError, "driver: expected a driver .*, not None"),
    ("class", lambda s: s.add_device(drivers.Loopback, "e"), TypeError, "driver: expected a driver .*, not <class"),
    ("both-ends", lambda s: s.add_device(drivers.veth(), "e"), TypeError, r"driver: expected .* one end of .*, not \("),
    ("device-name", lambda s: s.add_device(end(), b"e"), TypeError, "device name: expected a str, not b'e'"),
    ("taken-name", lambda s: s.add_device(end(), "eth0"), ValueError, "device name: 'eth0' is taken"),
    ("mtu", lambda s: s.add_device(end(), "e", mtu="9"), TypeError, "mtu: expected bytes, an int, not '9'"),
    ("set-mtu", lambda s: s.set_mtu("eth0", "9"), TypeError, "mtu: expected bytes, an int, not '9'"),
    ("mac", lambda s: s.add_device(end(), "e", mac=b"\2"), TypeError, "MAC address: expected a str such as .*, not b"),
    ("address", lambda s: s.add_device(end(), "e", b"::"), TypeError, "address: expected a str such as .*, not b'::'"),
    ("to", lambda s: s.add_route(None, via="10.0.0.2"), TypeError, "destination: expected a str such as .*, not None"),
    ("via", lambda s: s.add_route("default", via=5), TypeError, "via: expected an IP address, a str, not 5"),
    ("neighbour", lambda s: s.add_neighbour("eth0", 5, ""), TypeError, "address: expected an IP address, .* not 5"),
    ("poll-text", lambda s: s.poll("1"), TypeError, "now: expected nanoseconds, an int, not '1'"),
    ("poll-float", lambda s: s.poll(1.5), TypeError, "now: expected nanoseconds, an int, not 1.5"),
    ("sysctl", lambda s: s.sysctl[5], KeyError, "no sysctl named 5"),
    ("row", lambda s: s.sysctl.__setitem__("net.ipv4.tcp_rmem", 5.5), ValueError, "tcp_rmem: expected 3 integers, not"),
    ("nameservers", lambda s: setattr(s, "nameservers", "10.0.0.1"), TypeError, "nameservers: expected a list of addr"),
    ("nameserver", lambda s: setattr(s, "nameservers", ["x"]), ValueError, "nameserver: expected an address, .*'x'"),
    ("port", lambda s: setattr(s, "nameservers", ["10.0.0.1:0"]), ValueError, "expected .* address:port, not"),
    ("capture", lambda s: s.capture("x", "nope"), KeyError, "no device named 'nope'; there are: lo, eth0"),
    ("rate", lambda _: drivers.veth(rate="1gbit"), TypeError, "rate: expected a number, not '1gbit'"),  # type: ignore[arg-type]
    ("impaired", lambda _: drivers.Impair(None), TypeError, "driver: expected the driver .*, not None"),  # type: ignore[arg-type]
    ("tap", lambda _: drivers.Tap(b"t"), TypeError, "name: expected a str, not b't'"),  # type: ignore[arg-type]
    ("use", lambda _: usernet.use(5), TypeError, "stack: expected a usernet.Stack, not 5"),  # type: ignore[arg-type]
    ("using", lambda _: usernet.using("a").__enter__(), TypeError, "stack: expected a usernet.Stack, not 'a'"),  # type: ignore[arg-type]
    ("clock", lambda _: usernet.Stack("a", clock=5), TypeError, "clock: expected a Clock, or None, not 5"),  # type: ignore[arg-type]
    ("device", lambda s: s.set_up(5), TypeError, "dev: expected a device, or its name, not 5"),
    ("group", lambda s: s.add_address("eth0", "224.0.0.1/24"), ValueError, "expected an IPv4 unicast .*not 224.0.0.1"),
    ("metric", lambda s: s.add_route("10.1.0.0/16", via="10.0.0.2", metric="5"), TypeError, "metric: expected an int"),
    ("below-0", lambda s: s.add_route("10.1.0.0/16", via="10.0.0.2", metric=-5), ValueError, "metric: expected 0 to"),
    ("metrics", lambda s: s.add_route("10.1.0.0/16", via="10.0.0.2", mtu="5"), TypeError, "mtu: expected an int, not"),
    ("congctl", lambda s: s.add_route("10.1.0.0/16", dev="eth0", congctl="x"), ValueError, "congctl: expected .*'x'"),
    ("no-neighbour", lambda s: s.remove_neighbour("eth0", "10.0.0.7"), OSError, "no neighbour 10.0.0.7 on eth0"),
    ("hosts", lambda s: setattr(s, "hosts", None), TypeError, "hosts: expected a dict of names .*, not None"),
    ("probe", lambda s: s.trace.kfree_skb.attach(5), TypeError, "kfree_skb: expected a function, not 5"),
    ("callback", lambda s: s.call_later(5), TypeError, "callback: expected a function, not 5"),
    ("workers", lambda _: usernet.workers(end(), print), TypeError, "device: expected a drivers.Tap or drivers.Tun"),
]  # fmt: skip


@pytest.mark.parametrize(("misuse", "kind", "says"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_argument_is_named(stack: Any, misuse: Callable[[Any], object], kind: type[Exception], says: str):
    # What is compiled checks types by itself, before, and in its own words.
    with pytest.raises((kind, TypeError) if COMPILED else kind) as caught:
        misuse(stack)
    assert (COMPILED and caught.type is TypeError) or re.search(says, str(caught.value)), str(caught.value)
    assert list(stack.devices) == ["lo", "eth0"]


def test_a_name_with_one_address_that_is_no_list(stack: Any):
    stack.hosts["there"] = "10.0.0.2"
    says = None if COMPILED else "hosts table: 'there': expected a list of addresses, not '10.0.0.2'"
    with stack.socket(type=2) as sock, pytest.raises(TypeError, match=says):
        sock.sendto(b"", ("there", 9))


def test_a_driver_is_one_devices_alone(stack: Any):
    one, other = drivers.veth()
    stack.add_device(one, "eth1")
    with pytest.raises(ValueError, match=r"driver of eth2: .* is another device's already"):
        stack.add_device(one, "eth2")
    elsewhere = usernet.Stack("elsewhere")
    with pytest.raises(ValueError, match=r"driver of eth0: .* is another device's already"):
        elsewhere.add_device(one, "eth0")
    # It did not come to that where something else was wrong.
    with pytest.raises(ValueError, match="mtu"):
        elsewhere.add_device(other, "eth0", mtu=5)
    elsewhere.close()


def test_the_device_of_another_stack(stack: Any):
    other = usernet.Stack("other")
    theirs = other.add_device(end(), "eth0")
    for call in (
        lambda: stack.set_mtu(theirs, 1400), lambda: stack.add_route("10.1.0.0/16", dev=theirs),
        lambda: stack.remove_device(theirs), lambda: stack.capture("x", theirs),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"dev: <NetDevice eth0 .*> is not one of this stack's"):
            call()
    assert theirs.mtu == 1500
    other.close()


def test_one_device_is_captured_by_its_name(stack: Any, tmp_path: Path):
    with stack.capture(tmp_path / "one.pcapng", "eth0"):
        pass
    with stack.capture(tmp_path / "other.pcapng", stack.devices["eth0"]):
        pass
    assert (tmp_path / "one.pcapng").stat().st_size and (tmp_path / "other.pcapng").stat().st_size
