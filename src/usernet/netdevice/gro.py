"""Generic receive offload: what arrives in one poll, in order, of one flow goes up as one packet (Linux: gro.c).

For devices that can't merge by themselves. Nothing is held beyond the poll that received it, so nothing waits. How
packets of a protocol merge is the protocol's business (net/offload); what merging must never do is change their order
within a flow, or lose what a receiver could tell from the packets one by one: splitting the merged packet again gives
the same packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Offload, Offloads, Train
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum

if TYPE_CHECKING:
    from usernet.core.iov import Payload

MAX_GRO_FLOWS: Final = 64
"""Flows held at a time; when it is full the oldest goes up (Linux: 8 buckets of MAX_GRO_SKBS 8)."""

GRO_MAX_SIZE: Final = 524280
"""Bytes of a merged packet, from its network header on (Linux: GRO_MAX_SIZE, 8 * 65535). One above 65,535 bytes has an
IPv4 total length of 0, as Linux's BIG TCP has it, and its true length is the packet's."""

SMALLEST_WORTHWHILE: Final = 96
"""Bytes below which a packet that finds nothing held is not looked at: it is an acknowledgement, or as good as one."""


@final
class GroControl:
    """What merging knows of a packet, in `skb.cb` while GRO has it (Linux: NAPI_GRO_CB).

    Of the network layer: `network`, what must be equal in all packets that merge; `ident`, the IPv4 identification,
    and whether it stays the same (`fixed_id`). Of the transport: `same`, likewise what must be equal; `seq`, its first
    sequence number, and `next_seq`, the one that must follow; `flags`, gathered; `start`, where its payload starts,
    from `data`, and `ports`, where its header starts in `head`; `size`, its payload bytes, and `mss`, those of
    a packet on the wire; `closed`: nothing may be appended. `count`: packets so far, `first` of them in the first
    one, which may be a super-segment of the device's.
    """

    __slots__ = (
        "closed", "count", "first", "fixed_id", "flags", "ident", "mss", "network", "next_seq", "ports", "same", "seq",
        "size", "start", "transport",
    )  # fmt: skip

    network: int
    ident: int
    fixed_id: bool
    transport: Offload
    same: object
    seq: int
    next_seq: int
    flags: int
    start: int
    mss: int
    ports: int
    size: int
    closed: bool
    count: int
    first: int


def append_payload(held: SKBuff, skb: SKBuff, start: int, size: int) -> None:
    """Append to `held`, by reference, what `skb` has behind byte `start` from its `data`, `size` bytes (Linux:
    skb_gro_receive)."""
    parts: list[Payload] = (
        skb.slice(start, skb.len) if skb.data_len else [memoryview(skb.head)[skb.data + start : skb.tail]]
    )
    if held.frags is None:
        held.frags = parts
    else:
        held.frags += parts
    held.len += size
    held.data_len += size
    held.truesize += skb.truesize


def checksum_ok(skb: SKBuff, offset: int, protocol: int) -> bool:
    """Whether the transport's packet at `offset` of `head` sums to what its checksum says; `saddr` and `daddr` are set
    (Linux: skb_gro_checksum_validate)."""
    total = checksum.pseudo_sum(skb.saddr, skb.daddr, protocol, skb.len - (offset - skb.data))
    total = checksum.csum(skb.head, offset, skb.tail, total)
    position = skb.tail - offset
    for frag in skb.frags or ():
        total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), position)
        position += len(frag)
    return checksum.csum_fold(total) == 0


@final
class Gro:
    """The merging of one device's poll. `held` maps a flow's key to the packet held for it."""

    __slots__ = ("_last", "_last_offload", "_offloads", "ack", "followed", "held")

    def __init__(self, net: Net) -> None:
        self._offloads = net.get(Offloads)
        self.held: dict[bytes, tuple[SKBuff, Offload]] = {}
        self.ack: SKBuff | None = None
        """A bare acknowledgement, which the next one of its flow makes needless. Held only while nothing else is."""
        # What was held last, and its network layer: the next packet is most often of the same flow.
        self.followed: bool = False
        """The packet just received was the very next of what is held: it may be the model of a train."""
        self._last: SKBuff | None = None
        self._last_offload: Offload | None = None

    def receive(self, skb: SKBuff) -> Sequence[SKBuff]:
        """Take a packet whose link header has been read; returns what is to go up now, in order."""
        ack = self.ack
        if ack is not None:
            if skb.protocol == ack.protocol and self._offloads.packet[ack.protocol].gro_ack(ack, skb):
                return ()
            self.ack = None
            return [ack, *self._receive(skb)]
        return self._receive(skb)

    def _receive(self, skb: SKBuff) -> Sequence[SKBuff]:
        held = self.held
        last = self._last
        if last is not None and last.protocol == skb.protocol:
            assert self._last_offload is not None
            if self._last_offload.gro_follow(last, skb):
                self.followed = True
                return ()
        offload = self._offloads.packet.get(skb.protocol)
        if not held and skb.len < SMALLEST_WORTHWHILE:
            if offload is not None and offload.gro_ack(None, skb):
                self.ack = skb
                return ()
            return (skb,)
        key = offload.gro_flow(skb, skb.data) if offload is not None else None
        if key is None or offload is None:
            # It may belong to a flow that is held (a FIN, a reset): order within the flow must hold.
            return [*self.flush(), skb] if held else (skb,)
        self._last = skb
        self._last_offload = offload
        entry = held.get(key)
        if entry is not None:
            if offload.gro_merge(entry[0], skb):
                self._last = entry[0]
                return ()
            del held[key]
            held[key] = (skb, offload)
            entry[1].gro_complete(entry[0])
            return (entry[0],)
        held[key] = (skb, offload)
        if len(held) > MAX_GRO_FLOWS:
            first = next(iter(held))
            oldest, its_offload = held.pop(first)
            its_offload.gro_complete(oldest)
            return (oldest,)
        return ()

    def train(self, skb: SKBuff) -> Train | None:
        """A train behind `skb`, which has just followed what is held; None where it can't be a model."""
        last = self._last
        if last is None or self._last_offload is None:
            return None
        return self._last_offload.gro_train(last, skb)

    def flush(self) -> list[SKBuff]:
        """All that is held, to go up."""
        packets: list[SKBuff] = []
        if self.ack is not None:
            packets.append(self.ack)
            self.ack = None
        for skb, offload in self.held.values():
            offload.gro_complete(skb)
            packets.append(skb)
        self.held.clear()
        self._last = None
        self.followed = False
        return packets
