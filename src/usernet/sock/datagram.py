"""What sockets of datagrams share: UDP, raw, ping and packet sockets (Linux: net/core/datagram.c, net/ipv4/datagram.c).

A datagram that arrived waits in `receive_queue`, its `data` at what the application is to get. recvmsg takes the first
(MSG_PEEK: looks at it, from the peek offset on), copies it out, and adds the ancillary data asked for. ICMP errors wait
in the error queue, for MSG_ERRQUEUE.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.core.iov import IovIter
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, Blocking, Wait
from usernet.net.protocols import ErrorReport
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.errqueue import (
    SO_EE_ORIGIN_LOCAL,
    SO_EE_ORIGIN_TIMESTAMPING,
    SO_EE_ORIGIN_ZEROCOPY,
    ExtendedError,
    dequeue_error,
    queue_error,
)
from usernet.sock.inet import InetSock
from usernet.sock.msg import (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    MsgHdr,
    SockAddr,
)
from usernet.sock.optval import pack_name
from usernet.sock.sock import Sock
from usernet.sock.sockopt import (
    SO_MARK,
    SO_RXQ_OVFL,
    SO_TIMESTAMP,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SOCK_RCVMARK,
    SOCK_TSTAMP_NEW,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_TSONLY,
    SOF_TIMESTAMPING_SOFTWARE,
    SOF_TIMESTAMPING_TX_SOFTWARE,
    SOL_SOCKET,
)

TCP_ESTABLISHED: Final = 1
TCP_CLOSE: Final = 7
SIOCINQ: Final = 0x541B
SIOCOUTQ: Final = 0x5411
SCM_RIGHTS: Final = 1
SCM_CREDENTIALS: Final = 2
SOL_IP: Final = 0
SOL_IPV6: Final = 41
IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25
SCM_TSTAMP_SND: Final = 0
SO_EE_CODE_ZEROCOPY_COPIED: Final = 1

_TIME: Final = Struct("=qq")
_TIMES: Final = Struct("=6q")
_UINT: Final = Struct("=I")

Copy = Callable[[SKBuff, MsgHdr, int, int], int]
"""`copy(skb, msg, flags, offset)`: give the application the datagram from `offset` on; returns recvmsg's result."""


# -- receiving


def receive(sk: Sock, msg: MsgHdr, flags: int, deadline: int, copy: Copy) -> Blocking[int] | int:
    """recvmsg of a socket of datagrams (Linux: __skb_recv_datagram): the first one, or a generator that waits for it.

    Raises OSError: the socket's error, EAGAIN where there is none and the call may not wait.
    """
    if sk.err:
        sk.raise_error()
    if sk.receive_queue.first is not None:
        result = take(sk, msg, flags, copy)
        if result >= 0:
            return result
    if flags & MSG_DONTWAIT or sk.loop.now >= deadline:
        raise error(errno.EAGAIN)
    return _receive_blocked(sk, msg, flags, deadline, copy)


def take(sk: Sock, msg: MsgHdr, flags: int, copy: Copy) -> int:
    """Hand over the first datagram in the queue; -1 where a peek offset lies behind all that is there."""
    queue = sk.receive_queue
    if not flags & MSG_PEEK:
        skb = queue.popleft()
        if skb is None:
            return -1
        skb.consume()
        if sk.peek_off > 0:
            sk.peek_off = max(sk.peek_off - skb.len, 0)
        return copy(skb, msg, flags, 0)
    offset = max(sk.peek_off, 0)
    for skb in queue:
        if offset and offset >= skb.len:
            offset -= skb.len
            continue
        room = msg.iter.length
        result = copy(skb, msg, flags, offset)
        if sk.peek_off >= 0:
            sk.peek_off += min(room, skb.len - offset)
        return result
    return -1


def _receive_blocked(sk: Sock, msg: MsgHdr, flags: int, deadline: int, copy: Copy) -> Blocking[int]:
    while True:
        skb = yield from sk.wait_packet(deadline)
        if skb is None:
            return 0
        result = take(sk, msg, flags, copy)
        if result >= 0:
            return result
        # The peek offset lies behind all that is there: only another datagram helps.
        if sk.shutdown_mask & RCV_SHUTDOWN:
            return 0
        if sk.loop.now >= deadline:
            raise error(errno.EAGAIN)
        yield Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, deadline, exclusive=True)


def copy_out(skb: SKBuff, offset: int, size: int, to: IovIter) -> None:
    """Copy `size` bytes from `offset` behind `data` to the application. Raises OSError EFAULT."""
    if not skb.data_len:
        start = skb.data + offset
        to.write(skb.head[start : start + size] if size < 2048 else memoryview(skb.head)[start : start + size])
        return
    for part in skb.slice(offset, offset + size):
        to.write(part)


def copy_datagram(skb: SKBuff, msg: MsgHdr, flags: int, offset: int) -> int:
    """Copy out what fits; what doesn't is lost, and MSG_TRUNC says so. Returns what recvmsg does: the bytes copied, or
    with MSG_TRUNC in `flags` the datagram's length."""
    room = msg.iter.length
    size = skb.len - offset
    if size > room:
        msg.flags |= MSG_TRUNC
        size = room
    if size:
        copy_out(skb, offset, size, msg.iter)
    return skb.len if flags & MSG_TRUNC else size


def wants_cmsgs(sk: Sock) -> bool:
    """Whether `sock_recv_cmsgs` has anything to add."""
    return bool(sk.rcvtstamp or sk.tsflags or sk.rxq_ovfl or sk.sock_flags & SOCK_RCVMARK)


def sock_recv_cmsgs(sk: Sock, msg: MsgHdr, skb: SKBuff) -> None:
    """Time stamps, SO_RXQ_OVFL's count and the mark (Linux: sock_recv_cmsgs). `skb.seq` is the socket's count of drops
    when the packet was queued."""
    recv_timestamp(sk, msg, skb)
    if sk.rxq_ovfl and skb.seq:
        msg.put_control(SOL_SOCKET, SO_RXQ_OVFL, _UINT.pack(skb.seq & 0xFFFFFFFF))
    if sk.sock_flags & SOCK_RCVMARK:
        msg.put_control(SOL_SOCKET, SO_MARK, _UINT.pack(skb.mark & 0xFFFFFFFF))


def recv_timestamp(sk: Sock, msg: MsgHdr, skb: SKBuff) -> None:
    """SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING (Linux: __sock_recv_timestamp)."""
    option = sk.rcvtstamp
    stamp = skb.tstamp
    if option:
        if not stamp:
            stamp = sk.loop.now + sk.loop.clock.realtime_offset
        seconds, rest = divmod(stamp, 1_000_000_000)
        if option in (SO_TIMESTAMP, SO_TIMESTAMP_NEW):
            rest //= 1000
        msg.put_control(SOL_SOCKET, option, _TIME.pack(seconds, rest))
    if sk.tsflags & SOF_TIMESTAMPING_SOFTWARE and stamp:
        seconds, rest = divmod(stamp, 1_000_000_000)
        kind = SO_TIMESTAMPING_NEW if sk.sock_flags & SOCK_TSTAMP_NEW else SO_TIMESTAMPING
        # Three stamps: software, one that is no longer used, the device's own.
        msg.put_control(SOL_SOCKET, kind, _TIMES.pack(seconds, rest, 0, 0, 0, 0))


# -- the error queue


def receive_errqueue(sk: Sock, msg: MsgHdr) -> tuple[ExtendedError, int]:
    """Take the first entry of the error queue (Linux: sock_recv_errqueue): copies out the data of the packet sent, and
    adds the time stamp, where the entry is about one. Returns the entry, which the caller puts into the ancillary data,
    and how many bytes were copied. Raises OSError EAGAIN where there is none."""
    skb = dequeue_error(sk)
    if skb is None:
        raise error(errno.EAGAIN)
    entry: ExtendedError = skb.cb
    skb.consume()
    size = skb.len
    if size > msg.iter.length:
        msg.flags |= MSG_TRUNC
        size = msg.iter.length
    if size:
        copy_out(skb, 0, size, msg.iter)
    if entry.origin == SO_EE_ORIGIN_TIMESTAMPING:
        recv_timestamp(sk, msg, skb)
    msg.flags |= MSG_ERRQUEUE
    return entry, size


def receive_error(sk: InetSock, msg: MsgHdr) -> int:
    """recvmsg with MSG_ERRQUEUE (Linux: ip_recv_error): the name is whom the packet was sent to, and the ancillary data
    says what happened and who says so. Raises OSError EAGAIN where there is nothing."""
    entry, size = receive_errqueue(sk, msg)
    msg.name = entry.destination
    offender = pack_name(entry.offender or SockAddr(0, b"", 0))
    if sk.af.addr_len == 4:
        msg.put_control(SOL_IP, IP_RECVERR, entry.pack() + offender)
    else:
        msg.put_control(SOL_IPV6, IPV6_RECVERR, entry.pack() + offender)
    return size


def icmp_error(sk: InetSock, report: ErrorReport, port: int, header: int) -> None:
    """Queue an ICMP error for a socket with IP_RECVERR (Linux: ip_icmp_error).

    port: the remote port. header: bytes of transport header to leave out of the quoted packet.
    """
    quoted = report.skb.clone()
    quoted.pull_front(min(header, quoted.len))
    family = sk.af.family
    entry = ExtendedError(
        report.errno, report.origin, report.icmp_type, report.icmp_code, report.info, 0,
        SockAddr(family, report.daddr, port), SockAddr(family, report.offender, 0),
    )  # fmt: skip
    if not queue_error(sk, entry, quoted):
        sk.drops += 1


def local_error(sk: InetSock, code: int, daddr: bytes, port: int, info: int) -> None:
    """Queue an error found on this machine for a socket with IP_RECVERR (Linux: ip_local_error)."""
    if not sk.recverr:
        return
    entry = ExtendedError(code, SO_EE_ORIGIN_LOCAL, 0, 0, info, 0, SockAddr(sk.af.family, daddr, port), None)
    if not queue_error(sk, entry, SKBuff()):
        sk.drops += 1


def tx_timestamp(sk: Sock, flags: int, skb: SKBuff, header: int) -> None:
    """Queue the time a datagram was sent at (SO_TIMESTAMPING; Linux: skb_tstamp_tx). It leaves within the call.

    flags: SOF_TIMESTAMPING_* for this datagram. header: bytes before the payload, not to be given back.
    """
    key = 0
    if sk.tsflags & SOF_TIMESTAMPING_OPT_ID:
        key = sk.tskey
        sk.tskey = (key + 1) & 0xFFFFFFFF
    if not flags & SOF_TIMESTAMPING_TX_SOFTWARE:
        return
    if sk.tsflags & SOF_TIMESTAMPING_OPT_TSONLY:
        quoted = SKBuff()
    else:
        quoted = skb.clone()
        quoted.pull_front(header)
    quoted.tstamp = sk.loop.now + sk.loop.clock.realtime_offset
    entry = ExtendedError(errno.ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, 0, 0, SCM_TSTAMP_SND, key, None, None)
    if not queue_error(sk, entry, quoted):
        sk.drops += 1


def zerocopy_complete(sk: Sock, key: int) -> None:
    """Tell that the memory of the `key`-th MSG_ZEROCOPY send is the application's again: at once, since what is sent is
    either `bytes`, which nobody can change, or was copied (Linux: msg_zerocopy_callback)."""
    queue = sk.error_queue
    last = queue.last if queue is not None else None
    if last is not None:
        held: ExtendedError = last.cb
        if held.origin == SO_EE_ORIGIN_ZEROCOPY and held.data + 1 == key:
            # One entry tells of a run of sends: from info to data.
            held.data = key
            return
    entry = ExtendedError(0, SO_EE_ORIGIN_ZEROCOPY, 0, SO_EE_CODE_ZEROCOPY_COPIED, key, key, None, None)
    queue_error(sk, entry, SKBuff())
