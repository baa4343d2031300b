"""UDP's receive path: lengths, checksums, lookup, multicast, and ICMP errors."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.hosts import Host, at, pair, run
from usernet.drivers.veth import veth
from usernet.ip.v4.sockglue import IP_RECVTTL, IP_TTL, SOL_IP
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_UDP_L4,
    SKB_OVERHEAD,
    SKBuff,
)
from usernet.sock.filter import Program
from usernet.sock.inet import IP_PMTUDISC_DO
from usernet.sock.msg import MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC, SockAddr
from usernet.sock.sockopt import SO_ATTACH_REUSEPORT_CBPF, SOL_SOCKET
from usernet.transport.udp_sock import UdpSock
from usernet.wire import ipv4, udp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

PEER = at("10.0.0.9", 5000)
HERE = at("10.0.0.1", 7)


@pytest.fixture
def host() -> Iterator[Host]:
    left, right = pair()
    right.end()
    yield left
    left.end()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    left, right = pair()
    yield left, right
    left.end()
    right.end()


def packet(
    payload: bytes, sport: int = 5000, dport: int = 7, *, length: int = -1, check: int = -1,
    saddr: bytes = PEER.addr, daddr: bytes = HERE.addr,
) -> bytes:  # fmt: skip
    size = len(payload) + 8 if length < 0 else length
    if check < 0:
        whole = udp.build(sport, dport, size, 0) + payload
        check = csum_fold(csum(whole, 0, len(whole), pseudo_sum(saddr, daddr, 17, size))) or 0xFFFF
    return udp.build(sport, dport, size, check) + payload


def arrive(
    host: Host, data: bytes, *, summed: int = 0, dev: str = "eth0", saddr: bytes = PEER.addr,
    daddr: bytes = HERE.addr, total: int = 0, gso_size: int = 0,
) -> SKBuff:  # fmt: skip
    """A packet behind the network layer's part."""
    skb = SKBuff(ipv4.build(0, 20 + len(data), 1, 0, 64, 17, saddr, daddr) + data)
    skb.protocol = 0x0800
    skb.gso_size, skb.gso_type = gso_size, SKB_GSO_UDP_L4 if gso_size else 0
    skb.network_header = 0
    skb.transport_header = 20
    skb.data = 20
    skb.len -= 20
    skb.ip_summed = summed
    skb.csum = total
    skb.dev = host.devices[dev]
    skb.af = host.ipv4.af
    skb.saddr = saddr
    skb.daddr = daddr
    host.call(host.udp.receive, skb)
    return skb


class TestChecks:
    def test_good(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        for payload in (b"", b"x", b"xy", b"odd"):
            arrive(host, packet(payload))
            data, msg = host.receive(sk)
            assert data == payload
            assert isinstance(msg.name, SockAddr)
            assert (msg.name.addr, msg.name.port) == (PEER.addr, 5000)

    @pytest.mark.parametrize(
        "data",
        [b"", b"1234567", packet(b"data", length=7), packet(b"data", length=0), packet(b"data", length=13)],
    )
    def test_short(self, host: Host, data: bytes) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        arrive(host, data)
        assert not sk.receive_queue
        assert (host.net.mib.udp.InErrors, host.drops(DropReason.PKT_TOO_SMALL)) == (1, 1)

    def test_what_is_behind_the_datagram_is_cut_off(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        arrive(host, packet(b"data") + b"padding")
        assert host.recv(sk) == b"data"

    @pytest.mark.parametrize("summed", [0, CHECKSUM_COMPLETE])
    def test_a_wrong_checksum_wakes_nobody(self, host: Host, summed: int) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        arrive(host, packet(b"data", check=0x1234), summed=summed)
        assert not sk.receive_queue
        mib = host.net.mib.udp
        assert (mib.InCsumErrors, mib.InErrors, host.drops(DropReason.UDP_CSUM)) == (1, 1, 1)

    @pytest.mark.parametrize("summed", [CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL])
    def test_one_that_is_vouched_for_is_not_looked_at(self, host: Host, summed: int) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        arrive(host, packet(b"data", check=0x1234), summed=summed)
        assert host.recv(sk) == b"data"

    def test_none_at_all(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        arrive(host, packet(b"data", check=0))
        assert host.recv(sk) == b"data"

    def test_the_devices_sum_is_used(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        data = packet(b"data")
        arrive(host, data, summed=CHECKSUM_COMPLETE, total=csum(data, 0, len(data)))
        # Over more than the datagram it is no use, and over something else it must not be believed.
        arrive(host, data + b"padding", summed=CHECKSUM_COMPLETE, total=csum(data + b"padding", 0, len(data) + 7))
        arrive(host, data, summed=CHECKSUM_COMPLETE, total=7)
        assert [host.recv(sk) for _ in range(3)] == [b"data"] * 3

    def test_a_header_in_fragments(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        whole = packet(b"fragmented data")
        skb = SKBuff(whole[:3])
        skb.add_frag(whole[3:9])
        skb.add_frag(whole[9:])
        skb.transport_header = 0
        skb.dev, skb.af, skb.saddr, skb.daddr = host.devices["eth0"], host.ipv4.af, PEER.addr, HERE.addr
        host.call(host.udp.receive, skb)
        assert host.recv(sk) == b"fragmented data"

    @given(st.binary(max_size=40))
    def test_anything_is_survived(self, data: bytes) -> None:
        host = Host()
        host.udp_socket("0.0.0.0", 7)
        arrive(host, data, dev="lo")
        assert sum(host.net.drops.counts.values()) <= 1
        host.end()


class TestSuperSegments:
    """What a device gives whole, for a socket without UDP_GRO."""

    ALL = Program(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF))
    """A filter that lets everything through, and could have looked at any byte of it."""

    @given(size=st.integers(1, 600), segment=st.integers(5, 300))
    def test_datagrams_are_the_same_with_a_filter_and_without(self, size: int, segment: int) -> None:
        host = Host()
        sk = host.udp_socket("0.0.0.0", 7)
        host.call(sk.setsockopt, SOL_IP, IP_RECVTTL, struct.pack("=i", 1))
        payload = (bytes(range(251)) * 3)[:size]
        got = []
        for program in (None, self.ALL):
            sk.filter = program
            arrive(host, packet(payload, check=1), summed=CHECKSUM_PARTIAL, dev="lo", gso_size=segment)
            got.append([host.receive(sk) for _ in range(sk.receive_queue.qlen)])
            assert sk.rmem_alloc == 0
        for datagrams in got:
            assert [data for data, _ in datagrams] == [payload[n : n + segment] for n in range(0, size, segment)]
            for _, msg in datagrams:
                assert isinstance(msg.name, SockAddr)
                assert (msg.name.addr, msg.name.port) == (PEER.addr, 5000)
                assert msg.control == [(SOL_IP, IP_TTL, struct.pack("=i", 64))]
        assert host.net.mib.udp.InDatagrams == 2 * len(got[0])
        host.close(sk)
        host.end()

    def test_what_has_no_room_is_not_split(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        sk.rcvbuf = 2 * (SKB_OVERHEAD + 10)
        for _ in range(2):
            arrive(host, packet(b"0123456789" * 4 + b"x", check=1), summed=CHECKSUM_PARTIAL, gso_size=10)
        assert [skb.len for skb in sk.receive_queue] == [10, 10]
        mib = host.net.mib.udp
        # Datagrams, and packets that ended here.
        assert (mib.RcvbufErrors, mib.InErrors, sk.drops, host.drops(DropReason.SOCKET_RCVBUFF)) == (8, 8, 8, 2)


class TestLookup:
    def found(self, host: Host, **kwargs: object) -> list[UdpSock]:
        """Which sockets have something, after a datagram has come; it is taken."""
        arrive(host, packet(b"?"), **kwargs)  # type: ignore[arg-type]
        taken = [sk for sk in host.net.get(_Sockets).all if sk.receive_queue]
        for sk in taken:
            host.recv(sk)
        return taken

    def make(self, host: Host, *args: object, **kwargs: object) -> UdpSock:
        sk = host.udp_socket(*args, **kwargs)  # type: ignore[arg-type]
        host.net.get(_Sockets).all.append(sk)
        return sk

    def test_the_better_the_match_the_better(self, host: Host) -> None:
        order = []
        order.append(self.make(host, "0.0.0.0", 7, reuse=True))
        assert self.found(host) == order[-1:]
        device = self.make(host)
        device.reuse, device.bound_dev_if = True, host.devices["eth0"].index
        host.call(device.bind, at("0.0.0.0", 7))
        order.append(device)
        assert self.found(host) == order[-1:]
        order.append(self.make(host, "10.0.0.1", 7, reuse=True))
        assert self.found(host) == order[-1:]
        peer = self.make(host, "10.0.0.1", 7, reuse=True)
        host.call(peer.connect, PEER, 0, 0)
        order.append(peer)
        assert self.found(host) == order[-1:]
        while order:
            assert self.found(host) == order[-1:]
            host.close(order.pop())
        arrive(host, packet(b"?"))
        assert host.net.mib.udp.NoPorts == 1

    def test_another_device_another_peer(self, host: Host) -> None:
        device = self.make(host)
        device.reuse, device.bound_dev_if = True, host.devices["lo"].index
        host.call(device.bind, at("0.0.0.0", 7))
        peer = self.make(host, "10.0.0.1", 7, reuse=True)
        host.call(peer.connect, at("10.0.0.9", 5001), 0, 0)
        assert self.found(host) == []
        assert self.found(host, dev="lo") == [device]

    def test_a_peer_of_any_port(self, host: Host) -> None:
        sk = self.make(host, "10.0.0.1", 7)
        host.call(sk.connect, at("10.0.0.9", 0), 0, 0)
        assert self.found(host) == [sk]
        assert self.found(host, saddr=b"\x0a\0\0\x08") == []

    def test_the_last_to_bind_wins(self, host: Host) -> None:
        self.make(host, "0.0.0.0", 7, reuse=True)
        last = self.make(host, "0.0.0.0", 7, reuse=True)
        assert self.found(host) == [last]

    def test_connected_twice_on_two_devices(self, host: Host) -> None:
        plain = self.make(host, "10.0.0.1", 7, reuse=True)
        host.call(plain.connect, PEER, 0, 0)
        device = self.make(host, "10.0.0.1", 7, reuse=True)
        host.call(device.connect, PEER, 0, 0)
        device.bound_dev_if = host.devices["lo"].index
        assert self.found(host) == [plain]
        assert self.found(host, dev="lo") == [device]

    def test_reuseport_shares(self, host: Host) -> None:
        group = []
        for _ in range(4):
            sk = self.make(host)
            sk.reuseport = True
            host.call(sk.bind, at("0.0.0.0", 7))
            group.append(sk)
        for sport in range(1000, 1200):
            for _ in range(2):
                arrive(host, packet(b"?", sport))
        counts = [sk.receive_queue.qlen for sk in group]
        assert sum(counts) == 400
        # A flow stays with one socket, and the flows are spread.
        assert all(count % 2 == 0 and 40 < count < 160 for count in counts)
        for sk in group:
            sk.purge()
        program = struct.pack("=HBBIHBBI", 0x30, 0, 0, 0, 0x16, 0, 0, 0)
        group[0].setsockopt(SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
        for first in (b"\0", b"\1", b"\1", b"\3", b"\3", b"\3"):
            arrive(host, packet(first + b" says where"))
        assert [sk.receive_queue.qlen for sk in group] == [1, 2, 0, 3]


class _Sockets:
    """The sockets of one test."""

    def __init__(self, net: object) -> None:
        self.all: list[UdpSock] = []


class TestEarlyDemux:
    def test_connected_sockets_remember_their_route_in(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        server, client = right.udp_socket("0.0.0.0", 7), left.udp_socket()
        left.call(client.connect, at("10.0.0.2", 7), 0, 0)
        back = client.getsockname()
        for number in range(3):
            right.send(server, b"x", back)
            run(left, right)
            assert left.recv(client) == b"x", number
        assert client.rx_dst is not None

    def test_it_can_be_turned_off(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        left.net.sysctl["net.ipv4.udp_early_demux"] = 0
        client = left.udp_socket()
        left.call(client.connect, at("10.0.0.2", 7), 0, 0)
        server = right.udp_socket("0.0.0.0", 7)
        right.send(server, b"x", client.getsockname())
        run(left, right)
        assert left.recv(client) == b"x"


class TestFilter:
    def test_a_filter_cuts_and_drops(self, host: Host) -> None:
        sk = host.udp_socket("0.0.0.0", 7)
        # Keep as many bytes, header included, as the payload's first byte says.
        sk.filter = Program(struct.pack("=HBBIHBBI", 0x30, 0, 0, 8, 0x16, 0, 0, 0))
        for first in (0, 3, 10, 200):
            arrive(host, packet(bytes((first,)) + b"234567"))
        assert [host.recv(sk) for _ in range(3)] == [b"", b"\x0a2", b"\xc8234567"]
        assert (host.drops(DropReason.SOCKET_FILTER), sk.drops, host.net.mib.udp.InErrors) == (1, 1, 1)


class TestMany:
    def test_a_broadcast_reaches_all_that_match(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sender = left.udp_socket()
        sender.broadcast = True
        anyone = right.udp_socket("0.0.0.0", 7, reuse=True)
        another = right.udp_socket("0.0.0.0", 7, reuse=True)
        at_broadcast = right.udp_socket("10.0.0.255", 7, reuse=True)
        at_address = right.udp_socket("10.0.0.2", 7, reuse=True)
        other_device = right.udp_socket("0.0.0.0", 7, reuse=True)
        other_device.bound_dev_if = right.devices["lo"].index
        other_peer = right.udp_socket("0.0.0.0", 7, reuse=True)
        right.call(other_peer.connect, at("10.0.0.77", 1), 0, 0)
        left.send(sender, b"to all", at("10.0.0.255", 7))
        left.send(sender, b"to none", at("10.0.0.255", 8))
        run(left, right)
        assert [right.recv(sk) for sk in (anyone, another, at_broadcast)] == [b"to all"] * 3
        assert not any(sk.receive_queue for sk in (at_address, other_device, other_peer))
        assert (right.net.mib.udp.IgnoredMulti, right.net.mib.udp.NoPorts) == (1, 0)

    def test_a_group_reaches_its_members(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        group = at("239.1.2.3", 7)
        sender = left.udp_socket()
        member = right.udp_socket("0.0.0.0", 7, reuse=True)
        stranger = right.udp_socket("0.0.0.0", 7, reuse=True)
        stranger.mc_all = False
        right.call(member.setsockopt, 0, 35, group.addr + at("10.0.0.2").addr)
        left.call(sender.setsockopt, 0, 32, at("10.0.0.1").addr)
        left.send(sender, b"to the group", group)
        run(left, right, until=10**9)
        assert right.recv(member) == b"to the group"
        assert not stranger.receive_queue
        right.close(member)
        left.send(sender, b"again", group)
        run(left, right, until=2 * 10**9)
        assert not stranger.receive_queue

    def test_the_sender_hears_itself_unless_it_does_not_want_to(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        group = at("239.1.2.3", 7)
        sk = left.udp_socket("0.0.0.0", 7)
        left.call(sk.setsockopt, 0, 35, group.addr + at("10.0.0.1").addr)
        left.call(sk.setsockopt, 0, 32, at("10.0.0.1").addr)
        left.send(sk, b"echo", group)
        run(left)
        assert left.recv(sk) == b"echo"
        left.call(sk.setsockopt, 0, 34, bytes(4))
        left.send(sk, b"silence", group)
        run(left)
        assert not sk.receive_queue


class TestErrors:
    def test_a_connected_socket_is_refused(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.connect, at("10.0.0.2", 9), 0, 0)
        left.send(client, b"anybody?")
        run(left, right)
        assert right.net.mib.udp.NoPorts == 1
        assert right.drops(DropReason.NO_SOCKET) == 1
        with pytest.raises(ConnectionRefusedError):
            left.recv(client)
        left.send(client, b"again")
        run(left, right)
        with pytest.raises(ConnectionRefusedError):
            left.send(client, b"and again")

    def test_others_are_not_told(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.send(client, b"anybody?", at("10.0.0.2", 9))
        run(left, right)
        assert client.err == 0

    def test_unless_they_ask(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.setsockopt, 0, 11, struct.pack("=i", 1))
        left.send(client, b"anybody there?", at("10.0.0.2", 9))
        run(left, right)
        assert client.err == errno.ECONNREFUSED
        data, msg = left.receive(client, 8, MSG_ERRQUEUE)
        assert (data, msg.flags) == (b"anybody ", MSG_ERRQUEUE | MSG_TRUNC)
        assert isinstance(msg.name, SockAddr)
        assert (msg.name.addr, msg.name.port) == (at("10.0.0.2").addr, 9)
        assert msg.control is not None
        [(level, kind, entry)] = msg.control
        assert (level, kind) == (0, 11)
        offender = struct.pack("=HH", 2, 0) + at("10.0.0.2").addr + bytes(8)
        assert entry == struct.pack("=IBBBBII", errno.ECONNREFUSED, 2, 3, 3, 0, 0, 0) + offender
        assert client.err == 0
        with pytest.raises(BlockingIOError):
            left.receive(client, 8, MSG_ERRQUEUE)

    def test_too_large_here_is_queued_too(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        left.call(client.setsockopt, 0, 11, struct.pack("=i", 1))
        client.pmtudisc = IP_PMTUDISC_DO
        with pytest.raises(OSError) as caught:
            left.send(client, bytes(2000), at("10.0.0.2", 9))
        assert caught.value.errno == errno.EMSGSIZE
        _, msg = left.receive(client, 8, MSG_ERRQUEUE)
        assert msg.control is not None
        assert struct.unpack_from("=IBBBBII", msg.control[0][2]) == (errno.EMSGSIZE, 1, 0, 0, 0, 1500, 0)

    def test_the_error_queue_is_bounded(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        client = left.udp_socket()
        client.rcvbuf = 3000
        client.recverr = True
        client.pmtudisc = IP_PMTUDISC_DO
        for _ in range(20):
            with pytest.raises(OSError):
                left.send(client, bytes(2000), at("10.0.0.2", 9))
        assert client.error_queue is not None
        assert client.error_queue.qlen + client.drops == 20
        assert client.rmem_alloc <= 3000

    def test_fragmentation_needed_sets_the_path_mtu(self, hosts: tuple[Host, Host]) -> None:
        left, router = hosts
        router.net.sysctl["net.ipv4.ip_forward"] = 1
        third = Host("third", left.clock, 3)
        one, two = veth()
        way_on = router.add(one, "eth1", "10.0.1.1")
        third.add(two, "eth0", "10.0.1.2")
        with router.inside():
            router.devices.set_mtu(way_on, 1000)
        with left.inside():
            left.ipv4.routes.add(at("10.0.1.0").addr, 24, gateway=at("10.0.0.2").addr)
        with third.inside():
            third.ipv4.routes.add(at("10.0.0.0").addr, 24, gateway=at("10.0.1.1").addr)
        server, client = third.udp_socket("0.0.0.0", 7), left.udp_socket()
        client.pmtudisc = IP_PMTUDISC_DO
        left.call(client.connect, at("10.0.1.2", 7), 0, 0)
        left.send(client, bytes(1400))
        run(left, router, third)
        with pytest.raises(OSError) as caught:
            left.recv(client)
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(OSError):
            left.send(client, bytes(973))
        left.send(client, bytes(972))
        run(left, router, third)
        assert len(third.recv(server)) == 972
        third.end()

    def test_what_is_no_error_of_ours(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.connect, at("10.0.0.2", 9), 0, 0)
        left.send(client, b"anybody?")
        left.close(client)
        run(left, right)
        assert left.net.mib.icmp.InDestUnreachs == 1

    def test_errors_wake_and_flag(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        client = left.udp_socket()
        left.call(client.connect, at("10.0.0.2", 9), 0, 0)
        left.send(client, b"anybody?", None, MSG_DONTWAIT)
        run(left, right)
        assert client.poll() & 8
