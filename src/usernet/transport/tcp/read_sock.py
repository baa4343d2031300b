"""Receiving without a copy: what lies in the receive queue is shown to someone, who says how much of it he has taken
(Linux: tcp_read_sock, by which splice and sendfile read). A channel so writes it on from where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from usernet.core.iov import Payload
from usernet.transport.tcp.const import SEQ_MASK, TCP_CLOSE, after
from usernet.transport.tcp.data import fast_path_check
from usernet.transport.tcp.recvmsg import cleanup_rbuf
from usernet.transport.tcp.window import rcv_space_adjust
from usernet.wire.tcp import FIN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def read_sock(sk: TcpSock, limit: int, actor: Callable[[list[Payload], int], int]) -> tuple[int, int]:
    """Show up to `limit` bytes to `actor`, as their pieces and their sum; it returns how many of them it has taken.

    Stops at urgent data, and steps over an urgent byte that lies in front (it is read by MSG_OOB), where it is not
    inline. Returns how many bytes were shown, 0 where there are none, and how many were taken.
    """
    if sk.urg_data:
        urgent = (sk.urg_seq - sk.copied_seq) & SEQ_MASK
        if 0 < urgent < limit:
            limit = urgent
        elif not urgent and not sk.oobinline and sk.receive_queue.first is not None:
            _eat(sk, 1)
    seq = sk.copied_seq
    pieces: list[Payload] = []
    shown = 0
    skb = sk.receive_queue.first
    while skb is not None and shown < limit:
        start = (seq - skb.seq) & SEQ_MASK
        end = min(skb.len, start + limit - shown)
        if start < end:
            pieces += skb.slice(start, end)
            shown += end - start
            seq = (seq + end - start) & SEQ_MASK
        skb = skb.next
    if not shown:
        return 0, 0
    taken = actor(pieces, shown)
    if taken > 0:
        # What was read is let go of at once: its memory, still in the cache, serves for what comes next.
        del pieces
        _eat(sk, taken)
        rcv_space_adjust(sk)
        if sk.peek_off >= 0:
            sk.peek_off = max(sk.peek_off - taken, 0)
        if sk.state != TCP_CLOSE:
            cleanup_rbuf(sk, taken)
    return shown, taken


def _eat(sk: TcpSock, size: int) -> None:
    """Take `size` bytes that are there out of the receive queue (Linux: tcp_eat_recv_skb); with the last of them, the
    FIN behind it."""
    queue = sk.receive_queue
    seq = (sk.copied_seq + size) & SEQ_MASK
    skb = queue.first
    while skb is not None:
        offset = (seq - skb.seq) & SEQ_MASK
        if offset < skb.len:
            if offset:
                skb.pull_front(offset)
                skb.seq = seq
                queue.resized(-offset)
            break
        queue.popleft()
        skb.consume()
        if skb.tcp_flags & FIN:
            seq = (seq + 1) & SEQ_MASK
            break
        skb = queue.first
    sk.copied_seq = seq
    if sk.urg_data and after(seq, sk.urg_seq):
        # The mark is behind us.
        sk.urg_data = 0
        fast_path_check(sk)
