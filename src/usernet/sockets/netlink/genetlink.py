"""NETLINK_GENERIC: families that are found by name (Linux: net/netlink/genetlink.c).

There is only the one that tells of families, nlctrl; programs that look for another one (nl80211, ethtool) are told
that it is not there, as on a kernel without its module.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.net.pernet import Net
from usernet.sockets.netlink.af_netlink import NETLINK_GENERIC, NetlinkFamily
from usernet.sockets.netlink.request import Messages, Request
from usernet.wire import netlink as wire

GENL_ID_CTRL: Final = 16
CTRL_CMD_NEWFAMILY: Final = 1
CTRL_CMD_GETFAMILY: Final = 3
CTRL_CMD_GETPOLICY: Final = 10
CTRL_ATTR_FAMILY_ID: Final = 1
CTRL_ATTR_FAMILY_NAME: Final = 2
CTRL_ATTR_VERSION: Final = 3
CTRL_ATTR_HDRSIZE: Final = 4
CTRL_ATTR_MAXATTR: Final = 5
CTRL_ATTR_OPS: Final = 6
CTRL_ATTR_MCAST_GROUPS: Final = 7
CTRL_ATTR_OP_ID: Final = 1
CTRL_ATTR_OP_FLAGS: Final = 2
CTRL_ATTR_MCAST_GRP_NAME: Final = 1
CTRL_ATTR_MCAST_GRP_ID: Final = 2
GENL_CMD_CAP_DO: Final = 2
GENL_CMD_CAP_DUMP: Final = 4
NAME: Final = "nlctrl"
VERSION: Final = 2
NOTIFY_GROUP: Final = 16

_GENLMSG: Final = Struct("=BBH")


@final
class Genetlink:
    """NETLINK_GENERIC of one namespace."""

    def __init__(self, net: Net) -> None:
        net.get(NetlinkFamily).register(NETLINK_GENERIC, NOTIFY_GROUP, self.receive)

    def receive(self, request: Request) -> None:
        """Linux: genl_rcv_msg."""
        if request.type != GENL_ID_CTRL:
            raise error(errno.ENOENT)
        if len(request.data) < _GENLMSG.size:
            raise error(errno.EINVAL)
        command = request.data[0]
        if command != CTRL_CMD_GETFAMILY:
            raise error(errno.EOPNOTSUPP)
        if request.is_dump:
            request.dump(self._dump())
            return
        attributes = request.attributes(_GENLMSG.size)
        ident = attributes.get(CTRL_ATTR_FAMILY_ID)
        name = attributes.get(CTRL_ATTR_FAMILY_NAME)
        if ident is None and name is None:
            raise error(errno.EINVAL)
        if ident is not None and wire.number(ident[:2]) != GENL_ID_CTRL:
            raise error(errno.ENOENT)
        if name is not None and wire.text(name) != NAME:
            raise error(errno.ENOENT)
        request.reply(GENL_ID_CTRL, _family())

    def _dump(self) -> Messages:
        yield GENL_ID_CTRL, _family()


def _family() -> bytes:
    """Linux: ctrl_fill_info."""
    flags = GENL_CMD_CAP_DO | GENL_CMD_CAP_DUMP
    operation = wire.nest(1, wire.u32(CTRL_ATTR_OP_ID, CTRL_CMD_GETFAMILY), wire.u32(CTRL_ATTR_OP_FLAGS, flags))
    group = wire.nest(
        1, wire.u32(CTRL_ATTR_MCAST_GRP_ID, NOTIFY_GROUP), wire.string(CTRL_ATTR_MCAST_GRP_NAME, "notify")
    )  # fmt: skip
    return b"".join(
        (
            _GENLMSG.pack(CTRL_CMD_NEWFAMILY, VERSION, 0),
            wire.string(CTRL_ATTR_FAMILY_NAME, NAME),
            wire.u16(CTRL_ATTR_FAMILY_ID, GENL_ID_CTRL),
            wire.u32(CTRL_ATTR_VERSION, VERSION),
            wire.u32(CTRL_ATTR_HDRSIZE, 0),
            wire.u32(CTRL_ATTR_MAXATTR, CTRL_CMD_GETPOLICY),
            wire.nest(CTRL_ATTR_OPS, operation),
            wire.nest(CTRL_ATTR_MCAST_GROUPS, group),
        )
    )
