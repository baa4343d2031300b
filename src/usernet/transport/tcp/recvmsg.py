"""Receiving: from the receive queue to the application's memory (Linux: tcp_recvmsg_locked, tcp_cleanup_rbuf)."""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.core.iov import IovIter
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, BlockedCall, Wait
from usernet.sock.datagram import receive_error
from usernet.sock.msg import (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    RCV_SHUTDOWN,
    MsgHdr,
)
from usernet.sock.timestamping import recv_timestamp
from usernet.transport.tcp.const import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_URG_READ,
    TCP_URG_VALID,
    after,
)
from usernet.transport.tcp.transmit import send_ack
from usernet.transport.tcp.window import choose_window, rcv_space_adjust, receive_window
from usernet.wire.tcp import FIN

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock

SOL_TCP: Final = 6
TCP_CM_INQ: Final = 36
SIOCINQ: Final = 0x541B
SIOCOUTQ: Final = 0x5411
SIOCOUTQNSD: Final = 0x894B
SIOCATMARK: Final = 0x8905
_INT: Final = Struct("=i")


SMALL_PIECE: Final = 4096
"""Up to so many bytes, pieces are joined before they are copied: one more copy costs less than a call for each."""


def cleanup_rbuf(sk: TcpSock, copied: int) -> None:
    """The application read: tell the peer, if there is something worth telling (Linux: tcp_cleanup_rbuf)."""
    send = False
    pending = sk.ack_pending
    if pending & ICSK_ACK_SCHED:
        if (sk.rcv_nxt - sk.rcv_wup) & SEQ_MASK > sk.rcv_mss or (
            copied > 0
            and (pending & ICSK_ACK_PUSHED2 or (pending & ICSK_ACK_PUSHED and not sk.in_pingpong()))
            and not sk.rmem_alloc
        ):
            send = True
    if copied > 0 and not send and not sk.shutdown_mask & RCV_SHUTDOWN:
        window = receive_window(sk)
        # Only a window that doubles is worth a segment of its own.
        if 2 * window <= sk.window_clamp:
            new = choose_window(sk)
            if new and new >= 2 * window:
                send = True
    if send:
        send_ack(sk)


def _move(sk: TcpSock, sink: IovIter, wanted: int) -> tuple[int, int, bool]:
    """`_copy` from `copied_seq` on, for a call and a socket with nothing out of the ordinary."""
    queue = sk.receive_queue
    seq = sk.copied_seq
    left = wanted
    try:
        while left and (skb := queue.first) is not None:
            offset = (seq - skb.seq) & SEQ_MASK
            length = skb.len - offset
            if length > left:
                _copy_out(sink, skb, offset, left)
                # What was read is let go of at once: its memory, still in the cache, serves for what comes next.
                skb.pull_front(offset + left)
                queue.resized(-offset - left)
                skb.seq = seq = (seq + left) & SEQ_MASK
                return wanted, seq, False
            if length > 0:
                _copy_out(sink, skb, offset, length)
                seq = (seq + length) & SEQ_MASK
                left -= length
            queue.popleft()
            skb.consume()
            if skb.tcp_flags & FIN:
                sk.copied_seq = seq
                return wanted - left, (seq + 1) & SEQ_MASK, True
    except OSError:
        if left == wanted:
            raise
        # The application's memory ends here (EFAULT). What it has got counts.
        return wanted - left, seq, True
    return wanted - left, seq, False


def _copy(sk: TcpSock, msg: MsgHdr, flags: int, wanted: int, seq: int) -> tuple[int, int, bool]:
    """Copy from the queue, from sequence number `seq` on, up to `wanted` bytes.

    Returns how much, the sequence number behind it, and whether to stop there: at the FIN, or at the urgent mark.
    """
    queue = sk.receive_queue
    peek = flags & MSG_PEEK
    trunc = flags & MSG_TRUNC
    sink = msg.iter
    copied = 0
    stamps = sk.rcvtstamp or sk.tsflags
    skb = queue.first
    while skb is not None:
        following = skb.next
        if sk.urg_data and sk.urg_seq == seq and copied:
            return copied, seq, True
        offset = (seq - skb.seq) & SEQ_MASK
        length = skb.len
        if offset < length and wanted:
            used = min(length - offset, wanted)
            if sk.urg_data:
                urgent = (sk.urg_seq - seq) & SEQ_MASK
                if urgent < used:
                    if not urgent:
                        if not sk.oobinline:
                            # The urgent byte is out of band: step over it.
                            seq = (seq + 1) & SEQ_MASK
                            offset += 1
                            used -= 1
                    else:
                        used = urgent
            if used:
                if not trunc:
                    _copy_out(sink, skb, offset, used)
                seq = (seq + used) & SEQ_MASK
                copied += used
                wanted -= used
                offset += used
                if stamps:
                    # Of several packets read from, the last one's counts.
                    sk.read_stamp = skb.tstamp
        if sk.urg_data and not peek and after(seq, sk.urg_seq):
            # The mark is behind us.
            sk.urg_data = 0
            sk.pred_ok = not sk.ofo and sk.rcv_wnd > 0 and not sk.ecn_flags & 16
        if offset < length:
            if not peek and offset:
                # What was read is let go of at once: its memory, still in the cache, serves for what comes next.
                skb.pull_front(offset)
                skb.seq = seq
                queue.resized(-offset)
            return copied, seq, False
        if skb.tcp_flags & FIN:
            if not peek:
                sk.copied_seq = seq
                seq = (seq + 1) & SEQ_MASK
                queue.popleft()
                skb.consume()
            return copied, seq, True
        if not peek:
            queue.popleft()
            skb.consume()
        if not wanted:
            break
        skb = following
    return copied, seq, False


def _copy_out(sink: IovIter, skb: SKBuff, offset: int, size: int) -> None:
    """Copy `size` bytes of a packet's, from `offset` on, to the application (Linux: skb_copy_datagram_msg)."""
    linear = skb.len - skb.data_len
    if offset < linear:
        start = skb.data + offset
        take = min(linear - offset, size)
        if take <= SMALL_PIECE:
            sink.write(skb.head[start : start + take])
        else:
            sink.write(memoryview(skb.head)[start : start + take])
        size -= take
        offset = 0
    else:
        offset -= linear
    frags = skb.frags or []
    count = len(frags)
    index = 0
    while size and index < count:
        frag = frags[index]
        length = len(frag)
        index += 1
        if offset >= length:
            offset -= length
        elif offset or length > size:
            take = min(length - offset, size)
            sink.write(memoryview(frag)[offset : offset + take])
            size -= take
            offset = 0
        elif length > SMALL_PIECE:
            sink.write(frag)
            size -= length
        else:
            start = index - 1
            taken = length
            while index < count and (length := len(frags[index])) <= size - taken and length <= SMALL_PIECE:
                taken += length
                index += 1
            sink.write(frag if index - start == 1 else b"".join(frags[start:index]))
            size -= taken


def _take(sk: TcpSock, msg: MsgHdr, flags: int, wanted: int) -> tuple[int, bool]:
    """One attempt: returns how much was read, and whether to stop."""
    if flags & MSG_PEEK:
        offset = max(sk.peek_off, 0)
        copied, _, stop = _copy(sk, msg, flags, wanted, (sk.copied_seq + offset) & SEQ_MASK)
        if sk.peek_off >= 0:
            sk.peek_off += copied
        return copied, stop
    if flags & MSG_TRUNC or sk.urg_data or sk.rcvtstamp or sk.tsflags or not wanted:
        copied, seq, stop = _copy(sk, msg, flags, wanted, sk.copied_seq)
    else:
        copied, seq, stop = _move(sk, msg.iter, wanted)
    sk.copied_seq = seq
    if copied:
        rcv_space_adjust(sk)
        if sk.peek_off >= 0:
            sk.peek_off = max(sk.peek_off - copied, 0)
    return copied, stop


def _recv_urg(sk: TcpSock, msg: MsgHdr, flags: int) -> int:
    """MSG_OOB: the urgent byte (Linux: tcp_recv_urg)."""
    if sk.oobinline or not sk.urg_data or sk.urg_data == TCP_URG_READ:
        raise error(errno.EINVAL)
    if sk.state == TCP_CLOSE and not sk.err:
        raise error(errno.ENOTCONN)
    if sk.urg_data & TCP_URG_VALID:
        byte = bytes([sk.urg_data & 0xFF])
        if not flags & MSG_PEEK:
            sk.urg_data = TCP_URG_READ
        msg.flags |= MSG_OOB
        if msg.iter.length:
            if not flags & MSG_TRUNC:
                msg.iter.write(byte)
            return 1
        msg.flags |= MSG_TRUNC
        return 0
    if sk.state == TCP_CLOSE or sk.shutdown_mask & RCV_SHUTDOWN:
        return 0
    raise error(errno.EAGAIN)


def tcp_recvmsg(sk: TcpSock, msg: MsgHdr, flags: int, deadline: int) -> BlockedCall[int] | int:
    """Receive (Linux: tcp_recvmsg). Returns how many bytes; 0 at the end of the stream.

    Raises OSError: ENOTCONN, EAGAIN, EINVAL (no urgent data), the connection's error.
    """
    if flags & MSG_ERRQUEUE:
        return receive_error(sk, msg)
    if sk.state == TCP_LISTEN:
        raise error(errno.ENOTCONN)
    if flags & MSG_OOB:
        copied = _recv_urg(sk, msg, flags)
        if sk.params.inq_wanted:
            msg.put_control(SOL_TCP, TCP_CM_INQ, _INT.pack(_inq_hint(sk)))
        return copied
    if sk.repair:
        if not flags & MSG_PEEK:
            raise error(errno.EPERM, "repair mode: queues can only be looked at (MSG_PEEK)")
        if sk.repair_queue != 1:  # TCP_RECV_QUEUE: as ever
            from usernet.transport.tcp.repair import peek_sndq

            return peek_sndq(sk, msg)
    wanted = msg.iter.length
    target = wanted if flags & MSG_WAITALL else min(sk.rcvlowat, wanted) or 1
    copied, stop = _take(sk, msg, flags, wanted)
    if not copied and wanted and sk.state == TCP_ESTABLISHED and sk.busy_loop():
        copied, stop = _take(sk, msg, flags, wanted)
    if copied >= target or stop or not wanted:
        return _finish(sk, msg, flags, copied)
    ended = _ended(sk, copied, bool(flags & MSG_DONTWAIT))
    if ended:
        return _finish(sk, msg, flags, copied)
    return _Receiving(sk, msg, flags, deadline, copied, target)


def _ended(sk: TcpSock, copied: int, impatient: bool) -> bool:
    """Whether a call that has `copied` bytes, fewer than it wants, ends here; raises where it ends in an error."""
    if copied:
        return bool(sk.err or sk.state == TCP_CLOSE or sk.shutdown_mask & RCV_SHUTDOWN or impatient)
    if sk.fin_received:
        return True
    if sk.err:
        sk.raise_error()
    if sk.shutdown_mask & RCV_SHUTDOWN:
        return True
    if sk.state == TCP_CLOSE:
        raise error(errno.ENOTCONN)
    if impatient:
        raise error(errno.EAGAIN)
    return False


@final
class _Receiving(BlockedCall[int]):
    """A call that has `copied` bytes so far, and waits for `target`, or what else ends it."""

    __slots__ = ("_begun", "_copied", "_deadline", "_flags", "_msg", "_sk", "_target")

    def __init__(self, sk: TcpSock, msg: MsgHdr, flags: int, deadline: int, copied: int, target: int) -> None:
        self._sk = sk
        self._msg = msg
        self._flags = flags
        self._deadline = deadline
        self._copied = copied
        self._target = target
        self._begun: bool = False

    def resume(self) -> Wait | None:
        sk = self._sk
        if self._begun and self._look():
            self.result = _finish(sk, self._msg, self._flags, self._copied)
            return None
        self._begun = True
        cleanup_rbuf(sk, self._copied)
        if sk.loop.now >= self._deadline:
            if not self._copied:
                raise error(errno.EAGAIN)
            self.result = _finish(sk, self._msg, self._flags, self._copied)
            return None
        return Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, self._deadline, False, sk.busy_poll)

    def _look(self) -> bool:
        """Take what has come; whether the call ends with it. Raises where it ends in an error."""
        sk, msg, flags = self._sk, self._msg, self._flags
        if flags & MSG_PEEK:
            # A peek looks at all of it again, and waits only for the first of it.
            if not self._copied:
                self._copied, _ = _take(sk, msg, flags, msg.iter.length)
            return self._copied > 0 or _ended(sk, self._copied, False)
        left = msg.iter.length - self._copied if flags & MSG_TRUNC else msg.iter.length
        more, stop = _take(sk, msg, flags, left)
        self._copied += more
        return self._copied >= self._target or stop or _ended(sk, self._copied, False)


def _finish(sk: TcpSock, msg: MsgHdr, flags: int, copied: int) -> int:
    if sk.state != TCP_CLOSE:
        cleanup_rbuf(sk, copied)
    if sk.read_stamp:
        recv_timestamp(sk, msg, sk.read_stamp)
        sk.read_stamp = 0
    if sk.params.inq_wanted:
        msg.put_control(SOL_TCP, TCP_CM_INQ, _INT.pack(_inq_hint(sk)))
    return copied


def _inq_hint(sk: TcpSock) -> int:
    """What TCP_CM_INQ tells: at least 1 after the FIN, so that the reader comes back for the end (tcp_inq_hint)."""
    count = (sk.rcv_nxt - sk.copied_seq) & SEQ_MASK
    return 1 if not count and sk.fin_received else count


def inq(sk: TcpSock) -> int:
    """Bytes that can be read now (Linux: tcp_inq)."""
    if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        return 0
    if sk.oobinline or not sk.urg_data or after(sk.copied_seq, sk.urg_seq) or not after(sk.rcv_nxt, sk.urg_seq):
        count = (sk.rcv_nxt - sk.copied_seq) & SEQ_MASK
        # The FIN has a number, but is no byte.
        if count and sk.shutdown_mask & RCV_SHUTDOWN and sk.fin_received:
            count -= 1
        return count
    return (sk.urg_seq - sk.copied_seq) & SEQ_MASK


def tcp_ioctl(sk: TcpSock, request: int) -> int:
    """SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK (tcp(7)). Raises OSError ENOTTY, or EINVAL on a listener."""
    if request == SIOCATMARK:
        return int(bool(sk.urg_data) and sk.urg_seq == sk.copied_seq)
    if request not in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD):
        raise error(errno.ENOTTY)
    if sk.state == TCP_LISTEN:
        raise error(errno.EINVAL)
    if request == SIOCINQ:
        return inq(sk)
    if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        return 0
    if request == SIOCOUTQ:
        return (sk.write_seq - sk.snd_una) & SEQ_MASK
    return (sk.write_seq - sk.snd_nxt) & SEQ_MASK

