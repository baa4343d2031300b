"""Frames of any content, received by a stack that has every kind of socket."""

from __future__ import annotations

from tests.fuzz.world import GROUP, OUR_MAC, PEER_MAC, SECOND, US, World, ip_frame, records, repair
from usernet.wire import ethernet

REPAIR = 1
"""Bit of a record's first byte: put the checksums right. The next two choose the time that passes before."""
TIMES = (0, SECOND // 100, SECOND, 40 * SECOND)
BROADCAST = b"\xff" * 6
MAX_FRAMES = 40


def _feed(world: World, data: bytes) -> None:
    for count, (control, frame) in enumerate(records(data)):
        if count == MAX_FRAMES:
            break
        if control >> 1 & 3:
            world.pass_time(TIMES[control >> 1 & 3])
        world.receive(repair(frame) if control & REPAIR else frame)


def ethernet_frames(data: bytes) -> None:
    """Whole frames, with anything in them."""
    with World() as world:
        _feed(world, data)


def virtio_frames(data: bytes) -> None:
    """Whole frames behind virtio-net headers, which may lie about checksums and segments."""
    with World(offload=True) as world:
        for _, frame in records(data):
            world.receive(frame[:10] + repair(frame[10:]) if len(frame) > 10 and not frame[0] & 1 else frame)


def arp_packets(data: bytes) -> None:
    """ARP: to us, and to all."""
    with World() as world:
        world.wire.sent.clear()
        for control, body in records(data):
            # A packet waits for the neighbour, so that its answer has something to release.
            if control & 4:
                try:
                    world.sockets[1].sendto(b"x", (f"10.0.0.{control}", 9))
                except OSError:
                    pass
            if control & 2:
                world.pass_time(SECOND)
            world.receive(ethernet.build(OUR_MAC if control & 1 else BROADCAST, PEER_MAC, 0x0806) + body)


def ipv4_packets(data: bytes) -> None:
    """IPv4 from its header on, whose checksum is put right: options, fragments, lengths."""
    with World() as world:
        for control, body in records(data):
            if control >> 1 & 3:
                world.pass_time(TIMES[control >> 1 & 3])
            world.receive(repair(ethernet.build(OUR_MAC, PEER_MAC, 0x0800) + body))


def _payloads(protocol: int, data: bytes) -> None:
    with World() as world:
        for control, body in records(data):
            if control >> 1 & 3:
                world.pass_time(TIMES[control >> 1 & 3])
            world.receive(repair(ip_frame(protocol, body, dst=GROUP if control & 8 else US)))


def icmp_messages(data: bytes) -> None:
    """ICMP: queries, and errors about what the stack's sockets have sent."""
    _payloads(1, data)


def igmp_messages(data: bytes) -> None:
    """IGMP: queries of three versions, and others' reports."""
    _payloads(2, data)


def udp_datagrams(data: bytes) -> None:
    """UDP: headers that lie about lengths, GRO."""
    _payloads(17, data)


def tcp_segments(data: bytes) -> None:
    """TCP to a listener, from its header on."""
    _payloads(6, data)
