"""The out-of-order queue and the SACK blocks we send (Linux: tcp_data_queue_ofo, tcp_ofo_queue, tcp_sack_new_ofo_skb).

RFC 2018 (SACK blocks, the most recent first), RFC 2883 (D-SACK). Of data that arrives twice with different content the
first counts, as in Linux. The queue is bounded by the receive buffer; when that is full, it is pruned from the end, and
what was reported is reneged on, as RFC 2018 section 8 allows.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, Final

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import ICSK_ACK_SCHED, SEQ_MASK, TCP_NUM_SACKS, after, before
from usernet.transport.tcp.rcvmem import prune_queue, try_coalesce
from usernet.transport.tcp.window import grow_window, measure_rcv_mss, rcvbuf_grow
from usernet.wire.tcp import FIN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

Block = tuple[int, int]


# -- the blocks


def dsack_set(sk: TcpSock, seq: int, end_seq: int) -> None:
    """Report a duplicate with the next acknowledgement (Linux: tcp_dsack_set)."""
    if sk.sack_ok and sk.tcp.tcp_dsack:
        mib = sk.net.mib.tcp_ext
        if before(seq, sk.rcv_nxt):
            mib.TCPDSACKOldSent += 1
        else:
            mib.TCPDSACKOfoSent += 1
        sk.duplicate_sack = (seq, end_seq)


def dsack_extend(sk: TcpSock, seq: int, end_seq: int) -> None:
    """As above, joined with one that is planned already and touches (Linux: tcp_dsack_extend)."""
    known = sk.duplicate_sack
    if known is None:
        dsack_set(sk, seq, end_seq)
        return
    joined = _join(known, seq, end_seq)
    if joined is not None:
        sk.duplicate_sack = joined


def _join(block: Block, seq: int, end_seq: int) -> Block | None:
    """The union of two ranges that overlap or touch; None where they don't (Linux: tcp_sack_extend)."""
    if after(seq, block[1]) or after(block[0], end_seq):
        return None
    start = seq if before(seq, block[0]) else block[0]
    end = end_seq if after(end_seq, block[1]) else block[1]
    return start, end


def _sack_new(sk: TcpSock, seq: int, end_seq: int) -> None:
    """New data is in the out-of-order queue: its block becomes the first (Linux: tcp_sack_new_ofo_skb)."""
    block = (seq, end_seq)
    rest: list[Block] = []
    for known in sk.selective_acks:
        joined = _join(known, block[0], block[1])
        if joined is None:
            rest.append(known)
        else:
            block = joined
    sk.selective_acks = (block, *rest[: TCP_NUM_SACKS - 1])


def sack_remove(sk: TcpSock) -> None:
    """Drop the blocks that are acknowledged by now (Linux: tcp_sack_remove)."""
    if not sk.ofo:
        sk.selective_acks = ()
        return
    rcv_nxt = sk.rcv_nxt
    sk.selective_acks = tuple(block for block in sk.selective_acks if after(block[0], rcv_nxt))


# -- the queue


def data_queue_ofo(sk: TcpSock, skb: SKBuff) -> None:
    """Data behind a gap (Linux: tcp_data_queue_ofo)."""
    net = sk.net
    mib = net.mib.tcp_ext
    if sk.rmem_alloc > sk.rcvbuf and not prune_queue(sk, skb):
        mib.TCPOFODrop += 1
        sk.data_ready()
        skb.drop(DropReason.PROTO_MEM, net.drops)
        return
    if sk.ecn_flags:
        from usernet.transport.tcp.ecn import data_check

        data_check(sk, skb)
    sk.pred_ok = False
    sk.ack_pending |= ICSK_ACK_SCHED
    measure_rcv_mss(sk, skb)
    sk.rcv_ooopack += max(1, skb.gso_segs)
    mib.TCPOFOQueue += 1
    seq = skb.seq
    end_seq = skb.end_seq
    queue = sk.ofo
    if queue is None:
        queue = sk.ofo = []
    # Sequence numbers as distances from rcv_nxt don't wrap within a window.
    base = sk.rcv_nxt
    index = bisect_left(queue, (seq - base) & SEQ_MASK, key=lambda held: (held.seq - base) & SEQ_MASK)
    if index:
        previous = queue[index - 1]
        if before(seq, previous.end_seq):
            if not after(end_seq, previous.end_seq):
                # All of it is here already.
                mib.TCPOFOMerge += 1
                dsack_set(sk, seq, end_seq)
                skb.drop(DropReason.TCP_OFOMERGE, net.drops)
                return
            dsack_set(sk, seq, previous.end_seq)
    while index < len(queue):
        following = queue[index]
        if not after(end_seq, following.seq):
            break
        if before(end_seq, following.end_seq):
            if following.seq == seq:
                # The held one begins here too and reaches further.
                mib.TCPOFOMerge += 1
                dsack_set(sk, seq, end_seq)
                skb.drop(DropReason.TCP_OFOMERGE, net.drops)
                return
            dsack_extend(sk, following.seq, end_seq)
            break
        if following.seq == seq and following.end_seq == end_seq:
            mib.TCPOFOMerge += 1
            dsack_set(sk, seq, end_seq)
            skb.drop(DropReason.TCP_OFOMERGE, net.drops)
            return
        # The new one covers it: first data wins, so what is held is cut out of the new one on delivery.
        mib.TCPOFOMerge += 1
        dsack_extend(sk, following.seq, following.end_seq)
        index += 1
    if index and skb.len < COALESCE_BELOW and index == len(queue) and try_coalesce(sk, queue[-1], skb):
        if sk.sack_ok:
            _sack_new(sk, seq, end_seq)
            grow_window(sk, queue[-1], True)
        return
    if len(queue) >= MAX_OFO_SEGMENTS:
        mib.TCPOFODrop += 1
        skb.drop(DropReason.TCP_OFO_DROP, net.drops)
        return
    if sk.sack_ok:
        _sack_new(sk, seq, end_seq)
        # Before the segment counts as memory in use, as Linux has it.
        grow_window(sk, skb, False)
    _insert(sk, queue, skb)
    if not sk.dead and sk.listener is None:
        # One that was not accepted yet, or is an orphan, gets no larger buffer.
        rcvbuf_grow(sk, sk.rcvq_space)


COALESCE_BELOW: Final = 512  # bytes: larger segments have no room behind others
MAX_OFO_SEGMENTS: Final = 65536
"""Segments in one out-of-order queue, whatever the receive buffer; a further one is dropped (TCPOFODrop)."""


def _insert(sk: TcpSock, queue: list[SKBuff], skb: SKBuff) -> None:
    """Insert the parts of `skb` that aren't held yet, so that held segments never overlap and the first data wins."""
    base = sk.rcv_nxt
    start = (skb.seq - base) & SEQ_MASK
    end = start + ((skb.end_seq - skb.seq) & SEQ_MASK)
    index = bisect_left(queue, start, key=lambda held: (held.seq - base) & SEQ_MASK)
    if index:
        held = queue[index - 1]
        held_end = (held.end_seq - base) & SEQ_MASK
        if held_end > start:
            _trim_front(skb, held_end - start)
            start = held_end
    while index < len(queue):
        held = queue[index]
        held_start = (held.seq - base) & SEQ_MASK
        held_end = (held.end_seq - base) & SEQ_MASK
        if held_start >= end:
            break
        if held_start > start:
            _place(sk, queue, index, _part(skb, held_start - start))
            index += 1
        if held_end >= end:
            skb.consume()
            return
        _trim_front(skb, held_end - start)
        start = held_end
        index += 1
    _place(sk, queue, index, skb)


def _place(sk: TcpSock, queue: list[SKBuff], index: int, skb: SKBuff) -> None:
    sk.charge_receive(skb)
    queue.insert(index, skb)


def _part(skb: SKBuff, size: int) -> SKBuff:
    """A segment of the first `size` bytes of `skb`'s data, by reference, without its FIN."""
    part = skb.clone()
    part.seq = skb.seq
    part.end_seq = (skb.seq + size) & SEQ_MASK
    part.ack_seq = skb.ack_seq
    part.tcp_flags = skb.tcp_flags & ~FIN
    part.trim(size)
    part.truesize = size + 576
    return part


def _trim_front(skb: SKBuff, size: int) -> None:
    skb.seq = (skb.seq + size) & SEQ_MASK
    skb.pull_front(min(size, skb.len))


def ofo_queue(sk: TcpSock) -> bool:
    """A gap is filled: what follows on is in order now (Linux: tcp_ofo_queue). Returns whether no gap is left."""
    from usernet.transport.tcp.data import queue_rcv, tcp_fin

    queue = sk.ofo
    if queue is None:
        return True
    dsack_high = run_end = sk.rcv_nxt
    done = 0
    fin = False
    for index, skb in enumerate(queue):
        if after(skb.seq, sk.rcv_nxt):
            break
        done += 1
        if before(skb.seq, dsack_high) and (not index or skb.seq != run_end):
            # Linux has joined segments that touch: they are one duplicate.
            run_end = skb.end_seq
            for following in islice(queue, done, None):
                if following.seq != run_end:
                    break
                run_end = following.end_seq
            edge = dsack_high
            if before(run_end, dsack_high):
                dsack_high = edge = run_end
            dsack_extend(sk, skb.seq, edge)
        if not after(skb.end_seq, sk.rcv_nxt):
            skb.drop(DropReason.TCP_OLD_DATA, sk.net.drops)
            continue
        skb.orphan()
        fin = bool(skb.tcp_flags & FIN)
        queue_rcv(sk, skb)
        if fin:
            break
    if sk.ofo is queue:
        del queue[:done]
        if not queue:
            sk.ofo = None
    if fin:
        tcp_fin(sk)
    return not _waiting(sk)


def _waiting(sk: TcpSock) -> bool:
    return bool(sk.ofo)
