"""Selective acknowledgements: marking what the peer has (Linux: tcp_sacktag_write_queue).

RFC 2018 (SACK), RFC 2883 (D-SACK: the first block reports a duplicate). Blocks that can't be true are ignored and
counted. What an earlier acknowledgement reported already is skipped by comparing with its blocks, so an acknowledgement
costs what it brings news of, not what is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import (
    FLAG_DATA_SACKED,
    FLAG_DSACK_TLP,
    FLAG_DSACKING_ACK,
    FLAG_ORIG_SACK_ACKED,
    SEQ_MASK,
    TCP_CA_LOSS,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)
from usernet.transport.tcp.rack import rack_advance
from usernet.transport.tcp.rate import RateSample, rate_skb_delivered
from usernet.transport.tcp.segment import TxInfo, fragment, wqueue_too_big

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

Block = tuple[int, int]


@final
class SackState:
    """What is gathered while an acknowledgement is processed (Linux: tcp_sacktag_state). Times in ns, 0 for none."""

    __slots__ = ("delivered_bytes", "first_sackt", "flag", "last_sackt", "rate", "reord", "sack_delivered")

    def __init__(self, rate: RateSample) -> None:
        self.flag: int = 0
        self.reord: int = 0
        self.first_sackt: int = 0
        self.last_sackt: int = 0
        self.sack_delivered: int = 0
        self.delivered_bytes: int = 0
        self.rate = rate


def highest_sack_seq(sk: TcpSock) -> int:
    """The sequence number behind the highest that was selectively acknowledged (Linux: tcp_highest_sack_seq)."""
    if not sk.sacked_out:
        return sk.snd_una
    if sk.highest_sack is None:
        return sk.snd_nxt
    return sk.highest_sack.seq


def check_sack_reordering(sk: TcpSock, low_seq: int, by_time_stamp: bool) -> None:
    """A segment at `low_seq` came after one sent later: remember how far packets overtake one another."""
    fack = highest_sack_seq(sk)
    if not before(low_seq, fack):
        return
    mss = sk.mss_cache
    metric = (fack - low_seq) & SEQ_MASK
    if metric > sk.reordering * mss:
        sk.reordering = min(-(-metric // mss), sk.tcp.tcp_max_reordering)
    sk.reord_seen += 1
    mib = sk.net.mib.tcp_ext
    if by_time_stamp:
        mib.TCPTSReorder += 1
    else:
        mib.TCPSACKReorder += 1


def _block_valid(sk: TcpSock, is_dsack: bool, start: int, end: int) -> bool:
    """Whether a block can be true (Linux: tcp_is_sackblock_valid)."""
    if after(end, sk.snd_nxt) or not before(start, end):
        return False
    if not before(start, sk.snd_nxt):
        return False
    # In outstanding window: the usual case.
    if after(start, sk.snd_una):
        return True
    if not is_dsack or not sk.undo_active:
        return False
    # A D-SACK of what is acknowledged: only as far back as the undo state reaches.
    if after(end, sk.snd_una):
        return False
    if not before(start, sk.undo_marker):
        return True
    if not after(end, sk.undo_marker):
        return False
    return not before(start, (end - sk.max_window) & SEQ_MASK)


def _check_dsack(sk: TcpSock, ack: int, blocks: list[Block], prior_snd_una: int, state: SackState) -> bool:
    """Whether the first block reports a duplicate (RFC 2883; Linux: tcp_check_dsack)."""
    start, end = blocks[0]
    mib = sk.net.mib.tcp_ext
    if before(start, ack):
        mib.TCPDSACKRecv += 1
    elif len(blocks) > 1 and not after(end, blocks[1][1]) and not before(start, blocks[1][0]):
        mib.TCPDSACKOfoRecv += 1
    else:
        return False
    segments = _dsack_seen(sk, start, end, state)
    if not segments:
        mib.TCPDSACKIgnoredDubious += 1
        return False
    mib.TCPDSACKRecvSegs += segments
    # The duplicate may be of the very retransmission that an undo waits for.
    if sk.undo_active and sk.undo_retrans > 0 and not after(end, prior_snd_una) and after(end, sk.undo_marker):
        sk.undo_retrans = max(0, sk.undo_retrans - segments)
    return True


def _dsack_seen(sk: TcpSock, start: int, end: int, state: SackState) -> int:
    """Account a D-SACK; returns how many segments it is for, 0 where it can't be true (Linux: tcp_dsack_seen)."""
    if not before(start, end):
        return 0
    size = (end - start) & SEQ_MASK
    if size > sk.max_window:
        return 0
    segments = 1
    if size > sk.mss_cache:
        segments = -(-size // sk.mss_cache)
    elif sk.tlp_high_seq and sk.tlp_high_seq == end:
        # A probe's duplicate says that the probe was needless, and no more.
        state.flag |= FLAG_DSACK_TLP
    sk.dsack_dups += segments
    # More duplicates than retransmissions: the network duplicates, or the peer lies.
    if sk.dsack_dups > sk.total_retrans:
        return 0
    if sk.reord_seen and not state.flag & FLAG_DSACK_TLP:
        # RACK was too hasty. It isn't what a network without reordering shows.
        sk.own_rack_reo().dsack_seen = True
    state.flag |= FLAG_DSACKING_ACK
    # The needless retransmission was delivered.
    state.sack_delivered += segments
    return segments


def _tag(sk: TcpSock, skb: SKBuff, dup_sack: bool, state: SackState) -> None:
    """A block covers `skb`: mark it (Linux: tcp_sacktag_one)."""
    sacked = skb.sacked
    count = skb.gso_segs
    start = skb.seq
    end = skb.end_seq
    tx: TxInfo = skb.tx
    if dup_sack and sacked & TCPCB_RETRANS:
        if sk.undo_active and sk.undo_retrans > 0 and after(end, sk.undo_marker):
            sk.undo_retrans = max(0, sk.undo_retrans - count)
        if sacked & TCPCB_SACKED_ACKED and before(start, state.reord):
            state.reord = start
    if not after(end, sk.snd_una):
        return
    if not sacked & TCPCB_SACKED_ACKED:
        rack_advance(sk, sacked, end, tx.mstamp)
        if sacked & TCPCB_SACKED_RETRANS:
            # Not marked lost: the retransmission is believed to be in flight still.
            if sacked & TCPCB_LOST:
                sacked &= ~(TCPCB_LOST | TCPCB_SACKED_RETRANS)
                sk.lost_out -= count
                sk.retrans_out -= count
        else:
            if not sacked & TCPCB_RETRANS:
                # New, never retransmitted, and below the highest: it was overtaken.
                if before(start, highest_sack_seq(sk)) and before(start, state.reord):
                    state.reord = start
                if not after(end, sk.high_seq):
                    state.flag |= FLAG_ORIG_SACK_ACKED
                if not state.first_sackt:
                    state.first_sackt = tx.mstamp
                state.last_sackt = tx.mstamp
            if sacked & TCPCB_LOST:
                sacked &= ~TCPCB_LOST
                sk.lost_out -= count
        sacked |= TCPCB_SACKED_ACKED
        state.flag |= FLAG_DATA_SACKED
        sk.sacked_out += count
        state.sack_delivered += count
        state.delivered_bytes += skb.len
        sk.sent.remove(tx)
    if dup_sack and sacked & TCPCB_SACKED_RETRANS:
        sacked &= ~TCPCB_SACKED_RETRANS
        sk.retrans_out -= count
    skb.sacked = sacked
    rate_skb_delivered(sk, skb, state.rate)
    if not before(start, highest_sack_seq(sk)):
        sk.highest_sack = skb.next


def _covered(sk: TcpSock, skb: SKBuff, start: int, end: int) -> bool:
    """Whether the block covers `skb`; a super-segment covered in part is split at whole segments first (Linux:
    tcp_match_skb_to_sack)."""
    in_sack = not after(start, skb.seq) and not before(end, skb.end_seq)
    if in_sack or skb.gso_segs <= 1 or not after(skb.end_seq, start):
        return in_sack
    mss = skb.gso_size
    in_sack = not after(start, skb.seq)
    if not in_sack:
        size = max((start - skb.seq) & SEQ_MASK, mss)
    else:
        size = (end - skb.seq) & SEQ_MASK
        if size < mss:
            return False
    if size > mss:
        whole = size // mss * mss
        if not in_sack and whole < size:
            whole += mss
        size = whole
    if (size >= skb.len and not in_sack) or wqueue_too_big(sk, skb):
        return False
    fragment(sk, sk.rtx_queue, skb, size, mss)
    return in_sack


def _walk(sk: TcpSock, skb: SKBuff | None, start: int, end: int, dup_sack: bool, state: SackState) -> SKBuff | None:
    """Mark what lies within the block, from `skb` on; returns where it ended."""
    while skb is not None and not after(skb.end_seq, start):
        skb = skb.next
    while skb is not None and before(skb.seq, end):
        if _covered(sk, skb, start, end):
            _tag(sk, skb, dup_sack, state)
        skb = skb.next
    return skb


def sacktag_write_queue(sk: TcpSock, ack: int, reported: list[Block], prior_snd_una: int, state: SackState) -> int:
    """Process the blocks of an acknowledgement; returns FLAG_* (Linux: tcp_sacktag_write_queue)."""
    state.flag = 0
    state.reord = sk.snd_nxt
    if not sk.sacked_out:
        sk.highest_sack = sk.rtx_queue.first
        sk.recv_sack_cache = ()
    found_dup = _check_dsack(sk, ack, reported, prior_snd_una, state)
    # Before the window of what may have been sent: nothing to learn.
    if before(ack, (prior_snd_una - sk.max_window) & SEQ_MASK):
        return 0
    if sk.packets_out:
        _process_blocks(sk, ack, reported, prior_snd_una, found_dup, state)
    return state.flag


def _process_blocks(
    sk: TcpSock, ack: int, reported: list[Block], prior_snd_una: int, found_dup: bool, state: SackState
) -> None:
    mib = sk.net.mib.tcp_ext
    blocks: list[tuple[Block, bool]] = []
    for index, (start, end) in enumerate(reported):
        dup = found_dup and index == 0
        if not _block_valid(sk, dup, start, end):
            if dup:
                if sk.undo_active:
                    mib.TCPDSACKIgnoredOld += 1
                else:
                    mib.TCPDSACKIgnoredNoUndo += 1
            elif ack == sk.snd_una or after(end, sk.snd_una):
                # Not merely an old report that was overtaken.
                mib.TCPSACKDiscard += 1
            continue
        if not after(end, prior_snd_una):
            continue
        blocks.append(((start, end), dup))
    base = sk.snd_una
    blocks.sort(key=lambda item: (item[0][0] - base) & SEQ_MASK)
    cache = sk.recv_sack_cache
    fresh: list[Block] = []
    for (start, end), dup in blocks:
        if dup:
            _walk(sk, sk.rtx_queue.first, start, end, True, state)
            continue
        fresh.append((start, end))
        # Skip what the last acknowledgement reported: what it covered is marked.
        for known_start, known_end in cache:
            if not after(known_start, start) and after(known_end, start):
                start = known_end
                break
        if not before(start, end):
            continue
        first = sk.rtx_queue.first
        highest = sk.highest_sack
        if sk.sacked_out and highest is not None and not before(start, highest.seq):
            first = highest
        _walk(sk, first, start, end, False, state)
    sk.recv_sack_cache = fresh
    if sk.ca_state != TCP_CA_LOSS or sk.undo_active:
        check_sack_reordering(sk, state.reord, False)
