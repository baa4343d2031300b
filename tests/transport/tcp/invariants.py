"""What must hold of a TCP socket whenever nothing runs: the counters say what the queues are."""

from __future__ import annotations

from usernet.transport.tcp.const import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    SEQ_MASK,
    STATE_NAMES,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
)
from usernet.transport.tcp.output import packets_in_flight
from usernet.transport.tcp.sock import TcpSock


def ahead(low: int, high: int) -> bool:
    """Whether `low` lies before `high`, or is the same."""
    return (high - low) & 0x80000000 == 0


def broken(sk: TcpSock) -> list[str]:
    """The invariants that don't hold, in words."""
    wrong: list[str] = []

    def same(what: str, counter: object, counted: object) -> None:
        if counter != counted:
            wrong.append(f"{what}: {counter!r}, but {counted!r} by the queues")

    if sk.state == TCP_LISTEN:
        return wrong
    _check_sending(sk, same, wrong)
    _check_receiving(sk, same, wrong)
    if sk.state == TCP_CLOSE:
        for name in ("retransmit_timer", "delack_timer", "keepalive_timer", "pacing_timer", "comp_sack_timer"):
            timer = getattr(sk, name)
            if timer is not None and timer.pending:
                wrong.append(f"{name} runs in CLOSE")
    return [f"{STATE_NAMES[sk.state]}: {line}" for line in wrong]


def _check_sending(sk: TcpSock, same, wrong: list[str]) -> None:
    rtx = list(sk.rtx_queue)
    write = list(sk.write_queue)
    same("packets_out", sk.packets_out, sum(skb.gso_segs for skb in rtx))
    if sk.sack_ok:
        same("sacked_out", sk.sacked_out, sum(skb.gso_segs for skb in rtx if skb.sacked & TCPCB_SACKED_ACKED))
    elif not 0 <= sk.sacked_out <= max(sk.packets_out, 0):
        wrong.append(f"sacked_out {sk.sacked_out} of {sk.packets_out} packets")
    same("lost_out", sk.lost_out, sum(skb.gso_segs for skb in rtx if skb.sacked & TCPCB_LOST))
    same("retrans_out", sk.retrans_out, sum(skb.gso_segs for skb in rtx if skb.sacked & TCPCB_SACKED_RETRANS))
    same("wmem_queued", sk.wmem_queued, sum(skb.truesize for skb in rtx + write))
    same("rtx_queue.bytes", sk.rtx_queue.bytes, sum(skb.len for skb in rtx))
    same("write_queue.bytes", sk.write_queue.bytes, sum(skb.len for skb in write))
    if packets_in_flight(sk) < 0:
        wrong.append(f"{packets_in_flight(sk)} packets in flight")
    if sk.sack_ok and sk.sacked_out + sk.lost_out > sk.packets_out:
        wrong.append(f"sacked {sk.sacked_out} + lost {sk.lost_out} > out {sk.packets_out}")
    if sk.snd_cwnd < 1:
        wrong.append(f"snd_cwnd {sk.snd_cwnd}")
    if sk.state != TCP_CLOSE and not (ahead(sk.snd_una, sk.snd_nxt) and ahead(sk.snd_nxt, sk.write_seq)):
        wrong.append(f"snd_una {sk.snd_una}, snd_nxt {sk.snd_nxt}, write_seq {sk.write_seq}")
    following = rtx[0].seq if rtx else None
    for skb in rtx + write:
        if following is not None and skb.seq != following:
            wrong.append(f"a gap in the queue before {skb.seq}")
        size = skb.len + bool(skb.tcp_flags & 1) + bool(skb.tcp_flags & 2)
        if (skb.end_seq - skb.seq) & SEQ_MASK != size:
            wrong.append(f"{skb.seq} to {skb.end_seq} holds {size}")
        if sum(len(part) for part in skb.frags or ()) != skb.len:
            wrong.append(f"{skb.seq}: {skb.len} bytes, but not in fragments")
        following = skb.end_seq
    if rtx:
        same("snd_nxt", sk.snd_nxt, rtx[-1].end_seq)
        if not ahead(rtx[0].seq, sk.snd_una) or ahead(rtx[0].end_seq, sk.snd_una):
            wrong.append(f"snd_una {sk.snd_una} is not in the first segment, {rtx[0].seq} to {rtx[0].end_seq}")
    if write:
        same("write_seq", sk.write_seq, write[-1].end_seq)
        same("snd_nxt", sk.snd_nxt, write[0].seq)
    # The list by time of sending: consistent, of queued segments, in order.
    listed = set()
    tx = sk.sent.first
    previous = None
    while tx is not None:
        if tx.prev is not previous or not tx.listed or id(tx.skb) in listed:
            wrong.append("the sent list is not linked as it should be")
            break
        if previous is not None and previous.mstamp > tx.mstamp:
            wrong.append("the sent list is out of order")
        listed.add(id(tx.skb))
        previous = tx
        tx = tx.next
    same("sent.last", sk.sent.last, previous)
    if stray := listed - {id(skb) for skb in rtx}:
        wrong.append(f"{len(stray)} sent segments are not in the queue")
    held = {id(skb) for skb in rtx}
    for name in ("highest_sack", "retransmit_hint"):
        skb = getattr(sk, name)
        if skb is not None and id(skb) not in held:
            # Where nothing is selectively acknowledged, the mark means nothing.
            if name == "retransmit_hint" or sk.sacked_out:
                wrong.append(f"{name} points at a segment that is gone")
    if rtx and not (
        sk.icsk_pending in (ICSK_TIME_RETRANS, ICSK_TIME_LOSS_PROBE, ICSK_TIME_REO_TIMEOUT)
        and sk.retransmit_timer.pending
    ):
        wrong.append(f"packets are out, but no timer runs (pending {sk.icsk_pending})")
    if sk.wmem_alloc < 0:
        wrong.append(f"wmem_alloc {sk.wmem_alloc}")


def _check_receiving(sk: TcpSock, same, wrong: list[str]) -> None:
    held = list(sk.receive_queue)
    ofo = list(sk.ofo or ())
    same("rmem_alloc", sk.rmem_alloc, sum(skb.truesize for skb in held + ofo))
    if sk.state in (TCP_CLOSE, TCP_SYN_SENT):
        return
    previous = sk.rcv_nxt
    for skb in ofo:
        if not ahead(previous, skb.seq) or skb.seq == sk.rcv_nxt:
            wrong.append(f"out of order: {skb.seq} behind {previous}")
        previous = skb.end_seq
    if held and not sk.dead:
        same("rcv_nxt", sk.rcv_nxt, held[-1].end_seq)
        following = held[0].seq
        for skb in held:
            # It may begin before: what overlaps is skipped when it is read.
            if not ahead(skb.seq, following):
                wrong.append(f"a gap in the receive queue before {skb.seq}")
            following = skb.end_seq
        if not (ahead(held[0].seq, sk.copied_seq) and ahead(sk.copied_seq, sk.rcv_nxt)):
            wrong.append(f"copied_seq {sk.copied_seq}: receive queue from {held[0].seq} to {sk.rcv_nxt}")
    for start, end in sk.selective_acks:
        if not ahead(sk.rcv_nxt, start) or ahead(end, start):
            wrong.append(f"SACK block {start} to {end}, expected {sk.rcv_nxt}")
