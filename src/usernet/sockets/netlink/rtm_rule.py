"""RTM_GETRULE: the rules by which routing tables are asked (Linux: net/core/fib_rules.c; `ip rule`).

They are those that every namespace starts with, and can't be changed: local, then main, then the empty default table.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.fib import RT_TABLE_LOCAL, RT_TABLE_MAIN, RTPROT_KERNEL
from usernet.net.pernet import Net
from usernet.sockets.netlink import rtnetlink as rt
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.rtnetlink import AF_INET, AF_UNSPEC, RTM_GETRULE, RTM_NEWRULE, Rtnetlink
from usernet.wire import netlink as wire

RT_TABLE_DEFAULT: Final = 253
FRA_PRIORITY: Final = 6
FRA_SUPPRESS_PREFIXLEN: Final = 14
FRA_TABLE: Final = 15
FRA_PROTOCOL: Final = 21
FR_ACT_TO_TBL: Final = 1

_RULE: Final = Struct("=BBBBBxxBI")
RULES: Final = ((0, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN), (32767, RT_TABLE_DEFAULT))


@final
class RtmRule:
    """The rules of one namespace, to NETLINK_ROUTE."""

    def __init__(self, net: Net) -> None:
        net.get(Rtnetlink).register(AF_UNSPEC, RTM_GETRULE, dumpit=self.dump)

    def dump(self, request: Request) -> Messages:
        """RTM_GETRULE of all."""
        data = request.data
        if request.strict:
            rt.header(request, _RULE.size, "Invalid header for fib rule dump request")
            if any(data[1:12]):
                raise error(errno.EINVAL, "Invalid values in header for fib rule dump request")
        if data[0] not in (AF_UNSPEC, AF_INET):
            raise error(errno.EAFNOSUPPORT)
        for priority, table in RULES:
            parts = [
                _RULE.pack(AF_INET, 0, 0, 0, table, FR_ACT_TO_TBL, 0),
                wire.u32(FRA_TABLE, table),
                wire.u32(FRA_SUPPRESS_PREFIXLEN, 0xFFFFFFFF),
                wire.u8(FRA_PROTOCOL, RTPROT_KERNEL),
            ]
            if priority:
                parts.append(wire.u32(FRA_PRIORITY, priority))
            yield RTM_NEWRULE, b"".join(parts)
