"""Requests and TIME-WAIT records as small objects (request.py, timewait.py, core/timer_list.py)."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from tests.support.compiled import interpreted_only
from tests.transport.tcp.harness import Pair, Peer, flags, sock_of
from tests.transport.tcp.states import enter
from usernet.transport.tcp.request import MAX_SHARED_SIZES, RequestSock
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.wire.tcp import ACK, SYN

ABOUT_500 = 590
"""With what else a thousand of them leave behind: entries of stale timers, room to grow in tables."""


def test_what_is_shared_is_bounded(peer: Peer) -> None:
    peer.listen(backlog=1000)
    peer.local_port = 80
    for mss in range(600, 600 + 2 * MAX_SHARED_SIZES):
        peer.send(SYN, sport=mss, options=peer.syn_options(mss=mss))
    assert len(peer.tcp.shared_sizes) <= MAX_SHARED_SIZES
    found = [entry.mss for entry in peer.tcp.table.values() if type(entry) is RequestSock]
    assert found == list(range(600, 600 + 2 * MAX_SHARED_SIZES))
    peer.sent()


@interpreted_only  # compiled, the numbers stand in the request itself, and nothing is shared
def test_equal_requests_share_their_sizes(peer: Peer) -> None:
    peer.listen()
    peer.local_port = 80
    for port in (1000, 1001):
        peer.send(SYN, sport=port, options=peer.syn_options(mss=1400, wscale=3))
    one, two = (entry for entry in peer.tcp.table.values() if type(entry) is RequestSock)
    assert one.sizes is two.sizes
    assert (one.daddr, one.saddr, one.dport, one.sport) == (b"\x0a\0\0\2", b"\x0a\0\0\1", 1000, 80)
    peer.sent()


@pytest.mark.parametrize("number", [1, 40, 4000])
def test_one_timer_serves_all(peer: Peer, number: int) -> None:
    peer.listen(backlog=5000)
    peer.local_port = 80
    before = peer.stack.loop.timers.pending()
    for port in range(1000, 1000 + number):
        peer.send(SYN, sport=port, options=peer.syn_options())
    assert peer.stack.loop.timers.pending() == before + 1
    assert len(peer.sent()) == number
    peer.run(1.0)
    assert len(peer.sent()) == number


def _bytes_each(peer: Peer, step: Callable[[int], None]) -> float:
    for number in range(50):
        step(number)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(50, 1050):
        step(number)
    gc.collect()
    found = (tracemalloc.get_traced_memory()[0] - before) / 1000
    tracemalloc.stop()
    return found


def test_a_request_takes_about_500_bytes(peer: Peer) -> None:
    """All in: itself, its place in the table, its timer."""
    peer.listen(backlog=2000)
    peer.local_port = 80
    peer.tsval = 1 << 30

    def knock(number: int) -> None:
        peer.run(0.0001)
        peer.send(SYN, sport=1000 + number, options=peer.syn_options(sack=True, wscale=7, ts=True))
        peer.nic.sent.clear()

    assert _bytes_each(peer, knock) <= ABOUT_500


def test_a_timewait_record_takes_about_500_bytes(peer: Peer) -> None:
    peer.stack.sysctl["net.ipv4.ip_local_port_range"] = "1024 65535"
    peer.tsval = 1 << 30

    def once(number: int) -> None:
        peer.run(0.0001)
        peer.ts = False
        sock = peer.active(ts=True, sack=True)
        sock.close()
        peer.settle()
        peer.send(ACK | 1, 1, 2)
        peer.open.clear()
        peer.nic.sent.clear()

    assert _bytes_each(peer, once) <= ABOUT_500
    records = [entry for entry in peer.tcp.table.values() if type(entry) is TimeWaitSock]
    assert len(records) == 1050
    assert all(not hasattr(record, "__dict__") for record in records)


def test_a_record_knows_what_its_socket_knew(peer: Peer) -> None:
    sock = enter(peer, "FIN_WAIT2", ts=True)
    assert sock is not None
    sk = sock_of(sock)
    wanted = (sk.saddr, sk.daddr, sk.num, sk.sport, sk.dport, sk.snd_nxt, sk.ts_recent, sk.bound_dev_if)
    peer.run(1.0)
    peer.tsval += 1000
    peer.send(ACK | 1, 1, 2)
    (record,) = (entry for entry in peer.tcp.table.values() if type(entry) is TimeWaitSock)
    found = (record.saddr, record.daddr, record.num, record.sport, record.dport, record.snd_nxt)
    assert found == wanted[:6]
    assert record.ts_recent == wanted[6] + 1000
    assert record.bound_dev_if == wanted[7]
    assert record.entered == peer.clock.now() // 1_000_000
    assert (record.reuse, record.reuseport) == (False, False)
    peer.expect(flags(ACK))


def test_ports_that_were_chosen_are_free_again() -> None:
    with Pair() as pair:
        client, server = pair.connected()
        port = client.getsockname()[1]
        table = pair.left.net.get(type(sock_of(client).tcp)).ports
        assert [type(owner).__name__ for owner in table.owners(port)] == ["TcpSock"]
        client.close()
        pair.run(0.1)
        server.close()
        pair.run(0.1)
        assert [type(owner).__name__ for owner in table.owners(port)] == ["TimeWaitSock"]
        pair.run(61)
        assert list(table.owners(port)) == []
