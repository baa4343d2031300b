"""Addresses and prefixes as people type them.

IPv4's usual forms are read here; the standard library's ipaddress, which takes longer to load than all of them to read,
knows the others, and what is wrong with what is none.
"""

from __future__ import annotations

import errno
from typing import Final

from usernet.core.errors import check_type, error
from usernet.wire import ipv4

DNS_PORT: Final = 53


def _plain(text: str) -> tuple[bytes, int] | None:
    """Of "10.0.0.1/24", or "10.0.0.1": address and prefix length. None for anything else."""
    address, slash, length = text.partition("/")
    if not slash:
        length = "32"
    elif not (length.isascii() and length.isdigit() and int(length) <= 32):
        return None
    try:
        return ipv4.parse_addr(address), int(length)
    except ValueError:
        return None


def parse_interface(text: str) -> tuple[bytes, int]:
    """An address with its prefix length, "10.0.0.1/24" (without one: the whole address).

    Raises ValueError for what is none, OSError EAFNOSUPPORT for a family the stack doesn't have.
    """
    check_type("address", text, str, "a str such as '10.0.0.1/24'")
    plain = _plain(text)
    if plain is not None:
        return plain
    import ipaddress

    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"address: expected something like 10.0.0.1/24, not {text!r}") from None
    _require_ipv4("address", text, interface.version)
    return interface.packed, interface.network.prefixlen


def parse_prefix(text: str) -> tuple[bytes, int]:
    """A destination: "default", "10.0.0.0/8" or one address. Raises ValueError, also for bits behind the prefix."""
    check_type("destination", text, str, "a str such as 'default' or '10.0.0.0/8'")
    if text == "default":
        return bytes(4), 0
    plain = _plain(text)
    if plain is not None and not int.from_bytes(plain[0], "big") & 0xFFFFFFFF >> plain[1]:
        return plain
    import ipaddress

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
    check_type(what, text, str, "an IP address, a str")
    try:
        return ipv4.parse_addr(text)
    except ValueError:
        pass
    import ipaddress

    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{what}: expected an IP address, not {text!r}") from None
    _require_ipv4(what, text, address.version)
    return address.packed


def parse_nameserver(text: str) -> tuple[str, int]:
    """A nameserver's address and port: "10.0.0.53", "10.0.0.53:5353". Raises ValueError."""
    check_type("nameserver", text, str, "a str such as '10.0.0.53'")
    import ipaddress

    host, port = text, DNS_PORT
    if text.count(":") == 1:
        host, _, number = text.partition(":")
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            raise ValueError(f"nameserver: expected an address, or address:port, not {text!r}")
        port = int(number)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"nameserver: expected an address, or address:port, not {text!r}") from None
    return host, port
