"""What a receiver does when its buffer is full, and how it keeps small segments from filling it.

    can_ingest       is there room for a segment
    prune_queue      there is none: let the buffer grow if it may, then copy what is held into as little memory as
                     possible, then throw away what is out of order, from the end
    try_coalesce     a small segment goes behind the one before it

Linux: tcp_try_rmem_schedule, tcp_prune_queue, tcp_collapse, tcp_prune_ofo_queue, tcp_try_coalesce. Between `data`,
`ofo` and `window`. The account is in memory (`truesize`), and may go over the limit by one segment: a peer that keeps
to the window it was granted is not dropped because its segments are wasteful.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import SEQ_MASK, after, before
from usernet.transport.tcp.window import clamp_window, win_from_space
from usernet.wire.tcp import FIN, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

_SKB: Final = 256  # sizeof(struct sk_buff), aligned
_SHARED_INFO: Final = 320  # sizeof(struct skb_shared_info)
_PIECE: Final = 4096 - _SHARED_INFO  # SKB_MAX_ORDER(0, 0): the payload of a packet in one page
_SLABS: Final = (576, 1024, 2048, 4096)


def can_ingest(sk: TcpSock) -> bool:
    """Whether there is room for one more segment (Linux: tcp_try_rmem_schedule)."""
    return sk.rmem_alloc <= sk.rcvbuf


def prune_queue(sk: TcpSock, skb: SKBuff) -> bool:
    """Make room for `skb`, for which there is none. False where that can't be (Linux: tcp_prune_queue)."""
    if not sk.rmem_alloc:
        return False
    mib = sk.net.mib.tcp_ext
    mib.PruneCalled += 1
    clamp_window(sk)
    if can_ingest(sk):
        return True
    if sk.ofo:
        _collapse_ofo(sk)
    if sk.receive_queue.first is not None:
        held = list(sk.receive_queue)
        kept = collapse(sk, held, sk.copied_seq)
        if kept is not None:
            sk.receive_queue.take()
            for piece in kept:
                sk.receive_queue.append(piece)
    if can_ingest(sk):
        return True
    _prune_ofo_queue(sk, skb)
    if can_ingest(sk):
        return True
    mib.RcvPruned += 1
    sk.pred_ok = False
    return False


def _collapse_ofo(sk: TcpSock) -> None:
    """Each run of out-of-order segments for itself, where that promises something (Linux: tcp_collapse_ofo_queue)."""
    queue = sk.ofo
    if not queue:
        return
    kept: list[SKBuff] = []
    small = 0
    for run in _runs(queue):
        if len(run) > 1 or run[0].len >= _PIECE:
            kept += collapse(sk, run, run[0].seq) or run
            continue
        # One small segment for itself is not worth the copying, nor many of them the search for the others.
        kept += run
        small += run[0].truesize
        if small > sk.rcvbuf >> 3:
            break
    end = kept[-1].seq
    queue[:] = kept + [skb for skb in queue if after(skb.seq, end)]


def _runs(queue: Iterable[SKBuff]) -> Iterator[list[SKBuff]]:
    """Segments that follow on each other."""
    run: list[SKBuff] = []
    for skb in queue:
        if run and skb.seq != run[-1].end_seq:
            yield run
            run = []
        run.append(skb)
    if run:
        yield run


def _collapsed(length: int) -> int:
    """The memory of a packet that is made for up to a page of payload (Linux: SKB_TRUESIZE, after kmalloc)."""
    needed = min(length, _PIECE) + _SHARED_INFO
    return next((slab for slab in _SLABS if needed <= slab), _SLABS[-1]) + _SKB


def collapse(sk: TcpSock, held: list[SKBuff], start: int) -> list[SKBuff] | None:
    """Copy segments that follow on each other into packets of a page each (Linux: tcp_collapse).

    Args:
        sk: whose account they are on.
        held: the segments, in order. Those that are copied are used up.
        start: what is before it was read already.

    Returns:
        What takes their place, charged; None where there is nothing to win.
    """
    first = 0
    while first < len(held):
        skb = held[first]
        plain = not skb.tcp_flags & (SYN | FIN)
        if plain and (win_from_space(sk, skb.truesize) > skb.len or before(skb.seq, start)):
            break  # bloated
        start = skb.end_seq
        first += 1
    else:
        return None
    end = next((i for i in range(first, len(held)) if held[i].tcp_flags & (SYN | FIN)), len(held))
    if end == first:
        return None
    joined: list[bytes] = []
    seq = start
    tstamp = held[end - 1].tstamp
    for skb in held[first:end]:
        joined.append(skb.tobytes()[(start - skb.seq) & SEQ_MASK :])
        start = skb.end_seq
        sk.net.mib.tcp_ext.TCPRcvCollapsed += 1
        skb.consume()
    data = b"".join(joined)
    kept = held[:first]
    for at in range(0, len(data), _PIECE):
        piece = SKBuff(data[at : at + _PIECE])
        piece.seq = piece.ack_seq = (seq + at) & SEQ_MASK
        piece.end_seq = (piece.seq + piece.len) & SEQ_MASK
        piece.tcp_flags = 0
        piece.tstamp = tstamp
        piece.truesize = _collapsed(len(data) - at)
        sk.charge_receive(piece)
        kept.append(piece)
    return kept + held[end:]


def _prune_ofo_queue(sk: TcpSock, skb: SKBuff) -> None:
    """Throw away out-of-order segments from the end, an eighth of the buffer at a time, and never what lies before the
    segment there is to be room for (Linux: tcp_prune_ofo_queue)."""
    queue = sk.ofo
    if not queue:
        return
    goal = sk.rcvbuf >> 3
    pruned = False
    while queue and not after(skb.seq, queue[-1].seq):
        victim = queue.pop()
        goal -= victim.truesize
        victim.drop(DropReason.TCP_OFO_QUEUE_PRUNE, sk.net.drops)
        pruned = True
        if goal <= 0 or not queue:
            if can_ingest(sk):
                break
            goal = sk.rcvbuf >> 3
    if pruned:
        sk.net.mib.tcp_ext.OfoPruned += 1
        # All blocks are void: the peer must not rely on what was thrown away.
        sk.selective_acks = ()
        if not queue:
            sk.ofo = None


def try_coalesce(sk: TcpSock, to: SKBuff, skb: SKBuff) -> bool:
    """Put a small segment's payload behind that of the one before it, so that it takes no more memory than its bytes
    (Linux: tcp_try_coalesce). True where it is done, and `skb` is used up."""
    if (
        skb.seq != to.end_seq
        or (skb.tcp_flags | to.tcp_flags) & FIN
        or to.data_len
        or to.len + skb.len > _PIECE
        or not sk.tcp.rcv_coalesce
    ):
        return False
    added = skb.tobytes()
    to.head = to.head[: to.tail] + added
    to.tail += len(added)
    to.len += len(added)
    if to.queue is not None:
        to.queue.resized(len(added))
    to.truesize += len(added)
    sk.rmem_alloc += len(added)
    to.end_seq = skb.end_seq
    to.ack_seq = skb.ack_seq
    to.tcp_flags |= skb.tcp_flags
    to.tstamp = skb.tstamp
    sk.net.mib.tcp_ext.TCPRcvCoalesce += 1
    skb.consume()
    return True
