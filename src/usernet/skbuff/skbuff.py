"""The socket buffer: one packet with its headers, its payload and what is known of it (Linux: `struct sk_buff`).

Linear part and fragments
    ::

        head   |....headroom....|##### linear, len - data_len #####|..tailroom..|    frags[0]  frags[1]  …
               0                data                               tail              (data_len bytes in all)

    `head` is `bytes` and so never changes under anyone: clones, taps and retransmit queues share it with no copy and no
    reference count, and writing replaces it (`store`, `push_header`). `pull` and `trim` move offsets. `push` gives back
    what was pulled, which is how a forwarded or captured packet regains its link header. A received packet is all
    linear, just as the driver read it. A sent packet's linear part holds its headers only, put in front of one another
    by `push_header`; its payload is `frags`, by reference to what the application gave. Fragments are never written to.

Checksums (`ip_summed`), the offload contract, as in Linux's skbuff.h
    Received packets:
        CHECKSUM_NONE         nobody has looked; the protocol must verify.
        CHECKSUM_UNNECESSARY  the device (or a peer in memory) vouches for the transport checksum; don't verify.
        CHECKSUM_COMPLETE     `csum` is the sum over all from `data` on; the protocol adds the pseudo header's and
                              compares.
        CHECKSUM_PARTIAL      the packet comes from a sender on this machine who left the checksum to the device; it is
                              good, and need not be verified; should it leave by another device, that one fills it in.
    Sent packets:
        CHECKSUM_NONE         all is filled in already.
        CHECKSUM_PARTIAL      the transport checksum field holds the folded, not complemented, pseudo-header sum;
                              whoever sends it must sum from `csum_start` (an offset in `head`, counted like the
                              header offsets) to the end and store the result `csum_offset` bytes behind
                              `csum_start`. A device with NETIF_F_HW_CSUM gets the packet so; for others
                              netdevice/transmit does it.
    A transport that sends never computes a checksum over payload itself: it always sends PARTIAL.

Segmentation (GSO)
    A packet with `gso_size` > 0 is a super-segment: one header and up to 64 KiB of payload (more where the device's
    `gso_max_size` says so; the IPv4 total length is then 0, as Linux's BIG TCP has it) that stands for `gso_segs`
    packets of `gso_size` payload bytes each (the last may be shorter). `gso_type` says how to split it
    (SKB_GSO_TCPV4, SKB_GSO_UDP_L4, …, and SKB_GSO_TCP_ECN where CWR is only for the first, SKB_GSO_TCP_ACCECN where it
    is for all). It is always CHECKSUM_PARTIAL when sent. A device whose features have that type gets it whole; for
    others it is split in software, as late as possible. A received super-segment (from such a device, or from GRO) goes
    up the stack whole.

Ownership
    A packet has one owner at a time. Who is handed a packet must pass it on, queue it, `consume` it (it reached its
    end) or `drop` it with a reason. `sk` and `truesize` charge it to a socket until then; `destructor` gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.iov import Payload
from usernet.skbuff.dropreason import DropReason

if TYPE_CHECKING:
    from usernet.skbuff.queue import SKBuffQueue

CHECKSUM_NONE: Final = 0
CHECKSUM_UNNECESSARY: Final = 1
CHECKSUM_COMPLETE: Final = 2
CHECKSUM_PARTIAL: Final = 3

SKB_GSO_TCPV4: Final = 1 << 0
SKB_GSO_DODGY: Final = 1 << 1
SKB_GSO_TCP_ECN: Final = 1 << 2
SKB_GSO_TCPV6: Final = 1 << 4
SKB_GSO_UDP_L4: Final = 1 << 17
SKB_GSO_TCP_ACCECN: Final = 1 << 19
GSO_LEGACY_MAX_SIZE: Final = 65536
"""Bytes of a super-segment, from its network header on, that every device which takes any can take (Linux, same
name)."""


SKBTX_SW_TSTAMP: Final = 1 << 1
SKBTX_SCHED_TSTAMP: Final = 1 << 6
SCM_TSTAMP_SND: Final = 0
SCM_TSTAMP_SCHED: Final = 1

PACKET_HOST: Final = 0
PACKET_BROADCAST: Final = 1
PACKET_MULTICAST: Final = 2
PACKET_OTHERHOST: Final = 3
PACKET_OUTGOING: Final = 4
PACKET_LOOPBACK: Final = 5

SKB_OVERHEAD: Final = 576
"""What Linux counts for a packet beyond its bytes: sizeof(struct sk_buff) + sizeof(struct skb_shared_info), aligned."""


@final
class SKBuff:
    """One packet. See the module's text for the meaning of the fields and the offload contract.

    The header offsets (`mac_header`, `network_header`, `transport_header`, `csum_start`) count from the start of
    `head`, as `data` does; -1 where not set. The network layer gives a received packet's transport what it needs to
    know of it as `af` (its address family's operations) and packed `saddr` and `daddr`. `seq`, `end_seq`, `ack_seq`,
    `tcp_flags`, `sacked`, `tx` and `cb` are the control block: they belong to whichever layer holds the packet (Linux:
    `skb->cb`), mean nothing to any other, and are not set by the constructor. `tx_flags` (SKBTX_*) says when the socket
    wants to be told that the packet passed, under the key `tskey`.
    """

    __slots__ = (
        "ack_seq",
        "af",
        "cb",
        "csum",
        "csum_offset",
        "csum_start",
        "daddr",
        "data",
        "data_len",
        "destructor",
        "dev",
        "dst",
        "end_seq",
        "frags",
        "gso_segs",
        "gso_size",
        "gso_type",
        "head",
        "ip_summed",
        "len",
        "mac_header",
        "mark",
        "network_header",
        "next",
        "pkt_type",
        "prev",
        "priority",
        "protocol",
        "queue",
        "sacked",
        "saddr",
        "seq",
        "sk",
        "tail",
        "tcp_flags",
        "transport_header",
        "truesize",
        "tskey",
        "tstamp",
        "tx",
        "tx_flags",
    )

    csum: int
    af: Any
    saddr: bytes
    daddr: bytes
    seq: int
    end_seq: int
    ack_seq: int
    tcp_flags: int
    sacked: int
    tx: Any
    cb: Any
    tskey: int

    def __init__(self, head: bytes = b"", data: int = 0) -> None:
        """A packet whose linear part is `head` from offset `data` on."""
        tail = len(head)
        self.head: bytes = head
        self.data: int = data
        self.tail: int = tail
        self.len: int = tail - data
        self.data_len: int = 0
        self.frags: list[Payload] | None = None
        self.mac_header: int = -1
        self.network_header: int = -1
        self.transport_header: int = -1
        self.dev: Any = None
        self.dst: Any = None
        self.sk: Any = None
        self.destructor: Callable[[SKBuff], None] | None = None
        self.protocol: int = 0
        self.pkt_type: int = PACKET_HOST
        self.ip_summed: int = CHECKSUM_NONE
        self.csum_start: int = -1
        self.csum_offset: int = 0
        self.gso_size: int = 0
        self.gso_type: int = 0
        self.gso_segs: int = 0
        self.truesize: int = tail + SKB_OVERHEAD
        self.tstamp: int = 0
        self.tx_flags: int = 0
        self.mark: int = 0
        self.priority: int = 0
        self.next: SKBuff | None = None
        self.prev: SKBuff | None = None
        self.queue: SKBuffQueue | None = None

    def __repr__(self) -> str:
        gso = f" gso={self.gso_segs}x{self.gso_size}" if self.gso_size else ""
        return f"<SKBuff len={self.len} data_len={self.data_len} protocol={self.protocol:#06x}{gso}>"

    # -- the linear part

    @property
    def headlen(self) -> int:
        """Bytes in the linear part (Linux: skb_headlen)."""
        return self.len - self.data_len

    @property
    def headroom(self) -> int:
        """Bytes that `push` can give back."""
        return self.data

    def reserve(self, size: int) -> None:
        """Headroom of `size` zero bytes in an empty packet. Raises ValueError where it is not empty."""
        if self.len:
            raise ValueError(f"reserve() needs an empty packet, this one has {self.len} bytes")
        self.head = self.head[: self.data] + bytes(size)
        self.data = self.tail = self.data + size

    def put(self, payload: bytes) -> None:
        """Append `payload` to the linear part. Raises ValueError behind fragments, where it would not be the end."""
        if self.data_len:
            raise ValueError("put() would write before the fragments: use add_frag()")
        self.head = self.head[: self.tail] + payload
        self.tail += len(payload)
        self.len += len(payload)
        self.truesize += len(payload)

    def push(self, size: int) -> None:
        """Give back `size` bytes before `data`. Raises ValueError where the headroom is smaller."""
        if size > self.data:
            raise ValueError(f"push({size}) with {self.data} bytes of headroom")
        self.data -= size
        self.len += size

    def push_header(self, header: bytes) -> None:
        """Put `header` in front. What was before `data` is gone; offsets of headers behind it move along, those of
        headers that are gone are -1."""
        data = self.data
        shift = len(header) - data
        self.head = header + self.head if data == 0 else header + self.head[data:]
        self.data = 0
        self.tail += shift
        self.len += len(header)
        if self.transport_header >= 0:
            self.transport_header = self.transport_header + shift if self.transport_header >= data else -1
        if self.network_header >= 0:
            self.network_header = self.network_header + shift if self.network_header >= data else -1
        if self.mac_header >= 0:
            self.mac_header = self.mac_header + shift if self.mac_header >= data else -1
        if self.csum_start >= 0:
            self.csum_start = self.csum_start + shift if self.csum_start >= data else -1

    def pull(self, size: int) -> None:
        """Step over the first `size` bytes, which must be linear. Raises ValueError where they are not there."""
        if size > self.len - self.data_len:
            raise ValueError(f"pull({size}) of {self.len - self.data_len} linear bytes")
        self.data += size
        self.len -= size

    def may_pull(self, size: int) -> bool:
        """Make the first `size` bytes linear; False where the packet is shorter (Linux: pskb_may_pull)."""
        if size <= self.len - self.data_len:
            return True
        if size > self.len:
            return False
        need = size - (self.len - self.data_len)
        linear = [self.head[: self.tail]]
        frags = self.frags or []
        while need:
            frag = frags[0]
            if len(frag) <= need:
                frags.pop(0)
                taken: Payload = frag
            else:
                taken = frag[:need]
                frags[0] = memoryview(frag)[need:]
            linear.append(bytes(taken))
            need -= len(taken)
            self.data_len -= len(taken)
        self.head = b"".join(linear)
        self.tail = len(self.head)
        return True

    def trim(self, length: int) -> None:
        """Cut the packet to `length` bytes; nothing happens where it is shorter already.

        A device's sum over all of it (CHECKSUM_COMPLETE) is good no more (Linux: pskb_trim_rcsum).
        """
        excess = self.len - length
        if excess <= 0:
            return
        if self.ip_summed == CHECKSUM_COMPLETE:
            self.ip_summed = CHECKSUM_NONE
        frags = self.frags
        while excess and self.data_len and frags:
            last = frags[-1]
            if len(last) <= excess:
                frags.pop()
                excess -= len(last)
                self.data_len -= len(last)
            else:
                frags[-1] = memoryview(last)[: len(last) - excess]
                self.data_len -= excess
                excess = 0
        self.tail -= excess
        self.len = length

    def store(self, offset: int, value: bytes) -> None:
        """Write `value` at `offset` of `head`. The linear part is replaced; who shares the old one keeps it."""
        head = self.head
        self.head = head[:offset] + value + head[offset + len(value) :]

    def cow(self, headers: int) -> None:
        """Make `store` within the first `headers` bytes cheap: what is behind them becomes a fragment, by reference.

        Linux: skb_cow_head. For packets that are changed on their way (forwarding, address translation).
        """
        end = self.data + headers
        if end < self.tail:
            rest = memoryview(self.head)[end : self.tail]
            self.head = self.head[:end]
            self.tail = end
            self.frags = [rest, *(self.frags or ())]
            self.data_len += len(rest)

    # -- fragments

    def add_frag(self, payload: Payload) -> None:
        """Append `payload` by reference. It must never be written to from now on."""
        size = len(payload)
        if self.frags is None:
            self.frags = [payload]
        else:
            self.frags.append(payload)
        self.len += size
        self.data_len += size
        self.truesize += size

    def pull_front(self, size: int) -> None:
        """Step over the first `size` bytes, linear or not (Linux: __pskb_trim_head). Raises ValueError if too few."""
        if size > self.len:
            raise ValueError(f"pull_front({size}) of {self.len} bytes")
        linear = min(size, self.len - self.data_len)
        self.data += linear
        self.len -= size
        size -= linear
        frags = self.frags
        while size and frags:
            frag = frags[0]
            if len(frag) <= size:
                frags.pop(0)
                taken = len(frag)
            else:
                frags[0] = memoryview(frag)[size:]
                taken = size
            self.data_len -= taken
            size -= taken

    def slice(self, start: int, end: int) -> list[Payload]:
        """References to the bytes from `start` to `end`, counted from `data`."""
        parts: list[Payload] = []
        linear = self.len - self.data_len
        if start < linear:
            stop = min(end, linear)
            if start < stop:
                base = self.data
                if stop - start < 512:
                    parts.append(self.head[base + start : base + stop])
                else:
                    parts.append(memoryview(self.head)[base + start : base + stop])
        if end > linear and self.frags:
            position = linear
            for frag in self.frags:
                following = position + len(frag)
                if following > start and position < end:
                    first = max(start - position, 0)
                    last = min(end - position, len(frag))
                    parts.append(
                        frag if first == 0 and last == len(frag) else memoryview(frag)[first:last]
                    )
                position = following
                if position >= end:
                    break
        return parts

    def tobytes(self, start: int = 0) -> bytes:
        """The packet's bytes from `start`, counted from `data`, in one piece."""
        if not self.data_len:
            return self.head[self.data + start : self.tail]
        return b"".join(self.slice(start, self.len))

    # -- the whole

    def clone(self) -> SKBuff:
        """Another packet with the same bytes, by reference, and what is known of them; no owner, in no queue. Address
        family, addresses and control block are not copied: who needs them in the clone sets them."""
        skb = SKBuff(self.head, self.data)
        skb.tail = self.tail
        skb.len = self.len
        skb.data_len = self.data_len
        skb.frags = list(self.frags) if self.frags else None
        skb.mac_header = self.mac_header
        skb.network_header = self.network_header
        skb.transport_header = self.transport_header
        skb.dev = self.dev
        skb.dst = self.dst
        skb.protocol = self.protocol
        skb.pkt_type = self.pkt_type
        skb.ip_summed = self.ip_summed
        if self.ip_summed == CHECKSUM_COMPLETE:
            skb.csum = self.csum
        skb.csum_start = self.csum_start
        skb.csum_offset = self.csum_offset
        skb.gso_size = self.gso_size
        skb.gso_type = self.gso_type
        skb.gso_segs = self.gso_segs
        skb.truesize = self.truesize
        skb.tstamp = self.tstamp
        skb.mark = self.mark
        skb.priority = self.priority
        return skb

    def orphan(self) -> None:
        """Take the packet off its socket's account (Linux: skb_orphan)."""
        destructor = self.destructor
        if destructor is not None:
            self.destructor = None
            destructor(self)
        self.sk = None

    def consume(self) -> None:
        """The packet has reached its end."""
        destructor = self.destructor
        if destructor is not None:
            self.destructor = None
            destructor(self)

    def drop(self, reason: DropReason, drops: Drops) -> None:
        """The packet goes no further, because of `reason`, which is counted in `drops` and told to tracers."""
        drops.count(self, reason)
        destructor = self.destructor
        if destructor is not None:
            self.destructor = None
            destructor(self)


@final
class Drops:
    """A stack's dropped packets: a count by reason, and the tracepoint kfree_skb."""

    __slots__ = ("counts", "probes")

    def __init__(self, probes: Sequence[Callable[..., None]]) -> None:
        self.counts: dict[DropReason, int] = {}
        self.probes = probes

    def count(self, skb: SKBuff, reason: DropReason) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.probes:
            for probe in tuple(self.probes):
                probe(skb, reason)
