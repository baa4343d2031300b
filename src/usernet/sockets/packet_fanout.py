"""PACKET_FANOUT: several packet sockets share what comes, each packet going to one of them (Linux: af_packet.c,
`struct packet_fanout`; packet(7)).

The sockets of a group are one tap. Who of them gets a packet is decided by its flow, in turn, at random, by a program
of classic BPF, or by who has room left. A member whose device goes down leaves the array and comes back with it.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final, final
from zlib import crc32

from usernet.core.errors import error
from usernet.ip.v4.af import Ipv4Family
from usernet.ip.v4.fragment import IP_DEFRAG_AF_PACKET, Fragments
from usernet.net.packet_type import Tap
from usernet.skbuff.skbuff import PACKET_OUTGOING, SKBuff
from usernet.sock.filter import Program
from usernet.sock.sockopt import SOCK_FILTER_LOCKED
from usernet.sockets.packet_ring import ROOM_LOW, ROOM_NONE, ROOM_NORMAL
from usernet.wire import ipv4

if TYPE_CHECKING:
    from usernet.net.pernet import Net
    from usernet.sockets.packet import PacketSock

PACKET_FANOUT_HASH: Final = 0
PACKET_FANOUT_LB: Final = 1
PACKET_FANOUT_CPU: Final = 2
PACKET_FANOUT_ROLLOVER: Final = 3
PACKET_FANOUT_RND: Final = 4
PACKET_FANOUT_QM: Final = 5
PACKET_FANOUT_CBPF: Final = 6
PACKET_FANOUT_EBPF: Final = 7
PACKET_FANOUT_FLAG_ROLLOVER: Final = 0x1000
PACKET_FANOUT_FLAG_UNIQUEID: Final = 0x2000
PACKET_FANOUT_FLAG_IGNORE_OUTGOING: Final = 0x4000
PACKET_FANOUT_FLAG_DEFRAG: Final = 0x8000
PACKET_FANOUT_MAX: Final = 1 << 16
"""Members of one group, at most."""

DEFAULT_MEMBERS: Final = 256
"""The same where the first member asks for no number."""

HISTORY: Final = 16
"""Flows of the last packets that a socket got: one with more than half of them is a huge one."""

_ARGS: Final = Struct("=HHI")
_INT: Final = Struct("=HH")
_ROLLOVER_STATS: Final = Struct("=QQQ")


@final
class Rollover:
    """What a member keeps whose packets may go to others (Linux: `struct packet_rollover`)."""

    __slots__ = ("failed", "history", "huge", "last", "moved")

    def __init__(self) -> None:
        self.last: int = 0
        self.moved: int = 0
        self.huge: int = 0
        self.failed: int = 0
        self.history: list[int] = [0] * HISTORY

    def stats(self) -> bytes:
        """`struct tpacket_rollover_stats`."""
        return _ROLLOVER_STATS.pack(self.moved, self.huge, self.failed)


@final
class Fanout:
    """One group. `arr`: the members that are shown packets; `members`: all of them."""

    def __init__(self, net: Net, number: int, kind: int, flags: int, limit: int, first: PacketSock) -> None:
        assert first.tap is not None
        self.id = number
        self.kind = kind
        self.flags = flags
        self.limit = limit
        self.members: set[PacketSock] = set()
        self.arr: list[PacketSock] = []
        self.program: Program | None = None
        self.tap = Tap(self.deliver, first.tap.protocol, first.tap.dev, self)
        self._net = net
        self._random = net.random
        self._seed: int = net.random.getrandbits(32)
        self._turn: int = 0

    # -- members

    def link(self, sk: PacketSock) -> None:
        """Show packets to `sk` from now on (Linux: __fanout_link)."""
        if not self.arr:
            sk.types.add_tap(self.tap)
        self.arr.append(sk)

    def unlink(self, sk: PacketSock) -> None:
        """Linux: __fanout_unlink: the last one takes its place."""
        at = self.arr.index(sk)
        self.arr[at] = self.arr[-1]
        self.arr.pop()
        if not self.arr:
            sk.types.remove_tap(self.tap)

    @property
    def packed(self) -> int:
        """As getsockopt tells it."""
        return self.id | self.kind << 16 | self.flags << 24

    # -- packets

    def deliver(self, skb: SKBuff) -> None:
        """Linux: packet_rcv_fanout."""
        members = self.arr
        if skb.sk is not None and skb.sk in self.members:
            return  # none is shown what one of them sent
        if self.flags & PACKET_FANOUT_FLAG_IGNORE_OUTGOING >> 8 and skb.pkt_type == PACKET_OUTGOING:
            return
        whole: SKBuff | None = skb
        if self.flags & PACKET_FANOUT_FLAG_DEFRAG >> 8:
            whole = self._defrag(skb)
            if whole is None:
                return
        assert whole is not None
        count = len(members)
        kind = self.kind
        if kind == PACKET_FANOUT_LB:
            self._turn += 1
            at = self._turn % count
        elif kind in (PACKET_FANOUT_CPU, PACKET_FANOUT_QM):
            at = 0  # there is one processor here, and one queue
        elif kind == PACKET_FANOUT_RND:
            at = self._random.randrange(count)
        elif kind == PACKET_FANOUT_ROLLOVER:
            at = self._roll_over(whole, 0, False)
        elif kind in (PACKET_FANOUT_CBPF, PACKET_FANOUT_EBPF):
            at = self.program.run(whole) % count if self.program is not None else 0
        else:
            at = self.flow(whole) * count >> 32
        if self.flags & PACKET_FANOUT_FLAG_ROLLOVER >> 8:
            at = self._roll_over(whole, at, True)
        members[at].deliver(whole)
        if whole is not skb:
            whole.consume()

    def flow(self, skb: SKBuff) -> int:
        """32 bits of the flow, the same both ways (Linux: __skb_get_hash_symmetric)."""
        head = skb.head
        at = skb.data
        if skb.protocol == 0x0800 and skb.tail - at >= ipv4.IP_HLEN:
            ends = [head[at + 12 : at + 16], head[at + 16 : at + 20]]
            protocol = head[at + 9]
            start = at + ((head[at] & 15) << 2)
            whole = not (head[at + 6] & 0x3F or head[at + 7])
            if whole and protocol in (6, 17, 132, 136) and skb.tail - start >= 4:
                ends = [ends[0] + head[start : start + 2], ends[1] + head[start + 2 : start + 4]]
            return crc32(bytes((protocol,)) + b"".join(sorted(ends)), self._seed)
        if skb.protocol == 0x86DD and skb.tail - at >= 40:
            ends = [head[at + 8 : at + 24], head[at + 24 : at + 40]]
            if head[at + 6] in (6, 17, 132, 136) and skb.tail - at >= 44:
                ends = [ends[0] + head[at + 40 : at + 42], ends[1] + head[at + 42 : at + 44]]
            return crc32(head[at + 6 : at + 7] + b"".join(sorted(ends)), self._seed)
        ends = [head[skb.mac_header : skb.mac_header + 6], head[skb.mac_header + 6 : skb.mac_header + 12]]
        return crc32(skb.protocol.to_bytes(4, "big", signed=True) + b"".join(sorted(ends)), self._seed)

    def _roll_over(self, skb: SKBuff, at: int, try_self: bool) -> int:
        """Who has room for what member `at` has none for (Linux: fanout_demux_rollover)."""
        members = self.arr
        count = len(members)
        sk = members[at]
        own = sk.rollover
        if own is None:
            return at
        room = ROOM_NONE
        skip: PacketSock | None = None
        if try_self:
            room = _room(sk, skb)
            if room == ROOM_NORMAL or (room == ROOM_LOW and not self._huge(own, skb)):
                return at
            skip = sk
        start = index = min(own.last, count - 1)
        while True:
            following = members[index]
            if following is not skip and _room(following, skb) == ROOM_NORMAL:
                own.last = index
                own.moved += 1
                own.huge += room == ROOM_LOW
                return index
            index = (index + 1) % count
            if index == start:
                break
        own.failed += 1
        return at

    def _huge(self, own: Rollover, skb: SKBuff) -> bool:
        """Linux: fanout_flow_is_huge."""
        flow = self.flow(skb)
        seen = own.history.count(flow)
        own.history[self._random.randrange(HISTORY)] = flow
        return seen > HISTORY >> 1

    def _defrag(self, skb: SKBuff) -> SKBuff | None:
        """Put fragments together first (Linux: ip_check_defrag). None while there is a hole."""
        head = skb.head
        at = skb.data
        if skb.protocol != 0x0800 or skb.tail - at < ipv4.IP_HLEN or not (head[at + 6] & 0x3F or head[at + 7]):
            return skb
        hlen = (head[at] & 15) << 2
        size = int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at] >> 4 != 4 or hlen < ipv4.IP_HLEN or not hlen <= size <= skb.len:
            return skb
        copy = skb.clone()
        copy.trim(size)
        copy.network_header = copy.data
        copy.saddr = head[at + 12 : at + 16]
        copy.daddr = head[at + 16 : at + 20]
        copy.af = self._net.get(Ipv4Family)
        return self._net.get(Fragments).defrag(copy, IP_DEFRAG_AF_PACKET)


def _room(sk: PacketSock, skb: SKBuff) -> int:
    """Linux: __packet_rcv_has_room."""
    if sk.ring is not None:
        return sk.ring.room()
    left = sk.rcvbuf - sk.rmem_alloc - skb.truesize
    if left > sk.rcvbuf >> 2:
        return ROOM_NORMAL
    return ROOM_LOW if left > 0 else ROOM_NONE


@final
class Fanouts:
    """The groups of one namespace, by number."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.groups: dict[int, Fanout] = {}
        self._next: int = 0

    def join(self, sk: PacketSock, value: bytes) -> None:
        """PACKET_FANOUT: `struct fanout_args`, or its first four bytes (Linux: fanout_add).

        Raises OSError: EINVAL, EALREADY (it is in a group), ENOSPC (the group is full), ENOMEM (no number is free).
        """
        if len(value) not in (_INT.size, _ARGS.size):
            raise error(errno.EINVAL, f"PACKET_FANOUT: expected {_INT.size} or {_ARGS.size} bytes, not {len(value)}")
        number, type_flags, limit = _ARGS.unpack(value.ljust(_ARGS.size, b"\0"))
        kind = type_flags & 0xFF
        if kind > PACKET_FANOUT_EBPF:
            raise error(errno.EINVAL, f"PACKET_FANOUT: no type {kind}")
        if kind == PACKET_FANOUT_ROLLOVER and type_flags & PACKET_FANOUT_FLAG_ROLLOVER:
            raise error(errno.EINVAL, "PACKET_FANOUT: rollover can't roll over")
        if sk.fanout is not None:
            raise error(errno.EALREADY)
        if type_flags & PACKET_FANOUT_FLAG_UNIQUEID:
            if number:
                raise error(errno.EINVAL, "PACKET_FANOUT_FLAG_UNIQUEID: expected 0 as the group's number")
            number = self._free()
            type_flags &= ~PACKET_FANOUT_FLAG_UNIQUEID
        flags = type_flags >> 8
        group = self.groups.get(number)
        if sk.tap is None:
            raise error(errno.EINVAL, "PACKET_FANOUT: the socket receives nothing")
        if group is None:
            if limit > PACKET_FANOUT_MAX:
                raise error(errno.EINVAL, f"PACKET_FANOUT: expected at most {PACKET_FANOUT_MAX} members, not {limit}")
            group = Fanout(self._net, number, kind, flags, limit or DEFAULT_MEMBERS, sk)
        elif (
            group.flags != flags
            or group.kind != kind
            or (limit and limit != group.limit)
            or group.tap.protocol != sk.tap.protocol
            or group.tap.dev is not sk.tap.dev
        ):
            raise error(errno.EINVAL, f"PACKET_FANOUT: group {number} is another")
        if len(group.members) >= group.limit:
            raise error(errno.ENOSPC)
        self.groups[number] = group
        sk.types.remove_tap(sk.tap)
        sk.fanout = group
        if kind == PACKET_FANOUT_ROLLOVER or type_flags & PACKET_FANOUT_FLAG_ROLLOVER:
            sk.rollover = Rollover()
        group.members.add(sk)
        group.link(sk)

    def leave(self, sk: PacketSock) -> None:
        """The socket closes; it is shown nothing any more (Linux: fanout_release)."""
        group = sk.fanout
        if group is not None:
            sk.fanout = None
            group.members.discard(sk)
            if not group.members:
                del self.groups[group.id]

    def _free(self) -> int:
        for step in range(PACKET_FANOUT_MAX):
            number = (self._next + step) & 0xFFFF
            if number not in self.groups:
                self._next = (number + 1) & 0xFFFF
                return number
        raise error(errno.ENOMEM)


def set_data(sk: PacketSock, value: bytes) -> None:
    """PACKET_FANOUT_DATA: the program of a group that one decides (Linux: fanout_set_data).

    Raises OSError EINVAL: no group, another kind, or a bad program; eBPF there is none here. EPERM: SO_LOCK_FILTER.
    """
    group = sk.fanout
    if group is None or group.kind != PACKET_FANOUT_CBPF:
        raise error(errno.EINVAL, "PACKET_FANOUT_DATA: the socket is in no group that a program decides")
    if sk.sock_flags & SOCK_FILTER_LOCKED:
        raise error(errno.EPERM, "the socket's filter is locked")
    group.program = Program(value)
