"""Segments in TCP's queues: what is remembered of each, how they are split and trimmed (Linux: struct tcp_skb_cb,
tcp_fragment, tcp_trim_head).

Queued segments hold payload only, by reference; a header is built for each transmission (transmit.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, GSO_LEGACY_MAX_SIZE, SKB_OVERHEAD, SKBuff
from usernet.transport.tcp import chrono, completion
from usernet.transport.tcp.const import SEQ_MASK, TCP_NAGLE_PUSH, TCPCB_LOST, TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS
from usernet.wire.tcp import FIN, PSH, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.completion import TxMark
    from usernet.transport.tcp.sock import TcpSock


MAX_HEADERS: Final = 320
"""Bytes kept free for headers in a super-segment (Linux: MAX_TCP_HEADER)."""

MAX_SKB_FRAGS: Final = 256


@final
class TxInfo:
    """What is remembered of a sent segment (Linux: tcp_skb_cb.tx): when it was last sent (ns), and the state of
    delivery then, from which the delivery rate is sampled when it is acknowledged (rate.py). `eor` forbids to join it
    with what follows (MSG_EOR). `mark`: what to tell the application of it (completion.py). `next`, `prev` link it in
    the order of sending (`SentQueue`)."""

    __slots__ = (
        "app_limited", "delivered", "delivered_ce", "delivered_mstamp", "eor", "first_tx_mstamp", "in_flight",
        "listed", "lost", "mark", "mstamp", "next", "prev", "skb",
    )  # fmt: skip

    def __init__(self, skb: SKBuff) -> None:
        self.skb = skb
        self.mstamp: int = 0
        self.delivered: int = 0
        self.delivered_ce: int = 0
        self.lost: int = 0
        self.delivered_mstamp: int = 0
        self.first_tx_mstamp: int = 0
        self.app_limited: bool = False
        self.in_flight: int = 0
        self.eor: bool = False
        self.mark: TxMark | None = None
        self.next: TxInfo | None = None
        self.prev: TxInfo | None = None
        self.listed: bool = False


@final
class SentQueue:
    """Segments under way in the order in which they were last sent, the oldest first (Linux: tsorted_sent_queue)."""

    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first: TxInfo | None = None
        self.last: TxInfo | None = None

    def append(self, tx: TxInfo) -> None:
        """`tx` was sent now: to the end, wherever it was."""
        if tx.listed:
            if self.last is tx:
                return
            self.remove(tx)
        tx.prev = self.last
        if self.last is None:
            self.first = tx
        else:
            self.last.next = tx
        self.last = tx
        tx.listed = True

    def insert_after(self, position: TxInfo, tx: TxInfo) -> None:
        """`tx` was part of the segment of `position`, which is in the queue."""
        following = position.next
        tx.prev = position
        tx.next = following
        position.next = tx
        if following is None:
            self.last = tx
        else:
            following.prev = tx
        tx.listed = True

    def remove(self, tx: TxInfo) -> None:
        """Nothing happens where it is not in the queue."""
        if not tx.listed:
            return
        if tx.prev is None:
            self.first = tx.next
        else:
            tx.prev.next = tx.next
        if tx.next is None:
            self.last = tx.prev
        else:
            tx.next.prev = tx.prev
        tx.next = tx.prev = None
        tx.listed = False


def gso_max_payload(sk: TcpSock) -> int:
    """Bytes of payload of the largest super-segment that the device takes (Linux: sk_gso_max_size)."""
    dst = sk.dst
    return (GSO_LEGACY_MAX_SIZE if dst is None else dst.dev.gso_max_size) - MAX_HEADERS - 1


def new_segment(seq: int, flags: int) -> SKBuff:
    """An empty segment for the write queue."""
    skb = SKBuff()
    skb.seq = seq
    skb.end_seq = (seq + 1) & SEQ_MASK if flags & (SYN | FIN) else seq
    skb.tcp_flags = flags
    skb.sacked = 0
    skb.gso_segs = 1
    skb.ip_summed = CHECKSUM_PARTIAL
    skb.cb = -1
    skb.tx = TxInfo(skb)
    return skb


def set_tso_segs(skb: SKBuff, mss: int) -> int:
    """Say in how many segments of `mss` bytes the packet leaves; returns that (Linux: tcp_set_skb_tso_segs)."""
    if skb.len <= mss:
        skb.gso_size = 0
        skb.gso_segs = 1
        return 1
    segments = -(-skb.len // mss)
    skb.gso_size = mss
    skb.gso_segs = segments
    return segments


def init_tso_segs(skb: SKBuff, mss: int) -> int:
    """As `set_tso_segs`, where the number may be stale (Linux: tcp_init_tso_segs)."""
    segments = skb.gso_segs
    if not segments or (segments > 1 and skb.gso_size != mss) or (segments == 1 and skb.len > mss):
        return set_tso_segs(skb, mss)
    return segments


def add_write_queue_tail(sk: TcpSock, skb: SKBuff) -> None:
    """Queue a new segment to be sent (Linux: tcp_skb_entail, tcp_add_write_queue_tail)."""
    queue = sk.write_queue
    queue.append(skb)
    sk.wmem_queued += skb.truesize
    if queue.first is skb:
        chrono.start(sk, chrono.BUSY)
    if sk.nonagle & TCP_NAGLE_PUSH:
        sk.nonagle &= ~TCP_NAGLE_PUSH


def mark_push(sk: TcpSock, skb: SKBuff) -> None:
    """Linux: tcp_mark_push."""
    skb.tcp_flags |= PSH
    sk.pushed_seq = sk.write_seq


def adjust_pcount(sk: TcpSock, skb: SKBuff, decrease: int) -> None:
    """A segment that is under way now counts `decrease` packets less (Linux: tcp_adjust_pcount)."""
    sk.packets_out -= decrease
    sacked = skb.sacked
    if sacked & TCPCB_SACKED_ACKED:
        sk.sacked_out -= decrease
    if sacked & TCPCB_SACKED_RETRANS:
        sk.retrans_out -= decrease
    if sacked & TCPCB_LOST:
        sk.lost_out -= decrease
    if not sk.sack_ok and decrease > 0:
        sk.sacked_out -= min(sk.sacked_out, decrease)


def wqueue_too_big(sk: TcpSock, skb: SKBuff) -> bool:
    """Whether a segment that is under way must not be split: its peer makes more segments of less data, to fill memory
    with what it takes to hold them (CVE-2019-11478; Linux: tcp_fragment). The first and the last may be, always."""
    if sk.wmem_queued >> 1 <= sk.sndbuf + 2 * (GSO_LEGACY_MAX_SIZE + SKB_OVERHEAD):
        return False
    if skb is sk.rtx_queue.first or skb is sk.rtx_queue.last:
        return False
    sk.net.mib.tcp_ext.TCPWqueueTooBig += 1
    return True


def fragment(sk: TcpSock, queue: SKBuffQueue, skb: SKBuff, length: int, mss: int) -> SKBuff:
    """Cut a queued segment to `length` bytes; what is behind them becomes the next in `queue` (Linux: tcp_fragment)."""
    old_count = skb.gso_segs
    rest = SKBuff()
    rest.ip_summed = CHECKSUM_PARTIAL
    size = skb.len - length
    rest.len = rest.data_len = size
    rest.truesize = size + SKB_OVERHEAD
    frags = skb.frags
    assert frags is not None
    last = frags[-1]
    if size < len(last):
        view = memoryview(last)
        cut = len(last) - size
        skb.frags = frags[:-1]
        skb.frags.append(view[:cut])
        rest.frags = [view[cut:]]
    else:
        rest.frags = skb.slice(length, skb.len)
        skb.frags = skb.slice(0, length)
    skb.len = skb.data_len = length
    sk.wmem_queued += length + SKB_OVERHEAD + rest.truesize - skb.truesize
    skb.truesize = length + SKB_OVERHEAD
    queue.resized(-size)
    rest.seq = (skb.seq + length) & SEQ_MASK
    rest.end_seq = skb.end_seq
    skb.end_seq = rest.seq
    flags = skb.tcp_flags
    skb.tcp_flags = flags & ~(FIN | PSH)
    rest.tcp_flags = flags
    rest.sacked = skb.sacked
    # Neither ends any more where the socket's page does (sendmsg.py).
    rest.cb = skb.cb = -1
    tx: TxInfo = skb.tx
    rest_tx = TxInfo(rest)
    rest_tx.mstamp = tx.mstamp
    rest_tx.delivered = tx.delivered
    rest_tx.delivered_ce = tx.delivered_ce
    rest_tx.lost = tx.lost
    rest_tx.delivered_mstamp = tx.delivered_mstamp
    rest_tx.first_tx_mstamp = tx.first_tx_mstamp
    rest_tx.app_limited = tx.app_limited
    rest_tx.in_flight = tx.in_flight
    rest_tx.eor = tx.eor
    tx.eor = False
    rest.tx = rest_tx
    if tx.mark is not None:
        completion.split(sk, skb, rest)
    if tx.listed:
        sk.sent.insert_after(tx, rest_tx)
    set_tso_segs(skb, mss)
    set_tso_segs(rest, mss)
    if queue is sk.rtx_queue:
        decrease = old_count - skb.gso_segs - rest.gso_segs
        if decrease:
            adjust_pcount(sk, skb, decrease)
    queue.insert_after(skb, rest)
    return rest


def grow(sk: TcpSock, queue: SKBuffQueue, skb: SKBuff, amount: int, mss: int) -> None:
    """Move up to `amount` bytes of the segment behind `skb`, which waits as it does, to it, so that a super-segment is
    as large as the window allows, wherever the queued ones end (Linux: tcp_grow_skb)."""
    following = skb.next
    if following is None or skb.tx.eor or not following.len or skb.tx.mark is not None or following.tx.mark is not None:
        return
    if amount < following.len:
        fragment(sk, queue, following, amount, mss)
    size = following.len
    queue.unlink(following)
    for part in following.frags or ():
        skb.add_frag(part)
    queue.resized(size)
    skb.end_seq = following.end_seq
    skb.tcp_flags |= following.tcp_flags
    skb.tx.eor = following.tx.eor
    skb.cb = following.cb
    sk.wmem_queued -= SKB_OVERHEAD
    set_tso_segs(skb, mss)


def trim_head(sk: TcpSock, skb: SKBuff, size: int) -> None:
    """Cut acknowledged bytes off the front of a segment that is under way (Linux: tcp_trim_head)."""
    skb.pull_front(size)
    if skb.queue is not None:
        skb.queue.resized(-size)
    skb.seq = (skb.seq + size) & SEQ_MASK
    skb.truesize -= size
    sk.wmem_queued -= size
    if skb.gso_segs > 1:
        set_tso_segs(skb, skb.gso_size)
