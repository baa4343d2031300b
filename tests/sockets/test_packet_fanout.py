"""PACKET_FANOUT: who of several packet sockets gets a packet."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.sockets.test_packet import code, make
from tests.transport.hosts import Host, at, pair, run
from usernet.net.packet_type import PacketTypes
from usernet.sock import sockopt as so
from usernet.sock.msg import PacketAddr
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW
from usernet.sockets import packet_fanout as fo
from usernet.sockets import packet_sockopt as pk
from usernet.sockets.packet import PacketFamily, PacketSock
from usernet.sockets.packet_sockopt import SOL_PACKET
from usernet.wire import ethernet

IP = ethernet.ETH_P_IP


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    left, right = pair()
    for host in (left, right):
        host.net.get(PacketFamily)
    run(left, right, until=5 * 10**9)
    yield left, right
    for host in (left, right):
        family = host.net.get(PacketFamily)
        types = host.net.get(PacketTypes)
        host.end()
        assert not family.sockets
        assert not family.fanouts.groups
        assert not types.taps


def join(host: Host, sk: PacketSock, kind: int, group: int = 7, limit: int | None = None) -> None:
    value = struct.pack("=HH", group, kind) + (struct.pack("=I", limit) if limit is not None else b"")
    host.call(sk.setsockopt, SOL_PACKET, pk.PACKET_FANOUT, value)


def group_of(host: Host, kind: int, count: int = 3, sock_type: int = SOCK_RAW) -> list[PacketSock]:
    made = [make(host, sock_type, IP) for _ in range(count)]
    for sk in made:
        join(host, sk, kind)
    return made


def queued(socks: list[PacketSock]) -> list[int]:
    return [sk.receive_queue.qlen for sk in socks]


def datagrams(left: Host, right: Host, count: int = 12, size: int = 4) -> None:
    """`count` flows from left to right, two datagrams each."""
    for _ in range(count):
        sk = left.udp_socket()
        for _ in range(2):
            left.send(sk, bytes(size), at("10.0.0.2", 7))
    run(left, right)


class TestChoosing:
    def test_by_flow(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_HASH)
        datagrams(left, right, 30)
        assert sum(queued(socks)) == 60
        assert min(queued(socks)) > 0
        ports = []
        for sk in socks:
            found = set()
            while sk.receive_queue.qlen:
                found.add(right.recv(sk)[34:36])
            ports.append(found)
        # Each flow is one socket's.
        assert sum(len(found) for found in ports) == len(set.union(*ports)) == 30

    def test_a_flow_is_the_same_both_ways(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server = right.udp_socket("0.0.0.0", 7)
        socks = [make(right) for _ in range(4)]
        for sk in socks:
            join(right, sk, fo.PACKET_FANOUT_HASH)
        for _ in range(8):
            client = left.udp_socket("10.0.0.1")
            left.send(client, b"question", at("10.0.0.2", 7))
            run(left, right)
            right.send(server, right.recv(server), at("10.0.0.1", client.num))
            run(left, right)
        by_port: dict[bytes, set[int]] = {}
        for number, sk in enumerate(socks):
            while sk.receive_queue.qlen:
                data = right.recv(sk)
                if data[12:14] == b"\x08\0":
                    port = data[34:36] if data[36:38] == b"\0\7" else data[36:38]
                    by_port.setdefault(port, set()).add(number)
        assert len(by_port) == 8
        assert all(len(numbers) == 1 for numbers in by_port.values())

    def test_in_turn(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_LB)
        datagrams(left, right)
        assert queued(socks) == [8, 8, 8]

    def test_at_random(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_RND)
        datagrams(left, right, 30)
        assert sum(queued(socks)) == 60
        assert min(queued(socks)) > 8

    @pytest.mark.parametrize("kind", [fo.PACKET_FANOUT_CPU, fo.PACKET_FANOUT_QM])
    def test_by_processor_and_queue_of_which_there_is_one(self, hosts: tuple[Host, Host], kind: int) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, kind)
        datagrams(left, right, 3)
        assert queued(socks) == [6, 0, 0]

    def test_by_a_program(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_CBPF)
        datagrams(left, right, 1)
        assert queued(socks) == [2, 0, 0]  # without a program, the first
        # The last byte of the packet, which begins with its network header, chooses.
        program = struct.pack("=HBBI", 0x30, 0, 0, 28) + struct.pack("=HBBI", 0x16, 0, 0, 0)
        right.call(socks[1].setsockopt, SOL_PACKET, pk.PACKET_FANOUT_DATA, program)
        sk = left.udp_socket()
        for last in (1, 2, 4, 5, 6):
            left.send(sk, bytes((last,)), at("10.0.0.2", 7))
        run(left, right)
        assert queued(socks) == [3, 2, 2]

    def test_the_next_one_that_has_room(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = [make(right, SOCK_RAW, IP) for _ in range(3)]
        for sk in socks:
            right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 8192))
            join(right, sk, fo.PACKET_FANOUT_ROLLOVER)
        datagrams(left, right, 4, 1000)
        first = queued(socks)
        assert first[0] > 0
        datagrams(left, right, 12, 1000)
        assert min(queued(socks)) > 0
        stats = right.call(socks[0].getsockopt, SOL_PACKET, pk.PACKET_ROLLOVER_STATS, 24)
        moved, huge, failed = struct.unpack("=QQQ", stats)
        assert moved > 0
        assert huge == 0
        assert failed > 0
        assert socks[0].tp_drops > 0

    def test_a_flow_rolls_over_only_where_its_socket_is_full_or_it_is_huge(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = [make(right, SOCK_RAW, IP) for _ in range(2)]
        for sk in socks:
            right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 65536))
            join(right, sk, fo.PACKET_FANOUT_HASH | fo.PACKET_FANOUT_FLAG_ROLLOVER)
        client = left.udp_socket()
        for _ in range(200):
            left.send(client, bytes(1000), at("10.0.0.2", 7))
            run(left, right)
        mine = max(socks, key=lambda sk: sk.receive_queue.qlen)
        assert min(queued(socks)) > 0
        _, huge, failed = struct.unpack("=QQQ", right.call(mine.getsockopt, SOL_PACKET, pk.PACKET_ROLLOVER_STATS, 24))
        assert huge > 0
        assert failed > 0

    @pytest.mark.parametrize("sock_type", [SOCK_RAW, SOCK_DGRAM])
    def test_fragments_are_put_together_first(self, hosts: tuple[Host, Host], sock_type: int) -> None:
        left, right = hosts
        server = right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_LB | fo.PACKET_FANOUT_FLAG_DEFRAG, sock_type=sock_type)
        sk = left.udp_socket()
        left.call(sk.setsockopt, 0, 10, struct.pack("=i", 0))
        payload = bytes(range(250)) * 20
        for _ in range(3):
            left.send(sk, payload, at("10.0.0.2", 7))
        run(left, right)
        assert queued(socks) == [1, 1, 1]
        for member in socks:
            assert right.recv(member).endswith(payload)
        assert [right.recv(server) for _ in range(3)] == [payload] * 3  # the stack has its own


class TestMembers:
    def test_what_is_not_accepted(self, hosts: tuple[Host, Host]) -> None:
        _, right = hosts
        sk, other = make(right), make(right)
        for bad in (b"", b"\0" * 3, b"\0" * 12, struct.pack("=HH", 1, 8), struct.pack("=HH", 1, 0x1003),
                    struct.pack("=HHI", 1, 0, 65537), struct.pack("=HH", 1, 0x2000)):  # fmt: skip
            assert code(right.call, sk.setsockopt, SOL_PACKET, pk.PACKET_FANOUT, bad) == errno.EINVAL
        assert code(join, right, make(right, protocol=0), fo.PACKET_FANOUT_LB) == errno.EINVAL
        join(right, sk, fo.PACKET_FANOUT_LB, limit=2)
        assert code(join, right, sk, fo.PACKET_FANOUT_LB, 8) == errno.EALREADY
        others = [(fo.PACKET_FANOUT_RND, None), (fo.PACKET_FANOUT_LB | 0x1000, None), (fo.PACKET_FANOUT_LB, 3)]
        for kind, limit in others:
            assert code(join, right, other, kind, 7, limit) == errno.EINVAL
        assert code(join, right, make(right, protocol=IP), fo.PACKET_FANOUT_LB) == errno.EINVAL
        assert code(right.call, sk.bind, PacketAddr(IP, 2, 0, 0, b"")) == errno.EINVAL
        assert code(right.call, sk.setsockopt, SOL_PACKET, pk.PACKET_FANOUT_DATA, bytes(8)) == errno.EINVAL
        assert code(right.call, sk.getsockopt, SOL_PACKET, pk.PACKET_ROLLOVER_STATS, 24) == errno.EINVAL

    def test_a_group_has_a_limit(self, hosts: tuple[Host, Host]) -> None:
        _, right = hosts
        for _ in range(2):
            join(right, make(right), fo.PACKET_FANOUT_LB, limit=2)
        late = make(right)
        assert code(join, right, late, fo.PACKET_FANOUT_LB) == errno.ENOSPC
        assert right.net.get(PacketFamily).fanouts.groups[7].limit == 2
        # It goes on by itself.
        assert late.fanout is None
        assert late.tap is not None

    def test_what_getsockopt_tells(self, hosts: tuple[Host, Host]) -> None:
        _, right = hosts
        sk, other = make(right), make(right)
        assert right.call(sk.getsockopt, SOL_PACKET, pk.PACKET_FANOUT, 4) == bytes(4)
        join(right, sk, fo.PACKET_FANOUT_LB | fo.PACKET_FANOUT_FLAG_DEFRAG, 0x1234)
        value = right.call(sk.getsockopt, SOL_PACKET, pk.PACKET_FANOUT, 4)
        assert struct.unpack("=HBB", value) == (0x1234, 1, 0x80)
        join(right, other, fo.PACKET_FANOUT_LB | fo.PACKET_FANOUT_FLAG_UNIQUEID, 0)
        number, kind, flags = struct.unpack("=HBB", right.call(other.getsockopt, SOL_PACKET, pk.PACKET_FANOUT, 4))
        assert (number, kind, flags) == (0, 1, 0)
        third = make(right)
        join(right, third, fo.PACKET_FANOUT_LB | fo.PACKET_FANOUT_FLAG_UNIQUEID, 0)
        assert struct.unpack("=HBB", right.call(third.getsockopt, SOL_PACKET, pk.PACKET_FANOUT, 4))[0] == 1

    def test_coming_and_going(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = group_of(right, fo.PACKET_FANOUT_LB, 4)
        right.call(socks[1].close)
        datagrams(left, right, 6)
        assert queued([socks[0], *socks[2:]]) == [4, 4, 4]
        for sk in (socks[0], *socks[2:]):
            right.call(sk.close)
        assert not right.net.get(PacketFamily).fanouts.groups
        # The number is free again, for another kind.
        join(right, make(right), fo.PACKET_FANOUT_RND)

    def test_a_device_that_goes_down_and_comes_back(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        right.udp_socket("0.0.0.0", 7)
        socks = [make(right, SOCK_RAW, IP) for _ in range(2)]
        for sk in socks:
            right.call(sk.bind, PacketAddr(IP, 2, 0, 0, b""))
            join(right, sk, fo.PACKET_FANOUT_LB)
        dev = right.devices["eth0"]
        right.call(right.devices.set_down, dev)
        assert not right.net.get(PacketTypes).taps
        assert [code(right.recv, sk) for sk in socks] == [errno.ENETDOWN] * 2
        right.call(right.devices.set_up, dev)
        datagrams(left, right, 2)
        assert queued(socks) == [2, 2]

    def test_what_a_member_sends_is_shown_to_none(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        socks = [make(left) for _ in range(2)]
        for sk in socks:
            join(left, sk, fo.PACKET_FANOUT_LB)
        whole = ethernet.build(right.devices["eth0"].mac, left.devices["eth0"].mac, 0x88B5) + b"x"
        left.send(socks[0], whole, PacketAddr(0x88B5, 2, 0, 0, b""))
        assert queued(socks) == [0, 0]
        ignoring = make(left)
        join(left, ignoring, fo.PACKET_FANOUT_LB | fo.PACKET_FANOUT_FLAG_IGNORE_OUTGOING, 9)
        left.send(make(left, protocol=0), whole, PacketAddr(0x88B5, 2, 0, 0, b""))
        assert sum(queued(socks)) == 1
        assert queued([ignoring]) == [0]

    def test_a_locked_filter(self, hosts: tuple[Host, Host]) -> None:
        _, right = hosts
        sk = make(right)
        join(right, sk, fo.PACKET_FANOUT_CBPF)
        right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_LOCK_FILTER, struct.pack("=i", 1))
        assert code(right.call, sk.setsockopt, SOL_PACKET, pk.PACKET_FANOUT_DATA, bytes(8)) == errno.EPERM
