"""What goes with a message through a socket call: addresses, flags, ancillary data (Linux: `struct msghdr`)."""

from __future__ import annotations

from typing import Final, final

from usernet.core.iov import IovIter

MSG_OOB: Final = 0x1
MSG_PEEK: Final = 0x2
MSG_DONTROUTE: Final = 0x4
MSG_CTRUNC: Final = 0x8
MSG_PROBE: Final = 0x10
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_EOR: Final = 0x80
MSG_WAITALL: Final = 0x100
MSG_CONFIRM: Final = 0x800
MSG_ERRQUEUE: Final = 0x2000
MSG_NOSIGNAL: Final = 0x4000
MSG_MORE: Final = 0x8000
MSG_WAITFORONE: Final = 0x10000
MSG_ZEROCOPY: Final = 0x4000000
MSG_FASTOPEN: Final = 0x20000000

SHUT_RD: Final = 0
SHUT_WR: Final = 1
SHUT_RDWR: Final = 2
RCV_SHUTDOWN: Final = 1
SEND_SHUTDOWN: Final = 2
SHUTDOWN_MASK: Final = 3


@final
class SockAddr:
    """An internet socket's address: packed `addr` (b"" for AF_UNSPEC), `port`, and `scope_id`, a device index."""

    __slots__ = ("addr", "family", "flowinfo", "port", "scope_id")

    def __init__(self, family: int, addr: bytes, port: int, scope_id: int = 0, flowinfo: int = 0) -> None:
        self.family = family
        self.addr = addr
        self.port = port
        self.scope_id = scope_id
        self.flowinfo = flowinfo

    def __repr__(self) -> str:
        return f"<SockAddr family={self.family} {self.addr.hex('.')}:{self.port}>"


@final
class PacketAddr:
    """A packet socket's address (Linux: `struct sockaddr_ll`)."""

    __slots__ = ("addr", "family", "hatype", "ifindex", "pkttype", "protocol")

    def __init__(self, protocol: int, ifindex: int, hatype: int, pkttype: int, addr: bytes) -> None:
        self.family = 17
        self.protocol = protocol
        self.ifindex = ifindex
        self.hatype = hatype
        self.pkttype = pkttype
        self.addr = addr


@final
class NetlinkAddr:
    """A netlink socket's address (Linux: `struct sockaddr_nl`): the port of one (0 is the kernel's), and a mask of
    multicast groups."""

    __slots__ = ("family", "groups", "portid")

    def __init__(self, portid: int = 0, groups: int = 0) -> None:
        self.family = 16
        self.portid = portid
        self.groups = groups


Name = SockAddr | PacketAddr | NetlinkAddr
Control = tuple[int, int, bytes]
"""One item of ancillary data: level, type, and the data as Linux lays it out."""


@final
class MsgHdr:
    """One message. Sending: `name` is where to, `iter` the data, `control` what goes with it. Receiving: `iter` is
    where to put it, and `name`, `control` and `flags` (MSG_TRUNC, MSG_CTRUNC, MSG_OOB, MSG_ERRQUEUE, MSG_EOR) are
    filled in."""

    __slots__ = ("control", "flags", "iter", "name")

    def __init__(self, iterator: IovIter, name: Name | None = None, control: list[Control] | None = None) -> None:
        self.iter = iterator
        self.name = name
        self.control = control
        self.flags: int = 0

    def put_control(self, level: int, kind: int, data: bytes) -> None:
        """Add an item of received ancillary data (Linux: put_cmsg)."""
        if self.control is None:
            self.control = []
        self.control.append((level, kind, data))
