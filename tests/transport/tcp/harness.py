"""TCP tests on virtual time: two stacks on a cable (`Pair`), or one stack against segments made by hand (`Peer`).

A `Peer` stands at the far end of a device without link headers. `send` injects a segment, `expect` takes the next one
that the stack sent and holds it against matchers: small functions that say what is wrong with a segment, or None. All
sequence numbers count from the sender's initial one, so the first byte of data is number 1 both ways.
"""

from __future__ import annotations

import socket as std
from collections import deque
from collections.abc import Callable
from typing import Any

from usernet.core.clock import ManualClock
from usernet.core.timer import NEVER
from usernet.drivers import veth
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_NONE, NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO, Driver
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.sock import SockNet
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.tcp.tcp import Tcp
from usernet.wire import checksum, ipv4
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

MSEC = 1_000_000
SEC = 1_000_000_000
MASK = 0xFFFFFFFF

LOCAL = bytes((10, 0, 0, 1))
REMOTE = bytes((10, 0, 0, 2))
FLAG_NAMES = ((FIN, "F"), (SYN, "S"), (RST, "R"), (PSH, "P"), (ACK, "."), (URG, "U"))


def sock_of(sock: UserSocket) -> TcpSock:
    """The protocol's side of a program's socket."""
    assert sock._socket is not None
    sk = sock._socket.sk
    assert isinstance(sk, TcpSock)
    return sk


def state_of(sock: UserSocket) -> int:
    return sock_of(sock).state


def code(call: Callable[..., Any], *args: Any) -> int:
    """The errno that a call fails with; 0 where it doesn't."""
    try:
        call(*args)
    except OSError as failure:
        return failure.errno or -1
    return 0


def left_over(stack: Stack) -> list[str]:
    """What TCP still holds."""
    tcp = stack.net.get(Tcp)
    held: list[tuple[str, Any]] = [
        ("sockets", stack.net.get(SockNet).sockets),
        ("connections", tcp.table),
        ("listeners", tcp.listeners),
        ("ports", tcp.ports.buckets),
        ("orphans", tcp.orphans),
        ("TIME_WAIT records", tcp.tw_count),
    ]
    return [f"{name}: {value!r}" for name, value in held if value]


# -- two stacks


class Pair:
    """Two stacks, 10.0.0.1 and 10.0.0.2, on one cable and one clock, driven in lock step."""

    def __init__(self, seed: int = 1, sysctl: dict[str, Any] | None = None, **impairments: Any) -> None:
        self.clock = ManualClock(SEC)
        self.left = Stack("left", clock=self.clock, seed=seed)
        self.right = Stack("right", clock=self.clock, seed=seed + 1)
        self.stacks = (self.left, self.right)
        one, two = veth(seed=seed, **impairments) if impairments else veth()
        self.left.add_device(one, "eth0", "10.0.0.1/24")
        self.right.add_device(two, "eth0", "10.0.0.2/24")
        for stack in self.stacks:
            for name, value in (sysctl or {}).items():
                stack.sysctl[f"net.ipv4.{name}"] = value
        # Addresses are known, so that what is tested is TCP alone.
        self.left.add_neighbour("eth0", "10.0.0.2", _mac(self.right))
        self.right.add_neighbour("eth0", "10.0.0.1", _mac(self.left))
        self.checks: list[Callable[[], None]] = []
        self.open: list[UserSocket] = []

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """The end; after a failure nothing more is checked."""
        if kind is None:
            self.end()
        else:
            self.drop()

    def drop(self) -> None:
        """Close all, and look at nothing."""
        for sock in self.open:
            sock.close()
        for stack in self.stacks:
            stack.close()

    def settle(self) -> int:
        """Run what is due now on both; returns the next deadline (ns), or NEVER."""
        busy = True
        while busy:
            for stack in self.stacks:
                stack.poll(self.clock.now())
            for check in self.checks:
                check()
            busy = any(not stack.loop.softirq.idle for stack in self.stacks)
        return min(stack.loop.timers.next_deadline() for stack in self.stacks)

    def run(self, seconds: float = 0.0, until: Callable[[], bool] | None = None) -> bool:
        """Let `seconds` of virtual time pass, or less where `until` becomes so; returns whether it did."""
        limit = self.clock.now() + round(seconds * SEC)
        while True:
            following = self.settle()
            if until is not None:
                if until():
                    return True
                # What `until` did may have sent and planned something.
                if any(not stack.loop.softirq.idle for stack in self.stacks):
                    continue
                following = min(stack.loop.timers.next_deadline() for stack in self.stacks)
            if following > limit:
                self.clock.set(limit)
                return False
            self.clock.set(max(following, self.clock.now()))

    def socket(self, stack: Stack) -> UserSocket:
        sock = stack.socket(std.AF_INET, std.SOCK_STREAM)
        sock.setblocking(False)
        self.open.append(sock)
        return sock

    def accept(self, server: UserSocket) -> UserSocket:
        sock, _ = server.accept()
        sock.setblocking(False)
        self.open.append(sock)
        return sock

    def listener(self, port: int = 80, backlog: int = 16) -> UserSocket:
        """A listening socket on the right."""
        server = self.socket(self.right)
        server.bind(("0.0.0.0", port))
        server.listen(backlog)
        return server

    def dial(self, port: int = 80) -> UserSocket:
        """A socket on the left, connecting."""
        client = self.socket(self.left)
        assert client.connect_ex(("10.0.0.2", port)) in (0, 115)
        return client

    def connected(self, port: int = 80) -> tuple[UserSocket, UserSocket]:
        """Both ends of a connection, the left one first."""
        server = self.listener(port)
        client = self.dial(port)
        self.run(30.0, lambda: bool(sock_of(server).request_queue.accept_queue))
        accepted = self.accept(server)
        server.close()
        self.run(0.0)
        return client, accepted

    def end(self) -> None:
        """Nothing may be left once all sockets are closed and TIME_WAIT is over."""
        for sock in self.open:
            sock.close()
        self.run(400.0)
        left = [f"{stack.name}: {line}" for stack in self.stacks for line in left_over(stack)]
        for stack in self.stacks:
            stack.close()
        assert not left, left


def _mac(stack: Stack) -> str:
    return ":".join(f"{byte:02x}" for byte in stack.devices["eth0"].mac)


# -- one stack and a peer made by hand


class Segment:
    """A TCP segment that the stack sent. `seq` and `ack` are relative."""

    def __init__(self, packet: bytes, iss: int | None, irs: int | None, segs: int, at: int) -> None:
        header = (packet[0] & 15) * 4
        total = int.from_bytes(packet[2:4], "big") or len(packet)  # of a super-segment above 64 KiB it is 0
        self.ttl = packet[8]
        self.saddr, self.daddr = packet[12:16], packet[16:20]
        (self.sport, self.dport, self.raw_seq, self.raw_ack, doff, self.flags, self.window, _, self.urg) = wire.parse(
            packet, header
        )
        self.options = wire.parse_options(packet, header + 20, header + doff)
        self.doff = doff
        self.payload = packet[header + doff : total]
        self.seq = (self.raw_seq - (iss or 0)) & MASK
        self.ack = (self.raw_ack - (irs or 0)) & MASK if self.flags & ACK else 0
        self.segs = segs
        self.at = at

    @property
    def end(self) -> int:
        return self.seq + len(self.payload)

    def __repr__(self) -> str:
        names = "".join(name for bit, name in FLAG_NAMES if self.flags & bit)
        text = f"{names} {self.seq}:{self.end}({len(self.payload)}) ack {self.ack} win {self.window}"
        if self.options.sacks:
            text += f" sack {self.options.sacks}"
        return f"<{text} at {self.at / SEC:.6f}>"


Matcher = Callable[[Segment], str | None]


def flags(wanted: int, mask: int = FIN | SYN | RST | ACK | URG) -> Matcher:
    """These flags, and no others of `mask` (PSH doesn't matter)."""

    def match(segment: Segment) -> str | None:
        return None if segment.flags & mask == wanted & mask else f"flags: expected {wanted:#x}"

    return match


def seq(wanted: int) -> Matcher:
    return lambda segment: None if segment.seq == wanted & MASK else f"seq: expected {wanted}"


def ack(wanted: int) -> Matcher:
    return lambda segment: None if segment.ack == wanted & MASK else f"ack: expected {wanted}"


def length(wanted: int) -> Matcher:
    return lambda segment: None if len(segment.payload) == wanted else f"length: expected {wanted}"


def payload(wanted: bytes) -> Matcher:
    return lambda segment: None if segment.payload == wanted else f"payload: expected {wanted!r}"


def window(wanted: int) -> Matcher:
    return lambda segment: None if segment.window == wanted else f"window: expected {wanted}"


def urgent(wanted: int) -> Matcher:
    return lambda segment: None if segment.urg == wanted else f"urgent pointer: expected {wanted}, not {segment.urg}"


def no_timestamp(segment: Segment) -> str | None:
    return "a time stamp" if segment.options.has_ts else None


def segments(wanted: int) -> Matcher:
    return lambda segment: None if segment.segs == wanted else f"expected a packet of {wanted} segments"


class Collector(Driver):
    """A NIC without link headers that keeps what it is given to send, and receives what is put into it."""

    link_type = ARPHRD_NONE
    queue_length = 0
    kind = "collector"

    def __init__(self, offload: bool = False) -> None:
        self.hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | (NETIF_F_TSO if offload else 0)
        self.mac = b""
        self.mtu = 1500
        self.sent: deque[tuple[bytes, int, int]] = deque()
        self._dev: NetDevice | None = None
        self._ring: deque[SKBuff] = deque()

    def open(self, dev: NetDevice) -> None:
        self._dev = dev

    def stop(self) -> None:
        self._ring.clear()

    def xmit(self, skb: SKBuff) -> bool:
        dev = self._dev
        assert dev is not None
        self.sent.append((skb.tobytes(), skb.gso_segs or 1, dev.net.loop.now))
        skb.consume()
        return True

    def put(self, packet: bytes) -> None:
        skb = SKBuff(packet)
        skb.protocol = 0x0800
        self._ring.append(skb)
        assert self._dev is not None
        self._dev.net.loop.schedule(self._dev.napi)

    def poll(self, budget: int) -> int:
        dev = self._dev
        done = 0
        while dev is not None and self._ring and done < budget:
            dev.napi.receive(self._ring.popleft())
            done += 1
        return done


def ip_packet(saddr: bytes, daddr: bytes, protocol: int, body: bytes) -> bytes:
    """An IPv4 packet with a right header checksum."""
    header = bytearray(20)
    header[0] = 0x45
    header[2:4] = (20 + len(body)).to_bytes(2, "big")
    header[8:10] = bytes((64, protocol))
    header[12:20] = saddr + daddr
    header[10:12] = checksum.csum_fold(checksum.csum(bytes(header), 0, 20)).to_bytes(2, "big")
    return bytes(header) + body


class Peer:
    """One stack, 10.0.0.1, and a peer, 10.0.0.2, whose segments a test makes by hand."""

    iss = 1_000_000  # of the peer

    def __init__(self, *, offload: bool = False, seed: int = 3, **sysctl: Any) -> None:
        self.clock = ManualClock(SEC)
        self.stack = Stack("stack", clock=self.clock, seed=seed)
        self.nic = Collector(offload)
        self.stack.add_device(self.nic, "tun0", "10.0.0.1/24")
        for name, value in sysctl.items():
            self.stack.sysctl[f"net.ipv4.{name}"] = value
        self.tcp = self.stack.net.get(Tcp)
        self.mib = self.stack.net.mib
        self.local_port = 0
        self.port = 80
        self.their_iss: int | None = None
        self.ts = False
        self.tsval = 10_000
        self.tsecr = 0
        self.sock: UserSocket | None = None
        self.open: list[UserSocket] = []
        self.last: bytes = b""
        """The packet that the stack sent last, of those that were taken."""
        self.run()
        self.nic.sent.clear()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """The end; after a failure nothing more is checked."""
        if kind is None:
            self.end()
        else:
            self.drop()

    def drop(self) -> None:
        """Close all, and look at nothing."""
        for sock in self.open:
            sock.close()
        self.stack.close()

    # -- time

    def settle(self) -> None:
        busy = True
        while busy:
            self.stack.poll(self.clock.now())
            loop = self.stack.loop
            busy = not loop.softirq.idle or loop.timers.next_deadline() <= self.clock.now()

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        limit = self.clock.now() + round(seconds * SEC)
        while True:
            self.settle()
            following = self.stack.loop.timers.next_deadline()
            if following == NEVER or following > limit:
                break
            self.clock.set(max(following, self.clock.now()))
        self.clock.set(limit)

    @property
    def now(self) -> float:
        return self.clock.now() / SEC

    # -- packets

    def send(self, flags: int, seq: int = 0, ack: int | None = None, data: bytes = b"", **fields: Any) -> None:
        """Send the stack a segment: see `segment`."""
        self.packet(self.segment(flags, seq, ack, data, **fields))

    def segment(
        self,
        flags: int,
        seq: int = 0,
        ack: int | None = None,
        data: bytes = b"",
        *,
        win: int = 65535,
        options: bytes | None = None,
        urg: int = 0,
        sport: int | None = None,
        dport: int | None = None,
        raw: bool = False,
        saddr: bytes = REMOTE,
        daddr: bytes = LOCAL,
        bad_checksum: bool = False,
    ) -> bytes:
        """A segment for the stack, as a packet. raw: `seq` and `ack` are absolute. options: instead of the usual."""
        if options is None:
            options = b""
            if self.ts:
                options = b"\1\1\x08\x0a" + self.tsval.to_bytes(4, "big") + self.tsecr.to_bytes(4, "big")
        absolute = seq if raw else seq + self.iss
        if ack is None:
            acknowledged = 0
        else:
            acknowledged = ack if raw else ack + (self.their_iss or 0)
            flags |= ACK
        header = wire.build(
            self.port if sport is None else sport, self.local_port if dport is None else dport, absolute & MASK,
            acknowledged & MASK, flags, win, 0, urg, options,
        )  # fmt: skip
        body = header + data
        pseudo = saddr + daddr + bytes((0, 6)) + len(body).to_bytes(2, "big")
        check = checksum.csum_fold(checksum.csum(pseudo + body, 0, len(pseudo) + len(body)))
        body = body[:16] + (check ^ bad_checksum).to_bytes(2, "big") + body[18:]
        return ip_packet(saddr, daddr, 6, body)

    def packet(self, packet: bytes) -> None:
        """Send the stack an IP packet, and let it work."""
        self.nic.put(packet)
        self.settle()

    def take(self) -> Segment | None:
        """The next segment that the stack sent, None where there is none."""
        while self.nic.sent:
            packet, segs, at = self.nic.sent.popleft()
            if packet[9] != 6 or len(packet) < 40:
                continue
            self.last = packet
            segment = Segment(packet, self.their_iss, self.iss, segs, at)
            if segment.flags & SYN and not segment.flags & RST:
                self.their_iss = segment.raw_seq
                segment.seq = 0
                self.local_port = segment.sport
            if segment.options.has_ts:
                self.tsecr = segment.options.tsval
            return segment
        return None

    def expect(self, *matchers: Matcher) -> Segment:
        """The next segment that the stack sent, which all `matchers` accept."""
        segment = self.take()
        assert segment is not None, "the stack sent nothing"
        wrong = [complaint for complaint in (matcher(segment) for matcher in matchers) if complaint]
        assert not wrong, f"{segment}: {'; '.join(wrong)}"
        return segment

    def silent(self) -> None:
        """The stack sent nothing."""
        segment = self.take()
        assert segment is None, f"unexpected: {segment}"

    def sent(self) -> list[Segment]:
        """All that the stack sent."""
        found = []
        while (segment := self.take()) is not None:
            found.append(segment)
        return found

    def expect_after(self, delay: float, *matchers: Matcher, within: float = 0.002) -> Segment:
        """Nothing for `delay` seconds, then a segment that `matchers` accept."""
        start = self.clock.now()
        limit = start + round((delay + within) * SEC)
        while not self.nic.sent:
            following = self.stack.loop.timers.next_deadline()
            assert following <= limit, f"nothing was sent within {delay + within} s"
            self.clock.set(max(following, self.clock.now()))
            self.settle()
        waited = (self.clock.now() - start) / SEC
        assert abs(waited - delay) <= within, f"sent after {waited:.6f} s, not {delay}: {self.take()}"
        return self.expect(*matchers)

    def drops(self, reason: DropReason) -> int:
        return self.stack.drops.get(reason, 0)

    # -- opening

    def syn_options(self, mss: int = 1460, wscale: int = -1, sack: bool = False, ts: bool = False) -> bytes:
        return wire.build_syn_options(mss, wscale, sack, (self.tsval, self.tsecr) if ts else None)

    def socket(self) -> UserSocket:
        sock = self.stack.socket(std.AF_INET, std.SOCK_STREAM)
        sock.setblocking(False)
        self.open.append(sock)
        return sock

    def accept(self, server: UserSocket) -> UserSocket:
        sock, _ = server.accept()
        sock.setblocking(False)
        self.open.append(sock)
        return sock

    def dial(self, prepare: Callable[[UserSocket], Any] | None = None) -> UserSocket:
        """The stack connects to the peer; its SYN is still to be taken."""
        sock = self.sock = self.socket()
        if prepare is not None:
            prepare(sock)
        sock.connect_ex(("10.0.0.2", self.port))
        self.settle()
        return sock

    def active(
        self,
        prepare: Callable[[UserSocket], Any] | None = None,
        *,
        mss: int = 1460,
        wscale: int = -1,
        sack: bool = False,
        ts: bool = False,
        win: int = 65535,
        rtt: float = 0.0,
    ) -> UserSocket:
        """A connection that the stack opened, established, the first round trip having taken `rtt` seconds."""
        sock = self.dial(prepare)
        self.expect(flags(SYN))
        self.run(rtt)
        self.ts = ts
        self.send(SYN, 0, 1, win=win, options=self.syn_options(mss, wscale, sack, ts))
        self.expect(flags(ACK), seq(1), ack(1))
        self.silent()
        assert sock_of(sock).state == 1
        return sock

    def listen(
        self, port: int = 80, backlog: int = 16, prepare: Callable[[UserSocket], Any] | None = None
    ) -> UserSocket:
        server = self.socket()
        if prepare is not None:
            prepare(server)
        server.bind(("0.0.0.0", port))
        server.listen(backlog)
        return server

    def passive(
        self,
        prepare: Callable[[UserSocket], Any] | None = None,
        *,
        mss: int = 1460,
        wscale: int = -1,
        sack: bool = False,
        ts: bool = False,
        win: int = 65535,
    ) -> UserSocket:
        """A connection that the peer opened, accepted; the listener is closed."""
        server = self.listen(prepare=prepare)
        self.local_port, self.port = 80, 40000
        self.send(SYN, 0, win=win, options=self.syn_options(mss, wscale, sack, ts))
        self.expect(flags(SYN | ACK), ack(1))
        self.ts = ts
        self.send(ACK, 1, 1, win=win)
        sock = self.accept(server)
        server.close()
        self.silent()
        self.sock = sock
        return sock

    def end(self) -> None:
        """Close all, at once; after TIME_WAIT nothing may be left."""
        for sock in self.open:
            if sock._socket is not None:
                sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
        self.run(3000.0)
        left = left_over(self.stack)
        self.stack.close()
        assert not left, left


def icmp_packet(kind: int, code: int, info: int, original: bytes) -> bytes:
    """An ICMP error of the peer about a packet of the stack's."""
    body = bytearray(bytes((kind, code, 0, 0)) + info.to_bytes(4, "big") + original)
    body[2:4] = checksum.csum_fold(checksum.csum(bytes(body), 0, len(body))).to_bytes(2, "big")
    return ip_packet(REMOTE, LOCAL, 1, bytes(body))


__all__ = [name for name in dir() if not name.startswith("_")]
_ = ipv4
