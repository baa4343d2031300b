"""The base socket (Linux: `struct sock`, net/core/sock.c): queues, accounts, errors, options, waking.

`Sock` is the protocol's side of a socket. Each protocol subclasses it and defines the calls it has; those it lacks
raise what Linux raises. A call that may have to wait returns its result, or a `Blocking` generator (core/wait.py).
All is called with the stack's lock held; `deadline` is in ns of the stack's clock, NEVER to wait without end, and a
call with MSG_DONTWAIT (connect and accept: O_NONBLOCK) in its flags never waits.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from usernet.core.errors import error
from usernet.core.native import mypyc_attr
from usernet.core.sysctl import INT_MAX
from usernet.core.timer import NEVER
from usernet.core.wait import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLMSG,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDBAND,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
    Blocked,
    Blocking,
    Wait,
    WaitQueue,
)
from usernet.net.dst import Dst
from usernet.net.pacing import PACING_UNLIMITED, SK_PACING_NONE
from usernet.net.pernet import Net
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK, MsgHdr, Name

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3
O_NONBLOCK: Final = 0o4000

SOCK_MIN_RCVBUF: Final = 2304
SOCK_MIN_SNDBUF: Final = 4608

LOOK_MISSES: Final = 8
"""After so many readers in a row that have looked at a device in vain before they slept …"""
LOOK_EVERY: Final = 64
"""… only every so-manieth does."""

WAKE_READ: Final = EPOLLIN | EPOLLPRI | EPOLLRDNORM | EPOLLRDBAND
WAKE_WRITE: Final = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND


_SYSCTLS: Final = (
    ("rmem_default", SOCK_MIN_RCVBUF, INT_MAX), ("rmem_max", SOCK_MIN_RCVBUF, INT_MAX), ("wmem_default",
    SOCK_MIN_SNDBUF, INT_MAX), ("wmem_max", SOCK_MIN_SNDBUF, INT_MAX), ("somaxconn", 0, INT_MAX), ("optmem_max",
    0, INT_MAX), ("busy_read", 0, INT_MAX), ("busy_poll", 0, INT_MAX),
)  # fmt: skip
"""Name, least and greatest value."""


class SockNet:
    """The settings of all sockets of a namespace (net.core.*)."""

    def __init__(self, net: Net) -> None:
        self.rmem_default: int = 212992
        self.rmem_max: int = 212992
        self.wmem_default: int = 212992
        self.wmem_max: int = 212992
        self.somaxconn: int = 4096
        self.optmem_max: int = 131072
        self.busy_read: int = 0
        """µs that a reader looks at the device before it sleeps: what a new socket's SO_BUSY_POLL is."""
        self.busy_poll: int = 0
        """The same of poll, select and epoll."""
        net.sysctl.register_rows("net.core", self, _SYSCTLS)
        self.sockets: set[Sock] = set()
        """Every socket that is open or still has work to do: for `ss`, and for leak checks."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Sock:
    """The protocol's side of one socket."""

    __slots__ = (
        "bound_dev_if", "broadcast", "busy_poll", "cookie", "dead", "dontroute", "drops", "dst", "err", "err_soft",
        "error_queue", "filter", "incoming_cpu", "keepopen", "linger", "loop", "mark", "max_pacing_rate", "net",
        "no_check_tx", "oobinline", "pacing_rate", "pacing_status", "peek_off", "priority", "rcvbuf", "rcvbuf_locked",
        "rcvlowat", "rcvtimeo", "rcvtstamp", "receive_queue", "reuse", "reuseport", "reuseport_filter", "rmem_alloc",
        "rxq_ovfl", "settings", "shutdown_mask", "sndbuf", "sndbuf_locked", "sndtimeo", "sock_flags", "stamp",
        "state", "tsflags", "tskey", "wait", "wmem_alloc", "zerocopy",
        "ino", "omem_alloc", "uid", "wmem_queued", "zckey",
    )  # fmt: skip

    family: int = 0
    sock_type: int = 0
    protocol: int = 0

    def __init__(self, net: Net) -> None:
        settings = net.get(SockNet)
        self.net = net
        self.loop = net.loop
        self.settings = settings
        self.omem_alloc: int = 0
        """Bytes of reports of MSG_ZEROCOPY, made or to be made, that were not read (zerocopy.py)."""
        self.error_queue: SKBuffQueue | None = None
        self.bound_dev_if: int = 0
        self.linger: int = -1
        """Seconds to linger on close; -1 where SO_LINGER is off."""
        self.sndtimeo: int = NEVER
        self.tskey: int = 0
        self.zckey: int = 0
        """The number of the next MSG_ZEROCOPY call."""
        self.drops: int = 0
        self.incoming_cpu: int = -1
        self.busy_poll: int = settings.busy_read
        self.sock_flags: int = 0
        """SOCK_* bits of options seldom set (sock/options.py)."""
        self.cookie: int = 0
        self.ino: int = 0
        """The inode of the descriptor that the application has, by which `ss -p` finds who that is; 0 for none."""
        self.uid: int = 0
        """The user whose socket it is, as far as that was told."""
        self.reuseport_filter: Any = None
        """A classic BPF program that picks a socket of a reuseport group (SO_ATTACH_REUSEPORT_CBPF)."""
        self.stamp: int = 0
        self.dead: bool = False
        """No application holds it any more (Linux: SOCK_DEAD)."""
        self.rcvbuf_locked: bool = False
        self.sndbuf_locked: bool = False
        self.reuse: bool = False
        self.reuseport: bool = False
        self.broadcast: bool = False
        self.keepopen: bool = False
        self.oobinline: bool = False
        self.dontroute: bool = False
        self.no_check_tx: bool = False
        self.zerocopy: bool = False
        self.rxq_ovfl: bool = False
        # What packets look at, in few cache lines: compiled, attributes lie in the order in which they stand here
        # (Linux: the cacheline groups of `struct sock`).
        self.mark: int = 0
        self.priority: int = 0
        self.tsflags: int = 0
        self.rcvtstamp: int = 0
        """0, SO_TIMESTAMP or SO_TIMESTAMPNS: which time stamps come with received packets."""
        self.peek_off: int = -1
        self.rcvlowat: int = 1
        self.rcvtimeo: int = NEVER
        self.pacing_rate: int = PACING_UNLIMITED
        """Bytes per second at which it sends, as far as something paces."""
        self.pacing_status: int = SK_PACING_NONE
        self.max_pacing_rate: int = 0
        """Bytes per second; 0 where there is no limit."""
        self.sndbuf: int = settings.wmem_default
        self.wmem_alloc: int = 0
        self.wmem_queued: int = 0
        """Bytes of what a stream socket has yet to be acknowledged or to send, with their overhead."""
        self.err: int = 0
        self.err_soft: int = 0
        self.shutdown_mask: int = 0
        self.filter: Any = None
        """A classic BPF program (sock/filter.py), run on what is received."""
        self.dst: Dst | None = None
        self.rcvbuf: int = settings.rmem_default
        self.rmem_alloc: int = 0
        self.receive_queue = SKBuffQueue()
        self.wait = WaitQueue()
        self.state: int = 7  # TCP_CLOSE
        settings.sockets.add(self)

    # -- the calls: what a protocol defines

    def bind(self, name: Name) -> None:
        raise error(errno.EOPNOTSUPP)

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        raise error(errno.EOPNOTSUPP)

    def listen(self, backlog: int) -> None:
        raise error(errno.EOPNOTSUPP)

    def accept(self, flags: int, deadline: int) -> Blocking[Sock] | Sock:
        raise error(errno.EOPNOTSUPP)

    def unaccept(self, child: Sock) -> None:
        """Undo accept(): `child`, which nobody has used, goes back to the head of the queue."""
        raise error(errno.EOPNOTSUPP)

    def getsockname(self) -> Name:
        raise error(errno.EOPNOTSUPP)

    def getpeername(self) -> Name:
        raise error(errno.EOPNOTSUPP)

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send; returns how many bytes were taken."""
        raise error(errno.EOPNOTSUPP)

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocked[int] | int:
        """Receive; returns how many bytes (with MSG_TRUNC on a datagram: how many it had)."""
        raise error(errno.EOPNOTSUPP)

    def shutdown(self, how: int) -> None:
        raise error(errno.EOPNOTSUPP)

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        """The application lets go. May wait only where SO_LINGER says so."""
        raise NotImplementedError(f"{type(self).__name__} must define close()")

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """`value` as Linux lays it out. Raises OSError ENOPROTOOPT, EINVAL, EDOM, …"""
        raise error(errno.ENOPROTOOPT)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        """The value as Linux lays it out, cut to `length` bytes. Raises OSError ENOPROTOOPT, …"""
        raise error(errno.ENOPROTOOPT)

    def getsockopt_from(self, level: int, option: int, value: bytes) -> bytes:
        """As `getsockopt`, for the few options that read the buffer first, which holds `value`."""
        return self.getsockopt(level, option, len(value))

    def ioctl(self, request: int) -> int:
        """SIOCINQ, SIOCOUTQ, SIOCATMARK, … Raises OSError ENOTTY for one it doesn't know."""
        raise error(errno.ENOTTY)

    def poll(self) -> int:
        """The events that are so now (EPOLL*): datagram sockets' (Linux: datagram_poll)."""
        mask = 0
        if self.err or self.error_queue:
            mask |= EPOLLERR
        shutdown = self.shutdown_mask
        if shutdown & RCV_SHUTDOWN:
            mask |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM
        if shutdown == SHUTDOWN_MASK:
            mask |= EPOLLHUP
        if self.receive_queue.first is not None:
            mask |= EPOLLIN | EPOLLRDNORM
        if self.writeable():
            mask |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND
        return mask

    # -- errors

    def take_error(self) -> int:
        """The pending error, which is cleared (Linux: sock_error); 0 for none."""
        code = self.err
        self.err = 0
        return code

    def raise_error(self) -> None:
        """Raise the pending error, if there is one."""
        code = self.err
        if code:
            self.err = 0
            raise error(code)

    # -- reports of what was sent

    def tstamp_tx(self, skb: SKBuff, kind: int) -> None:
        """A packet of this socket passed the device's queue, or left (SCM_TSTAMP_*; Linux: __skb_tstamp_tx)."""
        from usernet.sock.timestamping import tstamp_tx

        tstamp_tx(self, skb, kind)

    def first_timestamping_key(self, unsent: bool) -> int:
        """SOF_TIMESTAMPING_OPT_ID is turned on: what to count from. unsent: SOF_TIMESTAMPING_OPT_ID_TCP."""
        return 0

    def timestamping_key(self, tskey: int) -> int:
        """SOF_TIMESTAMPING_OPT_ID: what the application knows `tskey` of a packet by."""
        return tskey

    def timestamping_opt_stats(self, skb: SKBuff, ack_skb: SKBuff | None) -> bytes | None:
        """SOF_TIMESTAMPING_OPT_STATS: the state of the connection when `skb` passed; None where there is none."""
        return None

    # -- waking

    def state_change(self) -> None:
        """The state changed: everyone looks (Linux: sk_state_change)."""
        if self.wait.active:
            self.wait.wake_all(WAKE_READ | WAKE_WRITE | EPOLLHUP | EPOLLRDHUP | EPOLLERR)

    def data_ready(self) -> None:
        """There is something to read (Linux: sk_data_ready)."""
        if self.wait.active:
            self.wait.wake(EPOLLIN | EPOLLPRI | EPOLLRDNORM | EPOLLRDBAND)

    def write_space(self) -> None:
        """There may be room to send (Linux: sk_write_space)."""
        if self.wait.active and self.writeable():
            self.wait.wake(WAKE_WRITE)

    def error_report(self) -> None:
        """There is an error (Linux: sk_error_report)."""
        if self.wait.active:
            self.wait.wake_all(EPOLLERR | WAKE_READ | WAKE_WRITE | EPOLLMSG)

    # -- accounts

    def writeable(self) -> bool:
        """Whether a datagram socket has room to send (Linux: sock_writeable)."""
        return self.wmem_alloc < self.sndbuf >> 1

    def charge_receive(self, skb: SKBuff) -> None:
        """Put a received packet on this socket's account (Linux: skb_set_owner_r)."""
        if skb.destructor is not None:
            skb.orphan()
        skb.sk = self
        skb.destructor = _uncharge_receive
        self.rmem_alloc += skb.truesize

    def charge_send(self, skb: SKBuff) -> None:
        """Put a packet being sent on this socket's account until it has left (Linux: skb_set_owner_w)."""
        skb.sk = self
        skb.destructor = _uncharge_send
        self.wmem_alloc += skb.truesize

    def queue_receive(self, skb: SKBuff) -> DropReason | None:
        """Queue a received datagram (Linux: sock_queue_rcv_skb). Returns why it had no place, None where it has."""
        # Whatever its size, the packet that finds room left has a place.
        if self.rmem_alloc >= self.rcvbuf:
            self.drops += 1
            return DropReason.SOCKET_RCVBUFF
        self.charge_receive(skb)
        skb.dst = None
        self.receive_queue.append(skb)
        if not self.dead:
            self.data_ready()
        return None

    def busy_loop(self) -> bool:
        """Before a reader sleeps, look at the device oneself: once, and on and on for SO_BUSY_POLL µs where that is
        set. True where something has come (Linux: sk_busy_loop).

        A look at an empty device costs less than to sleep and be woken; but where many in a row were in vain, only now
        and then one is taken, to find out whether it pays again. Only for devices with a descriptor, and where
        something drives the stack: what is driven by hand, or on virtual time, must not move by itself.
        """
        dst = self.dst
        loop = self.loop
        if dst is None or loop.trampoline is None or dst.dev.driver.fileno() < 0:
            return False
        softirq = loop.softirq
        napi = dst.dev.napi
        queue = self.receive_queue
        limit = self.busy_poll
        if not limit:
            napi.missed += 1
            if napi.missed > LOOK_MISSES and napi.missed % LOOK_EVERY:
                return False
        end = loop.now + limit * 1000
        while True:
            softirq.schedule(napi)
            softirq.run()
            if queue.first is not None:
                napi.missed = 0
                return True
            if not limit:
                return False
            now = loop.clock.now()
            if now >= end:
                return False
            loop.now = max(now, loop.now)

    def purge(self) -> None:
        """Let go of all that is queued."""
        for skb in self.receive_queue.take():
            skb.consume()
        if self.error_queue is not None:
            for skb in self.error_queue.take():
                skb.consume()
            self.error_queue = None

    def destroy(self) -> None:
        """The socket's end: nothing of it is left in any table (Linux: sk_free)."""
        self.purge()
        self.dst = None
        self.settings.sockets.discard(self)

    # -- waiting

    def wait_packet(self, deadline: int) -> Blocking[SKBuff | None]:
        """Wait for a datagram (Linux: __skb_wait_for_more_packets). None at the end of a socket shut down.

        Raises OSError: the socket's error, EAGAIN when `deadline` has passed.
        """
        while True:
            # First of all a look: between the attempt and now the lock was released, and a packet may have come.
            self.raise_error()
            skb = self.receive_queue.first
            if skb is not None:
                return skb
            if self.shutdown_mask & RCV_SHUTDOWN:
                return None
            if self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((self.wait,), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, deadline, True, self.busy_poll)

    def wait_for_wmem(self, deadline: int) -> Blocking[None]:
        """Wait until there is room to send a datagram (Linux: sock_wait_for_wmem).

        Raises OSError: the socket's error, EPIPE when shut down, EAGAIN when `deadline` has passed.
        """
        while self.wmem_alloc >= self.sndbuf:
            if self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((self.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)
            self.raise_error()
            if self.shutdown_mask & SEND_SHUTDOWN:
                raise error(errno.EPIPE)


def _uncharge_receive(skb: SKBuff) -> None:
    sk: Sock = skb.sk
    sk.rmem_alloc -= skb.truesize


def _uncharge_send(skb: SKBuff) -> None:
    sk: Sock = skb.sk
    sk.wmem_alloc -= skb.truesize
    if not sk.dead:
        sk.write_space()


def set_buffer(sk: Sock, value: int, limit: int, receive: bool) -> None:
    """SO_RCVBUF and SO_SNDBUF: twice what is asked for, for the overhead (socket(7)); at most twice `limit`."""
    value = max(min(value, limit, INT_MAX // 2), 0)
    if receive:
        sk.rcvbuf_locked = True
        sk.rcvbuf = max(value * 2, SOCK_MIN_RCVBUF)
    else:
        sk.sndbuf_locked = True
        sk.sndbuf = max(value * 2, SOCK_MIN_SNDBUF)
