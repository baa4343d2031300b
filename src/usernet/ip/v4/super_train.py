"""A run of a device's super-segments of one TCP flow: as train.py, for a device that merges.

Super-segments are of any size, and single segments come between them, whose virtio-net header is another: of each kind
there is a model. What follows the flow the ordinary way becomes one, and the train goes on behind it. It outlives the
packet that it appends to, for the next of the flow are alike, in this poll and those to come: gro.py keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.net.offload import LastingTrain
from usernet.netdevice.gro import GRO_MAX_SIZE, GroControl
from usernet.skbuff.skbuff import CHECKSUM_NONE, SKB_OVERHEAD, SKBuff
from usernet.wire.ipv4 import IP_HLEN
from usernet.wire.ipv4 import parse as _parse
from usernet.wire.tcp import PSH
from usernet.wire.tcp_ipv4_run import Model

if TYPE_CHECKING:
    from usernet.core.iov import Payload
    from usernet.netdevice.statistics import LinkStats


@final
class Ipv4SuperTrain(LastingTrain):
    """The train of one flow: TCP over IPv4. What it takes is in the held packet from `settle` on."""

    __slots__ = (
        "_bytes", "_frags", "_held", "_ident", "_mss", "_network", "_payload", "_push", "_room", "_segs", "_seq",
        "_single", "_size", "_step", "_super", "_verify", "count",
    )  # fmt: skip

    def __init__(self, network: int, payload: int, mss: int) -> None:
        """network, payload: where the IPv4 header and the payload are in its frames."""
        self._network = network
        self._payload = payload
        self._mss = mss
        self._held: SKBuff | None = None
        self._frags: list[Payload] = []
        self._super: Model | None = None
        self._push: int = 0
        """Of super-segments. A single one that has it ends what is held, and is no model."""
        self._single: Model | None = None
        self._step: int = 1
        self._ident = self._seq = self._room = 0
        self._verify: bool = False
        self._size = self._bytes = self._segs = 0
        self.count: int = 0
        """Packets taken since the last `settle`."""

    def resume(self, held: SKBuff, skb: SKBuff, payload: int) -> bool:
        control: GroControl = held.cb
        head = skb.head
        network = skb.data
        if network != self._network or payload != self._payload or control.mss != self._mss:
            return False
        model = self._super if skb.gso_size else self._single
        if model is None or not model.like(head):
            model = Model(head, network, payload)
            if held is skb:
                # What was known before is of no use any more.
                self._super = self._single = None
                self._step = 1
            if skb.gso_size:
                self._super = model
                self._push = head[network + IP_HLEN + 13] & PSH
            else:
                self._single = model
        # Where nobody vouches for a model's checksum, each packet's is looked at.
        self._verify = self._verify or skb.ip_summed == CHECKSUM_NONE
        if control.count > control.first:
            self._step = 0 if control.fixed_id else 1
        self._held = held
        self._ident = _parse(head, network)[3] + self._step * (skb.gso_segs or 1) & 0xFFFF
        self._seq = control.next_seq
        self._room = GRO_MAX_SIZE - held.len
        return True

    def take(self, frame: bytes) -> bool:
        payload = self._payload
        length = len(frame)
        size = length - payload
        mss = self._mss
        segments = size // mss
        model = self._super if segments > 1 else self._single
        seq = self._seq
        if (
            model is None
            or segments < 1
            or segments * mss != size
            or size > self._room
            or not model.follows(frame, self._ident, seq)
            or (self._verify and not model.sums_up(frame, seq))
        ):
            return False
        self._frags.append(memoryview(frame)[payload:])
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
        held = self._held
        if not count or held is None:
            return
        frags = self._frags
        size = self._size
        held.frags = frags if held.frags is None else held.frags + frags
        held.len += size
        held.data_len += size
        held.truesize += self._bytes + count * SKB_OVERHEAD
        control: GroControl = held.cb
        control.next_seq = self._seq
        control.count += self._segs
        control.fixed_id = not self._step
        if self._segs > count:
            control.flags |= self._push
        statistics.rx_packets += self._segs
        statistics.rx_bytes += self._bytes - count * (self._network - hard_header_len)
        self._frags = []
        self._size = self._bytes = self._segs = self.count = 0

    def release(self) -> None:
        self._held = None
