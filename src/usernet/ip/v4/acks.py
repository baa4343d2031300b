"""Bare acknowledgements of TCP over IPv4 that arrive in one poll: of each flow the last one says it all.

Who sends in bulk gets them by the hundred. The next of a flow takes the place of the one that is held (gro.py) where it
acknowledges more and says the same in all else, of windows and time stamps excepted: what the older one says of those
is out of date. `Ipv4AckTrain` sees that by the frame, before a packet is made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.offload import Train
from usernet.netdevice.gro import checksum_ok
from usernet.skbuff.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKBuff
from usernet.wire.checksum import csum, csum_fold, pseudo_sum, words
from usernet.wire.ipv4 import IP_HLEN, IP_MF, IP_OFFSET
from usernet.wire.tcp import ACK
from usernet.wire.tcp_ipv4 import IPPROTO_TCP

if TYPE_CHECKING:
    from usernet.netdevice.statistics import LinkStats

SIMPLE_HEADER: Final = 0x45
"""Version 4 and five words: without options."""

_TSTAMP: Final = b"\1\1\x08\x0a"
"""How the options of a segment with a time stamp and no more start: two NOPs, kind 8, length 10."""

_from_bytes: Final = int.from_bytes


def ack_flow(skb: SKBuff) -> bytes | None:
    """The flow (addresses and ports as they stand) of a bare acknowledgement, `data` at its IPv4 header; None for what
    is anything else: options or fragments of IPv4, another flag than ACK, a payload, a wrong checksum."""
    head = skb.head
    at = skb.data
    if (
        skb.len < 40
        or skb.data_len
        or head[at] != SIMPLE_HEADER
        or head[at + 9] != IPPROTO_TCP
        or head[at + 33] != ACK
        or not _from_bytes(head[at + 2 : at + 4], "big") == skb.len == IP_HLEN + (head[at + 32] >> 4) * 4
        or (head[at + 6] << 8 | head[at + 7]) & (IP_MF | IP_OFFSET)
        or not _sums_up(skb)
    ):
        return None
    return head[at + 12 : at + 24]


def merge_ack(held: SKBuff, skb: SKBuff) -> bool:
    """Have `skb`, a bare acknowledgement of the flow of `held`, take its place. False where each says something."""
    head = skb.head
    at = skb.data
    if skb.len != held.len or not _supersedes(held.head, held.data, head, at, skb.len):
        return False
    held.head = head
    held.data = held.network_header = at
    held.mac_header = skb.mac_header
    held.tail = skb.tail
    held.transport_header = skb.transport_header
    held.csum_start = skb.csum_start
    held.ip_summed = skb.ip_summed
    held.gso_segs = (held.gso_segs or 1) + 1
    return True


def _sums_up(skb: SKBuff) -> bool:
    """Whether the checksums of an acknowledgement are right: a broken one must not take the place of a good one."""
    head = skb.head
    at = skb.data
    if words(head[at : at + IP_HLEN]) % 0xFFFF:
        return False
    if skb.ip_summed == CHECKSUM_NONE:
        skb.saddr = head[at + 12 : at + 16]
        skb.daddr = head[at + 16 : at + 20]
        if not checksum_ok(skb, at + IP_HLEN, IPPROTO_TCP):
            return False
        skb.ip_summed = CHECKSUM_UNNECESSARY
    return True


def _supersedes(old: bytes, start: int, new: bytes, at: int, size: int) -> bool:
    """Whether an acknowledgement of `size` bytes, its IPv4 header at `at` of `new`, says all that the one at `start` of
    `old` does, which is of the same flow and as long, and more. A duplicate says something of its own, and so does a
    SACK."""
    if (
        # Version, length, our next sequence number, and flags are the same; so are the kinds of options …
        old[start : start + 4] != new[at : at + 4]
        or old[start + 6 : start + 10] != new[at + 6 : at + 10]
        or old[start + 24 : start + 28] != new[at + 24 : at + 28]
        or old[start + 32 : start + 34] != new[at + 32 : at + 34]
    ):
        return False
    # … and it acknowledges more.
    before = _from_bytes(old[start + 28 : start + 32], "big")
    if not 0 < _from_bytes(new[at + 28 : at + 32], "big") - before < 1 << 31:
        return False
    if size == 40 or old[start + 40 : start + size] == new[at + 40 : at + size]:
        return True
    if size != 52 or new[at + 40 : at + 44] != _TSTAMP or old[start + 40 : start + 44] != _TSTAMP:
        return False
    earlier = _from_bytes(old[start + 44 : start + 48], "big")
    return not _from_bytes(new[at + 44 : at + 48], "big") - earlier & 0x80000000


@final
class Ipv4AckTrain(Train):
    """Takes the acknowledgements of all flows that one is held of."""

    __slots__ = ("_acks", "_bytes", "_network", "count")

    def __init__(self, acks: dict[bytes, SKBuff], network: int) -> None:
        """acks: what is held, by flow. network: where the IPv4 header is in a frame."""
        self._acks = acks
        self._network = network
        self._bytes = 0
        self.count: int = 0
        """Packets taken since the last `settle`."""

    def take(self, frame: bytes) -> bool:
        at = self._network
        held = self._acks.get(frame[at + 12 : at + 24])
        if held is None or held.data != at:
            return False
        old = held.head
        size = len(frame)
        if (
            len(old) != size
            or held.tail != size
            # What the device says of it, and the link header.
            or old[:at] != frame[:at]
            or not _supersedes(old, at, frame, at, size - at)
            or words(frame[at : at + IP_HLEN]) % 0xFFFF
            or (held.ip_summed != CHECKSUM_PARTIAL and not self._transport_sums_up(frame))
        ):
            return False
        held.head = frame
        held.gso_segs = (held.gso_segs or 1) + 1
        self.count += 1
        self._bytes += size
        return True

    def _transport_sums_up(self, frame: bytes) -> bool:
        at = self._network
        start = at + IP_HLEN
        size = len(frame)
        total = pseudo_sum(frame[at + 12 : at + 16], frame[at + 16 : start], IPPROTO_TCP, size - start)
        return csum_fold(csum(frame, start, size, total)) == 0

    def settle(self, statistics: LinkStats, hard_header_len: int) -> None:
        count = self.count
        if count:
            statistics.rx_packets += count
            statistics.rx_bytes += self._bytes - count * (self._network - hard_header_len)
            self.count = self._bytes = 0
