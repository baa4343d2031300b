"""A target without a stack: just enough of TCP to answer a script, so the runner is tested alone.

One connection, no retransmission, no congestion control. Its initial sequence numbers, ports and time stamps are far
from a script's, on purpose.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import struct
from collections.abc import Callable

from usernet.packetdrill import build
from usernet.packetdrill.ast import IpInfo, Tcp, TcpOption
from usernet.packetdrill.config import Config
from usernet.packetdrill.live import Live, dissect
from usernet.packetdrill.shell import QdiscChange, RouteChange, Shell
from usernet.packetdrill.target import (
    Buffer,
    Call,
    ControlMessage,
    EpollEvent,
    Frame,
    Message,
    PollFd,
    SocketAddress,
    Target,
)
from usernet.wire import tcp

MS = 1_000_000
SEC = 1_000_000_000
BOOT = 1_000 * SEC  # the clock does not begin at 0
ISN = 0xFFFFFF00  # data goes round the end of the sequence numbers
LOCAL_PORT = 45678
TS_OFFSET = 5_000_000
ACCEPTED_FD = 50


class FakeShell(Shell):
    """Remembers what was asked of it."""

    def __init__(self, target: FakeTarget) -> None:
        self.target = target
        self.sysctls: dict[str, str] = {"net.ipv4.tcp_timestamps": "1", "net.ipv4.tcp_wmem": "4096\t16384\t4194304"}
        self.known: set[str] | None = None  # None: any name
        self.parameters: dict[tuple[str, str], str] = {("tcp_cubic", "hystart_detect"): "3"}
        self.actions: list[object] = []
        self.mib: dict[str, int] = {}
        self.files: dict[str, bytes] = {}

    def sysctl_get(self, name: str) -> str:
        if self.known is not None and name not in self.known:
            raise OSError(errno.ENOENT, "No such file or directory")
        return self.sysctls.get(name, "0")

    def sysctl_set(self, name: str, value: str) -> None:
        if self.known is not None and name not in self.known:
            raise OSError(errno.ENOENT, "No such file or directory")
        self.sysctls[name] = value

    def module_parameter_get(self, module: str, name: str) -> str:
        return self.parameters[module, name]

    def module_parameter_set(self, module: str, name: str, value: str) -> None:
        if (module, name) not in self.parameters:
            raise OSError(errno.ENOENT, "No such file or directory")
        self.parameters[module, name] = value

    def route(self, change: RouteChange) -> None:
        self.actions.append(change)

    def metrics_flush(self, address: str) -> None:
        self.actions.append(("metrics_flush", address))

    def metrics_show(self, address: str) -> str:
        return f"{address or '192.0.2.1'} age 0.000sec\n"

    def qdisc(self, change: QdiscChange) -> None:
        if change.action == "delete" and not change.kind:
            raise OSError(errno.ENOENT, "No such file or directory")
        self.actions.append(change)

    def features(self, device: str, features: dict[str, bool]) -> None:
        self.actions.append((device, features))

    def link(self, device: str, settings: dict[str, str]) -> None:
        self.actions.append((device, settings))

    def counters(self) -> dict[str, int]:
        return self.mib

    def file_write(self, path: str, data: bytes | None) -> None:
        if data is None:
            self.files.pop(path, None)
        else:
            self.files[path] = data

    def sleep(self, duration: int) -> None:
        limit = self.target.now() + duration
        while self.target.step(limit):
            pass


class FakeTarget(Target):
    """The fake. `ack_delay`: ns before data is acknowledged. `mss`: payload of the segments that it sends."""

    def __init__(self, ack_delay: int = 0, mss: int = 1 << 16) -> None:
        self.ack_delay = ack_delay
        self.mss = mss
        self.clock = BOOT
        self.closed = 0
        self.injected: list[tuple[Live, int]] = []
        self.options: dict[int, bytes] = {}
        self.outcomes: dict[str, Callable[[Call], None]] = {}
        self._shell = FakeShell(self)
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._frames: list[Frame] = []
        self._fds = itertools.count(100)
        self._waiting: list[Call] = []
        self._queue: list[tuple[bytes, int]] = []
        self.nonblocking = False
        self.received = 0
        self.finished = False
        self.snd_nxt = 0
        self.rcv_nxt = 0
        self.ts_recent: int | None = None
        self.peer = (b"", 0)
        self.local = (b"", 0)
        self.connecting = False

    # ------------------------------------------------------------ Target

    def start(self, config: Config) -> None:
        self.config = config

    def close(self) -> None:
        self.closed += 1

    def now(self) -> int:
        return self.clock

    def at(self, time: int, action: Callable[[], None]) -> None:
        """Do something at a time, ns after BOOT."""
        heapq.heappush(self._due, (BOOT + time, next(self._count), action))

    def step(self, limit: int) -> bool:
        assert limit >= self.clock
        if not self._due or self._due[0][0] > limit:
            self.clock = limit
            return False
        time, _, action = heapq.heappop(self._due)
        self.clock = max(time, self.clock)
        action()
        return True

    def call(self, call: Call) -> None:
        handler = self.outcomes.get(call.name) or getattr(self, f"sys_{call.name}", None)
        if handler is None:
            call.finish(self.clock, -1, errno.ENOSYS)
        else:
            handler(call)

    def cancel(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
        call.finish(self.clock, -1, errno.EINTR)

    def inject(self, packet: bytes, gso_size: int) -> None:
        live = dissect(packet)
        self.injected.append((live, gso_size))
        if live.is_tcp:
            self._receive(live)

    def collect(self) -> list[Frame]:
        frames, self._frames = self._frames, []
        return frames

    def shell(self) -> FakeShell:
        return self._shell

    # ------------------------------------------------------------ TCP

    def send(
        self, flags: int, length: int = 0, options: list[TcpOption] | None = None, info: IpInfo | None = None
    ) -> None:
        """Send a segment, after the fake's own sequence number."""
        options = list(options or [])
        if self.ts_recent is not None and not flags & tcp.SYN:
            options += [TcpOption(1), TcpOption(1), self._time_stamp()]
        segment = Tcp(
            flags, self.snd_nxt, length, self.rcv_nxt if flags & tcp.ACK else 0, 500, 0, options,
            source_port=self.local[1], destination_port=self.peer[1],
        )
        self._frames.append(Frame(self.clock, build.tcp_packet(self.local[0], self.peer[0], segment, info or IpInfo())))
        self.snd_nxt = self.snd_nxt + length + bool(flags & tcp.SYN) + bool(flags & tcp.FIN) & 0xFFFFFFFF

    def _time_stamp(self) -> TcpOption:
        val = (self.clock // MS + TS_OFFSET) & 0xFFFFFFFF
        return TcpOption(tcp.TCPOPT_TIMESTAMP, struct.pack("!II", val, self.ts_recent or 0))

    def emit(self, data: bytes) -> None:
        """Send any bytes."""
        self._frames.append(Frame(self.clock, data))

    def _receive(self, live: Live) -> None:
        stamp = live.time_stamp()
        if stamp is not None:
            self.ts_recent = stamp[0]
        if live.flags & tcp.SYN:
            self.rcv_nxt = live.seq + 1 & 0xFFFFFFFF
            if live.flags & tcp.ACK:
                self.send(tcp.ACK)
                self._wake("connect", 0)
                return
            self.local = (live.destination, live.destination_port)
            self.peer = (live.source, live.source_port)
            self.snd_nxt = ISN
            self._queue.clear()
            options = [TcpOption(tcp.TCPOPT_MSS, struct.pack("!H", 1460))]
            if stamp is not None:
                options += [TcpOption(tcp.TCPOPT_SACK_PERM), self._time_stamp()]
            self.send(tcp.SYN | tcp.ACK, 0, options)
            return
        if not self._queue and not self.received and live.flags & tcp.ACK and not self.connecting:
            self._queue.append((live.source, live.source_port))
            self._wake("accept", 0)
        if live.payload:
            self.rcv_nxt = self.rcv_nxt + len(live.payload) & 0xFFFFFFFF
            self.received += len(live.payload)
            self.at(self.clock - BOOT + self.ack_delay, lambda: self.send(tcp.ACK))
            self._wake("read", self.received)

    def _wake(self, name: str, result: int) -> None:
        for call in [call for call in self._waiting if call.name == name]:
            self._waiting.remove(call)
            self.call(call) if name != "connect" else call.finish(self.clock, result)

    # ------------------------------------------------------------ calls

    def sys_socket(self, call: Call) -> None:
        call.finish(self.clock, next(self._fds))

    def sys_setsockopt(self, call: Call) -> None:
        call.finish(self.clock, 0)

    sys_bind = sys_listen = sys_shutdown = sys_setsockopt

    def sys_close(self, call: Call) -> None:
        if self.peer[0] and call.arguments[0] == ACCEPTED_FD:
            self.send(tcp.FIN | tcp.ACK)
        call.finish(self.clock, 0)

    def sys_fcntl(self, call: Call) -> None:
        self.nonblocking = call.arguments[1] == 4
        call.finish(self.clock, 0)

    def sys_accept(self, call: Call) -> None:
        if self._queue:
            address, port = self._queue[-1]
            call.output.address = SocketAddress(2, address, port)
            call.finish(self.clock, ACCEPTED_FD)
        elif self.nonblocking:
            call.finish(self.clock, -1, errno.EAGAIN)
        else:
            self._waiting.append(call)

    def sys_connect(self, call: Call) -> None:
        address = call.arguments[1]
        assert isinstance(address, SocketAddress)
        self.connecting = True
        self.local = (self.config.local_ip, LOCAL_PORT)
        self.peer = (address.address[-len(self.config.remote_ip) :], address.port)
        self.snd_nxt = ISN
        self.send(tcp.SYN, 0, [TcpOption(tcp.TCPOPT_MSS, struct.pack("!H", 1460))])
        if self.nonblocking:
            call.finish(self.clock, -1, errno.EINPROGRESS)
        else:
            self._waiting.append(call)

    def sys_write(self, call: Call) -> None:
        buffer = call.arguments[1]
        assert isinstance(buffer, Buffer)
        if buffer.data is None:
            call.finish(self.clock, -1, errno.EFAULT)
            return
        left = buffer.length
        while left:
            size = min(left, self.mss)
            left -= size
            self.send(tcp.ACK if left else tcp.PSH | tcp.ACK, size)
        call.finish(self.clock, buffer.length)

    def sys_read(self, call: Call) -> None:
        buffer = call.arguments[1]
        assert isinstance(buffer, Buffer)
        if self.received or self.finished:
            size = min(self.received, buffer.length)
            self.received -= size
            call.finish(self.clock, size)
        else:
            self._waiting.append(call)

    def sys_getsockopt(self, call: Call) -> None:
        name, length = call.arguments[2], call.arguments[3]
        assert isinstance(name, int) and isinstance(length, int)
        call.output.data = self.options.get(name, bytes(length))[:length]
        call.finish(self.clock, 0)

    def sys_ioctl(self, call: Call) -> None:
        call.output.data = struct.pack("=i", self.received)
        call.finish(self.clock, 0)

    def sys_pipe(self, call: Call) -> None:
        call.output.fds = [next(self._fds), next(self._fds)]
        call.finish(self.clock, 0)

    def sys_epoll_create(self, call: Call) -> None:
        call.finish(self.clock, next(self._fds))

    def sys_epoll_ctl(self, call: Call) -> None:
        self.registered = call.arguments[3]
        call.finish(self.clock, 0)

    def sys_epoll_wait(self, call: Call) -> None:
        if self.received:
            assert isinstance(self.registered, EpollEvent)
            call.output.events = [EpollEvent(1, self.registered.data)]
        call.finish(self.clock, len(call.output.events))

    def sys_poll(self, call: Call) -> None:
        fds = call.arguments[0]
        assert isinstance(fds, list)
        for fd in fds:
            assert isinstance(fd, PollFd)
            fd.revents = fd.events & 4
        call.finish(self.clock, sum(1 for fd in fds if isinstance(fd, PollFd) and fd.revents))

    def sys_recvmsg(self, call: Call) -> None:
        message = call.arguments[1]
        assert isinstance(message, Message)
        if not self.received:
            call.finish(self.clock, -1, errno.EAGAIN)
            return
        size = min(self.received, sum(buffer.length for buffer in message.buffers))
        self.received -= size
        message.control = [ControlMessage(6, 36, struct.pack("=i", self.received))]
        call.finish(self.clock, size)
