"""Netlink of one namespace, put together: the family, and what answers in it."""

from __future__ import annotations

from typing import final

from usernet.net.pernet import Net
from usernet.sockets.netlink.af_netlink import NetlinkFamily
from usernet.sockets.netlink.genetlink import Genetlink
from usernet.sockets.netlink.inet_diag import InetDiag
from usernet.sockets.netlink.rtm_addr import RtmAddr
from usernet.sockets.netlink.rtm_link import RtmLink
from usernet.sockets.netlink.rtm_neigh import RtmNeigh
from usernet.sockets.netlink.rtm_route import RtmRoute
from usernet.sockets.netlink.rtm_rule import RtmRule


@final
class Netlink:
    """AF_NETLINK of one namespace, with NETLINK_ROUTE, NETLINK_SOCK_DIAG and NETLINK_GENERIC."""

    def __init__(self, net: Net) -> None:
        self.family = net.get(NetlinkFamily)
        for part in (RtmLink, RtmAddr, RtmRoute, RtmNeigh, RtmRule, InetDiag, Genetlink):
            net.get(part)
