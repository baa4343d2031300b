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
    SOCK_RCVMARK,
    SOF_TIMESTAMPING_OPT_CMSG,
    SOF_TIMESTAMPING_OPT_ID,
    SOL_SOCKET,
)
from usernet.sock.timestamping import SOCKCM_FLAG_TS_OPT_ID, recv_timestamp, tx_flags

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
        yield Wait((sk.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, deadline, True, sk.busy_poll)


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
    recv_timestamp(sk, msg, skb.tstamp)
    if sk.rxq_ovfl and skb.seq:
        msg.put_control(SOL_SOCKET, SO_RXQ_OVFL, _UINT.pack(skb.seq & 0xFFFFFFFF))
    if sk.sock_flags & SOCK_RCVMARK:
        msg.put_control(SOL_SOCKET, SO_MARK, _UINT.pack(skb.mark & 0xFFFFFFFF))


# -- the error queue


def receive_errqueue(sk: Sock, msg: MsgHdr) -> tuple[SKBuff, int]:
    """Take the first entry of the error queue (Linux: sock_recv_errqueue): copies out the data of the packet sent, and
    adds the time stamp. Returns the entry's packet, whose `cb` the caller puts into the ancillary data, and how many
    bytes were copied. Raises OSError EAGAIN where there is none."""
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
    if sk.rcvtstamp or sk.tsflags:
        recv_timestamp(sk, msg, skb.tstamp, skb.tobytes() if entry.opt_stats else None, report=True)
    msg.flags |= MSG_ERRQUEUE
    return skb, size


def receive_error(sk: InetSock, msg: MsgHdr) -> int:
    """recvmsg with MSG_ERRQUEUE (Linux: ip_recv_error): the name is whom the packet was sent to, and the ancillary data
    says what happened and who says so. Raises OSError EAGAIN where there is nothing."""
    skb, size = receive_errqueue(sk, msg)
    entry: ExtendedError = skb.cb
    msg.name = entry.destination
    offender = entry.offender
    if entry.origin == SO_EE_ORIGIN_TIMESTAMPING and sk.tsflags & SOF_TIMESTAMPING_OPT_CMSG and skb.dev is not None:
        # By which device it left, and from which address.
        offender = SockAddr(sk.family, sk.af.source_of(skb), 0)
        for level, kind, data in sk.af.receive_control(sk, skb):
            msg.put_control(level, kind, data)
    packed = entry.pack() + pack_name(offender or SockAddr(0, b"", 0))
    if sk.af.addr_len == 4:
        msg.put_control(SOL_IP, IP_RECVERR, packed)
    else:
        msg.put_control(SOL_IPV6, IPV6_RECVERR, packed)
    return size


def icmp_error(sk: InetSock, report: ErrorReport, port: int, header: int) -> None:
    """Queue an ICMP error for a socket with IP_RECVERR (Linux: ip_icmp_error).

    port: the remote port. header: bytes of transport header to leave out of the quoted packet.
    """
    quoted = report.skb.clone()
    quoted.pull_front(min(header, quoted.len))
    family = sk.af.family
    data = 0
    if sk.recverr_rfc4884 and report.quoted:
        headers = report.skb.transport_header - report.skb.network_header + header
        from usernet.sock.rfc4884 import extension

        data = extension(quoted.tobytes(), report.quoted, headers)
    entry = ExtendedError(
        report.errno, report.origin, report.icmp_type, report.icmp_code, report.info, data,
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


def mark_timestamp(sk: Sock, tsflags: int, skb: SKBuff) -> None:
    """Have the device report on a datagram, by the calls' number (Linux: in __ip_append_data).

    tsflags: SOF_TIMESTAMPING_* of this datagram.
    """
    flags = tx_flags(tsflags)
    if flags:
        skb.tx_flags = flags
        skb.tskey = 0
        if tsflags & SOCKCM_FLAG_TS_OPT_ID:
            skb.tskey = tsflags >> 32
        elif sk.tsflags & SOF_TIMESTAMPING_OPT_ID:
            skb.tskey = sk.tskey
            sk.tskey = (sk.tskey + 1) & 0xFFFFFFFF
