"""NETLINK_ROUTE: the requests that iproute2 makes, by type and family, and who is told of changes (Linux: rtnetlink.c;
rtnetlink(7)).

What serves a message type registers here, as in Linux: `doit` for one thing, `dumpit` for all of them. A request of a
family that has nobody for it goes to AF_UNSPEC's. Those that nobody has are EOPNOTSUPP.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import error
from usernet.net.pernet import Net
from usernet.sockets.netlink.af_netlink import NETLINK_ROUTE, NetlinkFamily
from usernet.sockets.netlink.request import Handler, Messages, Request
from usernet.wire import netlink as wire

AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_BRIDGE: Final = 7
AF_PACKET: Final = 17

RTM_BASE: Final = 16
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34
RTM_MAX: Final = 123

RTNLGRP_LINK: Final = 1
RTNLGRP_NEIGH: Final = 3
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV4_ROUTE: Final = 7
RTNLGRP_MAX: Final = 39

RTNL_KIND_DEL: Final = 1
RTNL_KIND_GET: Final = 2

Dumpit = Callable[[Request], Messages]
"""Checks a request for all of something, and gives them. What it raises ends the dump."""


@final
class Rtnetlink:
    """NETLINK_ROUTE of one namespace."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self._doit: dict[tuple[int, int], Handler] = {}
        self._dumpit: dict[tuple[int, int], Dumpit] = {}
        self._current: Request | None = None
        self.table = net.get(NetlinkFamily).register(NETLINK_ROUTE, RTNLGRP_MAX, self.receive)
        for kind in (RTM_GETADDR, RTM_GETROUTE):
            self.register(AF_UNSPEC, kind, dumpit=self._dump_all)

    def register(self, family: int, kind: int, doit: Handler | None = None, dumpit: Dumpit | None = None) -> None:
        """Have requests of this family and type served (Linux: rtnl_register)."""
        if doit is not None:
            self._doit[family, kind] = doit
        if dumpit is not None:
            self._dumpit[family, kind] = dumpit

    def receive(self, request: Request) -> None:
        """Linux: rtnetlink_rcv_msg."""
        kind = request.type
        if kind > RTM_MAX:
            raise error(errno.EOPNOTSUPP)
        if not request.data:
            return
        family = request.data[0]
        if kind & 3 != RTNL_KIND_GET and not request.sk.admin:
            raise error(errno.EPERM)
        if kind & 3 == RTNL_KIND_GET and request.flags & wire.NLM_F_DUMP:
            dumpit = self._dumpit.get((family, kind)) or self._dumpit.get((AF_UNSPEC, kind))
            if dumpit is None:
                raise error(errno.EOPNOTSUPP)
            filtered = wire.NLM_F_DUMP_FILTERED if self._is_filtered(request) else 0
            request.dump(dumpit(request), filtered)
            return
        doit = self._doit.get((family, kind)) or self._doit.get((AF_UNSPEC, kind))
        if doit is None:
            raise error(errno.EOPNOTSUPP)
        if kind & 3 == RTNL_KIND_DEL and request.flags & wire.NLM_F_BULK:
            raise error(errno.EOPNOTSUPP, "Bulk delete is not supported")
        self._current = request
        try:
            doit(request)
        finally:
            self._current = None

    @staticmethod
    def _is_filtered(request: Request) -> bool:
        """Whether a strict request for all wants only some, which each message then says."""
        data = request.data
        kind = request.type
        if not request.strict:
            return False
        if kind == RTM_GETADDR:
            return any(data[4:8])
        if kind == RTM_GETROUTE:
            return any(data[4:6]) or any(data[7:12]) or any(data[12:])
        return kind == RTM_GETNEIGH and len(data) > 12

    def _dump_all(self, request: Request) -> Messages:
        """All families of those that have the type (Linux: rtnl_dump_all)."""
        for family, kind in sorted(self._dumpit):
            if kind == request.type and family not in (AF_UNSPEC, AF_PACKET):
                yield from self._dumpit[family, kind](request)

    def _author(self, kind: int) -> Request | None:
        """The request that makes a change of this message type; None for what only follows from another change."""
        current = self._current
        return current if current is not None and current.type & ~3 == kind & ~3 else None

    def has_listeners(self, group: int, kind: int) -> bool:
        """Whether anyone wants to hear of a change: a group, or the one who makes it."""
        author = self._author(kind)
        return group in self.table.members or (author is not None and bool(author.flags & wire.NLM_F_ECHO))

    def notify(self, group: int, kind: int, payload: bytes, flags: int = 0) -> None:
        """Tell a group of a change, and who made it where they asked for that (Linux: rtnl_notify)."""
        author = self._author(kind)
        if author is None:
            self.table.broadcast(group, wire.build(kind, flags, 0, 0, payload))
            return
        sk = author.sk
        message = wire.build(kind, flags, author.seq, sk.portid, payload)
        echo = bool(author.flags & wire.NLM_F_ECHO)
        self.table.broadcast(group, message, None, sk.portid if echo else 0)
        if echo:
            sk.unicast_from_kernel(message)


# -- attributes of requests


def u32(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    """A number of 32 bits among attributes. Raises OSError ERANGE where it is shorter."""
    data = attributes.get(kind)
    if data is None:
        return default
    if len(data) < 4:
        raise error(errno.ERANGE, "Attribute failed policy validation")
    return wire.number(data[:4])


def address(attributes: dict[int, bytes], kind: int, size: int = 4) -> bytes | None:
    """An address among attributes, None where there is none. Raises OSError ERANGE where it is shorter than `size`."""
    data = attributes.get(kind)
    if data is None:
        return None
    if len(data) < size:
        raise error(errno.ERANGE, "Attribute failed policy validation")
    return data[:size]


def header(request: Request, size: int, text: str) -> bytes:
    """The header of `size` bytes that a request starts with. Raises OSError EINVAL, with `text`, for less."""
    data = request.data
    if len(data) < size:
        raise error(errno.EINVAL, text)
    return data[:size]


def only(attributes: dict[int, bytes], known: tuple[int, ...], text: str) -> None:
    """Raise OSError EINVAL, with `text`, for an attribute that isn't known."""
    for kind in attributes:
        if kind not in known:
            raise error(errno.EINVAL, text)
