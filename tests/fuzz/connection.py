"""TCP segments near an established connection: right ports, sequence numbers close to what is expected.

Each record is a segment, or something that the application does. So the fuzzer starts behind the handshake, and its
mutations move in the window, in the options, and between the calls.
"""

from __future__ import annotations

import errno
from typing import Any, final

from tests.fuzz.world import PEER, SECOND, TCP_PORT, US, World, ip_frame, records, repair
from usernet.wire import tcp

MASK = 0xFFFFFFFF
PEER_PORT = 40000
SYN_OPTIONS = bytes.fromhex("020405b40402080a000000010000000001030307")
APPLICATION = 0x80
"""Bit of a record's first byte: it is a call, not a segment."""
TIMES = (SECOND // 1000, SECOND // 20, SECOND, 130 * SECOND)


@final
class Peer:
    """The other end: it knows what the stack has sent, and what it expects."""

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.port = port
        self.seq = 1000
        self.ack = 0
        self.seen = 0

    def look(self) -> None:
        """Learn from what the stack sent: an ordinary peer acknowledges all of it."""
        sent = self.world.wire.sent
        for frame in sent[self.seen :]:
            at = 14 + (frame[14] & 15) * 4
            if frame[12:14] != b"\x08\0" or frame[23] != 6 or len(frame) < at + 20:
                continue
            sport, dport, seq, _, doff, flags, *_ = tcp.parse(frame, at)
            if (sport, dport) == (TCP_PORT, self.port):
                length = len(frame) - at - doff + bool(flags & tcp.SYN) + bool(flags & tcp.FIN)
                if (seq + length - self.ack) & MASK < 1 << 31 or flags & tcp.SYN:
                    self.ack = (seq + length) & MASK
        self.seen = len(sent)

    def send(
        self, seq: int, ack: int, flags: int, window: int, options: bytes, payload: bytes, urgent: int = 0
    ) -> None:
        options = options[:40] + b"\0" * (-len(options[:40]) & 3)
        header = tcp.build(self.port, TCP_PORT, seq & MASK, ack & MASK, flags, window, 0, urgent, options)
        self.world.receive(repair(ip_frame(6, header + payload, PEER, US)))
        self.look()


def _connect(world: World) -> tuple[Peer, Any]:
    peer = Peer(world, PEER_PORT)
    peer.send(peer.seq, 0, tcp.SYN, 65535, SYN_OPTIONS, b"")
    peer.seq += 1
    peer.send(peer.seq, peer.ack, tcp.ACK, 512, bytes.fromhex("0101080a0000000200000000"), b"")
    connection, _ = world.listener.accept()
    connection.setblocking(False)
    world.sockets.append(connection)
    return peer, connection


def _call(world: World, connection: Any, control: int, body: bytes) -> None:
    what = control & 7
    try:
        if what == 0:
            connection.send(body * (1 + 64 * (control >> 3 & 15)))
        elif what == 1:
            connection.recv(1 + len(body) * 64, control & 0x20 and 2)
        elif what == 2:
            connection.shutdown(control >> 3 & 1 and 1)
        elif what == 3:
            connection.close()
        elif what == 4:
            connection.setsockopt(6 if control & 8 else 1, body[0] if body else 0, body[1:])
        elif what == 5:
            connection.send(body, 1)  # MSG_OOB
        else:
            world.pass_time(TIMES[control >> 3 & 3], 20)
    except OSError as problem:
        assert problem.errno != errno.EFAULT  # noqa: PT017


def tcp_connection(data: bytes) -> None:
    """Segments and calls, in any order, on one connection.

    A segment: flags, window (2 bytes), sequence number and acknowledgement as distances from the expected (2 each,
    signed), urgent pointer (1), length of the options (1), options, payload.
    """
    with World(sockets=False) as world:
        peer, connection = _connect(world)
        for count, (control, body) in enumerate(records(data)):
            if count == 60:
                break
            if control & APPLICATION:
                _call(world, connection, control, body)
                peer.look()
                continue
            if len(body) < 9:
                continue
            flags = body[0] | (control & 1) << 8
            seq = peer.seq + int.from_bytes(body[3:5], "big", signed=True)
            ack = peer.ack + int.from_bytes(body[5:7], "big", signed=True)
            options, payload = body[9 : 9 + body[8]], body[9 + body[8] :]
            if control & 2:
                payload *= 20
            peer.send(seq, ack, flags, int.from_bytes(body[1:3], "big"), options, payload, body[7])
            if seq == peer.seq and not control & 4:
                peer.seq = (seq + len(payload) + bool(flags & tcp.FIN)) & MASK
