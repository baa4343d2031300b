"""`traceroute`: the routers on the way, in the layout of traceroute(8)."""

from __future__ import annotations

import socket
from typing import Any, Final

from usernet.cli.tools.common import Lines, Options, Out, Text, number, resolve
from usernet.cli.tools.echo import IP_RECVERR, IP_TTL, read_error
from usernet.cli.tools.timing import now
from usernet.stack import Stack
from usernet.wire import icmp

MARKS: Final = {0: " !N", 1: " !H", 2: " !P", 4: " !F", 5: " !S", 9: " !X", 10: " !X", 13: " !X"}
"""By the code of a destination unreachable; 3 is what the destination itself answers."""


def traceroute(stack: Stack, *args: str, out: Out | None = None) -> Text:
    """`traceroute` on `stack`: traceroute(stack, "10.0.2.2").

    -I: by ICMP echo, else by UDP to unlikely ports. -q N: probes a hop. -m N: hops at most. -f N: the first hop. -w
    SECONDS: for each answer. -p PORT: the first port. -n.

    Returns what it prints; status 1 where the destination was not reached. Raises UsageError.
    """
    options = Options("traceroute", "traceroute [-In] [-f FIRST] [-m HOPS] [-q PROBES] [-w SECONDS] [-p PORT] HOST")
    options.add_argument("-I", dest="icmp", action="store_true")
    options.add_argument("-n", dest="numeric", action="store_true")
    options.add_argument("-f", dest="first", type=number("hops", 1, 255), default=1)
    options.add_argument("-m", dest="hops", type=number("hops", 1, 255), default=30)
    options.add_argument("-q", dest="probes", type=number("probes", 1, 10), default=3)
    options.add_argument("-w", dest="patience", type=number("seconds", 0.001, 86400, float), default=5.0)
    options.add_argument("-p", dest="port", type=number("a port", 1, 65535), default=33434)
    options.add_argument("host")
    chosen = options.parse(args)
    address = resolve(stack, chosen.host)
    lines = Lines(out)
    lines.add(f"traceroute to {chosen.host} ({address}), {chosen.hops} hops max, 60 byte packets")
    reached = False
    port = chosen.port
    kind = (socket.SOCK_DGRAM, socket.IPPROTO_ICMP if chosen.icmp else 0)
    with stack.socket(socket.AF_INET, *kind) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        for hop in range(chosen.first, chosen.hops + 1):
            sock.setsockopt(socket.IPPROTO_IP, IP_TTL, hop)
            shown = ""
            row = f"{hop:>2} "
            for _ in range(chosen.probes):
                start = now(stack)
                answer = _probe(stack, sock, address, port, chosen.icmp, start + chosen.patience)
                port = port + 1 if port < 65535 else 1024
                if answer is None:
                    row += " *"
                    continue
                who, mark, end = answer
                if who != shown:
                    row += f" {who} "
                    shown = who
                row += f" {(now(stack) - start) * 1000:.3f} ms{mark} "
                reached = reached or end
            lines.add(row.rstrip())
            if reached:
                break
    return lines.text(0 if reached else 1)


def _probe(
    stack: Stack, sock: Any, address: str, port: int, echo: bool, until: float
) -> tuple[str, str, bool] | None:
    """Send one probe: who answered, what it said of it, whether that is the way's end; None for no answer."""
    data = icmp.build(icmp.ICMP_ECHO, 0, port & 0xFFFF, bytes(24)) if echo else bytes(32)
    for _ in range(2):
        try:
            sock.sendto(data, (address, 0 if echo else port))
        except OSError:
            if read_error(sock) is None:
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            continue
        break
    while (left := until - now(stack)) > 0:
        sock.settimeout(max(left, 1e-9))
        try:
            answer = sock.recvfrom(2048)
        except TimeoutError:
            return None
        except OSError:
            entry = read_error(sock)
            if entry is None:
                continue
            _, _, kind, code, offender, _ = entry
            if kind == icmp.ICMP_TIME_EXCEEDED:
                return offender, "", False
            return offender or address, "" if code == 3 else MARKS.get(code, f" !<{code}>"), True
        if not echo or icmp.parse(answer[0], 0)[3] & 0xFFFF == port & 0xFFFF:
            return answer[1][0], "", True
    return None
