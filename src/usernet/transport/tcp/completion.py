"""What the application wants to be told of the data it sent: when it was queued, sent and acknowledged, and that its
memory is free again (Linux: tcp_tx_timestamp, tcp_ack_tstamp, and what tcp_output.c does with skb_zcopy and tskey).

Few segments have any of it, so all stands in a `TxMark` of its own, which hangs on the segment's `TxInfo`; `tx_marks`
of the socket says whether it ever had one, and everything else passes by.

A time stamp is of one byte, the last of a call, by its sequence number. So when a segment is split, the mark goes with
the byte, and when two are joined, the later byte's mark counts. A report of MSG_ZEROCOPY is of memory: both halves hold
it, and segments that have one are not joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.core.iov import Payload
from usernet.core.wait import Blocking
from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.sockopt import SOF_TIMESTAMPING_TX_ACK, SOF_TIMESTAMPING_TX_RECORD_MASK
from usernet.sock.timestamping import SCM_TSTAMP_ACK, tstamp_tx, tx_flags
from usernet.sock.zerocopy import UbufInfo, page_size
from usernet.transport.tcp.const import SEQ_MASK, before
from usernet.wire.tcp import PSH

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


ZEROCOPY_FRAGS: Final = 17
"""Fragments of a segment with MSG_ZEROCOPY (Linux: MAX_SKB_FRAGS)."""


@final
class TxMark:
    """tx_flags: SKBTX_* for each packet of the segment. ack: whether to tell when byte `tskey` is acknowledged.
    stamped: whether there is any time stamp to be taken. uarg: the report that waits for the segment's memory."""

    __slots__ = ("ack", "stamped", "tskey", "tx_flags", "uarg")

    def __init__(self) -> None:
        self.tx_flags: int = 0
        self.ack: bool = False
        self.stamped: bool = False
        self.tskey: int = 0
        self.uarg: UbufInfo | None = None


def mark_of(sk: TcpSock, skb: SKBuff) -> TxMark:
    """The mark of a queued segment, a new one where it has none."""
    mark: TxMark | None = skb.tx.mark
    if mark is None:
        mark = skb.tx.mark = TxMark()
        sk.tx_marks = True
    return mark


def uarg_of(skb: SKBuff | None) -> UbufInfo | None:
    """The report that waits for a segment (Linux: skb_zcopy)."""
    mark: TxMark | None = skb.tx.mark if skb is not None else None
    return mark.uarg if mark is not None else None


def hold(sk: TcpSock, skb: SKBuff, uarg: UbufInfo, copied: bool) -> None:
    """Data of `uarg` is in the segment (Linux: skb_zcopy_set). copied: whether it was copied on its way there."""
    mark = mark_of(sk, skb)
    if mark.uarg is None:
        mark.uarg = uarg
        uarg.get()
    if copied:
        uarg.zerocopy = False


def takes_zerocopy(sk: TcpSock, skb: SKBuff, uarg: UbufInfo) -> bool:
    """Whether a segment takes more data of `uarg`: each piece of the application's memory is a fragment, of which there
    are only so many, and a segment has one report (Linux: skb_zerocopy_iter_stream)."""
    if (len(skb.frags) if skb.frags is not None else 0) >= ZEROCOPY_FRAGS or uarg_of(skb) not in (None, uarg):
        skb.tcp_flags |= PSH
        sk.pushed_seq = sk.write_seq
        return False
    return True


def add_zerocopy(sk: TcpSock, skb: SKBuff, data: Payload, uarg: UbufInfo, referenced: bool) -> int:
    """Append a piece of the application's memory. Returns what it keeps from other use, which is whole pages.

    referenced: whether it is that memory, and not a copy of it.
    """
    skb.add_frag(data)
    skb.cb = -1
    size = len(data)
    memory = page_size(size)
    skb.truesize += memory - size
    hold(sk, skb, uarg, not referenced)
    return memory


def tx_timestamp(sk: TcpSock, tsflags: int) -> None:
    """A call has queued all it could: its last byte is the one to be told of (Linux: tcp_tx_timestamp)."""
    if not tsflags & SOF_TIMESTAMPING_TX_RECORD_MASK:
        return
    skb = sk.write_queue.last or sk.rtx_queue.last
    if skb is None:
        return
    mark = mark_of(sk, skb)
    mark.tx_flags |= tx_flags(tsflags)
    mark.ack = mark.ack or bool(tsflags & SOF_TIMESTAMPING_TX_ACK)
    mark.stamped = bool(mark.tx_flags) or mark.ack
    mark.tskey = (skb.seq + skb.len - 1) & SEQ_MASK


def attach(mark: TxMark, packet: SKBuff, scatter_gather: bool, loopback: bool) -> None:
    """A packet of the segment leaves, by a device with or without these properties."""
    packet.tx_flags = mark.tx_flags
    packet.tskey = mark.tskey
    uarg = mark.uarg
    if uarg is not None and (loopback or not scatter_gather):
        uarg.zerocopy = False


def split(sk: TcpSock, skb: SKBuff, rest: SKBuff) -> None:
    """A segment was cut in two (Linux: tcp_fragment_tstamp, skb_zerocopy_clone)."""
    mark: TxMark = skb.tx.mark
    if mark.stamped and not before(mark.tskey, rest.seq):
        later = mark_of(sk, rest)
        later.tx_flags, mark.tx_flags = mark.tx_flags, 0
        later.ack, mark.ack = mark.ack, False
        later.stamped, mark.stamped = True, False
        later.tskey = mark.tskey
    if mark.uarg is not None:
        mark_of(sk, rest).uarg = mark.uarg
        mark.uarg.get()


def joined(sk: TcpSock, skb: SKBuff, following: SKBuff) -> None:
    """The data of `following` is in `skb` now (Linux: tcp_skb_collapse_tstamp)."""
    mark: TxMark | None = following.tx.mark
    if mark is None or not mark.stamped:
        return
    ours = mark_of(sk, skb)
    ours.tx_flags |= mark.tx_flags
    ours.ack = ours.ack or mark.ack
    ours.stamped = True
    ours.tskey = mark.tskey


def moved(sk: TcpSock, skb: SKBuff, old: SKBuff) -> None:
    """All of `old`, which is in no queue any more, is in `skb` now."""
    joined(sk, skb, old)
    uarg = uarg_of(old)
    if uarg is not None:
        hold(sk, skb, uarg, False)
        freed(old)


def acknowledged(sk: TcpSock, skb: SKBuff, ack_skb: SKBuff, prior_snd_una: int) -> None:
    """`snd_una` has moved into the segment, or past it: report, where the byte asked about is behind it now (Linux:
    tcp_ack_tstamp)."""
    mark: TxMark | None = skb.tx.mark
    if mark is None or not mark.ack:
        return
    if not before(mark.tskey, prior_snd_una) and before(mark.tskey, sk.snd_una):
        skb.tskey = mark.tskey
        tstamp_tx(sk, skb, SCM_TSTAMP_ACK, ack_skb)


def freed(skb: SKBuff) -> None:
    """The segment is in no queue any more (Linux: skb_zcopy_clear)."""
    mark: TxMark | None = skb.tx.mark
    if mark is not None and mark.uarg is not None:
        uarg, mark.uarg = mark.uarg, None
        uarg.put()


def freed_all(queue: SKBuffQueue) -> None:
    """All of a queue is given up."""
    for skb in queue:
        freed(skb)


def finish(uarg: UbufInfo, call: Blocking[int]) -> Blocking[int]:
    """The rest of a call with MSG_ZEROCOPY, which has to wait."""
    try:
        sent = yield from call
    except OSError:
        uarg.abort()
        raise
    except BaseException:
        uarg.put()
        raise
    uarg.put()
    return sent
