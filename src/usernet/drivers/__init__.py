"""Drivers: one file a NIC. Each is loaded when it is first named, as `usernet.drivers.Tap`.

`veth` is here from the start: it bears the name of the file that defines it, and a file loaded later would take the
name for itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from usernet.drivers.veth import Veth as Veth
from usernet.drivers.veth import veth as veth

if TYPE_CHECKING:
    from usernet.drivers.capture import Capture
    from usernet.drivers.impair import Impair
    from usernet.drivers.loopback import Loopback
    from usernet.drivers.pcap import Pcap
    from usernet.drivers.tuntap import Tap, Tun

__all__ = ["Capture", "Impair", "Loopback", "Pcap", "Tap", "Tun", "Veth", "veth"]

_LAZY = {
    "Capture": "usernet.drivers.capture",
    "Impair": "usernet.drivers.impair",
    "Loopback": "usernet.drivers.loopback",
    "Pcap": "usernet.drivers.pcap",
    "Tap": "usernet.drivers.tuntap",
    "Tun": "usernet.drivers.tuntap",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'usernet.drivers' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
