"""A transfer both ways over a bad cable, and its verdict: for the property tests."""

from __future__ import annotations

import errno
import socket as std
from collections.abc import Callable
from typing import Any

from tests.transport.tcp.harness import SEC, Pair, sock_of
from tests.transport.tcp.invariants import broken
from usernet.sock.sock import SockNet
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.sock import TcpSock

TIMED_OUT = {errno.ETIMEDOUT, errno.EHOSTUNREACH}


def content(size: int, salt: int) -> bytes:
    """Bytes that differ from place to place, so that a piece at the wrong place shows."""
    words = ((salt + index * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big") for index in range(size // 4 + 1))
    return b"".join(words)[:size]


class End:
    """One end's program: it writes what it has, as much as goes; reads what comes; and closes as it was told.

    how: "shutdown" after writing, then reads to the end; "close" once all is written and read; "last" once the other's
    end of stream has come.
    """

    def __init__(self, sock: UserSocket, outgoing: bytes, expected: int, how: str, write: int, read: int) -> None:
        self.sock = sock
        # An end that only waits finds out by keepalive that the other has given up.
        sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_KEEPIDLE, 600)
        self.outgoing = outgoing
        self.expected = expected
        self.how = how
        self.write = write
        self.read = read
        self.position = 0
        self.received = bytearray()
        self.ended = False
        self.shut = False
        self.closed = False
        self.failure = 0

    def step(self) -> None:
        if self.closed:
            return
        try:
            while self.position < len(self.outgoing):
                self.position += self.sock.send(self.outgoing[self.position : self.position + self.write])
        except BlockingIOError:
            pass
        except OSError as failure:
            self._fail(failure)
            return
        try:
            while not self.ended:
                data = self.sock.recv(self.read)
                self.received += data
                self.ended = not data
        except BlockingIOError:
            pass
        except OSError as failure:
            self._fail(failure)
            return
        if self.position < len(self.outgoing):
            return
        complete = len(self.received) >= self.expected
        if self.how == "shutdown" and not self.shut:
            self.shut = True
            self.sock.shutdown(1)
        if (self.how == "shutdown" and self.ended) or (self.how == "close" and complete) or (
            self.how == "last" and self.ended and complete
        ):
            self.close()

    def _fail(self, failure: OSError) -> None:
        self.failure = failure.errno or -1
        self.close()

    def close(self) -> None:
        self.closed = True
        self.sock.close()


def check_invariants(pair: Pair) -> Callable[[], None]:
    def check() -> None:
        for stack in pair.stacks:
            for sk in stack.net.get(SockNet).sockets:
                if isinstance(sk, TcpSock) and (wrong := broken(sk)):
                    raise AssertionError(f"{stack.name} at {pair.clock.now() / SEC:.6f} s: {'; '.join(wrong)}")

    return check


def transfer(
    sizes: tuple[int, int],
    how: tuple[str, str] = ("shutdown", "shutdown"),
    *,
    seed: int = 1,
    write: int = 20_000,
    read: int = 65536,
    checked: bool = False,
    sysctl: dict[str, Any] | None = None,
    patience: float = 20_000.0,
    **impairments: Any,
) -> dict[str, Any]:
    """Send `sizes` bytes left to right and right to left; returns what happened, after all has been taken down.

    Raises AssertionError where it is neither intact nor timed out, or something is left.
    """
    pair = Pair(seed, sysctl, **impairments)
    if checked:
        pair.checks.append(check_invariants(pair))
    server = pair.listener()
    client = pair.dial()
    outgoing = content(sizes[0], seed), content(sizes[1], seed + 99)
    left = End(client, outgoing[0], sizes[1], how[0], write, read)
    right: list[End] = []

    def step() -> bool:
        if not right and sock_of(server).request_queue.accept_queue:
            right.append(End(pair.accept(server), outgoing[1], sizes[0], how[1], write, read))
        left_established = sock_of(client).state not in (2, 3) if not left.closed else True
        if left_established:
            left.step()
        for end in right:
            end.step()
        return left.closed and all(end.closed for end in right) and (bool(right) or left.failure != 0)

    done = pair.run(patience, step)
    ends = [left, *right]
    started = SEC
    report = {
        "done": done,
        "failures": [end.failure for end in ends],
        "seconds": (pair.clock.now() - started) / SEC,
        "retransmitted": sum(stack.mib.tcp.RetransSegs for stack in pair.stacks),
        "left": (left.position, len(left.received)),
        "right": (right[0].position, len(right[0].received)) if right else None,
    }
    assert done, report
    for end in ends:
        other = outgoing[1] if end is left else outgoing[0]
        assert bytes(end.received) == other[: len(end.received)], f"damaged: {report}"
    if not any(end.failure for end in ends):
        assert bytes(left.received) == outgoing[1], report
        assert bytes(right[0].received) == outgoing[0], report
    else:
        # An end that was closed, and gave up on its data, is known by the counter; the other, asking whether it is
        # still there, is told by a reset.
        # So is one whose handshake the other end gave up on.
        gave_up = any(stack.mib.tcp_ext.TCPAbortOnTimeout for stack in pair.stacks) or not right
        assert all(end.failure in (0, errno.ECONNRESET, *TIMED_OUT) for end in ends) and gave_up, report
    server.close()
    pair.checks.clear()
    pair.end()
    return report
