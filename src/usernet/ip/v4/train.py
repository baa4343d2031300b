"""A run of TCP segments of one flow that differ only in what must differ: the shortest way through GRO.

Once two packets have merged (gro.py), those of bulk data that follow are alike but for the identification, the sequence
number and the checksums. So the first of them serves as a model: a frame that is as long as it, equal in all else, and
next by both numbers, is appended without being made a packet first, and what is counted is counted for all at the end.
Anything else ends the train, and goes the ordinary way. Frames that are read into a ring (skbuff/rx_ring.py) are taken
many at a time, without ever becoming objects of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Train
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl
from usernet.skbuff.skbuff import CHECKSUM_NONE, SKB_OVERHEAD, SKBuff
from usernet.wire import ipv4, tcp
from usernet.wire.tcp import PSH
from usernet.wire.tcp_ipv4_run import Model

if TYPE_CHECKING:
    from usernet.core.iov import Payload
    from usernet.netdevice.statistics import LinkStats
    from usernet.skbuff.rx_ring import RxRing

SMALL: Final = 4096
"""Up to so many bytes a payload is copied out of its frame, and those of a train are joined: less than a view of it
costs, and one piece costs the reader less than many."""

TRUSTED: Final = 65536
"""Frames of a ring in a row whose checksums were right, from which on those of a run are added up (`Model.sums`).

One wrong frame is found by the sum of all as surely as by its own. Two in a run are missed where their errors cancel
each other out. Of random errors that is one pair in 65,536, as often as each of the two is missed by its own checksum.
But of single flipped bits, which a checksum of one frame never misses, it is one pair in 32; hence this bound. Where p
of all frames have a flipped bit, some 2 p² pass in runs of 64, while they are added up: exp(-65536 p) of the time. That
is at most three quarters of p / 65,536, what passes of as many random errors, which TCP has always had to live with.
"""


@final
class Ipv4Train(Train):
    """The train behind `held`: single frames of TCP over IPv4. They are in `held` from `settle` on."""

    __slots__ = (
        "_frags", "_held", "_ident", "_model", "_mss", "_network", "_parts", "_room", "_seq", "_size", "_step",
        "_verify", "count", "length", "payload",
    )  # fmt: skip

    def __init__(self, held: SKBuff, skb: SKBuff, transport: int, payload: int) -> None:
        """skb: the packet last appended to `held`, or `held` itself where it is the first. It is the model: IPv4
        without options, at `data` of `head`, and TCP, its header at `transport` and its payload at `payload`."""
        control: GroControl = held.cb
        head = skb.head
        network = skb.data
        self._held = held
        self._frags: list[Payload] = held.frags if held.frags is not None else []
        self._parts: list[bytes] = []
        self._network = network
        self._mss = control.mss
        self._size = payload + control.mss
        self.length: int = self._size if control.mss <= SMALL else 0
        self.payload: int = payload
        self._model = Model(head, network, payload)
        # Of the first nobody knows yet whether its sender counts; one that does not ends this train.
        self._step = 0 if control.fixed_id else 1
        self._ident = ipv4.parse(head, network)[3] + self._step & 0xFFFF
        self._seq = tcp.parse(head, transport)[2] + len(head) - payload & 0xFFFFFFFF
        self._room = (GRO_MAX_SIZE - held.len) // control.mss
        # Where the device doesn't vouch for the model's checksum, each packet's is looked at. The first one's has been
        # looked at by now, and no longer tells.
        self._verify = skb is held or skb.ip_summed == CHECKSUM_NONE
        self.count: int = 0

    def take(self, frame: bytes) -> bool:
        seq = self._seq
        if (
            len(frame) != self._size
            or self.count >= self._room
            or not self._model.follows(frame, self._ident, seq)
            or (self._verify and not self._model.sums_up(frame, seq))
        ):
            return False
        if self.length:
            self._parts.append(frame[self.payload :])
        else:
            self._frags.append(memoryview(frame)[self.payload :])
        self._ident = self._ident + self._step & 0xFFFF
        self._seq = seq + self._mss & 0xFFFFFFFF
        self.count += 1
        return True

    def take_run(self, ring: RxRing) -> int:
        start = ring.at
        count = min(ring.count - start, self._room - self.count)
        if ring.length != self.length or ring.payload != self.payload or count <= 0:
            return 0
        model = self._model
        size = self._mss
        seq = self._seq
        headers = ring.headers(start, start + count)
        count = model.followers(headers, count, self._ident, self._step, seq, size)
        if not count:
            return 0
        payloads = ring.payloads(start, start + count)
        closed = model.pushed
        if self._verify:
            right = model.sums(headers, payloads, count, seq, size, ring.clean >= TRUSTED)
            ring.clean += right
            if right < count:
                ring.clean = 0
                if not right:
                    return 0
                closed = False
                count = right
                payloads = payloads[: count * size]
        self._join()
        self._frags.append(payloads)
        self._ident = self._ident + self._step * count & 0xFFFF
        self._seq = seq + count * size & 0xFFFFFFFF
        self.count += count
        if closed:
            control: GroControl = self._held.cb
            control.flags |= PSH
            control.closed = True
            self._room = self.length = 0
        return count

    def _join(self) -> None:
        """Make one piece of the payloads that were copied one by one."""
        if self._parts:
            self._frags.append(b"".join(self._parts))
            self._parts.clear()

    def settle(self, statistics: LinkStats, hard_header_len: int) -> None:
        count = self.count
        if not count:
            return
        self.count = 0
        self._room -= count
        self._join()
        size = count * self._mss
        held = self._held
        held.frags = self._frags
        held.len += size
        held.data_len += size
        held.truesize += count * (self._size + SKB_OVERHEAD)
        control: GroControl = held.cb
        control.next_seq = self._seq
        control.count += count
        statistics.rx_packets += count
        statistics.rx_bytes += count * (self._size - self._network + hard_header_len)
