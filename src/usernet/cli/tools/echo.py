"""`ping`: echo requests, in the layout of ping(8). By a ping socket, so with no privilege anywhere."""

from __future__ import annotations

import errno
import math
import socket
from struct import Struct
from typing import Any, Final, final

from usernet.cli.tools.common import Lines, Options, Out, Text, number, resolve
from usernet.cli.tools.timing import now, sleep
from usernet.stack import Stack
from usernet.wire import icmp

IP_RECVERR: Final = 11
IP_TTL: Final = 2
IP_RECVTTL: Final = 12
MSG_ERRQUEUE: Final = 0x2000
SO_EE_ORIGIN_ICMP: Final = 2
SOCK_EXTENDED_ERR: Final = Struct("=IBBBBII")
_SOCKADDR_IN: Final = Struct("!2xH4s")

REASONS: Final = {
    (3, 0): "Destination Net Unreachable", (3, 1): "Destination Host Unreachable",
    (3, 2): "Destination Protocol Unreachable", (3, 3): "Destination Port Unreachable",
    (3, 4): "Frag needed and DF set", (3, 9): "Destination Net Prohibited", (3, 10): "Destination Host Prohibited",
    (3, 13): "Packet filtered", (11, 0): "Time to live exceeded", (11, 1): "Frag reassembly time exceeded",
}  # fmt: skip


def read_error(sock: Any) -> tuple[int, int, int, int, str, bytes] | None:
    """The next entry of a socket's error queue: (errno, origin, type, code, who sent it, the packet's data)."""
    try:
        data, control, _, _ = sock.recvmsg(65536, 512, MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None
    for level, kind, value in control:
        if level == socket.IPPROTO_IP and kind == IP_RECVERR and len(value) >= SOCK_EXTENDED_ERR.size:
            code, origin, icmp_type, icmp_code, _, _, _ = SOCK_EXTENDED_ERR.unpack_from(value)
            offender = ""
            if len(value) >= SOCK_EXTENDED_ERR.size + _SOCKADDR_IN.size:
                offender = socket.inet_ntoa(_SOCKADDR_IN.unpack_from(value, SOCK_EXTENDED_ERR.size)[1])
            return code, origin, icmp_type, icmp_code, offender, data
    return None


def ping(stack: Stack, *args: str, out: Out | None = None) -> Text:
    """`ping` on `stack`: ping(stack, "-c", "3", "10.0.0.2").

    -c N: how many; default 4 here, since nobody may be there to interrupt. -i SECONDS: between two. -s BYTES: of
    data. -W SECONDS: how long to wait for each answer. -w SECONDS: for all of it. -t TTL. -q: only the summary. -n.

    Returns what it prints; status 1 where no answer came. Raises UsageError.
    """
    options = Options("ping", "ping [-c COUNT] [-i SECONDS] [-s BYTES] [-W SECONDS] [-w SECONDS] [-t TTL] [-nq] HOST")
    options.add_argument("-c", dest="count", type=number("a number", 1, 1 << 62), default=4)
    options.add_argument("-i", dest="interval", type=number("seconds", 0.002, 1e6, float), default=1.0)
    options.add_argument("-s", dest="size", type=number("bytes", 0, 65507), default=56)
    options.add_argument("-W", dest="patience", type=number("seconds", 0.001, 1e6, float), default=1.0)
    options.add_argument("-w", dest="deadline", type=number("seconds", 0.001, 1e9, float), default=math.inf)
    options.add_argument("-t", dest="ttl", type=number("hops", 1, 255), default=0)
    options.add_argument("-q", dest="quiet", action="store_true")
    options.add_argument("-n", dest="numeric", action="store_true")
    options.add_argument("host")
    chosen = options.parse(args)
    address = resolve(stack, chosen.host)
    lines = Lines(out)
    lines.add(f"PING {chosen.host} ({address}) {chosen.size}({chosen.size + 28}) bytes of data.")
    echo = Echo(stack, lines, address, chosen.quiet)
    begin = now(stack)
    try:
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            if chosen.ttl:
                sock.setsockopt(socket.IPPROTO_IP, IP_TTL, chosen.ttl)
            while echo.sent < chosen.count:
                start = now(stack)
                if start - begin >= chosen.deadline:
                    break
                echo.probe(sock, chosen.size, start, min(start + chosen.patience, begin + chosen.deadline))
                if echo.sent < chosen.count:
                    sleep(stack, start + chosen.interval - now(stack))
    except KeyboardInterrupt:
        pass  # enough: the summary comes as after the last one
    times = echo.times
    spent = round((now(stack) - begin) * 1000)
    lost = round(100 * (echo.sent - len(times)) / echo.sent, 4) if echo.sent else 0
    lines.add("")
    lines.add(f"--- {chosen.host} ping statistics ---")
    failed = f" +{echo.errors} errors," if echo.errors else ""
    lines.add(
        f"{echo.sent} packets transmitted, {len(times)} received,{failed} {lost:g}% packet loss, time {spent}ms"
    )
    if times:
        mean = sum(times) / len(times)
        deviation = math.sqrt(max(sum(value * value for value in times) / len(times) - mean * mean, 0.0))
        lines.add(f"rtt min/avg/max/mdev = {min(times):.3f}/{mean:.3f}/{max(times):.3f}/{deviation:.3f} ms")
    return lines.text(0 if times else 1)


@final
class Echo:
    """The requests of one ping: how many were sent, how long each answer took (ms), how many errors came."""

    def __init__(self, stack: Stack, lines: Lines, address: str, quiet: bool) -> None:
        self.sent = 0
        self.errors = 0
        self.times: list[float] = []
        self._stack = stack
        self._lines = lines
        self._address = address
        self._quiet = quiet

    def probe(self, sock: Any, size: int, start: float, until: float) -> None:
        """Send one request at `start`, and wait for what comes of it `until` (seconds) at most."""
        self.sent += 1
        failure = _send(sock, self._address, self.sent, size)
        if failure:
            self.errors += 1
            self._lines.add(f"ping: sendmsg: {failure}")
            return
        while (left := until - now(self._stack)) > 0:
            found = _receive(self._stack, sock, self.sent, left, start)
            if found is None:
                return
            line, elapsed = found
            if line:
                if elapsed >= 0:
                    self.times.append(elapsed)
                else:
                    self.errors += 1
                if not self._quiet:
                    self._lines.add(line)
                return


def _send(sock: Any, address: str, sequence: int, size: int) -> str:
    data = bytes(index & 0xFF for index in range(size))
    message = icmp.build(icmp.ICMP_ECHO, 0, sequence & 0xFFFF, data)
    for _ in range(2):
        try:
            sock.sendto(message, (address, 0))
        except OSError as problem:
            # An error of an earlier request is reported first, once; its entry of the error queue stays.
            if problem.errno in (errno.EHOSTUNREACH, errno.ECONNREFUSED) and sock.getsockopt(1, 4) == 0:
                continue
            return problem.strerror or str(problem)
        return ""
    return ""


def _receive(stack: Stack, sock: Any, sequence: int, timeout: float, start: float) -> tuple[str, float] | None:
    """What came first: (line, ms), (line, -1) for an error, ("", 0) for an answer to an earlier one; None: nothing."""
    sock.settimeout(max(timeout, 1e-9))
    try:
        data, control, _, peer = sock.recvmsg(65536, 64)
    except TimeoutError:
        return None
    except OSError:
        entry = read_error(sock)
        if entry is None:
            return "", 0.0
        _, origin, kind, code, offender, _ = entry
        what = REASONS.get((kind, code), f"Type {kind} code {code}")
        if origin != SO_EE_ORIGIN_ICMP:
            offender, what = offender or "local", REASONS[3, 1]
        return f"From {offender} icmp_seq={sequence} {what}", -1.0
    elapsed = (now(stack) - start) * 1000
    if len(data) < icmp.ICMP_HLEN or icmp.parse(data, 0)[3] & 0xFFFF != sequence & 0xFFFF:
        return "", 0.0
    ttl = next((int.from_bytes(value[:4], "little") for _, kind, value in control if kind == IP_TTL), 0)
    took = f"{elapsed:.3f}" if elapsed < 1 else f"{elapsed:.2f}" if elapsed < 10 else f"{elapsed:.1f}"
    return f"{len(data)} bytes from {peer[0]}: icmp_seq={sequence} ttl={ttl} time={took} ms", elapsed
