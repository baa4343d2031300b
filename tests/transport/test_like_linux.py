"""The same calls on sockets of a stack and of the Linux this runs on, by loopback; the outcomes must be the same.

Each scenario is given a factory of sockets and tells what it saw: values, errno names, flags. Ports are the system's
choice and are not told.
"""

from __future__ import annotations

import errno
import select
import socket as host
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

import usernet
from tests.support import netns
from usernet.core.wait import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP

Factory = Callable[..., Any]
Scenario = Callable[["World"], object]
LOOP = "127.0.0.1"
DGRAM, RAW = host.SOCK_DGRAM, host.SOCK_RAW
IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_PKTINFO = 11, 12, 13, 8
UDP_CORK, UDP_SEGMENT, UDP_GRO = 1, 103, 104
SOL_PACKET = 263
EXPERIMENTAL = 0x88B5
EVENTS = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDHUP


class World:
    """Where a scenario takes its sockets from; closes them at the end."""

    def __init__(self, factory: Factory, poll: Callable[[Any], int]) -> None:
        self._factory = factory
        self._poll = poll
        self._open: list[Any] = []

    def socket(self, kind: int = DGRAM, proto: int = 0, family: int = host.AF_INET) -> Any:
        sk = self._factory(family, kind, proto)
        sk.settimeout(1)
        self._open.append(sk)
        return sk

    def pair(self) -> tuple[Any, Any, tuple[str, int]]:
        """A bound socket, one that is not, and the first one's address."""
        server = self.socket()
        server.bind((LOOP, 0))
        return server, self.socket(), server.getsockname()

    def closed_port(self) -> tuple[str, int]:
        """An address that nobody listens at."""
        sk = self.socket()
        sk.bind((LOOP, 0))
        name: tuple[str, int] = sk.getsockname()
        sk.close()
        return name

    def poll(self, sk: Any) -> int:
        return self._poll(sk) & EVENTS

    def close(self) -> None:
        for sk in self._open:
            sk.close()


def outcome(call: Callable[..., Any], *args: Any) -> object:
    """What a call gives, or the name of its error."""
    try:
        return call(*args)
    except OSError as caught:
        return errno.errorcode.get(caught.errno or 0, type(caught).__name__)


def refused(w: World) -> object:
    sk, gone = w.socket(), w.closed_port()
    sk.connect(gone)
    first = outcome(sk.send, b"x")
    second = outcome(sk.recv, 10)
    sk.send(b"x")
    mask = settle(w, sk, EPOLLERR)
    return first, second, mask, sk.getsockopt(host.SOL_SOCKET, host.SO_ERROR), outcome(sk.send, b"y")


def settle(w: World, sk: Any, wanted: int) -> int:
    """The events, once `wanted` is among them."""
    deadline = time.monotonic() + 2
    while not w.poll(sk) & wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    return w.poll(sk)


def refused_unconnected(w: World) -> object:
    sk, gone = w.socket(), w.closed_port()
    sk.sendto(b"x", gone)
    sk.settimeout(0.1)
    return outcome(sk.recv, 10), sk.getsockopt(host.SOL_SOCKET, host.SO_ERROR)


def error_queue(w: World) -> object:
    sk, gone = w.socket(), w.closed_port()
    sk.setsockopt(host.SOL_IP, IP_RECVERR, 1)
    sk.sendto(b"payload that is quoted", gone)
    mask = settle(w, sk, EPOLLERR)
    sk.setblocking(False)
    pending = outcome(sk.recv, 10)
    data, control, flags, name = sk.recvmsg(100, 200, host.MSG_ERRQUEUE)
    [(level, kind, entry)] = control
    return (
        mask, pending, data, level, kind, entry, flags, name == gone,
        outcome(sk.recvmsg, 100, 200, host.MSG_ERRQUEUE | host.MSG_DONTWAIT), w.poll(sk),
    )  # fmt: skip


def shut_down(w: World) -> object:
    plain = w.socket()
    plain.bind((LOOP, 0))
    plain.setblocking(True)
    results = [outcome(plain.shutdown, host.SHUT_RD), w.poll(plain), outcome(plain.recv, 10)]
    plain.setblocking(False)
    results.append(outcome(plain.recv, 10))
    _, client, name = w.pair()
    client.connect(name)
    client.setblocking(False)
    for how in (host.SHUT_RD, host.SHUT_WR):
        results += [outcome(client.shutdown, how), w.poll(client), outcome(client.send, b"x"), outcome(client.recv, 1)]
    results += [outcome(client.sendto, b"x", name), outcome(client.shutdown, 7)]
    return results


def addresses(w: World) -> object:
    sk = w.socket()
    before = sk.getsockname(), outcome(sk.getpeername), outcome(sk.send, b"x"), outcome(sk.sendto, b"x", (LOOP, 0))
    server, _, name = w.pair()
    sk.connect(name)
    after = sk.getsockname()[0], sk.getpeername() == name
    sk.connect((LOOP, name[1]))
    sk.setblocking(False)
    results = [outcome(sk.bind, (LOOP, 0)), outcome(server.bind, (LOOP, 0)), outcome(w.socket().bind, name)]
    results.append(outcome(w.socket().bind, ("203.0.113.7", 0)))
    results += [outcome(sk.listen, 5), outcome(sk.accept)]
    return before, after, results, sk.getsockname()[0]


def connecting_to_any(w: World) -> object:
    sk, server = w.socket(), w.socket()
    server.bind(("", 0))
    sk.connect(("0.0.0.0", server.getsockname()[1]))
    sk.send(b"x")
    return sk.getpeername()[0], sk.getsockname()[0], server.recvfrom(10)[1][0]


def binding_rules(w: World) -> object:
    """Who may have a port that another one has."""
    results = []
    for option_first in (0, host.SO_REUSEADDR, host.SO_REUSEPORT):
        for option_second in (0, host.SO_REUSEADDR, host.SO_REUSEPORT):
            for first, second in (("", ""), ("", LOOP), (LOOP, ""), (LOOP, LOOP), ("127.0.0.2", LOOP)):
                one, two = w.socket(), w.socket()
                if option_first:
                    one.setsockopt(host.SOL_SOCKET, option_first, 1)
                if option_second:
                    two.setsockopt(host.SOL_SOCKET, option_second, 1)
                one.bind((first, 0))
                results.append(outcome(two.bind, (second, one.getsockname()[1])))
                one.close()
                two.close()
    return results


def who_gets_it(w: World) -> object:
    """The better the match the better."""
    server, client, name = w.pair()
    sockets = [server]
    server.close()
    port = name[1]
    client.bind((LOOP, 0))
    results = []
    for step in range(4):
        sk = w.socket()
        sk.setsockopt(host.SOL_SOCKET, host.SO_REUSEADDR, 1)
        sk.bind(("" if step < 2 else LOOP, port))
        if step == 3:
            sk.connect(client.getsockname())
        sockets.append(sk)
        client.sendto(b"x", name)
        results.append([bool(settle_in(w, other)) for other in sockets[1:]])
        for other in sockets[1:]:
            if w.poll(other) & EPOLLIN:
                other.recv(1)
    return results


def settle_in(w: World, sk: Any) -> int:
    return w.poll(sk) & EPOLLIN


def truncation(w: World) -> object:
    server, client, name = w.pair()
    results: list[object] = []
    for _ in range(5):
        client.sendto(b"0123456789", name)
    results.append(server.recvmsg(4)[:3])
    results.append(server.recvmsg(4, 0, host.MSG_TRUNC)[:3])
    results.append(server.recvmsg(20, 0, host.MSG_TRUNC)[:3])
    buffer = bytearray(4)
    results.append((server.recvmsg_into([buffer], 0, host.MSG_TRUNC)[0], bytes(buffer)))
    results.append(server.recvfrom(0)[0])
    server.settimeout(0)
    results.append(outcome(server.recv, 1))
    client.sendto(b"", name)
    server.settimeout(1)
    results.append(server.recv(10))
    return results


def peeking(w: World) -> object:
    server, client, name = w.pair()
    client.sendto(b"0123456789", name)
    client.sendto(b"abcdef", name)
    results: list[object] = [server.recv(4, host.MSG_PEEK), server.recv(100, host.MSG_PEEK)]
    server.setsockopt(host.SOL_SOCKET, 42, 2)
    results += [server.recv(3, host.MSG_PEEK) for _ in range(5)]
    results.append(server.getsockopt(host.SOL_SOCKET, 42))
    results.append(server.recv(100))
    results.append(server.getsockopt(host.SOL_SOCKET, 42))
    results.append(outcome(server.recv, 3, host.MSG_PEEK | host.MSG_DONTWAIT))
    results.append(server.recv(100))
    return results


def corking(w: World) -> object:
    server, client, name = w.pair()
    client.connect(name)
    client.send(b"one ", host.MSG_MORE)
    client.send(b"two ", host.MSG_MORE)
    client.send(b"three")
    results: list[object] = [server.recv(100)]
    client.setsockopt(host.SOL_UDP, UDP_CORK, 1)
    results.append(outcome(client.sendto, b"four ", ("127.0.0.3", 9)))
    results.append(outcome(client.send, b"five"))
    client.setsockopt(host.SOL_UDP, UDP_CORK, 0)
    server.settimeout(0.05)
    results.append(outcome(server.recv, 100))
    client.send(bytes(60000), host.MSG_MORE)
    results.append(outcome(client.send, bytes(10000)))
    client.send(b"six")
    server.settimeout(1)
    results.append(server.recv(100))
    return results


def sizes(w: World) -> object:
    server, client, name = w.pair()
    server.setsockopt(host.SOL_SOCKET, host.SO_RCVBUF, 200000)
    results: list[object] = [outcome(client.sendto, bytes(size), name) for size in (65507, 65508, 65535, 65536)]
    results.append(len(server.recv(70000)))
    client.setsockopt(host.SOL_IP, 10, 2)
    results.append(outcome(client.sendto, bytes(65507), name))
    results.append(client.getsockopt(host.SOL_SOCKET, host.SO_ERROR))
    return results


def segments(w: World) -> object:
    server, client, name = w.pair()
    client.setsockopt(host.SOL_UDP, UDP_SEGMENT, 1000)
    results: list[object] = [client.getsockopt(host.SOL_UDP, UDP_SEGMENT), client.sendto(bytes(2500), name)]
    results += [len(server.recv(5000)) for _ in range(3)]
    server.setsockopt(host.SOL_UDP, UDP_GRO, 1)
    client.sendto(bytes(2500), name)
    results.append(server.recvmsg(5000, 100)[:3])
    client.sendto(bytes(900), name)
    results.append(server.recvmsg(5000, 100)[:3])
    client.setsockopt(host.SOL_UDP, UDP_SEGMENT, 0)
    results.append(client.sendmsg([b"aabbc"], [(host.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 2))], 0, name))
    results.append(server.recvmsg(5000, 100)[:3])
    results.append(outcome(client.sendmsg, [b"x"], [(host.SOL_UDP, UDP_SEGMENT, b"\1")], 0, name))
    results.append(outcome(client.sendmsg, [b"x"], [(host.SOL_UDP, 77, b"\1\0")], 0, name))
    results.append(outcome(client.setsockopt, host.SOL_UDP, UDP_SEGMENT, 70000))
    results.append(outcome(client.setsockopt, host.SOL_UDP, UDP_SEGMENT, -1))
    return results


def ancillary(w: World) -> object:
    server, client, name = w.pair()
    for option in (IP_RECVTTL, IP_RECVTOS):
        server.setsockopt(host.SOL_IP, option, 1)
    client.setsockopt(host.SOL_IP, host.IP_TTL, 33)
    client.setsockopt(host.SOL_IP, host.IP_TOS, 0x28)
    client.sendto(b"x", name)
    results: list[object] = [server.recvmsg(10, 200)[:3]]
    control = [(host.SOL_IP, host.IP_TTL, struct.pack("=i", 7)), (host.SOL_IP, host.IP_TOS, struct.pack("=i", 0x48))]
    client.sendmsg([b"y"], control, 0, name)
    results.append(server.recvmsg(10, 200)[:3])
    for bad in (
        (host.SOL_IP, host.IP_TTL, struct.pack("=i", 0)),
        (host.SOL_IP, 200, struct.pack("=i", 0)),
        (host.SOL_SOCKET, 200, b""),
        (host.SOL_IP, host.IP_TTL, b""),
        (99, 1, b""),
    ):
        results.append(outcome(client.sendmsg, [b"z"], [bad], 0, name))
    return results


def packet_info(w: World) -> object:
    server, client, name = w.pair()
    server.setsockopt(host.SOL_IP, IP_PKTINFO, 1)
    client.sendto(b"x", name)
    _, control, _, _ = server.recvmsg(10, 100)
    source = struct.pack("=i4s4s", 0, host.inet_aton("127.0.0.9"), bytes(4))
    client.sendmsg([b"y"], [(host.SOL_IP, IP_PKTINFO, source)], 0, name)
    return control, server.recvfrom(10)[1][0]


def reconnecting(w: World) -> object:
    first, client, name = w.pair()
    second, _, other = w.pair()
    client.connect(name)
    client.send(b"1")
    client.sendto(b"2", other)
    client.connect(other)
    client.send(b"3")
    got = first.recv(10), second.recv(10), second.recv(10)
    # Only the peer is heard.
    first.sendto(b"no", client.getsockname())
    second.sendto(b"yes", client.getsockname())
    return got, client.recv(10)


def flags(w: World) -> object:
    server, client, name = w.pair()
    return [outcome(client.sendto, b"x", flag, name) for flag in (host.MSG_OOB, host.MSG_DONTROUTE, 0x10000000)] + [
        outcome(client.sendto, b"", 0x800 | 0x10, name), server.recv(10), server.recv(10)
    ]  # fmt: skip


def broadcasting(w: World) -> object:
    sk = w.socket()
    results = [outcome(sk.sendto, b"x", ("127.255.255.255", 9)), outcome(sk.connect, ("127.255.255.255", 9))]
    sk.setsockopt(host.SOL_SOCKET, host.SO_BROADCAST, 1)
    return results + [outcome(sk.sendto, b"x", ("127.255.255.255", 9))]


def names(w: World) -> object:
    sk = w.socket()
    sk.bind((LOOP, 0))
    port = sk.getsockname()[1]
    sk.setsockopt(host.SOL_SOCKET, 25, b"lo\0")
    results = [sk.getsockopt(host.SOL_SOCKET, 25, 16), outcome(sk.getsockopt, host.SOL_SOCKET, 25, 3)]
    sk.sendto(b"self", (LOOP, port))
    return results, sk.recv(10)


UDP_SCENARIOS: list[Scenario] = [
    refused, refused_unconnected, error_queue, shut_down, addresses, connecting_to_any, binding_rules, who_gets_it,
    truncation, peeking, corking, sizes, segments, ancillary, packet_info, reconnecting, flags, broadcasting, names,
]  # fmt: skip


def echo(sequence: int) -> bytes:
    return struct.pack("!BBHHH", 8, 0, 0, 0, sequence) + b"data"


def pinging(w: World) -> object:
    sk = w.socket(DGRAM, 1)
    sk.sendto(echo(1), (LOOP, 0))
    data, name = sk.recvfrom(100)
    ident = struct.unpack("!H", data[4:6])[0]
    results: list[object] = [data[:2], data[6:], name, ident == sk.getsockname()[1]]
    results += [outcome(sk.sendto, echo(1)[:7], (LOOP, 0)), outcome(sk.sendto, b"\0" * 8, (LOOP, 0))]
    results += [outcome(sk.send, echo(1)), outcome(sk.getpeername)]
    sk.connect((LOOP, 0))
    results += [sk.send(echo(2)), sk.recv(100)[6:], outcome(sk.getpeername)]
    other = w.socket(DGRAM, 1)
    results.append([option.getsockopt(host.SOL_SOCKET, host.SO_REUSEADDR) for option in (sk, other)])
    results.append(outcome(other.bind, ("0.0.0.0", ident)))
    w.socket(DGRAM, 1).sendto(echo(3), (LOOP, 0))
    other.sendto(echo(4), (LOOP, 0))
    results += [other.recv(100)[6:], w.poll(sk) & EPOLLIN]
    other.setsockopt(host.SOL_SOCKET, host.SO_REUSEADDR, 0)
    third = w.socket(DGRAM, 1)
    results.append(outcome(third.bind, ("0.0.0.0", ident)))
    return results


def raw_icmp(w: World) -> object:
    sk = w.socket(RAW, 1)
    sk.setsockopt(255, 1, struct.pack("=I", 0xFFFFFFFE))
    sk.sendto(b"\x08\0\xcd\x26\x12\x34\0\1\0\0", (LOOP, 0))
    reply = b"\x08\0" + b"\0\0" + b"\x12\x34\0\1"
    total = sum(struct.unpack("!4H", reply))
    good = reply[:2] + struct.pack("!H", 0xFFFF - total % 0xFFFF) + reply[4:]
    sk.sendto(good, (LOOP, 0))
    data, name = sk.recvfrom(100)
    return data[:1], data[8:10], len(data), data[20:22], data[24:], name, sk.getsockname()


def raw_private(w: World) -> object:
    one, two = w.socket(RAW, 253), w.socket(RAW, 253)
    one.sendto(b"private", (LOOP, 0))
    first, second = one.recvfrom(100), two.recvfrom(100)
    results: list[object] = [first[0] == second[0], first[0][20:], first[1], one.getsockname()]
    results.append(one.getsockopt(host.SOL_SOCKET, host.SO_REUSEADDR))
    two.connect(("127.0.0.5", 0))
    results += [outcome(one.send, b"x"), outcome(one.setsockopt, 255, 1, bytes(4)), outcome(two.bind, (LOOP, 0))]
    results += [outcome(one.bind, (LOOP, 5)), one.getsockname(), outcome(one.bind, ("203.0.113.7", 0))]
    one.setblocking(False)
    results += [outcome(two.getpeername), outcome(one.recv, 1, host.MSG_OOB), outcome(one.shutdown, 0)]
    return results


def raw_header(w: World) -> object:
    sk, to = w.socket(RAW, 255), w.socket(RAW, 253)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 7, 0, 0, 9, 253, 7, bytes(4), host.inet_aton(LOOP))
    sk.sendto(header + b"data", (LOOP, 0))
    data = to.recv(100)
    total, ident, _, ttl = struct.unpack_from("!HHHB", data, 2)
    results: list[object] = [total, bool(ident), ttl, data[12:16], data[20:]]
    results += [outcome(sk.sendto, bytes(19), (LOOP, 0)), outcome(sk.sendto, b"\x4f" + bytes(20), (LOOP, 0))]
    results.append(sk.getsockopt(host.SOL_IP, 3))
    results.append(outcome(sk.recv, 1, host.MSG_DONTWAIT))
    return results


def packets_seen(w: World) -> object:
    results: list[object] = []
    taps = [w.socket(kind, host.htons(proto), host.AF_PACKET) for kind in (RAW, DGRAM) for proto in (3, 0x0800)]
    for tap in taps:
        tap.setsockopt(SOL_PACKET, 8, 1)
    _, client, name = w.pair()
    client.sendto(b"payload", name)
    for tap in taps:
        tap.settimeout(0.1)
        while isinstance(got := outcome(tap.recvmsg, 200, 200), tuple):
            data, control, flags, about = got
            at = len(data) - 7 - 28
            results.append((data[:at], data[at + 9], data[-7:], control, flags, about))
        results.append((got, tap.getsockname(), tap.getsockopt(SOL_PACKET, 6, 8)))
    return results


def packets_sent(w: World) -> object:
    results: list[object] = []
    raw, cooked = (w.socket(kind, 0, host.AF_PACKET) for kind in (RAW, DGRAM))
    tap = w.socket(RAW, host.htons(EXPERIMENTAL), host.AF_PACKET)
    tap.bind(("lo", EXPERIMENTAL))
    frame = bytes(12) + struct.pack("!H", EXPERIMENTAL) + b"frame"
    for sk, data, to in (
        (raw, frame, ("lo", 0)), (raw, frame, ("lo", 0x1234)),
        (cooked, b"cooked", ("lo", EXPERIMENTAL, 0, 0, bytes(6))),
        (raw, frame[:13], ("lo", 0)), (raw, b"", ("lo", 0)), (raw, bytes(70000), ("lo", 0)),
        (cooked, bytes(65537), ("lo", EXPERIMENTAL)),
    ):  # fmt: skip
        results.append(outcome(sk.sendto, data, to))
    results.append(outcome(raw.send, frame))
    raw.bind(("lo", 0))
    cooked.bind(("lo", EXPERIMENTAL))
    results += [outcome(raw.send, frame), outcome(cooked.send, b"bound")]
    tap.settimeout(0.1)
    while isinstance(got := outcome(tap.recvfrom, 100), tuple):
        results.append(got)
    return results


def packet_calls(w: World) -> object:
    sk = w.socket(RAW, host.htons(3), host.AF_PACKET)
    sk.setblocking(False)
    results = [outcome(sk.getpeername), outcome(sk.listen, 1), outcome(sk.shutdown, 2), outcome(sk.recv, 1, 1)]
    results += [outcome(sk.bind, ("lo", 0)), sk.getsockname(), w.poll(sk)]
    for option in (8, 9, 17, 20, 23):
        results += [sk.getsockopt(SOL_PACKET, option), outcome(sk.setsockopt, SOL_PACKET, option, 1)]
        results.append(sk.getsockopt(SOL_PACKET, option))
    lo = 1
    for mreq in (
        (99, 1, 0), (lo, 1, 0), (lo, 0, 5), (lo, 0, 6), (lo, 2, 0), (lo, 3, 6), (lo, 4, 0),
    ):  # fmt: skip
        value = struct.pack("=iHH8s", *mreq, b"\1\2\3\4\5\6")
        results += [outcome(sk.setsockopt, SOL_PACKET, 1, value), outcome(sk.setsockopt, SOL_PACKET, 2, value)]
    results += [outcome(sk.setsockopt, SOL_PACKET, 1, bytes(15)), outcome(sk.setsockopt, SOL_PACKET, 77, 1)]
    results += [outcome(sk.getsockopt, SOL_PACKET, 77), outcome(sk.setsockopt, 0, 1, 1), sk.getsockopt(1, 39)]
    return results


RAW_SCENARIOS: list[Scenario] = [
    pinging, raw_icmp, raw_private, raw_header, packets_seen, packets_sent, packet_calls,
]  # fmt: skip


def host_poll(sk: Any) -> int:
    poller = select.poll()
    poller.register(sk, EVENTS)
    ready = poller.poll(0)
    return ready[0][1] if ready else 0


def on_stack(scenario: Scenario) -> object:
    with usernet.Stack("test") as stack:

        def poll(sk: Any) -> int:
            loop = stack.net.loop
            loop.enter()
            try:
                return int(sk._sk.poll())
            finally:
                loop.leave()

        world = World(stack.socket, poll)
        try:
            return scenario(world)
        finally:
            world.close()


def on_host(scenario: Scenario) -> object:
    world = World(host.socket, host_poll)
    try:
        return scenario(world)
    finally:
        world.close()


@pytest.mark.parametrize("scenario", UDP_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_udp(scenario: Scenario) -> None:
    assert on_stack(scenario) == on_host(scenario)


@pytest.mark.interop
@netns.requires_root_netns
@pytest.mark.parametrize("scenario", RAW_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_raw_ping_and_packet(scenario: Scenario) -> None:
    with netns.Netns("peer") as peer:
        peer.run("sysctl", "-w", "net.ipv4.ping_group_range=0 0")
        with peer.entered():
            expected = on_host(scenario)
    assert on_stack(scenario) == expected
