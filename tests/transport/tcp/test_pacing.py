"""Pacing: inside TCP, by the qdisc fq, and the limit that a program sets."""

from __future__ import annotations

import socket
import struct
from itertools import pairwise

import pytest

from tests.transport.tcp.harness import Pair, sock_of
from usernet.net.pacing import SK_PACING_FQ, SK_PACING_NEEDED, SK_PACING_NONE
from usernet.netdevice.qdisc.fq import Fq
from usernet.skbuff.skbuff import SKBuff

SO_MAX_PACING_RATE = 47
MSEC = 1_000_000
RATE = 1_000_000


def transfer(pair: Pair, size: int) -> list[tuple[int, int]]:
    """Send `size` bytes from left to right; returns when (ns) each packet with data arrived, and its bytes."""
    arrivals: list[tuple[int, int]] = []

    def look(skb: SKBuff) -> None:
        if skb.len > 100:
            arrivals.append((pair.clock.now(), skb.len - 52))

    pair.right.net.trace.netif_receive_skb.attach(look)
    client, server = pair.connected()
    client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
    got = 0
    left = memoryview(bytes(size))

    def go_on() -> bool:
        nonlocal got, left
        try:
            left = left[client.send(left) :] if left else left
        except BlockingIOError:
            pass
        try:
            got += len(server.recv(1 << 20))
        except BlockingIOError:
            pass
        return got == size

    assert pair.run(20.0, go_on)
    return arrivals


@pytest.mark.parametrize("qdisc", [False, True])
def test_a_program_may_limit_the_rate(qdisc):
    # So long a path that super-segments are of two packets, which take 2.9 ms at this rate.
    with Pair(delay=0.02) as pair:
        if qdisc:
            pair.left.devices["eth0"].set_qdisc(Fq())
        arrivals = transfer(pair, 500_000)
        # The first ten packets go as they come.
        late = [(when, size) for when, size in arrivals if when > arrivals[0][0]]
        seconds = (late[-1][0] - late[0][0]) / 1e9
        assert sum(size for _, size in late[1:]) / seconds == pytest.approx(RATE, rel=0.05)
        gaps = [after[0] - before[0] for before, after in pairwise(late)]
        # Nothing leaves in a burst.
        assert max(size for _, size in late[2:-1]) <= 2 * 1448
        assert min(gaps[3:-1]) >= 1.3 * MSEC


def test_who_paces():
    with Pair() as pair:
        client, server = pair.connected()
        sk = sock_of(client)
        assert sk.pacing_status == SK_PACING_NONE
        client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("Q", (1 << 64) - 1))
        assert sk.pacing_status == SK_PACING_NONE
        client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
        assert sk.pacing_status == SK_PACING_NEEDED
        assert sk.pacing_rate == RATE
        pair.left.set_qdisc("eth0", "fq")
        client.send(b"x")
        assert sk.pacing_status == SK_PACING_FQ
        assert sock_of(server).pacing_status == SK_PACING_NONE
        pair.right.set_qdisc("eth0", "fq", "nopacing")
        server.send(b"x")
        assert sock_of(server).pacing_status == SK_PACING_NONE


def test_a_listeners_limit_is_its_childrens():
    with Pair() as pair:
        listener = pair.listener()
        listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
        pair.dial()
        pair.run(1.0)
        child = sock_of(pair.accept(listener))
        assert (child.pacing_status, child.max_pacing_rate) == (SK_PACING_NEEDED, RATE)
        assert child.pacing_rate <= RATE
