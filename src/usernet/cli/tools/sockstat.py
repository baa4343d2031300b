"""`ss`: the sockets of a stack, in the layout of ss(8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

from usernet.cli.tools import sockinfo
from usernet.cli.tools.common import Options, Text, locked, to_json
from usernet.sock.inet import InetSock
from usernet.sock.sock import Sock
from usernet.stack import Stack
from usernet.transport.tcp.const import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
)
from usernet.transport.tcp.info import tcp_info
from usernet.transport.tcp.request import RequestSock
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.tcp.tcp import Tcp
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.wire.ipv4 import format_addr

STATES: Final = (
    "", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN", "CLOSE-WAIT", "LAST-ACK",
    "LISTEN", "CLOSING", "SYN-RECV",
)  # fmt: skip
KINDS: Final = {1: "icmp", 2: "raw", 6: "tcp", 17: "udp"}


@final
class Row:
    """One socket, as ss shows it."""

    def __init__(self, kind: str, state: int, queues: tuple[int, int], local: str, peer: str) -> None:
        self.kind = kind
        self.state = state
        self.queues = queues
        self.local = local
        self.peer = peer
        self.timer = ""
        self.process = ""
        self.info: dict[str, int] | None = None
        self.congestion = ""
        self.cc_info = b""
        self.cc_state: dict[str, Any] = {}
        self.md5keys = ""
        self.mem = ""
        self.details = ""


def timewait_sockets(stack: Stack) -> Iterator[TimeWaitSock]:
    """The connections in TIME-WAIT: no sockets any more, but still in the table."""
    for entry in list(stack.net.get(Tcp).table.values()):
        if isinstance(entry, TimeWaitSock):
            yield entry


def _end(addr: bytes, port: int, any_addr: bytes) -> str:
    host = "0.0.0.0" if addr == any_addr else format_addr(addr) if len(addr) == 4 else addr.hex()
    return f"{host}:{port or '*'}"


def _row(stack: Stack, sk: InetSock) -> Row:
    kind = "raw" if sk.sock_type == 3 else KINDS.get(sk.protocol, str(sk.protocol))
    any_addr = sk.af.any
    name = stack.devices.by_index(sk.bound_dev_if) if sk.bound_dev_if else None
    local = _end(sk.rcv_saddr if sk.rcv_saddr != any_addr else sk.saddr, sk.sport or sk.num, any_addr)
    if name is not None:
        host, _, port = local.rpartition(":")
        local = f"{host}%{name.name}:{port}"
    state = sk.state
    queues = (sk.rmem_alloc, sk.wmem_alloc)
    if isinstance(sk, TcpSock):
        if state == TCP_LISTEN:
            queues = (len(sk.request_queue.accept_queue or ()), sk.request_queue.backlog)
        else:
            queues = ((sk.rcv_nxt - sk.copied_seq) & 0xFFFFFFFF, (sk.write_seq - sk.snd_una) & 0xFFFFFFFF)
    row = Row(kind, state, queues, local, _end(sk.daddr, sk.dport, any_addr))
    if isinstance(sk, TcpSock):
        row.info = tcp_info(sk)
        row.congestion = sk.ca.name
        if state != TCP_LISTEN:
            row.cc_info = sk.ca.pack_info(sk)
            row.cc_state = sk.ca.get_info(sk)
        row.timer = sockinfo.timer(sk)
        row.md5keys = sockinfo.md5keys(sk)
    row.mem = sockinfo.memory(sk)
    row.details = sockinfo.details(sk)
    return row


def _timewait_row(entry: TimeWaitSock) -> Row:
    any_addr = entry.af.any
    row = Row(
        "tcp", entry.substate or TCP_TIME_WAIT, (0, 0),
        _end(entry.saddr, entry.sport, any_addr), _end(entry.daddr, entry.dport, any_addr),
    )  # fmt: skip
    left = max(entry.deadline - entry.tcp.net.loop.now, 0)
    row.timer = f"timer:(timewait,{sockinfo.duration(left)},0)"
    row.details = "ino:0 sk:0"
    return row


def _request_row(entry: RequestSock) -> Row:
    any_addr = entry.af.any
    row = Row(
        "tcp", TCP_NEW_SYN_RECV, (0, 0),
        _end(entry.saddr, entry.sport, any_addr), _end(entry.daddr, entry.dport, any_addr),
    )  # fmt: skip
    left = max(entry.deadline - entry.tcp.net.loop.now, 0)
    row.timer = f"timer:(on,{sockinfo.duration(left)},{entry.num_retrans})"
    row.details = "ino:0 sk:0"
    return row


def ss(stack: Stack, *args: str) -> Text:
    """`ss` on `stack`: ss(stack, "-t", "-a"), ss(stack, "-tni").

    -t -u -w: only TCP, UDP, raw. -l: only those that listen. -a: those too. -n: rates as whole numbers, as addresses
    and ports always are. -i: the inside of TCP. -m: memory. -o: timers, and what was agreed on in the handshake. -e:
    cookie, mark, open directions. -p: the owner, which is the stack. -s: a summary. -H: no header. -O: one line each.
    -j, --json. Returns what it prints. Raises UsageError.
    """
    options = Options("ss", "ss [-tuwlanimoepsHOj]")
    for short, long in (
        ("t", "tcp"), ("u", "udp"), ("w", "raw"), ("l", "listening"), ("a", "all"), ("n", "numeric"), ("i", "info"),
        ("m", "memory"), ("o", "options"), ("e", "extended"), ("p", "processes"), ("s", "summary"),
        ("H", "no-header"), ("O", "oneline"), ("j", "json"), ("4", "ipv4"),
    ):  # fmt: skip
        options.add_argument(f"-{short}", f"--{long}", action="store_true")
    chosen = options.parse(args)
    with locked(stack):
        rows = [_row(stack, sk) for sk in stack.sockets() if isinstance(sk, InetSock) and _shown(sk)]
        rows += [_timewait_row(entry) for entry in timewait_sockets(stack)]
        requests = [entry for entry in stack.net.get(Tcp).table.values() if isinstance(entry, RequestSock)]
        rows += [_request_row(entry) for entry in requests]
    if chosen.summary:
        return Text(_summary(rows))
    kinds = {kind for kind in ("tcp", "udp", "raw") if getattr(chosen, kind)} or {"tcp", "udp", "raw", "icmp"}
    rows = [row for row in rows if row.kind in kinds and _wanted(row, chosen)]
    rows.sort(key=lambda row: (row.kind, row.state != TCP_LISTEN, row.local, row.peer))
    for row in rows:
        row.process = f'users:(("{stack.name or "stack"}"))'
    if chosen.json:
        return Text(to_json([_entry(row, chosen) for row in rows]))
    return Text("\n".join(_table(rows, chosen, len(kinds) > 1)))


def _shown(sk: Sock) -> bool:
    # A TCP socket that was neither bound nor connected is in no table of the kernel's, and not to be seen.
    return not (isinstance(sk, TcpSock) and sk.state == TCP_CLOSE)


def _wanted(row: Row, chosen: Any) -> bool:
    listening = row.state == TCP_LISTEN or (row.state == TCP_CLOSE and row.kind != "tcp")
    if chosen.all:
        return True
    if chosen.listening:
        return listening
    if row.kind == "tcp":
        return not listening and row.state not in (TCP_TIME_WAIT, TCP_SYN_RECV, TCP_NEW_SYN_RECV)
    return row.state == TCP_ESTABLISHED


def _table(rows: list[Row], chosen: Any, netid: bool) -> list[str]:
    table: list[list[str]] = []
    if not chosen.no_header:
        table.append(["Netid"] * netid + ["State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"])
    tails: list[str] = [] if chosen.no_header else ["Process"]
    for row in rows:
        table.append(
            [row.kind] * netid
            + [STATES[row.state], str(row.queues[0]), str(row.queues[1]), row.local, row.peer]
        )
        tail = [row.process] if chosen.processes else []
        if chosen.options and row.timer:
            tail.append(row.timer)
        if chosen.extended:
            tail.append(row.details)
        tails.append(" ".join(tail))
    widths = [max((len(line[column]) for line in table), default=0) for column in range(5 + netid)]
    lines: list[str] = []
    for place, (row_cells, note) in enumerate(zip(table, tails, strict=True)):
        padded = [
            text.rjust(width) if column - netid == 3 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row_cells, widths, strict=True))
        ]
        lines.append(f"{' '.join(padded)} {note}".rstrip())
        owner = rows[place - (not chosen.no_header)] if place or chosen.no_header else None
        if owner is None:
            continue
        inside = [owner.mem] if chosen.memory and owner.mem else []
        if chosen.info and owner.info is not None:
            inside.append(
                sockinfo.describe_info(
                    owner.info, owner.congestion, owner.cc_info, options=chosen.options, numeric=chosen.numeric
                )
            )
            if owner.md5keys:
                inside.append(owner.md5keys)
        if inside and chosen.oneline:
            lines[-1] += f" {' '.join(inside)}"
        elif inside:
            lines.append(f"\t {' '.join(inside)}")
    return lines


def _entry(row: Row, chosen: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "netid": row.kind, "state": STATES[row.state], "recv_q": row.queues[0], "send_q": row.queues[1],
        "local": row.local, "peer": row.peer,
    }  # fmt: skip
    if chosen.options and row.timer:
        entry["timer"] = row.timer
    if chosen.processes:
        entry["process"] = row.process
    if chosen.memory:
        entry["skmem"] = row.mem
    if chosen.extended:
        entry["details"] = row.details
    if chosen.info and row.info is not None:
        entry["congestion"] = row.congestion
        if row.cc_state:
            entry["cc_info"] = row.cc_state
        entry["tcp_info"] = row.info
    return entry


def _summary(rows: list[Row]) -> str:
    tcp = [row for row in rows if row.kind == "tcp"]
    counts = {state: sum(row.state == state for row in tcp) for state in (TCP_ESTABLISHED, TCP_TIME_WAIT, TCP_LISTEN)}
    closed = sum(row.state in (4, 5, 6, 8, 9, 11) for row in tcp)
    lines = [
        f"Total: {len(rows) - counts[TCP_TIME_WAIT]}",
        f"TCP:   {len(tcp)} (estab {counts[TCP_ESTABLISHED]}, closed {closed}, timewait {counts[TCP_TIME_WAIT]})",
        "",
        "Transport Total",
    ]
    for kind, name in (("raw", "RAW"), ("udp", "UDP"), ("tcp", "TCP")):
        lines.append(f"{name:<9} {sum(row.kind == kind for row in rows)}")
    return "\n".join(lines)
