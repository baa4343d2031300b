"""Generic receive offload: what arrives in one poll, in order, of one flow goes up as one packet (Linux: gro.c).

For devices that can't merge by themselves. Nothing is held beyond the poll that received it, so nothing waits; but for
a run of plain frames that a poll's budget ends in the middle of, which the next one goes on with (napi.py). How
packets of a protocol merge is the protocol's business (net/offload); what merging must never do is change their order
within a flow, or lose what a receiver could tell from the packets one by one: splitting the merged packet again gives
the same packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import LastingTrain, Offload, Offloads, Train
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
    one, which may be a super-segment of the device's. `train`: the flow's, where it has one.
    """

    __slots__ = (
        "closed", "count", "first", "fixed_id", "flags", "ident", "mss", "network", "next_seq", "ports", "same", "seq",
        "size", "start", "train", "transport",
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
    train: LastingTrain | None


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

    __slots__ = ("_ack_train", "_last", "_last_offload", "_offloads", "_trains", "acks", "held", "train")

    def __init__(self, net: Net) -> None:
        self._offloads = net.get(Offloads)
        self.held: dict[bytes, tuple[SKBuff, Offload]] = {}
        self.acks: dict[bytes, SKBuff] = {}
        """Bare acknowledgements by flow, each of which the next one makes needless, at most MAX_GRO_FLOWS. Held only
        while nothing else is."""
        self._ack_train: Train | None = None
        self.train: Train | None = None
        """What takes the frames that are like the packet just received, where there is such a thing."""
        self._trains: dict[bytes, LastingTrain] = {}
        """Those of flows of which nothing is held now, at most MAX_GRO_FLOWS: the oldest first."""
        # What was held last, and its network layer: the next packet is most often of the same flow.
        self._last: SKBuff | None = None
        self._last_offload: Offload | None = None

    def receive(self, skb: SKBuff) -> Sequence[SKBuff]:
        """Take a packet whose link header has been read; returns what is to go up now, in order."""
        self.train = None
        if not self.held and skb.len < SMALLEST_WORTHWHILE:
            return self._receive_ack(skb)
        if self.acks:
            return [*self._flush_acks(), *self._receive(skb)]
        return self._receive(skb)

    def _receive_ack(self, skb: SKBuff) -> Sequence[SKBuff]:
        """A packet so small that it may be a bare acknowledgement."""
        offload = self._offloads.packet.get(skb.protocol)
        key = offload.gro_ack_flow(skb) if offload is not None else None
        acks = self.acks
        if key is None or offload is None:
            return [*self._flush_acks(), skb] if acks else (skb,)
        if self._ack_train is None:
            self._ack_train = offload.gro_ack_train(acks, skb)
        self.train = self._ack_train
        held = acks.get(key)
        if held is None:
            if len(acks) >= MAX_GRO_FLOWS:
                oldest = acks.pop(next(iter(acks)))
                acks[key] = skb
                return (oldest,)
            acks[key] = skb
            return ()
        if offload.gro_ack(held, skb):
            return ()
        acks[key] = skb
        return (held,)

    def _flush_acks(self) -> list[SKBuff]:
        packets = list(self.acks.values())
        self.acks.clear()
        return packets

    def _receive(self, skb: SKBuff) -> Sequence[SKBuff]:
        held = self.held
        last = self._last
        if last is not None and last.protocol == skb.protocol:
            assert self._last_offload is not None
            if self._last_offload.gro_follow(last, skb):
                self.train = self._last_offload.gro_train(last, skb)
                return ()
        offload = self._offloads.packet.get(skb.protocol)
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
                if skb.gso_size:
                    self.train = offload.gro_train(entry[0], skb)
                return ()
            del held[key]
            self._complete(key, *entry)
        held[key] = (skb, offload)
        train = self._trains.pop(key, None)
        if train is not None:
            control: GroControl = skb.cb
            control.train = train
            self.train = offload.gro_train(skb, skb)
        if entry is not None:
            return (entry[0],)
        if len(held) > MAX_GRO_FLOWS:
            oldest = next(iter(held))
            its_skb, its_offload = held.pop(oldest)
            self._complete(oldest, its_skb, its_offload)
            return (its_skb,)
        return ()

    def _complete(self, key: bytes, skb: SKBuff, offload: Offload) -> None:
        """What is held of a flow is to go up; its train waits for more."""
        control: GroControl = skb.cb
        train = control.train
        if train is not None:
            train.release()
            trains = self._trains
            if len(trains) >= MAX_GRO_FLOWS:
                del trains[next(iter(trains))]
            trains[key] = train
        offload.gro_complete(skb)

    def first_train(self) -> Train | None:
        """A train behind the packet held last, to which nothing has been appended yet; None where something has, or it
        can't be a model."""
        last = self._last
        if last is None or self._last_offload is None:
            return None
        control: GroControl = last.cb
        return self._last_offload.gro_train(last, last) if control.count == control.first else None

    def flush(self) -> list[SKBuff]:
        """All that is held, to go up."""
        packets = self._flush_acks()
        for key, (skb, offload) in self.held.items():
            self._complete(key, skb, offload)
            packets.append(skb)
        self.held.clear()
        self._last = None
        self.train = None
        return packets
