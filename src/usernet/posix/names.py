"""Names and numbers of hosts, services and devices: getaddrinfo and its kin, as seen from the current stack.

POSIX and RFC 3493 section 6; where they leave a choice, glibc. Names come from the stack's hosts table and its stub
resolver, devices are the stack's, services and protocols the host's (/etc/services, /etc/protocols).
"""

from __future__ import annotations

import _socket
import errno
import operator
import os
import sys
from _socket import AF_INET, AF_INET6, AF_UNSPEC, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, gaierror, herror
from typing import TYPE_CHECKING, Any, Final

from usernet.core.errors import error
from usernet.netdevice.device import NetDevice
from usernet.posix import resolver
from usernet.posix.current import current
from usernet.sockets.address import (
    EAI_ADDRFAMILY,
    EAI_NONAME,
    Names,
    host_text,
    hosts_lookup,
    lookup_host,
    numeric_address,
    resolve_host,
)

if TYPE_CHECKING:
    from usernet.stack import Stack

AI_PASSIVE: Final = 0x1
AI_CANONNAME: Final = 0x2
AI_NUMERICHOST: Final = 0x4
AI_V4MAPPED: Final = 0x8
AI_ALL: Final = 0x10
AI_ADDRCONFIG: Final = 0x20
AI_IDN: Final = 0x40
AI_CANONIDN: Final = 0x80
AI_NUMERICSERV: Final = 0x400
AI_KNOWN: Final = 0x4FF | 0x300  # 0x300: AI_IDN_ALLOW_UNASSIGNED and its sibling, of no effect

EAI_BADFLAGS: Final = -1
EAI_FAMILY: Final = -6
EAI_SOCKTYPE: Final = -7
EAI_SERVICE: Final = -8

NI_NUMERICHOST: Final = 1
NI_NUMERICSERV: Final = 2
NI_NOFQDN: Final = 4
NI_NAMEREQD: Final = 8
NI_DGRAM: Final = 16

_KINDS: Final = ((SOCK_STREAM, 6, "tcp"), (SOCK_DGRAM, 17, "udp"), (SOCK_RAW, 0, ""))
"""Types of socket with their protocols, in the order of the answers; a raw socket takes any, and has no services."""

HOST_NAME_MAX: Final = 64
"""Bytes of a host's name (Linux: __NEW_UTS_LEN)."""

AddressInfo = tuple[int, int, int, str, Any]


def _fail(code: int, text: str) -> gaierror:
    return gaierror(code, text)


def _no_name() -> gaierror:
    return gaierror(EAI_NONAME, "Name or service not known")


def _service(port: Any, kinds: list[tuple[int, int, str]], flags: int) -> list[tuple[int, int, int]]:
    """The (type, protocol, port) to answer with. Raises gaierror, OSError for what is no port at all."""
    if port is None or port in ("", b""):
        return [(kind, proto, 0) for kind, proto, _ in kinds]
    if isinstance(port, int):
        text = str(int(port))
    elif isinstance(port, str):
        text = port
    elif isinstance(port, bytes):
        text = port.decode("latin-1")
    else:
        raise OSError("Int or String expected")
    if [name for _, _, name in kinds] == [""]:
        raise _fail(EAI_SERVICE, "Servname not supported for ai_socktype")
    if text.isdecimal():
        return [(kind, proto, int(text) & 0xFFFF) for kind, proto, _ in kinds]
    if flags & AI_NUMERICSERV:
        raise _no_name()
    found: list[tuple[int, int, int]] = []
    for kind, proto, name in kinds:
        if not name:
            continue
        try:
            found.append((kind, proto, _socket.getservbyname(text, name)))
        except OSError:
            continue
    if not found:
        raise _fail(EAI_SERVICE, "Servname not supported for ai_socktype")
    return found


def _kinds(kind: int, proto: int) -> list[tuple[int, int, str]]:
    """The types of socket with their protocols that are asked for. Raises gaierror."""
    if kind == 0 and proto == 0:
        return list(_KINDS)
    for known, number, name in _KINDS:
        if kind in (0, known) and (proto in (0, number) or known == SOCK_RAW):
            if known == SOCK_RAW and kind != SOCK_RAW:
                continue
            return [(known, proto or number, name)]
    if kind:
        raise _fail(EAI_SOCKTYPE, "ai_socktype not supported")
    raise _fail(EAI_SERVICE, "Servname not supported for ai_socktype")


def getaddrinfo(
    host: Any, port: Any, family: Any = 0, type: Any = 0, proto: Any = 0, flags: Any = 0
) -> list[AddressInfo]:
    """getaddrinfo(3): (family, type, protocol, canonical name, address) of each way to reach `port` of `host`.

    Raises gaierror, TypeError; may wait for nameservers.
    """
    family, type, proto, flags = (operator.index(value) for value in (family, type, proto, flags))
    if host is not None and not isinstance(host, (str, bytes)):
        raise TypeError("getaddrinfo() argument 1 must be string or None")
    sys.audit("socket.getaddrinfo", host, port, family, type, proto)
    if isinstance(port, float):
        raise OSError("Int or String expected")
    text = None if host is None else host_text(host)
    if text is None and port is None:
        raise _no_name()
    if flags & ~AI_KNOWN or (flags & AI_CANONNAME and text is None):
        raise _fail(EAI_BADFLAGS, "Bad value for ai_flags")
    if family not in (AF_UNSPEC, AF_INET, AF_INET6):
        raise _fail(EAI_FAMILY, "ai_family not supported")
    services = _service(port, _kinds(type, proto), flags)
    stack = current()
    if text is None:
        addresses = _own(stack, family, bool(flags & AI_PASSIVE))
        canonical = ""
    else:
        addresses = _named(stack, text, family, flags)
        canonical = text if flags & AI_CANONNAME else ""
    found: list[AddressInfo] = []
    for packed, scope in addresses:
        for kind, protocol, number in services:
            if len(packed) == 4:
                address: Any = (_socket.inet_ntop(AF_INET, packed), number)
                found.append((AF_INET, kind, protocol, canonical, address))
            else:
                address = (_socket.inet_ntop(AF_INET6, packed), number, 0, scope)
                found.append((AF_INET6, kind, protocol, canonical, address))
            canonical = ""
    return found


def _own(stack: Stack, family: int, passive: bool) -> list[tuple[bytes, int]]:
    """What stands for no host at all: the wildcard to bind to, or the loopback. IPv6 only where the stack has it."""
    here = [(bytes(4) if passive else b"\x7f\x00\x00\x01", 0)] if family in (AF_UNSPEC, AF_INET) else []
    if family == AF_INET6 or (family == AF_UNSPEC and resolver.has_family(stack.net, AF_INET6)):
        six = (bytes(16) if passive else bytes(15) + b"\x01", 0)
        here.insert(len(here) if passive else 0, six)
    return here


def _named(stack: Stack, text: str, family: int, flags: int) -> list[tuple[bytes, int]]:
    if not text:
        raise _no_name()
    plain, _, zone = text.partition("%")
    packed = numeric_address(plain) if zone else numeric_address(text)
    if packed is not None and not (zone and len(packed) == 4):
        if family == AF_INET6 and len(packed) == 4 and flags & AI_V4MAPPED:
            return [(bytes(10) + b"\xff\xff" + packed, 0)]
        if family not in (AF_UNSPEC, AF_INET if len(packed) == 4 else AF_INET6):
            raise _fail(EAI_ADDRFAMILY, "Address family for hostname not supported")
        return [(packed, _zone(stack, zone) if zone else 0)]
    if flags & AI_NUMERICHOST:
        raise _no_name()
    if family == AF_INET6 and flags & AI_V4MAPPED:
        return [(address, 0) for address in _mapped(stack, text, flags)]
    return [(address, 0) for address in lookup_host(stack.net, text, family)]


def _mapped(stack: Stack, text: str, flags: int) -> list[bytes]:
    """IPv6 addresses, and IPv4 ones in IPv6's clothes where there are no others, or AI_ALL asks for them."""
    six: list[bytes] = []
    try:
        six = lookup_host(stack.net, text, AF_INET6)
    except gaierror:
        pass
    if six and not flags & AI_ALL:
        return six
    try:
        four = lookup_host(stack.net, text, AF_INET)
    except gaierror:
        if not six:
            raise
        four = []
    return six + [bytes(10) + b"\xff\xff" + address for address in four]


def _zone(stack: Stack, zone: str) -> int:
    """The device of a scoped address. Raises gaierror."""
    dev: NetDevice | None = stack.devices.get(zone)
    if dev is not None:
        return dev.index
    if not zone.isdecimal():
        raise _no_name()
    return int(zone)


def getnameinfo(sockaddr: Any, flags: Any, /) -> tuple[str, str]:
    """getnameinfo(3): host and service of an address, as names or, by NI_*, as numbers. Raises gaierror."""
    flags = operator.index(flags)
    if not isinstance(sockaddr, tuple):
        raise TypeError("getnameinfo() argument 1 must be a tuple")
    if not 2 <= len(sockaddr) <= 4 or not isinstance(sockaddr[0], str):
        raise TypeError("getnameinfo(): illegal sockaddr argument")
    port = operator.index(sockaddr[1]) & 0xFFFF
    numbers = [operator.index(value) for value in sockaddr[2:]]
    if numbers and not 0 <= numbers[0] <= 0xFFFFF:
        raise OverflowError("getnameinfo(): flowinfo must be 0-1048575.")
    sys.audit("socket.getnameinfo", sockaddr)
    packed = numeric_address(sockaddr[0].partition("%")[0])
    if packed is None:
        raise _no_name()
    if len(packed) == 4 and numbers:
        raise OSError("IPv4 sockaddr must be 2 tuple")
    host: str | None = None
    if not flags & NI_NUMERICHOST:
        host = resolver.reverse(current().net, packed)
        if host is not None and flags & NI_NOFQDN:
            host = host.partition(".")[0]
    if host is None:
        if flags & NI_NAMEREQD:
            raise _no_name()
        host = _socket.inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)
    service = str(port)
    if not flags & NI_NUMERICSERV:
        try:
            service = _socket.getservbyport(port, "udp" if flags & NI_DGRAM else "tcp")
        except OSError:
            pass
    return host, service


def gethostbyname(hostname: Any, /) -> str:
    """The first IPv4 address of a host. Raises gaierror."""
    return _socket.inet_ntoa(_resolve(hostname, "gethostbyname"))


def _resolve(hostname: Any, call: str) -> bytes:
    if not isinstance(hostname, (str, bytes, bytearray)):
        raise TypeError(f"{call}() argument 1 must be str, bytes or bytearray, not {type(hostname).__name__}")
    sys.audit(f"socket.{call}", (hostname,))
    return resolve_host(current().net, hostname, AF_INET)


def gethostbyname_ex(hostname: Any, /) -> tuple[str, list[str], list[str]]:
    """A host's name, its other names, and its IPv4 addresses. Raises gaierror."""
    first = _resolve(hostname, "gethostbyname_ex")
    text = host_text(hostname)
    if numeric_address(text) is not None or not text:
        return text or "0.0.0.0", [], [_socket.inet_ntoa(first)]
    addresses = lookup_host(current().net, text, AF_INET)
    return text, _aliases(text, addresses), [_socket.inet_ntoa(address) for address in addresses]


def _aliases(name: str, addresses: list[bytes]) -> list[str]:
    """Other names of the hosts table with just these addresses."""
    names = current().net.get(Names)
    return [other for other in names.hosts if other != name and hosts_lookup(names, other, AF_UNSPEC) == addresses]


def gethostbyaddr(ip_address: Any, /) -> tuple[str, list[str], list[str]]:
    """The name of an address (or of a name's address), its other names, and the address. Raises herror, gaierror."""
    if not isinstance(ip_address, (str, bytes, bytearray)):
        raise TypeError(
            f"gethostbyaddr() argument 1 must be str, bytes or bytearray, not {type(ip_address).__name__}"
        )
    sys.audit("socket.gethostbyaddr", ip_address)
    net = current().net
    text = host_text(ip_address)
    packed = numeric_address(text)
    if packed is None:
        packed = resolve_host(net, text, AF_INET)
    name = resolver.reverse(net, packed)
    if name is None:
        raise herror(1, "Unknown host")
    address = _socket.inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)
    return name, _aliases(name, [packed]), [address]


def gethostname() -> str:
    """The stack's name; the host's where it has none."""
    return current().name or _socket.gethostname()


def sethostname(name: Any, /) -> None:
    """Give the stack another name; the host keeps its own. Raises TypeError, OSError EINVAL above 64 bytes."""
    encoded = name if isinstance(name, bytes) else os.fsencode(name)
    if len(encoded) > HOST_NAME_MAX:
        raise error(errno.EINVAL)
    sys.audit("socket.sethostname", name)
    current().net.name = os.fsdecode(encoded)


def if_nameindex() -> list[tuple[int, str]]:
    """The stack's devices: index and name of each."""
    return [(dev.index, dev.name) for dev in current().devices.values()]


def if_nametoindex(name: Any, /) -> int:
    """The index of a device. Raises OSError where there is none of that name, TypeError for what is no name."""
    dev = current().devices.get(os.fsdecode(name))
    if dev is None:
        raise OSError("no interface with this name")
    index: int = dev.index
    return index


def if_indextoname(index: Any, /) -> str:
    """The name of a device. Raises OSError ENXIO where there is none of that index."""
    dev = current().devices.by_index(operator.index(index))
    if dev is None:
        raise OSError(6, "No such device or address")
    return dev.name
