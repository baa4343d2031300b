"""What a client may do that has not the right to control the stack: what Linux lets one do who has no capabilities.

Who may connect at all is said by the mode of the socket's file. Of those, the stack's owner and root may do everything
(or all may, where the configuration says so); the others are as users without CAP_NET_RAW and CAP_NET_ADMIN. Ports
below 1024 are everybody's.

Netlink is open to all, as on Linux: to read, and to be told of changes. What asks for a change is refused where it is
asked (`NetlinkSock.admin`). So anybody sees all sockets of the stack, with their addresses, by sock_diag.
"""

from __future__ import annotations

import errno
from typing import Final

from usernet.core.errors import error
from usernet.sock.sock import Sock
from usernet.sockets.netlink.af_netlink import AF_NETLINK, NetlinkSock

AF_PACKET: Final = 17
SOCK_RAW: Final = 3
_TYPE: Final = 0xF

OPTIONS: Final = frozenset({
    (1, 32), (1, 33),  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
    (1, 36),           # SO_MARK
    (1, 1), (1, 25),   # SO_DEBUG, SO_BINDTODEVICE
    (0, 19),           # IP_TRANSPARENT
    (6, 19),           # TCP_REPAIR
})  # fmt: skip
"""(level, option) of setsockopt that need CAP_NET_ADMIN or CAP_NET_RAW."""

_SO_PRIORITY: Final = (1, 12)

IOCTLS: Final = frozenset({
    0x890B, 0x890C,                                  # SIOCADDRT, SIOCDELRT
    0x8914, 0x8916, 0x8918, 0x891A, 0x891C, 0x891E,  # SIOCSIFFLAGS, …ADDR, …DSTADDR, …BRDADDR, …NETMASK, …METRIC
    0x8922, 0x8923, 0x8924, 0x8931, 0x8932, 0x8936, 0x8943,  # …MTU, …NAME, …HWADDR, multicast lists, …DIFADDR, …TXQLEN
    0x8953, 0x8955,                                  # SIOCDARP, SIOCSARP
})  # fmt: skip
"""Those that change devices, routes or neighbours."""


def check_open(family: int, kind: int, privileged: bool) -> None:
    """Raises OSError EPERM for a socket that such a client may not have."""
    if privileged:
        return
    if family == AF_PACKET or (kind & _TYPE == SOCK_RAW and family != AF_NETLINK):
        raise error(errno.EPERM, "packet and raw sockets are for those who may control the stack")


def restrict(sk: Sock) -> None:
    """Have a socket do no more than it may that such a client has made."""
    if isinstance(sk, NetlinkSock):
        sk.admin = False


def check_option(level: int, option: int, value: bytes, privileged: bool) -> None:
    """Raises OSError EPERM for an option that such a client may not set."""
    if privileged:
        return
    if (level, option) in OPTIONS:
        raise error(errno.EPERM)
    if (level, option) == _SO_PRIORITY and len(value) >= 4 and not 0 <= int.from_bytes(value[:4], "little") <= 6:
        raise error(errno.EPERM)


def check_ioctl(request: int, privileged: bool) -> None:
    """Raises OSError EPERM for an ioctl that such a client may not make."""
    if not privileged and request in IOCTLS:
        raise error(errno.EPERM)
