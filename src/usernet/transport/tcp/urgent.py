"""Urgent data: the pointer, and the byte before it (RFC 9293 section 3.8.5, RFC 6093; Linux: tcp_urg)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import SEQ_MASK, TCP_URG_NOTYET, TCP_URG_VALID, after, before
from usernet.wire.tcp import SYN, URG

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def _check_urg(sk: TcpSock, skb: SKBuff, urg_ptr: int) -> None:
    """A segment with an urgent pointer (RFC 6093; Linux: tcp_check_urg): it points behind the urgent byte."""
    pointer = urg_ptr
    if pointer and not sk.tcp.tcp_stdurg:
        pointer -= 1
    pointer = (pointer + skb.seq) & SEQ_MASK
    if after(sk.copied_seq, pointer) or before(pointer, sk.rcv_nxt):
        return
    if sk.urg_data and not after(pointer, sk.urg_seq):
        return
    sk.send_sigurg()
    # An urgent byte that was not read becomes ordinary data: skip it, as the reader was told it is out of band.
    if sk.urg_seq == sk.copied_seq and sk.urg_data and not sk.oobinline and sk.copied_seq != sk.rcv_nxt:
        first = sk.receive_queue.first
        sk.copied_seq = (sk.copied_seq + 1) & SEQ_MASK
        if first is not None and not before(sk.copied_seq, first.end_seq):
            sk.receive_queue.popleft()
            first.consume()
    sk.urg_data = TCP_URG_NOTYET
    sk.urg_seq = pointer
    sk.pred_ok = False


def urg(sk: TcpSock, skb: SKBuff, doff: int, urg_ptr: int) -> None:
    """Look at a segment's urgent pointer, and keep the urgent byte if it is in it (Linux: tcp_urg)."""
    if skb.tcp_flags & URG:
        _check_urg(sk, skb, urg_ptr)
    if sk.urg_data == TCP_URG_NOTYET:
        position = (sk.urg_seq - skb.seq) & SEQ_MASK
        if skb.tcp_flags & SYN:
            position -= 1
        position += doff
        if doff <= position < skb.len:
            sk.urg_data = TCP_URG_VALID | skb.slice(position, position + 1)[0][0]
            if not sk.dead:
                sk.data_ready()
