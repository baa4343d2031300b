"""What a stack has from its start but loads when it is first asked for (Linux: modules, request_module).

Most stacks live without a packet or netlink socket. Nothing is different for whoever opens one, but that the first one
in a process takes some milliseconds longer.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from usernet.net.families import Families
from usernet.net.pernet import Net

AF_NETLINK: Final = 16
AF_PACKET: Final = 17


def provide_modules(net: Net) -> None:
    """Have AF_NETLINK, AF_PACKET and the sysctls of ping sockets there for `net`."""
    families = net.get(Families)
    families.on_request(AF_NETLINK, partial(_netlink, net))
    families.on_request(AF_PACKET, partial(_packet, net))
    net.sysctl.later(partial(_ping, net))


def _netlink(net: Net) -> None:
    from usernet.sockets.netlink.netlink import Netlink

    net.get(Netlink)


def _packet(net: Net) -> None:
    from usernet.sockets.packet import PacketFamily

    net.get(PacketFamily)


def _ping(net: Net) -> None:
    from usernet.transport.ping import Ping

    net.get(Ping)
