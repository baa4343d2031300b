"""Marking a packet instead of dropping it, for what queues packets: qdiscs, and the links of a laboratory."""

from __future__ import annotations

from usernet.skbuff.skbuff import SKBuff
from usernet.wire.ecn import with_ce


def set_ce(skb: SKBuff, network_header: int) -> bool:
    """Mark the packet whose IP header is at `network_header` of its linear part. False where it is not ECN-capable:
    then it is unchanged, and whoever would mark it may drop it (Linux: INET_ECN_set_ce)."""
    change = with_ce(skb.head, network_header)
    if change is None:
        return False
    if change:
        skb.store(network_header, change)
    return True
