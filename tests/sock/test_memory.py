"""The memory of all UDP sockets together: udp_mem and udp_rmem_min."""

from __future__ import annotations

import pytest

import usernet
from usernet.core.clock import ManualClock
from usernet.skbuff.dropreason import DropReason
from usernet.sock.memory import KEPT, PAGE, SockMemory
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.udp_table import UdpTable


def sockets(stack: Stack, count: int) -> list[UserSocket]:
    made = [stack.socket(2, 2) for _ in range(count)]
    for sock in made:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    return made


def fill(stack: Stack, sender: UserSocket, sock: UserSocket, datagrams: int = 400) -> int:
    """Send to `sock`, which doesn't read; returns how many are queued."""
    before = stack.mib.udp.MemErrors + stack.mib.udp.RcvbufErrors
    for _ in range(datagrams):
        sender.sendto(bytes(1000), sock.getsockname())
    stack.poll(stack.loop.clock.now())
    return datagrams - (stack.mib.udp.MemErrors + stack.mib.udp.RcvbufErrors - before)


def read(sock: UserSocket) -> int:
    count = 0
    try:
        while sock.recv(2000):
            count += 1
    except BlockingIOError:
        return count
    return count


def test_pages_are_taken_and_given_back():
    memory = SockMemory((2, 3, 4), 4096)
    have = memory.reserve(0, 5000)
    assert (have, memory.allocated) == (2 * PAGE, 2)
    assert memory.reserve(have, 9000) == have  # above the first limit, and the socket has its minimum
    assert memory.reserve(0, 4095) == PAGE
    assert memory.reserve(0, 4096) == 0
    assert memory.reserve(0, 4095) == PAGE
    assert memory.allocated == 4
    assert memory.reserve(0, 1) == 0  # beyond the last not even that
    assert memory.release(have, PAGE) == PAGE
    assert memory.release(PAGE) == 0
    assert memory.allocated == 2


@pytest.fixture
def stack():
    made = usernet.Stack("memory", clock=ManualClock(10**9), seed=1)
    yield made
    made.poll(made.loop.clock.now())
    memory = made.net.get(UdpTable).memory
    made.close()
    assert memory.allocated == 0


def test_all_udp_sockets_together(stack: Stack):
    memory = stack.net.get(UdpTable).memory
    stack.sysctl["net.ipv4.udp_mem"] = (40, 60, 80)
    sender, *others = sockets(stack, 9)
    queued = [fill(stack, sender, sock) for sock in others]
    assert sum(queued) * 1000 < 80 * PAGE
    assert memory.allocated <= 80
    # The first had what there was for the asking; the later ones their minimum.
    assert queued[0] > 40 > max(queued[1:])
    assert stack.mib.udp.MemErrors == stack.drops[DropReason.PROTO_MEM] > 0
    # What is read makes room, but for a little that each keeps.
    assert [read(sock) for sock in others] == queued
    assert memory.allocated * PAGE <= len(others) * (KEPT + PAGE)
    for sock in others:
        sock.close()
    assert fill(stack, sender, sender) > 40
    sender.close()


def test_each_socket_has_its_minimum(stack: Stack):
    stack.sysctl["net.ipv4.udp_mem"] = (0, 0, 1000)
    stack.sysctl["net.ipv4.udp_rmem_min"] = 10_000
    socks = sockets(stack, 4)
    queued = [fill(stack, socks[0], sock) for sock in socks]
    assert min(queued) >= 2
    assert max(queued) * 1000 <= 3 * PAGE
    assert sum(queued) == sum(read(sock) for sock in socks)
    for sock in socks:
        sock.close()


def test_without_limits_the_buffer_is_the_bound(stack: Stack):
    sock, other = sockets(stack, 2)
    assert fill(stack, other, sock) > 80
    assert stack.mib.udp.MemErrors == 0
    assert stack.mib.udp.RcvbufErrors > 0
    sock.close()
    other.close()
