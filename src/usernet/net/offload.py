"""Segmentation and merging in software, by protocol (Linux: `struct packet_offload`, `struct net_offload`).

A network layer registers by EtherType, a transport by protocol number. The device layer asks the network layer, which
finds its header's end and asks the transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from usernet.core.native import mypyc_attr
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.net.pernet import Net
    from usernet.skbuff.rx_ring import RxRing


class Train:
    """A run of packets of one flow that are alike in all that may be: what a driver offers the next frame to, before it
    makes a packet of it.

    `count`: frames taken since it was settled last. `length`: bytes of each frame, where all are as long and are to be
    copied, so that they may be taken from a ring, else 0; `payload`: where in it the payload starts.
    """

    count: int = 0
    length: int = 0
    payload: int = 0

    def take(self, frame: bytes) -> bool:
        """Append `frame`, all that the driver read, if it is the next of the train."""
        raise NotImplementedError(f"{type(self).__name__} must define take()")

    def take_run(self, ring: RxRing) -> int:
        """Append the frames of `ring`, from `at` on, that are the next of the train; returns how many (0: not even the
        first). `at` is for the caller to move."""
        return 0

    def settle(self, statistics: Any, hard_header_len: int) -> None:
        """The train ends, for now: bring the packet that it was appended to, and the device's counters, up to date."""
        raise NotImplementedError(f"{type(self).__name__} must define settle()")


class LastingTrain(Train):
    """A train that outlives the packet that it appends to, for the next packets of the flow."""

    def resume(self, held: SKBuff, skb: SKBuff, payload: int) -> bool:
        """Append what follows to `held`, of which `skb`, its payload at `payload` of `head`, is the latest part. False
        where it is not what this train is made for."""
        raise NotImplementedError(f"{type(self).__name__} must define resume()")

    def release(self) -> None:
        """The packet that it was appended to goes up."""
        raise NotImplementedError(f"{type(self).__name__} must define release()")


@mypyc_attr(allow_interpreted_subclasses=True)
class Offload:
    """What a protocol does to split and to merge its packets."""

    def gso_segment(self, skb: SKBuff) -> list[SKBuff]:
        """Split a super-segment. `data` is at this protocol's header; the segments come with theirs filled in.

        Raises ValueError where the packet is not what its gso fields say.
        """
        raise NotImplementedError(f"{type(self).__name__} must define gso_segment()")

    def gso_frames(self, skb: SKBuff) -> list[bytes] | None:
        """What a super-segment, `data` at its link header, comes to on the wire, checksums filled in, for a device that
        takes plain frames; None where only `gso_segment` will do. `skb` is not changed."""
        return None

    def gro_flow(self, skb: SKBuff, offset: int) -> bytes | None:
        """The key of the flow in which the packet, whose header of this protocol is at `offset` of `head`, may be
        merged; None where it may not be merged at all."""
        return None

    def gro_merge(self, held: SKBuff, skb: SKBuff) -> bool:
        """Append `skb`, of the same flow, to `held`. False where it must not be: `held` is then passed up first."""
        return False

    def gro_follow(self, held: SKBuff, skb: SKBuff) -> bool:
        """As `gro_flow` and `gro_merge` in one, for the usual case: `skb`, with `data` at this network layer's header,
        is the very next of the flow of `held`. False where it is not, or not plainly so; nothing has changed then."""
        return False

    def gro_train(self, held: SKBuff, skb: SKBuff) -> Train | None:
        """What appends to `held` the frames that are like `skb`, which has just followed it, or is it; None where the
        protocol has no such thing, or `skb` is no model."""
        return None

    def gro_ack_flow(self, skb: SKBuff) -> bytes | None:
        """The key of the flow of a bare acknowledgement that may be held, with `data` at this network layer's header;
        None for anything else."""
        return None

    def gro_ack(self, held: SKBuff, skb: SKBuff) -> bool:
        """Whether the acknowledgement `skb` says all that `held` of its flow says and more; `held` then takes its bytes
        (Linux: tcp_add_backlog)."""
        return False

    def gro_ack_train(self, acks: dict[bytes, SKBuff], skb: SKBuff) -> Train | None:
        """What does likewise with frames, where they are laid out as that of `skb` was. acks: those that are held, by
        the keys of their flows."""
        return None

    def gro_complete(self, held: SKBuff) -> None:
        """Make the merged packet's header and gso fields right before it goes up."""


@final
class Offloads:
    """The offloads of one namespace: network layers by EtherType, transports by (EtherType, protocol number)."""

    def __init__(self, net: Net) -> None:
        self.packet: dict[int, Offload] = {}
        self.transport: dict[tuple[int, int], Offload] = {}
