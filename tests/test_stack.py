"""A stack's own methods: what they refuse, and that nothing has changed then."""

from __future__ import annotations

import errno

import pytest

import usernet
from usernet import drivers


@pytest.fixture
def stack():
    stack = usernet.Stack("bench", seed=1)
    yield stack
    stack.close()


@pytest.mark.parametrize(
    ("address", "problem"), [("10.0.0.300/24", "10.0.0.300/24"), ("10.0.0.1/33", "10.0.0.1/33"), ("", "address")]
)
def test_a_wrong_address_is_named_and_there_is_no_device(stack, address, problem):
    with pytest.raises(ValueError, match=problem):
        stack.add_device(drivers.veth()[0], "eth0", "10.0.0.1/24", address)
    assert "eth0" not in stack.devices


def test_an_address_of_a_family_that_is_not_there(stack):
    with pytest.raises(OSError, match="fd00::1/64") as caught:
        stack.add_device(drivers.veth()[0], "eth0", "10.0.0.1/24", "fd00::1/64")
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert "eth0" not in stack.devices


def test_a_wrong_route_is_named_and_nothing_changes(stack):
    stack.add_device(drivers.veth()[0], "eth0", "10.0.0.1/24")
    with pytest.raises(ValueError, match="via"):
        stack.add_route("default", via="somewhere")
    with pytest.raises(ValueError, match="destination"):
        stack.add_route("10.0.0.1/8", via="10.0.0.2")
    with pytest.raises(ValueError, match="kind"):
        stack.add_route("10.1.0.0/16", kind="black")
    with pytest.raises(ValueError, match="route metric"):
        stack.add_route("10.1.0.0/16", via="10.0.0.2", speed=1)
    with pytest.raises(OSError) as caught:
        stack.add_route("default", via="192.0.2.1")
    assert caught.value.errno == errno.ENETUNREACH
    with pytest.raises(OSError) as caught:
        stack.remove_route("default")
    assert caught.value.errno == errno.ESRCH


def test_a_name_that_is_taken_or_none(stack):
    stack.add_device(drivers.veth()[0], "eth0")
    for name in ("eth0", "", "a" * 16, "a/b", "a b"):
        with pytest.raises(ValueError, match="device name"):
            stack.add_device(drivers.veth()[0], name)
    assert sorted(stack.devices) == ["eth0", "lo"]


def test_poll_by_hand_and_time(stack):
    stack.poll(1_000)
    with pytest.raises(ValueError, match="backwards"):
        stack.poll(999)
    with stack, pytest.raises(RuntimeError, match="drives itself"):
        stack.poll(2_000)


def test_a_blocking_call_that_nothing_drives_raises(stack):
    sock = stack.socket(type=2)
    sock.bind(("127.0.0.1", 0))
    with pytest.raises(RuntimeError, match="nothing drives"):
        sock.recv(1)
    sock.close()


def test_a_closed_stack_says_so(stack):
    stack.close()
    with pytest.raises(RuntimeError, match="closed"):
        stack.add_device(drivers.veth()[0], "eth0")
    stack.close()
