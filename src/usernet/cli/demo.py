"""`usernet demo`: a file fetched by HTTP over a bad cable, and every step of it shown.

`Show` watches the stack that fetches and tells what it sees; `on_lab` has two stacks on virtual time, `on_tap` one
stack, and the kernel on the other end. The programs are the standard library's: http.client and http.server's handler.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import random
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, final

from usernet.cli import units
from usernet.cli.packet import Packet
from usernet.cli.show import Printer
from usernet.cli.sniff import Sniffer
from usernet.cli.stage import Stage, sparkline
from usernet.cli.tools.iproute import ip as ip_tool
from usernet.cli.tools.sockstat import timewait_sockets
from usernet.core.clock import NSEC_PER_SEC
from usernet.drivers.impair import Impair
from usernet.lab.lab import Lab
from usernet.netdevice.driver import Driver
from usernet.skbuff.skbuff import SKBuff
from usernet.stack import Stack
from usernet.transport.tcp.const import (
    TCP_CA_LOSS,
    TCP_CA_RECOVERY,
    TCP_ESTABLISHED,
    TCP_INFINITE_SSTHRESH,
    TCP_LISTEN,
)
from usernet.transport.tcp.info import tcp_info
from usernet.transport.tcp.sock import TcpSock
from usernet.wire import arp, tcp

REPAIRS_SHOWN: Final = 6
"""Retransmissions told of one by one; the others are counted."""

CHUNK: Final = 65536
TAP_STACK: Final = "10.77.0.2/24"
TAP_HOST: Final = "10.77.0.1/24"


REMARKS: Final = {
    "arp-request": "broadcast: who has this address? The SYN waits until it is known",
    "arp-reply": "the answer: from now on frames can be sent",
    "arp-probe": "address conflict detection: does anyone else use this address? (RFC 5227)",
    "arp-announcement": "the other host tells its address, unasked",
    "syn": "open: what this end can do",
    "syn-ack": "agreed: segment size, SACK, time stamps, window scaling",
    "established": "the connection stands, after one round trip",
    "request": "the request: GET, and some headers",
    "ack": "the request has arrived",
    "data": "the answer begins",
    "sack": "a gap: SACK tells what has arrived beyond it, so that only the gap is sent again",
    "last-ack": "all acknowledged: the connection has ended",
    "reset": "the connection is reset",
}
"""What a packet means, to those who have not seen one of its kind before."""


@final
class Settings:
    """What the user asked for: size in bytes, delay in seconds one way, rate in bit/s, loss from 0 to 1."""

    def __init__(
        self, size: int, seed: int, delay: float, loss: float, rate: float, capture: str, host_tap: str = ""
    ) -> None:
        self.size = size
        self.seed = seed
        self.delay = delay
        self.loss = loss
        self.rate = rate
        self.capture = capture
        self.host_tap = host_tap

    def cable(self) -> str:
        """The cable in words."""
        parts = [f"{units.format_time(self.delay)} each way"] if self.delay else []
        parts += [units.format_rate(self.rate)] if self.rate else []
        parts.append(f"loses {self.loss:.3g} of packets".replace(f"{self.loss:.3g}", f"{self.loss * 100:.3g} %"))
        return ", ".join(parts)


class FileHandler(http.server.BaseHTTPRequestHandler):
    """Serves one file. The class made for a run has `content`, and `clock`, which gives the time of day."""

    content: bytes = b""
    clock: Callable[[], float] = staticmethod(time.time)
    server_version = "usernet-demo"
    sys_version = ""

    def do_GET(self) -> None:
        """GET: the file, whatever the path."""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header's: the run's own time, so that a repeated one sends the same bytes."""
        return super().date_time_string(int(self.clock() if timestamp is None else timestamp))

    def log_message(self, format: str, *args: Any) -> None:
        """The demo tells the story itself."""


@final
class Show:
    """Watches `stack`, the one that fetches, and `sender`, the socket on the other end where that is a stack's too."""

    def __init__(self, stage: Stage, stack: Stack, peer: Stack | None) -> None:
        self.stage = stage
        self.stack = stack
        self.peer = peer
        self.start = stack.loop.clock.now() / NSEC_PER_SEC
        self.repairs = 0
        self.sacks = 0
        self.cwnd: list[float] = []
        self.sender: TcpSock | None = None
        self.transferring = self.ended = False
        self._printer = Printer(stamp="none")
        self._told: set[str] = set()
        self._late: list[Packet] = []

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.stack.loop.clock.now() / NSEC_PER_SEC - self.start

    # -- packets

    def packet(self, packet: Packet) -> None:
        """A packet passed the fetching stack's device."""
        kind = self._kind(packet)
        if kind == "fin" and self.transferring:
            # It comes with the last of the file, but belongs to the next chapter.
            self._late.append(packet)
            return
        text = self._printer.body(packet)
        if kind == "other" or kind in self._told or (self.transferring and kind != "sack"):
            return
        if kind != "fin":
            self._told.add(kind)
        when = packet.when - self.stack.loop.clock.realtime_offset
        remark = REMARKS.get(kind, "")
        if kind == "fin":
            remark = f"the {'client' if packet.outgoing else 'server'} has no more to send"
        self.stage.event(when / NSEC_PER_SEC - self.start, text, remark)

    def end_transfer(self) -> None:
        """The file is there: what came meanwhile of the next chapter is told of now."""
        self.transferring = False
        self.ended = True
        late, self._late = self._late, []
        for packet in late:
            self.packet(packet)

    def _kind(self, packet: Packet) -> str:
        if packet.arp is not None:
            _, _, _, _, op, _, spa, _, tpa = packet.arp
            if op == arp.ARPOP_REPLY:
                return "arp-reply"
            return "arp-probe" if spa == bytes(4) else "arp-announcement" if spa == tpa else "arp-request"
        header = packet.tcp
        if header is None:
            return "other"
        flags = header[5]
        if flags & tcp.SYN:
            return "syn-ack" if flags & tcp.ACK else "syn"
        if flags & tcp.RST:
            return "reset"
        if flags & tcp.FIN:
            return "fin"
        if packet.payload < 0:
            return "other"
        if packet.end > packet.payload:
            return "request" if packet.outgoing else "data"
        if tcp.parse_options(packet.data, packet.transport + tcp.TCP_HLEN, packet.payload).sacks:
            return "sack"
        if self.ended:
            return "last-ack"
        return "established" if packet.outgoing else "ack"

    # -- the sending side

    def attach(self) -> None:
        """Look at the sender's retransmissions and window, where it is a stack of this process."""
        if self.peer is not None:
            self.peer.trace.tcp_retransmit_skb.attach(self._retransmitted)

    def _retransmitted(self, sk: TcpSock, skb: SKBuff) -> None:
        self.repairs += 1
        if self.repairs > REPAIRS_SHOWN:
            return
        when = sk.loop.now / NSEC_PER_SEC - self.start
        seq = (skb.seq - sk.snd_una) & 0xFFFFFFFF
        why = {
            TCP_CA_RECOVERY: "SACK showed the gap: sent again at once, cwnd is down to "
            f"{sk.snd_cwnd} segments (fast recovery)",
            TCP_CA_LOSS: f"no answer for {units.format_time(sk.rto / NSEC_PER_SEC)}: the retransmission timer ran out",
        }.get(sk.ca_state, "the end of what was sent got no answer: a probe (tail loss probe)")
        place = "the oldest missing segment" if not seq else f"a segment {units.format_bytes(seq)} beyond it"
        self.stack.call_later(lambda: self.stage.event(when, f"the server sends {place} again", why, "magenta"))

    def find_sender(self) -> None:
        """Remember the serving end's socket, once it stands."""
        if self.peer is not None and self.sender is None:
            for sk in self.peer.sockets():
                if isinstance(sk, TcpSock) and sk.state == TCP_ESTABLISHED:
                    self.sender = sk

    def sample(self) -> None:
        """Note the sender's window, as it is now."""
        if self.sender is not None:
            self.cwnd.append(self.sender.snd_cwnd)


@final
class Result:
    """What came of it."""

    def __init__(self) -> None:
        self.digest = ""
        self.received = 0
        self.first = 0.0
        self.last = 0.0
        self.info: dict[str, int] = {}
        self.own: dict[str, int] = {}


def fetch(show: Show, sock: Any, address: tuple[str, int], result: Result) -> None:
    """The client: connect, GET, and read the answer to its end."""
    sock.connect(address)
    connection = http.client.HTTPConnection(address[0], address[1])
    connection.sock = sock
    connection.request("GET", "/file", headers={"User-Agent": "usernet-demo"})
    response = connection.getresponse()
    length = int(response.headers["Content-Length"])
    show.stage.step(f"The transfer: {response.status} {response.reason}, {units.format_bytes(length)}")
    show.find_sender()
    show.transferring = True
    digest = hashlib.sha256()
    result.first = show.now
    with show.stage.progress(length) as bar:
        while data := response.read(CHUNK):
            digest.update(data)
            result.received += len(data)
            show.sample()
            spent = show.now - result.first
            rate = units.format_rate(result.received * 8 / spent) if spent else "–"
            window = f"  cwnd {show.sender.snd_cwnd}  sent again {show.repairs}" if show.sender is not None else ""
            bar.update(result.received, f"{show.now:6.2f} s  {rate:>12}{window}")
    result.last = show.now
    result.digest = digest.hexdigest()
    if show.sender is not None:
        result.info = tcp_info(show.sender)
    for sk in show.stack.sockets():
        if isinstance(sk, TcpSock) and sk.state != TCP_LISTEN:
            result.own = tcp_info(sk)
    if show.repairs > REPAIRS_SHOWN:
        show.stage.say(f"… and {show.repairs - REPAIRS_SHOWN} more segments were sent again in the same ways")
    show.stage.step("The close")
    show.end_transfer()
    connection.close()


def summary(show: Show, settings: Settings, result: Result, expected: str, lost: int | None) -> list[tuple[str, str]]:
    """The rows of the last table."""
    spent = result.last - result.first
    info = result.info or result.own
    goodput = result.received * 8 / spent if spent else 0.0
    share = f", {goodput / settings.rate * 100:.0f} % of the cable" if settings.rate else ""
    round_trip = f"{info['rtt'] / 1000:.3f} ± {info['rttvar'] / 1000:.3f}"
    timeout = f"{info['rto'] / 1000:.0f} ms"
    rows = [
        ("file", f"{result.received:,} bytes in {spent:.3f} s"),
        ("goodput", units.format_rate(goodput) + share),
        ("round trip", f"smoothed {round_trip} ms, least {info['min_rtt'] / 1000:.3f} ms, time-out {timeout}"),
    ]
    if lost is not None:
        rows.append(("lost on the cable", f"{lost} packets, both ways"))
    if result.info and show.peer is not None:
        ext, base = show.peer.mib["TcpExt"], show.peer.mib["Tcp"]
        kinds = f"{ext['TCPFastRetrans']} fast, {ext['TCPLossProbes']} loss probes, {ext['TCPTimeouts']} time-outs"
        repaired = f"{base['RetransSegs']} segments: {kinds}; {ext['TCPSackRecovery']} recoveries by SACK"
        rows.append(("retransmissions", repaired))
        threshold = info["snd_ssthresh"]
        shown = "not set" if threshold >= TCP_INFINITE_SSTHRESH else str(threshold)
        rows.append(("cwnd", f"{info['snd_cwnd']} segments of {info['snd_mss']} bytes, ssthresh {shown}"))
        rows.append(("cwnd over time", sparkline(show.cwnd, 60)))
    else:
        rows.append(("out of order", f"{result.own.get('rcv_ooopack', 0)} segments arrived early, and were kept"))
    rows.append(("SHA-256 sent", expected))
    rows.append(("SHA-256 received", result.digest))
    return rows


def called() -> str:
    """What to type for `usernet`: the path by which it was called, where the shell would not find it by its name."""
    name = "usernet"
    path = sys.argv[0]
    if os.path.basename(path) != name or shutil.which(name) is not None:
        return name
    return shlex.quote(os.path.relpath(path))


def closing(show: Show, settings: Settings, good: bool, spent: float) -> int:
    """Say how it went, and how to look further. Returns the exit status."""
    stage = show.stage
    stage.say("")
    if good:
        stage.say("verified: what arrived is what was sent, bit for bit", "bold green")
    else:
        stage.say("NOT the same: what arrived is not what was sent", "bold red")
    stage.step("Look further")
    where = "server" if show.peer is not None else "stack"
    stage.say(f"the capture is {settings.capture}: what the {where} saw; what the cable lost has that as comment")
    itself = called()
    for command, what in (
        (f"{itself} tcpdump -r {settings.capture} -c 20", "its first packets, without another tool"),
        (f"tcpdump -n -r {settings.capture}", "the same with tcpdump"),
        (f"wireshark {settings.capture}", "try the filter: tcp.analysis.flags or pkt_comment"),
        (f"{itself} demo --loss 5% --delay 50ms", "a worse cable"),
        (f"{itself} demo --seed {settings.seed + 1}", "the same with other chances; one seed: the same bytes"),
        (f"sudo {itself} demo --tap", "the same with the Linux kernel on the other end"),
    ):
        stage.say(f"  {command:<50} {what}")
    stage.say("")
    stage.say(f"took {spent:.1f} s", "dim")
    return 0 if good else 1


def _lost(ends: tuple[Driver, ...]) -> int:
    pipes = [pipe for end in ends if isinstance(end, Impair) for pipe in (end.sent, end.received)]
    return sum(pipe.lost for pipe in pipes if pipe is not None)


def _handler(content: bytes, clock: Callable[[], float]) -> type[FileHandler]:
    return type("DemoHandler", (FileHandler,), {"content": content, "clock": staticmethod(clock)})


def on_lab(stage: Stage, settings: Settings) -> int:
    """Two stacks on virtual time. Returns the exit status."""
    began = time.monotonic()
    stage.title("usernet demo: two hosts, a cable that loses packets, a file fetched by HTTP")
    stage.say(f"all in this process, without privilege, on virtual time; seed {settings.seed}", "dim")
    content = random.Random(settings.seed).randbytes(settings.size)
    expected = hashlib.sha256(content).hexdigest()
    result = Result()
    with Lab(seed=settings.seed) as lab, ExitStack() as stack:
        client, server = lab.host("client"), lab.host("server")
        ends = lab.cable(
            client, server, "10.0.0.1/24", "10.0.0.2/24", delay=settings.delay, loss=settings.loss, rate=settings.rate
        )
        stack.enter_context(server.capture(settings.capture))
        stage.step(f"Two hosts, one cable: {settings.cable()}")
        for host in (client, server):
            stage.say(f"{host.name}$ usernet ip addr show eth0", "bold")
            stage.block(ip_tool(host, "addr", "show", "eth0"))
        stage.say("client$ usernet ip route", "bold")
        stage.block(ip_tool(client, "route"))
        show = Show(stage, client, server)
        show.attach()
        stack.enter_context(Sniffer(client, show.packet, client.devices["eth0"]))
        stage.step("ARP, and the handshake, as the client sees them (seconds of virtual time)")

        def serve() -> None:
            with server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
                listener.bind(("", 80))
                listener.listen()
                connection, address = listener.accept()
                with connection:
                    _handler(content, lab.time)(connection, address, None)  # type: ignore[arg-type]

        def get() -> None:
            with client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                fetch(show, sock, ("10.0.0.2", 80), result)

        lab.spawn(serve)
        lab.spawn(get)
        lab.run()
        lab.run(until=lab.now + 5)
        if any(True for _ in timewait_sockets(server)):
            stage.say("the server, who closed first, stays in TIME-WAIT for 60 s: segments may still be under way")
        stage.step("Summary")
        stage.table(summary(show, settings, result, expected, _lost(ends)))
    return closing(show, settings, result.digest == expected, time.monotonic() - began)


def on_tap(stage: Stage, settings: Settings) -> int:
    """One stack on a TAP device, the kernel on the other end. Returns the exit status.

    Raises OSError where the device can't be made, ModuleNotFoundError without pyroute2.
    """
    from usernet.drivers.tuntap import Tap

    began = time.monotonic()
    stage.title("usernet demo: a stack of this process fetches a file from this machine's kernel, over a TAP device")
    content = random.Random(settings.seed).randbytes(settings.size)
    expected = hashlib.sha256(content).hexdigest()
    result = Result()
    host, _, _ = TAP_HOST.partition("/")
    tap = Tap(settings.host_tap, address=TAP_HOST)
    impaired = bool(settings.delay or settings.loss or settings.rate)
    driver: Driver = tap
    if impaired:
        driver = Impair(tap, delay=settings.delay, loss=settings.loss, rate=settings.rate, seed=settings.seed)
    with ExitStack() as exits:
        stack = exits.enter_context(Stack("demo"))
        stack.add_device(driver, "eth0", TAP_STACK)
        kernel = http.server.HTTPServer((host, 0), _handler(content, time.time))
        serving = threading.Thread(target=kernel.handle_request, name="demo-kernel-server", daemon=True)
        kernel.timeout = 30
        exits.callback(serving.join)
        exits.callback(kernel.server_close)
        serving.start()
        exits.enter_context(stack.capture(settings.capture))
        stage.step(f"The stack's device; the kernel's end is {tap.name}, {TAP_HOST}. In between: {settings.cable()}")
        stage.say("stack$ usernet ip addr show eth0", "bold")
        stage.block(ip_tool(stack, "addr", "show", "eth0"))
        show = Show(stage, stack, None)
        exits.enter_context(Sniffer(stack, show.packet, stack.devices["eth0"]))
        stage.step("ARP, and the handshake, as the stack sees them (seconds)")
        with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(60)
            fetch(show, sock, (host, kernel.server_address[1]), result)
        time.sleep(4 * settings.delay + 0.3)
        stage.step("Summary")
        stage.table(summary(show, settings, result, expected, _lost((driver,)) if impaired else None))
        exits.pop_all().close()
    return closing(show, settings, result.digest == expected, time.monotonic() - began)


def run(stage: Stage, settings: Settings, tap: bool) -> int:
    """The demo. Returns the exit status. Raises OSError where the capture can't be written, or there is no TAP."""
    return on_tap(stage, settings) if tap else on_lab(stage, settings)
