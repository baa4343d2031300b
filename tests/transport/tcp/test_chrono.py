"""The stop watch of what the sender waits for."""

from __future__ import annotations

from tests.transport.tcp.harness import MSEC, Pair, sock_of
from usernet.transport.tcp import chrono
from usernet.transport.tcp.sock import TcpSock


def spent(sk: TcpSock) -> tuple[int, int, int]:
    """Milliseconds: busy, limited by the window, limited by the buffer."""
    busy, window, buffer = chrono.times(sk)
    return busy // 1000, window // 1000, buffer // 1000


def test_the_highest_reason_is_counted() -> None:
    with Pair() as pair:
        client, _ = pair.connected()
        sk = sock_of(client)
        pair.settle()
        before = spent(sk)
        # Something to be sent, which no other may take for done.
        client.send(b"x")
        chrono.start(sk, chrono.RWND_LIMITED)
        pair.clock.set(pair.clock.now() + 10 * MSEC)
        pair.left.loop.now = pair.clock.now()
        chrono.start(sk, chrono.BUSY)
        assert sk.chrono_type == chrono.RWND_LIMITED
        chrono.start(sk, chrono.SNDBUF_LIMITED)
        pair.left.loop.now += 20 * MSEC
        # It is not this one that is counted.
        chrono.stop(sk, chrono.RWND_LIMITED)
        assert sk.chrono_type == chrono.SNDBUF_LIMITED
        chrono.stop(sk, chrono.SNDBUF_LIMITED)
        assert sk.chrono_type == chrono.BUSY
        pair.left.loop.now += 5 * MSEC
        assert [now - then for now, then in zip(spent(sk), before, strict=True)] == [35, 10, 20]
        pair.clock.set(pair.left.loop.now)
        pair.run(1)
        assert sk.chrono_type == chrono.UNSPEC
        after = spent(sk)
        pair.run(1)
        assert spent(sk) == after


def test_busy_from_the_first_byte_to_its_acknowledgement() -> None:
    with Pair(delay=0.010) as pair:
        client, _ = pair.connected()
        sk = sock_of(client)
        client.send(b"x" * 1000)
        pair.run(1)
        busy, window, buffer = spent(sk)
        assert 20 <= busy <= 65, busy
        assert (window, buffer) == (0, 0)
