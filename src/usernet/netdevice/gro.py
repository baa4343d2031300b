"""Generic receive offload: what arrives in one poll, in order, of one flow goes up as one packet (Linux: gro.c).

For devices that can't merge by themselves. Nothing is held beyond the poll that received it, so nothing waits. How
packets of a protocol merge is the protocol's business (net/offload).
"""

from __future__ import annotations

from typing import Final, final

from usernet.net.offload import Offload, Offloads
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff

MAX_GRO_FLOWS: Final = 64
"""Flows held at a time; when it is full the oldest goes up (Linux: 8 buckets of MAX_GRO_SKBS 8)."""


@final
class Gro:
    """The merging of one device's poll. `held` maps a flow's key to the packet held for it."""

    __slots__ = ("_offloads", "held")

    def __init__(self, net: Net) -> None:
        self._offloads = net.get(Offloads)
        self.held: dict[bytes, tuple[SKBuff, Offload]] = {}

    def receive(self, skb: SKBuff) -> list[SKBuff]:
        """Take a packet whose link header has been read; returns what is to go up now, in order."""
        offload = self._offloads.packet.get(skb.protocol)
        key = offload.gro_flow(skb, skb.data) if offload is not None else None
        if key is None or offload is None:
            # It may belong to a flow that is held (a FIN, a reset): order within the flow must hold.
            return [*self.flush(), skb] if self.held else [skb]
        entry = self.held.get(key)
        if entry is not None:
            if offload.gro_merge(entry[0], skb):
                return []
            del self.held[key]
            self.held[key] = (skb, offload)
            entry[1].gro_complete(entry[0])
            return [entry[0]]
        self.held[key] = (skb, offload)
        if len(self.held) > MAX_GRO_FLOWS:
            first = next(iter(self.held))
            oldest, its_offload = self.held.pop(first)
            its_offload.gro_complete(oldest)
            return [oldest]
        return []

    def flush(self) -> list[SKBuff]:
        """All that is held, to go up."""
        packets: list[SKBuff] = []
        for skb, offload in self.held.values():
            offload.gro_complete(skb)
            packets.append(skb)
        self.held.clear()
        return packets
