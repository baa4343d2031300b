"""What holds of TCP whatever happens: transfers over bad cables, and connections with hostile peers.

A transfer is intact, or ends in ETIMEDOUT where retries are used up, and leaves nothing. After each step, the counters
of every socket are what its queues say (invariants.py), and nothing ever raises.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transport.tcp.harness import LOCAL, Pair, Peer, icmp_packet, ip_packet, left_over, sock_of
from tests.transport.tcp.invariants import broken
from tests.transport.tcp.states import STATES, enter
from tests.transport.tcp.transfer import check_invariants, transfer
from usernet.drivers.impair import Impair
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp.sock import TcpSock
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN

RATE = st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.1, 0.2])
SIZE = st.sampled_from([0, 1, 1000, 20_000, 60_000])
HOW = st.sampled_from(["shutdown", "close", "last"])


@pytest.fixture(autouse=True)
def no_reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a timer or a batch raises is reported; here it fails the test."""
    raised: list[BaseException] = []
    for module in ("usernet.core.timer", "usernet.core.softirq", "usernet.core.loop"):
        monkeypatch.setattr(f"{module}.report", raised.append, raising=False)
    yield
    assert raised == []


QUIET = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


def _transfers(examples: int):
    """The property, for so many examples."""

    @settings(max_examples=examples, suppress_health_check=QUIET)
    @given(
        sizes=st.tuples(SIZE, SIZE), how=st.tuples(HOW, HOW), seed=st.integers(0, 1 << 30),
        loss=RATE, duplicate=RATE, corrupt=RATE, reorder=RATE, delay=st.sampled_from([0.0, 0.001, 0.03]),
        sack=st.booleans(), stamps=st.booleans(), scaling=st.booleans(), control=st.sampled_from(["cubic", "reno"]),
        buffer=st.sampled_from([131072, 131072, 8192]), write=st.sampled_from([700, 20_000, 100_000]),
        read=st.sampled_from([500, 65536]),
    )  # fmt: skip
    def check(
        sizes, how, seed, loss, duplicate, corrupt, reorder, delay, sack, stamps, scaling, control, buffer, write, read
    ):
        if how == ("last", "last"):
            how = ("last", "close")  # else both wait for each other, rightly
        report = transfer(
            sizes, how, seed=seed, write=write, read=read, checked=True, loss=loss, duplicate=duplicate,
            corrupt=corrupt, reorder=reorder, delay=delay,
            sysctl={
                "tcp_sack": int(sack), "tcp_timestamps": int(stamps), "tcp_window_scaling": int(scaling),
                "tcp_congestion_control": control, "tcp_rmem": (4096, buffer, 1 << 20),
            },
        )  # fmt: skip
        if loss + corrupt <= 0.05:
            # Retries are not used up so soon.
            assert report["failures"] == [0, 0], report

    return check


test_a_transfer_is_intact_or_times_out_and_leaves_nothing = _transfers(120)
test_many_transfers_are_intact_or_time_out_and_leave_nothing = pytest.mark.slow(_transfers(1500))


@pytest.mark.parametrize("first", ["shutdown", "close", "last"])
@pytest.mark.parametrize("second", ["shutdown", "close", "last"])
def test_closing_in_every_order(first: str, second: str) -> None:
    if first == second == "last":
        return
    for seed in range(4):
        report = transfer((3000, 5000), (first, second), seed=seed, delay=0.01, checked=True, loss=0.1 * (seed & 1))
        assert report["failures"] == [0, 0]


def test_one_seed_gives_the_same_run() -> None:
    settings_of_it: dict[str, Any] = {"loss": 0.1, "duplicate": 0.1, "corrupt": 0.1, "reorder": 0.1, "delay": 0.01}
    assert transfer((60_000, 60_000), seed=5, **settings_of_it) == transfer((60_000, 60_000), seed=5, **settings_of_it)


# -- two ends that do anything, on a cable that does anything

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.sampled_from([1, 100, 1460, 5000, 60_000])),
        st.tuples(st.just("receive"), st.integers(0, 1), st.sampled_from([1, 1000, 100_000])),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 10, 50, 250, 3000])),
        st.tuples(st.just("cable"), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.0, 0.3])),
        st.tuples(st.just("nodelay"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("cork"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("urgent"), st.integers(0, 1)),
        st.tuples(st.just("shutdown"), st.integers(0, 1), st.integers(0, 2)),
        st.tuples(st.just("close"), st.integers(0, 1)),
        st.tuples(st.just("abort"), st.integers(0, 1)),
        st.tuples(st.just("mtu"), st.sampled_from([1500, 1000, 576])),
    ),
    max_size=60,
)


def _cable(stack: Stack) -> Impair:
    driver = stack.devices["eth0"].driver
    assert isinstance(driver, Impair)
    return driver


def _act(pair: Pair, socks: list[UserSocket], step: tuple[Any, ...]) -> None:
    import socket as std

    what = step[0]
    if what == "wait":
        pair.run(step[1] / 1000)
        return
    if what == "cable":
        for stack in pair.stacks:
            _cable(stack).change(loss=step[1], reorder=step[2])
        return
    if what == "mtu":
        pair.left.add_route("10.0.0.2", dev="eth0", mtu=step[1], replace=True)
        return
    sock = socks[step[1]]
    if what == "send":
        sock.send(bytes(step[2]))
    elif what == "urgent":
        sock.send(b"!", std.MSG_OOB)
    elif what == "receive":
        sock.recv(step[2])
    elif what == "nodelay":
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, step[2])
    elif what == "cork":
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, step[2])
    elif what == "shutdown":
        sock.shutdown(step[2])
    elif what == "abort":
        sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    else:
        sock.close()


@settings(max_examples=120, suppress_health_check=QUIET)
@given(STEPS, st.integers(0, 1 << 30), st.booleans(), st.booleans())
def test_the_counters_are_what_the_queues_say_after_each_step(
    steps: list[tuple[Any, ...]],
    seed: int,
    sack: bool,
    stamps: bool,
) -> None:
    sysctl = {"tcp_sack": int(sack), "tcp_timestamps": int(stamps)}
    with Pair(seed, sysctl, delay=0.01, loss=0.0001, reorder=0.0001) as pair:
        pair.checks.append(check_invariants(pair))
        socks = list(pair.connected())
        for step in steps:
            try:
                _act(pair, socks, step)
            except OSError:
                pass
            pair.settle()
        for stack in pair.stacks:
            _cable(stack).change(loss=0.0, reorder=0.0)
        pair.run(3.0)


# -- a hostile peer

NEAR = st.sampled_from([-70_000, -1461, -1, 0, 1, 2, 5, 100, 1459, 1460, 1461, 2920, 5000, 40_000, 70_000, 1 << 31])
FLAGS = st.one_of(
    st.just(ACK), st.just(ACK), st.just(ACK | PSH), st.sampled_from([FIN | ACK, SYN, SYN | ACK, RST, RST | ACK, 0]),
    st.integers(0, 511),
)  # fmt: skip
SEGMENT = st.tuples(
    st.just("segment"), FLAGS, NEAR, NEAR, st.sampled_from([0, 0, 1, 100, 1460]),
    st.sampled_from([0, 1, 500, 65535]), st.lists(st.tuples(NEAR, NEAR), max_size=3),
    st.sampled_from([0, 0, 1, -5, 1 << 31]), st.integers(0, 3),
)  # fmt: skip
DEEDS = st.lists(
    st.one_of(
        SEGMENT, SEGMENT, SEGMENT,
        st.tuples(st.just("send"), st.sampled_from([1, 1460, 20_000])),
        st.tuples(st.just("receive"), st.sampled_from([1, 5000])),
        st.tuples(st.just("wait"), st.sampled_from([1, 40, 300, 5000])),
        st.tuples(st.just("shutdown"), st.integers(0, 2)),
        st.tuples(st.just("close")),
        st.tuples(st.just("icmp"), st.sampled_from([0, 1, 3, 4, 4]), st.sampled_from([0, 68, 576, 1400, 9000])),
    ),
    max_size=40,
)  # fmt: skip


def _hostile(peer: Peer, deed: tuple[Any, ...], sock: UserSocket | None) -> None:
    what = deed[0]
    if what == "segment":
        _, kind, at, acknowledged, size, win, blocks, stamp, urg = deed
        sks = [sk for sk in peer.stack.sockets() if isinstance(sk, TcpSock) and sk.state != 10]
        rcv_nxt = sks[0].rcv_nxt if sks else peer.iss + 1
        snd = sks[0].snd_una if sks else peer.their_iss or 0
        options = b""
        if blocks:
            body = b"".join(
                ((snd + low) & 0xFFFFFFFF).to_bytes(4, "big") + ((snd + high) & 0xFFFFFFFF).to_bytes(4, "big")
                for low, high in blocks
            )
            options += b"\1\1\5" + bytes((2 + len(body),)) + body
        if stamp and len(options) <= 28:
            options += b"\1\1\x08\x0a" + ((peer.tsval + stamp) & 0xFFFFFFFF).to_bytes(4, "big") + bytes(4)
        peer.send(
            kind, rcv_nxt + at, snd + acknowledged if kind & ACK else None, bytes(size), win=win, options=options,
            urg=urg, raw=True,
        )  # fmt: skip
    elif what == "wait":
        peer.run(deed[1] / 1000)
    elif what == "icmp":
        peer.packet(icmp_packet(3, deed[1], deed[2], peer.last[:28]))
    elif sock is None:
        return
    elif what == "send":
        sock.send(bytes(deed[1]))
    elif what == "receive":
        sock.recv(deed[1])
    elif what == "shutdown":
        sock.shutdown(deed[1])
    elif what == "close":
        sock.close()


def _survives(examples: int):
    @settings(max_examples=examples, suppress_health_check=QUIET)
    @given(st.sampled_from(STATES), DEEDS, st.booleans(), st.booleans(), st.booleans())
    def check(state, deeds, sack, stamps, offload):
        with Peer(offload=offload) as peer:
            sock = enter(peer, state, sack=sack, ts=stamps)
            for deed in deeds:
                try:
                    _hostile(peer, deed, sock)
                except OSError:
                    pass
                peer.settle()
                for sk in peer.stack.sockets():
                    if isinstance(sk, TcpSock):
                        assert broken(sk) == [], deed
                peer.sent()

    return check


test_a_hostile_peer_is_survived = _survives(250)
test_a_hostile_peer_is_survived_for_long = pytest.mark.slow(_survives(3000))


@settings(max_examples=150, suppress_health_check=QUIET)
@given(st.binary(max_size=120), st.sampled_from(STATES))
def test_random_bytes_as_segments(body: bytes, state: str) -> None:
    with Peer() as peer:
        enter(peer, state)
        peer.packet(ip_packet(bytes((10, 0, 0, 2)), LOCAL, 6, body))
        # The same with the ports of the connection, and a right checksum.
        ports = peer.port.to_bytes(2, "big") + peer.local_port.to_bytes(2, "big")
        body = (ports + body[4:]).ljust(20, b"\0")
        from usernet.wire import checksum

        body = body[:16] + b"\0\0" + body[18:]
        pseudo = bytes((10, 0, 0, 2)) + LOCAL + bytes((0, 6)) + len(body).to_bytes(2, "big")
        check = checksum.csum_fold(checksum.csum(pseudo + body, 0, len(pseudo) + len(body)))
        peer.packet(ip_packet(bytes((10, 0, 0, 2)), LOCAL, 6, body[:16] + check.to_bytes(2, "big") + body[18:]))
        peer.run(5.0)


def test_a_storm_of_random_segments() -> None:
    """One connection, thousands of segments that almost fit."""
    source = random.Random(7)
    with Peer() as peer:
        sock = peer.active(sack=True, ts=True)
        for _ in range(3000):
            sk = sock_of(sock)
            if sk.state == 7:
                sock.close()
                peer.ts = False
                sock = peer.active(sack=True, ts=True)
                sk = sock_of(sock)
            peer.tsval += source.randrange(3)
            if source.random() < 0.2:
                try:
                    sock.send(bytes(source.choice([1, 3000])))
                except OSError:
                    pass
            peer.send(
                source.choice([ACK, ACK, ACK | PSH, ACK | FIN]) if source.random() < 0.97 else source.randrange(512),
                sk.rcv_nxt + source.choice([0, 0, 0, 1, 50, -50, 3000]),
                sk.snd_una + source.choice([0, 0, 1, 1460, (sk.snd_nxt - sk.snd_una) & 0xFFFFFFFF]),
                bytes(source.choice([0, 10, 1000])), raw=True, win=source.choice([0, 100, 65535]),
            )  # fmt: skip
            assert broken(sk) == []
            if source.random() < 0.3:
                try:
                    sock.recv(5000)
                except OSError:
                    pass
            peer.sent()


_ = left_over
