"""The channel of a stream: bytes both ways, the end of each way, reset, connect under way, and connections that wait.

Three things that TCP shows on its descriptor a pair of UNIX sockets can show too, by bytes that the application wrote
without knowing, before its end was handed over:

- Reset. An end that is closed while bytes lie in it unread gives its peer first what is queued there, then ECONNRESET,
  then end of file, with POLLERR | POLLHUP. So there is always at least one unread byte in the stack's end: of n bytes
  it reads n - 1, of which the first was forwarded before, and peeks at the last, which is forwarded and stays
  (reader.py). That is why the end is watched by edges: by level it would be readable for ever.
- Connecting. An end with the smallest send buffer is not writable while two bytes, each of which costs a packet, are
  charged to it. Taking one out makes it writable (POLLOUT: connected), closing with both in it is what refused looks
  like, and the one that stays is the first guard.
- Connections that wait. A listener is readable (POLLIN) while a mark lies in the application's end.

To the application: fragments of received packets are written as they lie in the receive queue, and only what was
taken is taken out of there, so that when the application does not read, the TCP window closes by itself. To the
network: no more is read from the pair than the send buffer has room for.
"""

from __future__ import annotations

from _socket import (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SO_OOBINLINE,
    SO_SNDBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from errno import EAGAIN, EPIPE
from typing import Final, final

from usernet.core.errors import error
from usernet.core.iov import CollectIter, IovIter, Payload
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Blocking, Wait
from usernet.posix.channel.channel import INTEREST, PAIR_BUFFER, Channel, set_send_buffer
from usernet.posix.channel.reader import CHUNK, PairReader
from usernet.sock.msg import RCV_SHUTDOWN, SEND_SHUTDOWN, MsgHdr
from usernet.sockets.socket import Socket
from usernet.transport.tcp.calls import SS_CONNECTED, SS_CONNECTING
from usernet.transport.tcp.const import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_URG_VALID
from usernet.transport.tcp.read_sock import read_sock
from usernet.transport.tcp.sock import TcpSock

CHUNKS: Final = 1
"""How many chunks a poll moves each way before others have their turn: a hundred microseconds' work or two."""

IOV_MAX: Final = 1024
"""Pieces that sendmsg(2) takes."""

FILLER: Final = b"\0"
MARK: Final = b"a"

IDLE: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
LISTENING: Final = 3


@final
class StreamChannel(Channel):
    """The channel of a TCP socket."""

    def __init__(self, opened: Socket) -> None:
        sk = opened.sk
        assert isinstance(sk, TcpSock)
        self.sk = sk
        self.state: int = CONNECTED if sk.ss_state == SS_CONNECTED else IDLE
        self._pending: IovIter | None = None
        """Read from the pair, and not taken by the send buffer yet."""
        self._marked = False
        self._full = False
        """The pair holds all it can for the application."""
        self._discard = False
        """The application does not receive any more."""
        self._doomed = False
        """The connection has failed, and the application has still to read what came before."""
        self._again = False
        self._busy = False
        self._narrow = False
        """The application's end, out of reach, has still the smallest send buffer."""
        alone = self.state == IDLE and sk.state == TCP_CLOSE
        super().__init__(opened, SOCK_STREAM, quiet=self.state == IDLE, single=alone)
        if self.state == CONNECTED:
            self.ready = True
            self.loop.softirq.schedule(self)

    def _prepare(self, app: socket) -> None:
        self._reader = PairReader(self._own, self.sk)
        set_send_buffer(self._own, self._receive_limit)
        # What is sent with MSG_OOB by number is a byte like others; only a call sends it as urgent.
        self._own.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)
        if self.state == CONNECTED:
            set_send_buffer(app, PAIR_BUFFER)
        else:
            app.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)  # the smallest there is
            app.send(FILLER)
        app.send(FILLER)

    # -- what is told

    def connecting(self) -> None:
        if self.state == IDLE and self._join():
            self.state = CONNECTING
            self._waiter.mask = INTEREST | EPOLLOUT
            self.loop.softirq.schedule(self)

    def connected(self) -> None:
        if self.over or self.state >= CONNECTED or not self._join():
            return
        self.state = CONNECTED
        self.ready = True
        self._waiter.mask = INTEREST
        # First the room, then the event that says so.
        self._narrow = not self.at_app(lambda app: set_send_buffer(app, PAIR_BUFFER))
        self._own.recv(1)
        self._listen_to_app()
        self._readable = True
        self.loop.softirq.schedule(self)

    def listening(self) -> None:
        if self.state == IDLE and self._join():
            self.state = LISTENING
        self.loop.softirq.schedule(self)

    def accepted(self) -> None:
        if not self.over and not self.single:
            self._mark()

    def within_reach(self) -> None:
        if self.over:
            return
        if self.single:
            self.follow()
        if self._narrow:
            self._narrow = not self.at_app(lambda app: set_send_buffer(app, PAIR_BUFFER))
        if self.state == LISTENING:
            self._mark()

    def shutdown(self, how: int) -> None:
        sk = self.sk
        if self.over or self.state != CONNECTED or not 0 <= how <= 2 or sk.state == TCP_CLOSE:
            sk.shutdown(how)
            return
        if how != SHUT_WR:
            self._shut |= RCV_SHUTDOWN
            self._to_app()
            sk.shutdown(SHUT_RD)
            self._discard = True
            self._show_eof()
        if how != SHUT_RD and not self._shut & SEND_SHUTDOWN:
            # The application writes no more; the FIN goes out behind what it has written.
            self._shut |= SEND_SHUTDOWN
            self._own.shutdown(SHUT_RD)
            self._readable = self._eof = True
            self._to_net()
        self.loop.softirq.schedule(self)

    def follow(self) -> None:
        state = self.sk.state
        if self.over or self.state != IDLE:
            return
        if self.sk.ss_state == SS_CONNECTING:
            # Perhaps it has ended already, the one way or the other.
            self.connecting()
        elif state == TCP_CLOSE:
            return
        elif state == TCP_LISTEN:
            self.listening()
        else:
            self.connected()

    def drain(self, deadline: int | None) -> Blocking[None] | None:
        self._readable = True
        return None if self._drained() else self._wait_drained(NEVER if deadline is None else deadline)

    def _drained(self) -> bool:
        if self.over or self.state != CONNECTED or self._doomed:
            return True
        self._to_net()
        self.loop.softirq.schedule(self)
        return self._own.fileno() < 0 or (self._pending is None and self._reader.empty)

    def _wait_drained(self, deadline: int) -> Blocking[None]:
        while not self._drained():
            if self.loop.now >= deadline:
                raise error(EAGAIN)
            yield Wait((self.sk.wait,), EPOLLOUT | EPOLLERR | EPOLLHUP, deadline)

    # -- the pump

    def poll(self, budget: int) -> int:
        if self.over or self.held or self.single:
            return 0
        if self._busy:
            # A look at the devices, on the way to an answer, has come back here.
            self._again = True
            return 0
        self._busy = True
        try:
            moved = self._poll()
        finally:
            self._busy = False
        if self._again and not self.over:
            self._again = False
            self.loop.softirq.schedule(self)
        return min(1 + (moved >> 14), budget - 1 if budget > 1 else budget)

    def _poll(self) -> int:
        state = self.state
        sk = self.sk
        if self._told:
            self._ask()
        if state == CONNECTING:
            if sk.poll() & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                if sk.state == TCP_CLOSE or sk.err:
                    self._end()  # with its filler unread: that is what refused looks like
                    return 0
                self.connected()
                state = self.state
        elif state == LISTENING:
            self._mark()
        if state != CONNECTED:
            if self._app_gone():
                self._end()
            return 0
        moved = 0
        if self._doomed:
            if self._app_gone():
                self._end()
        elif self._readable or self._pending is not None or self._eof or self._hung or sk.err or sk.state == TCP_CLOSE:
            moved = self._to_net()
        if not self.over:
            moved += self._to_app()
        return moved

    def _to_app(self) -> int:
        """From the receive queue to the application. Returns how many bytes."""
        sk = self.sk
        if self._full:
            if not self._writable:
                return 0
            self._full = False
        moved = chunks = 0
        queue = sk.receive_queue
        while queue.first is not None:
            if sk.urg_data & TCP_URG_VALID and sk.urg_seq == sk.copied_seq and not self._urgent():
                break
            if chunks == CHUNKS:
                self._again = True
                break
            shown, taken = read_sock(sk, CHUNK, self._write)
            moved += taken
            if taken < shown:
                self._full = True
                break
            if not shown:
                break
            chunks += 1
        if self._full != self._wants_out:
            self._want_out(self._full)
        if (sk.fin_received or sk.err or sk.state == TCP_CLOSE) and not (self._full or self._again):
            self._look_at_end()
        return moved

    def _write(self, pieces: list[Payload], size: int) -> int:
        """Write what was received to the application, as far as there is room; returns how many bytes."""
        if self._discard:
            return size
        self._writable = False
        try:
            if len(pieces) == 1:
                return self._own.send(pieces[0], MSG_NOSIGNAL)
            return self._own.sendmsg(pieces[:IOV_MAX], (), MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            # The application receives no more, or is gone, which an event of its own tells. What comes is thrown away,
            # so that the window does not close on one who waits for an answer.
            self._discard = True
            return size

    def _urgent(self) -> bool:
        """Pass the urgent byte on, out of band. False where the pair is full."""
        sk = self.sk
        if sk.oobinline:
            return True
        sink = CollectIter(1)
        if sk.recvmsg(MsgHdr(sink), MSG_OOB | MSG_PEEK | MSG_DONTWAIT, self.loop.now) == 1 and not self._discard:
            self._writable = False
            try:
                self._own.send(sink.getvalue(), MSG_OOB | MSG_NOSIGNAL)
            except BlockingIOError:
                self._full = True
                return False
            except OSError:
                self._discard = True
        sk.recvmsg(MsgHdr(CollectIter(1)), MSG_OOB | MSG_DONTWAIT, self.loop.now)
        return True

    def _look_at_end(self) -> None:
        """All that came was passed on: so is the end of it, if it has come."""
        sk = self.sk
        if sk.err and not (sk.err == EPIPE and sk.fin_received):
            self._end()
            return
        if sk.fin_received and not self._sent_eof:
            if sk.receive_queue.first is not None:
                # The FIN lies there alone.
                sk.recvmsg(MsgHdr(CollectIter(1)), MSG_DONTWAIT, self.loop.now)
            self._show_eof()
        if sk.state == TCP_CLOSE and self._shut != RCV_SHUTDOWN | SEND_SHUTDOWN:
            # Over both ways. A write finds a broken pipe.
            self._shut = RCV_SHUTDOWN | SEND_SHUTDOWN
            self._sent_eof = True
            self._shut_own(SHUT_RDWR)

    def _show_eof(self) -> None:
        if not self._sent_eof:
            self._sent_eof = True
            self._shut_own(SHUT_WR)

    def _shut_own(self, how: int) -> None:
        try:
            self._own.shutdown(how)
        except OSError:
            pass  # the application has closed its end

    def _to_net(self) -> int:
        """From the application to the send buffer. Returns how many bytes."""
        sk = self.sk
        hung = self._hung and self._app_gone()
        if sk.err or sk.state == TCP_CLOSE:
            if hung:
                self._end()
            elif sk.err and not self._doomed:
                # It is reset when the application has read what came before; it can't write meanwhile.
                self._doomed = True
                self._pending = None
                self._shut_own(SHUT_RD)
            return 0
        if hung and (self._failed or sk.linger == 0):
            # It was closed with data unread, or is to be cut off (RFC 2525 section 2.17, SO_LINGER).
            self._last_words()
            sk.linger = 0
            self._end()
            return 0
        moved = chunks = 0
        while self._pending is not None or self._readable or self._eof or hung:
            if not self._room():
                self._waiter.mask = INTEREST | EPOLLOUT
                return moved
            if chunks == CHUNKS:
                self._again = True
                return moved
            source = self._pending
            if source is None:
                source = self._pending = self._read()
                if source is None:
                    break
            moved += self._send(source)
            chunks += 1
        self._waiter.mask = INTEREST
        if hung:
            self._end()
        elif self._eof and not sk.shutdown_mask & SEND_SHUTDOWN:
            sk.shutdown(SHUT_WR)
        return moved

    def _room(self) -> bool:
        """Whether the send buffer is to be given more."""
        sk = self.sk
        if sk.state == TCP_ESTABLISHED and not sk.shutdown_mask & SEND_SHUTDOWN and sk.stream_writeable():
            return True
        return bool(sk.poll() & EPOLLOUT)

    def _last_words(self) -> None:
        """What the application had written before it closed was sent then, as far as there was room."""
        self._readable = True
        while self._room():
            try:
                source = self._pending or self._read()
            except OSError:
                return  # the pair is reset, and nothing is left in it
            if source is None:
                return
            self._pending = source
            left = source.length
            self._send(source)
            if source.length == left:
                return

    def _read(self) -> IovIter | None:
        """What the application has written, or the beginning of it; None where there is nothing."""
        reader = self._reader
        self._readable = False
        if self._marked_byte:
            self._marked_byte = False
            reader.marked = True
        source = reader.read()
        if reader.more:
            self._readable = True
        return source

    def _send(self, source: IovIter) -> int:
        """Give the send buffer what was read, as much as it takes."""
        try:
            sent = self.sk.sendmsg(MsgHdr(source), MSG_DONTWAIT | MSG_NOSIGNAL, self.loop.now)
        except BlockingIOError as problem:
            if problem.errno != EAGAIN:
                raise
            return 0
        assert isinstance(sent, int)
        if not source.length:
            self._pending = None
        return sent

    # -- a listener

    def _mark(self) -> None:
        """Have the mark in the application's end while a connection waits."""
        waits = bool(self.sk.poll() & EPOLLIN)
        if waits == self._marked:
            return
        if waits:
            try:
                self._own.send(MARK, MSG_NOSIGNAL)
            except OSError:
                return  # the application has closed its end
            self._marked = True
            return
        if self.at_app(_take_mark):
            self._marked = False


def _take_mark(app: socket) -> None:
    try:
        app.recv(16, MSG_DONTWAIT)
    except OSError:
        pass  # the application read it
