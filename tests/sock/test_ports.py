"""The port table: who conflicts with whom, and how a free port is found."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compiled import interpreted_only
from tests.transport.hosts import Host, at
from usernet.core.clock import ManualClock
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.filter import Program
from usernet.sock.ports import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_TIME_WAIT,
    LocalPorts,
    PortTable,
    parse_port_list,
    reuseport_select,
    tcp_conflict,
    udp_conflict,
)

ANY = bytes(4)
ONE = b"\x0a\0\0\1"
TWO = b"\x0a\0\0\2"


class Owner:
    """What the table asks of a socket; a compiled one that looks for a port takes nothing but a socket."""

    def __init__(
        self, addr: bytes = ANY, *, reuse: bool = False, reuseport: bool = False, device: int = 0,
        state: int = TCP_CLOSE,
    ) -> None:  # fmt: skip
        self.rcv_saddr = addr
        self.num = 0
        self.reuse = reuse
        self.reuseport = reuseport
        self.bound_dev_if = device
        self.state = state
        self.local_port_range = (0, 0)
        self.reuseport_filter: Program | None = None


@pytest.fixture
def net() -> Net:
    return Net("test", ManualClock(), random.Random(1))


@pytest.fixture
def tcp(net: Net) -> PortTable:
    return PortTable(net, tcp_conflict)


@pytest.fixture
def udp(net: Net) -> PortTable:
    return PortTable(net, udp_conflict)


def bind(table: PortTable, owner: Owner, port: int) -> int:
    return table.bind(owner, owner.rcv_saddr, port)


def in_use(table: PortTable, owner: Owner, port: int) -> bool:
    try:
        bind(table, owner, port)
    except OSError as caught:
        if caught.errno != errno.EADDRINUSE:
            raise
        return True
    table.release(owner)
    return False


@pytest.mark.parametrize(
    ("held", "wanted", "conflict"),
    [
        (Owner(), Owner(), True),
        (Owner(ONE), Owner(TWO), False),
        (Owner(ONE), Owner(ONE), True),
        (Owner(ONE), Owner(), True),
        (Owner(), Owner(ONE), True),
        (Owner(device=1), Owner(device=2), False),
        (Owner(device=1), Owner(), True),
        (Owner(), Owner(device=1), True),
        (Owner(device=1), Owner(device=1), True),
        (Owner(bytes(16)), Owner(), False),
        (Owner(reuse=True), Owner(), True),
        (Owner(), Owner(reuse=True), True),
        (Owner(reuse=True), Owner(reuse=True), False),
        (Owner(reuseport=True), Owner(reuseport=True), False),
        (Owner(reuseport=True), Owner(reuse=True), True),
    ],
)
def test_who_conflicts(net: Net, held: Owner, wanted: Owner, conflict: bool) -> None:
    for policy in (tcp_conflict, udp_conflict):
        table = PortTable(net, policy)
        bind(table, held, 80)
        assert in_use(table, wanted, 80) is conflict
        table.release(held)
        assert not in_use(table, wanted, 80)
        assert not table.buckets


def test_a_tcp_listener_shares_with_nobody_by_reuseaddr(tcp: PortTable) -> None:
    listener, other = Owner(reuse=True), Owner(reuse=True)
    bind(tcp, listener, 80)
    bind(tcp, other, 80)
    listener.state = TCP_LISTEN
    assert bind(tcp, listener, 80) == 80
    other.state = TCP_LISTEN
    with pytest.raises(OSError):
        bind(tcp, other, 80)
    assert in_use(tcp, Owner(reuse=True), 80)
    assert list(tcp.owners(80)) == [listener, other]


def test_time_wait_is_no_obstacle_with_reuseaddr(tcp: PortTable) -> None:
    connection = Owner(ONE, reuse=True, state=TCP_ESTABLISHED)
    bind(tcp, connection, 80)
    remains = Owner(ONE, reuse=True, state=TCP_TIME_WAIT)
    remains.num = connection.num
    tcp.replace(connection, remains)
    assert list(tcp.owners(80)) == [remains]
    assert in_use(tcp, Owner(), 80)
    assert not in_use(tcp, Owner(reuse=True), 80)
    tcp.release(connection)
    assert list(tcp.owners(80)) == [remains]
    tcp.release(remains)
    assert not tcp.buckets


def test_children_keep_their_listeners_port(tcp: PortTable) -> None:
    listener, child = Owner(), Owner(ONE)
    bind(tcp, listener, 80)
    tcp.inherit(child, 80)
    tcp.release(listener)
    assert child.num == 80
    assert in_use(tcp, Owner(), 80)
    tcp.release(child)
    assert not tcp.buckets


@interpreted_only
def test_chosen_ports_are_in_the_range_and_free(net: Net, udp: PortTable) -> None:
    net.sysctl["net.ipv4.ip_local_port_range"] = (40000, 40009)
    net.sysctl["net.ipv4.ip_local_reserved_ports"] = "40003,40005-40006"
    owners = [Owner(reuse=True) for _ in range(7)]
    ports = {bind(udp, owner, 0) for owner in owners}
    assert ports == {40000, 40001, 40002, 40004, 40007, 40008, 40009}
    with pytest.raises(OSError) as caught:
        bind(udp, Owner(reuse=True), 0)
    assert caught.value.errno == errno.EADDRINUSE
    # Reserved is not forbidden.
    assert not in_use(udp, Owner(), 40005)
    assert len(udp) == 7


@interpreted_only
def test_a_chosen_port_may_be_held_for_another_address(net: Net, udp: PortTable) -> None:
    net.sysctl["net.ipv4.ip_local_port_range"] = (40000, 40000)
    bind(udp, Owner(ONE), 0)
    assert bind(udp, Owner(TWO), 0) == 40000
    assert in_use(udp, Owner(), 0)


@interpreted_only
def test_a_sockets_own_range_narrows(net: Net, udp: PortTable) -> None:
    owner = Owner()
    owner.local_port_range = (50000, 50001)
    assert bind(udp, owner, 0) in (50000, 50001)
    outside = Owner()
    outside.local_port_range = (100, 200)
    assert 32768 <= bind(udp, outside, 0) <= 60999


@interpreted_only
@given(low=st.integers(1, 65535), size=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_port_of_a_range_is_found(low: int, size: int, seed: int) -> None:
    high = min(low + size - 1, 65535)
    for way in ("bind", "connect"):
        net = Net("test", ManualClock(), random.Random(seed))
        table = PortTable(net, udp_conflict)
        net.sysctl["net.ipv4.ip_local_port_range"] = (low, high)
        found = set()
        for _ in range(high - low + 1):
            owner = Owner()
            found.add(bind(table, owner, 0) if way == "bind" else table.connect(owner, b"x", lambda port: False))
        assert found == set(range(low, high + 1))
        with pytest.raises(OSError):
            bind(table, Owner(), 0)


@interpreted_only
def test_choices_differ_and_repeat_with_the_seed() -> None:
    def ports(seed: int) -> list[int]:
        table = PortTable(Net("test", ManualClock(), random.Random(seed)), udp_conflict)
        return [bind(table, Owner(), 0) for _ in range(5)]

    assert ports(1) == ports(1) != ports(2)
    assert len(set(ports(1))) == 5


@interpreted_only
def test_connect_shares_ports_but_not_those_of_bind(net: Net, tcp: PortTable) -> None:
    net.sysctl["net.ipv4.ip_local_port_range"] = (40000, 40001)
    bind(tcp, Owner(), 40000)
    first, second = Owner(ONE), Owner(ONE)
    asked: list[int] = []

    def usable(port: int) -> bool:
        asked.append(port)
        return True

    assert tcp.connect(first, b"here", usable) == 40001
    assert asked == []
    assert tcp.connect(second, b"there", usable) == 40001
    assert asked == [40001]
    with pytest.raises(OSError) as caught:
        tcp.connect(Owner(ONE), b"here", lambda port: False)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    tcp.release(first)
    tcp.release(second)
    assert list(tcp.buckets) == [40000]


@interpreted_only
def test_connect_goes_on_from_port_to_port(tcp: PortTable) -> None:
    ports = [tcp.connect(Owner(ONE), b"the same remote", lambda port: False) for _ in range(50)]
    assert len(set(ports)) == 50
    # Even distances from the range's start, as long as there are such.
    assert all(port % 2 == 0 for port in ports)


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", set()), ("1", {1}), ("1,3-5,", {1, 3, 4, 5}), (" 8080 , 9000-9001\n", {8080, 9000, 9001})],
)
def test_port_lists(text: str, ports: set[int]) -> None:
    assert parse_port_list(text) == ports


@pytest.mark.parametrize("text", ["x", "1-", "-1", "5-3", "65536", "1-70000", "1;2"])
def test_bad_port_lists_change_nothing(net: Net, text: str) -> None:
    settings = net.get(LocalPorts)
    net.sysctl["net.ipv4.ip_local_reserved_ports"] = "7"
    with pytest.raises(ValueError, match="ip_local_reserved_ports"):
        net.sysctl["net.ipv4.ip_local_reserved_ports"] = text
    assert settings.ip_local_reserved_ports == "7"
    assert settings.reserved == {7}


def test_a_range_must_rise(net: Net) -> None:
    settings = net.get(LocalPorts)
    for bad in ((5, 4), (0, 9), (1, 65536)):
        with pytest.raises(ValueError, match="ip_local_port_range"):
            net.sysctl["net.ipv4.ip_local_port_range"] = bad
    assert settings.ip_local_port_range == (32768, 60999)


def test_reuseport_shares_by_hash_or_program() -> None:
    group = [Owner() for _ in range(4)]
    skb = SKBuff(b"\2")
    assert [group.index(reuseport_select(group, value << 30, skb)) for value in range(4)] == [0, 1, 2, 3]
    group[1].reuseport_filter = Program(bytes.fromhex("3000000000000000 1600000000000000"))
    assert reuseport_select(group, 0, skb) is group[2]
    # A program that answers out of range leaves it to the hash.
    assert reuseport_select(group, 0, SKBuff(b"\7")) is group[0]


class TestInetBind:
    """bind() of an internet socket, by way of UDP."""

    @pytest.fixture
    def host(self) -> Iterator[Host]:
        host = Host()
        yield host
        host.end()

    def code(self, host: Host, name: object) -> int:
        sk = host.udp_socket()
        with pytest.raises(OSError) as caught:
            host.call(sk.bind, name)
        assert (sk.num, sk.rcv_saddr) == (0, ANY)
        return caught.value.errno or 0

    def test_any_and_chosen(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 0)
        assert sk.num == sk.sport >= 32768
        assert (sk.bound_addr, sk.bound_port) == (False, False)

    def test_an_address_of_ours(self, host: Host) -> None:
        sk = host.udp_socket("127.0.0.1", 5)
        assert (sk.saddr, sk.rcv_saddr, sk.num, sk.bound_addr, sk.bound_port) == (
            b"\x7f\0\0\1", b"\x7f\0\0\1", 5, True, True,
        )  # fmt: skip

    def test_a_group_is_only_to_receive_at(self, host: Host) -> None:
        sk = host.udp_socket("224.1.1.1", 5)
        assert (sk.saddr, sk.rcv_saddr) == (ANY, b"\xe0\1\1\1")

    def test_errors(self, host: Host) -> None:
        assert self.code(host, at("1.2.3.4", 5)) == errno.EADDRNOTAVAIL
        other_family = at("1.2.3.4", 5)
        other_family.family = 1
        assert self.code(host, other_family) == errno.EAFNOSUPPORT
        sk = host.udp_socket("0.0.0.0", 5)
        with pytest.raises(OSError) as caught:
            host.call(sk.bind, at("0.0.0.0", 6))
        assert caught.value.errno == errno.EINVAL
        assert self.code(host, at("127.0.0.1", 5)) == errno.EADDRINUSE

    def test_af_unspec_with_any_binds(self, host: Host) -> None:
        sk = host.udp_socket()
        name = at("0.0.0.0", 9)
        name.family = 0
        host.call(sk.bind, name)
        assert sk.num == 9

    def test_freebind(self, host: Host) -> None:
        sk = host.udp_socket()
        sk.freebind = True
        host.call(sk.bind, at("1.2.3.4", 9))
        assert sk.saddr == b"\1\2\3\4"
