"""Addresses and prefixes as people type them."""

from __future__ import annotations

import errno
import ipaddress

from usernet.core.errors import error


def parse_interface(text: str) -> tuple[bytes, int]:
    """An address with its prefix length, "10.0.0.1/24" (without one: the whole address).

    Raises ValueError for what is none, OSError EAFNOSUPPORT for a family the stack doesn't have.
    """
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"address: expected something like 10.0.0.1/24, not {text!r}") from None
    _require_ipv4("address", text, interface.version)
    return interface.packed, interface.network.prefixlen


def parse_prefix(text: str) -> tuple[bytes, int]:
    """A destination: "default", "10.0.0.0/8" or one address. Raises ValueError, also for bits behind the prefix."""
    if text == "default":
        return bytes(4), 0
    try:
        network = ipaddress.ip_network(text)
    except ValueError as cause:
        raise ValueError(f"destination: expected default, an address or a prefix, not {text!r} ({cause})") from None
    _require_ipv4("destination", text, network.version)
    return network.network_address.packed, network.prefixlen


def _require_ipv4(what: str, text: str, version: int) -> None:
    if version != 4:
        raise error(errno.EAFNOSUPPORT, f"{what}: {text!r} is of IPv{version}, and this stack has IPv4 only")


def parse_address(what: str, text: str) -> bytes:
    """One address, packed. Raises ValueError, which names it `what`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{what}: expected an IP address, not {text!r}") from None
    _require_ipv4(what, text, address.version)
    return address.packed
