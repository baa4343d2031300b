"""The table of UDP sockets: what is filed where, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.transport.hosts import Host, at
from usernet.sock.msg import SockAddr
from usernet.transport.udp_sock import UdpSock

ANY = bytes(4)
LO = b"\x7f\0\0\1"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.end()


def ports(sport: int, dport: int) -> bytes:
    return sport.to_bytes(2, "big") + dport.to_bytes(2, "big")


def test_connected_sockets_are_filed_by_all_four_numbers(host: Host) -> None:
    table = host.udp.table
    sk = host.udp_socket("127.0.0.1", 7)
    assert list(table.bound) == [LO + b"\0\7"]
    host.call(sk.connect, at("127.0.0.2", 9), 0, 0)
    assert not table.bound
    assert list(table.connected) == [ports(9, 7) + b"\x7f\0\0\2" + LO]
    assert table.lookup(b"\x7f\0\0\2", ports(9, 7), LO, 1, ANY, None) is sk
    assert table.lookup(b"\x7f\0\0\2", ports(8, 7), LO, 1, ANY, None) is None


def test_a_thousand_connected_sockets_on_one_port(host: Host) -> None:
    sockets = []
    for number in range(1000):
        sk = host.udp_socket("127.0.0.1", 7, reuse=True)
        host.call(sk.connect, SockAddr(2, b"\x7f\0" + number.to_bytes(2, "big"), 9), 0, 0)
        sockets.append(sk)
    for number in (1, 500, 999):
        found = host.udp.table.lookup(b"\x7f\0" + number.to_bytes(2, "big"), ports(9, 7), LO, 1, ANY, None)
        assert found is sockets[number]


def test_gro_is_asked_for_only_while_somebody_wants_it(host: Host) -> None:
    table = host.udp.table
    one, two = host.udp_socket("0.0.0.0", 7), host.udp_socket("0.0.0.0", 8)
    on, off = b"\1\0\0\0", bytes(4)
    for sk in (one, one, two):
        sk.setsockopt(17, 104, on)
    assert table.gro == 2
    one.setsockopt(17, 104, off)
    host.close(two)
    assert table.gro == 0


class Machine(RuleBasedStateMachine):
    """Whatever sockets do in any order, the table and the ports agree with them."""

    @initialize()
    def start(self) -> None:
        self.host = Host()
        self.sockets: list[UdpSock] = []

    @rule(reuse=st.booleans())
    def make(self, reuse: bool) -> None:
        sk = self.host.udp_socket()
        sk.reuse = reuse
        self.sockets.append(sk)

    def pick(self, data: st.DataObject) -> UdpSock | None:
        return data.draw(st.sampled_from(self.sockets)) if self.sockets else None

    @rule(data=st.data(), where=st.sampled_from(["0.0.0.0", "127.0.0.1", "127.0.0.2"]), port=st.integers(0, 2))
    def bind(self, data: st.DataObject, where: str, port: int) -> None:
        sk = self.pick(data)
        if sk is not None:
            try:
                self.host.call(sk.bind, at(where, port))
            except OSError:
                pass

    @rule(data=st.data(), where=st.sampled_from(["127.0.0.1", "127.0.0.3", "99.0.0.1"]), port=st.integers(0, 2))
    def connect(self, data: st.DataObject, where: str, port: int) -> None:
        sk = self.pick(data)
        if sk is not None:
            try:
                self.host.call(sk.connect, at(where, port), 0, 0)
            except OSError:
                pass

    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        sk = self.pick(data)
        if sk is not None:
            self.host.call(sk.connect, SockAddr(0, b"", 0), 0, 0)

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        sk = self.pick(data)
        if sk is not None:
            try:
                self.host.send(sk, b"x", at("127.0.0.1", 1))
            except OSError:
                pass

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        sk = self.pick(data)
        if sk is not None:
            self.sockets.remove(sk)
            self.host.close(sk)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "host"):
            return
        table = self.host.udp.table
        filed = [sk for rows in (table.bound, table.connected) for row in rows.values() for sk in row]
        assert sorted(map(id, filed)) == sorted(id(sk) for sk in self.sockets if sk.num)
        owned = {port: set(bucket.owners) for port, bucket in table.ports.buckets.items()}
        assert owned == {
            port: {sk for sk in self.sockets if sk.num == port} for port in {sk.num for sk in self.sockets} - {0}
        }
        for sk in filed:
            assert sk.sport == sk.num
            key = sk.rcv_saddr + sk.num.to_bytes(2, "big")
            assert sk in (table.connected[sk.key] if sk.in_connected else table.bound[key])

    def teardown(self) -> None:
        if hasattr(self, "host"):
            self.host.end()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
