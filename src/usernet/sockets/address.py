"""Addresses as Python programs write them, and as the stack holds them; and what names are known without asking.

Between a socket's methods and its protocol: `("10.0.0.1", 80)` becomes a `SockAddr` on the way down, and back on the
way up, with the argument checks of the standard module (CPython: getsockaddrarg, setipaddr, makesockaddr).
"""

from __future__ import annotations

import errno
import operator
from _socket import gaierror, inet_aton, inet_ntop, inet_pton
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, final

from usernet.core.errors import check_type, error
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sock.msg import Name, NetlinkAddr, PacketAddr, SockAddr
from usernet.sockets.arguments import c_int_alone

AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
AF_PACKET: Final = 17

EAI_NONAME: Final = -2
EAI_ADDRFAMILY: Final = -9

RESOLVER: Final = "usernet.posix.resolver"
"""Loaded, by name, when a name has to be asked for: it needs sockets itself, and so stands above them."""

Lookup = Callable[[Net, str, int], list[bytes]]
"""Asks for the addresses of a name: namespace, name, and address family (AF_UNSPEC for any). Raises gaierror."""


@final
class Names:
    """What a namespace knows about names (/etc/hosts, /etc/resolv.conf).

    hosts: name → addresses. nameservers: addresses to ask, "10.0.0.53" or "10.0.0.53:5353"; of these the first three
    are used, as resolv.conf(5) has it. search: suffixes to try. ndots: how many dots make a name be tried as it is
    first. timeout: seconds to wait for one answer. attempts: how often all nameservers are asked.
    """

    def __init__(self, net: Net) -> None:
        self.hosts: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
        self.nameservers: list[str] = []
        self.search: list[str] = []
        self.ndots: int = 1
        self.timeout: float = 5.0
        self.attempts: int = 2
        self.lookup: Lookup | None = None
        """Who to ask for a name that isn't in `hosts`; None for the stub resolver."""


def packed_address(family: int, text: str) -> bytes | None:
    """`text` as a packed address of `family` (AF_INET or AF_INET6), None where it isn't one."""
    try:
        return inet_pton(family, text)
    except OSError:
        return None


def numeric_address(text: str) -> bytes | None:
    """`text` as a packed address of either family, None where it isn't one. IPv4 in all notations of inet_aton(3)."""
    if ":" in text:
        return packed_address(AF_INET6, text)
    packed = packed_address(AF_INET, text)
    if packed is None and text[:1].isdigit() and not any(character.isspace() for character in text):
        try:
            packed = inet_aton(text)
        except OSError:
            return None
    return packed


def host_text(host: object) -> str:
    """What a program gave as host, as `str` (CPython: idna_converter). Raises TypeError."""
    if isinstance(host, str):
        if not host.isascii():
            try:
                host = host.encode("idna").decode("ascii")
            except UnicodeError:
                raise TypeError("encoding of hostname failed") from None
        text = host
    elif isinstance(host, (bytes, bytearray)):
        text = host.decode("latin-1")
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if "\0" in text:
        raise TypeError("host name must not contain null character")
    return text


def resolve_host(net: Net, host: object, family: int) -> bytes:
    """The address of `host`, packed, for AF_INET or AF_INET6. May wait for nameservers: call it without the lock.

    "" is the family's "any", "<broadcast>" IPv4's limited broadcast. Raises TypeError, and gaierror for a name that
    has no address.
    """
    text = host_text(host)
    if not text:
        return bytes(4 if family == AF_INET else 16)
    if text in ("<broadcast>", "255.255.255.255"):
        if family != AF_INET:
            raise OSError("address family mismatched")
        return b"\xff\xff\xff\xff"
    packed = packed_address(family, text)
    if packed is not None:
        return packed
    packed = numeric_address(text)
    if packed is not None:
        if len(packed) != (4 if family == AF_INET else 16):
            raise gaierror(EAI_ADDRFAMILY, "Address family for hostname not supported")
        return packed
    return lookup_host(net, text, family)[0]


def lookup_host(net: Net, name: str, family: int) -> list[bytes]:
    """All addresses of `name`, packed: from the hosts table, else from whom the namespace asks. At least one.

    family: AF_INET, AF_INET6, or AF_UNSPEC for both. Raises gaierror where there is none.
    """
    names = net.get(Names)
    found = hosts_lookup(names, name, family)
    if found is not None:
        return found
    lookup = names.lookup
    if lookup is None:
        lookup = import_module(RESOLVER).lookup
    addresses = lookup(net, name, family)
    if not addresses:
        raise gaierror(EAI_NONAME, "Name or service not known")
    return addresses


def hosts_lookup(names: Names, name: str, family: int) -> list[bytes] | None:
    """The addresses of `name` in the hosts table; None where it isn't there.

    Names are compared without regard to case, and to a dot at the end. Raises gaierror where the table has the name,
    but no address of `family`, ValueError or TypeError where what it has is no list of addresses.
    """
    wanted = name.rstrip(".").lower()
    entry = names.hosts.get(name)
    if entry is None:
        for known, addresses in names.hosts.items():
            if known.lower() == wanted:
                entry = addresses
                break
        else:
            return None
    check_type(f"hosts table: {name!r}", entry, (list, tuple), "a list of addresses")
    found: list[bytes] = []
    for text in entry:
        packed = packed_address(AF_INET6 if ":" in text else AF_INET, text)
        if packed is None:
            raise ValueError(f"hosts table: {name!r}: expected an IP address, not {text!r}")
        if family == AF_UNSPEC or len(packed) == (4 if family == AF_INET else 16):
            found.append(packed)
    if not found:
        raise gaierror(EAI_ADDRFAMILY, "Address family for hostname not supported")
    return found


def _port(value: object) -> int:
    """A port; -1 for one that doesn't even fit into an int."""
    try:
        return c_int_alone(value)
    except OverflowError:
        return -1


def parse_address(net: Net, family: int, address: Any, call: str) -> Name:
    """The address that a program gave to `call` (named in errors) of a socket of `family`.

    May wait for a name to be resolved: call it without the lock. Raises TypeError, OverflowError and ValueError as
    the standard module, OSError for a family that has no addresses here, gaierror for a name without address.
    """
    if family == AF_INET:
        if not isinstance(address, tuple):
            raise TypeError(f"{call}(): AF_INET address must be tuple, not {type(address).__name__}")
        if len(address) != 2:
            raise TypeError("AF_INET address must be a pair (host, port)")
        host_text(address[0])
        port = _port(address[1])
        packed = resolve_host(net, address[0], AF_INET)
        if not 0 <= port <= 0xFFFF:
            raise OverflowError(f"{call}(): port must be 0-65535.")
        return SockAddr(AF_INET, packed, port)
    if family == AF_INET6:
        return _parse_inet6(net, address, call)
    if family == AF_PACKET:
        return _parse_packet(net, address, call)
    if family == AF_NETLINK:
        return _parse_netlink(address, call)
    raise OSError(f"{call}(): bad family")


def _parse_inet6(net: Net, address: Any, call: str) -> Name:
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): AF_INET6 address must be tuple, not {type(address).__name__}")
    if not 2 <= len(address) <= 4:
        raise TypeError("AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
    host_text(address[0])
    port = _port(address[1])
    flowinfo = c_int_alone(address[2]) if len(address) > 2 else 0
    scope_id = c_int_alone(address[3]) if len(address) > 3 else 0
    packed = resolve_host(net, address[0], AF_INET6)
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{call}(): port must be 0-65535.")
    if not 0 <= flowinfo <= 0xFFFFF:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575.")
    return SockAddr(AF_INET6, packed, port, scope_id, flowinfo)


def _parse_packet(net: Net, address: Any, call: str) -> Name:
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): AF_PACKET address must be tuple, not {type(address).__name__}")
    if not 2 <= len(address) <= 5:
        raise TypeError(f"{call}(): AF_PACKET address must be a tuple of two to five elements")
    name = address[0]
    if not isinstance(name, str):
        raise TypeError(f"{call}(): AF_PACKET interface must be str, not {type(name).__name__}")
    protocol = c_int_alone(address[1])
    pkttype = c_int_alone(address[2]) if len(address) > 2 else 0
    hatype = c_int_alone(address[3]) if len(address) > 3 else 0
    link = bytes(memoryview(address[4])) if len(address) > 4 else b""
    if len(link) > 8:
        raise ValueError("hardware address must be 8 bytes or less")
    ifindex = 0
    if name:
        dev = net.get(DeviceNamespace).get(name)
        if dev is None:
            raise error(errno.ENODEV)
        ifindex = dev.index
    if not 0 <= protocol <= 0xFFFF:
        raise OverflowError(f"{call}(): proto must be 0-65535.")
    return PacketAddr(protocol, ifindex, hatype, pkttype, link)


def _parse_netlink(address: Any, call: str) -> Name:
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): AF_NETLINK address must be tuple, not {type(address).__name__}")
    if len(address) != 2:
        raise TypeError("AF_NETLINK address must be a pair (pid, groups)")
    # C cuts both to 32 bits without a word.
    return NetlinkAddr(operator.index(address[0]) & 0xFFFFFFFF, operator.index(address[1]) & 0xFFFFFFFF)


def format_address(net: Net, name: Name | None) -> Any:
    """An address as the standard module gives it: `(host, port)`, with flow and scope for IPv6, a tuple of five for
    packet sockets, `(port, groups)` for netlink; None where there is none."""
    if name is None:
        return None
    if isinstance(name, SockAddr):
        addr = name.addr
        if len(addr) == 4:
            return ("%d.%d.%d.%d" % (addr[0], addr[1], addr[2], addr[3]), name.port)  # noqa: UP031 - the fastest way
        if len(addr) == 16:
            return (inet_ntop(AF_INET6, addr), name.port, name.flowinfo, name.scope_id)
        return None
    if isinstance(name, NetlinkAddr):
        return (name.portid, name.groups)
    device = net.get(DeviceNamespace).by_index(name.ifindex) if name.ifindex else None
    return (device.name if device is not None else "", name.protocol, name.pkttype, name.hatype, name.addr)
