"""A run of TCP segments of one flow that differ only in what must differ: the shortest way through GRO.

Once two packets have merged (gro.py), those of bulk data that follow are alike but for the identification, the sequence
number and the checksums. So the first of them serves as a model: a frame that is as long as it, equal in all else, and
next by both numbers, is appended without being made a packet first, and what is counted is counted for all at the end.
Anything else ends the train, and goes the ordinary way.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Train
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl
from usernet.skbuff.skbuff import CHECKSUM_NONE, SKB_OVERHEAD, SKBuff
from usernet.wire import checksum
from usernet.wire.checksum import words
from usernet.wire.ipv4 import IP_HLEN

if TYPE_CHECKING:
    from usernet.core.iov import Payload
    from usernet.netdevice.device import LinkStats

IPPROTO_TCP: Final = 6



@lru_cache(maxsize=64)
def _layout(network: int, seq: int, payload: int) -> Struct:
    """What `take` compares, of a frame with its IPv4 header at `network`, its TCP sequence number at `seq` and its
    payload at `payload`.

    All up to the total length, that, the identification, fragment bits, TTL and protocol, addresses and ports, the
    sequence number, all up to the checksum, and what is behind it.
    """
    return Struct(f"!{network + 2}sHH4s2x{seq - network - 12}sI8s2x{payload - seq - 14}s")


@final
class Ipv4Train(Train):
    """The train of one poll, behind `held`: TCP over IPv4. Only its payload is in `held` before `settle`."""

    __slots__ = (
        "_bytes", "_expected", "_frags", "_held", "_ident", "_least", "_most", "_mss", "_network", "_payload",
        "_pseudo", "_room", "_segs", "_seq", "_size", "_step", "_transport", "_unpack", "_verify", "count",
    )  # fmt: skip

    def __init__(self, held: SKBuff, skb: SKBuff, transport: int, payload: int) -> None:
        """skb: the packet last appended to `held`, the model: IPv4 without options, at `data` of `head`, and TCP, its
        header at `transport` and its payload at `payload`."""
        control: GroControl = held.cb
        head = skb.head
        network = skb.data
        seq = transport + 4
        self._held = held
        assert held.frags is not None
        self._frags: list[Payload] = held.frags
        self._network = network
        self._transport = transport
        self._payload = payload
        self._mss = control.mss
        # Behind a super-segment follow super-segments of any size, behind a single one single ones of the same.
        self._least = self._most = payload + control.mss
        if skb.gso_size:
            self._least += 1
            self._most = payload + GRO_MAX_SIZE
        self._unpack = _layout(network, seq, payload).unpack_from
        prefix, _, ident, fragment, addresses, number, numbers, options = self._unpack(head)
        self._expected = (prefix, fragment, addresses, numbers, options)
        self._step = 0 if control.fixed_id else 1
        self._ident = ident + self._step * (skb.gso_segs or 1) & 0xFFFF
        self._seq = number + len(head) - payload & 0xFFFFFFFF
        self._room = GRO_MAX_SIZE - held.len
        # Where nobody vouches for the model's checksum, each packet's is looked at.
        self._verify = skb.ip_summed == CHECKSUM_NONE
        self._pseudo = checksum.pseudo_sum(held.saddr, held.daddr, IPPROTO_TCP, 0)
        self._size = self._bytes = self._segs = 0
        self.count: int = 0
        """Packets taken."""

    def take(self, frame: bytes) -> bool:
        length = len(frame)
        size = length - self._payload
        if not self._least <= length <= self._most or size > self._room:
            return False
        segments, rest = divmod(size, self._mss)
        if rest:
            return False
        prefix, total, ident, fragment, addresses, seq, numbers, options = self._unpack(frame)
        network = self._network
        if (
            ident != self._ident
            or seq != self._seq
            or total != length - network
            or (prefix, fragment, addresses, numbers, options) != self._expected
            or words(frame[network : network + IP_HLEN]) % 0xFFFF
            or (self._verify and not self._sums_up(frame))
        ):
            return False
        self._frags.append(memoryview(frame)[self._payload :])
        self._ident = ident + self._step * segments & 0xFFFF
        self._seq = seq + size & 0xFFFFFFFF
        self._room -= size
        self._size += size
        self._bytes += length
        self._segs += segments
        self.count += 1
        return True

    def _sums_up(self, frame: bytes) -> bool:
        start = self._transport
        total = self._pseudo + len(frame) - start
        return checksum.csum_fold(checksum.csum(frame, start, len(frame), total)) == 0

    def settle(self, statistics: LinkStats, hard_header_len: int) -> None:
        count = self.count
        if not count:
            return
        self.count = 0
        size = self._size
        held = self._held
        held.len += size
        held.data_len += size
        held.truesize += self._bytes + count * SKB_OVERHEAD
        control: GroControl = held.cb
        control.next_seq = self._seq
        control.count += self._segs
        statistics.rx_packets += self._segs
        statistics.rx_bytes += self._bytes - count * (self._network - hard_header_len)
