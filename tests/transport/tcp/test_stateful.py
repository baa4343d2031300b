"""Two ends, and a network that does what it likes: after every step TCP's invariants hold.

The programs write, read, shut down, close and set options; the network loses, repeats, reorders, damages, cuts, joins
and changes packets, forges others, and sends ICMP errors. What must hold after each step is in network.py and
invariants.py. In the end the network is mended: where nothing was done that a connection need not survive, all that
was written must arrive.
"""

from __future__ import annotations

import random
import socket as std
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.transport.tcp.harness import sock_of
from tests.transport.tcp.network import ACK, FIN, PSH, RST, SYN, URG, Network

SIDE = st.integers(0, 1)
INDEX = st.integers(0, 5)
SIZE = st.sampled_from([1, 3, 100, 1447, 1448, 1460, 5000, 40_000])
NEAR = st.sampled_from([-100_000, -1461, -1, 0, 1, 2, 100, 1460, 2920, 20_000, 70_000, 1 << 31])
REPORTS = ("usernet.core.timer", "usernet.core.softirq", "usernet.core.loop")

TCP_OPTIONS = st.sampled_from(
    [
        (std.TCP_NODELAY, 0), (std.TCP_NODELAY, 1), (std.TCP_CORK, 0), (std.TCP_CORK, 1), (std.TCP_QUICKACK, 0),
        (std.TCP_QUICKACK, 1), (std.TCP_MAXSEG, 500), (std.TCP_WINDOW_CLAMP, 3000), (std.TCP_KEEPIDLE, 1),
        (std.TCP_NOTSENT_LOWAT, 2000), (std.TCP_LINGER2, 1),
    ]
)  # fmt: skip
SOL_OPTIONS = st.sampled_from(
    [
        (std.SO_RCVBUF, 2304), (std.SO_RCVBUF, 20_000), (std.SO_SNDBUF, 4608), (std.SO_SNDBUF, 100_000),
        (std.SO_RCVLOWAT, 1000), (std.SO_RCVLOWAT, 1),
    ]
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    """violence: 0, nothing is done that a connection need not survive; 1, also that; 2, and segments are forged."""

    def __init__(self) -> None:
        super().__init__()
        self.violence = 0
        self.steps = 0
        self.network: Network | None = None
        self.raised: list[BaseException] = []
        self.patch = pytest.MonkeyPatch()
        for module in REPORTS:
            self.patch.setattr(f"{module}.report", self.raised.append, raising=False)

    @property
    def net(self) -> Network:
        assert self.network is not None
        return self.network

    @initialize(
        seed=st.integers(0, 1 << 20), offload=st.booleans(), sack=st.booleans(), stamps=st.booleans(),
        scaling=st.booleans(), buffer=st.sampled_from([131072, 131072, 8192]), shrink=st.booleans(),
        control=st.sampled_from(["cubic", "reno"]), ecn=st.sampled_from([0, 1]), open_now=st.booleans(),
        violence=st.sampled_from([0, 0, 1, 2]),
    )  # fmt: skip
    def start(
        self, seed: int, offload: bool, sack: bool, stamps: bool, scaling: bool, buffer: int, shrink: bool,
        control: str, ecn: int, open_now: bool, violence: int,
    ) -> None:  # fmt: skip
        sysctl: dict[str, Any] = {
            "tcp_sack": int(sack), "tcp_timestamps": int(stamps), "tcp_window_scaling": int(scaling),
            "tcp_rmem": (4096, buffer, 1 << 20), "tcp_shrink_window": int(shrink), "tcp_ecn": ecn,
            "tcp_congestion_control": control,
        }  # fmt: skip
        self.network = Network(seed, offload, sysctl)
        self.violence = violence
        if open_now:
            self.network.heal()

    # -- all at once, so that much happens

    @rule(side=SIDE, size=SIZE, rounds=st.integers(1, 6), losses=st.sets(st.integers(0, 20), max_size=3))
    def transfer(self, side: int, size: int, rounds: int, losses: set[int]) -> None:
        """Write, and let some of it arrive and be read; packets of some numbers are lost."""
        net = self.net
        number = 0
        net.write(side, size)
        for _ in range(rounds):
            for way in (0, 1):
                for packet in net.flying[way][:]:
                    number += 1
                    if packet in net.flying[way]:
                        net.flying[way].remove(packet)
                        if number not in losses:
                            net.deliver(packet)
            net.take(1 - side, 20_000)
            net.take(side, 20_000)
            net.advance(0.001)

    @rule(side=SIDE, size=SIZE, losses=st.sets(st.integers(0, 20), max_size=3))
    def transfer_again(self, side: int, size: int, losses: set[int]) -> None:
        self.transfer(side, size, 4, losses)

    @rule(side=SIDE, order=st.randoms(use_true_random=False))
    def shuffle(self, side: int, order: random.Random) -> None:
        """All that is on the way arrives, in another order."""
        packets, self.net.flying[side][:] = self.net.flying[side][:], []
        order.shuffle(packets)
        for packet in packets:
            self.net.deliver(packet)

    # -- programs

    @rule(side=SIDE, size=SIZE, more=st.booleans())
    def write(self, side: int, size: int, more: bool) -> None:
        self.net.write(side, size, std.MSG_MORE if more else 0)

    @rule(side=SIDE, size=SIZE)
    def urgent(self, side: int, size: int) -> None:
        self.net.write(side, size, std.MSG_OOB)

    @rule(side=SIDE, size=st.sampled_from([1, 1000, 100_000]))
    def read(self, side: int, size: int) -> None:
        self.net.take(side, size)

    @rule()
    def accept(self) -> None:
        self.net.accept()

    @precondition(lambda self: self.steps > 15)
    @rule(side=SIDE)
    def shutdown(self, side: int) -> None:
        self._call(side, lambda sock: sock.shutdown(std.SHUT_WR))

    @precondition(lambda self: self.violence > 0)
    @rule(side=SIDE, how=st.sampled_from([std.SHUT_RD, std.SHUT_RDWR]))
    def shut_reading(self, side: int, how: int) -> None:
        self.net.crippled = True  # with both shut, what comes is lost and reset, as in Linux
        self._call(side, lambda sock: sock.shutdown(how))

    @precondition(lambda self: self.violence > 0)
    @rule(side=SIDE)
    def close(self, side: int) -> None:
        self.net.crippled = True  # what was not read yet is lost, rightly
        self._call(side, lambda sock: sock.close())

    @precondition(lambda self: self.violence > 0)
    @rule(side=SIDE)
    def abort(self, side: int) -> None:
        self.net.crippled = True
        self._call(side, lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, b"\1\0\0\0\0\0\0\0"))
        self._call(side, lambda sock: sock.close())

    @rule(side=SIDE, option=TCP_OPTIONS)
    def set_tcp(self, side: int, option: tuple[int, int]) -> None:
        self._call(side, lambda sock: sock.setsockopt(std.IPPROTO_TCP, *option))

    @rule(side=SIDE, option=SOL_OPTIONS)
    def set_socket(self, side: int, option: tuple[int, int]) -> None:
        self._call(side, lambda sock: sock.setsockopt(std.SOL_SOCKET, *option))

    @precondition(lambda self: self.violence > 0)
    @rule(side=SIDE, timeout=st.sampled_from([0, 500, 5000]), keepalive=st.integers(0, 1))
    def set_patience(self, side: int, timeout: int, keepalive: int) -> None:
        self.net.crippled = True
        self._call(side, lambda sock: sock.setsockopt(std.IPPROTO_TCP, std.TCP_USER_TIMEOUT, timeout))
        self._call(side, lambda sock: sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, keepalive))

    def _call(self, side: int, call: Any) -> None:
        sock = self.net.ends[side]
        if sock is not None:
            try:
                call(sock)
            except OSError:
                pass
        self.net.settle()

    # -- time and paths

    @rule(seconds=st.sampled_from([0.0005, 0.002, 0.04, 0.2, 0.25, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.net.advance(seconds)

    @precondition(lambda self: self.violence > 0)
    @rule()
    def wait_long(self) -> None:
        self.net.crippled = True  # retries may be used up
        self.net.advance(70.0)

    @rule(side=SIDE, mtu=st.sampled_from([1500, 1400, 1000, 576]))
    def mtu(self, side: int, mtu: int) -> None:
        self.net.stacks[side].devices["tun0"].set_mtu(mtu)
        self.net.settle()

    # -- the network

    @rule(side=SIDE, count=st.integers(1, 10))
    def deliver(self, side: int, count: int) -> None:
        for _ in range(count):
            if self.net.flying[side]:
                self.net.deliver(self.net.flying[side].pop(0))

    @rule(side=SIDE, index=INDEX, again=st.booleans())
    def deliver_late(self, side: int, index: int, again: bool) -> None:
        at = self.net.pick(side, index)
        if at is not None:
            self.net.deliver(self.net.flying[side][at].copy() if again else self.net.flying[side].pop(at))

    @rule(side=SIDE, index=INDEX)
    def lose(self, side: int, index: int) -> None:
        at = self.net.pick(side, index)
        if at is not None:
            del self.net.flying[side][at]

    @rule(side=SIDE, index=INDEX, bit=st.integers(0, 12_000))
    def damage(self, side: int, index: int, bit: int) -> None:
        at = self.net.pick(side, index)
        if at is not None:
            self.net.damage(self.net.flying[side][at], bit)

    @rule(side=SIDE, index=INDEX, part=st.floats(0.01, 0.99), swap=st.booleans())
    def cut(self, side: int, index: int, part: float, swap: bool) -> None:
        """One segment becomes two."""
        at = self.net.pick(side, index)
        if at is None or len(self.net.flying[side][at].payload) < 2 or self.net.flying[side][at].flags & SYN:
            return
        first = self.net.flying[side].pop(at)
        second = first.copy()
        size = max(int(len(first.payload) * part), 1)
        first.payload, second.payload = first.payload[:size], second.payload[size:]
        first.flags &= ~(FIN | PSH)
        second.seq = second.seq + size & 0xFFFFFFFF
        if second.flags & URG:
            if second.urg > size:
                second.urg -= size
            else:
                second.flags &= ~URG
        for packet in (second, first) if swap else (first, second):
            self.net.deliver(packet)

    @rule(side=SIDE, index=INDEX)
    def join(self, side: int, index: int) -> None:
        """Two that follow each other become one."""
        at = self.net.pick(side, index)
        flying = self.net.flying[side]
        if at is None or at + 1 >= len(flying):
            return
        first, second = flying[at], flying[at + 1]
        if (first.flags | second.flags) & (SYN | FIN | RST | URG) or first.end != second.seq or not second.payload:
            return
        del flying[at : at + 2]
        second.seq = first.seq
        second.payload = first.payload + second.payload
        if len(second.payload) < 60_000:
            self.net.deliver(second)

    @rule(side=SIDE, index=INDEX, window=st.sampled_from([0, 1, 10, 500, 65535]))
    def change_window(self, side: int, index: int, window: int) -> None:
        at = self.net.pick(side, index)
        if at is not None:
            packet = self.net.flying[side].pop(at)
            packet.window = window
            self.net.deliver(packet)

    @precondition(lambda self: self.violence > 0)
    @rule(side=SIDE, index=INDEX, delta=st.sampled_from([-100_000, -1, 1, 1000, 1 << 31]), echo=st.booleans())
    def change_stamp(self, side: int, index: int, delta: int, echo: bool) -> None:
        at = self.net.pick(side, index)
        if at is None:
            return
        packet = self.net.flying[side][at]
        where = packet.options.find(b"\x08\x0a")
        if where < 0:
            return
        del self.net.flying[side][at]
        where += 6 if echo else 2
        value = int.from_bytes(packet.options[where : where + 4], "big") + delta & 0xFFFFFFFF
        packet.options = packet.options[:where] + value.to_bytes(4, "big") + packet.options[where + 4 :]
        self.net.crippled = True
        self.net.deliver(packet)

    @precondition(lambda self: self.violence > 1)
    @rule(
        side=SIDE,
        flags=st.sampled_from([ACK, ACK, ACK | PSH, ACK | URG, FIN | ACK, SYN, SYN | ACK, RST, RST | ACK, 0]),
        seq=NEAR, ack=NEAR, size=st.sampled_from([0, 0, 0, 1, 1460]), window=st.sampled_from([0, 1, 500, 65535]),
        blocks=st.lists(st.tuples(NEAR, NEAR), max_size=3),
    )  # fmt: skip
    def forge(
        self, side: int, flags: int, seq: int, ack: int, size: int, window: int, blocks: list[tuple[int, int]]
    ) -> None:
        options = b""
        sock = self.net.ends[1 - side]
        if blocks and sock is not None and sock._socket is not None:
            una = sock_of(sock).snd_una
            body = b"".join(
                ((una + low) & 0xFFFFFFFF).to_bytes(4, "big") + ((una + high) & 0xFFFFFFFF).to_bytes(4, "big")
                for low, high in blocks
            )
            options = b"\1\1\5" + bytes((2 + len(body),)) + body
        self.net.forge(side, flags, seq, ack, size, window, 1 if flags & URG else 0, options)

    @precondition(lambda self: self.violence > 0)
    @rule(
        index=st.integers(0, 20),
        error=st.sampled_from([(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 4), (11, 0), (12, 0)]),
        mtu=st.sampled_from([0, 68, 552, 1000, 1400, 9000]),
    )  # fmt: skip
    def icmp(self, index: int, error: tuple[int, int], mtu: int) -> None:
        self.net.icmp(index, *error, mtu if error == (3, 4) else 0)

    # -- what holds

    @invariant()
    def holds(self) -> None:
        self.steps += 1
        if self.network is not None:
            self.network.check()
        assert self.raised == []

    def teardown(self) -> None:
        self.patch.undo()
        network = self.network
        if network is None:
            return
        try:
            network.heal()
            if not network.crippled and not network.tainted:
                self._arrives(network)
            network.check()
            network.end()
        finally:
            network.drop()
        assert self.raised == []

    @staticmethod
    def _arrives(network: Network) -> None:
        """Nothing was done that a connection need not survive: all that was written comes, within the time that
        backed-off timers take."""
        for side in (0, 1):
            sock = network.ends[side]
            if sock is not None:
                sock.setsockopt(std.IPPROTO_TCP, std.TCP_CORK, 0)
                sock.setsockopt(std.SOL_SOCKET, std.SO_RCVLOWAT, 1)
        for _ in range(600):
            network.heal()
            network.accept()
            taken = sum(network.take(side, 1 << 20) for side in (0, 1))
            if network.read[0] == network.written[1] and network.read[1] == network.written[0]:
                return
            if not taken:
                network.advance(0.5)
        raise AssertionError(f"written {network.written}, read {network.read[::-1]}")


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

TestEveryStep = Machine.TestCase
TestEveryStep.settings = settings(max_examples=60, stateful_step_count=50, suppress_health_check=QUIET, deadline=None)


@pytest.mark.slow
def test_for_long() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=2000, stateful_step_count=80, suppress_health_check=QUIET, deadline=None),
    )
