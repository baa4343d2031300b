"""Sending: from the application's memory to the write queue (Linux: tcp_sendmsg_locked).

What the application gives as `bytes` is referenced; what it could change is copied once. Segments in the queue are as
large as a super-segment may be, so that most of them leave as they are. Small writes are gathered in a page of the
socket's own, one fragment growing, and not a fragment each.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from usernet.core.errors import error
from usernet.core.iov import Payload
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Blocking, Wait
from usernet.skbuff.skbuff import GSO_LEGACY_MAX_SIZE, SKBuff
from usernet.sock.msg import (
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_FASTOPEN,
    MSG_MORE,
    MSG_OOB,
    MSG_ZEROCOPY,
    SEND_SHUTDOWN,
    MsgHdr,
)
from usernet.sock.timestamping import tsflags_of
from usernet.sock.zerocopy import UbufInfo, zerocopy_realloc
from usernet.transport.tcp import chrono
from usernet.transport.tcp.completion import add_zerocopy, finish, takes_zerocopy, tx_timestamp, uarg_of
from usernet.transport.tcp.const import (
    SEQ_MASK,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    after,
)
from usernet.transport.tcp.cwnd import slow_start_after_idle_check
from usernet.transport.tcp.mss import bound_to_half_wnd, current_mss
from usernet.transport.tcp.output import push_pending_frames, write_xmit
from usernet.transport.tcp.rate import rate_check_app_limited
from usernet.transport.tcp.segment import MAX_SKB_FRAGS, add_write_queue_tail, gso_max_payload, mark_push, new_segment
from usernet.wire.tcp import ACK, PSH

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

PAGE_SIZE: Final = 32768
COPY_BELOW: Final = 2048
"""Writes smaller than this are copied to the socket's page rather than referenced."""

PUSH_EVERY: Final = 4
"""Full segments a call gathers before it sends them. Linux sends each at once; nothing else runs meanwhile here, so
gathering costs no latency worth the name, and sending them together saves going through the windows for each."""

LARGE_GOAL: Final = 49152
"""Bytes. Segments that the window keeps smaller are sent as Linux does, each at once: there a single one counts."""


GATHER_BEYOND: Final = 250_000
"""Bytes under way, at least, while bulk data waits for a full super-segment. As much as waits must be, too."""

GATHER_WITHIN: Final = 4000
"""µs of round trip up to which bulk data waits for a full super-segment."""


def size_goal(sk: TcpSock, mss: int, large: bool) -> int:
    """How large a queued segment may grow: whole MSS up to what the device takes (Linux: tcp_xmit_size_goal)."""
    if not large or sk.auth is not None:
        return mss
    goal = bound_to_half_wnd(sk, gso_max_payload(sk))
    return max(goal // mss * mss, mss)


def _push(sk: TcpSock, flags: int, mss: int, nonagle: int, goal: int) -> None:
    """The application paused: send what may be sent (Linux: tcp_push)."""
    skb = sk.write_queue.last
    if skb is None:
        return
    if not flags & MSG_MORE or after(sk.write_seq, (sk.pushed_seq + (sk.max_window >> 1)) & SEQ_MASK):
        mark_push(sk, skb)
    if flags & MSG_OOB:
        sk.snd_up = sk.write_seq
        sk.urg_mode = True
    if sk.wmem_alloc and _should_autocork(sk, skb, goal):
        # The device's queue holds enough of ours: its emptying brings us back.
        if not sk.tsq_throttled:
            sk.net.mib.tcp_ext.TCPAutoCorking += 1
            sk.tsq_throttled = True
        return
    gather = goal > GSO_LEGACY_MAX_SIZE and skb.len < goal and not flags & (MSG_OOB | MSG_EOR) and _gathers(sk, skb.len)
    if gather and skb is sk.write_queue.first:
        return
    if write_xmit(sk, mss, TCP_NAGLE_CORK if flags & MSG_MORE else nonagle, 0, gather):
        sk.check_probe_timer()


def _should_autocork(sk: TcpSock, skb: SKBuff, goal: int) -> bool:
    """Whether to wait for more while the last packet is still in the device's queue (Linux: tcp_should_autocork)."""
    return (
        skb.len < goal
        and bool(sk.tcp.tcp_autocorking)
        and sk.rtx_queue.first is not None
        and sk.wmem_alloc > skb.truesize
        and not skb.tx.eor
    )


def _gathers(sk: TcpSock, size: int) -> bool:
    """Whether a super-segment that is not full, of `size` bytes up to now, may wait for the next call or the next
    acknowledgement, as corked data waits for a device's queue that a TUN/TAP doesn't have: while as much is under way,
    and comes back within a tick of Linux's clock."""
    return (
        (sk.snd_nxt - sk.snd_una) & SEQ_MASK >= max(size, GATHER_BEYOND)
        and sk.srtt_us < GATHER_WITHIN << 3
        and not sk.nonagle & TCP_NAGLE_OFF
        and bool(sk.tcp.tcp_autocorking)
    )


def push_now(sk: TcpSock) -> None:
    """TCP_NODELAY or uncorking: send what Nagle held back (Linux: tcp_push_pending_frames)."""
    if sk.write_queue.first is not None:
        push_pending_frames(sk, current_mss(sk), sk.nonagle)


def _small(sk: TcpSock, skb: SKBuff, data: Payload) -> None:
    """Append a small write by way of the socket's page, extending the last fragment where it ends there. The first of a
    segment is referenced where nobody can change it: a request or an answer most often stays alone."""
    if type(data) is bytes and not skb.len:
        skb.add_frag(data)
        skb.cb = -1
        return
    size = len(data)
    page = sk.page
    if page is None or sk.page_used + size > PAGE_SIZE:
        page = sk.page = bytearray(PAGE_SIZE)
        sk.page_used = 0
    start = sk.page_used
    page[start : start + size] = data
    sk.page_used = start + size
    frags = skb.frags
    if frags:
        last = frags[-1]
        if type(last) is memoryview and last.obj is page and skb.cb == start:
            frags[-1] = memoryview(page)[start - len(last) : start + size]
            skb.len += size
            skb.data_len += size
            skb.truesize += size
            skb.cb = start + size
            return
    skb.add_frag(memoryview(page)[start : start + size])
    skb.cb = start + size


def _fill(sk: TcpSock, msg: MsgHdr, flags: int, mss: int, goal: int, uarg: UbufInfo | None, first: bool) -> int:
    """Move data to the write queue until it is all there or the buffer is full; returns how much.

    uarg: the report of MSG_ZEROCOPY. first: whether this is the call's first data. Raises OSError EFAULT where there
    was no memory to read from, and nothing was moved.
    """
    queue = sk.write_queue
    source = msg.iter
    copied = 0
    while source.length:
        skb = queue.last
        room = goal - skb.len if skb is not None else 0
        if (
            skb is None
            or room <= 0
            or skb.tx.eor
            or (skb.frags is not None and len(skb.frags) >= MAX_SKB_FRAGS)
            or (uarg is not None and not takes_zerocopy(sk, skb, uarg))
        ):
            if sk.wmem_queued >= sk.sndbuf or not sk.notsent_below():
                return copied
            skb = None
            room = goal
        size = min(room, source.length)
        referenced = True
        if uarg is not None:
            piece, referenced = source.front()
            size = min(size, piece)
        try:
            data = source.read(size)
        except OSError:
            if copied:
                return copied
            raise
        if skb is None:
            skb = new_segment(sk.write_seq, ACK)
            if queue.first is None:
                rate_check_app_limited(sk)
            add_write_queue_tail(sk, skb)
        memory = size = len(data)
        if uarg is not None:
            memory = add_zerocopy(sk, skb, data, uarg, referenced)
        elif size < COPY_BELOW:
            _small(sk, skb, data)
        else:
            skb.add_frag(data)
            skb.cb = -1
        sk.wmem_queued += memory
        queue.bytes += size
        if first:
            first = False
            skb.tcp_flags &= ~PSH
        sk.write_seq = (sk.write_seq + size) & SEQ_MASK
        skb.end_seq = (skb.end_seq + size) & SEQ_MASK
        skb.gso_segs = 0
        copied += size
        if flags & MSG_EOR and not source.length:
            skb.tx.eor = True
        if not source.length or skb.len < goal or flags & MSG_OOB:
            continue
        if after(sk.write_seq, (sk.pushed_seq + (sk.max_window >> 1)) & SEQ_MASK):
            mark_push(sk, skb)
            if queue.qlen >= PUSH_EVERY or goal < LARGE_GOAL:
                push_pending_frames(sk, mss, TCP_NAGLE_PUSH)
        elif goal < LARGE_GOAL:
            if skb is queue.first:
                # One only, so that what is left of it still grows.
                write_xmit(sk, mss, TCP_NAGLE_PUSH, 1)
        elif queue.qlen >= PUSH_EVERY:
            push_pending_frames(sk, mss, TCP_NAGLE_PUSH)
    return copied


def _check(sk: TcpSock) -> None:
    """Whether sending is possible at all; raises as sk_stream_error and do_error do."""
    if sk.err or sk.shutdown_mask & SEND_SHUTDOWN:
        if sk.err:
            sk.raise_error()
        raise error(errno.EPIPE)


def tcp_sendmsg(
    sk: TcpSock, msg: MsgHdr, flags: int, deadline: int, uarg: UbufInfo | None = None
) -> Blocking[int] | int:
    """Send a message's data (Linux: tcp_sendmsg). Returns how many bytes were taken.

    uarg: the report of MSG_ZEROCOPY, where the call has one already.
    Raises OSError: EPIPE (closed or not connected), the connection's error, EAGAIN, EINVAL (ancillary data), ENOBUFS
    (MSG_ZEROCOPY, and too many reports were not read).
    """
    if flags & MSG_ZEROCOPY and uarg is None and sk.zerocopy and msg.iter.length:
        return _sendmsg_zerocopy(sk, msg, flags, deadline)
    taken = 0
    if flags & MSG_FASTOPEN or sk.tfo.defer_connect:
        from usernet.transport.tcp.fastopen_client import sendmsg_fastopen

        taken, waiting = sendmsg_fastopen(sk, msg, flags, deadline, uarg)
        if waiting is None and taken >= 0:
            return taken
        if waiting is not None:
            return _send_connected(sk, msg, flags, deadline, taken, waiting, uarg)
    if sk.state not in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and not sk.fastopen_pending:
        if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
            if flags & MSG_DONTWAIT:
                raise error(errno.EAGAIN)
            return _send_blocked(sk, msg, flags, deadline, 0, uarg)
        _check(sk)
        raise error(errno.EPIPE)
    tsflags = tsflags_of(sk, msg.control) if msg.control else sk.tsflags
    if sk.err or sk.shutdown_mask & SEND_SHUTDOWN:
        _check(sk)
    if not sk.packets_out and sk.snd_nxt == sk.write_seq:
        slow_start_after_idle_check(sk)
    mss = current_mss(sk)
    goal = size_goal(sk, mss, not flags & MSG_OOB)
    copied = _fill(sk, msg, flags, mss, goal, uarg, True)
    if msg.iter.length:
        # No room. What waits goes out, whatever Nagle says, or there would never be any.
        sk.nospace = True
        if copied:
            _push(sk, flags & ~MSG_MORE, mss, TCP_NAGLE_PUSH, goal)
        if not flags & MSG_DONTWAIT:
            return _send_blocked(sk, msg, flags, deadline, copied, uarg)
        if not copied:
            _no_room(sk)
    if copied:
        if tsflags:
            tx_timestamp(sk, tsflags)
        _push(sk, flags, mss, sk.nonagle, goal)
    return copied


def _no_room(sk: TcpSock) -> None:
    """The call fails for want of room. Raises OSError EAGAIN."""
    if sk.write_queue.first is None and sk.rtx_queue.first is None:
        # Nothing is under way that could make any: who waits for an edge is to try again.
        sk.write_space()
        chrono.stop(sk, chrono.SNDBUF_LIMITED)
    raise error(errno.EAGAIN)


def _sendmsg_zerocopy(sk: TcpSock, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
    """A call with MSG_ZEROCOPY: it has a number, and is reported on, unless it fails."""
    uarg = zerocopy_realloc(sk, msg.iter.length, uarg_of(sk.write_queue.last))
    if uarg is None:
        raise error(errno.ENOBUFS, "MSG_ZEROCOPY: too many reports have yet to be read")
    try:
        sent = tcp_sendmsg(sk, msg, flags, deadline, uarg)
    except OSError:
        uarg.abort()
        raise
    if isinstance(sent, int):
        uarg.put()
        return sent
    return finish(uarg, sent)


def _send_connected(
    sk: TcpSock, msg: MsgHdr, flags: int, deadline: int, taken: int, waiting: Blocking[None], uarg: UbufInfo | None
) -> Blocking[int]:
    """The rest of a call that connects first: `taken` bytes went with the SYN."""
    yield from waiting
    if not msg.iter.length:
        return taken
    try:
        return taken + (yield from _send_blocked(sk, msg, flags, deadline, 0, uarg))
    except OSError:
        if taken:
            return taken
        raise


def _send_blocked(
    sk: TcpSock, msg: MsgHdr, flags: int, deadline: int, copied: int, uarg: UbufInfo | None
) -> Blocking[int]:
    """The rest of a call that has to wait: for the connection, then for room, again and again."""
    while sk.state in (TCP_SYN_SENT, TCP_SYN_RECV) and not sk.fastopen_pending:
        if sk.loop.now >= deadline:
            raise error(errno.EAGAIN)
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
        _check(sk)
        if sk.state == TCP_CLOSE:
            raise error(errno.EPIPE)
    tsflags = tsflags_of(sk, msg.control) if msg.control else sk.tsflags
    mss = goal = 0
    while True:
        if sk.err or sk.shutdown_mask & SEND_SHUTDOWN or (
            sk.state not in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and not sk.fastopen_pending
        ):
            if copied:
                break
            _check(sk)
            raise error(errno.EPIPE)
        mss = current_mss(sk)
        goal = size_goal(sk, mss, not flags & MSG_OOB)
        try:
            more = _fill(sk, msg, flags, mss, goal, uarg, not copied)
        except OSError:
            if copied:
                break
            raise
        copied += more
        if not msg.iter.length:
            break
        sk.nospace = True
        if copied:
            _push(sk, flags & ~MSG_MORE, mss, TCP_NAGLE_PUSH, goal)
        if sk.wmem_queued < sk.sndbuf and sk.notsent_below():
            continue
        if sk.loop.now >= deadline:
            if copied:
                break
            _no_room(sk)
        yield Wait((sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLIN, deadline)
    if tsflags:
        tx_timestamp(sk, tsflags)
    _push(sk, flags, mss or current_mss(sk), sk.nonagle, goal)
    return copied


def set_cork(sk: TcpSock, on: bool) -> None:
    """TCP_CORK (Linux: __tcp_sock_set_cork)."""
    if on:
        sk.nonagle |= TCP_NAGLE_CORK
    else:
        sk.nonagle &= ~TCP_NAGLE_CORK
        if sk.nonagle & TCP_NAGLE_OFF:
            sk.nonagle |= TCP_NAGLE_PUSH
        push_now(sk)


def set_nodelay(sk: TcpSock, on: bool) -> None:
    """TCP_NODELAY (Linux: __tcp_sock_set_nodelay)."""
    if on:
        sk.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        push_now(sk)
    else:
        sk.nonagle &= ~TCP_NAGLE_OFF

