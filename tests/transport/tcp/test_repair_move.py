"""TCP_REPAIR: a connection taken out of one stack goes on in another."""

from __future__ import annotations

import socket as std
from dataclasses import dataclass
from struct import Struct

import pytest

from tests.transport.tcp.harness import Pair, Peer, flags, length, payload, seq, sock_of
from usernet.drivers import veth
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport.tcp import repair
from usernet.transport.tcp.const import TCP_ESTABLISHED
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK

SOL_TCP = std.IPPROTO_TCP
U32 = Struct("=I")
OPTION = Struct("=II")
TCPI_TIMESTAMPS, TCPI_SACK, TCPI_WSCALE = 1, 2, 4


@dataclass
class Image:
    """A connection, as a program reads it out."""

    local: tuple[str, int]
    remote: tuple[str, int]
    sent: bytes
    received: bytes
    snd_seq: int
    rcv_seq: int
    window: bytes
    timestamp: int
    mss: int
    options: int
    wscale: int


def number(sock: UserSocket, option: int) -> int:
    value = sock.getsockopt(SOL_TCP, option, 4)
    assert isinstance(value, bytes)
    found: int = U32.unpack(value)[0]
    return found


def checkpoint(sock: UserSocket) -> Image:
    """Read a connection out, and close it without a word to the peer."""
    local, remote = sock.getsockname(), sock.getpeername()
    sock.setsockopt(SOL_TCP, repair.TCP_REPAIR, 1)
    queues = []
    for queue in (repair.TCP_SEND_QUEUE, repair.TCP_RECV_QUEUE):
        sock.setsockopt(SOL_TCP, repair.TCP_REPAIR_QUEUE, queue)
        try:
            data = sock.recv(1 << 20, std.MSG_PEEK)
        except BlockingIOError:
            data = b""
        queues.append((number(sock, repair.TCP_QUEUE_SEQ), data))
    info = sock.getsockopt(SOL_TCP, std.TCP_INFO, 256)
    window = sock.getsockopt(SOL_TCP, repair.TCP_REPAIR_WINDOW, 20)
    mss = sock.getsockopt(SOL_TCP, std.TCP_MAXSEG)
    assert isinstance(info, bytes)
    assert isinstance(window, bytes)
    assert isinstance(mss, int)
    image = Image(
        local, remote, queues[0][1], queues[1][1], queues[0][0], queues[1][0], window,
        number(sock, repair.TCP_TIMESTAMP), mss, info[5], info[6],
    )  # fmt: skip
    sock.close()
    return image


def restore(stack: Stack, image: Image, off: int = repair.TCP_REPAIR_OFF) -> UserSocket:
    """Make a connection of an image."""
    sock = stack.socket(std.AF_INET, std.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(SOL_TCP, repair.TCP_REPAIR, 1)
    for queue, end, data in (
        (repair.TCP_SEND_QUEUE, image.snd_seq, image.sent), (repair.TCP_RECV_QUEUE, image.rcv_seq, image.received)
    ):  # fmt: skip
        sock.setsockopt(SOL_TCP, repair.TCP_REPAIR_QUEUE, queue)
        sock.setsockopt(SOL_TCP, repair.TCP_QUEUE_SEQ, U32.pack((end - len(data)) & 0xFFFFFFFF))
    sock.bind(image.local)
    sock.connect(image.remote)
    options = [(wire.TCPOPT_MSS, image.mss)]
    if image.options & TCPI_WSCALE:
        options.append((wire.TCPOPT_WINDOW, image.wscale & 15 | image.wscale >> 4 << 16))
    if image.options & TCPI_SACK:
        options.append((wire.TCPOPT_SACK_PERM, 0))
    if image.options & TCPI_TIMESTAMPS:
        options.append((wire.TCPOPT_TIMESTAMP, 0))
        sock.setsockopt(SOL_TCP, repair.TCP_TIMESTAMP, U32.pack(image.timestamp))
    sock.setsockopt(SOL_TCP, repair.TCP_REPAIR_OPTIONS, b"".join(OPTION.pack(*option) for option in options))
    sock.setsockopt(std.SOL_SOCKET, std.SO_SNDBUF, 1 << 20)
    for queue, data in ((repair.TCP_SEND_QUEUE, image.sent), (repair.TCP_RECV_QUEUE, image.received)):
        sock.setsockopt(SOL_TCP, repair.TCP_REPAIR_QUEUE, queue)
        assert not data or sock.send(data) == len(data)
    sock.setsockopt(SOL_TCP, repair.TCP_REPAIR_WINDOW, image.window)
    sock.setsockopt(SOL_TCP, repair.TCP_REPAIR, off)
    return sock


@pytest.mark.parametrize("timestamps", [1, 0])
@pytest.mark.parametrize("wscale", [1, 0])
def test_a_connection_moves_to_another_stack_and_goes_on(timestamps: int, wscale: int) -> None:
    """With data under way both ways, some of it read and some not; neither end's application loses a byte."""
    pair = Pair(sysctl={"tcp_timestamps": timestamps, "tcp_window_scaling": wscale})
    client, server = pair.connected()
    up, down = bytes(range(256)) * 400, bytes(reversed(range(256))) * 100
    client.send(up[:3000])
    server.send(down[:5000])
    pair.run(0.5)
    got_up, got_down = bytearray(server.recv(1000)), bytearray(client.recv(700))
    # This is lost with the old cable.
    client.send(up[3000:40_000])
    image = checkpoint(client)
    assert image.received == down[700:5000]
    assert image.sent == up[3000:40_000]
    pair.left.close()
    pair.right.remove_device("eth0")
    moved = Stack("moved", clock=pair.clock, seed=99)
    one, two = veth()
    moved.add_device(one, "eth0", "10.0.0.1/24")
    pair.right.add_device(two, "eth1", "10.0.0.2/24")
    pair.left = moved
    pair.stacks = (moved, pair.right)
    # Other settings than the connection's own count for nothing.
    moved.sysctl["net.ipv4.tcp_timestamps"] = 1 - timestamps
    pair.run(1.0)
    client = restore(moved, image)
    pair.open[0] = client
    assert client.getpeername() == ("10.0.0.2", 80)
    assert sock_of(client).state == TCP_ESTABLISHED
    assert sock_of(client).tstamp_ok == bool(timestamps)
    at_up, at_down = 40_000, 5000

    def exchange() -> bool:
        nonlocal at_up, at_down
        for sock, data, buffer in ((client, up, got_down), (server, down, got_up)):
            at = at_up if sock is client else at_down
            try:
                sent = sock.send(data[at : at + 4000])
            except BlockingIOError:
                sent = 0
            if sock is client:
                at_up += sent
            else:
                at_down += sent
            try:
                buffer += sock.recv(65536)
            except BlockingIOError:
                pass
        return len(got_up) == len(up) and len(got_down) == len(down)

    assert pair.run(60.0, exchange)
    assert (bytes(got_up), bytes(got_down)) == (up, down)
    assert pair.right.mib["TcpExt"]["PAWSEstab"] == 0
    assert pair.right.mib["Tcp"]["EstabResets"] == 0
    client.shutdown(std.SHUT_WR)
    pair.run(1.0)
    assert server.recv(10) == b""
    pair.end()


def test_the_same_place_again_and_the_port_is_free_for_it() -> None:
    """Out and in within one stack, twice, while another socket listens on the port."""
    with Peer() as peer:
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.send(2, 0, win=65535, options=peer.syn_options())
        peer.expect(flags(2 | ACK))
        peer.send(ACK, 1, 1)
        sock = peer.accept(server)
        for turn in range(2):
            image = checkpoint(sock)
            peer.silent()
            sock = restore(peer.stack, image)
            peer.open.append(sock)
            peer.expect(flags(ACK), seq(turn * 3))
            peer.send(ACK, 1 + turn * 2, 1 + turn * 3, data=b"hi", win=5000)
            peer.settle()
            peer.sent()
            assert sock.recv(10) == b"hi"
            sock.send(b"you")
            peer.expect(payload(b"you"), seq(1 + turn * 3))
            peer.send(ACK, 3 + turn * 2, 4 + turn * 3, win=5000)
            assert sock_of(sock).snd_wnd == 5000


def test_what_is_restored_is_not_sent_before_its_time_and_gives_no_round_trip() -> None:
    with Peer() as peer:
        sock = peer.active()
        sock.send(b"a" * 1460 + b"b" * 100)
        peer.settle()
        peer.sent()
        image = checkpoint(sock)
        again = restore(peer.stack, image, repair.TCP_REPAIR_OFF_NO_WP)
        peer.open.append(again)
        peer.silent()
        assert sock_of(again).packets_out == 2
        # Three seconds, for no round trip is known (RFC 6298 section 5.7).
        peer.expect_after(3.0, seq(1), length(1460), within=0.01)
        peer.send(ACK, 1, 1561)
        sk = sock_of(again)
        assert (sk.packets_out, sk.srtt_us) == (0, 0)
