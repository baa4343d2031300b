from __future__ import annotations

import builtins
from typing import Any

import pytest

from usernet.drivers import host


@pytest.mark.parametrize("text", ["10.77.0.1", "10.77.0.1/33", "nonsense", "", "10.77.0/24"])
def test_an_address_takes_its_prefix_length(text):
    with pytest.raises(ValueError, match=r"^address: expected"):
        host.parse_interface(text)


def test_addresses_of_both_families():
    assert str(host.parse_interface("10.77.0.1/24")) == "10.77.0.1/24"
    assert str(host.parse_interface("fd00::1/64")) == "fd00::1/64"


@pytest.mark.parametrize("text", ["", "10.78.0.1/16", "10.78.0.0/16 via", "10.78.0.0/16 dev x", "x via 10.0.0.1"])
def test_a_route_that_is_none(text):
    with pytest.raises(ValueError, match=r"^route: expected"):
        host.parse_route(text)


def test_routes():
    assert host.parse_route("10.78.0.0/16") == ("10.78.0.0/16", None)
    assert host.parse_route("default via 10.77.0.2") == ("default", "10.77.0.2")


def test_a_namespace_that_is_not_there():
    with (
        pytest.raises(FileNotFoundError, match="there is no network namespace 'nosuch'"),
        host.entered("nosuch"),
    ):
        pass


def test_no_namespace_is_where_one_is():
    with host.entered(None):
        pass


def test_without_pyroute2_it_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_pyroute2(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyroute2"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pyroute2)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'usernet\[netlink\]'"):
        host.configure("lo")


def test_bad_values_are_found_before_anything_is_done():
    with pytest.raises(ValueError, match="route"):
        host.configure("no-such-device", "10.0.0.1/24", routes=["bad route"])
