"""The family AF_INET: which protocol serves which type of socket (Linux: net/ipv4/af_inet.c, inetsw, inet_create)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.v4.ipv4 import Ipv4
from usernet.net.families import Families, NetProtoFamily
from usernet.net.pernet import Net
from usernet.sock.af_ops import AddressFamily
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Sock
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.udp import UdpSock
from usernet.transport.udplite import UdpLiteSock

AF_INET: Final = 2
IPPROTO_IP: Final = 0
IPPROTO_ICMP: Final = 1
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_UDPLITE: Final = 136
IPPROTO_MAX: Final = 263

Factory = Callable[[Net, AddressFamily, int], Sock]
"""Makes the protocol's side of a socket, from namespace, address family operations and protocol number."""


def _tcp(net: Net, af: AddressFamily, protocol: int) -> Sock:
    return TcpSock(net, af)


def _udp(net: Net, af: AddressFamily, protocol: int) -> Sock:
    return UdpSock(net, af)


def _udplite(net: Net, af: AddressFamily, protocol: int) -> Sock:
    return UdpLiteSock(net, af)


def _ping(net: Net, af: AddressFamily, protocol: int) -> Sock:
    from usernet.transport.ping import PingSock

    return PingSock(net, af)


def _raw(net: Net, af: AddressFamily, protocol: int) -> Sock:
    from usernet.transport.raw import RawSock

    return RawSock(net, af, protocol)


@final
class InetFamily(NetProtoFamily):
    """Makes internet sockets, from a table that protocols may add themselves to."""

    def __init__(self, net: Net) -> None:
        self.family = AF_INET
        self._net = net
        self._af: AddressFamily = net.get(Ipv4).af
        self._switch: dict[int, list[tuple[int, Factory]]] = {}
        self.register_protosw(SOCK_STREAM, IPPROTO_TCP, _tcp)
        self.register_protosw(SOCK_DGRAM, IPPROTO_UDP, _udp)
        self.register_protosw(SOCK_DGRAM, IPPROTO_UDPLITE, _udplite)
        self.register_protosw(SOCK_DGRAM, IPPROTO_ICMP, _ping)
        self.register_protosw(SOCK_RAW, IPPROTO_IP, _raw)
        net.get(Families).register(self)

    def register_protosw(self, sock_type: int, protocol: int, factory: Factory) -> None:
        """Let `factory` serve sockets of this type and protocol (Linux: inet_register_protosw).

        The first one of a type serves protocol 0 too; IPPROTO_IP stands for every protocol but 0.
        """
        self._switch.setdefault(sock_type, []).append((protocol, factory))

    def create(self, sock_type: int, protocol: int) -> Sock:
        """Raises OSError: EINVAL for a protocol out of range, ESOCKTNOSUPPORT, EPROTONOSUPPORT, or what the protocol
        raises (EPERM, EACCES)."""
        if not 0 <= protocol < IPPROTO_MAX:
            raise error(errno.EINVAL)
        entries = self._switch.get(sock_type)
        if not entries:
            raise error(errno.ESOCKTNOSUPPORT)
        for number, factory in entries:
            if number == protocol:
                if protocol != IPPROTO_IP:
                    return factory(self._net, self._af, protocol)
            elif protocol == IPPROTO_IP:
                return factory(self._net, self._af, number)
            elif number == IPPROTO_IP:
                return factory(self._net, self._af, protocol)
        raise error(errno.EPROTONOSUPPORT)
