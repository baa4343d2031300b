"""Packet sockets."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.transport.hosts import REALTIME, Blocked, Host, at, pair, run
from usernet.core.iov import CollectIter
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLIN
from usernet.net.families import Families
from usernet.net.packet_type import ETH_P_ALL, PacketTypes
from usernet.netdevice.device import IFF_PROMISC
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_BROADCAST, PACKET_HOST, PACKET_OUTGOING
from usernet.sock import sockopt as so
from usernet.sock.msg import MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_TRUNC, MsgHdr, Name, PacketAddr, SockAddr
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW
from usernet.sockets import packet_membership as mr
from usernet.sockets import packet_sockopt as pk
from usernet.sockets.packet import PacketFamily, PacketSock
from usernet.sockets.packet_sockopt import SOL_PACKET
from usernet.wire import ethernet

EXPERIMENTAL = 0x88B5
ON = struct.pack("=i", 1)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    left, right = pair()
    for host in (left, right):
        host.net.get(PacketFamily)
    # What the hosts say when they get their addresses is over before a test looks.
    run(left, right, until=5 * 10**9)
    yield left, right
    for host in (left, right):
        family = host.net.get(PacketFamily)
        types = host.net.get(PacketTypes)
        host.end()
        assert not family.sockets
        assert not types.taps


def code(call: Callable[..., Any], *args: Any, **more: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    return caught.value.errno or 0


def swap(protocol: int) -> int:
    """In network byte order, as socket(2) takes it."""
    return protocol >> 8 | (protocol & 0xFF) << 8


def make(host: Host, sock_type: int = SOCK_RAW, protocol: int = ETH_P_ALL) -> PacketSock:
    with host.inside():
        sk = host.net.get(Families).create(17, sock_type, swap(protocol))
    assert isinstance(sk, PacketSock)
    return sk


def link(dev_index: int, protocol: int = EXPERIMENTAL, addr: bytes = b"") -> PacketAddr:
    return PacketAddr(protocol, dev_index, 0, 0, addr)


def frame(left: Host, right: Host, payload: bytes, protocol: int = EXPERIMENTAL) -> bytes:
    return ethernet.build(right.devices["eth0"].mac, left.devices["eth0"].mac, protocol) + payload


def sender_of(msg: MsgHdr) -> PacketAddr:
    assert isinstance(msg.name, PacketAddr)
    return msg.name


class TestReceiving:
    def test_frames_with_and_without_their_header(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        raw, cooked = make(right, SOCK_RAW, EXPERIMENTAL), make(right, SOCK_DGRAM, EXPERIMENTAL)
        other = make(right, SOCK_RAW, 0x88B6)
        whole = frame(left, right, b"payload")
        left.send(make(left, protocol=0), whole, link(2))
        run(left, right)
        data, msg = right.receive(raw)
        assert data == whole
        name = sender_of(msg)
        assert (name.protocol, name.ifindex, name.hatype, name.pkttype, name.addr) == (
            EXPERIMENTAL, 2, 1, PACKET_HOST, left.devices["eth0"].mac,
        )  # fmt: skip
        data, msg = right.receive(cooked)
        assert data == b"payload"
        assert sender_of(msg).addr == left.devices["eth0"].mac
        assert not other.receive_queue
        assert code(right.recv, raw) == errno.EAGAIN

    def test_all_shows_both_ways_and_not_ones_own(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        everything, sent, ip_only = make(left), make(left, SOCK_RAW), make(left, protocol=ethernet.ETH_P_IP)
        left.call(sent.setsockopt, SOL_PACKET, pk.PACKET_IGNORE_OUTGOING, ON)
        right.udp_socket("0.0.0.0", 7)
        left.send(left.udp_socket(), b"data", at("10.0.0.2", 7))
        run(left, right)
        seen = []
        while everything.receive_queue:
            data, msg = left.receive(everything)
            seen.append((sender_of(msg).protocol, sender_of(msg).pkttype))
            assert ethernet.parse(data, 0)[2] == sender_of(msg).protocol
        arp, ip = ethernet.ETH_P_ARP, ethernet.ETH_P_IP
        assert seen == [(arp, PACKET_OUTGOING), (arp, PACKET_HOST), (ip, PACKET_OUTGOING)]
        assert sender_of(left.receive(sent)[1]).pkttype == PACKET_HOST
        assert not ip_only.receive_queue
        left.send(everything, frame(left, right, b"own"), link(2))
        assert not everything.receive_queue

    def test_what_is_sent_has_a_time_stamp_and_an_open_checksum(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(left, SOCK_DGRAM)
        left.call(sk.setsockopt, so.SOL_SOCKET, so.SO_TIMESTAMPNS, ON)
        left.call(sk.setsockopt, SOL_PACKET, pk.PACKET_AUXDATA, ON)
        right.udp_socket("0.0.0.0", 7)
        left.send(left.udp_socket(), b"data", at("10.0.0.2", 7))
        run(left, right)
        left.recv(sk)
        left.recv(sk)
        data, msg = left.receive(sk)
        assert len(data) == 32
        assert msg.control == [
            (so.SOL_SOCKET, so.SO_TIMESTAMPNS, struct.pack("=qq", *divmod(REALTIME + left.clock.now(), 10**9))),
            (SOL_PACKET, pk.PACKET_AUXDATA, struct.pack("=IIIHHHH", 9, 32, 32, 0, 0, 0, 0)),
        ]

    def test_a_filter_cuts_and_drops(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_RAW, EXPERIMENTAL)
        right.call(sk.setsockopt, SOL_PACKET, pk.PACKET_AUXDATA, ON)
        program = struct.pack("=HBBIHBBIHBBIHBBI", 0x30, 0, 0, 14, 0x15, 0, 1, ord("y"), 6, 0, 0, 16, 6, 0, 0, 0)
        right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_ATTACH_FILTER, program)
        sender = make(left, protocol=0)
        for payload in (b"no", b"yes"):
            left.send(sender, frame(left, right, payload), link(2))
        run(left, right)
        data, msg = right.receive(sk)
        assert data[14:] == b"ye"
        assert msg.control is not None
        assert struct.unpack("=IIIHHHH", msg.control[0][2])[1:5] == (17, 16, 0, 14)
        assert code(right.recv, sk) == errno.EAGAIN

    def test_truncation_and_flags(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_DGRAM, EXPERIMENTAL)
        left.send(make(left, protocol=0), frame(left, right, b"0123456789"), link(2))
        run(left, right)
        sink = CollectIter(4)
        msg = MsgHdr(sink)
        with right.inside():
            assert sk.recvmsg(msg, MSG_TRUNC | MSG_DONTWAIT, 0) == 10
        assert (sink.getvalue(), msg.flags) == (b"0123", MSG_TRUNC)
        assert code(right.recv, sk, 1, MSG_OOB) == errno.EINVAL

    def test_waiting(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_DGRAM, EXPERIMENTAL)
        with right.inside():
            started = sk.recvmsg(MsgHdr(CollectIter(100)), 0, NEVER)
        call = Blocked(right, started)
        left.send(make(left, protocol=0), frame(left, right, b"now"), link(2))
        run(left, right)
        call.step()
        assert call.result == 3

    def test_statistics_start_over_when_read(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_RAW, EXPERIMENTAL)
        sk.rcvbuf = 2000
        sender = make(left, protocol=0)
        for _ in range(10):
            left.send(sender, frame(left, right, b"x"), link(2))
        run(left, right)
        kept = sk.receive_queue.qlen
        assert 0 < kept < 10
        stats = sk.getsockopt(SOL_PACKET, pk.PACKET_STATISTICS, 8)
        assert struct.unpack("=II", stats) == (10, 10 - kept)
        assert right.drops(DropReason.SOCKET_RCVBUFF) == sk.drops == 10 - kept
        assert sk.getsockopt(SOL_PACKET, pk.PACKET_STATISTICS, 8) == bytes(8)

    def test_a_packet_sockets_copy_is_its_own(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk, server = make(right), right.udp_socket("0.0.0.0", 7)
        left.send(left.udp_socket(), b"both", at("10.0.0.2", 7))
        run(left, right)
        assert right.recv(server) == b"both"
        assert [right.recv(sk)[-4:] for _ in range(3)][-1] == b"both"


class TestBind:
    def test_a_device_and_a_protocol(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_RAW, 0)
        sender = make(left, protocol=0)
        left.send(sender, frame(left, right, b"not yet"), link(2))
        run(left, right)
        right.call(sk.bind, link(2))
        left.send(sender, frame(left, right, b"now"), link(2))
        run(left, right)
        assert right.recv(sk)[14:] == b"now"
        name = sk.getsockname()
        assert isinstance(name, PacketAddr)
        assert (name.protocol, name.ifindex, name.hatype, name.addr) == (
            EXPERIMENTAL, 2, 1, right.devices["eth0"].mac,
        )  # fmt: skip
        right.call(sk.bind, link(1, 0))
        left.send(sender, frame(left, right, b"elsewhere"), link(2))
        run(left, right)
        assert not sk.receive_queue

    def test_errors(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = make(left)
        assert code(left.call, sk.bind, link(99)) == errno.ENODEV
        assert code(left.call, sk.bind, at("10.0.0.1")) == errno.EINVAL
        assert code(sk.getpeername) == errno.EOPNOTSUPP
        assert code(left.net.get(Families).create, 17, 10, 0) == errno.ESOCKTNOSUPPORT
        name = make(left).getsockname()
        assert isinstance(name, PacketAddr)
        assert (name.ifindex, name.addr) == (0, b"")

    def test_the_device_goes_down_comes_up_and_goes_away(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(right, SOCK_RAW, EXPERIMENTAL)
        right.call(sk.bind, link(2))
        eth0 = right.devices["eth0"]
        right.call(right.devices.set_down, eth0)
        assert sk.poll() & EPOLLERR
        assert code(right.recv, sk) == errno.ENETDOWN
        right.call(right.devices.set_up, eth0)
        left.send(make(left, protocol=0), frame(left, right, b"again"), link(2))
        run(left, right)
        assert sk.poll() & EPOLLIN
        assert right.recv(sk)[14:] == b"again"
        right.call(sk.setsockopt, SOL_PACKET, pk.PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8x", 2, 1, 0))
        right.call(right.devices.remove, eth0)
        assert code(right.recv, sk) == errno.ENETDOWN
        assert sk.ifindex == -1
        assert sk.memberships == []

    def test_a_device_that_is_down(self, hosts: tuple[Host, Host]) -> None:
        _, right = hosts
        right.call(right.devices.set_down, right.devices["eth0"])
        sk = make(right)
        right.call(sk.bind, link(2))
        assert code(right.recv, sk) == errno.ENETDOWN


class TestSending:
    def test_cooked(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        receiver = make(right, SOCK_RAW, EXPERIMENTAL)
        sk = make(left, SOCK_DGRAM, 0)
        assert left.send(sk, b"payload", link(2, addr=ethernet.BROADCAST)) == 7
        run(left, right)
        data, msg = right.receive(receiver)
        assert data == ethernet.BROADCAST + left.devices["eth0"].mac + b"\x88\xb5payload"
        assert sender_of(msg).pkttype == PACKET_BROADCAST

    def test_to_where_it_is_bound(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        receiver = make(right, SOCK_DGRAM, EXPERIMENTAL)
        raw, cooked = make(left), make(left, SOCK_DGRAM)
        for sk in (raw, cooked):
            assert code(left.send, sk, bytes(20)) == errno.ENXIO
            left.call(sk.bind, link(2, 0))
        left.send(raw, frame(left, right, b"bound"))
        # Without a name there is no link address to build a header for.
        assert code(left.send, cooked, b"x") == errno.EINVAL
        run(left, right)
        assert right.recv(receiver) == b"bound"

    @pytest.mark.parametrize(
        ("name", "size", "error"),
        [
            (link(99), 20, errno.ENXIO),
            (at("10.0.0.2", 1), 20, errno.EINVAL),
            (link(2), 13, errno.EINVAL),
            (link(2), 0, errno.EINVAL),
            (link(2), 1515, errno.EMSGSIZE),
            (link(2), 1600, errno.EMSGSIZE),
        ],
    )
    def test_errors(self, hosts: tuple[Host, Host], name: Name, size: int, error: int) -> None:
        left, _ = hosts
        sk = make(left, protocol=0)
        assert code(left.send, sk, bytes(size), name) == error
        assert sk.wmem_alloc == 0

    def test_a_tag_is_not_counted(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(left, protocol=0)
        tagged = frame(left, right, bytes(1504), ethernet.ETH_P_8021Q)
        assert left.send(sk, tagged, link(2)) == 1518
        run(left, right)

    def test_a_device_that_is_down(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(left)
        left.call(left.devices.set_down, left.devices["eth0"])
        assert code(left.send, sk, frame(left, right, b"x"), link(2)) == errno.ENETDOWN

    def test_time_stamps(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(left, protocol=0)
        flags = so.SOF_TIMESTAMPING_TX_SOFTWARE | so.SOF_TIMESTAMPING_SOFTWARE
        left.call(sk.setsockopt, so.SOL_SOCKET, so.SO_TIMESTAMPING, struct.pack("=i", flags))
        left.send(sk, frame(left, right, b"x"), link(2))
        data, msg = left.receive(sk, 100, MSG_ERRQUEUE)
        assert data == frame(left, right, b"x")
        assert msg.control is not None
        assert msg.control[1][:2] == (SOL_PACKET, pk.PACKET_TX_TIMESTAMP)
        run(left, right)

    def test_by_loopback(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk, other = make(left, SOCK_DGRAM, 0), make(left, SOCK_DGRAM, EXPERIMENTAL)
        left.send(sk, b"round", link(1))
        run(left)
        assert left.recv(other) == b"round"


class TestMembership:
    def test_promiscuous_while_anyone_wants_it(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        eth0 = left.devices["eth0"]
        first, second = make(left), make(left)
        wanted = struct.pack("=iHH8x", 2, mr.PACKET_MR_PROMISC, 0)
        for sk in (first, first, second):
            left.call(sk.setsockopt, SOL_PACKET, pk.PACKET_ADD_MEMBERSHIP, wanted)
        assert eth0.flags & IFF_PROMISC
        left.call(first.setsockopt, SOL_PACKET, pk.PACKET_DROP_MEMBERSHIP, wanted)
        left.close(first)
        assert eth0.flags & IFF_PROMISC
        left.call(second.setsockopt, SOL_PACKET, pk.PACKET_DROP_MEMBERSHIP, wanted)
        left.call(second.setsockopt, SOL_PACKET, pk.PACKET_DROP_MEMBERSHIP, wanted)
        assert not eth0.flags & IFF_PROMISC

    @pytest.mark.parametrize("kind", [mr.PACKET_MR_MULTICAST, mr.PACKET_MR_UNICAST])
    def test_addresses(self, hosts: tuple[Host, Host], kind: int) -> None:
        left, _ = hosts
        eth0 = left.devices["eth0"]
        sk = make(left)
        mac = b"\x01\2\3\4\5\6"
        mreq = struct.pack("=iHH8s", 2, kind, 6, mac)
        assert not eth0.wants(mac)
        left.call(sk.setsockopt, SOL_PACKET, pk.PACKET_ADD_MEMBERSHIP, mreq)
        assert eth0.wants(mac)
        left.close(sk)
        assert not eth0.wants(mac)

    def test_errors(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = make(left)
        for mreq, error in (
            (bytes(15), errno.EINVAL),
            (struct.pack("=iHH8x", 99, 1, 0), errno.ENODEV),
            (struct.pack("=iHH8x", 2, 0, 5), errno.EINVAL),
            (struct.pack("=iHH8x", 2, 0, 8), errno.EINVAL),
        ):
            assert code(sk.setsockopt, SOL_PACKET, pk.PACKET_ADD_MEMBERSHIP, mreq) == error


class TestOptions:
    def test_values(self, hosts: tuple[Host, Host]) -> None:
        left, _ = hosts
        sk = make(left)
        for option in (
            pk.PACKET_AUXDATA, pk.PACKET_ORIGDEV, pk.PACKET_IGNORE_OUTGOING, pk.PACKET_TIMESTAMP,
            pk.PACKET_QDISC_BYPASS,
        ):  # fmt: skip
            assert sk.getsockopt(SOL_PACKET, option, 4) == bytes(4)
            sk.setsockopt(SOL_PACKET, option, ON)
            assert sk.getsockopt(SOL_PACKET, option, 4) == ON
            assert code(sk.setsockopt, SOL_PACKET, option, b"\1") == errno.EINVAL
        assert code(sk.setsockopt, SOL_PACKET, pk.PACKET_IGNORE_OUTGOING, struct.pack("=i", 2)) == errno.EINVAL
        assert code(sk.getsockopt, SOL_PACKET, pk.PACKET_STATISTICS, -1) == errno.EINVAL

    @pytest.mark.parametrize("option", [5, 7, 13, 14, 15, 24, 99])
    def test_rings_and_what_is_unknown(self, hosts: tuple[Host, Host], option: int) -> None:
        left, _ = hosts
        sk = make(left)
        assert code(sk.setsockopt, SOL_PACKET, option, bytes(28)) == errno.ENOPROTOOPT
        assert code(sk.getsockopt, SOL_PACKET, option, 4) == errno.ENOPROTOOPT
        assert code(sk.setsockopt, 0, 1, ON) == errno.ENOPROTOOPT
        assert code(sk.getsockopt, 0, 1, 4) == errno.ENOPROTOOPT

    def test_sol_socket_and_ioctl(self, hosts: tuple[Host, Host]) -> None:
        left, right = hosts
        sk = make(left)
        assert sk.getsockopt(so.SOL_SOCKET, so.SO_DOMAIN, 4) == struct.pack("=i", 17)
        assert code(sk.setsockopt, so.SOL_SOCKET, so.SO_REUSEPORT, ON) == errno.EOPNOTSUPP
        assert sk.ioctl(0x541B) == sk.ioctl(0x5411) == 0
        right.send(make(right, protocol=0), frame(right, left, b"x"), link(2))
        run(left, right)
        assert sk.ioctl(0x541B) == 15
        assert code(sk.ioctl, 1) == errno.ENOTTY


def test_names_of_other_families_are_refused(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    assert code(left.send, make(left), bytes(20), SockAddr(2, bytes(4), 1)) == errno.EINVAL
