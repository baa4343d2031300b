"""PACKET_RX_RING: the layouts of its memory, whose a frame is, and what is lost when the program is slow."""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
import time
from typing import Any, Final

import pytest

from tests.sockets.test_packet import EXPERIMENTAL, code, frame, hosts, link, make
from tests.support import netns
from tests.transport.hosts import REALTIME, Host, at, run
from usernet.core.wait import EPOLLIN
from usernet.skbuff.skbuff import PACKET_HOST, PACKET_OUTGOING
from usernet.sock import sockopt as so
from usernet.sock.filter import Program
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW
from usernet.sockets import packet_ring as pr
from usernet.sockets import packet_sockopt as pk
from usernet.sockets.packet import TP_STATUS_CSUMNOTREADY, PacketSock
from usernet.sockets.packet_fanout import PACKET_FANOUT_FLAG_ROLLOVER, PACKET_FANOUT_LB
from usernet.wire import ethernet

__all__ = ["hosts"]

SOL = pk.SOL_PACKET
PAGE: Final = mmap.PAGESIZE
V1, V2, V3 = pr.TPACKET_V1, pr.TPACKET_V2, pr.TPACKET_V3
MS: Final = 10**6
RESERVE: Final = 4
PRIVATE: Final = 20
"""Bytes before a frame, and of a block, that the scenarios ask for."""

STAMPED: Final = pr.TP_STATUS_TS_SOFTWARE
"""Every device of a stack stamps what it receives; Linux's do where somebody asks for it."""

Field = dict[str, Any]


def integer(number: int) -> bytes:
    return struct.pack("=i", number)


def request(
    version: int, blocks: int = 2, *, block: int = PAGE, frame: int = 1024, tov: int = 10, priv: int = 0
) -> bytes:
    """struct tpacket_req, tpacket_req3. tov: ms."""
    value = struct.pack("=IIII", block, blocks, frame, block // frame * blocks if frame else 0)
    return value + struct.pack("=III", tov, priv, 0) if version == V3 else value


class Ring:
    """A program's side of a ring."""

    def __init__(self, memory: Any, version: int, value: bytes) -> None:
        self.memory = memory
        self.version = version
        self.block, self.blocks, self.frame, self.frames = struct.unpack_from("=IIII", value)
        self._next = 0

    def word(self, at: int) -> int:
        return int.from_bytes(self.memory[at : at + 4], "little")

    def give_back(self, at: int) -> None:
        self.memory[at : at + 4] = bytes(4)

    def take(self, release: bool = True) -> list[Field]:
        """The frames that are the program's, and what V3 says of their blocks; they are given back."""
        found: list[Field] = []
        while True:
            if self.version == V3:
                at = self._next % self.blocks * self.block
                if not self.word(at + 8):
                    return found
                found += self._of_block(at)
                at += 8
            else:
                per_block = self.block // self.frame
                index = self._next % self.frames
                at = index // per_block * self.block + index % per_block * self.frame
                if not self.word(at):
                    return found
                found.append(self._of_frame(at))
            if not release:
                return found
            self.give_back(at)
            self._next += 1

    def _of_block(self, at: int) -> list[Field]:
        version, private, status, count, first, size, serial = struct.unpack_from("=IIIIIIQ", self.memory, at)
        opened, _, closed, _ = struct.unpack_from("=IIII", self.memory, at + 32)
        found = [{
            "version": version, "private": private, "status": status, "count": count, "first": first, "size": size,
            "serial": serial, "in order": opened <= closed,
        }]  # fmt: skip
        place = at + first
        for left in reversed(range(count)):
            following = self.word(place)
            assert (following == 0) == (left == 0)
            found.append(self._of_frame(place) | {"next": following})
            place += following
        return found

    def _of_frame(self, at: int) -> Field:
        memory = self.memory
        if self.version == V3:
            seconds, nanoseconds, snaplen, length, status, mac, net = struct.unpack_from("=IIIIIHH", memory, at + 4)
            name = at + 48
            rest = bytes(memory[at + 28 : at + 48])
        elif self.version == V2:
            status, length, snaplen, mac, net, seconds, nanoseconds = struct.unpack_from("=IIIHHII", memory, at)
            rest = bytes(memory[at + 24 : at + 32])
            name = at + 32
        else:
            status, length, snaplen, mac, net, seconds, nanoseconds = struct.unpack_from("=QIIHHII", memory, at)
            assert nanoseconds < 1_000_000
            rest = b""
            name = at + 32
        family, protocol, _, hatype, kind, size, addr = struct.unpack_from("=HHiHBB8s", memory, name)
        return {
            "status": status & ~STAMPED, "stamped": bool(status & STAMPED), "rest": rest,
            "length": length, "snaplen": snaplen, "mac": mac, "net": net,
            "data": bytes(memory[at + mac : at + mac + snaplen]), "time": (seconds, nanoseconds),
            "name": (family, socket.ntohs(protocol), hatype, kind, size, addr[size:]),
        }  # fmt: skip


def open_ring(
    host: Host, version: int, value: bytes, kind: int = SOCK_RAW, reserve: int = 0
) -> tuple[PacketSock, Ring]:
    """A socket of a stack with a ring, and the program's view of it."""
    sk = make(host, kind, EXPERIMENTAL)
    given: list[bytearray] = []

    def memory(size: int) -> memoryview:
        given.append(bytearray(size))
        return memoryview(given[-1])

    sk.memory = memory
    host.call(sk.setsockopt, SOL, pk.PACKET_VERSION, integer(version))
    host.call(sk.setsockopt, SOL, pk.PACKET_RESERVE, integer(reserve))
    host.call(sk.setsockopt, SOL, pk.PACKET_RX_RING, value)
    return sk, Ring(given[0], version, value)


def send(hosts: tuple[Host, Host], *payloads: bytes, wait: int = 0) -> None:
    """From the left host to the right one, and then let `wait` ns pass."""
    left, right = hosts
    sender = make(left, protocol=0)
    for payload in payloads:
        left.send(sender, frame(left, right, payload), link(2))
    run(left, right)
    if wait:
        left.clock.set(left.clock.now() + wait)
        run(left, right)
    left.close(sender)


# -- as the kernel has it

PAYLOADS: Final = [bytes((n & 0xFF,)) * n for n in (46, 60, 100, 900, 1400, 46, 61)]


def kernel_ring(version: int, kind: int, value: bytes, payloads: list[bytes]) -> tuple[list[Field], int, bytes]:
    """What this machine's kernel puts into a ring, on a pair of its own devices; PACKET_HDRLEN, PACKET_STATISTICS."""
    with netns.Netns("ring") as peer:
        peer.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
        for name in ("one", "two"):
            # Nothing else is to be said there.
            peer.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
            peer.run("ip", "link", "set", name, "up", "arp", "off")
        with peer.entered():
            receiver = socket.socket(socket.AF_PACKET, kind, 0)
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with receiver, sender:
            header = int.from_bytes(receiver_header(receiver, version), "little")
            receiver.setsockopt(SOL, pk.PACKET_VERSION, version)
            receiver.setsockopt(SOL, pk.PACKET_RESERVE, RESERVE)
            receiver.setsockopt(SOL, pk.PACKET_RX_RING, value)
            size = struct.unpack_from("=II", value)
            with mmap.mmap(receiver.fileno(), size[0] * size[1]) as memory:
                receiver.bind(("one", EXPERIMENTAL))
                sender.bind(("two", 0))
                destination = receiver.getsockname()[4]
                for payload in payloads:
                    sender.send(ethernet.build(destination, b"\2\0\0\0\0\1", EXPERIMENTAL) + payload)
                time.sleep(0.15)
                return Ring(memory, version, value).take(), header, receiver.getsockopt(SOL, pk.PACKET_STATISTICS, 16)


def receiver_header(sock: socket.socket, version: int) -> bytes:
    """PACKET_HDRLEN, whose buffer says of which version: the standard module can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.c_int(version)
    size = ctypes.c_uint(4)
    assert libc.getsockopt(sock.fileno(), SOL, pk.PACKET_HDRLEN, ctypes.byref(buffer), ctypes.byref(size)) == 0
    return bytes(buffer)


def without_times(fields: list[Field]) -> list[Field]:
    found = []
    for field in fields:
        kept = {key: value for key, value in field.items() if key not in ("time", "data", "stamped")}
        # Where the link header is in the data, the addresses in it are others.
        data = field.get("data")
        found.append(kept if data is None else kept | {"data": data[-20:], "bytes": len(data)})
    return found


@pytest.mark.interop
@netns.requires_root_netns
@pytest.mark.parametrize("kind", [SOCK_RAW, SOCK_DGRAM])
@pytest.mark.parametrize("version", [V1, V2, V3])
def test_the_memory_is_as_the_kernel_fills_it(hosts: tuple[Host, Host], version: int, kind: int) -> None:
    value = request(version, 4, tov=60, priv=PRIVATE)
    theirs, header, statistics = kernel_ring(version, kind, value, PAYLOADS)
    sk, ring = open_ring(hosts[1], version, value, kind, RESERVE)
    send(hosts, *PAYLOADS, wait=60 * MS)
    assert without_times(ring.take()) == without_times(theirs)
    asked = hosts[1].call(sk.getsockopt_from, SOL, pk.PACKET_HDRLEN, integer(version))
    assert int.from_bytes(asked, "little") == header
    assert hosts[1].call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 16) == statistics


# -- V1 and V2


@pytest.mark.parametrize("version", [V1, V2])
def test_a_frame_has_its_time_and_changes_hands(hosts: tuple[Host, Host], version: int) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, version, request(version))
    assert not right.call(sk.poll) & EPOLLIN
    send(hosts, b"one", b"two")
    assert right.call(sk.poll) & EPOLLIN
    assert not sk.receive_queue
    assert code(right.recv, sk) == errno.EAGAIN
    first, second = ring.take()
    assert (first["data"][-3:], second["data"][-3:]) == (b"one", b"two")
    now = right.clock.now() + REALTIME
    nanoseconds = now % 10**9
    assert first["time"] == (now // 10**9, nanoseconds if version == V2 else nanoseconds // 1000)
    assert first["stamped"]
    assert not right.call(sk.poll) & EPOLLIN
    assert right.call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 8) == struct.pack("=II", 2, 0)


def test_a_full_ring_loses_and_says_so(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, V2, request(V2))
    send(hosts, *[b"x"] * 10)
    assert right.call(sk.poll) & EPOLLIN
    taken = ring.take()
    assert [field["status"] for field in taken] == [pr.TP_STATUS_USER] * 8
    send(hosts, b"behind them")
    assert [field["status"] for field in ring.take()] == [pr.TP_STATUS_USER | pr.TP_STATUS_LOSING]
    assert right.call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 8) == struct.pack("=II", 11, 2)
    send(hosts, b"after that was told")
    assert [field["status"] for field in ring.take()] == [pr.TP_STATUS_USER]


def test_the_filter_decides_and_cuts(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, V2, request(V2))
    # ret #20
    right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_ATTACH_FILTER, struct.pack("=HBBI", 6, 0, 0, 20))
    assert isinstance(sk.filter, Program)
    send(hosts, b"a payload")
    (field,) = ring.take()
    assert (field["length"], field["snaplen"], field["data"][-6:]) == (23, 20, b"a payl")
    right.call(sk.setsockopt, so.SOL_SOCKET, so.SO_ATTACH_FILTER, struct.pack("=HBBI", 6, 0, 0, 0))
    send(hosts, b"none of it")
    assert not ring.take()
    assert right.call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 8) == struct.pack("=II", 1, 0)


def test_what_is_sent_is_there_with_its_checksum_open(hosts: tuple[Host, Host]) -> None:
    left, _ = hosts
    value = request(V2)
    sk, ring = open_ring(left, V2, value)
    left.call(sk.bind, link(0, 3))
    left.send(left.udp_socket(), b"data", at("10.0.0.2", 7))
    run(*hosts)
    fields = {(field["name"][1], field["name"][3]): field for field in ring.take()}
    sent = fields[ethernet.ETH_P_IP, PACKET_OUTGOING]
    assert sent["status"] == pr.TP_STATUS_USER | TP_STATUS_CSUMNOTREADY
    assert sent["time"][0] == (left.clock.now() + REALTIME) // 10**9 and not sent["stamped"]
    assert (ethernet.ETH_P_ARP, PACKET_HOST) in fields


# -- V3


def test_a_block_changes_hands_when_its_time_is_over(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, V3, request(V3, tov=10))
    opened = right.clock.now()
    send(hosts, b"one", wait=4 * MS)
    send(hosts, b"two")
    assert not right.call(sk.poll) & EPOLLIN
    right.clock.set(opened + 10 * MS)
    run(*hosts)
    assert right.call(sk.poll) & EPOLLIN
    block, *frames = ring.take()
    assert (block["status"], block["count"], block["serial"]) == (pr.TP_STATUS_USER | pr.TP_STATUS_BLK_TMO, 2, 1)
    assert [field["data"][-3:] for field in frames] == [b"one", b"two"]
    assert not right.call(sk.poll) & EPOLLIN
    run(*hosts, until=right.clock.now() + 100 * MS)
    assert not ring.take()


def test_a_block_changes_hands_when_it_is_full_and_a_full_ring_freezes(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, V3, request(V3, tov=1000))
    payload = bytes(1200)
    send(hosts, *[payload] * 4)
    (block, *frames) = ring.take(release=False)
    assert (block["status"], block["count"], len(frames)) == (pr.TP_STATUS_USER, 3, 3)
    send(hosts, *[payload] * 4)
    # Two blocks of three; with the seventh the ring is frozen, and the eighth finds it so.
    assert right.call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 12) == struct.pack("=III", 8, 2, 1)
    assert len(ring.take()) == 2 * (1 + 3)
    send(hosts, b"again", wait=1000 * MS)
    (block, last) = ring.take()
    assert (block["serial"], last["data"][-5:]) == (3, b"again")
    assert right.call(sk.getsockopt, SOL, pk.PACKET_STATISTICS, 12) == struct.pack("=III", 1, 0, 0)


def test_a_block_that_was_behind_losses_says_so(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    _, ring = open_ring(right, V3, request(V3, 1, tov=10))
    send(hosts, *[bytes(1200)] * 5)
    ring.take()
    send(hosts, b"x", wait=10 * MS)
    assert ring.take()[0]["status"] == pr.TP_STATUS_USER | pr.TP_STATUS_BLK_TMO | pr.TP_STATUS_LOSING


def test_without_a_time_a_block_waits_eight_milliseconds(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    _, ring = open_ring(right, V3, request(V3, tov=0))
    send(hosts, b"x", wait=pr.RETIRE_TOV * MS)
    assert len(ring.take()) == 2


def test_a_frame_that_a_block_has_no_room_for_is_cut(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk, ring = open_ring(right, V3, request(V3, tov=1, priv=3000))
    send(hosts, bytes(1400), wait=MS)
    fields = ring.take()
    longest = PAGE - 48 - 3000
    assert fields[-1]["length"] == 1414
    assert fields[-1]["snaplen"] == longest - fields[-1]["mac"]
    # It fills a block to the last byte, and the one before, empty, is passed on: so it is on Linux.
    assert [field["count"] for field in fields if "count" in field] == [0, 1]
    sk_size = right.call(sk.getsockopt, SOL, pk.PACKET_VERSION, 4)
    assert sk_size == integer(V3)


# -- the options


def test_what_no_ring_can_be(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk = make(right)
    set_option = lambda option, value: right.call(sk.setsockopt, SOL, option, value)  # noqa: E731
    assert code(set_option, pk.PACKET_RX_RING, request(V2)) == errno.ENOPROTOOPT
    sk.memory = lambda size: memoryview(bytearray(size))
    bad = [
        bytes(15), request(V2, block=PAGE + 1), request(V2, block=0, frame=1024), request(V2, frame=32),
        request(V2, frame=1032), struct.pack("=IIII", PAGE, 2, 1024, 7), struct.pack("=IIII", PAGE, 1, 2 * PAGE, 0),
        struct.pack("=IIII", 0, 0, 0, 1), struct.pack("=IIII", 1 << 31, 1, 1024, 1 << 21),
    ]  # fmt: skip
    for value in bad:
        assert code(set_option, pk.PACKET_RX_RING, value) == errno.EINVAL, value.hex()
    blocks = pr.RING_MAX // PAGE
    assert code(set_option, pk.PACKET_RX_RING, request(V2, blocks + 1)) == errno.ENOMEM
    set_option(pk.PACKET_VERSION, integer(V3))
    assert code(set_option, pk.PACKET_RX_RING, request(V2)) == errno.EINVAL
    assert code(set_option, pk.PACKET_RX_RING, request(V3, priv=PAGE - 64)) == errno.EINVAL
    version, reserve = pk.PACKET_VERSION, pk.PACKET_RESERVE
    for option, value in ((version, integer(3)), (version, bytes(5)), (reserve, integer(-1))):
        assert code(set_option, option, value) == errno.EINVAL
    for unknown in (-1, 3):
        assert code(sk.getsockopt_from, SOL, pk.PACKET_HDRLEN, integer(unknown)) == errno.EINVAL
    assert code(sk.getsockopt_from, SOL, pk.PACKET_HDRLEN, bytes(3)) == errno.EINVAL
    assert sk.ring is None


def test_a_ring_stays_as_it_is_until_it_is_taken_away(hosts: tuple[Host, Host]) -> None:
    right = hosts[1]
    sk = make(right, protocol=EXPERIMENTAL)
    send(hosts, b"before")
    assert sk.receive_queue
    sk.memory = lambda size: memoryview(bytearray(size))
    right.call(sk.setsockopt, SOL, pk.PACKET_RESERVE, integer(8))
    right.call(sk.setsockopt, SOL, pk.PACKET_RX_RING, request(V1))
    assert not sk.receive_queue
    for option, value in (
        (pk.PACKET_RX_RING, request(V1)), (pk.PACKET_VERSION, integer(V2)), (pk.PACKET_RESERVE, integer(0)),
    ):  # fmt: skip
        assert code(sk.setsockopt, SOL, option, value) == errno.EBUSY
    assert right.call(sk.getsockopt, SOL, pk.PACKET_RESERVE, 4) == integer(8)
    right.call(sk.setsockopt, SOL, pk.PACKET_RX_RING, bytes(16))
    right.call(sk.setsockopt, SOL, pk.PACKET_RX_RING, bytes(16))
    send(hosts, b"afterwards")
    assert right.recv(sk)[-10:] == b"afterwards"


@pytest.mark.parametrize("version", [V2, V3])
def test_a_group_rolls_over_to_who_has_room(hosts: tuple[Host, Host], version: int) -> None:
    right = hosts[1]
    opened = [open_ring(right, version, request(version, 4, tov=1)) for _ in range(2)]
    args = struct.pack("=HH", 9, PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_ROLLOVER)
    for sk, _ in opened:
        right.call(sk.setsockopt, SOL, pk.PACKET_FANOUT, args)
    slow, quick = opened
    received = 0
    for _ in range(60):
        send(hosts, bytes(900), wait=MS)
        received += sum("data" in field for field in quick[1].take())
    assert received > 40
    assert int.from_bytes(right.call(quick[0].getsockopt, SOL, pk.PACKET_STATISTICS, 4), "little") == received
    assert right.call(slow[0].getsockopt, SOL, pk.PACKET_STATISTICS, 8)[4:] == bytes(4)
