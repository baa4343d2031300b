"""`ss`: the sockets of a stack, in the layout of ss(8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

from usernet.cli.tools.common import Options, Text, locked, to_json
from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC
from usernet.sock.inet import InetSock
from usernet.sock.sock import Sock
from usernet.stack import Stack
from usernet.transport.tcp.const import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_INFINITE_SSTHRESH,
    TCP_LISTEN,
    TCP_TIME_WAIT,
)
from usernet.transport.tcp.info import TCPI_OPT_SACK, TCPI_OPT_TIMESTAMPS, TCPI_OPT_WSCALE, tcp_info
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.tcp.tcp import Tcp
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.wire.ipv4 import format_addr

STATES: Final = (
    "", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN", "CLOSE-WAIT", "LAST-ACK",
    "LISTEN", "CLOSING", "SYN-RECV",
)  # fmt: skip
KINDS: Final = {1: "icmp", 2: "raw", 6: "tcp", 17: "udp"}
TIMERS: Final = {1: "on", 3: "persist", 5: "on", 6: "on"}
"""By what the retransmission timer is armed for (`icsk_pending`)."""


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
        self.mem = ""


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
            queues = (len(sk.accept_queue or ()), sk.backlog)
        else:
            queues = ((sk.rcv_nxt - sk.copied_seq) & 0xFFFFFFFF, (sk.write_seq - sk.snd_una) & 0xFFFFFFFF)
    row = Row(kind, state, queues, local, _end(sk.daddr, sk.dport, any_addr))
    if isinstance(sk, TcpSock):
        row.info = tcp_info(sk)
        row.congestion = sk.ca.name
        row.timer = _timer(sk)
    row.mem = f"skmem:(r{sk.rmem_alloc},rb{sk.rcvbuf},t{sk.wmem_alloc},tb{sk.sndbuf},d{sk.drops})"
    return row


def _timer(sk: TcpSock) -> str:
    now = sk.loop.now
    if sk.retransmit_timer.pending and sk.icsk_pending:
        left = max(sk.retransmit_timer.deadline - now, 0)
        return f"timer:({TIMERS.get(sk.icsk_pending, 'on')},{_duration(left)},{sk.icsk_retransmits})"
    if sk.keepalive_timer is not None and sk.keepalive_timer.pending:
        return f"timer:(keepalive,{_duration(max(sk.keepalive_timer.deadline - now, 0))},{sk.probes_out})"
    return ""


def _duration(ns: int) -> str:
    """As ss prints it: 1min59sec, 12sec, 345ms."""
    if ns >= 60 * NSEC_PER_SEC:
        minutes, seconds = divmod(ns // NSEC_PER_SEC, 60)
        return f"{minutes}min{seconds}sec" if seconds else f"{minutes}min"
    if ns >= 10 * NSEC_PER_SEC:
        return f"{ns // NSEC_PER_SEC}sec"
    return f"{ns // NSEC_PER_MSEC}ms"


def _timewait_row(entry: TimeWaitSock) -> Row:
    any_addr = entry.af.any
    row = Row(
        "tcp", entry.substate or TCP_TIME_WAIT, (0, 0),
        _end(entry.saddr, entry.sport, any_addr), _end(entry.daddr, entry.dport, any_addr),
    )  # fmt: skip
    left = max(entry.timer.deadline - entry.tcp.net.loop.now, 0)
    row.timer = f"timer:(timewait,{_duration(left)},0)"
    return row


def describe_info(info: dict[str, int], congestion: str) -> str:
    """The words of `ss -i` for `struct tcp_info`."""
    words = []
    options = info["options"]
    if options & TCPI_OPT_TIMESTAMPS:
        words.append("ts")
    if options & TCPI_OPT_SACK:
        words.append("sack")
    words.append(congestion)
    if options & TCPI_OPT_WSCALE:
        words.append(f"wscale:{info['wscale'] & 15},{info['wscale'] >> 4}")
    words.append(f"rto:{info['rto'] / 1000:g}")
    if info["backoff"]:
        words.append(f"backoff:{info['backoff']}")
    if info["rtt"]:
        words.append(f"rtt:{info['rtt'] / 1000:g}/{info['rttvar'] / 1000:g}")
    if info["ato"]:
        words.append(f"ato:{info['ato'] / 1000:g}")
    words += [f"mss:{info['snd_mss']}", f"pmtu:{info['pmtu']}", f"rcvmss:{info['rcv_mss']}", f"advmss:{info['advmss']}"]
    words.append(f"cwnd:{info['snd_cwnd']}")
    if info["snd_ssthresh"] < TCP_INFINITE_SSTHRESH:
        words.append(f"ssthresh:{info['snd_ssthresh']}")
    for name in ("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in"):
        if info[name]:
            words.append(f"{name}:{info[name]}")
    for name in ("data_segs_out", "data_segs_in"):
        if info[name]:
            words.append(f"{name}:{info[name]}")
    if info["rtt"]:
        words.append(f"send {info['snd_cwnd'] * info['snd_mss'] * 8_000_000 // info['rtt']}bps")
    if info["last_data_sent"] or info["last_data_recv"]:
        words += [f"lastsnd:{info['last_data_sent']}", f"lastrcv:{info['last_data_recv']}"]
        words.append(f"lastack:{info['last_ack_recv']}")
    if info["delivery_rate"]:
        words.append(f"delivery_rate {info['delivery_rate'] * 8}bps")
    words.append(f"delivered:{info['delivered']}")
    if info["delivery_rate_app_limited"]:
        words.append("app_limited")
    for name in ("unacked", "lost", "sacked"):
        if info[name]:
            words.append(f"{name}:{info[name]}")
    if info["total_retrans"]:
        words.append(f"retrans:{info['retrans']}/{info['total_retrans']}")
    if info["dsack_dups"]:
        words.append(f"dsack_dups:{info['dsack_dups']}")
    if info["rcv_ooopack"]:
        words.append(f"rcv_ooopack:{info['rcv_ooopack']}")
    words.append(f"rcv_space:{info['rcv_space']}")
    words.append(f"rcv_ssthresh:{info['rcv_ssthresh']}")
    if info["min_rtt"] and info["min_rtt"] < 0xFFFFFFFF:
        words.append(f"minrtt:{info['min_rtt'] / 1000:g}")
    words.append(f"snd_wnd:{info['snd_wnd']}")
    return " ".join(words)


def ss(stack: Stack, *args: str) -> Text:
    """`ss` on `stack`: ss(stack, "-t", "-a"), ss(stack, "-tni").

    -t -u -w: only TCP, UDP, raw. -l: only those that listen. -a: those too. -n: numbers, which it always shows. -i:
    the inside of TCP. -m: memory. -o: timers. -p: the owner, which is the stack. -s: a summary. -H: no header. -j,
    --json. Returns what it prints. Raises UsageError.
    """
    options = Options("ss", "ss [-tuwlanimopsHj]")
    for short, long in (
        ("t", "tcp"), ("u", "udp"), ("w", "raw"), ("l", "listening"), ("a", "all"), ("n", "numeric"), ("i", "info"),
        ("m", "memory"), ("o", "options"), ("p", "processes"), ("s", "summary"), ("H", "no-header"), ("j", "json"),
        ("4", "ipv4"),
    ):  # fmt: skip
        options.add_argument(f"-{short}", f"--{long}", action="store_true")
    chosen = options.parse(args)
    with locked(stack):
        rows = [_row(stack, sk) for sk in stack.sockets() if isinstance(sk, InetSock) and _shown(sk)]
        rows += [_timewait_row(entry) for entry in timewait_sockets(stack)]
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
        return not listening and row.state != TCP_TIME_WAIT
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
        inside = [owner.mem] if chosen.memory else []
        if chosen.info and owner.info is not None:
            if owner.state == TCP_LISTEN:
                inside.append(f"{owner.congestion} cwnd:{owner.info['snd_cwnd']}")
            else:
                inside.append(describe_info(owner.info, owner.congestion))
        if inside:
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
    if chosen.info and row.info is not None:
        entry["congestion"] = row.congestion
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



