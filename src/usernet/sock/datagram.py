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
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLPRI, EPOLLRDHUP, Blocking, Wait
from usernet.net.dst import Dst
from usernet.net.protocols import ErrorReport
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_MULTICAST, Flow
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
    MSG_DONTROUTE,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    SHUT_RDWR,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.options import sock_getsockopt, sock_setsockopt
from usernet.sock.optval import pack_name
from usernet.sock.sock import Sock
from usernet.sock.sockopt import (
    SO_MARK,
    SO_PRIORITY,
    SO_RXQ_OVFL,
    SO_TIMESTAMP,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SOCK_RCVMARK,
    SOCK_SELECT_ERR_QUEUE,
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


def receive_error(sk: InetSock, msg: MsgHdr) -> int:
    """recvmsg with MSG_ERRQUEUE (Linux: ip_recv_error): the data is that of the packet sent, the name whom it was sent
    to, and the ancillary data says what happened and who says so. Raises OSError EAGAIN where there is none."""
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
    msg.name = entry.destination
    offender = pack_name(entry.offender or SockAddr(0, b"", 0))
    if sk.af.addr_len == 4:
        msg.put_control(SOL_IP, IP_RECVERR, entry.pack() + offender)
    else:
        msg.put_control(SOL_IPV6, IPV6_RECVERR, entry.pack() + offender)
    msg.flags |= MSG_ERRQUEUE
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


# -- internet sockets of datagrams


class DatagramSock(InetSock):
    """What UDP, raw and ping sockets do alike."""

    def hash(self) -> None:
        """The socket's addresses changed: file it anew where received packets find it."""

    def unhash(self) -> None:
        """Take it out of where received packets find it."""

    def autobind(self) -> None:
        """Give it a local port, where it needs one and has none."""

    # -- addresses

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        """Fix the peer (Linux: ip4_datagram_connect); AF_UNSPEC takes it back.

        Raises OSError: EAFNOSUPPORT, EACCES (broadcast without SO_BROADCAST), EAGAIN (no free port), and what
        `AddressFamily.route` raises.
        """
        if name.family == 0:
            self.disconnect()
            return None
        af = self.af
        if not isinstance(name, SockAddr) or name.family != af.family:
            raise error(errno.EAFNOSUPPORT)
        self.autobind()
        self.dst = None
        daddr = af.loopback if name.addr == af.any else name.addr
        flow = self.flow(daddr, name.port)
        self.choose_device(flow)
        dst = af.route(flow)
        if dst.broadcast and not self.broadcast:
            raise error(errno.EACCES, "sending to a broadcast address needs SO_BROADCAST")
        self.unhash()
        source = flow.saddr if flow.saddr != af.any else dst.saddr
        if self.saddr == af.any:
            self.saddr = source
        if self.rcv_saddr == af.any:
            self.rcv_saddr = source
        self.daddr = daddr
        self.dport = name.port
        self.scope_id = name.scope_id
        self.state = TCP_ESTABLISHED
        self.dst = dst
        self.hash()
        return None

    def disconnect(self) -> None:
        """Forget the peer, and the addresses that were not asked for by bind (Linux: __udp_disconnect)."""
        self.unhash()
        any_addr = self.af.any
        self.state = TCP_CLOSE
        self.daddr = any_addr
        self.dport = 0
        self.bound_dev_if = 0
        self.dst = None
        if not self.bound_addr:
            self.saddr = self.rcv_saddr = any_addr
        if not self.bound_port:
            self.release_port()
        self.hash()

    def release_port(self) -> None:
        """Give back a local port that was not asked for by bind."""

    def getsockname(self) -> Name:
        return self.sockname()

    def getpeername(self) -> Name:
        """Raises OSError ENOTCONN."""
        if self.state != TCP_ESTABLISHED:
            raise error(errno.ENOTCONN)
        return SockAddr(self.family, self.daddr, self.dport, self.scope_id)

    # -- sending

    def choose_device(self, flow: Flow) -> None:
        """IP_MULTICAST_IF and IP_UNICAST_IF, where the flow names no device itself (Linux: in udp_sendmsg)."""
        if self.mc_index or self.unicast_if or self.mc_addr != self.af.any:
            if self.af.addr_type(flow.daddr) == RTN_MULTICAST:
                if not flow.oif:
                    flow.oif = self.mc_index
                if flow.saddr == self.af.any:
                    flow.saddr = self.mc_addr
            elif not flow.oif:
                flow.oif = self.unicast_if

    def send_control(self, msg: MsgHdr, flow: Flow) -> tuple[int, int]:
        """Apply a message's ancillary data at SOL_SOCKET and the family's level to `flow` (Linux: ip_cmsg_send).

        Returns the TTL (-1 where none was given) and SOF_TIMESTAMPING_* for this message. Raises OSError EINVAL.
        """
        ttl = -1
        tsflags = self.tsflags
        for level, kind, data in msg.control or ():
            if level == SOL_SOCKET:
                if kind == SO_MARK and len(data) == 4:
                    flow.mark = _UINT.unpack(data)[0]
                elif kind in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW) and len(data) == 4:
                    tsflags = tsflags & ~SOF_TIMESTAMPING_TX_SOFTWARE | _UINT.unpack(data)[0]
                elif kind not in (SCM_RIGHTS, SCM_CREDENTIALS, SO_PRIORITY):
                    raise error(errno.EINVAL, f"ancillary data: SOL_SOCKET has no type {kind} to send")
            elif level in (SOL_IP, SOL_IPV6):
                given = self.af.send_control(self, level, kind, data, flow)
                if given is not None:
                    ttl = given
        return ttl, tsflags

    def send_flow(self, daddr: bytes, dport: int, flags: int) -> Flow:
        """The flow of one datagram; 0.0.0.0 means this machine, as everywhere."""
        flow = self.flow(self.af.loopback if daddr == self.af.any else daddr, dport)
        if flags & MSG_DONTROUTE:
            flow.onlink = True
        return flow

    def send_route(self, flow: Flow) -> Dst:
        """Raises OSError EACCES (broadcast without SO_BROADCAST), and what `AddressFamily.route` raises."""
        try:
            dst = self.af.route(flow)
        except OSError as cause:
            if cause.errno == errno.ENETUNREACH:
                self.net.mib.ip.OutNoRoutes += 1
            raise
        if dst.broadcast and not self.broadcast:
            raise error(errno.EACCES, "sending to a broadcast address needs SO_BROADCAST")
        return dst

    # -- the rest

    def shutdown(self, how: int) -> None:
        """Linux: inet_shutdown. On a socket without a peer it works, and says ENOTCONN all the same."""
        if not 0 <= how <= SHUT_RDWR:
            raise error(errno.EINVAL, f"shutdown: expected 0 to 2, not {how}")
        self.shutdown_mask |= how + 1
        self.state_change()
        if self.state == TCP_CLOSE:
            raise error(errno.ENOTCONN)

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        self.dead = True
        self.unhash()
        self.release_port()
        self.af.drop_memberships(self)
        self.shutdown_mask = 3
        self.state = TCP_CLOSE
        self.destroy()
        self.state_change()
        return None

    def poll(self) -> int:
        mask = super().poll()
        if mask & EPOLLERR and self.sock_flags & SOCK_SELECT_ERR_QUEUE:
            mask |= EPOLLPRI
        return mask

    def ioctl(self, request: int) -> int:
        """SIOCINQ: bytes of the first datagram; SIOCOUTQ: bytes being sent, with their overhead."""
        if request == SIOCINQ:
            skb = self.receive_queue.first
            return skb.len if skb is not None else 0
        if request == SIOCOUTQ:
            return self.wmem_alloc
        raise error(errno.ENOTTY)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if level == SOL_SOCKET:
            sock_setsockopt(self, option, value)
        elif level == self.sol():
            self.af.setsockopt(self, option, value)
        else:
            raise error(errno.ENOPROTOOPT)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if level == SOL_SOCKET:
            return sock_getsockopt(self, option, length)
        if level != self.sol():
            raise error(errno.ENOPROTOOPT)
        return self.af.getsockopt(self, option, length)

    def sol(self) -> int:
        """The level of the family's own options."""
        return SOL_IP if self.af.addr_len == 4 else SOL_IPV6
