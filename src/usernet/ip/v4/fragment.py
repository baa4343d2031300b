"""IPv4 fragments: reassembly on the way in, fragmentation on the way out (RFC 791 section 3.2, RFC 815).

`ip_local_deliver` gives every fragment for this machine to `Fragments.defrag` and goes on with what comes back; the
output path gives what is larger than the MTU, and may be split, to `Fragments.fragment`. Neither copies payload.
Linux: net/ipv4/ip_fragment.c, net/ipv4/inet_fragment.c, ip_do_fragment.

A datagram's fragments are kept as runs of bytes without a hole, in order. A fragment that lies wholly in a run is a
duplicate and ignored; one that overlaps what is there in any other way ends the whole datagram (RFC 5722 section 4,
which Linux applies to IPv4 too), so that no two senders' bytes are ever mixed.

Bounds: fragments take at most `ipfrag_high_thresh` bytes of truesize (4 MiB); beyond it new ones are dropped, counted
in ReasmFails and as FRAG_MEM. A datagram has `ipfrag_time` seconds (30), then goes with FRAG_REASM_TIMEOUT,
ReasmTimeout and an ICMP Time Exceeded to its sender where its first fragment had come. A hole that stays while the
sender's next `ipfrag_max_dist` fragments (64) arrive is given up: the identification may since be another datagram's.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_SEC
from usernet.core.errors import error
from usernet.core.sysctl import INT_MAX
from usernet.core.timer import Timer
from usernet.ip.inetpeer import InetPeer, InetPeers
from usernet.ip.v4.icmp import Icmp
from usernet.netdevice.namespace import DeviceNamespace
from usernet.netdevice.transmit import checksum_help
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKBuff
from usernet.wire import ipv4
from usernet.wire.icmp import ICMP_EXC_FRAGTIME, ICMP_TIME_EXCEEDED

if TYPE_CHECKING:
    from usernet.net.pernet import Net

IP_DEFRAG_LOCAL_DELIVER: Final = 0
IP_DEFRAG_AF_PACKET: Final = 3

QUEUE_OVERHEAD: Final = 200
"""What a datagram counts for beyond its fragments (Linux: sizeof(struct ipq))."""

_LINEAR: Final = 128
"""Payload bytes kept in the linear part of a reassembled packet: no transport's header is longer."""


@final
class _Run:
    """Fragments that follow each other without a hole: the bytes from `start` to `end` of a datagram's payload."""

    __slots__ = ("end", "packets", "start")

    def __init__(self, start: int, end: int, skb: SKBuff) -> None:
        self.start = start
        self.end = end
        self.packets: list[SKBuff] = [skb]


@final
class FragQueue:
    """One incomplete datagram (Linux: `struct ipq`)."""

    __slots__ = (
        "ecn", "first_in", "key", "last_in", "len", "max_df_size", "max_size", "meat", "memory", "peer", "rid", "runs",
        "starts", "timer",
    )  # fmt: skip

    def __init__(self, key: bytes, peer: InetPeer | None) -> None:
        self.key = key
        self.peer = peer
        self.rid: int = 0
        self.timer: Timer | None = None
        self.max_size: int = 0
        self.max_df_size: int = 0
        self.reset()

    def reset(self) -> None:
        """As if no fragment had come."""
        self.runs: list[_Run] = []
        self.starts: list[int] = []
        self.first_in: bool = False
        self.last_in: bool = False
        self.len: int = 0
        self.meat: int = 0
        self.memory: int = 0
        self.ecn: int = 0

    def packets(self) -> list[SKBuff]:
        """All fragments, in order."""
        return [skb for run in self.runs for skb in run.packets]

    def insert(self, skb: SKBuff, start: int, end: int) -> DropReason | None:
        """Put in the bytes `start` to `end` (Linux: inet_frag_queue_insert). None where they have a place now, else
        DUP_FRAG or FRAG_OVERLAP."""
        runs = self.runs
        if runs and end > runs[-1].end:
            last = runs[-1]
            if start == last.end:
                last.end = end
                last.packets.append(skb)
                return None
            if start < last.end:
                return DropReason.FRAG_OVERLAP
            index = len(runs)
        else:
            index = bisect_right(self.starts, start)
            if index:
                before = runs[index - 1]
                if start < before.end:
                    return DropReason.DUP_FRAG if end <= before.end else DropReason.FRAG_OVERLAP
            if index < len(runs) and end > runs[index].start:
                return DropReason.FRAG_OVERLAP
        runs.insert(index, _Run(start, end, skb))
        self.starts.insert(index, start)
        return None


_SYSCTLS: Final = (
    ("ipfrag_high_thresh", 0, INT_MAX), ("ipfrag_low_thresh", 0, INT_MAX), ("ipfrag_time", 0, INT_MAX),
    ("ipfrag_max_dist", 0, INT_MAX),
)  # fmt: skip
"""Name, least and greatest value."""


@final
class Fragments:
    """The reassembly of one namespace. `memory` is what its fragments take now (bytes of truesize)."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._loop = net.loop
        self._mib = net.mib.ip
        self._peers = net.get(InetPeers)
        self._icmp = net.get(Icmp)
        self._devices = net.get(DeviceNamespace)
        self.memory: int = 0
        self.queues: dict[bytes, FragQueue] = {}
        self.ipfrag_high_thresh: int = 4 * 1024 * 1024
        self.ipfrag_low_thresh: int = 3 * 1024 * 1024
        self.ipfrag_time: int = 30
        self.ipfrag_max_dist: int = 64
        net.sysctl.register_rows("net.ipv4", self, _SYSCTLS)

    def close(self) -> None:
        """The stack ends."""
        for queue in list(self.queues.values()):
            self._kill(queue, DropReason.STACK_CLOSED)

    # -- reassembly

    def defrag(self, skb: SKBuff, user: int = IP_DEFRAG_LOCAL_DELIVER) -> SKBuff | None:
        """Take a fragment (Linux: ip_defrag).

        skb: trimmed to its total length, `network_header`, `af` and the addresses set, the header checked.
        user: IP_DEFRAG_*; datagrams of different users are put together apart.
        Returns the whole packet, `data` at its network header, once nothing is missing, else None: the fragment was
        kept, or dropped.
        """
        mib = self._mib
        mib.ReasmReqds += 1
        if self.memory > self.ipfrag_high_thresh or not self.ipfrag_high_thresh:
            mib.ReasmFails += 1
            skb.drop(DropReason.FRAG_MEM, self._net.drops)
            return None
        header = skb.network_header
        head = skb.head
        # Identification, protocol and both addresses tell datagrams apart (RFC 791).
        key = b"%b%c%b%c" % (head[header + 4 : header + 6], head[header + 9], head[header + 12 : header + 20], user)
        queue = self.queues.get(key)
        if queue is None:
            queue = self._create(key)
        elif self._too_far(queue):
            self._restart(queue)
        return self._queue(queue, skb)

    def _create(self, key: bytes) -> FragQueue:
        peer = self._peers.get(key[3:7]) if self.ipfrag_max_dist else None
        queue = FragQueue(key, peer)
        if peer is not None:
            peer.rid += 1
            queue.rid = peer.rid
        queue.timer = Timer(self._loop.timers, partial(self._expire, queue))
        queue.timer.mod(self._loop.now + self.ipfrag_time * NSEC_PER_SEC)
        self.queues[key] = queue
        self.memory += QUEUE_OVERHEAD
        return queue

    def _too_far(self, queue: FragQueue) -> bool:
        """Whether too many other fragments of the sender came since this datagram's last (Linux: ip_frag_too_far)."""
        peer = queue.peer
        if peer is None or not self.ipfrag_max_dist:
            return False
        peer.rid += 1
        distance = peer.rid - queue.rid
        queue.rid = peer.rid
        return bool(queue.runs) and distance > self.ipfrag_max_dist

    def _restart(self, queue: FragQueue) -> None:
        """Forget what has come of a datagram, and begin anew (Linux: ip_frag_reinit)."""
        self._mib.ReasmFails += 1
        self._flush(queue, DropReason.FRAG_TOO_FAR)
        queue.reset()
        if queue.timer is not None:
            queue.timer.mod(self._loop.now + self.ipfrag_time * NSEC_PER_SEC)

    def _flush(self, queue: FragQueue, reason: DropReason) -> None:
        self.memory -= queue.memory
        queue.memory = 0
        for skb in queue.packets():
            skb.drop(reason, self._net.drops)

    def _unlink(self, queue: FragQueue) -> None:
        if queue.timer is not None:
            queue.timer.delete()
            queue.timer = None
        del self.queues[queue.key]
        self.memory -= QUEUE_OVERHEAD

    def _kill(self, queue: FragQueue, reason: DropReason) -> None:
        self._unlink(queue)
        self._flush(queue, reason)

    def _discard(self, queue: FragQueue, skb: SKBuff, reason: DropReason) -> None:
        """This fragment shows that the datagram can't be put together."""
        self._mib.ReasmFails += 1
        self._kill(queue, reason)
        skb.drop(reason, self._net.drops)

    def _queue(self, queue: FragQueue, skb: SKBuff) -> SKBuff | None:
        """Linux: ip_frag_queue."""
        header = skb.network_header
        head = skb.head
        hlen = (head[header] & 15) << 2
        tos = head[header + 1]
        frag_off = head[header + 6] << 8 | head[header + 7]
        start = (frag_off & ipv4.IP_OFFSET) << 3
        skip = header - skb.data + hlen
        end = start + skb.len - skip
        if not frag_off & ipv4.IP_MF:
            if end < queue.len or (queue.last_in and end != queue.len):
                self._discard(queue, skb, DropReason.IP_INHDR)
                return None
            queue.last_in = True
            queue.len = end
        else:
            # All but the last are whole numbers of 8 bytes.
            end &= ~7
            if end > queue.len:
                if queue.last_in:
                    self._discard(queue, skb, DropReason.IP_INHDR)
                    return None
                queue.len = end
        if end <= start:
            self._discard(queue, skb, DropReason.IP_INHDR)
            return None
        skb.pull_front(skip)
        skb.trim(end - start)
        trouble = queue.insert(skb, start, end)
        if trouble is not None:
            if trouble == DropReason.DUP_FRAG:
                skb.drop(trouble, self._net.drops)
            else:
                self._net.mib.ip_ext.ReasmOverlaps += 1
                self._discard(queue, skb, trouble)
            return None
        skb.orphan()
        size = end - start
        queue.meat += size
        queue.ecn |= 1 << (tos & 3)
        queue.memory += skb.truesize
        self.memory += skb.truesize
        if start == 0:
            queue.first_in = True
        size += hlen
        queue.max_size = max(queue.max_size, size)
        if frag_off & ipv4.IP_DF:
            queue.max_df_size = max(queue.max_df_size, size)
        if queue.first_in and queue.last_in and queue.meat == queue.len:
            return self._reassemble(queue, skb)
        return None

    def _reassemble(self, queue: FragQueue, newest: SKBuff) -> SKBuff | None:
        """Everything is there (Linux: ip_frag_reasm)."""
        packets = queue.packets()
        first = packets[0]
        header = first.network_header
        hlen = (first.head[header] & 15) << 2
        ecn = queue.ecn
        total = hlen + queue.len
        if (ecn & 1 and ecn != 1) or total > ipv4.IP_MAX_MTU:
            # Fragments with and without ECN don't mix (RFC 3168 section 5.3); nor is there room for such a length.
            self._mib.ReasmFails += 1
            self._kill(queue, DropReason.PKT_TOO_BIG if total > ipv4.IP_MAX_MTU else DropReason.IP_INHDR)
            return None
        self._unlink(queue)
        self.memory -= queue.memory
        whole = self._join(packets, first, header, hlen)
        tos = first.head[header + 1]
        if ecn & 8 and ecn != 8:
            tos |= 3
        fields = ipv4.parse(first.head, header)
        # A sender that forbids fragmentation of its largest fragment has path MTU discovery on: keep saying so.
        frag_off = ipv4.IP_DF if queue.max_df_size == queue.max_size else 0
        options = first.head[header + ipv4.IP_HLEN : header + hlen]
        _, _, _, ident, _, ttl, protocol, _, saddr, daddr = fields
        whole.store(header, ipv4.build(tos, total, ident, frag_off, ttl, protocol, saddr, daddr, options))
        whole.dev = newest.dev
        whole.tstamp = newest.tstamp
        self._mib.ReasmOKs += 1
        return whole

    def _join(self, packets: list[SKBuff], first: SKBuff, header: int, hlen: int) -> SKBuff:
        """One packet out of the fragments' payloads, by reference, `data` at the network header."""
        linear = min(first.len, _LINEAR)
        start = b"".join([bytes(part) for part in first.slice(0, linear)])
        whole = SKBuff(first.head[: header + hlen] + start, header)
        whole.truesize = 0
        summed = first.ip_summed
        for skb in packets:
            for part in skb.slice(linear if skb is first else 0, skb.len):
                whole.add_frag(part)
            if skb.ip_summed != summed:
                summed = CHECKSUM_NONE
        whole.truesize = sum(skb.truesize for skb in packets)
        whole.ip_summed = CHECKSUM_UNNECESSARY if summed == CHECKSUM_UNNECESSARY else CHECKSUM_NONE
        whole.mac_header = first.mac_header
        whole.network_header = header
        whole.transport_header = header + hlen
        whole.protocol = first.protocol
        whole.pkt_type = first.pkt_type
        whole.dst = first.dst
        whole.mark = first.mark
        whole.priority = first.priority
        whole.af = first.af
        whole.saddr = first.saddr
        whole.daddr = first.daddr
        if hlen > ipv4.IP_HLEN:
            # What is known of the options.
            whole.cb = first.cb
        for skb in packets:
            skb.consume()
        return whole

    def _expire(self, queue: FragQueue, now: int) -> None:
        """The datagram's time is up (Linux: ip_expire)."""
        mib = self._mib
        mib.ReasmFails += 1
        mib.ReasmTimeout += 1
        self._unlink(queue)
        if queue.first_in:
            first = queue.runs[0].packets[0]
            dev = first.dev
            if dev is not None and self._devices.by_index(dev.index) is dev:
                first.push(first.data - first.network_header)
                self._icmp.send(first, ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME)
        self._flush(queue, DropReason.FRAG_REASM_TIMEOUT)

    # -- fragmentation

    def fragment(self, skb: SKBuff, mtu: int) -> list[SKBuff]:
        """Split a packet for a path that takes `mtu` bytes (Linux: ip_do_fragment).

        skb: `data` at its complete network header; it is used up. Whether it may be split at all is for the caller
        to know. Returns the fragments, each with its header, in order. Raises OSError EMSGSIZE where not even 8 bytes
        of payload fit; the packet is then still the caller's.
        """
        head = skb.head
        data = skb.data
        hlen = (head[data] & 15) << 2
        room = (mtu - hlen) & ~7
        if room < 8:
            self._mib.FragFails += 1
            raise error(errno.EMSGSIZE, f"MTU of {mtu}: expected {hlen + 8} or more, to split a packet")
        if skb.ip_summed == CHECKSUM_PARTIAL:
            checksum_help(skb)
            head = skb.head
        _, tos, _, ident, frag_off, ttl, protocol, _, saddr, daddr = ipv4.parse(head, data)
        options = head[data + ipv4.IP_HLEN : data + hlen]
        more = frag_off & ipv4.IP_MF
        offset = frag_off & ipv4.IP_OFFSET
        later = ipv4.fragment_options(options) if options else b""
        size = skb.len
        position = hlen
        fragments: list[SKBuff] = []
        sk = skb.sk
        while position < size:
            end = min(position + room, size)
            if size - position <= mtu - hlen:
                end = size
            flags = more if end == size else ipv4.IP_MF
            part = SKBuff(
                ipv4.build(
                    tos, hlen + end - position, ident, offset | flags, ttl, protocol, saddr, daddr,
                    options if position == hlen else later,
                )
            )  # fmt: skip
            part.network_header = 0
            part.transport_header = hlen
            for piece in skb.slice(position, end):
                part.add_frag(piece)
            part.dev = skb.dev
            part.dst = skb.dst
            part.protocol = skb.protocol
            part.pkt_type = skb.pkt_type
            part.mark = skb.mark
            part.priority = skb.priority
            part.tstamp = skb.tstamp
            if skb.tx_flags and position == hlen:
                part.tx_flags = skb.tx_flags
                part.tskey = skb.tskey
            if sk is not None:
                sk.charge_send(part)
            fragments.append(part)
            offset += (end - position) >> 3
            position = end
        self._mib.FragCreates += len(fragments)
        self._mib.FragOKs += 1
        skb.consume()
        return fragments
