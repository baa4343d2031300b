"""PROBE, the extended echo: "is that interface of yours up?" (RFC 8335; Linux: icmp_build_probe).

Answered only where `icmp_echo_enable_probe` is on, and only about interfaces of this very host (the L bit). The request
has an extension header (RFC 4884 section 7) and one object that names the interface, by name, index or address.

    0          4         6       7       8
    | version… | length  | class | ctype | name, index, or: afi (2) addrlen (1) reserved (1) address …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.ip.v4.devinet import Devinet
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.wire.icmp import ICMP_EXT_CODE_MAL_QUERY, ICMP_EXT_CODE_NO_IF

if TYPE_CHECKING:
    from usernet.net.pernet import Net

ICMP_EXT_ECHO_CTYPE_NAME: Final = 1
ICMP_EXT_ECHO_CTYPE_INDEX: Final = 2
ICMP_EXT_ECHO_CTYPE_ADDR: Final = 3

ICMP_EXT_ECHOREPLY_ACTIVE: Final = 1 << 2
ICMP_EXT_ECHOREPLY_IPV4: Final = 1 << 1

_AFI_IP: Final = b"\0\1\4"
"""Address family IPv4, whose addresses have 4 bytes."""
_EXT_HLEN: Final = 4
_OBJ_HLEN: Final = 4
_LARGEST: Final = 24
"""Bytes of the longest object: an IPv6 address with its headers."""


def answer_probe(net: Net, payload: bytes) -> tuple[int, int]:
    """The code of the reply and the bits of its state field.

    payload: what follows the request's ICMP header.
    """
    length = int.from_bytes(payload[_EXT_HLEN : _EXT_HLEN + 2], "big")
    name = payload[_EXT_HLEN + _OBJ_HLEN : _EXT_HLEN + length]
    if not _OBJ_HLEN < length <= _LARGEST or len(name) != length - _OBJ_HLEN:
        return ICMP_EXT_CODE_MAL_QUERY, 0
    devices = net.get(DeviceNamespace)
    addresses = net.get(Devinet)
    kind = payload[_EXT_HLEN + 3]
    dev: NetDevice | None = None
    if kind == ICMP_EXT_ECHO_CTYPE_NAME and len(name) < 16:
        dev = devices.get(name.rstrip(b"\0").decode("utf-8", "replace"))
    elif kind == ICMP_EXT_ECHO_CTYPE_INDEX and len(name) == 4:
        dev = devices.by_index(int.from_bytes(name, "big"))
    elif kind == ICMP_EXT_ECHO_CTYPE_ADDR and len(name) == 8 and name[:3] == _AFI_IP:
        ifa = addresses.find(name[4:8])
        dev = ifa.dev if ifa is not None else None
    else:
        return ICMP_EXT_CODE_MAL_QUERY, 0
    if dev is None:
        return ICMP_EXT_CODE_NO_IF, 0
    active = ICMP_EXT_ECHOREPLY_ACTIVE if dev.up else 0
    return 0, active | (ICMP_EXT_ECHOREPLY_IPV4 if addresses.of(dev) else 0)
