"""Group memberships of IPv4 sockets, and their source filters (RFC 3376 section 2, RFC 3678, ip(7)).

The socket options come here from sockglue.py; what they change is told to igmp.py, which keeps the sum of all sockets.
A transport asks `allowed` before it gives a group's packet to a socket, and `drop_socket` when one closes. Linux: the
ip_mc_* functions of net/ipv4/igmp.c, and ip_mcast_join_leave, do_mcast_group_source of ip_sockglue.c.

    IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP                      struct ip_mreq or ip_mreqn
    IP_{ADD,DROP}_SOURCE_MEMBERSHIP, IP_{UN,}BLOCK_SOURCE      struct ip_mreq_source
    IP_MSFILTER                                                struct ip_msfilter
    MCAST_{JOIN,LEAVE}_GROUP                                   struct group_req
    MCAST_{JOIN,LEAVE}_SOURCE_GROUP, MCAST_{UN,}BLOCK_SOURCE   struct group_source_req
    MCAST_MSFILTER                                             struct group_filter
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.fib4 import ANY
from usernet.ip.v4.igmp import Igmp
from usernet.ip.v4.igmp_group import MCAST_EXCLUDE, MCAST_INCLUDE
from usernet.netdevice.device import NetDevice
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import Flow
from usernet.sock.inet import InetSock
from usernet.sock.sock import SOCK_STREAM
from usernet.wire.ipv4 import format_addr

if TYPE_CHECKING:
    from usernet.net.pernet import Net

AF_INET: Final = 2

IP_ADD_MEMBERSHIP: Final = 35
IP_DROP_MEMBERSHIP: Final = 36
IP_UNBLOCK_SOURCE: Final = 37
IP_BLOCK_SOURCE: Final = 38
IP_ADD_SOURCE_MEMBERSHIP: Final = 39
IP_DROP_SOURCE_MEMBERSHIP: Final = 40
IP_MSFILTER: Final = 41
MCAST_JOIN_GROUP: Final = 42
MCAST_BLOCK_SOURCE: Final = 43
MCAST_UNBLOCK_SOURCE: Final = 44
MCAST_LEAVE_GROUP: Final = 45
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47
MCAST_MSFILTER: Final = 48

MEMBERSHIP_OPTIONS: Final = range(IP_ADD_MEMBERSHIP, MCAST_MSFILTER + 1)
"""The options that `Multicast.setsockopt` takes."""

_MREQN: Final = Struct("=4s4si")
_MREQ_SOURCE: Final = Struct("=4s4s4s")
_MSFILTER: Final = Struct("=4s4sII")
_GROUP_REQ: Final = Struct("=I4x128s")
_GROUP_SOURCE_REQ: Final = Struct("=I4x128s128s")
_GROUP_FILTER: Final = Struct("=I4x128sII")
_SOCKADDR_STORAGE: Final = 128
_SOCKADDR_IN: Final = Struct("=HH4s8x")

# Mode, and whether a source is added, of the options that name one.
_SOURCE_OPTIONS: Final = {
    IP_ADD_SOURCE_MEMBERSHIP: (MCAST_INCLUDE, True),
    IP_DROP_SOURCE_MEMBERSHIP: (MCAST_INCLUDE, False),
    IP_BLOCK_SOURCE: (MCAST_EXCLUDE, True),
    IP_UNBLOCK_SOURCE: (MCAST_EXCLUDE, False),
    MCAST_JOIN_SOURCE_GROUP: (MCAST_INCLUDE, True),
    MCAST_LEAVE_SOURCE_GROUP: (MCAST_INCLUDE, False),
    MCAST_BLOCK_SOURCE: (MCAST_EXCLUDE, True),
    MCAST_UNBLOCK_SOURCE: (MCAST_EXCLUDE, False),
}


def is_multicast(addr: bytes) -> bool:
    """Whether an IPv4 address is a group's: 224.0.0.0/4 (Linux: ipv4_is_multicast)."""
    return addr[0] & 0xF0 == 0xE0


@final
class Membership:
    """A socket in a group (Linux: `struct ip_mc_socklist`). address: by which of our addresses the device was named,
    0.0.0.0 if it was not. sources: those included or excluded by `mode`, None where no filter was ever set."""

    __slots__ = ("address", "group", "ifindex", "mode", "sources")

    def __init__(self, group: bytes, address: bytes, ifindex: int, mode: int) -> None:
        self.group = group
        self.address = address
        self.ifindex = ifindex
        self.mode = mode
        self.sources: list[bytes] | None = None


def _read(layout: Struct, value: bytes) -> tuple[int | bytes, ...]:
    if len(value) < layout.size:
        raise error(errno.EINVAL, f"option value: expected {layout.size} bytes, not {len(value)}")
    return layout.unpack_from(value)


def _group_of(storage: bytes, code: int) -> bytes:
    """The address in a `struct sockaddr_storage`, which must be IPv4's."""
    family, _, addr = _SOCKADDR_IN.unpack_from(storage)
    if family != AF_INET:
        raise error(code, f"address in the option value: expected family {AF_INET}, not {family}")
    found: bytes = addr
    return found


@final
class Multicast:
    """The memberships of one namespace's sockets. They are in `sk.memberships`."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._igmp = net.get(Igmp)
        self._devinet = net.get(Devinet)
        self._devices = net.get(DeviceNamespace)

    # -- delivery

    def allowed(self, sk: InetSock, group: bytes, source: bytes, ifindex: int) -> bool:
        """Whether a socket takes what `source` sent to `group`, received on device `ifindex` (Linux: ip_mc_sf_allow).

        Where it has no membership of its own there, IP_MULTICAST_ALL decides.
        """
        if not is_multicast(group):
            return True
        membership = self._find(sk, group, ifindex)
        if membership is None:
            return sk.mc_all
        sources = membership.sources
        if membership.mode == MCAST_EXCLUDE:
            return sources is None or source not in sources
        return sources is not None and source in sources

    def allows(self, sk: InetSock, skb: SKBuff) -> bool:
        """The same for a received packet."""
        dev: NetDevice = skb.dev
        return self.allowed(sk, skb.daddr, skb.saddr, dev.index)

    # -- memberships

    @staticmethod
    def _find(sk: InetSock, group: bytes, ifindex: int) -> Membership | None:
        membership: Membership
        for membership in sk.memberships:
            if membership.group == group and membership.ifindex == ifindex:
                return membership
        return None

    def _device(self, sk: InetSock, group: bytes, address: bytes, ifindex: int) -> NetDevice | None:
        """The device a request means: by index, by one of its addresses, or by the route to the group (Linux:
        ip_mc_find_dev)."""
        if ifindex:
            return self._devices.by_index(ifindex)
        if address != ANY:
            ifa = self._devinet.find(address)
            return ifa.dev if ifa is not None else None
        try:
            dev: NetDevice = sk.af.route(Flow(group, ANY)).dev
        except OSError:
            return None
        return dev

    def _checked_device(self, sk: InetSock, group: bytes, address: bytes, ifindex: int) -> NetDevice:
        if not is_multicast(group):
            raise error(errno.EINVAL, f"group: expected a multicast address, not {format_addr(group)}")
        dev = self._device(sk, group, address, ifindex)
        if dev is None:
            raise error(errno.ENODEV)
        return dev

    def join(
        self, sk: InetSock, group: bytes, address: bytes = ANY, ifindex: int = 0, mode: int = MCAST_EXCLUDE
    ) -> int:
        """Join a group (Linux: ip_mc_join_group, ip_mc_join_group_ssm); returns the index of the device.

        address: one of ours, ifindex: an index, to choose the device by; else the route to the group does.
        Raises OSError: EINVAL for no group, ENODEV, EADDRINUSE where it is a member already, ENOBUFS beyond
        igmp_max_memberships.
        """
        dev = self._checked_device(sk, group, address, ifindex)
        if self._find(sk, group, dev.index) is not None:
            raise error(errno.EADDRINUSE)
        if len(sk.memberships) >= self._igmp.igmp_max_memberships:
            raise error(errno.ENOBUFS, f"expected at most {self._igmp.igmp_max_memberships} memberships of a socket")
        sk.memberships = (Membership(group, address, dev.index, mode), *sk.memberships)
        self._igmp.join(dev, group, mode)
        return dev.index

    def leave(self, sk: InetSock, group: bytes, address: bytes = ANY, ifindex: int = 0) -> None:
        """Leave a group (Linux: ip_mc_leave_group). Raises OSError EADDRNOTAVAIL where it is no member, ENODEV."""
        dev = self._device(sk, group, address, ifindex)
        if dev is None and not ifindex and address == ANY:
            raise error(errno.ENODEV)
        wanted = ifindex or (dev.index if dev is not None else 0)
        membership: Membership
        for membership in sk.memberships:
            if membership.group != group:
                continue
            if wanted:
                if membership.ifindex != wanted:
                    continue
            elif membership.address != address:
                continue
            sk.memberships = tuple(other for other in sk.memberships if other is not membership)
            self._left(membership)
            return
        raise error(errno.EADDRNOTAVAIL)

    def _left(self, membership: Membership) -> None:
        dev = self._devices.by_index(membership.ifindex)
        if dev is not None:
            self._igmp.del_sources(dev, membership.group, membership.mode, membership.sources or (), False)
            self._igmp.leave(dev, membership.group)

    def drop_socket(self, sk: InetSock) -> None:
        """The socket closes: leave all its groups (Linux: ip_mc_drop_socket)."""
        memberships: tuple[Membership, ...] = sk.memberships
        sk.memberships = ()
        for membership in memberships:
            self._left(membership)

    # -- source filters

    def source(
        self, sk: InetSock, group: bytes, address: bytes, ifindex: int, source: bytes, mode: int, add: bool
    ) -> None:
        """Add a source to, or take it from, a membership's filter of `mode` (Linux: ip_mc_source).

        Raises OSError: EINVAL for no group, no membership or one of another mode, ENODEV, ENOBUFS beyond
        igmp_max_msf, EADDRNOTAVAIL for a source that is there already, or isn't.
        """
        dev = self._checked_device(sk, group, address, ifindex)
        membership = self._find(sk, group, dev.index)
        if membership is None:
            raise error(errno.EINVAL, f"not a member of {format_addr(group)} on {dev.name}")
        igmp = self._igmp
        if membership.mode != mode:
            if membership.sources is not None:
                raise error(errno.EINVAL, "the membership has a filter of the other mode")
            igmp.add_sources(dev, group, mode, (), False)
            igmp.del_sources(dev, group, membership.mode, (), False)
            membership.mode = mode
        sources = membership.sources
        if add:
            if sources is not None and len(sources) >= igmp.igmp_max_msf:
                raise error(errno.ENOBUFS, f"expected at most {igmp.igmp_max_msf} sources of a membership")
            if sources is None:
                sources = membership.sources = []
            if source in sources:
                raise error(errno.EADDRNOTAVAIL)
            sources.append(source)
            igmp.add_sources(dev, group, mode, (source,), True)
            return
        if sources is None or source not in sources:
            raise error(errno.EADDRNOTAVAIL)
        if len(sources) == 1 and mode == MCAST_INCLUDE:
            # Including nothing is to leave (RFC 3376 section 2).
            self.leave(sk, group, address, dev.index)
            return
        igmp.del_sources(dev, group, mode, (source,), True)
        sources.remove(source)

    def msfilter(
        self, sk: InetSock, group: bytes, address: bytes, ifindex: int, mode: int, sources: list[bytes]
    ) -> None:
        """Replace a membership's filter (Linux: ip_mc_msfilter). Raises as `source`."""
        if mode not in (MCAST_INCLUDE, MCAST_EXCLUDE):
            raise error(errno.EINVAL, f"filter mode: expected 0 or 1, not {mode}")
        dev = self._checked_device(sk, group, address, ifindex)
        if mode == MCAST_INCLUDE and not sources:
            self.leave(sk, group, address, dev.index)
            return
        membership = self._find(sk, group, dev.index)
        if membership is None:
            raise error(errno.EINVAL, f"not a member of {format_addr(group)} on {dev.name}")
        self._igmp.add_sources(dev, group, mode, sources, False)
        self._igmp.del_sources(dev, group, membership.mode, membership.sources or (), False)
        membership.sources = list(sources) or None
        membership.mode = mode

    def filter_of(self, sk: InetSock, group: bytes, address: bytes, ifindex: int) -> tuple[int, list[bytes]]:
        """A membership's mode and sources (Linux: ip_mc_msfget, ip_mc_gsfget).

        Raises OSError: EINVAL for no group, ENODEV, EADDRNOTAVAIL where it is no member.
        """
        dev = self._checked_device(sk, group, address, ifindex)
        membership = self._find(sk, group, dev.index)
        if membership is None:
            raise error(errno.EADDRNOTAVAIL)
        return membership.mode, list(membership.sources or ())

    # -- socket options

    def setsockopt(self, sk: InetSock, option: int, value: bytes) -> None:
        """One of MEMBERSHIP_OPTIONS (Linux: do_ip_setsockopt). Raises what the methods above do, EPROTO for the older
        ones on a stream socket, EINVAL for a value that is too short."""
        if option in (IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP):
            if sk.sock_type == SOCK_STREAM:
                raise error(errno.EPROTO)
            if len(value) < 8:
                raise error(errno.EINVAL, f"struct ip_mreq: expected 8 bytes or more, not {len(value)}")
            group, address, ifindex = _MREQN.unpack(value[:12] if len(value) >= 12 else value[:8] + bytes(4))
            if option == IP_ADD_MEMBERSHIP:
                self.join(sk, group, address, ifindex)
            else:
                self.leave(sk, group, address, ifindex)
        elif option in (MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP):
            index, storage = _read(_GROUP_REQ, value)
            assert isinstance(index, int) and isinstance(storage, bytes)
            group = _group_of(storage, errno.EINVAL)
            if option == MCAST_JOIN_GROUP:
                self.join(sk, group, ANY, index)
            else:
                self.leave(sk, group, ANY, index)
        elif option == IP_MSFILTER:
            self._set_msfilter(sk, value)
        elif option == MCAST_MSFILTER:
            self._set_group_filter(sk, value)
        elif option in _SOURCE_OPTIONS:
            self._set_source(sk, option, value)
        else:
            raise error(errno.ENOPROTOOPT)

    def _set_source(self, sk: InetSock, option: int, value: bytes) -> None:
        mode, add = _SOURCE_OPTIONS[option]
        ifindex = 0
        if option < MCAST_JOIN_GROUP:
            if len(value) != _MREQ_SOURCE.size:
                raise error(errno.EINVAL, f"struct ip_mreq_source: expected 12 bytes, not {len(value)}")
            group, address, source = _MREQ_SOURCE.unpack(value)
        else:
            index, first, second = _read(_GROUP_SOURCE_REQ, value)
            assert isinstance(index, int) and isinstance(first, bytes) and isinstance(second, bytes)
            ifindex = index
            group = _group_of(first, errno.EADDRNOTAVAIL)
            source = _group_of(second, errno.EADDRNOTAVAIL)
            address = ANY
        if option in (IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_SOURCE_GROUP):
            try:
                ifindex = self.join(sk, group, address, ifindex, MCAST_INCLUDE)
            except OSError as cause:
                if cause.errno != errno.EADDRINUSE:
                    raise
        self.source(sk, group, address, ifindex, source, mode, add)

    def _check_count(self, count: int) -> None:
        if count > self._igmp.igmp_max_msf:
            raise error(errno.ENOBUFS, f"expected at most {self._igmp.igmp_max_msf} sources, not {count}")

    def _set_msfilter(self, sk: InetSock, value: bytes) -> None:
        group, address, mode, count = _read(_MSFILTER, value)
        assert isinstance(group, bytes) and isinstance(address, bytes)
        assert isinstance(mode, int) and isinstance(count, int)
        self._check_count(count)
        end = _MSFILTER.size + 4 * count
        if len(value) < end:
            raise error(errno.EINVAL, f"struct ip_msfilter: expected {end} bytes, not {len(value)}")
        sources = [value[at : at + 4] for at in range(_MSFILTER.size, end, 4)]
        self.msfilter(sk, group, address, 0, mode, sources)

    def _set_group_filter(self, sk: InetSock, value: bytes) -> None:
        index, storage, mode, count = _read(_GROUP_FILTER, value)
        assert isinstance(index, int) and isinstance(storage, bytes)
        assert isinstance(mode, int) and isinstance(count, int)
        self._check_count(count)
        end = _GROUP_FILTER.size + _SOCKADDR_STORAGE * count
        if len(value) < end:
            raise error(errno.EINVAL, f"struct group_filter: expected {end} bytes, not {len(value)}")
        sources = [
            _group_of(value[at : at + _SOCKADDR_STORAGE], errno.EADDRNOTAVAIL)
            for at in range(_GROUP_FILTER.size, end, _SOCKADDR_STORAGE)
        ]
        self.msfilter(sk, _group_of(storage, errno.EADDRNOTAVAIL), ANY, index, mode, sources)

    def getsockopt(self, sk: InetSock, option: int, request: bytes) -> bytes:
        """IP_MSFILTER or MCAST_MSFILTER: the filter of the membership that `request`, the same structure with only the
        group, the device and the room for sources filled in, asks for. Raises as `filter_of`."""
        if option == IP_MSFILTER:
            group, address, _, room = _read(_MSFILTER, request)
            assert isinstance(group, bytes) and isinstance(address, bytes) and isinstance(room, int)
            mode, sources = self.filter_of(sk, group, address, 0)
            return _MSFILTER.pack(group, address, mode, len(sources)) + b"".join(sources[:room])
        if option == MCAST_MSFILTER:
            index, storage, _, room = _read(_GROUP_FILTER, request)
            assert isinstance(index, int) and isinstance(storage, bytes) and isinstance(room, int)
            mode, sources = self.filter_of(sk, _group_of(storage, errno.EINVAL), ANY, index)
            return _GROUP_FILTER.pack(index, storage, mode, len(sources)) + b"".join(
                _SOCKADDR_IN.pack(AF_INET, 0, source).ljust(_SOCKADDR_STORAGE, b"\0") for source in sources[:room]
            )
        raise error(errno.ENOPROTOOPT)
