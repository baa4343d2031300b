"""The channel of a socket of datagrams (UDP, raw, ping, packet): each keeps its boundaries.

The pair is one of SOCK_SEQPACKET, which keeps them too and, other than a pair of SOCK_DGRAM, tells when the other end
is closed. What the application writes is sent to the socket's peer, as send(2) does. What arrives can be read without
its address from the descriptor, or with it by a call (`receive`), in any order: so where addresses differ, or ancillary
data was asked for, only one datagram at a time lies in the pair, with its address remembered here, and all others wait
in the receive queue. A connected socket's all come from its peer, and as many lie in the pair as it holds.

A packet socket with a ring puts its frames there; whether there are any, a mark in the pair tells (ring.py).

An error of a socket that lives on (ICMP's port unreachable) does not show on the descriptor: SO_ERROR has it.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SOCK_SEQPACKET, socket
from array import array
from errno import EAGAIN
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final, final

from usernet.core.iov import BytesIter, CollectIter
from usernet.core.wait import EPOLLOUT
from usernet.posix.channel.channel import INTEREST, PAIR_BUFFER, Channel, Channels, set_send_buffer
from usernet.posix.channel.ring import RingMark
from usernet.sock.msg import MSG_PEEK, MSG_TRUNC, SEND_SHUTDOWN, MsgHdr
from usernet.sock.sockopt import SOCK_RCVMARK
from usernet.sockets.packet import PacketSock
from usernet.sockets.socket import Socket

LARGEST: Final = 1 << 19
"""Bytes of the largest datagram that is moved; UDP_GRO makes them larger than 64 KiB."""

BURST: Final = 64
"""Datagrams moved each way in a poll before others have their turn."""

SHUT_RD: Final = 0


@final
class DatagramChannel(Channel):
    """The channel of a socket of datagrams."""

    def __init__(self, opened: Socket) -> None:
        self.sk = opened.sk
        self._last: MsgHdr | None = None
        """What goes with the datagram put into the pair last."""
        self._held: bytes | None = None
        """A datagram that the pair has no room for."""
        self._pending: bytes | None = None
        """One that the socket has no room for."""
        self._returned: list[tuple[bytes, MsgHdr]] = []
        self.receivers: int = 0
        """How many calls wait for a datagram: what comes stays in the receive queue for them."""
        self._again = False
        self._scratch = opened.net.get(Channels).scratch(LARGEST)
        super().__init__(opened, SOCK_SEQPACKET)
        sk = opened.sk
        self._ring = RingMark(sk, self.loop, self.at_app) if isinstance(sk, PacketSock) else None
        self.ready = True
        self.loop.softirq.schedule(self)

    def _prepare(self, app: socket) -> None:
        set_send_buffer(self._own, PAIR_BUFFER)
        set_send_buffer(app, PAIR_BUFFER)

    # -- what is told

    def follow(self) -> None:
        self.loop.softirq.schedule(self)

    def connected(self) -> None:
        self.loop.softirq.schedule(self)

    def within_reach(self) -> None:
        if self._ring is not None:
            self._ring.follow(self._own, self._in_pair)

    def ring_changed(self) -> None:
        """The socket, of packets, has got a ring, or has none any more: what lies in the pair is gone."""
        assert self._ring is not None
        self._last = self._held = None
        self._returned.clear()
        self._ring.clear()
        self.loop.softirq.schedule(self)

    def settle(self) -> None:
        """Send what the application has written up to now, before a call that changes where it goes, or is sent itself:
        epoll may not have told of it yet."""
        if self.over or self.held:
            return
        self._again = True
        while self._again and self._pending is None:
            self._again = False
            self._readable = True
            self._to_net()

    def shutdown(self, how: int) -> None:
        self.settle()
        self.sk.shutdown(how)
        if how != SHUT_WR and not self.over and not self._sent_eof:
            self._sent_eof = True
            self._own.shutdown(SHUT_WR)

    def receive(self, size: int, flags: int) -> tuple[bytes, int, MsgHdr] | None:
        """The datagram that lies at the front of the pair, for recvmsg: up to `size` bytes of it, how many it has, and
        its address and ancillary data, with MSG_TRUNC where it was cut. None where the pair is empty: then the socket
        itself is to be asked. flags: MSG_PEEK and MSG_TRUNC count."""
        if self._ring is not None and self._ring.active:
            return None
        last = self._last
        if self._returned or self.over or last is None or not self._in_pair():
            return self._receive_returned(size, flags)
        got: list[tuple[bytes, int]] = []

        def take(app: socket) -> None:
            buffer = bytearray(size)
            length = app.recv_into(buffer, size, flags & MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT)
            got.append((bytes(buffer[:length]), length))

        try:
            if not self.at_app(take):
                return None
        except BlockingIOError:
            return None  # the application was faster
        data, length = got[0]
        msg = MsgHdr(CollectIter(0), last.name, last.control)
        msg.flags = last.flags | (MSG_TRUNC if length > size else 0)
        self.loop.softirq.schedule(self)
        return data, length, msg

    # -- the pump

    def poll(self, budget: int) -> int:
        if self.over or self.held:
            return 0
        self._again = False
        if self._told:
            self._ask()
        moved = 0
        if self._readable or self._pending is not None or self._eof or self._hung:
            moved = self._to_net()
        if self._hung and self._pending is None and not self._again and self._app_gone():
            self._end()
            return moved
        moved += self._to_app()
        if self._again:
            self.loop.softirq.schedule(self)
        return min(1 + moved, budget - 1 if budget > 1 else budget)

    def _receive_returned(self, size: int, flags: int) -> tuple[bytes, int, MsgHdr] | None:
        if not self._returned:
            return None
        data, kept = self._returned[-1]
        if not flags & MSG_PEEK:
            self._returned.pop()
        msg = MsgHdr(CollectIter(0), kept.name, kept.control)
        msg.flags = kept.flags | (MSG_TRUNC if len(data) > size else 0)
        return data[:size], len(data), msg

    def put_back(self, data: bytes, msg: MsgHdr) -> None:
        """A datagram that was taken for a call which came to nothing is the next one again."""
        if not self.over:
            self._returned.append((data, msg))
            self.loop.softirq.schedule(self)

    def _in_pair(self) -> bool:
        """Whether the application has still to read something."""
        count = array("i", [0])
        ioctl(self._own_fd, TIOCOUTQ, count)
        return count[0] > 0

    def _waiting(self) -> bool:
        """Whether there is something to be put into the pair."""
        return self.sk.receive_queue.first is not None or self._held is not None or bool(self._returned)

    def _one_by_one(self) -> bool:
        """Whether what goes with each datagram has to be remembered."""
        sk = self.sk
        if sk.rcvtstamp or sk.tsflags or sk.rxq_ovfl or sk.sock_flags & SOCK_RCVMARK or getattr(sk, "cmsg_flags", 0):
            return True
        try:
            sk.getpeername()
        except OSError:
            return True
        return False

    def _to_app(self) -> int:
        sk = self.sk
        ring = self._ring
        if ring is not None and ring.active:
            ring.follow(self._own, self._in_pair)
            return 0
        single = self._one_by_one()
        if self.receivers:
            return 0
        waits = self._waiting()
        if single and waits and self._last is not None and self._in_pair():
            # An edge tells when it has been read.
            self._want_out(True)
            if self._in_pair():
                return 0
        moved = 0
        full = False
        while moved < BURST:
            data = self._held
            if data is None:
                if not (self._returned or sk.receive_queue.first is not None):
                    break
                data = self._next()
                if data is None:
                    break
            try:
                self._own.send(data, MSG_NOSIGNAL)
            except BlockingIOError:
                self._held = data
                full = True
                break
            except OSError:
                pass  # the application receives no more
            self._held = None
            moved += 1
            if single:
                break
        else:
            self._again = True
        wanted = full or (single and self._waiting())
        if wanted != self._wants_out:
            self._want_out(wanted)
        return moved

    def _next(self) -> bytes | None:
        """The first datagram of the receive queue; what goes with it is remembered."""
        if self._returned:
            data, self._last = self._returned.pop()
            return data
        sk = self.sk
        sink = CollectIter(LARGEST)
        msg = MsgHdr(sink)
        # An error that waits is for SO_ERROR, and stands in nobody's way here.
        code = sk.take_error()
        try:
            sk.recvmsg(msg, MSG_DONTWAIT, self.loop.now)
        except OSError:
            return None  # it was not what its checksum says
        finally:
            if code:
                sk.err = code
        self._last = msg
        return sink.getvalue()

    def _to_net(self) -> int:
        sk = self.sk
        moved = 0
        scratch = self._scratch
        # Cleared before the reading: what comes meanwhile sets it again.
        readable = self._readable or self._eof or self._hung
        self._readable = False
        while moved < BURST:
            data = self._pending
            if data is None:
                if not readable:
                    break
                try:
                    # By a name: the compiler evaluates what stands in a slice twice.
                    length = self._own.recv_into(scratch)
                    data = bytes(scratch[:length])
                except OSError:
                    break
                if not data and self._ended():
                    break
            code = sk.take_error()
            try:
                sk.sendmsg(MsgHdr(BytesIter(data)), MSG_DONTWAIT | MSG_NOSIGNAL, self.loop.now)
            except OSError as problem:
                if problem.errno == EAGAIN and not sk.shutdown_mask & SEND_SHUTDOWN:
                    self._pending = data
                    self._waiter.mask = INTEREST | EPOLLOUT
                    self._readable = readable
                    return moved
                # As a datagram that is lost on its way; the next call hears of it.
                code = code or problem.errno or 0
            finally:
                if code:
                    sk.err = code
            self._pending = None
            moved += 1
        else:
            self._again = self._readable = True
        self._waiter.mask = INTEREST
        return moved

    def _ended(self) -> bool:
        """Whether an empty read is the end, and no empty datagram."""
        self._ask()
        return self._eof or self._hung

    def _let_go(self) -> None:
        if self._ring is not None:
            self._ring.end()
        super()._let_go()
