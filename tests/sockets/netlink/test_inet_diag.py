"""NETLINK_SOCK_DIAG: the internet sockets, and the filters."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sockets.netlink.asker import DUMP, REQUEST, ask, ended, open_socket
from tests.sockets.netlink.asker import dump as dump_of
from tests.transport.hosts import Host
from usernet.core.timer import NEVER
from usernet.drivers import veth
from usernet.net.families import Families
from usernet.sock.msg import SockAddr
from usernet.sockets.inet import InetFamily
from usernet.sockets.netlink import inet_diag as diag
from usernet.sockets.netlink import inet_diag_bc as bc
from usernet.sockets.netlink.netlink import Netlink
from usernet.transport.tcp.info import FIELDS, TCP_INFO
from usernet.transport.tcp.tcp import Tcp
from usernet.wire import netlink as wire

KIND = 20
REQ = struct.Struct("=BBBBIHH16s16sIQ")
MSG = struct.Struct("=BBBBHH16s16sIQIIIII")
ALL = 0xFFFF


def swap(port: int) -> int:
    return port >> 8 | (port & 0xFF) << 8


def query(
    protocol: int = 6, ext: int = 0, states: int = ALL, sport: int = 0, dport: int = 0, *, family: int = 2,
    src: bytes = b"", dst: bytes = b"", cookie: int = diag.NOCOOKIE, program: bytes = b"",
) -> bytes:  # fmt: skip
    header = REQ.pack(
        family, protocol, ext, 0, states, swap(sport), swap(dport), src.ljust(16, b"\0"), dst.ljust(16, b"\0"), 0,
        cookie,
    )  # fmt: skip
    return header + (wire.attribute(1, program) if program else b"")


LO = bytes((127, 0, 0, 1))


class World:
    """A host that listens on 127.0.0.1:80, has a connection to itself, a UDP socket and a raw one."""

    def __init__(self) -> None:
        self.host = host = Host("diag")
        for state in (Tcp, InetFamily, Netlink):
            host.net.get(state)
        host.add(veth()[0], "eth0", "10.0.0.1")
        families = host.net.get(Families)
        with host.inside():
            self.listener = families.create(2, 1, 0)
            self.listener.bind(SockAddr(2, LO, 80))
            self.listener.listen(7)
            self.client = families.create(2, 1, 0)
            self.client.tos = 0x10
            self.client.mark = 5
            assert self.client.connect(SockAddr(2, LO, 80), 0, NEVER) is not None
        for _ in range(5):
            host.net.loop.poll(host.clock.now())
        self.udp = host.udp_socket("10.0.0.1", 53)
        self.raw = host.raw_socket(89)
        self.client.ino = 4711
        self.client.uid = 1000
        self.sk = open_socket(host, 4)

    def dump(self, payload: bytes) -> list[tuple[Any, ...]]:
        return [MSG.unpack_from(found) for _, _, found in dump_of(self.host, self.sk, KIND, payload)]

    def ports(self, payload: bytes) -> list[int]:
        return [swap(row[4]) for row in self.dump(payload)]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    host = made.host
    with host.inside():
        for sk in (made.client, made.listener):
            sk.linger = 0
            sk.close(host.net.loop.now)
    host.end()


class TestSockets:
    def test_of_tcp(self, world: World):
        port = world.client.sport
        listener, client, server = world.dump(query())
        assert listener[:6] == (2, 10, 0, 0, swap(80), 0)
        assert listener[11:13] == (1, 7), "the accept queue, and its limit"
        assert client[:6] == (2, 1, 0, 0, swap(port), swap(80))
        assert client[6:8] == (LO.ljust(16, b"\0"), LO.ljust(16, b"\0"))
        assert client[13:] == (1000, 4711)
        assert server[4:6] == (swap(80), swap(port))

    def test_states_and_ports(self, world: World):
        port = world.client.sport
        assert world.ports(query(states=1 << 10)) == [80]
        assert world.ports(query(states=1 << 1)) == [port, 80]
        assert world.ports(query(states=1 << 6)) == []
        assert world.ports(query(sport=80)) == [80, 80]
        assert world.ports(query(dport=80)) == [port]
        assert world.ports(query(family=10)) == []

    def test_bound_but_idle(self, world: World):
        with world.host.inside():
            idle = world.host.net.get(Families).create(2, 1, 0)
            idle.bind(SockAddr(2, LO, 99))
        assert world.ports(query(states=1 << diag.TCP_BOUND_INACTIVE)) == [99]
        assert 99 not in world.ports(query(states=0xFFF))
        world.host.close(idle)

    def test_of_udp_and_raw(self, world: World):
        ((family, state, _, _, sport, dport, src, *_),) = world.dump(query(17))
        assert (family, state, swap(sport), dport, src[:4]) == (2, 7, 53, 0, bytes((10, 0, 0, 1)))
        ((_, _, found),) = dump_of(world.host, world.sk, KIND, query(255))
        assert wire.attributes(found, MSG.size)[diag.INET_DIAG_PROTOCOL] == b"\x59"
        assert world.dump(query(17, states=1 << 1)) == []

    def test_what_is_told_besides(self, world: World):
        (found,) = [
            payload for _, _, payload in dump_of(world.host, world.sk, KIND, query(ext=0xFF, dport=80))
        ]  # fmt: skip
        attributes = wire.attributes(found, MSG.size)
        # In the order of Linux 6.18 for the same request.
        assert list(attributes) == [8, 5, 15, 17, 21, 22, 1, 7, 2, 4]
        assert (attributes[5], attributes[15], attributes[4]) == (b"\x10", b"\5\0\0\0", b"cubic\0")
        assert attributes[22] == b"\x52\0", "is_icsk, mc_loop, mc_all"
        info = dict(zip(FIELDS, TCP_INFO.unpack(attributes[2]), strict=True))
        assert (info["state"], info["snd_cwnd"]) == (1, 10)
        assert len(attributes[7]) == 36

    def test_one_who_may_not_see_marks(self, world: World):
        world.sk.admin = False
        for _, _, payload in dump_of(world.host, world.sk, KIND, query()):
            assert diag.INET_DIAG_MARK not in wire.attributes(payload, MSG.size)

    def test_requests_of_before(self, world: World):
        header = struct.pack("=BBBB", 2, 0, 0, 0) + bytes(48) + struct.pack("=II", 1 << 10, 0)
        messages = ask(world.host, world.sk, 18, DUMP, header)
        assert [kind for kind, _, _ in messages] == [18, wire.NLMSG_DONE]


class TestOne:
    def test_by_addresses_and_cookie(self, world: World):
        port = world.client.sport
        asked = query(sport=port, dport=80, src=LO, dst=LO)
        ((kind, flags, found),) = ask(world.host, world.sk, KIND, REQUEST, asked)
        assert (kind, flags) == (KIND, 0)
        cookie = MSG.unpack_from(found)[9]
        same = query(sport=port, dport=80, src=LO, dst=LO, cookie=cookie)
        assert len(ask(world.host, world.sk, KIND, REQUEST, same)) == 1
        other = query(sport=port, dport=80, src=LO, dst=LO, cookie=cookie + 1)
        assert ended(ask(world.host, world.sk, KIND, REQUEST, other))[0] == errno.ENOENT
        ((_, _, found),) = ask(world.host, world.sk, KIND, REQUEST, query(sport=80, src=LO))
        assert MSG.unpack_from(found)[1] == 10

    def test_of_udp_the_addresses_are_swapped(self, world: World):
        mine = bytes((10, 0, 0, 1))
        assert ended(ask(world.host, world.sk, KIND, REQUEST, query(17, sport=53, src=mine)))[0] == errno.ENOENT
        assert len(ask(world.host, world.sk, KIND, REQUEST, query(17, dport=53, dst=mine))) == 1

    def test_what_is_refused(self, world: World):
        def code(kind: int, flags: int, payload: bytes) -> int:
            return ended(ask(world.host, world.sk, kind, flags, payload))[0]

        assert code(KIND, REQUEST, query(sport=1)) == errno.ENOENT
        assert code(KIND, REQUEST, query(132)) == errno.ENOENT
        assert code(KIND, DUMP, query(132)) == errno.ENOENT
        assert code(KIND, DUMP, query()[:-1]) == errno.EINVAL
        assert code(KIND, DUMP, bytes((1, 0)) + bytes(54)) == errno.ENOENT
        assert code(KIND, DUMP, bytes((200, 0)) + bytes(54)) == errno.EINVAL
        assert code(KIND, DUMP, b"\2") == errno.EINVAL
        assert code(21, REQUEST, query(sport=80)) == errno.EOPNOTSUPP
        assert code(22, REQUEST, query()) == errno.EINVAL
        assert code(19, DUMP, bytes(60)) == errno.ENOENT


def op(code: int, yes: int, no: int) -> bytes:
    return struct.pack("=BBH", code, yes, no)


def host_condition(code: int, prefix: int, addr: bytes, port: int = -1) -> bytes:
    size = 12 + len(addr)
    return op(code, size, size + 4) + struct.pack("=BBxxi", 2, prefix, port) + addr


def port_condition(code: int, port: int) -> bytes:
    return op(code, 8, 12) + op(0, 0, port)


class TestFilters:
    entry = bc.Entry(2, bytes((10, 0, 0, 1)), 1000, bytes((10, 9, 9, 9)), 80, 3, 0x15, auto=True)

    @pytest.mark.parametrize(
        ("program", "verdict"),
        [
            (port_condition(bc.BC_D_EQ, 80), True), (port_condition(bc.BC_D_EQ, 81), False),
            (port_condition(bc.BC_S_GE, 1000), True), (port_condition(bc.BC_S_GE, 1001), False),
            (port_condition(bc.BC_S_LE, 1000), True), (port_condition(bc.BC_S_LE, 999), False),
            (port_condition(bc.BC_D_GE, 80), True), (port_condition(bc.BC_D_LE, 79), False),
            (port_condition(bc.BC_S_EQ, 1000), True),
            (host_condition(bc.BC_S_COND, 32, bytes((10, 0, 0, 1))), True),
            (host_condition(bc.BC_S_COND, 8, bytes((10, 7, 7, 7))), True),
            (host_condition(bc.BC_D_COND, 16, bytes((10, 8, 0, 0))), False),
            (host_condition(bc.BC_D_COND, 0, bytes(4), 80), True),
            (host_condition(bc.BC_D_COND, 0, bytes(4), 81), False),
            (op(bc.BC_AUTO, 4, 8), True), (op(bc.BC_NOP, 4, 0), True), (op(bc.BC_JMP, 4, 8), False),
            (op(bc.BC_DEV_COND, 8, 12) + struct.pack("=I", 3), True),
            (op(bc.BC_DEV_COND, 8, 12) + struct.pack("=I", 4), False),
            (op(bc.BC_MARK_COND, 12, 16) + struct.pack("=II", 5, 0xF), True),
            (op(bc.BC_MARK_COND, 12, 16) + struct.pack("=II", 6, 0xF), False),
            (op(bc.BC_CGROUP_COND, 12, 16) + struct.pack("=Q", 1), True),
            # not (dport 80): yes jumps past the end's no.
            (op(bc.BC_D_EQ, 8, 12) + op(0, 0, 80) + op(bc.BC_JMP, 4, 8), False),
            (op(bc.BC_D_EQ, 8, 12) + op(0, 0, 81) + op(bc.BC_JMP, 4, 8), True),
        ],
    )  # fmt: skip
    def test_verdicts(self, program: bytes, verdict: bool):
        bc.audit(program)
        assert bc.run(program, self.entry) is verdict

    @pytest.mark.parametrize(
        "program",
        [
            b"", b"\0\4", op(99, 4, 8), op(bc.BC_D_EQ, 8, 12), port_condition(bc.BC_D_EQ, 1)[:-1],
            op(bc.BC_JMP, 0, 8), op(bc.BC_JMP, 4, 3), op(bc.BC_JMP, 4, 12), op(bc.BC_NOP, 12, 0), op(bc.BC_JMP, 6, 8),
            op(bc.BC_S_COND, 12, 16) + struct.pack("=BBxxi", 77, 0, -1),
            op(bc.BC_S_COND, 16, 20) + struct.pack("=BBxxi", 2, 33, -1) + bytes(4),
            # A jump into the middle of an instruction.
            op(bc.BC_JMP, 4, 8) + op(bc.BC_D_EQ, 8, 12) + op(0, 0, 80),
        ],
    )  # fmt: skip
    def test_what_is_no_program(self, program: bytes):
        with pytest.raises(OSError) as caught:
            bc.audit(program)
        assert caught.value.errno == errno.EINVAL

    def test_of_a_dump(self, world: World):
        port = world.client.sport
        assert world.ports(query(program=port_condition(bc.BC_D_EQ, 80))) == [port]
        assert world.ports(query(program=op(bc.BC_AUTO, 4, 8))) == [port]
        bad = ask(world.host, world.sk, KIND, DUMP, query(program=op(99, 4, 8)))
        assert [kind for kind, _, _ in bad] == [wire.NLMSG_ERROR]
        assert ended(bad)[0] == errno.EINVAL


def test_a_connection_that_ends(world: World):
    host = world.host
    with host.inside():
        server = world.listener.accept(0, NEVER)
        world.client.shutdown(1)
    for _ in range(5):
        host.net.loop.poll(host.clock.now())
    assert sorted(int(row[1]) for row in world.dump(query(states=ALL & ~(1 << 10)))) == [5, 8]
    with host.inside():
        server.close(NEVER)
        world.client.close(NEVER)
    for _ in range(5):
        host.net.loop.poll(host.clock.now())
    ((_, state, timer, _, _, dport, _, _, _, _, expires, *_),) = world.dump(query(states=1 << 6))
    assert (state, timer, dport) == (6, 3, swap(80))
    assert 0 < int(expires) <= 60_000
