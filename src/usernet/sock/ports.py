"""Local ports: who holds which, who may share one, and how a free one is found. One table for UDP, one for TCP.

Linux: inet_bind_bucket, inet_csk_get_port, __inet_hash_connect, udp_lib_get_port. RFC 6056 for the choice of ephemeral
ports: by a random start for bind and UDP (algorithm 1), by double hashing for TCP's connect (algorithm 4).

Two sockets conflict over a port when their devices overlap (either is bound to none, or both to the same), their
addresses overlap (either is bound to any, or both to the same), and the protocol's policy doesn't let them share.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Protocol, final

from usernet.core.errors import error
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST
from usernet.sock.inet import InetSock
from usernet.sock.msg import Name, SockAddr

TCP_ESTABLISHED: Final = 1
TCP_TIME_WAIT: Final = 6
TCP_CLOSE: Final = 7
TCP_LISTEN: Final = 10

_PERTURB_SIZE: Final = 256
_ALL_PORTS: Final = 65535


class PortOwner(Protocol):
    """What holds a port: a socket, or TCP's record of one in TIME_WAIT."""

    rcv_saddr: bytes
    num: int
    reuse: bool
    reuseport: bool
    bound_dev_if: int
    state: int


Policy = Callable[[Any, Any, bool], bool]
"""`policy(sk, other, chosen)`: whether `sk` may not share the port with `other`, whose address and device overlap its
own. chosen: the port is being chosen by the table, and was not asked for."""


def tcp_conflict(sk: PortOwner, other: PortOwner, chosen: bool) -> bool:
    """TCP's policy (Linux: inet_bind_conflict). SO_REUSEADDR on both shares with all but a listener; SO_REUSEPORT on
    both with everyone; a port chosen by the table is never shared by SO_REUSEADDR alone."""
    if sk.reuse and other.reuse and other.state != TCP_LISTEN:
        return chosen
    return chosen or not (sk.reuseport and other.reuseport)


def udp_conflict(sk: PortOwner, other: PortOwner, chosen: bool) -> bool:
    """UDP's policy (Linux: udp_lib_lport_inuse): SO_REUSEADDR or SO_REUSEPORT on both shares with everyone, but a port
    chosen by the table is not one that others hold."""
    return chosen or not ((sk.reuse and other.reuse) or (sk.reuseport and other.reuseport))


@final
class LocalPorts:
    """Which ports of a namespace are ephemeral, for all transports: net.ipv4.ip_local_port_range and
    ip_local_reserved_ports (ports and ranges with commas between, never chosen, but free to be asked for)."""

    def __init__(self, net: Net) -> None:
        self.ip_local_port_range: tuple[int, ...] = (32768, 60999)
        self.ip_local_reserved_ports: str = ""
        self.reserved: frozenset[int] = frozenset()
        self._range_before: tuple[int, ...] = self.ip_local_port_range
        self._reserved_before = ""
        table = net.sysctl
        table.register("net.ipv4.ip_local_port_range", self, low=1, high=_ALL_PORTS, on_change=self._range_changed)
        table.register("net.ipv4.ip_local_reserved_ports", self, on_change=self._reserved_changed)

    def _range_changed(self) -> None:
        low, high = self.ip_local_port_range
        if low > high:
            self.ip_local_port_range = self._range_before
            raise ValueError(f"net.ipv4.ip_local_port_range: expected the lower port first, not {low} {high}")
        self._range_before = self.ip_local_port_range

    def _reserved_changed(self) -> None:
        try:
            self.reserved = parse_port_list(self.ip_local_reserved_ports)
        except ValueError:
            self.ip_local_reserved_ports = self._reserved_before
            raise
        self._reserved_before = self.ip_local_reserved_ports

    def range_of(self, sk: InetSock) -> tuple[int, int]:
        """The range for `sk`, both ends included: IP_LOCAL_PORT_RANGE narrows the namespace's (Linux:
        inet_sk_get_local_port_range)."""
        low, high = self.ip_local_port_range[0], self.ip_local_port_range[1]
        own_low, own_high = sk.local_port_range
        if low <= own_low <= high:
            low = own_low
        if low <= own_high <= high:
            high = own_high
        return low, high


def parse_port_list(text: str) -> frozenset[int]:
    """The ports of a list such as "8080,9000-9010". Raises ValueError."""
    ports: set[int] = set()
    for part in text.replace("\n", "").split(","):
        item = part.strip()
        if not item:
            continue
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"net.ipv4.ip_local_reserved_ports: expected ports and ranges, not {item!r}")
        low = int(first)
        high = int(last) if dash else low
        if not low <= high <= _ALL_PORTS:
            raise ValueError(f"net.ipv4.ip_local_reserved_ports: expected ports up to {_ALL_PORTS}, not {item!r}")
        ports.update(range(low, high + 1))
    return frozenset(ports)


@final
class PortBucket:
    """Those who hold one port, in the order they came (Linux: `struct inet_bind_bucket`).

    bound: one of them came by `bind` (or is a listener's child), so that `connect` must not choose the port. A port
    that was chosen for one connection has one owner, and for one there is no table.
    """

    __slots__ = ("_more", "_one", "bound")

    def __init__(self, owner: Any) -> None:
        self._one: Any = owner
        self._more: dict[Any, None] | None = None
        self.bound: bool = False

    @property
    def owners(self) -> Collection[Any]:
        """Never empty."""
        return (self._one,) if self._more is None else self._more

    def add(self, owner: Any) -> None:
        if self._more is None:
            if owner is self._one:
                return
            self._more = {self._one: None}
            self._one = None
        self._more[owner] = None

    def replace(self, owner: Any, other: Any) -> None:
        """`other` comes for `owner`."""
        if self._more is None:
            self._one = other
        else:
            self._more[other] = None
            del self._more[owner]

    def remove(self, owner: Any) -> bool:
        """Take out `owner`, if it is there; whether nobody is left."""
        if self._more is None:
            return owner is self._one
        self._more.pop(owner, None)
        return not self._more


@final
class PortTable:
    """The ports of one transport. `buckets` maps a port to its holders; a port that nobody holds has no bucket."""

    def __init__(self, net: Net, conflict: Policy) -> None:
        """conflict: `tcp_conflict`, `udp_conflict`, or a protocol's own."""
        self._random = net.random
        self._settings = net.get(LocalPorts)
        self._conflict = conflict
        self.buckets: dict[int, PortBucket] = {}
        self._perturb: list[int] = []
        self._secret: bytes = b""

    def __len__(self) -> int:
        """Ports in use."""
        return len(self.buckets)

    def owners(self, port: int) -> Iterator[Any]:
        """Who holds `port`, the first to come first."""
        bucket = self.buckets.get(port)
        return iter(bucket.owners if bucket is not None else ())

    def conflicts(self, sk: Any, addr: bytes, port: int, chosen: bool = False) -> bool:
        """Whether someone holds `port` whom `sk`, bound to `addr`, can't share it with."""
        bucket = self.buckets.get(port)
        if bucket is None:
            return False
        device = sk.bound_dev_if
        conflict = self._conflict
        any_addr = not any(addr)
        for other in bucket.owners:
            if other is sk:
                continue
            if device and other.bound_dev_if and device != other.bound_dev_if:
                continue
            held = other.rcv_saddr
            # Families have ports of their own; of one family, overlap is equality, or one being the unspecified.
            if held == addr or (len(held) == len(addr) and (any_addr or not any(held))):
                if conflict(sk, other, chosen):
                    return True
        return False

    def bind(self, sk: Any, addr: bytes, port: int) -> int:
        """Give `sk` the local port `port`, or where that is 0 one that is free, for the local address `addr`.

        Sets `sk.num` and returns the port; `rcv_saddr` is for the caller to set, before anything else is bound. A
        socket that holds the port already is only checked again: a listener's turn (Linux: inet_csk_listen_start).
        Raises OSError EADDRINUSE.
        """
        if port == 0:
            port = self._choose(sk, addr)
        elif self.conflicts(sk, addr, port):
            raise error(errno.EADDRINUSE)
        self._add(sk, port).bound = True
        return port

    def inherit(self, sk: Any, port: int) -> None:
        """`sk` shares the port of the listener it comes from (Linux: __inet_inherit_port); sets `sk.num`."""
        self._add(sk, port).bound = True

    def replace(self, sk: Any, other: Any) -> None:
        """`other`, whose `num` is the same, takes the place of `sk`: TIME_WAIT (Linux: inet_twsk_hashdance). `sk.num`
        stays as it is, and `sk` holds nothing any more."""
        self.buckets[sk.num].replace(sk, other)

    def release(self, sk: Any) -> None:
        """`sk` lets go of its port (Linux: inet_put_port), and `sk.num` becomes 0. Nothing happens where it holds
        none."""
        self.forget(sk, sk.num)
        sk.num = 0

    def forget(self, owner: Any, port: int) -> None:
        """`owner` ends, and with it its hold of `port`. Nothing happens where it has none."""
        bucket = self.buckets.get(port)
        if bucket is not None and bucket.remove(owner):
            del self.buckets[port]

    def _add(self, sk: Any, port: int) -> PortBucket:
        bucket = self.buckets.get(port)
        if bucket is None:
            bucket = self.buckets[port] = PortBucket(sk)
        else:
            bucket.add(sk)
        sk.num = port
        return bucket

    def _choose(self, sk: Any, addr: bytes) -> int:
        low, high = self._settings.range_of(sk)
        reserved = self._settings.reserved
        remaining = high - low + 1
        start = self._random.getrandbits(32) * remaining >> 32
        buckets = self.buckets
        # Odd distances first: connect() prefers even ones, and so they stay out of each other's way (Linux:
        # inet_csk_find_open_port).
        for parity in (1, 0):
            for step in range((start & ~1) | parity, (start & ~1) + remaining + 1, 2):
                port = low + step % remaining
                if port in reserved:
                    continue
                if port not in buckets or not self.conflicts(sk, addr, port, True):
                    return port
        raise error(errno.EADDRINUSE, f"no free port from {low} to {high}")

    def connect(self, sk: Any, remote: bytes, usable: Callable[[int], bool]) -> int:
        """Give `sk` a port to connect from (Linux: __inet_hash_connect; RFC 6056, algorithm 4).

        remote: what the offset is hashed from: the addresses and the remote port. `usable(port)` says, of a port that
        others hold who came by `connect` too, whether the connection would be the only one of its four numbers; it is
        not asked of a port that nobody holds. Sets `sk.num` and returns the port.
        Raises OSError EADDRNOTAVAIL where every port is taken.
        """
        from hashlib import blake2s

        low, high = self._settings.range_of(sk)
        reserved = self._settings.reserved
        remaining = high - low + 1
        if not self._perturb:
            self._perturb = [self._random.getrandbits(32) for _ in range(_PERTURB_SIZE)]
            self._secret = self._random.getrandbits(256).to_bytes(32, "big")
        digest = int.from_bytes(blake2s(remote, digest_size=8, key=self._secret).digest(), "big")
        index = digest % _PERTURB_SIZE
        offset = ((digest >> 32) + self._perturb[index]) % remaining & ~1
        buckets = self.buckets
        for parity in (0, 1):
            for distance in range(parity, remaining + 1, 2):
                port = low + (offset + distance) % remaining
                if port in reserved:
                    continue
                bucket = buckets.get(port)
                if bucket is not None and (bucket.bound or not usable(port)):
                    continue
                # As far on as the search went, and a few ports more, so that the next can't be foretold from this one.
                self._perturb[index] += distance + 2 + (self._random.getrandbits(3) << 1)
                self._add(sk, port)
                return port
        raise error(errno.EADDRNOTAVAIL, f"no free port from {low} to {high}")


def inet_bind(sk: InetSock, table: PortTable | None, name: Name) -> None:
    """What bind() is to every internet socket (Linux: __inet_bind).

    table: where the port comes from; None for protocols without (raw), whose port is their protocol number.
    Raises OSError: EAFNOSUPPORT, EINVAL (bound already), EADDRNOTAVAIL (no address of ours), EADDRINUSE.
    """
    af = sk.af
    if not isinstance(name, SockAddr):
        raise error(errno.EAFNOSUPPORT)
    addr = name.addr
    if name.family != af.family:
        # Old programs bind to AF_UNSPEC and INADDR_ANY.
        if name.family != 0 or any(addr):
            raise error(errno.EAFNOSUPPORT)
        addr = af.any
    if len(addr) != af.addr_len:
        raise error(errno.EINVAL, f"address: expected {af.addr_len} bytes, not {len(addr)}")
    kind = RTN_LOCAL
    if addr != af.any:
        kind = af.addr_type(addr)
        if kind not in (RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST) and not (sk.freebind or sk.transparent):
            raise error(errno.EADDRNOTAVAIL)
    if sk.state != TCP_CLOSE or sk.num:
        raise error(errno.EINVAL, "the socket is bound already")
    port = name.port
    if table is not None and not (sk.bind_address_no_port and port == 0):
        table.bind(sk, addr, port)
    sk.rcv_saddr = addr
    # A group's or a broadcast address is one to receive at, never one to send from.
    sk.saddr = af.any if kind in (RTN_MULTICAST, RTN_BROADCAST) else addr
    sk.bound_addr = addr != af.any
    sk.bound_port = port != 0
    sk.sport = sk.num
    sk.daddr = af.any
    sk.dport = 0
    sk.dst = None


def reuseport_select(group: list[Any], flow_hash: int, skb: SKBuff) -> Any:
    """The socket of a reuseport group that a packet is for (Linux: reuseport_select_sock).

    group: its members, not empty. flow_hash: 32 bits that are the same for all packets of a flow. A program attached to
    any of them is asked first, with `data` behind the transport header; an answer out of range leaves it to the hash.
    """
    count = len(group)
    for member in group:
        program = member.reuseport_filter
        if program is not None:
            index = program.run(skb)
            if index < count:
                return group[index]
            break
    return group[flow_hash * count >> 32]
