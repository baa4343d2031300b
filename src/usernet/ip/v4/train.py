"""A run of TCP segments of one flow that differ only in what must differ: the shortest way through GRO.

Once two packets have merged (gro.py), those of bulk data that follow are alike but for the identification, the sequence
number and the checksums. So the first of them serves as a model: a frame that is as long as it, equal in all else, and
next by both numbers, is appended without being made a packet first, and what is counted is counted for all at the end.
Anything else ends the train, and goes the ordinary way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Train
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl
from usernet.skbuff.skbuff import CHECKSUM_NONE, SKB_OVERHEAD, SKBuff
from usernet.wire import ipv4, tcp
from usernet.wire.tcp_ipv4 import IPPROTO_TCP as IPPROTO_TCP
from usernet.wire.tcp_ipv4 import Model

if TYPE_CHECKING:
    from usernet.core.iov import Payload
    from usernet.netdevice.statistics import LinkStats

SMALL: Final = 4096
"""Up to so many bytes a payload is copied out of its frame, and those of a train are joined: less than a view of it
costs, and one piece costs the reader less than many."""


@final
class Ipv4Train(Train):
    """The train of one poll, behind `held`: TCP over IPv4. Only its payload is in `held` before `settle`, and that only
    where it is not small."""

    __slots__ = (
        "_bytes", "_frags", "_held", "_ident", "_least", "_model", "_most", "_mss", "_network", "_parts", "_payload",
        "_room", "_segs", "_seq", "_size", "_small", "_step", "_verify", "count",
    )  # fmt: skip

    def __init__(self, held: SKBuff, skb: SKBuff, transport: int, payload: int) -> None:
        """skb: the packet last appended to `held`, the model: IPv4 without options, at `data` of `head`, and TCP, its
        header at `transport` and its payload at `payload`."""
        control: GroControl = held.cb
        head = skb.head
        network = skb.data
        self._held = held
        assert held.frags is not None
        self._frags: list[Payload] = held.frags
        self._parts: list[bytes] = []
        self._network = network
        self._payload = payload
        self._mss = control.mss
        self._small = control.mss <= SMALL and not skb.gso_size
        # Behind a super-segment follow super-segments of any size, behind a single one single ones of the same.
        self._least = self._most = payload + control.mss
        if skb.gso_size:
            self._least += 1
            self._most = payload + GRO_MAX_SIZE
        self._model = Model(head, network, payload)
        self._step = 0 if control.fixed_id else 1
        self._ident = ipv4.parse(head, network)[3] + self._step * (skb.gso_segs or 1) & 0xFFFF
        self._seq = tcp.parse(head, transport)[2] + len(head) - payload & 0xFFFFFFFF
        self._room = GRO_MAX_SIZE - held.len
        # Where nobody vouches for the model's checksum, each packet's is looked at.
        self._verify = skb.ip_summed == CHECKSUM_NONE
        self._size = self._bytes = self._segs = 0
        self.count: int = 0
        """Packets taken."""

    def take(self, frame: bytes) -> bool:
        length = len(frame)
        size = length - self._payload
        if not self._least <= length <= self._most or size > self._room:
            return False
        segments = size // self._mss
        seq = self._seq
        if (
            segments * self._mss != size
            or not self._model.follows(frame, self._ident, seq)
            or (self._verify and not self._model.sums_up(frame, seq))
        ):
            return False
        if self._small:
            self._parts.append(frame[self._payload :])
        else:
            self._frags.append(memoryview(frame)[self._payload :])
        self._ident = self._ident + self._step * segments & 0xFFFF
        self._seq = seq + size & 0xFFFFFFFF
        self._room -= size
        self._size += size
        self._bytes += length
        self._segs += segments
        self.count += 1
        return True

    def settle(self, statistics: LinkStats, hard_header_len: int) -> None:
        count = self.count
        if not count:
            return
        self.count = 0
        size = self._size
        held = self._held
        if self._parts:
            self._frags.append(b"".join(self._parts))
        held.len += size
        held.data_len += size
        held.truesize += self._bytes + count * SKB_OVERHEAD
        control: GroControl = held.cb
        control.next_seq = self._seq
        control.count += self._segs
        statistics.rx_packets += self._segs
        statistics.rx_bytes += self._bytes - count * (self._network - hard_header_len)
