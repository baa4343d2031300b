"""Workers: what came to the wrong queue finds its worker. (With the kernel: tests/interop/test_multiqueue.py.)"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

import usernet
from usernet import drivers
from usernet.multiqueue import WorkerLink, split_ports
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_UNNECESSARY, SKBuff
from usernet.wire import ethernet, ipv4

MAC = "02:00:00:00:00:99"
PEER, OURS = b"\x0a\0\0\1", b"\x0a\0\0\2"


@contextlib.contextmanager
def pair() -> Iterator[tuple[list[usernet.Stack], list[WorkerLink]]]:
    """Two workers in one process, each on a cable of its own."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for ends in pairs:
        for end in ends:
            end.setblocking(False)
    stacks, links, cables = [], [], []
    for number in range(2):
        stack = usernet.Stack(f"worker{number}").start()
        near, far = drivers.veth()
        cables.append(far)
        dev = stack.add_device(near, "eth0", "10.0.0.2/24", mac=MAC)
        link = WorkerLink(stack, dev, number, pairs[number][0], [sender for _, sender in pairs])
        link.start()
        stacks.append(stack)
        links.append(link)
    try:
        yield stacks, links
    finally:
        for stack, link in zip(stacks, links, strict=True):
            link.stop()
            stack.close()
        for ends in pairs:
            for end in ends:
                end.close()


def arrives(stack: usernet.Stack, ethertype: int, packet: bytes) -> None:
    """The worker's queue brings a frame."""
    dev = stack.devices["eth0"]
    frame = bytes.fromhex(MAC.replace(":", "")) + b"\2\0\0\0\0\1" + ethertype.to_bytes(2, "big") + packet
    skb = SKBuff(frame, 0)
    skb.ip_summed = CHECKSUM_UNNECESSARY
    skb.dev = dev
    loop = stack.net.loop
    loop.enter()
    try:
        dev.receive(skb)
    finally:
        loop.leave()


def datagram(port: int, payload: bytes) -> bytes:
    body = struct.pack("!HHHH", 7, port, 8 + len(payload), 0) + payload
    return ipv4.build(0, 20 + len(body), 1, 0, 64, 17, PEER, OURS) + body


def test_the_range_of_ports_is_split():
    assert [split_ports((32768, 60999), 4, number) for number in range(4)] == [
        (32768, 39825), (39826, 46883), (46884, 53941), (53942, 60999),
    ]  # fmt: skip
    assert split_ports("10 20", 3, 2) == (16, 18)


def test_each_worker_takes_ports_of_its_own_share():
    with pair() as (stacks, links):
        for number, stack in enumerate(stacks):
            low, high = split_ports((32768, 60999), 2, number)
            for _ in range(20):
                with stack.socket(2, 2) as sock:
                    sock.bind(("", 0))
                    assert low <= sock.getsockname()[1] <= high
                    assert links[0].owner(sock.getsockname()[1]) == number
        assert links[0].owner(80) == links[0].owner(61000) == -1


def test_a_packet_for_another_workers_port_is_passed_on():
    with pair() as (stacks, links), stacks[1].socket(2, 2) as sock:
        sock.settimeout(5)
        sock.bind(("", 0))
        arrives(stacks[0], ethernet.ETH_P_IP, datagram(sock.getsockname()[1], b"astray"))
        assert sock.recv(64) == b"astray"
        assert (links[0].passed, links[1].received, links[1].passed) == (1, 1, 0)
        assert DropReason.CPU_BACKLOG not in stacks[0].drops


def test_a_port_that_is_everyones_is_served_where_it_comes():
    with pair() as (stacks, links), stacks[0].socket(2, 2) as near, stacks[1].socket(2, 2) as other:
        for sock in (near, other):
            sock.settimeout(5)
            sock.bind(("", 53))
        arrives(stacks[1], ethernet.ETH_P_IP, datagram(53, b"question"))
        assert other.recv(64) == b"question"
        assert links[0].passed == links[1].passed == 0


def test_an_error_reported_by_icmp_reaches_whose_it_is():
    with pair() as (stacks, _), stacks[1].socket(2, 2) as sock:
        stacks[1].add_neighbour("eth0", "10.0.0.1", "02:00:00:00:00:01")
        sock.settimeout(5)
        sock.connect(("10.0.0.1", 7))
        sock.send(b"x")
        inner = struct.pack("!HHHH", sock.getsockname()[1], 7, 9, 0)
        inner = ipv4.build(0, 20 + 9, 1, 0, 64, 17, OURS, PEER) + inner
        message = bytes((3, 3, 0, 0, 0, 0, 0, 0)) + inner
        total = sum(struct.unpack(f"!{len(message) // 2}H", message))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        message = message[:2] + (total ^ 0xFFFF).to_bytes(2, "big") + message[4:]
        arrives(stacks[0], ethernet.ETH_P_IP, ipv4.build(0, 20 + len(message), 1, 0, 64, 1, PEER, OURS) + message)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(64)


def test_an_arp_reply_is_of_use_to_all():
    with pair() as (stacks, links), stacks[1].socket(2, 2) as sock:
        sock.sendto(b"x", ("10.0.0.1", 7))
        reply = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + b"\2\0\0\0\0\1" + PEER
        arrives(stacks[0], ethernet.ETH_P_ARP, reply + bytes.fromhex(MAC.replace(":", "")) + OURS)
        for _ in range(500):
            if stacks[1].devices["eth0"].statistics.tx_packets and links[1].received:
                break
            stacks[1].select([], [], [], 0.01)
        assert links[1].received == 1
        assert links[1].passed == 0, "it is not passed on again"


def test_what_finds_no_room_is_dropped_and_counted():
    with pair() as (stacks, links):
        links[1].stop()
        port = split_ports((32768, 60999), 2, 1)[0]
        count = 0
        while not links[0].lost and count < 100_000:
            arrives(stacks[0], ethernet.ETH_P_IP, datagram(port, bytes(1000)))
            count += 1
        assert links[0].lost == 1
        assert stacks[0].drops[DropReason.CPU_BACKLOG] == 1
        links[1].start()


@pytest.mark.parametrize("queues", [0, 257])
def test_a_number_of_queues_that_is_none(queues):
    with pytest.raises(ValueError, match="queues: expected 1 to 256"):
        drivers.Tap("dut", queues=queues)
