"""Two stacks and the network between them, which does what it is told with each packet.

Nothing arrives by itself: what a stack sends lies in `flying`, by the side that sent it, until the network delivers it,
drops it, delivers a copy, cuts it in two, joins it with the next, or changes it. On the way through, everything is
looked at: what is sent must be what the program wrote at that place, in the window that was granted, and with right
checksums; see `Network.look`.
"""

from __future__ import annotations

import errno
import socket as std
from typing import Any

from tests.transport.tcp.harness import (
    FLAG_NAMES,
    LOCAL,
    REMOTE,
    SEC,
    Collector,
    icmp_packet,
    ip_packet,
    left_over,
    sock_of,
)
from tests.transport.tcp.invariants import broken
from usernet.core.clock import ManualClock
from usernet.netdevice.driver import NETIF_F_HW_CSUM
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp.sock import TcpSock
from usernet.wire import checksum
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

MASK = 0xFFFFFFFF
ADDRESSES = (LOCAL, REMOTE)
PORTS = (40000, 80)


def content(side: int, start: int, size: int) -> bytes:
    """What side `side` writes at byte `start` of its stream: different from place to place."""
    return bytes((side * 101 + at * 7 + (at >> 8) * 13 + (at >> 16)) & 0xFF for at in range(start, start + size))


def ahead(low: int, high: int) -> bool:
    """Whether `low` lies before `high`, or is the same."""
    return (high - low) & 0x80000000 == 0


class Packet:
    """A TCP packet on its way: fields to change, and `build` to make it whole again."""

    __slots__ = ("ack", "dport", "flags", "options", "payload", "seq", "side", "sport", "urg", "window")

    def __init__(self, side: int, packet: bytes) -> None:
        self.side = side
        start = (packet[0] & 15) * 4
        total = int.from_bytes(packet[2:4], "big")
        (self.sport, self.dport, self.seq, self.ack, doff, self.flags, self.window, _, self.urg) = wire.parse(
            packet, start
        )
        self.options = packet[start + 20 : start + doff]
        self.payload = packet[start + doff : total]

    @property
    def end(self) -> int:
        return (self.seq + len(self.payload) + bool(self.flags & FIN) + bool(self.flags & SYN)) & MASK

    def build(self) -> bytes:
        saddr, daddr = ADDRESSES[self.side], ADDRESSES[1 - self.side]
        body = wire.build(
            self.sport, self.dport, self.seq, self.ack, self.flags, self.window, 0, self.urg, self.options
        ) + self.payload  # fmt: skip
        pseudo = saddr + daddr + bytes((0, 6)) + len(body).to_bytes(2, "big")
        check = checksum.csum_fold(checksum.csum(pseudo + body, 0, len(pseudo) + len(body)))
        return ip_packet(saddr, daddr, 6, body[:16] + check.to_bytes(2, "big") + body[18:])

    def copy(self) -> Packet:
        return Packet(self.side, self.build())

    def __repr__(self) -> str:
        names = "".join(name for bit, name in FLAG_NAMES if self.flags & bit)
        return f"<{self.side} {names} {self.seq}+{len(self.payload)} ack {self.ack} win {self.window}>"


class Network:
    """tainted: something was forged that may be taken for the other's data, so that nothing is known of the streams any
    more. crippled: something was done to a connection that it need not survive."""

    def __init__(self, seed: int, offload: bool, sysctl: dict[str, Any]) -> None:
        self.clock = ManualClock(SEC)
        self.stacks: list[Stack] = []
        self.nics: list[Collector] = []
        self.flying: tuple[list[Packet], list[Packet]] = ([], [])
        self.seen: list[Packet] = []
        self.tainted = False
        self.crippled = False
        self.written = [0, 0]
        self.read = [0, 0]
        self.iss: list[int | None] = [None, None]
        self.scales = [0, 0]
        self.granted: list[int | None] = [None, None]
        """The right edge of the window that each side may have heard of, at most."""
        self.sent_up_to: list[int | None] = [None, None]
        self.offered: list[int | None] = [None, None]
        """The right edge of the window that each side offered."""
        self.may_shrink: bool = bool(sysctl.get("tcp_shrink_window"))
        for side in (0, 1):
            stack = Stack(f"side {side}", clock=self.clock, seed=seed + side)
            nic = Collector(offload)
            stack.add_device(nic, "tun0", f"10.0.0.{side + 1}/24")
            stack.devices["tun0"].set_features(NETIF_F_HW_CSUM, False)
            for name, value in sysctl.items():
                stack.sysctl[f"net.ipv4.{name}"] = value
            self.stacks.append(stack)
            self.nics.append(nic)
        server = self.socket(1)
        server.bind(("0.0.0.0", PORTS[1]))
        server.listen(4)
        client = self.socket(0)
        client.bind(("10.0.0.1", PORTS[0]))
        self.server = server
        self.ends: list[UserSocket | None] = [client, None]
        self.opened: list[UserSocket] = [client, server]
        assert client.connect_ex(("10.0.0.2", PORTS[1])) == errno.EINPROGRESS
        self.settle()

    def socket(self, side: int) -> UserSocket:
        sock = self.stacks[side].socket(std.AF_INET, std.SOCK_STREAM)
        sock.setblocking(False)
        # Urgent data stays in the stream, so that the stream is what was written.
        sock.setsockopt(std.SOL_SOCKET, std.SO_OOBINLINE, 1)
        return sock

    # -- running

    def settle(self) -> None:
        """Both stacks do what is due, and what they send is looked at."""
        for side in (0, 1):
            loop = self.stacks[side].loop
            while True:
                self.stacks[side].poll(self.clock.now())
                if loop.softirq.idle and loop.timers.next_deadline() > self.clock.now():
                    break
        for side in (0, 1):
            nic = self.nics[side]
            while nic.sent:
                raw, _, _ = nic.sent.popleft()
                if raw[9] == 6:
                    packet = Packet(side, raw)
                    self.look(packet, raw)
                    self.flying[side].append(packet)
                    self.seen.append(packet.copy())
                    del self.flying[side][:-200], self.seen[:-50]

    def advance(self, seconds: float) -> None:
        """Time passes, with no packet arriving."""
        limit = self.clock.now() + round(seconds * SEC)
        while True:
            following = min(stack.loop.timers.next_deadline() for stack in self.stacks)
            if following > limit:
                break
            self.clock.set(max(following, self.clock.now()))
            self.settle()
        self.clock.set(limit)
        self.settle()

    def accept(self) -> None:
        if self.ends[1] is None:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            sock.setblocking(False)
            self.ends[1] = sock
            self.opened.append(sock)

    # -- looking at what is sent

    def look(self, packet: Packet, raw: bytes) -> None:
        """What must hold of every packet that a stack sends."""
        side = packet.side
        body = raw[20 : int.from_bytes(raw[2:4], "big")]
        pseudo = raw[12:20] + bytes((0, 6)) + len(body).to_bytes(2, "big")
        assert checksum.csum_fold(checksum.csum(pseudo + body, 0, len(pseudo) + len(body))) == 0, f"checksum: {packet}"
        if (packet.sport, packet.dport) != (PORTS[side], PORTS[1 - side]):
            return
        if packet.flags & SYN:
            if self.iss[side] not in (None, packet.seq):
                self.tainted = True  # another connection, after the first
            self.iss[side] = packet.seq
            options = wire.parse_options(packet.options, 0, len(packet.options))
            if options.wscale >= 0:
                self.scales[side] = min(options.wscale, 14)
        iss = self.iss[side]
        if self.tainted or packet.flags & RST or iss is None:
            return
        last = self.sent_up_to[side]
        if last is None or ahead(last, packet.end):
            self.sent_up_to[side] = packet.end
        if packet.payload:
            start = (packet.seq - iss - 1) & MASK
            assert start + len(packet.payload) <= self.written[side], f"sent what was not written: {packet}"
            assert packet.payload == content(side, start, len(packet.payload)), f"sent other data: {packet}"
            edge = self.granted[side]
            assert edge is not None, f"data before a window was told: {packet}"
            assert ahead((packet.seq + len(packet.payload)) & MASK, edge), f"beyond the window: {packet}, {edge}"
            assert len(raw) <= 1500, f"too long: {packet}"
        if packet.flags & ACK and not packet.flags & SYN:
            scale = self.scales[side]
            edge = (packet.ack + (packet.window << scale)) & MASK
            before = self.offered[side]
            # Where memory has run out it is closed, as in Linux, and opens anew; rounding takes off less than one unit.
            if packet.window and before is not None and not self.may_shrink:
                assert ahead(before, (edge + (1 << scale) - 1) & MASK), f"the window shrank: {packet}, {before}"
            if before is None or ahead(before, edge) or not packet.window:
                self.offered[side] = edge
        other = self.sent_up_to[1 - side]
        if packet.flags & ACK and not packet.flags & RST and other is not None:
            assert ahead(packet.ack, other), f"acknowledges what was never sent: {packet}, {other}"

    def arrives(self, packet: Packet) -> None:
        """A packet reaches the other side: what it grants counts."""
        if packet.flags & ACK:
            scale = 0 if packet.flags & SYN else self.scales[packet.side]
            edge = (packet.ack + (packet.window << scale)) & MASK
            target = 1 - packet.side
            before = self.granted[target]
            if before is None or ahead(before, edge):
                self.granted[target] = edge

    # -- what the network does

    def deliver(self, packet: Packet) -> None:
        self.arrives(packet)
        self.nics[1 - packet.side].put(packet.build())
        self.settle()

    def pick(self, side: int, index: int) -> int | None:
        flying = self.flying[side]
        return index % len(flying) if flying else None

    def damage(self, packet: Packet, bit: int) -> None:
        """One bit is wrong: nobody may take it."""
        raw = bytearray(packet.build())
        raw[bit // 8 % len(raw)] ^= 1 << bit % 8
        self.nics[1 - packet.side].put(bytes(raw))
        self.settle()

    def forge(
        self, side: int, flags: int, seq: int, ack: int, size: int, window: int, urg: int, options: bytes
    ) -> None:
        """A segment that `side` never sent, near what the other expects of it."""
        target = self._sock(1 - side)
        rcv_nxt = target.rcv_nxt if target is not None else 0
        snd_una = target.snd_una if target is not None else 0
        packet = self.seen[-1].copy() if self.seen else None
        if packet is None:
            return
        packet.side = side
        packet.sport, packet.dport = PORTS[side], PORTS[1 - side]
        packet.seq, packet.ack = (rcv_nxt + seq) & MASK, (snd_una + ack) & MASK
        packet.flags, packet.window, packet.urg = flags, window, urg
        packet.options = options
        packet.payload = bytes(size)
        if size or flags & (FIN | SYN | RST):
            self.tainted = True
        if not flags & ACK or ack or seq:
            self.crippled = True
        self.crippled |= self.tainted or bool(options)
        self.deliver(packet)

    def icmp(self, index: int, kind: int, code: int, info: int) -> None:
        """An ICMP error about one of the last packets, to who sent it."""
        if not self.seen:
            return
        packet = self.seen[index % len(self.seen)]
        raw = packet.build()
        error = icmp_packet(kind, code, info, raw[:28])
        if packet.side == 1:
            # icmp_packet() makes it from REMOTE to LOCAL.
            error = ip_packet(LOCAL, REMOTE, 1, error[20:])
        self.crippled = True
        self.nics[packet.side].put(error)
        self.settle()

    def heal(self) -> None:
        """From now on all that is sent arrives, at once and in order, until nothing is on the way."""
        for _ in range(2000):
            self.accept()
            moved = False
            for side in (0, 1):
                while self.flying[side]:
                    moved = True
                    self.deliver(self.flying[side].pop(0))
            if not moved:
                return
        raise AssertionError("packets go to and fro without end")

    # -- programs

    def write(self, side: int, size: int, flags: int = 0) -> None:
        sock = self.ends[side]
        if sock is not None:
            self.written[side] += size  # it may be sent while the call runs
            taken = 0
            try:
                taken = sock.send(content(side, self.written[side] - size, size), flags)
            except OSError:
                pass
            finally:
                self.written[side] -= size - taken
        self.settle()

    def take(self, side: int, size: int) -> int:
        """Read; what comes is what the other wrote. Returns how much."""
        sock = self.ends[side]
        count = 0
        if sock is not None:
            try:
                data = sock.recv(size)
            except OSError:
                data = b""
            count = len(data)
            if not self.tainted:
                assert data == content(1 - side, self.read[side], count), "read what was not written there"
            self.read[side] += count
        self.settle()
        return count

    # -- the invariants

    def _sock(self, side: int) -> TcpSock | None:
        sock = self.ends[side]
        return sock_of(sock) if sock is not None and sock._socket is not None else None

    def check(self) -> None:
        for side in (0, 1):
            for sk in self.stacks[side].sockets():
                if isinstance(sk, TcpSock):
                    assert broken(sk) == [], f"side {side}"
        if self.tainted:
            return
        for side in (0, 1):
            assert self.read[side] <= self.written[1 - side]
            sk = self._sock(side)
            if sk is not None and sk.state in (1, 4, 5, 8):
                last = self.sent_up_to[1 - side]
                assert last is None or ahead(sk.rcv_nxt, last), "received what was never sent"

    def end(self) -> None:
        for sock in self.opened:
            if sock._socket is not None:
                sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
        self.settle()
        self.advance(2000.0)  # FIN-WAIT-2 takes long after a long time-out
        left = [line for stack in self.stacks for line in left_over(stack)]
        for stack in self.stacks:
            stack.close()
        assert not left, left

    def drop(self) -> None:
        for sock in self.opened:
            sock.close()
        for stack in self.stacks:
            stack.close()


__all__ = ["ACK", "FIN", "MASK", "PSH", "RST", "SYN", "URG", "Network", "Packet", "content"]
