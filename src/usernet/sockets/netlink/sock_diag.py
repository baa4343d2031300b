"""NETLINK_SOCK_DIAG: which sockets there are (Linux: net/core/sock_diag.c; sock_diag(7), `ss`).

A family of sockets registers here what takes requests about it. A family that has nobody is ENOENT.
"""

from __future__ import annotations

import errno
from typing import Final, final

from usernet.core.errors import error
from usernet.net.pernet import Net
from usernet.sockets.netlink.af_netlink import NETLINK_SOCK_DIAG, NetlinkFamily
from usernet.sockets.netlink.request import Handler, Request

TCPDIAG_GETSOCK: Final = 18
DCCPDIAG_GETSOCK: Final = 19
SOCK_DIAG_BY_FAMILY: Final = 20
SOCK_DESTROY: Final = 21
SKNLGRP_MAX: Final = 4
AF_MAX: Final = 46


@final
class SockDiag:
    """NETLINK_SOCK_DIAG of one namespace. compat: takes the requests of before Linux 3.3."""

    def __init__(self, net: Net) -> None:
        self._families: dict[int, Handler] = {}
        self.compat: Handler | None = None
        net.get(NetlinkFamily).register(NETLINK_SOCK_DIAG, SKNLGRP_MAX, self.receive)

    def register(self, family: int, handler: Handler) -> None:
        """Have `handler` take the requests about sockets of `family`."""
        self._families[family] = handler

    def receive(self, request: Request) -> None:
        """Linux: sock_diag_rcv_msg."""
        if request.type in (TCPDIAG_GETSOCK, DCCPDIAG_GETSOCK):
            if self.compat is None:
                raise error(errno.EOPNOTSUPP)
            self.compat(request)
            return
        if request.type not in (SOCK_DIAG_BY_FAMILY, SOCK_DESTROY):
            raise error(errno.EINVAL)
        if len(request.data) < 2 or request.data[0] >= AF_MAX:
            raise error(errno.EINVAL)
        handler = self._families.get(request.data[0])
        if handler is None:
            raise error(errno.ENOENT)
        handler(request)
