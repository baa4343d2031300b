"""A socket of datagrams as a descriptor."""

from __future__ import annotations

import os
import socket
from select import POLLIN, POLLOUT

from tests.posix.channel.conftest import Net, channel_of, mask
from tests.support.stacks import until
from usernet.posix.channel import Channel, DatagramChannel
from usernet.sock.msg import MSG_PEEK, MSG_TRUNC, SockAddr
from usernet.sockets.user import UserSocket

PORT = 5353


def bound(net: Net) -> UserSocket:
    sock = net.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", PORT))
    sock.settimeout(10)
    return sock


def connected(net: Net, keep: list[Channel] | None = None) -> int:
    sock = net.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("10.0.0.2", PORT))
    return channel_of(sock, keep)


def test_boundaries_are_kept_both_ways(net: Net):
    with bound(net) as server:
        fd = connected(net)
        sizes = [1, 0, 1000, 1472, 9000, 60_000, 3]
        for size in sizes:
            os.write(fd, b"x" * size)
        got = [server.recvfrom(65536) for _ in sizes]
        assert [len(data) for data, _ in got] == sizes
        for size in sizes:
            server.sendto(b"y" * size, got[0][1])
        until(lambda: mask(fd) & POLLIN)
        assert [len(os.read(fd, 65536)) for _ in sizes] == sizes
        assert mask(fd) == POLLOUT
        os.close(fd)


def test_one_is_cut_and_the_next_is_whole(net: Net):
    with bound(net) as server:
        fd = connected(net)
        os.write(fd, b"hello")
        _, address = server.recvfrom(100)
        server.sendto(b"0123456789", address)
        server.sendto(b"next", address)
        assert os.read(fd, 4) == b"0123"
        assert os.read(fd, 100) == b"next"
        os.close(fd)


def test_addresses_come_by_call_and_data_by_read_in_any_order(net: Net):
    kept: list[Channel] = []
    fd = channel_of(bound(net), kept)
    channel = kept[0]
    assert isinstance(channel, DatagramChannel)
    channel.reach = lambda: os.dup(fd)
    clients = [net.client.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for index, client in enumerate(clients):
        client.sendto(b"from %d" % index, ("10.0.0.2", PORT))
    ports = [client.getsockname()[1] for client in clients]

    def receive(size: int, flags: int = 0) -> tuple[bytes, int, int, int] | None:
        net.server.loop.enter()
        try:
            got = channel.receive(size, flags)
        finally:
            net.server.loop.leave()
        if got is None:
            return None
        data, length, msg = got
        assert isinstance(msg.name, SockAddr)
        return data, length, msg.name.port, msg.flags

    until(lambda: mask(fd) & POLLIN)
    assert receive(100, MSG_PEEK) == (b"from 0", 6, ports[0], 0)
    assert receive(100) == (b"from 0", 6, ports[0], 0)
    until(lambda: mask(fd) & POLLIN)
    assert os.read(fd, 100) == b"from 1"
    until(lambda: mask(fd) & POLLIN)
    assert receive(4) == (b"from", 6, ports[2], MSG_TRUNC)
    until(lambda: mask(fd) & POLLIN)
    assert os.read(fd, 100) == b"from 3"
    assert receive(100) is None
    os.close(fd)
    for client in clients:
        client.close()


def test_one_who_does_not_read_loses_datagrams_and_bounds_memory(net: Net):
    with bound(net) as server:
        kept: list[Channel] = []
        fd = connected(net, kept)
        os.write(fd, b"hello")
        _, address = server.recvfrom(100)
        for _ in range(3000):
            server.sendto(b"z" * 1400, address)
        sk = kept[0].socket.sk
        until(lambda: sk.drops)
        os.set_blocking(fd, False)
        got = 0
        try:
            while True:
                got += len(os.read(fd, 2000)) // 1400
        except BlockingIOError:
            pass
        assert 100 < got < 3000
        os.close(fd)


def test_an_error_is_for_so_error_and_the_socket_lives_on(net: Net):
    kept: list[Channel] = []
    fd = connected(net, kept)
    os.write(fd, b"nobody is there")
    sk = kept[0].socket.sk
    until(lambda: sk.err == 111)
    with bound(net) as server:
        os.write(fd, b"now there is")
        data, address = server.recvfrom(100)
        assert data == b"now there is"
        server.sendto(b"answer", address)
        assert os.read(fd, 100) == b"answer"
    assert sk.err == 111
    os.close(fd)


def test_the_end_of_the_stack_is_end_of_file(net: Net):
    fd = connected(net)
    net.client.close()
    assert os.read(fd, 100) == b""
    os.close(fd)
